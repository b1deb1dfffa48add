/* src/metrics/step_line.h: the step line as text, without a file; what metrics.c prints with. Local. */
#ifndef STM_METRICS_STEP_LINE_H
#define STM_METRICS_STEP_LINE_H

#include "metrics/record.h"

enum { STM_STEP_LINE_BYTES = 512 }; /* enough for any of these texts */

/* The heading and the line, with newlines; supervised: the columns of a run without rewards. left_s: NaN: unknown. */
void stm_step_heading(char out[STM_STEP_LINE_BYTES], int64_t n_steps, bool supervised);
void stm_step_line(char out[STM_STEP_LINE_BYTES], int64_t n_steps, bool supervised, const stm_record *record,
                   double left_s);
void stm_eval_line(char out[STM_STEP_LINE_BYTES], const stm_record *record);

/* A number in at most `width` columns (4 or more) with at most `decimals` decimals, of which it gives up some before it
 * turns to a power of ten: 0.412, 18.3, 9.1k, 4e-5. NaN: "-". */
void stm_short_number(char out[32], double value, int width, int decimals);

/* 10:02, 1h10m, 12h05m, 3d04h, 115d. NaN: "-". */
void stm_short_time(char out[32], double seconds);

#endif
