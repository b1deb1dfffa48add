/* src/group/footprint.h: the memory that a pass takes of a rank, from its schedule, before it runs.
 *
 * Follows what group/chunk.c, exchange.c and neighbours.c take of the arenas; host tables of a few bytes a row are left
 * out. Arenas keep what they once had, so passes that follow each other need, arena by arena, the most of them. Local.
 */
#ifndef STM_GROUP_FOOTPRINT_H
#define STM_GROUP_FOOTPRINT_H

#include "group/schedule.h"

/* Bytes of one arena at its fullest, by what they are for. */
typedef struct {
    size_t kv;       /* K, V, their gradients, room to add a part of these */
    size_t kept;     /* activations */
    size_t scratch;  /* while a chunk runs */
    size_t messages; /* rows between stages */
    size_t slots;    /* of decoding */
} stm_footprint_parts;

typedef struct {
    size_t n_arenas, capacity;
    stm_footprint_parts *arenas; /* [n_arenas]: the first has what lives while a chunk runs where there are several
                                  * banks, the others are the banks */
    size_t window_bytes;         /* this rank's share of its node's */
    stm_footprint_parts beside;  /* of another engine, all its arenas together */
} stm_footprint;

/* Of a pass by that schedule, made for the model with those options. The caller clears *out, also after a failure.
 * Fails: STM_ERR_MEMORY. */
stm_status stm_footprint_of(const stm_schedule *schedule, const stm_model *model, const stm_schedule_options *options,
                            stm_footprint *out);

/* Decoding below a pass whose prompts stay: these bytes more, where the pass had its scratch. */
void stm_footprint_add_slots(size_t bytes, stm_footprint *footprint);

/* Makes *most what a process needs that runs both. Fails: STM_ERR_MEMORY. */
stm_status stm_footprint_join(const stm_footprint *other, stm_footprint *most);

size_t stm_footprint_bytes(const stm_footprint *footprint);
stm_footprint_parts stm_footprint_sum(const stm_footprint *footprint); /* of all arenas; the window's share is in kv */
void stm_footprint_clear(stm_footprint *footprint);

#endif
