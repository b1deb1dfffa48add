/* tests/fuzz/fuzz.h: what the fuzzers share.
 *
 * A target gives any bytes to one reader. The reader may refuse them, with a message, or take them, and then what it
 * made of them is used and freed. libFuzzer calls it (STEMMA_FUZZ, run.sh), or replay.c with the files of its corpus.
 */
#ifndef STM_TESTS_FUZZ_H
#define STM_TESTS_FUZZ_H

#include "base/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* The path of a file in memory that holds these bytes, until the next call. Static storage. */
const char *fuzz_file(const uint8_t *data, size_t size);

/* Cuts the input at its zero bytes into at most `n` texts; missing ones are NULL, the last one takes the rest. The
 * caller frees the one allocation that it returns. */
char *fuzz_texts(const uint8_t *data, size_t size, const char **texts, size_t n);

/* Whether the reader took its input; aborts for a refusal that says nothing or that blames the machine. */
bool fuzz_took(stm_status status);

/* Aborts with the message unless the claim holds. */
void fuzz_expect(bool claim, const char *message);

#endif
