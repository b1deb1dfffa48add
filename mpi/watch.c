#include "mpi/watch.h"

enum { TURNS = 8 }; /* between two posts, at least */

static void post(stm_watch *watch, int work)
{
    watch->n_turns = 0;
    watch->mine = watch->look(watch->context) | work;
    STM_MPI(MPI_Iallreduce(&watch->mine, &watch->all, 1, MPI_INT, MPI_BOR, watch->comm, &watch->request));
}

static void read(stm_watch *watch)
{
    watch->seen |= watch->all & ~STM_WATCH_WORK;
    watch->leaves = watch->leaves || (watch->all & STM_WATCH_WORK && watch->seen & watch->leave);
}

void stm_watch_begin(stm_watch *watch, MPI_Comm comm)
{
    if (!watch)
        return;
    watch->comm = comm;
    watch->leaves = false;
    post(watch, STM_WATCH_WORK);
}

void stm_watch_turn(stm_watch *watch)
{
    int through;
    if (!watch)
        return;
    watch->n_turns++;
    STM_MPI(MPI_Test(&watch->request, &through,
                     MPI_STATUS_IGNORE)); /* once through, the request is null, and is so again */
    if (!through || watch->n_turns < TURNS)
        return;
    read(watch);
    post(watch, STM_WATCH_WORK);
}

void stm_watch_end(stm_watch *watch)
{
    if (!watch)
        return;
    while (true) {
        STM_MPI(MPI_Wait(&watch->request, MPI_STATUS_IGNORE));
        read(watch);
        if (!(watch->all & STM_WATCH_WORK))
            return;
        post(watch, 0);
    }
}

int stm_watch_agree(stm_watch *watch, MPI_Comm comm)
{
    const int mine = watch->look(watch->context);
    int all;
    STM_MPI(MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_BOR, comm));
    return watch->seen |= all;
}

void stm_watch_heed(stm_watch *watch, MPI_Comm comm)
{
    if (watch)
        watch->leaves = (stm_watch_agree(watch, comm) & watch->leave) != 0;
}

bool stm_watch_leaves(const stm_watch *watch)
{
    return watch && watch->leaves;
}
