/* `stemma inspect`: looks into a checkpoint, or into what `score` and `grad` wrote. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/contents.h"
#include "cli/commands.h"

static void print_indented(const char *text)
{
    while (*text) {
        const size_t n = strcspn(text, "\n");
        printf("  %.*s\n", (int)n, text);
        text += n + (text[n] == '\n');
    }
}

static stm_status print_state(const char *path)
{
    stm_checkpoint_state state;
    STM_TRY(stm_checkpoint_state_here(path, &state));
    printf("checkpoint of step %" PRId64 ", saved by stemma %s\n", state.step, state.version);
    printf("seed %" PRIu64 ", data cursor %" PRIu64 ", start model %016" PRIx64 "\n", state.seed, state.cursor,
           state.model_hash);
    if (isnan(state.best))
        printf("best evaluation: none yet\n");
    else
        printf("best evaluation: %.6g\n", state.best);
    printf("options:\n");
    print_indented(state.options_yaml);
    if (*state.trainer_json) {
        printf("trainer:\n");
        print_indented(state.trainer_json);
    }
    stm_checkpoint_state_clear(&state);
    return STM_OK;
}

static void print_contents(const stm_content *contents, size_t n)
{
    int width = 4;
    for (size_t i = 0; i < n; i++)
        width = STM_MAX(width, (int)strlen(contents[i].name));
    printf("%-*s  %-8s  %-14s  %12s  %12s  %12s\n", width, "name", "type", "shape", "norm", "min", "max");
    for (size_t i = 0; i < n; i++) {
        const stm_content *c = &contents[i];
        char shape[128] = "[";
        for (size_t d = 0; d < c->n_dims; d++) {
            const size_t used = strlen(shape);
            snprintf(shape + used, sizeof shape - used, "%s%zu", d ? ", " : "", c->shape[d]);
        }
        printf("%-*s  %-8s  %s]%*s", width, c->name, c->type, shape, STM_MAX(0, 13 - (int)strlen(shape)), "");
        if (c->has_statistics)
            printf("  %12.6g  %12.6g  %12.6g", c->norm, c->min, c->max);
        if (c->n_not_finite)
            printf("  %" PRIu64 " not finite", c->n_not_finite);
        printf("\n");
    }
}

stm_status stm_cli_inspect(const stm_options *options)
{
    const char *path = options->arguments.items[0];
    stm_status verdict = STM_OK;
    struct stat file;
    if (stat(path, &file) == 0 && S_ISDIR(file.st_mode))
        return stm_fail(STM_ERR_INPUT, "%s: found a folder, expected an HDF5 file, like a run's checkpoints/step-*.h5",
                        path);
    if (stm_checkpoint_is(path)) {
        STM_TRY(stm_checkpoint_verify_here(path, 1 << STM_CHECKPOINT_REST)); /* else HDF5 must not look at it */
        STM_TRY(print_state(path));
        verdict = stm_checkpoint_verify_here(path, STM_CHECKPOINT_ALL_KINDS);
        if (verdict == STM_OK)
            printf("hashes: all match\n");
        else
            printf("hashes: %s\n", stm_failure());
    }
    char *why = NULL;
    if (verdict != STM_OK)
        STM_TRY(stm_format(&why, "%s", stm_failure()));
    stm_content *contents;
    size_t n;
    const stm_status status = stm_contents_read(path, &contents, &n);
    if (status == STM_OK) {
        print_contents(contents, n);
        stm_contents_free(contents, n);
        if (verdict != STM_OK)
            stm_fail(verdict, "%s", why);
    }
    free(why);
    return status != STM_OK ? status : verdict;
}
