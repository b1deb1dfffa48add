#include "text/added.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    stm_string text; /* what is looked for */
    int32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
} token;

/* Tokens by their first byte, longest first. */
typedef struct {
    size_t begin[257];
    uint32_t *order; /* [n] tokens */
    size_t n;
} finder;

struct stm_added {
    token *tokens;
    size_t n, capacity;
    stm_vocab *vocab;
    bool *special;     /* [n_ids of vocab] */
    uint32_t *by_id;   /* [n_ids of vocab]: 1 + token, 0 for none */
    finder finders[2]; /* [normalized] */
};

/* Reading */

static stm_status read_token(const json_t *json, token *t, const char **content, size_t *n)
{
    int64_t id;
    if (!json_is_object(json))
        return stm_fail(STM_ERR_INPUT, "found %s, expected an object", stm_json_kind(json));
    STM_TRY(stm_json_string(json, "content", "", content, n));
    STM_TRY(stm_json_integer(json, "id", -1, &id));
    STM_TRY(stm_json_bool(json, "single_word", false, &t->single_word));
    STM_TRY(stm_json_bool(json, "lstrip", false, &t->lstrip));
    STM_TRY(stm_json_bool(json, "rstrip", false, &t->rstrip));
    STM_TRY(stm_json_bool(json, "special", false, &t->special));
    STM_TRY(stm_json_bool(json, "normalized", !t->special, &t->normalized));
    t->id = (int32_t)STM_MAX(STM_MIN(id, STM_VOCAB_LARGEST_ID), -1);
    return STM_OK;
}

/* The id that the model's vocabulary has, else one behind it. */
static int32_t id_of(const stm_added *added, const stm_vocab *vocab, const char *content, size_t n)
{
    int32_t id = stm_vocab_find(added->vocab, content, n);
    if (id >= 0 || (id = stm_vocab_find(vocab, content, n)) >= 0)
        return id;
    const size_t size = stm_vocab_n_strings(vocab);
    return (int32_t)STM_MAX(size, stm_vocab_n_ids(added->vocab));
}

static stm_status add_token(stm_added *added, const json_t *json, const stm_vocab *vocab,
                            const stm_normalizer *normalizer)
{
    token t = {0};
    const char *content;
    size_t n;
    STM_TRY(read_token(json, &t, &content, &n));
    if (n == 0)
        return STM_OK;
    t.id = id_of(added, vocab, content, n);
    STM_TRY(stm_vocab_add(added->vocab, content, n, t.id));
    STM_TRY(stm_reserve(&added->tokens, &added->capacity, added->n + 1, sizeof *added->tokens));
    added->tokens[added->n++] = t;
    stm_string *text = &added->tokens[added->n - 1].text;
    STM_TRY(stm_string_add(text, content, n));
    return t.normalized ? stm_normalizer_apply(normalizer, text) : STM_OK;
}

static int longest_first(const void *a, const void *b, void *context)
{
    const token *tokens = context;
    const uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    const stm_string *x = &tokens[i].text, *y = &tokens[j].text;
    if (x->bytes[0] != y->bytes[0])
        return (uint8_t)x->bytes[0] < (uint8_t)y->bytes[0] ? -1 : 1;
    if (x->n != y->n)
        return x->n > y->n ? -1 : 1;
    if (tokens[i].special != tokens[j].special)
        return tokens[i].special ? -1 : 1;
    return i < j ? -1 : 1;
}

static stm_status build_finder(const stm_added *added, bool normalized, finder *f)
{
    STM_TRY(stm_alloc(added->n, sizeof *f->order, &f->order));
    for (size_t i = 0; i < added->n; i++)
        if (added->tokens[i].normalized == normalized && added->tokens[i].text.n)
            f->order[f->n++] = (uint32_t)i;
    qsort_r(f->order, f->n, sizeof *f->order, longest_first, added->tokens);
    size_t k = 0;
    for (size_t byte = 0; byte <= 256; byte++) {
        while (k < f->n && (uint8_t)added->tokens[f->order[k]].text.bytes[0] < byte)
            k++;
        f->begin[byte] = byte == 256 ? f->n : k;
    }
    return STM_OK;
}

static stm_status index_ids(stm_added *added)
{
    const size_t n_ids = stm_vocab_n_ids(added->vocab);
    STM_TRY(stm_alloc(n_ids, sizeof *added->special, &added->special));
    STM_TRY(stm_alloc(n_ids, sizeof *added->by_id, &added->by_id));
    for (size_t i = 0; i < added->n; i++) {
        added->special[added->tokens[i].id] |= added->tokens[i].special;
        added->by_id[added->tokens[i].id] = (uint32_t)i + 1;
    }
    return STM_OK;
}

stm_status stm_added_create(const json_t *list, const stm_vocab *vocab, const stm_normalizer *normalizer,
                            stm_added **out)
{
    stm_status status = STM_OK;
    stm_added *added;
    STM_TRY(stm_alloc(1, sizeof *added, &added));
    STM_GOTO_OUT(stm_vocab_create(json_array_size(list), &added->vocab));
    for (size_t i = 0; i < json_array_size(list); i++)
        if ((status = add_token(added, json_array_get(list, i), vocab, normalizer)) != STM_OK) {
            stm_fail_context(status, "added_tokens[%zu]", i);
            goto out;
        }
    STM_GOTO_OUT(index_ids(added));
    STM_GOTO_OUT(build_finder(added, false, &added->finders[0]));
    STM_GOTO_OUT(build_finder(added, true, &added->finders[1]));
    *out = added;
    added = NULL;
out:
    stm_added_destroy(added);
    return status;
}

void stm_added_destroy(stm_added *added)
{
    if (!added)
        return;
    for (size_t i = 0; i < added->n; i++)
        free(added->tokens[i].text.bytes);
    free(added->tokens);
    stm_vocab_destroy(added->vocab);
    free(added->special);
    free(added->by_id);
    free(added->finders[0].order);
    free(added->finders[1].order);
    free(added);
}

/* Finding */

/* The longest token that begins at `at`, or NULL. */
static const token *token_at(const stm_added *added, const finder *f, const char *text, size_t n, size_t at)
{
    const uint8_t byte = (uint8_t)text[at];
    for (size_t k = f->begin[byte]; k < f->begin[byte + 1]; k++) {
        const token *t = &added->tokens[f->order[k]];
        if (t->text.n <= n - at && memcmp(t->text.bytes, text + at, t->text.n) == 0)
            return t;
    }
    return NULL;
}

/* Where the last character before `end` begins. */
static size_t last_character(const char *text, size_t end)
{
    size_t at = end - 1;
    while (at > 0 && ((uint8_t)text[at] & 0xC0) == 0x80)
        at--;
    return at;
}

static bool stands_alone(const char *text, size_t n, size_t start, size_t end)
{
    size_t length;
    if (start > 0) {
        const size_t before = last_character(text, start);
        if (stm_is_word(stm_utf8_point(text + before, start - before, &length)))
            return false;
    }
    return end == n || !stm_is_word(stm_utf8_point(text + end, n - end, &length));
}

static size_t spaces_before(const char *text, size_t start)
{
    size_t length;
    while (start > 0) {
        const size_t before = last_character(text, start);
        if (!stm_is_space(stm_utf8_point(text + before, start - before, &length)))
            break;
        start = before;
    }
    return start;
}

static size_t spaces_after(const char *text, size_t n, size_t end)
{
    size_t length;
    while (end < n && stm_is_space(stm_utf8_point(text + end, n - end, &length)))
        end += length;
    return end;
}

static stm_status split_piece(const stm_added *added, const finder *f, const char *text, stm_piece piece,
                              stm_pieces *out)
{
    const char *s = text + piece.start;
    const size_t n = piece.n;
    size_t done = 0;
    for (size_t at = 0; at < n;) {
        const token *t = token_at(added, f, s, n, at);
        if (!t) {
            at++;
            continue;
        }
        size_t start = at, end = at + t->text.n;
        at = end;
        if (t->single_word && !stands_alone(s, n, start, end))
            continue;
        if (t->lstrip)
            start = STM_MAX(spaces_before(s, start), done);
        if (t->rstrip)
            end = spaces_after(s, n, end);
        if (done < start)
            STM_TRY(stm_pieces_add(out, (stm_piece){piece.start + done, start - done, -1, piece.first && done == 0}));
        STM_TRY(stm_pieces_add(out, (stm_piece){piece.start + start, end - start, t->id, piece.first && start == 0}));
        done = end;
    }
    if (done < n)
        STM_TRY(stm_pieces_add(out, (stm_piece){piece.start + done, n - done, -1, piece.first && done == 0}));
    return STM_OK;
}

stm_status stm_added_split(const stm_added *added, bool normalized, stm_pieces *pieces)
{
    stm_status status = STM_OK;
    stm_pieces out = {0};
    const finder *f = &added->finders[normalized];
    if (f->n == 0)
        return STM_OK;
    for (size_t i = 0; i < pieces->n; i++) {
        const stm_piece piece = pieces->items[i];
        STM_GOTO_OUT(piece.id >= 0 ? stm_pieces_add(&out, piece)
                                   : split_piece(added, f, pieces->text.bytes, piece, &out));
    }
    out.text = pieces->text;
    pieces->text = (stm_string){0};
    stm_pieces_swap(pieces, &out);
out:
    stm_pieces_free(&out);
    return status;
}

const stm_vocab *stm_added_vocab(const stm_added *added)
{
    return added->vocab;
}

static bool has_id(const stm_added *added, int64_t id)
{
    return id >= 0 && (uint64_t)id < stm_vocab_n_ids(added->vocab);
}

const char *stm_added_text(const stm_added *added, int64_t id, size_t *n)
{
    if (!has_id(added, id) || !added->by_id[id])
        return NULL;
    const stm_string *text = &added->tokens[added->by_id[id] - 1].text;
    *n = text->n;
    return text->bytes;
}

bool stm_added_is_special(const stm_added *added, int64_t id)
{
    return has_id(added, id) && added->special[id];
}
