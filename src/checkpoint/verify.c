/* A file against its hashes. */
#include <omp.h>
#include <stdlib.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/disk.h"
#include "checkpoint/hashes.h"

/* The rows first, first + stride, .. of the wanted kinds. */
typedef struct {
    const stm_hash_table *table;
    int descriptor;
    const char *path;
    unsigned kinds;
    size_t first, stride;
} checking;

static bool is_wanted(const checking *c, size_t i)
{
    return c->kinds >> c->table->rows[i].kind & 1;
}

enum { AHEAD_BYTES = 64 << 20 }; /* that the disk is asked for in advance */

/* Row i is about to be read: asks for what lies within AHEAD_BYTES behind it, once. */
static void read_ahead(const checking *c, size_t i, size_t *asked)
{
    const stm_hash_row *rows = c->table->rows;
    for (; *asked < c->table->n_rows && rows[*asked].offset <= rows[i].offset + AHEAD_BYTES; *asked += c->stride)
        if (is_wanted(c, *asked))
            stm_disk_will_read(c->descriptor, rows[*asked].offset, rows[*asked].bytes);
}

enum { MOST_THREADS = 4 }; /* they hash faster than disks read, and each takes STM_BLOCK_BYTES */

/* The first row that does not have its hash, n_rows: none. buffers: [n_threads, STM_BLOCK_BYTES]. */
static size_t first_bad(const checking *c, int n_threads, char *buffers)
{
    size_t bad = c->table->n_rows, asked = c->first;
#pragma omp parallel for schedule(dynamic, 1) num_threads(n_threads) reduction(min : bad)
    for (size_t i = c->first; i < c->table->n_rows; i += c->stride) {
#pragma omp critical(stm_verify_read_ahead)
        read_ahead(c, i, &asked);
        char *buffer = buffers + (size_t)omp_get_thread_num() * STM_BLOCK_BYTES;
        if (is_wanted(c, i) && stm_hashes_check(c->table, i, c->descriptor, c->path, buffer) != STM_OK)
            bad = STM_MIN(bad, i);
    }
    return bad;
}

static stm_status check_rows(const checking *c)
{
    char *buffers = NULL;
    const int n_threads = STM_MIN(omp_get_max_threads(), (int)MOST_THREADS);
    STM_TRY(stm_alloc((size_t)n_threads, STM_BLOCK_BYTES, &buffers));
    const size_t bad = first_bad(c, n_threads, buffers);
    stm_status status = STM_OK;
    if (bad < c->table->n_rows) /* once more, for a message belongs to the thread that failed */
        status = stm_hashes_check(c->table, bad, c->descriptor, c->path, buffers);
    free(buffers);
    return status;
}

stm_status stm_hashes_check_all(const stm_hash_table *table, int descriptor, const char *path)
{
    return check_rows(&(checking){table, descriptor, path, STM_CHECKPOINT_ALL_KINDS, 0, 1});
}

stm_status stm_checkpoint_verify_here(const char *path, unsigned kinds)
{
    stm_status status = STM_OK;
    int descriptor = -1;
    stm_hash_table table = {0};
    STM_GOTO_OUT(stm_disk_open(path, false, &descriptor));
    STM_GOTO_OUT(stm_hashes_open(descriptor, path, &table));
    STM_GOTO_OUT(check_rows(&(checking){&table, descriptor, path, kinds, 0, 1}));
out:
    free(table.rows);
    stm_disk_close(descriptor);
    return status;
}

/* Rank 0 has the table; the others receive it. Collective. */
static stm_status share_table(MPI_Comm comm, int rank, stm_hash_table *table)
{
    stm_hash_row *const rows = table->rows;
    stm_broadcast(comm, 0, table, sizeof *table);
    table->rows = rows; /* an address means nothing elsewhere */
    STM_TRY(stm_agree_on(comm, rank == 0 ? STM_OK : stm_alloc(table->n_rows, sizeof *table->rows, &table->rows)));
    stm_broadcast(comm, 0, table->rows, table->n_rows * sizeof *table->rows);
    return STM_OK;
}

stm_status stm_checkpoint_verify(MPI_Comm comm, const char *path)
{
    stm_status status;
    int rank, n_ranks, descriptor = -1;
    stm_hash_table table = {0};
    STM_MPI(MPI_Comm_rank(comm, &rank));
    STM_MPI(MPI_Comm_size(comm, &n_ranks));
    status = stm_disk_open(path, false, &descriptor);
    if (status == STM_OK && rank == 0)
        status = stm_hashes_open(descriptor, path, &table);
    STM_GOTO_OUT(stm_agree_on(comm, status));
    STM_GOTO_OUT(share_table(comm, rank, &table));
    status = check_rows(&(checking){&table, descriptor, path, STM_CHECKPOINT_ALL_KINDS, (size_t)rank, (size_t)n_ranks});
    STM_GOTO_OUT(stm_agree_on(comm, status));
out:
    free(table.rows);
    stm_disk_close(descriptor);
    return status;
}
