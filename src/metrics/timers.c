#include "metrics/timers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_ROWS = STM_N_PHASES + 1, WALL = STM_N_PHASES };

stm_status stm_timers_table_text(int n_ranks, const double *least, const double *sum, const double *most, char **text)
{
    char *out = NULL;
    size_t n = 0;
    FILE *memory = open_memstream(&out, &n);
    if (!memory)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    fprintf(memory, "%-18s %10s %10s %10s %7s\n", n_ranks > 1 ? "seconds over ranks" : "seconds", "min", "mean", "max",
            "share");
    for (int i = 0; i < N_ROWS; i++)
        if (i == WALL || most[i] > 0)
            fprintf(memory, "%-18s %10.2f %10.2f %10.2f %6.1f%%\n", i == WALL ? "wall" : stm_phase_name((stm_phase)i),
                    least[i], sum[i] / n_ranks, most[i], sum[WALL] > 0 ? 100 * sum[i] / sum[WALL] : 0);
    const bool failed = ferror(memory) != 0;
    if (fclose(memory) != 0 || failed) {
        free(out);
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    }
    *text = out;
    return STM_OK;
}

stm_status stm_timers_table(MPI_Comm comm, const stm_timers *timers, char **text)
{
    double least[N_ROWS], sum[N_ROWS], most[N_ROWS];
    int rank, n_ranks;
    stm_timers settled = *timers; /* one reading of the clock, so that the rows add up */
    stm_timers_push(&settled, STM_PHASE_OTHER);
    memcpy(sum, settled.self_s, sizeof settled.self_s);
    sum[WALL] = settled.last_s - settled.begin_s;
    memcpy(least, sum, sizeof sum);
    memcpy(most, sum, sizeof sum);
    STM_MPI(MPI_Comm_rank(comm, &rank));
    STM_MPI(MPI_Comm_size(comm, &n_ranks));
    stm_all_reduce_min(comm, least, N_ROWS);
    stm_all_reduce_max(comm, most, N_ROWS);
    stm_reduce_to(comm, 0, sum, N_ROWS, sizeof *sum);
    *text = NULL;
    return stm_agree_on(comm, rank == 0 ? stm_timers_table_text(n_ranks, least, sum, most, text) : STM_OK);
}
