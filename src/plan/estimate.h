/* src/plan/estimate.h: what a step costs on one layout of ranks: time by part, memory of a rank, bytes on the links.
 *
 * Forward and backward of the team that has most to do are replayed (plan/replay.h); the others are taken to be done by
 * then. Decoding is followed round by round on one rank. What a step samples comes turn by turn (plan/turns.h).
 * Rewards, environments' own time, checkpoints and evaluations are not counted. Local.
 */
#ifndef STM_PLAN_ESTIMATE_H
#define STM_PLAN_ESTIMATE_H

#include "config/machine.h"
#include "config/options.h"
#include "data/groups.h"
#include "data/prompts.h"
#include "model/model.h"
#include "plan/turns.h"

/* X(NAME, "name", "what it is"); those of the rollout first. Means over ranks; the sum is the step. */
#define STM_PLAN_PARTS(X)                                                                                              \
    X(PREFILL, "prefill", "K and V of the prompts, and of what later turns stand below")                               \
    X(DECODE, "decode", "sampling token by token")                                                                     \
    X(REFERENCE, "reference", "log-probs of the start model")                                                          \
    X(AHEAD, "forward ahead", "without gradient: for a loss that sees more than a token, and for token weights")       \
    X(FORWARD, "forward", "of the update, layers")                                                                     \
    X(AGAIN, "forward again", "for activations that were not kept")                                                    \
    X(BACKWARD, "backward", "of the update, layers")                                                                   \
    X(HEAD, "head", "log-probs and their gradient")                                                                    \
    X(KV, "wait for K, V", "exposed: K, V, dK, dV of shared segments")                                                 \
    X(STAGE, "wait for stages", "of the pipeline: its bubble, and rows that travel")                                   \
    X(IDLE, "idle", "done before the slowest rank of the team")                                                        \
    X(GRADIENTS, "gradient sums", "exposed: what backward does not hide")                                              \
    X(OPTIMIZER, "optimizer", "clipping and AdamW")                                                                    \
    X(GATHER, "parameter gather", "new parameters to all ranks")

typedef enum {
#define STM_PLAN_PART_ENUM(NAME, name, what) STM_PLAN_##NAME,
    STM_PLAN_PARTS(STM_PLAN_PART_ENUM)
#undef STM_PLAN_PART_ENUM
        STM_PLAN_N_PARTS
} stm_plan_part;

const char *stm_plan_part_name(stm_plan_part part);

typedef struct {
    int64_t nodes, ranks_per_node;
    int64_t pipeline, suffix, replica; /* suffix: of the largest team */
    int64_t idle_ranks;
} stm_layout;

/* Bytes of the rank that needs most. */
typedef struct {
    double weights, gradient, optimizer, reference, copy, replay, process; /* process: stm_engine_process_bytes */
    double kv, activations, scratch, messages, slots; /* arena by arena at its fullest: stm_footprint_sum */
    double total, limit;                              /* total: of all but the limit */
} stm_plan_memory;

typedef struct {
    stm_layout layout;
    bool fits;
    double step_s, rollout_s, update_s;
    double parts[STM_PLAN_N_PARTS];
    stm_plan_memory memory;
    double inside_bytes,
        between_bytes;           /* of a step, that leave the node that sends most: to its own ranks, to others */
    double rows, flops;          /* computed by the update of all ranks; useful FLOPs of the whole step */
    size_t chunk_rows, n_chunks; /* of the rank that has most */
} stm_estimate;

typedef struct {
    const stm_options *options;
    const stm_machine *machine;
    const stm_model *model;      /* laid out, with a backend that says how large its reals are */
    const stm_batch *batch;      /* that a step learns from */
    const stm_plan_turns *turns; /* that it samples; NULL where supervised */
    int64_t group_size;
    stm_batch *longest;      /* the same with responses of full length, for memory */
    const stm_prompts *eval; /* of evaluations; NULL: none, or not known */
    stm_budgets *budgets;    /* where thinking is cut, which counts for memory; NULL: nowhere */
    size_t replay_bytes;     /* of the replay buffer */
    size_t most_said;        /* tokens with which an answer comes back, at most (train/refine.h) */
    int64_t threads;         /* of a rank; 0: its share of the cores */
    bool supervised;         /* no rollouts */
} stm_planner;

/* layout: pipeline and replica are given, the rest of it is filled in. A layout that does not fit into memory is no
 * failure: then `fits` is false, and there are no times. Fails: STM_ERR_INPUT (rates of this precision are not known),
 * STM_ERR_MEMORY. */
stm_status stm_plan_estimate(const stm_planner *planner, const stm_layout *layout, stm_estimate *out);

/* About the time of a step, without a replay, to choose what is worth one; infinite where it does not fit. */
double stm_plan_guess(const stm_planner *planner, const stm_layout *layout);

#endif
