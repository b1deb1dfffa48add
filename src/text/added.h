/* src/text/added.h: the "added_tokens" of tokenizer.json, found in text before anything else is done to it.
 *
 * Tokens with "normalized": false are looked for in the text as it stands, the others, themselves normalized, in the
 * normalized text. Leftmost match, of those the longest. Local, all of it. */
#ifndef STM_TEXT_ADDED_H
#define STM_TEXT_ADDED_H

#include "text/json.h"
#include "text/normalize.h"
#include "text/pieces.h"
#include "text/vocab.h"

typedef struct stm_added stm_added;

/* list: an array or NULL. A token takes the id that `vocab`, the model's, has for it, else the next after all. The
 * caller destroys *out. Fails: STM_ERR_INPUT, STM_ERR_MEMORY. */
stm_status stm_added_create(const json_t *list, const stm_vocab *vocab, const stm_normalizer *normalizer,
                            stm_added **out);
void stm_added_destroy(stm_added *added); /* NULL is fine */

/* Cuts added tokens out of the pieces without id, in place. Fails: STM_ERR_MEMORY. */
stm_status stm_added_split(const stm_added *added, bool normalized, stm_pieces *pieces);

const stm_vocab *stm_added_vocab(const stm_added *added); /* by their content */
/* What an added token is decoded to, normalized where it is looked for in normalized text; NULL: not an added token's
 * id. */
const char *stm_added_text(const stm_added *added, int64_t id, size_t *n);
bool stm_added_is_special(const stm_added *added, int64_t id);

#endif
