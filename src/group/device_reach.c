#include "group/device_reach.h"

#include <stdlib.h>

#include "mpi/courier.h"

typedef struct {
    stm_reach table;
    const stm_backend *backend;
    stm_stream *stream, *beside;
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
    demand(r->backend->synchronize(r->beside));
}

stm_status stm_device_reach_open(const stm_backend *backend, stm_stream *stream, const stm_reach **out)
{
    device_reach *r = NULL;
    *out = NULL;
    if (!backend->apart)
        return STM_OK;
    stm_status status = stm_alloc(1, sizeof *r, &r);
    if (status == STM_OK) {
        r->backend = backend;
        r->stream = stream;
        status = backend->apart->open_beside(stream, &r->beside);
    }
    status = stm_agree_on(MPI_COMM_WORLD, status);
    if (status != STM_OK) {
        stm_device_reach_close(r ? &r->table : NULL);
        return status;
    }
    r->table = (stm_reach){.direct = stm_mpi_reaches_devices(MPI_COMM_WORLD),
                           .piece_bytes = backend->apart->piece_bytes,
                           .device = r,
                           .alloc = alloc,
                           .free = free_memory,
                           .alloc_host = alloc_host,
                           .free_host = free_host,
                           .follow = follow,
                           .copy = copy,
                           .mark = mark,
                           .has_passed = has_passed,
                           .add = add,
                           .add_in_order = add_in_order};
    *out = &r->table;
    return STM_OK;
}

void stm_device_reach_close(const stm_reach *reach)
{
    if (!reach)
        return;
    device_reach *r = (device_reach *)(uintptr_t)reach; /* its first member */
    if (r->beside)
        r->backend->close(r->beside);
    free(r);
}

size_t stm_device_reach_courier_bytes(const stm_backend *backend)
{
    return backend->apart ? stm_courier_bytes(&(stm_reach){.piece_bytes = backend->apart->piece_bytes}) : 0;
}
