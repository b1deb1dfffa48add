#include "text/template.h"

#include <stdlib.h>
#include <string.h>

#include "text/template_parts.h"
#include "text/utf8.h"

/* Messages being rendered. */
typedef struct {
    const stm_template *template;
    const stm_message *messages;
    size_t n;
    bool generate;
    const char *bos, *eos;
    stm_string *out;
} rendering;

typedef struct stm_template_kind kind;
struct stm_template_kind {
    const char *name;
    stm_status (*render)(const rendering *r);
    const char *system;   /* default system message, NULL: none */
    const char *generate; /* what a generation prompt adds; NULL: the usual */
    bool always_generate, thinks_always, spaced, trims, whole_answers;
};

/* Stretches of text */

typedef struct {
    const char *text;
    size_t n;
} span;

static span span_of(const char *text)
{
    return (span){text, strlen(text)};
}

static bool is_python_space(uint32_t point)
{
    return stm_is_space(point) || (point >= 0x1C && point <= 0x1F);
}

/* str.strip() */
static span trim(span s)
{
    size_t length;
    while (s.n && is_python_space(stm_utf8_point(s.text, s.n, &length))) {
        s.text += length;
        s.n -= length;
    }
    while (s.n) {
        size_t last = s.n - 1;
        while (last > 0 && ((uint8_t)s.text[last] & 0xC0) == 0x80)
            last--;
        if (!is_python_space(stm_utf8_point(s.text + last, s.n - last, &length)))
            break;
        s.n = last;
    }
    return s;
}

static span trim_lines(span s, bool left, bool right)
{
    while (left && s.n && s.text[0] == '\n') {
        s.text++;
        s.n--;
    }
    while (right && s.n && s.text[s.n - 1] == '\n')
        s.n--;
    return s;
}

/* What follows the last `mark`; all of it without one. */
static span after_last(span s, const char *mark)
{
    const size_t n = strlen(mark);
    for (const char *found; (found = memmem(s.text, s.n, mark, n));) {
        s.n -= (size_t)(found + n - s.text);
        s.text = found + n;
    }
    return s;
}

static span before_first(span s, const char *mark)
{
    const char *found = memmem(s.text, s.n, mark, strlen(mark));
    return found ? (span){s.text, (size_t)(found - s.text)} : s;
}

static bool has(const char *text, const char *mark)
{
    return strstr(text, mark) != NULL;
}

static stm_status add(const rendering *r, const char *text)
{
    return stm_string_add_text(r->out, text);
}

static stm_status add_span(const rendering *r, span s)
{
    return stm_string_add(r->out, s.text, s.n);
}

static stm_status add_three(const rendering *r, const char *before, span middle, const char *after)
{
    STM_TRY(add(r, before));
    STM_TRY(add_span(r, middle));
    return add(r, after);
}

static bool is_role(const rendering *r, size_t i, const char *role)
{
    return i < r->n && strcmp(r->messages[i].role, role) == 0;
}

static stm_status end_turns(const rendering *r, const char *usual)
{
    const kind *k = r->template->kind;
    return r->generate || k->always_generate ? add(r, k->generate ? k->generate : usual) : STM_OK;
}

/* plain */

static stm_status render_plain(const rendering *r)
{
    for (size_t i = 0; i < r->n; i++) {
        STM_TRY(add(r, i ? "\n" : ""));
        STM_TRY(add(r, r->messages[i].content));
    }
    return STM_OK;
}

/* chatml and its kin */

static const char IM_ASSISTANT[] = "<|im_start|>assistant\n";

static stm_status add_im(const rendering *r, const char *role, span content)
{
    STM_TRY(add_three(r, "<|im_start|>", span_of(role), "\n"));
    STM_TRY(add_span(r, content));
    return add(r, "<|im_end|>\n");
}

static const char *default_system(const rendering *r)
{
    return r->template->system ? r->template->system : r->template->kind->system;
}

static stm_status render_chatml(const rendering *r)
{
    if (default_system(r) && !is_role(r, 0, "system"))
        STM_TRY(add_im(r, "system", span_of(default_system(r))));
    for (size_t i = 0; i < r->n; i++)
        STM_TRY(add_im(r, r->messages[i].role, span_of(r->messages[i].content)));
    return end_turns(r, IM_ASSISTANT);
}

/* Every user turn opens the assistant's, asked or not; only a first system message counts. */
static stm_status render_chatml_opened(const rendering *r)
{
    const bool own = is_role(r, 0, "system");
    if (own || default_system(r))
        STM_TRY(add_im(r, "system", span_of(own ? r->messages[0].content : default_system(r))));
    for (size_t i = 0; i < r->n; i++) {
        const span content = span_of(r->messages[i].content);
        if (is_role(r, i, "user")) {
            STM_TRY(add_im(r, "user", content));
            STM_TRY(add(r, IM_ASSISTANT));
        } else if (is_role(r, i, "assistant")) {
            STM_TRY(add_three(r, "", content, "<|im_end|>\n"));
        }
    }
    return STM_OK;
}

/* The last message that is a question: a user's, unless it wraps a tool's answer. */
static size_t last_question(const rendering *r)
{
    static const char open[] = "<tool_response>", close[] = "</tool_response>";
    for (size_t i = r->n; i-- > 0;) {
        const span c = span_of(r->messages[i].content);
        const bool wraps = c.n >= sizeof close - 1 && strncmp(c.text, open, sizeof open - 1) == 0 &&
                           strcmp(c.text + c.n - (sizeof close - 1), close) == 0;
        if (is_role(r, i, "user") && !wraps)
            return i;
    }
    return r->n - 1;
}

/* An answer's reasoning stands before </think>; it is kept only after the last question. */
static stm_status add_qwen3_answer(const rendering *r, size_t i, size_t question)
{
    const bool always = r->template->kind->thinks_always;
    span content = span_of(r->messages[i].content), reasoning = {"", 0};
    if (has(content.text, "</think>")) {
        reasoning = trim_lines(before_first(content, "</think>"), false, true);
        reasoning = trim_lines(after_last(reasoning, "<think>"), true, false);
        content = trim_lines(after_last(content, "</think>"), true, false);
    }
    STM_TRY(add(r, IM_ASSISTANT));
    if (always || (i > question && (i + 1 == r->n || reasoning.n))) {
        STM_TRY(add_three(r, "<think>\n", trim_lines(reasoning, true, true), "\n</think>\n\n"));
        content = trim_lines(content, true, false);
    }
    return add_three(r, "", content, "<|im_end|>\n");
}

static stm_status render_qwen3(const rendering *r)
{
    const size_t question = last_question(r);
    for (size_t i = 0; i < r->n; i++)
        STM_TRY(is_role(r, i, "assistant") ? add_qwen3_answer(r, i, question)
                                           : add_im(r, r->messages[i].role, span_of(r->messages[i].content)));
    return end_turns(r, IM_ASSISTANT);
}

/* SmolLM3: what the system message says of /think and /no_think sets the mode. */

static const char SMOLLM3_THINK[] = "You are a helpful AI assistant named SmolLM, trained by Hugging Face. Your role "
                                    "as an assistant involves thoroughly exploring "
                                    "questions through a systematic thinking process before providing the final "
                                    "precise and accurate solutions. This requires "
                                    "engaging in a comprehensive cycle of analysis, summarizing, exploration, "
                                    "reassessment, reflection, backtracking, and iteration to "
                                    "develop well-considered thinking process. Please structure your response into two "
                                    "main sections: Thought and Solution using the "
                                    "specified format: <think> Thought section </think> Solution section. In the "
                                    "Thought section, detail your reasoning process in "
                                    "steps. Each step should include detailed considerations such as analysing "
                                    "questions, summarizing relevant findings, "
                                    "brainstorming new ideas, verifying the accuracy of the current steps, refining "
                                    "any errors, and revisiting previous steps. In the "
                                    "Solution section, based on various attempts, explorations, and reflections from "
                                    "the Thought section, systematically present the "
                                    "final solution that you deem correct. The Solution section should be logical, "
                                    "accurate, and concise and detail necessary steps "
                                    "needed to reach the conclusion.";
static const char SMOLLM3_DIRECT[] = "You are a helpful AI assistant named SmolLM, trained by Hugging Face.";
static const char NO_THOUGHT[] = "<think>\n\n</think>\n";

static stm_status remove_word(const char *word, stm_string *text)
{
    const size_t n = strlen(word);
    STM_TRY(stm_string_end(text));
    for (char *found; (found = strstr(text->bytes, word));) {
        /* What the removal joins is not looked at again, as in str.replace. */
        stm_string kept = {0};
        const char *from = text->bytes;
        for (; found; found = strstr(from, word)) {
            STM_TRY(stm_string_add(&kept, from, (size_t)(found - from)));
            from = found + n;
        }
        STM_TRY(stm_string_add_text(&kept, from));
        free(text->bytes);
        *text = kept;
        return stm_string_end(text);
    }
    return STM_OK;
}

static span trim_right(span s)
{
    const span both = trim(s);
    return both.n ? (span){s.text, (size_t)(both.text - s.text) + both.n} : (span){s.text, 0};
}

static stm_status add_smollm3_system(const rendering *r, bool thinks)
{
    stm_string own = {0};
    stm_status status = STM_OK;
    if (is_role(r, 0, "system")) {
        STM_GOTO_OUT(stm_string_add_text(&own, r->messages[0].content));
        STM_GOTO_OUT(remove_word("/no_think", &own));
        STM_GOTO_OUT(remove_word("/think", &own));
    }
    const span instructions = trim_right((span){own.n ? own.bytes : "", own.n});
    STM_GOTO_OUT(add(r, "<|im_start|>system\n## Metadata\n\nKnowledge Cutoff Date: June 2025\nReasoning Mode: "));
    STM_GOTO_OUT(add(r, thinks ? "/think\n\n## Custom Instructions\n\n" : "/no_think\n\n## Custom Instructions\n\n"));
    STM_GOTO_OUT(add_span(r, instructions.n ? instructions : span_of(thinks ? SMOLLM3_THINK : SMOLLM3_DIRECT)));
    STM_GOTO_OUT(add(r, "\n\n<|im_end|>\n"));
out:
    free(own.bytes);
    return status;
}

static stm_status render_smollm3(const rendering *r)
{
    const bool thinks = !is_role(r, 0, "system") || !has(r->messages[0].content, "/no_think");
    STM_TRY(add_smollm3_system(r, thinks));
    for (size_t i = 0; i < r->n; i++) {
        const span content = span_of(r->messages[i].content);
        if (is_role(r, i, "user")) {
            STM_TRY(add_im(r, "user", content));
        } else if (is_role(r, i, "assistant")) {
            STM_TRY(add(r, IM_ASSISTANT));
            STM_TRY(add(r, thinks ? "" : NO_THOUGHT));
            STM_TRY(add_three(r, "", trim_lines(content, true, false), "<|im_end|>\n"));
        }
    }
    STM_TRY(end_turns(r, IM_ASSISTANT));
    return r->generate && !thinks ? add(r, NO_THOUGHT) : STM_OK;
}

/* Llama */

static stm_status add_header(const rendering *r, const char *role)
{
    return add_three(r, "<|start_header_id|>", span_of(role), "<|end_header_id|>\n\n");
}

static stm_status add_llama3_turns(const rendering *r, size_t first)
{
    for (size_t i = first; i < r->n; i++) {
        STM_TRY(add_header(r, r->messages[i].role));
        STM_TRY(add_three(r, "", trim(span_of(r->messages[i].content)), "<|eot_id|>"));
    }
    return end_turns(r, "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

static stm_status render_llama3(const rendering *r)
{
    STM_TRY(add(r, r->n ? r->bos : ""));
    return add_llama3_turns(r, 0);
}

static stm_status render_llama31(const rendering *r)
{
    const bool own = is_role(r, 0, "system");
    STM_TRY(add(r, r->bos));
    STM_TRY(add_header(r, "system"));
    STM_TRY(add(r, "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"));
    STM_TRY(add_three(r, "", own ? trim(span_of(r->messages[0].content)) : (span){"", 0}, "<|eot_id|>"));
    return add_llama3_turns(r, own);
}

/* Templates of the [INST] kind insist on turns that alternate, after a system message. */
static stm_status check_turns(const rendering *r, size_t first)
{
    for (size_t i = first; i < r->n; i++) {
        const char *expected = (i - first) % 2 ? "assistant" : "user";
        if (!is_role(r, i, expected))
            return stm_fail(
                STM_ERR_INPUT,
                "messages[%zu]: role: found \"%s\", expected \"%s\": template %s needs turns that alternate", i,
                r->messages[i].role, expected, r->template->kind->name);
    }
    return STM_OK;
}

static stm_status render_llama2(const rendering *r)
{
    const size_t first = is_role(r, 0, "system");
    STM_TRY(check_turns(r, first));
    for (size_t i = first; i < r->n; i++) {
        const span content = trim(span_of(r->messages[i].content));
        if (is_role(r, i, "assistant")) {
            STM_TRY(add_three(r, " ", content, " "));
            STM_TRY(add(r, r->eos));
            continue;
        }
        STM_TRY(add(r, r->bos));
        STM_TRY(add(r, "[INST] "));
        if (first && i == first) { /* both are trimmed as one text */
            const span own = trim_right(span_of(r->messages[i].content));
            STM_TRY(add_three(r, "<<SYS>>\n", span_of(r->messages[0].content), "\n<</SYS>>"));
            STM_TRY(add_three(r, own.n ? "\n\n" : "", own, ""));
        } else {
            STM_TRY(add_span(r, content));
        }
        STM_TRY(add(r, " [/INST]"));
    }
    return STM_OK;
}

/* Mistral */

static stm_status render_mistral(const rendering *r)
{
    const size_t first = is_role(r, 0, "system");
    STM_TRY(check_turns(r, first));
    STM_TRY(add(r, r->bos));
    for (size_t i = first; i < r->n; i++) {
        const span content = span_of(r->messages[i].content);
        if (is_role(r, i, "assistant")) {
            STM_TRY(add_three(r, " ", content, r->eos));
            continue;
        }
        STM_TRY(add(r, " [INST] "));
        if (first && i == first)
            STM_TRY(add_three(r, "", span_of(r->messages[0].content), "\n\n"));
        STM_TRY(add_three(r, "", content, " [/INST]"));
    }
    return STM_OK;
}

/* The first release: no system message; a space after each answer. */
static stm_status render_mistral_v01(const rendering *r)
{
    STM_TRY(check_turns(r, 0));
    STM_TRY(add(r, r->bos));
    for (size_t i = 0; i < r->n; i++) {
        const span content = span_of(r->messages[i].content);
        if (is_role(r, i, "user")) {
            STM_TRY(add_three(r, "[INST] ", content, " [/INST]"));
        } else {
            STM_TRY(add_three(r, "", content, r->eos));
            STM_TRY(add(r, r->template->kind->spaced ? " " : ""));
        }
    }
    return STM_OK;
}

/* The system message goes into the last turn, if that is the user's. */
static stm_status render_mistral_v03(const rendering *r)
{
    const bool spaced = r->template->kind->spaced, trims = r->template->kind->trims;
    const size_t first = is_role(r, 0, "system");
    STM_TRY(check_turns(r, first));
    STM_TRY(add(r, r->bos));
    for (size_t i = first; i < r->n; i++) {
        const span content = span_of(r->messages[i].content);
        if (is_role(r, i, "assistant")) {
            STM_TRY(add_three(r, trims ? " " : "", trims ? trim(content) : content, r->eos));
            continue;
        }
        STM_TRY(add(r, spaced ? "[INST] " : "[INST]"));
        if (first && i + 1 == r->n)
            STM_TRY(add_three(r, "", span_of(r->messages[0].content), "\n\n"));
        STM_TRY(add_three(r, "", content, "[/INST]"));
    }
    return STM_OK;
}

/* DeepSeek: the last system message comes first. */
static stm_status render_deepseek(const rendering *r)
{
    const bool whole = r->template->kind->whole_answers;
    const char *system = "";
    for (size_t i = 0; i < r->n; i++)
        if (is_role(r, i, "system"))
            system = r->messages[i].content;
    STM_TRY(add(r, r->bos));
    STM_TRY(add(r, system));
    for (size_t i = 0; i < r->n; i++) {
        const span content = span_of(r->messages[i].content);
        if (is_role(r, i, "user"))
            STM_TRY(add_three(r, "<｜User｜>", content, ""));
        else if (is_role(r, i, "assistant"))
            STM_TRY(add_three(r, "<｜Assistant｜>", whole ? content : after_last(content, "</think>"),
                              "<｜end▁of▁sentence｜>"));
    }
    return end_turns(r, "<｜Assistant｜>");
}

/* The table */

static const kind kinds[] = {
    {.name = "plain", .render = render_plain},
    {.name = "chatml", .render = render_chatml},
    {.name = "chatml-opened", .render = render_chatml_opened},
    {.name = "qwen2", .render = render_chatml, .system = "You are a helpful assistant."},
    {.name = "qwen2.5",
     .render = render_chatml,
     .system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
    {.name = "qwen3", .render = render_qwen3},
    {.name = "qwen3-thinking", .render = render_qwen3, .generate = "<|im_start|>assistant\n<think>\n"},
    {.name = "minimind",
     .render = render_qwen3,
     .thinks_always = true,
     .generate = "<|im_start|>assistant\n<think>\n\n</think>\n\n"},
    {.name = "smollm2",
     .render = render_chatml,
     .system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
    {.name = "smollm3", .render = render_smollm3},
    {.name = "llama2", .render = render_llama2},
    {.name = "llama3", .render = render_llama3},
    {.name = "llama3-opened", .render = render_llama3, .always_generate = true},
    {.name = "llama3.1", .render = render_llama31},
    {.name = "mistral", .render = render_mistral},
    {.name = "mistral-v0.1", .render = render_mistral_v01, .spaced = true},
    {.name = "mistral-v0.2", .render = render_mistral_v01},
    {.name = "mistral-v0.3", .render = render_mistral_v03, .spaced = true, .trims = true},
    {.name = "ministral", .render = render_mistral_v03, .trims = true},
    {.name = "mistral-nemo", .render = render_mistral_v03},
    {.name = "deepseek-v3", .render = render_deepseek, .whole_answers = true},
    {.name = "deepseek-r1-2501", .render = render_deepseek},
    {.name = "deepseek-r1", .render = render_deepseek, .generate = "<｜Assistant｜><think>\n"},
    {.name = "deepseek-r1-closed", .render = render_deepseek, .generate = "<｜Assistant｜><think>\n</think>"},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

const char *const *stm_template_names(size_t *n)
{
    static const char *names[N_KINDS];
    for (size_t i = 0; i < N_KINDS; i++)
        names[i] = kinds[i].name;
    *n = N_KINDS;
    return names;
}

static const kind *kind_named(const char *name)
{
    for (size_t i = 0; i < N_KINDS; i++)
        if (strcmp(kinds[i].name, name) == 0)
            return &kinds[i];
    return NULL;
}

stm_status stm_template_find(const char *name, stm_template **out)
{
    const kind *found = kind_named(name);
    if (!found) {
        size_t n;
        const char *const *names = stm_template_names(&n);
        const char *near = stm_nearest_name(name, names, n);
        return stm_fail(STM_ERR_INPUT, "found %s, expected auto, chatml, llama3, mistral or plain%s%s%s", name,
                        near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
    }
    STM_TRY(stm_alloc(1, sizeof **out, out));
    (*out)->kind = found;
    return STM_OK;
}

void stm_template_destroy(stm_template *template)
{
    if (!template)
        return;
    free(template->system);
    free(template);
}

const char *stm_template_name(const stm_template *template)
{
    return template->kind->name;
}

/* Rendering */

static stm_status check_role(const char *role, size_t i)
{
    static const char *const roles[] = {"system", "user", "assistant"};
    for (size_t k = 0; k < 3; k++)
        if (strcmp(role, roles[k]) == 0)
            return STM_OK;
    return stm_fail(STM_ERR_INPUT, "messages[%zu]: role: found \"%s\", expected system, user or assistant", i, role);
}

stm_status stm_template_render(const stm_template *template, const stm_message *messages, size_t n,
                               bool add_generation_prompt, const char *bos_text, const char *eos_text, char **text)
{
    stm_status status = STM_OK;
    stm_string out = {0};
    const rendering r = {.template = template,
                         .messages = messages,
                         .n = n,
                         .generate = add_generation_prompt,
                         .bos = bos_text,
                         .eos = eos_text,
                         .out = &out};
    for (size_t i = 0; i < n; i++)
        STM_GOTO_OUT(check_role(messages[i].role, i));
    STM_GOTO_OUT(template->kind->render(&r));
    STM_GOTO_OUT(stm_string_end(&out));
    *text = out.bytes;
    out.bytes = NULL;
out:
    free(out.bytes);
    return status;
}
