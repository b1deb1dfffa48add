#include "train/optimizer.h"

#include <math.h>
#include <stdlib.h>

#include "group/device_reach.h"
#include "group/tied.h"

stm_shards stm_optimizer_cut(const stm_model *model, int n_ranks, size_t bucket_n)
{
    return (stm_shards){.first = model->own.first, .n = model->own.n, .bucket_n = bucket_n, .n_ranks = n_ranks};
}

size_t stm_optimizer_bucket(int n_ranks)
{
    enum { LEAST = 1 << 20, LEAST_SHARE = 1 << 14 };
    return STM_MAX((size_t)LEAST, (size_t)n_ranks * LEAST_SHARE);
}

bool stm_optimizer_in_rounds(stm_shard shard, int n_ranks)
{
    return shard == STM_SHARD_GRADIENT && n_ranks > 1;
}

stm_status stm_optimizer_bounds(const stm_model *model, stm_rounds_options *rounds, size_t **bounds)
{
    rounds->n_layers = model->end_layer - model->first_layer;
    STM_TRY(stm_alloc(rounds->n_layers + 1, sizeof **bounds, bounds));
    for (size_t l = 0; l <= rounds->n_layers; l++) {
        const size_t layer = model->first_layer + l;
        (*bounds)[l] = layer < model->config.n_layers ? model->layers[layer].input_norm : model->final_norm;
    }
    rounds->bounds = *bounds;
    return STM_OK;
}

/* The parts of the gradient that no layer has: embedding, or the last stage's copy of it, and final norm and head. */
static void list_ends(const stm_model *model, stm_range ends[2])
{
    const size_t begin = model->layers[model->first_layer].input_norm, end = model->own.first + model->own.n;
    ends[0] = model->tied_copy.n > 0 ? model->tied_copy : (stm_range){model->own.first, begin - model->own.first};
    ends[1] = stm_model_is_last(model) ? (stm_range){model->final_norm, end - model->final_norm} : (stm_range){end, 0};
}

static size_t rounds_bytes(const stm_model *model, const stm_shards *shards)
{
    const size_t first = model->first_layer, real_bytes = model->backend->real_bytes;
    const size_t end = first + 1 < model->config.n_layers ? model->layers[first + 1].input_norm : model->final_norm;
    const size_t bounds[] = {model->layers[first].input_norm, end}; /* all layers are alike */
    const stm_rounds_options options = {.shards = *shards, .n_layers = 1, .bounds = bounds, .real_bytes = real_bytes};
    stm_range ends[2];
    list_ends(model, ends);
    return (STM_ROUNDS_ROOMS * stm_rounds_room_reals(&options) + ends[0].n + ends[1].n + stm_shards_count(shards, 0)) *
               real_bytes +
           stm_rounds_bytes(&options);
}

size_t stm_optimizer_owned(const stm_model *model, int n_ranks)
{
    const stm_shards shards = stm_optimizer_cut(model, n_ranks, stm_optimizer_bucket(n_ranks));
    return stm_shards_count(&shards, 0);
}

size_t stm_optimizer_bytes(const stm_model *model, int n_ranks, stm_shard shard)
{
    const stm_shards shards = stm_optimizer_cut(model, n_ranks, stm_optimizer_bucket(n_ranks));
    const size_t real_bytes = model->backend->real_bytes;
    const size_t couriers = n_ranks > 1 ? 2 * stm_device_reach_courier_bytes(model->backend) : 0;
    const size_t state = 2 * stm_shards_count(&shards, 0) * real_bytes + couriers;
    if (stm_optimizer_in_rounds(shard, n_ranks))
        return state + rounds_bytes(model, &shards);
    return state + stm_model_own_bytes(model) + (n_ranks > 1 ? stm_reduction_bytes(&shards, real_bytes) : 0);
}

static stm_status take_zeroed(const stm_model *model, size_t n, void **out)
{
    const stm_backend *backend = model->backend;
    STM_TRY(backend->alloc(model->stream, n * backend->real_bytes, out));
    return backend->zero(model->stream, *out, n * backend->real_bytes);
}

static stm_status reserve_ends(const stm_model *model, void **out)
{
    const size_t real_bytes = model->backend->real_bytes;
    stm_range ends[2];
    stm_byte_range ranges[2];
    list_ends(model, ends);
    for (size_t i = 0; i < 2; i++)
        ranges[i] = (stm_byte_range){ends[i].first * real_bytes, ends[i].n * real_bytes};
    return model->backend->reserve(model->stream, model->n_parameters * real_bytes, ranges, 2, out);
}

static stm_status create_rounds(const stm_model *model, const stm_grid *grid, stm_optimizer *o)
{
    const size_t real_bytes = model->backend->real_bytes;
    stm_rounds_options options = {
        .comm = grid->stage_comm, .shards = o->shards, .real_bytes = real_bytes, .reach = grid->stage_reach};
    size_t *bounds;
    stm_status status;
    STM_GOTO_OUT(stm_optimizer_bounds(model, &options, &bounds));
    STM_GOTO_OUT(take_zeroed(model, STM_ROUNDS_ROOMS * stm_rounds_room_reals(&options), &o->rooms));
    options.rooms = o->rooms;
    STM_GOTO_OUT(stm_rounds_create(&options, &o->rounds));
    STM_GOTO_OUT(take_zeroed(model, stm_shards_count(&o->shards, grid->stage_rank), &o->sums));
    STM_GOTO_OUT(reserve_ends(model, &o->gradient));
out:
    free(bounds);
    return stm_fail_memory_of(status, "a share of the gradient", "a larger number of ranks");
}

static stm_status create_whole(const stm_model *model, const stm_grid *grid, stm_optimizer *o)
{
    if (grid->stage_size > 1)
        STM_TRY(stm_reduction_create(grid->stage_comm, &o->shards, model->backend->real_bytes, grid->stage_reach,
                                     &o->reduction));
    STM_TRY(stm_fail_memory_of(stm_model_array_create(model, &o->gradient), "the gradient",
                               "parallel.pipeline, or parallel.shard=gradient,"));
    return stm_model_array_zero(model, o->gradient);
}

stm_status stm_optimizer_create(const stm_model *model, const stm_grid *grid, stm_shard shard, size_t bucket_n,
                                stm_optimizer *optimizer)
{
    *optimizer = (stm_optimizer){.shards = stm_optimizer_cut(model, grid->stage_size, bucket_n)};
    const size_t owned = stm_shards_count(&optimizer->shards, grid->stage_rank),
                 real_bytes = model->backend->real_bytes;
    if (grid->stage_size > 1)
        STM_TRY(stm_gathering_create(grid->stage_comm, &optimizer->shards, real_bytes, grid->stage_reach,
                                     &optimizer->gathering));
    STM_TRY((stm_optimizer_in_rounds(shard, grid->stage_size) ? create_rounds : create_whole)(model, grid, optimizer));
    stm_status status = take_zeroed(model, owned, &optimizer->exp_avg);
    if (status == STM_OK)
        status = take_zeroed(model, owned, &optimizer->exp_avg_sq);
    return stm_fail_memory_of(status, "the optimizer's moments", "a larger number of ranks");
}

void stm_optimizer_destroy(stm_optimizer *optimizer, const stm_model *model)
{
    void *memory[] = {optimizer->exp_avg, optimizer->exp_avg_sq, optimizer->sums, optimizer->rooms};
    stm_reduction_destroy(optimizer->reduction);
    stm_gathering_destroy(optimizer->gathering);
    if (optimizer->rounds && optimizer->gradient)
        model->backend->unreserve(model->stream, optimizer->gradient, model->n_parameters * model->backend->real_bytes);
    else if (!optimizer->rounds)
        stm_model_array_destroy(model, optimizer->gradient);
    stm_rounds_destroy(optimizer->rounds);
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        if (memory[i])
            model->backend->free(model->stream, memory[i]);
    *optimizer = (stm_optimizer){0};
}

/* The summed gradient of what this rank owns: elements from `first` on, of which `packed` others come before. */
static void *summed_at(const stm_optimizer *o, const stm_policy *policy, size_t first, size_t packed)
{
    const stm_backend *backend = policy->model->backend;
    return o->rounds ? stm_at(backend, o->sums, packed) : stm_at(backend, o->gradient, first);
}

/* 2-norm of the whole gradient, from the squares of each rank's shard. */
static stm_status gradient_norm(const stm_optimizer *o, const stm_policy *policy, double *norm)
{
    const stm_backend *backend = policy->model->backend;
    double sum = 0;
    size_t packed = 0;
    stm_status status = STM_OK;
    for (size_t i = 0; i < stm_shards_n_ranges(&o->shards) && status == STM_OK; i++) {
        size_t first, n;
        double squares = 0;
        stm_shards_range(&o->shards, policy->grid->stage_rank, i, &first, &n);
        status = backend->sum_squares(policy->model->stream, n, summed_at(o, policy, first, packed), &squares);
        sum += squares;
        packed += n;
    }
    STM_TRY(stm_agree(policy->grid, status));
    stm_all_reduce(policy->grid->world, &sum, 1, sizeof sum);
    *norm = sqrt(sum);
    return STM_OK;
}

/* The first tensor of which this rank owns a gradient that is not finite; n_tensors: none. */
static stm_status first_not_finite(const stm_optimizer *o, const stm_policy *policy, size_t *tensor)
{
    const stm_model *model = policy->model;
    size_t packed = 0;
    *tensor = model->n_tensors;
    for (size_t i = 0; i < stm_shards_n_ranges(&o->shards); i++) {
        size_t first, n;
        stm_shards_range(&o->shards, policy->grid->stage_rank, i, &first, &n);
        for (size_t t = 0; t < *tensor; t++) {
            const stm_parameter *p = &model->tensors[t];
            const size_t begin = STM_MAX(first, p->offset), end = STM_MIN(first + n, p->offset + p->n);
            double squares = 0;
            if (begin < end)
                STM_TRY(model->backend->sum_squares(model->stream, end - begin,
                                                    summed_at(o, policy, begin, packed + begin - first), &squares));
            if (!isfinite(squares))
                *tensor = t;
        }
        packed += n;
    }
    return STM_OK;
}

/* Stores the same message on every rank. Fails: STM_ERR_DEVICE. */
static stm_status name_not_finite(const stm_optimizer *o, const stm_policy *policy, const stm_update_counts *counts)
{
    const stm_model *model = policy->model;
    size_t tensor;
    STM_TRY(stm_agree(policy->grid, first_not_finite(o, policy, &tensor)));
    double least = (double)tensor;
    stm_all_reduce_min(policy->grid->world, &least, 1);
    if (least < (double)model->n_tensors)
        (void)stm_fail(STM_ERR_NUMERIC, "the gradient of %s is not finite (loss %g)",
                       model->tensors[(size_t)least].name, counts->sums.loss);
    else
        (void)stm_fail(STM_ERR_NUMERIC, "the loss is %g, the norm of the gradient %g", counts->sums.loss,
                       fabs(counts->grad_norm)); /* nan has no sign */
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
static void offer_buckets(const stm_optimizer *o, size_t n)
{
    if (!o->gathering)
        return;
    stm_gathering_offer(o->gathering, n);
    stm_gathering_drive(o->gathering);
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
                                .gradient = summed_at(o, policy, first, packed),
                                .exp_avg = stm_at(backend, o->exp_avg, packed),
                                .exp_avg_sq = stm_at(backend, o->exp_avg_sq, packed)};
        if (n > 0)
            STM_TRY(backend->adamw(policy->model->stream, &args));
        packed += n;
        offer_buckets(o, i + 1);
    }
    return backend->synchronize(policy->model->stream);
}

/* Groups that skip_equal_groups leaves out would not be computed in the repeated form either. */
static double rows_repeated(const stm_batch *batch, const stm_objective *objective,
                            const stm_objective_options *options)
{
    const bool skips = stm_objective_skips_equal(objective, options);
    double rows = 0;
    for (size_t g = 0; g < batch->n_groups; g++) {
        const stm_batch group = {.n_groups = 1, .groups = batch->groups + g};
        if (!skips || !stm_group_is_equal(&batch->groups[g]))
            rows += stm_engine_rows_repeated(&group, true);
    }
    return rows;
}

/* No gradient yet. */
static stm_status clear_gradient(const stm_optimizer *o, const stm_policy *policy)
{
    const stm_model *model = policy->model;
    const stm_backend *backend = model->backend;
    if (!o->rounds)
        return stm_model_array_zero(model, o->gradient);
    stm_range ends[2];
    list_ends(model, ends);
    for (size_t i = 0; i < 2; i++)
        if (ends[i].n > 0)
            STM_TRY(backend->zero(model->stream, stm_at(backend, o->gradient, ends[i].first),
                                  ends[i].n * backend->real_bytes));
    STM_TRY(backend->zero(model->stream, o->sums,
                          stm_shards_count(&o->shards, policy->grid->stage_rank) * backend->real_bytes));
    return backend->synchronize(model->stream);
}

static void begin_sum(const stm_optimizer *o)
{
    if (o->reduction)
        stm_reduction_begin(o->reduction, o->gradient);
    if (o->rounds)
        stm_rounds_begin(o->rounds, o->sums, o->gradient);
}

static void finish_sum(const stm_optimizer *o)
{
    if (o->reduction)
        stm_reduction_finish(o->reduction);
    if (o->rounds)
        stm_rounds_finish(o->rounds);
}

/* The gradient over all ranks: they sum while they compute, and a rank that fails takes part to the end. */
static stm_status summed_gradient(stm_optimizer *o, const stm_policy *policy, const stm_batch *batch,
                                  const stm_objective *objective, const stm_objective_options *options,
                                  stm_objective_sums *sums)
{
    stm_engine_settings *settings = stm_engine_settings_of(policy->engine);
    begin_sum(o);
    settings->reduction = o->reduction;
    settings->rounds = o->rounds;
    const stm_status status =
        stm_objective_gradient(policy->engine, policy->grid, batch, objective, options, o->gradient, sums);
    settings->reduction = NULL;
    settings->rounds = NULL;
    stm_timers_push(policy->timers, STM_PHASE_GRADIENTS);
    stm_tied_add_gradient(policy->grid, policy->model, o->gradient);
    finish_sum(o);
    stm_timers_pop(policy->timers, STM_PHASE_GRADIENTS);
    return status;
}

/* The gradient, and what it took. */
static stm_status compute_gradient(stm_optimizer *o, const stm_policy *policy, const stm_batch *batch,
                                   const stm_objective *objective, const stm_objective_options *options,
                                   stm_update_counts *counts)
{
    STM_TRY(stm_agree(policy->grid, clear_gradient(o, policy)));
    const stm_status status = summed_gradient(o, policy, batch, objective, options, &counts->sums);
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
    if (status == STM_ERR_NUMERIC)
        counts->skipped = true;
    else
        STM_TRY(status);
    if (status == STM_OK)
        STM_TRY(gradient_norm(o, policy, &counts->grad_norm));
    if (status == STM_OK && !(isfinite(counts->grad_norm) && isfinite(counts->sums.loss))) {
        counts->skipped = true;
        STM_TRY(name_not_finite(o, policy, counts));
    }
    return counts->skipped ? STM_OK : apply(o, policy, lr, counts->grad_norm);
}
