/* src/base/usage.h: memory of this process as the kernel counts it.
 *
 * Pages of its own, and its share of those that other processes have, too (Pss): so ranks of a node add up. The kernel
 * walks the page tables for it, some milliseconds a gigabyte: once a step, not once a chunk. Local. */
#ifndef STM_BASE_USAGE_H
#define STM_BASE_USAGE_H

/* What there is now counts as none: after MPI_Init, so that libraries and what MPI keeps for itself are left out. */
void stm_usage_begin(void);

/* Looks how much there is now, in bytes beyond that, and remembers the most. NAN where the kernel does not tell. */
double stm_usage_sample(void);
double stm_usage_peak_bytes(void); /* the most of all samples; NAN: there are none */

#endif
