/* Attention in bfloat16 tiles against double over the same numbers, which bfloat16 holds: what remains are the
 * roundings of P and dS, and their sums in float. */
#include "backend/cpu_features.h"
#include "support/attention.h"

/* Rounding to 8 significant bits: at most 2^-8 of P or dS. The rest, 15 % of that, is for 2^x (8e-5 of P), for
 * the backward's P from such an LSE, and for sums in float. */
static const double ERROR = 1.15 * 0x1p-8;
static const double LSE_ERROR = 1.5e-4; /* 8e-5 of 2^x, P being summed unrounded; scores of up to 300 in float */

/* Sums start from 0.5 in float. */
static const double FLOAT_ERROR = 1e-6;

/* Where activations are held in bfloat16, o and dq are rounded as they are written: `rounding`, 2^-8 of themselves; and
 * delta, of such an o, moves dS by as much of what an error of o makes of it. Else it is 0. */
static double rounding_of(const device *dev)
{
    return dev->backend->activation_bytes < dev->backend->real_bytes ? 0x1p-8 : 0;
}

/* The greater of two, of which NaN is the greatest. */
static double worse(double a, double b)
{
    return a >= b || isnan(a) ? a : b;
}

/* The largest |a - b| / bound, where 1 is what the bound allows. */
static double worst(const double *a, const double *b, const double *magnitude, size_t n, double error, double rounding)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        const double bound = error * magnitude[i] + rounding * fabs(b[i]) + FLOAT_ERROR;
        const double off = fabs(a[i] - b[i]) / bound;
        most = worse(most, off);
    }
    return most;
}

static double worst_lse(const attention_answer *a, const attention_answer *b, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        const double off = fabs(a->lse[i] - b->lse[i]) / LSE_ERROR;
        most = worse(most, off);
    }
    return most;
}

/* How far the answer to `computed` is from the definition of `meant`, in units of what is allowed: forward, backward.
 */
static void measure(const attention *computed, const attention *meant, int n_threads, double *forward, double *backward)
{
    const char *why;
    device dev;
    attention_answer magnitude, expected = attention_expected(meant, &magnitude);
    const size_t n_q = attention_n_q(meant), kv = meant->n_sources * attention_source_size(meant);
    assert_true(device_open_bf16(&dev, n_threads, &why));
    attention_answer found = attention_found(&dev, computed, true);
    const double rounding = rounding_of(&dev);
    *forward = worse(worst(found.o, expected.o, magnitude.o, n_q, ERROR, rounding),
                     worst_lse(&found, &expected, n_q / meant->head_dim));
    *backward = worse(worst(found.dq, expected.dq, magnitude.dq, n_q, ERROR + rounding, rounding),
                      worse(worst(found.dk, expected.dk, magnitude.dk, kv, ERROR + rounding, 0),
                            worst(found.dv, expected.dv, magnitude.dv, kv, ERROR, 0)));
    attention_discard(&found), attention_discard(&expected), attention_discard(&magnitude);
    device_close(&dev);
}

/* Fills, compares with 1 and 3 threads, empties. */
static void assert_within_rounding(attention *p)
{
    attention_fill(p, true);
    for (int n_threads = 1; n_threads <= 3; n_threads += 2 * (int)device_kind_step()) {
        double forward, backward;
        measure(p, p, n_threads, &forward, &backward);
        if (!(forward <= 1 && backward <= 1))
            fail_msg("%zu rows, %zu/%zu heads of %zu, %d threads: %.2f forward, %.2f backward of what is allowed",
                     p->n_rows, p->n_heads, p->n_kv_heads, p->head_dim, n_threads, forward, backward);
    }
    attention_empty(p);
}

/* Two roots, an inner segment, own parts of unequal length, one that begins in the middle of its segment. */
static attention tree(size_t n_heads, size_t n_kv_heads, size_t head_dim)
{
    attention p = {130, n_heads, n_kv_heads, head_dim, .kv_stride = 75, .n_sources = 8, .n_parts = 8};
    const part_shape parts[] = {
        {0, 110, 70, 0, false, 0}, {110, 20, 33, 1, false, 0}, {30, 60, 64, 2, false, 0}, {0, 30, 30, 3, true, 0},
        {30, 41, 41, 4, true, 0},  {71, 19, 19, 5, true, 0},   {90, 20, 20, 6, true, 0},  {110, 20, 75, 7, true, 55},
    };
    memcpy(p.parts, parts, sizeof parts);
    return p;
}

static void parts_merge_to_one_softmax_at_any_ratio_of_heads(void **state)
{
    (void)state;
    const size_t shapes[][3] = {{2, 2, 6},   {4, 2, 64},  {7, 1, 40},   {6, 3, 32}, {8, 2, 128},
                                {3, 3, 17},  {10, 2, 96}, {12, 2, 128}, {8, 1, 64}, {2, 2, 160},
                                {4, 1, 192}, {8, 1, 256}, {3, 1, 248}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        attention p = tree(shapes[i][0], shapes[i][1], shapes[i][2]);
        assert_within_rounding(&p);
    }
}

/* More rows and keys than one task holds, one row and one key beyond a strip, and whole strips beyond the diagonal. */
static void strips_of_rows_and_keys_join_without_a_seam(void **state)
{
    (void)state;
    attention p = {391, 4, 2, 64, .kv_stride = 610, .n_sources = 4, .n_parts = 4};
    const part_shape parts[] = {{0, 391, 609, 0, false, 0},
                                {0, 300, 300, 1, true, 0},
                                {300, 61, 361, 2, true, 300},
                                {361, 30, 560, 3, true, 530}};
    memcpy(p.parts, parts, sizeof parts);
    assert_within_rounding(&p);
    attention one = {33, 2, 2, 256, .kv_stride = 65, .n_sources = 2, .n_parts = 2};
    one.parts[0] = (part_shape){0, 33, 65, 0, false, 0};
    one.parts[1] = (part_shape){0, 33, 33, 1, true, 0};
    assert_within_rounding(&one);
    attention wide = {101, 3, 1, 200, .kv_stride = 129, .n_sources = 3, .n_parts = 3};
    wide.parts[0] = (part_shape){0, 101, 129, 0, false, 0};
    wide.parts[1] = (part_shape){0, 65, 65, 1, true, 0};
    wide.parts[2] = (part_shape){65, 36, 101, 2, true, 65};
    assert_within_rounding(&wide);
}

/* Few tiles of keys, which many rows meet: GPUs share them out among blocks, and add what these have found. */
static void rows_of_one_tile_of_keys_may_be_cut(void **state)
{
    (void)state;
    const size_t head_dims[] = {128, 64};
    for (size_t i = 0; i < 2; i++) {
        attention p = {230, 7, 1, head_dims[i], .kv_stride = 231, .n_sources = 2, .n_parts = 3};
        p.parts[0] = (part_shape){0, 230, 100, 0, false, 0};
        p.parts[1] = (part_shape){0, 199, 199, 1, true, 0};
        p.parts[2] = (part_shape){199, 31, 230, 1, true, 199}; /* adds to the same */
        assert_within_rounding(&p);
    }
}

static void parts_may_share_accumulators(void **state)
{
    (void)state;
    attention p = {310, 2, 1, 48, .kv_stride = 300, .n_sources = 3, .n_parts = 4};
    const part_shape parts[] = {{0, 100, 290, 0, false, 0},
                                {150, 160, 300, 0, false, 0},
                                {0, 150, 150, 1, true, 0},
                                {150, 160, 280, 2, true, 120}};
    memcpy(p.parts, parts, sizeof parts);
    assert_within_rounding(&p);
    attention wide = {60, 2, 1, 256, .kv_stride = 70, .n_sources = 2, .n_parts = 3};
    wide.parts[0] = (part_shape){0, 40, 69, 0, false, 0};
    wide.parts[1] = (part_shape){20, 40, 70, 0, false, 0};
    wide.parts[2] = (part_shape){0, 60, 60, 1, true, 0};
    assert_within_rounding(&wide);
}

static void a_row_without_keys_in_a_part_is_not_touched_by_it(void **state)
{
    (void)state;
    attention p = {40, 2, 2, 32, .kv_stride = 40, .n_sources = 3, .n_parts = 3};
    const part_shape parts[] = {{0, 40, 0, 0, false, 0}, {0, 40, 6, 1, false, 0}, {20, 0, 40, 2, true, 0}};
    memcpy(p.parts, parts, sizeof parts);
    assert_within_rounding(&p);
}

/* With many query heads for each KV head in tiles; with one, where few rows meet a key, in float32, and the same bounds
 * hold. */
static void a_decode_round_sees_prompt_and_own_keys(void **state)
{
    (void)state;
    const size_t shapes[][3] = {{14, 2, 64}, {3, 3, 20}, {2, 1, 200}, {4, 2, 256}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        attention p = {9, shapes[i][0], shapes[i][1], shapes[i][2], .kv_stride = 300, .n_sources = 10, .n_parts = 10};
        p.parts[0] = (part_shape){0, 9, 300, 0, false, 0};
        for (size_t r = 0; r < 9; r++)
            p.parts[r + 1] = (part_shape){r, 1, 1 + 31 * r, r + 1, false, 0};
        assert_within_rounding(&p);
    }
}

/* More rows, and so more parts, than a warp has lanes; the prompt of some is longer than that of the others. */
static void a_decode_round_of_many_rows_agrees(void **state)
{
    (void)state;
    attention p = {37, 2, 1, 48, .kv_stride = 530, .n_sources = 39, .n_parts = 39};
    p.parts[0] = (part_shape){0, 37, 520, 0, false, 0};
    p.parts[1] = (part_shape){5, 20, 70, 1, false, 0};
    for (size_t r = 0; r < 37; r++)
        p.parts[r + 2] = (part_shape){r, 1, 1 + 14 * (r % 5) * r % 530, r + 2, false, 0};
    assert_within_rounding(&p);
}

/* Scores that rise from key to key by many powers of 2 raise the maximum again and again; those far below are 0. */
static void a_rising_maximum_loses_nothing(void **state)
{
    (void)state;
    attention p = {70, 2, 1, 32, .kv_stride = 300, .n_sources = 1, .n_parts = 1};
    p.parts[0] = (part_shape){0, 70, 300, 0, false, 0};
    attention_fill(&p, true);
    for (size_t r = 0; r < 140; r++)
        for (size_t d = 0; d < 32; d++)
            p.q[r * 32 + d] = d == 0 ? (r % 3 == 0 ? -4 : 4) : p.q[r * 32 + d];
    for (size_t key = 0; key < 300; key++)
        p.k[key * 32] = (double)(key / 2 * 2); /* scores to 298 * 4 / sqrt(32) = 210, beyond what a float's 2^x holds */
    double forward, backward;
    measure(&p, &p, 1, &forward, &backward);
    if (!(forward <= 1 && backward <= 1))
        fail_msg("%.2f forward, %.2f backward of what is allowed", forward, backward);
    attention_empty(&p);
}

/* Weights that m multiplies by powers of 2 alone round alike, so that shared and repeated computation agree: the same
 * keys as one part and as two, the later first, differ by sums in float, and by the few weights that lie on an edge. */
static void keys_round_alike_however_they_are_split(void **state)
{
    (void)state;
    enum { KEYS = 300, FIRST = 100, DIM = 64 };
    const char *why;
    attention whole = {40, 2, 1, DIM, .kv_stride = KEYS, .n_sources = 1, .n_parts = 1};
    whole.parts[0] = (part_shape){0, 40, KEYS, 0, false, 0};
    attention_fill(&whole, true);
    attention split = whole;
    split.n_sources = split.n_parts = 2;
    split.parts[0] = (part_shape){0, 40, KEYS - FIRST, 1, false, 0};
    split.parts[1] = (part_shape){0, 40, FIRST, 0, false, 0};
    split.k = calloc(2 * KEYS * DIM, sizeof(double)), split.v = calloc(2 * KEYS * DIM, sizeof(double));
    for (size_t i = 0; i < KEYS * DIM; i++) {
        const size_t to = i < FIRST * DIM ? i : (KEYS - FIRST) * DIM + i; /* source 1 begins at KEYS */
        split.k[to] = whole.k[i];
        split.v[to] = whole.v[i];
    }
    device dev;
    assert_true(device_open_bf16(&dev, 1, &why));
    attention_answer a = attention_found(&dev, &whole, false), b = attention_found(&dev, &split, false);
    assert_true(stm_relative_difference(a.o, b.o, attention_n_q(&whole)) < 1e-4);
    attention_discard(&a), attention_discard(&b);
    device_close(&dev);
    free(split.k), free(split.v);
    attention_empty(&whole);
}

/* The bounds are narrow enough to see a mistake in a single key, row or part. */
static void the_bounds_see_a_wrong_mask_and_a_missing_part(void **state)
{
    (void)state;
    attention p = tree(4, 2, 64);
    attention_fill(&p, true);
    for (int kind = 0; kind < 5; kind++) {
        attention wrong = p;
        if (kind == 0)
            wrong.parts[0].n_keys--;
        else if (kind == 1)
            wrong.parts[7].diagonal--;
        else if (kind == 2)
            wrong.parts[4].causal = false;
        else if (kind == 3)
            wrong.parts[2].n_rows--;
        else
            wrong.n_parts--, wrong.parts[6].n_rows += 20, wrong.parts[6].n_keys += 20; /* rows stay in a part */
        double forward, backward;
        measure(&wrong, &p, 1, &forward, &backward);
        assert_true(forward > 2 && backward > 2);
    }
    attention_empty(&p);
}

static void what_is_not_a_number_stays_visible(void **state)
{
    (void)state;
    const char *why;
    for (int kind = 0; kind < 3; kind++) {
        attention p = tree(4, 2, 64);
        attention_fill(&p, true);
        (kind == 0 ? p.q : kind == 1 ? p.k : p.v)[5] = NAN; /* of row 0, or a key that it sees */
        device dev;
        assert_true(device_open_bf16(&dev, 1, &why));
        attention_answer found = attention_found(&dev, &p, true);
        assert_true(isnan(found.o[5]) && isnan(found.dq[5]));
        assert_true(!isnan(found.o[115 * 4 * 64])); /* row 115 sees nothing of it */
        attention_discard(&found);
        device_close(&dev);
        attention_empty(&p);
    }
}

/* Fills, computes the same again and again, empties. */
static void assert_equal_bits(attention *p)
{
    const char *why;
    attention_fill(p, false);
    const size_t kv = p->n_sources * attention_source_size(p);
    device dev;
    assert_true(device_open_bf16(&dev, 3, &why));
    attention_answer first = attention_found(&dev, p, true);
    for (int i = 0; i < (device_is_emulated() ? 1 : 5); i++) {
        attention_answer again = attention_found(&dev, p, true);
        assert_memory_equal(first.o, again.o, attention_n_q(p) * 8);
        assert_memory_equal(first.lse, again.lse, p->n_rows * p->n_heads * 8);
        assert_memory_equal(first.dq, again.dq, attention_n_q(p) * 8);
        assert_memory_equal(first.dk, again.dk, kv * 8);
        assert_memory_equal(first.dv, again.dv, kv * 8);
        attention_discard(&again);
    }
    attention_discard(&first);
    device_close(&dev);
    attention_empty(p);
}

static void equal_calls_give_equal_bits(void **state)
{
    (void)state;
    attention p = {391, 4, 1, 64, .kv_stride = 610, .n_sources = 2, .n_parts = 3};
    p.parts[0] = (part_shape){0, 200, 610, 0, false, 0};
    p.parts[1] = (part_shape){200, 191, 600, 0, false, 0};
    p.parts[2] = (part_shape){0, 391, 391, 1, true, 0};
    assert_equal_bits(&p);
    attention wide = {91, 4, 1, 256, .kv_stride = 110, .n_sources = 2, .n_parts = 3};
    wide.parts[0] = (part_shape){0, 50, 110, 0, false, 0};
    wide.parts[1] = (part_shape){50, 41, 100, 0, false, 0};
    wide.parts[2] = (part_shape){0, 91, 91, 1, true, 0};
    assert_equal_bits(&wide);
}

/* What opening a GPU says where the environment asks for such products. */
static const char *said_of_products(const stm_backend *backend, const char *asked)
{
    stm_stream *stream;
    setenv("STEMMA_GPU_ATTENTION", asked, 1);
    if (backend->open(1, &stream) != STM_OK)
        return stm_failure();
    backend->close(stream);
    return "";
}

static void the_environment_chooses_a_gpus_products_or_is_refused(void **state)
{
    (void)state;
    const stm_backend *backend;
    const char *before = getenv("STEMMA_GPU_ATTENTION");
    char *kept = before ? strdup(before) : NULL;
    assert_ok(stm_backend_find(backend_under_test(), STM_BFLOAT16, &backend));
    if (backend->apart) {
        assert_string_equal(said_of_products(backend, "fast"),
                            "environment: STEMMA_GPU_ATTENTION=fast; expected mma or wgmma");
        assert_string_equal(said_of_products(backend, "mma"), "");
        const char *said = said_of_products(backend, "wgmma");
        assert_true(*said == '\0' || strstr(said, "expected 9.0, and a module compiled for 90a"));
    }
    if (kept)
        setenv("STEMMA_GPU_ATTENTION", kept, 1);
    else
        unsetenv("STEMMA_GPU_ATTENTION");
    free(kept);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_merge_to_one_softmax_at_any_ratio_of_heads),
        cmocka_unit_test(strips_of_rows_and_keys_join_without_a_seam),
        cmocka_unit_test(rows_of_one_tile_of_keys_may_be_cut),
        cmocka_unit_test(parts_may_share_accumulators),
        cmocka_unit_test(a_row_without_keys_in_a_part_is_not_touched_by_it),
        cmocka_unit_test(a_decode_round_sees_prompt_and_own_keys),
        cmocka_unit_test(a_decode_round_of_many_rows_agrees),
        cmocka_unit_test(a_rising_maximum_loses_nothing),
        cmocka_unit_test(keys_round_alike_however_they_are_split),
        cmocka_unit_test(the_bounds_see_a_wrong_mask_and_a_missing_part),
        cmocka_unit_test(what_is_not_a_number_stays_visible),
        cmocka_unit_test(equal_calls_give_equal_bits),
        cmocka_unit_test(the_environment_chooses_a_gpus_products_or_is_refused),
    };
    device dev;
    const char *why;
    if (!device_open_bf16(&dev, 1, &why)) {
        printf("skipped: %s\n", why);
        return 77;
    }
    device_close(&dev);
    if (strcmp(backend_under_test(), "cpu") == 0 && !stm_cpu_has_amx()) {
        printf("skipped: this processor, or its kernel, has no AMX: attention runs in float32 here\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
