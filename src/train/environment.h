/* src/train/environment.h: the external command that answers the turns of rollouts (rollout.environment).
 *
 * It is asked as data/service.h says, about all conversations of a batch whose turn has ended:
 *
 *      asked    {"turns": [{"id": 7, "conversation": 3, "use": "train", "turn": 1, "last": false, "said": "..",
 *                           "response": "..", "prompt": "..", "answer": "..", ..}, ..]}
 *      answers  {"id": 7, "append": ".."} | {"id": 7, "done": true}, either with "reward": a number
 *
 * said: the turn's text, response: all of it so far, other keys: those of the prompt's line. A conversation keeps its
 * number from turn to turn, and no other of the run has it. "last": it ends here by a limit, so that "append" is not
 * heeded and may be missing. What is appended is read with the tokenizer's special tokens, and none are added. Rewards
 * of turns add up (the reward `environment`). {"id": 7, "error": ".."}, a process that dies, hangs or answers nonsense:
 * those conversations end, and their groups are left out. */
#ifndef STM_TRAIN_ENVIRONMENT_H
#define STM_TRAIN_ENVIRONMENT_H

#include "data/prompts.h"
#include "rollout/rollout.h"

typedef struct stm_environment stm_environment;

/* *out: NULL where the options name none. Starts nothing yet. Options and text must outlive it. Local; every rank has
 * one, and rank 0's asks. The caller destroys *out. Fails: STM_ERR_MEMORY. */
stm_status stm_environment_create(const stm_options *options, const stm_text_context *text, stm_environment **out);
void stm_environment_destroy(stm_environment *environment); /* NULL is fine */

/* Whether the model has what it takes. Fails: STM_ERR_INPUT. */
stm_status stm_environment_check(const stm_options *options, const stm_text_context *text);

/* Makes it the partner of the next rollouts; group g of their batch has prompt which[g] (NULL: g). All must outlive
 * them. NULL: nothing. Local. */
void stm_environment_join(stm_environment *environment, const stm_prompts *prompts, const size_t *which,
                          stm_sampling *sampling);

/* The first thing that went wrong since then, on the rank that asked; "" elsewhere. */
const char *stm_environment_complaint(const stm_environment *environment);

#endif
