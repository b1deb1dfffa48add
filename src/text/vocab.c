#include "text/vocab.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    size_t offset;
    uint32_t n;
    int32_t id;
} entry;

struct stm_vocab {
    stm_string blob;
    entry *entries; /* [n_entries], in order of adding */
    size_t n_entries, entries_capacity;
    uint32_t *slots; /* [n_slots], a power of two: 1 + entry, 0 for an empty slot */
    size_t n_slots;
    uint32_t *by_id; /* [n_ids]: 1 + entry, 0 for an unknown id */
    size_t n_ids, ids_capacity;
};

stm_status stm_vocab_create(size_t expected, stm_vocab **out)
{
    stm_vocab *vocab;
    STM_TRY(stm_alloc(1, sizeof *vocab, &vocab));
    vocab->n_slots = 64;
    while (vocab->n_slots < 2 * expected)
        vocab->n_slots *= 2;
    const stm_status status = stm_alloc(vocab->n_slots, sizeof *vocab->slots, &vocab->slots);
    if (status != STM_OK) {
        stm_vocab_destroy(vocab);
        return status;
    }
    *out = vocab;
    return STM_OK;
}

void stm_vocab_destroy(stm_vocab *vocab)
{
    if (!vocab)
        return;
    free(vocab->blob.bytes);
    free(vocab->entries);
    free(vocab->slots);
    free(vocab->by_id);
    free(vocab);
}

/* The slot of the string, or the empty slot where it belongs. */
static size_t slot_of(const stm_vocab *vocab, const char *text, size_t n)
{
    size_t slot = stm_hash(text, n) & (vocab->n_slots - 1);
    for (; vocab->slots[slot]; slot = (slot + 1) & (vocab->n_slots - 1)) {
        const entry *e = &vocab->entries[vocab->slots[slot] - 1];
        if (e->n == n && memcmp(vocab->blob.bytes + e->offset, text, n) == 0)
            break;
    }
    return slot;
}

static stm_status grow(stm_vocab *vocab)
{
    uint32_t *slots;
    STM_TRY(stm_alloc(vocab->n_slots * 2, sizeof *slots, &slots));
    free(vocab->slots);
    vocab->slots = slots;
    vocab->n_slots *= 2;
    for (size_t i = 0; i < vocab->n_entries; i++)
        vocab->slots[slot_of(vocab, vocab->blob.bytes + vocab->entries[i].offset, vocab->entries[i].n)] =
            (uint32_t)i + 1;
    return STM_OK;
}

stm_status stm_vocab_add(stm_vocab *vocab, const char *text, size_t n, int64_t id)
{
    if (id < 0 || id > STM_VOCAB_LARGEST_ID)
        return stm_fail(STM_ERR_INPUT, "token \"%.*s\": found id %lld, expected 0 to %d", (int)STM_MIN(n, 60), text,
                        (long long)id, STM_VOCAB_LARGEST_ID);
    if ((size_t)id >= vocab->n_ids) {
        STM_TRY(stm_reserve(&vocab->by_id, &vocab->ids_capacity, (size_t)id + 1, sizeof *vocab->by_id));
        memset(vocab->by_id + vocab->n_ids, 0, ((size_t)id + 1 - vocab->n_ids) * sizeof *vocab->by_id);
        vocab->n_ids = (size_t)id + 1;
    }
    size_t slot = slot_of(vocab, text, n);
    if (!vocab->slots[slot]) {
        if (2 * (vocab->n_entries + 1) > vocab->n_slots) {
            STM_TRY(grow(vocab));
            slot = slot_of(vocab, text, n);
        }
        STM_TRY(stm_reserve(&vocab->entries, &vocab->entries_capacity, vocab->n_entries + 1, sizeof *vocab->entries));
        vocab->entries[vocab->n_entries] = (entry){.offset = vocab->blob.n, .n = (uint32_t)n};
        STM_TRY(stm_string_add(&vocab->blob, text, n));
        vocab->slots[slot] = (uint32_t)++vocab->n_entries;
    }
    vocab->entries[vocab->slots[slot] - 1].id = (int32_t)id;
    vocab->by_id[id] = vocab->slots[slot];
    return STM_OK;
}

int32_t stm_vocab_find(const stm_vocab *vocab, const char *text, size_t n)
{
    const uint32_t found = vocab->slots[slot_of(vocab, text, n)];
    return found ? vocab->entries[found - 1].id : -1;
}

const char *stm_vocab_text(const stm_vocab *vocab, int64_t id, size_t *n)
{
    if (id < 0 || (uint64_t)id >= vocab->n_ids || !vocab->by_id[id])
        return NULL;
    const entry *e = &vocab->entries[vocab->by_id[id] - 1];
    *n = e->n;
    return vocab->blob.bytes + e->offset;
}

size_t stm_vocab_n_ids(const stm_vocab *vocab)
{
    return vocab->n_ids;
}

size_t stm_vocab_n_strings(const stm_vocab *vocab)
{
    return vocab->n_entries;
}
