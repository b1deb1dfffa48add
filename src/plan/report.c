#include "plan/report.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Text */

static double mebibytes(double bytes)
{
    return bytes / (1 << 20);
}

static void print_what(const stm_plan_report *r)
{
    const stm_planner *p = r->planner;
    const stm_model_config *c = &p->model->config;
    double n_prompt, n_answer;
    stm_workload_means(p->batch, &n_prompt, &n_answer);
    printf("machine: %s (%s)\n", *p->machine->name ? p->machine->name : "without a name", r->machine_file);
    printf("model: %s, %zu layers, hidden size %zu, vocabulary %zu, %zu parameters, %s\n", c->architecture, c->n_layers,
           c->hidden_size, c->vocab_size, p->model->n_parameters, p->model->backend->precision);
    printf("a step: %zu prompts of %.0f tokens, %zu responses each of %.0f tokens (mean)\n", p->batch->n_groups,
           n_prompt, p->batch->groups[0].n_responses, n_answer);
    for (size_t k = 0; !p->supervised && p->turns->n > 1 && k < p->turns->n; k++) {
        const stm_batch *batch = &p->turns->items[k].batch;
        stm_workload_means(batch, &n_prompt, &n_answer);
        printf("  turn %zu: %zu prompts of %.0f tokens, %zu responses each of %.0f\n", k + 1, batch->n_groups, n_prompt,
               batch->groups[0].n_responses, n_answer);
    }
}

static void print_layout(const stm_estimate *e)
{
    const stm_layout *l = &e->layout;
    printf("%" PRId64 " nodes x %" PRId64 " ranks: pipeline %" PRId64 " x suffix %" PRId64 " x replica %" PRId64,
           l->nodes, l->ranks_per_node, l->pipeline, l->suffix, l->replica);
    if (l->idle_ranks > 0)
        printf(", %" PRId64 " ranks idle", l->idle_ranks);
    printf("\n");
}

static void print_times(const stm_estimate *e)
{
    printf("time of a step: %.3g s (rollout %.3g s, update %.3g s), rewards, evaluations and checkpoints not counted\n",
           e->step_s, e->rollout_s, e->update_s);
    for (stm_plan_part p = 0; p < STM_PLAN_N_PARTS; p++)
        if (e->parts[p] > 0)
            printf("  %-18s %10.4f s  %5.1f %%\n", stm_plan_part_name(p), e->parts[p], 100 * e->parts[p] / e->step_s);
}

/* Names of the fields of memory, for text and JSON. */
static const struct {
    const char *name, *key;
    size_t offset;
} memory_fields[] = {
    {"weights", "weights", offsetof(stm_plan_memory, weights)},
    {"gradient", "gradient", offsetof(stm_plan_memory, gradient)},
    {"optimizer", "optimizer", offsetof(stm_plan_memory, optimizer)},
    {"reference model", "reference", offsetof(stm_plan_memory, reference)},
    {"copy to save", "copy", offsetof(stm_plan_memory, copy)},
    {"replay buffer", "replay", offsetof(stm_plan_memory, replay)},
    {"tables, buffers", "process", offsetof(stm_plan_memory, process)},
    {"KV and dKV", "kv", offsetof(stm_plan_memory, kv)},
    {"activations", "activations", offsetof(stm_plan_memory, activations)},
    {"scratch", "scratch", offsetof(stm_plan_memory, scratch)},
    {"messages", "messages", offsetof(stm_plan_memory, messages)},
    {"sampling", "slots", offsetof(stm_plan_memory, slots)},
    {"most at once", "total", offsetof(stm_plan_memory, total)},
    {"limit", "limit", offsetof(stm_plan_memory, limit)},
};
enum { N_MEMORY_FIELDS = sizeof memory_fields / sizeof *memory_fields };

static double memory_field(const stm_estimate *e, size_t i)
{
    return *(const double *)((const char *)&e->memory + memory_fields[i].offset);
}

static void print_memory(const stm_estimate *e)
{
    printf("memory of the rank that needs most:\n");
    for (size_t i = 0; i < N_MEMORY_FIELDS; i++)
        if (memory_field(e, i) > 0)
            printf("  %-18s %10.1f MiB\n", memory_fields[i].name, mebibytes(memory_field(e, i)));
}

static void print_links(const stm_estimate *e)
{
    printf("sent in a step by the ranks of a node: %.1f MiB to one another, %.1f MiB to other nodes\n",
           mebibytes(e->inside_bytes), mebibytes(e->between_bytes));
}

static void print_table_row(const char *first, const stm_estimate *e, double speedup)
{
    char layout[64];
    snprintf(layout, sizeof layout, "%" PRId64 " x %" PRId64 " x %" PRId64, e->layout.pipeline, e->layout.suffix,
             e->layout.replica);
    if (!e->fits) {
        printf("%-8s %-18s does not fit: %.0f MiB of %.0f MiB a rank\n", first, layout, mebibytes(e->memory.total),
               mebibytes(e->memory.limit));
        return;
    }
    const double exposed = e->parts[STM_PLAN_KV] + e->parts[STM_PLAN_STAGE] + e->parts[STM_PLAN_GRADIENTS] +
                           e->parts[STM_PLAN_GATHER] + e->parts[STM_PLAN_IDLE];
    printf("%-8s %-18s %9.3g %9.3g %9.3g %8.1f %9.0f %9.1f\n", first, layout, e->step_s, e->rollout_s, e->update_s,
           100 * exposed / e->step_s, mebibytes(e->memory.total), speedup);
}

static void print_table_head(const char *first)
{
    printf("%-8s %-18s %9s %9s %9s %8s %9s %9s\n", first, "pipe x suf x rep", "step s", "rollout s", "update s",
           "waits %", "MiB/rank", "speed-up");
}

static void print_nodes(const stm_plan_report *r)
{
    char first[32];
    double one = NAN;
    printf("\nbest layout by nodes (speed-up against the least number that fits):\n");
    print_table_head("nodes");
    for (size_t i = 0; i < r->n_nodes_rows; i++) {
        const stm_estimate *e = &r->nodes_rows[i];
        if (e->fits && isnan(one))
            one = e->step_s;
        snprintf(first, sizeof first, "%" PRId64, e->layout.nodes);
        print_table_row(first, e, one / e->step_s);
    }
}

static void print_sizes(const stm_plan_report *r)
{
    char first[32];
    printf("\nby the size of a group, on %" PRId64 " nodes (speed-up: responses a second against the first row):\n",
           r->nodes);
    print_table_head("size");
    for (size_t i = 0; i < r->n_size_rows; i++) {
        const stm_estimate *e = &r->size_rows[i];
        const double rate = (double)r->sizes[i] / e->step_s, first_rate = (double)r->sizes[0] / r->size_rows[0].step_s;
        snprintf(first, sizeof first, "%" PRId64, r->sizes[i]);
        print_table_row(first, e, rate / first_rate);
    }
}

void stm_plan_print(const stm_plan_report *r)
{
    const stm_estimate *best = &r->best.items[0];
    print_what(r);
    printf("\nbest layout: ");
    print_layout(best);
    if (best->fits) {
        printf("chunks of up to %zu rows, up to %zu of them on a rank\n", best->chunk_rows, best->n_chunks);
        print_times(best);
    } else {
        printf("no layout fits into the memory of these nodes; this one needs least\n");
    }
    print_memory(best);
    print_links(best);
    if (r->n_nodes_rows > 0)
        print_nodes(r);
    if (r->n_size_rows > 0)
        print_sizes(r);
}

/* JSON */

static void set(json_t *object, const char *key, double value)
{
    (void)json_object_set_new(object, key, isfinite(value) ? json_real(value) : json_null());
}

static void set_count(json_t *object, const char *key, int64_t value)
{
    (void)json_object_set_new(object, key, json_integer(value));
}

/* "wait for K, V" -> "wait_for_k_v_s". */
static void key_of(stm_plan_part part, char key[64])
{
    size_t n = 0;
    for (const char *c = stm_plan_part_name(part); *c && n < 60; c++)
        if (*c != ',')
            key[n++] = *c == ' ' ? '_' : (char)(*c >= 'A' && *c <= 'Z' ? *c - 'A' + 'a' : *c);
    memcpy(key + n, "_s", 3);
}

static json_t *estimate_json(const stm_estimate *e)
{
    json_t *object = json_object(), *parts = json_object(), *memory = json_object();
    char key[64];
    set_count(object, "nodes", e->layout.nodes);
    set_count(object, "ranks_per_node", e->layout.ranks_per_node);
    set_count(object, "pipeline", e->layout.pipeline);
    set_count(object, "suffix", e->layout.suffix);
    set_count(object, "replica", e->layout.replica);
    set_count(object, "idle_ranks", e->layout.idle_ranks);
    (void)json_object_set_new(object, "fits", json_boolean(e->fits));
    set(object, "step_s", e->fits ? e->step_s : NAN);
    set(object, "rollout_s", e->fits ? e->rollout_s : NAN);
    set(object, "update_s", e->fits ? e->update_s : NAN);
    for (stm_plan_part p = 0; p < STM_PLAN_N_PARTS; p++) {
        key_of(p, key);
        set(parts, key, e->fits ? e->parts[p] : NAN);
    }
    (void)json_object_set_new(object, "parts", parts);
    for (size_t i = 0; i < N_MEMORY_FIELDS; i++)
        set_count(memory, memory_fields[i].key, (int64_t)memory_field(e, i));
    (void)json_object_set_new(object, "memory_bytes", memory);
    set_count(object, "inside_bytes", (int64_t)e->inside_bytes);
    set_count(object, "between_bytes", (int64_t)e->between_bytes);
    set_count(object, "chunk_rows", (int64_t)e->chunk_rows);
    set(object, "flops", e->flops);
    set(object, "rows", e->rows);
    return object;
}

static json_t *list_json(const stm_estimate *items, size_t n, const int64_t *sizes)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *object = estimate_json(&items[i]);
        if (sizes)
            set_count(object, "group_size", sizes[i]);
        (void)json_array_append_new(list, object);
    }
    return list;
}

static json_t *text(const char *words)
{
    json_t *string = json_string(words);
    return string ? string : json_null(); /* what is not UTF-8 */
}

static json_t *report_json(const stm_plan_report *r)
{
    const stm_planner *p = r->planner;
    const stm_model_config *c = &p->model->config;
    json_t *all = json_object(), *machine = json_object(), *model = json_object(), *step = json_object();
    double n_prompt, n_answer;
    stm_workload_means(p->batch, &n_prompt, &n_answer);
    (void)json_object_set_new(machine, "file", text(r->machine_file));
    (void)json_object_set_new(machine, "name", text(p->machine->name));
    (void)json_object_set_new(all, "machine", machine);
    (void)json_object_set_new(model, "architecture", text(c->architecture));
    set_count(model, "n_layers", (int64_t)c->n_layers);
    set_count(model, "n_parameters", (int64_t)p->model->n_parameters);
    (void)json_object_set_new(model, "precision", text(p->model->backend->precision));
    (void)json_object_set_new(all, "model", model);
    set_count(step, "prompts", (int64_t)p->batch->n_groups);
    set_count(step, "group_size", p->group_size);
    set(step, "prompt_tokens", n_prompt);
    set(step, "answer_tokens", n_answer);
    set_count(step, "turns", p->supervised ? 0 : (int64_t)p->turns->n);
    (void)json_object_set_new(all, "step", step);
    (void)json_object_set_new(all, "best", estimate_json(&r->best.items[0]));
    (void)json_object_set_new(all, "layouts", list_json(r->best.items, r->best.n, NULL));
    (void)json_object_set_new(all, "nodes", list_json(r->nodes_rows, r->n_nodes_rows, NULL));
    (void)json_object_set_new(all, "group_size", list_json(r->size_rows, r->n_size_rows, r->sizes));
    return all;
}

stm_status stm_plan_write(const stm_plan_report *report, const char *path)
{
    json_t *all = report_json(report);
    char *bytes = json_dumps(all, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    json_decref(all);
    if (!bytes)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    const stm_status status = stm_write_file(path, bytes, strlen(bytes));
    free(bytes);
    return status;
}
