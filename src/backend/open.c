/* Finds a backend by name. The CUDA module is opened when it is asked for, so that one binary serves machines with and
 * without a GPU. */
#include "backend/cpu.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const names[] = {"cpu", "cuda", "auto"};

/* The module's path: in the folder that the environment's STEMMA_MODULES names, else beside the program. */
static stm_status module_path(char **out)
{
    char program[PATH_MAX];
    const char *folder = getenv("STEMMA_MODULES");
    if (folder && *folder)
        return stm_format(out, "%s/libstemma_cuda.so", folder);
    const ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n < 0)
        return stm_fail(STM_ERR_IO, "/proc/self/exe: cannot be read, so the folder of the program is not known");
    program[n] = '\0';
    char *slash = strrchr(program, '/');
    if (slash)
        *slash = '\0';
    return stm_format(out, "%s/libstemma_cuda.so", program);
}

/* What the module exports for this precision; the module stays open until the program ends. */
static stm_status open_cuda(stm_precision precision, const stm_backend **out)
{
    static const char *const symbols[] = {"stm_backend_cuda_f32", "stm_backend_cuda_f64", "stm_backend_cuda_bf16"};
    char *path;
    STM_TRY(module_path(&path));
    stm_status status = STM_OK;
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const stm_backend *backend = module ? dlsym(module, symbols[precision]) : NULL;
    if (!module && access(path, F_OK) != 0)
        status = stm_fail(STM_ERR_INPUT, "backend: \"cuda\" is not there (no %s); this build has: cpu", path);
    else if (!backend)
        status = stm_fail(STM_ERR_INPUT, "backend: \"cuda\" cannot be opened: %s; this build has: cpu", dlerror());
    else
        *out = backend;
    free(path);
    return status;
}

/* Whether it is worth while to open the module unasked. */
static bool gpus_are_likely(void)
{
    static const char *const signs[] = {"/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/nvhost-ctrl",
                                        "/dev/dxg"};
    const char *folder = getenv("STEMMA_MODULES");
    bool likely = folder && *folder;
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        likely = likely || access(signs[i], F_OK) == 0;
    return likely;
}

stm_status stm_backend_find(const char *name, stm_precision precision, const stm_backend **out)
{
    if (strcmp(name, "cuda") == 0)
        return open_cuda(precision, out);
    if (strcmp(name, "auto") == 0 && gpus_are_likely() && open_cuda(precision, out) == STM_OK &&
        (*out)->n_devices() > 0)
        return STM_OK;
    if (strcmp(name, "cpu") != 0 && strcmp(name, "auto") != 0) {
        const char *nearest = stm_nearest_name(name, names, sizeof names / sizeof *names);
        return stm_fail(STM_ERR_INPUT, "backend: found \"%s\"%s%s%s; expected cpu, cuda or auto", name,
                        nearest ? " (did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?)" : "");
    }
    if (precision == STM_BFLOAT16)
        return stm_cpu_bf16_find(out);
    *out = precision == STM_FLOAT32 ? &stm_backend_cpu_f32 : &stm_backend_cpu_f64;
    return STM_OK;
}
