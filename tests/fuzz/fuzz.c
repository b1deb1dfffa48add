#include "fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void fuzz_expect(bool claim, const char *message)
{
    if (claim)
        return;
    fprintf(stderr, "fuzz: %s (last failure: %s)\n", message, stm_failure());
    abort();
}

const char *fuzz_file(const uint8_t *data, size_t size)
{
    static int descriptor = -1;
    static char path[64];
    if (descriptor >= 0)
        close(descriptor);
    descriptor = memfd_create("fuzz", MFD_CLOEXEC);
    fuzz_expect(descriptor >= 0 && write(descriptor, data, size) == (ssize_t)size, "no file in memory");
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    return path;
}

char *fuzz_texts(const uint8_t *data, size_t size, const char **texts, size_t n)
{
    char *copy = malloc(size + 1);
    fuzz_expect(copy != NULL, "out of memory");
    if (size > 0)
        memcpy(copy, data, size);
    copy[size] = 0;
    const char *at = copy;
    for (size_t i = 0; i < n; i++) {
        texts[i] = at;
        if (at)
            at += strlen(at) + 1;
        if (at > copy + size)
            at = NULL;
    }
    return copy;
}

bool fuzz_took(stm_status status)
{
    if (status == STM_OK)
        return true;
    fuzz_expect(stm_failure()[0] != 0, "refused without a message");
    fuzz_expect(status == STM_ERR_INPUT || status == STM_ERR_MEMORY, "blamed the machine for its input");
    return false;
}
