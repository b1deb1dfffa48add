/* A step's rollouts and their rewards, in one round or, with dynamic sampling, in several. */
#include <math.h>
#include <stdlib.h>

#include "metrics/log.h"
#include "rollout/rollout.h"
#include "train/batch.h"
#include "train/others.h"
#include "train/refine.h"
#include "train/rounds.h"
#include "train/trainer_state.h"

/* first: number of the batch's first group in the step. */
static void begin_sampling(const stm_trainer *t, size_t first, stm_sampling *sampling)
{
    const stm_policy *p = &t->policy;
    stm_sampling_init(t->options, p->model, p->tokenizer, STM_RANDOM_TRAIN, (uint64_t)t->progress.step, sampling);
    sampling->watch = p->watch;
    sampling->first_slot = first;
}

/* Rollouts below the batch's prompts. cuts: what budgets of thinking leave to judge; NULL: none cut these. Collective.
 */
static stm_status roll_out(stm_trainer *t, stm_step *step, const stm_sampling *sampling, stm_batch *batch,
                           stm_batch *cuts)
{
    const stm_policy *p = &t->policy;
    stm_rollout_counts counts;
    const double start = stm_now_s();
    t->boundary.next_s = t->boundary.update_s;
    stm_timers_push(&t->timers, STM_PHASE_ROLLOUT);
    const stm_status status = cuts && p->budgets ? stm_budgets_roll_out(p->budgets, p->engine, p->model, p->grid,
                                                                        sampling, batch, cuts, &counts)
                                                 : stm_rollout(p->engine, p->model, p->grid, sampling, batch, &counts);
    stm_timers_pop(&t->timers, STM_PHASE_ROLLOUT);
    STM_TRY(status);
    step->record.tokens_sampled += counts.tokens;
    step->record.rollout_s += stm_now_s() - start;
    return STM_OK;
}

/* Answers of the reference, or of its mixture with the policy, beside them. Collective. */
static stm_status roll_out_others(stm_trainer *t, stm_step *step, const stm_sampling *sampling, stm_batch *batch)
{
    stm_rollout_counts counts = {0};
    const double start = stm_now_s();
    stm_timers_push(&t->timers, STM_PHASE_ROLLOUT);
    const stm_status status =
        stm_others_roll_out(t->others, &t->policy, sampling, (size_t)t->options->reference.samples, batch, &counts);
    stm_timers_pop(&t->timers, STM_PHASE_ROLLOUT);
    step->record.tokens_sampled += counts.tokens;
    step->record.rollout_s += stm_now_s() - start;
    return status;
}

/* Answers to the round's prompts, which are the step's from number `first` on; with rollout.refine one of each group is
 * still to come. */
static stm_status answer(stm_trainer *t, stm_step *step, size_t first, stm_round *round)
{
    const stm_policy *p = &t->policy;
    stm_sampling sampling;
    STM_TRY(stm_agree(p->grid, stm_batch_of_prompts(&t->train->prompts, round->which, round->n, &round->batch)));
    begin_sampling(t, first, &sampling);
    sampling.group_size -= (size_t)t->options->rollout.refine + (size_t)t->options->reference.samples;
    stm_environment_join(p->environment, &t->train->prompts, round->which, &sampling);
    STM_TRY(roll_out(t, step, &sampling, &round->batch, &round->cuts));
    if (t->options->reference.samples == 0 || stm_watch_leaves(p->watch))
        return STM_OK;
    return roll_out_others(t, step, &sampling, &round->batch);
}

/* Groups without a success are helped, and successes noted. The judge's words go with the responses. */
static stm_status replay(stm_trainer *t, stm_step *step, size_t first, stm_round *round)
{
    stm_verdicts *v = &round->verdicts;
    for (size_t g = 0, at = 0; t->replay && g < round->n; at += round->batch.groups[g].n_responses, g++) {
        stm_group *group = &round->batch.groups[g];
        double *parts = v->parts + at * v->n_rewards;
        bool helped;
        STM_TRY(stm_replay_help(t->replay, (uint64_t)t->progress.step, first + g, group, parts, &helped));
        STM_TRY(stm_replay_note(t->replay, group, helped, parts));
        if (!helped)
            continue;
        step->record.groups_replayed += 1;
        v->total[at] = group->responses[0].reward;
        if (v->texts)
            STM_TRY(stm_verdicts_text(&t->policy, &group->responses[0], &v->texts[at]));
    }
    return STM_OK;
}

static stm_status judge(stm_trainer *t, stm_step *step, size_t first, stm_round *round)
{
    const double start = stm_now_s();
    stm_timers_push(&t->timers, STM_PHASE_REWARD);
    stm_status status = t->policy.budgets ? stm_judge_cuts(&t->policy, t->rewards, t->train, round->which,
                                                           &round->batch, &round->cuts, true, &round->verdicts)
                                          : stm_judge(&t->policy, t->rewards, t->train, round->which, &round->batch,
                                                      true, &round->verdicts);
    stm_batch_clear(&round->cuts);
    if (status == STM_OK)
        status = stm_agree(t->policy.grid, replay(t, step, first, round));
    if (status == STM_OK)
        status = stm_cluster_answers(&t->policy, t->answers, &round->verdicts, &round->batch);
    stm_timers_pop(&t->timers, STM_PHASE_REWARD);
    STM_TRY(status);
    step->record.groups_failed += (double)round->verdicts.n_failed;
    if (round->verdicts.n_failed > 0)
        stm_log("warning: step %lld: %zu of %zu groups are left out: %s", (long long)t->progress.step + 1,
                round->verdicts.n_failed, round->n, round->verdicts.complaint);
    step->record.reward_s += stm_now_s() - start;
    return STM_OK;
}

/* Second answers, after a critique of the first ones. */

static stm_status judge_refined(stm_trainer *t, stm_step *step, const size_t *owners, stm_round *refined,
                                stm_round *round)
{
    const double right = t->options->rollout.refine_right, start = stm_now_s();
    size_t n;
    stm_timers_push(&t->timers, STM_PHASE_REWARD);
    stm_status status =
        stm_judge(&t->policy, t->rewards, t->train, refined->which, &refined->batch, false, &refined->verdicts);
    stm_timers_pop(&t->timers, STM_PHASE_REWARD);
    if (status == STM_OK)
        status = stm_agree(t->policy.grid, stm_refine_join(right, owners, refined, round, &n));
    STM_TRY(status);
    step->record.refinements = (double)refined->n;
    step->record.groups_refined = (double)n;
    step->record.refined_right = 0;
    for (size_t g = 0; g < round->n; g++) {
        const stm_response *r = &round->batch.groups[g].responses[0];
        step->record.refined_right += r->notes && r->notes->off_policy && r->reward >= right;
    }
    step->record.reward_s += stm_now_s() - start;
    return STM_OK;
}

static stm_status refine(stm_trainer *t, stm_step *step, size_t first, stm_round *round)
{
    stm_sampling sampling;
    stm_round refined = {0};
    size_t *owners = NULL;
    stm_status status;
    begin_sampling(t, first + round->n, &sampling);
    sampling.group_size = 1;
    STM_GOTO_OUT(stm_refine_prompts(&t->policy, t->train, &sampling, round, &refined.batch, &owners));
    refined.n = refined.batch.n_groups;
    STM_GOTO_OUT(stm_agree(t->policy.grid, stm_alloc(refined.n, sizeof *refined.which, &refined.which)));
    for (size_t i = 0; i < refined.n; i++)
        refined.which[i] = round->which[owners[i]];
    if (refined.n > 0)
        STM_GOTO_OUT(roll_out(t, step, &sampling, &refined.batch, NULL));
    if (!stm_watch_leaves(t->policy.watch))
        status = judge_refined(t, step, owners, &refined, round);
out:
    free(owners);
    stm_round_clear(&refined);
    return status;
}

/* Nothing is judged of rollouts that were left, and nothing said to an answer that was left in its judgement. */
static stm_status sample_round(stm_trainer *t, stm_step *step, size_t first, stm_round *round)
{
    STM_TRY(answer(t, step, first, round));
    if (stm_watch_leaves(t->policy.watch))
        return STM_OK;
    STM_TRY(judge(t, step, first, round));
    if (stm_watch_leaves(t->policy.watch))
        return STM_OK;
    return t->options->rollout.refine ? refine(t, step, first, round) : STM_OK;
}

static stm_status choose_further(stm_trainer *t, const stm_step *step, stm_round *round)
{
    STM_TRY(stm_agree(t->policy.grid, stm_alloc(round->n, sizeof *round->which, &round->which)));
    for (size_t i = 0; i < round->n; i++)
        round->which[i] = stm_prompt_at(&t->train->prompts, (uint64_t)t->options->run.seed, t->options->data.shuffle,
                                        t->progress.cursor + step->n_used + i);
    return STM_OK;
}

/* Another round, for as many prompts as groups are idle. kept: shares its arrays with the step. */
static stm_status sample_further(stm_trainer *t, stm_step *step, size_t n, stm_round *kept)
{
    stm_round more = {.n = n};
    stm_status status;
    STM_GOTO_OUT(choose_further(t, step, &more));
    STM_GOTO_OUT(sample_round(t, step, step->n_used, &more));
    if (stm_watch_leaves(t->policy.watch))
        goto out;
    step->record.rollouts_extra += (double)more.verdicts.n; /* of budgets: thinking and summaries */
    stm_round_replace(kept, &more);
    step->n_used += n;
out:
    stm_round_clear(&more);
    return status;
}

static stm_status replace_idle(stm_trainer *t, stm_step *step, stm_round *kept)
{
    int64_t rounds = 0;
    size_t n = stm_round_n_idle(kept);
    step->record.rollouts_extra = 0;
    for (; n > 0 && rounds < t->options->rollout.dynamic_rounds; rounds++) {
        STM_TRY(sample_further(t, step, n, kept));
        if (stm_watch_leaves(t->policy.watch))
            return STM_OK;
        n = stm_round_n_idle(kept);
    }
    if (rounds > 0)
        stm_log("step %lld: %.0f extra rollouts in %lld rounds, %zu of %zu groups have equal rewards still",
                (long long)t->progress.step + 1, step->record.rollouts_extra, (long long)rounds, n, kept->n);
    return STM_OK;
}

stm_status stm_step_sample(stm_trainer *t, stm_step *step)
{
    stm_record *record = &step->record;
    stm_round round = {.n = step->n, .which = step->which};
    record->tokens_sampled = record->rollout_s = record->reward_s = record->groups_failed = 0;
    if (t->replay)
        record->groups_replayed = 0;
    const stm_status status = sample_round(t, step, 0, &round);
    step->batch = round.batch;
    step->verdicts = round.verdicts;
    if (status != STM_OK || !t->options->rollout.dynamic || stm_watch_leaves(t->policy.watch))
        return status;
    return replace_idle(t, step, &round);
}
