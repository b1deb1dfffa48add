/* src/plan/moments.h: what will happen in a replay, in order of time. Local. */
#ifndef STM_PLAN_MOMENTS_H
#define STM_PLAN_MOMENTS_H

#include "base/base.h"

/* CORES: a rank that shares cores has computed what it had to. */
typedef enum {
    STM_MOMENT_RESUME,
    STM_MOMENT_CORES,
    STM_MOMENT_KV_ARRIVES,
    STM_MOMENT_DKV_ARRIVES,
    STM_MOMENT_ROWS_ARRIVE,
    STM_MOMENT_SUMS_ARRIVE
} moment_kind;

typedef struct {
    double time;
    size_t order; /* of those at one time, the first listed comes first */
    moment_kind kind;
    size_t actor;
    size_t version;             /* of STM_MOMENT_CORES */
    size_t route, member, step; /* of K, V, dK, dV; step: the place of SUMS */
    bool backward;              /* rows */
} stm_moment;

typedef struct {
    stm_moment *items;
    size_t n, capacity, n_pushed;
} stm_moments;

/* Fails: STM_ERR_MEMORY. */
stm_status stm_moments_push(stm_moments *moments, stm_moment item);

/* The earliest, of several the one that was pushed first; there must be one. */
stm_moment stm_moments_pop(stm_moments *moments);

#endif
