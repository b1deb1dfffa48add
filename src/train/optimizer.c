#include "train/optimizer.h"

#include <math.h>

#include "group/tied.h"

enum { BUCKET = 1 << 20 }; /* elements that a reduction handles at once */

static stm_shards cut(const stm_model *model, int n_ranks)
{
    return (stm_shards){.first = model->own.first, .n = model->own.n, .bucket_n = BUCKET, .n_ranks = n_ranks};
}

size_t stm_optimizer_bytes(const stm_model *model, int n_ranks)
{
    const stm_shards shards = cut(model, n_ranks);
    return stm_model_own_bytes(model) + 2 * stm_shards_count(&shards, 0) * model->backend->real_bytes;
}

static stm_status take_zeroed(const stm_model *model, size_t n, void **out)
{
    const stm_backend *backend = model->backend;
    STM_TRY(backend->alloc(model->stream, n * backend->real_bytes, out));
    return backend->zero(model->stream, *out, n * backend->real_bytes);
}

stm_status stm_optimizer_create(const stm_model *model, int rank, int n_ranks, stm_optimizer *optimizer)
{
    *optimizer = (stm_optimizer){.shards = cut(model, n_ranks)};
    const size_t owned = stm_shards_count(&optimizer->shards, rank);
    STM_TRY(stm_model_array_create(model, &optimizer->gradient));
    STM_TRY(stm_model_array_zero(model, optimizer->gradient));
    STM_TRY(take_zeroed(model, owned, &optimizer->exp_avg));
    return take_zeroed(model, owned, &optimizer->exp_avg_sq);
}

void stm_optimizer_destroy(stm_optimizer *optimizer, const stm_model *model)
{
    void *memory[] = {optimizer->exp_avg, optimizer->exp_avg_sq};
    stm_model_array_destroy(model, optimizer->gradient);
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        if (memory[i])
            model->backend->free(model->stream, memory[i]);
    *optimizer = (stm_optimizer){0};
}

/* 2-norm of the whole gradient, from the squares of each rank's shard. */
static stm_status gradient_norm(const stm_optimizer *o, const stm_policy *policy, double *norm)
{
    const stm_backend *backend = policy->model->backend;
    double sum = 0;
    stm_status status = STM_OK;
    for (size_t i = 0; i < stm_shards_n_ranges(&o->shards) && status == STM_OK; i++) {
        size_t first, n;
        double squares = 0;
        stm_shards_range(&o->shards, policy->grid->stage_rank, i, &first, &n);
        status = backend->sum_squares(policy->model->stream, n, stm_at(backend, o->gradient, first), &squares);
        sum += squares;
    }
    STM_TRY(stm_agree(policy->grid, status));
    stm_all_reduce(policy->grid->world, &sum, 1, sizeof sum);
    *norm = sqrt(sum);
    return STM_OK;
}

/* AdamW on the ranges that this rank owns. */
static stm_status step_shard(stm_optimizer *o, const stm_policy *policy, double lr, double scale)
{
    const stm_backend *backend = policy->model->backend;
    const stm_options *options = policy->options;
    size_t packed = 0;
    for (size_t i = 0; i < stm_shards_n_ranges(&o->shards); i++) {
        size_t first, n;
        stm_shards_range(&o->shards, policy->grid->stage_rank, i, &first, &n);
        const stm_adamw args = {.n = n,
                                .step = o->n_updates,
                                .lr = lr,
                                .beta1 = options->optim.betas[0],
                                .beta2 = options->optim.betas[1],
                                .eps = options->optim.eps,
                                .weight_decay = options->optim.weight_decay,
                                .scale = scale,
                                .parameter = stm_at(backend, policy->model->weights, first),
                                .gradient = stm_at(backend, o->gradient, first),
                                .exp_avg = stm_at(backend, o->exp_avg, packed),
                                .exp_avg_sq = stm_at(backend, o->exp_avg_sq, packed)};
        if (n > 0)
            STM_TRY(backend->adamw(policy->model->stream, &args));
        packed += n;
    }
    return backend->synchronize(policy->model->stream);
}

/* Groups that skip_equal_groups leaves out would not be computed in the repeated form either. */
static double rows_repeated(const stm_batch *batch, const stm_objective *objective,
                            const stm_objective_options *options)
{
    const bool skips = options->skip_equal_groups && objective->needs_rewards && options->kl_coef == 0;
    double rows = 0;
    for (size_t g = 0; g < batch->n_groups; g++) {
        const stm_batch group = {.n_groups = 1, .groups = batch->groups + g};
        if (!skips || !stm_group_is_equal(&batch->groups[g]))
            rows += stm_engine_rows_repeated(&group, true);
    }
    return rows;
}

/* This rank's part of the gradient, and what it took. */
static stm_status compute_gradient(stm_optimizer *o, const stm_policy *policy, const stm_batch *batch,
                                   const stm_objective *objective, const stm_objective_options *options,
                                   stm_update_counts *counts)
{
    stm_totals totals;
    stm_totals_of(batch, &totals);
    STM_TRY(stm_agree(policy->grid, stm_model_array_zero(policy->model, o->gradient)));
    const stm_status status = stm_objective_gradient(policy->engine, policy->grid, batch, objective, options, &totals,
                                                     o->gradient, &counts->sums);
    counts->rows = stm_engine_counts(policy->engine)->rows;
    counts->rows_repeated = rows_repeated(batch, objective, options);
    stm_all_reduce(policy->grid->world, &counts->rows, 1, sizeof counts->rows);
    return status;
}

static void reduce_gradient(stm_optimizer *o, const stm_policy *policy)
{
    stm_timers_push(policy->timers, STM_PHASE_GRADIENTS);
    stm_tied_add_gradient(policy->grid, policy->model, o->gradient);
    stm_reduce_scatter(policy->grid->stage_comm, &o->shards, o->gradient, policy->model->backend->real_bytes);
    stm_timers_pop(policy->timers, STM_PHASE_GRADIENTS);
}

static stm_status apply(stm_optimizer *o, const stm_policy *policy, double lr, double norm)
{
    const double clip = policy->options->optim.clip;
    stm_timers_push(policy->timers, STM_PHASE_OPTIMIZER);
    o->n_updates++;
    STM_TRY(stm_agree(policy->grid, step_shard(o, policy, lr, clip > 0 && norm > clip ? clip / norm : 1.0)));
    stm_timers_pop(policy->timers, STM_PHASE_OPTIMIZER);
    stm_timers_push(policy->timers, STM_PHASE_GATHER);
    stm_all_gather_shards(policy->grid->stage_comm, &o->shards, policy->model->weights,
                          policy->model->backend->real_bytes);
    stm_tied_copy_weights(policy->grid, policy->model, policy->model->weights);
    const stm_status status = stm_agree(policy->grid, stm_model_weights_changed(policy->model));
    stm_timers_pop(policy->timers, STM_PHASE_GATHER);
    return status;
}

stm_status stm_optimizer_update(stm_optimizer *o, const stm_policy *policy, const stm_batch *batch,
                                const stm_objective *objective, const stm_objective_options *options, double lr,
                                stm_update_counts *counts)
{
    *counts = (stm_update_counts){.grad_norm = NAN};
    stm_timers_push(policy->timers, STM_PHASE_UPDATE);
    const stm_status status = compute_gradient(o, policy, batch, objective, options, counts);
    stm_timers_pop(policy->timers, STM_PHASE_UPDATE);
    if (status != STM_OK && status != STM_ERR_NUMERIC)
        return status;
    counts->bad_logprobs = status == STM_ERR_NUMERIC;
    if (status == STM_OK) {
        reduce_gradient(o, policy);
        STM_TRY(gradient_norm(o, policy, &counts->grad_norm));
    }
    counts->skipped = !isfinite(counts->grad_norm) || !isfinite(counts->sums.loss);
    return counts->skipped ? STM_OK : apply(o, policy, lr, counts->grad_norm);
}
