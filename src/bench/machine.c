#include "bench/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* The value of a line "name  : value" of /proc/cpuinfo, up to its end; NULL when there is none. */
static const char *find_line(const char *text, const char *name, size_t *n)
{
    const char *at = strstr(text, name);
    const char *colon = at ? strchr(at, ':') : NULL;
    if (!colon)
        return NULL;
    colon += 1 + strspn(colon + 1, " \t");
    *n = strcspn(colon, "\n");
    return colon;
}

static bool has_word(const char *text, size_t n, const char *word)
{
    const size_t length = strlen(word);
    for (const char *at = text; (at = strstr(at, word)) && at < text + n; at += length)
        if (at[-1] == ' ' && (at[length] == ' ' || at[length] == '\n'))
            return true;
    return false;
}

static void describe_processor(stm_bench_machine *machine)
{
    static const char *const known[] = {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16"};
    char *text;
    size_t n, at = 0;
    if (stm_read_file("/proc/cpuinfo", &text, &n) != STM_OK)
        return;
    const char *line = find_line(text, "model name", &n);
    if (line)
        snprintf(machine->processor, sizeof machine->processor, "%.*s", (int)n, line);
    if (!(line = find_line(text, "flags", &n)))
        line = find_line(text, "Features", &n);
    for (size_t i = 0; line && i < sizeof known / sizeof *known; i++)
        if (has_word(line, n, known[i]) && at + strlen(known[i]) + 2 < sizeof machine->features)
            at += (size_t)sprintf(machine->features + at, "%s%s", at ? " " : "", known[i]);
    free(text);
}

void stm_bench_machine_describe(const stm_grid *grid, const stm_backend *backend, int n_threads,
                                stm_bench_machine *machine)
{
    const time_t now = time(NULL);
    struct tm utc;
    double threads = n_threads;
    *machine = (stm_bench_machine){.processor = "unknown",
                                   .n_cores = (int)sysconf(_SC_NPROCESSORS_ONLN),
                                   .n_ranks = grid->n_ranks,
                                   .backend = backend->name,
                                   .precision = backend->precision};
    stm_all_reduce_max(grid->world, &threads, 1);
    machine->n_threads = (int)threads;
    describe_processor(machine);
    strftime(machine->date, sizeof machine->date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
}

double stm_bench_resident_bytes(const stm_grid *grid)
{
    struct rusage usage;
    double bytes = getrusage(RUSAGE_SELF, &usage) == 0 ? 1024.0 * (double)usage.ru_maxrss : 0;
    stm_all_reduce_max(grid->world, &bytes, 1);
    return bytes;
}
