#include "train/parameter_set.h"

#include <stdlib.h>

#include "group/device_reach.h"
#include "group/tied.h"
#include "mpi/gathering.h"
#include "train/optimizer.h"

struct stm_parameter_set {
    const stm_model *model;
    const stm_grid *grid;
    stm_shards shards;
    void *shard; /* [stm_shards_count]: this rank's ranges one after the other */
    void *room;  /* for the largest of them, while it is swapped */
    stm_gathering *gathering;
};

static size_t largest_range(const stm_shards *shards, int rank)
{
    size_t largest = 0;
    for (size_t i = 0; i < stm_shards_n_ranges(shards); i++) {
        size_t first, n;
        stm_shards_range(shards, rank, i, &first, &n);
        largest = STM_MAX(largest, n);
    }
    return largest;
}

size_t stm_parameter_set_bytes(const stm_model *model, int n_ranks, size_t bucket_n)
{
    const stm_shards shards = stm_optimizer_cut(model, n_ranks, bucket_n);
    return (stm_shards_count(&shards, 0) + largest_range(&shards, 0)) * model->backend->real_bytes +
           (n_ranks > 1 ? stm_device_reach_courier_bytes(model->backend) : 0);
}

stm_status stm_parameter_set_renew(stm_parameter_set *set)
{
    const stm_backend *backend = set->model->backend;
    size_t packed = 0;
    for (size_t i = 0; i < stm_shards_n_ranges(&set->shards); i++) {
        size_t first, n;
        stm_shards_range(&set->shards, set->grid->stage_rank, i, &first, &n);
        STM_TRY(backend->copy(set->model->stream, stm_at(backend, set->shard, packed),
                              stm_at(backend, set->model->weights, first), n * backend->real_bytes));
        packed += n;
    }
    return backend->synchronize(set->model->stream);
}

stm_status stm_parameter_set_create(const stm_model *model, const stm_grid *grid, size_t bucket_n,
                                    stm_parameter_set **out)
{
    const stm_backend *backend = model->backend;
    stm_parameter_set *set;
    stm_status status;
    STM_TRY(stm_alloc(1, sizeof *set, &set));
    *set = (stm_parameter_set){
        .model = model, .grid = grid, .shards = stm_optimizer_cut(model, grid->stage_size, bucket_n)};
    const size_t n = stm_shards_count(&set->shards, grid->stage_rank),
                 n_room = largest_range(&set->shards, grid->stage_rank);
    STM_GOTO_OUT(stm_fail_memory_of(backend->alloc(model->stream, n * backend->real_bytes, &set->shard),
                                    "a copy of the model", "a larger number of ranks"));
    STM_GOTO_OUT(backend->alloc(model->stream, n_room * backend->real_bytes, &set->room));
    STM_GOTO_OUT(
        stm_gathering_create(grid->stage_comm, &set->shards, backend->real_bytes, grid->stage_reach, &set->gathering));
    STM_GOTO_OUT(stm_parameter_set_renew(set));
    *out = set;
    return STM_OK;
out:
    stm_parameter_set_destroy(set);
    return status;
}

void *stm_parameter_set_shard(const stm_parameter_set *set)
{
    return set->shard;
}

void stm_parameter_set_destroy(stm_parameter_set *set)
{
    if (!set)
        return;
    void *memory[] = {set->shard, set->room};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        if (memory[i])
            set->model->backend->free(set->model->stream, memory[i]);
    stm_gathering_destroy(set->gathering);
    free(set);
}

static stm_status swap(const stm_parameter_set *set, void *a, void *b, size_t bytes)
{
    const stm_backend *backend = set->model->backend;
    stm_stream *stream = set->model->stream;
    STM_TRY(backend->copy(stream, set->room, a, bytes));
    STM_TRY(backend->copy(stream, a, b, bytes));
    return backend->copy(stream, b, set->room, bytes);
}

static stm_status swap_shard(const stm_parameter_set *set)
{
    const stm_backend *backend = set->model->backend;
    size_t packed = 0;
    for (size_t i = 0; i < stm_shards_n_ranges(&set->shards); i++) {
        size_t first, n;
        stm_shards_range(&set->shards, set->grid->stage_rank, i, &first, &n);
        STM_TRY(swap(set, stm_at(backend, set->shard, packed), stm_at(backend, set->model->weights, first),
                     n * backend->real_bytes));
        packed += n;
    }
    return backend->synchronize(set->model->stream);
}

/* A rank whose device fails still takes part in the messages. */
stm_status stm_parameter_set_exchange(stm_parameter_set *set)
{
    const stm_model *model = set->model;
    stm_status status = swap_shard(set);
    stm_gathering_begin(set->gathering, model->weights);
    stm_gathering_finish(set->gathering);
    stm_tied_copy_weights(set->grid, model, model->weights);
    if (status == STM_OK)
        status = stm_model_weights_changed(model);
    return stm_agree(set->grid, status);
}

/* Blending, through the host: it is rare. */

enum { PORTION = 1 << 16 };

static void blend_reals(size_t real_bytes, size_t n, double keep, double share, void *set, const void *model)
{
    double *const d = set;
    float *const f = set;
    if (real_bytes == sizeof(double))
        for (size_t i = 0; i < n; i++)
            d[i] = keep * d[i] + share * ((const double *)model)[i];
    else
        for (size_t i = 0; i < n; i++)
            f[i] = (float)(keep * (double)f[i] + share * (double)((const float *)model)[i]);
}

/* Elements [first, first + n) of the model's, `packed` of the shard. room: [2 * PORTION]. */
static stm_status blend_range(const stm_parameter_set *set, size_t first, size_t packed, size_t n, double keep,
                              double share, char *room)
{
    const stm_backend *backend = set->model->backend;
    stm_stream *stream = set->model->stream;
    char *const other = room + PORTION * backend->real_bytes;
    for (size_t done = 0; done < n; done += PORTION) {
        const size_t some = STM_MIN((size_t)PORTION, n - done), bytes = some * backend->real_bytes;
        void *const at = stm_at(backend, set->shard, packed + done);
        STM_TRY(backend->read(stream, room, at, bytes));
        STM_TRY(backend->read(stream, other, stm_at(backend, set->model->weights, first + done), bytes));
        blend_reals(backend->real_bytes, some, keep, share, room, other);
        STM_TRY(backend->write(stream, at, room, bytes));
        STM_TRY(backend->synchronize(stream)); /* the room is written again */
    }
    return STM_OK;
}

stm_status stm_parameter_set_blend(stm_parameter_set *set, double keep, double share)
{
    size_t packed = 0;
    char *room;
    stm_status status = STM_OK;
    STM_TRY(stm_alloc(2 * PORTION, set->model->backend->real_bytes, &room));
    for (size_t i = 0; i < stm_shards_n_ranges(&set->shards) && status == STM_OK; i++) {
        size_t first, n;
        stm_shards_range(&set->shards, set->grid->stage_rank, i, &first, &n);
        status = blend_range(set, first, packed, n, keep, share, room);
        packed += n;
    }
    free(room);
    return status;
}
