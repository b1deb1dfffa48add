/* Every objective against recorded losses and gradients (fixtures/vectors/group.json: autograd in float64, made by
 * record_group.py), against finite differences, and cut into ranges. */
#include <jansson.h>

#include "data/cases.h"
#include "objective/objective.h"
#include "objective/recorded.h"
#include "support/support.h"

/* A case read and prepared. */
typedef struct {
    const char *name;
    stm_options options;
    stm_batch batch;
    double *logp, *dlogp; /* [n_tokens] */
    stm_objective_batch view;
} recorded;

static json_t *load(void)
{
    const char *path = stm_fixture("vectors/group.json");
    json_error_t error;
    json_t *document = path ? json_load_file(path, 0, &error) : NULL;
    if (!document)
        fail_msg("vectors/group.json: cannot be read");
    return document;
}

static void open_case(const json_t *document, const json_t *one, recorded *r)
{
    *r = (recorded){.name = json_string_value(json_object_get(one, "name"))};
    assert_ok(stm_options_init(&r->options));
    assert_ok(stm_recorded_options(document, one, &r->options));
    assert_ok(stm_case_read(document, one, &r->batch, &r->logp));
    assert_ok(stm_objective_batch_create(stm_objective_find(r->options.objective.name), &r->options.objective,
                                         &r->batch, &r->view));
    assert_ok(stm_alloc(r->view.n_tokens, sizeof *r->dlogp, &r->dlogp));
    stm_objective_collect(&r->view, r->logp);
}

static void close_case(recorded *r)
{
    stm_objective_batch_clear(&r->view);
    stm_batch_clear(&r->batch);
    stm_options_clear(&r->options);
    free(r->logp);
    free(r->dlogp);
}

/* The loss; dlogp: the gradient. */
static stm_objective_sums evaluate(const recorded *r, double *dlogp)
{
    stm_objective_sums sums = {0};
    memset(dlogp, 0, r->view.n_tokens * sizeof *dlogp);
    for (size_t g = 0; g < r->batch.n_groups; g++)
        stm_objective_group(&r->view, g, r->logp, NULL, dlogp, &sums);
    return sums;
}

static double total(const json_t *one, const char *name)
{
    return json_number_value(json_object_get(json_object_get(one, "totals"), name));
}

static void check_totals(const json_t *one, const stm_totals *t)
{
    const struct {
        const char *name;
        double found;
    } numbers[] = {{"n_groups", (double)t->n_groups}, {"n_responses", (double)t->n_responses},
                   {"n_tokens", (double)t->n_tokens}, {"n_control", (double)t->n_control},
                   {"n_rest", (double)t->n_rest},     {"n_steps", (double)t->n_steps},
                   {"reward_std", t->reward_std},     {"whiten_mean", t->whiten_mean},
                   {"whiten_var", t->whiten_var},     {"kl_mean", t->kl_mean}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (json_object_get(json_object_get(one, "totals"), numbers[i].name) &&
            !(strcmp(numbers[i].name, "kl_mean") == 0 && t->kl_mean == 0))
            assert_near(numbers[i].found, total(one, numbers[i].name), 1e-12);
}

/* The tokens of expected[key] in their order. */
static void check_tokens(const recorded *r, const json_t *groups, const double *found, double tolerance)
{
    double largest = 0;
    size_t at = 0;
    for (int pass = 0; pass < 2; pass++) {
        at = 0;
        for (size_t g = 0; g < r->batch.n_groups; g++)
            for (size_t i = 0; i < r->batch.groups[g].n_responses; i++)
                for (size_t k = 0; k < r->batch.groups[g].responses[i].n; k++, at++) {
                    const double want =
                        json_number_value(json_array_get(json_array_get(json_array_get(groups, g), i), k));
                    largest = fmax(largest, fabs(want));
                    if (pass == 1 && !(fabs(found[at] - want) <= tolerance * largest))
                        fail_msg("%s: group %zu, response %zu, token %zu: found %.17g, expected %.17g", r->name, g, i,
                                 k, found[at], want);
                }
    }
    assert_int_equal(at, r->view.n_tokens);
}

static void losses_gradients_and_statistics_agree_with_autograd(void **state)
{
    (void)state;
    json_t *document = load(), *one;
    size_t index;
    json_array_foreach(json_object_get(document, "cases"), index, one)
    {
        const json_t *expected = json_object_get(one, "expected");
        const json_t *clipped = json_object_get(expected, "clip_fraction");
        recorded r;
        open_case(document, one, &r);
        check_totals(one, &r.view.totals);
        const stm_objective_sums sums = evaluate(&r, r.dlogp);
        assert_near(sums.loss, json_number_value(json_object_get(expected, "loss")), 1e-10);
        check_tokens(&r, json_object_get(expected, "dlogp"), r.dlogp, 1e-9);
        for (size_t g = 0; g < r.batch.n_groups; g++) {
            stm_objective_sums own = {0};
            stm_objective_group(&r.view, g, r.logp, NULL, r.dlogp, &own);
            assert_near(own.loss, json_number_value(json_array_get(json_object_get(expected, "group_loss"), g)), 1e-10);
            if (json_is_array(clipped))
                assert_near(own.n_tokens > 0 ? own.n_clipped / own.n_tokens : 0.0,
                            json_number_value(json_array_get(clipped, g)), 1e-12);
        }
        close_case(&r);
    }
    assert_int_equal(index, 62);
    json_decref(document);
}

/* A constant of the gradient that moves with logp: finite differences would see it move. */
static bool has_constants(const recorded *r)
{
    return r->options.objective.surrogate == STM_SURROGATE_CISPO || !r->batch.groups[0].responses[0].old_logprobs;
}

static void gradients_match_finite_differences(void **state)
{
    (void)state;
    const double h = 1e-6;
    json_t *document = load(), *one;
    size_t index, n = 0;
    json_array_foreach(json_object_get(document, "cases"), index, one)
    {
        recorded r;
        open_case(document, one, &r);
        double *unused;
        assert_ok(stm_alloc(r.view.n_tokens, sizeof *unused, &unused));
        evaluate(&r, r.dlogp);
        for (size_t k = 0; !has_constants(&r) && k < r.view.n_tokens; k++, n++) {
            const double logp = r.logp[k];
            r.logp[k] = logp + h;
            const double up = evaluate(&r, unused).loss;
            r.logp[k] = logp - h;
            const double down = evaluate(&r, unused).loss;
            r.logp[k] = logp;
            const double slope = (up - down) / (2 * h);
            if (!(fabs(slope - r.dlogp[k]) <= 2e-8 * fmax(1.0, fabs(slope)))) /* rounding / h is 1e-10 of the loss */
                fail_msg("%s: token %zu: found %.12g, expected %.12g", r.name, k, r.dlogp[k], slope);
        }
        free(unused);
        close_case(&r);
    }
    assert_true(n > 1000);
    json_decref(document);
}

/* Scope token: any split of a response into ranges gives the same. */
static void a_token_objective_may_be_called_on_any_range(void **state)
{
    (void)state;
    json_t *document = load(), *one;
    size_t index, n_cases = 0;
    json_array_foreach(json_object_get(document, "cases"), index, one)
    {
        recorded r;
        open_case(document, one, &r);
        double *pieces;
        stm_objective_sums sums = {0};
        assert_ok(stm_alloc(r.view.n_tokens, sizeof *pieces, &pieces));
        const stm_objective_sums whole = evaluate(&r, r.dlogp);
        const bool token = r.view.scope == STM_SCOPE_TOKEN;
        for (size_t g = 0; token && g < r.batch.n_groups; g++)
            for (size_t i = 0; i < r.batch.groups[g].n_responses; i++)
                for (size_t k = 0; k < r.batch.groups[g].responses[i].n; k += 2) {
                    const size_t at = r.view.first_token[r.view.response_0[g] + i] + k;
                    const size_t n = STM_MIN((size_t)2, r.batch.groups[g].responses[i].n - k);
                    const stm_tokens t = stm_objective_view(&r.view, g, i, k, n, r.logp + at, NULL, pieces + at);
                    r.view.objective->tokens(r.view.options, &r.view.totals, &t, &sums);
                }
        for (size_t k = 0; token && k < r.view.n_tokens; k++)
            assert_near(pieces[k], r.dlogp[k], 1e-14);
        if (token)
            assert_near(sums.loss, whole.loss, 1e-12);
        n_cases += token;
        free(pieces);
        close_case(&r);
    }
    assert_true(n_cases > 30);
    json_decref(document);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(losses_gradients_and_statistics_agree_with_autograd),
        cmocka_unit_test(gradients_match_finite_differences),
        cmocka_unit_test(a_token_objective_may_be_called_on_any_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
