#include "metrics/log.h"

#include <errno.h>
#include <mpi.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static FILE *file;

/* Only while MPI runs is there a rank to ask for; what it was then holds after MPI has ended. */
static bool is_silent(void)
{
    static int rank;
    int started, ended;
    MPI_Initialized(&started);
    MPI_Finalized(&ended);
    if (started && !ended)
        MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank != 0;
}

static void put(FILE *to, const char *text, size_t n)
{
    fwrite(text, 1, n, to);
    if (n == 0 || text[n - 1] != '\n')
        fputc('\n', to);
    fflush(to);
}

void stm_log(const char *format, ...)
{
    if (is_silent())
        return;
    char *text;
    va_list list;
    va_start(list, format);
    const int n = vasprintf(&text, format, list);
    va_end(list);
    if (n < 0)
        return;
    put(stdout, text, (size_t)n);
    if (file)
        put(file, text, (size_t)n);
    free(text);
}

void stm_log_file(const char *format, ...)
{
    va_list list;
    if (!file)
        return;
    va_start(list, format);
    vfprintf(file, format, list);
    va_end(list);
    fputc('\n', file);
    fflush(file);
}

stm_status stm_log_to(const char *path)
{
    if (file)
        fclose(file);
    file = NULL;
    if (!path)
        return STM_OK;
    file = fopen(path, "ae");
    return file ? STM_OK : stm_fail(STM_ERR_IO, "%s: cannot be written: %s", path, strerror(errno));
}
