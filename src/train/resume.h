/* src/train/resume.h: which checkpoint a run goes on from, and whether it may. */
#ifndef STM_TRAIN_RESUME_H
#define STM_TRAIN_RESUME_H

#include "checkpoint/checkpoint.h"
#include "train/policy.h"
#include "train/progress.h"

typedef struct {
    char *path;    /* NULL: a fresh start */
    char *refused; /* lines about newer checkpoints that did not verify; NULL: none */
    stm_progress progress;
    bool recalibrated;           /* calibration holds for this layout, too */
    stm_calibration calibration; /* of the run that saved */
} stm_resume_point;
void stm_resume_point_clear(stm_resume_point *point);

/* Finds the checkpoint that --resume asks for in `folder` (of checkpoints), verifies it, and compares its options and
 * its start model, texts included, and what reference.paths are averaged to, with this run's. The caller clears *out,
 * also after a failure. Collective over the grid's world; same status everywhere. Fails: STM_ERR_INPUT for a path that
 * is no good checkpoint, a folder in which none is good, options that differ though nobody gave them on the command
 * line, another start model or reference. */
stm_status stm_resume_find(const stm_policy *policy, const char *folder, uint64_t start_hash, uint64_t reference_hash,
                           stm_resume_point *out);

/* How the engine computes now, and taking up an earlier run's way. Local. */
stm_calibration stm_calibration_of(const stm_policy *policy);
void stm_calibration_apply(const stm_policy *policy, const stm_calibration *calibration);

/* Checkpoints of steps after `step` (-1: all) would be taken for newer than those to come: moves them out of `folder`
 * into one beside it, whose name is *where (NULL: there were none). The caller frees *where. Local; rank 0 calls.
 * Fails: STM_ERR_IO, STM_ERR_MEMORY. */
stm_status stm_set_aside_later(const char *folder, int64_t step, char **where);

#endif
