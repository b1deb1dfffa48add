/* Attention over parts against one softmax over all keys of a row, and its gradient against finite differences. */
#include "support/attention.h"

static void assert_answers_agree(const attention *p)
{
    attention_answer expected = attention_expected(p, NULL);
    const size_t kv = p->n_sources * attention_source_size(p);
    for (size_t i = 0; i < 3; i += device_kind_step()) {
        device dev;
        device_open(&dev, backend_under_test(), device_kinds[i].real_bytes, device_kinds[i].n_threads);
        attention_answer found = attention_found(&dev, p, true);
        assert_true(stm_relative_difference(found.o, expected.o, attention_n_q(p)) < device_kinds[i].tolerance);
        assert_true(stm_relative_difference(found.lse, expected.lse, p->n_rows * p->n_heads) <
                    device_kinds[i].tolerance);
        assert_true(stm_relative_difference(found.dq, expected.dq, attention_n_q(p)) < device_kinds[i].tolerance);
        assert_true(stm_relative_difference(found.dk, expected.dk, kv) < device_kinds[i].tolerance);
        assert_true(stm_relative_difference(found.dv, expected.dv, kv) < device_kinds[i].tolerance);
        attention_discard(&found);
        device_close(&dev);
    }
    attention_discard(&expected);
}

/* Two trees: root 0 (7 keys) above rows 0-10, root 1 above rows 11-12; an inner segment above rows 3-8; own parts of
 * unequal length. */
static const part_shape tree[] = {
    {0, 11, 7, 0, false, 0}, {11, 2, 5, 1, false, 0}, {3, 6, 9, 2, false, 0}, {0, 3, 3, 3, true, 0},
    {3, 4, 4, 4, true, 0},   {7, 2, 2, 5, true, 0},   {9, 2, 2, 6, true, 0},  {11, 2, 6, 7, true, 4},
};

static attention small_tree(size_t n_heads, size_t n_kv_heads, size_t head_dim)
{
    attention p = {
        13, n_heads, n_kv_heads, head_dim, .kv_stride = 9, .n_sources = 8, .n_parts = sizeof tree / sizeof *tree};
    memcpy(p.parts, tree, sizeof tree);
    attention_fill(&p, false);
    return p;
}

static void parts_merge_to_one_softmax_at_any_ratio_of_heads(void **state)
{
    (void)state;
    const size_t shapes[][3] = {{2, 2, 6}, {4, 2, 10}, {4, 1, 16}, {6, 3, 64}, {8, 2, 36}, {3, 3, 2}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        attention p = small_tree(shapes[i][0], shapes[i][1], shapes[i][2]);
        assert_answers_agree(&p);
        attention_empty(&p);
    }
}

/* More rows and keys than one block holds, and rows before whose causal part a whole block of keys lies beyond the
 * diagonal. */
static void blocks_of_rows_and_keys_join_without_a_seam(void **state)
{
    (void)state;
    attention p = {391, 4, 2, 18, .kv_stride = 610, .n_sources = 4, .n_parts = 4};
    const part_shape parts[] = {{0, 391, 610, 0, false, 0},
                                {0, 300, 300, 1, true, 0},
                                {300, 61, 361, 2, true, 300},
                                {361, 30, 560, 3, true, 530}};
    memcpy(p.parts, parts, sizeof parts);
    attention_fill(&p, false);
    assert_answers_agree(&p);
    attention_empty(&p);
}

/* One segment runs in two pieces, and both see the same ancestor through parts of their own: the accumulators are one.
 */
static void parts_may_share_accumulators(void **state)
{
    (void)state;
    attention p = {310, 2, 1, 8, .kv_stride = 300, .n_sources = 3, .n_parts = 4};
    const part_shape parts[] = {{0, 100, 290, 0, false, 0},
                                {150, 160, 300, 0, false, 0},
                                {0, 150, 150, 1, true, 0},
                                {150, 160, 280, 2, true, 120}};
    memcpy(p.parts, parts, sizeof parts);
    attention_fill(&p, false);
    assert_answers_agree(&p);
    attention_empty(&p);
}

/* A decode round: every row has keys of its own in unequal number, and all share a prompt. */
static void a_decode_round_sees_prompt_and_own_keys(void **state)
{
    (void)state;
    const size_t shapes[][3] = {{8, 4, 32}, {14, 2, 64}, {3, 3, 20}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        attention p = {9, shapes[i][0], shapes[i][1], shapes[i][2], .kv_stride = 300, .n_sources = 10, .n_parts = 10};
        p.parts[0] = (part_shape){0, 9, 300, 0, false, 0};
        for (size_t r = 0; r < 9; r++)
            p.parts[r + 1] = (part_shape){r, 1, 1 + 31 * r, r + 1, false, 0};
        attention_fill(&p, false);
        assert_answers_agree(&p);
        attention_empty(&p);
    }
}

/* A decode round in which each row has a prompt to itself: one to seven query heads meet each of its keys. */
static void a_decode_round_of_different_prompts_agrees(void **state)
{
    (void)state;
    const size_t head_dims[] = {64, 32, 256, 37, 128, 96, 20};
    for (size_t group = 1; group <= 7; group++) {
        attention p = {4, 2 * group, 2, head_dims[group - 1], .kv_stride = 311, .n_sources = 8, .n_parts = 8};
        for (size_t r = 0; r < 4; r++) {
            p.parts[r] = (part_shape){r, 1, 308 + r, r, false, 0};
            p.parts[r + 4] = (part_shape){r, 1, 1 + 13 * r, r + 4, false, 0};
        }
        attention_fill(&p, false);
        assert_answers_agree(&p);
        attention_empty(&p);
    }
}

/* Numbers from lowest to highest, each as likely. */
static size_t one_of(uint64_t *state, size_t lowest, size_t highest)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return lowest + (size_t)(*state >> 33) % (highest - lowest + 1);
}

/* Two parts of one ancestor, which share its accumulator, above all rows and above some; then own parts of random
 * length, causal behind a random number of keys that all their rows see. */
static attention random_problem(uint64_t *state, size_t group, size_t head_dim)
{
    attention p = {.n_rows = one_of(state, 1, 70), .head_dim = head_dim, .n_kv_heads = one_of(state, 1, 3)};
    const size_t n_keys = one_of(state, 1, 600), some = one_of(state, 0, p.n_rows - 1);
    p.n_heads = group * p.n_kv_heads;
    p.parts[0] = (part_shape){0, p.n_rows, n_keys, 0, false, 0};
    p.parts[1] = (part_shape){some, one_of(state, 1, p.n_rows - some), one_of(state, 1, n_keys), 0, false, 0};
    p.n_parts = 2;
    for (size_t row = 0; row < p.n_rows && p.n_parts < MAX_PARTS; p.n_parts++) {
        const size_t n = one_of(state, 1, p.n_rows - row), diagonal = one_of(state, 0, 1) * one_of(state, 0, 300);
        p.parts[p.n_parts] = (part_shape){row, n, n + diagonal, p.n_parts - 1, true, diagonal};
        row += n;
    }
    p.n_sources = p.n_parts - 1;
    for (size_t i = 0; i < p.n_parts; i++)
        p.kv_stride = STM_MAX(p.kv_stride, p.parts[i].n_keys);
    attention_fill(&p, false);
    return p;
}

static void any_size_agrees_with_the_definition(void **state)
{
    (void)state;
    const size_t head_dims[] = {2, 16, 32, 64, 80, 96, 128, 256, 7, 20, 66, 37};
    uint64_t random = 1;
    for (size_t i = 0; i < sizeof head_dims / sizeof *head_dims; i += device_is_emulated() ? 4 : 1)
        for (size_t group = 1 + i % 2; group <= 8; group += device_is_emulated() ? 6 : 2 + i % 3) {
            attention p = random_problem(&random, group, head_dims[i]);
            assert_answers_agree(&p);
            attention_empty(&p);
        }
}

static void a_nan_stays_in_its_row(void **state)
{
    (void)state;
    attention p = small_tree(4, 2, 16);
    attention_answer expected = attention_expected(&p, NULL);
    const size_t row = p.n_heads * p.head_dim;
    for (size_t i = 0; i < p.head_dim; i++)
        p.q[5 * row + i] = NAN;
    device dev;
    device_open(&dev, backend_under_test(), 8, 1);
    attention_answer found = attention_found(&dev, &p, false);
    for (size_t i = 0; i < attention_n_q(&p); i++)
        if (i / p.head_dim == 5 * p.n_heads)
            assert_true(isnan(found.o[i]));
        else
            assert_near(found.o[i], expected.o[i], 1e-11);
    assert_true(isnan(found.lse[5 * p.n_heads]));
    attention_discard(&found);
    attention_discard(&expected);
    device_close(&dev);
    attention_empty(&p);
}

static void a_row_without_keys_in_a_part_is_not_touched_by_it(void **state)
{
    (void)state;
    attention p = {5, 2, 2, 4, .kv_stride = 6, .n_sources = 3, .n_parts = 3};
    const part_shape parts[] = {{0, 5, 0, 0, false, 0}, {0, 5, 6, 1, false, 0}, {2, 0, 4, 2, true, 0}};
    memcpy(p.parts, parts, sizeof parts);
    attention_fill(&p, false);
    assert_answers_agree(&p);
    attention_empty(&p);
}

static void scores_far_below_the_maximum_give_zero_and_no_nan(void **state)
{
    (void)state;
    attention p = small_tree(2, 1, 4);
    for (size_t i = 0; i < attention_n_q(&p); i++)
        p.q[i] *= 200; /* scores differ by hundreds: most probabilities are 0 in float */
    device dev;
    device_open(&dev, backend_under_test(), 4, 1);
    attention_answer found = attention_found(&dev, &p, true), expected = attention_expected(&p, NULL);
    for (size_t i = 0; i < attention_n_q(&p); i++)
        assert_near(found.o[i], expected.o[i], 1e-2);
    for (size_t i = 0; i < attention_n_q(&p); i++)
        assert_true(isfinite(found.dq[i]));
    attention_discard(&found);
    attention_discard(&expected);
    device_close(&dev);
    attention_empty(&p);
}

typedef struct {
    device *dev;
    const attention *p;
} loss_context;

/* sum of d_o * o, whose gradient by o is d_o. */
static double loss(void *context)
{
    const loss_context *c = context;
    attention_answer x = attention_found(c->dev, c->p, false);
    double sum = 0;
    for (size_t i = 0; i < attention_n_q(c->p); i++)
        sum += x.o[i] * c->p->d_o[i];
    attention_discard(&x);
    return sum;
}

static void gradient_matches_finite_differences(void **state)
{
    (void)state;
    const size_t shapes[][2] = {{2, 2}, {2, 1}, {4, 1}};
    for (int n_threads = 1; n_threads <= 3; n_threads += 2 * (int)device_kind_step())
        for (size_t i = 0; i < (device_is_emulated() ? 1 : 3); i++) {
            attention p = small_tree(shapes[i][0], shapes[i][1], 4);
            p.parts[4].source = 3; /* two own parts with one accumulator */
            device dev;
            device_open(&dev, backend_under_test(), 8, n_threads);
            attention_answer found = attention_found(&dev, &p, true);
            loss_context context = {&dev, &p};
            assert_gradient(loss, &context, p.q, found.dq, attention_n_q(&p), 1e-6);
            assert_gradient(loss, &context, p.k, found.dk, p.n_sources * attention_source_size(&p), 1e-6);
            assert_gradient(loss, &context, p.v, found.dv, p.n_sources * attention_source_size(&p), 1e-6);
            attention_discard(&found);
            device_close(&dev);
            attention_empty(&p);
        }
}

static void equal_calls_give_equal_bits(void **state)
{
    (void)state;
    const size_t rows = device_is_emulated() ? 51 : 391;
    attention p = {rows, 4, 2, 18, .kv_stride = 610, .n_sources = 2, .n_parts = 2};
    p.parts[0] = (part_shape){0, rows, 610, 0, false, 0};
    p.parts[1] = (part_shape){0, rows, rows, 1, true, 0};
    attention_fill(&p, false);
    device dev;
    device_open(&dev, backend_under_test(), 4, 3);
    attention_answer first = attention_found(&dev, &p, true);
    for (int i = 0; i < (device_is_emulated() ? 1 : 5); i++) {
        attention_answer again = attention_found(&dev, &p, true);
        assert_memory_equal(first.o, again.o, attention_n_q(&p) * 8);
        assert_memory_equal(first.dq, again.dq, attention_n_q(&p) * 8);
        assert_memory_equal(first.dk, again.dk, p.n_sources * attention_source_size(&p) * 8);
        assert_memory_equal(first.dv, again.dv, p.n_sources * attention_source_size(&p) * 8);
        attention_discard(&again);
    }
    attention_discard(&first);
    device_close(&dev);
    attention_empty(&p);
}

static void appended_rows_lie_in_their_slots(void **state)
{
    (void)state;
    enum { ROWS = 3, HEADS = 2, DIM = 4, SLOTS = 4, SLOT_ROWS = 5, CACHE = SLOTS * HEADS * SLOT_ROWS * DIM };
    const int32_t slots[ROWS] = {2, 0, 3}, positions[ROWS] = {4, 0, 1};
    double *k = random_numbers(1, HEADS * ROWS * DIM), *v = random_numbers(2, HEADS * ROWS * DIM), zero[CACHE] = {0},
           out[2][CACHE];
    device dev;
    device_open(&dev, backend_under_test(), 8, 1);
    stm_append a = {.n_rows = ROWS, .n_kv_heads = HEADS, .head_dim = DIM, .slot_rows = SLOT_ROWS};
    a.slots = device_bytes(&dev, slots, sizeof slots);
    a.positions = device_bytes(&dev, positions, sizeof positions);
    a.k = device_reals(&dev, k, HEADS * ROWS * DIM);
    a.v = device_reals(&dev, v, HEADS * ROWS * DIM);
    a.k_cache = device_reals(&dev, zero, CACHE);
    a.v_cache = device_reals(&dev, zero, CACHE);
    assert_ok(dev.backend->append(dev.stream, &a));
    device_read(&dev, a.k_cache, out[0], CACHE);
    device_read(&dev, a.v_cache, out[1], CACHE);
    for (size_t r = 0; r < ROWS; r++)
        for (size_t h = 0; h < HEADS; h++)
            for (size_t d = 0; d < DIM; d++) {
                const size_t to = (((size_t)slots[r] * HEADS + h) * SLOT_ROWS + (size_t)positions[r]) * DIM + d;
                assert_true(out[0][to] == k[(h * ROWS + r) * DIM + d]);
                assert_true(out[1][to] == v[(h * ROWS + r) * DIM + d]);
                out[0][to] = out[1][to] = 0;
            }
    for (size_t i = 0; i < CACHE; i++)
        assert_true(out[0][i] == 0 && out[1][i] == 0); /* nothing else was written */
    device_close(&dev);
    free(k), free(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_merge_to_one_softmax_at_any_ratio_of_heads),
        cmocka_unit_test(blocks_of_rows_and_keys_join_without_a_seam),
        cmocka_unit_test(parts_may_share_accumulators),
        cmocka_unit_test(a_decode_round_sees_prompt_and_own_keys),
        cmocka_unit_test(a_decode_round_of_different_prompts_agrees),
        cmocka_unit_test(any_size_agrees_with_the_definition),
        cmocka_unit_test(a_nan_stays_in_its_row),
        cmocka_unit_test(a_row_without_keys_in_a_part_is_not_touched_by_it),
        cmocka_unit_test(scores_far_below_the_maximum_give_zero_and_no_nan),
        cmocka_unit_test(gradient_matches_finite_differences),
        cmocka_unit_test(equal_calls_give_equal_bits),
        cmocka_unit_test(appended_rows_lie_in_their_slots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
