/* src/group/engine.h: log-probs and gradients of a batch of groups, each shared token computed once; and the KV of
 * prompts, for sampling.
 *
 * A team of ranks works on its groups in waves. In a wave each owner computes what is shared, and K and V of a layer
 * leave while it computes the next; the ranks compute their units one layer behind, and for a gradient go back over
 * them; what they add to dK and dV is summed to the owners, who go back over the shared segments one layer behind. */
#ifndef STM_GROUP_ENGINE_H
#define STM_GROUP_ENGINE_H

#include "base/timers.h"
#include "group/chunk.h"
#include "group/flops.h"
#include "group/footprint.h"
#include "group/placement.h"
#include "mpi/grid.h"

typedef struct stm_engine stm_engine;

/* static_bytes: what the process holds besides (weights, gradients, optimizer, its own), for memory.limit. The options
 * are read, not kept. Collective over the grid's world. Fails: STM_ERR_INPUT (memory.limit too small for the smallest
 * chunk), STM_ERR_MEMORY. */
stm_status stm_engine_create(const stm_model *model, const stm_grid *grid, const stm_options *options,
                             size_t static_bytes, stm_engine **out);
void stm_engine_destroy(stm_engine *engine); /* NULL is fine. Collective over the team */

/* How it computes; set from the options, may be changed between calls. */
typedef struct {
    /* stm_log, or NULL: for what the user should know. */
    void (*log)(const char *format, ...) __attribute__((format(printf, 1, 2)));
    stm_forest_options forest; /* max_segment_tokens: as the user asked; chunks may cut shorter */
    size_t chunk_rows;         /* rows that a chunk is filled to */
    size_t slow_rows;          /* fewer cost more time than computing activations again */
    size_t limit_bytes;        /* of a rank's memory, static bytes included */
    stm_recompute recompute;
    stm_placement_options placement;
    size_t states_bytes;             /* of hidden states that a rank keeps to compare members (token_weights.h), where
                                      * a group for each team takes no more */
    bool shares_kv;                  /* ranks of a node have one copy of the team's shared K and V */
    stm_timers *timers;              /* of the caller, for the phases that lie inside a call; NULL: none */
    stm_profile *profile;            /* of the caller, group/profile.h; NULL: none */
    struct stm_reduction *reduction; /* of the caller, begun on the gradient that comes next, or NULL: hears what of it
                                      * is final, and moves meanwhile */
    struct stm_rounds *rounds;       /* the same for sums chunk by chunk, which take the layers' gradients; the ends'
                                      * (mpi/rounds.h) are added to `gradient`. Settled when the call returns */
} stm_engine_settings;
stm_engine_settings *stm_engine_settings_of(stm_engine *engine);

/* Visits every token of every response, on the rank that computes it. Collective over the grid's world; each rank gets
 * its own status, for the caller to agree on. */
stm_status stm_engine_score(stm_engine *engine, const stm_batch *batch,
                            void (*visit)(void *context, const stm_visit *visit), void *context);

/* Whether the rank that computes one token with loss of a response computes all of them, for every response of this
 * rank's team. Local; the same on the ranks of a team. Fails: STM_ERR_MEMORY. */
stm_status stm_engine_keeps_responses_whole(stm_engine *engine, const stm_batch *batch, const uint8_t *skip,
                                            bool *whole);

/* As score, for tokens with loss, and adds to `gradient` [n_parameters] this rank's part of the gradient; the caller
 * sums over ranks. skip [n_groups]: 1 for groups that have none (NULL: none has), the same on every rank. preview
 * (NULL: none): sees every token once before any token of its response is visited on this rank, at the cost of a second
 * head forward. */
stm_status stm_engine_gradient(stm_engine *engine, const stm_batch *batch, const uint8_t *skip,
                               void (*preview)(void *context, const stm_visit *visit),
                               void (*visit)(void *context, const stm_visit *visit), void *context, void *gradient);

/* K and V of the prompts of `groups` [n] (indices into the batch; the same on every rank of the team), on every rank of
 * the team, until released. pass->forest has the sequences; the rows of the last prompt token are not among them: they
 * are the first that decoding computes. Collective over the team. */
stm_status stm_engine_prefill(stm_engine *engine, const stm_batch *batch, const size_t *groups, size_t n,
                              const stm_pass **pass);
void stm_engine_release(stm_engine *engine);

/* Which groups are this rank's team's when prompts are sampled: team_of [n_groups]. Local. */
stm_status stm_engine_assign_prompts(stm_engine *engine, const stm_batch *batch, int *team_of);

/* Of what is decoded below prompts, whatever these are; and for each segment on the longest path to a prompt's end. */
typedef struct {
    size_t fixed, a_segment;
} stm_slots_bytes;

/* Memory that a rank would take beside what is static, before it does it: of a gradient or a score of that batch, and
 * of its team's prompts of `groups` [n] with slots for what is decoded below them (rollout/rollout.h), and, where other
 * is not 0, the same once more with these in another engine, of another model (rollout/mixture.h).
 * beside: with bytes that the caller holds meanwhile. They add to what is planned: the most of all. Local. Fails:
 * STM_ERR_MEMORY. */
stm_status stm_engine_expect(stm_engine *engine, const stm_batch *batch, stm_pass_kind kind);
stm_status stm_engine_expect_beside(stm_engine *engine, const stm_batch *batch, stm_pass_kind kind, size_t bytes);
stm_status stm_engine_expect_prompts(stm_engine *engine, const stm_batch *batch, const size_t *groups, size_t n,
                                     stm_slots_bytes slots, stm_slots_bytes other);
size_t stm_engine_planned_bytes(const stm_engine *engine);              /* with what is static */
stm_footprint_parts stm_engine_planned_parts(const stm_engine *engine); /* the rest of it */

/* Makes do with less where the options leave it open, smaller chunks first (what is kept of activations follows the
 * room as it is), before they get slow no activations kept, and forgets what was planned. False: nothing is left to
 * spare. The same on all ranks that agree on options and settings; call it on all of them. Local. */
bool stm_engine_spare(stm_engine *engine, const stm_options *options);

/* What every process has besides weights: tables of positions, buffers of libraries. Local. */
size_t stm_engine_process_bytes(const stm_model *model);

/* memory.limit in bytes, the least of all ranks of comm; auto: nine tenths of the node's memory, or of a device's that
 * has its own, in equal shares for the ranks there. device: this rank's. Collective over comm. */
double stm_engine_limit_bytes(const stm_options *options, MPI_Comm comm, const stm_device *device);

/* The least that an engine of this model, of which the rank may hold one stage, needs besides what is static. Local. */
size_t stm_engine_least_bytes(const stm_model *model);

/* What create chooses, for those who plan: rows of a chunk where so much room is left beside what is static; how trees
 * are made; and the longest segment, of chunks of so many rows in a team. Local. */
size_t stm_engine_chunk_rows(const stm_options *options, const stm_model *model, int n_stages, size_t room_bytes);
stm_forest_options stm_engine_forest_options(const stm_options *options);
size_t stm_engine_segment_tokens(size_t as_asked, size_t chunk_rows, int team_size);

/* What the last score or gradient did on this rank, and the most that the arenas ever held. */
const stm_pass_counts *stm_engine_counts(const stm_engine *engine);
size_t stm_engine_peak_bytes(const stm_engine *engine);
size_t stm_engine_limit(const stm_engine *engine); /* of a rank's memory, in bytes */
const stm_model *stm_engine_model(const stm_engine *engine);
size_t stm_engine_static_bytes(const stm_engine *engine); /* as given to create, the largest of the ranks */

/* Rows that the batch costs when nothing is shared, less what no forward needs: sum over sequences of n - 1. */
double stm_engine_rows_repeated(const stm_batch *batch, bool loss_only);

/* Useful work of a gradient's forward over the whole batch, by the engine's forest, all ranks together. Local. Fails:
 * STM_ERR_MEMORY. */
stm_status stm_engine_flops(const stm_engine *engine, const stm_batch *batch, stm_flops *flops);

/* The same of sampling n_new tokens for each of group_size responses to every prompt: prefill and decode. */
stm_status stm_engine_sampling_flops(const stm_engine *engine, const stm_batch *batch, size_t group_size, size_t n_new,
                                     stm_flops *flops);

#endif
