/* tests/support/messages.h: what an MPI test program sends, counted; and, on demand, sent without hidden buffers.
 *
 * In test programs these definitions of MPI_Isend and MPI_Send take the place of the library's (the profiling interface
 * of MPI, chapter 15 of its standard). With STEMMA_TEST_SYNCHRONOUS in the environment each message waits for its
 * receive (MPI_Issend, MPI_Ssend): who counts on the library to keep a message until somebody asks for it, hangs. */
#ifndef STM_TESTS_MESSAGES_H
#define STM_TESTS_MESSAGES_H

#include <stdbool.h>
#include <stddef.h>

/* Sent by this rank, point to point: those with content, their bytes, and those without. */
typedef struct {
    size_t n, bytes, n_empty;
} stm_test_messages;

/* Since the program began; callers take differences. Local. */
stm_test_messages stm_test_messages_sent(void);

/* Whether messages are synchronous; and from now on they are, or are not. Local. */
bool stm_test_messages_are_synchronous(void);
void stm_test_messages_synchronize(bool synchronous);

#endif
