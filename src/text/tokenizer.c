#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "text/parts.h"

/* Reading */

static stm_status read_parts(stm_tokenizer *t, const json_t *json)
{
    if (!json_is_object(json))
        return stm_fail(STM_ERR_INPUT, "found %s, expected an object", stm_json_kind(json));
    json_t *added;
    STM_TRY(stm_normalizer_create(json_object_get(json, "normalizer"), &t->normalizer));
    STM_TRY(stm_pretokenizer_create(json_object_get(json, "pre_tokenizer"), &t->pretokenizer));
    t->is_words = stm_pretokenizer_is_words(t->pretokenizer, &t->words, &t->bytes);
    STM_TRY(stm_subwords_create(json_object_get(json, "model"), t->bytes, &t->subwords));
    STM_TRY(stm_json_array(json, "added_tokens", &added));
    STM_TRY(stm_added_create(added, stm_subwords_vocab(t->subwords), t->normalizer, &t->added));
    STM_TRY(stm_frame_read(json_object_get(json, "post_processor"), &t->frame));
    return stm_decoder_create(json_object_get(json, "decoder"), &t->decoder);
}

/* "bos_token": "<s>" or {"content": "<s>", ..}. */
static stm_status read_special(stm_tokenizer *t, const json_t *config, const char *key, stm_string *text, int32_t *id)
{
    const json_t *value = json_object_get(config, key);
    const char *found;
    size_t n;
    STM_TRY(json_is_object(value) ? stm_json_string(value, "content", "", &found, &n)
                                  : stm_json_string(config, key, "", &found, &n));
    STM_TRY(stm_string_add(text, found, n));
    STM_TRY(stm_string_end(text));
    *id = n ? stm_tokenizer_find(t, text->bytes) : -1;
    return STM_OK;
}

static stm_status read_config(stm_tokenizer *t, const json_t *config, bool has_frame)
{
    bool add_bos, add_eos;
    if (!json_is_object(config))
        return stm_fail(STM_ERR_INPUT, "found %s, expected an object", stm_json_kind(config));
    STM_TRY(read_special(t, config, "bos_token", &t->bos_text, &t->bos));
    STM_TRY(read_special(t, config, "eos_token", &t->eos_text, &t->eos));
    STM_TRY(stm_json_bool(config, "add_bos_token", false, &add_bos));
    STM_TRY(stm_json_bool(config, "add_eos_token", false, &add_eos));
    if (!has_frame && add_bos && t->bos >= 0)
        STM_TRY(stm_ids_add(&t->frame.before, t->bos));
    if (!has_frame && add_eos && t->eos >= 0)
        STM_TRY(stm_ids_add(&t->frame.after, t->eos));
    return STM_OK;
}

static stm_status parse_config(stm_tokenizer *t, const char *name, const char *text, bool has_frame)
{
    json_t *config = NULL;
    char *path = NULL;
    stm_status status = STM_OK;
    const char *slash = strrchr(name, '/');
    STM_TRY(stm_format(&path, "%.*stokenizer_config.json", slash ? (int)(slash - name) + 1 : 0, name));
    STM_GOTO_OUT(stm_json_parse(path, text, strlen(text), true, &config));
    if ((status = read_config(t, config, has_frame)) != STM_OK)
        stm_fail_context(status, "%s", path);
out:
    json_decref(config);
    free(path);
    return status;
}

static stm_status create_rooms(stm_rooms **rooms)
{
    STM_TRY(stm_alloc(1, sizeof **rooms, rooms));
    pthread_mutex_init(&(*rooms)->lock, NULL);
    return STM_OK;
}

static void destroy_rooms(stm_rooms *rooms)
{
    if (!rooms)
        return;
    for (size_t i = 0; i < rooms->n; i++)
        stm_subwords_room_free(&rooms->items[i]);
    free(rooms->items);
    pthread_mutex_destroy(&rooms->lock);
    free(rooms);
}

stm_status stm_tokenizer_parse(const char *name, const char *json, size_t n, const char *config, stm_tokenizer **out)
{
    stm_status status = STM_OK;
    stm_tokenizer *t = NULL;
    json_t *root = NULL;
    STM_GOTO_OUT(stm_json_parse(name, json, n, false, &root));
    STM_GOTO_OUT(stm_alloc(1, sizeof *t, &t));
    STM_GOTO_OUT(create_rooms(&t->rooms));
    t->bos = t->eos = -1;
    STM_GOTO_OUT(stm_string_end(&t->bos_text));
    STM_GOTO_OUT(stm_string_end(&t->eos_text));
    if ((status = read_parts(t, root)) != STM_OK) {
        stm_fail_context(status, "%s", name);
        goto out;
    }
    if (config) {
        const json_t *frame = json_object_get(root, "post_processor");
        STM_GOTO_OUT(parse_config(t, name, config, frame && !json_is_null(frame)));
    }
    *out = t;
    t = NULL;
out:
    json_decref(root);
    stm_tokenizer_destroy(t);
    return status;
}

static bool is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

stm_status stm_tokenizer_open(const char *path, stm_tokenizer **out)
{
    stm_status status = STM_OK;
    char *file = NULL, *config_path = NULL, *json = NULL, *config = NULL;
    size_t n, n_config;
    const char *slash = strrchr(path, '/');
    if (is_folder(path)) {
        STM_GOTO_OUT(stm_format(&file, "%s/tokenizer.json", path));
        STM_GOTO_OUT(stm_format(&config_path, "%s/tokenizer_config.json", path));
    } else {
        STM_GOTO_OUT(stm_format(&file, "%s", path));
        STM_GOTO_OUT(stm_format(&config_path, "%.*stokenizer_config.json", slash ? (int)(slash - path) + 1 : 0, path));
    }
    STM_GOTO_OUT(stm_read_file(file, &json, &n));
    if (access(config_path, F_OK) == 0)
        STM_GOTO_OUT(stm_read_file(config_path, &config, &n_config));
    STM_GOTO_OUT(stm_tokenizer_parse(file, json, n, config, out));
out:
    free(file);
    free(config_path);
    free(json);
    free(config);
    return status;
}

void stm_tokenizer_destroy(stm_tokenizer *t)
{
    if (!t)
        return;
    stm_normalizer_destroy(t->normalizer);
    stm_pretokenizer_destroy(t->pretokenizer);
    stm_subwords_destroy(t->subwords);
    stm_added_destroy(t->added);
    stm_decoder_destroy(t->decoder);
    stm_frame_free(&t->frame);
    destroy_rooms(t->rooms);
    free(t->bos_text.bytes);
    free(t->eos_text.bytes);
    free(t);
}

/* Encoding */

static stm_status normalize_pieces(const stm_tokenizer *t, stm_pieces *pieces)
{
    stm_status status = STM_OK;
    stm_pieces out = {0};
    stm_string text = {0};
    if (stm_normalizer_is_empty(t->normalizer))
        return STM_OK;
    for (size_t i = 0; i < pieces->n; i++) {
        const stm_piece piece = pieces->items[i];
        text.n = 0;
        STM_GOTO_OUT(stm_string_add(&text, pieces->text.bytes + piece.start, piece.n));
        if (piece.id < 0)
            STM_GOTO_OUT(stm_normalizer_apply(t->normalizer, &text));
        STM_GOTO_OUT(stm_pieces_add_text(&out, text.bytes, text.n, piece.id, piece.first));
    }
    stm_pieces_swap(pieces, &out);
out:
    stm_pieces_free(&out);
    free(text.bytes);
    return status;
}

/* Added tokens and the normalized text between them. */
static stm_status cut_added(const stm_tokenizer *t, const char *text, size_t n_bytes, stm_pieces *pieces)
{
    STM_TRY(stm_utf8_repair(text, n_bytes, &pieces->text));
    STM_TRY(stm_string_end(&pieces->text)); /* an empty text has an address, too */
    STM_TRY(stm_pieces_add(pieces, (stm_piece){.n = pieces->text.n, .id = -1, .first = true}));
    STM_TRY(stm_added_split(t->added, false, pieces));
    STM_TRY(normalize_pieces(t, pieces));
    return stm_added_split(t->added, true, pieces);
}

static stm_rooms *lock_rooms(const stm_tokenizer *t)
{
    pthread_mutex_lock(&t->rooms->lock);
    return t->rooms;
}

static stm_subwords_room take_room(const stm_tokenizer *t)
{
    stm_rooms *rooms = lock_rooms(t);
    const stm_subwords_room room = rooms->n ? rooms->items[--rooms->n] : (stm_subwords_room){0};
    pthread_mutex_unlock(&rooms->lock);
    return room;
}

static void give_room(const stm_tokenizer *t, stm_subwords_room room)
{
    stm_rooms *rooms = lock_rooms(t);
    const bool kept = stm_reserve(&rooms->items, &rooms->capacity, rooms->n + 1, sizeof *rooms->items) == STM_OK;
    if (kept)
        rooms->items[rooms->n++] = room;
    pthread_mutex_unlock(&rooms->lock);
    if (!kept)
        stm_subwords_room_free(&room);
}

static stm_status encode_words(const stm_tokenizer *t, const char *text, size_t n, stm_subwords_room *room,
                               stm_ids *ids)
{
    for (size_t at = 0, end; at < n; at = end) {
        end = stm_words_end(t->words, text, n, at);
        STM_TRY(stm_subwords_encode(t->subwords, room, text + at, end - at, ids));
    }
    return STM_OK;
}

typedef stm_status (*piece_encoder)(const stm_tokenizer *t, const char *text, size_t n, stm_subwords_room *room,
                                    stm_ids *ids);

static stm_status encode_word(const stm_tokenizer *t, const char *text, size_t n, stm_subwords_room *room, stm_ids *ids)
{
    return stm_subwords_encode(t->subwords, room, text, n, ids);
}

static stm_status encode_word_plain(const stm_tokenizer *t, const char *text, size_t n, stm_subwords_room *room,
                                    stm_ids *ids)
{
    return stm_subwords_encode_plain(t->subwords, room, text, n, ids);
}

static stm_status add_all(stm_ids *ids, const stm_ids *more)
{
    for (size_t i = 0; i < more->n; i++)
        STM_TRY(stm_ids_add(ids, more->items[i]));
    return STM_OK;
}

static stm_status encode(const stm_tokenizer *t, const char *text, size_t n_bytes, bool special_tokens, bool plain,
                         int32_t **ids, size_t *n)
{
    stm_status status = STM_OK;
    stm_pieces pieces = {0};
    stm_subwords_room room = take_room(t);
    stm_ids found = {0};
    const bool by_words = t->is_words && !plain;
    const piece_encoder encode_piece = by_words ? encode_words : plain ? encode_word_plain : encode_word;
    STM_GOTO_OUT(stm_reserve(&found.items, &found.capacity, n_bytes / 4 + 8, sizeof *found.items));
    STM_GOTO_OUT(cut_added(t, text, n_bytes, &pieces));
    if (!by_words)
        STM_GOTO_OUT(stm_pretokenizer_apply(t->pretokenizer, plain, &pieces));
    if (special_tokens)
        STM_GOTO_OUT(add_all(&found, &t->frame.before));
    for (size_t i = 0; i < pieces.n; i++) {
        const stm_piece piece = pieces.items[i];
        STM_GOTO_OUT(piece.id >= 0 ? stm_ids_add(&found, piece.id)
                                   : encode_piece(t, pieces.text.bytes + piece.start, piece.n, &room, &found));
    }
    if (special_tokens)
        STM_GOTO_OUT(add_all(&found, &t->frame.after));
    *ids = found.items;
    *n = found.n;
    found.items = NULL;
out:
    free(found.items);
    stm_pieces_free(&pieces);
    give_room(t, room);
    return status;
}

stm_status stm_tokenizer_encode(const stm_tokenizer *t, const char *text, size_t n_bytes, bool special_tokens,
                                int32_t **ids, size_t *n)
{
    return encode(t, text, n_bytes, special_tokens, false, ids, n);
}

stm_status stm_tokenizer_encode_plain(const stm_tokenizer *t, const char *text, size_t n_bytes, bool special_tokens,
                                      int32_t **ids, size_t *n)
{
    return encode(t, text, n_bytes, special_tokens, true, ids, n);
}

/* Decoding */

const char *stm_tokenizer_token(const stm_tokenizer *t, int64_t id, size_t *n)
{
    const char *text = stm_added_text(t->added, id, n);
    return text ? text : stm_vocab_text(stm_subwords_vocab(t->subwords), id, n);
}

stm_status stm_tokenizer_decode(const stm_tokenizer *t, const int32_t *ids, size_t n, bool skip_special, char **text,
                                size_t *n_bytes)
{
    stm_status status = STM_OK;
    stm_pieces tokens = {0};
    stm_string decoded = {0};
    for (size_t i = 0; i < n; i++) {
        size_t length;
        const char *token = stm_tokenizer_token(t, ids[i], &length);
        if (token && !(skip_special && stm_tokenizer_is_special(t, ids[i])))
            STM_GOTO_OUT(stm_pieces_add_text(&tokens, token, length, -1, false));
    }
    STM_GOTO_OUT(stm_decoder_apply(t->decoder, &tokens, &decoded));
    STM_GOTO_OUT(stm_string_end(&decoded));
    *text = decoded.bytes;
    if (n_bytes)
        *n_bytes = decoded.n;
    decoded.bytes = NULL;
out:
    free(decoded.bytes);
    stm_pieces_free(&tokens);
    return status;
}

/* Facts */

size_t stm_tokenizer_n_ids(const stm_tokenizer *t)
{
    const size_t added = stm_vocab_n_ids(stm_added_vocab(t->added)),
                 model = stm_vocab_n_ids(stm_subwords_vocab(t->subwords));
    return STM_MAX(added, model);
}

bool stm_tokenizer_is_known(const stm_tokenizer *t, int64_t id)
{
    size_t n;
    return stm_tokenizer_token(t, id, &n) != NULL;
}

bool stm_tokenizer_is_special(const stm_tokenizer *t, int64_t id)
{
    return stm_added_is_special(t->added, id);
}

int32_t stm_tokenizer_find(const stm_tokenizer *t, const char *token)
{
    const int32_t id = stm_vocab_find(stm_added_vocab(t->added), token, strlen(token));
    return id >= 0 ? id : stm_vocab_find(stm_subwords_vocab(t->subwords), token, strlen(token));
}

int32_t stm_tokenizer_bos(const stm_tokenizer *t)
{
    return t->bos;
}

int32_t stm_tokenizer_eos(const stm_tokenizer *t)
{
    return t->eos;
}

const char *stm_tokenizer_bos_text(const stm_tokenizer *t)
{
    return t->bos_text.bytes;
}

const char *stm_tokenizer_eos_text(const stm_tokenizer *t)
{
    return t->eos_text.bytes;
}
