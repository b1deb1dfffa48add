#include "data/service.h"

#include <stdlib.h>
#include <string.h>

#include "base/helper.h"

enum { ANSWER_BYTES = 1 << 16 }; /* of each answer, at most, on average */
enum { TRIES = 2 };
static const double PATIENCE_S = 1.0; /* to end by itself when its stdin ends */

struct stm_service {
    const char *command, *key;
    double timeout_s;
    size_t server;    /* base/helper.h */
    json_int_t first; /* id of the first question of the next batch */
};

stm_status stm_service_create(const char *command, const char *key, double timeout_s, stm_service **out)
{
    STM_TRY(stm_alloc(1, sizeof **out, out));
    **out = (stm_service){
        .command = command, .key = key, .timeout_s = timeout_s, .server = stm_helper_server(), .first = 1};
    return STM_OK;
}

void stm_service_destroy(stm_service *service)
{
    if (service && service->first > 1)
        stm_helper_stop(service->server, PATIENCE_S);
    free(service);
}

json_t *stm_service_text(const char *text)
{
    json_t *string = json_string(text);
    char *copy = string ? NULL : strdup(text);
    if (!copy)
        return string;
    for (char *c = copy; *c; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    string = json_string(copy);
    free(copy);
    return string;
}

json_t *stm_service_question(const char *prompt, const char *response, const char *answer, const char *fields_json)
{
    json_t *object = json_object();
    json_t *fields = fields_json ? json_loads(fields_json, 0, NULL) : NULL;
    bool good = object && json_object_set_new(object, "prompt", stm_service_text(prompt)) == 0 &&
                json_object_set_new(object, "response", stm_service_text(response)) == 0;
    if (good && answer)
        good = json_object_set_new(object, "answer", stm_service_text(answer)) == 0;
    if (good && json_is_object(fields))
        good = json_object_update_missing(object, fields) == 0;
    json_decref(fields);
    if (good)
        return object;
    json_decref(object);
    return NULL;
}

/* One line of the questions that have no answer. The caller frees it. */
static stm_status write_request(const stm_service *service, size_t n, json_t *const *questions, json_t *const *answers,
                                char **line)
{
    json_t *list = json_array(), *request = json_object();
    char *text = NULL;
    bool good = list && request;
    for (size_t i = 0; good && i < n; i++)
        if (!answers[i])
            good = json_array_append(list, questions[i]) == 0;
    if (good && json_object_set(request, service->key, list) == 0)
        text = json_dumps(request, JSON_COMPACT | JSON_ENSURE_ASCII);
    json_decref(list);
    json_decref(request);
    const stm_status status = text ? stm_format(line, "%s\n", text) : stm_fail(STM_ERR_MEMORY, "out of memory");
    free(text);
    return status;
}

/* An answer [at, end) to question i of the batch, for which none has come. */
static stm_status take_answer(const stm_service *service, const char *at, const char *end, size_t n, json_t **answers)
{
    const size_t length = (size_t)(end - at);
    json_t *answer = json_loadb(at, length, JSON_REJECT_DUPLICATES, NULL);
    const json_t *id = json_object_get(answer, "id"); /* NULL of what is no object */
    const json_int_t i = json_is_integer(id) ? json_integer_value(id) - service->first : -1;
    if (i >= 0 && i < (json_int_t)n && !answers[i]) {
        answers[i] = answer;
        return STM_OK;
    }
    json_decref(answer);
    return stm_fail(STM_ERR_IO, "answered \"%.*s\", expected an object with the \"id\" of a question",
                    (int)STM_MIN(length, (size_t)100), at);
}

/* Whole lines of what was printed. */
static stm_status take_answers(const stm_service *service, const char *output, size_t n_output, size_t n,
                               json_t **answers)
{
    const char *at = output, *stop = output + n_output;
    for (const char *end; n_output > 0 && (end = memchr(at, '\n', (size_t)(stop - at))); at = end + 1)
        STM_TRY(take_answer(service, at, end, n, answers));
    return STM_OK;
}

/* Asks for the n_left answers that are missing. */
static stm_status try_once(const stm_service *service, size_t n, size_t n_left, double timeout_s,
                           json_t *const *questions, json_t **answers)
{
    char *request = NULL, *output = NULL, *failure = NULL;
    size_t n_output;
    stm_status status;
    STM_GOTO_OUT(write_request(service, n, questions, answers, &request));
    status = stm_helper_ask(service->server, service->command, request, strlen(request), n_left, timeout_s,
                            ANSWER_BYTES * (n_left + 1), &output, &n_output);
    if (status != STM_OK && status != STM_ERR_IO)
        goto out;
    if (status == STM_ERR_IO)
        STM_GOTO_OUT(stm_format(&failure, "%s", stm_failure()));
    status = take_answers(service, output, n_output, n, answers);
    if (status != STM_OK)
        stm_helper_stop(service->server, 0.0);
    else if (failure)
        status = stm_fail(STM_ERR_IO, "%s", failure);
out:
    free(failure);
    free(output);
    free(request);
    return status;
}

static size_t count_left(size_t n, json_t *const *answers)
{
    size_t n_left = 0;
    for (size_t i = 0; i < n; i++)
        n_left += !answers[i];
    return n_left;
}

stm_status stm_service_ask(stm_service *service, size_t n, json_t *const *questions, json_t **answers)
{
    const double deadline = stm_now_s() + service->timeout_s;
    stm_status status = STM_OK;
    for (size_t i = 0; i < n; i++) {
        answers[i] = NULL;
        if (json_object_set_new(questions[i], "id", json_integer(service->first + (json_int_t)i)) != 0)
            status = stm_fail(STM_ERR_MEMORY, "out of memory");
    }
    STM_TRY(status);
    for (int tries = 0; tries < TRIES; tries++) {
        const size_t n_left = count_left(n, answers);
        const double left_s = deadline - stm_now_s();
        if (n_left == 0 || (tries > 0 && left_s <= 0.0))
            break;
        status = try_once(service, n, n_left, left_s, questions, answers);
        if (status != STM_ERR_IO)
            break;
    }
    service->first += (json_int_t)n;
    if (status == STM_ERR_IO && count_left(n, answers) == 0)
        return STM_OK;
    if (status == STM_ERR_IO && stm_now_s() >= deadline)
        return stm_fail(STM_ERR_IO, "timed out after %g s", service->timeout_s);
    return status;
}

void stm_service_release(size_t n, json_t **objects)
{
    for (size_t i = 0; objects && i < n; i++)
        json_decref(objects[i]);
    free(objects);
}
