/* Placement: every segment has one rank that computes it, and no rank much more to do than another. */
#include "group/placement.h"
#include "support/batch.h"
#include "support/model.h"

enum { VOCAB = 97 };

static const stm_forest_options tree = {
    .mode = STM_FORWARD_TREE, .min_shared_tokens = 16, .across_groups = true, .max_segment_tokens = 50};

static const stm_model_config *config(void)
{
    return &stm_test_configs[STM_TEST_LLAMA];
}

/* n_groups groups of n_responses equal responses in length, different in their tokens. */
static void make_even_batch(size_t n_groups, size_t n_prompt, size_t n_responses, size_t n_response, stm_batch *batch)
{
    *batch = (stm_batch){.n_groups = n_groups};
    assert_ok(stm_alloc(n_groups, sizeof *batch->groups, &batch->groups));
    for (size_t g = 0; g < n_groups; g++) {
        stm_group *group = &batch->groups[g];
        *group = (stm_group){.n_prompt = n_prompt, .n_responses = n_responses, .temperature = 1};
        assert_ok(stm_alloc(n_prompt, sizeof(int32_t), &group->prompt));
        group->prompt[0] = (int32_t)g;
        assert_ok(stm_alloc(n_responses, sizeof *group->responses, &group->responses));
        for (size_t i = 0; i < n_responses; i++) {
            stm_response *r = &group->responses[i];
            r->n = n_response;
            assert_ok(stm_alloc(n_response, sizeof(int32_t), &r->ids));
            assert_ok(stm_alloc(n_response, 1, &r->mask));
            r->ids[0] = (int32_t)i;
        }
    }
}

static const stm_rates unknown; /* work in FLOPs */

/* Adds what a wave gives each rank to load [team_size], and to `times` [n_segments] how often a segment is computed. */
static void add_wave(const stm_forest *forest, const stm_placement *p, const stm_wave *wave, double *load,
                     size_t *times)
{
    for (size_t i = wave->first_shared; i < wave->first_shared + wave->n_shared; i++)
        for (size_t k = 0; k < p->shared[i].n; k++) {
            const size_t segment = p->segments[p->shared[i].first + k];
            times[segment]++;
            load[p->shared[i].owner] += stm_segment_cost(config(), &unknown, &forest->segments[segment]);
        }
    for (size_t i = wave->first_unit; i < wave->first_unit + wave->n_units; i++)
        for (size_t s = p->units[i].segment; s < forest->segments[p->units[i].segment].last; s++) {
            times[s]++;
            load[p->units[i].rank] += stm_segment_cost(config(), &unknown, &forest->segments[s]);
        }
}

static void assert_each_once(const stm_forest *forest, const stm_placement *p, int team_size)
{
    double load[8] = {0};
    size_t *times;
    assert_ok(stm_alloc(forest->n_segments, sizeof *times, &times));
    for (size_t w = 0; w < p->n_waves; w++)
        add_wave(forest, p, &p->waves[w], load, times);
    for (size_t s = 0; s < forest->n_segments; s++)
        assert_int_equal(times[s], 1);
    for (int r = team_size; r < 8; r++)
        assert_true(load[r] == 0);
    free(times);
}

static void every_segment_is_computed_once(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 10; seed++)
        for (int team_size = 1; team_size <= 5; team_size++) {
            stm_batch batch;
            stm_forest forest;
            stm_placement p;
            stm_test_batch(seed, 9, VOCAB, &batch);
            stm_test_forest(&batch, &tree, &forest);
            assert_ok(stm_placement_create(&forest, config(), team_size,
                                           &(stm_placement_options){.in_flight = 1 + seed % 3}, &p));
            assert_each_once(&forest, &p, team_size);
            stm_placement_clear(&p);
            assert_ok(stm_placement_create_shared(&forest, config(), team_size, &(stm_placement_options){0}, &p));
            assert_each_once(&forest, &p, team_size);
            assert_int_equal(p.n_units, 0);
            stm_placement_clear(&p);
            stm_forest_clear(&forest);
            stm_batch_clear(&batch);
        }
}

/* A shared segment's ancestors are shared, in an earlier entry or before it in its own. */
static void what_is_shared_comes_after_its_ancestors(void **state)
{
    (void)state;
    stm_batch batch;
    stm_forest forest;
    stm_placement p;
    uint8_t *seen;
    stm_test_batch(2, 30, VOCAB, &batch);
    stm_test_forest(&batch, &tree, &forest);
    assert_ok(stm_placement_create_shared(&forest, config(), 3, &(stm_placement_options){0}, &p));
    assert_ok(stm_alloc(forest.n_segments, 1, &seen));
    for (size_t i = 0; i < p.n_segments; i++) {
        const size_t parent = forest.segments[p.segments[i]].parent;
        assert_true(parent == STM_NONE || seen[parent]);
        seen[p.segments[i]] = 1;
    }
    free(seen);
    stm_placement_clear(&p);
    stm_forest_clear(&forest);
    stm_batch_clear(&batch);
}

static double worst_over_mean(const double *load, int n)
{
    double worst = 0, sum = 0;
    for (int r = 0; r < n; r++) {
        worst = fmax(worst, load[r]);
        sum += load[r];
    }
    return worst * n / sum;
}

/* 24 answers of 40 tokens and a prompt of 100: owners do fewer answers. An answer more or less is 1 / 8 of a share. */
static void a_team_shares_a_group_evenly_prompt_included(void **state)
{
    (void)state;
    for (int team_size = 2; team_size <= 5; team_size++) {
        stm_batch batch;
        stm_forest forest;
        stm_placement p;
        double load[8] = {0};
        size_t *times;
        make_even_batch(1, 100, 24, 40, &batch);
        stm_test_forest(&batch, &tree, &forest);
        assert_ok(stm_placement_create(&forest, config(), team_size, &(stm_placement_options){.in_flight = 2}, &p));
        assert_ok(stm_alloc(forest.n_segments, sizeof *times, &times));
        for (size_t w = 0; w < p.n_waves; w++)
            add_wave(&forest, &p, &p.waves[w], load, times);
        assert_true(worst_over_mean(load, team_size) < 1.2);
        free(times);
        stm_placement_clear(&p);
        stm_forest_clear(&forest);
        stm_batch_clear(&batch);
    }
}

static void ownership_rotates_and_few_prompts_are_alive(void **state)
{
    (void)state;
    stm_batch batch;
    stm_forest forest;
    stm_placement p;
    make_even_batch(7, 30, 4, 20, &batch);
    stm_test_forest(&batch, &tree, &forest);
    assert_ok(stm_placement_create(&forest, config(), 3, &(stm_placement_options){.in_flight = 2}, &p));
    for (size_t i = 0; i < p.n_shared; i++)
        assert_int_equal(p.shared[i].owner, i % 3);
    for (size_t w = 0; w < p.n_waves; w++)
        assert_true(p.waves[w].n_shared <= 2);
    assert_int_equal(p.n_shared, 7);
    stm_placement_clear(&p);
    stm_forest_clear(&forest);
    stm_batch_clear(&batch);
}

/* Two prompts for two ranks: each rank has all that hangs on its own, and nothing need travel. */
static void units_stay_at_home_where_that_is_even(void **state)
{
    (void)state;
    stm_batch batch;
    stm_forest forest;
    stm_placement p;
    make_even_batch(2, 30, 8, 20, &batch);
    stm_test_forest(&batch, &tree, &forest);
    assert_ok(stm_placement_create(&forest, config(), 2, &(stm_placement_options){.in_flight = 2}, &p));
    assert_int_equal(p.n_shared, 2);
    assert_int_equal(p.n_units, 16);
    for (size_t i = 0; i < p.n_units; i++) {
        const size_t parent = forest.segments[p.units[i].segment].parent;
        const bool first = parent == p.segments[p.shared[0].first];
        assert_int_equal(p.units[i].rank, p.shared[first ? 0 : 1].owner);
    }
    stm_placement_clear(&p);
    stm_forest_clear(&forest);
    stm_batch_clear(&batch);
}

/* Nearly all work is one prompt of six pieces: no rank could be even with its owner. */
static void pieces_of_a_long_prompt_go_round(void **state)
{
    (void)state;
    for (int team_size = 2; team_size <= 3; team_size++) {
        stm_batch batch;
        stm_forest forest;
        stm_placement p;
        make_even_batch(1, 300, 3, 10, &batch);
        stm_test_forest(&batch, &tree, &forest);
        assert_ok(stm_placement_create(&forest, config(), team_size, &(stm_placement_options){.in_flight = 2}, &p));
        assert_int_equal(p.n_shared, 6);
        for (size_t i = 0; i < p.n_shared; i++) {
            assert_int_equal(p.shared[i].n, 1);
            assert_int_equal(p.shared[i].owner, i % (size_t)team_size);
        }
        stm_placement_clear(&p);
        stm_forest_clear(&forest);
        stm_batch_clear(&batch);
    }
}

/* Sharing them would cut the work of each into small chunks, for nothing. */
static void many_small_trees_stay_whole(void **state)
{
    (void)state;
    stm_batch batch;
    stm_forest forest;
    stm_placement p;
    double load[8] = {0};
    size_t *times;
    make_even_batch(40, 30, 4, 20, &batch);
    stm_test_forest(&batch, &tree, &forest);
    assert_ok(stm_placement_create(&forest, config(), 3, &(stm_placement_options){.in_flight = 2}, &p));
    assert_ok(stm_alloc(forest.n_segments, sizeof *times, &times));
    assert_int_equal(p.n_shared, 0);
    assert_int_equal(p.n_waves, 1);
    add_wave(&forest, &p, &p.waves[0], load, times);
    assert_true(worst_over_mean(load, 3) < 1.1);
    free(times);
    stm_placement_clear(&p);
    stm_forest_clear(&forest);
    stm_batch_clear(&batch);
}

/* Loads of teams, in response tokens. */
static double team_balance(const stm_batch *batch, const stm_forest_options *options, int n_teams)
{
    static const int sizes[] = {1, 1, 1, 1, 1};
    double load[8] = {0};
    int *team_of;
    size_t n;
    stm_sequence *sequences = stm_test_sequences(batch, &n);
    assert_ok(stm_alloc(batch->n_groups, sizeof *team_of, &team_of));
    assert_ok(stm_teams_assign(batch, sequences, n, options, config(), &unknown, n_teams, sizes, team_of));
    for (size_t g = 0; g < batch->n_groups; g++) {
        assert_true(team_of[g] >= 0 && team_of[g] < n_teams);
        for (size_t i = 0; i < batch->groups[g].n_responses; i++)
            load[team_of[g]] += (double)batch->groups[g].responses[i].n;
    }
    free(team_of);
    free(sequences);
    return worst_over_mean(load, n_teams);
}

static void teams_get_equal_shares_of_many_groups(void **state)
{
    (void)state;
    stm_batch batch;
    make_even_batch(40, 30, 4, 20, &batch);
    for (int n_teams = 1; n_teams <= 5; n_teams++)
        assert_true(team_balance(&batch, &tree, n_teams) < 1.1);
    stm_batch_clear(&batch);
}

/* All groups ask about one document: one tree, which would leave all teams but one without work. */
static void a_tree_too_large_for_a_team_is_cut_between_groups(void **state)
{
    (void)state;
    stm_batch batch;
    make_even_batch(40, 60, 4, 20, &batch);
    for (size_t g = 0; g < batch.n_groups; g++) {
        batch.groups[g].prompt[0] = 1;
        batch.groups[g].prompt[59] = (int32_t)g; /* the question */
    }
    for (int n_teams = 2; n_teams <= 5; n_teams++)
        assert_true(team_balance(&batch, &tree, n_teams) < 1.3);
    stm_batch_clear(&batch);
}

/* Segments of the prompts' chains that every rank computes, and the greatest load over the mean, in seconds. */
static size_t n_everywhere(const stm_forest *forest, const stm_placement_options *options, int team_size)
{
    stm_placement p;
    size_t n = 0;
    assert_ok(stm_placement_create(forest, config(), team_size, options, &p));
    for (size_t i = 0; i < p.n_shared; i++)
        for (size_t k = 0; k < p.shared[i].n && p.shared[i].everywhere; k++, n++)
            assert_true(forest->segments[p.segments[p.shared[i].first + k]].n_uses == 0);
    stm_placement_clear(&p);
    return n;
}

static void the_faster_of_sending_and_computing_again_is_taken(void **state)
{
    (void)state;
    stm_batch batch;
    stm_forest forest;
    stm_forest_options whole = tree;
    whole.max_segment_tokens = 0;
    make_even_batch(1, 200, 8, 20, &batch);
    stm_test_forest(&batch, &whole, &forest);
    const double flops = stm_segment_cost(config(), &unknown, &forest.segments[0]);
    const double kv_bytes = 2.0 * (double)(config()->n_layers * forest.segments[0].n_rows * config()->n_kv_heads *
                                           config()->head_dim * sizeof(float));
    stm_placement_options o = {.in_flight = 2, .activation_bytes = sizeof(float), .real_bytes = sizeof(float)};
    assert_int_equal(n_everywhere(&forest, &o, 2), 0); /* nothing is known */
    o.prefix = STM_PREFIX_RECOMPUTE;
    assert_int_equal(n_everywhere(&forest, &o, 2), 1);
    assert_int_equal(n_everywhere(&forest, &o, 1), 0);
    /* K, V there and their gradients back, against half of forward and backward. */
    o.prefix = STM_PREFIX_AUTO;
    o.rates = (stm_rates){.dense = flops, .attention = flops, .bandwidth = 2 * kv_bytes / 1.6};
    assert_int_equal(n_everywhere(&forest, &o, 2), 1);
    o.rates.bandwidth = 2 * kv_bytes / 1.4;
    assert_int_equal(n_everywhere(&forest, &o, 2), 0);
    o.rates.latency_s = 0.2 / (2 * (double)config()->n_layers);
    assert_int_equal(n_everywhere(&forest, &o, 2), 1);
    o.prefix = STM_PREFIX_SEND;
    assert_int_equal(n_everywhere(&forest, &o, 2), 0);
    stm_forest_clear(&forest);
    stm_batch_clear(&batch);
}

static void attention_weighs_by_its_own_rate(void **state)
{
    (void)state;
    const stm_segment near = {.start = 1, .end = 101, .n_rows = 100}, far = {.start = 901, .end = 1001, .n_rows = 100};
    const stm_rates equal = {.dense = 2, .attention = 2}, slow = {.dense = 2, .attention = 1};
    const double near_flops = stm_segment_cost(config(), &unknown, &near);
    assert_near(stm_segment_cost(config(), &equal, &near), near_flops / 2, 1e-12);
    assert_true(stm_segment_cost(config(), &slow, &far) / stm_segment_cost(config(), &slow, &near) >
                stm_segment_cost(config(), &equal, &far) / stm_segment_cost(config(), &equal, &near));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_segment_is_computed_once),
        cmocka_unit_test(what_is_shared_comes_after_its_ancestors),
        cmocka_unit_test(a_team_shares_a_group_evenly_prompt_included),
        cmocka_unit_test(ownership_rotates_and_few_prompts_are_alive),
        cmocka_unit_test(units_stay_at_home_where_that_is_even),
        cmocka_unit_test(pieces_of_a_long_prompt_go_round),
        cmocka_unit_test(many_small_trees_stay_whole),
        cmocka_unit_test(teams_get_equal_shares_of_many_groups),
        cmocka_unit_test(a_tree_too_large_for_a_team_is_cut_between_groups),
        cmocka_unit_test(the_faster_of_sending_and_computing_again_is_taken),
        cmocka_unit_test(attention_weighs_by_its_own_rate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
