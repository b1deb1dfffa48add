/* tokenizer.json, tokenizer_config.json and a text, zero bytes between: the text is encoded in both ways, which must
 * agree, and decoded at once and as a stream, which must agree too. */
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "fuzz/fuzz.h"

static const char usual[] = "Hello, w\xc3\xb6rld!  <s>12345\n\xff\xf0\x9f\x98\x80";

static void decode(const stm_tokenizer *tokenizer, const int32_t *ids, size_t n)
{
    char *whole = NULL;
    size_t n_whole = 0, n_streamed;
    stm_text_stream *stream = NULL;
    if (fuzz_took(stm_tokenizer_decode(tokenizer, ids, n, false, &whole, &n_whole)) &&
        fuzz_took(stm_text_stream_create(tokenizer, false, &stream))) {
        for (size_t i = 0; i < n; i++)
            fuzz_took(stm_text_stream_add(stream, ids[i]));
        fuzz_took(stm_text_stream_finish(stream));
        const char *streamed = stm_text_stream_text(stream, &n_streamed);
        fuzz_expect(n_streamed == n_whole && memcmp(streamed, whole, n_whole) == 0, "a stream decodes otherwise");
    }
    stm_text_stream_destroy(stream);
    free(whole);
}

static void encode(const stm_tokenizer *tokenizer, const char *text)
{
    int32_t *ids = NULL, *plain = NULL;
    size_t n = 0, n_plain = 0;
    const bool took = fuzz_took(stm_tokenizer_encode(tokenizer, text, strlen(text), true, &ids, &n));
    const bool took_plain =
        fuzz_took(stm_tokenizer_encode_plain(tokenizer, text, strlen(text), true, &plain, &n_plain));
    if (took && took_plain)
        fuzz_expect(n == n_plain && (n == 0 || memcmp(ids, plain, n * sizeof *ids) == 0), "the plain way differs");
    for (size_t i = 0; took && i < n; i++)
        fuzz_expect(ids[i] >= 0 && (size_t)ids[i] < stm_tokenizer_n_ids(tokenizer), "an id out of range");
    if (took)
        decode(tokenizer, ids, n);
    free(ids);
    free(plain);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *texts[3];
    char *memory = fuzz_texts(data, size, texts, 3);
    stm_tokenizer *tokenizer;
    const char *config = texts[1] && *texts[1] ? texts[1] : NULL;
    if (fuzz_took(stm_tokenizer_parse("tokenizer.json", texts[0], strlen(texts[0]), config, &tokenizer))) {
        encode(tokenizer, texts[2] ? texts[2] : usual);
        stm_tokenizer_destroy(tokenizer);
    }
    free(memory);
    return 0;
}
