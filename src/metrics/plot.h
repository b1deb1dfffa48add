/* src/metrics/plot.h: pictures of a run from its metrics.jsonl, by gnuplot where it is installed. */
#ifndef STM_METRICS_PLOT_H
#define STM_METRICS_PLOT_H

#include "base/base.h"

/* Draws <folder>/reward.png (train reward with its spread, evaluation) and <folder>/overview.png (length, KL, entropy,
 * tokens/s). Never a failure of the run: a missing gnuplot is said once in the log ("gnuplot not found: no plots"),
 * what gnuplot complains of goes to the log, and one that takes longer than 30 s is ended. Does nothing below two
 * records. Returns whether both were drawn. Local; rank 0 calls. */
bool stm_plot_run(const char *folder);

#endif
