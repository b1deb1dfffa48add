/* The head's softmax in blocks of columns against its definition and finite differences, and sampling against a sort of
 * the whole vocabulary. */
#include "support/device.h"

#include "base/random.h"

/* ---- head ---- */

enum { ROWS = 5, COLUMNS = 37 };

static const size_t block_starts[] = {0, 16, 20, COLUMNS}; /* three blocks of unequal width */
static const int32_t targets[ROWS] = {0, 15, 16, 36, 19};
static const double inverse_temperature[ROWS] = {1, 0.5, 2, 1, 1.25};

typedef struct {
    device *d;
    double *logits; /* [ROWS, COLUMNS] */
    double *dlogp, *dentropy;
} head_problem;

typedef struct {
    double logp[ROWS], entropy[ROWS], dlogits[ROWS * COLUMNS];
} head_answer;

static head_answer head_by_definition(const head_problem *p)
{
    head_answer x;
    for (size_t r = 0; r < ROWS; r++) {
        double sum = 0, largest = -INFINITY;
        const double *logits = p->logits + r * COLUMNS, inverse = inverse_temperature[r];
        for (size_t i = 0; i < COLUMNS; i++)
            largest = fmax(largest, logits[i] * inverse);
        for (size_t i = 0; i < COLUMNS; i++)
            sum += exp(logits[i] * inverse - largest);
        x.entropy[r] = 0;
        for (size_t i = 0; i < COLUMNS; i++) {
            const double logp = logits[i] * inverse - largest - log(sum);
            x.entropy[r] -= exp(logp) * logp;
            if (i == (size_t)targets[r])
                x.logp[r] = logp;
        }
    }
    return x;
}

enum { STRIDE = COLUMNS + 3 }; /* of the rows of logits, of which the blocks are columns */

static void *device_logits(const head_problem *p)
{
    double padded[ROWS * STRIDE];
    for (size_t i = 0; i < ROWS * STRIDE; i++)
        padded[i] = i % STRIDE < COLUMNS ? p->logits[i / STRIDE * COLUMNS + i % STRIDE] : NAN;
    return device_reals(p->d, padded, ROWS * STRIDE);
}

/* One block's argument over arrays that all blocks share. */
static stm_head_block block_on(const head_problem *p, const stm_head_block *all, size_t block)
{
    stm_head_block a = *all;
    a.first_column = block_starts[block];
    a.n_columns = block_starts[block + 1] - block_starts[block];
    a.logits = stm_at(p->d->backend, all->logits, a.first_column);
    a.dlogits = a.logits;
    a.dstride = a.stride;
    return a;
}

static head_answer head_on(const head_problem *p, bool backward)
{
    head_answer x;
    double nothing[ROWS], dlogits[ROWS * STRIDE];
    stm_head_block all = {.n_rows = ROWS,
                          .stride = STRIDE,
                          .logits = device_logits(p),
                          .targets = device_bytes(p->d, targets, sizeof targets)};
    const stm_backend *b = p->d->backend;
    stm_stream *stream = p->d->stream;
    for (size_t r = 0; r < ROWS; r++)
        nothing[r] = NAN;
    all.inverse_temperature = device_bytes(p->d, inverse_temperature, sizeof inverse_temperature);
    double **const arrays[] = {&all.m, &all.s, &all.t, &all.z_target, &all.logp, &all.entropy, &all.lse};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        *arrays[i] = device_bytes(p->d, nothing, sizeof nothing);
    for (size_t i = 0; i < 3; i++) {
        const stm_head_block a = block_on(p, &all, i);
        assert_ok(b->head_block(stream, &a));
    }
    assert_ok(b->head_finish(stream, &all));
    assert_ok(b->read(stream, x.logp, all.logp, sizeof x.logp));
    assert_ok(b->read(stream, x.entropy, all.entropy, sizeof x.entropy));
    all.dlogp = device_bytes(p->d, p->dlogp, sizeof nothing);
    all.dentropy = p->dentropy ? device_bytes(p->d, p->dentropy, sizeof nothing) : NULL;
    for (size_t i = 0; i < 3 && backward; i++) {
        const stm_head_block a = block_on(p, &all, i);
        assert_ok(b->head_block_backward(stream, &a));
    }
    device_read(p->d, all.logits, dlogits, ROWS * STRIDE);
    for (size_t i = 0; i < ROWS * COLUMNS; i++)
        x.dlogits[i] = dlogits[i / COLUMNS * STRIDE + i % COLUMNS];
    device_release(p->d);
    return x;
}

static double head_loss(void *context)
{
    const head_problem *p = context;
    const head_answer x = head_on(p, false);
    double sum = 0;
    for (size_t r = 0; r < ROWS; r++)
        sum += p->dlogp[r] * x.logp[r] + (p->dentropy ? p->dentropy[r] * x.entropy[r] : 0);
    return sum;
}

static void check_head(device *d, double tolerance, double *dentropy, double *exact)
{
    head_problem p = {d, random_numbers(1, ROWS * COLUMNS), random_numbers(2, ROWS), dentropy};
    for (size_t i = 0; i < ROWS * COLUMNS; i++)
        p.logits[i] *= 5;
    const head_answer found = head_on(&p, true), expected = head_by_definition(&p);
    for (size_t r = 0; r < ROWS; r++) {
        assert_near(found.logp[r], expected.logp[r], tolerance);
        assert_near(found.entropy[r], expected.entropy[r], tolerance);
    }
    if (d->backend->real_bytes == 8) {
        assert_gradient(head_loss, &p, p.logits, found.dlogits, ROWS * COLUMNS, 1e-6);
        memcpy(exact, found.dlogits, sizeof found.dlogits);
    }
    assert_true(stm_relative_difference(found.dlogits, exact, ROWS * COLUMNS) < tolerance);
    free(p.logits), free(p.dlogp);
}

static void log_probs_entropies_and_their_gradients_join_over_blocks(void **state)
{
    (void)state;
    double *dentropy = random_numbers(3, ROWS), exact[2][ROWS * COLUMNS];
    for (size_t i = 0; i < 3; i += device_kind_step()) {
        device d;
        device_open(&d, backend_under_test(), device_kinds[i].real_bytes, device_kinds[i].n_threads);
        check_head(&d, device_kinds[i].tolerance, NULL, exact[0]);
        check_head(&d, device_kinds[i].tolerance, dentropy, exact[1]);
        device_close(&d);
    }
    free(dentropy);
}

static void logits_thousands_apart_give_no_nan(void **state)
{
    (void)state;
    for (size_t i = 0; i < 3; i += device_kind_step()) {
        device d;
        device_open(&d, backend_under_test(), device_kinds[i].real_bytes, device_kinds[i].n_threads);
        double *ones = random_numbers(2, ROWS);
        head_problem p = {&d, random_numbers(1, ROWS * COLUMNS), ones, ones};
        for (size_t j = 0; j < ROWS * COLUMNS; j++)
            p.logits[j] *= 4000;
        const head_answer found = head_on(&p, true), expected = head_by_definition(&p);
        for (size_t r = 0; r < ROWS; r++) {
            assert_near(found.logp[r], expected.logp[r], 1e-5);
            assert_true(fabs(found.entropy[r]) < 1e-2); /* the difference of numbers near 8000 */
        }
        for (size_t j = 0; j < ROWS * COLUMNS; j++)
            assert_true(isfinite(found.dlogits[j]));
        free(p.logits), free(ones);
        device_close(&d);
    }
}

static void a_head_of_no_rows_does_nothing(void **state)
{
    (void)state;
    device d;
    device_open(&d, backend_under_test(), 4, 1);
    const stm_head_block a = {.n_rows = 0, .n_columns = 8};
    assert_ok(d.backend->head_block(d.stream, &a));
    assert_ok(d.backend->head_finish(d.stream, &a));
    assert_ok(d.backend->head_block_backward(d.stream, &a));
    device_close(&d);
}

/* ---- sampling ---- */

/* What is drawn from and how; `uniform` belongs to the rows. */
typedef struct {
    size_t n_rows, n_columns, n_ids;
    double *logits, *uniform;
    const uint8_t *banned;
    double temperature, top_p, min_p;
    size_t top_k;
} draw_problem;

typedef struct {
    int32_t *id;
    double *logp, *entropy, *kept_mass;
} draws;

static draws draws_create(size_t n)
{
    return (draws){calloc(n, sizeof(int32_t)), calloc(n, 8), calloc(n, 8), calloc(n, 8)};
}

static void draws_destroy(draws *x)
{
    free(x->id), free(x->logp), free(x->entropy), free(x->kept_mass);
}

static draws draw_on(device *d, const draw_problem *p)
{
    const size_t n = p->n_rows;
    draws x = draws_create(n);
    stm_sample a = {.n_rows = n, .n_columns = p->n_columns, .n_ids = p->n_ids, .temperature = p->temperature};
    a.top_p = p->top_p;
    a.min_p = p->min_p;
    a.top_k = p->top_k;
    a.logits = device_reals(d, p->logits, n * p->n_columns);
    a.banned = p->banned ? device_bytes(d, p->banned, p->n_ids) : NULL;
    a.uniform = device_bytes(d, p->uniform, n * sizeof *p->uniform);
    a.id = device_bytes(d, x.id, n * sizeof *x.id);
    a.logp = device_bytes(d, x.logp, n * 8);
    a.entropy = device_bytes(d, x.logp, n * 8);
    a.kept_mass = device_bytes(d, x.logp, n * 8);
    assert_ok(d->backend->sample(d->stream, &a));
    assert_ok(d->backend->read(d->stream, x.id, a.id, n * sizeof *x.id));
    assert_ok(d->backend->read(d->stream, x.logp, a.logp, n * 8));
    assert_ok(d->backend->read(d->stream, x.entropy, a.entropy, n * 8));
    assert_ok(d->backend->read(d->stream, x.kept_mass, a.kept_mass, n * 8));
    device_release(d);
    return x;
}

typedef struct {
    double z, p;
    size_t id;
} ranked;

static int by_rank(const void *x, const void *y)
{
    const ranked *a = x, *b = y;
    return a->z != b->z ? (a->z > b->z ? -1 : 1) : a->id < b->id ? -1 : a->id > b->id;
}

static int by_id(const void *x, const void *y)
{
    const ranked *a = x, *b = y;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* Keeps the shortest head of the order whose probability reaches top_p of the whole. */
static size_t head_of_mass(const ranked *order, size_t n, double top_p)
{
    double whole = 0, sum = 0;
    for (size_t i = 0; i < n; i++)
        whole += order[i].p;
    for (size_t i = 0; i < n; i++)
        if ((sum += order[i].p) >= top_p * whole)
            return i + 1;
    return n;
}

/* One row by definition: sort, cut, cut, cut, put back in order of id, walk. */
static void draw_by_definition(const draw_problem *p, size_t row, draws *x)
{
    const double inverse = p->temperature == 0 ? 1 : 1 / p->temperature, *logits = p->logits + row * p->n_columns;
    ranked *order = malloc(p->n_columns * sizeof *order);
    double largest = -INFINITY, sum = 0, kept = 0, walked = 0;
    for (size_t i = 0; i < p->n_columns; i++)
        largest = fmax(largest, logits[i] * inverse);
    for (size_t i = 0; i < p->n_columns; i++)
        sum += exp(logits[i] * inverse - largest);
    x->entropy[row] = 0;
    size_t n = 0;
    for (size_t i = 0; i < p->n_columns; i++) {
        const double logp = logits[i] * inverse - largest - log(sum);
        x->entropy[row] -= exp(logp) * logp;
        if (i < p->n_ids && !(p->banned && p->banned[i]))
            order[n++] = (ranked){logits[i] * inverse, exp(logp), i};
    }
    qsort(order, n, sizeof *order, by_rank);
    if (p->temperature == 0)
        n = 1;
    else if (p->top_k > 0 && p->top_k < n)
        n = p->top_k;
    if (p->top_p < 1)
        n = head_of_mass(order, n, p->top_p);
    const double least = p->min_p * order[0].p;
    while (n > 1 && order[n - 1].p < least)
        n--;
    qsort(order, n, sizeof *order, by_id);
    for (size_t i = 0; i < n; i++)
        kept += order[i].p;
    size_t chosen = 0;
    for (size_t i = 0; i < n; i++) {
        chosen = i;
        walked += order[i].p;
        if (walked > p->uniform[row] * kept)
            break;
    }
    x->id[row] = (int32_t)order[chosen].id;
    x->logp[row] = log(order[chosen].p);
    x->kept_mass[row] = kept;
    free(order);
}

static double *uniforms(uint64_t seed, size_t n)
{
    double *u = random_numbers(seed, n);
    for (size_t i = 0; i < n; i++)
        u[i] = (u[i] + 1) / 2;
    return u;
}

static void assert_draws_agree(device *d, const draw_problem *p, double tolerance)
{
    draws found = draw_on(d, p), expected = draws_create(p->n_rows);
    for (size_t r = 0; r < p->n_rows; r++) {
        draw_by_definition(p, r, &expected);
        assert_int_equal(found.id[r], expected.id[r]);
        assert_near(found.logp[r], expected.logp[r], tolerance);
        assert_near(found.entropy[r], expected.entropy[r], tolerance);
        assert_near(found.kept_mass[r], expected.kept_mass[r], tolerance);
    }
    draws_destroy(&found);
    draws_destroy(&expected);
}

/* Every filter alone and with the others; ids beyond the tokenizer; banned ids; many equal logits. */
static void check_filters(device *d, size_t n_columns, size_t n_ids, double step, double tolerance)
{
    enum { N_ROWS = 40 };
    const double temperatures[] = {1, 0.7, 0}, top_ps[] = {1, 0.9, 0.3, 0}, min_ps[] = {0, 0.05, 1};
    const size_t top_ks[] = {0, 1, 7, n_columns + 5};
    uint8_t *banned = calloc(n_ids, 1);
    for (size_t i = 0; i < n_ids; i++)
        banned[i] = i % 5 == 2;
    const size_t n_rows = device_is_emulated() ? 3 : N_ROWS;
    draw_problem p = {n_rows,        n_columns, n_ids, random_numbers(1, N_ROWS * n_columns), uniforms(2, N_ROWS),
                      .banned = NULL};
    for (size_t i = 0; i < N_ROWS * n_columns; i++)
        p.logits[i] = (double)(float)(step > 0 ? step * round(5 * p.logits[i] / step) : 8 * p.logits[i]);
    for (size_t i = 0; i < 3 * 4 * 3 * 4 * 2; i++) {
        p.temperature = temperatures[i % 3];
        p.top_p = top_ps[i / 3 % 4];
        p.min_p = min_ps[i / 12 % 3];
        p.top_k = top_ks[i / 36 % 4];
        p.banned = i / 144 ? banned : NULL;
        assert_draws_agree(d, &p, tolerance);
    }
    free(p.logits), free(p.uniform), free(banned);
}

static void filters_keep_what_a_full_sort_keeps(void **state)
{
    (void)state;
    for (size_t i = 0; i < 3; i += device_kind_step()) {
        device d;
        device_open(&d, backend_under_test(), device_kinds[i].real_bytes, device_kinds[i].n_threads);
        const double tolerance = device_kinds[i].real_bytes == 8 ? 1e-11 : 2e-5;
        check_filters(&d, 1, 1, 0, tolerance);
        check_filters(&d, 29, 23, 0, tolerance);
        check_filters(&d, 29, 23, 0.5, tolerance); /* ties */
        check_filters(&d, 1031, 1000, 0, tolerance);
        check_filters(&d, 1031, 1000, 0.25, tolerance);
        device_close(&d);
    }
}

/* Rows of several slices of a GPU's, in the first of which all ids are banned; the last have columns beyond the ids. */
static void long_rows_are_drawn_from_alike(void **state)
{
    (void)state;
    enum { N_ROWS = 2, WIDTH = 16500, IDS = 12288 };
    const struct {
        double temperature, top_p, min_p;
        size_t top_k;
    } how[] = {{1, 1, 0, 0}, {0.8, 1, 0.05, 0}, {0, 1, 0, 0}, {1, 0.9, 0, 0}, {1, 1, 0, 700}};
    uint8_t *banned = calloc(IDS, 1);
    memset(banned, 1, 4100);
    double *uniform = uniforms(2, N_ROWS);
    draw_problem p = {N_ROWS, WIDTH, IDS, random_numbers(1, N_ROWS * WIDTH), uniform, .banned = NULL};
    for (size_t i = 0; i < N_ROWS * WIDTH; i++)
        p.logits[i] = (double)(float)(8 * p.logits[i]);
    for (size_t i = 0; i < 3; i += device_kind_step()) {
        device d;
        device_open(&d, backend_under_test(), device_kinds[i].real_bytes, device_kinds[i].n_threads);
        for (size_t j = 0; j < 2 * sizeof how / sizeof *how; j++) {
            p.temperature = how[j / 2].temperature, p.top_p = how[j / 2].top_p;
            p.min_p = how[j / 2].min_p, p.top_k = how[j / 2].top_k;
            p.banned = j % 2 ? banned : NULL;
            assert_draws_agree(&d, &p, device_kinds[i].real_bytes == 8 ? 1e-11 : 5e-5);
        }
        device_close(&d);
    }
    free(p.logits), free(uniform), free(banned);
}

static void the_ends_of_the_uniform_give_the_first_and_the_last_id_kept(void **state)
{
    (void)state;
    enum { N = 300 };
    double logits[2 * N], uniform[2] = {0, 0.99999999999999989};
    for (size_t i = 0; i < 2 * N; i++)
        logits[i] = i % N < 3 || i % N > 290 ? -1000 : -0.01 * (double)(i % 7); /* the ends have probability 0 */
    draw_problem p = {2, N, N, logits, uniform, .temperature = 1, .top_p = 1};
    for (size_t i = 0; i < 3; i += device_kind_step()) {
        device d;
        device_open(&d, backend_under_test(), device_kinds[i].real_bytes, device_kinds[i].n_threads);
        draws x = draw_on(&d, &p);
        assert_int_equal(x.id[0], 3);
        assert_int_equal(x.id[1], 290);
        draws_destroy(&x);
        device_close(&d);
    }
}

/* 20,000 draws over 12 ids: chi-square of 11 degrees of freedom is above 48 once in a million. */
static void draws_follow_the_probabilities(void **state)
{
    (void)state;
    enum { N = 12 };
    const char *few = getenv("STEMMA_TEST_DRAWS"); /* where each takes long */
    const size_t n_draws = few ? strtoul(few, NULL, 10) : 20000;
    double *logits = malloc(n_draws * N * sizeof *logits), one[N], sum = 0, chi_square = 0;
    size_t count[N] = {0};
    for (size_t i = 0; i < N; i++) {
        one[i] = 0.3 * (double)(i * 5 % N);
        sum += exp(one[i] / 0.8);
    }
    for (size_t i = 0; i < n_draws * N; i++)
        logits[i] = one[i % N];
    draw_problem p = {n_draws, N, N, logits, uniforms(7, n_draws), .temperature = 0.8, .top_p = 1};
    device d;
    device_open(&d, backend_under_test(), 4, 2);
    draws x = draw_on(&d, &p);
    for (size_t i = 0; i < n_draws; i++)
        count[x.id[i]]++;
    for (size_t i = 0; i < N; i++) {
        const double expected = (double)n_draws * exp(one[i] / 0.8) / sum, off = (double)count[i] - expected;
        chi_square += off * off / expected;
    }
    assert_true(chi_square < 48);
    draws_destroy(&x);
    free(logits), free(p.uniform);
    device_close(&d);
}

static void a_row_that_cannot_be_sampled_says_so(void **state)
{
    (void)state;
    double logits[3 * 4] = {0, 1, NAN, 2, 0, INFINITY, 1, 2, 3, 1, 2, 0}, uniform[3] = {0.5, 0.5, 0.5};
    const uint8_t banned[4] = {1, 1, 1, 1};
    draw_problem p = {3, 4, 4, logits, uniform, .temperature = 1, .top_p = 1, .banned = banned};
    device d;
    device_open(&d, backend_under_test(), 4, 1);
    draws x = draw_on(&d, &p);
    assert_true(isnan(x.logp[0]) && isnan(x.logp[1])); /* not a number, or infinite: for the caller to see */
    assert_true(x.id[2] >= 0 && x.id[2] < 4 && isfinite(x.logp[2])); /* all banned: the ban is lifted */
    draws_destroy(&x);
    p.n_ids = 5;
    const stm_sample a = {.n_rows = 1, .n_columns = 4, .n_ids = 5};
    assert_fails(d.backend->sample(d.stream, &a), STM_ERR_DEVICE, "5 ids of 4 columns");
    device_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(log_probs_entropies_and_their_gradients_join_over_blocks),
        cmocka_unit_test(logits_thousands_apart_give_no_nan),
        cmocka_unit_test(a_head_of_no_rows_does_nothing),
        cmocka_unit_test(filters_keep_what_a_full_sort_keeps),
        cmocka_unit_test(long_rows_are_drawn_from_alike),
        cmocka_unit_test(the_ends_of_the_uniform_give_the_first_and_the_last_id_kept),
        cmocka_unit_test(draws_follow_the_probabilities),
        cmocka_unit_test(a_row_that_cannot_be_sampled_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
