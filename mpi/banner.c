#include "mpi/banner.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    const char *host;
    const char *device;                                       /* of its first rank */
    int n_ranks, n_cores, n_threads, fewest, most, n_devices; /* n_threads: of all its ranks */
} node;

static const char *plural(int64_t n)
{
    return n == 1 ? "" : "s";
}

static bool alike(const node *a, const node *b)
{
    return a->n_ranks == b->n_ranks && a->n_cores == b->n_cores && a->n_threads == b->n_threads &&
           a->fewest == b->fewest && a->most == b->most && a->n_devices == b->n_devices &&
           strcmp(a->device, b->device) == 0;
}

static void print_devices(FILE *out, const node *n)
{
    fprintf(out, "    %d GPU%s: %s\n", n->n_devices, plural(n->n_devices), n->device);
    if (n->n_ranks > n->n_devices)
        fprintf(out,
                "  warning: %d ranks share %d GPU%s and take turns there: expect it to be slow; a rank for each GPU\n",
                n->n_ranks, n->n_devices, plural(n->n_devices));
}

static void print_nodes(FILE *out, const node *first, size_t from, size_t to)
{
    const node *last = first + (to - from);
    if (from == to)
        fprintf(out, "  node %zu (%s): ", from + 1, first->host);
    else
        fprintf(out, "  nodes %zu-%zu (%s .. %s): ", from + 1, to + 1, first->host, last->host);
    fprintf(out, "%d rank%s x ", first->n_ranks, plural(first->n_ranks));
    if (first->fewest == first->most)
        fprintf(out, "%d thread%s", first->most, plural(first->most));
    else
        fprintf(out, "%d to %d threads", first->fewest, first->most);
    fprintf(out, " on %d core%s\n", first->n_cores, plural(first->n_cores));
    if (first->n_threads > first->n_cores)
        fprintf(out,
                "  warning: %d threads share %d core%s%s: expect it to be slow; fewer ranks, or OMP_NUM_THREADS=%d\n",
                first->n_threads, first->n_cores, plural(first->n_cores), from == to ? "" : " on each",
                STM_MAX(1, first->n_cores / first->n_ranks));
    if (first->n_devices > 0)
        print_devices(out, first);
}

static void print_layout(FILE *out, const stm_banner_layout *layout)
{
    if (layout->n_stages > 1)
        fprintf(out, "%d stages of ", layout->n_stages);
    fprintf(out, "%d team%s of ", layout->n_teams, plural(layout->n_teams));
    if (layout->smallest == layout->largest)
        fprintf(out, "%d rank%s", layout->largest, plural(layout->largest));
    else
        fprintf(out, "%d to %d ranks", layout->smallest, layout->largest);
    if (layout->n_idle > 0)
        fprintf(out, "; %d more rank%s idle", layout->n_idle, layout->n_idle == 1 ? " is" : "s are");
    fprintf(out, "\n");
}

/* Whether rank r has a device that none of the ranks before it on its host has. */
static bool has_own_device(const stm_banner_rank *ranks, size_t r)
{
    bool is_new = ranks[r].device[0] != '\0';
    for (size_t i = r; i-- > 0 && strcmp(ranks[i].host, ranks[r].host) == 0;)
        is_new = is_new && strcmp(ranks[i].device_id, ranks[r].device_id) != 0;
    return is_new;
}

stm_status stm_banner_text(const stm_banner_rank *ranks, size_t n, const stm_banner_layout *layout, char **text)
{
    stm_status status = STM_OK;
    node *nodes = NULL;
    size_t n_nodes = 0, n_bytes = 0;
    FILE *out = NULL;
    STM_TRY(stm_alloc(n, sizeof *nodes, &nodes));
    for (size_t r = 0; r < n; r++) {
        if (r == 0 || strcmp(ranks[r].host, ranks[r - 1].host) != 0)
            nodes[n_nodes++] = (node){.host = ranks[r].host,
                                      .device = ranks[r].device,
                                      .n_cores = ranks[r].n_cores,
                                      .fewest = ranks[r].n_threads};
        node *here = nodes + n_nodes - 1;
        here->n_ranks++;
        here->n_devices += has_own_device(ranks, r);
        here->n_threads += ranks[r].n_threads;
        here->fewest = STM_MIN(here->fewest, ranks[r].n_threads);
        here->most = STM_MAX(here->most, ranks[r].n_threads);
    }
    if (!(out = open_memstream(text, &n_bytes))) {
        status = stm_fail(STM_ERR_MEMORY, "out of memory");
        goto out;
    }
    fprintf(out, "%zu rank%s on %zu node%s, ", n, plural((int64_t)n), n_nodes, plural((int64_t)n_nodes));
    print_layout(out, layout);
    for (size_t i = 0, j; i < n_nodes; i = j + 1) {
        for (j = i; j + 1 < n_nodes && alike(nodes + i, nodes + j + 1);)
            j++;
        print_nodes(out, nodes + i, i, j);
    }
    if (layout->carrier && *layout->carrier)
        fprintf(out, "  gradients and new weights go by %s\n", layout->carrier);
    if (fclose(out) != 0)
        status = stm_fail(STM_ERR_MEMORY, "out of memory");
out:
    free(nodes);
    return status;
}

/* Cores that the ranks of this host may use together: the union of what each was given. Collective over the host's
 * ranks. */
static int cores_of_host(MPI_Comm host)
{
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return (int)sysconf(_SC_NPROCESSORS_ONLN);
    STM_MPI(MPI_Allreduce(MPI_IN_PLACE, &allowed, sizeof allowed, MPI_BYTE, MPI_BOR, host));
    return CPU_COUNT(&allowed);
}

/* Ranks of a host side by side, hosts in the order of their first rank. */
static void sort_by_host(stm_banner_rank *ranks, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        size_t to = i;
        for (size_t j = 0; j < i; j++)
            if (strcmp(ranks[j].host, ranks[i].host) == 0)
                to = j + 1;
        const stm_banner_rank moved = ranks[i];
        memmove(ranks + to + 1, ranks + to, (i - to) * sizeof *ranks);
        ranks[to] = moved;
    }
}

stm_status stm_banner(const stm_grid *grid, int n_threads, const char *device, const char *device_id, char **text)
{
    *text = NULL;
    stm_banner_rank mine = {.n_threads = n_threads};
    gethostname(mine.host, sizeof mine.host - 1);
    snprintf(mine.device, sizeof mine.device, "%s", device);
    snprintf(mine.device_id, sizeof mine.device_id, "%s", device_id);
    MPI_Comm host;
    STM_MPI(MPI_Comm_split_type(grid->world, MPI_COMM_TYPE_SHARED, grid->rank, MPI_INFO_NULL, &host));
    mine.n_cores = cores_of_host(host);
    STM_MPI(MPI_Comm_free(&host));

    size_t *starts = NULL;
    char *all = NULL;
    stm_status status = stm_agree(grid, stm_alloc((size_t)grid->n_ranks + 1, sizeof *starts, &starts));
    if (status == STM_OK)
        status = stm_gather_bytes(grid->world, &mine, sizeof mine, &all, starts);
    if (status == STM_OK) {
        if (grid->rank == 0) {
            const int last = grid->n_teams - 1;
            const stm_banner_layout layout = {.n_stages = grid->n_stages,
                                              .n_teams = grid->n_teams,
                                              .smallest = grid->team_first[last + 1] - grid->team_first[last],
                                              .largest = grid->team_first[1],
                                              .n_idle = grid->n_idle,
                                              .carrier = grid->carrier};
            sort_by_host((stm_banner_rank *)(void *)all, (size_t)grid->n_ranks);
            status = stm_banner_text((const stm_banner_rank *)(const void *)all, (size_t)grid->n_ranks, &layout, text);
        }
        status = stm_agree(grid, status);
    }
    free(all);
    free(starts);
    return status;
}
