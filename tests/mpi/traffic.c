/* What each rank sends and computes in a pass for a gradient is what the schedule says: messages, bytes and FLOPs are
 * counted here from the schedule, and there where the run hands them to MPI.
 */
#include "group/engine.h"
#include "group/schedule.h"
#include "model/stages.h"
#include "mpi/gathering.h"
#include "mpi/reduction.h"
#include "support/batch.h"
#include "support/messages.h"
#include "support/model.h"
#include "support/mpi.h"

enum { N_LAYERS = 5 };

/* What a rank is to do. */
typedef struct {
    stm_test_messages sent;
    double rows, rows_active; /* computed; through the head */
    double flops;             /* of a forward, in this rank's layers */
} work;

typedef struct {
    stm_batch batch;
    stm_stream *stream;
    stm_model *model;
    stm_options options;
} fixture;

static void set_up(fixture *f, const size_t *group_sizes, size_t n_groups, const char *const *overrides, size_t n)
{
    const stm_backend *backend = &stm_backend_cpu_f64;
    stm_model_config config = stm_test_configs[STM_TEST_LLAMA];
    config.n_layers = N_LAYERS;
    assert_ok(backend->open(1, &f->stream));
    f->model = stm_test_model(backend, f->stream, &config, 5);
    stm_test_batch_of(11, group_sizes, n_groups, config.vocab_size, &f->batch);
    stm_test_options(&f->options, overrides, n);
}

static void tear_down(fixture *f)
{
    const stm_backend *backend = f->model->backend;
    stm_options_clear(&f->options);
    stm_batch_clear(&f->batch);
    stm_model_destroy(f->model);
    backend->close(f->stream);
}

/* Counting */

/* How many hang on `rank` in the heap of `ranks`; -1: it is not among them. *is_root: nothing is above it. */
static int children_of(const int *ranks, int n, int rank, bool *is_root)
{
    for (int i = 0; i < n; i++)
        if (ranks[i] == rank) {
            *is_root = i == 0;
            return (2 * i + 1 < n) + (2 * i + 2 < n);
        }
    return -1;
}

static void add_messages(work *w, size_t n, size_t reals)
{
    w->sent.n += reals > 0 ? n : 0;
    w->sent.n_empty += reals > 0 ? 0 : n;
    w->sent.bytes += n * reals * sizeof(double);
}

/* Down along the heap of leaders, then to the guests of this node, one message a layer; up along that of the members.
 */
static void count_shared(const stm_schedule *s, const stm_shared_chunk *c, const stm_model *stage, int rank, work *w)
{
    const size_t n_layers = stage->end_layer - stage->first_layer;
    const size_t reals = 2 * stage->config.n_kv_heads * c->n_rows * stage->config.head_dim;
    bool is_root = true;
    if (c->chunk == STM_NONE || c->n_members == 1 || c->n_rows == 0)
        return;
    const int readers = children_of(s->leaders + c->first_leader, c->n_leaders, rank, &is_root);
    if (readers > 0)
        add_messages(w, n_layers * (size_t)readers, reals);
    const int guests = children_of(s->local + c->first_local, c->n_local, rank, &is_root);
    if (guests > 0)
        add_messages(w, n_layers * (size_t)guests, 0);
    if (guests >= 0 && !is_root)
        add_messages(w, 1, 0); /* it has read all */
    (void)children_of(s->members + c->first_member, c->n_members, rank, &is_root);
    if (!is_root)
        add_messages(w, n_layers, reals);
}

static void count_event(const stm_schedule *s, const stm_event *event, const stm_model *stage, work *w)
{
    const size_t reals = s->chunks[event->chunk].n_rows * stage->config.hidden_size;
    const bool forward = event->kind == STM_EVENT_FORWARD && !stm_model_is_last(stage);
    const bool backward = event->kind == STM_EVENT_BACKWARD && !stm_model_is_first(stage);
    if (reals > 0 && (forward || backward))
        add_messages(w, 1, reals);
}

/* A segment's forward in the layers of the stage: the last one skips rows without loss, and is followed by the head. */
static void count_segment(const stm_forest *forest, size_t i, const stm_model *stage, work *w)
{
    stm_model_config config = stage->config;
    stm_forest one = *forest;
    stm_flops flops = {0};
    one.segments = forest->segments + i;
    one.n_segments = 1;
    const size_t n_layers = stage->end_layer - stage->first_layer;
    /* FLOPs of a layer do not depend on how many there are. */
    config.n_layers = stm_model_is_last(stage) ? n_layers : n_layers + 1;
    if (stm_model_is_last(stage)) {
        stm_flops_of_forest(&config, &one, &flops);
        w->rows_active += flops.head / stm_model_head_flops(&config);
    } else {
        stm_flops_add_rows(&config, stm_segment_first_position(one.segments), one.segments->n_rows, &flops);
    }
    w->rows += stm_model_is_first(stage) ? (double)one.segments->n_rows : 0;
    w->flops += stm_flops_forward(&flops);
}

static work count_work(const stm_forest *forest, const stm_schedule *s, const stm_model *stage, int rank)
{
    work w = {0};
    for (size_t i = 0; i < s->n_shared; i++)
        count_shared(s, &s->shared[i], stage, rank, &w);
    for (size_t e = 0; e < s->n_events; e++)
        count_event(s, &s->events[e], stage, &w);
    for (size_t c = 0; c < s->n_chunks; c++)
        for (size_t k = 0; s->chunks[c].computes && k < s->chunks[c].n; k++)
            count_segment(forest, s->segments[s->chunks[c].first_segment + k], stage, &w);
    return w;
}

/* All that the rank computes and sends, and the FLOPs of all ranks: *whole, as one rank alone counts them. One team. */
static work expect(const fixture *f, const stm_grid *grid, double *whole)
{
    const stm_options *o = &f->options;
    const size_t chunk_rows = (size_t)o->memory.chunk_tokens;
    const bool shares = o->parallel.shared_kv != STM_SHARED_KV_OFF;
    stm_forest_options options = stm_engine_forest_options(o);
    const stm_placement_options placing = {.in_flight = (size_t)o->parallel.prefixes_in_flight,
                                           .context = o->parallel.context};
    const stm_schedule_options scheduling = {.kind = STM_PASS_GRADIENT,
                                             .team_size = grid->team_size,
                                             .team_rank = grid->team_rank,
                                             .nodes = shares ? grid->team_nodes : NULL,
                                             .n_stages = (size_t)grid->n_stages,
                                             .stage = (size_t)grid->stage,
                                             .chunk_rows = chunk_rows,
                                             .room_bytes = (size_t)1 << 40};
    stm_forest forest;
    stm_placement placement;
    stm_schedule schedule;
    stm_flops flops;
    stm_model stage = *f->model;
    stm_model_hold_stage(&stage, (size_t)grid->n_stages, (size_t)grid->stage);
    options.max_segment_tokens = stm_engine_segment_tokens(options.max_segment_tokens, chunk_rows, grid->team_size);
    stm_test_forest(&f->batch, &options, &forest);
    assert_ok(stm_placement_create(&forest, &stage.config, grid->team_size, &placing, &placement));
    assert_ok(stm_schedule_create(&forest, &placement, &stage, &scheduling, &schedule));
    const work w = count_work(&forest, &schedule, &stage, grid->team_rank);
    stm_flops_of_forest(&stage.config, &forest, &flops);
    *whole = stm_flops_forward(&flops);
    stm_schedule_clear(&schedule);
    stm_placement_clear(&placement);
    stm_forest_clear(&forest);
    return w;
}

/* Claims */

static double sum_over(MPI_Comm comm, double x)
{
    stm_all_reduce(comm, &x, 1, sizeof x);
    return x;
}

static void assert_sent(stm_test_messages before, const stm_test_messages *expected)
{
    const stm_test_messages now = stm_test_messages_sent();
    assert_int_equal(now.n - before.n, expected->n);
    assert_int_equal(now.n_empty - before.n_empty, expected->n_empty);
    assert_int_equal(now.bytes - before.bytes, expected->bytes);
}

/* One team of each stage of n_stages, of all ranks that these have alike. */
static void check(fixture *f, int n_stages)
{
    int rank, n_ranks;
    MPI_Comm used;
    stm_grid grid;
    stm_test_result result;
    double whole;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    const int n_used = n_ranks / n_stages * n_stages;
    MPI_Comm_split(MPI_COMM_WORLD, rank < n_used ? 0 : MPI_UNDEFINED, rank, &used);
    if (rank >= n_used)
        return;
    f->options.parallel.pipeline = n_stages;
    f->options.parallel.suffix = n_used / n_stages;
    f->options.parallel.replica = 1;
    const stm_axes axes = {n_stages, n_used / n_stages, 1};
    assert_ok(stm_grid_create(used, &axes, f->batch.n_groups, &grid));
    stm_test_play_nodes(&grid);
    const work expected = expect(f, &grid, &whole);
    const stm_test_messages before = stm_test_messages_sent();
    stm_test_gradient(used, f->model, &f->batch, &f->options, &result);
    assert_sent(before, &expected.sent);
    assert_near(result.counts.rows, expected.rows, 1e-15);
    assert_near(result.counts.rows_active, expected.rows_active, 1e-12);
    assert_near(sum_over(grid.world, expected.flops), whole, 1e-12);
    stm_test_result_clear(&result);
    stm_grid_destroy(&grid);
    MPI_Comm_free(&used);
}

static void ranks_send_and_compute_what_the_schedule_says(void **state)
{
    (void)state;
    static const size_t group_sizes[] = {3, 7, 1, 16, 3};
    static const int pipelines[] = {1, 2, 3, 5};
    static const char *const cuts[][2] = {{"memory.chunk_tokens=16", "parallel.prefixes_in_flight=1"},
                                          {"memory.chunk_tokens=64", "parallel.prefixes_in_flight=3"},
                                          {"memory.chunk_tokens=40", "parallel.shared_kv=off"}};
    int n_ranks;
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++)
        for (size_t p = 0; p < sizeof pipelines / sizeof *pipelines && pipelines[p] <= n_ranks; p++)
            for (stm_test_n_nodes = 0; stm_test_n_nodes <= 2; stm_test_n_nodes++) {
                fixture f;
                set_up(&f, group_sizes, 5, cuts[c], 2);
                stm_test_unmask(&f.batch);
                check(&f, pipelines[p]);
                tear_down(&f);
            }
    stm_test_n_nodes = 0;
}

/* By hand: one prompt that all ranks read. Its K and V reach each other rank once, its dK and dV leave each once. */
static void a_prompt_costs_its_keys_and_values_once_a_reader_and_way(void **state)
{
    (void)state;
    static const char *const overrides[] = {"parallel.shared_kv=off", "memory.chunk_tokens=1024", "--forward=prompt"};
    static const size_t group_size = 16;
    fixture f;
    stm_test_result result;
    int n_ranks;
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    set_up(&f, &group_size, 1, overrides, 3);
    stm_test_unmask(&f.batch);
    const stm_model_config *c = &f.model->config;
    const double n_rows = (double)f.batch.groups[0].n_prompt - 1, kv = 2.0 * (double)(c->n_kv_heads * c->head_dim);
    const double readers = n_ranks - 1;
    f.options.parallel.suffix = n_ranks;
    const stm_test_messages before = stm_test_messages_sent();
    stm_test_gradient(MPI_COMM_WORLD, f.model, &f.batch, &f.options, &result);
    const stm_test_messages after = stm_test_messages_sent();
    assert_near(sum_over(MPI_COMM_WORLD, (double)(after.n - before.n)), 2 * N_LAYERS * readers, 1e-15);
    assert_near(sum_over(MPI_COMM_WORLD, (double)(after.bytes - before.bytes)),
                2 * N_LAYERS * readers * kv * n_rows * sizeof(double), 1e-15);
    assert_true(after.n_empty == before.n_empty);
    stm_test_result_clear(&result);
    tear_down(&f);
}

/* Each rank sends what it does not own, once, and no bucket of it in more messages than there are other ranks. */
static void gradients_cost_what_others_own_of_them(void **state)
{
    (void)state;
    enum { N = 1003, BUCKET = 64 };
    static double reals[N];
    int rank, n_ranks;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    const stm_shards shards = {.n = N, .bucket_n = BUCKET, .n_ranks = n_ranks};
    stm_reduction *reduction;
    assert_ok(stm_reduction_create(MPI_COMM_WORLD, &shards, sizeof(double), NULL, &reduction));
    const stm_test_messages before = stm_test_messages_sent();
    stm_reduction_begin(reduction, reals);
    stm_reduction_finish(reduction);
    stm_reduction_destroy(reduction);
    const stm_test_messages expected = {.n = stm_shards_n_ranges(&shards) *
                                             (size_t)(n_ranks - 1), /* a share has at least 43 / n_ranks elements */
                                        .bytes = (N - stm_shards_count(&shards, rank)) * sizeof(double)};
    assert_sent(before, &expected);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_send_and_compute_what_the_schedule_says),
        cmocka_unit_test(a_prompt_costs_its_keys_and_values_once_a_reader_and_way),
        cmocka_unit_test(gradients_cost_what_others_own_of_them),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
