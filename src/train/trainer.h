/* src/train/trainer.h: a training run: rollouts, rewards, updates, evaluations, checkpoints, until run.steps.
 *
 * The same numbers and the same decisions on every rank; rank 0 alone judges, prints and writes the run folder. All
 * functions are collective over the grid's world and return the same status everywhere. */
#ifndef STM_TRAIN_TRAINER_H
#define STM_TRAIN_TRAINER_H

#include "train/policy.h"
#include "train/prompt_sets.h"

typedef struct stm_trainer stm_trainer;

/* What a run holds on a rank beside the model's weights and the engine's memory, where stage_size ranks hold the
 * model's stage. Local. */
size_t stm_trainer_static_bytes(const stm_options *options, const stm_model *model, int stage_size);

/* The part of it that checkpoint.async takes. Local. */
size_t stm_trainer_async_bytes(const stm_options *options, const stm_model *model, int stage_size);

/* Everything that can be wrong beforehand: takes the run folder (not with --check, which changes nothing), finds the
 * checkpoint to go on from, and compares. policy (copied; its timers are set) and sets must outlive the trainer; the
 * model holds the start weights. eval: NULL where there is none. start_s: when the job began (stm_now_s), for --maxh.
 * The caller destroys *out. Fails: STM_ERR_INPUT, STM_ERR_IO, STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_trainer_create(const stm_policy *policy, const stm_prompt_set *train, const stm_prompt_set *eval,
                              double start_s, stm_trainer **out);
void stm_trainer_destroy(stm_trainer *trainer); /* NULL is fine */

/* Tells the engine (group/engine.h) of the rollouts, updates and evaluations of the first step, were all responses of
 * full length; where that is beyond memory.limit, the engine does with less. Fails: STM_ERR_INPUT where it cannot. */
stm_status stm_trainer_expect(stm_trainer *trainer);

/* `--check`: what would be done, on rank 0's standard output. */
void stm_trainer_describe(const stm_trainer *trainer);

/* Trains from the checkpoint, or from the start, to run.steps or an earlier end that was asked for. Fails:
 * STM_ERR_NUMERIC (a reward that failed, gradients that stay not finite), STM_ERR_IO (the last checkpoint cannot be
 * saved), and what the engine says. After a failure that left the weights whole, a checkpoint of the steps done is
 * saved. */
stm_status stm_trainer_run(stm_trainer *trainer);

#endif
