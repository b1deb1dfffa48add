/* `stemma export`: a checkpoint (or a folder, in another type of weights) -> a Hugging Face folder. */
#include <stdio.h>

#include "checkpoint/open.h"
#include "cli/commands.h"

stm_status stm_cli_export(const stm_options *options)
{
    const char *path = options->arguments.items[0];
    const stm_backend *backend;
    stm_stream *stream = NULL;
    stm_model *model = NULL;
    stm_status status = STM_OK;
    /* float64 holds the numbers of either precision, so that they are rounded once */
    STM_TRY(stm_backend_find("cpu", STM_FLOAT64, &backend));
    STM_GOTO_OUT(backend->open(0, &stream));
    STM_GOTO_OUT(stm_model_open_any(path, backend, stream, &model));
    STM_GOTO_OUT(stm_model_export(model, options->to, options->dtype));
    printf("%s: %zu parameters as %s in %s\n", path, model->n_parameters, options->dtype, options->to);
out:
    stm_model_destroy(model);
    if (stream)
        backend->close(stream);
    return status;
}
