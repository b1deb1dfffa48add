/* src/cli/grad_recorded.h: `stemma grad --objective-only`: objectives on recorded log-probs, without a model. */
#ifndef STM_CLI_GRAD_RECORDED_H
#define STM_CLI_GRAD_RECORDED_H

#include "config/options.h"

/* Reads the cases of options->objective_only (data/cases.h), writes [{"name", "loss", "dlogp"}, ..] to options->out:
 * one entry a case, dlogp [group][response][token]. A case's options start from the program's defaults, those of grpo
 * from the file's "defaults". Rank 0 works. Collective over MPI_COMM_WORLD; same status everywhere. */
stm_status stm_cli_grad_recorded(const stm_options *options);

#endif
