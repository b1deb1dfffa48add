/* src/plan/gradients.h: how long the ranks of a stage take to sum their gradients, and to gather new parameters.
 *
 * Each sends to each other its share, bucket by bucket (mpi/reduction.h, mpi/gathering.h). What stays on a node is
 * copied by the cores that also compute, so nothing hides it; a device's links and a network work beside them. Local.
 */
#ifndef STM_PLAN_GRADIENTS_H
#define STM_PLAN_GRADIENTS_H

#include "mpi/rounds.h"
#include "plan/cost.h"

typedef struct {
    double n_bytes, size;               /* of the vector; ranks of the stage */
    double inside_s, between_s;         /* of messages inside a node, and to others; they go side by side */
    double inside_bytes, between_bytes; /* that leave ranks of a node for one another, and for other nodes */
} stm_plan_exchange;

/* Of n reals over `size` ranks of each stage, all stages at once, which stand on the nodes one after the other. */
stm_plan_exchange stm_plan_exchange_of(const stm_cost *cost, double n, double size, double n_stages,
                                       double ranks_per_node);

/* Of a stage's elements, those whose gradient is final only when backward ends: the first layer's and the embedding's,
 * in whole buckets. 0 to 1. size: ranks of the stage. */
double stm_plan_exchange_last_share(const stm_model *stage, double size);

/* What a sum that takes sum_s on the links costs beyond backward, whose last chunk takes tail_s. Elements become final
 * layer by layer: the sum ends when the last of them, or all of them since the first layer was ready, have gone over
 * the links, whatever is later. */
double stm_plan_exchange_exposed_s(const stm_model *stage, double size, double sum_s, double tail_s);

/* parallel.shard=gradient: of every stage [n_stages], the layers that are summed chunk by chunk over `size` ranks,
 * without communicators and rooms. The caller clears *out. Fails: STM_ERR_MEMORY. */
stm_status stm_plan_rounds_create(const stm_model *stages, size_t n_stages, int size, stm_rounds_options **out);
void stm_plan_rounds_clear(stm_rounds_options *rounds, size_t n_stages); /* NULL is fine */

/* Elements of the ends, which are summed behind backward. */
double stm_plan_rounds_ends(const stm_rounds_options *rounds);

/* The whole cost of a sum: copies, additions and what backward does not hide. */
double stm_plan_exchange_sum_s(const stm_cost *cost, const stm_plan_exchange *x, const stm_model *stage, double tail_s);

#endif
