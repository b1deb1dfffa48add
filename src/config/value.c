/* One value of the table: from YAML into the struct, and what to say when it does not fit. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config/table.h"

static void *at(const stm_option_row *row, void *base)
{
    return (char *)base + row->offset;
}

/* Clearing */

static void clear_reward(stm_reward_options *reward)
{
    for (size_t i = 0; i < stm_n_reward_rows; i++)
        stm_option_clear(&stm_reward_rows[i], reward);
}

void stm_option_clear(const stm_option_row *row, void *base)
{
    void *value = at(row, base);
    if (row->kind == STM_KIND_TEXT) {
        char **text = value;
        free(*text);
        *text = NULL;
    } else if (row->kind == STM_KIND_STRINGS) {
        stm_strings *strings = value;
        for (size_t i = 0; i < strings->n; i++)
            free(strings->items[i]);
        free(strings->items);
        *strings = (stm_strings){0};
    } else if (row->kind == STM_KIND_NUMBERS) {
        stm_numbers *numbers = value;
        free(numbers->items);
        *numbers = (stm_numbers){0};
    } else if (row->kind == STM_KIND_REWARDS) {
        stm_options *options = base;
        for (size_t i = 0; i < options->reward.n; i++)
            clear_reward(&options->reward.items[i]);
        free(options->reward.items);
        options->reward.items = NULL;
        options->reward.n = 0;
    }
}

/* Messages */

static void write_range(const stm_option_row *row, const char *noun, FILE *to)
{
    const bool above = row->traits & STM_OPTION_ABOVE_MIN, below = row->traits & STM_OPTION_BELOW_MAX;
    fputs(noun, to);
    if (isfinite(row->min) && isfinite(row->max))
        fprintf(to, " from %s%g to %s%g", above ? "above " : "", row->min, below ? "below " : "", row->max);
    else if (isfinite(row->min))
        fprintf(to, above ? " above %g" : " of at least %g", row->min);
}

void stm_option_write_expected(const stm_option_row *row, FILE *to)
{
    if (row->traits & STM_OPTION_AUTO)
        fputs("auto or ", to);
    if (row->kind == STM_KIND_WEIGHTS)
        fprintf(to, "a map of numbers like {%s: 1.0}, of ", row->choices[0]);
    if (row->choices) {
        for (size_t i = 0; row->choices[i]; i++)
            fprintf(to, "%s%s", i == 0 ? "" : row->choices[i + 1] ? ", " : " or ", row->choices[i]);
        return;
    }
    switch (row->kind) {
    case STM_KIND_BOOLEAN:
        fputs("true or false", to);
        break;
    case STM_KIND_INTEGER:
        if (isfinite(row->max) && row->min == row->max)
            fprintf(to, "%g", row->min);
        else
            write_range(row, "a whole number", to);
        break;
    case STM_KIND_BYTES:
        fputs("a size like 12GiB", to);
        break;
    case STM_KIND_NUMBER:
        write_range(row, "a number", to);
        break;
    case STM_KIND_PAIR:
        write_range(row, "two numbers", to);
        break;
    case STM_KIND_TEXT:
    case STM_KIND_CHOICE:
    case STM_KIND_WEIGHTS:
        fputs("a text", to);
        break;
    case STM_KIND_STRINGS:
        fputs("a list of texts", to);
        break;
    case STM_KIND_NUMBERS:
        write_range(row, row->traits & STM_OPTION_WHOLE ? "a whole number" : "a number", to);
        fputs(", or a list of them", to);
        break;
    case STM_KIND_REWARDS:
        fputs("a list of rewards like [{name: exact}]", to);
        break;
    }
}

static void write_found(const yaml_node_t *node, FILE *to)
{
    enum { SHOWN = 60 };
    if (node->type == YAML_SEQUENCE_NODE) {
        fputs("a list", to);
    } else if (node->type == YAML_MAPPING_NODE) {
        fputs("a map", to);
    } else if (stm_yaml_is_null(node)) {
        fputs("nothing", to);
    } else {
        const char *text = (const char *)node->data.scalar.value;
        const char *quote = node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE ? "" : "\"";
        fprintf(to, "%s%.*s%s%s", quote, SHOWN, text, strlen(text) > SHOWN ? ".." : "", quote);
    }
}

/* "key: found X, expected Y", and the nearest of the choices. */
static stm_status wrong(const stm_option_row *row, const stm_option_source *source, const yaml_node_t *node,
                        const char *key)
{
    char *text = NULL;
    size_t n;
    FILE *to = open_memstream(&text, &n);
    if (!to)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    fputs("found ", to);
    write_found(node, to);
    fputs(", expected ", to);
    stm_option_write_expected(row, to);
    if (row->choices && node->type == YAML_SCALAR_NODE) {
        size_t n_choices = 0;
        while (row->choices[n_choices])
            n_choices++;
        const char *near = stm_nearest_name((const char *)node->data.scalar.value, row->choices, n_choices);
        if (near)
            fprintf(to, "; did you mean %s?", near);
    }
    STM_TRY(stm_stream_finish(to, &text));
    stm_option_fail(source, node, key, "%s", text);
    free(text);
    return STM_ERR_INPUT;
}

/* Reading: each returns false when the text is not of its kind or range */

static bool in_range(const stm_option_row *row, double value)
{
    const bool above = row->traits & STM_OPTION_ABOVE_MIN, below = row->traits & STM_OPTION_BELOW_MAX;
    return isfinite(value) && (above ? value > row->min : value >= row->min) &&
           (below ? value < row->max : value <= row->max);
}

static bool read_boolean(const char *text, bool *value)
{
    static const char *const words[2][3] = {{"false", "no", "off"}, {"true", "yes", "on"}};
    for (size_t truth = 0; truth < 2; truth++)
        for (size_t i = 0; i < 3; i++)
            if (strcasecmp(text, words[truth][i]) == 0) {
                *value = truth;
                return true;
            }
    return false;
}

static bool read_integer(const stm_option_row *row, const char *text, int64_t *value)
{
    char *end;
    if ((row->traits & STM_OPTION_AUTO) && strcmp(text, "auto") == 0) {
        *value = STM_AUTO;
        return true;
    }
    if (*text == 0 || strspn(text, "+-0123456789") != strlen(text))
        return false;
    errno = 0;
    const long long number = strtoll(text, &end, 10);
    *value = number;
    return *end == 0 && errno == 0 && in_range(row, (double)number);
}

/* Decimal digits with point and exponent, as 1e-5 or 1.0e-5: YAML 1.1 takes the first for a text, people do not. */
static bool read_number(const stm_option_row *row, const char *text, double *value)
{
    char *end;
    if (*text == 0 || strspn(text, "+-.0123456789eE") != strlen(text))
        return false;
    *value = strtod(text, &end);
    return *end == 0 && in_range(row, *value);
}

static bool read_bytes(const stm_option_row *row, const char *text, int64_t *value)
{
    static const struct {
        const char *name;
        double bytes;
    } units[] = {{"", 1},     {"B", 1},    {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40},
                 {"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12}};
    char *unit;
    if ((row->traits & STM_OPTION_AUTO) && strcmp(text, "auto") == 0) {
        *value = STM_AUTO;
        return true;
    }
    const size_t n_digits = strspn(text, ".0123456789");
    const double number = strtod(text, &unit);
    if (n_digits == 0 || unit != text + n_digits)
        return false;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcmp(unit + strspn(unit, " "), units[i].name) == 0) {
            const double bytes = number * units[i].bytes;
            if (!in_range(row, bytes) || bytes > 0x1p62)
                return false;
            *value = (int64_t)bytes;
            return true;
        }
    return false;
}

static bool read_choice(const stm_option_row *row, const char *text, int *value)
{
    for (*value = 0; row->choices[*value]; ++*value)
        if (strcmp(row->choices[*value], text) == 0)
            return true;
    return false;
}

/* Storing */

/* The scalar's text, or NULL for lists, maps, nothing, and texts with a NUL inside. */
static const char *scalar(const yaml_node_t *node, bool plain_only)
{
    if (node->type != YAML_SCALAR_NODE || stm_yaml_is_null(node))
        return NULL;
    if (plain_only && node->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
        return NULL;
    const char *text = (const char *)node->data.scalar.value;
    return strlen(text) == node->data.scalar.length ? text : NULL;
}

static stm_status set_text(const stm_option_row *row, void *base, const char *text)
{
    char *copy = strdup(text);
    if (!copy)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    stm_option_clear(row, base);
    *(char **)at(row, base) = copy;
    return STM_OK;
}

/* Items of a list; one thing alone stands for a list of one, and nothing for an empty list. */
static size_t count_items(const yaml_node_t *node)
{
    return node->type == YAML_SEQUENCE_NODE ? (size_t)(node->data.sequence.items.top - node->data.sequence.items.start)
                                            : !stm_yaml_is_null(node);
}

static yaml_node_t *item_of(const stm_option_source *source, yaml_node_t *node, size_t i)
{
    return node->type == YAML_SEQUENCE_NODE
               ? yaml_document_get_node(source->document, node->data.sequence.items.start[i])
               : node;
}

/* Texts that are not empty. */
static stm_status set_strings(const stm_option_row *row, void *base, const stm_option_source *source, yaml_node_t *node,
                              const char *key)
{
    const size_t n = count_items(node);
    int choice;
    stm_strings strings = {0};
    STM_TRY(stm_alloc(n, sizeof *strings.items, &strings.items));
    stm_status status = STM_OK;
    for (size_t i = 0; i < n; i++) {
        yaml_node_t *item = item_of(source, node, i);
        const char *text = scalar(item, false);
        if (text && !*text)
            status = stm_option_fail(source, item, key, "found an empty text, expected a list of texts");
        else if (!text || (row->choices && !read_choice(row, text, &choice)))
            status = wrong(row, source, item, key);
        else if (!(strings.items[strings.n] = strdup(text)))
            status = stm_fail(STM_ERR_MEMORY, "out of memory");
        if (status != STM_OK)
            goto out;
        strings.n++;
    }
    stm_option_clear(row, base);
    *(stm_strings *)at(row, base) = strings;
    return STM_OK;
out:
    for (size_t i = 0; i < strings.n; i++)
        free(strings.items[i]);
    free(strings.items);
    return status;
}

static stm_status set_numbers(const stm_option_row *row, void *base, const stm_option_source *source, yaml_node_t *node,
                              const char *key)
{
    stm_numbers numbers = {.n = count_items(node)};
    STM_TRY(stm_alloc(numbers.n, sizeof *numbers.items, &numbers.items));
    for (size_t i = 0; i < numbers.n; i++) {
        yaml_node_t *item = item_of(source, node, i);
        const char *text = scalar(item, true);
        double *value = &numbers.items[i];
        if (!text || !read_number(row, text, value) || ((row->traits & STM_OPTION_WHOLE) && *value != floor(*value))) {
            free(numbers.items);
            return wrong(row, source, item, key);
        }
    }
    stm_option_clear(row, base);
    *(stm_numbers *)at(row, base) = numbers;
    return STM_OK;
}

static stm_status set_pair(const stm_option_row *row, double *pair, const stm_option_source *source, yaml_node_t *node,
                           const char *key)
{
    if (node->type != YAML_SEQUENCE_NODE || node->data.sequence.items.top - node->data.sequence.items.start != 2)
        return wrong(row, source, node, key);
    for (size_t i = 0; i < 2; i++) {
        yaml_node_t *item = yaml_document_get_node(source->document, node->data.sequence.items.start[i]);
        const char *text = scalar(item, true);
        if (!text || !read_number(row, text, &pair[i]))
            return wrong(row, source, item, key);
    }
    return STM_OK;
}

/* A map of choices to numbers. */
static stm_status set_weights(const stm_option_row *row, double *weights, const stm_option_source *source,
                              yaml_node_t *node, const char *key)
{
    unsigned seen = 0;
    if (node->type != YAML_MAPPING_NODE)
        return wrong(row, source, node, key);
    for (size_t i = 0; row->choices[i]; i++)
        weights[i] = 0;
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top; pair++) {
        yaml_node_t *name_node = yaml_document_get_node(source->document, pair->key);
        yaml_node_t *value_node = yaml_document_get_node(source->document, pair->value);
        const char *name = scalar(name_node, false), *text = scalar(value_node, true);
        int i;
        if (!name || !read_choice(row, name, &i))
            return wrong(row, source, name_node, key);
        if (seen & 1u << i)
            return stm_option_fail(source, name_node, key, "%s is given twice", name);
        seen |= 1u << i;
        if (!text || !read_number(row, text, &weights[i]))
            return wrong(row, source, value_node, key);
    }
    return STM_OK;
}

/* One entry of `reward:`; key is "reward[i]". The reward is cleared by the caller, also after a failure. */
static stm_status set_reward(const stm_option_row *row, stm_reward_options *reward, const stm_option_source *source,
                             yaml_node_t *node, const char *key)
{
    for (size_t i = 0; i < stm_n_reward_rows; i++)
        STM_TRY(stm_option_set_preset(&stm_reward_rows[i], reward));
    if (node->type != YAML_MAPPING_NODE)
        return wrong(row, source, node, key);
    unsigned long seen = 0;
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top; pair++) {
        yaml_node_t *name_node = yaml_document_get_node(source->document, pair->key);
        const char *name = scalar(name_node, false);
        if (!name)
            return stm_option_fail(source, name_node, key, "found a key that is no text, expected a name");
        char whole[128];
        snprintf(whole, sizeof whole, "%s.%s", key, name);
        const stm_option_row *found = stm_option_find(stm_reward_rows, stm_n_reward_rows, name);
        if (!found) {
            char *suggestion;
            STM_TRY(stm_option_suggest(stm_reward_rows, stm_n_reward_rows, ~0u, true, name, &suggestion));
            stm_option_fail(source, name_node, whole, "unknown key%s", suggestion);
            free(suggestion);
            return STM_ERR_INPUT;
        }
        if (seen & 1ul << (found - stm_reward_rows))
            return stm_option_fail(source, name_node, whole, "given twice");
        seen |= 1ul << (found - stm_reward_rows);
        STM_TRY(stm_option_set(found, reward, source, yaml_document_get_node(source->document, pair->value), whole));
    }
    if (!*reward->name)
        return stm_option_fail(source, node, key, "name is missing; expected a map like {name: exact}");
    return STM_OK;
}

/* A list of maps. */
static stm_status set_rewards(const stm_option_row *row, stm_options *options, const stm_option_source *source,
                              yaml_node_t *node, const char *key)
{
    const bool list = node->type == YAML_SEQUENCE_NODE;
    const size_t n = count_items(node);
    stm_reward_options *items;
    STM_TRY(stm_alloc(n, sizeof *items, &items));
    stm_status status = STM_OK;
    for (size_t i = 0; i < n && status == STM_OK; i++) {
        char where[64];
        snprintf(where, sizeof where, "%s[%zu]", key, i);
        status = set_reward(row, &items[i], source, item_of(source, node, i), list ? where : key);
    }
    if (status == STM_OK) {
        stm_option_clear(row, options);
        options->reward.items = items;
        options->reward.n = n;
        return STM_OK;
    }
    for (size_t i = 0; i < n; i++)
        clear_reward(&items[i]);
    free(items);
    return status;
}

stm_status stm_option_set(const stm_option_row *row, void *base, const stm_option_source *source, yaml_node_t *node,
                          const char *key)
{
    void *value = at(row, base);
    const char *text;
    int choice;
    bool good = false;
    switch (row->kind) {
    case STM_KIND_BOOLEAN:
        good = (text = scalar(node, true)) && read_boolean(text, value);
        break;
    case STM_KIND_INTEGER:
        good = (text = scalar(node, true)) && read_integer(row, text, value);
        break;
    case STM_KIND_BYTES:
        good = (text = scalar(node, true)) && read_bytes(row, text, value);
        break;
    case STM_KIND_NUMBER:
        good = (text = scalar(node, true)) && read_number(row, text, value);
        break;
    case STM_KIND_PAIR:
        return set_pair(row, value, source, node, key);
    case STM_KIND_TEXT:
        good = (text = scalar(node, false)) && (!row->choices || read_choice(row, text, &choice));
        if (good)
            return set_text(row, base, text);
        break;
    case STM_KIND_CHOICE:
        good = (text = scalar(node, false)) && read_choice(row, text, &choice);
        if (good)
            memcpy(value, &choice, sizeof choice);
        break;
    case STM_KIND_STRINGS:
        return set_strings(row, base, source, node, key);
    case STM_KIND_NUMBERS:
        return set_numbers(row, base, source, node, key);
    case STM_KIND_WEIGHTS:
        return set_weights(row, value, source, node, key);
    case STM_KIND_REWARDS:
        return set_rewards(row, base, source, node, key);
    }
    return good ? STM_OK : wrong(row, source, node, key);
}

stm_status stm_option_set_preset(const stm_option_row *row, void *base)
{
    if (row->kind == STM_KIND_TEXT)
        return set_text(row, base, row->preset);
    yaml_document_t document;
    const stm_option_source source = {&document, NULL};
    STM_TRY(stm_yaml_parse(NULL, row->name, row->preset, strlen(row->preset), &document));
    const stm_status status = stm_option_set(row, base, &source, yaml_document_get_root_node(&document), row->name);
    yaml_document_delete(&document);
    return status;
}
