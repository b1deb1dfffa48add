/* src/base/process.h: external commands: one that is fed a text and read to its end, and one that stays and is asked
 * again and again. Local. */
#ifndef STM_BASE_PROCESS_H
#define STM_BASE_PROCESS_H

#include "base/base.h"

/* Starts /bin/sh -c command in a process group of its own, writes input[0..n_input) to it while reading what it prints,
 * and waits for its end. Both pipes are served as they become ready, so that neither side can wait for the other for
 * ever; a command that stops reading early is no fault. Its stderr is ours. Its environment is ours without the
 * variables of MPI launchers, so that it may start MPI programs itself. After timeout_s, after printing more than
 * most_output bytes, or when the other side of the socket `tie` (-1: none) is gone, the whole process group is killed;
 * so is what the command left running in it when it ended (`setsid` takes a server out of the group). *output: freed by
 * the caller, ends in a NUL that *n_output does not count. Fails: STM_ERR_IO (not started, timed out, printed too much,
 * ended by a signal or with another exit code than 0), STM_ERR_MEMORY. */
stm_status stm_process_run(const char *command, const char *input, size_t n_input, double timeout_s, size_t most_output,
                           int tie, char **output, size_t *n_output);

/* A command that stays: started as above, in a group of its own. The caller stops *out. Fails: STM_ERR_IO,
 * STM_ERR_MEMORY.
 */
typedef struct stm_process stm_process;
stm_status stm_process_start(const char *command, stm_process **out);

/* Writes input[0..n_input) to it and reads until it has printed n_lines >= 1 whole lines. *output: freed by the caller,
 * ends in a NUL, may hold more than was asked for; after a failure what was printed before it, or NULL, and the process
 * is good for nothing but to be stopped. Fails: STM_ERR_IO (it has ended or closed its stdout, timed out, printed too
 * much, the tie is gone), STM_ERR_MEMORY. */
stm_status stm_process_ask(stm_process *process, const char *input, size_t n_input, size_t n_lines, double timeout_s,
                           size_t most_output, int tie, char **output, size_t *n_output);

/* Closes its stdin, gives it so many seconds to end by itself, and kills its group. NULL is fine. */
void stm_process_stop(stm_process *process, double patience_s);

#endif
