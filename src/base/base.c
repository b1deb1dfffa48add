#include "base/base.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

double stm_now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

enum { LONGEST_NAME = 63 };

/* Levenshtein's distance of two short words. */
static size_t distance(const char *a, const char *b)
{
    const size_t na = strlen(a), nb = strlen(b);
    size_t row[LONGEST_NAME + 1];
    if (na > LONGEST_NAME || nb > LONGEST_NAME)
        return SIZE_MAX;
    for (size_t j = 0; j <= nb; j++)
        row[j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            const size_t above = row[j], change = diagonal + (a[i - 1] != b[j - 1]);
            row[j] = STM_MIN(change, 1 + STM_MIN(above, row[j - 1]));
            diagonal = above;
        }
    }
    return row[nb];
}

const char *stm_nearest_name(const char *word, const char *const *names, size_t n)
{
    const char *nearest = NULL;
    size_t least = STM_MAX((size_t)2, strlen(word) / 3) + 1;
    for (size_t i = 0; i < n; i++) {
        const size_t d = distance(word, names[i]);
        const bool alike = d < STM_MAX(strlen(word), strlen(names[i])); /* a letter in common at the least */
        if (alike && d < least) {
            least = d;
            nearest = names[i];
        }
    }
    return nearest;
}

stm_status stm_read_file(const char *path, char **text, size_t *n)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return stm_fail(STM_ERR_INPUT, "%s: cannot be read: %s", path, strerror(errno));
    stm_status status = STM_OK;
    char *bytes = NULL;
    size_t used = 0, capacity = 0;
    for (;;) {
        STM_GOTO_OUT(stm_reserve(&bytes, &capacity, used + 65536, 1));
        const size_t got = fread(bytes + used, 1, capacity - used - 1, file);
        used += got;
        if (got == 0)
            break;
    }
    if (ferror(file)) {
        status = stm_fail(STM_ERR_INPUT, "%s: cannot be read: %s", path, strerror(errno));
        goto out;
    }
    bytes[used] = 0;
    *text = bytes;
    *n = used;
    bytes = NULL;
out:
    free(bytes);
    fclose(file);
    return status;
}

stm_status stm_make_folders(const char *path)
{
    char *copy = strdup(path);
    if (!copy)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    stm_status status = STM_OK;
    int error = 0;
    for (char *c = copy + 1; status == STM_OK; c++) {
        if (*c != '/' && *c != 0)
            continue;
        const char end = *c;
        *c = 0;
        if (mkdir(copy, 0777) != 0 && errno != EEXIST) {
            error = errno;
            status = stm_fail(STM_ERR_IO, "%s: cannot make the folder: %s", copy, strerror(error));
        }
        *c = end;
        if (end == 0)
            break;
    }
    free(copy);
    errno = error;
    return status;
}

stm_status stm_format(char **out, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    const int n = vasprintf(out, format, list);
    va_end(list);
    return n < 0 ? stm_fail(STM_ERR_MEMORY, "out of memory") : STM_OK;
}

uint64_t stm_hash(const void *bytes, size_t n)
{
    return XXH3_64bits(bytes, n);
}

static bool write_whole(FILE *file, const char *bytes, size_t n)
{
    const bool written = fwrite(bytes, 1, n, file) == n && fflush(file) == 0 && fsync(fileno(file)) == 0;
    const int error = errno;
    const bool closed = fclose(file) == 0;
    errno = written ? errno : error;
    return written && closed;
}

stm_status stm_write_file(const char *path, const char *bytes, size_t n)
{
    char *part;
    STM_TRY(stm_format(&part, "%s.part", path));
    FILE *file = fopen(part, "we");
    const bool done = file && write_whole(file, bytes, n) && rename(part, path) == 0;
    const stm_status status = done ? STM_OK : stm_fail(STM_ERR_IO, "%s: cannot be written: %s", path, strerror(errno));
    if (!done && file)
        unlink(part);
    free(part);
    return status;
}

stm_status stm_check_output(const char *path)
{
    const char *slash = strrchr(path, '/');
    const int n = slash == NULL ? 1 : slash == path ? 1 : (int)(slash - path);
    char *folder;
    struct stat about;
    STM_TRY(stm_format(&folder, "%.*s", n, slash ? path : "."));
    stm_status status = STM_OK;
    if (access(folder, W_OK | X_OK) != 0)
        status =
            stm_fail(STM_ERR_INPUT, "--out %s: the folder %s cannot be written to: %s", path, folder, strerror(errno));
    else if (stat(path, &about) == 0 && S_ISDIR(about.st_mode))
        status = stm_fail(STM_ERR_INPUT, "--out %s: found a folder, expected a file", path);
    free(folder);
    return status;
}
