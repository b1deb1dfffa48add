#include "text/decode.h"

#include <stdlib.h>
#include <string.h>

#include "text/normalize.h"
#include "text/pretokenize.h"

typedef struct stage stage;

struct stage {
    stm_status (*apply)(const stage *step, const stm_pieces *in, stm_pieces *out);
    stm_regex *regex;    /* Replace, BPEDecoder */
    stm_string content;  /* Replace: what comes instead; Strip, Metaspace: the character */
    int64_t start, stop; /* Strip */
    stm_prepend_scheme scheme;
};

struct stm_decoder {
    stage *steps;
    size_t n, capacity;
};

/* The steps */

stm_status stm_add_token_bytes(stm_string *bytes, const char *token, size_t n)
{
    size_t length, n_bytes = 0;
    STM_TRY(stm_reserve(&bytes->bytes, &bytes->capacity, bytes->n + n, 1));
    for (size_t at = 0; at < n; at += length) {
        const int byte = stm_point_to_byte(stm_utf8_point(token + at, n - at, &length));
        if (byte < 0)
            return stm_string_add(bytes, token, n);
        bytes->bytes[bytes->n + n_bytes++] = (char)byte;
    }
    bytes->n += n_bytes;
    return STM_OK;
}

static stm_status apply_byte_level(const stage *step, const stm_pieces *in, stm_pieces *out)
{
    (void)step;
    stm_string bytes = {0}, text = {0};
    stm_status status = STM_OK;
    for (size_t i = 0; i < in->n; i++)
        STM_GOTO_OUT(stm_add_token_bytes(&bytes, in->text.bytes + in->items[i].start, in->items[i].n));
    STM_GOTO_OUT(stm_utf8_repair(bytes.bytes, bytes.n, &text));
    STM_GOTO_OUT(stm_pieces_add_text(out, text.bytes, text.n, -1, false));
out:
    free(bytes.bytes);
    free(text.bytes);
    return status;
}

static stm_status apply_replace(const stage *step, const stm_pieces *in, stm_pieces *out)
{
    for (size_t i = 0; i < in->n; i++) {
        const size_t start = out->text.n;
        STM_TRY(stm_replace_matches(step->regex, &step->content, in->text.bytes + in->items[i].start, in->items[i].n,
                                    &out->text));
        STM_TRY(stm_pieces_add(out, (stm_piece){.start = start, .n = out->text.n - start, .id = -1}));
    }
    return STM_OK;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

int stm_byte_of_token(const char *token, size_t n)
{
    if (n != 6 || memcmp(token, "<0x", 3) != 0 || token[5] != '>')
        return -1;
    const int high = hex_digit(token[3]), low = hex_digit(token[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* A run of byte tokens is a text if it is well-formed as a whole, else one U+FFFD for each. */
static stm_status end_run(stm_string *run, stm_pieces *out)
{
    if (run->n == 0)
        return STM_OK;
    if (stm_utf8_valid(run->bytes, run->n) == run->n)
        STM_TRY(stm_pieces_add_text(out, run->bytes, run->n, -1, false));
    else
        for (size_t i = 0; i < run->n; i++)
            STM_TRY(stm_pieces_add_text(out, "\xEF\xBF\xBD", 3, -1, false));
    run->n = 0;
    return STM_OK;
}

static stm_status apply_byte_fallback(const stage *step, const stm_pieces *in, stm_pieces *out)
{
    (void)step;
    stm_status status = STM_OK;
    stm_string run = {0};
    for (size_t i = 0; i < in->n; i++) {
        const char *token = in->text.bytes + in->items[i].start;
        const int byte = stm_byte_of_token(token, in->items[i].n);
        if (byte >= 0) {
            STM_GOTO_OUT(stm_string_add(&run, &(char){(char)byte}, 1));
            continue;
        }
        STM_GOTO_OUT(end_run(&run, out));
        STM_GOTO_OUT(stm_pieces_add_text(out, token, in->items[i].n, -1, false));
    }
    STM_GOTO_OUT(end_run(&run, out));
out:
    free(run.bytes);
    return status;
}

static stm_status apply_fuse(const stage *step, const stm_pieces *in, stm_pieces *out)
{
    (void)step;
    for (size_t i = 0; i < in->n; i++)
        STM_TRY(stm_string_add(&out->text, in->text.bytes + in->items[i].start, in->items[i].n));
    return stm_pieces_add(out, (stm_piece){.n = out->text.n, .id = -1});
}

static stm_status apply_strip(const stage *step, const stm_pieces *in, stm_pieces *out)
{
    const stm_string *c = &step->content;
    for (size_t i = 0; i < in->n; i++) {
        const char *token = in->text.bytes + in->items[i].start;
        size_t start = 0, end = in->items[i].n;
        for (int64_t k = 0; k < step->start && end - start >= c->n && memcmp(token + start, c->bytes, c->n) == 0; k++)
            start += c->n;
        for (int64_t k = 0; k < step->stop && end - start >= c->n && memcmp(token + end - c->n, c->bytes, c->n) == 0;
             k++)
            end -= c->n;
        STM_TRY(stm_pieces_add_text(out, token + start, end - start, -1, false));
    }
    return STM_OK;
}

static stm_status apply_metaspace(const stage *step, const stm_pieces *in, stm_pieces *out)
{
    const stm_string *c = &step->content;
    for (size_t i = 0; i < in->n; i++) {
        const char *token = in->text.bytes + in->items[i].start;
        const size_t n = in->items[i].n, start = out->text.n;
        for (size_t at = 0, length; at < n; at += length) {
            stm_utf8_point(token + at, n - at, &length);
            if (length != c->n || memcmp(token + at, c->bytes, length) != 0)
                STM_TRY(stm_string_add(&out->text, token + at, length));
            else if (i > 0 || step->scheme == STM_PREPEND_NEVER)
                STM_TRY(stm_string_add_text(&out->text, " "));
        }
        STM_TRY(stm_pieces_add(out, (stm_piece){.start = start, .n = out->text.n - start, .id = -1}));
    }
    return STM_OK;
}

/* The suffix of a word's end becomes a space, at the end of the text nothing. */
static stm_status apply_suffix(const stage *step, const stm_pieces *in, stm_pieces *out)
{
    const stm_string space = {.bytes = (char[]){' '}, .n = 1}, nothing = {0};
    for (size_t i = 0; i < in->n; i++) {
        const size_t start = out->text.n;
        STM_TRY(stm_replace_matches(step->regex, i + 1 == in->n ? &nothing : &space,
                                    in->text.bytes + in->items[i].start, in->items[i].n, &out->text));
        STM_TRY(stm_pieces_add(out, (stm_piece){.start = start, .n = out->text.n - start, .id = -1}));
    }
    return STM_OK;
}

static stm_status apply_join(const stage *step, const stm_pieces *in, stm_pieces *out)
{
    (void)step;
    for (size_t i = 0; i < in->n; i++) {
        if (i)
            STM_TRY(stm_string_add_text(&out->text, " "));
        STM_TRY(stm_string_add(&out->text, in->text.bytes + in->items[i].start, in->items[i].n));
    }
    return stm_pieces_add(out, (stm_piece){.n = out->text.n, .id = -1});
}

/* Reading them */

static stm_status read_content(const json_t *json, const char *key, const char *absent, stm_string *content)
{
    const char *text;
    size_t n;
    STM_TRY(stm_json_string(json, key, absent, &text, &n));
    return stm_string_add(content, text, n);
}

static stm_status read_replace(const json_t *json, stage *step)
{
    STM_TRY(read_content(json, "content", "", &step->content));
    return stm_pattern_of(json, &step->regex);
}

static stm_status read_strip(const json_t *json, stage *step)
{
    STM_TRY(read_content(json, "content", " ", &step->content));
    if (step->content.n == 0)
        return stm_fail(STM_ERR_INPUT, "content: found \"\", expected a character");
    STM_TRY(stm_json_integer(json, "start", 0, &step->start));
    return stm_json_integer(json, "stop", 0, &step->stop);
}

static stm_status read_metaspace(const json_t *json, stage *step)
{
    return stm_metaspace_read(json, &step->content, &step->scheme);
}

static stm_status read_suffix(const json_t *json, stage *step)
{
    const char *text;
    size_t n;
    STM_TRY(stm_json_string(json, "suffix", "</w>", &text, &n));
    return stm_regex_create_literal(text, n, &step->regex);
}

static const struct {
    const char *type;
    stm_status (*apply)(const stage *step, const stm_pieces *in, stm_pieces *out);
    stm_status (*read)(const json_t *json, stage *step);
} kinds[] = {
    {"ByteLevel", apply_byte_level, NULL},       {"Replace", apply_replace, read_replace},
    {"ByteFallback", apply_byte_fallback, NULL}, {"Fuse", apply_fuse, NULL},
    {"Strip", apply_strip, read_strip},          {"Metaspace", apply_metaspace, read_metaspace},
    {"BPEDecoder", apply_suffix, read_suffix},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static stm_status add_step(stm_decoder *decoder, stage added)
{
    STM_TRY(stm_reserve(&decoder->steps, &decoder->capacity, decoder->n + 1, sizeof *decoder->steps));
    decoder->steps[decoder->n++] = added;
    return STM_OK;
}

static stm_status add_steps(stm_decoder *decoder, const json_t *json)
{
    const char *type;
    STM_TRY(stm_json_type(json, &type));
    if (strcmp(type, "Sequence") == 0) {
        json_t *list;
        STM_TRY(stm_json_array(json, "decoders", &list));
        for (size_t i = 0; i < json_array_size(list); i++)
            STM_TRY(add_steps(decoder, json_array_get(list, i)));
        return STM_OK;
    }
    for (size_t k = 0; k < N_KINDS; k++) {
        if (strcmp(type, kinds[k].type) != 0)
            continue;
        STM_TRY(add_step(decoder, (stage){.apply = kinds[k].apply}));
        return kinds[k].read ? kinds[k].read(json, &decoder->steps[decoder->n - 1]) : STM_OK;
    }
    return stm_fail(STM_ERR_INPUT, "type: found \"%s\", which is not supported", type);
}

stm_status stm_decoder_create(const json_t *json, stm_decoder **out)
{
    stm_decoder *decoder;
    STM_TRY(stm_alloc(1, sizeof *decoder, &decoder));
    const stm_status status =
        json && !json_is_null(json) ? add_steps(decoder, json) : add_step(decoder, (stage){.apply = apply_join});
    if (status != STM_OK) {
        stm_decoder_destroy(decoder);
        return stm_fail_context(status, "decoder");
    }
    *out = decoder;
    return STM_OK;
}

void stm_decoder_destroy(stm_decoder *decoder)
{
    if (!decoder)
        return;
    for (size_t i = 0; i < decoder->n; i++) {
        stm_regex_destroy(decoder->steps[i].regex);
        free(decoder->steps[i].content.bytes);
    }
    free(decoder->steps);
    free(decoder);
}

stm_status stm_decoder_apply(const stm_decoder *decoder, stm_pieces *tokens, stm_string *text)
{
    stm_status status = STM_OK;
    stm_pieces next = {0};
    STM_GOTO_OUT(stm_string_end(&tokens->text)); /* an empty text has an address, too */
    for (size_t i = 0; i < decoder->n; i++) {
        stm_pieces_reset(&next);
        STM_GOTO_OUT(decoder->steps[i].apply(&decoder->steps[i], tokens, &next));
        STM_GOTO_OUT(stm_string_end(&next.text));
        stm_pieces_swap(tokens, &next);
    }
    for (size_t i = 0; i < tokens->n; i++)
        STM_GOTO_OUT(stm_string_add(text, tokens->text.bytes + tokens->items[i].start, tokens->items[i].n));
out:
    stm_pieces_free(&next);
    return status;
}

bool stm_decoder_is_byte_level(const stm_decoder *decoder)
{
    return decoder->n == 1 && decoder->steps[0].apply == apply_byte_level;
}

bool stm_decoder_has_byte_fallback(const stm_decoder *decoder)
{
    for (size_t i = 0; i < decoder->n; i++)
        if (decoder->steps[i].apply == apply_byte_fallback)
            return true;
    return false;
}
