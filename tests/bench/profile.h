/* tests/bench/profile.h: a backend that times every operation of another one, and what the programs that print it
 * share.
 */
#ifndef STM_BENCH_PROFILE_H
#define STM_BENCH_PROFILE_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "backend/backend.h"

static void check(stm_status status)
{
    if (status == STM_OK)
        return;
    fprintf(stderr, "%s: %s\n", program_invocation_short_name, stm_failure());
    exit(1);
}

static size_t argument(int argc, char **argv, int i, size_t otherwise)
{
    return argc > i ? (size_t)atol(argv[i]) : otherwise;
}

#define PROFILED(X)                                                                                                    \
    X(gemm, stm_gemm)                                                                                                  \
    X(embed, stm_embed)                                                                                                \
    X(embed_backward, stm_embed)                                                                                       \
    X(gather, stm_rows)                                                                                                \
    X(scatter_add, stm_rows)                                                                                           \
    X(rmsnorm, stm_rmsnorm)                                                                                            \
    X(rmsnorm_backward, stm_rmsnorm)                                                                                   \
    X(rotary, stm_rotary)                                                                                              \
    X(rotary_backward, stm_rotary)                                                                                     \
    X(append, stm_append)                                                                                              \
    X(attend, stm_attend)                                                                                              \
    X(attend_backward, stm_attend)                                                                                     \
    X(swiglu, stm_swiglu)                                                                                              \
    X(swiglu_backward, stm_swiglu)                                                                                     \
    X(head_block, stm_head_block)                                                                                      \
    X(head_finish, stm_head_block)                                                                                     \
    X(head_block_backward, stm_head_block)                                                                             \
    X(sample, stm_sample)

static const stm_backend *profiled; /* the one that does the work */

#define X(name, type)                                                                                                  \
    static double name##_s;                                                                                            \
    static stm_status timed_##name(stm_stream *stream, const type *args)                                               \
    {                                                                                                                  \
        const double start = stm_now_s();                                                                              \
        const stm_status status = profiled->name(stream, args);                                                        \
        name##_s += stm_now_s() - start;                                                                               \
        return status;                                                                                                 \
    }
PROFILED(X)
#undef X

static double other_s; /* copies and the like */

static stm_status timed_copy(stm_stream *stream, void *to, const void *from, size_t bytes)
{
    const double start = stm_now_s();
    const stm_status status = profiled->copy(stream, to, from, bytes);
    other_s += stm_now_s() - start;
    return status;
}

static stm_status timed_zero(stm_stream *stream, void *device, size_t bytes)
{
    const double start = stm_now_s();
    const stm_status status = profiled->zero(stream, device, bytes);
    other_s += stm_now_s() - start;
    return status;
}

/* A backend like `backend` with a clock around each operation. One at a time. */
static stm_backend profile_begin(const stm_backend *backend)
{
    stm_backend timed = *backend;
    profiled = backend;
#define X(name, type) timed.name = timed_##name, name##_s = 0;
    PROFILED(X)
#undef X
    timed.copy = timed_copy;
    timed.zero = timed_zero;
    other_s = 0;
    return timed;
}

/* Seconds by operation, of `total_s`. */
static void profile_print(double total_s)
{
    double known = other_s;
#define X(name, type)                                                                                                  \
    if (name##_s > 0.005 * total_s)                                                                                    \
        printf("    %-20s %8.3f s %5.1f %%\n", #name, name##_s, 100 * name##_s / total_s);                             \
    known += name##_s;
    PROFILED(X)
#undef X
    printf("    %-20s %8.3f s %5.1f %%\n", "copy, zero", other_s, 100 * other_s / total_s);
    printf("    %-20s %8.3f s %5.1f %%\n", "the rest", total_s - known, 100 * (total_s - known) / total_s);
}

#endif
