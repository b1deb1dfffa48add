#include "config/machine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/table.h"

#define FIELD(field) offsetof(stm_machine, field)
#define ABOVE_0 0, INFINITY, NULL, 1
#define FROM(least) least, INFINITY, NULL, 1

/* The names of precisions are --precision's. */
#define RATES(name, p)                                                                                                 \
    {"gemm." name,                                                                                                     \
     STM_KIND_NUMBERS,                                                                                                 \
     FIELD(rates[p].gemm),                                                                                             \
     "[]",                                                                                                             \
     ABOVE_0,                                                                                                          \
     STM_OPTION_ABOVE_MIN,                                                                                             \
     "FLOP/s of a node by rows of the left matrix"},                                                                   \
        {"attention." name,                                                                                            \
         STM_KIND_NUMBERS,                                                                                             \
         FIELD(rates[p].attention),                                                                                    \
         "[]",                                                                                                         \
         ABOVE_0,                                                                                                      \
         STM_OPTION_ABOVE_MIN,                                                                                         \
         "FLOP/s of a node, forward and backward"},                                                                    \
    {                                                                                                                  \
        "elementwise." name, STM_KIND_NUMBER, FIELD(rates[p].elementwise), "0", FROM(0), 0,                            \
            "bytes/s of a node that norms and activations read and write"                                              \
    }

/* clang-format off */
static const stm_option_row rows[] = {
    {"name", STM_KIND_TEXT, FIELD(name), "", -INFINITY, INFINITY, NULL, 1, 0, "of the machine"},
    {"source", STM_KIND_TEXT, FIELD(source), "", -INFINITY, INFINITY, NULL, 1, 0, "where the numbers are from"},
    {"cores", STM_KIND_INTEGER, FIELD(cores), "1", FROM(1), 0, "cores of a node"},
    {"devices", STM_KIND_INTEGER, FIELD(devices), "0", FROM(0), 0, "accelerators of a node, a rank each; 0: none"},
    {"ranks", STM_KIND_INTEGER, FIELD(ranks), "1", FROM(1), 0, "of a node, where --ranks-per-node does not say"},
    {"memory", STM_KIND_BYTES, FIELD(memory_bytes), "1", FROM(1), 0, "of a node, for its ranks"},
    {"memory_bandwidth", STM_KIND_NUMBER, FIELD(memory_bandwidth), "1", ABOVE_0, STM_OPTION_ABOVE_MIN, "bytes/s of a node"},
    {"operation", STM_KIND_NUMBER, FIELD(operation_s), "0", FROM(0), 0, "seconds to begin an operation on an array"},
    {"rows", STM_KIND_NUMBERS, FIELD(rows), "[]", FROM(1), STM_OPTION_WHOLE, "that gemm's rates are for, ascending"},
    RATES("float32", STM_FLOAT32),
    RATES("float64", STM_FLOAT64),
    RATES("bfloat16", STM_BFLOAT16),
    {"inside.latency", STM_KIND_NUMBER, FIELD(inside.latency_s), "0", FROM(0), 0, "seconds of a message inside a node"},
    {"inside.bandwidth", STM_KIND_NUMBER, FIELD(inside.bandwidth), "1", ABOVE_0, STM_OPTION_ABOVE_MIN, "bytes/s between two ranks of a node"},
    {"between.latency", STM_KIND_NUMBER, FIELD(between.latency_s), "0", FROM(0), 0, "seconds of a message between nodes"},
    {"between.bandwidth", STM_KIND_NUMBER, FIELD(between.bandwidth), "1", ABOVE_0, STM_OPTION_ABOVE_MIN, "bytes/s of a node to others"},
};
/* clang-format on */
enum { N_ROWS = sizeof rows / sizeof *rows };

static const char *const required[] = {"cores",          "memory",           "memory_bandwidth", "rows",
                                       "inside.latency", "inside.bandwidth", "between.latency",  "between.bandwidth"};

static const char *const precision_names[STM_N_PRECISIONS] = {
    [STM_FLOAT32] = "float32", [STM_FLOAT64] = "float64", [STM_BFLOAT16] = "bfloat16"};

void stm_machine_clear(stm_machine *machine)
{
    for (size_t i = 0; i < N_ROWS; i++)
        stm_option_clear(&rows[i], machine);
    *machine = (stm_machine){0};
}

bool stm_machine_knows(const stm_machine *machine, stm_precision precision)
{
    return machine->rates[precision].gemm.n > 0;
}

/* Reading */

typedef struct {
    stm_option_source source;
    stm_machine *machine;
    bool seen[N_ROWS];
} reader;

static stm_status unknown(const reader *r, const yaml_node_t *node, const char *name)
{
    char *suggestion;
    STM_TRY(stm_option_suggest(rows, N_ROWS, 1, true, name, &suggestion));
    stm_option_fail(&r->source, node, name, "unknown key%s", suggestion);
    free(suggestion);
    return STM_ERR_INPUT;
}

static stm_status read_value(reader *r, const yaml_node_t *key, const char *name, yaml_node_t *node)
{
    const stm_option_row *row = stm_option_find(rows, N_ROWS, name);
    if (!row)
        return unknown(r, key, name);
    if (r->seen[row - rows])
        return stm_option_fail(&r->source, key, name, "given twice");
    r->seen[row - rows] = true;
    return stm_option_set(row, r->machine, &r->source, node, name);
}

/* The keys of a map; inside: the name of the key that has it, or NULL. */
static stm_status read_map(reader *r, const char *inside, const yaml_node_t *map)
{
    for (yaml_node_pair_t *pair = map->data.mapping.pairs.start; pair < map->data.mapping.pairs.top; pair++) {
        const yaml_node_t *key = yaml_document_get_node(r->source.document, pair->key);
        yaml_node_t *value = yaml_document_get_node(r->source.document, pair->value);
        char name[128];
        if (key->type != YAML_SCALAR_NODE)
            return stm_option_fail(&r->source, key, inside, "found a key that is no text, expected a name");
        snprintf(name, sizeof name, "%s%s%s", inside ? inside : "", inside ? "." : "",
                 (const char *)key->data.scalar.value);
        if (!inside && value->type == YAML_MAPPING_NODE)
            STM_TRY(read_map(r, name, value));
        else
            STM_TRY(read_value(r, key, name, value));
    }
    return STM_OK;
}

static stm_status check_required(const reader *r)
{
    for (size_t i = 0; i < sizeof required / sizeof *required; i++) {
        const stm_option_row *row = stm_option_find(rows, N_ROWS, required[i]);
        if (!r->seen[row - rows])
            return stm_fail(STM_ERR_INPUT, "%s: %s is missing; expected a value: %s", r->source.file, row->name,
                            row->help);
    }
    return STM_OK;
}

static stm_status check_lists(const stm_machine *m, const char *path)
{
    bool any = false;
    if (m->rows.n == 0)
        return stm_fail(STM_ERR_INPUT, "%s: rows: found an empty list, expected at least one number", path);
    for (size_t i = 1; i < m->rows.n; i++)
        if (m->rows.items[i] <= m->rows.items[i - 1])
            return stm_fail(STM_ERR_INPUT, "%s: rows: found %g after %g, expected ascending numbers", path,
                            m->rows.items[i], m->rows.items[i - 1]);
    for (size_t p = 0; p < STM_N_PRECISIONS; p++) {
        const stm_machine_rates *rates = &m->rates[p];
        const char *name = precision_names[p];
        if (rates->gemm.n == 0)
            continue;
        any = true;
        if (rates->gemm.n != m->rows.n)
            return stm_fail(STM_ERR_INPUT, "%s: gemm.%s: found %zu numbers, expected %zu, one for each of rows", path,
                            name, rates->gemm.n, m->rows.n);
        if (rates->attention.n != 2)
            return stm_fail(STM_ERR_INPUT, "%s: attention.%s: found %zu numbers, expected 2: forward and backward",
                            path, name, rates->attention.n);
        if (rates->elementwise <= 0)
            return stm_fail(STM_ERR_INPUT, "%s: elementwise.%s is missing; expected a value above 0", path, name);
    }
    return any ? STM_OK
               : stm_fail(STM_ERR_INPUT, "%s: gemm is missing; expected rates of float32, float64 or bfloat16", path);
}

static stm_status read_document(reader *r)
{
    const yaml_node_t *root = yaml_document_get_root_node(r->source.document);
    if (!root || root->type != YAML_MAPPING_NODE)
        return stm_fail(STM_ERR_INPUT, "%s: found no map, expected keys with values", r->source.file);
    STM_TRY(read_map(r, NULL, root));
    STM_TRY(check_required(r));
    return check_lists(r->machine, r->source.file);
}

stm_status stm_machine_read_text(const char *path, const char *text, size_t n, stm_machine *out)
{
    yaml_document_t document;
    reader r = {.source = {&document, path}, .machine = out};
    *out = (stm_machine){0};
    for (size_t i = 0; i < N_ROWS; i++)
        STM_TRY(stm_option_set_preset(&rows[i], out));
    STM_TRY(stm_yaml_parse(path, NULL, text, n, &document));
    const stm_status status = read_document(&r);
    yaml_document_delete(&document);
    return status;
}

stm_status stm_machine_read(const char *path, stm_machine *out)
{
    char *text;
    size_t n;
    *out = (stm_machine){0};
    STM_TRY(stm_read_file(path, &text, &n));
    const stm_status status = stm_machine_read_text(path, text, n, out);
    free(text);
    return status;
}

/* Writing */

static bool is_empty(const stm_option_row *row, const stm_machine *machine)
{
    const void *value = (const char *)machine + row->offset;
    if (row->kind == STM_KIND_NUMBERS)
        return ((const stm_numbers *)value)->n == 0;
    return strncmp(row->name, "elementwise.", 12) == 0 && *(const double *)value == 0;
}

stm_status stm_machine_print(const stm_machine *machine, char **yaml)
{
    const char *section = "";
    size_t size, section_n = 0;
    FILE *to = open_memstream(yaml, &size);
    if (!to)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    for (size_t i = 0; i < N_ROWS; i++) { /* keys of a section need not stand together in the table */
        const char *dot = strchr(rows[i].name, '.');
        if (!dot && !is_empty(&rows[i], machine)) {
            fprintf(to, "%s: ", rows[i].name);
            stm_option_write(&rows[i], machine, to);
            fputc('\n', to);
        }
    }
    static const char *const sections[] = {"gemm", "attention", "elementwise", "inside", "between"};
    for (size_t s = 0; s < sizeof sections / sizeof *sections; s++) {
        section = sections[s];
        section_n = strlen(section);
        fprintf(to, "%s:\n", section);
        for (size_t i = 0; i < N_ROWS; i++) {
            if (strncmp(rows[i].name, section, section_n) != 0 || rows[i].name[section_n] != '.' ||
                is_empty(&rows[i], machine))
                continue;
            fprintf(to, "  %s: ", rows[i].name + section_n + 1);
            stm_option_write(&rows[i], machine, to);
            fputc('\n', to);
        }
    }
    return stm_stream_finish(to, yaml);
}
