/* An external command: one JSON line {"prompt", "response", "answer", and the other fields of the prompt's line} for
 * each response on its stdin, one number a line on its stdout, in the same order. It is started once for all responses
 * of a step. When it fails as a whole (exit code, time, another number of lines) no response has a reward; a line that
 * is no finite number is the fault of its response alone. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/helper.h"
#include "reward/kinds.h"

static stm_status check(const stm_reward_item *item)
{
    if (item->options.command[0] == 0)
        return stm_fail(STM_ERR_INPUT, "%s.command: missing; the reward \"command\" needs one", item->where);
    if (!(item->options.timeout_s > 0.0))
        return stm_fail(STM_ERR_INPUT, "%s.timeout_s: found %g, expected seconds above 0", item->where,
                        item->options.timeout_s);
    return STM_OK;
}

/* A JSON string of text that may not be UTF-8 (a response cut inside a character): then every byte beyond ASCII becomes
 * "?". */
static json_t *string_of(const char *text)
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

static stm_status add_line(const stm_reward_input *input, char **text, size_t *n, size_t *capacity)
{
    stm_status status = STM_OK;
    char *line = NULL;
    json_t *object = json_object();
    json_t *fields = input->fields_json ? json_loads(input->fields_json, 0, NULL) : NULL;
    if (object) {
        json_object_set_new(object, "prompt", string_of(input->prompt_text));
        json_object_set_new(object, "response", string_of(input->text));
        if (input->answer)
            json_object_set_new(object, "answer", string_of(input->answer));
        if (json_is_object(fields))
            json_object_update_missing(object, fields);
        line = json_dumps(object, JSON_COMPACT | JSON_ENSURE_ASCII);
    }
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
    json_decref(fields);
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

static stm_status score(const stm_reward_item *item, size_t n, const stm_reward_input *inputs, double *out,
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
        out[r] = read_line(line, end, item, r, complaint);
        line = end + 1;
    }
out:
    free(output);
    free(text);
    return status;
}

const stm_reward_kind stm_reward_command = {
    .name = "command",
    .reads = STM_READS_COMMAND | STM_READS_TIMEOUT,
    .needs_answer = stm_reward_never,
    .check = check,
    .all = score,
};
