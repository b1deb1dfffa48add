/* GROUPS.jsonl: what is read is written, which must be readable, and packed and unpacked. */
#include "data/groups_file.h"

#include <stdlib.h>

#include "fuzz/fuzz.h"
#include "support/tiny_tokenizer.h"
#include "text/template.h"

static stm_tokenizer *tokenizer;
static stm_template *chat;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    tokenizer = tiny_tokenizer();
    fuzz_expect(stm_template_find("chatml", &chat) == STM_OK, "no template");
    return 0;
}

static void use(const stm_batch *batch, const stm_text_context *context)
{
    stm_string text = {0};
    stm_batch again = {0}, unpacked = {0};
    char *bytes = NULL;
    size_t n;
    for (size_t g = 0; g < batch->n_groups; g++)
        fuzz_took(stm_group_write(&batch->groups[g], NULL, NULL, &text));
    fuzz_expect(stm_groups_read("again", text.bytes, text.n, context, 0, &again) == STM_OK &&
                    again.n_groups == batch->n_groups,
                "what was written is not read back");
    if (fuzz_took(stm_batch_pack(batch, &bytes, &n)))
        fuzz_took(stm_batch_unpack(bytes, n, &unpacked));
    fuzz_expect(unpacked.n_groups == batch->n_groups, "what was packed is not unpacked");
    stm_batch_clear(&again);
    stm_batch_clear(&unpacked);
    free(text.bytes);
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const stm_text_context context = {tokenizer, chat, TINY_VOCAB, 4096};
    const unsigned flags = size > 0 && data[size - 1] < 8 ? data[size - 1] : 0; /* the last byte, where it is no text */
    stm_batch batch = {0};
    if (flags)
        size--;
    if (fuzz_took(stm_groups_read("groups", (const char *)data, size, &context, flags, &batch)))
        use(&batch, &context);
    stm_batch_clear(&batch);
    return 0;
}
