/* src/base/helper.h: a process of its own beside each rank, forked before MPI starts.
 *
 * It does what a rank must not do or cannot: it starts the commands of others (a process that has communication memory
 * registered should not fork), and when the rank dies without a word it says so, with the phase and step that the
 * shared pulse names. A rank that has been stopped while MPI starts or ends, it ends. It has a session of its own, so
 * that signals to the rank's process group pass it by; it knows nothing of MPI, holds no file of the rank's but stderr,
 * and ends when the rank is gone, by whatever cause, with the command that runs. Local, all of it; one thread of the
 * rank at a time. */
#ifndef STM_BASE_HELPER_H
#define STM_BASE_HELPER_H

#include "base/base.h"

/* Before MPI_Init and before any thread; shares the pulse. Fails: STM_ERR_IO, STM_ERR_MEMORY. */
stm_status stm_helper_begin(void);

/* The rank ends in order from here on. Without a helper: nothing. */
void stm_helper_end(void);

/* This rank ends by a failure that it is about to tell, or somebody has told of: its end is no news for its helper.
 * True for the first rank of the node (of those that the same launcher has started) in some seconds, since the launcher
 * may end the others as one that is killed, and one message is enough. A signal handler may call it. */
bool stm_helper_speaks_first(void);

/* stm_process_run in the helper. Fails: as that does; STM_ERR_IO where there is no helper or it has died. */
stm_status stm_helper_run(const char *command, const char *input, size_t n_input, double timeout_s, size_t most_output,
                          char **output, size_t *n_output);

/* A command that stays for the whole run (base/process.h): it starts with the first question, and again with the first
 * one after it has failed. server: a number that stands for it, which stm_helper_server gives. n_lines: whole lines of
 * an answer. *output: freed by the caller; after a failure what was printed before it, or NULL. Fails: as
 * stm_process_ask does; STM_ERR_IO where there is no helper. */
size_t stm_helper_server(void);
stm_status stm_helper_ask(size_t server, const char *command, const char *input, size_t n_input, size_t n_lines,
                          double timeout_s, size_t most_output, char **output, size_t *n_output);

/* Ends it, as stm_process_stop does. One that has not started: nothing. */
void stm_helper_stop(size_t server, double patience_s);

#endif
