/* src/train/replay.h: successes of earlier steps, for groups that have none (ARPO, arXiv:2505.16282).
 *
 * For each prompt a queue of at most replay.size responses whose reward was above replay.min_reward. Where the rewards
 * of a group are all but equal and low, one of its prompt's queue, drawn by the counter-based random numbers, takes the
 * place of the first response; its old log-probs stay those of its own sampling. A prompt is known by its tokens. Every
 * rank holds the same. Local, all of it. */
#ifndef STM_TRAIN_REPLAY_H
#define STM_TRAIN_REPLAY_H

#include "base/kept.h"
#include "config/options.h"
#include "data/groups.h"
#include "data/prompts.h"

typedef struct stm_replay stm_replay;

/* The options must outlive it. The caller destroys *out. Fails: STM_ERR_MEMORY. */
stm_status stm_replay_create(const stm_options *options, stm_replay **out);
void stm_replay_destroy(stm_replay *replay); /* NULL is fine */

/* Whether a group needs help: all its rewards are there, their population standard deviation is below replay.max_std
 * and their mean below replay.max_mean. */
bool stm_replay_is_needed(const stm_options *options, const stm_group *group);

/* Helps a group that needs it, where its prompt has had successes. parts: [rewards], of its first response, which
 * become the other's. slot: of the group in the step. Fails: STM_ERR_MEMORY. */
stm_status stm_replay_help(const stm_replay *replay, uint64_t step, size_t slot, stm_group *group, double *parts,
                           bool *helped);

/* Takes note of a group's successes from response `first` on, before their masks are changed; settle puts them in the
 * queues, in this order, when their step is done. parts: [n_responses, rewards]. Fail: STM_ERR_MEMORY. */
stm_status stm_replay_note(stm_replay *replay, const stm_group *group, size_t first, const double *parts);
stm_status stm_replay_settle(stm_replay *replay);

/* Bytes that a run's buffer comes to, were every response a success as long as it may be, and its steps all taken: for
 * each prompt that is taken, of its successes the last replay.size, their ids, masks, log-probs, kept masses and parts
 * of rewards. prompts: those trained on (NULL: as many as there are places in steps, each of n_prompt tokens). 0
 * without replay.size. */
size_t stm_replay_bytes(const stm_options *options, const stm_prompts *prompts, size_t n_prompt);

size_t stm_replay_count(const stm_replay *replay); /* responses in all queues */

/* All queues as bytes, appended to *out, and back. Of other rewards than this run's nothing is taken. where: for the
 * message. Fails: STM_ERR_MEMORY; STM_ERR_INPUT for other bytes. */
stm_status stm_replay_save(const stm_replay *replay, stm_kept *out);
stm_status stm_replay_restore(stm_replay *replay, const char *where, const stm_kept *kept);

#endif
