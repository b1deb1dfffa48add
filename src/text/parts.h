/* src/text/parts.h: what a tokenizer is made of; for tokenizer.c and stream.c only. */
#ifndef STM_TEXT_PARTS_H
#define STM_TEXT_PARTS_H

#include "text/added.h"
#include "text/decode.h"
#include "text/normalize.h"
#include "text/postprocess.h"
#include "text/pretokenize.h"
#include "text/subwords.h"
#include "text/tokenizer.h"

struct stm_tokenizer {
    stm_normalizer *normalizer;
    stm_pretokenizer *pretokenizer;
    stm_subwords *subwords;
    stm_added *added;
    stm_decoder *decoder;
    stm_frame frame;
    stm_string bos_text, eos_text;
    int32_t bos, eos; /* -1: none */
};

/* The string of an id, or NULL. */
const char *stm_tokenizer_token(const stm_tokenizer *tokenizer, int64_t id, size_t *n);

#endif
