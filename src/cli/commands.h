/* src/cli/commands.h: the commands of the program, a function each in src/cli/<name>.c and a row each in main.c.
 *
 * main() reads the options (and the input file of train and eval) before a command starts, the same on every rank. A
 * command that uses ranks is called by all of them between MPI_Init_thread and MPI_Finalize; the status that it returns
 * is agreed (stm_agree), so that all return alike, and rank 0 prints the message. A rank that fails while the others
 * wait may return at once: when the others do not follow within seconds, main() prints who failed and why, and aborts
 * all. Other commands are called on one process alone. */
#ifndef STM_CLI_COMMANDS_H
#define STM_CLI_COMMANDS_H

#include "config/options.h"

typedef struct {
    const char *name;
    stm_status (*run)(const stm_options *options);
    stm_command_bit bit;
    const char *arguments; /* the plain arguments, in words: "MODEL GROUPS.jsonl"; their number is checked */
    const char *usage;     /* what follows them: "--out F.h5 [section.key=value ...]" */
    const char *summary;   /* a line */
    bool uses_ranks;       /* computes, under mpirun on all ranks */
    bool reads_input;      /* its argument is an input file */
} stm_command;

stm_status stm_cli_bench(const stm_options *options);
stm_status stm_cli_calibrate(const stm_options *options);
stm_status stm_cli_eval(const stm_options *options);
stm_status stm_cli_export(const stm_options *options);
stm_status stm_cli_inspect(const stm_options *options);
stm_status stm_cli_options(const stm_options *options);
stm_status stm_cli_plan(const stm_options *options);
stm_status stm_cli_tokenize(const stm_options *options);
stm_status stm_cli_train(const stm_options *options);
stm_status stm_cli_score(const stm_options *options);
stm_status stm_cli_grad(const stm_options *options);
stm_status stm_cli_generate(const stm_options *options);

#endif
