#include "support/messages.h"

#include <mpi.h>
#include <stdlib.h>

static stm_test_messages sent;

stm_test_messages stm_test_messages_sent(void)
{
    return sent;
}

bool stm_test_messages_are_synchronous(void)
{
    return getenv("STEMMA_TEST_SYNCHRONOUS") != NULL;
}

void stm_test_messages_synchronize(bool synchronous)
{
    if (synchronous)
        setenv("STEMMA_TEST_SYNCHRONOUS", "1", 1);
    else
        unsetenv("STEMMA_TEST_SYNCHRONOUS");
}

static void count_message(int count, MPI_Datatype type)
{
    int type_bytes;
    PMPI_Type_size(type, &type_bytes);
    const size_t bytes = (size_t)count * (size_t)type_bytes;
    sent.bytes += bytes;
    sent.n += bytes > 0;
    sent.n_empty += bytes == 0;
}

/* Weak: a program may have its own. */
#pragma weak MPI_Isend
#pragma weak MPI_Send

int MPI_Isend(const void *buffer, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm, MPI_Request *request)
{
    count_message(count, type);
    return (stm_test_messages_are_synchronous() ? PMPI_Issend : PMPI_Isend)(buffer, count, type, to, tag, comm,
                                                                            request);
}

int MPI_Send(const void *buffer, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm)
{
    count_message(count, type);
    return (stm_test_messages_are_synchronous() ? PMPI_Ssend : PMPI_Send)(buffer, count, type, to, tag, comm);
}
