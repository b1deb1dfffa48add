/* Every objective against recorded losses and gradients (fixtures/vectors/group.json and preference.json: autograd in
 * float64, made by record_group.py and record_preference.py), against finite differences, and cut into ranges. */
#include <jansson.h>

#include "config/table.h"
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

/* What an objective reads */

/* All that an objective makes of a batch and of its options. */
typedef struct {
    stm_status check, made;
    unsigned needs;
    stm_scope scope;
    bool by_token, skips, weighs;
    double loss;
} seen;

static seen observe(recorded *r, double *dlogp)
{
    const stm_objective_options *o = &r->options.objective;
    const stm_objective *objective = stm_objective_find(o->name);
    stm_objective_batch_clear(&r->view);
    seen s = {.check = objective->check ? objective->check(o) : STM_OK,
              .needs = objective->needs(o),
              .skips = stm_objective_skips_equal(objective, o),
              .weighs = stm_objective_weighs_tokens(objective, o)};
    s.made = stm_objective_batch_create(objective, o, &r->batch, &r->view);
    if (s.made != STM_OK)
        return s;
    s.scope = r->view.scope;
    s.by_token = r->view.by_token;
    stm_objective_collect(&r->view, r->logp);
    s.loss = evaluate(r, dlogp).loss;
    return s;
}

/* Where nothing could be made of the batch the options alone were looked at. */
static bool differ(const recorded *r, const seen *a, const double *da, const seen *b, const double *db)
{
    if (a->check != b->check || a->needs != b->needs || a->skips != b->skips || a->weighs != b->weighs)
        return true;
    if (a->made != STM_OK || b->made != STM_OK)
        return false;
    return a->scope != b->scope || a->by_token != b->by_token || memcmp(&a->loss, &b->loss, sizeof a->loss) != 0 ||
           memcmp(da, db, r->view.n_tokens * sizeof *da) != 0;
}

/* The i-th value to try for an option of this kind, or NULL. */
static const char *value_to_try(const stm_option_row *row, size_t i)
{
    static const char *const numbers[] = {"0.01", "0.3", "1.5", "3", NULL}, *const integers[] = {"1", "2", "3", NULL},
                             *const lists[] = {"[0, 1]", "[2, 1, 3]", NULL},
                             *const weights[] = {"{old: 1}", "{ref: 0.5}", "{twin: 1}", "{target: 1}", NULL},
                             *const truths[] = {"false", "true", NULL}, *const none[] = {NULL};
    const char *const *values = row->kind == STM_KIND_NUMBER    ? numbers
                                : row->kind == STM_KIND_INTEGER ? integers
                                : row->kind == STM_KIND_NUMBERS ? lists
                                : row->kind == STM_KIND_WEIGHTS ? weights
                                : row->kind == STM_KIND_BOOLEAN ? truths
                                : row->kind == STM_KIND_CHOICE  ? row->choices
                                                                : none;
    for (size_t k = 0; values[k]; k++)
        if (k == i)
            return values[k];
    return NULL;
}

static bool set_option(stm_options *o, const char *name, const char *value)
{
    char argument[256];
    snprintf(argument, sizeof argument, "%s=%s", name, value);
    return stm_options_read_arguments(o, STM_COMMAND_TRAIN, 1, (char *[]){argument}) == STM_OK;
}

static char *text_of(const stm_option_row *row, const stm_options *o)
{
    char *text;
    size_t n;
    FILE *to = open_memstream(&text, &n);
    stm_option_write(row, o, to);
    assert_ok(stm_stream_finish(to, &text));
    return text;
}

enum { MOST_OBJECTIVES = 32 };
static bool has_read[MOST_OBJECTIVES][STM_OPTIONS_MAX]; /* [objective, row] */

static size_t place_of(const char *name)
{
    const char *const *names;
    const size_t n = stm_objective_names(&names);
    for (size_t i = 0; i < n && i < MOST_OBJECTIVES; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    fail_msg("%s is not registered", name);
    return 0;
}

/* Changes each option by itself, and notes those that make a difference. */
static void change_each(recorded *r)
{
    double *before, *after;
    const size_t objective = place_of(r->options.objective.name);
    assert_ok(stm_alloc(r->view.n_tokens, sizeof *before, &before));
    assert_ok(stm_alloc(r->view.n_tokens, sizeof *after, &after));
    const seen base = observe(r, before);
    for (size_t i = 0; i < stm_n_option_rows; i++) {
        const stm_option_row *row = &stm_option_rows[i];
        const char *value;
        if (strncmp(row->name, "objective.", 10) != 0 || has_read[objective][i])
            continue;
        char *own = text_of(row, &r->options);
        for (size_t k = 0; (value = value_to_try(row, k)) && !has_read[objective][i]; k++) {
            if (!set_option(&r->options, row->name, value))
                continue; /* out of its range */
            const seen other = observe(r, after);
            has_read[objective][i] = differ(r, &base, before, &other, after);
        }
        assert_true(set_option(&r->options, row->name, own));
        free(own);
    }
    free(before);
    free(after);
}

/* From each recorded case, and from it with what some options ask for. */
static void change_options_of(const char *file)
{
    static const char *const variants[][3][2] = {
        {{"objective.max_tokens", "5"}},
        {{"objective.score", "win_rate"}, {"objective.oracle", "reward"}, {"objective.pair_margin", "0.2"}},
        {{"objective.pairing", "all"}},
        {{"objective.seed_alpha", "0.5"}},
        {{"objective.oracle", "reward"}},
        {{"objective.name", "sft"}},
        {{"objective.name", "sft"}, {"objective.aggregate", "control-split"}},
    };
    json_t *document = load(file), *one;
    size_t index;
    json_array_foreach(json_object_get(document, "cases"), index, one) for (size_t v = 0;
                                                                            v < sizeof variants / sizeof *variants; v++)
    {
        recorded r;
        open_case(document, one, &r);
        for (size_t i = 0; i < 3 && variants[v][i][0]; i++)
            assert_true(set_option(&r.options, variants[v][i][0], variants[v][i][1]));
        change_each(&r);
        close_case(&r);
    }
    json_decref(document);
}

static bool is_read_by_the_trainer(const char *key)
{
    static const char *const keys[] = {"name",           "mask_truncated", "mask_after", "min_advantage",
                                       "kl_coef_start",  "kl_coef_steps",  "prox_every", "kl_point_from",
                                       "chase_interval", "chase_lr_ratio"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strcmp(keys[i], key) == 0)
            return true;
    return false;
}

static void each_objective_reads_the_options_that_its_row_lists_and_no_other(void **state)
{
    (void)state;
    const char *const *names;
    const size_t n = stm_objective_names(&names);
    change_options_of(group_file);
    change_options_of(preference_file);
    for (size_t k = 0; k < n; k++) {
        const stm_objective *objective = stm_objective_find(names[k]);
        for (size_t i = 0; i < stm_n_option_rows; i++) {
            const char *name = stm_option_rows[i].name, *key = name + 10;
            if (strncmp(name, "objective.", 10) != 0 || is_read_by_the_trainer(key))
                continue;
            if (has_read[k][i] != stm_objective_reads(objective, key))
                fail_msg("%s %s %s, and its row says otherwise", names[k], has_read[k][i] ? "reads" : "does not read",
                         name);
        }
        for (size_t i = 0; objective->reads[i]; i++) {
            char name[128];
            snprintf(name, sizeof name, "objective.%s", objective->reads[i]);
            if (!stm_option_find(stm_option_rows, stm_n_option_rows, name))
                fail_msg("%s lists %s, which is no option", names[k], name);
        }
    }
}

/* Whether the option makes a difference to the case, whose forms are otherwise as they are. */
static bool is_read(recorded *r, const stm_option_row *row)
{
    double *before, *after;
    const char *value;
    bool differs = false;
    assert_ok(stm_alloc(r->view.n_tokens, sizeof *before, &before));
    assert_ok(stm_alloc(r->view.n_tokens, sizeof *after, &after));
    const seen base = observe(r, before);
    char *own = text_of(row, &r->options);
    for (size_t k = 0; base.made == STM_OK && (value = value_to_try(row, k)) && !differs; k++) {
        if (!set_option(&r->options, row->name, value))
            continue;
        const seen other = observe(r, after);
        differs = differ(r, &base, before, &other, after);
    }
    assert_true(set_option(&r->options, row->name, own));
    free(own);
    free(before);
    free(after);
    return differs;
}

static bool is_listed(const stm_option_condition *c, const char *value)
{
    for (size_t i = 0; c->values[i]; i++)
        if (strcmp(c->values[i], value) == 0)
            return true;
    return false;
}

/* How many cases of the file read the condition's key under each value of the other option. */
static void count_readers(const char *file, const stm_option_condition *c, size_t n_readers[8])
{
    char name[64], other[64];
    snprintf(name, sizeof name, "objective.%s", c->key);
    snprintf(other, sizeof other, "objective.%s", c->of);
    const stm_option_row *row = stm_option_find(stm_option_rows, stm_n_option_rows, name);
    const stm_option_row *of = stm_option_find(stm_option_rows, stm_n_option_rows, other);
    json_t *document = load(file), *one;
    size_t index;
    assert_true(row && of && of->choices);
    json_array_foreach(json_object_get(document, "cases"), index, one) for (size_t v = 0; of->choices[v]; v++)
    {
        recorded r;
        open_case(document, one, &r);
        if (r.options.objective.max_tokens == 0)
            r.options.objective.max_tokens = 5;
        assert_true(set_option(&r.options, of->name, of->choices[v]));
        n_readers[v] += is_read(&r, row);
        close_case(&r);
    }
    json_decref(document);
}

static void an_option_is_read_under_the_values_that_its_condition_lists_and_no_other(void **state)
{
    (void)state;
    const stm_option_condition *c;
    for (size_t i = 0; (c = stm_objective_condition(i)); i++) {
        char other[64];
        size_t n_readers[8] = {0};
        snprintf(other, sizeof other, "objective.%s", c->of);
        const stm_option_row *of = stm_option_find(stm_option_rows, stm_n_option_rows, other);
        count_readers(group_file, c, n_readers);
        count_readers(preference_file, c, n_readers);
        for (size_t v = 0; of->choices[v]; v++)
            if ((n_readers[v] > 0) != is_listed(c, of->choices[v]))
                fail_msg("%s is read in %zu cases with %s=%s, and its condition says otherwise", c->key, n_readers[v],
                         c->of, of->choices[v]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(losses_gradients_and_statistics_agree_with_autograd),
        cmocka_unit_test(gradients_match_finite_differences),
        cmocka_unit_test(score_function_terms_are_linear_in_logprobs),
        cmocka_unit_test(a_token_objective_may_be_called_on_any_range),
        cmocka_unit_test(each_objective_reads_the_options_that_its_row_lists_and_no_other),
        cmocka_unit_test(an_option_is_read_under_the_values_that_its_condition_lists_and_no_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
