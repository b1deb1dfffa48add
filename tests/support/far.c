#include "support/far.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "mpi/collectives.h"
#include "support/support.h"

enum { MOST_ARRAYS = 256, MOST_WORK = 256, MOST_MESSAGES = 32, PATIENCE = 3 };

typedef struct {
    char *addresses, *content; /* addresses: no access, or the content's own */
    size_t bytes;
} far_array;

static far_array arrays[MOST_ARRAYS];

/* A copy, or (n_messages > 0) a group of messages, or (n_parts > 0) a sum. */
typedef struct {
    void *to;
    const void *from;
    size_t bytes, n_parts, real_bytes, n_messages;
    stm_group_message messages[MOST_MESSAGES];
} far_work;

static far_work works[MOST_WORK]; /* begun, not done: n_done .. n_begun - 1, modulo MOST_WORK */
static uint64_t n_begun, n_done;
static unsigned n_asked;
static MPI_Comm carrier; /* of groups, which have tags of their own by their number */
static int n_groups;

static char *content_of(const void *at)
{
    for (size_t i = 0; i < MOST_ARRAYS; i++)
        if (arrays[i].addresses && (const char *)at >= arrays[i].addresses &&
            (const char *)at < arrays[i].addresses + arrays[i].bytes)
            return arrays[i].content + ((const char *)at - arrays[i].addresses);
    return (char *)(uintptr_t)at; /* the host's */
}

static stm_status far_alloc(void *device, size_t bytes, void *out)
{
    const bool *direct = device;
    far_array a = {.bytes = STM_MAX(bytes, (size_t)1)};
    size_t i = 0;
    a.content = malloc(a.bytes);
    a.addresses =
        *direct ? a.content : mmap(NULL, a.bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(a.content && a.addresses != MAP_FAILED);
    while (arrays[i].addresses)
        assert_true(++i < MOST_ARRAYS);
    arrays[i] = a;
    memset(a.content, 0xff, a.bytes); /* NaN */
    memcpy(out, &a.addresses, sizeof a.addresses);
    return STM_OK;
}

static void far_free(void *device, void *memory)
{
    size_t i = 0;
    (void)device;
    while (arrays[i].addresses != memory)
        assert_true(++i < MOST_ARRAYS);
    assert_true(n_done == n_begun);
    free(arrays[i].content);
    if (arrays[i].content != arrays[i].addresses)
        munmap(arrays[i].addresses, arrays[i].bytes);
    arrays[i] = (far_array){0};
}

static stm_status alloc_host(void *device, size_t bytes, void *out)
{
    (void)device;
    return stm_alloc(bytes, 1, out);
}

static void free_host(void *device, void *memory)
{
    (void)device;
    free(memory);
}

static void follow(void *device)
{
    (void)device;
}

static void carry(const far_work *w)
{
    MPI_Request requests[MOST_MESSAGES];
    const int tag = n_groups++ % 1000;
    for (size_t i = 0; i < w->n_messages; i++) {
        const stm_group_message *m = &w->messages[i];
        if (m->sends)
            MPI_Isend(content_of(m->bytes), (int)m->n, MPI_BYTE, m->peer, tag, carrier, &requests[i]);
        else
            MPI_Irecv(content_of(m->bytes), (int)m->n, MPI_BYTE, m->peer, tag, carrier, &requests[i]);
    }
    MPI_Waitall((int)w->n_messages, requests, MPI_STATUSES_IGNORE);
}

static void do_work(void)
{
    const far_work *w = &works[n_done++ % MOST_WORK];
    if (w->n_messages > 0)
        carry(w);
    else if (w->n_parts > 0)
        stm_add_in_order(w->n_parts, w->bytes / w->real_bytes, w->real_bytes, content_of(w->from), content_of(w->to));
    else
        memcpy(content_of(w->to), content_of(w->from), w->bytes);
}

static void do_all(void)
{
    while (n_done < n_begun)
        do_work();
}

static far_work *begin_work(void)
{
    assert_true(n_begun - n_done < MOST_WORK);
    far_work *const w = &works[n_begun++ % MOST_WORK];
    *w = (far_work){0};
    return w;
}

static void copy(void *device, void *to, const void *from, size_t bytes)
{
    far_work *const w = begin_work();
    (void)device;
    w->to = to;
    w->from = from;
    w->bytes = bytes;
}

static uint64_t mark(void *device)
{
    (void)device;
    return n_begun;
}

static bool has_passed(void *device, uint64_t mark)
{
    (void)device;
    if (n_done < mark && ++n_asked % PATIENCE == 0)
        do_work();
    return n_done >= mark;
}

static void far_add(void *device, size_t n, size_t real_bytes, const void *x, void *y)
{
    (void)device;
    do_all();
    stm_reach_add(NULL, n, real_bytes, content_of(x), content_of(y));
}

static void far_add_in_order(void *device, size_t n_parts, size_t n, size_t real_bytes, const void *parts, void *sum)
{
    (void)device;
    do_all();
    stm_add_in_order(n_parts, n, real_bytes, content_of(parts), content_of(sum));
}

static void exchange(void *device, const stm_group_message *messages, size_t n)
{
    far_work *const w = begin_work();
    (void)device;
    assert_true(n > 0 && n <= MOST_MESSAGES);
    w->n_messages = n;
    memcpy(w->messages, messages, n * sizeof *messages);
}

static void queue_sum(void *device, size_t n_parts, size_t n, size_t real_bytes, const void *parts, void *sum)
{
    far_work *const w = begin_work();
    (void)device;
    *w = (far_work){.to = sum, .from = parts, .bytes = n * real_bytes, .n_parts = n_parts, .real_bytes = real_bytes};
}

size_t far_n_groups(void)
{
    size_t n = (size_t)n_groups;
    for (uint64_t i = n_done; i < n_begun; i++)
        n += works[i % MOST_WORK].n_messages > 0;
    return n;
}

bool far_is_idle(void)
{
    return n_done == n_begun;
}

const stm_reach *far_reach(int kind)
{
    static bool is_direct[FAR_KINDS] = {[2] = true};
    static stm_reach reach[FAR_KINDS];
    static MPI_Comm comm;
    reach[kind] = (stm_reach){.direct = is_direct[kind],
                              .piece_bytes = 1000,
                              .device = &is_direct[kind],
                              .alloc = far_alloc,
                              .free = far_free,
                              .alloc_host = alloc_host,
                              .free_host = free_host,
                              .follow = follow,
                              .copy = copy,
                              .mark = mark,
                              .has_passed = has_passed,
                              .add = far_add,
                              .add_in_order = far_add_in_order};
    if (kind == FAR_GROUPS) {
        if (!carrier) {
            MPI_Comm_dup(MPI_COMM_WORLD, &carrier);
            MPI_Comm_dup(MPI_COMM_WORLD, &comm);
        }
        reach[kind].comm = comm;
        reach[kind].exchange = exchange;
        reach[kind].add_in_order = queue_sum;
    }
    return kind == 0 ? NULL : &reach[kind];
}

void far_write(const stm_reach *reach, void *to, const void *from, size_t bytes)
{
    do_all();
    memcpy(reach ? content_of(to) : to, from, bytes);
}

void far_read(const stm_reach *reach, void *to, const void *from, size_t bytes)
{
    do_all();
    memcpy(to, reach ? content_of(from) : from, bytes);
}
