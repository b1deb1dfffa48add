#include "base/limit.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"

/* The number in a file; SIZE_MAX where there is none ("max", no such file). */
static size_t limit_in(const char *path)
{
    char *text;
    size_t n, bytes = SIZE_MAX;
    if (access(path, R_OK) == 0 && stm_read_file(path, &text, &n) == STM_OK) {
        const unsigned long long found = strtoull(text, NULL, 10); /* "max" reads as 0 */
        bytes = found > 0 ? (size_t)found : SIZE_MAX;
        free(text);
    }
    return bytes;
}

/* The least of <mount><group>/<file> and that of all groups above. group: "/a/b"; it is cut. */
static size_t least_upwards(const char *mount, char *group, const char *file)
{
    size_t least = SIZE_MAX;
    for (;;) {
        char *path, *const last = strrchr(group, '/');
        if (stm_format(&path, "%s%s/%s", mount, group, file) != STM_OK)
            return least;
        const size_t here = limit_in(path);
        least = STM_MIN(least, here);
        free(path);
        if (!last)
            return least;
        *last = '\0';
    }
}

/* True if "a,memory,b" names the memory controller. */
static bool is_memory(const char *controllers)
{
    for (const char *at = controllers; *at; at += strspn(at, ",")) {
        const size_t n = strcspn(at, ",");
        if (n == strlen("memory") && strncmp(at, "memory", n) == 0)
            return true;
        at += n;
    }
    return false;
}

/* A line "0::/group" (version 2) or "7:cpu,memory:/group" (version 1). */
static size_t limit_of_line(const char *root, char *line)
{
    size_t least = SIZE_MAX;
    char *mount = NULL, *const controllers = strchr(line, ':');
    char *const group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group)
        return least;
    *group = '\0';
    const bool unified = controllers[1] == '\0';
    if (!unified && !is_memory(controllers + 1))
        return least;
    if (stm_format(&mount, "%s/sys/fs/cgroup%s", root, unified ? "" : "/memory") == STM_OK)
        least = least_upwards(mount, group + 1, unified ? "memory.max" : "memory.limit_in_bytes");
    free(mount);
    return least;
}

size_t stm_cgroup_bytes(const char *root)
{
    size_t least = SIZE_MAX, n;
    char *path = NULL, *text = NULL, *rest;
    if (stm_format(&path, "%s/proc/self/cgroup", root) == STM_OK && access(path, R_OK) == 0 &&
        stm_read_file(path, &text, &n) == STM_OK)
        for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
            const size_t here = limit_of_line(root, line);
            least = STM_MIN(least, here);
        }
    free(path);
    free(text);
    return least;
}

size_t stm_memory_bytes(void)
{
    const size_t physical = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    const size_t most = stm_cgroup_bytes("");
    return STM_MIN(physical, most);
}
