#include "mpi/pieces.h"

#include <assert.h>
#include <stdlib.h>

#include "mpi/collectives.h"

enum { PLACES = 4, WAYS = 2 }; /* of each way */

typedef struct {
    stm_message message;
    bool sends, in_use;
    size_t bytes, n_begun, n_through;
    MPI_Request word; /* that the receiver is ready: on its way, or awaited */
} parcel;

/* Where a piece is: on its way out of the device, between the ranks, or into the device. */
typedef enum { LEAVES, TRAVELS, ENTERS } stage;

typedef struct {
    bool in_use;
    stage stage;
    size_t parcel, first, bytes;
    uint64_t mark; /* of the copy */
    MPI_Request request;
} place;

struct stm_pieces {
    const stm_reach *reach;
    char *memory; /* [WAYS * PLACES, piece_bytes] */
    place places[WAYS * PLACES];
    size_t order[WAYS * PLACES], n_busy; /* places in use, in the order in which they were taken */
    parcel *parcels;
    size_t n_parcels, capacity;
};

size_t stm_pieces_bytes(const stm_reach *reach)
{
    return WAYS * PLACES * reach->piece_bytes;
}

stm_status stm_pieces_create(const stm_reach *reach, stm_pieces **out)
{
    stm_pieces *p;
    STM_TRY(stm_alloc(1, sizeof *p, &p));
    *p = (stm_pieces){.reach = reach};
    const stm_status status = reach->alloc_host(reach->device, stm_pieces_bytes(reach), &p->memory);
    if (status != STM_OK) {
        free(p);
        return status;
    }
    *out = p;
    return STM_OK;
}

void stm_pieces_destroy(stm_pieces *pieces)
{
    if (!pieces)
        return;
    pieces->reach->free_host(pieces->reach->device, pieces->memory);
    free(pieces->parcels);
    free(pieces);
}

/* Messages */

static size_t free_parcel(stm_pieces *p)
{
    for (size_t i = 0; i < p->n_parcels; i++)
        if (!p->parcels[i].in_use)
            return i;
    if (stm_reserve(&p->parcels, &p->capacity, p->n_parcels + 1, sizeof *p->parcels) != STM_OK)
        stm_mpi_abort(MPI_ERR_NO_MEM, "memory for messages", __FILE__, __LINE__);
    return p->n_parcels++;
}

size_t stm_pieces_begin(stm_pieces *p, const stm_message *message, bool sends)
{
    const size_t i = free_parcel(p);
    parcel *const m = &p->parcels[i];
    *m = (parcel){.message = *message, .sends = sends, .in_use = true, .bytes = message->n * message->number_bytes};
    assert(m->bytes > 0);
    const int tag = message->tag + STM_COURIER_TAGS;
    if (sends)
        STM_MPI(MPI_Irecv(NULL, 0, MPI_BYTE, message->peer, tag, message->comm, &m->word));
    else
        STM_MPI(MPI_Isend(NULL, 0, MPI_BYTE, message->peer, tag, message->comm, &m->word));
    return i;
}

static bool is_done(MPI_Request *request)
{
    int done = 1;
    if (*request != MPI_REQUEST_NULL)
        STM_MPI(MPI_Test(request, &done, MPI_STATUS_IGNORE));
    return done != 0;
}

bool stm_pieces_is_through(stm_pieces *p, size_t i)
{
    parcel *const m = &p->parcels[i];
    return m->n_through == m->bytes && is_done(&m->word);
}

void stm_pieces_end(stm_pieces *p, size_t i)
{
    p->parcels[i].in_use = false;
}

/* Pieces */

static char *memory_of(const stm_pieces *p, size_t at)
{
    return p->memory + at * p->reach->piece_bytes;
}

static char *array_at(const stm_pieces *p, const place *of)
{
    return (char *)p->parcels[of->parcel].message.numbers + of->first;
}

static void begin_copy(stm_pieces *p, size_t at, stage next)
{
    place *const of = &p->places[at];
    const stm_reach *reach = p->reach;
    if (next == LEAVES)
        reach->copy(reach->device, memory_of(p, at), array_at(p, of), of->bytes);
    else
        reach->copy(reach->device, array_at(p, of), memory_of(p, at), of->bytes);
    of->mark = reach->mark(reach->device);
    of->stage = next;
}

/* Whether the piece is through, and its place free. *behind: an earlier one has not left the device yet, so that this
 * must not be sent: a copy may end between two questions. */
static bool advance(stm_pieces *p, size_t at, bool *behind)
{
    place *const of = &p->places[at];
    parcel *const m = &p->parcels[of->parcel];
    if (of->stage == LEAVES) {
        *behind = *behind || !p->reach->has_passed(p->reach->device, of->mark);
        if (*behind)
            return false;
        STM_MPI(MPI_Isend(memory_of(p, at), (int)of->bytes, MPI_BYTE, m->message.peer, m->message.tag, m->message.comm,
                          &of->request));
        of->stage = TRAVELS;
    }
    if (of->stage == TRAVELS) {
        if (!is_done(&of->request))
            return false;
        if (!m->sends)
            begin_copy(p, at, ENTERS);
    }
    if (of->stage == ENTERS && !p->reach->has_passed(p->reach->device, of->mark))
        return false;
    m->n_through += of->bytes;
    return true;
}

static void advance_all(stm_pieces *p)
{
    size_t n = 0;
    bool behind = false;
    for (size_t i = 0; i < p->n_busy; i++) {
        const size_t at = p->order[i];
        if (advance(p, at, &behind))
            p->places[at].in_use = false;
        else
            p->order[n++] = at;
    }
    p->n_busy = n;
}

/* A free place of the way, or WAYS * PLACES. */
static size_t find_place(const stm_pieces *p, bool sends)
{
    for (size_t at = sends ? PLACES : 0; at < (sends ? WAYS * PLACES : PLACES); at++)
        if (!p->places[at].in_use)
            return at;
    return WAYS * PLACES;
}

/* Begins the next piece of a message; false: not yet. */
static bool begin_piece(stm_pieces *p, size_t i)
{
    parcel *const m = &p->parcels[i];
    const size_t at = find_place(p, m->sends), bytes = STM_MIN(p->reach->piece_bytes, m->bytes - m->n_begun);
    int has_come = 1;
    MPI_Message arriving;
    if (at == WAYS * PLACES)
        return false;
    if (m->sends && !is_done(&m->word))
        return false;
    if (!m->sends)
        STM_MPI(MPI_Improbe(m->message.peer, m->message.tag, m->message.comm, &has_come, &arriving, MPI_STATUS_IGNORE));
    if (!has_come)
        return false;
    place *const of = &p->places[at];
    *of = (place){.in_use = true, .stage = TRAVELS, .parcel = i, .first = m->n_begun, .bytes = bytes};
    if (m->sends)
        begin_copy(p, at, LEAVES);
    else
        STM_MPI(MPI_Imrecv(memory_of(p, at), (int)bytes, MPI_BYTE, &arriving, &of->request));
    m->n_begun += bytes;
    p->order[p->n_busy++] = at;
    return true;
}

static bool is_same_way(const parcel *a, const parcel *b)
{
    return a->sends == b->sends && a->message.peer == b->message.peer && a->message.tag == b->message.tag &&
           a->message.comm == b->message.comm;
}

/* Whether all pieces of the messages that come before the k-th on its way have begun. */
static bool is_its_turn(const stm_pieces *p, const size_t *parcels, size_t k)
{
    for (size_t j = 0; j < k; j++) {
        const parcel *before = &p->parcels[parcels[j]];
        if (before->n_begun < before->bytes && is_same_way(before, &p->parcels[parcels[k]]))
            return false;
    }
    return true;
}

void stm_pieces_move(stm_pieces *p, const size_t *parcels, size_t n)
{
    advance_all(p);
    for (size_t k = 0; k < n; k++) {
        const parcel *m = &p->parcels[parcels[k]];
        if (m->n_begun < m->bytes && is_its_turn(p, parcels, k))
            while (m->n_begun < m->bytes && begin_piece(p, parcels[k]))
                ;
    }
}
