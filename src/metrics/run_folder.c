#include "metrics/run_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "metrics/cut_back.h"
#include "metrics/run_lock.h"

enum { LOOK_EVERY_S = 1 };

struct stm_run_folder {
    char *path;
    stm_run_lock *lock;
    bool has_log;       /* the log is this one's to close */
    size_t log_session; /* bytes of the log before this job's first */
    int requests;
    double looked_s;
    bool looked;
};

static const struct {
    const char *name;
    int bit;
} request_files[] = {{"STOP", STM_REQUEST_STOP}, {"SAVE", STM_REQUEST_SAVE}};
enum { N_REQUEST_FILES = sizeof request_files / sizeof *request_files };

static stm_status io_failure(const char *path, const char *what)
{
    return stm_fail(STM_ERR_IO, "%s: %s: %s", path, what, strerror(errno));
}

static stm_status path_in(const stm_run_folder *run, const char *name, char **path)
{
    return stm_format(path, "%s/%s", run->path, name);
}

static stm_status make_folder_in(const stm_run_folder *run, const char *name)
{
    char *path;
    STM_TRY(path_in(run, name, &path));
    const stm_status status = stm_make_folders(path);
    free(path);
    return status;
}

static stm_status remove_file_in(const stm_run_folder *run, const char *name)
{
    char *path;
    STM_TRY(path_in(run, name, &path));
    stm_status status = STM_OK;
    if (unlink(path) != 0 && errno != ENOENT)
        status = io_failure(path, "cannot be removed");
    free(path);
    return status;
}

/* Writes n bytes and, where the last is none, a newline. */
static stm_status write_new_file(const char *path, const char *text, size_t n)
{
    FILE *file = fopen(path, "we");
    if (!file)
        return io_failure(path, "cannot be written");
    fwrite(text, 1, n, file);
    if (n > 0 && text[n - 1] != '\n')
        fputc('\n', file);
    const bool failed = fflush(file) != 0 || ferror(file) || fsync(fileno(file)) != 0;
    const int error = errno;
    fclose(file);
    errno = error;
    return failed ? io_failure(path, "cannot be written") : STM_OK;
}

/* So that at any instant the file is the old or the new one, whole. */
static stm_status replace_file_in(const stm_run_folder *run, const char *name, const char *text, size_t n)
{
    char *path, *part = NULL;
    STM_TRY(path_in(run, name, &path));
    stm_status status;
    STM_GOTO_OUT(stm_format(&part, "%s.part", path));
    STM_GOTO_OUT(write_new_file(part, text, n));
    if (rename(part, path) != 0)
        status = io_failure(path, "cannot be written");
out:
    if (status != STM_OK && part)
        unlink(part);
    free(part);
    free(path);
    return status;
}

static stm_status open_log(stm_run_folder *run)
{
    char *path;
    struct stat about;
    STM_TRY(path_in(run, "log.txt", &path));
    run->log_session = stat(path, &about) == 0 ? (size_t)about.st_size : 0;
    const stm_status status = stm_log_to(path);
    free(path);
    if (status != STM_OK)
        return status;
    run->has_log = true;
    char date[64] = "", host[128] = "";
    const time_t now = time(NULL);
    struct tm parts;
    if (gmtime_r(&now, &parts))
        strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S UTC", &parts);
    gethostname(host, sizeof host - 1);
    stm_log("stemma %s  %s  host %s  folder %s", STEMMA_VERSION, date, host, run->path);
    return STM_OK;
}

/* What cannot become a run folder is wrong input, whatever the system calls it; a full disk is not. */
static stm_status make_run_folder(const char *folder)
{
    struct stat about;
    if (stat(folder, &about) == 0 && !S_ISDIR(about.st_mode))
        return stm_fail(STM_ERR_INPUT, "run.folder: %s: found a file, expected a folder", folder);
    if (stat(folder, &about) != 0 && stm_make_folders(folder) != STM_OK)
        return stm_fail(errno == ENOSPC || errno == EDQUOT ? STM_ERR_IO : STM_ERR_INPUT,
                        "run.folder: %s: cannot be made: %s", folder, strerror(errno));
    if (access(folder, W_OK | X_OK) != 0)
        return stm_fail(STM_ERR_INPUT, "run.folder: %s: cannot be written to: %s", folder, strerror(errno));
    return STM_OK;
}

stm_status stm_run_folder_open(const char *folder, stm_run_folder **out)
{
    stm_run_folder *run;
    STM_TRY(stm_alloc(1, sizeof *run, &run));
    stm_status status;
    STM_GOTO_OUT(stm_format(&run->path, "%s", folder));
    STM_GOTO_OUT(make_run_folder(folder));
    const stm_run_lock_rules rules = stm_run_lock_rules_of(folder);
    STM_GOTO_OUT(stm_run_lock_take(folder, &rules, &run->lock));
    STM_GOTO_OUT(make_folder_in(run, "rollouts"));
    STM_GOTO_OUT(make_folder_in(run, "checkpoints"));
    STM_GOTO_OUT(open_log(run));
    *out = run;
    run = NULL;
out:
    if (run)
        stm_run_folder_close(run);
    return status;
}

void stm_run_folder_close(stm_run_folder *run)
{
    if (!run)
        return;
    if (run->has_log)
        stm_log_to(NULL);
    stm_run_lock_release(run->lock);
    free(run->path);
    free(run);
}

stm_status stm_run_folder_begin(stm_run_folder *run, const char *input_text)
{
    if (!run)
        return STM_OK;
    STM_TRY(remove_file_in(run, "DONE")); /* first, since a script must not find it should the rest fail */
    return replace_file_in(run, "input.yaml", input_text, strlen(input_text));
}

static stm_status cut_log_back(stm_run_folder *run, int64_t step)
{
    bool cut;
    char *path;
    STM_TRY(stm_log_cut_back(run->path, step, run->log_session, &cut));
    if (!cut)
        return STM_OK;
    STM_TRY(path_in(run, "log.txt", &path));
    const stm_status status = stm_log_to(path);
    free(path);
    if (status == STM_OK)
        stm_log("what the log said of later steps is in %s/log.old.txt", run->path);
    return status;
}

stm_status stm_run_folder_cut_back(stm_run_folder *run, int64_t step)
{
    if (!run)
        return STM_OK;
    STM_TRY(step < 0 ? stm_rollouts_put_aside(run->path) : stm_rollouts_cut_back(run->path, step));
    return cut_log_back(run, step);
}

static void look(stm_run_folder *run)
{
    char path[4096];
    for (int i = 0; i < N_REQUEST_FILES; i++) {
        const int n = snprintf(path, sizeof path, "%s/%s", run->path, request_files[i].name);
        if (n > 0 && n < (int)sizeof path && access(path, F_OK) == 0)
            run->requests |= request_files[i].bit;
    }
}

int stm_run_folder_requests(stm_run_folder *run, double now_s)
{
    if (!run)
        return 0;
    if (!run->looked || now_s - run->looked_s >= LOOK_EVERY_S) {
        look(run);
        run->requests |= stm_run_lock_is_lost(run->lock) ? STM_REQUEST_LOST : 0;
        run->looked = true;
        run->looked_s = now_s;
    }
    return run->requests;
}

stm_status stm_run_folder_acknowledge(stm_run_folder *run, int requests)
{
    if (!run)
        return STM_OK;
    run->requests &= ~requests;
    for (int i = 0; i < N_REQUEST_FILES; i++)
        if (requests & request_files[i].bit)
            STM_TRY(remove_file_in(run, request_files[i].name));
    return STM_OK;
}

stm_status stm_run_folder_done(stm_run_folder *run, int64_t step)
{
    if (!run)
        return STM_OK;
    char text[64];
    const int n = snprintf(text, sizeof text, "step %lld\n", (long long)step);
    return replace_file_in(run, "DONE", text, (size_t)n);
}

stm_status stm_run_folder_rollouts(stm_run_folder *run, const char *kind, int64_t step, const char *lines, size_t n)
{
    if (!run)
        return STM_OK;
    char *name;
    STM_TRY(stm_format(&name, "rollouts/%s-%08lld.jsonl", kind, (long long)step));
    const stm_status status = replace_file_in(run, name, lines, n);
    free(name);
    return status;
}

const char *stm_run_folder_path(const stm_run_folder *run)
{
    return run ? run->path : NULL;
}
