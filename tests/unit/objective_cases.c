/* Every objective against recorded losses and gradients (fixtures/vectors/group.json and preference.json: autograd in
 * float64, made by record_group.py and record_preference.py), against finite differences, and cut into ranges. */
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

static const char group_file[] = "vectors/group.json", preference_file[] = "vectors/preference.json";

static json_t *load(const char *name)
{
    const char *path = stm_fixture(name);
    json_error_t error;
    json_t *document = path ? json_load_file(path, 0, &error) : NULL;
    if (!document)
        fail_msg("%s: cannot be read", name);
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

/* Of preferences: responses without a token with loss do not count. */
static void check_preference_totals(const json_t *one, const stm_totals *t)
{
    assert_near((double)t->n_pairs, total(one, "n_pairs"), 0);
    assert_near((double)t->n_paired_groups, total(one, "n_groups_with_pairs"), 0);
    assert_near((double)t->n_active, total(one, "n_responses"), 0);
    assert_near((double)t->n_policy, total(one, "n_policy_responses"), 0);
    assert_near((double)t->n_other, total(one, "n_other_responses"), 0);
    assert_near((double)t->n_chosen_tokens, total(one, "n_chosen_tokens"), 0);
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
    if (json_object_get(json_object_get(one, "totals"), "n_pairs"))
        return check_preference_totals(one, t);
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

static void check_cases(const char *file, size_t n_cases)
{
    json_t *document = load(file), *one;
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
    assert_int_equal(index, n_cases);
    json_decref(document);
}

static void losses_gradients_and_statistics_agree_with_autograd(void **state)
{
    (void)state;
    check_cases(group_file, 62);
    check_cases(preference_file, 58);
}

/* Sums of constants times log-probs: the loss is the gradient times the log-probs. */
static bool is_linear(const char *name)
{
    return strcmp(name, "self_play") == 0 || strcmp(name, "fdpg") == 0;
}

/* A constant of the gradient that moves with logp: finite differences would see it move. */
static bool has_constants(const recorded *r)
{
    const stm_objective_options *o = &r->options.objective;
    const bool score_function =
        strcmp(o->name, "p3o") == 0 || is_linear(o->name) || (strcmp(o->name, "dpo") == 0 && o->kl_coef > 0);
    return o->surrogate == STM_SURROGATE_CISPO || !r->batch.groups[0].responses[0].old_logprobs || score_function;
}

static size_t check_differences(const char *file)
{
    json_t *document = load(file), *one;
    size_t index, n = 0;
    json_array_foreach(json_object_get(document, "cases"), index, one)
    {
        recorded r;
        open_case(document, one, &r);
        if (strcmp(r.options.objective.name, "dpo") == 0)
            r.options.objective.kl_coef = 0; /* its term has constants: below */
        double *unused;
        assert_ok(stm_alloc(r.view.n_tokens, sizeof *unused, &unused));
        evaluate(&r, r.dlogp);
        for (size_t k = 0; !has_constants(&r) && k < r.view.n_tokens; k++, n++) {
            const double logp = r.logp[k], h = fmin(1e-6, 1e-5 * fabs(logp)); /* odds have a pole at 0 */
            r.logp[k] = logp + h;
            const double up = evaluate(&r, unused).loss;
            r.logp[k] = logp - h;
            const double down = evaluate(&r, unused).loss;
            r.logp[k] = logp;
            const double slope = (up - down) / (2 * h);
            const double rounding = 4e-16 * fabs(up) / h;
            if (!(fabs(slope - r.dlogp[k]) <= 2e-8 * fmax(1.0, fabs(slope)) + rounding))
                fail_msg("%s: token %zu: found %.12g, expected %.12g", r.name, k, r.dlogp[k], slope);
        }
        free(unused);
        close_case(&r);
    }
    json_decref(document);
    return n;
}

static void gradients_match_finite_differences(void **state)
{
    (void)state;
    assert_true(check_differences(group_file) > 1000);
    assert_true(check_differences(preference_file) > 500);
}

static void score_function_terms_are_linear_in_logprobs(void **state)
{
    (void)state;
    json_t *document = load(preference_file), *one;
    size_t index, n = 0;
    json_array_foreach(json_object_get(document, "cases"), index, one)
    {
        recorded r;
        double *without, sum = 0, loss;
        open_case(document, one, &r);
        stm_objective_options *o = &r.options.objective;
        const bool term = strcmp(o->name, "dpo") == 0 && o->kl_coef > 0;
        assert_ok(stm_alloc(r.view.n_tokens, sizeof *without, &without));
        loss = evaluate(&r, r.dlogp).loss;
        if (term) {
            o->kl_coef = 0;
            loss -= evaluate(&r, without).loss;
        }
        for (size_t k = 0; k < r.view.n_tokens; k++)
            sum += (r.dlogp[k] - without[k]) * r.logp[k];
        if (term || is_linear(o->name))
            assert_near(sum, loss, 1e-12);
        n += term || is_linear(o->name);
        free(without);
        close_case(&r);
    }
    assert_int_equal(n, 18);
    json_decref(document);
}

/* Scope token: any split of a response into ranges gives the same. */
static void a_token_objective_may_be_called_on_any_range(void **state)
{
    (void)state;
    json_t *document = load(group_file), *one;
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
        cmocka_unit_test(score_function_terms_are_linear_in_logprobs),
        cmocka_unit_test(a_token_objective_may_be_called_on_any_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
