/* A step's rollouts and their rewards, in one round or, with dynamic sampling, in several. */
#include <math.h>
#include <stdlib.h>

#include "metrics/log.h"
#include "rollout/rollout.h"
#include "train/batch.h"
#include "train/rounds.h"
#include "train/trainer_state.h"

/* Rollouts below the round's prompts, which are the step's from number `first` on. Collective. */
static stm_status roll_out(stm_trainer *t, stm_step *step, size_t first, stm_round *round)
{
    const stm_policy *p = &t->policy;
    stm_sampling sampling;
    stm_rollout_counts counts;
    const double start = stm_now_s();
    STM_TRY(stm_agree(p->grid, stm_batch_of_prompts(&t->train->prompts, round->which, round->n, &round->batch)));
    stm_sampling_init(t->options, p->model, p->tokenizer, STM_RANDOM_TRAIN, (uint64_t)t->progress.step, &sampling);
    sampling.watch = p->watch;
    sampling.first_slot = first;
    stm_environment_join(p->environment, &t->train->prompts, round->which, &sampling);
    t->boundary.next_s = t->boundary.update_s;
    stm_timers_push(&t->timers, STM_PHASE_ROLLOUT);
    const stm_status status = p->budgets ? stm_budgets_roll_out(p->budgets, p->engine, p->model, p->grid, &sampling,
                                                                &round->batch, &round->cuts, &counts)
                                         : stm_rollout(p->engine, p->model, p->grid, &sampling, &round->batch, &counts);
    stm_timers_pop(&t->timers, STM_PHASE_ROLLOUT);
    STM_TRY(status);
    step->record.tokens_sampled += counts.tokens;
    step->record.rollout_s += stm_now_s() - start;
    return STM_OK;
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

/* Nothing is judged of rollouts that were left. */
static stm_status sample_round(stm_trainer *t, stm_step *step, size_t first, stm_round *round)
{
    STM_TRY(roll_out(t, step, first, round));
    return stm_watch_leaves(t->policy.watch) ? STM_OK : judge(t, step, first, round);
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
    stm_round_replace(kept, &more);
    step->n_used += n;
    step->record.rollouts_extra += (double)(n * (size_t)t->options->rollout.group_size);
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
