/* src/text/tokenizer.h: text to token ids and back, as a Hugging Face tokenizer.json says.
 *
 * Supported: BPE (byte-level as in GPT-2, Qwen and Llama 3, or of the sentencepiece kind with byte fallback) and
 * WordLevel, with their normalizers, pre-tokenizers, post-processors, decoders and added tokens; what is not is refused
 * by name. Ids are the same as those of Hugging Face's tokenizers (version 0.23); "truncation", "padding" and offsets
 * are ignored. A tokenizer does not change once it is made: several threads may use it. Local, all of it. */
#ifndef STM_TEXT_TOKENIZER_H
#define STM_TEXT_TOKENIZER_H

#include "base/base.h"

typedef struct stm_tokenizer stm_tokenizer;

/* path: a folder with tokenizer.json (and perhaps tokenizer_config.json), or the file itself. The caller destroys *out.
 * Fails: STM_ERR_INPUT (file, line or key), STM_ERR_MEMORY. */
stm_status stm_tokenizer_open(const char *path, stm_tokenizer **out);

/* The same from memory. name stands for the path in messages. config: the text of tokenizer_config.json, which names
 * bos_token and eos_token (and has add_bos_token, add_eos_token, used only where tokenizer.json has no post_processor);
 * NULL: none. */
stm_status stm_tokenizer_parse(const char *name, const char *json, size_t n, const char *config, stm_tokenizer **out);
void stm_tokenizer_destroy(stm_tokenizer *tokenizer); /* NULL is fine */

/* Ids of n_bytes of text (malformed UTF-8 counts as U+FFFD). Special tokens written out in the text are recognised;
 * special_tokens adds those of the post-processor (BOS and the like), too. *ids [*n] is the caller's to free, never
 * NULL. Fails: STM_ERR_INPUT, STM_ERR_MEMORY. */
stm_status stm_tokenizer_encode(const stm_tokenizer *tokenizer, const char *text, size_t n_bytes, bool special_tokens,
                                int32_t **ids, size_t *n);

/* The same ids, found the plain way: patterns run by PCRE2, no word remembered or cut further. For tests, and for
 * whoever doubts the other way. */
stm_status stm_tokenizer_encode_plain(const stm_tokenizer *tokenizer, const char *text, size_t n_bytes,
                                      bool special_tokens, int32_t **ids, size_t *n);

/* The text of ids [n]; ids that are not known are left out. skip_special: special tokens, too. The caller frees *text,
 * which ends in a NUL that *n_bytes (NULL: not wanted) does not count. Fails: STM_ERR_MEMORY. */
stm_status stm_tokenizer_decode(const stm_tokenizer *tokenizer, const int32_t *ids, size_t n, bool skip_special,
                                char **text, size_t *n_bytes);

size_t stm_tokenizer_n_ids(const stm_tokenizer *tokenizer); /* largest id + 1 */
bool stm_tokenizer_is_known(const stm_tokenizer *tokenizer, int64_t id);
bool stm_tokenizer_is_special(const stm_tokenizer *tokenizer, int64_t id);
int32_t stm_tokenizer_find(const stm_tokenizer *tokenizer, const char *token); /* -1: no such token */

/* As tokenizer_config.json names them; -1 and "" where it does not. */
int32_t stm_tokenizer_bos(const stm_tokenizer *tokenizer);
int32_t stm_tokenizer_eos(const stm_tokenizer *tokenizer);
const char *stm_tokenizer_bos_text(const stm_tokenizer *tokenizer);
const char *stm_tokenizer_eos_text(const stm_tokenizer *tokenizer);

/* Text of ids that come one at a time, for stop strings. What is shown is always well-formed: a character of which
 * bytes are missing waits. Only the text of a run of byte tokens (<0x0A>) may still change, when the run turns out
 * malformed. */
typedef struct stm_text_stream stm_text_stream;

/* The tokenizer must outlive it; the caller destroys *out. Fails: STM_ERR_MEMORY. */
stm_status stm_text_stream_create(const stm_tokenizer *tokenizer, bool skip_special, stm_text_stream **out);
void stm_text_stream_destroy(stm_text_stream *stream); /* NULL is fine */
void stm_text_stream_reset(stm_text_stream *stream);   /* as new, memory kept */

/* Adds an id. Costs what the id's own text costs. Fails: STM_ERR_MEMORY. */
stm_status stm_text_stream_add(stm_text_stream *stream, int32_t id);

/* No more ids come: shows what waited, so that the text is that of stm_tokenizer_decode. Fails: STM_ERR_MEMORY. */
stm_status stm_text_stream_finish(stm_text_stream *stream);

/* The text so far, ending in a NUL that *n does not count; valid until the next call. */
const char *stm_text_stream_text(const stm_text_stream *stream, size_t *n);

#endif
