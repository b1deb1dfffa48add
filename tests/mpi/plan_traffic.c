/* What a plan says that ranks send is what they hand to MPI: the replay's messages and bytes of a pass for a gradient,
 * summed behind it or chunk by chunk (parallel.shard), and an estimate's bytes of a whole update.
 */
#include "model/stages.h"
#include "plan/estimate.h"
#include "plan/gradients.h"
#include "plan/replay.h"
#include "support/batch.h"
#include "support/messages.h"
#include "support/model.h"
#include "support/mpi.h"
#include "train/optimizer.h"

enum { N_LAYERS = 5, N_GROUPS = 5, BUCKET = 1000 /* a layer lies in several, and none begins with one */ };

static double one_row[] = {1}, rate[] = {1e9}, attention[] = {1e9, 1e9};
static const stm_machine machine = {
    .cores = 64,
    .memory_bytes = (int64_t)1 << 40,
    .memory_bandwidth = 1e9,
    .rows = {1, one_row},
    .rates[STM_FLOAT64] = {.gemm = {1, rate}, .attention = {2, attention}, .elementwise = 1e9},
    .inside.bandwidth = 1e9,
    .between.bandwidth = 1e9};

typedef struct {
    stm_batch batch;
    stm_stream *stream;
    stm_model *model, stage; /* stage: what this rank has of it */
    stm_options options;
    stm_grid grid;
    stm_policy policy;
    stm_optimizer optimizer;
} fixture;

static void set_up(fixture *f, MPI_Comm comm, int n_stages, stm_shard shard, size_t bucket_n,
                   const char *const *overrides, size_t n)
{
    static const size_t group_sizes[N_GROUPS] = {3, 7, 1, 16, 3};
    const stm_backend *backend = &stm_backend_cpu_f64;
    stm_model_config config = stm_test_configs[STM_TEST_LLAMA];
    int n_ranks;
    MPI_Comm_size(comm, &n_ranks);
    config.n_layers = N_LAYERS;
    assert_ok(backend->open(1, &f->stream));
    f->model = stm_test_model(backend, f->stream, &config, 5);
    stm_test_batch_of(11, group_sizes, N_GROUPS, config.vocab_size, &f->batch);
    stm_test_unmask(&f->batch); /* plans know of no masks */
    stm_test_options(&f->options, overrides, n);
    f->options.precision = STM_FLOAT64;
    f->options.parallel.pipeline = n_stages;
    f->options.parallel.shard = shard;
    assert_ok(stm_grid_create(comm, &(stm_axes){n_stages, n_ranks / n_stages, 1}, N_GROUPS, &f->grid));
    f->stage = *f->model;
    stm_model_hold_stage(&f->stage, (size_t)n_stages, (size_t)f->grid.stage);
    f->policy = (stm_policy){.options = &f->options, .model = &f->stage, .grid = &f->grid};
    assert_ok(stm_engine_create(&f->stage, &f->grid, &f->options, 0, &f->policy.engine));
    assert_ok(stm_optimizer_create(&f->stage, &f->grid, shard, bucket_n, &f->optimizer));
}

static void tear_down(fixture *f)
{
    const stm_backend *backend = f->model->backend;
    stm_optimizer_destroy(&f->optimizer, &f->stage);
    stm_engine_destroy(f->policy.engine);
    stm_grid_destroy(&f->grid);
    stm_options_clear(&f->options);
    stm_batch_clear(&f->batch);
    stm_model_destroy(f->model);
    backend->close(f->stream);
}

/* Sent by all ranks. */
typedef struct {
    double n, bytes;
} traffic;

static traffic sent_since(const fixture *f, stm_test_messages before)
{
    const stm_test_messages now = stm_test_messages_sent();
    double sums[] = {(double)(now.n - before.n), (double)(now.bytes - before.bytes)};
    stm_all_reduce(f->grid.world, sums, 2, sizeof *sums);
    return (traffic){sums[0], sums[1]};
}

/* A pass for a gradient, and the end of its rounds. */
static traffic run_pass(fixture *f)
{
    stm_objective_sums sums;
    stm_rounds *rounds = f->optimizer.rounds;
    const stm_test_messages before = stm_test_messages_sent();
    if (rounds)
        stm_rounds_begin(rounds, f->optimizer.sums, f->optimizer.gradient);
    stm_engine_settings_of(f->policy.engine)->rounds = rounds;
    assert_ok(stm_objective_gradient(f->policy.engine, &f->grid, &f->batch,
                                     stm_objective_find(f->options.objective.name), &f->options.objective,
                                     f->optimizer.gradient, &sums));
    if (rounds)
        stm_rounds_finish(rounds);
    return sent_since(f, before);
}

/* The replay's, of all stages; of rounds, what is left to their end. */
static traffic replay_pass(const fixture *f, int n_stages)
{
    const stm_options *o = &f->options;
    const size_t chunk_rows = (size_t)o->memory.chunk_tokens;
    const int size = f->grid.stage_size;
    const stm_cost cost = {.machine = &machine,
                           .config = &f->model->config,
                           .precision = STM_FLOAT64,
                           .share = 1,
                           .crowd = 1,
                           .real_bytes = sizeof(double),
                           .activation_bytes = sizeof(double),
                           .weight_bytes = sizeof(double)};
    const stm_placement_options placing = {.in_flight = (size_t)o->parallel.prefixes_in_flight,
                                           .context = o->parallel.context};
    const stm_schedule_options scheduling = {.chunk_rows = chunk_rows, .room_bytes = (size_t)1 << 40};
    stm_forest_options options = stm_engine_forest_options(o);
    stm_model stages[N_LAYERS];
    stm_rounds_options *rounds = NULL;
    stm_forest forest;
    stm_placement placement;
    stm_replayed replayed;
    for (int s = 0; s < n_stages; s++) {
        stages[s] = *f->model;
        stm_model_hold_stage(&stages[s], (size_t)n_stages, (size_t)s);
    }
    if (stm_optimizer_in_rounds(o->parallel.shard, size)) {
        assert_ok(stm_plan_rounds_create(stages, (size_t)n_stages, size, &rounds));
        for (int s = 0; s < n_stages; s++)
            rounds[s].shards.bucket_n = BUCKET;
    }
    options.max_segment_tokens = stm_engine_segment_tokens(options.max_segment_tokens, chunk_rows, size);
    stm_test_forest(&f->batch, &options, &forest);
    assert_ok(stm_placement_create(&forest, &f->model->config, size, &placing, &placement));
    const stm_replay replay = {.cost = &cost,
                               .stages = stages,
                               .n_stages = (size_t)n_stages,
                               .team_size = size,
                               .forest = &forest,
                               .kind = STM_PASS_GRADIENT,
                               .stage_size = size,
                               .ranks_per_node = 2,
                               .rounds = rounds,
                               .link_share = 1};
    assert_ok(stm_replay_pass(&replay, &placement, &scheduling, &replayed));
    traffic planned = {replayed.n_messages, replayed.inside_bytes + replayed.between_bytes};
    for (int s = 0; s < n_stages && rounds; s++) {
        planned.bytes += stm_plan_rounds_ends(&rounds[s]) * (size - 1) * sizeof(double);
        for (int rank = 0; rank < size; rank++)
            planned.n += (double)stm_rounds_sent(&rounds[s], rank, rounds[s].n_layers, 0, size - 1).n_messages;
    }
    stm_placement_clear(&placement);
    stm_forest_clear(&forest);
    stm_plan_rounds_clear(rounds, (size_t)n_stages);
    return planned;
}

/* On the ranks that so many stages have alike; MPI_COMM_NULL: not this one. */
static MPI_Comm ranks_of_stages(int n_stages)
{
    int rank, n_ranks;
    MPI_Comm used;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    MPI_Comm_split(MPI_COMM_WORLD, rank < n_ranks / n_stages * n_stages ? 0 : MPI_UNDEFINED, rank, &used);
    return used;
}

static void check_pass(int n_stages, stm_shard shard, const char *const *overrides, size_t n)
{
    fixture f;
    MPI_Comm comm = ranks_of_stages(n_stages);
    if (comm == MPI_COMM_NULL)
        return;
    set_up(&f, comm, n_stages, shard, BUCKET, overrides, n);
    const traffic run = run_pass(&f), planned = replay_pass(&f, n_stages);
    assert_near(run.n, planned.n, 1e-15);
    assert_near(run.bytes, planned.bytes, 1e-15);
    tear_down(&f);
    MPI_Comm_free(&comm);
}

static const stm_shard shards[] = {STM_SHARD_OPTIMIZER, STM_SHARD_GRADIENT};

static void a_replay_sends_what_a_run_sends(void **state)
{
    (void)state;
    static const int pipelines[] = {1, 2, 5};
    static const char *const small[] = {"parallel.shared_kv=off", "memory.chunk_tokens=16",
                                        "parallel.prefixes_in_flight=1"};
    static const char *const round[] = {"parallel.shared_kv=off", "memory.chunk_tokens=40", "parallel.context=on",
                                        "memory.max_segment_tokens=5"};
    int n_ranks;
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    for (size_t s = 0; s < 2; s++)
        for (size_t p = 0; p < 3 && pipelines[p] <= n_ranks; p++) {
            check_pass(pipelines[p], shards[s], small, 3);
            check_pass(pipelines[p], shards[s], round, 4);
        }
}

/* Of the whole update: K, V and what comes back, sums and new parameters. */
static void an_estimate_sends_what_an_update_sends(void **state)
{
    (void)state;
    static const char *const overrides[] = {"parallel.shared_kv=off", "memory.chunk_tokens=30", "parallel.machine=none",
                                            "objective.kl_coef=0"};
    int n_ranks;
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    for (size_t s = 0; s < 2; s++) {
        fixture f;
        stm_update_counts counts;
        stm_estimate estimate;
        set_up(&f, MPI_COMM_WORLD, 1, shards[s], stm_optimizer_bucket(n_ranks), overrides, 4);
        const stm_planner planner = {.options = &f.options,
                                     .machine = &machine,
                                     .model = f.model,
                                     .batch = &f.batch,
                                     .longest = &f.batch,
                                     .group_size = (int64_t)f.batch.groups[0].n_responses,
                                     .threads = 1,
                                     .supervised = true};
        const stm_layout layout = {.nodes = 1, .ranks_per_node = n_ranks, .pipeline = 1, .replica = 1};
        const stm_test_messages before = stm_test_messages_sent();
        assert_ok(stm_optimizer_update(&f.optimizer, &f.policy, &f.batch, stm_objective_find(f.options.objective.name),
                                       &f.options.objective, 1e-6, &counts));
        const traffic run = sent_since(&f, before);
        assert_ok(stm_plan_estimate(&planner, &layout, &estimate));
        assert_true(estimate.fits);
        assert_near(run.bytes, estimate.inside_bytes, 1e-12);
        tear_down(&f);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_replay_sends_what_a_run_sends),
        cmocka_unit_test(an_estimate_sends_what_an_update_sends),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
