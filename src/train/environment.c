#include "train/environment.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "data/service.h"

struct stm_environment {
    const stm_text_context *text;
    stm_service *service;
    const stm_prompts *prompts;
    const size_t *which;
    const char *use;
    size_t group_size;
    size_t first, next; /* numbers of the batch's first conversation, and of the next batch's */
    stm_partner partner;
    char complaint[512];
};

stm_status stm_environment_check(const stm_options *options, const stm_text_context *text)
{
    if (*options->rollout.environment && !text->tokenizer)
        return stm_fail(STM_ERR_INPUT,
                        "rollout.environment: found a command, expected none for a model without tokenizer.json");
    return STM_OK;
}

/* Keeps the first message; the reply is none. */
static void complain(stm_environment *e, stm_reply *reply, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void complain(stm_environment *e, stm_reply *reply, const char *format, ...)
{
    char text[sizeof e->complaint];
    va_list list;
    reply->failed = true;
    if (e->complaint[0])
        return;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    snprintf(e->complaint, sizeof e->complaint, "rollout.environment: %.480s", text);
}

/* Questions */

/* Takes over `value`; false when there is no memory. */
static bool set(json_t *object, const char *key, json_t *value)
{
    return json_object_set_new(object, key, value) == 0;
}

static stm_status make_question(stm_environment *e, const stm_turn *turn, json_t **question)
{
    const stm_prompt *prompt = &e->prompts->items[e->which ? e->which[turn->group] : turn->group];
    const stm_response *r = turn->response;
    const size_t number = e->first + turn->group * e->group_size + turn->rollout;
    char *said = NULL, *all = NULL;
    stm_status status;
    e->next = STM_MAX(e->next, number + 1);
    STM_GOTO_OUT(stm_tokenizer_decode(e->text->tokenizer, r->ids, r->n, true, &all, NULL));
    STM_GOTO_OUT(stm_tokenizer_decode(e->text->tokenizer, r->ids + turn->first, r->n - turn->first, true, &said, NULL));
    json_t *q = stm_service_question(prompt->prompt_text, all, prompt->answer, prompt->fields_json);
    *question = q;
    if (!q || !set(q, "conversation", json_integer((json_int_t)number)) || !set(q, "use", json_string(e->use)) ||
        !set(q, "turn", json_integer((json_int_t)turn->number)) || !set(q, "last", json_boolean(turn->last)) ||
        !set(q, "said", stm_service_text(said)))
        status = stm_fail(STM_ERR_MEMORY, "out of memory");
out:
    free(said);
    free(all);
    return status;
}

/* Answers */

static stm_status read_append(stm_environment *e, const json_t *append, stm_reply *reply)
{
    const stm_status status = stm_tokenizer_encode(e->text->tokenizer, json_string_value(append),
                                                   json_string_length(append), false, &reply->ids, &reply->n);
    if (status == STM_ERR_INPUT)
        complain(e, reply, "what it appends: %s", stm_failure());
    else if (status != STM_OK)
        return status;
    for (size_t k = 0; status == STM_OK && k < reply->n; k++)
        if ((size_t)reply->ids[k] >= e->text->vocab_size)
            complain(e, reply, "what it appends: found token %d, expected one below the model's vocabulary of %zu",
                     reply->ids[k], e->text->vocab_size);
    return STM_OK;
}

static void complain_of_form(stm_environment *e, const json_t *answer, stm_reply *reply)
{
    char *text = json_dumps(answer, JSON_ENSURE_ASCII);
    complain(e, reply, "answered %.200s, expected a text \"append\" or \"done\": true, and a finite number \"reward\"",
             text ? text : "");
    free(text);
}

/* answer: NULL: none came, and `why`. */
static stm_status read_answer(stm_environment *e, const stm_turn *turn, const json_t *answer, const char *why,
                              stm_reply *reply)
{
    const json_t *append = json_object_get(answer, "append"), *reward = json_object_get(answer, "reward");
    const json_t *done = json_object_get(answer, "done"), *error = json_object_get(answer, "error");
    reply->ends = json_is_true(done);
    reply->has_reward = json_is_number(reward) && isfinite(json_number_value(reward));
    reply->reward = reply->has_reward ? json_number_value(reward) : 0.0;
    const bool appends = json_is_string(append);
    if (!answer)
        complain(e, reply, "%s", why);
    else if (json_is_string(error))
        complain(e, reply, "%s", json_string_value(error));
    else if ((append && !appends) || (done && !json_is_boolean(done)) || (reward && !reply->has_reward) ||
             (reply->ends && appends) || (!reply->ends && !appends && !turn->last))
        complain_of_form(e, answer, reply);
    return appends && !reply->failed && !turn->last ? read_append(e, append, reply) : STM_OK;
}

static stm_status ask(stm_environment *e, size_t n, const stm_turn *turns, json_t **questions, json_t **answers,
                      stm_reply *replies)
{
    char why[400] = "";
    for (size_t i = 0; i < n; i++)
        STM_TRY(make_question(e, &turns[i], &questions[i]));
    const stm_status status = stm_service_ask(e->service, n, questions, answers);
    if (status == STM_ERR_IO)
        snprintf(why, sizeof why, "%s", stm_failure());
    else
        STM_TRY(status);
    for (size_t i = 0; i < n; i++)
        STM_TRY(read_answer(e, &turns[i], answers[i], why, &replies[i]));
    return STM_OK;
}

static stm_status reply_to(void *context, size_t n, const stm_turn *turns, stm_reply *replies)
{
    json_t **questions = NULL, **answers = NULL; /* [n] */
    stm_status status;
    STM_GOTO_OUT(stm_alloc(n, sizeof *questions, &questions));
    STM_GOTO_OUT(stm_alloc(n, sizeof *answers, &answers));
    STM_GOTO_OUT(ask(context, n, turns, questions, answers, replies));
out:
    stm_service_release(n, questions);
    stm_service_release(n, answers);
    return status;
}

stm_status stm_environment_create(const stm_options *options, const stm_text_context *text, stm_environment **out)
{
    stm_environment *e;
    *out = NULL;
    if (!*options->rollout.environment)
        return STM_OK;
    STM_TRY(stm_alloc(1, sizeof *e, &e));
    *e = (stm_environment){.text = text, .partner = {.reply = reply_to, .context = e}};
    const stm_status status =
        stm_service_create(options->rollout.environment, "turns", options->rollout.environment_timeout_s, &e->service);
    if (status == STM_OK)
        *out = e;
    else
        free(e);
    return status;
}

void stm_environment_destroy(stm_environment *environment)
{
    if (!environment)
        return;
    stm_service_destroy(environment->service);
    free(environment);
}

void stm_environment_join(stm_environment *e, const stm_prompts *prompts, const size_t *which, stm_sampling *sampling)
{
    if (!e)
        return;
    e->prompts = prompts;
    e->which = which;
    e->use = sampling->use == STM_RANDOM_TRAIN ? "train" : sampling->use == STM_RANDOM_EVAL ? "eval" : "generate";
    e->group_size = sampling->group_size;
    e->first = e->next;
    e->complaint[0] = 0;
    sampling->partner = &e->partner;
}

const char *stm_environment_complaint(const stm_environment *environment)
{
    return environment ? environment->complaint : "";
}
