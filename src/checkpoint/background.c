/* A save beside the run: a thread writes a copy, later another reads the file back; what needs MPI or HDF5 is done by
 * the main thread, when all ranks are that far. */
#include <omp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/save.h"

struct stm_background_save {
    stm_saving saving;
    bool sealed;                          /* written on all ranks; being read back */
    stm_status (*work)(stm_saving *save); /* of the thread that runs, or has run */
    pthread_t thread;
    bool has_thread;
    atomic_bool done;  /* with the work; below is the main thread's from then on */
    stm_status status; /* of the work */
    char *message;     /* of its failure, which belongs to its thread; NULL: memory is short */
    double busy_s;     /* of all parts */
};

size_t stm_checkpoint_copy_bytes(size_t owned_n, size_t n_copies, size_t real_bytes)
{
    return (STM_CHECKPOINT_COPIES - 1 + n_copies) * owned_n * real_bytes;
}

size_t stm_checkpoint_background_bytes(size_t owned_n, size_t n_copies, size_t real_bytes)
{
    enum { N_BLOCKS = 2 }; /* of stm_saving, and to read back through */
    return stm_checkpoint_copy_bytes(owned_n, n_copies, real_bytes) + N_BLOCKS * STM_BLOCK_BYTES;
}

static void do_work(stm_background_save *save)
{
    const double start = stm_now_s();
    save->status = save->work(&save->saving);
    if (save->status != STM_OK && stm_format(&save->message, "%s", stm_failure()) != STM_OK)
        save->message = NULL;
    save->busy_s += stm_now_s() - start;
    atomic_store_explicit(&save->done, true, memory_order_release);
}

/* The thread. */
static void *run(void *context)
{
    omp_set_num_threads(1); /* for its own loops: the others compute */
    do_work(context);
    return NULL;
}

/* Signals are the main thread's. Where there can be no thread, the work is done here and now. */
static void begin_work(stm_background_save *save, stm_status (*work)(stm_saving *))
{
    sigset_t all, before;
    save->work = work;
    atomic_store_explicit(&save->done, false, memory_order_relaxed);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    save->has_thread = pthread_create(&save->thread, NULL, run, save) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!save->has_thread)
        do_work(save);
}

/* Waits for the thread; its failure becomes one of this thread. */
static stm_status end_work(stm_background_save *save)
{
    if (save->has_thread)
        pthread_join(save->thread, NULL);
    save->has_thread = false;
    if (save->status != STM_OK)
        stm_fail(save->status, "%s", save->message ? save->message : "out of memory");
    free(save->message);
    save->message = NULL;
    return save->status;
}

/* What this rank owns, as it is now. copy: a part of each kind. */
static stm_status copy_state(stm_saving *s, void *copy)
{
    const size_t kind_bytes = stm_shards_count(s->shards, s->rank % s->shards->n_ranks) * s->real_bytes;
    char *part = copy;
    for (stm_checkpoint_kind kind = STM_CHECKPOINT_PARAMETERS; kind < STM_CHECKPOINT_N_KINDS;
         kind = stm_saving_next(s, kind)) {
        for (size_t i = 0; i < s->n_pieces; i++)
            STM_TRY(s->model->backend->read(s->model->stream, part + s->pieces[i].packed * s->real_bytes,
                                            stm_saving_source(s, kind, &s->pieces[i]), s->pieces[i].n * s->real_bytes));
        s->copies[kind] = part;
        part += kind_bytes;
    }
    return STM_OK;
}

stm_status stm_checkpoint_save_begin(MPI_Comm comm, const char *folder, const stm_checkpoint_state *state,
                                     const stm_model *model, const stm_shards *shards, const void *exp_avg,
                                     const void *exp_avg_sq, void *copy, stm_background_save **out)
{
    const double start = stm_now_s();
    stm_background_save *save;
    stm_status status;
    STM_TRY(stm_agree_on(comm, stm_alloc(1, sizeof *save, &save)));
    STM_GOTO_OUT(stm_saving_begin(&save->saving, comm, folder, state, model, shards, exp_avg, exp_avg_sq));
    STM_GOTO_OUT(stm_agree_on(comm, copy_state(&save->saving, copy)));
    save->busy_s = stm_now_s() - start;
    begin_work(save, stm_saving_write);
    *out = save;
    return STM_OK;
out:
    stm_checkpoint_save_end(save);
    return status;
}

/* Whether every rank is done with its work. Collective. */
static bool all_are_done(stm_background_save *save)
{
    double busy = !atomic_load_explicit(&save->done, memory_order_acquire);
    stm_all_reduce_max(save->saving.comm, &busy, 1);
    return busy == 0;
}

stm_status stm_checkpoint_save_advance(stm_background_save *save, bool wait, bool *done)
{
    *done = false;
    while (wait || all_are_done(save)) {
        const stm_status worked = end_work(save);
        const double start = stm_now_s();
        stm_status status;
        if (save->sealed)
            status = stm_saving_finish(&save->saving, worked);
        else
            status = stm_saving_seal(&save->saving, worked);
        save->busy_s += stm_now_s() - start;
        *done = save->sealed || status != STM_OK;
        if (*done)
            return status;
        save->sealed = true;
        begin_work(save, stm_saving_read_back);
    }
    return STM_OK;
}

double stm_checkpoint_save_busy_s(const stm_background_save *save)
{
    return save->busy_s;
}

void stm_checkpoint_save_end(stm_background_save *save)
{
    if (!save)
        return;
    if (save->has_thread)
        pthread_join(save->thread, NULL);
    free(save->message);
    stm_saving_clear(&save->saving);
    free(save);
}
