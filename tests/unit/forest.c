/* The forest: every token of every sequence once on its path, and no token computed twice. */
#include "group/forest.h"
#include "support/batch.h"

enum { VOCAB = 5 }; /* few ids, so that chance makes deep trees */

static const stm_forest_options everything = {.mode = STM_FORWARD_TREE, .min_shared_tokens = 1, .across_groups = true};

static stm_sequence *list_sequences(const stm_batch *batch, size_t *n)
{
    stm_sequence *out;
    *n = 0;
    for (size_t g = 0; g < batch->n_groups; g++)
        *n += batch->groups[g].n_responses;
    assert_ok(stm_alloc(*n, sizeof *out, &out));
    *n = 0;
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++)
            out[(*n)++] = (stm_sequence){g, i, batch->groups[g].n_prompt + batch->groups[g].responses[i].n};
    return out;
}

static void make(const stm_batch *batch, const stm_forest_options *options, stm_forest *forest)
{
    size_t n;
    stm_sequence *sequences = list_sequences(batch, &n);
    assert_ok(stm_forest_create(batch, sequences, n, options, forest));
    free(sequences);
}

static void assert_whole(const stm_forest *f)
{
    size_t n_uses = 0;
    for (size_t i = 0; i < f->n_segments; i++) {
        const stm_segment *s = &f->segments[i];
        assert_true(s->start < s->end);
        assert_int_equal(s->n_rows, s->parent == STM_NONE ? s->end - 1 : s->end - s->start);
        assert_int_equal(s->start, s->parent == STM_NONE ? 0 : f->segments[s->parent].end);
        assert_int_equal(s->depth, s->parent == STM_NONE ? 0 : f->segments[s->parent].depth + 1);
        assert_true(s->parent == STM_NONE || (s->parent < i && i < f->segments[s->parent].last));
        size_t rows = s->n_rows;
        for (size_t child = i + 1; child < s->last; child = f->segments[child].last) {
            assert_int_equal(f->segments[child].parent, i);
            rows += f->segments[child].rows_below;
        }
        assert_int_equal(rows, s->rows_below);
        n_uses += s->n_uses;
    }
    assert_int_equal(n_uses, f->n_uses);
}

/* On the way from its end to the root, a sequence finds each of its tokens once, and each of its response tokens in one
 * use. */
static void assert_covers(const stm_forest *f, size_t i)
{
    const stm_sequence *sequence = &f->sequences[i];
    const stm_group *group = &f->batch->groups[sequence->group];
    size_t wanted = sequence->n, n_response = 0;
    for (size_t at = f->ends[i]; at != STM_NONE; at = f->segments[at].parent) {
        const stm_segment *s = &f->segments[at];
        assert_true(s->end >= wanted && s->start < wanted);
        for (size_t p = s->start; p < wanted; p++)
            assert_int_equal(stm_sequence_token(f->batch, &f->sequences[s->sequence], p),
                             stm_sequence_token(f->batch, sequence, p));
        assert_true(f->batch->groups[f->sequences[s->sequence].group].temperature == group->temperature);
        for (size_t u = s->first_use; u < s->first_use + s->n_uses; u++) {
            const stm_use *use = &f->uses[u];
            if (use->sequence != i)
                continue;
            assert_int_equal(stm_segment_first_position(s) + use->first_row + 1, group->n_prompt + use->first_token);
            assert_true(use->first_row + use->n <= s->n_rows);
            n_response += use->n;
        }
        wanted = s->start;
    }
    assert_int_equal(wanted, 0);
    assert_int_equal(n_response, sequence->n - group->n_prompt);
}

static size_t n_tokens(const stm_forest *f)
{
    size_t n = 0;
    for (size_t i = 0; i < f->n_segments; i++)
        n += f->segments[i].end - f->segments[i].start;
    return n;
}

/* Beginnings of sequences that no earlier sequence of the same temperature has: what must be computed at least. */
static size_t distinct_beginnings(const stm_batch *batch)
{
    size_t n, all = 0;
    stm_sequence *s = list_sequences(batch, &n);
    for (size_t i = 0; i < n; i++) {
        size_t common = 0;
        for (size_t j = 0; j < i; j++) {
            if (batch->groups[s[i].group].temperature != batch->groups[s[j].group].temperature)
                continue;
            size_t same = 0;
            while (same < s[i].n && same < s[j].n &&
                   stm_sequence_token(batch, &s[i], same) == stm_sequence_token(batch, &s[j], same))
                same++;
            common = STM_MAX(common, same);
        }
        all += s[i].n - common;
    }
    free(s);
    return all;
}

static void every_token_is_found_once_whatever_the_options(void **state)
{
    (void)state;
    static const stm_forest_options options[] = {
        {.mode = STM_FORWARD_TREE, .min_shared_tokens = 1, .across_groups = true},
        {.mode = STM_FORWARD_TREE, .min_shared_tokens = 16, .across_groups = true, .max_segment_tokens = 9},
        {.mode = STM_FORWARD_TREE, .min_shared_tokens = 4, .max_segment_tokens = 1},
        {.mode = STM_FORWARD_PROMPT, .min_shared_tokens = 16, .max_segment_tokens = 20},
        {.mode = STM_FORWARD_REPEATED, .min_shared_tokens = 16, .across_groups = true},
    };
    for (uint64_t seed = 0; seed < 20; seed++)
        for (size_t o = 0; o < sizeof options / sizeof *options; o++) {
            stm_batch batch;
            stm_forest forest;
            stm_test_batch(seed, 12, VOCAB, &batch);
            make(&batch, &options[o], &forest);
            assert_whole(&forest);
            for (size_t i = 0; i < forest.n_sequences; i++)
                assert_covers(&forest, i);
            for (size_t i = 0; i < forest.n_segments && options[o].max_segment_tokens; i++)
                assert_true(forest.segments[i].end - forest.segments[i].start <= options[o].max_segment_tokens);
            stm_forest_clear(&forest);
            stm_batch_clear(&batch);
        }
}

static void a_tree_computes_each_beginning_once(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        stm_batch batch;
        stm_forest forest;
        stm_test_batch(seed, 15, VOCAB, &batch);
        make(&batch, &everything, &forest);
        assert_int_equal(n_tokens(&forest), distinct_beginnings(&batch));
        stm_forest_clear(&forest);
        stm_batch_clear(&batch);
    }
}

/* A batch by hand: prompts and responses of given tokens, ended by 0. */
static void add_group(stm_batch *batch, const int32_t *prompt, size_t n, const int32_t (*responses)[24])
{
    stm_group *group = &batch->groups[batch->n_groups++];
    *group = (stm_group){.temperature = 1, .n_responses = n, .prompt = (int32_t *)(size_t)prompt};
    while (prompt[group->n_prompt])
        group->n_prompt++;
    assert_ok(stm_alloc(n, sizeof *group->responses, &group->responses));
    for (size_t i = 0; i < n; i++) {
        group->responses[i].ids = (int32_t *)(size_t)responses[i];
        while (responses[i][group->responses[i].n])
            group->responses[i].n++;
    }
}

static void identical_answers_and_beginnings_share_a_segment(void **state)
{
    (void)state;
    static const int32_t prompt[] = {1, 2, 3, 0}, responses[][24] = {{7, 8, 9}, {7, 8, 9}, {7, 8}, {0}, {5}};
    stm_group groups[1];
    stm_batch batch = {.groups = groups};
    stm_forest forest;
    add_group(&batch, prompt, 5, responses);
    make(&batch, &everything, &forest);
    assert_int_equal(forest.n_segments, 3); /* the prompt, 7 8 9 with three uses, 5 */
    assert_int_equal(n_tokens(&forest), 3 + 3 + 1);
    for (size_t i = 0; i < forest.n_segments; i++)
        if (forest.segments[i].end == 6)
            assert_int_equal(forest.segments[i].n_uses, 3);
    stm_forest_clear(&forest);
    free(groups[0].responses);
}

static void a_short_common_beginning_is_not_worth_a_segment_but_a_prompt_is(void **state)
{
    (void)state;
    static const int32_t prompt[] = {1, 0}, responses[][24] = {{7, 8, 9, 4}, {7, 8, 9, 5}, {6}};
    stm_group groups[1];
    stm_batch batch = {.groups = groups};
    stm_forest forest;
    stm_forest_options options = everything;
    add_group(&batch, prompt, 3, responses);
    options.min_shared_tokens = 16;
    make(&batch, &options, &forest);
    assert_int_equal(n_tokens(&forest), 1 + 4 + 4 + 1);
    stm_forest_clear(&forest);
    options.min_shared_tokens = 3;
    make(&batch, &options, &forest);
    assert_int_equal(n_tokens(&forest), 1 + 3 + 1 + 1 + 1);
    stm_forest_clear(&forest);
    free(groups[0].responses);
}

static void groups_that_begin_alike_share_their_document_unless_told_not_to(void **state)
{
    (void)state;
    static const int32_t first[] = {1, 2, 3, 4, 5, 6, 0}, second[] = {1, 2, 3, 4, 9, 0}, response[][24] = {{7}, {8}};
    stm_group groups[2];
    stm_batch batch = {.groups = groups};
    stm_forest forest;
    stm_forest_options options = everything;
    add_group(&batch, first, 2, response);
    add_group(&batch, second, 2, response);
    make(&batch, &options, &forest);
    assert_int_equal(n_tokens(&forest), 4 + 2 + 1 + 4);
    stm_forest_clear(&forest);
    options.across_groups = false;
    make(&batch, &options, &forest);
    assert_int_equal(n_tokens(&forest), 6 + 5 + 4);
    stm_forest_clear(&forest);
    options.across_groups = true;
    options.min_shared_tokens = 5;
    make(&batch, &options, &forest);
    assert_int_equal(n_tokens(&forest), 6 + 5 + 4);
    stm_forest_clear(&forest);
    free(groups[0].responses);
    free(groups[1].responses);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_token_is_found_once_whatever_the_options),
        cmocka_unit_test(a_tree_computes_each_beginning_once),
        cmocka_unit_test(identical_answers_and_beginnings_share_a_segment),
        cmocka_unit_test(a_short_common_beginning_is_not_worth_a_segment_but_a_prompt_is),
        cmocka_unit_test(groups_that_begin_alike_share_their_document_unless_told_not_to),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
