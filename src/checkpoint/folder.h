/* src/checkpoint/folder.h: the names in a folder of checkpoints. Local, all of it. */
#ifndef STM_CHECKPOINT_FOLDER_H
#define STM_CHECKPOINT_FOLDER_H

#include "base/base.h"

stm_status stm_step_path(const char *folder, int64_t step, char **path); /* FOLDER/step-00000020.h5 */
stm_status stm_step_path_partial(const char *folder, int64_t step,
                                 char **partial); /* FOLDER/.step-00000020.h5.partial */

/* The step files' numbers, newest first; the caller frees. No folder: none. Fails: STM_ERR_IO. */
stm_status stm_steps_list(const char *folder, int64_t **steps, size_t *n);

/* Removes what broken-off saves left. Fails: STM_ERR_IO. */
stm_status stm_partials_remove(const char *folder);

#endif
