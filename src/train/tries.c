#include "train/tries.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_NAME = 255 };

typedef struct {
    char name[MOST_NAME + 1];
    int n;
} entry;

/* Reads the next line, *line moves behind it; false for the end or what is no entry. */
static bool next_entry(const char **line, entry *e)
{
    int length = 0;
    if (sscanf(*line, "%255s %d%n", e->name, &e->n, &length) != 2 || e->n < 0)
        return false;
    *line += length;
    *line += strspn(*line, "\n");
    return true;
}

/* "" where there is no file. */
static stm_status read_text(const char *run_folder, char **text)
{
    char *path;
    size_t n;
    STM_TRY(stm_format(&path, "%s/tries", run_folder));
    stm_status status = stm_read_file(path, text, &n);
    free(path);
    return status == STM_ERR_INPUT ? stm_format(text, "%s", "") : status;
}

static stm_status append(char **text, const char *line)
{
    char *longer;
    STM_TRY(stm_format(&longer, "%s%s\n", *text ? *text : "", line));
    free(*text);
    *text = longer;
    return STM_OK;
}

stm_status stm_tries_tired(const char *run_folder, char **names)
{
    char *text;
    entry e;
    *names = NULL;
    STM_TRY(read_text(run_folder, &text));
    stm_status status = STM_OK;
    for (const char *line = text; status == STM_OK && next_entry(&line, &e);)
        if (e.n >= STM_MOST_TRIES)
            status = append(names, e.name);
    free(text);
    return status;
}

static stm_status write_text(const char *run_folder, const char *text)
{
    char *path;
    STM_TRY(stm_format(&path, "%s/tries", run_folder));
    const stm_status status = stm_write_file(path, text, strlen(text));
    free(path);
    return status;
}

/* The entries of `text` with one more for `name`, the newest last. */
static stm_status count_one_more(const char *text, const char *name, char **counted)
{
    char line[MOST_NAME + 32];
    entry e;
    int n = 0;
    while (next_entry(&text, &e)) {
        if (strcmp(e.name, name) == 0) {
            n = e.n;
            continue;
        }
        snprintf(line, sizeof line, "%s %d", e.name, e.n);
        STM_TRY(append(counted, line));
    }
    snprintf(line, sizeof line, "%.*s %d", MOST_NAME, name, n + 1);
    return append(counted, line);
}

stm_status stm_tries_add(const char *run_folder, const char *path)
{
    const char *slash = strrchr(path, '/');
    char *text, *counted = NULL;
    STM_TRY(read_text(run_folder, &text));
    stm_status status = count_one_more(text, slash ? slash + 1 : path, &counted);
    if (status == STM_OK)
        status = write_text(run_folder, counted);
    free(counted);
    free(text);
    return status;
}

stm_status stm_tries_clear(const char *run_folder)
{
    char *path;
    STM_TRY(stm_format(&path, "%s/tries", run_folder));
    stm_status status = STM_OK;
    if (unlink(path) != 0 && errno != ENOENT)
        status = stm_fail(STM_ERR_IO, "%s: cannot be removed: %s", path, strerror(errno));
    free(path);
    return status;
}
