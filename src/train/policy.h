/* src/train/policy.h: the model that learns, and what samples from it and computes with it. Opened by a command, which
 * owns all of it; the engine and grid are the model's. */
#ifndef STM_TRAIN_POLICY_H
#define STM_TRAIN_POLICY_H

#include "base/timers.h"
#include "config/options.h"
#include "data/text_context.h"
#include "group/engine.h"
#include "mpi/watch.h"
#include "train/budgets.h"
#include "train/environment.h"

typedef struct {
    const stm_options *options;
    stm_model *model;
    const stm_tokenizer *tokenizer; /* NULL: the model has none */
    const stm_text_context *text;
    const stm_grid *grid;
    stm_engine *engine;
    stm_timers *timers;           /* NULL: no clocks */
    stm_watch *watch;             /* what may end rollouts early; NULL: nothing */
    stm_environment *environment; /* answers turns; NULL: a response is one turn */
    size_t most_said;             /* tokens with which an answer comes back, at most (train/refine.h) */
    stm_budgets *budgets;         /* where thinking is cut; NULL: nowhere */
} stm_policy;

#endif
