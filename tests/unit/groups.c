/* Batches as bytes: what goes in comes out, and damage of any kind is an error. */
#include "support/support.h"

#include "base/random.h"
#include "data/groups.h"

static void *must(size_t n, size_t bytes)
{
    void *memory;
    assert_ok(stm_alloc(n, bytes, &memory));
    return memory;
}

static double *numbers(size_t n, double first)
{
    double *out = must(n, sizeof *out);
    for (size_t k = 0; k < n; k++)
        out[k] = first / (double)(3 * k + 7);
    return out;
}

/* Ragged: groups of 3, 1 and 2 responses; an empty response; each column present in some and absent in others. */
static void fill(stm_batch *batch)
{
    static const size_t n_responses[] = {3, 1, 2}, n_prompt[] = {1, 5, 17}, lengths[] = {4, 0, 9, 1, 2, 7};
    size_t r = 0;
    *batch = (stm_batch){3, must(3, sizeof(stm_group))};
    for (size_t g = 0; g < 3; g++) {
        stm_group *group = &batch->groups[g];
        *group = (stm_group){.n_prompt = n_prompt[g], .n_responses = n_responses[g], .temperature = 0.3 + (double)g};
        group->prompt = must(n_prompt[g], sizeof *group->prompt);
        group->responses = must(n_responses[g], sizeof *group->responses);
        for (size_t k = 0; k < n_prompt[g]; k++)
            group->prompt[k] = (int32_t)(1000 * g + k);
        for (size_t i = 0; i < n_responses[g]; i++, r++) {
            stm_response *response = &group->responses[i];
            const size_t n = lengths[r];
            response->n = n;
            response->ids = must(n, sizeof *response->ids);
            response->mask = must(n, 1);
            for (size_t k = 0; k < n; k++) {
                response->ids[k] = (int32_t)(100 * r + k);
                response->mask[k] = (uint8_t)((k + r) % 3 != 0);
            }
            response->old_logprobs = r % 2 ? numbers(n, -1.0) : NULL;
            response->ref_logprobs = r % 3 ? numbers(n, -2.0) : NULL;
            response->kept_mass = r == 5 ? numbers(n, 3.0) : NULL;
            response->has_reward = r != 2;
            response->reward = r != 2 ? 0.1 * (double)r : 0;
            response->finish = r % 2 ? STM_FINISH_LENGTH : STM_FINISH_STOP;
        }
    }
}

static void assert_same_column(const double *a, const double *b, size_t n)
{
    assert_true((a == NULL) == (b == NULL));
    if (a)
        assert_memory_equal(a, b, n * sizeof *a);
}

static void assert_same_response(const stm_response *a, const stm_response *b)
{
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->ids, b->ids, a->n * sizeof *a->ids);
    assert_memory_equal(a->mask, b->mask, a->n);
    assert_same_column(a->old_logprobs, b->old_logprobs, a->n);
    assert_same_column(a->ref_logprobs, b->ref_logprobs, a->n);
    assert_same_column(a->kept_mass, b->kept_mass, a->n);
    assert_true(a->has_reward == b->has_reward && a->reward == b->reward && a->finish == b->finish);
}

static void assert_same(const stm_batch *a, const stm_batch *b)
{
    assert_int_equal(a->n_groups, b->n_groups);
    for (size_t g = 0; g < a->n_groups; g++) {
        const stm_group *x = &a->groups[g], *y = &b->groups[g];
        assert_int_equal(x->n_prompt, y->n_prompt);
        assert_memory_equal(x->prompt, y->prompt, x->n_prompt * sizeof *x->prompt);
        assert_true(x->temperature == y->temperature);
        assert_int_equal(x->n_responses, y->n_responses);
        for (size_t i = 0; i < x->n_responses; i++)
            assert_same_response(&x->responses[i], &y->responses[i]);
    }
}

typedef struct {
    stm_batch batch;
    char *bytes;
    size_t n;
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    *state = f;
    fill(&f->batch);
    assert_ok(stm_batch_pack(&f->batch, &f->bytes, &f->n));
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    stm_batch_clear(&f->batch);
    free(f->bytes);
    free(f);
    return 0;
}

static void unpacking_gives_back_what_was_packed(void **state)
{
    const fixture *f = *state;
    stm_batch copy;
    assert_ok(stm_batch_unpack(f->bytes, f->n, &copy));
    assert_same(&f->batch, &copy);
    stm_batch_clear(&copy);
    assert_int_equal(copy.n_groups, 0);
    assert_null(copy.groups);
    stm_batch_clear(&copy); /* an empty one is fine */
}

/* What only some objectives read, which packing leaves out. */
static void add_notes(stm_batch *batch)
{
    stm_group *group = &batch->groups[0];
    group->n_members = 2;
    group->n_budgets = 3;
    group->n_summaries = 2;
    group->scores = numbers(12, 5.0);
    group->preferences = numbers(9, 6.0);
    stm_response *r = &group->responses[2];
    assert_ok(stm_response_take_notes(r));
    *r->notes = (stm_response_notes){.sampler_logprobs = numbers(r->n, 0.1),
                                     .twin_logprobs = numbers(r->n, 0.2),
                                     .target_logprobs = numbers(r->n, 0.3),
                                     .token_weights = numbers(r->n, 0.4),
                                     .reward_parts = numbers(2, 0.5),
                                     .n_parts = 2,
                                     .off_policy = true,
                                     .has_cluster = true,
                                     .other_origin = true,
                                     .cluster = 7,
                                     .member = 1,
                                     .step_advantages = numbers(3, 0.6),
                                     .n_steps = 3};
    int64_t **const columns[] = {&r->notes->segment, &r->notes->answer, &r->notes->step};
    for (size_t c = 0; c < 3; c++) {
        *columns[c] = must(r->n, sizeof **columns[c]);
        for (size_t k = 0; k < r->n; k++)
            (*columns[c])[k] = (int64_t)(10 * c + k);
    }
}

static void assert_same_notes(const stm_response_notes *a, const stm_response_notes *b, size_t n)
{
    assert_same_column(a->sampler_logprobs, b->sampler_logprobs, n);
    assert_same_column(a->twin_logprobs, b->twin_logprobs, n);
    assert_same_column(a->target_logprobs, b->target_logprobs, n);
    assert_same_column(a->token_weights, b->token_weights, n);
    assert_same_column(a->reward_parts, b->reward_parts, 2);
    assert_same_column(a->step_advantages, b->step_advantages, 3);
    assert_memory_equal(a->segment, b->segment, n * sizeof *a->segment);
    assert_memory_equal(a->answer, b->answer, n * sizeof *a->answer);
    assert_memory_equal(a->step, b->step, n * sizeof *a->step);
    assert_true(b->n_parts == 2 && b->n_steps == 3 && b->off_policy && b->has_cluster && b->other_origin);
    assert_true(b->cluster == 7 && b->member == 1);
}

static void a_copy_has_all_that_a_group_has(void **state)
{
    (void)state;
    stm_batch batch, copies = {3, must(3, sizeof(stm_group))};
    fill(&batch);
    add_notes(&batch);
    for (size_t g = 0; g < 3; g++)
        assert_ok(stm_group_copy(&batch.groups[g], &copies.groups[g]));
    assert_same(&batch, &copies);
    const stm_group *x = &batch.groups[0], *y = &copies.groups[0];
    assert_true(y->n_members == 2 && y->n_budgets == 3 && y->n_summaries == 2);
    assert_same_column(x->scores, y->scores, 12);
    assert_same_column(x->preferences, y->preferences, 9);
    assert_null(y->responses[0].notes);
    assert_same_notes(x->responses[2].notes, y->responses[2].notes, x->responses[2].n);
    stm_batch_clear(&batch); /* nothing is shared */
    assert_int_equal(copies.groups[0].responses[2].notes->step[0], 20);
    stm_batch_clear(&copies);
}

static void a_copy_of_prompts_has_no_responses(void **state)
{
    (void)state;
    stm_batch batch, copy;
    fill(&batch);
    batch.groups[1].temperature = 0.7;
    assert_ok(stm_batch_copy_prompts(&batch, &copy));
    assert_int_equal(copy.n_groups, batch.n_groups);
    for (size_t g = 0; g < copy.n_groups; g++) {
        const stm_group *x = &batch.groups[g], *y = &copy.groups[g];
        assert_int_equal(y->n_prompt, x->n_prompt);
        assert_memory_equal(y->prompt, x->prompt, x->n_prompt * sizeof *x->prompt);
        assert_true(y->temperature == x->temperature && y->n_responses == 0 && y->prompt != x->prompt);
    }
    stm_batch_clear(&batch);
    stm_batch_clear(&copy);
}

static void prompts_go_on_with_tokens_of_their_own(void **state)
{
    (void)state;
    enum { EACH = 2, MORE = 5 };
    stm_batch batch, longer;
    fill(&batch);
    const size_t most = batch.groups[0].n_prompt + 3;
    assert_ok(stm_batch_continue_prompts(&batch, EACH, MORE, most, &longer));
    assert_int_equal(longer.n_groups, EACH * batch.n_groups);
    for (size_t i = 0; i < longer.n_groups; i++) {
        const stm_group *x = &batch.groups[i / EACH], *y = &longer.groups[i];
        const size_t room = most > x->n_prompt ? most - x->n_prompt : 0;
        assert_int_equal(y->n_prompt, x->n_prompt + STM_MIN(room, (size_t)MORE));
        assert_memory_equal(y->prompt, x->prompt, x->n_prompt * sizeof *x->prompt);
    }
    for (size_t k = batch.groups[0].n_prompt; k < most; k++)
        assert_true(longer.groups[0].prompt[k] != longer.groups[1].prompt[k]);
    stm_batch_clear(&batch);
    stm_batch_clear(&longer);
}

static void a_batch_without_groups_survives(void **state)
{
    (void)state;
    stm_batch none = {0}, copy;
    char *bytes;
    size_t n;
    assert_ok(stm_batch_pack(&none, &bytes, &n));
    assert_ok(stm_batch_unpack(bytes, n, &copy));
    assert_int_equal(copy.n_groups, 0);
    stm_batch_clear(&copy);
    free(bytes);
}

static void every_truncation_is_refused(void **state)
{
    const fixture *f = *state;
    for (size_t n = 0; n < f->n; n++) {
        char *part = must(n, 1); /* of exactly this size, so that a sanitizer sees a read beyond it */
        stm_batch copy = {.n_groups = 77};
        memcpy(part, f->bytes, n);
        assert_fails(stm_batch_unpack(part, n, &copy), STM_ERR_IO, "packed batch: damaged at byte");
        assert_int_equal(copy.n_groups, 77); /* untouched */
        free(part);
    }
}

static void every_changed_byte_is_refused(void **state)
{
    const fixture *f = *state;
    for (size_t k = 0; k < f->n; k++)
        for (int bit = 0; bit < 8; bit += 3) {
            stm_batch copy;
            f->bytes[k] = (char)(f->bytes[k] ^ (1 << bit));
            assert_fails(stm_batch_unpack(f->bytes, f->n, &copy), STM_ERR_IO, "packed batch: damaged");
            f->bytes[k] = (char)(f->bytes[k] ^ (1 << bit));
        }
}

static void bytes_left_over_are_refused(void **state)
{
    const fixture *f = *state;
    char *longer = must(f->n + 1, 1);
    stm_batch copy;
    memcpy(longer, f->bytes, f->n);
    assert_fails(stm_batch_unpack(longer, f->n + 1, &copy), STM_ERR_IO, "not a packed batch, or not the whole");
    free(longer);
}

/* Damage that also mends the hash must not lead beyond the bytes: the walk checks each count by itself. */
static void counts_are_checked_even_where_the_hash_agrees(void **state)
{
    const fixture *f = *state;
    const size_t header = 32, hash_at = 16;
    size_t n_refused = 0;
    for (uint32_t trial = 0; trial < 4000; trial++) {
        const uint32_t key[2] = {7, 7}, counter[4] = {trial, 0, 0, 0};
        uint32_t random[4];
        char *bytes = must(f->n, 1);
        stm_batch copy;
        stm_philox(counter, key, random);
        memcpy(bytes, f->bytes, f->n);
        for (size_t k = 0; k < 1 + random[0] % 4; k++)
            bytes[header + (random[1] + 37 * k) % (f->n - header)] = (char)(random[2] >> (8 * k));
        const uint64_t hash = stm_hash(bytes + header, f->n - header);
        memcpy(bytes + hash_at, &hash, sizeof hash);
        if (stm_batch_unpack(bytes, f->n, &copy) == STM_OK)
            stm_batch_clear(&copy);
        else
            n_refused++;
        free(bytes);
    }
    assert_true(n_refused > 100); /* some of them hit a count */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unpacking_gives_back_what_was_packed),
        cmocka_unit_test(a_copy_has_all_that_a_group_has),
        cmocka_unit_test(a_copy_of_prompts_has_no_responses),
        cmocka_unit_test(prompts_go_on_with_tokens_of_their_own),
        cmocka_unit_test(a_batch_without_groups_survives),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(every_changed_byte_is_refused),
        cmocka_unit_test(bytes_left_over_are_refused),
        cmocka_unit_test(counts_are_checked_even_where_the_hash_agrees),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
