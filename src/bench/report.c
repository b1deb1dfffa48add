#include "bench/report.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Text */

void stm_bench_print_head(const stm_bench_report *report)
{
    const stm_bench_machine *m = &report->machine;
    const stm_model_config *c = &report->model->config;
    printf("%s (%s), %d cores; %d rank%s x %d thread%s, %s, %s\n", m->processor, m->features, m->n_cores, m->n_ranks,
           m->n_ranks == 1 ? "" : "s", m->n_threads, m->n_threads == 1 ? "" : "s", m->backend, m->precision);
    printf("%s: %s, hidden %zu, %zu layers, %zu heads, %zu KV heads, intermediate %zu, vocabulary %zu: %.1f million "
           "parameters\n",
           report->model_name, c->architecture, c->hidden_size, c->n_layers, c->n_heads, c->n_kv_heads,
           c->intermediate_size, c->vocab_size, (double)report->model->n_parameters / 1e6);
    printf("GFLOP/s: useful work in the best repeat; of GEMM: share of what all ranks reach in a product of 1024; MiB: "
           "of a rank; of RAM: share of the bandwidth of all threads at which decoding reads; phases in seconds\n\n");
    printf("groups prompt answer     G what          tokens  median s    best s GFLOP/s of GEMM of RAM      MiB |  "
           "prefix  "
           "suffix    head    back   again  decode    rest\n");
}

void stm_bench_print_row(const stm_bench_row *row)
{
    const double *p = row->phases;
    const stm_bench_shape *s = &row->shape;
    char of_ram[16] = "-";
    if (isfinite(stm_bench_read_share(row)))
        snprintf(of_ram, sizeof of_ram, "%.0f %%", 100 * stm_bench_read_share(row));
    printf("%6.0f %6.0f %6.0f %5.0f %-9s ", s->n_groups, s->n_prompt, s->n_answer, s->group_size,
           stm_bench_work_name(row->work));
    if (row->left_out_s > 0)
        printf("left out: %.3g s expected for %zu repeats, more than bench.limit_s\n", row->left_out_s, row->n_repeats);
    else
        printf("%10.0f %9.3f %9.3f %7.0f %5.0f %% %6s %8.1f | %7.3f %7.3f %7.3f %7.3f %7.3f %7.3f %7.3f\n", row->n_rows,
               row->median_s, row->best_s, stm_bench_rate(row) / 1e9, 100 * stm_bench_rate(row) / row->gemm_rate,
               of_ram, row->peak_bytes / (1 << 20), p[STM_STAGE_PREFIX], p[STM_STAGE_SUFFIX], p[STM_STAGE_HEAD],
               p[STM_STAGE_BACKWARD], p[STM_STAGE_RECOMPUTE], p[STM_BENCH_DECODING],
               p[STM_STAGE_EXCHANGE] + p[STM_BENCH_GRADIENT_SUM] + p[STM_BENCH_OTHER]);
    fflush(stdout);
}

void stm_bench_print_ratio(const stm_bench_row *tree, const stm_bench_row *repeated)
{
    if (!isfinite(repeated->to_first))
        return;
    printf("%29s repeated / tree: %.3f times the seconds, turn by turn; %.3f times the FLOPs\n", "", repeated->to_first,
           repeated->flops / tree->flops);
    fflush(stdout);
}

/* JSON; a null where Jansson has no memory makes dumping fail */

static json_t *machine_json(const stm_bench_report *report)
{
    const stm_bench_machine *m = &report->machine;
    return json_pack("{ss ss si si si ss ss ss ss sf}", "processor", m->processor, "features", m->features, "cores",
                     m->n_cores, "ranks", m->n_ranks, "threads", m->n_threads, "backend", m->backend, "precision",
                     m->precision, "date", m->date, "version", STEMMA_VERSION, "resident_bytes",
                     report->resident_bytes);
}

static json_t *model_json(const stm_bench_report *report)
{
    const stm_model_config *c = &report->model->config;
    return json_pack("{ss ss sI sI sI sI sI sI sI}", "name", report->model_name, "architecture", c->architecture,
                     "hidden", (json_int_t)c->hidden_size, "layers", (json_int_t)c->n_layers, "heads",
                     (json_int_t)c->n_heads, "kv_heads", (json_int_t)c->n_kv_heads, "intermediate",
                     (json_int_t)c->intermediate_size, "vocab", (json_int_t)c->vocab_size, "parameters",
                     (json_int_t)report->model->n_parameters);
}

static json_t *numbers_json(const double *numbers, size_t n)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(array, json_real(numbers[i]));
    return array;
}

static json_t *phases_json(const stm_bench_row *row)
{
    json_t *phases = json_object();
    for (size_t i = 0; i < STM_BENCH_N_PHASES; i++)
        json_object_set_new(phases, stm_bench_phase_name(i), json_real(row->phases[i]));
    return phases;
}

/* JSON knows no NaN: then the key is left out. */
static void set_number(json_t *object, const char *key, double number)
{
    if (isfinite(number))
        json_object_set_new(object, key, json_real(number));
}

static json_t *row_json(const stm_bench_row *row)
{
    const stm_bench_shape *s = &row->shape;
    json_t *object = json_pack("{sf sf sf sf ss sf sI}", "groups", s->n_groups, "prompt", s->n_prompt, "answer",
                               s->n_answer, "group_size", s->group_size, "what", stm_bench_work_name(row->work),
                               "flops", row->flops, "repeats", (json_int_t)row->n_repeats);
    set_number(object, "predicted_s", row->predicted_s);
    if (row->left_out_s > 0) {
        json_object_set_new(object, "left_out", json_string("expected to take longer than bench.limit_s"));
        json_object_set_new(object, "expected_s", json_real(row->left_out_s));
        return object;
    }
    json_object_set_new(object, "seconds", numbers_json(row->seconds, row->n_repeats));
    json_object_set_new(object, "median_s", json_real(row->median_s));
    json_object_set_new(object, "best_s", json_real(row->best_s));
    json_object_set_new(object, "flop_per_s", json_real(stm_bench_rate(row)));
    json_object_set_new(object, "gemm_flop_per_s", json_real(row->gemm_rate));
    json_object_set_new(object, "gemm_share", json_real(stm_bench_rate(row) / row->gemm_rate));
    set_number(object, "to_first", row->to_first);
    if (row->work == STM_BENCH_DECODE) {
        set_number(object, "read_bytes", row->read_bytes);
        set_number(object, "read_bytes_per_s", row->read_rate);
        set_number(object, "read_share", stm_bench_read_share(row));
    } else {
        set_number(object, "recompute_bytes", row->recompute_bytes);
    }
    json_object_set_new(object, "tokens", json_real(row->n_rows));
    json_object_set_new(object, "peak_bytes", json_real(row->peak_bytes));
    json_object_set_new(object, "phases", phases_json(row));
    return object;
}

static stm_status write_json(const stm_bench_report *report, const char *path)
{
    json_t *rows = json_array();
    for (size_t i = 0; i < report->n_rows; i++)
        json_array_append_new(rows, row_json(&report->rows[i]));
    json_t *root = json_pack("{so so so}", "machine", machine_json(report), "model", model_json(report), "cases", rows);
    char *text = root ? json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(root);
    if (!text)
        return stm_fail(STM_ERR_MEMORY, "%s: the results do not fit into JSON", path);
    const stm_status status = stm_write_file(path, text, strlen(text));
    free(text);
    return status;
}

/* CSV */

/* ",number", and only the comma for what is not one. */
static void write_cell(FILE *to, double number)
{
    fputc(',', to);
    if (isfinite(number))
        fprintf(to, "%.9g", number);
}

static void write_csv_row(FILE *to, const stm_bench_row *row)
{
    const stm_bench_shape *s = &row->shape;
    const bool measured = row->left_out_s == 0, decode = row->work == STM_BENCH_DECODE;
    const double numbers[] = {row->median_s,
                              row->best_s,
                              stm_bench_rate(row),
                              row->gemm_rate,
                              row->n_rows,
                              row->peak_bytes,
                              row->to_first,
                              decode ? NAN : row->recompute_bytes,
                              decode ? row->read_bytes : NAN,
                              decode ? row->read_rate : NAN,
                              stm_bench_read_share(row)};
    fprintf(to, "%.9g,%.9g,%.9g,%.9g,%s", s->n_groups, s->n_prompt, s->n_answer, s->group_size,
            stm_bench_work_name(row->work));
    write_cell(to, row->flops);
    write_cell(to, row->predicted_s);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        write_cell(to, measured ? numbers[i] : NAN);
    for (size_t i = 0; i < STM_BENCH_N_PHASES; i++)
        write_cell(to, measured ? row->phases[i] : NAN);
    fputc('\n', to);
}

static stm_status write_csv(const stm_bench_report *report, const char *path)
{
    char *text = NULL;
    size_t n;
    FILE *to = open_memstream(&text, &n);
    if (!to)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    fputs("groups,prompt,answer,group_size,what,flops,predicted_s,median_s,best_s,flop_per_s,gemm_flop_per_s,tokens,"
          "peak_bytes,to_first,recompute_bytes,read_bytes,read_bytes_per_s,read_share",
          to);
    for (size_t i = 0; i < STM_BENCH_N_PHASES; i++)
        fprintf(to, ",%s_s", stm_bench_phase_name(i));
    fputc('\n', to);
    for (size_t i = 0; i < report->n_rows; i++)
        write_csv_row(to, &report->rows[i]);
    const bool failed = ferror(to) != 0;
    stm_status status = fclose(to) != 0 || failed ? stm_fail(STM_ERR_MEMORY, "out of memory") : STM_OK;
    if (status == STM_OK)
        status = stm_write_file(path, text, n);
    free(text);
    return status;
}

stm_status stm_bench_write(const stm_bench_report *report, const char *path)
{
    char *csv;
    STM_TRY(write_json(report, path));
    STM_TRY(stm_bench_beside(path, ".csv", &csv));
    const stm_status status = write_csv(report, csv);
    free(csv);
    return status;
}

stm_status stm_bench_beside(const char *path, const char *ending, char **out)
{
    const size_t n = strlen(path);
    const bool json = n > 5 && strcmp(path + n - 5, ".json") == 0;
    return stm_format(out, "%.*s%s", (int)(json ? n - 5 : n), path, ending);
}
