/* src/train/prompt_sets.h: the prompts that a run trains on and those that it is evaluated on. */
#ifndef STM_TRAIN_PROMPT_SETS_H
#define STM_TRAIN_PROMPT_SETS_H

#include <mpi.h>

#include "data/groups.h"
#include "data/prompts.h"
#include "model/model.h"

typedef struct {
    const char *path; /* borrowed from the options */
    stm_prompts prompts;
    stm_batch groups; /* with their responses, of data.groups; empty: rollouts or demonstrations are made of prompts */
    bool present;     /* false: the options ask for none */
} stm_prompt_set;
void stm_prompt_set_clear(stm_prompt_set *set);

/* True for an objective without rewards (sft): a batch is demonstrations, not rollouts. Local. */
bool stm_is_supervised(const stm_options *options);

/* `train`: reads data.groups or data.prompts, and eval.prompts where evaluations are asked for, and checks them against
 * rewards and objective. Rank 0 reads. The caller clears both, also after a failure. Collective over comm; same status
 * everywhere. Fails: STM_ERR_INPUT naming file and line or key. */
stm_status stm_prompt_sets_read(MPI_Comm comm, const stm_options *options, const stm_model *model,
                                const stm_text_context *text, stm_prompt_set *train, stm_prompt_set *eval);

/* `eval`: reads eval.prompts, or data.prompts where there are none. Otherwise as above. */
stm_status stm_prompt_set_read_eval(MPI_Comm comm, const stm_options *options, const stm_model *model,
                                    const stm_text_context *text, stm_prompt_set *eval);

#endif
