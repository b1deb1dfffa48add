/* src/rollout/shares.h: rollouts that have not started go from ranks that have many to ranks that have free slots.
 *
 * Every rank has the prompts, so any may decode a rollout, and which does changes none of its tokens. Every
 * STM_SHARES_ROUNDS rounds of its own a rank posts its numbers, and acts on what all had posted one such time earlier:
 *
 *      rank 0   post 0 ........ read 0, post 1 ........ read 1, post 2 ..     ranks wait for each other only where they
 *      rank 1   post 0 .. read 0, post 1 .. read 1, post 2 ..                 are so many rounds apart
 *
 * The numbers are a level, the rollouts that wait less the slots that are free, and an offer: how many of those that
 * wait will not start before the next time, being more than what slots will ask for by the mean length so far. Moves
 * make levels equal as far as offers go. So all ranks find the same moves from numbers that they all have; no clock is
 * read. It ends when no rollout waits anywhere. In a pipeline every stage does the same for itself: it has the same
 * slots and queues after the same rounds.
 *
 * What has started stays, though long rollouts may leave a rank with more rows than the others. A round costs about
 * 1 + rows / c reads of the weights, c rows being what takes as long as a read (about 16 on a CPU with AVX-512,
 * hundreds on a GPU), and the longest rollout takes all its rounds wherever it is. Simulated, 4 ranks, lognormal
 * lengths with a deviation of 0.5 to 1 of the logarithm, 8 prompts x 16, 32 x 16 and 1 x 64: moves that cost nothing
 * would gain 0 to 5 % at c = 16, at most 2 % at c = 64, none at 256. Where lengths are those of prompts (correlation
 * 0.5) it is 2 to 7 % at c = 16 for 32 x 16, and 6 to 20 % for 8 x 16, where each rank has two prompts (0 to 7 % at
 * 64): too little for messages of K and V and a second way to start a rollout. */
#ifndef STM_ROLLOUT_SHARES_H
#define STM_ROLLOUT_SHARES_H

#include "mpi/link.h"
#include "rollout/slots.h"

enum { STM_SHARES_ROUNDS = 8 };

typedef struct stm_shares stm_shares;

/* Whether any rank will have to let rollouts wait: then all ranks of the team create, and begin. Local. */
bool stm_shares_are_needed(const stm_decode_work *work);

/* slots: this rank's, in which nothing has started. Tables come from the host arena. The caller destroys *out. Local.
 * Fails: STM_ERR_MEMORY. */
stm_status stm_shares_create(const stm_decode_work *work, stm_slots *slots, stm_progress_hook progress,
                             stm_shares **out);
void stm_shares_begin(stm_shares *shares);   /* the first numbers are posted. NULL is fine */
void stm_shares_destroy(stm_shares *shares); /* NULL is fine */
void stm_shares_drive(stm_shares *shares);   /* NULL is fine */

/* Whether rollouts may still come. NULL: no. */
bool stm_shares_is_open(const stm_shares *shares);

/* What all posted last time changes the queue, and this rank's new numbers are posted. Waits for the others of the team
 * that have not posted as often. Collective over the team, while it is open. */
void stm_shares_meet(stm_shares *shares);

/* Moves rollouts one by one, each from the highest level that has an offer left to the lowest (of equal ones, the lower
 * rank), while these differ by 2 or more. levels, offers: [n_ranks], brought up to date. Local. */
void stm_shares_level(size_t n_ranks, int64_t *levels, int64_t *offers,
                      void (*move)(void *context, size_t from, size_t to), void *context);

#endif
