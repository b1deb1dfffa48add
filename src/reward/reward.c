#include "reward/reward.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reward/judged_by.h"
#include "reward/kinds.h"

static const stm_reward_kind *const registry[] = {
    &stm_reward_exact,  &stm_reward_numeric,      &stm_reward_regex,     &stm_reward_format,     &stm_reward_contains,
    &stm_reward_length, &stm_reward_command,      &stm_reward_bleu,      &stm_reward_math,       &stm_reward_choices,
    &stm_reward_cosine, &stm_reward_length_group, &stm_reward_overlong,  &stm_reward_repetition, &stm_reward_hapo,
    &stm_reward_tags,   &stm_reward_dianjin,      &stm_reward_thinkless, &stm_reward_tool_call,  &stm_reward_otc,
    &stm_reward_sql,    &stm_reward_ui_action,    &stm_reward_ton_gui,   &stm_reward_gui_critic, &stm_reward_adacot,
    &stm_reward_plugin, &stm_reward_environment,  &stm_reward_preference};
enum { N_KINDS = sizeof registry / sizeof *registry };

size_t stm_reward_names(const char *const **names)
{
    static const char *list[N_KINDS];
    for (size_t i = 0; i < N_KINDS; i++)
        list[i] = registry[i]->name;
    *names = list;
    return N_KINDS;
}

double stm_complain(stm_complaint *complaint, const char *format, ...)
{
    if (complaint->given)
        return NAN;
    va_list list;
    va_start(list, format);
    vsnprintf(complaint->text, sizeof complaint->text, format, list);
    va_end(list);
    complaint->given = true;
    return NAN;
}

bool stm_reward_always(const stm_reward_options *options)
{
    (void)options;
    return true;
}

bool stm_reward_never(const stm_reward_options *options)
{
    (void)options;
    return false;
}

bool stm_reward_extract(const stm_reward_item *item, const char *text, size_t *start, size_t *n,
                        stm_complaint *complaint, bool *failed)
{
    bool found = true;
    *failed = false;
    *start = 0;
    *n = strlen(text);
    if (item->pattern && stm_pattern_last(item->pattern, text, *n, &found, start, n) != STM_OK) {
        stm_complain(complaint, "%s.extract: %s", item->where, stm_failure());
        *failed = true;
        return false;
    }
    return found;
}

static stm_status unknown_name(const char *where, const char *key, const char *name, const char *const *names, size_t n)
{
    const char *nearest = stm_nearest_name(name, names, n);
    char list[512] = "";
    for (size_t i = 0; i < n; i++) {
        const size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i == 0 ? "" : i + 1 == n ? " or " : ", ", names[i]);
    }
    if (nearest)
        return stm_fail(STM_ERR_INPUT, "%s.%s: found \"%s\", expected %s; did you mean \"%s\"?", where, key, name, list,
                        nearest);
    return stm_fail(STM_ERR_INPUT, "%s.%s: found \"%s\", expected %s", where, key, name, list);
}

/* Puts the first style where none is given. */
static stm_status choose_style(stm_reward_item *item)
{
    size_t n = 0, found = SIZE_MAX;
    const char *const *styles = item->kind->styles;
    for (; styles[n]; n++)
        if (strcmp(styles[n], item->options.style) == 0)
            found = n;
    if (found == SIZE_MAX && item->options.style[0] != 0)
        return unknown_name(item->where, "style", item->options.style, styles, n);
    item->style = found == SIZE_MAX ? 0 : found;
    return STM_OK;
}

static stm_status refuse_unread(const stm_reward_item *item, const char *key, bool set, unsigned bits)
{
    if (!set || (item->kind->reads & bits))
        return STM_OK;
    return stm_fail(STM_ERR_INPUT, "%s.%s: the reward \"%s\" does not read it", item->where, key, item->kind->name);
}

/* Fields that were set though this kind of reward does not read them. timeout_s has a default, so it cannot be told. */
static stm_status refuse_unread_fields(const stm_reward_item *item)
{
    const stm_reward_options *o = &item->options;
    const struct {
        const char *name;
        bool set;
        unsigned bit;
    } fields[] = {
        {"pattern", o->pattern[0] != 0, STM_READS_PATTERN},
        {"text", o->text[0] != 0, STM_READS_TEXT},
        {"command", o->command[0] != 0, STM_READS_COMMAND},
        {"extract", o->extract[0] != 0, STM_READS_EXTRACT | STM_READS_RIGHT},
        {"ignore_case", o->ignore_case, STM_READS_IGNORE_CASE | STM_READS_RIGHT},
        {"min_tokens", o->min_tokens > 0, STM_READS_LENGTHS},
        {"max_tokens", o->max_tokens > 0, STM_READS_LENGTHS},
        {"style", o->style[0] != 0, STM_READS_STYLE},
        {"right", o->right[0] != 0, STM_READS_RIGHT},
        {"scale", o->scale > 0, STM_READS_SCALE},
        {"reward_right", o->reward_right.n > 0, STM_READS_SCALE},
        {"reward_wrong", o->reward_wrong.n > 0, STM_READS_SCALE},
        {"buffer_tokens", o->buffer_tokens > 0, STM_READS_BUFFER},
        {"ngram", o->ngram > 0, STM_READS_NGRAM},
        {"library", o->library[0] != 0, STM_READS_LIBRARY},
        {"penalties", o->penalties.n > 0, STM_READS_PENALTIES},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        STM_TRY(refuse_unread(item, fields[i].name, fields[i].set, fields[i].bit));
    return STM_OK;
}

/* An answer that is needed and missing; the reader of prompts refuses such lines, so this is for callers that do not
 * read any. */
static double score_one(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    if (!input->answer && item->kind->needs_answer(&item->options))
        return stm_complain(complaint, "%s: the prompt has no \"answer\", which the reward \"%s\" reads", item->where,
                            item->kind->name);
    return item->kind->one(item, input, complaint);
}

/* What may tell right from wrong: 1 or 0 for one response at a time. */
static const stm_reward_kind *const arbiters[] = {&stm_reward_math, &stm_reward_numeric, &stm_reward_exact,
                                                  &stm_reward_contains, &stm_reward_choices};
enum { N_ARBITERS = sizeof arbiters / sizeof *arbiters };

bool stm_reward_is_right(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint,
                         bool *failed)
{
    const double value = score_one(item->right, input, complaint);
    *failed = isnan(value);
    return value >= 1.0;
}

static stm_status compile(const stm_reward_item *item, const char *field, const char *pattern, stm_pattern **out)
{
    const stm_status status = stm_pattern_create(pattern, out);
    return status == STM_OK ? STM_OK : stm_fail_context(status, "%s.%s", item->where, field);
}

static stm_status item_init_right(stm_reward_item *item)
{
    const char *name = item->options.right[0] ? item->options.right : arbiters[0]->name;
    const char *names[N_ARBITERS];
    STM_TRY(stm_alloc(1, sizeof *item->right, &item->right));
    static char empty[] = "";
    *item->right = (stm_reward_item){.options = item->options};
    item->right->options.text = empty; /* contains: the answer; the text is the entry's own */
    memcpy(item->right->where, item->where, sizeof item->where);
    for (size_t i = 0; i < N_ARBITERS; i++) {
        names[i] = arbiters[i]->name;
        if (strcmp(name, names[i]) == 0)
            item->right->kind = arbiters[i];
    }
    if (!item->right->kind)
        return unknown_name(item->where, "right", name, names, N_ARBITERS);
    STM_TRY(refuse_unread(item->right, "extract", item->options.extract[0] != 0, STM_READS_EXTRACT));
    STM_TRY(refuse_unread(item->right, "ignore_case", item->options.ignore_case, STM_READS_IGNORE_CASE));
    return item->options.extract[0] ? compile(item, "extract", item->options.extract, &item->right->pattern) : STM_OK;
}

static stm_status item_init(stm_reward_item *item, size_t index, const stm_reward_options *options)
{
    snprintf(item->where, sizeof item->where, "reward[%zu]", index);
    item->options = *options;
    char **strings[] = {&item->options.name,    &item->options.pattern, &item->options.text,  &item->options.command,
                        &item->options.extract, &item->options.style,   &item->options.right, &item->options.library};
    static char empty[] = "";
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
        if (!*strings[i])
            *strings[i] = empty;
    for (size_t i = 0; i < N_KINDS; i++)
        if (strcmp(registry[i]->name, item->options.name) == 0)
            item->kind = registry[i];
    if (!item->kind) {
        const char *const *names;
        const size_t n = stm_reward_names(&names);
        return unknown_name(item->where, "name", item->options.name, names, n);
    }
    if (!isfinite(options->weight))
        return stm_fail(STM_ERR_INPUT, "%s.weight: found %g, expected a finite number", item->where, options->weight);
    STM_TRY(refuse_unread_fields(item));
    if (item->kind->styles)
        STM_TRY(choose_style(item));
    if (item->kind->reads & STM_READS_PATTERN) {
        if (item->options.pattern[0] == 0)
            return stm_fail(STM_ERR_INPUT, "%s.pattern: missing; the reward \"%s\" needs one", item->where,
                            item->kind->name);
        STM_TRY(compile(item, "pattern", item->options.pattern, &item->pattern));
    }
    if (item->kind->reads & STM_READS_RIGHT)
        STM_TRY(item_init_right(item));
    if ((item->kind->reads & STM_READS_EXTRACT) && item->options.extract[0] != 0)
        STM_TRY(compile(item, "extract", item->options.extract, &item->pattern));
    if (item->kind->check)
        STM_TRY(item->kind->check(item));
    return item->kind->begin ? item->kind->begin(item) : STM_OK;
}

stm_status stm_reward_set_create(const stm_reward_options *items, size_t n, stm_reward_set **out)
{
    stm_status status = STM_OK;
    stm_reward_set *set;
    STM_TRY(stm_alloc(1, sizeof *set, &set));
    STM_GOTO_OUT(stm_alloc(n, sizeof *set->items, &set->items));
    set->n = n;
    for (size_t i = 0; i < n; i++)
        STM_GOTO_OUT(item_init(&set->items[i], i, &items[i]));
    *out = set;
    set = NULL;
out:
    stm_reward_set_destroy(set);
    return status;
}

void stm_reward_set_destroy(stm_reward_set *set)
{
    if (!set)
        return;
    for (size_t i = 0; i < set->n; i++) {
        stm_pattern_destroy(set->items[i].pattern);
        if (set->items[i].right)
            stm_pattern_destroy(set->items[i].right->pattern);
        free(set->items[i].right);
        if (set->items[i].kind && set->items[i].kind->end)
            set->items[i].kind->end(set->items[i].state);
    }
    free(set->items);
    free(set);
}

const double *stm_reward_set_preferences(const stm_reward_set *set)
{
    for (size_t i = 0; i < set->n; i++)
        if (set->items[i].kind->preferences)
            return set->items[i].kind->preferences(set->items[i].state);
    return NULL;
}

bool stm_reward_set_needs_answer(const stm_reward_set *set)
{
    for (size_t i = 0; i < set->n; i++)
        if (set->items[i].kind->needs_answer(&set->items[i].options))
            return true;
    return false;
}

stm_status stm_reward_set_check_prompt(const stm_reward_set *set, const char *answer, const char *fields_json)
{
    stm_status status = STM_OK;
    bool *judges = NULL; /* [set->n] */
    STM_TRY(stm_alloc(set->n, sizeof *judges, &judges));
    STM_GOTO_OUT(stm_reward_judged_by(set->items, set->n, fields_json, judges));
    for (size_t i = 0; i < set->n && answer; i++) {
        const stm_reward_item *item = set->items[i].right ? set->items[i].right : &set->items[i];
        if (judges[i] && item->kind->check_answer)
            STM_GOTO_OUT(item->kind->check_answer(item, answer));
    }
out:
    free(judges);
    return status;
}

/* The scores [n] of one entry; of responses that it does not judge (judges [n][n_items]) they are 0. */
static stm_status score_all(const stm_reward_set *set, size_t i, size_t n, const stm_reward_input *inputs,
                            const bool *judges, double *scores, stm_complaint *complaint)
{
    const stm_reward_item *item = &set->items[i];
    if (item->kind->all)
        STM_TRY(item->kind->all(item, n, inputs, scores, complaint));
    for (size_t r = 0; r < n; r++) {
        if (!judges[r * set->n + i])
            scores[r] = 0.0;
        else if (item->kind->one)
            scores[r] = score_one(item, &inputs[r], complaint);
    }
    return STM_OK;
}

stm_status stm_reward_set_run(stm_reward_set *set, size_t n, const stm_reward_input *inputs, double *total,
                              double *parts)
{
    stm_status status = STM_OK;
    stm_complaint complaint = {.given = false};
    double *scores = NULL; /* [n] */
    bool *judges = NULL;   /* [n][set->n] */
    STM_GOTO_OUT(stm_alloc(n, sizeof *scores, &scores));
    STM_GOTO_OUT(stm_alloc(n * set->n, sizeof *judges, &judges));
    for (size_t r = 0; r < n; r++) {
        total[r] = 0.0;
        if (stm_reward_judged_by(set->items, set->n, inputs[r].fields_json, judges + r * set->n) != STM_OK)
            total[r] = stm_complain(&complaint, "%s", stm_failure());
    }
    for (size_t i = 0; i < set->n; i++) {
        STM_GOTO_OUT(score_all(set, i, n, inputs, judges, scores, &complaint));
        for (size_t r = 0; r < n; r++) {
            if (parts)
                parts[r * set->n + i] = scores[r];
            if (set->items[i].options.weight != 0.0) /* weight 0: watched only, whatever it gives */
                total[r] += set->items[i].options.weight * scores[r];
        }
    }
    if (complaint.given)
        (void)stm_fail(STM_ERR_NUMERIC, "%s", complaint.text);
out:
    free(judges);
    free(scores);
    return status;
}
