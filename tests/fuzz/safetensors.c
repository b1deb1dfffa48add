/* A safetensors file; every number of every tensor that is taken is read. */
#include "model/safetensors.h"

#include <string.h>

#include "fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    stm_safetensors *file;
    if (!fuzz_took(stm_safetensors_open(fuzz_file(data, size), &file)))
        return 0;
    for (size_t i = 0; i < file->n_tensors; i++) {
        const stm_tensor *t = &file->tensors[i];
        const char *begin = t->data, *mapping = file->mapping;
        char text[256];
        double reals[16];
        fuzz_expect(begin >= mapping && (size_t)(begin - mapping) + t->bytes <= size, "a tensor lies outside the file");
        fuzz_expect(stm_safetensors_find(file, t->name) == t, "a tensor is not found by its name");
        stm_shape_text(t->shape, t->n_dims, text, sizeof text);
        if (t->dtype > STM_F64) /* no weights: its numbers are never read */
            continue;
        for (size_t first = 0; first < t->n; first += 16) {
            if (!fuzz_took(stm_safetensors_read(file, t, first, STM_MIN(t->n - first, (size_t)16), 8, reals)))
                break;
        }
    }
    stm_safetensors_close(file);
    return 0;
}
