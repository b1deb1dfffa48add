/* The fast ways of a tokenizer against their plain twins, over random strings (always the same) and real text. */
#include "text/words.h"

#include <pthread.h>

#include "support/support.h"
#include "text/joints.h"
#include "text/normalize.h"
#include "text/regex.h"
#include "text/tokenizer.h"

/* Random text: characters that patterns treat apart, come often; any others now and then. */

static uint64_t random_state;

static uint32_t draw(uint32_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % n);
}

static uint32_t draw_point(void)
{
    static const uint32_t often[] = {' ',    ' ',    ' ',    '\n',   '\r',  '\t',   '\'',    '\'',    's',
                                     'S',    't',    'r',    'e',    'v',   'm',    'l',     'L',     'd',
                                     '1',    '2',    '.',    ',',    '-',   '_',    0x17F,   0x212A,  0x85,
                                     0xA0,   0x2028, 0x3000, 0x2581, 0xE9,  0x301,  0x323,   0x4E2D,  0x6587,
                                     0xAC00, 0x1100, 0x1161, 0x11A8, 0x9BE, 0x1AC5, 0x10EFD, 0x1F600, 0xFF11};
    const uint32_t kind = draw(8);
    if (kind < 5)
        return often[draw(sizeof often / sizeof *often)];
    const uint32_t point = kind == 5 ? 0x20 + draw(0x60) : kind == 6 ? draw(0x3000) : draw(0x110000);
    return point >= 0xD800 && point <= 0xDFFF ? 'x' : point;
}

static void draw_text(stm_string *text, uint32_t most)
{
    text->n = 0;
    for (uint32_t n = draw(most + 1); n > 0; n--)
        assert_ok(stm_string_add_point(text, draw_point()));
    assert_ok(stm_string_end(text));
}

/* Words */

static void assert_words_of(stm_words words, stm_search *search, const char *text, size_t n)
{
    bool found = true;
    stm_search_text(search, text, n);
    for (size_t at = 0, start, end; at < n; at = end) {
        assert_ok(stm_search_next(search, &found, &start, &end));
        assert_true(found && start == at);
        if (stm_words_end(words, text, n, at) != end) {
            print_error("text \"%s\" at byte %zu: found a word's end at %zu, expected %zu\n", text, at,
                        stm_words_end(words, text, n, at), end);
            fail();
        }
    }
}

static const char *const patterns[] = {
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
    "\\s+(?!\\S)|\\s+",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
    "\\s+(?!\\S)|\\s+"};
enum { N_PATTERNS = sizeof patterns / sizeof *patterns };

static void words_are_those_that_the_pattern_finds(void **state)
{
    (void)state;
    stm_string text = {0};
    for (size_t k = 0; k < N_PATTERNS; k++) {
        stm_words words;
        stm_regex *regex;
        stm_search search;
        assert_ok(stm_words_find(patterns[k], strlen(patterns[k]), &words));
        assert_int_equal(words, STM_WORDS_GPT2 + k);
        assert_ok(stm_regex_create(patterns[k], strlen(patterns[k]), &regex));
        assert_ok(stm_search_begin(&search, regex));
        random_state = 1;
        for (size_t i = 0; i < 20000; i++) {
            draw_text(&text, 40);
            assert_words_of(words, &search, text.bytes, text.n);
        }
        stm_search_end(&search);
        stm_regex_destroy(regex);
    }
    free(text.bytes);
}

/* Between two letters, two numbers and two spaces: what class a character has decides the words. */
static void every_character_has_the_class_of_the_pattern(void **state)
{
    (void)state;
    stm_string text = {0};
    stm_regex *regex;
    stm_search search;
    assert_ok(stm_regex_create(patterns[0], strlen(patterns[0]), &regex));
    assert_ok(stm_search_begin(&search, regex));
    for (uint32_t point = 0; point < 0x110000; point++) {
        if (point >= 0xD800 && point <= 0xDFFF)
            continue;
        text.n = 0;
        static const char *const around[] = {"x", "x1", "1 ", " ."};
        for (size_t i = 0; i < 4; i++) {
            assert_ok(stm_string_add_text(&text, around[i]));
            assert_ok(stm_string_add_point(&text, point));
        }
        assert_ok(stm_string_end(&text));
        assert_words_of(STM_WORDS_GPT2, &search, text.bytes, text.n);
    }
    stm_search_end(&search);
    stm_regex_destroy(regex);
    free(text.bytes);
}

static void another_pattern_is_not_matched_by_hand(void **state)
{
    (void)state;
    stm_words words;
    assert_ok(stm_words_find("\\p{L}+", 6, &words));
    assert_int_equal(words, STM_WORDS_UNKNOWN);
    assert_ok(stm_words_find(patterns[0], strlen(patterns[0]) - 1, &words));
    assert_int_equal(words, STM_WORDS_UNKNOWN);
}

/* Whole tokenizers */

static const char *const tokenizers[] = {
    "tokenizers/gpt2/tokenizer.json",         "tokenizers/minimind/tokenizer.json",
    "tokenizers/qwen2/tokenizer.json",        "tokenizers/mistral/tokenizer.json",
    "tokenizers/small/llama3.json",           "tokenizers/small/legacy.json",
    "tokenizers/small/few-bytes.json",        "tokenizers/small/prefix.json",
    "tokenizers/small/metaspace-always.json", "tokenizers/small/metaspace-first.json",
    "tokenizers/small/split-Isolated.json",   "tokenizers/small/split-Removed.json",
    "tokenizers/small/word-bert.json"};
enum { N_TOKENIZERS = sizeof tokenizers / sizeof *tokenizers };

static void assert_same_ids(const stm_tokenizer *t, const char *name, const char *text, size_t n)
{
    int32_t *fast, *plain;
    size_t n_fast, n_plain;
    assert_ok(stm_tokenizer_encode(t, text, n, true, &fast, &n_fast));
    assert_ok(stm_tokenizer_encode_plain(t, text, n, true, &plain, &n_plain));
    if (n_fast != n_plain || memcmp(fast, plain, n_fast * sizeof *fast) != 0) {
        print_error("%s: \"%.*s\": found %zu ids, the plain way finds others (%zu)\n", name, (int)STM_MIN(n, 300), text,
                    n_fast, n_plain);
        fail();
    }
    free(fast);
    free(plain);
}

/* Opens those whose fixtures are here: some may not be copied. */
static stm_tokenizer *open_fixture(const char *name)
{
    stm_tokenizer *t = NULL;
    const char *path = stm_fixture(name);
    if (path)
        assert_ok(stm_tokenizer_open(path, &t));
    return t;
}

static void ids_are_those_found_the_plain_way(void **state)
{
    (void)state;
    stm_string text = {0};
    for (size_t k = 0; k < N_TOKENIZERS; k++) {
        stm_tokenizer *t = open_fixture(tokenizers[k]);
        random_state = 2;
        for (size_t i = 0; i < 3000 && t; i++) {
            draw_text(&text, i % 50 == 0 ? 1000 : 60);
            assert_same_ids(t, tokenizers[k], text.bytes, text.n);
        }
        stm_tokenizer_destroy(t);
    }
    free(text.bytes);
}

/* Texts in several scripts, and words that come again, so that what is remembered is used. */
static void ids_of_real_text_are_those_found_the_plain_way(void **state)
{
    (void)state;
    static const char *const files[] = {"tokenizers/vectors.jsonl", "gsm8k/solutions.jsonl"};
    size_t n_compared = 0;
    for (size_t k = 0; k < N_TOKENIZERS; k++) {
        stm_tokenizer *t = open_fixture(tokenizers[k]);
        for (size_t f = 0; f < sizeof files / sizeof *files && t; f++) {
            char *text;
            size_t n;
            const char *path = stm_fixture(files[f]);
            assert_non_null(path);
            assert_ok(stm_read_file(path, &text, &n));
            n = STM_MIN(n, (size_t)300000);
            assert_same_ids(t, tokenizers[k], text, n);
            n_compared += n;
            free(text);
        }
        stm_tokenizer_destroy(t);
    }
    assert_true(n_compared > 100000);
}

typedef struct {
    const stm_tokenizer *tokenizer;
    const char *text;
    size_t n_bytes, n;
    int32_t *ids;
    stm_status status;
} encoding;

static void *encode_often(void *context)
{
    encoding *e = context;
    for (size_t i = 0; i < 20 && e->status == STM_OK; i++) {
        free(e->ids);
        e->ids = NULL;
        e->status = stm_tokenizer_encode(e->tokenizer, e->text, e->n_bytes, false, &e->ids, &e->n);
    }
    return NULL;
}

static void threads_may_share_a_tokenizer(void **state)
{
    (void)state;
    enum { N = 4 };
    encoding all[N];
    pthread_t threads[N];
    char *text;
    size_t n_bytes, n;
    int32_t *expected;
    stm_tokenizer *t = open_fixture("tokenizers/gpt2/tokenizer.json");
    assert_non_null(t);
    assert_ok(stm_read_file(stm_fixture("tokenizers/vectors.jsonl"), &text, &n_bytes));
    for (size_t i = 0; i < N; i++) {
        all[i] = (encoding){.tokenizer = t, .text = text, .n_bytes = n_bytes};
        assert_int_equal(pthread_create(&threads[i], NULL, encode_often, &all[i]), 0);
    }
    assert_ok(stm_tokenizer_encode_plain(t, text, n_bytes, false, &expected, &n));
    for (size_t i = 0; i < N; i++) {
        pthread_join(threads[i], NULL);
        assert_ok(all[i].status);
        assert_int_equal(all[i].n, n);
        assert_memory_equal(all[i].ids, expected, n * sizeof *expected);
        free(all[i].ids);
    }
    free(expected);
    free(text);
    stm_tokenizer_destroy(t);
}

/* Parts of it */

static void text_is_cut_only_where_no_merge_joins(void **state)
{
    (void)state;
    stm_joints *joints;
    assert_ok(stm_alloc(1, sizeof *joints, &joints));
    stm_joints_add(joints, "th", 2, "e", 1);           /* h|e */
    stm_joints_add(joints, "\xE4\xB8\xAD", 3, "x", 1); /* a whole character */
    stm_joints_add(joints, "\xAD", 1, "\xE6", 1);      /* the end of one, the beginning of another */
    const char text[] = "the\xE4\xB8\xADx\xE4\xB8\xAD\xE6\x96\x87";
    const size_t ends[] = {1, 3, 7, 13}; /* t|he|中x|中文 */
    size_t at = 0;
    for (size_t i = 0; i < 4; i++) {
        at = stm_joints_end(joints, text, sizeof text - 1, at);
        assert_int_equal(at, ends[i]);
    }
    free(joints);
}

static stm_normalizer *normalizer_of(const char *json)
{
    stm_normalizer *normalizer;
    json_t *parsed;
    assert_ok(stm_json_parse("test", json, strlen(json), false, &parsed));
    assert_ok(stm_normalizer_create(parsed, &normalizer));
    json_decref(parsed);
    return normalizer;
}

/* Normalizes a copy. */
static void normalize(const stm_normalizer *normalizer, const stm_string *text, stm_string *out)
{
    out->n = 0;
    assert_ok(stm_string_add(out, text->bytes, text->n));
    assert_ok(stm_normalizer_apply(normalizer, out));
}

static void assert_same_text(const stm_string *a, const stm_string *b)
{
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->bytes, b->bytes, a->n);
}

/* NFC(NFD(x)) = NFC(x), and in what is decomposed nearly all stretches go to the library; NFD(NFC(x)) = NFD(x), which
 * never looks at stretches. */
static void composing_a_text_in_stretches_changes_nothing(void **state)
{
    (void)state;
    stm_normalizer *compose = normalizer_of("{\"type\": \"NFC\"}"), *decompose = normalizer_of("{\"type\": \"NFD\"}");
    stm_string text = {0}, composed = {0}, decomposed = {0}, again = {0};
    random_state = 3;
    for (size_t i = 0; i < 100000; i++) {
        draw_text(&text, 12);
        normalize(compose, &text, &composed);
        normalize(decompose, &text, &decomposed);
        normalize(compose, &decomposed, &again);
        assert_same_text(&again, &composed);
        normalize(decompose, &composed, &again);
        assert_same_text(&again, &decomposed);
    }
    free(text.bytes);
    free(composed.bytes);
    free(decomposed.bytes);
    free(again.bytes);
    stm_normalizer_destroy(compose);
    stm_normalizer_destroy(decompose);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_those_that_the_pattern_finds),
        cmocka_unit_test(every_character_has_the_class_of_the_pattern),
        cmocka_unit_test(another_pattern_is_not_matched_by_hand),
        cmocka_unit_test(ids_are_those_found_the_plain_way),
        cmocka_unit_test(ids_of_real_text_are_those_found_the_plain_way),
        cmocka_unit_test(threads_may_share_a_tokenizer),
        cmocka_unit_test(text_is_cut_only_where_no_merge_joins),
        cmocka_unit_test(composing_a_text_in_stretches_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
