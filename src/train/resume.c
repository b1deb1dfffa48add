#include "train/resume.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "checkpoint/load.h"
#include "train/tries.h"

void stm_resume_point_clear(stm_resume_point *point)
{
    free(point->path);
    free(point->refused);
    *point = (stm_resume_point){0};
}

/* Calibration */

stm_calibration stm_calibration_of(const stm_policy *policy)
{
    const stm_engine_settings *settings = stm_engine_settings_of(policy->engine);
    return (stm_calibration){.n_ranks = policy->grid->n_ranks,
                             .n_stages = policy->grid->n_stages,
                             .ranks_per_node = policy->grid->node_size,
                             .limit_bytes = (int64_t)settings->limit_bytes,
                             .chunk_rows = (int64_t)settings->chunk_rows,
                             .rates = settings->placement.rates};
}

void stm_calibration_apply(const stm_policy *policy, const stm_calibration *calibration)
{
    stm_engine_settings *settings = stm_engine_settings_of(policy->engine);
    settings->limit_bytes = (size_t)calibration->limit_bytes;
    settings->chunk_rows = (size_t)calibration->chunk_rows;
    settings->placement.rates = calibration->rates;
}

/* The same layout and the same wishes; a machine with about as much memory (kernels keep a little more or less). */
static bool is_same_layout(const stm_calibration *saved, const stm_calibration *now, const stm_options *options_saved,
                           const stm_options *options_now)
{
    const double ratio = (double)saved->limit_bytes / (double)now->limit_bytes;
    return saved->n_ranks == now->n_ranks && saved->n_stages == now->n_stages &&
           saved->ranks_per_node == now->ranks_per_node && ratio > 0.95 && ratio < 1.05 &&
           options_saved->memory.limit_bytes == options_now->memory.limit_bytes &&
           options_saved->memory.chunk_tokens == options_now->memory.chunk_tokens &&
           strcmp(options_saved->parallel.machine, options_now->parallel.machine) == 0;
}

/* Comparing */

static stm_status compare_options(const char *path, const stm_options *saved, const stm_options *now)
{
    char *names;
    STM_TRY(stm_options_difference(saved, now, &names));
    const stm_status status =
        *names
            ? stm_fail(STM_ERR_INPUT,
                       "%s: this run has other options: %s; expected the same. Give them on the command line to go on "
                       "with them, or name another run.folder",
                       path, names)
            : STM_OK;
    free(names);
    return status;
}

static stm_status refuse_other(const char *path, const stm_options *options, const char *what, uint64_t saved,
                               uint64_t now)
{
    return stm_fail(STM_ERR_INPUT,
                    "model.path: %s has %s (XXH3 %016" PRIx64 ") than the model (%016" PRIx64 ") that the run in %s "
                    "began with; expected the same",
                    options->model.path, what, now, saved, path);
}

/* Other weights, or other texts: another configuration or tokenizer would give the weights another meaning. */
static stm_status compare_start(const stm_policy *policy, const stm_checkpoint_state *state, uint64_t start_hash,
                                const char *path)
{
    uint64_t hashes[STM_CHECKPOINT_N_TEXTS];
    char what[64];
    if (state->model_hash != start_hash)
        return refuse_other(path, policy->options, "other weights", state->model_hash, start_hash);
    stm_checkpoint_text_hashes(policy->model, hashes);
    for (size_t i = 0; i < STM_CHECKPOINT_N_TEXTS; i++) {
        snprintf(what, sizeof what, "another %s", stm_checkpoint_text_names[i]);
        if (state->text_hashes[i] != hashes[i])
            return refuse_other(path, policy->options, what, state->text_hashes[i], hashes[i]);
    }
    return STM_OK;
}

static stm_status compare_reference(const char *path, uint64_t saved, uint64_t now)
{
    if (saved == now)
        return STM_OK;
    return stm_fail(STM_ERR_INPUT,
                    "reference.paths: found models whose average (XXH3 %016" PRIx64
                    ") is another than that (%016" PRIx64 ") which the run in %s began with; expected the same",
                    now, saved, path);
}

static stm_status take_state(const stm_policy *policy, const stm_checkpoint_state *state, uint64_t start_hash,
                             uint64_t reference_hash, const stm_options *saved, stm_resume_point *point)
{
    STM_TRY(compare_options(point->path, saved, policy->options));
    STM_TRY(compare_start(policy, state, start_hash, point->path));
    STM_TRY(stm_progress_read(point->path, state->trainer_json, &point->progress, &point->calibration));
    STM_TRY(compare_reference(point->path, point->progress.reference_hash, reference_hash));
    point->progress.step = state->step;
    point->progress.cursor = state->cursor;
    point->progress.best = state->best;
    const stm_calibration now = stm_calibration_of(policy);
    point->recalibrated = is_same_layout(&point->calibration, &now, saved, policy->options);
    return STM_OK;
}

static stm_status read_point(const stm_policy *policy, uint64_t start_hash, uint64_t reference_hash,
                             stm_resume_point *point)
{
    stm_checkpoint_state state = {0};
    stm_options saved;
    STM_TRY(stm_options_init(&saved));
    stm_status status;
    STM_GOTO_OUT(stm_checkpoint_read_state(policy->grid->world, point->path, &state));
    STM_GOTO_OUT(
        stm_options_read_text(&saved, STM_COMMAND_TRAIN, point->path, state.options_yaml, strlen(state.options_yaml)));
    STM_GOTO_OUT(take_state(policy, &state, start_hash, reference_hash, &saved, point));
out:
    stm_checkpoint_state_clear(&state);
    stm_options_clear(&saved);
    return stm_agree(policy->grid, status);
}

/* Finding */

/* The newest good one. Where there are files and none is good, nothing begins anew unasked. Collective. */
static stm_status find_newest(const stm_policy *policy, const char *folder, stm_resume_point *point)
{
    const stm_grid *grid = policy->grid;
    char *tired = NULL;
    stm_status status;
    STM_GOTO_OUT(stm_agree(grid, grid->rank == 0 ? stm_tries_tired(policy->options->run.folder, &tired) : STM_OK));
    STM_GOTO_OUT(stm_share_text(grid->world, &tired));
    STM_GOTO_OUT(stm_checkpoint_find(grid->world, folder, tired, &point->path, &point->refused));
    if (!point->path && point->refused)
        status = stm_fail(STM_ERR_INPUT,
                          "%s: no checkpoint is whole (%.*s); expected a whole one, --resume=PATH, or --resume=never "
                          "to begin anew",
                          folder, (int)strcspn(point->refused, "\n"), point->refused);
out:
    free(tired);
    return status;
}

static stm_status find_path(const stm_policy *policy, const char *folder, stm_resume_point *point)
{
    const char *resume = policy->options->resume;
    if (strcmp(resume, "never") == 0)
        return STM_OK;
    if (strcmp(resume, "auto") == 0)
        return find_newest(policy, folder, point);
    STM_TRY(stm_agree(policy->grid, stm_format(&point->path, "%s", resume)));
    const stm_status status = stm_checkpoint_verify(policy->grid->world, resume);
    return status == STM_OK ? STM_OK : stm_fail_context(status, "--resume");
}

stm_status stm_resume_find(const stm_policy *policy, const char *folder, uint64_t start_hash, uint64_t reference_hash,
                           stm_resume_point *out)
{
    *out = (stm_resume_point){0};
    stm_progress_init(&out->progress);
    STM_TRY(find_path(policy, folder, out));
    return out->path ? read_point(policy, start_hash, reference_hash, out) : STM_OK;
}

/* Setting aside */

/* step-N.h5 of a later step, or a best.h5 of one. */
static bool is_later(const char *folder, const char *name, int64_t step)
{
    char *path, *end;
    if (strncmp(name, "step-", 5) == 0) {
        const int64_t found = strtoll(name + 5, &end, 10);
        return end > name + 5 && strcmp(end, ".h5") == 0 && found > step;
    }
    if (strcmp(name, "best.h5") != 0)
        return false;
    stm_checkpoint_state state = {0};
    if (stm_format(&path, "%s/%s", folder, name) != STM_OK)
        return false;
    const bool later = stm_checkpoint_state_here(path, &state) != STM_OK || state.step > step;
    stm_checkpoint_state_clear(&state);
    free(path);
    return later;
}

/* The first of folder.old, folder.old.2, .. that is not there; made. */
static stm_status make_free_folder(const char *folder, char **where)
{
    for (int i = 1;; i++) {
        if (i == 1)
            STM_TRY(stm_format(where, "%s.old", folder));
        else
            STM_TRY(stm_format(where, "%s.old.%d", folder, i));
        if (mkdir(*where, 0777) == 0)
            return STM_OK;
        const int why = errno;
        const stm_status status =
            why == EEXIST ? STM_OK : stm_fail(STM_ERR_IO, "%s: cannot be made: %s", *where, strerror(why));
        free(*where);
        *where = NULL;
        STM_TRY(status);
    }
}

static stm_status move_file(const char *folder, const char *name, const char *where)
{
    char *from = NULL, *to = NULL;
    stm_status status;
    STM_GOTO_OUT(stm_format(&from, "%s/%s", folder, name));
    STM_GOTO_OUT(stm_format(&to, "%s/%s", where, name));
    if (rename(from, to) != 0)
        status = stm_fail(STM_ERR_IO, "%s: cannot be renamed to %s: %s", from, to, strerror(errno));
out:
    free(from);
    free(to);
    return status;
}

stm_status stm_set_aside_later(const char *folder, int64_t step, char **where)
{
    stm_status status = STM_OK;
    *where = NULL;
    DIR *listing = opendir(folder);
    if (!listing)
        return errno == ENOENT ? STM_OK : stm_fail(STM_ERR_IO, "%s: cannot be read: %s", folder, strerror(errno));
    for (const struct dirent *entry; (entry = readdir(listing));) {
        if (!is_later(folder, entry->d_name, step))
            continue;
        if (!*where)
            STM_GOTO_OUT(make_free_folder(folder, where));
        STM_GOTO_OUT(move_file(folder, entry->d_name, *where));
    }
out:
    closedir(listing);
    return status;
}
