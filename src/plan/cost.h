/* src/plan/cost.h: how long a rank computes on a piece of work, from the rates of its machine.
 *
 * Products take their FLOPs (group/flops.h) at the rate that the machine has for so many rows, but no less than it
 * takes to read their weights from memory; attention its FLOPs at a rate of its own; norms, activations and softmaxes
 * the bytes that they read and write. A rank has the share of its node that its threads are of the cores, or its
 * device. Where ranks are more than cores or devices, seconds here are those of a rank that has its share to itself;
 * all at once they take `crowd` times as long. Local, all of it. */
#ifndef STM_PLAN_COST_H
#define STM_PLAN_COST_H

#include "config/machine.h"
#include "group/forest.h"
#include "model/model.h"

typedef struct {
    const stm_machine *machine;
    const stm_model_config *config;
    stm_precision precision;
    double share; /* of a node that a rank computes with, 0 to 1 */
    double crowd; /* ranks that want what one has, 1 or more; 1: there are cores, or devices, for all */
    double real_bytes, activation_bytes, weight_bytes; /* of backend.h */
} stm_cost;

/* Sets share and crowd: so many ranks on a node, each with so many threads (0: all cores that fall to it). */
void stm_cost_place(stm_cost *cost, int64_t ranks_per_node, int64_t threads);

/* FLOP/s of a rank's products with so many rows: between the machine's rows by logarithms, outside as at the nearest,
 * but that fewer rows than the first are as slow in proportion. */
double stm_cost_gemm_rate(const stm_cost *cost, double n_rows);

/* What a chunk of segments has to do. */
typedef struct {
    double n_rows, n_active; /* active: with loss, in the last layer and the head */
    double pairs;            /* of a row and a key that it sees */
    double active_pairs;
} stm_work;

/* segments [n] of the forest; every row below a response has loss. */
stm_work stm_work_of(const stm_forest *forest, const size_t *segments, size_t n);

/* Seconds of one layer. last: the model's last one, of which rows without loss need only K and V. */
double stm_cost_forward_s(const stm_cost *cost, const stm_work *work, bool last);
double stm_cost_backward_s(const stm_cost *cost, const stm_work *work, bool last);

/* Of the head, log-probs alone, or with its gradient. */
double stm_cost_head_s(const stm_cost *cost, double n_rows, bool gradient);

/* Of rows whose distributions are compared over their group (model/head.h: spread): logits again, and what is formed of
 * each of them. */
double stm_cost_spread_s(const stm_cost *cost, double n_rows);

/* A round of decoding: a token for each of n_rows, which stand below n_prompts prompts. Keys: summed over prompts
 * (each read once), over rows (each its own), and over rows (all that it sees). */
typedef struct {
    double n_rows, prompt_keys, own_keys, pairs;
} stm_round;
double stm_cost_round_s(const stm_cost *cost, const stm_round *round, size_t n_layers, bool has_head);

/* To read so many bytes from memory. */
double stm_cost_read_s(const stm_cost *cost, double bytes);

/* AdamW, clipping and the rounded copy of so many parameters. */
double stm_cost_optimizer_s(const stm_cost *cost, double n_owned, double n_held);

/* Bytes that K and V of a row take in one layer, and their gradients. */
double stm_cost_kv_bytes(const stm_cost *cost);
double stm_cost_dkv_bytes(const stm_cost *cost);

#endif
