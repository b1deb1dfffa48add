#include "mpi/tally.h"

#include <string.h>

#include "mpi/collectives.h"

static const double drive_s = 1e-4;

struct stm_tally {
    MPI_Comm comm;
    size_t n;
    stm_progress_hook progress;
    MPI_Request request;
    double driven_s;   /* monotonic clock */
    int64_t *all;      /* [n_ranks, n] */
    int64_t numbers[]; /* [n] */
};

stm_tally *stm_tally_create(MPI_Comm comm, size_t n, stm_progress_hook progress)
{
    int n_ranks;
    STM_MPI(MPI_Comm_size(comm, &n_ranks));
    stm_tally *tally = stm_scratch(sizeof *tally + n * sizeof *tally->numbers);
    *tally = (stm_tally){.comm = comm, .n = n, .progress = progress, .request = MPI_REQUEST_NULL};
    tally->all = stm_scratch((size_t)n_ranks * n * sizeof *tally->all);
    return tally;
}

void stm_tally_destroy(stm_tally *tally)
{
    if (!tally)
        return;
    stm_scratch_free(tally->all);
    stm_scratch_free(tally);
}

void stm_tally_post(stm_tally *tally, const int64_t *numbers)
{
    memcpy(tally->numbers, numbers, tally->n * sizeof *numbers);
    STM_MPI(MPI_Iallgather(tally->numbers, (int)tally->n, MPI_INT64_T, tally->all, (int)tally->n, MPI_INT64_T,
                           tally->comm, &tally->request));
}

/* Testing what is through already, or was never posted, is fine. */
static bool is_through(stm_tally *tally)
{
    int through;
    STM_MPI(MPI_Test(&tally->request, &through, MPI_STATUS_IGNORE));
    return through;
}

const int64_t *stm_tally_wait(stm_tally *tally)
{
    while (!is_through(tally))
        if (tally->progress.drive)
            tally->progress.drive(tally->progress.context);
    return tally->all;
}

void stm_tally_drive(stm_tally *tally)
{
    if (!tally || tally->request == MPI_REQUEST_NULL)
        return;
    const double now_s = stm_now_s();
    if (now_s - tally->driven_s < drive_s)
        return;
    (void)is_through(tally);
    tally->driven_s = now_s;
}
