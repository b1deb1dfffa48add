/* src/cli/groups_input.h: what score, grad and bench have in common: a model and a file of groups. */
#ifndef STM_CLI_GROUPS_INPUT_H
#define STM_CLI_GROUPS_INPUT_H

#include "cli/session.h"
#include "data/groups_file.h"

/* Opens the model (first argument) and reads the groups (second one; use: stm_groups_use, or-ed); makes grid and
 * engine. static_bytes: NULL: nothing. On an idle rank (cli/session.h) there is none of it. The caller closes and
 * clears, also after a failure. Collective over MPI_COMM_WORLD; same status everywhere. */
stm_status stm_groups_input_open(const stm_options *options, unsigned use, stm_static_bytes *static_bytes,
                                 stm_session *session, stm_batch *batch);

/* Reads groups for the session's model; use: stm_groups_use, or-ed. The caller clears, also after a failure. Collective
 * over the session's ranks; same status everywhere. */
stm_status stm_groups_input_read(const char *path, unsigned use, const stm_session *session, stm_batch *batch);

/* A line on rank 0: what was computed, against what repeating it would have been. Collective. */
void stm_groups_input_report(const stm_session *session, const stm_batch *batch, bool loss_only, double seconds);

#endif
