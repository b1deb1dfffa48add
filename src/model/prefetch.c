#include "model/prefetch.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "base/base.h"

struct stm_prefetch {
    size_t n, ahead;
    void (*fetch)(const void *context, size_t i);
    const void *context;
    pthread_t thread;
    pthread_mutex_t lock; /* for what follows */
    pthread_cond_t moved;
    size_t reached;
};

/* The piece to fetch after those before `next`, or n: none. Waits until the caller is close enough. */
static size_t wait_for_piece(stm_prefetch *p, size_t next)
{
    pthread_mutex_lock(&p->lock);
    while (next < p->n && next >= p->reached + p->ahead)
        pthread_cond_wait(&p->moved, &p->lock);
    const size_t piece = STM_MAX(next, p->reached);
    pthread_mutex_unlock(&p->lock);
    return piece;
}

static void *run(void *argument)
{
    stm_prefetch *p = argument;
    for (size_t i = wait_for_piece(p, 0); i < p->n; i = wait_for_piece(p, i + 1))
        p->fetch(p->context, i);
    return NULL;
}

stm_prefetch *stm_prefetch_start(size_t n, size_t ahead, void (*fetch)(const void *context, size_t i),
                                 const void *context)
{
    stm_prefetch *p;
    sigset_t all, before;
    if (stm_alloc(1, sizeof *p, &p) != STM_OK)
        return NULL;
    *p = (stm_prefetch){.n = n, .ahead = ahead, .fetch = fetch, .context = context};
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->moved, NULL);
    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const bool started = pthread_create(&p->thread, NULL, run, p) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (started)
        return p;
    pthread_cond_destroy(&p->moved);
    pthread_mutex_destroy(&p->lock);
    free(p);
    return NULL;
}

void stm_prefetch_reached(stm_prefetch *p, size_t i)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->reached = i;
    pthread_cond_signal(&p->moved);
    pthread_mutex_unlock(&p->lock);
}

void stm_prefetch_stop(stm_prefetch *p)
{
    if (!p)
        return;
    stm_prefetch_reached(p, p->n);
    pthread_join(p->thread, NULL);
    pthread_cond_destroy(&p->moved);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
