/* src/train/budgets.h: thinking that is cut at budgets, where answers are sampled (rollout.budgets): AnytimeReasoner,
 * arXiv:2505.13438.
 *
 *      prompt ─ thinking ─┬─ thinking ─┬─ thinking              one response, all of it with loss
 *                         │            └─ [closing] ─ summary   a response: loss on the summary alone
 *                         └─ [closing] ─ summary
 *
 * Thinking is sampled first, up to the last budget or to the text that closes it; then, below each cut, summaries, by
 * the code that samples any rollout: prompt, thinking so far and closing text are their prompts. A reward judges the
 * text of a summary. In the trees all of it is computed once. */
#ifndef STM_TRAIN_BUDGETS_H
#define STM_TRAIN_BUDGETS_H

#include "data/text_context.h"
#include "rollout/rollout.h"

typedef struct {
    size_t n, n_summaries;
    const double *tokens; /* [n]: the budgets, rising; the options' own */
    size_t n_closing;
    int32_t *closing; /* [n_closing] */
    stm_strings stop; /* the text that closes thinking; the options' own */
} stm_budgets;

/* *out: NULL where the options name none. Options must outlive it. Local; the caller destroys *out. Fails:
 * STM_ERR_INPUT "rollout.closing: ..", STM_ERR_MEMORY. */
stm_status stm_budgets_create(const stm_options *options, const stm_text_context *text, stm_budgets **out);
void stm_budgets_destroy(stm_budgets *budgets); /* NULL is fine */

/* Thinking for every prompt of the batch, and cuts: a group for each place where it is cut, response by response, with
 * its summaries. To train: every budget and n_summaries; to evaluate: the last budget alone, and one summary. sampling:
 * as for a response in one piece. Where its watch leaves, cuts may be empty. The caller clears both. Collective over
 * the grid's world; same status everywhere. Fails as stm_rollout does. */
stm_status stm_budgets_roll_out(const stm_budgets *budgets, stm_engine *engine, const stm_model *model,
                                const stm_grid *grid, const stm_sampling *sampling, stm_batch *batch, stm_batch *cuts,
                                stm_rollout_counts *counts);

/* Tells the engine of the memory for that, and leaves in batch and cuts what would come, as long as it may be.
 * Collective over the grid's world in a pipeline. */
stm_status stm_budgets_expect(const stm_budgets *budgets, stm_engine *engine, const stm_model *model,
                              const stm_grid *grid, const stm_sampling *sampling, stm_batch *batch, stm_batch *cuts);

/* The cuts that training makes of a batch's thinking, whose groups have as many responses: groups without any. The
 * caller clears *cuts. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_budgets_cut(const stm_budgets *budgets, const stm_batch *batch, stm_batch *cuts);

/* Makes the batch one to train on, or to evaluate: each group has, member by member, its thinking (to train) and its
 * summaries, with what the objective reads of budgets; the rewards of cuts go to summaries, and their mean to thinking.
 * Local. Fails: STM_ERR_MEMORY, and the batch is as it was. */
stm_status stm_budgets_join(const stm_budgets *budgets, bool to_train, const stm_batch *cuts, stm_batch *batch);

#endif
