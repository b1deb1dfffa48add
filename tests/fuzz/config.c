/* config.json and, after a zero byte, generation_config.json; a model is laid out for what is taken. */
#include <stdlib.h>

#include "fuzz/fuzz.h"
#include "model/layout.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *texts[2];
    char *memory = fuzz_texts(data, size, texts, 2);
    stm_model_config config;
    stm_model *model = NULL;
    if (fuzz_took(stm_model_config_parse("config.json", texts[0], texts[1], &config))) {
        fuzz_expect(config.n_heads % config.n_kv_heads == 0 && config.head_dim % 2 == 0, "took an odd head");
        if (fuzz_took(stm_model_lay_out(&config, &model))) {
            const stm_parameter *last = &model->tensors[model->n_tensors - 1];
            fuzz_expect(last->offset + last->n <= model->n_parameters, "a tensor lies outside the parameters");
        }
    }
    stm_model_destroy(model);
    free(memory);
    return 0;
}
