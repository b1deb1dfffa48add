/* The update by tree against repetition: time, rows and rate of one gradient, over prompt length and group size.
 *
 *   bench_update [hidden layers vocab]      float32, one rank, all threads; the smallest of three runs each */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "group/score.h"

static void check(stm_status status)
{
    if (status == STM_OK)
        return;
    fprintf(stderr, "bench_update: %s\n", stm_failure());
    exit(1);
}

static int32_t *draw_ids(uint64_t stream, size_t n, size_t vocab)
{
    int32_t *ids;
    check(stm_alloc(n, sizeof *ids, &ids));
    for (size_t i = 0; i < n; i++) {
        const stm_random_key key = {.seed = 1, .use = STM_RANDOM_SHUFFLE, .step = stream, .token = (uint32_t)i};
        ids[i] = (int32_t)(stm_random_uniform(&key) * (double)vocab);
    }
    return ids;
}

static void make_batch(size_t n_groups, size_t n_prompt, size_t n_responses, size_t n_response, size_t vocab,
                       stm_batch *batch)
{
    *batch = (stm_batch){.n_groups = n_groups};
    check(stm_alloc(n_groups, sizeof *batch->groups, &batch->groups));
    for (size_t g = 0; g < n_groups; g++) {
        stm_group *group = &batch->groups[g];
        *group = (stm_group){.n_prompt = n_prompt, .n_responses = n_responses, .temperature = 1};
        group->prompt = draw_ids(1000 * g, n_prompt, vocab);
        check(stm_alloc(n_responses, sizeof *group->responses, &group->responses));
        for (size_t i = 0; i < n_responses; i++) {
            stm_response *r = &group->responses[i];
            r->n = n_response;
            r->ids = draw_ids(1000 * g + i + 1, n_response, vocab);
            check(stm_alloc(n_response, 1, &r->mask));
            memset(r->mask, 1, n_response);
            r->reward = (double)(i % 2);
        }
    }
}

typedef struct {
    double seconds, rows, peak_bytes;
} measure;

static measure run(const stm_model *model, const stm_grid *grid, const stm_batch *batch, stm_options *options,
                   stm_forward_mode forward, void *gradient)
{
    stm_engine *engine;
    stm_totals totals;
    stm_objective_sums sums;
    measure best = {.seconds = 1e30};
    options->forward = forward;
    stm_totals_of(batch, &totals);
    check(stm_engine_create(model, grid, options, 0, &engine));
    for (int i = 0; i < 3; i++) {
        const double start = stm_now_s();
        check(stm_objective_gradient(engine, grid, batch, stm_objective_find("grpo"), &options->objective, &totals,
                                     gradient, &sums));
        best.seconds = STM_MIN(best.seconds, stm_now_s() - start);
    }
    best.rows = stm_engine_counts(engine)->rows;
    best.peak_bytes = (double)stm_engine_peak_bytes(engine);
    stm_engine_destroy(engine);
    return best;
}

int main(int argc, char **argv)
{
    static const size_t shapes[][4] = {{4, 256, 8, 16},   {4, 256, 16, 64},  {2, 1024, 8, 64},
                                       {2, 1024, 16, 64}, {1, 4096, 16, 64}, {1, 256, 16, 512}};
    const size_t hidden = argc > 1 ? (size_t)atol(argv[1]) : 256, layers = argc > 2 ? (size_t)atol(argv[2]) : 4,
                 vocab = argc > 3 ? (size_t)atol(argv[3]) : 4096;
    const stm_model_config config = {.architecture = "llama",
                                     .vocab_size = vocab,
                                     .hidden_size = hidden,
                                     .intermediate_size = 3 * hidden,
                                     .n_layers = layers,
                                     .n_heads = hidden / 64,
                                     .n_kv_heads = STM_MAX(hidden / 128, 1),
                                     .head_dim = 64,
                                     .max_positions = 8192,
                                     .rms_eps = 1e-5,
                                     .rope_theta = 1e4};
    int provided;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    const stm_backend *b = &stm_backend_cpu_f32;
    stm_stream *stream;
    stm_model *model;
    stm_grid grid;
    stm_options options;
    void *gradient;
    check(b->open(0, &stream));
    check(stm_model_create(&config, b, stream, &model));
    check(stm_model_randomize(model, 1));
    check(stm_options_init(&options));
    check(stm_grid_create(MPI_COMM_SELF, 1, 1, 1, &grid));
    check(b->alloc(stream, model->n_parameters * b->real_bytes, &gradient));
    check(b->zero(stream, gradient, model->n_parameters * b->real_bytes));
    printf("hidden %zu, %zu layers, vocabulary %zu: %.1f million parameters\n", hidden, layers, vocab,
           (double)model->n_parameters / 1e6);
    printf(
        "prompts  prompt  group  response |  rows tree  repeated   tree s  repeated s  ratio | GEMM GFLOP/s  MiB tree  "
        "MiB repeated\n");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        stm_batch batch;
        make_batch(shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], vocab, &batch);
        const measure tree = run(model, &grid, &batch, &options, STM_FORWARD_TREE, gradient);
        const measure repeated = run(model, &grid, &batch, &options, STM_FORWARD_REPEATED, gradient);
        const double active = (double)(shapes[i][0] * shapes[i][2] * shapes[i][3]);
        const double flops = 3 * (tree.rows * stm_model_layer_flops(&config) + active * stm_model_head_flops(&config));
        printf("%7zu %7zu %6zu %9zu | %10.0f %9.0f %8.3f %11.3f %6.2f | %12.0f %9.1f %13.1f\n", shapes[i][0],
               shapes[i][1], shapes[i][2], shapes[i][3], tree.rows, repeated.rows, tree.seconds, repeated.seconds,
               repeated.seconds / tree.seconds, flops / tree.seconds / 1e9, tree.peak_bytes / (1 << 20),
               repeated.peak_bytes / (1 << 20));
        fflush(stdout);
        stm_batch_clear(&batch);
    }
    b->free(stream, gradient);
    stm_grid_destroy(&grid);
    stm_options_clear(&options);
    stm_model_destroy(model);
    b->close(stream);
    MPI_Finalize();
    return 0;
}
