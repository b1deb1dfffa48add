#include "mpi/courier.h"

#include <assert.h>
#include <sched.h>
#include <stdlib.h>

#include "mpi/collectives.h"
#include "mpi/pieces.h"

struct stm_courier {
    const stm_reach *reach;
    stm_pieces *pieces; /* NULL: messages are MPI's own */
    size_t n, n_through;
    size_t request_capacity, parcel_capacity, claim_capacity, through_capacity, done_capacity;
    MPI_Request *requests; /* [n], or */
    size_t *parcels;       /* [n], of the pieces */
    stm_claim *claims;     /* [n] */
    stm_claim *through;    /* [n_through] */
    int *done;             /* [n] */
};

static stm_status make_room(stm_courier *c, size_t n)
{
    STM_TRY(stm_reserve(&c->requests, &c->request_capacity, n, sizeof *c->requests));
    STM_TRY(stm_reserve(&c->parcels, &c->parcel_capacity, n, sizeof *c->parcels));
    STM_TRY(stm_reserve(&c->claims, &c->claim_capacity, n, sizeof *c->claims));
    STM_TRY(stm_reserve(&c->through, &c->through_capacity, n, sizeof *c->through));
    return stm_reserve(&c->done, &c->done_capacity, n, sizeof *c->done);
}

static bool goes_in_pieces(const stm_reach *reach)
{
    return reach && !reach->direct;
}

stm_status stm_courier_create(const stm_reach *reach, size_t n_expected, stm_courier **out)
{
    stm_courier *c;
    stm_status status;
    STM_TRY(stm_alloc(1, sizeof *c, &c));
    *c = (stm_courier){.reach = reach};
    STM_GOTO_OUT(make_room(c, n_expected));
    if (goes_in_pieces(reach))
        STM_GOTO_OUT(stm_pieces_create(reach, &c->pieces));
    *out = c;
    return STM_OK;
out:
    stm_courier_destroy(c);
    return status;
}

void stm_courier_destroy(stm_courier *courier)
{
    if (!courier)
        return;
    assert(courier->n == 0);
    stm_pieces_destroy(courier->pieces);
    free(courier->requests);
    free(courier->parcels);
    free(courier->claims);
    free(courier->through);
    free(courier->done);
    free(courier);
}

size_t stm_courier_bytes(const stm_reach *reach)
{
    return goes_in_pieces(reach) ? stm_pieces_bytes(reach) : 0;
}

const stm_reach *stm_courier_reach(const stm_courier *courier)
{
    return courier->reach;
}

/* Numbers of half the size are moved alone, never added. */
static MPI_Datatype type_of(const stm_message *m)
{
    return m->number_bytes == sizeof(uint16_t) ? MPI_UINT16_T : stm_mpi_real(m->number_bytes);
}

static void begin(stm_courier *c, const stm_message *m, size_t of, bool sends)
{
    const MPI_Datatype type = type_of(m);
    assert(m->tag < STM_COURIER_TAGS);
    if (make_room(c, c->n + 1) != STM_OK)
        stm_mpi_abort(MPI_ERR_NO_MEM, "memory for messages", __FILE__, __LINE__);
    c->claims[c->n] = (stm_claim){of, sends};
    MPI_Request *request = &c->requests[c->n];
    *request = MPI_REQUEST_NULL;
    if (c->pieces)
        c->parcels[c->n] = stm_pieces_begin(c->pieces, m, sends);
    else if (sends)
        STM_MPI(MPI_Isend(m->numbers, (int)m->n, type, m->peer, m->tag, m->comm, request));
    else
        STM_MPI(MPI_Irecv(m->numbers, (int)m->n, type, m->peer, m->tag, m->comm, request));
    c->n++;
    if (c->pieces)
        stm_pieces_move(c->pieces, c->parcels, c->n);
}

void stm_courier_send(stm_courier *courier, const stm_message *message, size_t of)
{
    begin(courier, message, of, true);
}

void stm_courier_receive(stm_courier *courier, const stm_message *message, size_t of)
{
    begin(courier, message, of, false);
}

size_t stm_courier_n(const stm_courier *courier)
{
    return courier->n;
}

stm_claim stm_courier_claim(const stm_courier *courier, size_t k)
{
    return courier->claims[k];
}

stm_claim stm_courier_through(const stm_courier *courier, size_t k)
{
    return courier->through[k];
}

static int test_requests(stm_courier *c, bool blocks)
{
    int n_done;
    if (blocks)
        STM_MPI(MPI_Waitsome((int)c->n, c->requests, &n_done, c->done, MPI_STATUSES_IGNORE));
    else
        STM_MPI(MPI_Testsome((int)c->n, c->requests, &n_done, c->done, MPI_STATUSES_IGNORE));
    return n_done;
}

static int test_parcels(stm_courier *c, bool blocks)
{
    int n_done = 0;
    for (;;) {
        stm_pieces_move(c->pieces, c->parcels, c->n);
        for (size_t k = 0; k < c->n; k++)
            if (stm_pieces_is_through(c->pieces, c->parcels[k]))
                c->done[n_done++] = (int)k;
        if (n_done > 0 || !blocks)
            return n_done;
        sched_yield();
    }
}

/* Takes those that are done out of those under way, which stay in order. */
static void take_out(stm_courier *c, int n_done)
{
    for (int i = 0; i < n_done; i++) {
        const size_t k = (size_t)c->done[i];
        c->through[c->n_through++] = c->claims[k];
        c->claims[k].of = SIZE_MAX;
        if (c->pieces)
            stm_pieces_end(c->pieces, c->parcels[k]);
    }
    size_t n = 0;
    for (size_t k = 0; k < c->n; k++) {
        if (c->claims[k].of == SIZE_MAX)
            continue;
        c->requests[n] = c->requests[k];
        c->parcels[n] = c->parcels[k];
        c->claims[n++] = c->claims[k];
    }
    c->n = n;
}

size_t stm_courier_poll(stm_courier *c, bool blocks)
{
    c->n_through = 0;
    if (c->n == 0)
        return 0;
    const int n_done = c->pieces ? test_parcels(c, blocks) : test_requests(c, blocks);
    if (n_done > 0)
        take_out(c, n_done);
    return c->n_through;
}
