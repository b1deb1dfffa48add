/* src/train/recorded.h: groups with responses and rewards that were recorded, to train on in place of rollouts
 * (data.groups): GROUPS.jsonl, as `stemma grad` reads it. */
#ifndef STM_TRAIN_RECORDED_H
#define STM_TRAIN_RECORDED_H

#include "train/prompt_sets.h"

/* Reads data.groups into set->groups, and their prompts, which the run's order is about. Rank 0 reads. The caller
 * clears *set, also after a failure. Collective over comm; same status everywhere. Fails: STM_ERR_INPUT naming file and
 * line, or group and response, where the objective needs what is not there. */
stm_status stm_recorded_groups_read(MPI_Comm comm, const stm_options *options, const stm_text_context *text,
                                    stm_prompt_set *set);

#endif
