/* Which of the known chat templates a Jinja text is: by the expressions that print the turns, so that one that prints
 * otherwise is refused rather than guessed. */
#include <stdlib.h>
#include <string.h>

#include "text/json.h"
#include "text/template_parts.h"
#include "text/utf8.h"

static bool has(const char *text, const char *mark)
{
    return strstr(text, mark) != NULL;
}

/* A template in one spelling, so that what means the same reads the same: escapes in strings resolved, quotes single,
 * no white space outside of strings, message.role for message['role']. */
static stm_status squeeze_literal(const char **at, stm_string *out)
{
    const char quote = **at;
    STM_TRY(stm_string_add(out, "'", 1));
    for ((*at)++; **at && **at != quote; (*at)++) {
        const char *c = *at, *const escape = *c == '\\' && c[1] ? strchr("nt\\'\"", c[1]) : NULL;
        *at += escape != NULL;
        STM_TRY(stm_string_add(out, escape && *escape == 'n' ? "\n" : escape && *escape == 't' ? "\t" : *at, 1));
    }
    *at += **at != 0;
    return stm_string_add(out, "'", 1);
}

static bool starts(const char *text, const char *beginning)
{
    return strncmp(text, beginning, strlen(beginning)) == 0;
}

static stm_status squeeze(const char *jinja, stm_string *out)
{
    static const struct {
        const char *from, *to;
    } members[] = {{"message['role']", "message.role"},
                   {"message[\"role\"]", "message.role"},
                   {"message['content']", "message.content"},
                   {"message[\"content\"]", "message.content"}};
    bool code = false; /* between {{ and }}, or {% and %} */
    for (const char *c = jinja; *c;) {
        size_t k = 0;
        while (k < 4 && !starts(c, members[k].from))
            k++;
        if (code && k < 4) {
            STM_TRY(stm_string_add_text(out, members[k].to));
            c += strlen(members[k].from);
        } else if (code && (*c == '\'' || *c == '"')) {
            STM_TRY(squeeze_literal(&c, out));
        } else if (code && strchr(" \t\r\n", *c)) {
            c++;
        } else {
            code = starts(c, "{{") || starts(c, "{%") || (code && !starts(c, "}}") && !starts(c, "%}"));
            STM_TRY(stm_string_add(out, c++, 1));
        }
    }
    return stm_string_end(out);
}

/* A system message that is written out in the template: what follows `mark`, up to `end`. */
static stm_status find_system(const char *text, const char *mark, const char *end, char **system)
{
    for (const char *at = strstr(text, mark); at; at = strstr(at + 1, mark)) {
        const char *begin = at + strlen(mark), *stop = strstr(begin, end);
        if (stop && stop > begin && !strchr("'\"{} ", *begin))
            return stm_format(system, "%.*s", (int)(stop - begin), begin);
    }
    return STM_OK;
}

static const char *recognise_inst(const char *text)
{
    const bool spaced_answer = has(text, "' '+message.content+eos_token"),
               trimmed_answer = has(text, "' '+message.content|trim+eos_token");
    if (has(text, "<<SYS>>"))
        return has(text, "bos_token+'[INST] '+content.strip()+' [/INST]'}}") &&
                       has(text, "' '+content.strip()+' '+eos_token")
                   ? "llama2"
                   : NULL;
    if (has(text, "' [INST] '+message.content+' [/INST]'}}"))
        return spaced_answer && has(text, "loop.firstandsystem_message") ? "mistral" : NULL;
    if (has(text, "'[INST] '+message.content+' [/INST]'}}") && !has(text, "system_message") && !spaced_answer)
        return has(text, "message.content+eos_token+' '}}") ? "mistral-v0.1"
               : has(text, "message.content+eos_token}}")   ? "mistral-v0.2"
                                                            : NULL;
    if (!has(text, "loop.lastandsystem_message"))
        return NULL;
    if (has(text, "'[INST] '+message.content+'[/INST]'}}"))
        return trimmed_answer ? "mistral-v0.3" : NULL;
    if (has(text, "'[INST]'+message.content+'[/INST]'}}"))
        return trimmed_answer                                               ? "ministral"
               : !spaced_answer && has(text, "message.content+eos_token}}") ? "mistral-nemo"
                                                                            : NULL;
    return NULL;
}

static const char *recognise_thinking(const char *text)
{
    if (!has(text, "content.split('</think>')[-1].lstrip('\n')"))
        return NULL;
    if (has(text, "open_thinking"))
        return "minimind";
    if (!has(text, "last_query_index"))
        return NULL;
    return has(text, "'<|im_start|>assistant\n<think>\n'") ? "qwen3-thinking" : "qwen3";
}

static const char *recognise_im(const char *text)
{
    if (has(text, "Reasoning Mode") && has(text, "Custom Instructions"))
        return "smollm3";
    if (has(text, "</think>"))
        return recognise_thinking(text);
    if (has(text, "trim") || has(text, "strip("))
        return NULL;
    if (has(text, "'<|im_start|>user\n'+content+'<|im_end|>\n<|im_start|>assistant\n'"))
        return "chatml-opened";
    return has(text, "'<|im_start|>'+message.role+'\n'+message.content+'<|im_end|>'") ||
                   has(text, "'<|im_start|>'+message.role+'\n'+content+'<|im_end|>'")
               ? "chatml"
               : NULL;
}

static const char *recognise_deepseek(const char *text)
{
    if (!has(text, "think"))
        return "deepseek-v3";
    if (!has(text, "content.split('</think>')[-1]"))
        return NULL;
    if (has(text, "ifnotenable_thinking"))
        return "deepseek-r1-closed";
    return has(text, "{{'<｜Assistant｜><think>\n'}}") ? "deepseek-r1"
           : has(text, "{{'<｜Assistant｜>'}}")        ? "deepseek-r1-2501"
                                                       : NULL;
}

static const char *recognise_llama3(const char *text)
{
    if (!has(text, "'<|start_header_id|>'+message.role+'<|end_header_id|>\n\n'+message.content|trim+'<|eot_id|>'"))
        return NULL;
    if (has(text, "Cutting Knowledge Date: December 2023"))
        return "llama3.1";
    return has(text, "system_message") ? NULL : has(text, "add_generation_prompt") ? "llama3" : "llama3-opened";
}

static const char *recognise_text(const char *text)
{
    if (has(text, "<｜User｜>"))
        return has(text, "'<｜User｜>'+message.content") ? recognise_deepseek(text) : NULL;
    if (has(text, "<|start_header_id|>"))
        return recognise_llama3(text);
    if (has(text, "[INST]"))
        return recognise_inst(text);
    return has(text, "<|im_start|>") ? recognise_im(text) : NULL;
}

stm_status stm_template_recognise(const char *file, const char *jinja, stm_template **out)
{
    stm_status status = STM_OK;
    stm_string text = {0};
    stm_template *template = NULL;
    STM_GOTO_OUT(squeeze(jinja, &text));
    const char *name = recognise_text(text.bytes);
    if (!name) {
        status = stm_fail(STM_ERR_INPUT,
                          "%s: the chat template is none of those that are known; set data.template to the name of one",
                          file);
        goto out;
    }
    STM_GOTO_OUT(stm_template_find(name, &template));
    if (strcmp(name, "chatml") == 0)
        STM_GOTO_OUT(find_system(text.bytes, "<|im_start|>system\n", "<|im_end|>", &template->system));
    if (strcmp(name, "chatml-opened") == 0)
        STM_GOTO_OUT(find_system(text.bytes, "setsystem_message='", "'", &template->system));
    *out = template;
    template = NULL;
out:
    free(text.bytes);
    stm_template_destroy(template);
    return status;
}

/* "chat_template": a string, or [{"name": "default", "template": ..}, ..]; NULL: none. */
static const char *template_of(const json_t *config)
{
    const json_t *value = json_object_get(config, "chat_template");
    if (!json_is_array(value))
        return json_string_value(value);
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *item = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name && strcmp(name, "default") == 0)
            return json_string_value(json_object_get(item, "template"));
    }
    return json_string_value(json_object_get(json_array_get(value, 0), "template"));
}

static stm_status recognise_config(const char *file, const char *text, stm_template **out)
{
    json_t *config;
    STM_TRY(stm_json_parse(file, text, strlen(text), true, &config));
    const char *jinja = template_of(config);
    const stm_status status =
        jinja ? stm_template_recognise(file, jinja, out)
              : stm_fail(STM_ERR_INPUT, "%s: found no chat_template; set data.template to the name of one", file);
    json_decref(config);
    return status;
}

stm_status stm_template_choose(const char *wanted, const char *folder, const char *config, const char *jinja,
                               stm_template **out)
{
    if (strcmp(wanted, "auto") != 0)
        return stm_template_find(wanted, out);
    if (!jinja && !config)
        return stm_fail(STM_ERR_INPUT, "%s: found no chat template; set data.template to the name of one", folder);
    char *file = NULL;
    STM_TRY(stm_format(&file, "%s/%s", folder, jinja ? "chat_template.jinja" : "tokenizer_config.json"));
    const stm_status status = jinja ? stm_template_recognise(file, jinja, out) : recognise_config(file, config, out);
    free(file);
    return status;
}
