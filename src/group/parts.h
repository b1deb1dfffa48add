/* src/group/parts.h: which rows of a chunk attend to which keys. */
#ifndef STM_GROUP_PARTS_H
#define STM_GROUP_PARTS_H

#include "group/chunk.h"

/* Rows [first_row, first_row + n_rows) of the chunk attend to keys [key_row, key_row + n_keys) of the chunk `of`. */
typedef struct {
    size_t first_row, n_rows;
    const stm_chunk *of;
    size_t key_row, n_keys;
    bool causal;
    size_t diagonal;
} stm_part;

typedef struct {
    size_t n;
    stm_part *parts; /* the host arena's */
} stm_parts;

/* Parts of a chunk's segments [n], from the root down for each row. Every ancestor must have a place. Local. Fails:
 * STM_ERR_MEMORY. */
stm_status stm_parts_list(stm_pass *pass, const size_t *segments, const size_t *first_rows, size_t n, stm_parts *out);

/* The same for the active rows alone (active [n_rows] 0/1), counted among themselves: a causal part becomes one for
 * each run of active rows. */
stm_status stm_parts_restrict(stm_pass *pass, const stm_parts *all, const uint8_t *active, size_t n_rows,
                              stm_parts *out);

/* With one layer's addresses: out [list->n]. */
void stm_parts_at_layer(const stm_pass *pass, const stm_parts *list, size_t layer, stm_attend_part *out);

#endif
