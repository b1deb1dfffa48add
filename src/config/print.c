/* Options as text: YAML that reads back the same, and what differs between two of them. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config/table.h"

/* The shortest decimal that reads back as the same double, with a point, as YAML 1.1 wants it. */
static void write_number(double value, FILE *to)
{
    char text[64];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    const size_t mantissa = strcspn(text, "e");
    fprintf(to, "%.*s%s%s", (int)mantissa, text, memchr(text, '.', mantissa) ? "" : ".0", text + mantissa);
}

/* A text that every YAML reader takes for one without quotes. */
static bool is_simple(const char *text)
{
    static const char *const words[] = {"true", "false", "yes", "no", "on", "off", "y", "n", "null"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcasecmp(text, words[i]) == 0)
            return false;
    if (!isalpha((unsigned char)text[0]) && text[0] != '/')
        return false;
    for (const char *c = text; *c; c++)
        if (!(*c > 0 && (isalnum((unsigned char)*c) || strchr("_./-", *c))))
            return false;
    return true;
}

/* Decodes one character of text that is known to be UTF-8; returns its length. */
static size_t decode(const unsigned char *c, unsigned *code)
{
    const size_t n = *c < 0x80 ? 1 : *c < 0xE0 ? 2 : *c < 0xF0 ? 3 : 4;
    *code = n == 1 ? *c : *c & (0xFFu >> (n + 1));
    for (size_t i = 1; i < n; i++)
        *code = *code << 6 | (c[i] & 0x3F);
    return n;
}

static void write_text(const char *text, FILE *to)
{
    if (is_simple(text)) {
        fputs(text, to);
        return;
    }
    fputc('"', to);
    for (const unsigned char *c = (const unsigned char *)text; *c;) {
        unsigned code;
        const size_t n = decode(c, &code);
        if (code == '"' || code == '\\')
            fprintf(to, "\\%c", (char)code);
        else if (code == '\n' || code == '\t' || code == '\r')
            fputs(code == '\n' ? "\\n" : code == '\t' ? "\\t" : "\\r", to);
        else if (code < 0x20 || (code >= 0x7F && code < 0xA0))
            fprintf(to, "\\x%02X", code);
        else if (code == 0x2028 || code == 0x2029 || code == 0xFEFF || (code >= 0xFFFE && code <= 0xFFFF))
            fprintf(to, "\\u%04X", code);
        else
            fwrite(c, 1, n, to);
        c += n;
    }
    fputc('"', to);
}

static void write_bytes(int64_t bytes, FILE *to)
{
    static const char *const units[] = {"", "KiB", "MiB", "GiB"};
    size_t unit = 0;
    while (unit < 3 && bytes % 1024 == 0) {
        bytes /= 1024;
        unit++;
    }
    fprintf(to, "%lld%s", (long long)bytes, units[unit]);
}

static void write_rewards(const stm_options *options, FILE *to)
{
    fputs("[", to);
    for (size_t i = 0; i < options->reward.n; i++) {
        fputs(i ? ", { " : " { ", to);
        for (size_t k = 0; k < stm_n_reward_rows; k++) {
            fprintf(to, "%s%s: ", k ? ", " : "", stm_reward_rows[k].name);
            stm_option_write(&stm_reward_rows[k], &options->reward.items[i], to);
        }
        fputs(" }", to);
    }
    fputs(options->reward.n ? " ]" : "]", to);
}

static void write_weights(const stm_option_row *row, const double *weights, FILE *to)
{
    const char *gap = "";
    fputs("{", to);
    for (size_t i = 0; row->choices[i]; i++) {
        if (weights[i] == 0)
            continue;
        fprintf(to, "%s%s: ", gap, row->choices[i]);
        write_number(weights[i], to);
        gap = ", ";
    }
    fputs("}", to);
}

void stm_option_write(const stm_option_row *row, const void *base, FILE *to)
{
    const void *value = (const char *)base + row->offset;
    const int64_t *integer = value;
    const double *number = value;
    const stm_strings *strings = value;
    const stm_numbers *numbers = value;
    int choice;
    switch (row->kind) {
    case STM_KIND_BOOLEAN:
        fputs(*(const bool *)value ? "true" : "false", to);
        break;
    case STM_KIND_INTEGER:
    case STM_KIND_BYTES:
        if (*integer == STM_AUTO && (row->traits & STM_OPTION_AUTO))
            fputs("auto", to);
        else if (row->kind == STM_KIND_BYTES)
            write_bytes(*integer, to);
        else
            fprintf(to, "%lld", (long long)*integer);
        break;
    case STM_KIND_NUMBER:
        write_number(*number, to);
        break;
    case STM_KIND_PAIR:
        fputs("[", to);
        write_number(number[0], to);
        fputs(", ", to);
        write_number(number[1], to);
        fputs("]", to);
        break;
    case STM_KIND_TEXT:
        write_text(*(char *const *)value, to);
        break;
    case STM_KIND_CHOICE:
        memcpy(&choice, value, sizeof choice);
        fputs(row->choices[choice], to);
        break;
    case STM_KIND_STRINGS:
        fputs("[", to);
        for (size_t i = 0; i < strings->n; i++) {
            fputs(i ? ", " : "", to);
            write_text(strings->items[i], to);
        }
        fputs("]", to);
        break;
    case STM_KIND_NUMBERS:
        fputs("[", to);
        for (size_t i = 0; i < numbers->n; i++) {
            fputs(i ? ", " : "", to);
            write_number(numbers->items[i], to);
        }
        fputs("]", to);
        break;
    case STM_KIND_WEIGHTS:
        write_weights(row, number, to);
        break;
    case STM_KIND_REWARDS:
        write_rewards(base, to);
        break;
    }
}

stm_status stm_options_print(const stm_options *options, stm_command_bit command, char **yaml)
{
    size_t n;
    FILE *to = open_memstream(yaml, &n);
    if (!to)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    const char *section = NULL; /* the row in whose section we are */
    for (size_t i = 0; i < stm_n_option_rows; i++) {
        const stm_option_row *row = &stm_option_rows[i];
        if (!(row->commands & command) || (row->traits & STM_OPTION_LINE_ONLY))
            continue;
        const size_t length = stm_option_section_length(row);
        const bool inside = row->name[length] == '.';
        if (inside && (!section || strncmp(section, row->name, length + 1) != 0)) {
            fprintf(to, "%.*s:\n", (int)length, row->name);
            section = row->name;
        }
        fprintf(to, "%s%s: ", inside ? "  " : "", row->name + (inside ? length + 1 : 0));
        stm_option_write(row, options, to);
        fputc('\n', to);
    }
    return stm_stream_finish(to, yaml);
}

/* The value as text, in memory that the caller frees. */
static stm_status value_text(const stm_option_row *row, const stm_options *options, char **text)
{
    size_t n;
    FILE *to = open_memstream(text, &n);
    if (!to)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    stm_option_write(row, options, to);
    return stm_stream_finish(to, text);
}

stm_status stm_options_value(const stm_options *options, const char *name, char **text)
{
    return value_text(stm_option_find(stm_option_rows, stm_n_option_rows, name), options, text);
}

void stm_changed_option_clear(stm_changed_option *changed)
{
    free(changed->value);
    free(changed->preset);
    *changed = (stm_changed_option){0};
}

static stm_status preset_text(const stm_option_row *row, char **text)
{
    stm_options preset = {0};
    stm_status status = stm_option_set_preset(row, &preset);
    if (status == STM_OK)
        status = value_text(row, &preset, text);
    stm_option_clear(row, &preset);
    return status;
}

stm_status stm_options_next_changed(const stm_options *options, const char *section, size_t *row,
                                    stm_changed_option *out)
{
    const size_t length = strlen(section);
    *out = (stm_changed_option){0};
    for (; *row < stm_n_option_rows; ++*row) {
        const stm_option_row *one = &stm_option_rows[*row];
        if (strncmp(one->name, section, length) != 0 || one->name[length] != '.')
            continue;
        stm_status status = value_text(one, options, &out->value);
        if (status == STM_OK)
            status = preset_text(one, &out->preset);
        if (status == STM_OK && strcmp(out->value, out->preset) != 0) {
            out->name = one->name;
            ++*row;
            return STM_OK;
        }
        stm_changed_option_clear(out);
        STM_TRY(status);
    }
    return STM_OK;
}

stm_status stm_options_difference(const stm_options *saved, const stm_options *now, char **names)
{
    size_t n;
    FILE *to = open_memstream(names, &n);
    if (!to)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    stm_status status = STM_OK;
    const char *comma = "";
    for (size_t i = 0; i < stm_n_option_rows && status == STM_OK; i++) {
        const stm_option_row *row = &stm_option_rows[i];
        char *before = NULL, *after = NULL;
        if ((row->traits & (STM_OPTION_LINE_ONLY | STM_OPTION_MAY_CHANGE)) || (now->given[i] & STM_GIVEN_LINE))
            continue;
        if ((status = value_text(row, saved, &before)) == STM_OK && (status = value_text(row, now, &after)) == STM_OK &&
            strcmp(before, after) != 0) {
            fprintf(to, "%s%s (saved %s, now %s)", comma, row->name, before, after);
            comma = ", ";
        }
        free(before);
        free(after);
    }
    if (status == STM_OK)
        return stm_stream_finish(to, names);
    fclose(to);
    free(*names);
    *names = NULL;
    return status;
}
