/* A file of prompts; the last byte, where it is no text, says how they are to be used. */
#include "data/prompts.h"

#include "fuzz/fuzz.h"
#include "support/tiny_tokenizer.h"
#include "text/template.h"

static stm_tokenizer *tokenizer;
static stm_template *chat;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    tokenizer = tiny_tokenizer();
    fuzz_expect(stm_template_find("llama3", &chat) == STM_OK, "no template");
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const stm_text_context context = {tokenizer, chat, TINY_VOCAB, 64};
    const unsigned flags = size > 0 && data[size - 1] < 9 ? data[size - 1] : 0;
    const stm_prompts_use use = {.overlong = (stm_overlong)(flags % 3),
                                 .max_prompt_tokens = flags & 4 ? 5 : 0,
                                 .max_new_tokens = 8,
                                 .needs_answer = flags & 1,
                                 .needs_response = flags & 2,
                                 .end_token = TINY_EOS};
    stm_prompts prompts = {0};
    if (flags)
        size--;
    if (fuzz_took(stm_prompts_read("prompts", (const char *)data, size, &context, &use, &prompts))) {
        for (size_t i = 0; i < prompts.n; i++)
            fuzz_expect(prompts.items[i].n > 0 && prompts.items[i].n <= 64, "an empty or overlong prompt");
        for (uint64_t p = 0; p < 8; p++)
            fuzz_expect(stm_prompt_at(&prompts, 1, true, p) < prompts.n, "a prompt out of range");
    }
    stm_prompts_clear(&prompts);
    return 0;
}
