/* src/rollout/rollout.h: samples a group of responses to each prompt.
 *
 * The prompts of a team are a forest whose K and V are computed once and stand on each of its ranks; a rank decodes its
 * share of the rollouts in slots, a row each, and a slot that ends takes the next rollout. Rows below one prompt stand
 * together, so that attention to it is one product for all. A token is a function of (seed, use, step, group, rollout,
 * token) and the model alone, whichever rank draws it. */
#ifndef STM_ROLLOUT_ROLLOUT_H
#define STM_ROLLOUT_ROLLOUT_H

#include "base/random.h"
#include "group/engine.h"
#include "mpi/watch.h"
#include "rollout/mixture.h"
#include "rollout/turns.h"
#include "text/tokenizer.h"

/* What a group goes on from: a response of another batch, with which its prompt ends. */
typedef struct {
    size_t group, rollout;      /* of that batch: random numbers are keyed by them; of several responses, by the numbers
                                 * from `rollout` on */
    size_t n_before, n_sampled; /* tokens of the response so far, and those of them that were sampled */
} stm_origin;

typedef struct {
    stm_random_use use;
    uint64_t seed, step;
    size_t first_slot; /* of the batch's first group, for the random numbers: where it is but a part of a step */
    size_t group_size;
    double temperature; /* 0: greedy, log-probs at 1 */
    double top_p, min_p;
    size_t top_k, max_new_tokens, min_new_tokens, slots, rounds_ahead;
    const stm_strings *stop; /* texts that end a response; need the tokenizer */
    size_t n_end;            /* ids that end a response; 0 where they are to be ignored */
    int32_t end[17];
    const stm_tokenizer *tokenizer; /* NULL: none; ids that it does not know are never sampled */
    stm_watch *watch;               /* what may end it early; NULL: nothing */
    const stm_partner *partner;     /* who answers; NULL: a response is one turn */
    size_t max_turns, max_appended; /* with a partner: turns, and tokens that it may add to one response */
    const stm_mixture *mixture;     /* the other of two models; NULL: there is one */
    const stm_origin *origins;      /* [groups of the batch]; NULL: responses begin */
} stm_sampling;

/* From the options rollout.*; end ids from the model's configuration, else the tokenizer. The options must outlive it.
 * Local. */
void stm_sampling_init(const stm_options *options, const stm_model *model, const stm_tokenizer *tokenizer,
                       stm_random_use use, uint64_t step, stm_sampling *sampling);

/* Tokens of the longest response, those of an environment or of thinking and what closes it (at most a token a byte)
 * included. */
size_t stm_sampling_longest(const stm_options *options);
size_t stm_sampling_closing_tokens(const stm_options *options);

typedef struct {
    double tokens;        /* sampled, over all ranks */
    double prompt_rows;   /* computed, over all ranks */
    double decode_rounds; /* of the rank that had most */
} stm_rollout_counts;
void stm_rollout_counts_add(stm_rollout_counts *to, const stm_rollout_counts *from);

/* Fills groups[..].responses of a batch whose groups have prompts and no responses: ids with their end token, masks of
 * ones (a partner's tokens: 0), old_logprobs, kept_mass (0 and 1 there), finish, outcome; the group's temperature is
 * set. Every rank holds all of it afterwards, unless sampling->watch leaves: then every rollout has ended where it
 * stood, and they are worth nothing. counts may be NULL. Collective over the grid's world; same status everywhere.
 * Fails: STM_ERR_NUMERIC (a log-prob that is not a number), STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_rollout(stm_engine *engine, const stm_model *model, const stm_grid *grid, const stm_sampling *sampling,
                       stm_batch *batch, stm_rollout_counts *counts);

/* The first turn of that, or of a batch of origins the next one; their partner is not asked. */
stm_status stm_rollout_turn(stm_engine *engine, const stm_model *model, const stm_grid *grid,
                            const stm_sampling *sampling, stm_batch *batch, stm_rollout_counts *counts);

/* A turn of a batch of origins, whose groups share what they have in common, whatever the options. */
stm_status stm_rollout_further(stm_engine *engine, const stm_model *model, const stm_grid *grid,
                               const stm_sampling *sampling, stm_batch *batch, stm_rollout_counts *counts);

/* Add the memory of these to what the engine expects: of one turn, of a further one, of a rollout with all its turns.
 * Responses that the batch has are not looked at. Collective over the grid's world in a pipeline. Fail: STM_ERR_MEMORY.
 */
stm_status stm_rollout_expect_turn(stm_engine *engine, const stm_model *model, const stm_grid *grid,
                                   const stm_sampling *sampling, stm_batch *batch);
stm_status stm_rollout_expect_further(stm_engine *engine, const stm_model *model, const stm_grid *grid,
                                      const stm_sampling *sampling, stm_batch *batch);
stm_status stm_rollout_expect(stm_engine *engine, const stm_model *model, const stm_grid *grid,
                              const stm_sampling *sampling, stm_batch *batch);

#endif
