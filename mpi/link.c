#include "mpi/link.h"

#include <assert.h>
#include <limits.h>

#include "mpi/collectives.h"

static const double drive_s = 1e-4;

/* Messages are counted in their order; message i has slot i % n_slots.
 *
 *      sender      0 .. n_done: have left      .. n_begun: on their way      the next is taken (written), or not
 *      receiver    0 .. n_released             .. n_done: have arrived       .. n_begun: receives are posted
 */
struct stm_link {
    stm_link_options options;
    stm_courier *own; /* NULL: the caller's is used */
    size_t n_begun, n_done, n_released;
    bool taken;
    double driven_s; /* monotonic clock */
    bool through[];  /* [n_slots]: the message in it is through, though others before it may not be */
};

static size_t slot_of(const stm_link *link, size_t i)
{
    return i % link->options.n_slots;
}

static void *slot_at(const stm_link *link, size_t i)
{
    const stm_link_options *o = &link->options;
    return (char *)o->slots + slot_of(link, i) * o->slot_reals * o->real_bytes;
}

/* A message's claim is where its link wants to read that it is through: links that share a courier poll for each other.
 */
static void poll(stm_courier *courier)
{
    const size_t n = stm_courier_poll(courier, false);
    for (size_t k = 0; k < n; k++)
        *(bool *)(uintptr_t)stm_courier_through(courier, k).of = true;
}

/* Counts, in their order, the messages that are through. */
static void advance(stm_link *link)
{
    poll(link->options.courier);
    while (link->n_done < link->n_begun && link->through[slot_of(link, link->n_done)])
        link->n_done++;
}

/* The next message, of n reals, is the courier's. */
static void begin(stm_link *link, size_t n)
{
    const stm_link_options *o = &link->options;
    const stm_message message = {.comm = o->comm,
                                 .peer = o->peer,
                                 .tag = o->tag,
                                 .numbers = slot_at(link, link->n_begun),
                                 .n = n,
                                 .number_bytes = o->real_bytes};
    bool *through = &link->through[slot_of(link, link->n_begun++)];
    *through = false;
    (o->sends ? stm_courier_send : stm_courier_receive)(o->courier, &message, (size_t)(uintptr_t)through);
}

static void wait_for(stm_link *link, size_t n_done)
{
    assert(n_done <= link->n_begun);
    advance(link);
    while (link->n_done < n_done) {
        if (link->options.progress.drive)
            link->options.progress.drive(link->options.progress.context);
        advance(link);
    }
}

static void post(stm_link *link, size_t n)
{
    assert(!link->options.sends && n <= link->options.slot_reals);
    assert(link->n_begun < link->n_released + link->options.n_slots);
    begin(link, n);
}

static void post_known(stm_link *link)
{
    const stm_link_options *o = &link->options;
    while (o->sizes && link->n_begun < o->n && link->n_begun < link->n_released + o->n_slots)
        post(link, o->sizes[link->n_begun]);
}

stm_link *stm_link_create(const stm_link_options *options)
{
    assert(options->n_slots > 0);
    if (options->slot_reals > INT_MAX)
        stm_mpi_abort(MPI_ERR_COUNT, "a message between stages", __FILE__, __LINE__);
    stm_link *link = stm_scratch(sizeof *link + options->n_slots * sizeof *link->through);
    *link = (stm_link){.options = *options};
    if (!options->courier && stm_courier_create(NULL, options->n_slots, &link->own) != STM_OK)
        stm_mpi_abort(MPI_ERR_NO_MEM, "memory for messages", __FILE__, __LINE__);
    if (!options->courier)
        link->options.courier = link->own;
    if (!options->sends) {
        stm_reach_follow(stm_courier_reach(link->options.courier)); /* slots may have served for something else */
        post_known(link);
    }
    return link;
}

void stm_link_destroy(stm_link *link)
{
    if (!link)
        return;
    assert(!link->taken);
    if (link->options.sends)
        wait_for(link, link->n_begun);
    assert(link->options.sends ||
           (link->n_released == link->n_begun && (!link->options.sizes || link->n_begun == link->options.n)));
    stm_courier_destroy(link->own);
    stm_scratch_free(link);
}

void *stm_link_take(stm_link *link)
{
    const size_t n_slots = link->options.n_slots;
    assert(link->options.sends && !link->taken);
    if (link->n_begun >= n_slots)
        wait_for(link, link->n_begun + 1 - n_slots);
    link->taken = true;
    return slot_at(link, link->n_begun);
}

void stm_link_send(stm_link *link, size_t n)
{
    assert(link->taken && n <= link->options.slot_reals);
    stm_reach_follow(stm_courier_reach(link->options.courier));
    begin(link, n);
    link->taken = false;
}

void stm_link_expect(stm_link *link, size_t n)
{
    assert(!link->options.sizes);
    post(link, n);
}

bool stm_link_has(stm_link *link)
{
    assert(!link->options.sends && !link->taken);
    advance(link);
    return link->n_done > link->n_released;
}

const void *stm_link_wait(stm_link *link)
{
    assert(!link->options.sends && !link->taken);
    wait_for(link, link->n_released + 1);
    link->taken = true;
    return slot_at(link, link->n_released);
}

void stm_link_release(stm_link *link)
{
    assert(!link->options.sends && link->taken);
    stm_reach_follow(stm_courier_reach(link->options.courier)); /* what reads the slot comes before what fills it */
    link->taken = false;
    link->n_released++;
    post_known(link);
}

void stm_link_drive(stm_link *link)
{
    if (!link || link->n_done == link->n_begun)
        return;
    const double now_s = stm_now_s();
    if (now_s - link->driven_s < drive_s)
        return;
    advance(link);
    link->driven_s = now_s;
}
