#include "support/batch.h"

#include "base/random.h"
#include "model/stages.h"

/* Draws */

typedef struct {
    uint64_t seed;
    uint32_t n;
} draws;

static double draw(draws *d)
{
    const stm_random_key key = {.seed = d->seed, .use = STM_RANDOM_SHUFFLE, .token = d->n++};
    return stm_random_uniform(&key);
}

static size_t below(draws *d, size_t n)
{
    return (size_t)(draw(d) * (double)n);
}

static int32_t *draw_ids(draws *d, size_t n, size_t vocab)
{
    int32_t *ids;
    assert_ok(stm_alloc(n, sizeof *ids, &ids));
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)below(d, vocab);
    return ids;
}

static double *draw_logprobs(draws *d, size_t n)
{
    double *x;
    assert_ok(stm_alloc(n, sizeof *x, &x));
    for (size_t i = 0; i < n; i++)
        x[i] = -4 - 2 * draw(d);
    return x;
}

static void draw_response(draws *d, const stm_group *group, size_t i, size_t vocab, stm_response *r)
{
    static const size_t lengths[] = {7, 21, 33, 1, 40, 18, 0, 25};
    const size_t n = lengths[below(d, 8)];
    *r = (stm_response){.n = n, .ids = draw_ids(d, n, vocab), .reward = draw(d) < 0.5 ? 0 : 1, .has_reward = true};
    if (i > 0 && draw(d) < 0.6) { /* begins as an earlier one does */
        const stm_response *other = &group->responses[below(d, i)];
        const size_t wish = below(d, 45), same = STM_MIN(STM_MIN(n, other->n), wish);
        memcpy(r->ids, other->ids, same * sizeof *r->ids);
    }
    assert_ok(stm_alloc(n, 1, &r->mask));
    const double kind = draw(d);
    for (size_t k = 0; k < n; k++)
        r->mask[k] = kind < 0.1 ? 0 : kind < 0.5 ? 1 : draw(d) < 0.7;
    r->old_logprobs = draw(d) < 0.8 ? draw_logprobs(d, n) : NULL;
    r->ref_logprobs = draw_logprobs(d, n);
}

void stm_test_batch(uint64_t seed, size_t n_groups, size_t vocab, stm_batch *batch)
{
    stm_test_batch_of(seed, NULL, n_groups, vocab, batch);
}

void stm_test_batch_of(uint64_t seed, const size_t *n_responses, size_t n_groups, size_t vocab, stm_batch *batch)
{
    static const size_t prompts[] = {30, 1, 52, 18, 90, 5, 2};
    draws d = {.seed = seed};
    int32_t *document = draw_ids(&d, 100, vocab);
    *batch = (stm_batch){.n_groups = n_groups};
    assert_ok(stm_alloc(n_groups, sizeof *batch->groups, &batch->groups));
    for (size_t g = 0; g < n_groups; g++) {
        stm_group *group = &batch->groups[g];
        group->n_prompt = prompts[g % 7];
        group->prompt = draw_ids(&d, group->n_prompt, vocab);
        group->temperature = g % 5 == 3 ? 0.7 : 1;
        const size_t common = 10 + below(&d, 90);
        if (g % 2 == 0)
            memcpy(group->prompt, document, STM_MIN(group->n_prompt, common) * sizeof *document);
        group->n_responses = n_responses ? n_responses[g] : 1 + below(&d, 7);
        assert_ok(stm_alloc(group->n_responses, sizeof *group->responses, &group->responses));
        for (size_t i = 0; i < group->n_responses; i++)
            draw_response(&d, group, i, vocab, &group->responses[i]);
    }
    free(document);
}

void stm_test_unmask(stm_batch *batch)
{
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++)
            memset(batch->groups[g].responses[i].mask, 1, batch->groups[g].responses[i].n);
}

stm_sequence *stm_test_sequences(const stm_batch *batch, size_t *n)
{
    stm_sequence *out;
    size_t most = 0;
    for (size_t g = 0; g < batch->n_groups; g++)
        most += batch->groups[g].n_responses;
    assert_ok(stm_alloc(most, sizeof *out, &out));
    *n = 0;
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++)
            out[(*n)++] = (stm_sequence){g, i, batch->groups[g].n_prompt + batch->groups[g].responses[i].n};
    return out;
}

void stm_test_forest(const stm_batch *batch, const stm_forest_options *options, stm_forest *forest)
{
    size_t n;
    stm_sequence *sequences = stm_test_sequences(batch, &n);
    assert_ok(stm_forest_create(batch, sequences, n, options, forest));
    free(sequences);
}

void stm_test_options(stm_options *options, const char *const *overrides, size_t n)
{
    static const char *const always[] = {"objective.kl_coef=0.05", "objective.clip_low=0.2", "objective.clip_high=0.25",
                                         "objective.aggregate=sequence-mean", "objective.skip_equal_groups=false"};
    assert_ok(stm_options_init(options));
    assert_ok(stm_options_read_arguments(options, STM_COMMAND_GRAD, sizeof always / sizeof *always,
                                         (char *const *)(void *)always));
    assert_ok(stm_options_read_arguments(options, STM_COMMAND_GRAD, (int)n, (char *const *)(void *)overrides));
}

static double *read_reals(const stm_model *model, const void *reals, size_t n)
{
    double *out;
    void *host;
    assert_ok(stm_alloc(n, sizeof *out, &out));
    assert_ok(stm_alloc(n, model->backend->real_bytes, &host));
    assert_ok(model->backend->read(model->stream, host, reals, n * model->backend->real_bytes));
    for (size_t i = 0; i < n; i++)
        out[i] = model->backend->real_bytes == 8 ? ((double *)host)[i] : (double)((float *)host)[i];
    free(host);
    return out;
}

int stm_test_n_nodes;

void stm_test_play_nodes(stm_grid *grid)
{
    for (int i = 0; i < grid->team_size && stm_test_n_nodes > 0; i++)
        grid->team_nodes[i] = i % stm_test_n_nodes;
}

/* The grid that the options ask for, and the model as this rank's stage has it: the same memory. */
static void stand_on(MPI_Comm comm, const stm_options *options, size_t n_groups, const stm_model *model, stm_grid *grid,
                     stm_model *stage)
{
    const int64_t n_stages = STM_MAX((int64_t)1, options->parallel.pipeline);
    assert_ok(stm_grid_create(comm, &(stm_axes){n_stages, options->parallel.suffix, options->parallel.replica},
                              n_groups, grid));
    stm_test_play_nodes(grid);
    *stage = *model;
    stm_model_hold_stage(stage, (size_t)n_stages, (size_t)grid->stage);
}

void stm_test_gradient(MPI_Comm comm, const stm_model *model, const stm_batch *batch, const stm_options *options,
                       stm_test_result *result)
{
    const stm_backend *b = model->backend;
    stm_grid grid;
    stm_model stage;
    stm_engine *engine;
    void *gradient;
    *result = (stm_test_result){.n = model->n_parameters};
    stand_on(comm, options, batch->n_groups, model, &grid, &stage);
    assert_ok(stm_engine_create(&stage, &grid, options, 0, &engine));
    assert_ok(b->alloc(model->stream, model->n_parameters * b->real_bytes, &gradient));
    assert_ok(b->zero(model->stream, gradient, model->n_parameters * b->real_bytes));
    assert_ok(stm_objective_gradient(engine, &grid, batch, stm_objective_find(options->objective.name),
                                     &options->objective, gradient, &result->sums));
    stm_all_reduce(grid.world, gradient, model->n_parameters, b->real_bytes);
    result->gradient = read_reals(model, gradient, model->n_parameters);
    result->loss = result->sums.loss;
    result->counts = *stm_engine_counts(engine);
    b->free(model->stream, gradient);
    stm_engine_destroy(engine);
    stm_grid_destroy(&grid);
}

void stm_test_result_clear(stm_test_result *result)
{
    free(result->gradient);
    *result = (stm_test_result){0};
}

double stm_test_gradient_difference(const stm_model *model, const double *a, const double *b)
{
    const stm_parameter *tensor;
    return stm_test_worst_tensor(model, a, b, &tensor);
}

double stm_test_worst_tensor(const stm_model *model, const double *a, const double *b, const stm_parameter **tensor)
{
    double all = 0, worst = 0;
    *tensor = &model->tensors[0];
    for (size_t i = 0; i < model->n_parameters; i++)
        all += b[i] * b[i];
    for (size_t t = 0; t < model->n_tensors; t++) {
        const stm_parameter *p = &model->tensors[t];
        double norm = 0, difference = 0;
        for (size_t i = p->offset; i < p->offset + p->n; i++) {
            norm += b[i] * b[i];
            difference += (a[i] - b[i]) * (a[i] - b[i]);
        }
        const double relative = sqrt(difference) / fmax(sqrt(norm), 1e-3 * sqrt(all));
        if (relative > worst || isnan(relative)) {
            worst = relative;
            *tensor = p;
        }
        if (isnan(relative))
            break;
    }
    return worst;
}

void stm_test_scores(MPI_Comm comm, const stm_model *model, const stm_batch *batch, const stm_options *options,
                     stm_scores *scores)
{
    stm_grid grid;
    stm_model stage;
    stm_engine *engine;
    stand_on(comm, options, batch->n_groups, model, &grid, &stage);
    assert_ok(stm_engine_create(&stage, &grid, options, 0, &engine));
    assert_ok(stm_score_batch(engine, &grid, batch, scores));
    stm_engine_destroy(engine);
    stm_grid_destroy(&grid);
}
