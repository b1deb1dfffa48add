#include "group/elsewhere.h"

#include <stdlib.h>

typedef struct {
    size_t first, n; /* n 0: done */
} question;

static void ask(const stm_elsewhere *e, int rank, question q)
{
    STM_MPI(MPI_Send(&q, sizeof q, MPI_BYTE, rank, 0, e->grid->world));
}

/* The stage that holds an element. */
static int stage_of(const stm_model *model, int n_stages, size_t element)
{
    stm_model other = *model;
    int stage = 0;
    stm_model_hold_stage(&other, (size_t)n_stages, 0);
    while (element >= other.own.first + other.own.n)
        stm_model_hold_stage(&other, (size_t)n_stages, (size_t)++stage);
    return stage;
}

stm_status stm_elsewhere_read(void *elsewhere, size_t first, size_t n, void *reals)
{
    const stm_elsewhere *e = elsewhere;
    const stm_backend *backend = e->model->backend;
    const size_t bytes = n * backend->real_bytes;
    const int stage = stage_of(e->model, e->grid->n_stages, first);
    if (stage == e->grid->stage)
        return backend->read(e->model->stream, reals, stm_at(backend, e->array, first), bytes);
    const int rank = stage * e->grid->stage_size;
    ask(e, rank, (question){first, n});
    STM_MPI(MPI_Recv(reals, (int)bytes, MPI_BYTE, rank, 0, e->grid->world, MPI_STATUS_IGNORE));
    return STM_OK;
}

void stm_elsewhere_end(const stm_elsewhere *e)
{
    for (int stage = 1; stage < e->grid->n_stages; stage++)
        ask(e, stage * e->grid->stage_size, (question){0, 0});
}

stm_status stm_elsewhere_serve(const stm_elsewhere *e)
{
    const stm_backend *backend = e->model->backend;
    stm_status status = STM_OK;
    char *reals = NULL;
    size_t capacity = 0;
    while (e->grid->stage_rank == 0) {
        question q;
        STM_MPI(MPI_Recv(&q, sizeof q, MPI_BYTE, 0, 0, e->grid->world, MPI_STATUS_IGNORE));
        if (q.n == 0)
            break;
        const size_t bytes = q.n * backend->real_bytes;
        if (stm_reserve(&reals, &capacity, bytes, 1) != STM_OK)
            stm_abort_in_team(e->grid->world); /* no answer is possible */
        const stm_status found = backend->read(e->model->stream, reals, stm_at(backend, e->array, q.first), bytes);
        status = status == STM_OK ? found : status;
        STM_MPI(MPI_Send(reals, (int)bytes, MPI_BYTE, 0, 0, e->grid->world));
    }
    free(reals);
    return status;
}
