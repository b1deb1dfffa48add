/* `stemma tokenize`: the ids and the decoded text of each line {"text"}.
 *
 * The file passes in batches of whole lines, each cut into shares of some lines that the threads take one after the
 * other; what a share writes waits in memory until those before it are written. Memory: some batches, whatever the size
 * of the file. The output gets its name when it is complete. */
#include <errno.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/commands.h"
#include "data/json_lines.h"
#include "data/text_lines.h"
#include "text/tokenizer.h"

enum { SHARES_PER_THREAD = 16 }; /* of a batch */

/* Some lines of a batch, and what becomes of them. */
typedef struct {
    stm_json_share lines; /* in the source's bytes */
    stm_string out;       /* room that later batches use again */
    stm_status status;    /* of its first bad line */
    char *failure;        /* that line's message, for messages are kept by thread; NULL: none, or no memory for it */
} share;

/* The file under way: bytes[0] belongs to no line, so that none looks like the first of a file. */
typedef struct {
    const char *name;
    FILE *file;
    char *bytes;
    size_t n, capacity;
    size_t line; /* lines before bytes[1] */
    bool begun, ended;
} source;

typedef struct {
    const stm_tokenizer *tokenizer;
    bool special;
    source in;
    share *shares;
    size_t n_shares, capacity;
    FILE *out;
    const char *path; /* of the output, for messages */
} work;

/* A line */

static stm_status cannot_write(const char *path)
{
    return stm_fail(STM_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
}

static stm_status write_line(const work *w, const char *text, size_t n_text, stm_string *out)
{
    stm_status status = STM_OK;
    int32_t *ids = NULL;
    char *decoded = NULL;
    size_t n, n_bytes;
    STM_GOTO_OUT(stm_tokenizer_encode(w->tokenizer, text, n_text, w->special, &ids, &n));
    STM_GOTO_OUT(stm_tokenizer_decode(w->tokenizer, ids, n, false, &decoded, &n_bytes));
    STM_GOTO_OUT(stm_text_line_write(ids, n, decoded, n_bytes, out));
out:
    free(ids);
    free(decoded);
    return status;
}

/* A line that holds more than a text, or is wrong: lines stands before it. */
static stm_status write_other_line(const work *w, stm_json_lines *lines, stm_string *out)
{
    stm_json_found_text found;
    json_t *object;
    STM_TRY(stm_json_lines_next(lines, &object));
    if (!object) /* blank */
        return STM_OK;
    const json_t *text = stm_json_get(object, "text");
    stm_status status;
    if (!json_is_string(text))
        status = stm_json_lines_fail(lines, "text: found %s, expected a string", stm_json_found(text, found));
    else if ((status = write_line(w, json_string_value(text), json_string_length(text), out)) != STM_OK)
        stm_fail_context(status, "%s:%zu", lines->name, lines->line);
    json_decref(object);
    return status;
}

/* text: room for the line's. */
static stm_status write_share(const work *w, share *s, stm_string *text)
{
    const char *bytes = w->in.bytes;
    size_t line = s->lines.line;
    for (size_t at = s->lines.start, end; at < s->lines.end; at = end + 1, line++) {
        const char *newline = memchr(bytes + at, '\n', s->lines.end - at);
        end = newline ? (size_t)(newline - bytes) : s->lines.end;
        if (stm_text_line_read(bytes + at, end - at, text)) {
            const stm_status status = write_line(w, text->bytes, text->n, &s->out);
            if (status != STM_OK)
                return stm_fail_context(status, "%s:%zu", w->in.name, line + 1);
            continue;
        }
        stm_json_lines lines = {.name = w->in.name, .text = bytes, .n = end, .position = at, .line = line};
        STM_TRY(write_other_line(w, &lines, &s->out));
    }
    return STM_OK;
}

/* A batch */

static stm_status read_more(source *in, size_t n)
{
    STM_TRY(stm_reserve(&in->bytes, &in->capacity, in->n + n, 1));
    const size_t got = fread(in->bytes + in->n, 1, n, in->file);
    in->n += got;
    in->ended = got < n;
    return ferror(in->file) ? stm_fail(STM_ERR_INPUT, "%s: cannot be read: %s", in->name, strerror(errno)) : STM_OK;
}

/* Reads until there are `n` bytes or the file ends, and at least a whole line; *end is where the whole lines end. */
static stm_status read_batch(source *in, size_t n, size_t *end)
{
    const char *newline = NULL;
    while (!in->ended && !newline) {
        STM_TRY(read_more(in, n));
        newline = memrchr(in->bytes + 1, '\n', in->n - 1);
    }
    if (!in->begun && in->n >= 4 && memcmp(in->bytes + 1, "\xEF\xBB\xBF", 3) == 0) { /* a byte-order mark */
        memmove(in->bytes + 1, in->bytes + 4, in->n - 4);
        in->n -= 3;
        newline -= newline ? 3 : 0;
    }
    in->begun = true;
    *end = in->ended ? in->n : (size_t)(newline + 1 - in->bytes);
    return STM_OK;
}

/* Cuts bytes [1, end) into shares and counts their lines. */
static stm_status cut_batch(work *w, size_t end)
{
    w->n_shares = 0;
    for (size_t start = 1; start < end; w->n_shares++) {
        const stm_json_share lines = stm_json_share_at(w->in.bytes, end, start, w->in.line);
        const size_t before = w->capacity;
        STM_TRY(stm_reserve(&w->shares, &w->capacity, w->n_shares + 1, sizeof *w->shares));
        memset(w->shares + before, 0, (w->capacity - before) * sizeof *w->shares);
        share *s = &w->shares[w->n_shares];
        *s = (share){.lines = lines, .out = s->out};
        s->out.n = 0;
        w->in.line += lines.n_lines;
        start = lines.end;
    }
    return STM_OK;
}

static void run_shares(work *w)
{
#pragma omp parallel
    {
        stm_string text = {0};
#pragma omp for schedule(dynamic, 1)
        for (size_t i = 0; i < w->n_shares; i++) {
            share *s = &w->shares[i];
            s->status = write_share(w, s, &text);
            s->failure = s->status == STM_OK ? NULL : strdup(stm_failure());
        }
        free(text.bytes);
    }
}

/* Writes what the shares have made, in order, up to the first that failed, whose failure it returns. */
static stm_status write_shares(work *w)
{
    stm_status status = STM_OK;
    for (size_t i = 0; i < w->n_shares; i++) {
        share *s = &w->shares[i];
        if (status == STM_OK && s->status != STM_OK)
            status = stm_fail(s->status, "%s", s->failure ? s->failure : "out of memory");
        else if (status == STM_OK && fwrite(s->out.bytes, 1, s->out.n, w->out) != s->out.n)
            status = cannot_write(w->path);
        free(s->failure);
    }
    return status;
}

static stm_status run_batches(work *w)
{
    const size_t batch = (size_t)omp_get_max_threads() * SHARES_PER_THREAD * STM_JSON_SHARE_BYTES;
    source *in = &w->in;
    STM_TRY(stm_reserve(&in->bytes, &in->capacity, 1, 1));
    in->bytes[0] = '\n';
    in->n = 1;
    while (!in->ended) {
        size_t end;
        STM_TRY(read_batch(in, batch, &end));
        STM_TRY(cut_batch(w, end));
        run_shares(w);
        STM_TRY(write_shares(w));
        memmove(in->bytes + 1, in->bytes + end, in->n - end);
        in->n = 1 + in->n - end;
    }
    return STM_OK;
}

static void free_work(work *w)
{
    for (size_t i = 0; i < w->capacity; i++)
        free(w->shares[i].out.bytes);
    free(w->shares);
    free(w->in.bytes);
}

/* The files */

/* The name under which the output is written: another, unless the path is a device or a pipe, and where a link leads.
 */
static stm_status name_output(const char *path, char **whole, char **part)
{
    struct stat info;
    const bool there = stat(path, &info) == 0;
    char *real = there ? realpath(path, NULL) : NULL;
    *whole = real ? real : strdup(path);
    if (!*whole)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    return stm_format(part, "%s%s", *whole, there && !S_ISREG(info.st_mode) ? "" : ".part");
}

/* Runs the batches into w->path, which is there after success, and untouched otherwise. */
static stm_status write_output(work *w)
{
    stm_status status = STM_OK;
    char *whole = NULL, *part = NULL;
    bool made = false;
    STM_GOTO_OUT(name_output(w->path, &whole, &part));
    w->out = fopen(part, "w");
    if (!w->out) {
        status = cannot_write(w->path);
        goto out;
    }
    made = strcmp(whole, part) != 0;
    status = run_batches(w);
    if (fclose(w->out) != 0 && status == STM_OK)
        status = cannot_write(w->path);
    if (status == STM_OK && made && rename(part, whole) != 0)
        status = cannot_write(w->path);
    if (status != STM_OK && made)
        remove(part);
out:
    free(whole);
    free(part);
    return status;
}

stm_status stm_cli_tokenize(const stm_options *options)
{
    stm_status status = STM_OK;
    stm_tokenizer *tokenizer = NULL;
    work w = {.special = options->special, .path = options->out, .in = {.name = options->arguments.items[1]}};
    if (!*options->out)
        return stm_fail(STM_ERR_INPUT, "command line: found no --out, expected --out F.jsonl");
    STM_GOTO_OUT(stm_tokenizer_open(options->arguments.items[0], &tokenizer));
    w.tokenizer = tokenizer;
    w.in.file = fopen(w.in.name, "rb");
    if (!w.in.file) {
        status = stm_fail(STM_ERR_INPUT, "%s: cannot be read: %s", w.in.name, strerror(errno));
        goto out;
    }
    STM_GOTO_OUT(write_output(&w));
out:
    if (w.in.file)
        fclose(w.in.file);
    free_work(&w);
    stm_tokenizer_destroy(tokenizer);
    return status;
}
