/* src/config/table.h: a row of the table of options, and what can be done with the value that it describes.
 *
 * Private to config/. `base` is the struct that the row's offset counts from: stm_options, or stm_reward_options for
 * the rows of one entry of `reward:`. Local, all of it. */
#ifndef STM_CONFIG_TABLE_H
#define STM_CONFIG_TABLE_H

#include <stdio.h>

#include <yaml.h>

#include "config/options.h"

typedef enum {
    STM_KIND_BOOLEAN, /* bool */
    STM_KIND_INTEGER, /* int64_t; `auto` is STM_AUTO where the row allows it */
    STM_KIND_BYTES,   /* int64_t; auto, 4096, 12GiB, 1.5GB */
    STM_KIND_NUMBER,  /* double */
    STM_KIND_PAIR,    /* double[2] */
    STM_KIND_TEXT,    /* char *; one of `choices` where the row has them */
    STM_KIND_CHOICE,  /* an enum: the position in `choices` */
    STM_KIND_STRINGS, /* stm_strings; each one of `choices` where the row has them */
    STM_KIND_NUMBERS, /* stm_numbers */
    STM_KIND_WEIGHTS, /* double for each of `choices`; those that the map leaves out are 0 */
    STM_KIND_REWARDS  /* the struct `reward` of stm_options */
} stm_option_kind;

typedef enum {
    STM_OPTION_REQUIRED = 1,   /* has no default: stm_options_check names it when it is empty */
    STM_OPTION_FLAG = 2,       /* spelled --name on the command line */
    STM_OPTION_LINE_ONLY = 4,  /* a request for one start of the program: not in files */
    STM_OPTION_MAY_CHANGE = 8, /* a resumed run may differ in it */
    STM_OPTION_AUTO = 16,      /* an integer that may say auto */
    STM_OPTION_ABOVE_MIN = 32, /* min itself is out */
    STM_OPTION_BELOW_MAX = 64, /* max itself is out */
    STM_OPTION_WHOLE = 128     /* numbers that have no fraction */
} stm_option_trait;

typedef struct {
    const char *name; /* section.key, or a key alone */
    stm_option_kind kind;
    size_t offset;
    const char *preset;         /* the default, in YAML's spelling; a text as it is */
    double min, max;            /* infinite: no limit */
    const char *const *choices; /* ends in NULL; NULL: none */
    unsigned commands, traits;
    const char *help;
} stm_option_row;

extern const stm_option_row stm_option_rows[], stm_reward_rows[];
extern const size_t stm_n_option_rows, stm_n_reward_rows;

/* Who gave a value: bits of stm_options.given. */
enum { STM_GIVEN_FILE = 1, STM_GIVEN_LINE = 2 };

/* A YAML document and the file it came from (NULL: the command line), for messages. */
typedef struct {
    yaml_document_t *document;
    const char *file;
} stm_option_source;

/* "file:line: key: text" or "command line: key: text". key may be NULL. Returns STM_ERR_INPUT. */
stm_status stm_option_fail(const stm_option_source *source, const yaml_node_t *node, const char *key,
                           const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Parses text[0..n) into *document, which the caller deletes when this succeeds. An empty text is a document without a
 * root. Fails: STM_ERR_INPUT with the line (file NULL: the command line's `key`), STM_ERR_MEMORY. */
stm_status stm_yaml_parse(const char *file, const char *key, const char *text, size_t n, yaml_document_t *document);

/* A document that holds one quoted text. The caller deletes it. Fails: STM_ERR_INPUT for what is not UTF-8. */
stm_status stm_yaml_quote(const char *key, const char *text, yaml_document_t *document);

/* True for `key:` without a value, `~` and `null`. */
bool stm_yaml_is_null(const yaml_node_t *node);

/* Stores the node's value in base, in place of the former one. key: the name for messages. Fails: STM_ERR_INPUT "found
 * .., expected ..". */
stm_status stm_option_set(const stm_option_row *row, void *base, const stm_option_source *source, yaml_node_t *node,
                          const char *key);

/* Stores the row's default. Fails: STM_ERR_MEMORY. */
stm_status stm_option_set_preset(const stm_option_row *row, void *base);

/* Frees what the value owns and zeroes it. */
void stm_option_clear(const stm_option_row *row, void *base);

/* Writes the value in YAML's flow spelling. */
void stm_option_write(const stm_option_row *row, const void *base, FILE *to);

/* Writes what the row accepts: "a number from 0 to 1", "tree, prompt or repeated". */
void stm_option_write_expected(const stm_option_row *row, FILE *to);

/* The row of that name, or NULL. */
const stm_option_row *stm_option_find(const stm_option_row *rows, size_t n, const char *name);

/* "; did you mean X?" for an unknown name of a command, in memory that the caller frees; "" when nothing is near. The
 * whole name is compared first, then the part after its dot. in_file: a file's spelling and keys, else the command
 * line's. Fails: STM_ERR_MEMORY. */
stm_status stm_option_suggest(const stm_option_row *rows, size_t n, unsigned command, bool in_file, const char *name,
                              char **suggestion);

/* "train", "score", .. for one command's bit. */
const char *stm_command_name(stm_command_bit command);

/* The description of a section ("rollout"), or NULL where there is none of that name; i counts sections (NULL past the
 * last). */
const char *stm_section_help(const char *section);
const char *stm_section_name(size_t i);

/* Length of the part of a row's name before its dot; 0 for a flag; the whole for a section that is one value (reward).
 */
size_t stm_option_section_length(const stm_option_row *row);

/* Fails: STM_ERR_INPUT for options of train that are set and would do nothing. */
stm_status stm_options_check_unused(const stm_options *options);

/* Closes a memory stream and hands over its text; frees it when writing failed. Fails: STM_ERR_MEMORY. */
stm_status stm_stream_finish(FILE *stream, char **text);

#endif
