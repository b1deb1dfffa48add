#include "mpi/window.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* SLACK_BYTES: for what MPI keeps beside the parts. */
enum { PAGE = 4096, SLACK_BYTES = 1 << 20 };

struct stm_window {
    MPI_Comm team, node;
    int team_size, team_rank, node_rank, node_size;
    int *node_ranks; /* [team_size]: in `node`; -1: elsewhere */
    size_t *bytes;   /* [team_size]: of the parts */
    MPI_Win win;     /* MPI_WIN_NULL: none yet */
    char **parts;    /* [team_size]; NULL: elsewhere */
};

static bool any_shares(const int *nodes, int n)
{
    for (int i = 0; i < n; i++)
        for (int k = 0; k < i; k++)
            if (nodes[i] == nodes[k])
                return true;
    return false;
}

static void list_node(stm_window *w, const int *nodes)
{
    int n = 0;
    for (int i = 0; i < w->team_size; i++)
        w->node_ranks[i] = nodes[i] == nodes[w->team_rank] ? n++ : -1;
    w->node_rank = w->node_ranks[w->team_rank];
    w->node_size = n;
}

stm_status stm_window_create(const stm_grid *grid, stm_window **out)
{
    const size_t n = (size_t)grid->team_size;
    stm_window *w = NULL;
    *out = NULL;
    if (!any_shares(grid->team_nodes, grid->team_size))
        return STM_OK;
    stm_status status = stm_alloc(1, sizeof *w, &w);
    if (status == STM_OK) {
        *w = (stm_window){.team = grid->team_comm,
                          .node = MPI_COMM_NULL,
                          .team_size = grid->team_size,
                          .team_rank = grid->team_rank,
                          .win = MPI_WIN_NULL};
        status = stm_alloc(n, sizeof *w->node_ranks, &w->node_ranks);
        status = status == STM_OK ? stm_alloc(n, sizeof *w->bytes, &w->bytes) : status;
        status = status == STM_OK ? stm_alloc(n, sizeof *w->parts, &w->parts) : status;
    }
    status = stm_agree_on(grid->team_comm, status);
    if (status != STM_OK) {
        stm_window_destroy(w);
        return status;
    }
    list_node(w, grid->team_nodes);
    STM_MPI(MPI_Comm_split(w->team, grid->team_nodes[w->team_rank], w->team_rank, &w->node));
    STM_MPI(MPI_Comm_set_errhandler(w->node, MPI_ERRORS_RETURN)); /* a window that fails is only not used */
    *out = w;
    return STM_OK;
}

static bool agree(MPI_Comm comm, bool mine)
{
    int all, one = mine;
    STM_MPI(MPI_Allreduce(&one, &all, 1, MPI_INT, MPI_LAND, comm));
    return all;
}

static void drop(stm_window *w)
{
    if (w->win != MPI_WIN_NULL) {
        STM_MPI(MPI_Win_unlock_all(w->win));
        STM_MPI(MPI_Win_free(&w->win));
    }
    for (int i = 0; i < w->team_size; i++)
        w->parts[i] = NULL;
}

void stm_window_destroy(stm_window *window)
{
    if (!window)
        return;
    if (window->node != MPI_COMM_NULL) {
        drop(window);
        STM_MPI(MPI_Comm_free(&window->node));
    }
    free(window->node_ranks);
    free(window->bytes);
    free(window->parts);
    free(window);
}

/* Whether the place where shared memory lies, by what it says of itself, can take the node's parts: MPI may stop, or
 * wait forever, where it cannot. */
static bool has_room(const stm_window *w)
{
    const char *chosen = getenv("OMPI_MCA_osc_sm_backing_directory");
    struct statvfs place;
    size_t bytes = SLACK_BYTES;
    for (int i = 0; i < w->team_size; i++)
        bytes += w->node_ranks[i] >= 0 ? w->bytes[i] : 0;
    return statvfs(chosen ? chosen : "/dev/shm", &place) == 0 &&
           (double)place.f_bavail * (double)place.f_frsize >= (double)bytes;
}

/* A page without memory behind it would end the process when it is first written. The kernel's own write says so. */
static bool touch(char *part, size_t bytes)
{
    const int zeros = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    size_t n = 0;
    ssize_t more = 1;
    while (zeros >= 0 && n < bytes && more > 0) {
        more = read(zeros, part + n, STM_MIN(bytes - n, (size_t)1 << 30));
        n += more > 0 ? (size_t)more : 0;
    }
    if (zeros >= 0)
        close(zeros);
    return n == bytes;
}

static void find_parts(stm_window *w)
{
    for (int i = 0; i < w->team_size; i++) {
        MPI_Aint bytes;
        int unit;
        if (w->node_ranks[i] >= 0)
            STM_MPI(MPI_Win_shared_query(w->win, w->node_ranks[i], &bytes, &unit, &w->parts[i]));
    }
}

static bool allocate(stm_window *w)
{
    char *part = NULL;
    MPI_Info info;
    STM_MPI(MPI_Info_create(&info));
    STM_MPI(MPI_Info_set(info, "alloc_shared_noncontig", "true")); /* each part near its rank */
    const int code = MPI_Win_allocate_shared((MPI_Aint)w->bytes[w->team_rank], 1, info, w->node, &part, &w->win);
    STM_MPI(MPI_Info_free(&info));
    if (!agree(w->node, code == MPI_SUCCESS)) {
        w->win = MPI_WIN_NULL; /* some ranks have none: it cannot be freed together */
        return false;
    }
    STM_MPI(MPI_Win_lock_all(MPI_MODE_NOCHECK, w->win));
    find_parts(w);
    return touch(w->parts[w->team_rank], w->bytes[w->team_rank]);
}

bool stm_window_reserve(stm_window *window, const size_t *bytes)
{
    bool grows = false;
    for (int i = 0; i < window->team_size; i++)
        grows = grows || bytes[i] > window->bytes[i];
    if (!grows)
        return true;
    drop(window);
    for (int i = 0; i < window->team_size; i++)
        window->bytes[i] = STM_MAX(window->bytes[i], (bytes[i] + PAGE - 1) / PAGE * PAGE);
    const bool tries = agree(window->node, window->node_size == 1 || has_room(window));
    const bool fine = tries && (window->node_size == 1 || allocate(window));
    if (agree(window->team, fine))
        return true;
    drop(window);
    for (int i = 0; i < window->team_size; i++)
        window->bytes[i] = 0;
    return false;
}

void *stm_window_at(const stm_window *window, int team_rank, size_t offset)
{
    return window->parts[team_rank] + offset;
}

void stm_window_synchronize(const stm_window *window)
{
    if (window)
        STM_MPI(MPI_Win_sync(window->win));
}

void stm_window_barrier(const stm_window *window)
{
    STM_MPI(MPI_Barrier(window->node));
}

size_t stm_window_bytes(const stm_window *window)
{
    return window && window->win != MPI_WIN_NULL ? window->bytes[window->team_rank] : 0;
}
