/* The update by tree against repetition: time, rows and rate of one gradient, over prompt length and group size.
 *
 *   bench_update [hidden layers vocab [prompt answer group]]    float32, one rank, all threads; the best of three runs
 *
 * With a shape of its own it also shows where the time of the tree goes, by operation. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "group/score.h"
#include "profile.h"

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

/* Multiplications and additions of a two-level tree, forward and backward: what is skipped or done twice not counted.
 */
static double useful_flops(const stm_model_config *config, const size_t shape[4], double rows)
{
    const double groups = (double)shape[0], prompt = (double)shape[1], n = (double)shape[2], answer = (double)shape[3];
    const double pairs = groups * (prompt * prompt / 2 + n * answer * (prompt + answer / 2));
    const double attention = 4 * pairs * (double)(config->n_heads * config->head_dim * config->n_layers);
    return 3 * (rows * stm_model_layer_flops(config) + groups * n * answer * stm_model_head_flops(config) + attention);
}

/* The rate of one large product, by the backend itself. */
static double gemm_rate(const stm_backend *b, stm_stream *stream)
{
    enum { N = 1024 };
    void *x;
    double best = 1e30;
    check(b->alloc(stream, 3 * N * N * b->real_bytes, &x));
    check(b->zero(stream, x, 3 * N * N * b->real_bytes));
    const stm_gemm gemm = {.m = N,
                           .n = N,
                           .k = N,
                           .alpha = 1,
                           .a = x,
                           .b = stm_at(b, x, N * N),
                           .c = stm_at(b, x, 2 * N * N),
                           .lda = N,
                           .ldb = N,
                           .ldc = N};
    for (int i = 0; i < 20; i++) {
        const double start = stm_now_s();
        check(b->gemm(stream, &gemm));
        best = STM_MIN(best, stm_now_s() - start);
    }
    b->free(stream, x);
    return 2.0 * N * N * N / best;
}

static void print_shape(const stm_model *model, const stm_grid *grid, stm_options *options, const size_t shape[4],
                        double rate, void *gradient)
{
    stm_batch batch;
    make_batch(shape[0], shape[1], shape[2], shape[3], model->config.vocab_size, &batch);
    const measure tree = run(model, grid, &batch, options, STM_FORWARD_TREE, gradient);
    const measure repeated = run(model, grid, &batch, options, STM_FORWARD_REPEATED, gradient);
    const double flops = useful_flops(&model->config, shape, tree.rows);
    printf("%7zu %7zu %6zu %7zu | %8.0f %9.0f %8.3f %11.3f %6.2f | %8.0f %5.0f %% | %7.1f %13.1f\n", shape[0], shape[1],
           shape[2], shape[3], tree.rows, repeated.rows, tree.seconds, repeated.seconds,
           repeated.seconds / tree.seconds, flops / tree.seconds / 1e9, 100 * flops / tree.seconds / rate,
           tree.peak_bytes / (1 << 20), repeated.peak_bytes / (1 << 20));
    fflush(stdout);
    stm_batch_clear(&batch);
}

/* One gradient by tree, with a clock around each operation. */
static void print_profile(stm_model *model, const stm_grid *grid, stm_options *options, const size_t shape[4],
                          void *gradient)
{
    const stm_backend *plain = model->backend, timed = profile_begin(plain);
    stm_batch batch;
    make_batch(shape[0], shape[1], shape[2], shape[3], model->config.vocab_size, &batch);
    model->backend = &timed;
    const double start = stm_now_s();
    const measure all = run(model, grid, &batch, options, STM_FORWARD_TREE, gradient);
    profile_print(stm_now_s() - start);
    (void)all;
    model->backend = plain;
    stm_batch_clear(&batch);
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
                                     .intermediate_size = hidden * 43 / 16,
                                     .n_layers = layers,
                                     .n_heads = hidden / 64,
                                     .n_kv_heads = STM_MAX(hidden / 128, 1),
                                     .head_dim = 64,
                                     .max_positions = 32768,
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
    const double rate = gemm_rate(b, stream);
    printf("hidden %zu, %zu layers, vocabulary %zu: %.1f million parameters; a GEMM of 1024 runs at %.0f GFLOP/s\n",
           hidden, layers, vocab, (double)model->n_parameters / 1e6, rate / 1e9);
    printf(
        "prompts  prompt  group  answer |     rows  repeated   tree s  repeated s  ratio |  GFLOP/s  of GEMM |     MiB"
        "  MiB repeated\n");
    if (argc > 6) {
        const size_t shape[4] = {1, (size_t)atol(argv[4]), (size_t)atol(argv[6]), (size_t)atol(argv[5])};
        print_shape(model, &grid, &options, shape, rate, gradient);
        print_profile(model, &grid, &options, shape, gradient);
    } else {
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            print_shape(model, &grid, &options, shapes[i], rate, gradient);
    }
    b->free(stream, gradient);
    stm_grid_destroy(&grid);
    stm_options_clear(&options);
    stm_model_destroy(model);
    b->close(stream);
    MPI_Finalize();
    return 0;
}
