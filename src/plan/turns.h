/* src/plan/turns.h: what a step samples, turn by turn, and what it learns from, as long as both may be.
 *
 *      one turn            the prompts, and below each its responses: what is learnt from
 *      rollout.budgets     thinking; below its cuts, summaries (train/budgets.h)
 *      an environment      turn 1 of all conversations; below each, with the replies so far, turn 2; ..
 *      rollout.refine      answers, one fewer; below each, with what is said to it, another one, the best of which
 * joins reference.samples   the policy's answers; the reference's
 *
 * Thinking fills its last budget in the mean as a response does rollout.max_new_tokens. Conversations have all as many
 * turns (--turns), equal parts of what is sampled and of what is said between (--reply-tokens). A response of
 * replay.size takes the place of one that was sampled: it adds nothing. Groups that rollout.dynamic samples in vain are
 * not known. Local. */
#ifndef STM_PLAN_TURNS_H
#define STM_PLAN_TURNS_H

#include "plan/workload.h"
#include "train/budgets.h"

typedef struct {
    stm_batch batch; /* prompts, and the responses that are sampled below them */
    size_t most;     /* tokens that a response may have */
    bool further;    /* below other responses: what they have in common is shared across groups, whatever the options */
    size_t n_models; /* that every row passes through: two with reference.mixture */
} stm_plan_turn;

typedef struct {
    size_t n;
    stm_plan_turn *items; /* [n]; none where responses are given */
    stm_batch batch;      /* of the update */
} stm_plan_turns;

/* workload: of the responses, were they of one turn. prompts, supervised: as for stm_workload_draw. budgets: NULL
 * without. The caller clears *out, also after a failure. Fails: STM_ERR_MEMORY. */
stm_status stm_plan_turns_draw(const stm_options *options, const stm_workload *workload, const stm_prompts *prompts,
                               const stm_budgets *budgets, bool supervised, stm_plan_turns *out);
void stm_plan_turns_clear(stm_plan_turns *turns);

#endif
