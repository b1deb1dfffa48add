#include "mpi/byte_stream.h"

#include <string.h>

#include "mpi/collectives.h"

struct stm_byte_stream {
    MPI_Comm comm; /* of its own: these broadcasts are in order, whatever else goes on */
    int root;
    size_t n, capacity;
    MPI_Request *requests; /* [capacity], the first n of them not known to be done; in order */
};

stm_byte_stream *stm_byte_stream_create(MPI_Comm comm, int root)
{
    stm_byte_stream *s = stm_scratch(sizeof *s);
    *s = (stm_byte_stream){.root = root};
    STM_MPI(MPI_Comm_dup(comm, &s->comm));
    return s;
}

void stm_byte_stream_destroy(stm_byte_stream *s)
{
    if (!s)
        return;
    STM_MPI(MPI_Comm_free(&s->comm));
    stm_scratch_free(s->requests);
    stm_scratch_free(s);
}

/* Forgets the oldest messages, which are done. */
static void forget(stm_byte_stream *s, size_t n)
{
    s->n -= n;
    memmove(s->requests, s->requests + n, s->n * sizeof *s->requests);
}

void stm_byte_stream_begin(void *stream, void *bytes, size_t n)
{
    stm_byte_stream *s = stream;
    int done;
    if (stm_reserve(&s->requests, &s->capacity, s->n + 1, sizeof *s->requests) != STM_OK)
        stm_mpi_abort(MPI_ERR_NO_MEM, "memory for a message's bookkeeping", __FILE__, __LINE__);
    STM_MPI(MPI_Ibcast(bytes, (int)n, MPI_BYTE, s->root, s->comm, &s->requests[s->n++]));
    STM_MPI(MPI_Testall((int)s->n, s->requests, &done, MPI_STATUSES_IGNORE)); /* moves them */
    if (done)
        forget(s, s->n);
}

void stm_byte_stream_finish(void *stream, size_t n_open)
{
    stm_byte_stream *s = stream;
    if (s->n <= n_open)
        return;
    const size_t n = s->n - n_open;
    STM_MPI(MPI_Waitall((int)n, s->requests, MPI_STATUSES_IGNORE));
    forget(s, n);
}
