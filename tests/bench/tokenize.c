/* How fast a tokenizer starts, encodes and decodes on one core, the fast way beside the plain one in the same run.
 *
 *   bench_tokenize TOKENIZER TEXT [LEAST]
 *
 * TOKENIZER: a tokenizer.json or its folder; TEXT: any UTF-8. With LEAST the exit code is 1 where encoding is slower
 * than so many MB/s. "first": a tokenizer that has not seen the text; "again": one that has. */
#include "text/tokenizer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void must(stm_status status)
{
    if (status == STM_OK)
        return;
    fprintf(stderr, "%s\n", stm_failure());
    exit(1);
}

typedef stm_status (*encoder)(const stm_tokenizer *tokenizer, const char *text, size_t n_bytes, bool special_tokens,
                              int32_t **ids, size_t *n);

static double encode_s(const stm_tokenizer *tokenizer, encoder encode, const char *text, size_t n_bytes)
{
    int32_t *ids;
    size_t n;
    const double start = stm_now_s();
    must(encode(tokenizer, text, n_bytes, false, &ids, &n));
    const double spent = stm_now_s() - start;
    free(ids);
    return spent;
}

static double best_encode_s(const stm_tokenizer *tokenizer, encoder encode, const char *text, size_t n_bytes)
{
    double best = INFINITY;
    for (const double end = stm_now_s() + 1.0; stm_now_s() < end;)
        best = fmin(best, encode_s(tokenizer, encode, text, n_bytes));
    return best;
}

static double best_decode_s(const stm_tokenizer *tokenizer, const int32_t *ids, size_t n)
{
    double best = INFINITY;
    for (const double end = stm_now_s() + 1.0; stm_now_s() < end;) {
        char *text;
        const double start = stm_now_s();
        must(stm_tokenizer_decode(tokenizer, ids, n, false, &text, NULL));
        best = fmin(best, stm_now_s() - start);
        free(text);
    }
    return best;
}

int main(int n_words, char **words)
{
    stm_tokenizer *tokenizer;
    char *text;
    int32_t *ids;
    size_t n_bytes, n;
    if (n_words < 3) {
        fprintf(stderr, "expected: bench_tokenize TOKENIZER TEXT [LEAST]\n");
        return 2;
    }
    must(stm_read_file(words[2], &text, &n_bytes));
    const double before = stm_now_s();
    must(stm_tokenizer_open(words[1], &tokenizer));
    const double open_s = stm_now_s() - before, mb = 1e-6 * (double)n_bytes;
    const double first = mb / encode_s(tokenizer, stm_tokenizer_encode, text, n_bytes);
    const double again = mb / best_encode_s(tokenizer, stm_tokenizer_encode, text, n_bytes);
    const double plain = mb / best_encode_s(tokenizer, stm_tokenizer_encode_plain, text, n_bytes);
    must(stm_tokenizer_encode(tokenizer, text, n_bytes, false, &ids, &n));
    const double decode = mb / best_decode_s(tokenizer, ids, n);
    printf("%s, %.2f MB, %.2f bytes a token\n", words[2], mb, (double)n_bytes / (double)n);
    printf("  open %.0f ms; encode, MB/s: first %.1f, again %.1f, plain %.1f (%.1f times); decode %.1f MB/s\n",
           1e3 * open_s, first, again, plain, again / plain, decode);
    free(ids);
    free(text);
    stm_tokenizer_destroy(tokenizer);
    if (n_words > 3 && again < strtod(words[3], NULL)) {
        printf("  MISSED: at least %s MB/s wanted\n", words[3]);
        return 1;
    }
    return 0;
}
