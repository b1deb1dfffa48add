/* tests/support/rollouts.h: a small model with random weights, and rollouts of it on any layout. */
#ifndef STM_TESTS_ROLLOUTS_H
#define STM_TESTS_ROLLOUTS_H

#include "rollout/rollout.h"
#include "support/batch.h"
#include "support/model.h"
#include "support/mpi.h"
#include "train/budgets.h"

enum { STM_TEST_PROMPTS = 5 };

typedef struct {
    stm_stream *stream;
    stm_model *model;
    stm_watch *watch; /* what ends a rollout early; NULL: nothing */
    const stm_partner *partner;
    const stm_budgets *budgets; /* thinking is cut, and joined with its summaries; NULL: nothing */
    size_t n_before; /* groups that another rollout of the same step has: those behind them are numbered on */
} rollout_fixture;

void rollout_set_up(rollout_fixture *f, stm_test_config config, const stm_backend *backend);
/* Of as many layers as there may be stages. */
void rollout_set_up_deep(rollout_fixture *f, stm_test_config config, const stm_backend *backend);
void rollout_tear_down(rollout_fixture *f);

/* Every other of the first tokens ends a rollout. */
void rollout_end_often(rollout_fixture *f);

/* From the prompts of a ragged batch, on the layout that the overrides ask for; a pipeline must divide the ranks of
 * comm. counts may be NULL. */
stm_status rollout_try(MPI_Comm comm, const rollout_fixture *f, const char *const *overrides, size_t n,
                       stm_batch *batch, stm_rollout_counts *counts);

/* The same tokens, masks, ends and, to rounding of float64, log-probs. */
void rollout_assert_same(const stm_batch *a, const stm_batch *b);

/* Sampled log-probs, where the mask is 1, against those of the engine that trains. */
void rollout_compare_with_scores(const rollout_fixture *f, const stm_batch *batch, double tolerance);

/* Of weights that are no numbers (the model's are spoilt), on all ranks: the failure and its words, twice. */
void rollout_assert_nan_is_said(const rollout_fixture *f, const char *const *overrides, size_t n);

/* A watch's look; context: an int, 0 at first. Three of a rank's looks see nothing, and then all see that it is time.
 */
int rollout_fourth_look(void *context);

#endif
