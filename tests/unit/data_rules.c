/* Rules that choose what is learnt from, as pure functions: responses with hardly any advantage, demonstrations
 * without their thought, tokens that decide whether to think. */
#include "data/thoughts.h"
#include "objective/objective.h"
#include "support/batch.h"
#include "support/support.h"
#include "support/tiny_tokenizer.h"
#include "train/batch.h"
#include "train/filter.h"
#include "train/mask_after.h"

enum { SIZE = 4, LENGTH = 3 };

typedef struct {
    stm_options options;
    stm_group group;
    stm_response responses[SIZE];
    int32_t ids[LENGTH];
    uint8_t masks[SIZE][LENGTH];
    stm_batch batch;
} fixture;

static void set_up(fixture *f, const double *rewards, size_t n, const char *const *overrides)
{
    *f = (fixture){.ids = {1, 2, 3}};
    stm_test_options(&f->options, overrides, n);
    for (size_t i = 0; i < SIZE; i++) {
        memset(f->masks[i], 1, LENGTH);
        f->responses[i] =
            (stm_response){.n = LENGTH, .ids = f->ids, .mask = f->masks[i], .reward = rewards[i], .has_reward = true};
    }
    f->group = (stm_group){.n_responses = SIZE, .responses = f->responses, .temperature = 1};
    f->batch = (stm_batch){.n_groups = 1, .groups = &f->group};
}

#define SET_UP(f, rewards, ...)                                                                                        \
    set_up(f, rewards, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *), (const char *const[]){__VA_ARGS__})

static stm_status drop(fixture *f, size_t *n)
{
    const stm_objective_options *o = &f->options.objective;
    return stm_objective_drop(stm_objective_find(o->name), o, &f->batch, n);
}

/* Leave-one-out advantages of 1, 0, 0.504, 0.5: 4/3 of the distance from the mean, 0.501. */
static void responses_with_hardly_any_advantage_have_no_loss(void **state)
{
    (void)state;
    const double rewards[SIZE] = {1, 0, 0.504, 0.5};
    fixture f;
    size_t n;
    stm_objective_batch before, after;
    SET_UP(&f, rewards, "objective.kl_coef=0", "objective.advantage_baseline=leave-one-out",
           "objective.advantage_scale=none", "objective.min_advantage=0.003");
    assert_ok(stm_objective_batch_create(stm_objective_find("grpo"), &f.options.objective, &f.batch, &before));
    assert_true(fabs(before.advantages[2]) > 0.003 && fabs(before.advantages[3]) < 0.003);
    assert_ok(drop(&f, &n));
    assert_int_equal(n, 1);
    for (size_t i = 0; i < SIZE; i++)
        for (size_t k = 0; k < LENGTH; k++)
            assert_int_equal(f.masks[i][k], i != 3);
    assert_ok(stm_objective_batch_create(stm_objective_find("grpo"), &f.options.objective, &f.batch, &after));
    assert_memory_equal(after.advantages, before.advantages, SIZE * sizeof(double)); /* the others keep theirs */
    assert_int_equal(after.totals.n_responses, SIZE);
    assert_int_equal(after.totals.n_tokens, (SIZE - 1) * LENGTH);
    assert_ok(drop(&f, &n));
    assert_int_equal(n, 0); /* it is gone already */
    stm_objective_batch_clear(&before);
    stm_objective_batch_clear(&after);
    stm_options_clear(&f.options);
}

static void without_the_option_nothing_is_dropped(void **state)
{
    (void)state;
    const double rewards[SIZE] = {1, 1, 1, 1};
    fixture f;
    size_t n;
    SET_UP(&f, rewards, "objective.kl_coef=0");
    assert_ok(drop(&f, &n));
    assert_int_equal(n, 0);
    assert_int_equal(f.masks[0][0], 1);
    stm_options_clear(&f.options);
}

static void advantages_that_tokens_take_part_in_are_refused(void **state)
{
    (void)state;
    const struct {
        const char *option, *message;
    } cases[] = {{"objective.advantage_scale=whiten", "objective.advantage_scale=whiten, expected 0"},
                 {"objective.seed_alpha=0.1", "objective.seed_alpha, expected 0"},
                 {"objective.name=dpo", "objective.min_advantage: found 0.01, expected its default, 0.0, with "
                                        "objective.name=dpo: grpo alone reads it"}};
    const double rewards[SIZE] = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f;
        SET_UP(&f, rewards, "objective.min_advantage=0.01", cases[i].option);
        assert_int_equal(stm_objective_check_options(&f.options), STM_ERR_INPUT);
        if (!strstr(stm_failure(), cases[i].message))
            fail_msg("%s", stm_failure());
        stm_options_clear(&f.options);
    }
}

static void a_thought_is_what_stands_between_the_first_tags(void **state)
{
    (void)state;
    static const struct {
        const char *text, *empty;
    } cases[] = {{"<think>long</think> go", "<think>\n\n</think> go"},
                 {"a <think></think>", "a <think>\n\n</think>"},
                 {"</think><think>1</think>2<think>3</think>", "</think><think>\n\n</think>2<think>3</think>"},
                 {"<think>cut", NULL},
                 {"no </think>", NULL},
                 {"", NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *found;
        assert_ok(stm_thought_empty(cases[i].text, "<think>", "</think>", &found));
        if (cases[i].empty)
            assert_string_equal(found, cases[i].empty);
        else
            assert_null(found);
        free(found);
    }
}

/* 20,000 draws: a standard deviation of the share is 0.0032 at most. */
static void thoughts_are_dropped_with_their_probability(void **state)
{
    (void)state;
    static const double probabilities[] = {0, 0.3, 0.5, 1};
    enum { EPOCHS = 20, LINES = 1000 };
    for (size_t i = 0; i < 4; i++) {
        size_t n = 0, n_same = 0;
        for (uint64_t epoch = 0; epoch < EPOCHS; epoch++)
            for (size_t line = 1; line <= LINES; line++) {
                const bool dropped = stm_thought_is_dropped(probabilities[i], 5, epoch, line);
                n += dropped;
                n_same += dropped == stm_thought_is_dropped(probabilities[i], 5, epoch + 1, line);
            }
        const double share = (double)n / (EPOCHS * LINES), p = probabilities[i];
        assert_true(fabs(share - p) <= 0.016 * (p > 0 && p < 1));
        assert_true(fabs((double)n_same / (EPOCHS * LINES) - (p * p + (1 - p) * (1 - p))) <
                    0.016); /* anew each epoch */
    }
}

static void an_epoch_meets_a_line_with_or_without_its_thought(void **state)
{
    (void)state;
    enum { N = 3 };
    int32_t prompt[] = {3}, whole[] = {1, 2, 3, 4}, bare[] = {1, 4};
    stm_prompt items[N];
    const size_t which[] = {2, 0, 1, 2};
    const stm_prompts prompts = {.n = N, .items = items};
    for (size_t i = 0; i < N; i++)
        items[i] = (stm_prompt){.n = 1,
                                .ids = prompt,
                                .line = i + 1,
                                .n_response = 4,
                                .response = whole,
                                .n_thoughtless = i == 1 ? 0 : 2,
                                .thoughtless = i == 1 ? NULL : bare};
    for (uint64_t position = 0; position < 40; position++) {
        const stm_thought_dropout dropout = {.probability = 0.5, .seed = 3, .position = position};
        stm_batch batch;
        size_t n_dropped, n_short = 0;
        assert_ok(stm_batch_of_demonstrations(&prompts, which, 4, &dropout, &batch, &n_dropped));
        for (size_t g = 0; g < 4; g++) {
            const size_t line = which[g] + 1;
            const bool dropped = line != 2 && stm_thought_is_dropped(0.5, 3, (position + g) / N, line);
            assert_int_equal(batch.groups[g].responses[0].n, dropped ? 2 : 4);
            assert_memory_equal(batch.groups[g].responses[0].ids, dropped ? bare : whole, dropped ? 8 : 16);
            n_short += dropped;
        }
        assert_int_equal(n_dropped, n_short);
        stm_batch_clear(&batch);
    }
}

/* A character is a token of the tiny tokenizer, and its id the character less 30. */
static void the_token_that_decides_has_no_loss(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t token; /* SIZE_MAX: none */
    } cases[] = {{"ab<t>cd", 5}, {"<t>x<t>y", 3}, {"<t>", SIZE_MAX}, {"<<t>z", 4}, {"<t", SIZE_MAX}, {"", SIZE_MAX}};
    stm_tokenizer *tokenizer = tiny_tokenizer();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t ids[16];
        uint8_t mask[16];
        size_t n_masked;
        stm_response response = {.n = strlen(cases[i].text), .ids = ids, .mask = mask};
        stm_group group = {.n_responses = 1, .responses = &response};
        stm_batch batch = {.n_groups = 1, .groups = &group};
        for (size_t k = 0; k < response.n; k++)
            ids[k] = cases[i].text[k] - 30;
        memset(mask, 1, sizeof mask);
        assert_ok(stm_mask_after(tokenizer, "<t>", &batch, &n_masked));
        assert_int_equal(n_masked, cases[i].token != SIZE_MAX);
        for (size_t k = 0; k < response.n; k++)
            assert_int_equal(mask[k], k != cases[i].token);
        assert_ok(stm_mask_after(tokenizer, "<t>", &batch, &n_masked));
        assert_int_equal(n_masked, 0);
    }
    stm_tokenizer_destroy(tokenizer);
}

static void a_prompt_stays_when_one_response_is_a_success(void **state)
{
    (void)state;
    const struct {
        double rewards[SIZE];
        bool keeps;
    } cases[] = {{{0, 0, 0.11, 0}, true}, {{0.1, 0, 0, 0.1}, false}, {{NAN, 0, 0, 0}, false}, {{NAN, 1, 0, 0}, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f;
        SET_UP(&f, cases[i].rewards, "objective.kl_coef=0");
        for (size_t k = 0; k < SIZE; k++)
            f.responses[k].has_reward = isfinite(cases[i].rewards[k]);
        assert_int_equal(stm_filter_keeps(&f.group, 0.1), cases[i].keeps);
        stm_options_clear(&f.options);
    }
}

static void a_filter_survives_its_bytes_and_selects_its_prompts(void **state)
{
    (void)state;
    stm_prompt items[5];
    for (size_t i = 0; i < 5; i++)
        items[i] = (stm_prompt){.line = i + 1};
    const stm_prompt_set all = {.path = "p.jsonl", .prompts = {.n = 5, .items = items}};
    size_t which[] = {1, 4};
    const stm_filter found = {.known = true, .n = 2, .which = which}, unknown = {0};
    stm_filter back = {0}, other = {0};
    stm_prompt_set left;
    stm_kept kept = {0};
    assert_ok(stm_filter_save(&unknown, 5, &kept));
    assert_int_equal(kept.n, 0);
    assert_ok(stm_filter_restore(&back, "file", &kept, 5));
    assert_false(back.known);
    assert_ok(stm_filter_save(&found, 5, &kept));
    assert_ok(stm_filter_restore(&back, "file", &kept, 5));
    assert_true(back.known);
    assert_ok(stm_filter_select(&back, &all, &left));
    assert_int_equal(left.prompts.n, 2);
    assert_int_equal(left.prompts.items[0].line + 10 * left.prompts.items[1].line, 52);
    size_t seen[2] = {0};
    for (uint64_t position = 0; position < 20; position++)
        seen[stm_prompt_at(&left.prompts, 3, true, position)]++;
    assert_true(seen[0] == 10 && seen[1] == 10);
    assert_fails(stm_filter_restore(&other, "step.h5", &kept, 6), STM_ERR_INPUT,
                 "step.h5: /kept/filter: found those of another set, expected numbers of 6 prompts");
    kept.n--;
    assert_fails(stm_filter_restore(&other, "step.h5", &kept, 5), STM_ERR_INPUT, "/kept/filter: found other bytes");
    stm_filter_clear(&back);
    stm_filter_clear(&other);
    free(kept.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(responses_with_hardly_any_advantage_have_no_loss),
        cmocka_unit_test(without_the_option_nothing_is_dropped),
        cmocka_unit_test(advantages_that_tokens_take_part_in_are_refused),
        cmocka_unit_test(a_thought_is_what_stands_between_the_first_tags),
        cmocka_unit_test(thoughts_are_dropped_with_their_probability),
        cmocka_unit_test(an_epoch_meets_a_line_with_or_without_its_thought),
        cmocka_unit_test(the_token_that_decides_has_no_loss),
        cmocka_unit_test(a_prompt_stays_when_one_response_is_a_success),
        cmocka_unit_test(a_filter_survives_its_bytes_and_selects_its_prompts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
