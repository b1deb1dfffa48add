#include "data/prompts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "data/thoughts.h"

struct stm_prompt_order {
    bool known;
    uint64_t seed, epoch;
    size_t order[]; /* [n] */
};

static void clear_prompt(stm_prompt *prompt)
{
    free(prompt->ids);
    free(prompt->response);
    free(prompt->thoughtless);
    free(prompt->prompt_text);
    free(prompt->answer);
    free(prompt->fields_json);
    *prompt = (stm_prompt){0};
}

static stm_status make_order(stm_prompts *prompts)
{
    return stm_alloc(1, sizeof *prompts->order + prompts->n * sizeof(size_t), &prompts->order);
}

stm_status stm_prompts_select(const stm_prompts *prompts, const size_t *which, size_t n, stm_prompts *out)
{
    *out = (stm_prompts){.n = n};
    stm_status status = stm_alloc(n, sizeof *out->items, &out->items);
    if (status == STM_OK)
        status = make_order(out);
    for (size_t i = 0; status == STM_OK && i < n; i++)
        out->items[i] = prompts->items[which[i]];
    if (status != STM_OK)
        stm_prompts_unselect(out);
    return status;
}

void stm_prompts_unselect(stm_prompts *selection)
{
    free(selection->items);
    free(selection->order);
    *selection = (stm_prompts){0};
}

void stm_prompts_clear(stm_prompts *prompts)
{
    for (size_t i = 0; i < prompts->n; i++)
        clear_prompt(&prompts->items[i]);
    free(prompts->items);
    free(prompts->order);
    *prompts = (stm_prompts){0};
}

/* The file under way. */
typedef struct {
    const stm_text_context *context;
    const stm_prompts_use *use;
    stm_json_lines lines; /* those of the whole text, or of a share */
    int32_t bos;          /* that the tokenizer puts before a text; -1: none */
} parser;

static stm_status copy_text(const char *text, size_t n, char **out)
{
    STM_TRY(stm_alloc(n + 1, 1, out));
    memcpy(*out, text, n);
    return STM_OK;
}

/* Rewards compare texts: a number stands for its shortest spelling. Arrays and objects are left to rewards that read
 * the whole line. */
static stm_status read_answer(const parser *p, const json_t *object, stm_prompt *prompt)
{
    stm_json_found_text found;
    char number[32];
    const json_t *value = stm_json_get(object, "answer");
    if (value && json_is_string(value))
        return copy_text(json_string_value(value), json_string_length(value), &prompt->answer);
    if (value && json_is_real(value)) {
        stm_json_real_text(json_real_value(value), number);
        return copy_text(number, strlen(number), &prompt->answer);
    }
    if (value && (json_is_integer(value) || json_is_boolean(value))) {
        const char *text = stm_json_found(value, found);
        return copy_text(text, strlen(text), &prompt->answer);
    }
    if (p->use->needs_answer)
        return stm_json_lines_fail(&p->lines, "answer: found %s, expected text or a number, which a reward reads",
                                   stm_json_found(value, found));
    return STM_OK;
}

static stm_status add_end(const parser *p, int32_t **ids, size_t *n)
{
    if (p->use->end_token < 0)
        return STM_OK;
    STM_TRY(stm_resize(ids, *n + 1, sizeof **ids));
    (*ids)[(*n)++] = p->use->end_token;
    return STM_OK;
}

static stm_status read_thoughtless(const parser *p, const char *response, stm_prompt *prompt)
{
    char *text;
    STM_TRY(stm_thought_empty(response, p->use->thought_begin, p->use->thought_end, &text));
    if (!text)
        return STM_OK;
    const stm_status status = stm_context_encode(p->context, &p->lines, "response", text, strlen(text), false,
                                                 &prompt->thoughtless, &prompt->n_thoughtless);
    free(text);
    return status == STM_OK ? add_end(p, &prompt->thoughtless, &prompt->n_thoughtless) : status;
}

static stm_status read_response(const parser *p, const json_t *object, stm_prompt *prompt)
{
    stm_json_found_text found;
    if (!p->use->needs_response)
        return STM_OK;
    const json_t *value = stm_json_get(object, "response");
    if (!json_is_string(value))
        return stm_json_lines_fail(&p->lines, "response: found %s, expected text to learn from",
                                   stm_json_found(value, found));
    STM_TRY(stm_context_text(p->context, &p->lines, "response", value, &prompt->response, &prompt->n_response));
    prompt->has_response = true;
    STM_TRY(add_end(p, &prompt->response, &prompt->n_response));
    return p->use->thought_begin ? read_thoughtless(p, json_string_value(value), prompt) : STM_OK;
}

static stm_status read_text(const parser *p, const json_t *object, stm_prompt_kind kind, stm_prompt *prompt)
{
    const json_t *value = json_object_get(object, "prompt");
    if (kind == STM_PROMPT_TEXT)
        return copy_text(json_string_value(value), json_string_length(value), &prompt->prompt_text);
    if (!p->context->tokenizer)
        return copy_text("", 0, &prompt->prompt_text);
    return stm_tokenizer_decode(p->context->tokenizer, prompt->ids, prompt->n, true, &prompt->prompt_text, NULL);
}

/* Keeps the last `most` tokens, of which the first is the BOS where there was one. */
static void truncate_left(const parser *p, stm_prompt_kind kind, size_t most, stm_prompt *prompt)
{
    const bool bos = kind != STM_PROMPT_IDS && p->bos >= 0 && prompt->ids[0] == p->bos && most > 1;
    const size_t kept = most - bos;
    memmove(prompt->ids + bos, prompt->ids + prompt->n - kept, kept * sizeof *prompt->ids);
    prompt->n = most;
}

/* Room for the prompt, by the positions and by the option; *why tells which. */
static size_t room_for(const parser *p, const stm_prompt *prompt, char why[96])
{
    const size_t positions = p->context->max_positions;
    const size_t after =
        p->use->needs_response ? STM_MAX(prompt->n_response, prompt->n_thoughtless) : p->use->max_new_tokens;
    const size_t room = positions > after ? positions - after : 0;
    if (p->use->max_prompt_tokens && p->use->max_prompt_tokens <= room) {
        snprintf(why, 96, "data.max_prompt_tokens");
        return p->use->max_prompt_tokens;
    }
    snprintf(why, 96, "the model's %zu positions less %zu for the response", positions, after);
    return room;
}

/* Applies the overlong policy; *keep says whether the prompt stays. */
static stm_status fit(const parser *p, stm_prompt_kind kind, stm_prompt *prompt, stm_prompts *prompts, bool *keep)
{
    char why[96];
    const size_t most = room_for(p, prompt, why);
    *keep = prompt->n <= most;
    if (*keep)
        return STM_OK;
    if (p->use->overlong == STM_OVERLONG_SKIP) {
        prompts->n_skipped++;
        return STM_OK;
    }
    if (p->use->overlong == STM_OVERLONG_ERROR || most == 0)
        return stm_json_lines_fail(&p->lines, "prompt: found %zu tokens, expected at most %zu: %s%s", prompt->n, most,
                                   why, most ? " (data.overlong can be skip or truncate-left)" : "");
    truncate_left(p, kind, most, prompt);
    prompts->n_truncated++;
    *keep = true;
    return STM_OK;
}

static stm_status read_prompt(const parser *p, const json_t *object, stm_prompts *prompts, stm_prompt *prompt,
                              bool *keep)
{
    stm_prompt_kind kind;
    prompt->line = p->lines.line;
    STM_TRY(stm_context_prompt(p->context, &p->lines, object, &kind, &prompt->ids, &prompt->n));
    STM_TRY(read_answer(p, object, prompt));
    STM_TRY(read_response(p, object, prompt));
    STM_TRY(fit(p, kind, prompt, prompts, keep));
    STM_TRY(read_text(p, object, kind, prompt));
    return copy_text(p->lines.line_text, p->lines.n_line, &prompt->fields_json);
}

/* Lines that a thread reads, and what they give. */
typedef struct {
    stm_json_share lines;
    stm_prompts found;
    size_t capacity;   /* of found.items */
    stm_status status; /* of its first bad line */
    char *failure;     /* that line's message, for messages are kept by thread; NULL: none, or no memory for it */
} share;

static stm_status add_prompt(const parser *p, const json_t *object, share *s)
{
    bool keep = false;
    STM_TRY(stm_reserve(&s->found.items, &s->capacity, s->found.n + 1, sizeof *s->found.items));
    stm_prompt *prompt = &s->found.items[s->found.n];
    *prompt = (stm_prompt){0};
    const stm_status status = read_prompt(p, object, &s->found, prompt, &keep);
    if (status == STM_OK && keep)
        s->found.n++;
    else
        clear_prompt(prompt);
    return status;
}

static stm_status read_share(const parser *whole, share *s)
{
    parser p = *whole;
    p.lines.position = s->lines.start;
    p.lines.n = s->lines.end;
    p.lines.line = s->lines.line;
    for (;;) {
        json_t *object;
        STM_TRY(stm_json_lines_next(&p.lines, &object));
        if (!object)
            return STM_OK;
        const stm_status status = add_prompt(&p, object, s);
        json_decref(object);
        STM_TRY(status);
    }
}

static stm_status cut(const parser *p, share **shares, size_t *n)
{
    size_t capacity = 0, line = 0;
    for (size_t start = 0; start < p->lines.n; start = (*shares)[(*n)++].lines.end) {
        const stm_json_share lines = stm_json_share_at(p->lines.text, p->lines.n, start, line);
        STM_TRY(stm_reserve(shares, &capacity, *n + 1, sizeof **shares));
        (*shares)[*n] = (share){.lines = lines};
        line += lines.n_lines;
    }
    return STM_OK;
}

static void read_shares(const parser *p, share *shares, size_t n)
{
#pragma omp parallel for schedule(dynamic, 1)
    for (size_t i = 0; i < n; i++) {
        share *s = &shares[i];
        s->status = read_share(p, s);
        s->failure = s->status == STM_OK ? NULL : strdup(stm_failure());
    }
}

/* Moves the shares' prompts, in order, up to the first share that failed, whose failure it returns. */
static stm_status join(share *shares, size_t n, stm_prompts *prompts)
{
    size_t n_prompts = 0;
    for (size_t i = 0; i < n; i++) {
        if (shares[i].status != STM_OK)
            return stm_fail(shares[i].status, "%s", shares[i].failure ? shares[i].failure : "out of memory");
        n_prompts += shares[i].found.n;
    }
    STM_TRY(stm_alloc(n_prompts, sizeof *prompts->items, &prompts->items));
    for (size_t i = 0; i < n; i++) {
        stm_prompts *found = &shares[i].found;
        if (found->n > 0)
            memcpy(prompts->items + prompts->n, found->items, found->n * sizeof *found->items);
        prompts->n += found->n;
        prompts->n_skipped += found->n_skipped;
        prompts->n_truncated += found->n_truncated;
        found->n = 0;
    }
    return STM_OK;
}

static stm_status read_lines(const parser *p, stm_prompts *prompts)
{
    share *shares = NULL;
    size_t n = 0;
    stm_status status = cut(p, &shares, &n);
    if (status == STM_OK) {
        read_shares(p, shares, n);
        status = join(shares, n, prompts);
    }
    for (size_t i = 0; i < n; i++) {
        stm_prompts_clear(&shares[i].found);
        free(shares[i].failure);
    }
    free(shares);
    return status;
}

static stm_status read_prompts(const parser *p, stm_prompts *prompts)
{
    STM_TRY(read_lines(p, prompts));
    if (prompts->n == 0 && prompts->n_skipped)
        return stm_fail(STM_ERR_INPUT, "%s: all %zu prompts were too long and skipped, expected at least one that fits",
                        p->lines.name, prompts->n_skipped);
    if (prompts->n == 0)
        return stm_fail(STM_ERR_INPUT, "%s: found no prompt, expected one on each line", p->lines.name);
    return make_order(prompts);
}

static stm_status check_use(const stm_text_context *context, const stm_prompts_use *use)
{
    if (!use->needs_response && use->max_new_tokens >= context->max_positions)
        return stm_fail(STM_ERR_INPUT,
                        "rollout.max_new_tokens%s: found %zu, expected less than the model's %zu positions, which must "
                        "hold a prompt too",
                        use->has_environment ? " and max_environment_tokens" : "", use->max_new_tokens,
                        context->max_positions);
    return STM_OK;
}

/* What the tokenizer puts before an empty text, else what its configuration names. */
static stm_status find_bos(const stm_text_context *context, int32_t *bos)
{
    int32_t *ids;
    size_t n;
    *bos = -1;
    if (!context->tokenizer)
        return STM_OK;
    STM_TRY(stm_tokenizer_encode(context->tokenizer, "", 0, true, &ids, &n));
    *bos = n ? ids[0] : stm_tokenizer_bos(context->tokenizer);
    free(ids);
    return STM_OK;
}

stm_status stm_prompts_read(const char *name, const char *text, size_t n, const stm_text_context *context,
                            const stm_prompts_use *use, stm_prompts *out)
{
    parser p = {context, use, {.name = name, .text = text, .n = n}, -1};
    stm_prompts prompts = {0};
    STM_TRY(check_use(context, use));
    STM_TRY(find_bos(context, &p.bos));
    const stm_status status = read_prompts(&p, &prompts);
    if (status == STM_OK)
        *out = prompts;
    else
        stm_prompts_clear(&prompts);
    return status;
}

stm_status stm_prompts_of_groups(const stm_batch *groups, stm_prompts *out)
{
    *out = (stm_prompts){0};
    STM_TRY(stm_alloc(groups->n_groups, sizeof *out->items, &out->items));
    for (; out->n < groups->n_groups; out->n++) {
        const stm_group *group = &groups->groups[out->n];
        stm_prompt *prompt = &out->items[out->n];
        STM_TRY(stm_alloc(group->n_prompt, sizeof *prompt->ids, &prompt->ids));
        memcpy(prompt->ids, group->prompt, group->n_prompt * sizeof *prompt->ids);
        prompt->n = group->n_prompt;
    }
    return make_order(out);
}

size_t stm_prompt_at(const stm_prompts *prompts, uint64_t seed, bool shuffle, uint64_t position)
{
    const uint64_t epoch = position / prompts->n;
    const size_t place = (size_t)(position % prompts->n);
    stm_prompt_order *order = prompts->order;
    if (!shuffle)
        return place;
    if (!order->known || order->seed != seed || order->epoch != epoch) {
        stm_random_permutation(seed, epoch, prompts->n, order->order);
        order->known = true;
        order->seed = seed;
        order->epoch = epoch;
    }
    return order->order[place];
}
