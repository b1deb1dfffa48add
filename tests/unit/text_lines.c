/* The two lines of `stemma tokenize`, read and written without JSON values, against Jansson. */
#include "support/support.h"

#include <jansson.h>

#include "data/text_lines.h"

static uint64_t drawn = 1;

/* A number below n. */
static size_t draw(size_t n)
{
    drawn = drawn * 6364136223846793005u + 1442695040888963407u;
    return (size_t)(drawn >> 33) % n;
}

/* What strings are made of, right and wrong: characters of each length, escapes of each kind, halves of pairs, bytes
 * that are no UTF-8 (a stray, a cut one, one too long, a surrogate, one beyond the last), what must be escaped. */
static const char *const parts[] = {"a",
                                    "text",
                                    " ",
                                    "/",
                                    "\x7F",
                                    "\xC3\xA9",
                                    "\xE2\x82\xAC",
                                    "\xF0\x9F\x98\x80",
                                    "\\n",
                                    "\\t",
                                    "\\\"",
                                    "\\\\",
                                    "\\/",
                                    "\\b",
                                    "\\f",
                                    "\\r",
                                    "\\u00e9",
                                    "\\u00E9",
                                    "\\u20ac",
                                    "\\ud83d\\ude00",
                                    "\\uD83D\\uDE00",
                                    "\\u0000",
                                    "\\u001f",
                                    "}",
                                    "\\ud83d",
                                    "\\ude00",
                                    "\\ud83d\\u0041",
                                    "\\u12g4",
                                    "\\u12",
                                    "\\x",
                                    "\\",
                                    "\"",
                                    "\x80",
                                    "\xC3",
                                    "\xC0\xAF",
                                    "\xED\xA0\x80",
                                    "\xF4\x90\x80\x80",
                                    "\x01",
                                    "\t",
                                    "\\u+123"};
enum { N_PARTS = sizeof parts / sizeof *parts, N_RIGHT = 24 };

static void add_blanks(stm_string *line)
{
    static const char *const blanks[] = {"", "", "", " ", "\t", "\r", "  "};
    assert_ok(stm_string_add_text(line, blanks[draw(7)]));
}

static void add_parts(stm_string *line, size_t n_kinds)
{
    for (size_t n = draw(6); n > 0; n--)
        assert_ok(stm_string_add_text(line, parts[draw(n_kinds)]));
}

/* {"text": ".."} with blanks; one in three holds wrong parts, one in eight lacks a word, ends early, or goes on. */
static void draw_line(stm_string *line)
{
    static const char *const words[] = {"{", "\"text\"", ":", "\"", "\"", "}"};
    const size_t missing = draw(8) == 0 ? draw(6) : 6, n_kinds = draw(3) == 0 ? N_PARTS : N_RIGHT;
    line->n = 0;
    for (size_t i = 0; i < 6; i++) {
        if (i != 4)
            add_blanks(line);
        if (i == 4)
            add_parts(line, n_kinds);
        if (i != missing)
            assert_ok(stm_string_add_text(line, words[i]));
    }
    add_blanks(line);
    if (draw(16) == 0)
        assert_ok(stm_string_add_text(line, draw(2) ? "}" : "x"));
    if (draw(16) == 0)
        line->n = draw(line->n + 1);
    if (draw(16) == 0 && line->n > 0)
        line->bytes[draw(line->n)] = (char)(1 + draw(255));
}

static bool is_text_alone(const json_t *value)
{
    return json_is_object(value) && json_object_size(value) == 1 && json_is_string(json_object_get(value, "text"));
}

/* The fast reader takes exactly the lines in which Jansson finds a text and nothing else, and finds the same. A key in
 * another spelling ("\u0074ext"), which it leaves to others, is not drawn. */
static void a_text_is_read_as_by_jansson(void **state)
{
    (void)state;
    stm_string line = {0}, text = {0};
    size_t n_read = 0, n_refused = 0;
    for (size_t i = 0; i < 200000; i++) {
        draw_line(&line);
        char *exact = malloc(line.n ? line.n : 1); /* a sanitizer sees a read beyond it */
        memcpy(exact, line.bytes, line.n);
        json_t *value = json_loadb(exact, line.n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        const bool read = stm_text_line_read(exact, line.n, &text), newline = memchr(exact, '\n', line.n) != NULL;
        if (!newline && read != is_text_alone(value))
            fail_msg("%s: %.*s", read ? "read, though Jansson refuses it" : "refused", (int)line.n, exact);
        if (read) {
            const json_t *expected = json_object_get(value, "text");
            assert_int_equal(text.n, json_string_length(expected));
            assert_memory_equal(text.bytes, json_string_value(expected), text.n);
        }
        n_read += read;
        n_refused += !read;
        json_decref(value);
        free(exact);
    }
    assert_true(n_read > 50000 && n_refused > 20000);
    free(line.bytes);
    free(text.bytes);
}

static void ids_and_text_are_written_as_by_jansson(void **state)
{
    (void)state;
    static const int32_t known[] = {0, 7, 10, 99, 100, 12345, INT32_MAX, INT32_MIN, -1};
    stm_string text = {0}, line = {0};
    for (size_t i = 0; i < 20000; i++) {
        int32_t ids[6];
        const size_t n = draw(7);
        json_t *array = json_array();
        for (size_t k = 0; k < n; k++) {
            ids[k] = known[draw(sizeof known / sizeof *known)];
            json_array_append_new(array, json_integer(ids[k]));
        }
        text.n = line.n = 0;
        for (size_t k = draw(12); k > 0; k--)
            assert_ok(stm_string_add_point(&text, (uint32_t)(draw(2) ? draw(160) : 0xE000 + draw(0x10FFFF - 0xE000))));
        assert_ok(stm_text_line_write(ids, n, text.bytes, text.n, &line));
        assert_ok(stm_string_end(&line));
        json_t *object = json_pack("{so ss%}", "ids", array, "decoded", text.n ? text.bytes : "", (int)text.n);
        char *expected = json_dumps(object, 0);
        assert_non_null(expected);
        assert_int_equal(line.n, strlen(expected) + 1);
        assert_memory_equal(line.bytes, expected, strlen(expected));
        assert_int_equal(line.bytes[line.n - 1], '\n');
        free(expected);
        json_decref(object);
    }
    free(text.bytes);
    free(line.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_is_read_as_by_jansson),
        cmocka_unit_test(ids_and_text_are_written_as_by_jansson),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
