/* mpi/watch.h: what one rank sees and all act on, while each works at its own pace.
 *
 * In a round every rank posts {flags that it sees, whether it has work left} as one small non-blocking reduction, works
 * on, and reads what all have posted when it is through; then it may post again:
 *
 *      rank 0   post 0 ..... read 0, post 1 ....... read 1, done, post 2 .... read 2     nobody waits for another
 *      rank 1   post 0 .... read 0, post 1, done .. read 1, post 2 .......... read 2     before its work is done
 *
 * The last round is the one in which nobody had work left: so all post equally often, whatever they work on. */
#ifndef STM_MPI_WATCH_H
#define STM_MPI_WATCH_H

#include "mpi/grid.h"

typedef struct {
    int (*look)(void *context); /* the flags that this rank sees now: bits below STM_WATCH_WORK; cheap */
    void *context;
    int leave;   /* flags for which work is left where it stands; the same on every rank */
    int seen;    /* every flag since it was last set to 0; the same on every rank after an end */
    bool leaves; /* one of `leave` came in time: what is done so far is to be thrown away */
    MPI_Comm comm;
    MPI_Request request;
    int mine, all, n_turns;
} stm_watch;

enum { STM_WATCH_WORK = 1 << 16 };

/* All of them do nothing for NULL. begin and end: collective over comm, on which there is no other collective between
 * them; not before end is `leaves` the same everywhere. turn: every now and then while there is work. */
void stm_watch_begin(stm_watch *watch, MPI_Comm comm);
void stm_watch_turn(stm_watch *watch); /* never waits */
void stm_watch_end(stm_watch *watch);  /* this rank's work is done: waits until that of all is */

/* Behind a wait of some rank, between an end and the next begin: whether one of `leave` has come is the same everywhere
 * afterwards. Collective over comm; NULL on every rank: nothing. */
void stm_watch_heed(stm_watch *watch, MPI_Comm comm);

/* All that anybody has seen up to now, on every rank. Collective over comm. */
int stm_watch_agree(stm_watch *watch, MPI_Comm comm);

/* Whether this rank knows that work is to be left. NULL: no. Local. */
bool stm_watch_leaves(const stm_watch *watch);

#endif
