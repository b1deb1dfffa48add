#include "group/tied.h"

#include "mpi/link.h"

enum { PIECE = 1 << 20, SLOTS = 2, TAG = 5 }; /* elements of a message; TAG: rollout/handover.h has lower ones */

/* The matrix on its way along a column, piece by piece. */
typedef struct {
    const stm_model *model;
    void *array; /* laid out as the parameters */
    bool adds;   /* what arrives, to what is there */
    size_t n;    /* elements */
    stm_link *link;
} passage;

static size_t n_at(const passage *p, size_t first)
{
    return first < p->n ? STM_MIN((size_t)PIECE, p->n - first) : 0;
}

static stm_status send(const passage *p)
{
    const stm_backend *b = p->model->backend;
    for (size_t first = 0; first < p->n; first += PIECE) {
        void *slot = stm_link_take(p->link);
        STM_TRY(b->copy(p->model->stream, slot, stm_at(b, p->array, p->model->embedding + first),
                        n_at(p, first) * b->real_bytes));
        stm_link_send(p->link, n_at(p, first));
    }
    return STM_OK;
}

static void expect(const passage *p, size_t first)
{
    if (first < p->n)
        stm_link_expect(p->link, n_at(p, first));
}

static stm_status receive(const passage *p)
{
    const stm_backend *b = p->model->backend;
    for (size_t i = 0; i < SLOTS; i++)
        expect(p, i * PIECE);
    for (size_t first = 0; first < p->n; first += PIECE) {
        const void *arrived = stm_link_wait(p->link);
        void *here = stm_at(b, p->array, p->model->embedding + first);
        STM_TRY(p->adds ? b->add(p->model->stream, n_at(p, first), arrived, here)
                        : b->copy(p->model->stream, here, arrived, n_at(p, first) * b->real_bytes));
        stm_link_release(p->link);
        expect(p, first + SLOTS * PIECE);
    }
    return STM_OK;
}

static stm_status pass(const stm_grid *grid, const stm_model *model, void *array, bool sends, bool adds)
{
    const stm_backend *b = model->backend;
    passage p = {
        .model = model, .array = array, .adds = adds, .n = model->config.vocab_size * model->config.hidden_size};
    stm_link_options options = {.courier = grid->along_column,
                                .comm = grid->column_comm,
                                .peer = grid->stage == 0 ? grid->n_stages - 1 : 0,
                                .tag = TAG,
                                .sends = sends,
                                .n_slots = SLOTS,
                                .slot_reals = STM_MIN((size_t)PIECE, p.n),
                                .real_bytes = b->real_bytes};
    STM_TRY(b->alloc(model->stream, SLOTS * options.slot_reals * b->real_bytes, &options.slots));
    p.link = stm_link_create(&options);
    STM_TRY(sends ? send(&p) : receive(&p));
    stm_link_destroy(p.link);
    b->free(model->stream, options.slots);
    return STM_OK;
}

/* Nobody outlives a failure, so nothing is freed after one. */
static void pass_or_abort(const stm_grid *grid, const stm_model *model, void *array, bool sends, bool adds)
{
    const bool takes_part =
        model->config.tied && grid->n_stages > 1 && (stm_model_is_first(model) || stm_model_is_last(model));
    if (takes_part && pass(grid, model, array, sends, adds) != STM_OK)
        stm_abort_in_team(grid->column_comm);
}

void stm_tied_add_gradient(const stm_grid *grid, const stm_model *model, void *gradient)
{
    pass_or_abort(grid, model, gradient, stm_model_is_last(model), true);
}

void stm_tied_copy_weights(const stm_grid *grid, const stm_model *model, void *weights)
{
    pass_or_abort(grid, model, weights, stm_model_is_first(model), false);
}
