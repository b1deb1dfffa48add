/* src/text/parts.h: what a tokenizer is made of; for tokenizer.c and stream.c only. */
#ifndef STM_TEXT_PARTS_H
#define STM_TEXT_PARTS_H

#include <pthread.h>

#include "text/added.h"
#include "text/decode.h"
#include "text/normalize.h"
#include "text/postprocess.h"
#include "text/pretokenize.h"
#include "text/subwords.h"
#include "text/tokenizer.h"

/* Rooms that no thread is using; a thread that encodes takes one, or makes one, and puts it back. */
typedef struct {
    pthread_mutex_t lock;
    stm_subwords_room *items;
    size_t n, capacity;
} stm_rooms;

struct stm_tokenizer {
    stm_normalizer *normalizer;
    stm_pretokenizer *pretokenizer;
    stm_subwords *subwords;
    stm_added *added;
    stm_decoder *decoder;
    stm_frame frame;
    stm_string bos_text, eos_text;
    int32_t bos, eos; /* -1: none */
    bool is_words;    /* all the pre-tokenizer does is to cut at `words` and, with bytes, to spell them */
    bool bytes;
    stm_words words;
    stm_rooms *rooms;
};

/* The string of an id, or NULL. */
const char *stm_tokenizer_token(const stm_tokenizer *tokenizer, int64_t id, size_t *n);

#endif
