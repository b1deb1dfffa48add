/* src/group/engine_state.h: what an engine is, for the files that make it up: engine.c makes it and runs its passes,
 * sequences.c says what they are about, expectation.c what they will take. Local. */
#ifndef STM_GROUP_ENGINE_STATE_H
#define STM_GROUP_ENGINE_STATE_H

#include "group/engine.h"
#include "group/schedule.h"
#include "mpi/courier.h"
#include "mpi/window.h"

enum { STM_SMALLEST_CHUNK_ROWS = 32 };

struct stm_engine {
    const stm_model *model;
    const stm_grid *grid;
    stm_engine_settings settings;
    size_t static_bytes;
    size_t n_banks, bank_capacity;
    stm_bank *banks;      /* the first also holds what lives while a chunk runs, where it is the only one */
    stm_bank scratch;     /* for that, where there are several */
    stm_window *window;   /* for K and V that ranks of the team share; NULL: each has its own */
    stm_courier *courier; /* of a pass's messages within the team */
    bool window_is_read;  /* others may still read what lies there */
    stm_pass pass;        /* of the prompts, from prefill to release */
    stm_forest prompts;
    stm_pass_counts counts;
    stm_footprint planned; /* of what was said to come */
};

typedef struct {
    stm_sequence *items;
    size_t n;
} stm_sequence_list;

/* What a pass is to compute: of every response the tokens up to the last with loss, or all of them, but for groups that
 * are skipped (NULL: none is); and the prompts of `groups` [n]. The caller frees the items, also after a failure.
 * Fails, as all below: STM_ERR_MEMORY. */
stm_status stm_engine_list_sequences(const stm_batch *batch, bool loss_only, const uint8_t *skip,
                                     stm_sequence_list *out);
stm_status stm_engine_list_prompts(const stm_batch *batch, const size_t *groups, size_t n, stm_sequence_list *out);

/* Leaves in the list what is this rank's team's. */
stm_status stm_engine_keep_own(const stm_engine *engine, const stm_batch *batch, stm_sequence_list *sequences);

/* Which groups are which team's when every response is scored: team_of [n_groups]. */
stm_status stm_engine_assign_responses(const stm_engine *engine, const stm_batch *batch, int *team_of);

/* By the settings as they are. */
stm_forest_options stm_engine_forest_options_now(const stm_engine *engine);
stm_schedule_options stm_engine_schedule_options(const stm_engine *engine, stm_pass_kind kind);

#endif
