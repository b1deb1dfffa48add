/* How far the members of a group are from each other at each position: recorded values, the definition over whole rows
 * of probabilities, and blocks of columns. */
#include <jansson.h>

#include "group/token_weights.h"
#include "support/device.h"

/* Members and their lengths; log-probs [member][position][word], of positions that the member has. */
typedef struct {
    size_t n_members, n_positions, n_vocab;
    const size_t *lengths;
    const double *logits;
    double inverse_temperature;
} problem;

static double logit_at(const problem *p, size_t i, size_t t, size_t v)
{
    return p->logits[(i * p->n_positions + t) * p->n_vocab + v];
}

static double lse_at(const problem *p, size_t i, size_t t)
{
    double sum = 0;
    for (size_t v = 0; v < p->n_vocab; v++)
        sum += exp(logit_at(p, i, t, v) * p->inverse_temperature);
    return log(sum);
}

static double log_prob_at(const problem *p, size_t i, size_t t, size_t v)
{
    return t < p->lengths[i] ? logit_at(p, i, t, v) * p->inverse_temperature - lse_at(p, i, t)
                             : -log((double)p->n_vocab);
}

/* Without the bound the sum of e^x less the number of words. */
static double divergence_by_definition(const problem *p, size_t t, bool held)
{
    double sum = 0;
    for (size_t v = 0; v < p->n_vocab; v++) {
        double mean = 0;
        for (size_t i = 0; i < p->n_members; i++)
            mean += log_prob_at(p, i, t, v) / (double)p->n_members;
        for (size_t i = 0; i < p->n_members; i++) {
            double x = mean - log_prob_at(p, i, t, v);
            x = held ? fmin(fmax(x, -11), 11) : x;
            sum += held ? exp(x) - x - 1 : exp(x) - 1;
        }
    }
    return sum / (double)p->n_members;
}

/* divergence [n_positions], in blocks of columns that end at 3 and at 20 of them. */
static void divergence_on(device *d, const problem *p, double *divergence)
{
    const size_t ends[] = {3, 20, SIZE_MAX}, stride = p->n_vocab + 2, most = p->n_members * p->n_positions;
    double *rows = malloc(most * stride * sizeof *rows), *lse = malloc(most * sizeof *lse);
    int32_t *first_rows = malloc((p->n_positions + 1) * sizeof *first_rows), n = 0;
    for (size_t t = 0; t < p->n_positions; t++) {
        first_rows[t] = n;
        for (size_t i = 0; i < p->n_members; i++) {
            if (t >= p->lengths[i])
                continue;
            for (size_t v = 0; v < stride; v++)
                rows[(size_t)n * stride + v] = v < p->n_vocab ? logit_at(p, i, t, v) : NAN;
            lse[n++] = lse_at(p, i, t);
        }
        divergence[t] = NAN;
    }
    first_rows[p->n_positions] = n;
    const void *logits = device_reals(d, rows, (size_t)n * stride);
    stm_spread a = {.n_positions = p->n_positions,
                    .n_members = p->n_members,
                    .n_vocab = p->n_vocab,
                    .stride = stride,
                    .inverse_temperature = p->inverse_temperature,
                    .first_rows = device_bytes(d, first_rows, (p->n_positions + 1) * sizeof *first_rows),
                    .lse = device_bytes(d, lse, (size_t)n * sizeof *lse),
                    .sums = device_bytes(d, divergence, p->n_positions * sizeof *divergence)};
    for (size_t i = 0; a.first_column < p->n_vocab; i++) {
        a.n_columns = STM_MIN(ends[i], p->n_vocab) - a.first_column;
        a.logits = stm_at(d->backend, logits, a.first_column);
        assert_ok(d->backend->spread(d->stream, &a));
        a.first_column += a.n_columns;
    }
    assert_ok(d->backend->read(d->stream, divergence, a.sums, p->n_positions * sizeof *divergence));
    for (size_t t = 0; t < p->n_positions; t++)
        divergence[t] /= (double)p->n_members;
    device_release(d);
    free(rows), free(lse), free(first_rows);
}

static void numbers(const json_t *list, double *out)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        out[i] = json_number_value(json_array_get(list, i));
}

static void divergence_and_weights_are_the_recorded_ones(void **state)
{
    (void)state;
    enum { MEMBERS = 3, POSITIONS = 4, VOCAB = 5 };
    double logits[MEMBERS * POSITIONS * VOCAB], lengths[MEMBERS], divergence[POSITIONS], weights[POSITIONS];
    double found[POSITIONS];
    json_t *document = json_load_file(stm_fixture("vectors/group.json"), 0, NULL);
    const json_t *unit = json_array_get(json_object_get(document, "units"), 0);
    assert_string_equal(json_string_value(json_object_get(unit, "name")), "tw_grpo/token_weights");
    const json_t *input = json_object_get(unit, "input"), *expected = json_object_get(unit, "expected");
    for (size_t i = 0; i < MEMBERS; i++)
        for (size_t t = 0; t < POSITIONS; t++)
            numbers(json_array_get(json_array_get(json_object_get(input, "logprobs"), i), t),
                    logits + (i * POSITIONS + t) * VOCAB);
    numbers(json_object_get(input, "lengths"), lengths);
    numbers(json_object_get(expected, "divergence"), divergence);
    numbers(json_object_get(expected, "weights"), weights);
    const size_t n[MEMBERS] = {(size_t)lengths[0], (size_t)lengths[1], (size_t)lengths[2]};
    const problem p = {MEMBERS, POSITIONS, VOCAB, n, logits, 1};
    device d;
    device_open(&d, backend_under_test(), 8, 1);
    divergence_on(&d, &p, found);
    for (size_t t = 0; t < POSITIONS; t++)
        assert_near(found[t], divergence[t], 1e-12);
    const double alpha = json_number_value(json_object_get(json_object_get(unit, "options"), "alpha"));
    stm_weigh_positions(alpha, POSITIONS, found, found);
    for (size_t t = 0; t < POSITIONS; t++)
        assert_near(found[t], weights[t], 1e-12);
    device_close(&d);
    json_decref(document);
}

/* spread: of the logits. Words of probability e^-50 meet the bound. */
static void check(double spread, bool held)
{
    enum { MEMBERS = 4, POSITIONS = 6, VOCAB = 37 };
    static const size_t lengths[MEMBERS] = {6, 0, 1, 4};
    double *logits = random_numbers(7, MEMBERS * POSITIONS * VOCAB), found[POSITIONS];
    for (size_t i = 0; i < MEMBERS * POSITIONS * VOCAB; i++)
        logits[i] *= spread;
    const problem p = {MEMBERS, POSITIONS, VOCAB, lengths, logits, 0.8};
    for (size_t k = 0; k < 3; k += device_kind_step()) {
        device d;
        device_open(&d, backend_under_test(), device_kinds[k].real_bytes, device_kinds[k].n_threads);
        divergence_on(&d, &p, found);
        for (size_t t = 0; t < POSITIONS; t++)
            assert_near(found[t], divergence_by_definition(&p, t, held), device_kinds[k].tolerance);
        device_close(&d);
    }
    free(logits);
}

static void blocks_of_columns_join_to_the_definition(void **state)
{
    (void)state;
    check(3, false);
    check(3, true);
}

static void what_is_far_is_held(void **state)
{
    (void)state;
    check(50, true);
}

static void equal_members_do_not_differ_and_weights_stay_one(void **state)
{
    (void)state;
    enum { POSITIONS = 3, VOCAB = 9 };
    static const size_t lengths[] = {3, 3};
    double *half = random_numbers(3, POSITIONS * VOCAB), logits[2 * POSITIONS * VOCAB], found[POSITIONS];
    for (size_t i = 0; i < 2 * POSITIONS * VOCAB; i++)
        logits[i] = half[i % (POSITIONS * VOCAB)];
    const problem p = {2, POSITIONS, VOCAB, lengths, logits, 1};
    device d;
    device_open(&d, backend_under_test(), 8, 1);
    divergence_on(&d, &p, found);
    stm_weigh_positions(1.7, POSITIONS, found, found);
    for (size_t t = 0; t < POSITIONS; t++)
        assert_near(found[t], 1, 1e-7);
    device_close(&d);
    free(half);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(divergence_and_weights_are_the_recorded_ones),
        cmocka_unit_test(blocks_of_columns_join_to_the_definition),
        cmocka_unit_test(what_is_far_is_held),
        cmocka_unit_test(equal_members_do_not_differ_and_weights_stay_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
