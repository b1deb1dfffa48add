#include "train/copies.h"

#include "objective/objective.h"
#include "train/optimizer.h"
#include "train/reference.h"

static bool has_need(const stm_options *o, unsigned need)
{
    return !*o->data.groups && (stm_objective_find(o->objective.name)->needs(&o->objective) & need);
}

/* Recorded groups bring the log-probs of either along. */
static bool needs_target(const stm_options *o)
{
    return has_need(o, STM_NEEDS_TARGET);
}

bool stm_copies_have_twin(const stm_options *options)
{
    return has_need(options, STM_NEEDS_TWIN);
}

size_t stm_copies_count(const stm_options *options)
{
    return (size_t)needs_target(options) + (stm_copies_have_twin(options) ? 3 : 0);
}

/* The twin is asked, and the policy after its update. */
size_t stm_copies_n_scores(const stm_options *options)
{
    return (size_t)needs_target(options) + (stm_copies_have_twin(options) ? 2 : 0);
}

size_t stm_copies_bytes(const stm_options *options, const stm_model *model, int n_ranks)
{
    const bool twin = stm_copies_have_twin(options);
    const size_t n_sets = (size_t)needs_target(options) + (size_t)twin,
                 moments = 2 * stm_optimizer_owned(model, n_ranks) * model->backend->real_bytes;
    return n_sets * stm_parameter_set_bytes(model, n_ranks, stm_optimizer_bucket(n_ranks)) + (twin ? moments : 0);
}

static stm_status create_moment(const stm_copies *copies, const stm_grid *grid, size_t bucket_n, void **out)
{
    const stm_model *model = copies->model;
    const stm_shards shards = stm_optimizer_cut(model, grid->stage_size, bucket_n);
    const size_t bytes = stm_shards_count(&shards, grid->stage_rank) * model->backend->real_bytes;
    STM_TRY(stm_fail_memory_of(model->backend->alloc(model->stream, bytes, out), "the moments of a copy of the model",
                               "a larger number of ranks"));
    STM_TRY(model->backend->zero(model->stream, *out, bytes));
    return model->backend->synchronize(model->stream);
}

stm_status stm_copies_create(const stm_policy *policy, stm_copies *copies)
{
    const stm_grid *grid = policy->grid;
    const size_t bucket_n = stm_optimizer_bucket(grid->stage_size);
    *copies = (stm_copies){.model = policy->model};
    if (needs_target(policy->options))
        STM_TRY(stm_parameter_set_create(policy->model, grid, bucket_n, &copies->target));
    if (!stm_copies_have_twin(policy->options))
        return STM_OK;
    STM_TRY(stm_parameter_set_create(policy->model, grid, bucket_n, &copies->twin));
    STM_TRY(create_moment(copies, grid, bucket_n, &copies->exp_avg));
    return create_moment(copies, grid, bucket_n, &copies->exp_avg_sq);
}

void stm_copies_clear(stm_copies *copies)
{
    void *memory[] = {copies->exp_avg, copies->exp_avg_sq};
    stm_parameter_set_destroy(copies->target);
    stm_parameter_set_destroy(copies->twin);
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        if (memory[i])
            copies->model->backend->free(copies->model->stream, memory[i]);
    *copies = (stm_copies){0};
}

stm_status stm_copies_renew(const stm_copies *copies, const stm_options *options, int64_t step)
{
    return copies->target && step % options->objective.prox_every == 0 ? stm_parameter_set_renew(copies->target)
                                                                       : STM_OK;
}

void stm_copies_place(const stm_copies *copies, stm_checkpoint_state *state)
{
    state->copies[STM_COPY_TARGET] = copies->target ? stm_parameter_set_shard(copies->target) : NULL;
    state->copies[STM_COPY_TWIN] = copies->twin ? stm_parameter_set_shard(copies->twin) : NULL;
    state->copies[STM_COPY_TWIN_EXP_AVG] = copies->exp_avg;
    state->copies[STM_COPY_TWIN_EXP_AVG_SQ] = copies->exp_avg_sq;
}

stm_status stm_copies_score(const stm_copies *copies, const stm_policy *policy, stm_batch *batch)
{
    if (copies->target)
        STM_TRY(stm_reference_score(copies->target, policy, STM_ROW_TARGET, batch));
    return copies->twin ? stm_reference_score(copies->twin, policy, STM_ROW_TWIN, batch) : STM_OK;
}
