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
    size_t n_begun, n_done, n_released;
    bool taken;
    double driven_s; /* monotonic clock */
    MPI_Request requests[];
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

/* Counts, in their order, the messages that are through. */
static void advance(stm_link *link)
{
    int through = 1;
    while (through && link->n_done < link->n_begun) {
        STM_MPI(MPI_Test(&link->requests[slot_of(link, link->n_done)], &through, MPI_STATUS_IGNORE));
        link->n_done += through != 0;
    }
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
    const stm_link_options *o = &link->options;
    assert(!o->sends && n <= o->slot_reals && link->n_begun < link->n_released + o->n_slots);
    STM_MPI(MPI_Irecv(slot_at(link, link->n_begun), (int)n, stm_mpi_real(o->real_bytes), o->peer, o->tag, o->comm,
                      &link->requests[slot_of(link, link->n_begun)]));
    link->n_begun++;
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
    stm_link *link = stm_scratch(sizeof *link + options->n_slots * sizeof *link->requests);
    *link = (stm_link){.options = *options};
    for (size_t i = 0; i < options->n_slots; i++)
        link->requests[i] = MPI_REQUEST_NULL;
    if (!options->sends)
        post_known(link);
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
    const stm_link_options *o = &link->options;
    assert(link->taken && n <= o->slot_reals);
    STM_MPI(MPI_Isend(slot_at(link, link->n_begun), (int)n, stm_mpi_real(o->real_bytes), o->peer, o->tag, o->comm,
                      &link->requests[slot_of(link, link->n_begun)]));
    link->n_begun++;
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
