#include "group/device_reach.h"

#include <stdlib.h>

#include "mpi/courier.h"
#include "mpi/nccl.h"

typedef struct {
    stm_reach table;
    const stm_backend *backend;
    stm_stream *stream, *beside;
    stm_nccl *nccl; /* NULL: MPI carries messages */
} device_reach;

/* Others wait for the message. */
static void demand(stm_status status)
{
    if (status != STM_OK)
        stm_abort_in_team(MPI_COMM_WORLD);
}

static stm_status alloc(void *device, size_t bytes, void *out)
{
    device_reach *r = device;
    return r->backend->alloc(r->stream, bytes, out);
}

static void free_memory(void *device, void *memory)
{
    device_reach *r = device;
    demand(r->backend->synchronize(r->beside));
    r->backend->free(r->stream, memory);
}

static stm_status alloc_host(void *device, size_t bytes, void *out)
{
    device_reach *r = device;
    return r->backend->apart->alloc_host(r->stream, bytes, out);
}

static void free_host(void *device, void *memory)
{
    device_reach *r = device;
    demand(r->backend->synchronize(r->beside));
    r->backend->apart->free_host(r->stream, memory);
}

static void follow(void *device)
{
    device_reach *r = device;
    demand(r->table.direct ? r->backend->synchronize(r->stream) : r->backend->apart->follow(r->beside, r->stream));
}

static void copy(void *device, void *to, const void *from, size_t bytes)
{
    device_reach *r = device;
    demand(r->backend->copy(r->beside, to, from, bytes));
}

static uint64_t mark(void *device)
{
    device_reach *r = device;
    uint64_t mark = 0;
    demand(r->backend->apart->note(r->beside, &mark));
    return mark;
}

static bool has_passed(void *device, uint64_t mark)
{
    device_reach *r = device;
    bool passed = false;
    demand(r->backend->apart->has_passed(r->beside, mark, &passed));
    if (!passed && r->nccl)
        demand(stm_nccl_check(r->nccl));
    return passed;
}

/* Numbers are the backend's reals: real_bytes has nothing to say. */
static void add(void *device, size_t n, size_t real_bytes, const void *x, void *y)
{
    device_reach *r = device;
    (void)real_bytes;
    demand(r->backend->add(r->beside, n, x, y));
    demand(r->backend->synchronize(r->beside));
}

static void add_in_order(void *device, size_t n_parts, size_t n, size_t real_bytes, const void *parts, void *sum)
{
    device_reach *r = device;
    (void)real_bytes;
    demand(r->backend->apart->add_in_order(r->beside, n_parts, n, parts, sum));
    if (!r->nccl)
        demand(r->backend->synchronize(r->beside));
}

static void exchange(void *device, const stm_group_message *messages, size_t n)
{
    device_reach *r = device;
    demand(stm_nccl_exchange(r->nccl, r->backend->apart->queue_of(r->beside), messages, n));
}

static const stm_reach table_of_a_device = {.alloc = alloc,
                                            .free = free_memory,
                                            .alloc_host = alloc_host,
                                            .free_host = free_host,
                                            .follow = follow,
                                            .copy = copy,
                                            .mark = mark,
                                            .has_passed = has_passed,
                                            .add = add,
                                            .add_in_order = add_in_order};

/* With a queue of its own. Collective over comm; same status there. */
static stm_status open_reach(const stm_backend *backend, stm_stream *stream, MPI_Comm comm, device_reach **out)
{
    device_reach *r = NULL;
    stm_status status = stm_alloc(1, sizeof *r, &r);
    if (status == STM_OK) {
        *r = (device_reach){.table = table_of_a_device, .backend = backend, .stream = stream};
        r->table.piece_bytes = backend->apart->piece_bytes;
        r->table.device = r;
        status = backend->apart->open_beside(stream, &r->beside);
    }
    status = stm_agree_on(comm, status);
    if (status != STM_OK)
        stm_device_reach_close(r ? &r->table : NULL);
    else
        *out = r;
    return status;
}

stm_status stm_device_reach_open(const stm_backend *backend, stm_stream *stream, const stm_reach **out)
{
    device_reach *r;
    *out = NULL;
    if (!backend->apart)
        return STM_OK;
    STM_TRY(open_reach(backend, stream, MPI_COMM_WORLD, &r));
    r->table.direct = stm_mpi_reaches_devices(MPI_COMM_WORLD);
    *out = &r->table;
    return STM_OK;
}

/* NCCL connects two ranks as they meet in their first group, in a call that waits for both: here, not where each is at
 * work of its own. room: device memory, [2, n_ranks] words. */
static stm_status connect(const device_reach *r, uint32_t *room, stm_group_message *messages)
{
    int rank, n_ranks;
    size_t n = 0;
    STM_MPI(MPI_Comm_rank(r->table.comm, &rank));
    STM_MPI(MPI_Comm_size(r->table.comm, &n_ranks));
    for (int peer = 0; peer < n_ranks; peer++)
        for (int sends = 0; sends < 2 && peer != rank; sends++)
            messages[n++] = (stm_group_message){
                .peer = peer, .sends = sends, .bytes = room + sends * n_ranks + peer, .n = sizeof *room};
    STM_TRY(r->backend->apart->follow(r->beside, r->stream));
    STM_TRY(stm_nccl_exchange(r->nccl, r->backend->apart->queue_of(r->beside), messages, n));
    return r->backend->synchronize(r->beside);
}

static stm_status connect_all(const device_reach *r)
{
    int n_ranks;
    uint32_t *room = NULL;
    stm_group_message *messages = NULL;
    STM_MPI(MPI_Comm_size(r->table.comm, &n_ranks));
    stm_status status = stm_alloc(2 * (size_t)n_ranks, sizeof *messages, &messages);
    if (status == STM_OK)
        status = r->backend->alloc(r->stream, 2 * (size_t)n_ranks * sizeof *room, &room);
    status = stm_agree_on(r->table.comm, status);
    if (status == STM_OK && connect(r, room, messages) != STM_OK)
        stm_abort_in_team(MPI_COMM_WORLD); /* the others wait in there */
    if (room)
        r->backend->free(r->stream, room);
    free(messages);
    return status;
}

stm_status stm_device_reach_open_nccl(const stm_backend *backend, stm_stream *stream, MPI_Comm comm,
                                      const stm_reach **out)
{
    device_reach *r;
    *out = NULL;
    STM_TRY(open_reach(backend, stream, comm, &r));
    STM_MPI(MPI_Comm_dup(comm, &r->table.comm));
    r->table.exchange = exchange;
    stm_status status = stm_nccl_open(r->table.comm, &r->nccl);
    if (status == STM_OK)
        status = connect_all(r);
    if (status != STM_OK)
        stm_device_reach_close(&r->table);
    else
        *out = &r->table;
    return status;
}

void stm_device_reach_close(const stm_reach *reach)
{
    if (!reach)
        return;
    device_reach *r = (device_reach *)(uintptr_t)reach; /* its first member */
    stm_nccl_close(r->nccl);
    if (r->table.exchange)
        STM_MPI(MPI_Comm_free(&r->table.comm));
    if (r->beside)
        r->backend->close(r->beside);
    free(r);
}

size_t stm_device_reach_courier_bytes(const stm_backend *backend)
{
    return backend->apart ? stm_courier_bytes(&(stm_reach){.piece_bytes = backend->apart->piece_bytes}) : 0;
}
