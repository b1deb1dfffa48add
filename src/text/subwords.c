#include "text/subwords.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/decode.h"
#include "text/joints.h"
#include "text/normalize.h"

typedef struct {
    uint64_t pair; /* left id << 32 | right id */
    uint32_t rank;
    int32_t id; /* of both together; -1: an empty slot */
} merge;

struct stm_subwords {
    stm_vocab *vocab;
    bool whole_words; /* WordLevel */
    bool fuse_unknown, byte_fallback, ignore_merges;
    int32_t unknown;           /* id, -1: none */
    stm_string prefix, suffix; /* of what continues a word, of what ends it */
    int32_t bytes[256];        /* ids of "<0x00>" .. "<0xFF>"; -1: none */
    merge *merges;             /* [n_slots], a power of two, open addressing */
    size_t n_slots;
    bool spells;           /* words come as bytes */
    int32_t alphabet[256]; /* spells: ids of the characters that stand for bytes */
    bool whole_alphabet;   /* none of them is missing, and each stands for itself wherever it is */
    stm_joints *joints;    /* NULL: words are not cut */
};

stm_status stm_ids_add(stm_ids *ids, int32_t id)
{
    STM_TRY(stm_reserve(&ids->items, &ids->capacity, ids->n + 1, sizeof *ids->items));
    ids->items[ids->n++] = id;
    return STM_OK;
}

/* The table of merges */

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static merge *slot_of(const stm_subwords *s, uint64_t pair)
{
    uint64_t mixed = pair * 0x9E3779B97F4A7C15u; /* Fibonacci hashing */
    size_t slot = (size_t)(mixed >> 32) & (s->n_slots - 1);
    while (s->merges[slot].id >= 0 && s->merges[slot].pair != pair)
        slot = (slot + 1) & (s->n_slots - 1);
    return &s->merges[slot];
}

static const merge *find_merge(const stm_subwords *s, int32_t left, int32_t right)
{
    const merge *found = slot_of(s, pair_of(left, right));
    return found->id >= 0 ? found : NULL;
}

/* Reading */

static stm_status read_vocab(stm_subwords *s, const json_t *json)
{
    json_t *vocab = json_object_get(json, "vocab"), *id;
    const char *text;
    size_t n;
    if (!json_is_object(vocab))
        return stm_fail(STM_ERR_INPUT, "vocab: found %s, expected an object", stm_json_kind(vocab));
    STM_TRY(stm_vocab_create(json_object_size(vocab), &s->vocab));
    json_object_keylen_foreach(vocab, text, n, id)
    {
        if (!json_is_integer(id))
            return stm_fail(STM_ERR_INPUT, "vocab: token \"%s\": found %s, expected an integer", text,
                            stm_json_kind(id));
        const stm_status status = stm_vocab_add(s->vocab, text, n, json_integer_value(id));
        if (status != STM_OK)
            return stm_fail_context(status, "vocab");
    }
    return STM_OK;
}

typedef struct {
    const char *text;
    size_t n;
} span;

/* "a b" or ["a", "b"]. */
static bool read_pair(const json_t *json, span *left, span *right)
{
    if (json_is_string(json)) {
        const char *text = json_string_value(json);
        const size_t n = json_string_length(json);
        const char *space = memchr(text, ' ', n);
        if (!space || memchr(space + 1, ' ', n - (size_t)(space + 1 - text)))
            return false;
        *left = (span){text, (size_t)(space - text)};
        *right = (span){space + 1, n - left->n - 1};
        return true;
    }
    const json_t *a = json_array_get(json, 0), *b = json_array_get(json, 1);
    if (json_array_size(json) != 2 || !json_is_string(a) || !json_is_string(b))
        return false;
    *left = (span){json_string_value(a), json_string_length(a)};
    *right = (span){json_string_value(b), json_string_length(b)};
    return true;
}

static stm_status find_part(const stm_subwords *s, span part, int32_t *id)
{
    *id = stm_vocab_find(s->vocab, part.text, part.n);
    return *id >= 0
               ? STM_OK
               : stm_fail(STM_ERR_INPUT, "found \"%.*s\", expected a token of the vocabulary", (int)part.n, part.text);
}

/* bytes: scratch. */
static stm_status add_joint(stm_subwords *s, span left, span right, stm_string *bytes)
{
    if (left.n == 0 || right.n == 0)
        return STM_OK;
    if (!s->spells) {
        stm_joints_add(s->joints, left.text, left.n, right.text, right.n);
        return STM_OK;
    }
    bytes->n = 0;
    STM_TRY(stm_add_token_bytes(bytes, left.text, left.n));
    const size_t n_left = bytes->n;
    STM_TRY(stm_add_token_bytes(bytes, right.text, right.n));
    stm_joints_add(s->joints, bytes->bytes, n_left, bytes->bytes + n_left, bytes->n - n_left);
    return STM_OK;
}

static stm_status add_merge(stm_subwords *s, const json_t *json, uint32_t rank, stm_string *whole)
{
    span left, right;
    int32_t a, b, c;
    if (!read_pair(json, &left, &right))
        return stm_fail(STM_ERR_INPUT, "found %s, expected \"a b\" or [\"a\", \"b\"]",
                        json_is_string(json) ? json_string_value(json) : stm_json_kind(json));
    STM_TRY(find_part(s, left, &a));
    STM_TRY(find_part(s, right, &b));
    const size_t skip = STM_MIN(s->prefix.n, right.n);
    whole->n = 0;
    STM_TRY(stm_string_add(whole, left.text, left.n));
    STM_TRY(stm_string_add(whole, right.text + skip, right.n - skip));
    STM_TRY(find_part(s, (span){whole->bytes, whole->n}, &c));
    *slot_of(s, pair_of(a, b)) = (merge){.pair = pair_of(a, b), .rank = rank, .id = c};
    return s->joints ? add_joint(s, left, right, whole) : STM_OK;
}

static stm_status read_merges(stm_subwords *s, const json_t *json)
{
    json_t *list;
    stm_string whole = {0};
    stm_status status = STM_OK;
    STM_TRY(stm_json_array(json, "merges", &list));
    const size_t n = json_array_size(list);
    for (s->n_slots = 16; s->n_slots < 2 * n; s->n_slots *= 2)
        ;
    STM_TRY(stm_alloc(s->n_slots, sizeof *s->merges, &s->merges));
    for (size_t i = 0; i < s->n_slots; i++)
        s->merges[i].id = -1;
    uint32_t rank = 0;
    for (size_t i = 0; i < n && status == STM_OK; i++) {
        const json_t *item = json_array_get(list, i);
        if (json_is_string(item) && strncmp(json_string_value(item), "#version", 8) == 0)
            continue;
        if ((status = add_merge(s, item, rank++, &whole)) != STM_OK)
            stm_fail_context(status, "merges[%zu]", i);
    }
    free(whole.bytes);
    return status;
}

static stm_status read_affix(const json_t *json, const char *key, stm_string *out)
{
    const char *text;
    size_t n;
    STM_TRY(stm_json_string(json, key, "", &text, &n));
    return stm_string_add(out, text, n);
}

static stm_status read_unknown(stm_subwords *s, const json_t *json)
{
    const char *text;
    size_t n;
    STM_TRY(stm_json_string(json, "unk_token", NULL, &text, &n));
    s->unknown = text ? stm_vocab_find(s->vocab, text, n) : -1;
    return STM_OK;
}

static void read_alphabet(stm_subwords *s)
{
    s->whole_alphabet = s->spells && s->prefix.n == 0 && s->suffix.n == 0;
    for (unsigned byte = 0; byte < 256 && s->spells; byte++) {
        char character[4];
        const size_t n = stm_utf8_write(stm_byte_to_point((uint8_t)byte), character);
        s->alphabet[byte] = stm_vocab_find(s->vocab, character, n);
        s->whole_alphabet = s->whole_alphabet && s->alphabet[byte] >= 0;
    }
}

static bool has_all_bytes(const stm_subwords *s)
{
    for (size_t byte = 0; byte < 256; byte++)
        if (s->bytes[byte] < 0)
            return false;
    return s->byte_fallback;
}

/* Not where the parts of a word depend on each other: what continues a word is spelled otherwise, and the place of an
 * unknown token depends on what comes next; without one, what is unknown is left out, and a merge joins its neighbours.
 */
static bool may_cut(const stm_subwords *s)
{
    const bool no_unknown = s->spells ? s->whole_alphabet : has_all_bytes(s);
    return s->prefix.n == 0 && s->suffix.n == 0 && no_unknown;
}

/* A merge of <0x0A> and the like joins bytes, not the characters of its spelling. */
static void drop_joints_of_bytes(stm_subwords *s)
{
    bool merged = false;
    for (size_t i = 0; i < s->n_slots && s->byte_fallback && !merged; i++)
        for (size_t byte = 0; byte < 256 && s->merges[i].id >= 0 && s->bytes[byte] >= 0; byte++)
            merged = merged || (uint32_t)(s->merges[i].pair >> 32) == (uint32_t)s->bytes[byte] ||
                     (uint32_t)s->merges[i].pair == (uint32_t)s->bytes[byte];
    if (merged) {
        free(s->joints);
        s->joints = NULL;
    }
}

static stm_status read_bpe(stm_subwords *s, const json_t *json)
{
    const json_t *dropout = json_object_get(json, "dropout");
    if (json_is_number(dropout) && json_number_value(dropout) > 0)
        return stm_fail(STM_ERR_INPUT, "dropout: found %g, expected null: ids would be random",
                        json_number_value(dropout));
    STM_TRY(stm_json_bool(json, "fuse_unk", false, &s->fuse_unknown));
    STM_TRY(stm_json_bool(json, "byte_fallback", false, &s->byte_fallback));
    STM_TRY(stm_json_bool(json, "ignore_merges", false, &s->ignore_merges));
    STM_TRY(read_affix(json, "continuing_subword_prefix", &s->prefix));
    STM_TRY(read_affix(json, "end_of_word_suffix", &s->suffix));
    for (unsigned byte = 0; byte < 256; byte++) {
        char name[8];
        const int n = snprintf(name, sizeof name, "<0x%02X>", byte);
        s->bytes[byte] = stm_vocab_find(s->vocab, name, (size_t)n);
    }
    read_alphabet(s);
    if (may_cut(s))
        STM_TRY(stm_alloc(1, sizeof *s->joints, &s->joints));
    STM_TRY(read_merges(s, json));
    drop_joints_of_bytes(s);
    return STM_OK;
}

static stm_status read_model(stm_subwords *s, const json_t *json)
{
    const char *type;
    size_t n;
    if (!json_is_object(json))
        return stm_fail(STM_ERR_INPUT, "found %s, expected an object", stm_json_kind(json));
    STM_TRY(stm_json_string(json, "type", json_object_get(json, "merges") ? "BPE" : NULL, &type, &n));
    s->whole_words = type && strcmp(type, "WordLevel") == 0;
    if (!type || (!s->whole_words && strcmp(type, "BPE") != 0))
        return stm_fail(STM_ERR_INPUT, "type: found %s%s%s, supported are BPE and WordLevel", type ? "\"" : "",
                        type ? type : "nothing", type ? "\"" : "");
    STM_TRY(read_vocab(s, json));
    STM_TRY(read_unknown(s, json));
    return s->whole_words ? STM_OK : read_bpe(s, json);
}

stm_status stm_subwords_create(const json_t *json, bool bytes, stm_subwords **out)
{
    stm_subwords *s;
    STM_TRY(stm_alloc(1, sizeof *s, &s));
    s->spells = bytes;
    const stm_status status = read_model(s, json);
    if (status != STM_OK) {
        stm_subwords_destroy(s);
        return stm_fail_context(status, "model");
    }
    *out = s;
    return STM_OK;
}

void stm_subwords_destroy(stm_subwords *subwords)
{
    if (!subwords)
        return;
    stm_vocab_destroy(subwords->vocab);
    free(subwords->prefix.bytes);
    free(subwords->suffix.bytes);
    free(subwords->merges);
    free(subwords->joints);
    free(subwords);
}

const stm_vocab *stm_subwords_vocab(const stm_subwords *subwords)
{
    return subwords->vocab;
}

/* Byte pairs: symbols are a doubly linked list, merges wait in a heap by rank, then by position. */

typedef struct {
    int32_t id;
    int32_t previous, next; /* -1: none */
    bool gone;              /* became part of its left neighbour */
} symbol;

typedef struct {
    uint32_t rank;
    int32_t at; /* left symbol */
    int32_t id; /* what the two become */
} candidate;

typedef struct {
    stm_subwords_room *room;
    size_t n_symbols, n_heap;
} work;

void stm_subwords_room_free(stm_subwords_room *room)
{
    free(room->symbols);
    free(room->heap);
    free(room->spelled.bytes);
    stm_cache_destroy(room->cache);
    *room = (stm_subwords_room){0};
}

static symbol *symbols_of(const work *w)
{
    return w->room->symbols;
}

static stm_status add_symbol(work *w, int32_t id)
{
    const size_t n = w->n_symbols;
    if (n >= INT32_MAX)
        return stm_fail(STM_ERR_INPUT, "a text of more than 2^31 characters");
    STM_TRY(stm_reserve(&w->room->symbols, &w->room->symbols_capacity, n + 1, sizeof(symbol)));
    symbols_of(w)[n] = (symbol){.id = id, .previous = (int32_t)n - 1, .next = -1};
    if (n)
        symbols_of(w)[n - 1].next = (int32_t)n;
    w->n_symbols++;
    return STM_OK;
}

static bool comes_before(candidate a, candidate b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static stm_status push_pair(const stm_subwords *s, work *w, int32_t left)
{
    const symbol *symbols = symbols_of(w);
    if (left < 0 || symbols[left].next < 0)
        return STM_OK;
    const merge *m = find_merge(s, symbols[left].id, symbols[symbols[left].next].id);
    if (!m)
        return STM_OK;
    STM_TRY(stm_reserve(&w->room->heap, &w->room->heap_capacity, w->n_heap + 1, sizeof(candidate)));
    candidate *heap = w->room->heap, added = {.rank = m->rank, .at = left, .id = m->id};
    size_t i = w->n_heap++;
    for (; i > 0 && comes_before(added, heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = added;
    return STM_OK;
}

static candidate pop(work *w)
{
    candidate *heap = w->room->heap, first = heap[0], last = heap[--w->n_heap];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < w->n_heap; i = child) {
        if (child + 1 < w->n_heap && comes_before(heap[child + 1], heap[child]))
            child++;
        if (!comes_before(heap[child], last))
            break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return first;
}

static stm_status merge_all(const stm_subwords *s, work *w)
{
    for (size_t i = 0; i + 1 < w->n_symbols; i++)
        STM_TRY(push_pair(s, w, (int32_t)i));
    symbol *symbols = symbols_of(w);
    while (w->n_heap) {
        const candidate c = pop(w);
        symbol *left = &symbols[c.at];
        if (left->gone || left->next < 0)
            continue;
        symbol *right = &symbols[left->next];
        const merge *m = find_merge(s, left->id, right->id);
        if (!m || m->id != c.id) /* a neighbour has changed since */
            continue;
        left->id = c.id;
        left->next = right->next;
        right->gone = true;
        if (right->next >= 0)
            symbols[right->next].previous = c.at;
        STM_TRY(push_pair(s, w, left->previous));
        STM_TRY(push_pair(s, w, c.at));
    }
    return STM_OK;
}

/* The id of one character, with prefix and suffix where they belong. */
static stm_status find_character(const stm_subwords *s, const char *text, size_t n, bool first, bool last,
                                 stm_string *spelled, int32_t *id)
{
    if (!(s->prefix.n && !first) && !(s->suffix.n && last)) {
        *id = stm_vocab_find(s->vocab, text, n);
        return STM_OK;
    }
    spelled->n = 0;
    if (!first)
        STM_TRY(stm_string_add(spelled, s->prefix.bytes, s->prefix.n));
    STM_TRY(stm_string_add(spelled, text, n));
    if (last)
        STM_TRY(stm_string_add(spelled, s->suffix.bytes, s->suffix.n));
    *id = stm_vocab_find(s->vocab, spelled->bytes, spelled->n);
    return STM_OK;
}

static bool has_bytes(const stm_subwords *s, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s->bytes[(uint8_t)text[i]] < 0)
            return false;
    return true;
}

/* Characters that the vocabulary lacks become bytes, or the unknown token (one for a run of them with fuse_unk), or
 * nothing. */
static stm_status make_symbols(const stm_subwords *s, work *w, const char *word, size_t n, stm_string *spelled)
{
    bool pending = false; /* an unknown token that is not yet added */
    for (size_t at = 0, length; at < n; at += length) {
        int32_t id;
        stm_utf8_point(word + at, n - at, &length);
        STM_TRY(find_character(s, word + at, length, at == 0, at + length == n, spelled, &id));
        const char *bytes = spelled->n ? spelled->bytes : word + at;
        const size_t n_bytes = spelled->n ? spelled->n : length;
        if (id >= 0) {
            if (pending)
                STM_TRY(add_symbol(w, s->unknown));
            pending = false;
            STM_TRY(add_symbol(w, id));
        } else if (s->byte_fallback && has_bytes(s, bytes, n_bytes)) {
            for (size_t i = 0; i < n_bytes; i++)
                STM_TRY(add_symbol(w, s->bytes[(uint8_t)bytes[i]]));
        } else if (s->unknown >= 0) {
            if (pending && !s->fuse_unknown)
                STM_TRY(add_symbol(w, s->unknown));
            pending = true;
        }
        spelled->n = 0;
    }
    return pending ? add_symbol(w, s->unknown) : STM_OK;
}

static stm_status encode_pairs(const stm_subwords *s, stm_subwords_room *room, const char *word, size_t n, stm_ids *ids)
{
    work w = {.room = room};
    stm_string spelled = {0};
    stm_status status = make_symbols(s, &w, word, n, &spelled);
    free(spelled.bytes);
    STM_TRY(status);
    STM_TRY(merge_all(s, &w));
    for (size_t i = 0; i < w.n_symbols; i++)
        if (!symbols_of(&w)[i].gone)
            STM_TRY(stm_ids_add(ids, symbols_of(&w)[i].id));
    return STM_OK;
}

/* The id of a word as a whole, where it has one that goes before merging; -1: none. */
static int32_t whole_id(const stm_subwords *s, const char *word, size_t n)
{
    if (!s->whole_words && !s->ignore_merges)
        return -1;
    const int32_t id = stm_vocab_find(s->vocab, word, n);
    return id < 0 && s->whole_words ? s->unknown : id;
}

stm_status stm_subwords_encode_plain(const stm_subwords *s, stm_subwords_room *room, const char *word, size_t n,
                                     stm_ids *ids)
{
    if (n == 0)
        return STM_OK;
    const int32_t id = whole_id(s, word, n);
    if (id >= 0)
        return stm_ids_add(ids, id);
    if (s->whole_words)
        return stm_fail(STM_ERR_INPUT, "the vocabulary has neither the word \"%.*s\" nor an unk_token",
                        (int)STM_MIN(n, 60), word);
    return encode_pairs(s, room, word, n, ids);
}

/* Byte pairs, fast: few symbols are merged in place, without a heap. */

enum { FEW = 96 };

typedef struct {
    size_t n;
    int32_t ids[FEW];
    uint32_t ranks[FEW]; /* of the pair that begins here; NO_RANK: it does not merge */
    int32_t merged[FEW]; /* what the pair becomes */
} few_symbols;

#define NO_RANK UINT32_MAX

static void look_up_pair(const stm_subwords *s, few_symbols *f, size_t i)
{
    const merge *m = i + 1 < f->n ? find_merge(s, f->ids[i], f->ids[i + 1]) : NULL;
    f->ranks[i] = m ? m->rank : NO_RANK;
    f->merged[i] = m ? m->id : -1;
}

/* The leftmost pair of the lowest rank. */
static size_t best_pair(const few_symbols *f)
{
    uint32_t least = NO_RANK;
    size_t best = 0;
    for (size_t i = 0; i < f->n; i++)
        if (f->ranks[i] < least) {
            least = f->ranks[i];
            best = i;
        }
    return best;
}

static void merge_few(const stm_subwords *s, few_symbols *f)
{
    for (size_t i = 0; i < f->n; i++)
        look_up_pair(s, f, i);
    for (;;) {
        const size_t i = best_pair(f), behind = f->n - i - 2;
        if (f->n == 0 || f->ranks[i] == NO_RANK)
            return;
        f->ids[i] = f->merged[i];
        memmove(f->ids + i + 1, f->ids + i + 2, behind * sizeof *f->ids);
        memmove(f->ranks + i + 1, f->ranks + i + 2, behind * sizeof *f->ranks);
        memmove(f->merged + i + 1, f->merged + i + 2, behind * sizeof *f->merged);
        f->n--;
        look_up_pair(s, f, i);
        if (i > 0)
            look_up_pair(s, f, i - 1);
    }
}

static stm_status encode_bytes(const stm_subwords *s, const char *bytes, size_t n, stm_ids *ids)
{
    few_symbols f = {.n = n};
    for (size_t i = 0; i < n; i++)
        f.ids[i] = s->alphabet[(uint8_t)bytes[i]];
    merge_few(s, &f);
    for (size_t i = 0; i < f.n; i++)
        STM_TRY(stm_ids_add(ids, f.ids[i]));
    return STM_OK;
}

/* Spells the word in room->spelled, where words come as bytes. */
static stm_status spell(const stm_subwords *s, stm_subwords_room *room, const char **word, size_t *n)
{
    if (!s->spells)
        return STM_OK;
    room->spelled.n = 0;
    STM_TRY(stm_add_byte_level(&room->spelled, *word, *n));
    *word = room->spelled.bytes;
    *n = room->spelled.n;
    return STM_OK;
}

/* part: cut out of a word, so that it has no id as a whole word. */
static stm_status encode_anew(const stm_subwords *s, stm_subwords_room *room, const char *word, size_t n, bool part,
                              stm_ids *ids)
{
    const bool merges_only = part || (!s->whole_words && !s->ignore_merges);
    if (merges_only && s->whole_alphabet && n <= FEW)
        return encode_bytes(s, word, n, ids);
    STM_TRY(spell(s, room, &word, &n));
    return merges_only ? encode_pairs(s, room, word, n, ids) : stm_subwords_encode_plain(s, room, word, n, ids);
}

static stm_status add_ids(stm_ids *ids, const int32_t *more, size_t n)
{
    STM_TRY(stm_reserve(&ids->items, &ids->capacity, ids->n + n, sizeof *ids->items));
    for (size_t i = 0; i < n; i++)
        ids->items[ids->n + i] = more[i];
    ids->n += n;
    return STM_OK;
}

static stm_status encode_cached(const stm_subwords *s, stm_subwords_room *room, const char *word, size_t n, bool part,
                                stm_ids *ids)
{
    const size_t before = ids->n;
    size_t n_found;
    if (n > STM_CACHE_WORD_BYTES)
        return encode_anew(s, room, word, n, part, ids);
    const stm_cache_key key = stm_cache_key_of(word, n, part);
    const int32_t *found = stm_cache_get(room->cache, &key, &n_found);
    if (found)
        return add_ids(ids, found, n_found);
    STM_TRY(encode_anew(s, room, word, n, part, ids));
    stm_cache_put(room->cache, &key, ids->items + before, ids->n - before);
    return STM_OK;
}

/* Words of other scripts than Latin are often whole phrases, which come once; their parts come again and again. */
static bool is_phrase(const char *word, size_t n)
{
    if (n > STM_CACHE_WORD_BYTES)
        return true;
    for (size_t i = 0; i < n; i++)
        if ((uint8_t)word[i] >= 0x80)
            return true;
    return false;
}

stm_status stm_subwords_encode(const stm_subwords *s, stm_subwords_room *room, const char *word, size_t n, stm_ids *ids)
{
    if (n == 0)
        return STM_OK;
    if (!room->cache)
        STM_TRY(stm_cache_create(&room->cache));
    if (!s->joints || !is_phrase(word, n))
        return encode_cached(s, room, word, n, false, ids);
    if (s->ignore_merges) {
        const char *spelled = word;
        size_t n_spelled = n;
        STM_TRY(spell(s, room, &spelled, &n_spelled));
        const int32_t id = whole_id(s, spelled, n_spelled);
        if (id >= 0)
            return stm_ids_add(ids, id);
    }
    for (size_t at = 0, end; at < n; at = end) {
        end = stm_joints_end(s->joints, word, n, at);
        STM_TRY(encode_cached(s, room, word + at, end - at, true, ids));
    }
    return STM_OK;
}
