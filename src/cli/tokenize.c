/* `stemma tokenize`: the ids and the decoded text of each line {"text"}. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "data/json_lines.h"
#include "text/tokenizer.h"

static stm_status cannot_write(const char *path)
{
    return stm_fail(STM_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
}

/* {"ids": [ids..], "decoded": text} */
static stm_status make_line(const int32_t *ids, size_t n, const char *text, size_t n_bytes, json_t **out)
{
    json_t *list = json_array(), *line = json_object();
    bool made = list && line;
    for (size_t i = 0; i < n && made; i++)
        made = json_array_append_new(list, json_integer(ids[i])) == 0;
    made = made && json_object_set(line, "ids", list) == 0;
    made = made && json_object_set_new(line, "decoded", json_stringn(text, n_bytes)) == 0;
    json_decref(list);
    if (!made)
        json_decref(line);
    *out = made ? line : NULL;
    return made ? STM_OK : stm_fail(STM_ERR_MEMORY, "out of memory");
}

static stm_status write_line(const stm_tokenizer *tokenizer, const json_t *text, bool special, const char *path,
                             FILE *out)
{
    stm_status status = STM_OK;
    int32_t *ids = NULL;
    char *decoded = NULL;
    size_t n, n_bytes;
    json_t *line = NULL;
    STM_GOTO_OUT(stm_tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text), special, &ids, &n));
    STM_GOTO_OUT(stm_tokenizer_decode(tokenizer, ids, n, false, &decoded, &n_bytes));
    STM_GOTO_OUT(make_line(ids, n, decoded, n_bytes, &line));
    if (json_dumpf(line, out, 0) != 0 || fputc('\n', out) == EOF)
        status = cannot_write(path);
out:
    json_decref(line);
    free(ids);
    free(decoded);
    return status;
}

/* A line without text is wrong before anything is written. */
static stm_status check_line(const stm_json_lines *lines, const json_t *object)
{
    stm_json_found_text found;
    const json_t *text = stm_json_get(object, "text");
    return json_is_string(text)
               ? STM_OK
               : stm_json_lines_fail(lines, "text: found %s, expected a string", stm_json_found(text, found));
}

/* out NULL: only checks. */
static stm_status tokenize_lines(const stm_tokenizer *tokenizer, stm_json_lines lines, bool special, const char *path,
                                 FILE *out)
{
    for (;;) {
        json_t *object;
        STM_TRY(stm_json_lines_next(&lines, &object));
        if (!object)
            return STM_OK;
        const stm_status status =
            out ? write_line(tokenizer, stm_json_get(object, "text"), special, path, out) : check_line(&lines, object);
        json_decref(object);
        if (status != STM_OK && out)
            stm_fail_context(status, "%s:%zu", lines.name, lines.line);
        STM_TRY(status);
    }
}

stm_status stm_cli_tokenize(const stm_options *options)
{
    stm_status status = STM_OK;
    stm_tokenizer *tokenizer = NULL;
    char *text = NULL;
    FILE *out = NULL;
    stm_json_lines lines = {.name = options->arguments.items[1]};
    if (!*options->out)
        return stm_fail(STM_ERR_INPUT, "command line: found no --out, expected --out F.jsonl");
    STM_GOTO_OUT(stm_tokenizer_open(options->arguments.items[0], &tokenizer));
    STM_GOTO_OUT(stm_read_file(lines.name, &text, &lines.n));
    lines.text = text;
    STM_GOTO_OUT(tokenize_lines(tokenizer, lines, options->special, options->out, NULL));
    out = fopen(options->out, "w");
    if (!out) {
        status = cannot_write(options->out);
        goto out;
    }
    STM_GOTO_OUT(tokenize_lines(tokenizer, lines, options->special, options->out, out));
out:
    if (out && fclose(out) != 0 && status == STM_OK)
        status = cannot_write(options->out);
    free(text);
    stm_tokenizer_destroy(tokenizer);
    return status;
}
