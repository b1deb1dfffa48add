#include "metrics/cut_back.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static stm_status failure(const char *path, const char *what)
{
    return stm_fail(STM_ERR_IO, "%s: %s: %s", path, what, strerror(errno));
}

/* Rollouts */

/* step-00000012.jsonl, eval-00000012.jsonl (of a later step), and either with .part behind it. */
static bool is_to_go(const char *name, int64_t step)
{
    char *end;
    if (strncmp(name, "step-", 5) != 0 && strncmp(name, "eval-", 5) != 0)
        return false;
    const long long found = strtoll(name + 5, &end, 10);
    return end > name + 5 && (strcmp(end, ".jsonl.part") == 0 || (strcmp(end, ".jsonl") == 0 && found > step));
}

/* Removes what is_to_go from a folder; *n_left: other entries. */
static stm_status clear_folder(const char *folder, int64_t step, size_t *n_left)
{
    stm_status status = STM_OK;
    DIR *listing = opendir(folder);
    *n_left = 0;
    if (!listing)
        return errno == ENOENT ? STM_OK : failure(folder, "cannot be read");
    for (const struct dirent *entry; (entry = readdir(listing));) {
        const char *name = entry->d_name;
        if (!is_to_go(name, step)) {
            *n_left += strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
            continue;
        }
        if (unlinkat(dirfd(listing), name, 0) != 0) {
            status = stm_fail(STM_ERR_IO, "%s/%s: cannot be removed: %s", folder, name, strerror(errno));
            break;
        }
    }
    closedir(listing);
    return status;
}

stm_status stm_rollouts_cut_back(const char *folder, int64_t step)
{
    char *rollouts;
    size_t n_left;
    STM_TRY(stm_format(&rollouts, "%s/rollouts", folder));
    const stm_status status = clear_folder(rollouts, step, &n_left);
    free(rollouts);
    return status;
}

static stm_status replace_old(const char *rollouts, const char *old)
{
    size_t n_left;
    STM_TRY(clear_folder(old, -1, &n_left));
    if (rmdir(old) != 0 && errno != ENOENT)
        return failure(old, "cannot be removed");
    if (rename(rollouts, old) != 0)
        return failure(old, "cannot be written");
    return stm_make_folders(rollouts);
}

stm_status stm_rollouts_put_aside(const char *folder)
{
    char *rollouts = NULL, *old = NULL;
    size_t n_left;
    stm_status status;
    STM_GOTO_OUT(stm_format(&rollouts, "%s/rollouts", folder));
    STM_GOTO_OUT(stm_format(&old, "%s/rollouts.old", folder));
    STM_GOTO_OUT(clear_folder(rollouts, INT64_MAX, &n_left));
    if (n_left > 0)
        status = replace_old(rollouts, old);
out:
    free(rollouts);
    free(old);
    return status;
}

/* The log */

/* "step 12/200 ..", "eval at step 12: .."; -1: of no step. */
static long long step_of(const char *line)
{
    long long step;
    if (sscanf(line, "step %lld/", &step) == 1 || sscanf(line, "eval at step %lld:", &step) == 1)
        return step;
    return -1;
}

/* Where the first line of a later step begins; n: nowhere before text[n]. */
static size_t find_later(const char *text, size_t n, int64_t step)
{
    for (size_t at = 0; at < n;) {
        if (step_of(text + at) > step)
            return at;
        const char *end = memchr(text + at, '\n', n - at);
        at = end ? (size_t)(end - text) + 1 : n;
    }
    return n;
}

static stm_status append_file(const char *path, const char *text, size_t n)
{
    FILE *file = fopen(path, "ae");
    if (!file)
        return failure(path, "cannot be written");
    const bool written = fwrite(text, 1, n, file) == n;
    if (fclose(file) != 0 || !written)
        return failure(path, "cannot be written");
    return STM_OK;
}

/* text: [n], log.txt; bytes [first, session) go. */
static stm_status move_lines(const char *folder, const char *path, char *text, size_t n, size_t first, size_t session)
{
    char *old;
    STM_TRY(stm_format(&old, "%s/log.old.txt", folder));
    stm_status status = append_file(old, text + first, session - first);
    free(old);
    STM_TRY(status);
    memmove(text + first, text + session, n - session);
    return stm_write_file(path, text, n - (session - first));
}

stm_status stm_log_cut_back(const char *folder, int64_t step, size_t session, bool *cut)
{
    char *path, *text = NULL;
    size_t n;
    stm_status status;
    *cut = false;
    STM_TRY(stm_format(&path, "%s/log.txt", folder));
    STM_GOTO_OUT(stm_read_file(path, &text, &n));
    session = STM_MIN(session, n);
    const size_t first = find_later(text, session, step);
    if (first == session)
        goto out;
    STM_GOTO_OUT(move_lines(folder, path, text, n, first, session));
    *cut = true;
out:
    free(text);
    free(path);
    return status;
}
