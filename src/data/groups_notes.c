/* What only some objectives read of a line of GROUPS.jsonl. */
#include <string.h>

#include "data/groups_parser.h"

static bool has_notes(const json_t *object)
{
    static const char *const keys[] = {
        "sampler_logprobs", "token_weights", "off_policy",      "cluster", "twin_logprobs", "target_logprobs", "origin",
        "reward_parts",     "step",          "step_advantages", "member",  "segment",       "answer"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (stm_json_get(object, keys[i]))
            return true;
    return false;
}

/* A list of any length; NULL and 0 where there is none. */
static stm_status read_list(const stm_groups_parser *p, const json_t *object, const char *key, double **out, size_t *n)
{
    json_t *array = stm_json_get(object, key);
    *n = json_array_size(array);
    return stm_groups_doubles(p, object, key, json_is_array(array) ? *n : 1, out);
}

static bool take_integer(const json_t *value, void *to)
{
    *(int64_t *)to = json_integer_value(value);
    return json_is_integer(value) && json_integer_value(value) >= -1;
}

/* Whole numbers from -1 on; for each id one. */
static stm_status read_integers(const stm_groups_parser *p, const json_t *object, const char *key, size_t n,
                                int64_t **out)
{
    static const stm_groups_number integer = {sizeof **out, take_integer, "a whole number, -1 for none"};
    return stm_groups_numbers(p, object, key, n, &integer, out);
}

/* None of n numbers, which are of one key, goes beyond what another one has. */
static stm_status check_below(const stm_groups_parser *p, const char *key, size_t n, const int64_t *values,
                              size_t limit, const char *of)
{
    char where[STM_PLACE_BYTES];
    for (size_t k = 0; values && k < n; k++)
        if (values[k] >= (int64_t)limit)
            return stm_json_lines_fail(p->lines, "%s[%zu]: found %lld, expected a number below %zu, those of %s",
                                       stm_groups_place(p, key, where), k, (long long)values[k], limit, of);
    return STM_OK;
}

static stm_status read_flags(const stm_groups_parser *p, const json_t *object, stm_response_notes *notes)
{
    char where[STM_PLACE_BYTES];
    stm_json_found_text found;
    const json_t *off = stm_json_get(object, "off_policy"), *cluster = stm_json_get(object, "cluster");
    const json_t *origin = stm_json_get(object, "origin"), *member = stm_json_get(object, "member");
    if (off && !json_is_boolean(off))
        return stm_json_lines_fail(p->lines, "%s: found %s, expected true or false",
                                   stm_groups_place(p, "off_policy", where), stm_json_found(off, found));
    if (cluster && !json_is_integer(cluster))
        return stm_json_lines_fail(p->lines, "%s: found %s, expected an integer", stm_groups_place(p, "cluster", where),
                                   stm_json_found(cluster, found));
    if (member && (!json_is_integer(member) || json_integer_value(member) < 0))
        return stm_json_lines_fail(p->lines, "%s: found %s, expected a whole number",
                                   stm_groups_place(p, "member", where), stm_json_found(member, found));
    const char *from = !origin ? "policy" : json_is_string(origin) ? json_string_value(origin) : "";
    if (strcmp(from, "policy") != 0 && strcmp(from, "other") != 0)
        return stm_json_lines_fail(p->lines, "%s: found %s, expected \"policy\" or \"other\"",
                                   stm_groups_place(p, "origin", where), stm_json_found(origin, found));
    notes->off_policy = json_is_true(off);
    notes->other_origin = strcmp(from, "other") == 0;
    notes->has_cluster = cluster != NULL;
    notes->cluster = json_integer_value(cluster);
    notes->member = (size_t)json_integer_value(member);
    return STM_OK;
}

stm_status stm_groups_notes(const stm_groups_parser *p, const json_t *object, stm_response *response)
{
    const size_t n = response->n;
    if (!has_notes(object))
        return STM_OK;
    STM_TRY(stm_response_take_notes(response));
    stm_response_notes *notes = response->notes;
    STM_TRY(read_flags(p, object, notes));
    STM_TRY(stm_groups_doubles(p, object, "sampler_logprobs", n, &notes->sampler_logprobs));
    STM_TRY(stm_groups_doubles(p, object, "twin_logprobs", n, &notes->twin_logprobs));
    STM_TRY(stm_groups_doubles(p, object, "target_logprobs", n, &notes->target_logprobs));
    STM_TRY(stm_groups_doubles(p, object, "token_weights", n, &notes->token_weights));
    STM_TRY(read_list(p, object, "reward_parts", &notes->reward_parts, &notes->n_parts));
    STM_TRY(read_list(p, object, "step_advantages", &notes->step_advantages, &notes->n_steps));
    STM_TRY(read_integers(p, object, "step", n, &notes->step));
    STM_TRY(read_integers(p, object, "segment", n, &notes->segment));
    STM_TRY(read_integers(p, object, "answer", n, &notes->answer));
    return check_below(p, "step", n, notes->step, notes->n_steps, "step_advantages");
}

/* A member's scores, one list for each budget. */
static stm_status read_member_scores(const stm_groups_parser *p, const json_t *budgets, size_t member, stm_group *group)
{
    const size_t n_budgets = group->n_budgets, n_summaries = group->n_summaries;
    bool good = json_array_size(budgets) == n_budgets;
    for (size_t s = 0; good && s < n_budgets; s++) {
        const json_t *list = json_array_get(budgets, s);
        good = json_array_size(list) == n_summaries;
        for (size_t a = 0; good && a < n_summaries; a++) {
            good = json_is_number(json_array_get(list, a));
            group->scores[(member * n_budgets + s) * n_summaries + a] = json_number_value(json_array_get(list, a));
        }
    }
    return good ? STM_OK
                : stm_json_lines_fail(p->lines,
                                      "scores[%zu]: expected %zu budgets of %zu numbers, as the first member has",
                                      member, n_budgets, n_summaries);
}

/* What the responses say of members, budgets and summaries is among the scores. */
static stm_status check_parts(const stm_groups_parser *lines, const stm_group *group)
{
    stm_groups_parser p = *lines;
    for (p.i = 0; p.i < group->n_responses; p.i++) {
        const stm_response *r = &group->responses[p.i];
        const stm_response_notes *notes = r->notes;
        if (!notes)
            continue;
        const int64_t member = (int64_t)notes->member;
        STM_TRY(check_below(&p, "member", 1, &member, group->n_members, "scores"));
        STM_TRY(check_below(&p, "segment", r->n, notes->segment, group->n_budgets, "the budgets"));
        STM_TRY(check_below(&p, "answer", r->n, notes->answer, group->n_budgets * group->n_summaries, "the summaries"));
    }
    return STM_OK;
}

stm_status stm_groups_scores(const stm_groups_parser *p, const json_t *object, stm_group *group)
{
    const json_t *scores = stm_json_get(object, "scores");
    const json_t *responses = stm_json_get(object, "responses");
    const size_t n = json_array_size(scores);
    bool in_parts = false;
    for (size_t i = 0; i < group->n_responses; i++)
        in_parts = in_parts || stm_json_get(json_array_get(responses, i), "member");
    if (!scores && !in_parts)
        return STM_OK;
    for (size_t i = 0; in_parts && i < group->n_responses; i++)
        if (!stm_json_get(json_array_get(responses, i), "member"))
            return stm_json_lines_fail(p->lines,
                                       "responses[%zu].member: found nothing, expected a whole number, since "
                                       "others have one",
                                       i);
    group->n_members = n;
    group->n_budgets = json_array_size(json_array_get(scores, 0));
    group->n_summaries = json_array_size(json_array_get(json_array_get(scores, 0), 0));
    if (n == 0 || group->n_budgets == 0 || group->n_summaries == 0 || (!in_parts && n != group->n_responses))
        return stm_json_lines_fail(
            p->lines,
            "scores: found %zu members, expected one for each response, or for each \"member\" of "
            "responses, with a list of numbers for each budget",
            n);
    STM_TRY(stm_alloc(n * group->n_budgets * group->n_summaries, sizeof *group->scores, &group->scores));
    for (size_t m = 0; m < n; m++)
        STM_TRY(read_member_scores(p, json_array_get(scores, m), m, group));
    for (size_t i = 0; !in_parts && i < n; i++)
        if (group->responses[i].notes)
            group->responses[i].notes->member = i;
    return check_parts(p, group);
}
