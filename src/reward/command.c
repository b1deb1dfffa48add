/* An external command. It sees each response as an object {"prompt", "response", "answer", and the other fields of the
 * prompt's line}.
 *
 * once: started for all responses of a step, an object a line on its stdin, one number a line on its stdout, in the
 * same order. When it fails as a whole (exit code, time, another number of lines) no response has a reward; a line that
 * is no finite number is the fault of its response alone. A line may be an object, too, as the server's answers are.
 *
 * server: one process for the whole run, and the protocol of data/service.h: a step's responses as one line
 * {"responses":
 * [..]}, each with "id" and "group" besides (those to one prompt have the same number); {"id", "reward"} for each, and
 * where it has one a "critique", a text for rollout.refine. What it does not answer has no reward, and one whose
 * "reward" is no finite number neither: its "error", a text, says why.
 */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/helper.h"
#include "data/service.h"
#include "reward/kinds.h"

enum { ONCE, SERVER }; /* in the order of the styles */

static stm_status check(const stm_reward_item *item)
{
    if (item->options.command[0] == 0)
        return stm_fail(STM_ERR_INPUT, "%s.command: missing; the reward \"command\" needs one", item->where);
    if (!(item->options.timeout_s > 0.0))
        return stm_fail(STM_ERR_INPUT, "%s.timeout_s: found %g, expected seconds above 0", item->where,
                        item->options.timeout_s);
    return STM_OK;
}

static json_t *object_of(const stm_reward_input *input)
{
    return stm_service_question(input->prompt_text, input->text, input->answer, input->fields_json);
}

/* Answers */

/* Keeps the first reward's words. */
static void take_critique(const json_t *answer, const stm_reward_input *input)
{
    const char *critique = json_string_value(json_object_get(answer, "critique"));
    if (critique && input->critique && !*input->critique)
        *input->critique = strdup(critique);
}

static double read_answer(const stm_reward_item *item, const stm_reward_input *input, json_t *answer, const char *why,
                          stm_complaint *complaint)
{
    take_critique(answer, input);
    const json_t *reward = json_object_get(answer, "reward"); /* NULL where there is no answer */
    const char *error = json_string_value(json_object_get(answer, "error"));
    if (json_is_number(reward) && isfinite(json_number_value(reward)))
        return json_number_value(reward);
    if (!answer)
        return stm_complain(complaint, "%s.command: %s", item->where, why);
    if (error)
        return stm_complain(complaint, "%s.command: %s", item->where, error);
    char *text = json_dumps(answer, JSON_ENSURE_ASCII);
    (void)stm_complain(complaint, "%s.command: answered %.200s, expected a finite number as \"reward\"", item->where,
                       text ? text : "");
    free(text);
    return NAN;
}

/* Once */

static stm_status add_line(const stm_reward_input *input, char **text, size_t *n, size_t *capacity)
{
    stm_status status = STM_OK;
    json_t *object = object_of(input);
    char *line = object ? json_dumps(object, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
    if (!line) {
        status = stm_fail(STM_ERR_MEMORY, "out of memory");
        goto out;
    }
    const size_t length = strlen(line);
    STM_GOTO_OUT(stm_reserve(text, capacity, *n + length + 1, 1));
    memcpy(*text + *n, line, length);
    (*text)[*n + length] = '\n';
    *n += length + 1;
out:
    free(line);
    json_decref(object);
    return status;
}

/* Number of lines of text[0..n); a last one need not end in a newline. */
static size_t count_lines(const char *text, size_t n)
{
    size_t lines = n > 0 && text[n - 1] != '\n';
    for (size_t i = 0; i < n; i++)
        lines += text[i] == '\n';
    return lines;
}

/* An object in place of a number. */
static double read_object(const char *line, const char *end, const stm_reward_item *item, const stm_reward_input *input,
                          stm_complaint *complaint)
{
    json_t *answer = json_loadb(line, (size_t)(end - line), 0, NULL);
    const double value =
        read_answer(item, input, answer, "printed a line that is neither a number nor JSON", complaint);
    json_decref(answer);
    return value;
}

static double read_line(const char *line, const char *end, const stm_reward_item *item, size_t index,
                        stm_complaint *complaint)
{
    char *stop;
    const double value = strtod(
        line, &stop); /* stops at the newline or the NUL behind the text at the latest, unless the line is blank */
    const char *rest = stop;
    while (rest < end && (*rest == ' ' || *rest == '\t' || *rest == '\r'))
        rest++;
    if (stop == line || stop > end || rest != end || !isfinite(value))
        return stm_complain(complaint, "%s.command: line %zu of its output: found \"%.*s\", expected a finite number",
                            item->where, index + 1, (int)STM_MIN((size_t)(end - line), (size_t)100), line);
    return value;
}

static stm_status score_once(const stm_reward_item *item, size_t n, const stm_reward_input *inputs, double *out,
                             stm_complaint *complaint)
{
    stm_status status = STM_OK;
    char *text = NULL, *output = NULL;
    size_t n_text = 0, capacity = 0, n_output = 0;
    for (size_t r = 0; r < n; r++) {
        out[r] = NAN;
        STM_GOTO_OUT(add_line(&inputs[r], &text, &n_text, &capacity));
    }
    if (n == 0)
        goto out;
    status = stm_helper_run(item->options.command, text, n_text, item->options.timeout_s, 65536 + 1024 * n, &output,
                            &n_output);
    if (status == STM_ERR_IO) {
        stm_complain(complaint, "%s.command: %s", item->where, stm_failure());
        status = STM_OK;
        goto out;
    }
    if (status != STM_OK)
        goto out;
    const size_t n_lines = count_lines(output, n_output);
    if (n_lines != n) {
        stm_complain(complaint, "%s.command: printed %zu lines, expected %zu, one number for each response",
                     item->where, n_lines, n);
        goto out;
    }
    const char *line = output;
    for (size_t r = 0; r < n; r++) {
        const char *end = line + strcspn(line, "\n");
        out[r] = *line == '{' ? read_object(line, end, item, &inputs[r], complaint)
                              : read_line(line, end, item, r, complaint);
        line = end + 1;
    }
out:
    free(output);
    free(text);
    return status;
}

/* Server */

static stm_status begin(stm_reward_item *item)
{
    stm_service *service;
    if (item->style != SERVER)
        return STM_OK;
    STM_TRY(stm_service_create(item->options.command, "responses", item->options.timeout_s, &service));
    item->state = service;
    return STM_OK;
}

static void end(void *state)
{
    stm_service_destroy(state);
}

static stm_status score_by_server(const stm_reward_item *item, size_t n, const stm_reward_input *inputs, double *out,
                                  stm_complaint *complaint)
{
    stm_status status = STM_OK;
    json_t **objects = NULL, **answers = NULL; /* [n] */
    char why[512] = "";
    STM_GOTO_OUT(stm_alloc(n, sizeof *objects, &objects));
    STM_GOTO_OUT(stm_alloc(n, sizeof *answers, &answers));
    for (size_t i = 0; i < n; i++) {
        objects[i] = object_of(&inputs[i]);
        if (!objects[i] || json_object_set_new(objects[i], "group", json_integer((json_int_t)inputs[i].group)) != 0) {
            status = stm_fail(STM_ERR_MEMORY, "out of memory");
            goto out;
        }
    }
    status = stm_service_ask(item->state, n, objects, answers);
    if (status == STM_ERR_IO) {
        snprintf(why, sizeof why, "%s", stm_failure());
        status = STM_OK;
    }
    for (size_t i = 0; status == STM_OK && i < n; i++)
        out[i] = read_answer(item, &inputs[i], answers[i], why, complaint);
out:
    stm_service_release(n, answers);
    stm_service_release(n, objects);
    return status;
}

static stm_status score(const stm_reward_item *item, size_t n, const stm_reward_input *inputs, double *out,
                        stm_complaint *complaint)
{
    return item->style == SERVER ? score_by_server(item, n, inputs, out, complaint)
                                 : score_once(item, n, inputs, out, complaint);
}

static const char *const styles[] = {"once", "server", NULL};

const stm_reward_kind stm_reward_command = {
    .name = "command",
    .reads = STM_READS_COMMAND | STM_READS_TIMEOUT | STM_READS_STYLE,
    .styles = styles,
    .needs_answer = stm_reward_never,
    .check = check,
    .begin = begin,
    .end = end,
    .all = score,
};
