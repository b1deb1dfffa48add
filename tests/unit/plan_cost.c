/* The cost model: seconds that follow by hand from a machine's rates; more work takes longer, and parts add up. */
#include "plan/cost.h"
#include "plan/gradients.h"
#include "support/support.h"
#include "train/optimizer.h"

/* FLOP/s, byte/s: round numbers, such that products of few rows wait for memory, and those of many for arithmetic. */
static double row_items[] = {1, 16, 256}, gemm_items[] = {1e10, 1e11, 4e11}, attention_items[] = {2e11, 1e11};
static const double bandwidth = 2e10, elementwise = 5e10, operation_s = 1e-6;

static const stm_model_config config = {.hidden_size = 64,
                                        .intermediate_size = 160,
                                        .n_layers = 3,
                                        .n_heads = 4,
                                        .n_kv_heads = 2,
                                        .head_dim = 16,
                                        .vocab_size = 1000};
/* Weights of a layer: K and V, and all. */
enum { KV_WEIGHTS = 64 * 2 * 2 * 16, WEIGHTS = KV_WEIGHTS + 64 * (2 * 64 + 3 * 160), PAIR_FLOPS = 4 * 4 * 16 };

static stm_machine machine_of(void)
{
    stm_machine m = {.cores = 8, .memory_bandwidth = bandwidth, .operation_s = operation_s};
    m.rows = (stm_numbers){3, row_items};
    m.rates[STM_FLOAT32].gemm = (stm_numbers){3, gemm_items};
    m.rates[STM_FLOAT32].attention = (stm_numbers){2, attention_items};
    m.rates[STM_FLOAT32].elementwise = elementwise;
    return m;
}

static stm_cost cost_of(const stm_machine *machine)
{
    return (stm_cost){.machine = machine,
                      .config = &config,
                      .precision = STM_FLOAT32,
                      .share = 1,
                      .crowd = 1,
                      .real_bytes = 4,
                      .activation_bytes = 4,
                      .weight_bytes = 4};
}

static stm_work rows_of(double n)
{
    return (stm_work){.n_rows = n, .n_active = n, .pairs = n * (n + 1) / 2, .active_pairs = n * (n + 1) / 2};
}

/* Rates that nothing limits but what is looked at. */
static stm_machine limited_by(double gemm, double memory)
{
    static double rows[] = {1}, attention[] = {1e30, 1e30}, rate[1];
    stm_machine m = machine_of();
    rate[0] = gemm;
    m.rows = (stm_numbers){1, rows};
    m.memory_bandwidth = memory;
    m.operation_s = 0;
    m.rates[STM_FLOAT32].gemm = (stm_numbers){1, rate};
    m.rates[STM_FLOAT32].attention = (stm_numbers){2, attention};
    m.rates[STM_FLOAT32].elementwise = 1e30;
    return m;
}

static void many_rows_take_their_flops_at_the_rate(void **state)
{
    (void)state;
    const stm_machine m = limited_by(1e10, 1e30);
    const stm_cost cost = cost_of(&m);
    const stm_work work = rows_of(1024);
    assert_near(stm_cost_forward_s(&cost, &work, false), 2.0 * 1024 * WEIGHTS / 1e10, 1e-9);
    assert_near(stm_cost_backward_s(&cost, &work, false), 4.0 * 1024 * WEIGHTS / 1e10, 1e-9);
    assert_near(stm_cost_head_s(&cost, 1024, false), 2.0 * 1024 * 64 * 1000 / 1e10, 1e-9);
    assert_near(stm_cost_head_s(&cost, 1024, true), 6.0 * 1024 * 64 * 1000 / 1e10, 1e-9);
    assert_near(stm_cost_spread_s(&cost, 1024), 2.0 * 1024 * 64 * 1000 / 1e10, 1e-9); /* logits once more */
}

static void few_rows_take_the_time_to_read_the_weights(void **state)
{
    (void)state;
    const stm_machine m = limited_by(1e30, 1e9);
    const stm_cost cost = cost_of(&m);
    const stm_work work = rows_of(2);
    assert_near(stm_cost_forward_s(&cost, &work, false), WEIGHTS * 4 / 1e9, 1e-9);
    const stm_round round = {.n_rows = 2};
    assert_near(stm_cost_round_s(&cost, &round, 3, false), 3.0 * WEIGHTS * 4 / 1e9, 1e-9);
    assert_near(stm_cost_round_s(&cost, &round, 3, true), (3.0 * WEIGHTS + 64 * 1000) * 4 / 1e9, 1e-9);
}

static void a_round_reads_each_prompt_once(void **state)
{
    (void)state;
    const stm_machine m = limited_by(1e30, 1e9);
    const stm_cost cost = cost_of(&m);
    const stm_round bare = {.n_rows = 8}, full = {.n_rows = 8, .prompt_keys = 100, .own_keys = 8 * 5, .pairs = 8 * 105};
    const double keys_s = stm_cost_round_s(&cost, &full, 1, false) - stm_cost_round_s(&cost, &bare, 1, false);
    assert_near(keys_s, (100 + 8 * 5) * 2.0 * 2 * 16 * 4 / 1e9, 1e-9);
}

static void attention_takes_its_pairs(void **state)
{
    (void)state;
    const stm_machine m = machine_of();
    const stm_cost cost = cost_of(&m);
    stm_work work = rows_of(64), more = work;
    more.pairs += 1000;
    assert_near(stm_cost_forward_s(&cost, &more, false) - stm_cost_forward_s(&cost, &work, false),
                1000.0 * PAIR_FLOPS / 2e11, 1e-6);
    assert_near(stm_cost_backward_s(&cost, &more, false) - stm_cost_backward_s(&cost, &work, false),
                2 * 1000.0 * PAIR_FLOPS / 1e11, 1e-6);
}

/* A line in logarithms between 16 and 256 rows: at 64, in the middle, the geometric mean. */
static void rates_are_interpolated(void **state)
{
    (void)state;
    const stm_machine m = machine_of();
    const stm_cost cost = cost_of(&m);
    assert_near(stm_cost_gemm_rate(&cost, 16), 1e11, 1e-12);
    assert_near(stm_cost_gemm_rate(&cost, 64), sqrt(1e11 * 4e11), 1e-12);
    assert_near(stm_cost_gemm_rate(&cost, 4096), 4e11, 1e-12);
}

static void more_rows_take_longer_and_are_cheaper_each(void **state)
{
    (void)state;
    const stm_machine m = machine_of();
    const stm_cost cost = cost_of(&m);
    double before = 0, each = INFINITY;
    for (double n = 1; n <= 4096; n *= 2) {
        const stm_work work = {.n_rows = n, .n_active = n};
        const double s = stm_cost_forward_s(&cost, &work, false) + stm_cost_backward_s(&cost, &work, false) +
                         stm_cost_head_s(&cost, n, true);
        assert_true(s > before);
        assert_true(s / n <= each * (1 + 1e-12));
        before = s;
        each = s / n;
    }
}

static void the_last_layer_needs_less_of_rows_without_loss(void **state)
{
    (void)state;
    const stm_machine m = machine_of();
    const stm_cost cost = cost_of(&m);
    const stm_work none = {.n_rows = 512, .pairs = 512 * 513 / 2}, all = rows_of(512);
    assert_near(stm_cost_forward_s(&cost, &all, true), stm_cost_forward_s(&cost, &all, false), 1e-12);
    assert_true(stm_cost_forward_s(&cost, &none, true) >= 2.0 * 512 * KV_WEIGHTS / 4e11);
    assert_true(stm_cost_forward_s(&cost, &none, true) < 0.3 * stm_cost_forward_s(&cost, &none, false));
}

static void nothing_takes_no_time(void **state)
{
    (void)state;
    const stm_machine m = machine_of();
    const stm_cost cost = cost_of(&m);
    assert_true(stm_cost_forward_s(&cost, &(stm_work){0}, false) == 0);
    assert_true(stm_cost_backward_s(&cost, &(stm_work){0}, true) == 0);
    assert_true(stm_cost_head_s(&cost, 0, true) == 0);
    assert_true(stm_cost_spread_s(&cost, 0) == 0);
    assert_true(stm_cost_round_s(&cost, &(stm_round){0}, 3, true) == 0);
}

/* 8 cores. What ranks compute with, times those that want it, is the node. */
static void ranks_share_the_cores(void **state)
{
    static const struct {
        int64_t devices, ranks, threads;
        double share, crowd;
    } cases[] = {{0, 1, 8, 1, 1},     {0, 4, 2, 0.25, 1}, {0, 4, 0, 0.25, 1}, {0, 8, 2, 0.25, 2}, {0, 16, 1, 0.125, 2},
                 {0, 2, 1, 0.125, 1}, {4, 4, 1, 0.25, 1}, {4, 2, 1, 0.25, 1}, {4, 8, 1, 0.25, 2}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        stm_machine m = machine_of();
        m.devices = cases[i].devices;
        stm_cost cost = cost_of(&m);
        stm_cost_place(&cost, cases[i].ranks, cases[i].threads);
        assert_near(cost.share, cases[i].share, 1e-12);
        assert_near(cost.crowd, cases[i].crowd, 1e-12);
    }
}

/* But for what it takes to begin operations, half of the node takes twice the time. */
static void half_a_node_takes_twice_as_long(void **state)
{
    (void)state;
    stm_machine m = machine_of();
    m.operation_s = 0;
    stm_cost whole = cost_of(&m), half = whole;
    const stm_work work = rows_of(300);
    half.share = 0.5;
    assert_near(stm_cost_forward_s(&half, &work, false), 2 * stm_cost_forward_s(&whole, &work, false), 1e-12);
    assert_near(stm_cost_optimizer_s(&half, 1e6, 1e6), 2 * stm_cost_optimizer_s(&whole, 1e6, 1e6), 1e-12);
}

/* 4 ranks on 2 nodes: of a rank's 3 parts one stays on the node, two leave it; both ranks of a node share its link. */
static void an_exchange_takes_the_slower_links(void **state)
{
    (void)state;
    stm_machine m = machine_of();
    m.inside.bandwidth = 1e9;
    m.between.bandwidth = 1e8;
    const stm_cost cost = cost_of(&m);
    const stm_plan_exchange x = stm_plan_exchange_of(&cost, 1e6, 4, 1, 2),
                            alone = stm_plan_exchange_of(&cost, 1e6, 1, 1, 2);
    assert_near(x.inside_bytes, 2 * 1e6, 1e-12);
    assert_near(x.between_bytes, 4 * 1e6, 1e-12);
    assert_near(x.inside_s, 1e6 / 1e9, 1e-12);
    assert_near(x.between_s, 4e6 / 1e8, 1e-12);
    assert_true(alone.inside_s + alone.between_s == 0);
    assert_true(stm_plan_exchange_sum_s(&cost, &alone, &(stm_model){0}, 1) == 0);
}

/* 16 layers of a bucket each; an embedding of 2. */
static void backward_hides_all_of_a_sum_but_the_end(void **state)
{
    enum { BUCKET = 1 << 20 }; /* of two ranks: train/optimizer.h */
    stm_model stage = {
        .config = {.hidden_size = 1024, .intermediate_size = 256, .n_heads = 4, .head_dim = 32, .vocab_size = 2048},
        .end_layer = 16,
        .own = {.n = 19 * BUCKET}};
    (void)state;
    assert_int_equal(stm_optimizer_bucket(2), BUCKET);
    assert_near(stm_plan_exchange_last_share(&stage, 2), 3.0 / 19, 1e-12);
    assert_near(stm_plan_exchange_exposed_s(&stage, 2, 1.9, 100), 0.3,
                1e-12); /* all but the last goes over while it computes */
    assert_near(stm_plan_exchange_exposed_s(&stage, 2, 10, 1.6), 10 - 1.5, 1e-12); /* the links are the slower part */
    stage.first_layer = 8;
    stage.own.n = 8 * BUCKET;
    assert_near(stm_plan_exchange_last_share(&stage, 2), 1.0 / 8, 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(many_rows_take_their_flops_at_the_rate),
                                       cmocka_unit_test(few_rows_take_the_time_to_read_the_weights),
                                       cmocka_unit_test(a_round_reads_each_prompt_once),
                                       cmocka_unit_test(attention_takes_its_pairs),
                                       cmocka_unit_test(rates_are_interpolated),
                                       cmocka_unit_test(more_rows_take_longer_and_are_cheaper_each),
                                       cmocka_unit_test(the_last_layer_needs_less_of_rows_without_loss),
                                       cmocka_unit_test(nothing_takes_no_time),
                                       cmocka_unit_test(ranks_share_the_cores),
                                       cmocka_unit_test(half_a_node_takes_twice_as_long),
                                       cmocka_unit_test(an_exchange_takes_the_slower_links),
                                       cmocka_unit_test(backward_hides_all_of_a_sum_but_the_end)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
