/* chat_template.jinja and, after a zero byte, tokenizer_config.json; what is recognised renders a conversation. */
#include "text/template.h"

#include <stdlib.h>

#include "fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const stm_message messages[] = {
        {"system", "Be brief."}, {"user", "1+1?"}, {"assistant", "<think>a</think>2"}, {"user", " again "}};
    const char *texts[2];
    char *memory = fuzz_texts(data, size, texts, 2), *text;
    stm_template *template;
    if (fuzz_took(stm_template_choose("auto", "model", texts[1], *texts[0] ? texts[0] : NULL, &template))) {
        if (fuzz_took(stm_template_render(template, messages, 4, true, "<s>", "</s>", &text)))
            free(text);
        stm_template_destroy(template);
    }
    free(memory);
    return 0;
}
