/* `stemma options`: prints the table of options. */
#include <stdio.h>
#include <stdlib.h>

#include "cli/commands.h"
#include "objective/objective.h"

stm_status stm_cli_options(const stm_options *options)
{
    char *text;
    if (options->markdown)
        STM_TRY(stm_options_markdown(stm_objective_readers, &text));
    else
        STM_TRY(stm_options_help((stm_command_bit)0, stm_objective_readers, &text));
    fputs(text, stdout);
    free(text);
    return STM_OK;
}
