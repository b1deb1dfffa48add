#include "metrics/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "metrics/step_line.h"

enum { HEADING_EVERY = 25, N_RECENT = 20 };

struct stm_metrics {
    char *path;
    int file;        /* descriptor, -1: none */
    char *unwritten; /* [n_unwritten]: lines that found no room yet */
    size_t n_unwritten, capacity;
    int64_t n_steps;
    bool supervised; /* the columns of the latest heading */
    size_t n_lines, n_timed;
    double recent_s[N_RECENT]; /* a ring */
    char text[3 * STM_STEP_LINE_BYTES];
};

/* One line as a record; false for what is no record. */
static bool parse(const char *line, size_t n, stm_record *record)
{
    json_t *object = json_loadb(line, n, 0, NULL);
    size_t n_fields;
    const stm_record_field *fields = stm_record_fields(&n_fields);
    stm_record_init(record);
    for (size_t i = 0; i < n_fields; i++) {
        const json_t *value = json_object_get(object, fields[i].name);
        if (json_is_number(value))
            *stm_record_at(record, fields + i) = json_number_value(value);
    }
    json_decref(object);
    return !isnan(record->step);
}

/* Calls `take` with each record of the text and its line, without the newline. */
static stm_status each_record(const char *text, size_t n,
                              stm_status (*take)(void *context, const stm_record *record, const char *line, size_t n),
                              void *context)
{
    stm_record record;
    for (const char *line = text, *stop = text + n; line < stop;) {
        const char *end = memchr(line, '\n', (size_t)(stop - line));
        const size_t length = (size_t)((end ? end : stop) - line);
        if (parse(line, length, &record))
            STM_TRY(take(context, &record, line, length));
        line += length + 1;
    }
    return STM_OK;
}

static stm_status write_failure(const char *path)
{
    return stm_fail(STM_ERR_IO, "%s: cannot be written: %s", path, strerror(errno));
}

typedef struct {
    FILE *file;
    double last, until; /* steps */
} kept_lines;

static stm_status keep_line(void *context, const stm_record *record, const char *line, size_t n)
{
    kept_lines *kept = context;
    if (record->step <= kept->last || record->step > kept->until)
        return STM_OK;
    kept->last = record->step;
    fwrite(line, 1, n, kept->file);
    fputc('\n', kept->file);
    return STM_OK;
}

/* Leaves the records up to `until` in the file, each once. */
static stm_status drop_later_records(const char *path, int64_t until)
{
    char *text = NULL, *part = NULL;
    size_t n;
    stm_status status;
    kept_lines kept = {.last = -1, .until = (double)until};
    STM_GOTO_OUT(stm_read_file(path, &text, &n));
    STM_GOTO_OUT(stm_format(&part, "%s.part", path));
    kept.file = fopen(part, "we");
    if (!kept.file) {
        status = write_failure(part);
        goto out;
    }
    each_record(text, n, keep_line, &kept);
    const bool written = fflush(kept.file) == 0 && !ferror(kept.file) && fsync(fileno(kept.file)) == 0;
    if (fclose(kept.file) != 0 || !written || rename(part, path) != 0) {
        status = write_failure(path);
        unlink(part);
    }
out:
    free(part);
    free(text);
    return status;
}

static stm_status put_aside(const char *folder, const char *path)
{
    char *old;
    STM_TRY(stm_format(&old, "%s/metrics.old.jsonl", folder));
    const stm_status status = rename(path, old) == 0 ? STM_OK : write_failure(old);
    free(old);
    return status;
}

stm_status stm_metrics_open(const char *folder, int64_t resume_step, int64_t n_steps, stm_metrics **out)
{
    stm_metrics *metrics;
    STM_TRY(stm_alloc(1, sizeof *metrics, &metrics));
    metrics->n_steps = n_steps;
    metrics->file = -1;
    stm_status status;
    STM_GOTO_OUT(stm_format(&metrics->path, "%s/metrics.jsonl", folder));
    if (access(metrics->path, F_OK) == 0)
        STM_GOTO_OUT(resume_step >= 0 ? drop_later_records(metrics->path, resume_step)
                                      : put_aside(folder, metrics->path));
    metrics->file = open(metrics->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (metrics->file < 0) {
        status = write_failure(metrics->path);
        goto out;
    }
    *out = metrics;
    metrics = NULL;
out:
    stm_metrics_close(metrics);
    return status;
}

/* Appends the lines that are not in the file yet; a part of them that found room is taken back, so that the file ends
 * with a whole line. */
static stm_status write_lines(stm_metrics *metrics)
{
    const off_t end = lseek(metrics->file, 0, SEEK_END);
    const ssize_t n = end < 0 ? -1 : write(metrics->file, metrics->unwritten, metrics->n_unwritten);
    if (n == (ssize_t)metrics->n_unwritten) {
        metrics->n_unwritten = 0;
        return STM_OK;
    }
    const int error = n < 0 ? errno : ENOSPC;
    if (n > 0 && ftruncate(metrics->file, end) != 0)
        return write_failure(metrics->path);
    errno = error;
    return write_failure(metrics->path);
}

/* A last try for lines that found no room, which keeps the message of what ended the run. */
static void write_last_lines(stm_metrics *metrics)
{
    char *message = NULL;
    if (stm_format(&message, "%s", stm_failure()) == STM_OK && write_lines(metrics) != STM_OK)
        stm_fail(STM_ERR_IO, "%s", message);
    free(message);
}

void stm_metrics_close(stm_metrics *metrics)
{
    if (!metrics)
        return;
    if (metrics->file >= 0 && metrics->n_unwritten > 0)
        write_last_lines(metrics);
    if (metrics->file >= 0)
        close(metrics->file);
    free(metrics->unwritten);
    free(metrics->path);
    free(metrics);
}

static json_t *value_of(const stm_record *record, const stm_record_field *field)
{
    const double value = stm_record_get(record, field);
    if (!isfinite(value))
        return json_null();
    return field->kind == STM_FIELD_COUNT ? json_integer((json_int_t)value) : json_real(value);
}

/* One line of JSON that the caller frees; NULL when memory is short. */
static char *record_text(const stm_record *record)
{
    size_t n;
    const stm_record_field *fields = stm_record_fields(&n);
    json_t *object = json_object();
    int failed = object == NULL;
    for (size_t i = 0; i < n && !failed; i++)
        failed = json_object_set_new(object, fields[i].name, value_of(record, fields + i));
    char *text = failed ? NULL : json_dumps(object, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17));
    json_decref(object);
    return text;
}

stm_status stm_metrics_write(stm_metrics *metrics, const stm_record *record)
{
    char *text = record_text(record);
    if (!text)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    const size_t n = strlen(text);
    const stm_status status = stm_reserve(&metrics->unwritten, &metrics->capacity, metrics->n_unwritten + n + 1, 1);
    if (status == STM_OK) {
        memcpy(metrics->unwritten + metrics->n_unwritten, text, n);
        metrics->n_unwritten += n;
        metrics->unwritten[metrics->n_unwritten++] = '\n';
    }
    free(text);
    return status == STM_OK ? write_lines(metrics) : status;
}

stm_status stm_metrics_take_back(stm_metrics *metrics, int64_t step, stm_record *record)
{
    char *text;
    size_t n, start;
    stm_record_init(record);
    record->step = (double)step;
    if (!metrics)
        return STM_OK;
    STM_TRY(stm_read_file(metrics->path, &text, &n));
    for (start = n > 0 ? n - 1 : 0; start > 0 && text[start - 1] != '\n'; start--)
        ;
    stm_record last;
    const bool found = n > 0 && parse(text + start, n - start, &last) && last.step == (double)step;
    free(text);
    if (!found)
        return STM_OK;
    *record = last;
    return ftruncate(metrics->file, (off_t)start) == 0 ? STM_OK : write_failure(metrics->path);
}

static double time_left(stm_metrics *metrics, const stm_record *record)
{
    if (record->step_s >= 0)
        metrics->recent_s[metrics->n_timed++ % N_RECENT] = record->step_s;
    const size_t n = STM_MIN(metrics->n_timed, (size_t)N_RECENT);
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += metrics->recent_s[i];
    return n > 0 ? sum / (double)n * ((double)metrics->n_steps - record->step) : NAN;
}

const char *stm_metrics_line(stm_metrics *metrics, const stm_record *record)
{
    const bool supervised = isnan(record->reward_mean);
    const bool headed = metrics->n_lines % HEADING_EVERY == 0 || supervised != metrics->supervised;
    char heading[STM_STEP_LINE_BYTES] = "", line[STM_STEP_LINE_BYTES], eval[STM_STEP_LINE_BYTES] = "";
    if (headed) {
        stm_step_heading(heading, metrics->n_steps, supervised);
        metrics->n_lines = 0;
    }
    stm_step_line(line, metrics->n_steps, supervised, record, time_left(metrics, record));
    if (!isnan(record->eval_reward))
        stm_eval_line(eval, record);
    metrics->supervised = supervised;
    metrics->n_lines++;
    snprintf(metrics->text, sizeof metrics->text, "%s%s%s", heading, line, eval);
    return metrics->text;
}

typedef struct {
    stm_record *records;
    size_t n, capacity;
} record_list;

static stm_status add_record(void *context, const stm_record *record, const char *line, size_t n)
{
    (void)line, (void)n;
    record_list *list = context;
    STM_TRY(stm_reserve(&list->records, &list->capacity, list->n + 1, sizeof *list->records));
    list->records[list->n++] = *record;
    return STM_OK;
}

stm_status stm_metrics_read(const char *folder, stm_record **records, size_t *n)
{
    char *path, *text = NULL;
    size_t n_bytes;
    record_list list = {0};
    STM_TRY(stm_format(&path, "%s/metrics.jsonl", folder));
    stm_status status;
    STM_GOTO_OUT(stm_read_file(path, &text, &n_bytes));
    STM_GOTO_OUT(each_record(text, n_bytes, add_record, &list));
    *records = list.records;
    *n = list.n;
    list.records = NULL;
out:
    free(list.records);
    free(text);
    free(path);
    return status;
}
