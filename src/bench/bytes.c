#include "bench/bytes.h"

#include <string.h>

#include "group/chunk.h"

static double weight_reals(const stm_model *model)
{
    const stm_model_config *c = &model->config;
    return (double)(model->n_parameters - (c->tied ? 0 : c->vocab_size * c->hidden_size));
}

/* Of the operand that products read. */
static size_t weight_bytes(const stm_backend *backend)
{
    return strcmp(backend->precision, "bfloat16") == 0 ? 2 : backend->real_bytes;
}

double stm_bench_decode_bytes(const stm_model *model, const stm_grid *grid, const stm_batch *batch, size_t group_size,
                              size_t n_new, double rounds)
{
    const double token_bytes = (double)stm_chunk_kv_bytes(model, 1, false);
    const double readers = STM_MIN((double)grid->team_size, (double)group_size); /* ranks that read a prompt's K, V */
    const double own = 0.5 * (double)n_new * (double)(n_new + 1);
    double bytes = rounds * grid->n_ranks * weight_reals(model) * (double)weight_bytes(model->backend);
    for (size_t g = 0; g < batch->n_groups; g++)
        bytes += token_bytes *
                 (readers * (double)n_new * (double)(batch->groups[g].n_prompt - 1) + (double)group_size * own);
    return bytes;
}

/* Rows of a group's longest path, and those of its answers that stand beside each other below it. */
typedef struct {
    size_t path, beside;
} group_rows;

static group_rows rows_of(const stm_group *group, bool shared)
{
    size_t longest = 0, all = 0;
    for (size_t i = 0; i < group->n_responses; i++) {
        longest = STM_MAX(longest, group->responses[i].n);
        all += group->responses[i].n;
    }
    return shared ? (group_rows){group->n_prompt - 1, all} : (group_rows){group->n_prompt + longest - 1, 0};
}

double stm_bench_update_bytes(const stm_model *model, size_t static_bytes, size_t chunk_rows, const stm_batch *batch,
                              bool shared, bool kept)
{
    size_t most = 0;
    for (size_t g = 0; g < batch->n_groups; g++) {
        const group_rows rows = rows_of(&batch->groups[g], shared);
        const size_t open = rows.path + STM_MIN(rows.beside, chunk_rows), piece = STM_MIN(open, chunk_rows);
        const size_t bytes = stm_chunk_kv_bytes(model, open, true) + stm_chunk_kept_bytes(model, kept ? open : piece) +
                             stm_chunk_scratch_bytes(model, piece, true);
        most = STM_MAX(most, bytes);
    }
    return (double)static_bytes + (double)most;
}
