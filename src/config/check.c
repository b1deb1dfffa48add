/* What one value alone cannot tell: keys that are missing, values that contradict each other. */
#include <string.h>

#include "config/table.h"

static stm_status check_required(const stm_options *options, stm_command_bit command)
{
    for (size_t i = 0; i < stm_n_option_rows; i++) {
        const stm_option_row *row = &stm_option_rows[i];
        if (!(row->commands & command) || !(row->traits & STM_OPTION_REQUIRED))
            continue;
        if (**(char *const *)((const char *)options + row->offset))
            continue;
        if (command == STM_COMMAND_PLAN && row->offset == offsetof(stm_options, out))
            continue; /* it prints */
        if (row->offset == offsetof(stm_options, data.prompts) && *options->data.groups &&
            (command == STM_COMMAND_TRAIN || (command == STM_COMMAND_EVAL && *options->eval.prompts)))
            continue;
        if (row->traits & STM_OPTION_FLAG)
            return stm_fail(STM_ERR_INPUT, "command line: --%s is missing; expected a %s", row->name, row->help);
        const char *file = options->arguments.n ? options->arguments.items[0] : "input";
        return stm_fail(STM_ERR_INPUT, "%s: %s is missing; expected a value: %s", file, row->name, row->help);
    }
    return STM_OK;
}

static stm_status check_rewards(const stm_options *options, stm_command_bit command)
{
    for (size_t i = 0; i < options->reward.n; i++) {
        const stm_reward_options *reward = &options->reward.items[i];
        if (reward->max_tokens && reward->min_tokens > reward->max_tokens)
            return stm_fail(STM_ERR_INPUT, "reward[%zu].min_tokens: found %lld, expected at most max_tokens, %lld", i,
                            (long long)reward->min_tokens, (long long)reward->max_tokens);
    }
    for (size_t i = 0; i < options->reward.n; i++)
        if (strcmp(options->reward.items[i].name, "environment") == 0 && !*options->rollout.environment)
            return stm_fail(STM_ERR_INPUT,
                            "rollout.environment is missing; expected a command, since reward[%zu] is "
                            "what it says",
                            i);
    const bool judged =
        command == STM_COMMAND_EVAL ||
        (command == STM_COMMAND_TRAIN && strcmp(options->objective.name, "sft") != 0 && !*options->data.groups);
    if (judged && options->reward.n == 0)
        return stm_fail(STM_ERR_INPUT,
                        "reward: found an empty list, expected at least one reward like [{name: exact}]");
    return STM_OK;
}

/* A shape that no model can have, and options that a file of groups or a ratio leaves without use. */
static stm_status check_bench(const stm_options *o)
{
    if (o->bench.hidden % o->bench.heads != 0 || (o->bench.hidden / o->bench.heads) % 2 != 0)
        return stm_fail(STM_ERR_INPUT, "bench.hidden: found %lld, expected an even multiple of bench.heads, %lld",
                        (long long)o->bench.hidden, (long long)o->bench.heads);
    if (o->bench.heads % o->bench.kv_heads != 0)
        return stm_fail(STM_ERR_INPUT, "bench.kv_heads: found %lld, expected a divisor of bench.heads, %lld",
                        (long long)o->bench.kv_heads, (long long)o->bench.heads);
    if (*o->bench.groups && !*o->bench.model)
        return stm_fail(STM_ERR_INPUT, "command line: --model is missing; expected a folder, since --groups needs it");
    if (stm_options_given(o, "bench.answer") && o->bench.ratio.n > 0)
        return stm_fail(STM_ERR_INPUT, "bench.answer: found a value beside bench.ratio, expected one of the two");
    static const char *const shape[] = {"bench.prompt",     "bench.answer", "bench.ratio",
                                        "bench.group_size", "bench.groups", "bench.sweep"};
    for (size_t i = 0; *o->bench.groups && i < sizeof shape / sizeof *shape; i++)
        if (stm_options_given(o, shape[i]))
            return stm_fail(STM_ERR_INPUT, "%s: found a value beside --groups, expected one of the two", shape[i]);
    if (o->bench.prompt.n == 0 || o->bench.group_size.n == 0)
        return stm_fail(STM_ERR_INPUT, "%s: found an empty list, expected at least one number",
                        o->bench.prompt.n == 0 ? "bench.prompt" : "bench.group_size");
    return STM_OK;
}

static stm_status check_budgets(const stm_options *o, stm_command_bit command)
{
    const stm_numbers *budgets = &o->rollout.budgets;
    const bool brpo = o->objective.advantage_baseline == STM_BASELINE_BRPO;
    for (size_t i = 1; i < budgets->n; i++)
        if (budgets->items[i] <= budgets->items[i - 1])
            return stm_fail(STM_ERR_INPUT, "rollout.budgets: found %g after %g, expected rising numbers",
                            budgets->items[i], budgets->items[i - 1]);
    if (command == STM_COMMAND_TRAIN && brpo != (budgets->n > 0) && !*o->data.groups)
        return stm_fail(STM_ERR_INPUT, "rollout.budgets: found %zu, expected %s objective.advantage_baseline=brpo",
                        budgets->n, brpo ? "at least one with" : "none without");
    if (budgets->n == 0)
        return STM_OK;
    if (o->data.filter_samples > 0)
        return stm_fail(STM_ERR_INPUT, "data.filter_samples: found %lld, expected 0 with rollout.budgets",
                        (long long)o->data.filter_samples);
    if (*o->rollout.environment || o->replay.size > 0)
        return stm_fail(STM_ERR_INPUT, "rollout.budgets: found %zu, expected none with %s", budgets->n,
                        *o->rollout.environment ? "rollout.environment" : "replay.size");
    if (!*o->rollout.closing)
        return stm_fail(STM_ERR_INPUT, "rollout.closing: found nothing, expected a text, since rollout.budgets cuts");
    if (o->objective.budget_probs.n > 0 && o->objective.budget_probs.n != budgets->n)
        return stm_fail(STM_ERR_INPUT,
                        "objective.budget_probs: found %zu numbers, expected one for each of "
                        "rollout.budgets, %zu",
                        o->objective.budget_probs.n, budgets->n);
    return STM_OK;
}

/* Responses are compared within a group as it was sampled. */
static stm_status check_preferences(const stm_options *o)
{
    const char *other = o->replay.size > 0         ? "replay.size"
                        : o->rollout.refine        ? "rollout.refine"
                        : o->rollout.budgets.n > 0 ? "rollout.budgets"
                                                   : NULL;
    for (size_t i = 0; i < o->reward.n && other; i++)
        if (strcmp(o->reward.items[i].name, "preference") == 0)
            return stm_fail(STM_ERR_INPUT, "reward[%zu].name: found preference beside %s, expected one of the two", i,
                            other);
    return STM_OK;
}

/* A refinement has a place of its own, which nothing else may take. */
static stm_status check_refine(const stm_options *o)
{
    if (!o->rollout.refine)
        return STM_OK;
    if (o->rollout.group_size < 2)
        return stm_fail(STM_ERR_INPUT, "rollout.group_size: found 1, expected at least 2 with rollout.refine");
    const char *other = o->rollout.dynamic         ? "rollout.dynamic"
                        : o->replay.size > 0       ? "replay.size"
                        : *o->rollout.environment  ? "rollout.environment"
                        : o->rollout.budgets.n > 0 ? "rollout.budgets"
                                                   : NULL;
    return other ? stm_fail(STM_ERR_INPUT, "rollout.refine: found true beside %s, expected one of the two", other)
                 : STM_OK;
}

/* Weights of rewards that there are not, and ways to sample where nothing is sampled. */
static stm_status check_training(const stm_options *o)
{
    const size_t n = o->objective.reward_weights.n;
    const struct {
        const char *name;
        bool set;
    } sampling[] = {{"data.prompts", *o->data.prompts != 0}, {"rollout.budgets", o->rollout.budgets.n > 0},
                    {"rollout.dynamic", o->rollout.dynamic}, {"rollout.environment", *o->rollout.environment != 0},
                    {"rollout.refine", o->rollout.refine},   {"replay.size", o->replay.size > 0}};
    if (n > 0 && n != o->reward.n && !*o->data.groups)
        return stm_fail(STM_ERR_INPUT, "objective.reward_weights: found %zu numbers, expected one for each reward, %zu",
                        n, o->reward.n);
    for (size_t i = 0; *o->data.groups && i < sizeof sampling / sizeof *sampling; i++)
        if (sampling[i].set)
            return stm_fail(STM_ERR_INPUT, "%s: found a value, expected none with data.groups: nothing is sampled",
                            sampling[i].name);
    return STM_OK;
}

/* Responses of the reference, which another way to sample knows nothing of. */
static stm_status check_others(const stm_options *o)
{
    const char *other = *o->data.groups            ? "data.groups"
                        : *o->rollout.environment  ? "rollout.environment"
                        : o->rollout.refine        ? "rollout.refine"
                        : o->rollout.budgets.n > 0 ? "rollout.budgets"
                        : o->replay.size > 0       ? "replay.size"
                                                   : NULL;
    if (o->reference.samples == 0 && o->reference.mixture != 1)
        return stm_fail(STM_ERR_INPUT, "reference.mixture: found %g, expected 1 with reference.samples=0",
                        o->reference.mixture);
    if (o->reference.samples == 0)
        return STM_OK;
    if (other)
        return stm_fail(STM_ERR_INPUT, "reference.samples: found %lld, expected 0 with %s",
                        (long long)o->reference.samples, other);
    if (o->reference.samples >= o->rollout.group_size)
        return stm_fail(STM_ERR_INPUT, "reference.samples: found %lld, expected less than rollout.group_size, %lld",
                        (long long)o->reference.samples, (long long)o->rollout.group_size);
    return STM_OK;
}

static stm_status check_reference(const stm_options *o)
{
    const size_t n = o->reference.paths.n, n_weights = o->reference.weights.n;
    if (n_weights > 0 && n_weights != n)
        return stm_fail(STM_ERR_INPUT,
                        "reference.weights: found %zu, expected none, or one for each of %zu "
                        "reference.paths",
                        n_weights, n);
    return STM_OK;
}

stm_status stm_options_check(const stm_options *options, stm_command_bit command)
{
    STM_TRY(check_required(options, command));
    STM_TRY(check_reference(options));
    if (command == STM_COMMAND_TRAIN)
        STM_TRY(check_others(options));
    if (command == STM_COMMAND_TRAIN) {
        STM_TRY(check_training(options));
        STM_TRY(stm_options_check_unused(options));
    }
    STM_TRY(check_rewards(options, command));
    STM_TRY(check_budgets(options, command));
    if (options->rollout.min_new_tokens > options->rollout.max_new_tokens)
        return stm_fail(STM_ERR_INPUT,
                        "rollout.min_new_tokens: found %lld, expected at most rollout.max_new_tokens, %lld",
                        (long long)options->rollout.min_new_tokens, (long long)options->rollout.max_new_tokens);
    STM_TRY(check_preferences(options));
    STM_TRY(check_refine(options));
    if (command == STM_COMMAND_BENCH)
        return check_bench(options);
    if (command == STM_COMMAND_GRAD && !*options->objective_only &&
        options->objective.aggregate == STM_AGGREGATE_FIXED_LENGTH && options->objective.max_tokens == 0)
        return stm_fail(STM_ERR_INPUT,
                        "objective.max_tokens: found 0, expected at least 1 with objective.aggregate=fixed-length");
    if (command == STM_COMMAND_TRAIN && !*options->eval.prompts &&
        (options->eval.stop_after > 0 || options->eval.stop_at_reward != 0))
        return stm_fail(
            STM_ERR_INPUT,
            "eval.prompts is missing; expected a file, since eval.stop_after or eval.stop_at_reward needs it");
    return STM_OK;
}
