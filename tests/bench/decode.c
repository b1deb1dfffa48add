/* Where the time of a decode round goes, by operation of the backend and by weight, and what share of the memory's
 * bandwidth and of a GEMM's rate it reaches; what sampling costs as a whole is `stemma bench`'s to say.
 *
 *   bench_decode [prompt answer [hidden layers vocab]]    float32, one rank, all threads; rounds of 1 to 64 rows */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench/bytes.h"
#include "bench/measure.h"
#include "bench/rates.h"
#include "profile.h"
#include "rollout/rollout.h"

/* Products by the weight's shape. */

static struct product {
    size_t n, k, calls;
    double seconds;
} products[16];
static size_t n_products;

static stm_status timed_product(stm_stream *stream, const stm_gemm *g)
{
    const double start = stm_now_s();
    const stm_status status = timed_gemm(stream, g);
    size_t i = 0;
    while (i < n_products && (products[i].n != g->n || products[i].k != g->k))
        i++;
    if (i == n_products && n_products < sizeof products / sizeof *products)
        products[n_products++] = (struct product){.n = g->n, .k = g->k};
    if (i < n_products) {
        products[i].calls++;
        products[i].seconds += stm_now_s() - start;
    }
    return status;
}

/* Only decode appends: what ran before its first call were the prompts. */
static bool decoding;

static stm_status timed_first_append(stm_stream *stream, const stm_append *a)
{
    if (!decoding) {
        profile_begin(profiled);
        n_products = 0;
        decoding = true;
    }
    return timed_append(stream, a);
}

typedef struct {
    stm_bench bench;
    stm_model *model;
    size_t n_prompt, n_answer;
    double gemm_rate, read_rate;
} setting;

static double run(stm_engine *engine, const setting *s, size_t n_prompts, size_t group_size, const stm_batch *batch,
                  stm_rollout_counts *counts)
{
    static const stm_strings none = {0};
    const stm_sampling sampling = {.use = STM_RANDOM_GENERATE,
                                   .seed = 1,
                                   .group_size = group_size,
                                   .temperature = 1,
                                   .top_p = 1,
                                   .max_new_tokens = s->n_answer,
                                   .slots = n_prompts * group_size,
                                   .stop = &none};
    stm_batch prompts;
    check(stm_batch_copy_prompts(batch, &prompts));
    const double start = stm_now_s();
    check(stm_rollout(engine, s->model, s->bench.grid, &sampling, &prompts, counts));
    const double seconds = stm_now_s() - start;
    stm_batch_clear(&prompts);
    return seconds;
}

static void profile_rounds(setting *s, size_t n_prompts, size_t group_size)
{
    const stm_bench_shape shape = {.n_groups = (double)n_prompts,
                                   .n_prompt = (double)s->n_prompt,
                                   .n_answer = 1,
                                   .group_size = (double)group_size};
    stm_model *model = s->model;
    stm_engine *engine;
    stm_batch batch;
    stm_rollout_counts counts;
    stm_profile phases = {0};
    const size_t n_rows = n_prompts * group_size;
    check(stm_bench_random_batch(&shape, model->config.vocab_size, 1, &batch));
    check(stm_engine_create(model, s->bench.grid, s->bench.options, 0, &engine));
    run(engine, s, n_prompts, group_size, &batch, &counts); /* takes its memory */
    const stm_backend *plain = model->backend;
    stm_backend timed = profile_begin(plain);
    timed.gemm = timed_product;
    timed.append = timed_first_append;
    stm_engine_settings_of(engine)->profile = &phases;
    decoding = false;
    model->backend = &timed;
    double seconds = run(engine, s, n_prompts, group_size, &batch, &counts);
    model->backend = plain;
    const double prefill_s = phases.seconds[STM_STAGE_PREFIX], rounds = counts.decode_rounds;
    const double bytes = stm_bench_decode_bytes(model, s->bench.grid, &batch, group_size, s->n_answer, rounds);
    seconds -= prefill_s;
    printf("%zu prompts x %zu of %zu tokens, %zu new ones: prefill %.3f s, decode %.3f s, %.3f ms a round; %.1f GB/s, "
           "%.0f %% of the "
           "memory's\n",
           n_prompts, group_size, s->n_prompt, s->n_answer, prefill_s, seconds, 1e3 * seconds / rounds,
           bytes / seconds / 1e9, 100 * bytes / seconds / s->read_rate);
    for (size_t i = 0; i < n_products; i++) {
        const struct product *p = &products[i];
        const double work = (double)(p->n * p->k) * (double)p->calls;
        printf("    gemm %5zu x %5zu     %8.3f ms a round, %7.1f GFLOP/s (%3.0f %%), %6.1f GB/s\n", p->n, p->k,
               1e3 * p->seconds / rounds, 2 * work * (double)n_rows / p->seconds / 1e9,
               200 * work * (double)n_rows / p->seconds / s->gemm_rate, 4 * work / p->seconds / 1e9);
    }
    profile_print(seconds);
    stm_engine_destroy(engine);
    stm_batch_clear(&batch);
}

int main(int argc, char **argv)
{
    const size_t hidden = argument(argc, argv, 3, 512);
    setting s = {.n_prompt = argument(argc, argv, 1, 512), .n_answer = argument(argc, argv, 2, 64)};
    const stm_model_config config = {.architecture = "llama",
                                     .vocab_size = argument(argc, argv, 5, 8192),
                                     .hidden_size = hidden,
                                     .intermediate_size = hidden * 43 / 16,
                                     .n_layers = argument(argc, argv, 4, 8),
                                     .n_heads = hidden / 64,
                                     .n_kv_heads = STM_MAX(hidden / 128, 1),
                                     .head_dim = 64,
                                     .max_positions = s.n_prompt + s.n_answer,
                                     .rms_eps = 1e-5,
                                     .rope_theta = 1e4};
    int provided;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    const stm_backend *b = &stm_backend_cpu_f32;
    stm_stream *stream;
    stm_grid grid;
    stm_options options;
    check(b->open(0, &stream));
    check(stm_model_create(&config, b, stream, &s.model));
    check(stm_model_randomize(s.model, 1));
    check(stm_options_init(&options));
    check(stm_grid_create(MPI_COMM_SELF, &(stm_axes){1, 1, 1}, 1, &grid));
    s.bench = (stm_bench){.model = s.model, .grid = &grid, .options = &options};
    check(stm_bench_gemm_rate(b, stream, &grid, &s.gemm_rate));
    check(stm_bench_read_rate(&grid, &s.read_rate));
    printf("%d threads; GEMM of 1024: %.0f GFLOP/s; reading memory: %.1f GB/s\n", omp_get_max_threads(),
           s.gemm_rate / 1e9, s.read_rate / 1e9);
    profile_rounds(&s, 8, 8);
    profile_rounds(&s, 8, 1);
    profile_rounds(&s, 1, 8);
    profile_rounds(&s, 1, 1);
    stm_grid_destroy(&grid);
    stm_options_clear(&options);
    stm_model_destroy(s.model);
    b->close(stream);
    MPI_Finalize();
    return 0;
}
