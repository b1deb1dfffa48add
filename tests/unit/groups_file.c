/* The GROUPS.jsonl form: what it means, what it refuses and in which words, and that written groups read back. */
#include "support/support.h"
#include "support/tiny_tokenizer.h"

#include "base/random.h"
#include "data/groups_file.h"
#include "text/template.h"

/* A vocabulary of 100 ids and 16 positions; its tokenizer gives a character c the id c - 30. */
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

static stm_status read_with(const stm_text_context *context, unsigned use, const char *text, stm_batch *batch)
{
    /* A copy of exactly this size without a NUL: a sanitizer sees a read beyond it. */
    const size_t n = strlen(text);
    char *exact = malloc(n ? n : 1);
    memcpy(exact, text, n);
    const stm_status status = stm_groups_read("g.jsonl", exact, n, context, use, batch);
    free(exact);
    return status;
}

static void refuses(void **state, unsigned use, const char *text, const char *words)
{
    stm_batch batch = {.n_groups = 77};
    const stm_status status = read_with(text_of(state), use, text, &batch);
    if (status == STM_OK)
        print_error("accepted: %s\n", text);
    assert_fails(status, STM_ERR_INPUT, words);
    assert_int_equal(batch.n_groups, 77); /* untouched */
}

/* One group with one response whose members are `response`. */
static void refuses_response(void **state, const char *response, const char *words)
{
    char line[512];
    snprintf(line, sizeof line, "{\"prompt_ids\": [1, 2], \"responses\": [{\"ids\": [5]}, {%s}]}", response);
    refuses(state, 0, line, words);
}

static void assert_ids(const int32_t *ids, size_t n, const int32_t *expected, size_t n_expected)
{
    assert_int_equal(n, n_expected);
    assert_memory_equal(ids, expected, n * sizeof *ids);
}
#define IDS(...) (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t)

static void a_full_line_is_read_as_it_stands(void **state)
{
    stm_batch batch;
    assert_ok(read_with(
        text_of(state), 0,
        "\n  \r\n{\"prompt_ids\": [3, 99, 0], \"answer\": {\"any\": [1]}, \"temperature\": 0.7, \"responses\": "
        "[{\"ids\": [7, 8, 9], \"reward\": -1, \"mask\": [0, 1, 1], \"old_logprobs\": [-0.1, -2, -3e-5], "
        "\"ref_logprobs\": [-1, -2.5, -3], \"kept_mass\": [1, 0.5, 0.25], \"finish\": \"length\"}, "
        "{\"ids\": [], \"reward\": null}]}\r\n\n{\"prompt_ids\": [1], \"responses\": [{\"ids\": [4]}]}",
        &batch));
    assert_int_equal(batch.n_groups, 2);
    const stm_group *group = &batch.groups[0];
    assert_ids(group->prompt, group->n_prompt, IDS(3, 99, 0));
    assert_true(group->temperature == 0.7);
    assert_int_equal(group->n_responses, 2);
    const stm_response *full = &group->responses[0], *empty = &group->responses[1];
    assert_ids(full->ids, full->n, IDS(7, 8, 9));
    assert_true(full->has_reward && full->reward == -1.0);
    assert_memory_equal(full->mask, ((uint8_t[]){0, 1, 1}), 3);
    assert_memory_equal(full->old_logprobs, ((double[]){-0.1, -2, -3e-5}), 3 * sizeof(double));
    assert_memory_equal(full->ref_logprobs, ((double[]){-1, -2.5, -3}), 3 * sizeof(double));
    assert_memory_equal(full->kept_mass, ((double[]){1, 0.5, 0.25}), 3 * sizeof(double));
    assert_int_equal(full->finish, STM_FINISH_LENGTH);
    assert_int_equal(empty->n, 0);
    assert_false(empty->has_reward);
    assert_null(empty->old_logprobs);
    assert_null(empty->ref_logprobs);
    assert_null(empty->kept_mass);
    assert_int_equal(empty->finish, STM_FINISH_STOP);
    assert_true(batch.groups[1].temperature == 1.0);
    assert_int_equal(batch.groups[1].responses[0].mask[0], 1);
    stm_batch_clear(&batch);
}

static void a_byte_order_mark_is_skipped(void **state)
{
    stm_batch batch;
    assert_ok(
        read_with(text_of(state), 0, "\xEF\xBB\xBF{\"prompt_ids\": [1], \"responses\": [{\"ids\": [4]}]}\n", &batch));
    assert_int_equal(batch.n_groups, 1);
    stm_batch_clear(&batch);
}

static void scoring_ignores_masks_but_checks_them(void **state)
{
    stm_batch batch;
    const char *line = "{\"prompt_ids\": [1], \"responses\": [{\"ids\": [4, 5], \"mask\": [0, 0]}]}";
    assert_ok(read_with(text_of(state), STM_GROUPS_IGNORE_MASK, line, &batch));
    assert_memory_equal(batch.groups[0].responses[0].mask, ((uint8_t[]){1, 1}), 2);
    stm_batch_clear(&batch);
    refuses(state, STM_GROUPS_IGNORE_MASK, "{\"prompt_ids\": [1], \"responses\": [{\"ids\": [4, 5], \"mask\": [0]}]}",
            "g.jsonl:1: responses[0].mask: found 1 numbers, expected 2, one for each id");
}

static void texts_get_the_special_tokens_that_are_theirs(void **state)
{
    stm_batch batch;
    assert_ok(
        read_with(text_of(state), 0,
                  "{\"prompt\": \"ab\", \"responses\": [{\"text\": \"cd\"}, {\"text\": \"\"}]}\n"
                  "{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}], \"responses\": [{\"text\": \"c\"}]}\n",
                  &batch));
    const stm_group *text = &batch.groups[0], *chat = &batch.groups[1];
    assert_ids(text->prompt, text->n_prompt, IDS(TINY_BOS, 'a' - 30, 'b' - 30));
    assert_ids(text->responses[0].ids, text->responses[0].n, IDS('c' - 30, 'd' - 30)); /* neither BOS nor EOS */
    assert_int_equal(text->responses[1].n, 0);
    assert_int_equal(chat->prompt[0], 'b' - 30); /* the plain template adds nothing, nor does the tokenizer */
    assert_ids(chat->responses[0].ids, chat->responses[0].n, IDS('c' - 30));
    stm_batch_clear(&batch);
}

static void messages_are_what_the_template_prints_and_no_more(void **state)
{
    stm_text_context context = *text_of(state);
    stm_template *chatml;
    stm_batch batch;
    char *text;
    assert_ok(stm_template_find("chatml", &chatml));
    context.chat = chatml;
    context.max_positions = 200;
    assert_ok(read_with(&context, 0,
                        "{\"messages\": [{\"role\": \"user\", \"content\": \"ab\"}], \"responses\": [{\"ids\": [4]}]}",
                        &batch));
    const stm_group *group = &batch.groups[0];
    assert_int_not_equal(group->prompt[0], TINY_BOS);
    assert_ok(stm_tokenizer_decode(context.tokenizer, group->prompt, group->n_prompt, false, &text, NULL));
    assert_string_equal(text, "<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n");
    free(text);
    stm_batch_clear(&batch);
    stm_template_destroy(chatml);
}

static void ids_are_taken_before_their_text(void **state)
{
    stm_batch batch;
    assert_ok(read_with(text_of(state), 0,
                        "{\"prompt\": \"ab\", \"prompt_ids\": [9], \"responses\": [{\"text\": \"cd\", \"ids\": [8]}]}",
                        &batch));
    assert_ids(batch.groups[0].prompt, batch.groups[0].n_prompt, IDS(9));
    assert_ids(batch.groups[0].responses[0].ids, batch.groups[0].responses[0].n, IDS(8));
    stm_batch_clear(&batch);
}

static void a_sequence_may_fill_the_positions_and_no_more(void **state)
{
    stm_text_context context = *text_of(state);
    stm_batch batch;
    const char *line = "{\"prompt_ids\": [1, 2, 3], \"responses\": [{\"ids\": []}, {\"ids\": [4, 5]}]}";
    context.max_positions = 5;
    assert_ok(read_with(&context, 0, line, &batch));
    stm_batch_clear(&batch);
    context.max_positions = 4;
    assert_fails(read_with(&context, 0, line, &batch), STM_ERR_INPUT,
                 "g.jsonl:1: responses[1]: found 2 tokens after a prompt of 3, expected at most 4 in all, the model's "
                 "positions");
    context.max_positions = 2;
    assert_fails(read_with(&context, 0, line, &batch), STM_ERR_INPUT,
                 "g.jsonl:1: prompt: found 3 tokens, expected at most 2, the model's positions");
}

static void malformed_json_is_named_with_its_line(void **state)
{
    refuses(state, 0, "\n{\"prompt_ids\": [1,, 2]}", "g.jsonl:2: column 19: malformed JSON: unexpected token near ','");
    refuses(state, 0, "{\"prompt_ids\": [1", "g.jsonl:1: column 17: malformed JSON: ']' expected near end of line");
    refuses(state, 0, "{\"a\": 1} {\"b\": 2}", "g.jsonl:1: column 10: malformed JSON: end of line expected near '{'");
    refuses(state, 0, "{\"a\": 1, \"a\": 2}", "malformed JSON: duplicate object key near '\"a\"'");
    refuses(state, 0, "{\"a\": NaN}", "malformed JSON: invalid token near 'NaN'");
    refuses(state, 0, "{\"a\": -Infinity}", "malformed JSON: invalid token near '-'");
    refuses(state, 0, "{\"a\": 1e999}", "malformed JSON: real number overflow near '1e999'");
    refuses(state, 0, "{\"a\": 99999999999999999999}", "malformed JSON: too big integer");
    refuses(state, 0, "{\"a\": \"\xff\"}", "malformed JSON: unable to decode byte 0xff");
    refuses(state, 0, "[1, 2]", "g.jsonl:1: found an array of 2, expected an object, {..}");
    refuses(state, 0, "\"text\"", "g.jsonl:1: found text \"text\", expected an object, {..}");
    refuses(state, 0, "", "g.jsonl: found no group, expected one on each line");
    refuses(state, 0, "\n \n\t\n", "g.jsonl: found no group, expected one on each line");
}

static void wrong_prompts_are_named(void **state)
{
#define R ", \"responses\": [{\"ids\": [1]}]}"
    refuses(state, 0, "{\"prompt_ids\": []" R, "g.jsonl:1: prompt_ids: found an empty prompt, expected at least one");
    refuses(state, 0, "{\"prompt\": \"\"" R, "g.jsonl:1: prompt: found an empty text, expected at least one token");
    refuses(state, 0, "{\"messages\": []" R, "g.jsonl:1: messages: found an array of 0, expected an array of {");
    refuses(state, 0, "{\"answer\": 1" R, "prompt: found nothing, expected \"prompt\", \"messages\" or \"prompt_ids\"");
    refuses(state, 0, "{\"promt\": \"a\"" R, "prompt: found nothing but \"promt\"; did you mean \"prompt\"?");
    refuses(state, 0, "{\"prompt\": null" R, "prompt: found nothing, expected \"prompt\", ");
    refuses(state, 0, "{\"prompt\": \"a\", \"messages\": [1]" R,
            "prompt: found \"messages\" too, expected one of them");
    refuses(state, 0, "{\"prompt\": 5" R, "prompt: found 5, expected text");
    refuses(state, 0, "{\"prompt_ids\": 5" R, "prompt_ids: found 5, expected an array of token ids");
    refuses(state, 0, "{\"prompt_ids\": [1, 100]" R,
            "prompt_ids[1]: found 100, expected an integer from 0 to 99, an id of the model");
    refuses(state, 0, "{\"prompt_ids\": [-1]" R, "prompt_ids[0]: found -1, expected an integer from 0 to 99");
    refuses(state, 0, "{\"prompt_ids\": [1.5]" R, "prompt_ids[0]: found 1.5, expected an integer from 0 to 99");
    refuses(state, 0, "{\"prompt_ids\": [\"a\"]" R, "prompt_ids[0]: found text \"a\", expected an integer");
    refuses(state, 0, "{\"messages\": [1]" R, "messages[0]: found 1, expected {\"role\": .., \"content\": ..}");
    refuses(state, 0, "{\"messages\": [{\"role\": \"user\"}]" R, "messages[0].content: found nothing, expected text");
    refuses(state, 0, "{\"messages\": [{\"content\": \"a\"}]" R, "messages[0].role: found nothing, expected text");
    refuses(state, 0, "{\"messages\": [{\"role\": \"user\", \"content\": \"a\\u0000b\"}]" R,
            "messages[0].content: found a NUL character, expected text without");
    refuses(state, 0, "{\"prompt_ids\": [1], \"temperature\": 0" R, "temperature: found 0, expected a number above 0");
    refuses(state, 0, "{\"prompt_ids\": [1], \"temperature\": \"1\"" R, "temperature: found text \"1\", expected");
    refuses(state, 0, "{\"prompt_ids\": [1], \"temprature\": 0.5" R, "\"temprature\"; did you mean \"temperature\"?");
#undef R
    refuses(state, 0, "{\"prompt_ids\": [1]}", "g.jsonl:1: responses: found nothing, expected an array of objects");
    refuses(state, 0, "{\"prompt_ids\": [1], \"responses\": {}}", "responses: found an object, expected an array");
    refuses(state, 0, "{\"prompt_ids\": [1], \"responses\": []}", "responses: found an empty array, expected at least");
    refuses(state, 0, "{\"prompt_ids\": [1], \"responses\": [7]}", "responses[0]: found 7, expected an object with");
}

static void wrong_responses_are_named(void **state)
{
    refuses_response(state, "\"reward\": 1",
                     "g.jsonl:1: responses[1]: found neither \"ids\" nor \"text\", expected one");
    refuses_response(state, "\"ids\": 4", "responses[1].ids: found 4, expected an array of token ids");
    refuses_response(state, "\"ids\": [4, 100]", "responses[1].ids[1]: found 100, expected an integer from 0 to 99");
    refuses_response(state, "\"text\": [4]", "responses[1].text: found an array of 1, expected text");
    refuses_response(state, "\"ids\": [4], \"old_logprob\": [1]",
                     "responses[1]: unknown key \"old_logprob\"; did you mean \"old_logprobs\"?");
    refuses_response(state, "\"ids\": [4], \"zebra_count\": 1", "responses[1]: unknown key \"zebra_count\"");
    refuses_response(state, "\"ids\": [4], \"mask\": [1, 0]",
                     "responses[1].mask: found 2 numbers, expected 1, one for");
    refuses_response(state, "\"ids\": [4], \"mask\": [2]", "responses[1].mask[0]: found 2, expected 0 or 1");
    refuses_response(state, "\"ids\": [4], \"mask\": [0.5]", "responses[1].mask[0]: found 0.5, expected 0 or 1");
    refuses_response(state, "\"ids\": [4], \"mask\": 1", "responses[1].mask: found 1, expected an array of numbers");
    refuses_response(state, "\"ids\": [4], \"old_logprobs\": []",
                     "responses[1].old_logprobs: found 0 numbers, expected 1");
    refuses_response(state, "\"ids\": [4], \"ref_logprobs\": [1, 2, 3]", "responses[1].ref_logprobs: found 3 numbers");
    refuses_response(state, "\"ids\": [4], \"kept_mass\": [1, 2]", "responses[1].kept_mass: found 2 numbers");
    refuses_response(state, "\"ids\": [4], \"old_logprobs\": [null]", "old_logprobs[0]: found null, expected a number");
    refuses_response(state, "\"ids\": [4], \"ref_logprobs\": [\"x\"]", "ref_logprobs[0]: found text \"x\", expected a");
    refuses_response(state, "\"ids\": [4], \"kept_mass\": [0]", "kept_mass[0]: found 0, expected a number above 0");
    refuses_response(state, "\"ids\": [4], \"kept_mass\": [1.5]", "kept_mass[0]: found 1.5, expected a number above 0");
    refuses_response(state, "\"ids\": [4], \"reward\": \"1\"",
                     "responses[1].reward: found text \"1\", expected a number");
    refuses_response(state, "\"ids\": [4], \"reward\": true", "responses[1].reward: found true, expected a number");
    refuses_response(state, "\"ids\": [4], \"off_policy\": 1",
                     "responses[1].off_policy: found 1, expected true or false");
    refuses_response(state, "\"ids\": [4], \"cluster\": 0.5", "responses[1].cluster: found 0.5, expected an integer");
    refuses_response(state, "\"ids\": [4], \"sampler_logprobs\": [-1, -2]",
                     "responses[1].sampler_logprobs: found 2 numbers, expected 1, one for each id");
    refuses_response(state, "\"ids\": [4], \"finish\": \"eos\"",
                     "responses[1].finish: found text \"eos\", expected \"stop\" or \"length\"");
    refuses_response(state, "\"ids\": [4], \"finish\": 1", "responses[1].finish: found 1, expected \"stop\" or");
}

static void what_an_objective_needs_must_be_there(void **state)
{
    const char *bare = "\n{\"prompt_ids\": [1], \"responses\": [{\"ids\": [4]}]}";
    refuses(state, STM_GROUPS_NEED_REWARDS, bare, "g.jsonl:2: responses[0].reward: found nothing, expected a number");
    refuses(state, STM_GROUPS_NEED_REFERENCE, bare,
            "g.jsonl:2: responses[0].ref_logprobs: found nothing, expected an array of 1 numbers, one for each id");
    stm_batch batch;
    assert_ok(read_with(text_of(state), STM_GROUPS_NEED_REWARDS | STM_GROUPS_NEED_REFERENCE,
                        "{\"prompt_ids\": [1], \"responses\": [{\"ids\": [4], \"reward\": 0, \"ref_logprobs\": [0]}]}",
                        &batch));
    stm_batch_clear(&batch);
}

static void a_model_without_tokenizer_takes_ids_alone(void **state)
{
    stm_text_context context = *text_of(state);
    stm_batch batch;
    context.tokenizer = NULL;
    assert_fails(read_with(&context, 0, "{\"prompt\": \"a\", \"responses\": [{\"ids\": [1]}]}", &batch), STM_ERR_INPUT,
                 "g.jsonl:1: prompt: found text, but the model has no tokenizer.json; expected token ids");
    assert_fails(read_with(&context, 0, "{\"prompt_ids\": [1], \"responses\": [{\"text\": \"a\"}]}", &batch),
                 STM_ERR_INPUT, "g.jsonl:1: responses[0].text: found text, but the model has no tokenizer.json");
    context = *text_of(state);
    context.chat = NULL;
    assert_fails(
        read_with(&context, 0,
                  "{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}], \"responses\": [{\"ids\": [1]}]}",
                  &batch),
        STM_ERR_INPUT, "g.jsonl:1: messages: the model has no chat template that is known");
    context = *text_of(state);
    context.vocab_size = 'a' - 30;
    assert_fails(read_with(&context, 0, "{\"prompt\": \"a\", \"responses\": [{\"ids\": [1]}]}", &batch), STM_ERR_INPUT,
                 "g.jsonl:1: prompt: the tokenizer makes id 67 of it, but the model's vocabulary ends at 66");
}

static void written_groups_read_back_to_the_last_bit(void **state)
{
    int32_t prompt[] = {1, 2, 3}, ids[] = {4, 5};
    uint8_t all[] = {1, 1}, some[] = {1, 0};
    double old[] = {-0.1, -1.0 / 3.0}, reference[] = {-3.3333333333333335e-05, -0x1.fffffffffffffp-1},
           kept[] = {1.0, 0.30000000000000004};
    stm_response responses[] = {
        {.n = 2, .ids = ids, .mask = all, .old_logprobs = old, .kept_mass = kept, .finish = STM_FINISH_LENGTH},
        {.n = 2, .ids = ids, .mask = some, .ref_logprobs = reference, .has_reward = true, .reward = 0.1 + 0.2},
        {.n = 0, .ids = ids, .mask = all}};
    const stm_group group = {
        .n_prompt = 3, .prompt = prompt, .n_responses = 3, .responses = responses, .temperature = 0.7};
    const char *texts[] = {"a \"quoted\"\n\xE2\x82\xAC", "cut \xE2\x82", ""};
    stm_string line = {0};
    stm_batch batch;
    assert_ok(stm_group_write(&group,
                              "{\"prompt\": \"abc\", \"answer\": 42, \"temperature\": 9, \"responses\": 1, "
                              "\"prompt_ids\": [77], \"note\": {\"deep\": [1.5, null]}}",
                              texts, &line));
    assert_ok(stm_group_write(&group, NULL, NULL, &line));
    assert_ok(stm_groups_read("out", line.bytes, line.n, text_of(state), 0, &batch));
    assert_int_equal(batch.n_groups, 2);
    for (size_t g = 0; g < 2; g++) {
        const stm_group *back = &batch.groups[g];
        assert_ids(back->prompt, back->n_prompt, prompt, 3);
        assert_true(back->temperature == 0.7);
        assert_int_equal(back->n_responses, 3);
        assert_ids(back->responses[0].ids, back->responses[0].n, ids, 2);
        assert_memory_equal(back->responses[0].old_logprobs, old, sizeof old);
        assert_memory_equal(back->responses[0].kept_mass, kept, sizeof kept);
        assert_memory_equal(back->responses[0].mask, all, 2);
        assert_int_equal(back->responses[0].finish, STM_FINISH_LENGTH);
        assert_false(back->responses[0].has_reward);
        assert_null(back->responses[0].ref_logprobs);
        assert_memory_equal(back->responses[1].ref_logprobs, reference, sizeof reference);
        assert_memory_equal(back->responses[1].mask, some, 2);
        assert_true(back->responses[1].has_reward && back->responses[1].reward == 0.1 + 0.2);
        assert_int_equal(back->responses[1].finish, STM_FINISH_STOP);
        assert_int_equal(back->responses[2].n, 0);
    }
    assert_ok(stm_string_end(&line));
    assert_non_null(strstr(line.bytes, "\"answer\":42"));
    assert_non_null(strstr(line.bytes, "\"prompt\":\"abc\""));
    assert_non_null(strstr(line.bytes, "\"note\":{\"deep\":[1.5,null]}"));
    assert_non_null(strstr(line.bytes, "\"text\":\"a \\\"quoted\\\"\\n\xE2\x82\xAC\""));
    assert_non_null(strstr(line.bytes, "\"text\":\"cut \xEF\xBF\xBD\""));
    stm_batch_clear(&batch);
    free(line.bytes);
}

static void numbers_that_json_cannot_hold_are_not_written(void **state)
{
    (void)state;
    int32_t ids[] = {1};
    uint8_t mask[] = {1};
    double old[] = {NAN};
    stm_response response = {.n = 1, .ids = ids, .mask = mask, .old_logprobs = old};
    const stm_group group = {
        .n_prompt = 1, .prompt = ids, .n_responses = 1, .responses = &response, .temperature = 1.0};
    stm_string line = {0};
    assert_fails(stm_group_write(&group, NULL, NULL, &line), STM_ERR_NUMERIC,
                 "responses[0]: old_logprobs[0]: found nan, which JSON cannot hold");
    response.old_logprobs = NULL;
    response.has_reward = true;
    response.reward = INFINITY;
    assert_fails(stm_group_write(&group, NULL, NULL, &line), STM_ERR_NUMERIC, "responses[0]: reward: found inf");
    assert_int_equal(line.n, 0);
    free(line.bytes);
}

static void recorded_groups_are_read(void **state)
{
    static const struct {
        const char *name;
        size_t n_groups, n_tokens;
    } files[] = {{"llama", 5, 104}, {"llama3_rope", 5, 104}, {"mistral", 5, 104},      {"qwen2", 5, 104},
                 {"qwen3", 5, 104}, {"edge_cases", 7, 190},  {"across_groups", 4, 69}, {"tinystories656k", 3, 421}};
    stm_text_context context = *text_of(state);
    context.vocab_size = 2048;
    context.max_positions = 256;
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        char name[128], *text;
        size_t n, n_tokens = 0;
        stm_batch batch;
        snprintf(name, sizeof name, "parity/%s/groups.jsonl", files[f].name);
        assert_ok(stm_read_file(stm_fixture(name), &text, &n));
        assert_ok(
            stm_groups_read(name, text, n, &context, STM_GROUPS_NEED_REWARDS | STM_GROUPS_NEED_REFERENCE, &batch));
        assert_int_equal(batch.n_groups, files[f].n_groups);
        for (size_t g = 0; g < batch.n_groups; g++)
            for (size_t i = 0; i < batch.groups[g].n_responses; i++)
                n_tokens += batch.groups[g].responses[i].n;
        assert_int_equal(n_tokens, files[f].n_tokens);
        stm_batch_clear(&batch);
        free(text);
    }
}

/* Changes, drops and doubles bytes of good lines: any answer is fine, a crash or a message without its line is not. */
static void damaged_lines_are_read_or_refused(void **state)
{
    static const char *const good = "{\"prompt_ids\": [3, 99, 0], \"answer\": \"\\u00e9\\ud83d\\ude00\", "
                                    "\"temperature\": 0.7, \"responses\": [{\"ids\": "
                                    "[7, 8], \"reward\": -1e2, \"mask\": [0, 1], \"old_logprobs\": [-0.1, -2], "
                                    "\"kept_mass\": [1, 0.5], \"finish\": "
                                    "\"length\"}, {\"text\": \"ab\"}]}\n{\"messages\": [{\"role\": \"user\", "
                                    "\"content\": \"b\"}], \"responses\": [{\"text\": "
                                    "\"a\"}]}\n{\"prompt\": \"ab\", \"responses\": [{\"text\": \"cd\"}]}\n";
    static const char bytes[] = "{}[]\",:0129-+.eE\\unltf \n\xC3\xFF\x01";
    const size_t n_good = strlen(good);
    size_t n_read = 0, n_refused = 0;
    for (uint32_t trial = 0; trial < 20000; trial++) {
        const uint32_t key[2] = {11, 13};
        char *text = malloc(n_good + 8);
        size_t n = n_good;
        memcpy(text, good, n);
        for (uint32_t change = 0; change <= trial % 3; change++) {
            uint32_t r[4];
            stm_philox((uint32_t[]){trial, change, 0, 0}, key, r);
            const size_t at = r[0] % n;
            if (r[1] % 3 == 0) {
                memmove(text + at, text + at + 1, n - at - 1);
                n--;
            } else if (r[1] % 3 == 1) {
                memmove(text + at + 1, text + at, n - at);
                n++;
            }
            text[at < n ? at : n - 1] = bytes[r[2] % (sizeof bytes - 1)];
        }
        char *exact = malloc(n);
        memcpy(exact, text, n);
        stm_batch batch;
        if (stm_groups_read("f", exact, n, text_of(state), 0, &batch) == STM_OK) {
            n_read++;
            stm_batch_clear(&batch);
        } else {
            n_refused++;
            assert_int_equal(strncmp(stm_failure(), "f:", 2), 0);
        }
        free(exact);
        free(text);
    }
    assert_true(n_read > 200 && n_refused > 5000);
}

static void what_only_some_objectives_read_is_kept(void **state)
{
    stm_batch batch;
    assert_ok(read_with(text_of(state), 0,
                        "{\"prompt_ids\": [1], \"responses\": [{\"ids\": [4, 5], \"sampler_logprobs\": [-1, -2], "
                        "\"token_weights\": [1, 0.5], \"off_policy\": true, \"cluster\": 3}, {\"ids\": [6]}]}\n",
                        &batch));
    const stm_response_notes *notes = batch.groups[0].responses[0].notes;
    assert_true(notes->sampler_logprobs[1] == -2 && notes->token_weights[1] == 0.5);
    assert_true(notes->off_policy && notes->has_cluster && notes->cluster == 3);
    assert_null(batch.groups[0].responses[1].notes);
    stm_batch_clear(&batch);
    assert_ok(
        read_with(text_of(state), 0,
                  "{\"prompt_ids\": [1], \"preferences\": [[0.5, 0.7], [0.3, 0.5]], \"responses\": [{\"ids\": [4], "
                  "\"twin_logprobs\": [-1], \"target_logprobs\": [-2], \"origin\": \"other\"}, {\"ids\": [6], "
                  "\"origin\": \"policy\"}]}\n",
                  &batch));
    notes = batch.groups[0].responses[0].notes;
    assert_true(notes->twin_logprobs[0] == -1 && notes->target_logprobs[0] == -2 && notes->other_origin);
    assert_false(batch.groups[0].responses[1].notes->other_origin);
    assert_true(batch.groups[0].preferences[1] == 0.7 && batch.groups[0].preferences[2] == 0.3);
    stm_batch_clear(&batch);
}

static void scores_steps_and_parts_are_read_and_written_back(void **state)
{
    static const char line[] =
        "{\"prompt_ids\": [1], \"scores\": [[[1, 0], [0.5, 2]]], \"responses\": ["
        "{\"ids\": [4, 5], \"member\": 0, \"segment\": [0, 1], \"answer\": [-1, -1], \"cluster\": 4}, "
        "{\"ids\": [4, 7, 8], \"member\": 0, \"segment\": [-1, -1, -1], \"answer\": [-1, 3, 3]}]}\n";
    stm_batch batch, again;
    stm_string out = {0};
    assert_ok(read_with(text_of(state), 0, line, &batch));
    assert_ok(stm_group_write(&batch.groups[0], NULL, NULL, &out));
    assert_ok(stm_string_add(&out, "", 1)); /* the end of a text */
    assert_ok(read_with(text_of(state), 0, out.bytes, &again));
    for (size_t b = 0; b < 2; b++) {
        const stm_group *group = b == 0 ? &batch.groups[0] : &again.groups[0];
        assert_true(group->n_members == 1 && group->n_budgets == 2 && group->n_summaries == 2);
        assert_true(group->scores[0] == 1 && group->scores[2] == 0.5 && group->scores[3] == 2);
        const stm_response_notes *thinking = group->responses[0].notes, *summary = group->responses[1].notes;
        assert_true(thinking->segment[1] == 1 && thinking->answer[0] == -1 && thinking->cluster == 4);
        assert_true(summary->segment[2] == -1 && summary->answer[1] == 3 && summary->member == 0);
    }
    free(out.bytes);
    stm_batch_clear(&batch);
    stm_batch_clear(&again);
    assert_ok(read_with(text_of(state), 0,
                        "{\"prompt_ids\": [1], \"responses\": [{\"ids\": [4, 5], \"step\": [0, 1], "
                        "\"step_advantages\": [0.5, -1], \"reward_parts\": [1, 2, 3]}]}\n",
                        &batch));
    const stm_response_notes *notes = batch.groups[0].responses[0].notes;
    assert_true(notes->step[1] == 1 && notes->n_steps == 2 && notes->step_advantages[1] == -1);
    assert_true(notes->n_parts == 3 && notes->reward_parts[2] == 3);
    stm_batch_clear(&batch);
    refuses_response(state, "\"ids\": [4, 5], \"step\": [0, 2], \"step_advantages\": [0.5, -1]",
                     "responses[1].step[1]: found 2, expected a number below 2, those of step_advantages");
    refuses_response(state, "\"ids\": [4], \"segment\": [-2]",
                     "responses[1].segment[0]: found -2, expected a whole number, -1 for none");
    refuses_response(state, "\"ids\": [4], \"member\": -1", "responses[1].member: found -1, expected a whole number");
    refuses(state, 0, "{\"prompt_ids\": [1], \"scores\": [[[1]], [[2]]], \"responses\": [{\"ids\": [4]}]}",
            "g.jsonl:1: scores: found 2 members, expected one for each response, or for each \"member\" of responses, "
            "with a list of numbers for each budget");
    refuses(state, 0, "{\"prompt_ids\": [1], \"scores\": [[[1]]], \"responses\": [{\"ids\": [4], \"answer\": [1]}]}",
            "g.jsonl:1: responses[0].answer[0]: found 1, expected a number below 1, those of the summaries");
    refuses(state, 0, "{\"prompt_ids\": [1], \"scores\": [[[1, 2], [3]]], \"responses\": [{\"ids\": [4]}]}",
            "g.jsonl:1: scores[0]: expected 2 budgets of 2 numbers, as the first member has");
    refuses(
        state, 0,
        "{\"prompt_ids\": [1], \"scores\": [[[1]]], \"responses\": [{\"ids\": [4], \"member\": 0}, {\"ids\": [4]}]}",
        "g.jsonl:1: responses[1].member: found nothing, expected a whole number, since others have one");
}

static void preferences_that_are_none_are_refused(void **state)
{
    static const struct {
        const char *rows, *message;
    } cases[] = {
        {"3", "g.jsonl:1: preferences: found 3, expected 2 rows of as many numbers"},
        {"[[0.5, 0.7]]", "g.jsonl:1: preferences: found an array of 1, expected 2 rows of as many numbers"},
        {"[[0.5, 0.7], [0.3]]", "g.jsonl:1: preferences[1][0]: found 0.3"},
        {"[[0.5, 1.5], [0.3, 0.5]]",
         "g.jsonl:1: preferences[0][1]: found 1.5, expected a number from 0 to 1 for each two responses"},
        {"[[0.5, 0.7], [0.4, 0.5]]",
         "g.jsonl:1: preferences[1][0]: found 0.4, expected 1 less that of the other order"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char line[256];
        snprintf(line, sizeof line,
                 "{\"prompt_ids\": [1], \"preferences\": %s, \"responses\": [{\"ids\": [4]}, {\"ids\": [5]}]}",
                 cases[i].rows);
        refuses(state, 0, line, cases[i].message);
    }
    refuses_response(state, "\"ids\": [4], \"origin\": \"reference\"",
                     "responses[1].origin: found text \"reference\", expected \"policy\" or \"other\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_only_some_objectives_read_is_kept),
        cmocka_unit_test(scores_steps_and_parts_are_read_and_written_back),
        cmocka_unit_test(preferences_that_are_none_are_refused),
        cmocka_unit_test(a_full_line_is_read_as_it_stands),
        cmocka_unit_test(a_byte_order_mark_is_skipped),
        cmocka_unit_test(scoring_ignores_masks_but_checks_them),
        cmocka_unit_test(texts_get_the_special_tokens_that_are_theirs),
        cmocka_unit_test(messages_are_what_the_template_prints_and_no_more),
        cmocka_unit_test(ids_are_taken_before_their_text),
        cmocka_unit_test(a_sequence_may_fill_the_positions_and_no_more),
        cmocka_unit_test(malformed_json_is_named_with_its_line),
        cmocka_unit_test(wrong_prompts_are_named),
        cmocka_unit_test(wrong_responses_are_named),
        cmocka_unit_test(what_an_objective_needs_must_be_there),
        cmocka_unit_test(a_model_without_tokenizer_takes_ids_alone),
        cmocka_unit_test(written_groups_read_back_to_the_last_bit),
        cmocka_unit_test(numbers_that_json_cannot_hold_are_not_written),
        cmocka_unit_test(recorded_groups_are_read),
        cmocka_unit_test(damaged_lines_are_read_or_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
