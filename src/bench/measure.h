/* src/bench/measure.h: how long an update or the sampling of a batch takes, how much of the machine it uses, and where
 * its time goes. */
#ifndef STM_BENCH_MEASURE_H
#define STM_BENCH_MEASURE_H

#include "bench/batch.h"
#include "group/profile.h"
#include "mpi/grid.h"

/* What is measured; the first three in the order of stm_forward_mode: forward, loss, backward and the sum of gradients
 * over ranks. DECODE: prefill and sampling of as many tokens as the answers have, with no end token. */
typedef enum {
    STM_BENCH_TREE,
    STM_BENCH_PROMPT,
    STM_BENCH_REPEATED,
    STM_BENCH_DECODE,
    STM_BENCH_N_WORKS
} stm_bench_work;

const char *stm_bench_work_name(stm_bench_work work);

/* Phases: the stages of a pass, and what lies outside of passes. */
enum {
    STM_BENCH_GRADIENT_SUM = STM_N_STAGES, /* over ranks */
    STM_BENCH_DECODING,                    /* of a DECODE, all but the prompts and the exchange */
    STM_BENCH_OTHER,                       /* waiting for the slowest rank, creating the forest, .. */
    STM_BENCH_N_PHASES
};
const char *stm_bench_phase_name(size_t phase);

typedef struct {
    stm_bench_shape shape;
    stm_bench_work work;
    bool plotted;      /* one of the rows that the plot shows */
    double left_out_s; /* expected for all repeats, more than the limit, so that nothing was measured; else 0 */
    size_t n_repeats;
    double *seconds; /* [n_repeats], from a barrier until the last rank is done; malloc */
    double median_s, best_s;
    double to_first;    /* seconds to those of the case's first row, median over turns; NaN: one of them left out */
    double predicted_s; /* by the cost model, updates only: work at the rate of the first row; NaN: none */
    double flops;       /* useful ones, group/flops.h */
    double gemm_rate;   /* FLOP/s of all ranks at once, the better of just before and just after the case */
    double read_rate;   /* bytes per second from memory, just before; NaN: no decoding, or not in the host's memory */
    double read_bytes;  /* that decoding must read, bench/bytes.h; 0: an update */
    double n_rows;      /* tokens computed, over all ranks, those computed again not counted */
    double peak_bytes;  /* of the rank that needed most: weights, gradient, and what the arenas held */
    double recompute_bytes;            /* by the memory model, with memory.recompute=always; 0: decoding */
    double phases[STM_BENCH_N_PHASES]; /* seconds of the median repeat, mean over ranks */
} stm_bench_row;

/* Useful FLOP/s, from the best repeat. */
double stm_bench_rate(const stm_bench_row *row);

/* The share of read_rate at which decoding has read what it must, from the median repeat; NaN where there is none. */
double stm_bench_read_share(const stm_bench_row *row);

typedef struct {
    const stm_model *model;
    const stm_grid *grid;
    const stm_options *options; /* bench.repeats, bench.limit_s, rollout.slots, and what the engine reads */
    void *gradient;             /* [n_parameters] */
    double seconds_per_flop;    /* 0 before the first update was measured; kept by measure */
} stm_bench;

/* Measures rows[i].work on the batch, whose shape is rows[i].shape; fills the rest of the rows [n], which are a case: a
 * repeat of each in turn while their memory fits together, so that what disturbs the machine disturbs all of them; else
 * one after the other. The caller frees each row's seconds, also after a failure. Collective over the grid's world;
 * same status everywhere, and the same rows. Fails: as the engine and stm_rollout do. */
stm_status stm_bench_measure(stm_bench *bench, const stm_batch *batch, stm_bench_row *rows, size_t n);

#endif
