/* tests/support/batch.h: ragged batches for tests, and what the engine says about them. */
#ifndef STM_TESTS_BATCH_H
#define STM_TESTS_BATCH_H

#include "group/score.h"
#include "support/support.h"

/* Groups with odd sizes: documents that several prompts begin with, prompts of one token and long ones, responses that
 * share beginnings, are identical, empty, fully masked, masked inside; two temperatures; rewards, old and reference
 * log-probs. A pure function of its arguments. The caller clears it. */
void stm_test_batch(uint64_t seed, size_t n_groups, size_t vocab, stm_batch *batch);

/* The same with so many responses in each group, [n_groups]. */
void stm_test_batch_of(uint64_t seed, const size_t *n_responses, size_t n_groups, size_t vocab, stm_batch *batch);

/* Every token of every response has loss. */
void stm_test_unmask(stm_batch *batch);

/* Prompt and response of every response of the batch, [*n]; the caller frees. And the forest of these. */
stm_sequence *stm_test_sequences(const stm_batch *batch, size_t *n);
void stm_test_forest(const stm_batch *batch, const stm_forest_options *options, stm_forest *forest);

/* Options with every default, the precision given, objective grpo with a KL term. The caller clears them. */
void stm_test_options(stm_options *options, const char *const *overrides, size_t n);

/* As many nodes are played in what follows, the ranks of a team dealt out to them; 0: as they are. */
extern int stm_test_n_nodes;
void stm_test_play_nodes(stm_grid *grid);

/* Loss and gradient (as doubles, [n_parameters], summed over comm) by an engine made for the call, on the layout that
 * options->parallel asks for; a pipeline must divide the ranks of comm. The model has all layers. */
typedef struct {
    double loss, *gradient;
    size_t n;
    stm_objective_sums sums;
    stm_pass_counts counts;
} stm_test_result;
void stm_test_gradient(MPI_Comm comm, const stm_model *model, const stm_batch *batch, const stm_options *options,
                       stm_test_result *result);
void stm_test_result_clear(stm_test_result *result);

/* Largest over tensors of ||a - b|| / max(||b||, 1e-3 ||all of b||), and which tensor has it. */
double stm_test_gradient_difference(const stm_model *model, const double *a, const double *b);
double stm_test_worst_tensor(const stm_model *model, const double *a, const double *b, const stm_parameter **tensor);

/* Scores by an engine made for the call. The caller clears them. */
void stm_test_scores(MPI_Comm comm, const stm_model *model, const stm_batch *batch, const stm_options *options,
                     stm_scores *scores);

#endif
