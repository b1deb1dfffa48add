#include "train/refine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/service.h"
#include "objective/objective.h"

stm_status stm_refine_check(const stm_options *o, const stm_text_context *text)
{
    static const char key[] = "rollout.refine: found true";
    if (!o->rollout.refine)
        return STM_OK;
    if (!text->tokenizer)
        return stm_fail(STM_ERR_INPUT, "%s, expected false for a model without tokenizer.json", key);
    if (strcmp(o->objective.name, "grpo") != 0)
        return stm_fail(STM_ERR_INPUT, "%s, expected false with objective.name=%s, which knows no off-policy responses",
                        key, o->objective.name);
    if (stm_objective_find(o->objective.name)->needs(&o->objective) & STM_NEEDS_OLD)
        return stm_fail(STM_ERR_INPUT,
                        "%s, expected false: these options of the objective read old log-probs of "
                        "every response, which a refinement has not",
                        key);
    return STM_OK;
}

size_t stm_refine_choose(size_t n, const double *rewards, double right)
{
    size_t best = n;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(rewards[i]))
            continue;
        if (rewards[i] >= right)
            return i;
        if (best == n || rewards[i] > rewards[best])
            best = i;
    }
    return best;
}

stm_status stm_refine_fill(const char *text, const char *critique, const char *answer, char **out)
{
    const struct {
        const char *name, *value;
    } places[] = {{"{critique}", critique}, {"{answer}", answer ? answer : ""}};
    stm_string filled = {0};
    stm_status status = STM_OK;
    for (const char *at = text; *at;) {
        size_t i = 0;
        while (i < 2 && strncmp(at, places[i].name, strlen(places[i].name)) != 0)
            i++;
        if (i < 2)
            STM_GOTO_OUT(stm_string_add_text(&filled, places[i].value));
        else
            STM_GOTO_OUT(stm_string_add(&filled, at, 1));
        at += i < 2 ? strlen(places[i].name) : 1;
    }
    STM_GOTO_OUT(stm_string_end(&filled));
    *out = filled.bytes;
    return STM_OK;
out:
    free(filled.bytes);
    return status;
}

/* Prompts, on rank 0 */

typedef struct {
    const stm_policy *policy;
    const stm_sampling *sampling;
    stm_json_lines lines; /* of the prompt under way, for messages */
    stm_batch batch;
    size_t *owners, n_room, n_owners_room;
} maker;

/* What the user says next, with the reward's critique, or (NULL) whether the answer is right. */
static stm_status say(const stm_options *o, const char *answer, bool right, const char *critique, char **text)
{
    char *verdict = NULL;
    if (critique)
        return stm_refine_fill(o->rollout.refine_text, critique, answer, text);
    STM_TRY(stm_refine_fill(right ? o->rollout.refine_praise : o->rollout.refine_blame, "", answer, &verdict));
    const stm_status status = stm_refine_fill(o->rollout.refine_text, verdict, answer, text);
    free(verdict);
    return status;
}

static stm_status encode_turn(const maker *m, json_t *messages, const char *answer, const char *said, int32_t **ids,
                              size_t *n)
{
    json_t *turns = json_deep_copy(messages);
    json_t *assistant = json_pack("{s:s, s:o}", "role", "assistant", "content", stm_service_text(answer));
    json_t *user = json_pack("{s:s, s:o}", "role", "user", "content", stm_service_text(said));
    stm_status status = STM_OK;
    if (json_array_append_new(turns, assistant) != 0 || json_array_append_new(turns, user) != 0)
        status = stm_fail(STM_ERR_MEMORY, "out of memory");
    if (status == STM_OK)
        status = stm_context_messages(m->policy->text, &m->lines, turns, ids, n);
    json_decref(turns);
    return status;
}

static bool ends(const stm_sampling *sampling, int32_t id)
{
    for (size_t i = 0; i < sampling->n_end; i++)
        if (sampling->end[i] == id)
            return true;
    return false;
}

/* Of a line of its own. */
static stm_status encode_said(const stm_text_context *text, const stm_json_lines *lines, const char *said,
                              int32_t **ids, size_t *n)
{
    char *line;
    STM_TRY(stm_format(&line, "\n%s\n", said));
    const stm_status status = stm_context_encode(text, lines, "rollout.refine_text", line, strlen(line), false, ids, n);
    free(line);
    return status;
}

/* Prompt and answer as they were sampled, without the end token, so that their rows are shared; then the text. */
static stm_status encode_text(const maker *m, const stm_group *group, const stm_response *r, const char *said,
                              int32_t **ids, size_t *n)
{
    int32_t *tail;
    size_t n_tail, n_answer = r->n > 0 && ends(m->sampling, r->ids[r->n - 1]) ? r->n - 1 : r->n;
    STM_TRY(encode_said(m->policy->text, &m->lines, said, &tail, &n_tail));
    *n = group->n_prompt + n_answer + n_tail;
    const stm_status status = stm_alloc(*n, sizeof **ids, ids);
    if (status == STM_OK) {
        memcpy(*ids, group->prompt, group->n_prompt * sizeof **ids);
        if (n_answer > 0)
            memcpy(*ids + group->n_prompt, r->ids, n_answer * sizeof **ids);
        if (n_tail > 0)
            memcpy(*ids + group->n_prompt + n_answer, tail, n_tail * sizeof **ids);
    }
    free(tail);
    return status;
}

/* Takes over ids; a prompt without room for an answer is left out. */
static stm_status add_prompt(maker *m, size_t owner, int32_t *ids, size_t n)
{
    if (n + m->sampling->max_new_tokens > m->policy->text->max_positions) {
        free(ids);
        return STM_OK;
    }
    stm_status status = stm_reserve(&m->owners, &m->n_owners_room, m->batch.n_groups + 1, sizeof *m->owners);
    if (status == STM_OK)
        status = stm_reserve(&m->batch.groups, &m->n_room, m->batch.n_groups + 1, sizeof *m->batch.groups);
    if (status != STM_OK) {
        free(ids);
        return status;
    }
    m->owners[m->batch.n_groups] = owner;
    m->batch.groups[m->batch.n_groups++] = (stm_group){.n_prompt = n, .prompt = ids, .temperature = 1.0};
    return STM_OK;
}

static stm_status add_group(maker *m, const stm_prompt *prompt, const stm_round *round, size_t g, size_t at)
{
    const stm_options *o = m->policy->options;
    const stm_group *group = &round->batch.groups[g];
    json_t *fields = json_loads(prompt->fields_json, 0, NULL), *messages = json_object_get(fields, "messages");
    const bool talks = messages && !stm_json_get(fields, "prompt_ids") && !stm_json_get(fields, "prompt");
    stm_status status = STM_OK;
    m->lines.line = prompt->line;
    for (size_t i = 0; status == STM_OK && i < group->n_responses; i++) {
        const stm_response *r = &group->responses[i];
        char *said = NULL;
        int32_t *ids;
        size_t n;
        if (!r->has_reward)
            continue;
        STM_GOTO_OUT(
            say(o, prompt->answer, r->reward >= o->rollout.refine_right, round->verdicts.critiques[at + i], &said));
        status = talks ? encode_turn(m, messages, round->verdicts.texts[at + i], said, &ids, &n)
                       : encode_text(m, group, r, said, &ids, &n);
        free(said);
        if (status == STM_OK)
            status = add_prompt(m, g, ids, n);
    }
out:
    json_decref(fields);
    return status;
}

static stm_status make(maker *m, const stm_prompt_set *set, const stm_round *round)
{
    for (size_t g = 0, at = 0; g < round->n; at += round->batch.groups[g++].n_responses)
        STM_TRY(add_group(m, &set->prompts.items[round->which[g]], round, g, at));
    return STM_OK;
}

/* Rank 0's batch and owners to the others. Collective. */
static stm_status share(const stm_grid *grid, maker *m)
{
    char *bytes = NULL;
    size_t n = 0;
    stm_status status;
    STM_GOTO_OUT(stm_agree(grid, grid->rank == 0 ? stm_batch_pack(&m->batch, &bytes, &n) : STM_OK));
    stm_broadcast(grid->world, 0, &n, sizeof n);
    STM_GOTO_OUT(stm_agree(grid, grid->rank == 0 ? STM_OK : stm_alloc(n, 1, &bytes)));
    stm_broadcast(grid->world, 0, bytes, n);
    STM_GOTO_OUT(stm_agree(grid, grid->rank == 0 ? STM_OK : stm_batch_unpack(bytes, n, &m->batch)));
    n = m->batch.n_groups;
    STM_GOTO_OUT(stm_agree(grid, grid->rank == 0 ? STM_OK : stm_alloc(n, sizeof *m->owners, &m->owners)));
    stm_broadcast(grid->world, 0, m->owners, n * sizeof *m->owners);
out:
    free(bytes);
    return status;
}

stm_status stm_refine_prompts(const stm_policy *policy, const stm_prompt_set *set, const stm_sampling *sampling,
                              const stm_round *round, stm_batch *batch, size_t **owners)
{
    const stm_grid *grid = policy->grid;
    maker m = {.policy = policy, .sampling = sampling, .lines = {.name = set->path}};
    stm_status status = stm_agree(grid, grid->rank == 0 ? make(&m, set, round) : STM_OK);
    if (status == STM_OK)
        status = share(grid, &m);
    *batch = m.batch;
    *owners = m.owners;
    return status;
}

/* Memory */

static stm_status count_said(const stm_text_context *text, const char *said, size_t *n)
{
    const stm_json_lines lines = {.name = "rollout.refine_text"};
    int32_t *ids;
    if (!text->tokenizer) {
        *n = strlen(said) + sizeof "\n\n";
        return STM_OK;
    }
    STM_TRY(encode_said(text, &lines, said, &ids, n));
    free(ids);
    return STM_OK;
}

stm_status stm_refine_most_said(const stm_options *o, const stm_text_context *text, const stm_prompts *prompts,
                                size_t *most)
{
    const char *answer = "";
    *most = 0;
    for (size_t i = 0; o->rollout.refine && prompts && i < prompts->n; i++)
        if (prompts->items[i].answer && strlen(prompts->items[i].answer) > strlen(answer))
            answer = prompts->items[i].answer;
    for (int right = 0; o->rollout.refine && right < 2; right++) {
        char *said;
        size_t n = 0;
        STM_TRY(say(o, answer, right, NULL, &said));
        const stm_status status = count_said(text, said, &n);
        free(said);
        STM_TRY(status);
        *most = STM_MAX(*most, n);
    }
    return STM_OK;
}

stm_status stm_refine_expect(const stm_policy *p, const stm_sampling *sampling, const stm_batch *batch)
{
    const size_t n_new = sampling->max_new_tokens, most = p->model->config.max_positions;
    stm_batch next = {0};
    stm_sampling second = *sampling;
    second.group_size = 1;
    stm_status status = stm_agree(p->grid, stm_batch_continue_prompts(batch, sampling->group_size, n_new + p->most_said,
                                                                      most > n_new ? most - n_new : 0, &next));
    if (status == STM_OK)
        status = stm_rollout_expect_turn(p->engine, p->model, p->grid, &second, &next);
    stm_batch_clear(&next);
    return status;
}

/* Joining */

static stm_status join_group(stm_response *refined, stm_group *group)
{
    STM_TRY(stm_response_take_notes(refined));
    STM_TRY(stm_resize(&group->responses, group->n_responses + 1, sizeof *group->responses));
    memmove(group->responses + 1, group->responses, group->n_responses++ * sizeof *group->responses);
    group->responses[0] = *refined;
    *refined = (stm_response){0};
    stm_response *r = &group->responses[0];
    r->notes->off_policy = true;
    free(r->old_logprobs); /* below another prompt */
    free(r->kept_mass);
    r->old_logprobs = r->kept_mass = NULL;
    return STM_OK;
}

/* Moves one verdict; texts are on rank 0. */
static void move_verdict(stm_verdicts *from, size_t i, stm_verdicts *to, size_t k)
{
    to->total[k] = from->total[i];
    memcpy(to->parts + k * to->n_rewards, from->parts + i * from->n_rewards, to->n_rewards * sizeof *to->parts);
    if (!to->texts)
        return;
    to->texts[k] = from->texts[i];
    to->critiques[k] = from->critiques[i];
    from->texts[i] = from->critiques[i] = NULL;
}

static stm_status make_room(const stm_verdicts *like, size_t n_more, stm_verdicts *v)
{
    *v = *like;
    v->n = like->n + n_more;
    v->total = v->parts = NULL;
    v->texts = v->critiques = NULL;
    STM_TRY(stm_alloc(v->n, sizeof *v->total, &v->total));
    STM_TRY(stm_alloc(v->n * v->n_rewards, sizeof *v->parts, &v->parts));
    if (!like->texts)
        return STM_OK;
    STM_TRY(stm_alloc(v->n, sizeof *v->texts, &v->texts));
    return stm_alloc(v->n, sizeof *v->critiques, &v->critiques);
}

/* The chosen refinement of group g among those from `first` on, which are its own up to `end`; end: none. */
static size_t choose(double right, const stm_round *refined, size_t first, size_t end)
{
    return first + stm_refine_choose(end - first, refined->verdicts.total + first, right);
}

stm_status stm_refine_join(double right, const size_t *owners, stm_round *refined, stm_round *round, size_t *n)
{
    stm_verdicts joined;
    *n = 0;
    stm_status status = make_room(&round->verdicts, round->n, &joined);
    size_t first = 0, from = 0, to = 0;
    for (size_t g = 0; status == STM_OK && g < round->n; g++) {
        size_t end = first;
        while (end < refined->n && owners[end] == g)
            end++;
        const size_t chosen = choose(right, refined, first, end), n_own = round->batch.groups[g].n_responses;
        if (chosen < end) {
            status = join_group(&refined->batch.groups[chosen].responses[0], &round->batch.groups[g]);
            move_verdict(&refined->verdicts, chosen, &joined, to++);
            ++*n;
        }
        for (size_t i = 0; i < n_own; i++)
            move_verdict(&round->verdicts, from++, &joined, to++);
        first = end;
    }
    joined.n = to;
    stm_verdicts_clear(&round->verdicts);
    round->verdicts = joined;
    return status;
}
