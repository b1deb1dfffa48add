/* src/metrics/plot.h: pictures of a run from its metrics.jsonl, by gnuplot where it is installed. */
#ifndef STM_METRICS_PLOT_H
#define STM_METRICS_PLOT_H

#include <stdio.h>

#include "base/base.h"

/* Draws <folder>/reward.png (train reward with its spread, evaluation) and <folder>/overview.png (length, KL, entropy,
 * tokens/s). Never a failure of the run: a missing gnuplot is said once in the log ("gnuplot not found: no plots"),
 * what gnuplot complains of goes to the log, and one that takes longer than 30 s is ended. Does nothing below two
 * records. Returns whether both were drawn. Local; rank 0 calls. */
bool stm_plot_run(const char *folder);

/* Runs gnuplot in the folder on a script (a file open for reading, rewound here) whose only picture is "<name>.part",
 * which becomes <name> when it is whole. As for a run, never a failure. Returns whether it was drawn. Local. */
bool stm_plot_script(const char *folder, const char *name, FILE *script);

/* Writes what begins a script's picture "<name>.part": a PNG of that size in pixels, and the look of the axes. */
void stm_plot_begin(FILE *script, const char *name, int width, int height);

#endif
