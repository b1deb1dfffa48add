/* Weights of tokens by how far a group's members are from each other, against a reference that has all probabilities of
 * all words, on any layout; and the gradient with them. */
#include "group/token_weights.h"
#include "support/batch.h"
#include "support/model.h"
#include "support/mpi.h"

enum { MOST_MEMBERS = 4, N_GROUPS = 4, MOST = 6 };
static const double ALPHA = 1.7;

/* A group of one, an empty member, equal ones, lengths that differ. */
static const size_t lengths[N_GROUPS][MOST_MEMBERS] = {{5, 2, 0, 3}, {3}, {2, 2, 2}, {1, 4}};
static const size_t n_members[N_GROUPS] = {4, 1, 3, 2};

typedef struct {
    stm_stream *stream;
    stm_model *model;
    stm_batch batch;
    size_t n_tokens;
    double *expected; /* [n_tokens] */
} fixture;

static void add_response(size_t n, stm_group *group)
{
    stm_response *r = &group->responses[group->n_responses++];
    r->n = n;
    r->reward = (double)(group->n_responses % 3);
    r->has_reward = true;
    assert_ok(stm_alloc(n, sizeof *r->ids, &r->ids));
    assert_ok(stm_alloc(n, 1, &r->mask));
    memset(r->mask, 1, n);
}

static void begin_group(size_t g, size_t room, stm_group *group)
{
    *group = (stm_group){.n_prompt = 2 + g, .temperature = g == 0 ? 0.8 : 1};
    assert_ok(stm_alloc(group->n_prompt, sizeof *group->prompt, &group->prompt));
    for (size_t k = 0; k < group->n_prompt; k++)
        group->prompt[k] = (int32_t)(3 + 5 * g + 7 * k) % 50;
    assert_ok(stm_alloc(room, sizeof *group->responses, &group->responses));
}

static void make_batch(stm_batch *batch)
{
    assert_ok(stm_alloc(N_GROUPS, sizeof *batch->groups, &batch->groups));
    for (; batch->n_groups < N_GROUPS; batch->n_groups++) {
        const size_t g = batch->n_groups;
        stm_group *group = &batch->groups[g];
        begin_group(g, n_members[g], group);
        for (size_t i = 0; i < n_members[g]; i++) {
            add_response(lengths[g][i], group);
            for (size_t k = 0; k < lengths[g][i]; k++)
                group->responses[i].ids[k] = (int32_t)(g == 2 ? 11 + k : (13 * g + 5 * i * (k + 1) + k * k) % 50);
        }
    }
}

/* log p [vocab] of every word behind the first n tokens of a response: each is scored as a response of its own. */
static void score_all_words(const fixture *f, const stm_options *options, size_t g, size_t i, size_t n, double *logp)
{
    const size_t vocab = f->model->config.vocab_size;
    stm_group group;
    stm_batch batch = {1, &group};
    stm_scores scores;
    begin_group(g, vocab, &group);
    for (size_t v = 0; v < vocab; v++) {
        add_response(n + 1, &group);
        for (size_t k = 0; k < n; k++)
            group.responses[v].ids[k] = f->batch.groups[g].responses[i].ids[k];
        group.responses[v].ids[n] = (int32_t)v;
    }
    stm_test_scores(MPI_COMM_SELF, f->model, &batch, options, &scores);
    for (size_t v = 0; v < vocab; v++)
        logp[v] = scores.logp[scores.first[v] + n];
    stm_scores_clear(&scores);
    for (size_t v = 0; v < vocab; v++) {
        free(group.responses[v].ids);
        free(group.responses[v].mask);
    }
    free(group.responses);
    free(group.prompt);
}

/* D of one position, whole distributions [members, vocab] in memory. */
static double plain_divergence(const fixture *f, const stm_options *options, size_t g, size_t t)
{
    const size_t vocab = f->model->config.vocab_size, n = n_members[g];
    double *logp = malloc(n * vocab * sizeof *logp), sum = 0;
    for (size_t i = 0; i < n; i++) {
        if (t < lengths[g][i])
            score_all_words(f, options, g, i, t, logp + i * vocab);
        for (size_t v = 0; v < vocab && t >= lengths[g][i]; v++)
            logp[i * vocab + v] = -log((double)vocab);
    }
    for (size_t v = 0; v < vocab; v++) {
        double mean = 0;
        for (size_t i = 0; i < n; i++)
            mean += logp[i * vocab + v] / (double)n;
        for (size_t i = 0; i < n; i++) {
            const double x = fmin(fmax(mean - logp[i * vocab + v], -11), 11);
            sum += (exp(x) - x - 1) / (double)n;
        }
    }
    free(logp);
    return sum;
}

static void expect_weights(fixture *f)
{
    stm_options options;
    double *out;
    stm_test_options(&options, (const char *const[]){"--forward=repeated"}, 1);
    for (size_t g = 0; g < N_GROUPS; g++)
        for (size_t i = 0; i < n_members[g]; i++)
            f->n_tokens += lengths[g][i];
    f->expected = out = malloc(f->n_tokens * sizeof *out);
    for (size_t g = 0; g < N_GROUPS; g++) {
        double d[MOST], least = INFINITY, most = 0;
        size_t n = 0;
        for (size_t i = 0; i < n_members[g]; i++)
            n = STM_MAX(n, lengths[g][i]);
        for (size_t t = 0; t < n; t++) {
            d[t] = plain_divergence(f, &options, g, t);
            least = fmin(least, d[t]);
            most = fmax(most, d[t]);
        }
        for (size_t i = 0; i < n_members[g]; i++)
            for (size_t t = 0; t < lengths[g][i]; t++)
                *out++ = 1 + (ALPHA - 1) * (d[t] - least) / (most - least + 1e-8);
    }
    stm_options_clear(&options);
}

static void set_up(fixture *f)
{
    *f = (fixture){0};
    assert_ok(stm_backend_cpu_f64.open(1, &f->stream));
    f->model = stm_test_model(&stm_backend_cpu_f64, f->stream, &stm_test_configs[STM_TEST_QWEN3], 5);
    make_batch(&f->batch);
}

static void tear_down(fixture *f)
{
    free(f->expected);
    stm_batch_clear(&f->batch);
    stm_model_destroy(f->model);
    stm_backend_cpu_f64.close(f->stream);
}

/* states_bytes: how much of hidden states a rank may keep; 0: one group a team at a time. */
static void weights_on(const fixture *f, MPI_Comm comm, const char *const *overrides, size_t n, size_t states_bytes,
                       const stm_batch *batch, const uint8_t *skip, double *weights)
{
    stm_options options;
    stm_grid grid;
    stm_engine *engine;
    stm_test_options(&options, overrides, n);
    assert_ok(stm_grid_create(comm, &(stm_axes){1, options.parallel.suffix, STM_AUTO}, batch->n_groups, &grid));
    assert_ok(stm_engine_create(f->model, &grid, &options, 0, &engine));
    stm_engine_settings_of(engine)->states_bytes = states_bytes;
    assert_ok(stm_token_weights(engine, &grid, batch, skip, ALPHA, weights));
    stm_engine_destroy(engine);
    stm_grid_destroy(&grid);
    stm_options_clear(&options);
}

/* One team of all ranks. */
static void name_suffix(char suffix[32])
{
    int n_ranks;
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    snprintf(suffix, 32, "parallel.suffix=%d", n_ranks);
}

static void weights_are_those_of_whole_distributions_on_any_layout(void **state)
{
    (void)state;
    static const char *const layouts[][3] = {
        {"--forward=repeated", "parallel.suffix=auto", "memory.chunk_tokens=1024"},
        {"--forward=tree", "parallel.suffix=1", "tree.min_shared_tokens=1"},
        {"--forward=tree", "parallel.suffix=9", "memory.chunk_tokens=4"},
    };
    fixture f;
    char suffix[32];
    name_suffix(suffix);
    set_up(&f);
    expect_weights(&f);
    double *weights = malloc(f.n_tokens * sizeof *weights), largest = 0;
    for (size_t l = 0; l < 3; l++)
        for (size_t bytes = 0; bytes <= 1 << 20; bytes += 1 << 20) {
            const char *const layout[] = {layouts[l][0], l == 2 ? suffix : layouts[l][1], layouts[l][2]};
            weights_on(&f, MPI_COMM_WORLD, layout, 3, bytes, &f.batch, NULL, weights);
            for (size_t k = 0; k < f.n_tokens; k++) {
                assert_near(weights[k], f.expected[k], 1e-12);
                largest = fmax(largest, weights[k]);
            }
        }
    assert_near(largest, ALPHA, 1e-6);
    free(weights);
    tear_down(&f);
}

/* More rows than a block has, which several ranks then share. */
static void blocks_of_positions_do_not_depend_on_ranks(void **state)
{
    (void)state;
    static const size_t sizes[] = {90, 5, 3};
    fixture f;
    stm_batch batch;
    char suffix[32];
    name_suffix(suffix);
    set_up(&f);
    stm_test_batch_of(4, sizes, 3, f.model->config.vocab_size, &batch);
    size_t n = 0, of_first = 0;
    for (size_t g = 0; g < 3; g++) {
        for (size_t i = 0; i < batch.groups[g].n_responses; i++)
            n += batch.groups[g].responses[i].n;
        of_first = g == 0 ? n : of_first;
    }
    assert_true(of_first > 512);
    double *alone = malloc(n * sizeof *alone), *together = malloc(n * sizeof *together);
    const uint8_t skip[] = {0, 1, 0};
    weights_on(&f, MPI_COMM_SELF, (const char *const[]){"--forward=repeated"}, 1, 1 << 20, &batch, skip, alone);
    weights_on(&f, MPI_COMM_WORLD, (const char *const[]){suffix, "memory.chunk_tokens=40"}, 2, 0, &batch, skip,
               together);
    for (size_t k = 0; k < n; k++)
        assert_near(together[k], alone[k], 1e-12);
    for (size_t k = 0; k < batch.groups[1].responses[0].n; k++)
        assert_true(alone[of_first + k] == 1); /* skipped */
    free(alone);
    free(together);
    stm_batch_clear(&batch);
    tear_down(&f);
}

/* The gradient takes them for constants: it is the one with these numbers recorded. */
static void the_gradient_is_that_of_recorded_weights(void **state)
{
    (void)state;
    fixture f;
    stm_test_result found, expected, plain;
    stm_options options;
    set_up(&f);
    expect_weights(&f);
    stm_test_options(&options, (const char *const[]){"objective.kl_coef=0", "objective.token_weight_alpha=1.7"}, 2);
    stm_test_gradient(MPI_COMM_WORLD, f.model, &f.batch, &options, &found);
    options.objective.token_weight_alpha = 0;
    stm_test_gradient(MPI_COMM_SELF, f.model, &f.batch, &options, &plain);
    const double *weights = f.expected;
    for (size_t g = 0; g < N_GROUPS; g++)
        for (size_t i = 0; i < n_members[g]; weights += lengths[g][i++]) {
            stm_response *r = &f.batch.groups[g].responses[i];
            assert_ok(stm_response_take_notes(r));
            assert_ok(stm_alloc(r->n, sizeof *weights, &r->notes->token_weights));
            memcpy(r->notes->token_weights, weights, r->n * sizeof *weights);
        }
    stm_test_gradient(MPI_COMM_SELF, f.model, &f.batch, &options, &expected);
    assert_near(found.loss, expected.loss, 1e-12);
    assert_true(stm_test_gradient_difference(f.model, found.gradient, expected.gradient) < 1e-12);
    assert_true(stm_test_gradient_difference(f.model, plain.gradient, expected.gradient) > 1e-3);
    stm_test_result_clear(&found);
    stm_test_result_clear(&expected);
    stm_test_result_clear(&plain);
    stm_options_clear(&options);
    tear_down(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_are_those_of_whole_distributions_on_any_layout),
        cmocka_unit_test(blocks_of_positions_do_not_depend_on_ranks),
        cmocka_unit_test(the_gradient_is_that_of_recorded_weights),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
