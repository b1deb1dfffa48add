#include "train/targets.h"

#include <math.h>
#include <stdlib.h>

#include "objective/target.h"

typedef struct {
    double log_sum; /* of the weights; -infinity: 0 */
    uint64_t n;
} estimate;

struct stm_targets {
    const stm_objective_options *options;
    size_t n_prompts;    /* 0: Z is not kept */
    estimate *estimates; /* [n_prompts] */
    size_t size, first, n;
    double *window; /* [size], a ring: n pseudo-rewards, the oldest at first */
};

bool stm_targets_are_needed(const stm_objective_options *options)
{
    return stm_target_keeps_z(options) || stm_target_keeps_baseline(options);
}

stm_status stm_targets_create(const stm_objective_options *options, size_t n_prompts, stm_targets **out)
{
    stm_targets *t;
    stm_status status;
    STM_TRY(stm_alloc(1, sizeof *t, &t));
    *t = (stm_targets){.options = options,
                       .n_prompts = stm_target_keeps_z(options) ? n_prompts : 0,
                       .size = stm_target_keeps_baseline(options) ? (size_t)options->baseline_window : 0};
    STM_GOTO_OUT(stm_alloc(t->n_prompts, sizeof *t->estimates, &t->estimates));
    STM_GOTO_OUT(stm_alloc(t->size, sizeof *t->window, &t->window));
    for (size_t i = 0; i < t->n_prompts; i++)
        t->estimates[i].log_sum = -INFINITY;
    *out = t;
    return STM_OK;
out:
    stm_targets_destroy(t);
    return status;
}

void stm_targets_destroy(stm_targets *targets)
{
    if (!targets)
        return;
    free(targets->estimates);
    free(targets->window);
    free(targets);
}

/* From the oldest on, so that a restart adds in the same order. */
static double mean_of_window(const stm_targets *t)
{
    double sum = 0;
    for (size_t i = 0; i < t->n; i++)
        sum += t->window[(t->first + i) % t->size];
    return t->n > 0 ? sum / (double)t->n : 0.0;
}

static void push(stm_targets *t, double value)
{
    if (t->size == 0)
        return;
    t->window[(t->first + t->n) % t->size] = value;
    if (t->n < t->size)
        t->n++;
    else
        t->first = (t->first + 1) % t->size;
}

static void take_weights(const stm_targets *t, estimate *e, const stm_group *group)
{
    for (size_t i = 0; i < group->n_responses; i++)
        if (stm_response_has_loss(&group->responses[i])) {
            e->log_sum = stm_log_add(e->log_sum, stm_target_log_weight(t->options, &group->responses[i]));
            e->n++;
        }
}

static void push_group(stm_targets *t, const stm_group *group)
{
    const double log_z = stm_target_log_z(t->options, group);
    for (size_t i = 0; i < group->n_responses && log_z > -INFINITY; i++)
        if (stm_response_has_loss(&group->responses[i]))
            push(t, stm_target_sampled_reward(t->options, &group->responses[i], log_z));
}

/* A prompt may come twice: both groups are taken in before either is told. */
void stm_targets_take(stm_targets *t, const size_t *which, stm_batch *batch, double *baseline)
{
    if (t->size > 0)
        *baseline = mean_of_window(t);
    for (size_t g = 0; t->n_prompts > 0 && g < batch->n_groups; g++)
        take_weights(t, &t->estimates[which[g]], &batch->groups[g]);
    for (size_t g = 0; t->n_prompts > 0 && g < batch->n_groups; g++) {
        const estimate *e = &t->estimates[which[g]];
        batch->groups[g].has_log_z = true;
        batch->groups[g].log_z = e->n > 0 ? e->log_sum - log((double)e->n) : -INFINITY;
    }
    for (size_t g = 0; t->size > 0 && g < batch->n_groups; g++)
        push_group(t, &batch->groups[g]);
}

/* Bytes: prompts of the set; how many of them have samples, and of each its number, its samples and the sum; then the
 * window, from the oldest on. */

stm_status stm_targets_save(const stm_targets *t, stm_kept *out)
{
    size_t n_seen = 0;
    for (size_t i = 0; i < t->n_prompts; i++)
        n_seen += t->estimates[i].n > 0;
    if (n_seen == 0 && t->n == 0)
        return STM_OK;
    STM_TRY(stm_kept_put_number(out, t->n_prompts));
    STM_TRY(stm_kept_put_number(out, n_seen));
    for (size_t i = 0; i < t->n_prompts; i++) {
        if (t->estimates[i].n == 0)
            continue;
        STM_TRY(stm_kept_put_number(out, i));
        STM_TRY(stm_kept_put_number(out, t->estimates[i].n));
        STM_TRY(stm_kept_put(out, &t->estimates[i].log_sum, sizeof(double)));
    }
    for (size_t i = 0; i < t->n; i++)
        STM_TRY(stm_kept_put(out, &t->window[(t->first + i) % t->size], sizeof(double)));
    return STM_OK;
}

/* Of a run that kept no Z, n_prompts is 0: then, and where none is kept now, they are left. */
static bool take_estimates(stm_targets *t, stm_kept_reader *reader, uint64_t n_prompts, uint64_t n_seen)
{
    for (uint64_t i = 0; i < n_seen; i++) {
        uint64_t which;
        estimate e;
        if (!stm_kept_take_number(reader, &which) || !stm_kept_take_number(reader, &e.n) ||
            !stm_kept_take(reader, &e.log_sum, sizeof e.log_sum) || which >= n_prompts)
            return false;
        if (t->n_prompts > 0)
            t->estimates[which] = e;
    }
    return true;
}

stm_status stm_targets_restore(stm_targets *t, const char *where, const stm_kept *kept)
{
    static const char what[] = "%s: /kept/targets: found %s, expected estimates of %zu prompts";
    stm_kept_reader reader = {kept->bytes, kept->n};
    uint64_t n_prompts, n_seen;
    double value;
    if (kept->n == 0)
        return STM_OK;
    if (!stm_kept_take_number(&reader, &n_prompts) || !stm_kept_take_number(&reader, &n_seen))
        return stm_fail(STM_ERR_INPUT, what, where, "other bytes", t->n_prompts);
    if (n_prompts > 0 && t->n_prompts > 0 && n_prompts != t->n_prompts)
        return stm_fail(STM_ERR_INPUT, what, where, "those of another set", t->n_prompts);
    if (!take_estimates(t, &reader, n_prompts, n_seen) || reader.n % sizeof value != 0)
        return stm_fail(STM_ERR_INPUT, what, where, "other bytes", t->n_prompts);
    while (stm_kept_take(&reader, &value, sizeof value))
        push(t, value);
    return STM_OK;
}
