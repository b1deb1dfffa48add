/* The model's head in blocks against its definition over whole rows of logits, in float64. */
#include <math.h>
#include <stdlib.h>

#include "model/head.h"
#include "support/device.h"

enum { HIDDEN = 8, BLOCK = STM_HEAD_ROWS };

/* One problem: arrays of the host, and the same on the device as the head sees them. */
typedef struct {
    size_t n, vocab;
    stm_model *model;
    double *weights, *x, *inverse, *dlogp, *dentropy; /* weights: [n_parameters]; x: [n, HIDDEN]; others: [n] */
    int32_t *targets;
} problem;

/* What the head says: [n], [n, HIDDEN], [n_parameters]. */
typedef struct {
    double *logp, *entropy, *dx, *gradient;
} answer;

static answer new_answer(const problem *p)
{
    return (answer){calloc(p->n, sizeof(double)), calloc(p->n, sizeof(double)), calloc(p->n * HIDDEN, sizeof(double)),
                    calloc(p->model->n_parameters, sizeof(double))};
}

static void clear_answer(answer *a)
{
    free(a->logp);
    free(a->entropy);
    free(a->dx);
    free(a->gradient);
}

static void new_problem(device *d, size_t n, size_t vocab, problem *p)
{
    const stm_model_config config = {.architecture = "llama",
                                     .vocab_size = vocab,
                                     .hidden_size = HIDDEN,
                                     .intermediate_size = 8,
                                     .n_layers = 1,
                                     .n_heads = 1,
                                     .n_kv_heads = 1,
                                     .head_dim = 8,
                                     .max_positions = 4,
                                     .rms_eps = 1e-5,
                                     .rope_theta = 1e4};
    *p = (problem){.n = n, .vocab = vocab};
    assert_ok(stm_model_create(&config, d->backend, d->stream, &p->model));
    p->weights = random_numbers(1, p->model->n_parameters);
    assert_ok(d->backend->write(d->stream, p->model->weights, p->weights, p->model->n_parameters * sizeof(double)));
    p->x = random_numbers(2, n * HIDDEN);
    p->inverse = random_numbers(3, n);
    p->dlogp = random_numbers(4, n);
    p->dentropy = random_numbers(5, n);
    p->targets = malloc(n * sizeof *p->targets);
    for (size_t r = 0; r < n; r++) {
        p->inverse[r] = 1.5 + p->inverse[r];
        p->targets[r] = (int32_t)(r * 7919 % vocab);
    }
    p->targets[n - 1] = (int32_t)vocab - 1;
}

static void clear_problem(problem *p)
{
    stm_model_destroy(p->model);
    free(p->weights);
    free(p->x);
    free(p->inverse);
    free(p->dlogp);
    free(p->dentropy);
    free(p->targets);
}

/* As a chunk runs it: forward of a block, then its backward. */
static answer head_in_blocks(device *d, const problem *p)
{
    const stm_model *model = p->model;
    answer a = new_answer(p);
    void *x = device_reals(d, p->x, p->n * HIDDEN), *dx = device_reals(d, NULL, p->n * HIDDEN);
    void *gradient = device_reals(d, a.gradient, model->n_parameters), *scratch;
    const int32_t *targets = device_bytes(d, p->targets, p->n * sizeof *targets);
    const double *inverse = device_bytes(d, p->inverse, p->n * sizeof *inverse);
    const double *dlogp = device_bytes(d, p->dlogp, p->n * sizeof *dlogp);
    const double *dentropy = device_bytes(d, p->dentropy, p->n * sizeof *dentropy);
    stm_head_rows rows = {.inverse_rms = device_reals(d, NULL, BLOCK),
                          .logp = device_reals(d, NULL, BLOCK),
                          .entropy = device_reals(d, NULL, BLOCK),
                          .lse = device_reals(d, NULL, BLOCK)};
    assert_ok(d->backend->alloc(d->stream, stm_head_scratch_bytes(model), &scratch));
    for (size_t first = 0; first < p->n; first += BLOCK) {
        rows.n_rows = STM_MIN(p->n - first, (size_t)BLOCK);
        rows.x = stm_at(d->backend, x, first * HIDDEN);
        rows.targets = targets + first;
        rows.inverse_temperature = inverse + first;
        assert_ok(stm_head_forward(model, &rows, scratch));
        assert_ok(stm_head_backward(model, &rows, dlogp + first, dentropy + first, scratch,
                                    stm_at(d->backend, dx, first * HIDDEN), gradient));
        assert_ok(d->backend->read(d->stream, a.logp + first, rows.logp, rows.n_rows * sizeof(double)));
        assert_ok(d->backend->read(d->stream, a.entropy + first, rows.entropy, rows.n_rows * sizeof(double)));
    }
    device_read(d, dx, a.dx, p->n * HIDDEN);
    device_read(d, gradient, a.gradient, model->n_parameters);
    d->backend->free(d->stream, scratch);
    device_release(d);
    return a;
}

/* One row: logits [vocab] is scratch. */
static void row_by_definition(const problem *p, size_t r, double *logits, answer *a)
{
    const double *x = p->x + r * HIDDEN, *w = p->weights + p->model->head, *norm = p->weights + p->model->final_norm;
    double squares = 0, normed[HIDDEN], dnormed[HIDDEN] = {0}, sum = 0, largest = -INFINITY, slope = 0;
    for (size_t i = 0; i < HIDDEN; i++)
        squares += x[i] * x[i];
    const double rms = sqrt(squares / HIDDEN + 1e-5);
    for (size_t i = 0; i < HIDDEN; i++)
        normed[i] = x[i] / rms * norm[i];
    for (size_t v = 0; v < p->vocab; v++) {
        logits[v] = 0;
        for (size_t i = 0; i < HIDDEN; i++)
            logits[v] += normed[i] * w[v * HIDDEN + i] * p->inverse[r];
        largest = fmax(largest, logits[v]);
    }
    for (size_t v = 0; v < p->vocab; v++)
        sum += exp(logits[v] - largest);
    const double lse = largest + log(sum);
    for (size_t v = 0; v < p->vocab; v++)
        a->entropy[r] -= exp(logits[v] - lse) * (logits[v] - lse);
    a->logp[r] = logits[p->targets[r]] - lse;
    for (size_t v = 0; v < p->vocab; v++) {
        const double prob = exp(logits[v] - lse), onehot = v == (size_t)p->targets[r];
        const double d =
            (p->dlogp[r] * (onehot - prob) - p->dentropy[r] * prob * (logits[v] - lse + a->entropy[r])) * p->inverse[r];
        for (size_t i = 0; i < HIDDEN; i++) {
            a->gradient[p->model->head + v * HIDDEN + i] += d * normed[i];
            dnormed[i] += d * w[v * HIDDEN + i];
        }
    }
    for (size_t i = 0; i < HIDDEN; i++) {
        slope += dnormed[i] * norm[i] * x[i] / (HIDDEN * rms * rms * rms);
        a->gradient[p->model->final_norm + i] += dnormed[i] * x[i] / rms;
    }
    for (size_t i = 0; i < HIDDEN; i++)
        a->dx[r * HIDDEN + i] = dnormed[i] * norm[i] / rms - slope * x[i];
}

static void check(size_t n, size_t vocab)
{
    device d;
    problem p;
    device_open(&d, backend_under_test(), sizeof(double), 2);
    new_problem(&d, n, vocab, &p);
    double *logits = malloc(vocab * sizeof *logits);
    answer found = head_in_blocks(&d, &p), expected = new_answer(&p);
    for (size_t r = 0; r < n; r++)
        row_by_definition(&p, r, logits, &expected);
    for (size_t r = 0; r < n; r++) {
        assert_near(found.logp[r], expected.logp[r], 1e-12);
        assert_near(found.entropy[r], expected.entropy[r], 1e-11);
    }
    for (size_t i = 0; i < n * HIDDEN; i++)
        assert_near(found.dx[i], expected.dx[i], 1e-11);
    for (size_t i = 0; i < p.model->n_parameters; i++)
        assert_near(found.gradient[i], expected.gradient[i], 1e-11);
    clear_answer(&found);
    clear_answer(&expected);
    free(logits);
    clear_problem(&p);
    device_close(&d);
}

static void a_vocabulary_that_fits_a_block_keeps_its_logits(void **state)
{
    (void)state;
    check(BLOCK + 3, 300);
    check(5, 2500); /* two blocks of columns */
}

static void a_larger_vocabulary_forms_them_again(void **state)
{
    (void)state;
    check(7, STM_HEAD_WHOLE_COLUMNS + 77);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_vocabulary_that_fits_a_block_keeps_its_logits),
        cmocka_unit_test(a_larger_vocabulary_forms_them_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
