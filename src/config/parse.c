/* Options from input files and from the command line. */
#include <stdlib.h>
#include <string.h>

#include "config/table.h"

static const char *dashes(const stm_option_row *row)
{
    return row->traits & STM_OPTION_FLAG ? "--" : "";
}

/* A name that the command does not take: not in the table, or another command's. */
static stm_status unknown(const stm_option_source *source, const yaml_node_t *node, stm_command_bit command,
                          const char *name, const char *shown)
{
    const stm_option_row *row = stm_option_find(stm_option_rows, stm_n_option_rows, name);
    if (row && !(row->commands & command))
        return stm_option_fail(source, node, shown, "not an option of `stemma %s`", stm_command_name(command));
    if (row)
        return stm_option_fail(source, node, shown, "only for the command line, as --%s", name);
    if (!source->file && strncmp(name, "reward.", 7) == 0)
        return stm_option_fail(source, node, shown,
                               "found a key of an entry, expected its number, from 0: reward[0].%s", name + 7);
    char *suggestion;
    STM_TRY(stm_option_suggest(stm_option_rows, stm_n_option_rows, command, source->file != NULL, name, &suggestion));
    stm_option_fail(source, node, shown, "unknown %s%s", shown[0] == '-' ? "option" : "key", suggestion);
    free(suggestion);
    return STM_ERR_INPUT;
}

/* Input files */

enum { MOST_FILES = 8 }; /* a file, the one that it includes, .. */

typedef struct {
    stm_options *options,
        *unused; /* unused: takes what the command line has already given, so that it is checked all the same */
    stm_command_bit command;
    stm_file_reader *read; /* of files to include; NULL: none may be */
    int depth;             /* files that led to this one by `include` */
    stm_option_source source;
    unsigned char seen[STM_OPTIONS_MAX];
} file_reader;

static stm_status read_value(file_reader *reader, const yaml_node_t *key_node, const char *name, yaml_node_t *node)
{
    const stm_option_row *row = stm_option_find(stm_option_rows, stm_n_option_rows, name);
    if (!row || !(row->commands & reader->command) || (row->traits & STM_OPTION_LINE_ONLY))
        return unknown(&reader->source, key_node, reader->command, name, name);
    const size_t index = (size_t)(row - stm_option_rows);
    if (reader->seen[index])
        return stm_option_fail(&reader->source, key_node, name, "given twice");
    reader->seen[index] = 1;
    const bool overridden = reader->options->given[index] & STM_GIVEN_LINE;
    STM_TRY(stm_option_set(row, overridden ? reader->unused : reader->options, &reader->source, node, name));
    reader->options->given[index] |= STM_GIVEN_FILE;
    return STM_OK;
}

/* The text of a map's key, or a failure. `inside`: the section, for the message. */
static stm_status key_text(const file_reader *reader, const yaml_node_t *node, const char *inside, const char **text)
{
    if (node->type != YAML_SCALAR_NODE || strlen((const char *)node->data.scalar.value) != node->data.scalar.length)
        return stm_option_fail(&reader->source, node, inside, "found a key that is no text, expected a name");
    *text = (const char *)node->data.scalar.value;
    return STM_OK;
}

static stm_status read_section(file_reader *reader, const yaml_node_t *key_node, const char *section, yaml_node_t *node)
{
    if (stm_yaml_is_null(node)) /* a section whose keys are all commented out */
        return STM_OK;
    if (node->type != YAML_MAPPING_NODE)
        return stm_option_fail(&reader->source, key_node, section, "found %s, expected keys with values",
                               node->type == YAML_SEQUENCE_NODE ? "a list" : "a value");
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top; pair++) {
        const yaml_node_t *inner = yaml_document_get_node(reader->source.document, pair->key);
        const char *key = "";
        char name[256];
        STM_TRY(key_text(reader, inner, section, &key));
        snprintf(name, sizeof name, "%s.%s", section, key);
        STM_TRY(read_value(reader, inner, name, yaml_document_get_node(reader->source.document, pair->value)));
    }
    return STM_OK;
}

static stm_status unknown_section(const file_reader *reader, const yaml_node_t *node, const char *section)
{
    const char *names[STM_OPTIONS_MAX];
    size_t n = 0;
    while (n < STM_OPTIONS_MAX && (names[n] = stm_section_name(n)))
        n++;
    const char *near = stm_nearest_name(section, names, n);
    return stm_option_fail(&reader->source, node, section, "unknown section%s%s%s", near ? "; did you mean " : "",
                           near ? near : "", near ? "?" : "");
}

static stm_status read_text(stm_options *options, stm_command_bit command, const char *name, const char *text, size_t n,
                            stm_file_reader *read, int depth);

/* `path` as seen from the file that names it. The caller frees. */
static stm_status path_beside(const char *file, const char *path, char **out)
{
    const char *slash = *path == '/' ? NULL : strrchr(file, '/');
    return stm_format(out, "%.*s%s", slash ? (int)(slash + 1 - file) : 0, file, path);
}

/* Reads the file that this one includes, before its own keys, which win. */
static stm_status read_included(const file_reader *reader, const yaml_node_t *key, const yaml_node_t *value)
{
    const stm_option_source *source = &reader->source;
    char *path, *text;
    size_t n;
    if (value->type != YAML_SCALAR_NODE || value->data.scalar.length == 0)
        return stm_option_fail(source, key, "include", "found %s, expected the path of an input file",
                               value->type == YAML_SCALAR_NODE ? "nothing" : "a list or a map");
    if (!reader->read)
        return stm_option_fail(source, key, "include", "found one in a text that is no file");
    if (reader->depth + 1 == MOST_FILES)
        return stm_option_fail(source, key, "include", "found a chain of more than %d files", MOST_FILES);
    STM_TRY(path_beside(source->file, (const char *)value->data.scalar.value, &path));
    stm_status status = reader->read(path, &text, &n);
    if (status != STM_OK) {
        stm_fail_context(status, "%s:%zu: include", source->file, key->start_mark.line + 1);
    } else {
        status = read_text(reader->options, reader->command, path, text, n, reader->read, reader->depth + 1);
        free(text);
    }
    free(path);
    return status;
}

static bool is_include(const yaml_node_t *key)
{
    return key->type == YAML_SCALAR_NODE && strcmp((const char *)key->data.scalar.value, "include") == 0;
}

static stm_status read_root(file_reader *reader, yaml_node_t *root)
{
    yaml_document_t *document = reader->source.document;
    if (root->type != YAML_MAPPING_NODE)
        return stm_option_fail(&reader->source, root, NULL,
                               "found %s, expected sections like run: { folder: runs/first }",
                               root->type == YAML_SEQUENCE_NODE ? "a list" : "a text");
    for (yaml_node_pair_t *pair = root->data.mapping.pairs.start; pair < root->data.mapping.pairs.top; pair++)
        if (is_include(yaml_document_get_node(document, pair->key)))
            STM_TRY(read_included(reader, yaml_document_get_node(document, pair->key),
                                  yaml_document_get_node(document, pair->value)));
    for (yaml_node_pair_t *pair = root->data.mapping.pairs.start; pair < root->data.mapping.pairs.top; pair++) {
        yaml_node_t *key_node = yaml_document_get_node(document, pair->key);
        yaml_node_t *value = yaml_document_get_node(document, pair->value);
        const char *key = "";
        STM_TRY(key_text(reader, key_node, NULL, &key));
        for (yaml_node_pair_t *former = root->data.mapping.pairs.start; former < pair; former++) {
            const yaml_node_t *other = yaml_document_get_node(document, former->key);
            if (strcmp((const char *)other->data.scalar.value, key) == 0)
                return stm_option_fail(&reader->source, key_node, key, "given twice, first in line %zu",
                                       other->start_mark.line + 1);
        }
        if (is_include(key_node))
            continue;
        const stm_option_row *row = stm_option_find(stm_option_rows, stm_n_option_rows, key);
        const bool is_value = row && !((row->traits & STM_OPTION_LINE_ONLY) && stm_section_help(key));
        if (!is_value && stm_section_help(key))
            STM_TRY(read_section(reader, key_node, key, value));
        else if (!is_value && value->type == YAML_MAPPING_NODE)
            return unknown_section(reader, key_node, key);
        else
            STM_TRY(read_value(reader, key_node, key, value));
    }
    return STM_OK;
}

static stm_status set_entries(stm_options *options, stm_command_bit command);

static stm_status read_text(stm_options *options, stm_command_bit command, const char *name, const char *text, size_t n,
                            stm_file_reader *read, int depth)
{
    yaml_document_t document;
    stm_options unused;
    STM_TRY(stm_yaml_parse(name, NULL, text, n, &document));
    stm_status status = stm_options_init(&unused);
    if (status == STM_OK) {
        file_reader reader = {options, &unused, command, read, depth, {&document, name}, {0}};
        yaml_node_t *root = yaml_document_get_root_node(&document);
        if (root && !stm_yaml_is_null(root))
            status = read_root(&reader, root);
        stm_options_clear(&unused);
    }
    yaml_document_delete(&document);
    return status == STM_OK && depth == 0 ? set_entries(options, command) : status;
}

stm_status stm_options_read_text(stm_options *options, stm_command_bit command, const char *name, const char *text,
                                 size_t n)
{
    return read_text(options, command, name, text, n, NULL, 0);
}

stm_status stm_options_read_file(stm_options *options, stm_command_bit command, const char *path, stm_file_reader *read)
{
    char *text;
    size_t n;
    STM_TRY(read(path, &text, &n));
    const stm_status status = read_text(options, command, path, text, n, read, 0);
    free(text);
    return status;
}

/* The command line */

/* Stores `text` as the value of `row` in base. Texts are taken as they are, so that a path may hold any character; a
 * text that begins with a quote, and all other kinds, are YAML. */
static stm_status set_value(const stm_option_row *row, void *base, const char *shown, const char *text)
{
    yaml_document_t document;
    const stm_option_source source = {&document, NULL};
    const bool section_key = !(row->traits & STM_OPTION_FLAG), quoted = *text == '"' || *text == '\'';
    if (row->kind == STM_KIND_TEXT && !row->choices && !(section_key && quoted))
        STM_TRY(stm_yaml_quote(shown, text, &document));
    else
        STM_TRY(stm_yaml_parse(NULL, shown, text, strlen(text), &document));
    yaml_node_t *root = yaml_document_get_root_node(&document);
    yaml_node_t nothing = {.type = YAML_SCALAR_NODE,
                           .data.scalar = {.value = (yaml_char_t[]){0}, .style = YAML_PLAIN_SCALAR_STYLE}};
    const stm_status status = stm_option_set(row, base, &source, root ? root : &nothing, shown);
    yaml_document_delete(&document);
    return status;
}

static stm_status set_from_line(stm_options *options, const stm_option_row *row, const char *text)
{
    char shown[256];
    snprintf(shown, sizeof shown, "%s%s", dashes(row), row->name);
    STM_TRY(set_value(row, options, shown, text));
    options->given[row - stm_option_rows] |= STM_GIVEN_LINE;
    return STM_OK;
}

static stm_status add_text(stm_strings *list, const char *text)
{
    STM_TRY(stm_resize(&list->items, list->n + 1, sizeof(char *)));
    if (!(list->items[list->n] = strdup(text)))
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    list->n++;
    return STM_OK;
}

/* Entries of the list of rewards */

static const char entry_begins[] = "reward[";

static bool is_entry(const char *text)
{
    return strncmp(text, entry_begins, sizeof entry_begins - 1) == 0 && strchr(text, '=');
}

/* reward[N].key=value */
static stm_status set_entry(stm_options *options, stm_command_bit command, const char *text)
{
    const stm_option_source line = {0};
    char shown[256], key[128], *end;
    const char *digits = text + sizeof entry_begins - 1;
    const size_t length = strcspn(text, "=");
    const unsigned long long number = strtoull(digits, &end, 10);
    snprintf(shown, sizeof shown, "%.*s", (int)STM_MIN(length, sizeof shown - 1), text);
    if (*digits < '0' || *digits > '9' || strncmp(end, "].", 2) != 0)
        return stm_option_fail(&line, NULL, shown,
                               "expected the number of an entry, from 0, and a key: reward[0].weight");
    if (number >= options->reward.n)
        return stm_option_fail(&line, NULL, shown,
                               "found entry %llu, counted from 0, expected one of the %zu that there are", number,
                               options->reward.n);
    snprintf(key, sizeof key, "%.*s", (int)STM_MIN((size_t)(text + length - end - 2), sizeof key - 1), end + 2);
    const stm_option_row *row = stm_option_find(stm_reward_rows, stm_n_reward_rows, key);
    if (row)
        return set_value(row, &options->reward.items[number], shown, text + length + 1);
    char *suggestion;
    STM_TRY(stm_option_suggest(stm_reward_rows, stm_n_reward_rows, command, false, key, &suggestion));
    stm_option_fail(&line, NULL, shown, "unknown key%s", suggestion);
    free(suggestion);
    return STM_ERR_INPUT;
}

/* Those that wait for the list; once more where a file leaves it as it was. */
static stm_status set_entries(stm_options *options, stm_command_bit command)
{
    const stm_option_row *row = stm_option_find(stm_option_rows, stm_n_option_rows, "reward");
    for (size_t i = 0; i < options->reward_entries.n; i++)
        STM_TRY(set_entry(options, command, options->reward_entries.items[i]));
    if (options->reward_entries.n > 0)
        options->given[row - stm_option_rows] |= STM_GIVEN_LINE;
    return STM_OK;
}

/* True for `word=..` and `word.word=..`; paths with a slash before the `=` are plain arguments. */
static bool is_override(const char *text)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    const size_t n = strspn(text, letters);
    return n > 0 && text[n] == '=' && strchr(letters, text[0]) < letters + 52;
}

stm_status stm_options_read_arguments(stm_options *options, stm_command_bit command, int n, char *const *argv)
{
    const stm_option_source line = {0};
    bool plain = false;
    for (int i = 0; i < n; i++) {
        const char *text = argv[i];
        if (!plain && strcmp(text, "--") == 0) {
            plain = true;
            continue;
        }
        if (!plain && is_entry(text)) {
            const stm_option_row *list = stm_option_find(stm_option_rows, stm_n_option_rows, "reward");
            if (!(list->commands & command))
                return unknown(&line, NULL, command, "reward", "reward");
            STM_TRY(add_text(&options->reward_entries, text));
            continue;
        }
        const bool dashed = !plain && text[0] == '-' && text[1] != 0;
        if (!dashed && (plain || !is_override(text))) {
            STM_TRY(add_text(&options->arguments, text));
            continue;
        }
        char name[256];
        const char *word = strcmp(text, "-h") == 0 ? "--help" : text,
                   *start = word + (strncmp(word, "--", 2) == 0 ? 2 : 0);
        const size_t length = strcspn(start, "=");
        snprintf(name, sizeof name, "%.*s", (int)STM_MIN(length, sizeof name - 1), start);
        const stm_option_row *row = stm_option_find(stm_option_rows, stm_n_option_rows, name);
        if (!row || !(row->commands & command) || start[0] == '-') {
            char shown[260];
            snprintf(shown, sizeof shown, "%s%s", dashed && start == word + 2 ? "--" : "", name);
            return unknown(&line, NULL, command, name, shown);
        }
        const char *value = start[length] == '=' ? start + length + 1 : NULL;
        if (!value && row->kind == STM_KIND_BOOLEAN)
            value = "true";
        if (!value && i + 1 < n && strncmp(argv[i + 1], "--", 2) != 0)
            value = argv[++i];
        if (!value)
            return stm_fail(STM_ERR_INPUT, "command line: %s%s: the value is missing; expected --%s VALUE", dashes(row),
                            name, name);
        STM_TRY(set_from_line(options, row, value));
    }
    return stm_options_given(options, "reward") ? set_entries(options, command) : STM_OK;
}
