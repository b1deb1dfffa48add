/* src/cli/world.h: whether the processes that a launcher started are the ranks of one MPI world. Where they are not
 * (the launcher belongs to another MPI, or srun was not told which), each would do the whole work by itself, in one run
 * folder. Local, all of it. */
#ifndef STM_CLI_WORLD_H
#define STM_CLI_WORLD_H

#include "base/status.h"

/* The rank that a launcher gave to this process; 0 alone. */
int stm_world_launched_rank(void);

/* Before MPI starts: srun has started several processes and offers none of the interfaces by which an MPI would find
 * the others. Some MPIs print pages about it and abort. Fails: STM_ERR_INPUT. */
stm_status stm_world_check_launch(void);

/* With MPI: the launcher has started more processes than the world has ranks. Fails: STM_ERR_INPUT. */
stm_status stm_world_check_size(int n_ranks);

#endif
