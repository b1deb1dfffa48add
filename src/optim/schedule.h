/* src/optim/schedule.h: the learning rate of a step. A pure function of options and step, so that a resumed run needs
 * no state. Local. */
#ifndef STM_OPTIM_SCHEDULE_H
#define STM_OPTIM_SCHEDULE_H

#include "config/options.h"

/* Steps count from 1 to n_steps. Warm-up: lr * step / warmup_steps over the first warmup_steps steps, which thus end at
 * lr. From there `linear` and `cosine` fall towards lr * min_lr_ratio, which they reach one step after the last: the
 * last step still learns when the ratio is 0. Later steps stay there; `constant` stays at lr. Cosine: Loshchilov and
 * Hutter, arXiv:1608.03983, without restarts. */
double stm_learning_rate(stm_schedule_kind kind, double lr, double min_lr_ratio, int64_t warmup_steps, int64_t n_steps,
                         int64_t step);

#endif
