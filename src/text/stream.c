/* Text of ids that come one at a time.
 *
 * Byte-level vocabularies: bytes are collected and shown as far as they are whole characters. Others: the text of all
 * ids is fixed + decode(window) without its first `skip` bytes, where the window begins with the last ids whose text is
 * fixed, so that a decoder which treats the first token otherwise (Strip, Metaspace) does so in the window alike. */
#include <stdlib.h>
#include <string.h>

#include "text/parts.h"

struct stm_text_stream {
    const stm_tokenizer *tokenizer;
    bool skip_special;
    stm_string text;  /* shown */
    size_t fixed;     /* bytes of it that do not change */
    stm_string bytes; /* byte-level: those not yet shown */
    stm_ids window;
    size_t skip;
};

stm_status stm_text_stream_create(const stm_tokenizer *tokenizer, bool skip_special, stm_text_stream **out)
{
    stm_text_stream *stream;
    STM_TRY(stm_alloc(1, sizeof *stream, &stream));
    stream->tokenizer = tokenizer;
    stream->skip_special = skip_special;
    const stm_status status = stm_string_end(&stream->text);
    if (status != STM_OK) {
        stm_text_stream_destroy(stream);
        return status;
    }
    *out = stream;
    return STM_OK;
}

void stm_text_stream_destroy(stm_text_stream *stream)
{
    if (!stream)
        return;
    free(stream->text.bytes);
    free(stream->bytes.bytes);
    free(stream->window.items);
    free(stream);
}

void stm_text_stream_reset(stm_text_stream *stream)
{
    stream->text.n = stream->bytes.n = stream->window.n = stream->fixed = stream->skip = 0;
    stream->text.bytes[0] = 0;
}

/* Moves to the text what is whole; with `all`, the rest as U+FFFD. */
static stm_status show_bytes(stm_text_stream *s, bool all)
{
    size_t done = 0;
    while (done < s->bytes.n) {
        const size_t good = stm_utf8_valid(s->bytes.bytes + done, s->bytes.n - done);
        size_t skip;
        bool cut;
        STM_TRY(stm_string_add(&s->text, s->bytes.bytes + done, good));
        done += good;
        if (done == s->bytes.n)
            break;
        stm_utf8_length(s->bytes.bytes + done, s->bytes.n - done, &skip, &cut);
        if (cut && !all)
            break;
        STM_TRY(stm_string_add_point(&s->text, 0xFFFD));
        done += skip;
    }
    if (done < s->bytes.n)
        memmove(s->bytes.bytes, s->bytes.bytes + done, s->bytes.n - done);
    s->bytes.n -= done;
    return stm_string_end(&s->text);
}

/* A run of byte tokens at the end of the window that is only cut short: the number of ids that wait. */
static size_t waiting_ids(const stm_text_stream *s)
{
    const size_t n = s->window.n;
    char bytes[3];
    for (size_t k = 1; k <= 3 && k <= n; k++) {
        size_t length, skip;
        bool cut;
        const char *token = stm_tokenizer_token(s->tokenizer, s->window.items[n - k], &length);
        const int byte = stm_byte_of_token(token, length);
        if (byte < 0x80)
            return 0;
        bytes[3 - k] = (char)byte;
        if (byte >= 0xC0)
            return stm_utf8_length(bytes + 3 - k, k, &skip, &cut) == 0 && cut ? k : 0;
    }
    return 0;
}

static stm_status decode_window(const stm_text_stream *s, const int32_t *ids, size_t n, char **text, size_t *n_bytes)
{
    return stm_tokenizer_decode(s->tokenizer, ids, n, s->skip_special, text, n_bytes);
}

static stm_status show_window(stm_text_stream *s, size_t n_ids)
{
    char *text;
    size_t n;
    STM_TRY(decode_window(s, s->window.items, n_ids, &text, &n));
    s->text.n = s->fixed;
    const stm_status status = stm_string_add(&s->text, text + STM_MIN(s->skip, n), n - STM_MIN(s->skip, n));
    free(text);
    STM_TRY(status);
    return stm_string_end(&s->text);
}

/* The window's text is final: keep as context its last ids, so many that they have a text. What the decoder takes off
 * the front (Strip) is then taken off the context alone. */
static stm_status fix_window(stm_text_stream *s)
{
    s->fixed = s->text.n;
    for (size_t k = 1; k <= s->window.n; k++) {
        char *text;
        int32_t *context = s->window.items + (s->window.n - k);
        STM_TRY(decode_window(s, context, k, &text, &s->skip));
        free(text);
        if (s->skip > 0 || k == s->window.n) {
            memmove(s->window.items, context, k * sizeof *context);
            s->window.n = k;
            break;
        }
    }
    return STM_OK;
}

stm_status stm_text_stream_add(stm_text_stream *s, int32_t id)
{
    size_t n;
    const char *token = stm_tokenizer_token(s->tokenizer, id, &n);
    if (!token || (s->skip_special && stm_tokenizer_is_special(s->tokenizer, id)))
        return STM_OK;
    if (stm_decoder_is_byte_level(s->tokenizer->decoder)) {
        STM_TRY(stm_add_token_bytes(&s->bytes, token, n));
        return show_bytes(s, false);
    }
    STM_TRY(stm_ids_add(&s->window, id));
    const bool is_byte = stm_decoder_has_byte_fallback(s->tokenizer->decoder) && stm_byte_of_token(token, n) >= 0;
    STM_TRY(show_window(s, s->window.n - (is_byte ? waiting_ids(s) : 0)));
    return is_byte ? STM_OK : fix_window(s);
}

stm_status stm_text_stream_finish(stm_text_stream *s)
{
    if (stm_decoder_is_byte_level(s->tokenizer->decoder))
        return show_bytes(s, true);
    return s->window.n ? show_window(s, s->window.n) : STM_OK;
}

const char *stm_text_stream_text(const stm_text_stream *stream, size_t *n)
{
    *n = stream->text.n;
    return stream->text.bytes;
}
