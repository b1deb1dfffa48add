#include "cli/world.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* How many processes a launcher says that it started; the innermost launcher first. */
static const struct {
    const char *name, *launcher;
} sizes[] = {{"OMPI_COMM_WORLD_SIZE", "Open MPI's mpirun"},
             {"PMI_SIZE", "mpiexec (PMI)"},
             {"JSM_NAMESPACE_SIZE", "jsrun"},
             {"FLUX_JOB_SIZE", "flux run"},
             {"SLURM_STEP_NUM_TASKS", "srun"}};

static int number_of(const char *name)
{
    const char *text = getenv(name);
    return text && *text ? atoi(text) : -1;
}

int stm_world_launched_rank(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK",      "PMI_RANK",
                                        "JSM_NAMESPACE_RANK",   "FLUX_TASK_RANK", "SLURM_PROCID"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const int rank = number_of(names[i]);
        if (rank >= 0)
            return rank;
    }
    return 0;
}

/* Whether the environment holds anything from which an MPI could learn of its world. */
static bool has_interface(void)
{
    static const char *const beginnings[] = {"PMI", "OMPI_COMM_WORLD", "PALS_", "ALPS_"};
    for (char **variable = environ; *variable; variable++)
        for (size_t i = 0; i < sizeof beginnings / sizeof *beginnings; i++)
            if (strncmp(*variable, beginnings[i], strlen(beginnings[i])) == 0)
                return true;
    return false;
}

stm_status stm_world_check_launch(void)
{
    const int n = number_of("SLURM_STEP_NUM_TASKS");
    if (n <= 1 || has_interface())
        return STM_OK;
    return stm_fail(STM_ERR_INPUT,
                    "srun started %d processes that know nothing of each other, expected the ranks of one MPI: srun "
                    "--mpi=pmix (`srun --mpi=list` names what there is), or mpirun",
                    n);
}

stm_status stm_world_check_size(int n_ranks)
{
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int n = number_of(sizes[i].name);
        if (n == n_ranks)
            return STM_OK; /* what stands around it, a batch job's own count, is another matter */
        if (n > n_ranks && n_ranks == 1)
            return stm_fail(STM_ERR_INPUT,
                            "%s started %d processes (%s), but MPI finds one alone in each; expected one MPI world: "
                            "the launcher belongs to another MPI than stemma was built with, or lacks an interface to "
                            "it (srun --mpi=pmix)",
                            sizes[i].launcher, n, sizes[i].name);
    }
    return STM_OK;
}
