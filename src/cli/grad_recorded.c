#include "cli/grad_recorded.h"

#include <stdlib.h>
#include <string.h>

#include "mpi/grid.h"
#include "objective/recorded.h"
#include "text/json.h"

static stm_status no_memory(void)
{
    return stm_fail(STM_ERR_MEMORY, "out of memory");
}

static stm_status run_cases(const char *path, const json_t *document, json_t *results)
{
    const json_t *cases = json_object_get(document, "cases");
    if (!json_is_array(cases))
        return stm_fail(STM_ERR_INPUT, "%s: cases: expected a list", path);
    for (size_t c = 0; c < json_array_size(cases); c++) {
        const json_t *one = json_array_get(cases, c);
        const char *name = json_string_value(json_object_get(one, "name"));
        json_t *entry = json_pack("{s:s}", "name", name ? name : "");
        if (!entry || json_array_append_new(results, entry) != 0)
            return no_memory();
        const stm_status status = stm_recorded_evaluate(document, one, entry);
        if (status != STM_OK)
            return stm_fail_context(status, "%s: cases[%zu] (%s)", path, c, name ? name : "without a name");
    }
    return STM_OK;
}

static stm_status write_results(const char *path, const json_t *results)
{
    char *text = json_dumps(results, JSON_COMPACT | JSON_REAL_PRECISION(17));
    if (!text)
        return no_memory();
    const stm_status status = stm_write_file(path, text, strlen(text));
    free(text);
    return status;
}

static stm_status run(const stm_options *options)
{
    const char *path = options->objective_only;
    char *text = NULL;
    size_t n;
    json_t *document = NULL, *results = json_array();
    stm_status status = results ? STM_OK : no_memory();
    if (status == STM_OK)
        status = stm_read_file(path, &text, &n);
    if (status == STM_OK)
        status = stm_json_parse(path, text, n, false, &document);
    if (status == STM_OK)
        status = run_cases(path, document, results);
    if (status == STM_OK)
        status = write_results(options->out, results);
    json_decref(document);
    json_decref(results);
    free(text);
    return status;
}

stm_status stm_cli_grad_recorded(const stm_options *options)
{
    int rank;
    STM_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
    return stm_agree_on(MPI_COMM_WORLD, rank == 0 ? run(options) : STM_OK);
}
