/* `stemma calibrate`: measures this machine, as `stemma plan` wants it described. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "plan/calibrate.h"

static stm_status write(const stm_options *options, const stm_machine *machine)
{
    char *yaml;
    STM_TRY(stm_machine_print(machine, &yaml));
    const stm_status status = stm_write_file(options->out, yaml, strlen(yaml));
    if (status == STM_OK)
        printf("%s", yaml);
    free(yaml);
    return status;
}

stm_status stm_cli_calibrate(const stm_options *options)
{
    stm_machine machine = {0};
    int rank;
    STM_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
    stm_status status = stm_agree_on(MPI_COMM_WORLD, rank == 0 ? stm_check_output(options->out) : STM_OK);
    if (status == STM_OK)
        status = stm_calibrate(MPI_COMM_WORLD, &machine);
    if (status == STM_OK)
        status = stm_agree_on(MPI_COMM_WORLD, rank == 0 ? write(options, &machine) : STM_OK);
    stm_machine_clear(&machine);
    return status;
}
