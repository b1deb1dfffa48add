#include "optim/schedule.h"

#include <math.h>

double stm_learning_rate(stm_schedule_kind kind, double lr, double min_lr_ratio, int64_t warmup_steps, int64_t n_steps,
                         int64_t step)
{
    if (step < warmup_steps)
        return lr * (double)step / (double)warmup_steps;
    if (kind == STM_SCHEDULE_CONSTANT)
        return lr;
    const int64_t top = STM_MAX(warmup_steps, 1); /* the first step at lr */
    const double way = step > n_steps ? 1.0 : (double)(step - top) / (double)(n_steps + 1 - top);
    const double left = kind == STM_SCHEDULE_LINEAR ? 1.0 - way : 0.5 * (1.0 + cos(3.141592653589793 * way));
    return lr * (min_lr_ratio + (1.0 - min_lr_ratio) * left);
}
