#include "train/optimizer.h"

#include <math.h>

#include "group/tied.h"

static stm_shards cut(const stm_model *model, int n_ranks, size_t bucket_n)
{
    return (stm_shards){.first = model->own.first, .n = model->own.n, .bucket_n = bucket_n, .n_ranks = n_ranks};
}

size_t stm_optimizer_bytes(const stm_model *model, int n_ranks)
{
    const stm_shards shards = cut(model, n_ranks, STM_OPTIMIZER_BUCKET);
    const size_t real_bytes = model->backend->real_bytes;
    return stm_model_own_bytes(model) + 2 * stm_shards_count(&shards, 0) * real_bytes +
           (n_ranks > 1 ? stm_reduction_bytes(&shards, real_bytes) : 0);
}

static stm_status take_zeroed(const stm_model *model, size_t n, void **out)
{
    const stm_backend *backend = model->backend;
    STM_TRY(backend->alloc(model->stream, n * backend->real_bytes, out));
    return backend->zero(model->stream, *out, n * backend->real_bytes);
}

stm_status stm_optimizer_create(const stm_model *model, const stm_grid *grid, size_t bucket_n, stm_optimizer *optimizer)
{
    *optimizer = (stm_optimizer){.shards = cut(model, grid->stage_size, bucket_n)};
    const size_t owned = stm_shards_count(&optimizer->shards, grid->stage_rank),
                 real_bytes = model->backend->real_bytes;
    if (grid->stage_size > 1) {
        STM_TRY(stm_reduction_create(grid->stage_comm, &optimizer->shards, real_bytes, &optimizer->reduction));
        STM_TRY(stm_gathering_create(grid->stage_comm, &optimizer->shards, real_bytes, &optimizer->gathering));
    }
    STM_TRY(stm_model_array_create(model, &optimizer->gradient));
    STM_TRY(stm_model_array_zero(model, optimizer->gradient));
    STM_TRY(take_zeroed(model, owned, &optimizer->exp_avg));
    return take_zeroed(model, owned, &optimizer->exp_avg_sq);
}

void stm_optimizer_destroy(stm_optimizer *optimizer, const stm_model *model)
{
    void *memory[] = {optimizer->exp_avg, optimizer->exp_avg_sq};
    stm_reduction_destroy(optimizer->reduction);
    stm_gathering_destroy(optimizer->gathering);
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

/* The model's weights are those of this stage, whose ranks each have written what they own. */
static void begin_gathering(const stm_optimizer *o, const stm_policy *policy)
{
    if (o->gathering)
        stm_gathering_begin(o->gathering, policy->model->weights);
}

static void finish_gathering(const stm_optimizer *o)
{
    if (o->gathering)
        stm_gathering_finish(o->gathering);
}

/* The first n buckets of this rank are written: they leave while it goes on. */
static stm_status offer_buckets(const stm_optimizer *o, const stm_policy *policy, size_t n)
{
    if (!o->gathering)
        return STM_OK;
    STM_TRY(policy->model->backend->synchronize(policy->model->stream));
    stm_gathering_offer(o->gathering, n);
    stm_gathering_drive(o->gathering);
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
        STM_TRY(offer_buckets(o, policy, i + 1));
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

/* The gradient over all ranks: they sum while they compute, and a rank that fails takes part to the end. */
static stm_status summed_gradient(stm_optimizer *o, const stm_policy *policy, const stm_batch *batch,
                                  const stm_objective *objective, const stm_objective_options *options,
                                  const stm_totals *totals, stm_objective_sums *sums)
{
    stm_engine_settings *settings = stm_engine_settings_of(policy->engine);
    if (o->reduction)
        stm_reduction_begin(o->reduction, o->gradient);
    settings->reduction = o->reduction;
    const stm_status status =
        stm_objective_gradient(policy->engine, policy->grid, batch, objective, options, totals, o->gradient, sums);
    settings->reduction = NULL;
    stm_timers_push(policy->timers, STM_PHASE_GRADIENTS);
    stm_tied_add_gradient(policy->grid, policy->model, o->gradient);
    if (o->reduction)
        stm_reduction_finish(o->reduction);
    stm_timers_pop(policy->timers, STM_PHASE_GRADIENTS);
    return status;
}

/* The gradient, and what it took. */
static stm_status compute_gradient(stm_optimizer *o, const stm_policy *policy, const stm_batch *batch,
                                   const stm_objective *objective, const stm_objective_options *options,
                                   stm_update_counts *counts)
{
    stm_totals totals;
    stm_totals_of(batch, &totals);
    STM_TRY(stm_agree(policy->grid, stm_model_array_zero(policy->model, o->gradient)));
    const stm_status status = summed_gradient(o, policy, batch, objective, options, &totals, &counts->sums);
    counts->rows = stm_engine_counts(policy->engine)->rows;
    counts->rows_repeated = rows_repeated(batch, objective, options);
    stm_all_reduce(policy->grid->world, &counts->rows, 1, sizeof counts->rows);
    return status;
}

static stm_status apply(stm_optimizer *o, const stm_policy *policy, double lr, double norm)
{
    const double clip = policy->options->optim.clip;
    stm_timers_push(policy->timers, STM_PHASE_OPTIMIZER);
    o->n_updates++;
    begin_gathering(o, policy);
    stm_status status = step_shard(o, policy, lr, clip > 0 && norm > clip ? clip / norm : 1.0);
    stm_timers_pop(policy->timers, STM_PHASE_OPTIMIZER);
    stm_timers_push(policy->timers, STM_PHASE_GATHER);
    finish_gathering(o);
    stm_tied_copy_weights(policy->grid, policy->model, policy->model->weights);
    if (status == STM_OK)
        status = stm_model_weights_changed(policy->model);
    status = stm_agree(policy->grid, status);
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
    if (status == STM_OK)
        STM_TRY(gradient_norm(o, policy, &counts->grad_norm));
    counts->skipped = !isfinite(counts->grad_norm) || !isfinite(counts->sums.loss);
    return counts->skipped ? STM_OK : apply(o, policy, lr, counts->grad_norm);
}
