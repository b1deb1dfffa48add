/* Options as help: for the terminal, 100 columns wide, and as a table in Markdown. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/table.h"

enum { COLUMNS = 100, INDENT = 2, GAP = 2, LONGEST_PRESET = 11 };

/* Length of the next word: (>= 0) stays whole, and of choices that no line holds, those that it does. */
static size_t next_word(const char *text, size_t width)
{
    size_t word = *text == '(' ? strcspn(text, ")") + 1 : strcspn(text, " ");
    if (word > width)
        for (word = width; word > 0 && text[word - 1] != '|';)
            word--;
    return word > 0 ? word : strcspn(text, " ");
}

/* Writes text in lines of `width` columns, all but the first after `indent` spaces. */
static void write_wrapped(const char *text, size_t indent, size_t width, FILE *to)
{
    for (size_t column = 0; *text;) {
        const size_t word = next_word(text, width);
        if (column && column + 1 + word > width) {
            fprintf(to, "\n%*s", (int)indent, "");
            column = 0;
        }
        fprintf(to, "%s%.*s", column ? " " : "", (int)word, text);
        column += word + (column ? 1 : 0);
        text += word;
        text += strspn(text, " ");
    }
    fputc('\n', to);
}

static const char *preset_text(const stm_option_row *row)
{
    return row->traits & STM_OPTION_REQUIRED ? "required" : *row->preset ? row->preset : "\"\"";
}

/* What the row accepts, shorter than in messages: " (>= 1)", " (tree|prompt|repeated)"; nothing where the default says
 * it. */
static void write_accepted(const stm_option_row *row, FILE *to)
{
    const char *automatic = row->traits & STM_OPTION_AUTO ? "auto|" : "";
    if (row->choices) {
        for (size_t i = 0; row->choices[i]; i++)
            fprintf(to, "%s%s", i == 0 ? " (" : "|", row->choices[i]);
        fputs(")", to);
    } else if (row->kind == STM_KIND_BYTES) {
        fprintf(to, " (%s12GiB)", automatic);
    } else if (isfinite(row->min) && row->min == row->max) {
        fprintf(to, " (%s%g)", automatic, row->min);
    } else if (isfinite(row->min) && isfinite(row->max)) {
        fprintf(to, " (%s%g to %s%g)", automatic, row->min, row->traits & STM_OPTION_BELOW_MAX ? "<" : "", row->max);
    } else if (isfinite(row->min)) {
        fprintf(to, " (%s%s %g)", automatic, row->traits & STM_OPTION_ABOVE_MIN ? ">" : ">=", row->min);
    }
}

/* "readers: " before the help. */
static void write_readers(const stm_option_row *row, stm_option_readers *readers, FILE *to)
{
    char text[256];
    readers(row->name, text, sizeof text);
    if (*text)
        fprintf(to, "%s: ", text);
}

/* "readers: help (accepted)", in memory that the caller frees. */
static stm_status help_text(const stm_option_row *row, stm_option_readers *readers, char **text)
{
    size_t n;
    FILE *to = open_memstream(text, &n);
    if (!to)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    write_readers(row, readers, to);
    fputs(row->help, to);
    write_accepted(row, to);
    return stm_stream_finish(to, text);
}

static stm_status write_row(const stm_option_row *row, stm_option_readers *readers, const char *before,
                            size_t name_width, FILE *to)
{
    char name[128], *text;
    const size_t start = INDENT + name_width + GAP + LONGEST_PRESET + GAP;
    snprintf(name, sizeof name, "%s%s", before, row->name);
    STM_TRY(help_text(row, readers, &text));
    fprintf(to, "%*s%-*s%*s%-*s%*s", INDENT, "", (int)name_width, name, GAP, "", LONGEST_PRESET, preset_text(row), GAP,
            "");
    write_wrapped(text, start, COLUMNS - start, to);
    free(text);
    return STM_OK;
}

static size_t widest_name(unsigned commands)
{
    size_t widest = 0;
    for (size_t i = 0; i < stm_n_option_rows; i++) {
        const stm_option_row *row = &stm_option_rows[i];
        const size_t width = strlen(row->name) + (row->traits & STM_OPTION_FLAG ? 2 : 0);
        if (row->commands & commands)
            widest = STM_MAX(widest, width);
    }
    return widest;
}

static stm_status write_help(unsigned commands, stm_option_readers *readers, FILE *to)
{
    const size_t name_width = widest_name(commands);
    const char *section = NULL; /* of the row before */
    for (size_t i = 0; i < stm_n_option_rows; i++) {
        const stm_option_row *row = &stm_option_rows[i];
        if (!(row->commands & commands))
            continue;
        const size_t length = stm_option_section_length(row);
        if (!section || strlen(section) != length || strncmp(section, row->name, length) != 0) {
            for (size_t k = 0; (section = stm_section_name(k)); k++)
                if (strlen(section) == length && strncmp(section, row->name, length) == 0)
                    break;
            if (section)
                fprintf(to, "\n%s: %s\n", section, stm_section_help(section));
            else
                fputs("\nflags: for one start of the program\n", to);
            section = section ? section : "";
        }
        STM_TRY(write_row(row, readers, length ? "" : "--", name_width, to));
        for (size_t k = 0; row->kind == STM_KIND_REWARDS && k < stm_n_reward_rows; k++)
            STM_TRY(write_row(&stm_reward_rows[k], readers, "  ", name_width, to));
    }
    return STM_OK;
}

static void write_markdown_row(const stm_option_row *row, stm_option_readers *readers, const char *before, FILE *to)
{
    fprintf(to, "| `%s%s` | %s%s%s | ", before, row->name, row->traits & STM_OPTION_REQUIRED ? "" : "`",
            preset_text(row), row->traits & STM_OPTION_REQUIRED ? "" : "`");
    stm_option_write_expected(row, to);
    fputs(" | ", to);
    write_readers(row, readers, to);
    fprintf(to, "%s | ", row->help);
    const char *comma = "";
    for (unsigned bit = STM_COMMAND_TRAIN; bit <= STM_COMMAND_CALIBRATE; bit <<= 1)
        if (row->commands & bit) {
            fprintf(to, "%s%s", comma, stm_command_name((stm_command_bit)bit));
            comma = ", ";
        }
    fputs(" |\n", to);
}

static stm_status write_markdown(unsigned commands, stm_option_readers *readers, FILE *to)
{
    fputs("| option | default | takes | meaning | commands |\n|---|---|---|---|---|\n", to);
    for (size_t i = 0; i < stm_n_option_rows; i++) {
        const stm_option_row *row = &stm_option_rows[i];
        if (!(row->commands & commands))
            continue;
        write_markdown_row(row, readers, row->traits & STM_OPTION_FLAG ? "--" : "", to);
        for (size_t k = 0; row->kind == STM_KIND_REWARDS && k < stm_n_reward_rows; k++)
            write_markdown_row(&stm_reward_rows[k], readers, "reward[].", to);
    }
    return STM_OK;
}

/* Runs one of the writers over a text in memory. */
static stm_status in_memory(stm_status (*write)(unsigned commands, stm_option_readers *readers, FILE *to),
                            unsigned commands, stm_option_readers *readers, char **text)
{
    size_t n;
    FILE *to = open_memstream(text, &n);
    if (!to)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    const stm_status status = write(commands, readers, to);
    if (status == STM_OK)
        return stm_stream_finish(to, text);
    fclose(to);
    free(*text);
    *text = NULL;
    return status;
}

stm_status stm_options_help(stm_command_bit command, stm_option_readers *readers, char **text)
{
    return in_memory(write_help, command ? (unsigned)command : ~0u, readers, text);
}

stm_status stm_options_markdown(stm_option_readers *readers, char **text)
{
    return in_memory(write_markdown, ~0u, readers, text);
}
