/* Where the time of an update by tree goes, by operation of the backend; what it costs as a whole is `stemma bench`'s
 * to say.
 *
 *   bench_update [hidden layers vocab [prompt answer group]]    float32, one rank, all threads */
#include <stdio.h>
#include <stdlib.h>

#include "bench/measure.h"
#include "bench/rates.h"
#include "group/score.h"
#include "profile.h"

/* Seconds of one gradient. */
static double run(stm_engine *engine, const stm_bench *bench, const stm_batch *batch)
{
    const double start = stm_now_s();
    stm_objective_sums sums;
    check(stm_objective_gradient(engine, bench->grid, batch, stm_objective_find("grpo"), &bench->options->objective,
                                 bench->gradient, &sums));
    return stm_now_s() - start;
}

static void print_profile(const stm_bench *bench, stm_model *model, const stm_bench_shape *shape)
{
    stm_engine *engine;
    stm_batch batch;
    stm_flops flops;
    double rate;
    check(stm_bench_random_batch(shape, model->config.vocab_size, 1, &batch));
    check(stm_engine_create(model, bench->grid, bench->options, 0, &engine));
    check(stm_engine_flops(engine, &batch, &flops));
    check(stm_bench_gemm_rate(model->backend, model->stream, bench->grid, &rate));
    run(engine, bench, &batch); /* takes its memory */
    const stm_backend *plain = model->backend, timed = profile_begin(plain);
    model->backend = &timed;
    const double seconds = run(engine, bench, &batch);
    model->backend = plain;
    printf(
        "hidden %zu, %zu layers, vocabulary %zu; prompt %.0f, answer %.0f, group %.0f: %.3f s, %.0f GFLOP/s, %.0f %% "
        "of a GEMM of 1024\n",
        model->config.hidden_size, model->config.n_layers, model->config.vocab_size, shape->n_prompt, shape->n_answer,
        shape->group_size, seconds, stm_flops_update(&flops) / seconds / 1e9,
        100 * stm_flops_update(&flops) / seconds / rate);
    profile_print(seconds);
    stm_engine_destroy(engine);
    stm_batch_clear(&batch);
}

int main(int argc, char **argv)
{
    const size_t hidden = argument(argc, argv, 1, 512);
    const stm_bench_shape shape = {.n_groups = 1,
                                   .n_prompt = (double)argument(argc, argv, 4, 2048),
                                   .n_answer = (double)argument(argc, argv, 5, 256),
                                   .group_size = (double)argument(argc, argv, 6, 8)};
    const stm_model_config config = {.architecture = "llama",
                                     .vocab_size = argument(argc, argv, 3, 8192),
                                     .hidden_size = hidden,
                                     .intermediate_size = hidden * 43 / 16,
                                     .n_layers = argument(argc, argv, 2, 8),
                                     .n_heads = hidden / 64,
                                     .n_kv_heads = STM_MAX(hidden / 128, 1),
                                     .head_dim = 64,
                                     .max_positions = (size_t)(shape.n_prompt + shape.n_answer),
                                     .rms_eps = 1e-5,
                                     .rope_theta = 1e4};
    int provided;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    const stm_backend *b = &stm_backend_cpu_f32;
    stm_stream *stream;
    stm_model *model;
    stm_grid grid;
    stm_options options;
    check(b->open(0, &stream));
    check(stm_model_create(&config, b, stream, &model));
    check(stm_model_randomize(model, 1));
    check(stm_options_init(&options));
    check(stm_grid_create(MPI_COMM_SELF, &(stm_axes){1, 1, 1}, 1, &grid));
    stm_bench bench = {.model = model, .grid = &grid, .options = &options};
    check(b->alloc(stream, model->n_parameters * b->real_bytes, &bench.gradient));
    print_profile(&bench, model, &shape);
    b->free(stream, bench.gradient);
    stm_grid_destroy(&grid);
    stm_options_clear(&options);
    stm_model_destroy(model);
    b->close(stream);
    MPI_Finalize();
    return 0;
}
