#include "reward/sql_schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    stm_span text;
    bool is_name, is_call; /* call: "(" follows */
} token;

typedef struct {
    stm_span name, alias;
} table;

typedef struct {
    char *lower; /* the query, lower case; all spans point into it */
    size_t n_tokens, token_capacity, n_tables, table_capacity;
    token *tokens;
    table *tables;
} parser;

static bool is_name_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || (unsigned char)c >= 0x80;
}

static bool is_keyword(stm_span word)
{
    static const char *const keywords[] = {
        "select",   "from",      "where", "and",    "or",     "not",   "in",     "is",     "null",    "as",
        "on",       "join",      "left",  "right",  "inner",  "outer", "full",   "cross",  "natural", "using",
        "group",    "order",     "by",    "having", "limit",  "union", "all",    "offset", "except",  "intersect",
        "distinct", "asc",       "desc",  "case",   "when",   "then",  "else",   "end",    "like",    "between",
        "exists",   "insert",    "into",  "values", "update", "set",   "delete", "with",   "true",    "false",
        "over",     "partition", "cast",  "any",    "escape"};
    for (size_t i = 0; i < sizeof keywords / sizeof *keywords; i++)
        if (stm_span_is(word, keywords[i]))
            return true;
    return false;
}

/* Lower case, and without quotes around names. */
static void simplify(char *query)
{
    bool in_text = false;
    char *out = query;
    for (const char *c = query; *c; c++) {
        in_text = in_text != (*c == '\'');
        if (in_text || !strchr("\"`[]", *c))
            *out++ = (char)(*c >= 'A' && *c <= 'Z' ? *c - 'A' + 'a' : *c);
    }
    *out = 0;
}

/* Names, keywords and single signs; numbers and texts in '..' are left out. */
static stm_status tokenize(parser *p)
{
    for (const char *c = p->lower; *c;) {
        token t = {.text = {c, 1}};
        if (*c == '\'') {
            c += 1 + strcspn(c + 1, "'");
            c += *c != 0;
            continue;
        }
        const bool word = is_name_byte(*c);
        while (word && is_name_byte(c[t.text.n]))
            t.text.n++;
        c += t.text.n;
        if (stm_span_space(t.text) > 0 || (*t.text.at >= '0' && *t.text.at <= '9') || *t.text.at == '.')
            continue;
        t.is_name = word && !is_keyword(t.text);
        t.is_call = c[strspn(c, " \t\r\n")] == '(';
        STM_TRY(stm_reserve(&p->tokens, &p->token_capacity, p->n_tokens + 1, sizeof *p->tokens));
        p->tokens[p->n_tokens++] = t;
    }
    return STM_OK;
}

static bool token_is(const parser *p, size_t i, const char *word)
{
    return i < p->n_tokens && stm_span_is(p->tokens[i].text, word);
}

static bool is_name(const parser *p, size_t i)
{
    return i < p->n_tokens && p->tokens[i].is_name;
}

/* "t", "t a" or "t as a" behind FROM, JOIN, INTO, UPDATE, and behind the commas of FROM. Their tokens are no columns.
 */
static stm_status find_tables(parser *p)
{
    for (size_t i = 0; i + 1 < p->n_tokens; i++) {
        bool list = token_is(p, i, "from");
        if (!list && !token_is(p, i, "join") && !token_is(p, i, "into") && !token_is(p, i, "update"))
            continue;
        for (size_t at = i + 1; is_name(p, at);) {
            table t = {.name = p->tokens[at].text};
            p->tokens[at++].is_name = false;
            at += token_is(p, at, "as");
            if (is_name(p, at)) {
                t.alias = p->tokens[at].text;
                p->tokens[at++].is_name = false;
            }
            STM_TRY(stm_reserve(&p->tables, &p->table_capacity, p->n_tables + 1, sizeof *p->tables));
            p->tables[p->n_tables++] = t;
            if (!list || !token_is(p, at, ","))
                break;
            at++;
        }
    }
    return STM_OK;
}

/* Writes "table.column " at `out`, the table's own name for its alias. */
static char *write_column(const parser *p, stm_span name, char *out)
{
    const size_t dot = stm_span_find(name, ".", 0);
    stm_span owner = {name.at, 0}, column = name;
    if (dot != STM_NOWHERE) {
        owner = stm_span_cut(name, 0, dot);
        column = stm_span_cut(name, dot + 1, name.n);
        for (size_t t = 0; t < p->n_tables; t++)
            if (p->tables[t].alias.n > 0 && stm_span_same(p->tables[t].alias, owner))
                owner = p->tables[t].name;
    } else if (p->n_tables == 1) {
        owner = p->tables[0].name;
    }
    return out + sprintf(out, "%.*s%s%.*s ", (int)owner.n, owner.at, owner.n > 0 ? "." : "", (int)column.n, column.at);
}

static stm_status write_schema(const parser *p, char **out)
{
    size_t longest = 0, room = 1;
    for (size_t t = 0; t < p->n_tables; t++)
        longest = STM_MAX(longest, p->tables[t].name.n);
    for (size_t i = 0; i < p->n_tokens; i++)
        room += p->tokens[i].text.n + longest + 2;
    STM_TRY(stm_alloc(room, 1, out));
    char *end = *out;
    for (size_t t = 0; t < p->n_tables; t++)
        end += sprintf(end, "%.*s ", (int)p->tables[t].name.n, p->tables[t].name.at);
    for (size_t i = 0; i < p->n_tokens; i++)
        if (p->tokens[i].is_name && !p->tokens[i].is_call && !(i > 0 && token_is(p, i - 1, "as")))
            end = write_column(p, p->tokens[i].text, end);
    return STM_OK;
}

stm_status stm_sql_schema(stm_span query, char **out)
{
    stm_status status = STM_OK;
    parser p = {.lower = NULL};
    STM_GOTO_OUT(stm_format(&p.lower, "%.*s", (int)query.n, query.at));
    simplify(p.lower);
    STM_GOTO_OUT(tokenize(&p));
    STM_GOTO_OUT(find_tables(&p));
    STM_GOTO_OUT(write_schema(&p, out));
out:
    free(p.tables);
    free(p.tokens);
    free(p.lower);
    return status;
}
