/* BRPO on responses that are parts of members (thinking, and a response for each summary below a cut), against the
 * recorded cases, where a member is one response. */
#include <jansson.h>

#include "data/cases.h"
#include "objective/objective.h"
#include "objective/recorded.h"
#include "support/support.h"

enum { MOST_TOKENS = 200, PREFIX = 3 };

/* What stands behind the prompt of a summary has no loss: any numbers will do there. */
typedef struct {
    stm_batch batch;
    double logp[MOST_TOKENS];
    size_t n, from[MOST_TOKENS]; /* the recorded token; SIZE_MAX: of a prefix */
} parts;

static void add_token(parts *p, stm_response *r, const stm_response *recorded, size_t k, size_t at, const double *logp)
{
    const bool prefix = k == SIZE_MAX;
    r->mask[r->n] = prefix ? 0 : recorded->mask[k];
    r->old_logprobs[r->n] = prefix ? -5 : recorded->old_logprobs[k];
    r->notes->segment[r->n] = prefix ? -1 : recorded->notes->segment[k];
    r->notes->answer[r->n] = prefix ? -1 : recorded->notes->answer[k];
    p->from[p->n] = prefix ? SIZE_MAX : at + k;
    p->logp[p->n++] = prefix ? -1 : logp[at + k];
    r->n++;
}

/* Summary number a of a member, -1: its thinking. at: the member's first token among all recorded. */
static void add_part(parts *p, stm_group *group, const stm_response *recorded, size_t member, int64_t a, size_t at,
                     const double *logp)
{
    stm_response *r = &group->responses[group->n_responses++];
    const size_t most = recorded->n + PREFIX;
    assert_ok(stm_alloc(most, sizeof *r->ids, &r->ids));
    assert_ok(stm_alloc(most, 1, &r->mask));
    assert_ok(stm_alloc(most, sizeof *r->old_logprobs, &r->old_logprobs));
    assert_ok(stm_response_take_notes(r));
    assert_ok(stm_alloc(most, sizeof *r->notes->segment, &r->notes->segment));
    assert_ok(stm_alloc(most, sizeof *r->notes->answer, &r->notes->answer));
    r->notes->member = member;
    for (size_t k = 0; a >= 0 && k < PREFIX; k++)
        add_token(p, r, NULL, SIZE_MAX, at, logp);
    for (size_t k = 0; k < recorded->n; k++)
        if (recorded->notes->answer[k] == a)
            add_token(p, r, recorded, k, at, logp);
}

static void split(const stm_batch *recorded, const double *logp, parts *p)
{
    const stm_group *from = &recorded->groups[0];
    const size_t each = from->n_budgets * from->n_summaries;
    assert_ok(stm_alloc(1, sizeof *p->batch.groups, &p->batch.groups));
    stm_group *to = &p->batch.groups[p->batch.n_groups++];
    *to = (stm_group){.temperature = 1,
                      .n_members = from->n_responses,
                      .n_budgets = from->n_budgets,
                      .n_summaries = from->n_summaries};
    assert_ok(stm_alloc(from->n_responses * each, sizeof *to->scores, &to->scores));
    memcpy(to->scores, from->scores, from->n_responses * each * sizeof *to->scores);
    assert_ok(stm_alloc(from->n_responses * (each + 1), sizeof *to->responses, &to->responses));
    for (size_t i = 0, at = 0; i < from->n_responses; at += from->responses[i++].n)
        for (int64_t a = -1; a < (int64_t)each; a++)
            add_part(p, to, &from->responses[i], i, a, at, logp);
}

/* Loss and dlogp [MOST_TOKENS] of a batch. */
static double evaluate(const stm_options *options, const stm_batch *batch, const double *logp, double *dlogp)
{
    stm_objective_batch view;
    stm_objective_sums sums = {0};
    assert_ok(stm_objective_batch_create(stm_objective_find("grpo"), &options->objective, batch, &view));
    memset(dlogp, 0, MOST_TOKENS * sizeof *dlogp);
    stm_objective_group(&view, 0, logp, NULL, dlogp, &sums);
    stm_objective_batch_clear(&view);
    return sums.loss;
}

static void check_case(const json_t *document, const json_t *one)
{
    stm_options options;
    stm_batch recorded;
    parts p = {0};
    double *logp, expected[MOST_TOKENS], found[MOST_TOKENS];
    assert_ok(stm_options_init(&options));
    assert_ok(stm_recorded_options(document, one, &options));
    assert_ok(stm_case_read(document, one, &recorded, &logp));
    split(&recorded, logp, &p);
    const double loss = evaluate(&options, &recorded, logp, expected);
    assert_near(loss, json_number_value(json_object_get(json_object_get(one, "expected"), "loss")), 1e-10);
    assert_near(evaluate(&options, &p.batch, p.logp, found), loss, 1e-12);
    size_t n = 0;
    for (size_t k = 0; k < p.n; k++) {
        n += p.from[k] != SIZE_MAX;
        if (p.from[k] == SIZE_MAX)
            assert_true(found[k] == 0);
        else
            assert_near(found[k], expected[p.from[k]], 1e-12);
    }
    assert_true(n > 20);
    stm_batch_clear(&p.batch);
    stm_batch_clear(&recorded);
    stm_options_clear(&options);
    free(logp);
}

static void members_in_parts_have_the_recorded_loss_and_gradient(void **state)
{
    (void)state;
    size_t index, n = 0;
    json_t *one, *document = json_load_file(stm_fixture("vectors/group.json"), 0, NULL);
    assert_non_null(document);
    json_array_foreach(json_object_get(document, "cases"), index, one)
    {
        if (strncmp(json_string_value(json_object_get(one, "name")), "brpo/", 5) != 0)
            continue;
        check_case(document, one);
        n++;
    }
    assert_int_equal(n, 2);
    json_decref(document);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(members_in_parts_have_the_recorded_loss_and_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
