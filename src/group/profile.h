/* src/group/profile.h: where the time of a pass goes on this rank, by what is computed.
 *
 * Read by people alone: nothing that is computed depends on it. Without a profile (NULL) every call does nothing; with
 * one the device is waited for at each boundary. Local, all of it. */
#ifndef STM_GROUP_PROFILE_H
#define STM_GROUP_PROFILE_H

#include "group/chunk.h"

/* X(NAME, "name", what it holds) */
#define STM_STAGES(X)                                                                                                  \
    X(PREFIX, "prefix_forward") /* layers, rows that predict no token of a response */                                 \
    X(SUFFIX, "suffix_forward") /* layers, the others */                                                               \
    X(HEAD, "head")             /* its forward and backward, and the objective */                                      \
    X(BACKWARD, "backward")     /* layers */                                                                           \
    X(RECOMPUTE, "recompute")   /* layers forward again, for activations that were not kept */                         \
    X(EXCHANGE, "kv_exchange")  /* K, V of shared segments to the team, dK, dV back, and waiting for them */

typedef enum {
#define STM_STAGE_ENUM(NAME, name) STM_STAGE_##NAME,
    STM_STAGES(STM_STAGE_ENUM)
#undef STM_STAGE_ENUM
        STM_N_STAGES
} stm_stage;

struct stm_profile {
    double seconds[STM_N_STAGES];
    double since; /* monotonic clock */
};

const char *stm_stage_name(stm_stage stage);

/* Time from now on belongs to what the next lap says. */
void stm_profile_start(const stm_pass *pass);

/* Time since the last start or lap belongs to `stage`. */
void stm_profile_lap(const stm_pass *pass, stm_stage stage);

/* The last `seconds` belong to `stage`, not to what the next lap says. */
void stm_profile_exclude(const stm_pass *pass, stm_stage stage, double seconds);

/* Time since the last start or lap was that of the layers of segments [n], forward: it belongs to PREFIX and SUFFIX in
 * proportion to their work. */
void stm_profile_lap_forward(const stm_pass *pass, const size_t *segments, size_t n);

#endif
