#include "group/tied.h"

#include <stdlib.h>

enum { PIECE = 1 << 20 }; /* elements of a message */

static bool takes_part(const stm_grid *grid, const stm_model *model)
{
    return model->config.tied && grid->n_stages > 1 && (stm_model_is_first(model) || stm_model_is_last(model));
}

/* A piece of the matrix at `device` to the other end of the column. */
static stm_status send_piece(const stm_model *model, MPI_Comm column, int to, const void *device, size_t n, void *host)
{
    const size_t bytes = n * model->backend->real_bytes;
    STM_TRY(model->backend->read(model->stream, host, device, bytes));
    STM_MPI(MPI_Send(host, (int)bytes, MPI_BYTE, to, 0, column));
    return STM_OK;
}

/* The same from there; added: [PIECE] reals on the device to be added from, or NULL: it takes the place of what is. */
static stm_status receive_piece(const stm_model *model, MPI_Comm column, int from, void *device, size_t n, void *host,
                                void *added)
{
    const stm_backend *backend = model->backend;
    const size_t bytes = n * backend->real_bytes;
    STM_MPI(MPI_Recv(host, (int)bytes, MPI_BYTE, from, 0, column, MPI_STATUS_IGNORE));
    STM_TRY(backend->write(model->stream, added ? added : device, host, bytes));
    if (added)
        STM_TRY(backend->add(model->stream, n, added, device));
    return backend->synchronize(model->stream); /* `host` is written again */
}

static stm_status pass(const stm_grid *grid, const stm_model *model, void *array, bool sends, bool adds)
{
    const size_t n = model->config.vocab_size * model->config.hidden_size, real_bytes = model->backend->real_bytes;
    const int other = grid->stage == 0 ? grid->n_stages - 1 : 0;
    void *host = NULL, *added = NULL;
    stm_status status;
    STM_GOTO_OUT(stm_alloc(PIECE, real_bytes, &host));
    if (adds && !sends)
        STM_GOTO_OUT(model->backend->alloc(model->stream, PIECE * real_bytes, &added));
    for (size_t first = 0; first < n; first += PIECE) {
        const size_t n_here = STM_MIN((size_t)PIECE, n - first);
        void *device = stm_at(model->backend, array, model->embedding + first);
        STM_GOTO_OUT(sends ? send_piece(model, grid->column_comm, other, device, n_here, host)
                           : receive_piece(model, grid->column_comm, other, device, n_here, host, added));
    }
out:
    if (added)
        model->backend->free(model->stream, added);
    free(host);
    return status;
}

void stm_tied_add_gradient(const stm_grid *grid, const stm_model *model, void *gradient)
{
    if (takes_part(grid, model) && pass(grid, model, gradient, stm_model_is_last(model), true) != STM_OK)
        stm_abort_in_team(grid->column_comm);
}

void stm_tied_copy_weights(const stm_grid *grid, const stm_model *model, void *weights)
{
    if (takes_part(grid, model) && pass(grid, model, weights, stm_model_is_first(model), false) != STM_OK)
        stm_abort_in_team(grid->column_comm);
}
