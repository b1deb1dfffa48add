#include "support/far.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "mpi/collectives.h"
#include "support/support.h"

enum { MOST_ARRAYS = 256, MOST_COPIES = 256, PATIENCE = 3 };

typedef struct {
    char *addresses, *content; /* addresses: no access, or the content's own */
    size_t bytes;
} far_array;

static far_array arrays[MOST_ARRAYS];
static struct {
    void *to;
    const void *from;
    size_t bytes;
} copies[MOST_COPIES]; /* begun, not done: n_done .. n_begun - 1, modulo MOST_COPIES */
static uint64_t n_begun, n_done;
static unsigned n_asked;

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

static void do_copy(void)
{
    const size_t i = n_done++ % MOST_COPIES;
    memcpy(content_of(copies[i].to), content_of(copies[i].from), copies[i].bytes);
}

static void do_all(void)
{
    while (n_done < n_begun)
        do_copy();
}

static void copy(void *device, void *to, const void *from, size_t bytes)
{
    (void)device;
    assert_true(n_begun - n_done < MOST_COPIES);
    const size_t i = n_begun++ % MOST_COPIES;
    copies[i].to = to;
    copies[i].from = from;
    copies[i].bytes = bytes;
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
        do_copy();
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

const stm_reach *far_reach(int kind)
{
    static bool is_direct[FAR_KINDS] = {false, false, true};
    static stm_reach reach[FAR_KINDS];
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
