/* A thread fetches pieces in order, as far ahead as it may, and none that was left behind. */
#include "model/prefetch.h"
#include "support/support.h"

#include <stdatomic.h>
#include <unistd.h>

enum { N = 100, AHEAD = 7 };

typedef struct {
    atomic_size_t n, last;
    atomic_bool in_order;
} record;

static void note(const void *context, size_t i)
{
    record *r = *(record *const *)context;
    if (r->n > 0 && i <= r->last)
        r->in_order = false;
    r->last = i;
    r->n++;
}

static void wait_for(record *r, size_t n)
{
    for (int i = 0; i < 5000 && r->n < n; i++)
        usleep(1000);
    usleep(2000); /* time to go too far */
}

static void pieces_come_in_order_and_as_far_ahead_as_allowed(void **state)
{
    (void)state;
    record r = {.in_order = true}, *context = &r;
    stm_prefetch *prefetch = stm_prefetch_start(N, AHEAD, note, &context);
    assert_non_null(prefetch);
    wait_for(&r, AHEAD);
    assert_int_equal(r.n, AHEAD);
    stm_prefetch_reached(prefetch, 50); /* 7 .. 49 are left out */
    wait_for(&r, (size_t)(2 * AHEAD));
    assert_int_equal(r.n, 2 * AHEAD);
    assert_int_equal(r.last, 50 + AHEAD - 1);
    stm_prefetch_reached(prefetch, N - 1);
    wait_for(&r, (size_t)(2 * AHEAD + 1));
    assert_int_equal(r.last, N - 1);
    stm_prefetch_stop(prefetch);
    assert_int_equal(r.n, 2 * AHEAD + 1);
    assert_true(r.in_order);
}

static void it_stops_where_it_waits(void **state)
{
    (void)state;
    record r = {.in_order = true}, *context = &r;
    stm_prefetch *prefetch = stm_prefetch_start(N, AHEAD, note, &context);
    wait_for(&r, AHEAD);
    stm_prefetch_stop(prefetch);
    assert_int_equal(r.n, AHEAD);
    stm_prefetch_stop(NULL);
    stm_prefetch_reached(NULL, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_come_in_order_and_as_far_ahead_as_allowed),
        cmocka_unit_test(it_stops_where_it_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
