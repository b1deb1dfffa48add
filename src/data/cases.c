#include "data/cases.h"

#include <stdlib.h>
#include <string.h>

#include "data/json_lines.h"

/* A group under way, and where it stands. */
typedef struct {
    const char *name;
    size_t g;
    const json_t *object;
    stm_group *group;
} reader;

static stm_status wrong(const reader *r, const char *key, size_t i, const json_t *value, const char *expected)
{
    stm_json_found_text found;
    return stm_fail(STM_ERR_INPUT, "%s[%zu].%s[%zu]: found %s, expected %s", r->name, r->g, key, i,
                    stm_json_found(value, found), expected);
}

/* The value of a key for response i; NULL where the key is absent or null. */
static stm_status get(const reader *r, const char *key, size_t i, const json_t **value)
{
    const json_t *all = stm_json_get(r->object, key);
    *value = json_array_get(all, i);
    if (all && json_array_size(all) != r->group->n_responses)
        return wrong(r, key, i, all, "a list with a value for each response");
    if (json_is_null(*value))
        *value = NULL;
    return STM_OK;
}

static stm_status get_number(const reader *r, const char *key, size_t i, bool *has, double *out)
{
    const json_t *value;
    STM_TRY(get(r, key, i, &value));
    *has = value != NULL;
    *out = json_is_boolean(value) ? json_is_true(value) : json_number_value(value);
    return !value || json_is_number(value) || json_is_boolean(value) ? STM_OK : wrong(r, key, i, value, "a number");
}

/* The list of response i, of any length: *out NULL where there is none. */
static stm_status get_list(const reader *r, const char *key, size_t i, double **out, size_t *n)
{
    const json_t *list;
    STM_TRY(get(r, key, i, &list));
    *n = json_array_size(list);
    if (!list)
        return STM_OK;
    if (!json_is_array(list))
        return wrong(r, key, i, list, "a list of numbers");
    STM_TRY(stm_alloc(*n, sizeof **out, out));
    for (size_t k = 0; k < *n; k++) {
        const json_t *value = json_array_get(list, k);
        if (!json_is_number(value))
            return wrong(r, key, i, value, "numbers alone");
        (*out)[k] = json_number_value(value);
    }
    return STM_OK;
}

/* One number for each token. */
static stm_status get_column(const reader *r, const char *key, size_t i, size_t n, double **out)
{
    size_t found;
    STM_TRY(get_list(r, key, i, out, &found));
    return !*out || found == n
               ? STM_OK
               : wrong(r, key, i, json_array_get(stm_json_get(r->object, key), i), "as many numbers as logp has");
}

static stm_status get_integers(const reader *r, const char *key, size_t i, size_t n, int64_t **out)
{
    double *column = NULL;
    stm_status status = get_column(r, key, i, n, &column);
    if (status == STM_OK && column)
        status = stm_alloc(n, sizeof **out, out);
    for (size_t k = 0; status == STM_OK && column && k < n; k++)
        (*out)[k] = (int64_t)column[k];
    free(column);
    return status;
}

static stm_status read_parts(const reader *r, size_t i, stm_response_notes *notes)
{
    const json_t *parts = stm_json_get(r->object, "reward_parts");
    notes->n_parts = json_array_size(parts);
    if (!parts)
        return STM_OK;
    STM_TRY(stm_alloc(notes->n_parts, sizeof(double), &notes->reward_parts));
    for (size_t k = 0; k < notes->n_parts; k++) {
        const json_t *value = json_array_get(json_array_get(parts, k), i);
        if (!json_is_number(value))
            return wrong(r, "reward_parts", k, value, "a number for each response");
        notes->reward_parts[k] = json_number_value(value);
    }
    return STM_OK;
}

static stm_status read_notes(const reader *r, size_t i, stm_response *response)
{
    double cluster, off;
    bool has_off;
    const json_t *origin;
    STM_TRY(stm_response_take_notes(response));
    stm_response_notes *notes = response->notes;
    STM_TRY(get_column(r, "sampler", i, response->n, &notes->sampler_logprobs));
    STM_TRY(get_column(r, "twin", i, response->n, &notes->twin_logprobs));
    STM_TRY(get_column(r, "target", i, response->n, &notes->target_logprobs));
    STM_TRY(get_column(r, "token_weights", i, response->n, &notes->token_weights));
    STM_TRY(get_integers(r, "segment", i, response->n, &notes->segment));
    STM_TRY(get_integers(r, "answer", i, response->n, &notes->answer));
    STM_TRY(get_integers(r, "step", i, response->n, &notes->step));
    STM_TRY(get_list(r, "step_advantage", i, &notes->step_advantages, &notes->n_steps));
    STM_TRY(get_number(r, "clusters", i, &notes->has_cluster, &cluster));
    STM_TRY(get_number(r, "off_policy", i, &has_off, &off));
    notes->cluster = (int64_t)cluster;
    notes->off_policy = off != 0;
    STM_TRY(get(r, "origin", i, &origin));
    if (origin && !json_is_string(origin))
        return wrong(r, "origin", i, origin, "a text");
    notes->other_origin = origin && strcmp(json_string_value(origin), "policy") != 0;
    return read_parts(r, i, notes);
}

static stm_status read_response(const reader *r, size_t i, double **logp, stm_response *response)
{
    double *mask = NULL;
    STM_TRY(get_list(r, "logp", i, logp, &response->n));
    if (!*logp)
        return wrong(r, "logp", i, NULL, "a list of numbers");
    STM_TRY(stm_alloc(response->n, 1, &response->mask));
    stm_status status = get_column(r, "mask", i, response->n, &mask);
    for (size_t k = 0; status == STM_OK && k < response->n; k++)
        response->mask[k] = !mask || mask[k] != 0;
    free(mask);
    STM_TRY(status);
    STM_TRY(get_column(r, "old", i, response->n, &response->old_logprobs));
    STM_TRY(get_column(r, "ref", i, response->n, &response->ref_logprobs));
    STM_TRY(get_number(r, "rewards", i, &response->has_reward, &response->reward));
    return read_notes(r, i, response);
}

/* [n_responses][n_budgets][n_summaries], all of one size. */
static stm_status read_scores(const reader *r)
{
    const json_t *scores = stm_json_get(r->object, "scores");
    stm_group *group = r->group;
    if (!scores)
        return STM_OK;
    group->n_budgets = json_array_size(json_array_get(scores, 0));
    group->n_summaries = json_array_size(json_array_get(json_array_get(scores, 0), 0));
    const size_t n = group->n_budgets * group->n_summaries;
    STM_TRY(stm_alloc(group->n_responses * n, sizeof(double), &group->scores));
    for (size_t i = 0; i < group->n_responses; i++)
        for (size_t k = 0; k < n; k++) {
            const json_t *value = json_array_get(json_array_get(json_array_get(scores, i), k / group->n_summaries),
                                                 k % group->n_summaries);
            if (!json_is_number(value))
                return wrong(r, "scores", i, value, "a number for each budget and summary");
            group->scores[i * n + k] = json_number_value(value);
        }
    return STM_OK;
}

/* [n_responses][n_responses] */
static stm_status read_preferences(const reader *r)
{
    const json_t *rows = stm_json_get(r->object, "pref");
    const size_t n = r->group->n_responses;
    if (!rows)
        return STM_OK;
    STM_TRY(stm_alloc(n * n, sizeof(double), &r->group->preferences));
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            const json_t *value = json_array_get(json_array_get(rows, i), j);
            if (!json_is_number(value))
                return wrong(r, "pref", i, value, "a number for each two responses");
            r->group->preferences[i * n + j] = json_number_value(value);
        }
    return STM_OK;
}

/* What has been read counts at once, so that stm_batch_clear frees it after a failure. */
static stm_status read_group(const reader *r, double **logp, size_t *n_tokens, size_t *capacity)
{
    const json_t *responses = stm_json_get(r->object, "logp");
    const size_t n = json_array_size(responses);
    if (n == 0)
        return stm_fail(STM_ERR_INPUT, "%s[%zu].logp: expected a list for each response", r->name, r->g);
    STM_TRY(stm_alloc(n, sizeof *r->group->responses, &r->group->responses));
    r->group->n_responses = n;
    r->group->temperature = 1.0;
    for (size_t i = 0; i < n; i++) {
        double *own = NULL;
        stm_response *response = &r->group->responses[i];
        stm_status status = read_response(r, i, &own, response);
        if (status == STM_OK)
            status = stm_reserve(logp, capacity, *n_tokens + response->n + 1, sizeof **logp);
        for (size_t k = 0; status == STM_OK && k < response->n; k++)
            (*logp)[(*n_tokens)++] = own[k];
        free(own);
        STM_TRY(status);
    }
    STM_TRY(read_preferences(r));
    return read_scores(r);
}

stm_status stm_case_read(const json_t *document, const json_t *one, stm_batch *batch, double **logp)
{
    const char *input = json_string_value(json_object_get(one, "input"));
    const json_t *list = json_object_get(one, "groups"), *inputs = json_object_get(document, "inputs");
    const json_t *groups = input ? json_object_get(json_object_get(inputs, input), "groups") : list;
    const size_t n = json_array_size(groups);
    size_t n_tokens = 0, capacity = 0;
    *batch = (stm_batch){0};
    *logp = NULL;
    if (n == 0)
        return stm_fail(STM_ERR_INPUT, "%s: expected the name of groups of this file", input ? "input" : "groups");
    STM_TRY(stm_alloc(n, sizeof *batch->groups, &batch->groups));
    batch->n_groups = n;
    for (size_t g = 0; g < n; g++) {
        const json_t *object = json_array_get(groups, g);
        const char *name = json_string_value(object);
        if (!input)
            object = name ? json_object_get(json_object_get(document, "groups"), name) : NULL;
        const reader r = {input ? input : "groups", g, object, &batch->groups[g]};
        if (!json_is_object(object))
            return stm_fail(STM_ERR_INPUT, "%s[%zu]: found no group of the name %s", r.name, g, name ? name : "(none)");
        STM_TRY(read_group(&r, logp, &n_tokens, &capacity));
    }
    return STM_OK;
}
