#include "checkpoint/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/disk.h"

stm_status stm_step_path(const char *folder, int64_t step, char **path)
{
    return stm_format(path, "%s/step-%08lld.h5", folder, (long long)step);
}

stm_status stm_step_path_partial(const char *folder, int64_t step, char **partial)
{
    return stm_format(partial, "%s/.step-%08lld.h5.partial", folder, (long long)step);
}

static bool is_step(const char *name, int64_t *step)
{
    char *end;
    if (strncmp(name, "step-", 5) != 0 || name[5] < '0' || name[5] > '9')
        return false;
    *step = strtoll(name + 5, &end, 10);
    return strcmp(end, ".h5") == 0;
}

static bool is_partial(const char *name)
{
    const size_t n = strlen(name), tail = strlen(".h5.partial");
    return (strncmp(name, ".step-", 6) == 0 || strncmp(name, ".best", 5) == 0) && n > tail &&
           strcmp(name + n - tail, ".h5.partial") == 0;
}

static int newest_first(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* NULL with STM_OK: there is no such folder. */
static stm_status open_folder(const char *folder, DIR **listing)
{
    *listing = opendir(folder);
    if (!*listing && errno != ENOENT)
        return stm_fail(STM_ERR_IO, "%s: cannot be read: %s", folder, strerror(errno));
    return STM_OK;
}

stm_status stm_steps_list(const char *folder, int64_t **steps, size_t *n)
{
    DIR *listing;
    int64_t *found = NULL, step;
    size_t capacity = 0;
    stm_status status = STM_OK;
    *steps = NULL;
    *n = 0;
    STM_TRY(open_folder(folder, &listing));
    for (const struct dirent *entry; listing && (entry = readdir(listing));) {
        if (!is_step(entry->d_name, &step))
            continue;
        STM_GOTO_OUT(stm_reserve(&found, &capacity, *n + 1, sizeof *found));
        found[(*n)++] = step;
    }
    if (*n)
        qsort(found, *n, sizeof *found, newest_first);
    *steps = found;
    found = NULL;
out:
    free(found);
    if (listing)
        closedir(listing);
    return status;
}

static stm_status remove_file(const char *path)
{
    if (unlink(path) != 0 && errno != ENOENT)
        return stm_fail(STM_ERR_IO, "%s: cannot be removed: %s", path, strerror(errno));
    return STM_OK;
}

stm_status stm_partials_remove(const char *folder)
{
    DIR *listing;
    stm_status status = STM_OK;
    char *path = NULL;
    STM_TRY(open_folder(folder, &listing));
    for (const struct dirent *entry; listing && (entry = readdir(listing));) {
        if (!is_partial(entry->d_name))
            continue;
        STM_GOTO_OUT(stm_format(&path, "%s/%s", folder, entry->d_name));
        STM_GOTO_OUT(remove_file(path));
        free(path);
        path = NULL;
    }
out:
    free(path);
    if (listing)
        closedir(listing);
    return status;
}

static bool is_rank_0(MPI_Comm comm)
{
    int rank;
    STM_MPI(MPI_Comm_rank(comm, &rank));
    return rank == 0;
}

static stm_status prepare(const char *folder)
{
    STM_TRY(stm_make_folders(folder));
    return stm_partials_remove(folder);
}

stm_status stm_checkpoint_prepare(MPI_Comm comm, const char *folder)
{
    return stm_agree_on(comm, is_rank_0(comm) ? prepare(folder) : STM_OK);
}

static stm_status retain(const char *folder, int64_t keep)
{
    int64_t *steps;
    size_t n;
    stm_status status = STM_OK;
    char *path = NULL;
    STM_TRY(stm_steps_list(folder, &steps, &n));
    for (size_t i = (size_t)STM_MAX(keep, (int64_t)1); i < n; i++) {
        STM_GOTO_OUT(stm_step_path(folder, steps[i], &path));
        STM_GOTO_OUT(remove_file(path));
        free(path);
        path = NULL;
    }
out:
    free(path);
    free(steps);
    return status;
}

stm_status stm_checkpoint_retain(MPI_Comm comm, const char *folder, int64_t keep)
{
    return stm_agree_on(comm, is_rank_0(comm) ? retain(folder, keep) : STM_OK);
}

enum { PORTION = 1 << 20 };

static stm_status copy_file(const char *from, const char *to)
{
    stm_status status = STM_OK;
    int in = -1, out_file = -1;
    char *portion = NULL;
    uint64_t bytes = 0;
    STM_GOTO_OUT(stm_alloc(PORTION, 1, &portion));
    STM_GOTO_OUT(stm_disk_open(from, false, &in));
    STM_GOTO_OUT(stm_disk_size(in, from, &bytes));
    STM_GOTO_OUT(stm_disk_create(to, &out_file));
    STM_GOTO_OUT(stm_disk_reserve(out_file, to, bytes));
    for (uint64_t at = 0; at < bytes; at += PORTION) {
        const size_t n = (size_t)STM_MIN(bytes - at, (uint64_t)PORTION);
        STM_GOTO_OUT(stm_disk_read(in, from, at, portion, n));
        STM_GOTO_OUT(stm_disk_write(out_file, to, at, portion, n));
    }
    STM_GOTO_OUT(stm_disk_sync(out_file, to));
out:
    stm_disk_close(in);
    stm_disk_close(out_file);
    free(portion);
    return status;
}

static stm_status mark_best(const char *folder, int64_t step)
{
    stm_status status = STM_OK;
    char *from = NULL, *partial = NULL, *best = NULL;
    STM_GOTO_OUT(stm_step_path(folder, step, &from));
    STM_GOTO_OUT(stm_format(&partial, "%s/.best.h5.partial", folder));
    STM_GOTO_OUT(stm_format(&best, "%s/best.h5", folder));
    STM_GOTO_OUT(remove_file(partial));
    if (link(from, partial) != 0) {
        if (errno == ENOENT)
            status = stm_fail(STM_ERR_IO, "%s: cannot be read: %s", from, strerror(errno));
        else
            status = copy_file(from, partial);
    }
    if (status == STM_OK)
        status = stm_disk_rename(partial, best);
    unlink(partial); /* where both were names of one file already, rename did nothing */
out:
    free(from);
    free(partial);
    free(best);
    return status;
}

stm_status stm_checkpoint_mark_best(MPI_Comm comm, const char *folder, int64_t step)
{
    return stm_agree_on(comm, is_rank_0(comm) ? mark_best(folder, step) : STM_OK);
}
