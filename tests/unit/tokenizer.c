/* Ids, texts and refusals of tokenizers, against what Hugging Face's tokenizers and llama.cpp recorded. */
#include "text/tokenizer.h"

#include <jansson.h>

#include "support/support.h"
#include "text/utf8.h"

/* A file of the fixtures, or NULL where neither folder has it. */
static char *read_fixture(const char *name, size_t *n)
{
    char *text;
    const char *path = stm_fixture(name);
    if (!path)
        return NULL;
    assert_ok(stm_read_file(path, &text, n));
    return text;
}

/* Tokenizers are read once. */
static struct {
    char name[128];
    stm_tokenizer *tokenizer;
} opened[64];
static size_t n_opened;

/* NULL where the fixture is not there. */
static const stm_tokenizer *tokenizer_named(const char *name)
{
    for (size_t i = 0; i < n_opened; i++)
        if (strcmp(opened[i].name, name) == 0)
            return opened[i].tokenizer;
    const char *path = stm_fixture(name);
    assert_true(n_opened < sizeof opened / sizeof *opened);
    snprintf(opened[n_opened].name, sizeof opened[n_opened].name, "%s", name);
    if (path)
        assert_ok(stm_tokenizer_open(path, &opened[n_opened].tokenizer));
    return opened[n_opened++].tokenizer;
}

static const stm_tokenizer *fixture_tokenizer(const char *name)
{
    const stm_tokenizer *t = tokenizer_named(name);
    assert_non_null(t);
    return t;
}

static int close_tokenizers(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_opened; i++)
        stm_tokenizer_destroy(opened[i].tokenizer);
    return 0;
}

static void assert_ids(const stm_tokenizer *t, const char *text, size_t n_bytes, bool special, const json_t *expected)
{
    int32_t *ids;
    size_t n;
    assert_ok(stm_tokenizer_encode(t, text, n_bytes, special, &ids, &n));
    bool same = n == json_array_size(expected);
    for (size_t i = 0; i < n && same; i++)
        same = ids[i] == json_integer_value(json_array_get(expected, i));
    if (!same) {
        char *list = json_dumps(expected, JSON_COMPACT);
        print_error("text \"%s\"%s: expected %s, found", text, special ? " with special tokens" : "", list);
        for (size_t i = 0; i < n; i++)
            print_error(" %d", ids[i]);
        print_error("\n");
        fail();
    }
    free(ids);
}

/* The whole text at once, and id by id: every text on the way is well-formed. */
static void assert_decoded(const stm_tokenizer *t, const json_t *list, const char *expected, size_t n_expected)
{
    const size_t n = json_array_size(list);
    int32_t *ids;
    char *text;
    size_t n_bytes;
    stm_text_stream *stream;
    assert_ok(stm_alloc(n, sizeof *ids, &ids));
    assert_ok(stm_text_stream_create(t, false, &stream));
    for (size_t i = 0; i < n; i++) {
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
        assert_ok(stm_text_stream_add(stream, ids[i]));
        const char *so_far = stm_text_stream_text(stream, &n_bytes);
        assert_true(stm_utf8_valid(so_far, n_bytes) == n_bytes);
    }
    assert_ok(stm_text_stream_finish(stream));
    const char *streamed = stm_text_stream_text(stream, &n_bytes);
    assert_int_equal(n_bytes, n_expected);
    assert_memory_equal(streamed, expected, n_bytes);
    assert_ok(stm_tokenizer_decode(t, ids, n, false, &text, &n_bytes));
    assert_int_equal(n_bytes, n_expected);
    assert_memory_equal(text, expected, n_bytes);
    stm_text_stream_destroy(stream);
    free(text);
    free(ids);
}

/* Lines {"tokenizer", "text", "ids", "ids_special", "decoded"}; returns how many were compared. */
static size_t check_vectors(const char *name)
{
    size_t n, compared = 0;
    char *lines = read_fixture(name, &n);
    assert_non_null(lines);
    for (char *line = lines, *end; (end = strchr(line, '\n')); line = end + 1) {
        json_t *v = json_loadb(line, (size_t)(end - line), JSON_ALLOW_NUL, NULL);
        assert_non_null(v);
        const json_t *text = json_object_get(v, "text"), *decoded = json_object_get(v, "decoded");
        const stm_tokenizer *t = tokenizer_named(json_string_value(json_object_get(v, "tokenizer")));
        if (t) {
            assert_ids(t, json_string_value(text), json_string_length(text), false, json_object_get(v, "ids"));
            assert_ids(t, json_string_value(text), json_string_length(text), true, json_object_get(v, "ids_special"));
            assert_decoded(t, json_object_get(v, "ids"), json_string_value(decoded), json_string_length(decoded));
            compared++;
        }
        json_decref(v);
    }
    free(lines);
    return compared;
}

static void ids_and_texts_are_those_of_hugging_face(void **state)
{
    (void)state;
    assert_true(check_vectors("tokenizers/vectors.jsonl") >= 80); /* 200 with the models that may not be copied */
}

static void every_kind_of_part_does_as_hugging_face_does(void **state)
{
    (void)state;
    assert_int_equal(check_vectors("tokenizers/small/vectors.jsonl"), 1870);
}

/* Texts between marks, and a line of ids for each. */
static void check_llama_cpp(const char *vectors, const char *tokenizer)
{
    static const char mark[] = "\n__ggml_vocab_test__\n";
    char name[128];
    size_t n, n_texts = 0;
    const stm_tokenizer *t = tokenizer_named(tokenizer);
    if (!t)
        return;
    snprintf(name, sizeof name, "tokenizers/llama.cpp-vectors/ggml-vocab-%s.gguf.inp", vectors);
    char *texts = read_fixture(name, &n);
    snprintf(name, sizeof name, "tokenizers/llama.cpp-vectors/ggml-vocab-%s.gguf.out", vectors);
    char *lists = read_fixture(name, &n), *list = lists;
    assert_non_null(texts);
    assert_non_null(lists);
    for (char *text = texts; text; n_texts++) {
        char *end = strstr(text, mark), *line_end = strchrnul(list, '\n');
        const bool more = *line_end;
        *line_end = 0;
        list += strspn(list, " ");
        json_t *ids = json_array();
        for (char *next; *list; list = next + strspn(next, " "))
            json_array_append_new(ids, json_integer(strtol(list, &next, 10)));
        assert_ids(t, text, end ? (size_t)(end - text) : strlen(text), false, ids);
        json_decref(ids);
        list = line_end + more;
        text = end ? end + strlen(mark) : NULL;
    }
    assert_int_equal(n_texts, 47);
    free(texts);
    free(lists);
}

static void ids_are_those_of_llama_cpp(void **state)
{
    (void)state;
    check_llama_cpp("gpt-2", "tokenizers/gpt2/tokenizer.json");
    check_llama_cpp("qwen2", "tokenizers/qwen2/tokenizer.json");
}

/* Small tokenizers of our own */

#define WORDS "\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0,\"b\":1,\"<s>\":2,\"</s>\":3},\"unk_token\":\"a\"}"

static stm_tokenizer *parse(const char *json, const char *config)
{
    stm_tokenizer *t;
    assert_ok(stm_tokenizer_parse("folder/tokenizer.json", json, strlen(json), config, &t));
    return t;
}

static void refuses(const char *json, const char *words)
{
    stm_tokenizer *t = NULL;
    assert_fails(stm_tokenizer_parse("folder/tokenizer.json", json, strlen(json), NULL, &t), STM_ERR_INPUT, words);
    assert_non_null(strstr(stm_failure(), "folder/tokenizer.json"));
    assert_null(t);
}

static void what_is_not_supported_is_refused_by_name(void **state)
{
    (void)state;
    refuses("{\n\"model\": {\n", "tokenizer.json:3: not JSON");
    refuses("[]", "found an array, expected an object");
    refuses("{}", "model: found nothing, expected an object");
    refuses("{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}",
            "model: type: found \"Unigram\", supported are BPE and WordLevel");
    refuses("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":\"x\"}}}",
            "vocab: token \"a\": found a string, expected an integer");
    refuses("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1}}}", "found id -1");
    refuses("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}}",
            "merges[0]: found \"aa\", expected a token of the vocabulary");
    refuses("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}",
            "merges[0]: found a, expected \"a b\"");
    refuses("{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[],\"dropout\":0.1}}", "dropout");
    refuses("{" WORDS ",\"normalizer\":{\"type\":\"Precompiled\"}}", "normalizer: type: found \"Precompiled\"");
    refuses("{" WORDS ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"UnicodeScripts\"}]}}",
            "pre_tokenizer: type: found \"UnicodeScripts\"");
    refuses("{" WORDS
            ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a&&b]\"},\"behavior\":\"Isolated\"}}",
            "pattern \"[a&&b]\": found a class intersection at character 3");
    refuses("{" WORDS
            ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a\"},\"behavior\":\"Isolated\"}}",
            "pattern \"(a\": missing closing parenthesis");
    refuses("{" WORDS ",\"decoder\":{\"type\":\"WordPiece\"}}", "decoder: type: found \"WordPiece\"");
    refuses("{" WORDS ",\"post_processor\":{\"type\":\"X\"}}", "post_processor: type: found \"X\"");
    refuses("{" WORDS ",\"added_tokens\":[5]}", "added_tokens[0]: found an integer, expected an object");
    stm_tokenizer *t;
    assert_fails(stm_tokenizer_open("no/such/folder", &t), STM_ERR_INPUT, "no/such/folder");
}

static void special_tokens_are_those_of_the_config(void **state)
{
    (void)state;
    const char *config = "{\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"</s>\",\"add_bos_token\":true,"
                         "\"model_max_length\":1000000000000000019884624838656}";
    stm_tokenizer *t = parse("{" WORDS "}", config);
    int32_t *ids;
    size_t n;
    assert_int_equal(stm_tokenizer_bos(t), 2);
    assert_int_equal(stm_tokenizer_eos(t), 3);
    assert_string_equal(stm_tokenizer_bos_text(t), "<s>");
    assert_string_equal(stm_tokenizer_eos_text(t), "</s>");
    assert_ok(stm_tokenizer_encode(t, "b", 1, true, &ids, &n)); /* no post_processor: the config's wish counts */
    assert_int_equal(n, 2);
    assert_int_equal(ids[0], 2);
    assert_int_equal(ids[1], 1);
    free(ids);
    stm_tokenizer_destroy(t);
    t = parse("{" WORDS "}", NULL);
    assert_int_equal(stm_tokenizer_bos(t), -1);
    assert_string_equal(stm_tokenizer_eos_text(t), "");
    stm_tokenizer_destroy(t);
}

static void facts_about_ids(void **state)
{
    (void)state;
    const stm_tokenizer *t = fixture_tokenizer("tokenizers/gpt2/tokenizer.json");
    assert_int_equal(stm_tokenizer_n_ids(t), 50257);
    assert_true(stm_tokenizer_is_known(t, 50256));
    assert_false(stm_tokenizer_is_known(t, 50257));
    assert_false(stm_tokenizer_is_known(t, -1));
    assert_true(stm_tokenizer_is_special(t, 50256));
    assert_false(stm_tokenizer_is_special(t, 0));
    assert_int_equal(stm_tokenizer_find(t, "<|endoftext|>"), 50256);
    assert_int_equal(stm_tokenizer_find(t, "no such token"), -1);
}

static void decoding_skips_special_and_unknown_ids(void **state)
{
    (void)state;
    const stm_tokenizer *t = fixture_tokenizer("tokenizers/gpt2/tokenizer.json");
    const int32_t ids[] = {15496, 50256, 99999999, -5, 995}; /* "Hello", end, none, none, " world" */
    char *text;
    assert_ok(stm_tokenizer_decode(t, ids, 5, true, &text, NULL));
    assert_string_equal(text, "Hello world");
    free(text);
    assert_ok(stm_tokenizer_decode(t, ids, 5, false, &text, NULL));
    assert_string_equal(text, "Hello<|endoftext|> world");
    free(text);
}

static void malformed_text_becomes_replacement_characters(void **state)
{
    (void)state;
    const stm_tokenizer *t = fixture_tokenizer("tokenizers/gpt2/tokenizer.json");
    int32_t *bad, *good;
    size_t n_bad, n_good;
    assert_ok(stm_tokenizer_encode(t, "a\xE2\x82z\xFF", 5, false, &bad, &n_bad));
    assert_ok(stm_tokenizer_encode(t, "a\xEF\xBF\xBDz\xEF\xBF\xBD", 8, false, &good, &n_good));
    assert_int_equal(n_bad, n_good);
    assert_memory_equal(bad, good, n_good * sizeof *good);
    free(bad);
    free(good);
}

/* The texts that a stream shows after each id. */
static void assert_shows(const char *tokenizer, const int32_t *ids, size_t n, const char *const *texts,
                         const char *last)
{
    stm_text_stream *stream;
    size_t n_bytes;
    assert_ok(stm_text_stream_create(fixture_tokenizer(tokenizer), true, &stream));
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < n; i++) {
            assert_ok(stm_text_stream_add(stream, ids[i]));
            assert_string_equal(stm_text_stream_text(stream, &n_bytes), texts[i]);
            assert_int_equal(n_bytes, strlen(texts[i]));
        }
        assert_ok(stm_text_stream_finish(stream));
        assert_string_equal(stm_text_stream_text(stream, &n_bytes), last);
        stm_text_stream_reset(stream);
        assert_string_equal(stm_text_stream_text(stream, &n_bytes), "");
    }
    stm_text_stream_destroy(stream);
}

static void a_stream_waits_for_whole_characters(void **state)
{
    (void)state;
    const char *byte_level = "tokenizers/gpt2/tokenizer.json", *fallback = "tokenizers/small/legacy.json";
    const stm_tokenizer *t = fixture_tokenizer(fallback);
    const int32_t thumb[] = {39, 41840, 235, 50256, 41840}; /* "H", F0 9F 91, 8D, skipped, F0 9F 91 */
    const char *const thumbs[] = {"H", "H", "H\xF0\x9F\x91\x8D", "H\xF0\x9F\x91\x8D", "H\xF0\x9F\x91\x8D"};
    assert_shows(byte_level, thumb, 5, thumbs, "H\xF0\x9F\x91\x8D\xEF\xBF\xBD");

    const int32_t mark = stm_tokenizer_find(t, "\xE2\x96\x81"), a = stm_tokenizer_find(t, "a"),
                  line = stm_tokenizer_find(t, "<0x0A>");
    const int32_t e5 = stm_tokenizer_find(t, "<0xE5>"), b8 = stm_tokenizer_find(t, "<0xB8>"),
                  ad = stm_tokenizer_find(t, "<0xAD>");
    const int32_t spaced[] = {mark, a, mark, line, e5, b8, ad, a, e5, a}; /* the first space is stripped */
    const char *const shown[] = {"",
                                 "a",
                                 "a ",
                                 "a \n",
                                 "a \n",
                                 "a \n",
                                 "a \n\xE5\xB8\xAD",
                                 "a \n\xE5\xB8\xAD"
                                 "a",
                                 "a \n\xE5\xB8\xAD"
                                 "a",
                                 "a \n\xE5\xB8\xAD"
                                 "a\xEF\xBF\xBD"
                                 "a"};
    assert_shows(fallback, spaced, 10, shown, shown[9]);
}

static void a_long_word_costs_no_square(void **state)
{
    (void)state;
    const stm_tokenizer *t = fixture_tokenizer("tokenizers/small/legacy.json");
    enum { N = 1 << 20 };
    char *text;
    int32_t *ids;
    size_t n;
    assert_ok(stm_alloc(N, 1, &text));
    for (size_t i = 0; i < N; i++)
        text[i] = "the quick brown fox "[i % 20];
    const double start = stm_now_s();
    assert_ok(stm_tokenizer_encode_plain(t, text, N, false, &ids, &n));
    assert_true(stm_now_s() - start < 60.0); /* one word of a million characters; a square would take hours */
    assert_true(n < N && n > N / 10);
    free(ids);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_and_texts_are_those_of_hugging_face),
        cmocka_unit_test(every_kind_of_part_does_as_hugging_face_does),
        cmocka_unit_test(ids_are_those_of_llama_cpp),
        cmocka_unit_test(what_is_not_supported_is_refused_by_name),
        cmocka_unit_test(special_tokens_are_those_of_the_config),
        cmocka_unit_test(facts_about_ids),
        cmocka_unit_test(decoding_skips_special_and_unknown_ids),
        cmocka_unit_test(malformed_text_becomes_replacement_characters),
        cmocka_unit_test(a_stream_waits_for_whole_characters),
        cmocka_unit_test(a_long_word_costs_no_square),
    };
    return cmocka_run_group_tests(tests, NULL, close_tokenizers);
}
