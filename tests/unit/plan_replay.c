/* The replay of a pass: schedules made by hand, whose time is known by hand. */
#include "mpi/rounds.h"
#include "plan/replay.h"
#include "support/support.h"

enum { ROWS = 8, HIDDEN = 16, KV = 16 /* K and V of a row */, MOST = 8, MOST_EVENTS = 64 };

/* A layer's forward takes 1 s for ROWS rows and its backward 2 s, whatever the rows attend to; nothing else takes time.
 */
static const stm_model_config config = {
    .hidden_size = HIDDEN, .intermediate_size = 8, .n_layers = 0, .n_heads = 2, .n_kv_heads = 1, .head_dim = 8};
enum { WEIGHTS = HIDDEN * KV + HIDDEN * (2 * 16 + 3 * 8) };

static double one_row[] = {1}, gemm[] = {2.0 * ROWS * WEIGHTS}, attention[] = {1e30, 1e30};
static const stm_backend backend = {
    .name = "plan", .precision = "float32", .real_bytes = 4, .activation_bytes = 4, .weight_bytes = 4};

/* Ranks of up to MOST stages and one team; every rank has a list of events. */
typedef struct {
    stm_machine machine;
    stm_model_config config;
    stm_cost cost;
    stm_model stages[MOST];
    stm_segment segments[2];
    stm_forest forest;
    stm_replay replay;
    stm_schedule schedules[MOST];
    stm_event events[MOST][MOST_EVENTS];
    stm_planned_chunk chunks[MOST][2];
    stm_shared_chunk shared;
    size_t chunk_segments[2], shared_ids[1];
    int members[MOST];
    stm_replayed out;
} fixture;

static void set_up(fixture *f, size_t n_stages, size_t layers, int team_size, stm_pass_kind kind)
{
    memset(f, 0, sizeof *f);
    f->machine = (stm_machine){.cores = 64, .memory_bandwidth = 1e30, .rows = {1, one_row}};
    f->machine.rates[STM_FLOAT32] =
        (stm_machine_rates){.gemm = {1, gemm}, .attention = {2, attention}, .elementwise = 1e30};
    f->machine.inside.bandwidth = f->machine.between.bandwidth = 1e30;
    f->config = config;
    f->config.n_layers = n_stages * layers;
    f->cost = (stm_cost){.machine = &f->machine,
                         .config = &f->config,
                         .precision = STM_FLOAT32,
                         .share = 1,
                         .crowd = 1,
                         .real_bytes = 4,
                         .activation_bytes = 4,
                         .weight_bytes = 4};
    for (size_t s = 0; s < n_stages; s++)
        f->stages[s] = (stm_model){
            .config = f->config, .backend = &backend, .first_layer = s * layers, .end_layer = (s + 1) * layers};
    for (size_t i = 0; i < 2; i++) {
        f->segments[i] = (stm_segment){.parent = STM_NONE, .end = ROWS + 1, .n_rows = ROWS, .n_uses = 1};
        f->chunk_segments[i] = i;
    }
    f->forest = (stm_forest){.n_segments = 2, .segments = f->segments};
    f->replay = (stm_replay){.cost = &f->cost,
                             .stages = f->stages,
                             .n_stages = n_stages,
                             .team_size = team_size,
                             .forest = &f->forest,
                             .kind = kind,
                             .stage_size = team_size,
                             .ranks_per_node = 1,
                             .link_share = 1};
    for (size_t i = 0; i < n_stages * (size_t)team_size; i++) {
        f->chunks[i][0] = f->chunks[i][1] =
            (stm_planned_chunk){.n = 1, .n_rows = ROWS, .shared = STM_NONE, .computes = true, .keeps = true};
        f->chunks[i][1].first_segment = 1;
        f->schedules[i] = (stm_schedule){.n_chunks = 2,
                                         .events = f->events[i],
                                         .chunks = f->chunks[i],
                                         .segments = f->chunk_segments,
                                         .reads = f->shared_ids,
                                         .offers = f->shared_ids,
                                         .shared = &f->shared,
                                         .members = f->members,
                                         .largest_rows = ROWS};
    }
}

static void add(fixture *f, size_t rank, stm_event_kind kind, size_t chunk)
{
    stm_schedule *s = &f->schedules[rank];
    s->events[s->n_events++] = (stm_event){.kind = kind, .chunk = chunk};
}

/* Ranks 0 and 1, one layer a step: rank 0 computes chunk 0, which rank 1's chunk 1 reads. */
static void share_a_chunk(fixture *f)
{
    f->shared = (stm_shared_chunk){.n = 1, .n_rows = ROWS, .n_members = 2};
    f->members[1] = 1;
    for (size_t i = 0; i < 2; i++) {
        f->schedules[i].n_shared = 1;
        f->chunks[i][0].shared = 0;
    }
    f->chunks[1][0].computes = false;
    f->chunks[1][1].n_reads = f->chunks[1][1].n_offers = f->chunks[0][0].n_offers = 1;
    add(f, 0, STM_EVENT_OPEN, 0);
    add(f, 0, STM_EVENT_FORWARD, 0);
    add(f, 1, STM_EVENT_OPEN, 0);
    add(f, 1, STM_EVENT_FORWARD, 1);
}

/* Runs; the parts are the pass. */
static void run(fixture *f)
{
    double sum = 0;
    assert_ok(stm_replay_run(&f->replay, f->schedules, &f->out));
    for (size_t p = 0; p < STM_REPLAY_N_PARTS; p++)
        sum += f->out.parts[p];
    assert_near(sum, f->out.seconds, 1e-9);
}

static void one_rank_takes_the_sum_of_its_work(void **state)
{
    fixture f;
    (void)state;
    set_up(&f, 1, 3, 1, STM_PASS_GRADIENT);
    for (size_t i = 0; i < 4; i++) {
        add(&f, 0, STM_EVENT_FORWARD, i % 2);
        add(&f, 0, STM_EVENT_BACKWARD, i % 2);
    }
    f.chunks[0][1].keeps = false;
    run(&f);
    assert_near(f.out.parts[STM_REPLAY_FORWARD], 4 * 3.0, 1e-9);
    assert_near(f.out.parts[STM_REPLAY_AGAIN], 2 * 3.0, 1e-9);
    assert_near(f.out.parts[STM_REPLAY_BACKWARD], 4 * 6.0, 1e-9);
    assert_near(f.out.seconds, 12 + 6 + 24, 1e-9);
    assert_near(f.out.tail_s, 3 + 6, 1e-9); /* the last backward, its activations again */
}

/* P stages, m chunks, forward 1 s and backward 2 s on each: (m + P - 1) 3 s, a share of (P-1)/(m+P-1) of it idle. */
static void a_pipeline_has_its_bubble(void **state)
{
    (void)state;
    for (size_t n_stages = 1; n_stages <= 4; n_stages++)
        for (size_t m = 1; m <= 8; m *= 2) {
            fixture f;
            set_up(&f, n_stages, 1, 1, STM_PASS_GRADIENT);
            for (size_t s = 0; s < n_stages; s++)
                for (size_t i = 0; i < 2 * m; i++)
                    add(&f, s, i < m ? STM_EVENT_FORWARD : STM_EVENT_BACKWARD, 0);
            run(&f);
            const double slots = (double)(m + n_stages - 1);
            assert_near(f.out.seconds, 3 * slots, 1e-9);
            assert_near(f.out.parts[STM_REPLAY_STAGE] + f.out.parts[STM_REPLAY_IDLE], 3 * ((double)n_stages - 1), 1e-9);
        }
}

/* Rows go over the link of the node one message after the other. */
static void rows_take_latency_and_bandwidth(void **state)
{
    fixture f;
    (void)state;
    set_up(&f, 2, 1, 1, STM_PASS_SCORE);
    const double bytes = ROWS * HIDDEN * 4;
    f.machine.between.latency_s = 0.25;
    f.machine.between.bandwidth = bytes / 3; /* 3 s a message: longer than the 1 s in which the next is computed */
    for (size_t s = 0; s < 2; s++)
        for (size_t i = 0; i < 2; i++)
            add(&f, s, STM_EVENT_FORWARD, 0);
    run(&f);
    assert_near(f.out.seconds, 1 + 2 * 3 + 0.25 + 1, 1e-9);
    assert_near(f.out.between_bytes, 2 * bytes, 1e-12);
    assert_near(f.out.inside_bytes, 0, 1e-12);
}

/* K and V are formed after a quarter of a layer, and needed there. Two layers; a message takes `message_s`. */
static void run_shared(fixture *f, double message_s, double latency_s)
{
    set_up(f, 1, 2, 2, STM_PASS_SCORE);
    share_a_chunk(f);
    f->machine.between.latency_s = latency_s;
    f->machine.between.bandwidth = ROWS * KV * 4 / message_s;
    run(f);
}

static void keys_that_come_in_time_cost_the_first_layer_alone(void **state)
{
    fixture f;
    (void)state;
    run_shared(&f, 0.5, 0.1); /* at 0.25 + 0.6 and 1.25 + 0.6; needed at 0.25 and, then, 0.85 + 0.75 + 0.25 */
    assert_near(f.out.seconds, 0.85 + 0.75 + 1, 1e-9);
    assert_near(f.out.parts[STM_REPLAY_KV], 0.6 / 2, 1e-9);
    assert_near(f.out.parts[STM_REPLAY_IDLE], 0.6 / 2, 1e-9); /* rank 0 is done so much earlier */
    assert_near(f.out.between_bytes, 2 * ROWS * KV * 4, 1e-12);
}

static void keys_on_a_slow_link_hold_up_each_layer(void **state)
{
    fixture f;
    (void)state;
    run_shared(&f, 2, 0); /* at 0.25 + 2, and the next when that has left: 4.25 */
    assert_near(f.out.seconds, 4.25 + 0.75, 1e-9);
    assert_near(f.out.parts[STM_REPLAY_KV], (2 + 1) / 2.0, 1e-9);
}

static void ranks_of_a_node_read_one_copy(void **state)
{
    fixture f;
    (void)state;
    for (int shares = 0; shares < 2; shares++) {
        set_up(&f, 1, 2, 2, STM_PASS_SCORE);
        share_a_chunk(&f);
        f.replay.ranks_per_node = 2;
        f.replay.shares_kv = shares;
        f.machine.inside.bandwidth = ROWS * KV * 4 / 2.0;
        f.machine.inside.latency_s = 0.125;
        run(&f);
        assert_near(f.out.inside_bytes, shares ? 0 : 2 * ROWS * KV * 4, 1e-12);
        assert_near(f.out.seconds, shares ? 2.125 : 4.25 + 0.125 + 0.75, 1e-9);
    }
}

/* dK, dV of rank 1 are needed after three quarters of rank 0's backward of the layer. */
static void backward_waits_for_sums(void **state)
{
    fixture f;
    (void)state;
    set_up(&f, 1, 1, 2, STM_PASS_GRADIENT);
    share_a_chunk(&f);
    for (size_t i = 0; i < 2; i++) {
        add(&f, i, STM_EVENT_BACKWARD, i);
        add(&f, i, STM_EVENT_CLOSE, 0);
    }
    f.machine.between.latency_s = 0.5; /* K, V at 0.75; forward to 1.5; dK, dV at 1.5 + 1.5 + 0.5; needed at 1 + 1.5 */
    run(&f);
    assert_near(f.out.seconds, 3.5 + 0.5, 1e-9);
    assert_near(f.out.parts[STM_REPLAY_KV], (0.5 + 1) / 2, 1e-9);
}

/* A layer's backward takes 2 s, and the half of its gradient that is the other's is there 3 s later. A layer's room is
 * that of the layer two before it: it waits until that one is summed on both ranks, who have ended when all are.
 *
 *      layer       3       2        1         0
 *      computed    4 - 6   6 - 8    9 - 11    11 - 13
 *      summed      9       11       14        16
 */
static void gradients_that_are_summed_by_chunk_wait_for_room(void **state)
{
    enum { LAYERS = 4, HALF = 100 };
    static const size_t bounds[] = {0, 2 * HALF, 4 * HALF, 6 * HALF, 8 * HALF};
    const stm_rounds_options rounds = {
        .shards = {.n = 2 * LAYERS * HALF, .bucket_n = 2 * HALF, .n_ranks = 2}, .n_layers = LAYERS, .bounds = bounds};
    fixture f;
    (void)state;
    for (size_t n_with_chunk = 1; n_with_chunk <= 2; n_with_chunk++) {
        set_up(&f, 1, LAYERS, 2, STM_PASS_GRADIENT);
        f.replay.rounds = &rounds;
        f.machine.between.latency_s = 3;
        for (size_t i = 0; i < n_with_chunk; i++) {
            add(&f, i, STM_EVENT_FORWARD, 0);
            add(&f, i, STM_EVENT_BACKWARD, 0);
        }
        run(&f);
        assert_near(f.out.seconds, 16, 1e-9);
        assert_near(f.out.parts[STM_REPLAY_SUMS], n_with_chunk == 2 ? 1 + 3 : (4 + 16) / 2.0, 1e-9);
        assert_near(f.out.between_bytes, (double)n_with_chunk * LAYERS * HALF * 4, 1e-12);
        assert_near(f.out.n_messages, (double)n_with_chunk * LAYERS, 1e-12);
    }
}

/* Two ranks on one core: work of 1 s and of 3 s is done after 2 s and 4 s; no core stands still. */
static void ranks_that_share_a_core_take_turns(void **state)
{
    fixture f;
    (void)state;
    set_up(&f, 1, 1, 2, STM_PASS_SCORE);
    f.cost.crowd = 2;
    f.replay.ranks_per_node = 2;
    add(&f, 0, STM_EVENT_FORWARD, 0);
    for (size_t i = 0; i < 3; i++)
        add(&f, 1, STM_EVENT_FORWARD, 0);
    run(&f);
    assert_near(f.out.seconds, 4, 1e-9);
    assert_near(f.out.parts[STM_REPLAY_FORWARD], (2 + 4) / 2.0, 1e-9);
    assert_near(f.out.parts[STM_REPLAY_IDLE], 2 / 2.0, 1e-9);
}

/* A pipeline on one core has no bubble: while a stage waits, the other has the core. */
static void waiting_ranks_leave_their_core(void **state)
{
    fixture f;
    (void)state;
    set_up(&f, 2, 1, 1, STM_PASS_GRADIENT);
    f.cost.crowd = 2;
    f.replay.ranks_per_node = 2;
    for (size_t s = 0; s < 2; s++)
        for (size_t i = 0; i < 6; i++)
            add(&f, s, i < 3 ? STM_EVENT_FORWARD : STM_EVENT_BACKWARD, 0);
    run(&f);
    assert_near(f.out.seconds, 2 * 3 * 3, 1e-9);
}

static void a_schedule_that_waits_for_ever_is_named(void **state)
{
    fixture f;
    (void)state;
    set_up(&f, 2, 1, 1, STM_PASS_GRADIENT);
    add(&f, 0, STM_EVENT_BACKWARD, 0);
    assert_fails(stm_replay_run(&f.replay, f.schedules, &f.out), STM_ERR_DEVICE,
                 "replay: stage 0, rank 0 waits for ever at event 0 of 1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_rank_takes_the_sum_of_its_work),
                                       cmocka_unit_test(a_pipeline_has_its_bubble),
                                       cmocka_unit_test(rows_take_latency_and_bandwidth),
                                       cmocka_unit_test(keys_that_come_in_time_cost_the_first_layer_alone),
                                       cmocka_unit_test(keys_on_a_slow_link_hold_up_each_layer),
                                       cmocka_unit_test(ranks_of_a_node_read_one_copy),
                                       cmocka_unit_test(backward_waits_for_sums),
                                       cmocka_unit_test(gradients_that_are_summed_by_chunk_wait_for_room),
                                       cmocka_unit_test(ranks_that_share_a_core_take_turns),
                                       cmocka_unit_test(waiting_ranks_leave_their_core),
                                       cmocka_unit_test(a_schedule_that_waits_for_ever_is_named)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
