/* src/text/decode.h: the "decoder" of tokenizer.json, which turns the strings of tokens into text: ByteLevel,
 * Metaspace, Replace, ByteFallback, Fuse, Strip, BPEDecoder and Sequences of them; without one, tokens are joined by
 * spaces. Local, all of it. */
#ifndef STM_TEXT_DECODE_H
#define STM_TEXT_DECODE_H

#include "text/json.h"
#include "text/pieces.h"

typedef struct stm_decoder stm_decoder;

/* The caller destroys *out. Fails: STM_ERR_INPUT, STM_ERR_MEMORY. */
stm_status stm_decoder_create(const json_t *json, stm_decoder **out);
void stm_decoder_destroy(stm_decoder *decoder); /* NULL is fine */

/* tokens: one piece each, changed by this; appends the text. Fails: STM_ERR_MEMORY. */
stm_status stm_decoder_apply(const stm_decoder *decoder, stm_pieces *tokens, stm_string *text);

bool stm_decoder_is_byte_level(const stm_decoder *decoder); /* and nothing else */
bool stm_decoder_has_byte_fallback(const stm_decoder *decoder);

/* The bytes of a token of a byte-level vocabulary; the token itself where it is not in GPT-2's alphabet. */
stm_status stm_add_token_bytes(stm_string *bytes, const char *token, size_t n);

/* The byte that a token such as <0x0A> stands for, or -1. */
int stm_byte_of_token(const char *token, size_t n);

#endif
