/* Prompt sets: what a line gives, the policy for long prompts, and the order in which a run takes them. */
#include "support/support.h"
#include "support/tiny_tokenizer.h"

#include <omp.h>

#include "base/random.h"
#include "data/json_lines.h"
#include "data/prompts.h"
#include "text/template.h"

typedef struct {
    stm_text_context text;
    stm_tokenizer *tokenizer;
    stm_template *chat;
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    *state = f;
    f->tokenizer = tiny_tokenizer();
    assert_ok(stm_template_find("plain", &f->chat));
    f->text =
        (stm_text_context){.tokenizer = f->tokenizer, .chat = f->chat, .vocab_size = TINY_VOCAB, .max_positions = 16};
    return 0;
}

static const stm_text_context *text_of(void **state)
{
    return &((const fixture *)*state)->text;
}

static int teardown(void **state)
{
    fixture *f = *state;
    stm_template_destroy(f->chat);
    stm_tokenizer_destroy(f->tokenizer);
    free(f);
    return 0;
}

static const stm_prompts_use plain = {.max_new_tokens = 4, .end_token = -1};

static stm_status read_with(const stm_text_context *context, const stm_prompts_use *use, const char *text,
                            stm_prompts *prompts)
{
    const size_t n = strlen(text);
    char *exact = calloc(n ? n : 1, 1); /* without a NUL: a sanitizer sees a read beyond it */
    memcpy(exact, text, n);
    const stm_status status = stm_prompts_read("p.jsonl", exact, n, context, use, prompts);
    free(exact);
    return status;
}

static void refuses(void **state, const stm_prompts_use *use, const char *text, const char *words)
{
    stm_prompts prompts = {.n = 77};
    const stm_status status = read_with(text_of(state), use, text, &prompts);
    if (status == STM_OK)
        print_error("accepted: %s\n", text);
    assert_fails(status, STM_ERR_INPUT, words);
    assert_int_equal(prompts.n, 77); /* untouched */
}

static void assert_ids(const int32_t *ids, size_t n, const int32_t *expected, size_t n_expected)
{
    assert_int_equal(n, n_expected);
    assert_memory_equal(ids, expected, n * sizeof *ids);
}
#define IDS(...) (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t)

static void a_line_gives_ids_text_answer_and_itself(void **state)
{
    stm_prompts prompts;
    assert_ok(read_with(text_of(state), &plain,
                        "{\"prompt\": \"ab\", \"answer\": \"x y\", \"level\": 3}\r\n\n"
                        "{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}], \"response\": 5}\n"
                        "{\"prompt_ids\": [1, 67, 68], \"answer\": 7}",
                        &prompts));
    assert_int_equal(prompts.n, 3);
    assert_int_equal(prompts.n_skipped + prompts.n_truncated, 0);
    const stm_prompt *text = &prompts.items[0], *chat = &prompts.items[1], *ids = &prompts.items[2];
    assert_ids(text->ids, text->n, IDS(TINY_BOS, 67, 68));
    assert_string_equal(text->prompt_text, "ab");
    assert_string_equal(text->answer, "x y");
    assert_int_equal(text->line, 1);
    assert_string_equal(text->fields_json, "{\"prompt\": \"ab\", \"answer\": \"x y\", \"level\": 3}");
    assert_int_equal(chat->ids[0], 68);
    assert_int_equal(chat->prompt_text[0], 'b');
    assert_null(chat->answer);
    assert_false(chat->has_response); /* nobody asked */
    assert_null(chat->response);
    assert_int_equal(chat->line, 3);
    assert_ids(ids->ids, ids->n, IDS(1, 67, 68));
    assert_string_equal(ids->prompt_text, "ab"); /* decoded, without the special token */
    assert_string_equal(ids->answer, "7");
    stm_prompts_clear(&prompts);
    assert_int_equal(prompts.n, 0);
    stm_prompts_clear(&prompts); /* an empty one is fine */
}

static void answers_are_texts_whatever_they_were(void **state)
{
    static const struct {
        const char *json, *text;
    } cases[] = {{"\"\"", ""},
                 {"\"\\u00e9\"", "\xC3\xA9"},
                 {"-12", "-12"},
                 {"0.1", "0.1"},
                 {"3.0", "3.0"},
                 {"1e3", "1e+03"},
                 {"1234567.25", "1234567.25"},
                 {"true", "true"},
                 {"false", "false"},
                 {"9007199254740993", "9007199254740993"}};
    stm_prompts_use use = plain;
    use.needs_answer = true;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char line[128];
        stm_prompts prompts;
        snprintf(line, sizeof line, "{\"prompt\": \"a\", \"answer\": %s}", cases[i].json);
        assert_ok(read_with(text_of(state), &use, line, &prompts));
        assert_string_equal(prompts.items[0].answer, cases[i].text);
        stm_prompts_clear(&prompts);
    }
}

static void an_answer_that_a_reward_reads_must_be_there(void **state)
{
    stm_prompts_use use = plain;
    stm_prompts prompts;
    use.needs_answer = true;
    refuses(state, &use, "{\"prompt\": \"a\", \"answer\": 1}\n{\"prompt\": \"a\"}\n",
            "p.jsonl:2: answer: found nothing, expected text or a number, which a reward reads");
    refuses(state, &use, "{\"prompt\": \"a\", \"answer\": null}", "answer: found nothing, expected text or a number");
    refuses(state, &use, "{\"prompt\": \"a\", \"answer\": [1, 2]}", "answer: found an array of 2, expected text");
    use.needs_answer = false; /* then an array is for rewards that read the line */
    assert_ok(read_with(text_of(state), &use, "{\"prompt\": \"a\", \"answer\": [1, 2]}", &prompts));
    assert_null(prompts.items[0].answer);
    stm_prompts_clear(&prompts);
}

static void responses_to_learn_from_end_with_the_end_token(void **state)
{
    stm_prompts_use use = {.needs_response = true, .end_token = TINY_EOS};
    stm_prompts prompts;
    assert_ok(read_with(text_of(state), &use,
                        "{\"prompt\": \"a\", \"response\": \"bc\"}\n{\"prompt\": \"a\", \"response\": \"\"}",
                        &prompts));
    assert_true(prompts.items[0].has_response);
    assert_ids(prompts.items[0].response, prompts.items[0].n_response, IDS(68, 69, TINY_EOS));
    assert_ids(prompts.items[1].response, prompts.items[1].n_response, IDS(TINY_EOS));
    stm_prompts_clear(&prompts);
    use.end_token = -1;
    assert_ok(read_with(text_of(state), &use, "{\"prompt\": \"a\", \"response\": \"bc\"}", &prompts));
    assert_ids(prompts.items[0].response, prompts.items[0].n_response, IDS(68, 69));
    stm_prompts_clear(&prompts);
    refuses(state, &use, "{\"prompt\": \"a\"}", "p.jsonl:1: response: found nothing, expected text to learn from");
    refuses(state, &use, "{\"prompt\": \"a\", \"response\": 4}", "response: found 4, expected text to learn from");
}

static void wrong_files_are_named(void **state)
{
    refuses(state, &plain, "", "p.jsonl: found no prompt, expected one on each line");
    refuses(state, &plain, "\n\n{\"prompt\": \"a\"",
            "p.jsonl:3: column 14: malformed JSON: '}' expected near end of line");
    refuses(state, &plain, "{\"prompt\": \"\"}", "p.jsonl:1: prompt: found an empty text");
    refuses(state, &plain, "{\"prompt_ids\": []}", "p.jsonl:1: prompt_ids: found an empty prompt");
    refuses(state, &plain, "{\"question\": \"a\"}", "prompt: found nothing, expected \"prompt\", \"messages\" or");
    refuses(state, &plain, "{\"prompt_ids\": [100]}", "prompt_ids[0]: found 100, expected an integer from 0 to 99");
    const stm_prompts_use all = {.max_new_tokens = 16, .end_token = -1};
    refuses(state, &all, "{\"prompt\": \"a\"}",
            "rollout.max_new_tokens: found 16, expected less than the model's 16 positions");
}

/* 16 positions less 4 new tokens leave 12. */
static void long_prompts_follow_the_policy(void **state)
{
    static const char *const lines = "{\"prompt\": \"abcdefghijk\"}\n"  /* 12 with the BOS: fits */
                                     "{\"prompt\": \"abcdefghijkl\"}\n" /* 13 */
                                     "{\"prompt_ids\": [1, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22]}\n";
    stm_prompts_use use = plain;
    stm_prompts prompts;
    use.overlong = STM_OVERLONG_ERROR;
    refuses(state, &use, lines,
            "p.jsonl:2: prompt: found 13 tokens, expected at most 12: the model's 16 positions less 4 for the response "
            "(data.overlong can be skip or truncate-left)");
    use.overlong = STM_OVERLONG_SKIP;
    assert_ok(read_with(text_of(state), &use, lines, &prompts));
    assert_int_equal(prompts.n, 1);
    assert_int_equal(prompts.n_skipped, 2);
    assert_int_equal(prompts.items[0].n, 12);
    stm_prompts_clear(&prompts);
    use.overlong = STM_OVERLONG_TRUNCATE_LEFT;
    assert_ok(read_with(text_of(state), &use, lines, &prompts));
    assert_int_equal(prompts.n, 3);
    assert_int_equal(prompts.n_truncated, 2);
    assert_ids(prompts.items[1].ids, prompts.items[1].n, /* the BOS stays, a and b's first go */
               IDS(TINY_BOS, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78));
    assert_ids(prompts.items[2].ids, prompts.items[2].n, /* ids are raw: the last twelve */
               IDS(11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22));
    stm_prompts_clear(&prompts);
}

static void the_prompt_limit_counts_where_it_is_smaller(void **state)
{
    stm_prompts_use use = plain;
    stm_prompts prompts;
    use.max_prompt_tokens = 3;
    refuses(state, &use, "{\"prompt\": \"abc\"}", "prompt: found 4 tokens, expected at most 3: data.max_prompt_tokens");
    assert_ok(read_with(text_of(state), &use, "{\"prompt\": \"ab\"}", &prompts));
    stm_prompts_clear(&prompts);
    use.max_prompt_tokens = 100;
    refuses(state, &use, "{\"prompt\": \"abcdefghijkl\"}", "expected at most 12: the model's 16 positions");
    use.max_prompt_tokens = 1;
    use.overlong = STM_OVERLONG_TRUNCATE_LEFT;
    assert_ok(read_with(text_of(state), &use, "{\"prompt\": \"abc\"}", &prompts));
    assert_ids(prompts.items[0].ids, prompts.items[0].n, IDS(69)); /* no room for a BOS beside the last token */
    stm_prompts_clear(&prompts);
    use.overlong = STM_OVERLONG_SKIP;
    refuses(state, &use, "{\"prompt\": \"abc\"}\n{\"prompt\": \"d\"}",
            "p.jsonl: all 2 prompts were too long and skipped, expected at least one that fits");
}

static void a_response_is_read_with_an_empty_thought_too(void **state)
{
    const stm_prompts_use use = {
        .needs_response = true, .end_token = TINY_EOS, .thought_begin = "b", .thought_end = "d"};
    stm_prompts prompts;
    assert_ok(read_with(text_of(state), &use,
                        "{\"prompt\": \"a\", \"response\": \"abccde\"}\n{\"prompt\": \"a\", \"response\": \"bc\"}",
                        &prompts));
    assert_ids(prompts.items[0].response, prompts.items[0].n_response, IDS(67, 68, 69, 69, 70, 71, TINY_EOS));
    assert_ids(prompts.items[0].thoughtless, prompts.items[0].n_thoughtless, IDS(67, 68, 98, 98, 70, 71, TINY_EOS));
    assert_null(prompts.items[1].thoughtless); /* no thought */
    stm_prompts_clear(&prompts);
}

static void a_response_to_learn_from_takes_its_own_room(void **state)
{
    stm_prompts_use use = {.needs_response = true, .end_token = TINY_EOS, .max_new_tokens = 1000};
    stm_prompts prompts;
    refuses(state, &use, "{\"prompt\": \"abcdefgh\", \"response\": \"abcdefg\"}",
            "prompt: found 9 tokens, expected at most 8: the model's 16 positions less 8 for the response");
    use.overlong = STM_OVERLONG_TRUNCATE_LEFT;
    assert_ok(read_with(text_of(state), &use, "{\"prompt\": \"abcdefgh\", \"response\": \"abcdefg\"}", &prompts));
    assert_int_equal(prompts.items[0].n + prompts.items[0].n_response, 16);
    stm_prompts_clear(&prompts);
    refuses(state, &use, "{\"prompt\": \"a\", \"response\": \"abcdefghijklmnop\"}",
            "expected at most 0: the model's 16");
}

/* A set of n prompts, [1], [2], .. */
static void numbered(const stm_text_context *context, size_t n, stm_prompts *prompts)
{
    char text[4096] = "";
    for (size_t i = 0; i < n; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "{\"prompt_ids\": [%zu]}\n", i + 1);
    assert_ok(read_with(context, &plain, text, prompts));
}

static void each_epoch_has_each_prompt_once_in_an_order_of_its_own(void **state)
{
    enum { N = 23 };
    stm_prompts prompts;
    size_t orders[4][N], n_fixed = 0;
    numbered(text_of(state), N, &prompts);
    for (size_t epoch = 0; epoch < 4; epoch++) {
        bool seen[N] = {false};
        for (size_t k = 0; k < N; k++) {
            orders[epoch][k] = stm_prompt_at(&prompts, 5, true, epoch * N + k);
            assert_true(orders[epoch][k] < N && !seen[orders[epoch][k]]);
            seen[orders[epoch][k]] = true;
            n_fixed += orders[epoch][k] == k;
        }
        for (size_t before = 0; before < epoch; before++)
            assert_memory_not_equal(orders[before], orders[epoch], sizeof orders[0]);
    }
    assert_true(n_fixed < 20); /* of 92: about 4 stay in place by chance */
    size_t n_same = 0;
    for (size_t k = 0; k < N; k++)
        n_same += stm_prompt_at(&prompts, 6, true, k) == stm_prompt_at(&prompts, 5, true, k);
    assert_true(n_same < N); /* another seed, another order */
    for (size_t k = 0; k < 3 * N; k++)
        assert_int_equal(stm_prompt_at(&prompts, 5, false, k), k % N);
    stm_prompts_clear(&prompts);
}

/* A resumed run asks for a position first that another reached step by step. */
static void the_order_is_a_function_of_seed_and_position(void **state)
{
    stm_prompts one, other;
    numbered(text_of(state), 7, &one);
    numbered(text_of(state), 7, &other);
    for (uint64_t k = 0; k < 60; k++) {
        const uint64_t position = 59 - k;
        (void)stm_prompt_at(&other, 9, true, k % 5 ? 3 : 1000000007);
        assert_int_equal(stm_prompt_at(&one, 9, true, position), stm_prompt_at(&other, 9, true, position));
    }
    for (uint64_t k = 0; k < 7; k++) { /* the permutation of src/base/random.h itself */
        size_t order[7];
        stm_random_permutation(9, 2, 7, order);
        assert_int_equal(stm_prompt_at(&one, 9, true, 14 + k), order[k]);
    }
    stm_prompts_clear(&one);
    stm_prompts_clear(&other);
}

static void a_set_smaller_than_a_step_gives_prompts_twice(void **state)
{
    stm_prompts prompts;
    size_t times[3] = {0};
    numbered(text_of(state), 3, &prompts);
    for (uint64_t position = 0; position < 8; position++)
        times[stm_prompt_at(&prompts, 1, true, position)]++;
    for (size_t i = 0; i < 3; i++)
        assert_true(times[i] == 2 || times[i] == 3);
    stm_prompts_clear(&prompts);
}

static void damaged_lines_are_read_or_refused(void **state)
{
    static const char *const good =
        "{\"prompt\": \"abcdefghijklmnop\", \"answer\": 1.5, \"response\": \"a\\u00e9\\u0000b\"}\n"
        "{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}], \"answer\": \"x\", \"response\": \"\"}\n"
        "{\"prompt_ids\": [1, 2, 33, 99], \"answer\": true, \"response\": \"zz\"}\n";
    static const char bytes[] = "{}[]\",:0129-+.eE\\unltf \n\xC3\xFF\x01";
    const size_t n_good = strlen(good);
    size_t n_read = 0, n_refused = 0;
    for (uint32_t trial = 0; trial < 20000; trial++) {
        const stm_prompts_use use = {.overlong = (stm_overlong)(trial % 3),
                                     .max_prompt_tokens = trial % 7,
                                     .max_new_tokens = trial % 5,
                                     .needs_answer = trial % 2,
                                     .needs_response = trial % 4 > 1,
                                     .end_token = TINY_EOS};
        char *text = malloc(n_good);
        memcpy(text, good, n_good);
        for (uint32_t change = 0; change < trial % 3; change++) {
            uint32_t r[4];
            stm_philox((uint32_t[]){trial, change, 0, 0}, (const uint32_t[]){17, 19}, r);
            text[r[0] % n_good] = bytes[r[2] % (sizeof bytes - 1)];
        }
        stm_prompts prompts;
        if (stm_prompts_read("f", text, n_good, text_of(state), &use, &prompts) == STM_OK) {
            n_read++;
            for (size_t i = 0; i < prompts.n; i++)
                assert_true(prompts.items[i].n >= 1 && prompts.items[i].n + prompts.items[i].n_response <= 16);
            stm_prompts_clear(&prompts);
        } else {
            n_refused++;
            assert_int_equal(strncmp(stm_failure(), "f:", 2), 0);
        }
        free(text);
    }
    assert_true(n_read > 1000 && n_refused > 5000);
}

/* Sets that threads share */

enum { MANY = 20000 };

/* MANY prompts after a byte-order mark, line i with an answer i, every seventh with a blank line before it; lines
 * `bad` and `worse` hold no prompt. Of several shares. */
static char *many_lines(size_t bad, size_t worse)
{
    char *text = malloc((size_t)MANY * 64), *at = text;
    assert_non_null(text);
    at += sprintf(at, "\xEF\xBB\xBF");
    for (size_t i = 0; i < MANY; i++) {
        at += sprintf(at, "%s", i % 7 ? "" : "\n");
        at += sprintf(at, i == bad || i == worse ? "{\"prompt\": 7}\n" : "{\"prompt\": \"%.*s\", \"answer\": %zu}\r\n",
                      (int)(1 + i % 5), "abcab", i);
    }
    assert_true(at - text > 8 * STM_JSON_SHARE_BYTES);
    return text;
}

static size_t line_of(size_t i)
{
    return i + 1 + i / 7 + 1;
}

static void threads_read_a_set_as_one_does(void **state)
{
    const int before = omp_get_max_threads();
    stm_prompts_use use = plain;
    use.overlong = STM_OVERLONG_SKIP;
    use.max_prompt_tokens = 5; /* one is the BOS: texts of five letters are left out */
    char *text = many_lines(MANY, MANY);
    for (int n_threads = 1; n_threads <= 7; n_threads += 3) {
        stm_prompts prompts;
        omp_set_num_threads(n_threads);
        assert_ok(read_with(text_of(state), &use, text, &prompts));
        assert_int_equal(prompts.n, MANY - MANY / 5);
        assert_int_equal(prompts.n_skipped, MANY / 5);
        for (size_t k = 0; k < prompts.n; k++) {
            const size_t i = k / 4 * 5 + k % 4;
            char answer[32];
            snprintf(answer, sizeof answer, "%zu", i);
            assert_string_equal(prompts.items[k].answer, answer);
            assert_int_equal(prompts.items[k].line, line_of(i));
            assert_int_equal(prompts.items[k].n, 2 + i % 5);
        }
        stm_prompts_clear(&prompts);
    }
    omp_set_num_threads(before);
    free(text);
}

static void the_first_of_bad_lines_is_named_whichever_thread_meets_one_first(void **state)
{
    static const size_t cases[][2] = {{MANY / 2, MANY / 2 + 1}, {MANY / 3, MANY - 1}, {0, MANY / 2}, {MANY - 1, MANY}};
    const int before = omp_get_max_threads();
    for (int n_threads = 1; n_threads <= 7; n_threads += 3)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            char words[96];
            char *text = many_lines(cases[i][0], cases[i][1]);
            omp_set_num_threads(n_threads);
            snprintf(words, sizeof words, "p.jsonl:%zu: prompt: found 7, expected text", line_of(cases[i][0]));
            refuses(state, &plain, text, words);
            free(text);
        }
    omp_set_num_threads(before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_gives_ids_text_answer_and_itself),
        cmocka_unit_test(answers_are_texts_whatever_they_were),
        cmocka_unit_test(an_answer_that_a_reward_reads_must_be_there),
        cmocka_unit_test(responses_to_learn_from_end_with_the_end_token),
        cmocka_unit_test(wrong_files_are_named),
        cmocka_unit_test(long_prompts_follow_the_policy),
        cmocka_unit_test(the_prompt_limit_counts_where_it_is_smaller),
        cmocka_unit_test(a_response_is_read_with_an_empty_thought_too),
        cmocka_unit_test(a_response_to_learn_from_takes_its_own_room),
        cmocka_unit_test(each_epoch_has_each_prompt_once_in_an_order_of_its_own),
        cmocka_unit_test(the_order_is_a_function_of_seed_and_position),
        cmocka_unit_test(a_set_smaller_than_a_step_gives_prompts_twice),
        cmocka_unit_test(damaged_lines_are_read_or_refused),
        cmocka_unit_test(threads_read_a_set_as_one_does),
        cmocka_unit_test(the_first_of_bad_lines_is_named_whichever_thread_meets_one_first),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
