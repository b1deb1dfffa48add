/* YAML documents through libyaml, with messages that name file and line. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config/table.h"

stm_status stm_option_fail(const stm_option_source *source, const yaml_node_t *node, const char *key,
                           const char *format, ...)
{
    char text[1024];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    const char *before = key ? key : "", *colon = key ? ": " : "";
    if (!source->file)
        return stm_fail(STM_ERR_INPUT, "command line: %s%s%s", before, colon, text);
    return stm_fail(STM_ERR_INPUT, "%s:%zu: %s%s%s", source->file, node->start_mark.line + 1, before, colon, text);
}

/* What libyaml found wrong. */
static stm_status parser_failure(const yaml_parser_t *parser, const char *file, const char *key)
{
    if (parser->error == YAML_MEMORY_ERROR)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    const char *problem = parser->problem ? parser->problem : "unreadable";
    if (!file)
        return stm_fail(STM_ERR_INPUT, "command line: %s: found what is not YAML: %s", key, problem);
    if (parser->error == YAML_READER_ERROR)
        return stm_fail(STM_ERR_INPUT, "%s: byte %zu: found what is not YAML: %s", file, parser->problem_offset,
                        problem);
    const char *context = parser->context ? parser->context : "";
    return stm_fail(STM_ERR_INPUT, "%s:%zu: found what is not YAML: %s%s%s", file, parser->problem_mark.line + 1,
                    context, *context ? ", " : "", problem);
}

stm_status stm_yaml_parse(const char *file, const char *key, const char *text, size_t n, yaml_document_t *document)
{
    yaml_parser_t parser;
    yaml_document_t rest;
    if (!yaml_parser_initialize(&parser))
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, n);
    stm_status status = STM_OK;
    if (!yaml_parser_load(&parser, document)) {
        status = parser_failure(&parser, file, key);
        goto out;
    }
    if (!yaml_document_get_root_node(document))
        goto out;
    if (!yaml_parser_load(&parser, &rest)) {
        status = parser_failure(&parser, file, key);
    } else {
        if (yaml_document_get_root_node(&rest)) {
            const stm_option_source source = {&rest, file};
            status = stm_option_fail(&source, yaml_document_get_root_node(&rest), key,
                                     "found a second YAML document, expected one");
        }
        yaml_document_delete(&rest);
    }
    if (status != STM_OK)
        yaml_document_delete(document);
out:
    yaml_parser_delete(&parser);
    return status;
}

stm_status stm_yaml_quote(const char *key, const char *text, yaml_document_t *document)
{
    if (!yaml_document_initialize(document, NULL, NULL, NULL, 1, 1))
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    if (yaml_document_add_scalar(document, NULL, (const yaml_char_t *)text, (int)strlen(text),
                                 YAML_DOUBLE_QUOTED_SCALAR_STYLE))
        return STM_OK;
    yaml_document_delete(document);
    return stm_fail(STM_ERR_INPUT, "command line: %s: found bytes that are not UTF-8, expected text", key);
}

bool stm_yaml_is_null(const yaml_node_t *node)
{
    if (node->type != YAML_SCALAR_NODE || node->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
        return false;
    const char *text = (const char *)node->data.scalar.value;
    return *text == 0 || strcmp(text, "~") == 0 || strcasecmp(text, "null") == 0;
}
