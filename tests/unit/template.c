/* Chat templates against what the models' own Jinja templates print. */
#include "text/template.h"

#include <jansson.h>

#include "support/support.h"

/* The kind of each recorded template, for those that are not in the repository. */
static const struct {
    const char *file, *name, *bos;
} known[] = {
    {"HuggingFaceTB-SmolLM3-3B.jinja", "smollm3", ""},
    {"Qwen-Qwen2.5-7B-Instruct.jinja", "qwen2.5", ""},
    {"Qwen-Qwen3-0.6B.jinja", "qwen3", ""},
    {"deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja", "deepseek-r1-closed", "<｜begin▁of▁sentence｜>"},
    {"meta-llama-Llama-3.1-8B-Instruct.jinja", "llama3.1", "<|begin_of_text|>"},
    {"meta-llama-Llama-3.2-3B-Instruct.jinja", "llama3.1", "<|begin_of_text|>"},
};
enum { N_KNOWN = sizeof known / sizeof *known };

static void assert_prints(const stm_template *t, const json_t *list, bool generate, const char *bos,
                          const char *expected)
{
    stm_message messages[16];
    char *text;
    const size_t n = json_array_size(list);
    assert_true(n <= 16);
    for (size_t i = 0; i < n; i++) {
        const json_t *m = json_array_get(list, i);
        messages[i].role = json_string_value(json_object_get(m, "role"));
        messages[i].content = json_string_value(json_object_get(m, "content"));
    }
    assert_ok(stm_template_render(t, messages, n, generate, bos, "<E>", &text));
    assert_string_equal(text, expected);
    free(text);
}

static stm_template *found(const char *name)
{
    stm_template *t;
    assert_ok(stm_template_find(name, &t));
    assert_string_equal(stm_template_name(t), name);
    return t;
}

/* By name, and by the template's own text where that is there. */
static void templates_print_what_the_models_own_print(void **state)
{
    (void)state;
    char *lines;
    size_t n, compared = 0, recognised = 0;
    const char *path = stm_fixture("tokenizers/chat_templates/vectors.jsonl");
    assert_non_null(path);
    assert_ok(stm_read_file(path, &lines, &n));
    for (char *line = lines, *end; (end = strchr(line, '\n')); line = end + 1) {
        json_t *v = json_loadb(line, (size_t)(end - line), 0, NULL);
        const char *file = json_string_value(json_object_get(v, "template")),
                   *text = json_string_value(json_object_get(v, "text"));
        const bool generate = json_is_true(json_object_get(v, "add_generation_prompt"));
        char name[128], *jinja;
        size_t k = 0;
        while (k < N_KNOWN && strcmp(known[k].file, file) != 0)
            k++;
        assert_true(k < N_KNOWN);
        stm_template *t = found(known[k].name);
        assert_prints(t, json_object_get(v, "messages"), generate, known[k].bos, text);
        stm_template_destroy(t);
        snprintf(name, sizeof name, "tokenizers/chat_templates/%s", file);
        if ((path = stm_fixture(name))) {
            assert_ok(stm_read_file(path, &jinja, &n));
            assert_ok(stm_template_choose("auto", "folder", NULL, jinja, &t));
            assert_prints(t, json_object_get(v, "messages"), generate, known[k].bos, text);
            stm_template_destroy(t);
            free(jinja);
            recognised++;
        }
        json_decref(v);
        compared++;
    }
    assert_int_equal(compared, 48);
    assert_true(recognised >= 32);
    free(lines);
}

static const stm_message TURNS[] = {{"system", " S "}, {"user", " Hi\n"}, {"assistant", " Yes. "}, {"user", "And?"}};

static void assert_turns(const char *name, size_t first, size_t n, const char *expected)
{
    char *text;
    stm_template *t = found(name);
    assert_ok(stm_template_render(t, TURNS + first, n, true, "<B>", "<E>", &text));
    assert_string_equal(text, expected);
    free(text);
    stm_template_destroy(t);
}

/* Each expectation is what jinja2 prints for the model's own template. */
static void named_templates_print_these_turns(void **state)
{
    (void)state;
    assert_turns("plain", 0, 4, " S \n Hi\n\n Yes. \nAnd?");
    assert_turns("chatml", 1, 1, "<|im_start|>user\n Hi\n<|im_end|>\n<|im_start|>assistant\n");
    assert_turns("qwen2", 3, 1,
                 "<|im_start|>system\nYou are a helpful "
                 "assistant.<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n");
    assert_turns("llama3", 0, 2,
                 "<B><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>"
                 "\n\nHi<|eot_id|>"
                 "<|start_header_id|>assistant<|end_header_id|>\n\n");
    assert_turns("llama2", 0, 4, "<B>[INST] <<SYS>>\n S \n<</SYS>>\n\n Hi [/INST] Yes. <E><B>[INST] And? [/INST]");
    assert_turns("mistral", 0, 4, "<B> [INST]  S \n\n Hi\n [/INST]  Yes. <E> [INST] And? [/INST]");
    assert_turns("mistral-v0.1", 1, 3, "<B>[INST]  Hi\n [/INST] Yes. <E> [INST] And? [/INST]");
    assert_turns("mistral-v0.2", 1, 3, "<B>[INST]  Hi\n [/INST] Yes. <E>[INST] And? [/INST]");
    assert_turns("mistral-v0.3", 0, 4, "<B>[INST]  Hi\n[/INST] Yes.<E>[INST]  S \n\nAnd?[/INST]");
    assert_turns("ministral", 0, 4, "<B>[INST] Hi\n[/INST] Yes.<E>[INST] S \n\nAnd?[/INST]");
    assert_turns("mistral-nemo", 0, 4, "<B>[INST] Hi\n[/INST] Yes. <E>[INST] S \n\nAnd?[/INST]");
    assert_turns("deepseek-r1", 0, 2, "<B> S <｜User｜> Hi\n<｜Assistant｜><think>\n");
    assert_turns("deepseek-v3", 0, 2, "<B> S <｜User｜> Hi\n<｜Assistant｜>");
    assert_turns("qwen3-thinking", 3, 1, "<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n<think>\n");
}

static void qwen3_keeps_reasoning_after_the_last_question_only(void **state)
{
    (void)state;
    static const stm_message messages[] = {{"user", "A"},
                                           {"assistant", "<think>\nold\n</think>\n\nB"},
                                           {"user", "C"},
                                           {"assistant", "<think>\nnew\n</think>\n\nD"}};
    stm_template *t = found("qwen3");
    char *text;
    assert_ok(stm_template_render(t, messages, 4, false, "", "", &text));
    assert_string_equal(
        text, "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n<|im_start|>user\nC<|im_end|>\n"
              "<|im_start|>assistant\n<think>\nnew\n</think>\n\nD<|im_end|>\n");
    free(text);
    stm_template_destroy(t);
}

static void assert_recognised(const char *config, const char *name, const char *prints)
{
    stm_template *t;
    char *text;
    assert_ok(stm_template_choose("auto", "folder", config, NULL, &t));
    assert_string_equal(stm_template_name(t), name);
    assert_ok(stm_template_render(t, TURNS + 3, 1, true, "<B>", "<E>", &text));
    assert_string_equal(text, prints);
    free(text);
    stm_template_destroy(t);
}

static void templates_are_recognised_whatever_their_spelling(void **state)
{
    (void)state;
    /* Quotes, white space and members may be written otherwise; a system message of its own is taken over. */
    assert_recognised("{\"chat_template\": \"{% for message in messages "
                      "%}{{\\\"<|im_start|>\\\"+message.role+\\\"\\n\\\"+message['content']+"
                      "'<|im_end|>'+'\\\\n'}}{% endfor %}{% if add_generation_prompt "
                      "%}{{'<|im_start|>assistant\\\\n'}}{% endif %}\"}",
                      "chatml", "<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n");
    assert_recognised(
        "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"x\"}, {\"name\": \"default\", \"template\": "
        "\"{% for message in messages %}"
        "{% if loop.first and messages[0].role != 'system' %}{{ '<|im_start|>system\\\\nBe it "
        "\\\\\\\\boxed{}.<|im_end|>\\\\n' }}{% endif %}{{ "
        "'<|im_start|>' + message['role'] + '\\\\n' + message['content'] + '<|im_end|>' + '\\\\n' }}{% endfor %}\"}]}",
        "chatml",
        "<|im_start|>system\nBe it \\boxed{}.<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n");
    assert_recognised("{\"chat_template\": \"{{ bos_token }}{% for message in messages %}{% if message['role'] == "
                      "'user' %}{{ '[INST] ' + "
                      "message['content'] + ' [/INST]' }}{% else %}{{ message['content'] + eos_token + ' ' }}{% endif "
                      "%}{% endfor %}\"}",
                      "mistral-v0.1", "<B>[INST] And? [/INST]");
}

static void a_config_with_a_template_inside_is_read(void **state)
{
    (void)state;
    char *config;
    size_t n;
    const char *path = stm_fixture("tokenizers/minimind/tokenizer_config.json");
    assert_non_null(path);
    assert_ok(stm_read_file(path, &config, &n));
    assert_recognised(config, "minimind",
                      "<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
    free(config);
}

static void what_is_not_known_is_refused(void **state)
{
    (void)state;
    stm_template *t;
    char *text;
    static const stm_message tool[] = {{"tool", "x"}}, twice[] = {{"user", "x"}, {"user", "y"}};
    assert_fails(stm_template_choose("chatlm", "folder", NULL, NULL, &t), STM_ERR_INPUT,
                 "found chatlm, expected auto, chatml, llama3, mistral or plain; did you mean chatml?");
    assert_fails(stm_template_choose("auto", "folder", NULL, NULL, &t), STM_ERR_INPUT,
                 "folder: found no chat template");
    assert_fails(stm_template_choose("auto", "folder", "{}", NULL, &t), STM_ERR_INPUT,
                 "folder/tokenizer_config.json: found no chat_template");
    assert_fails(stm_template_choose("auto", "folder", "{\n,", NULL, &t), STM_ERR_INPUT,
                 "folder/tokenizer_config.json:2: not JSON");
    assert_fails(stm_template_choose("auto", "folder", NULL, "{{ '<start_of_turn>' }}", &t), STM_ERR_INPUT,
                 "folder/chat_template.jinja: the chat template is none of those that are known");
    t = found("mistral");
    assert_fails(stm_template_render(t, tool, 1, true, "", "", &text), STM_ERR_INPUT,
                 "messages[0]: role: found \"tool\"");
    assert_fails(stm_template_render(t, twice, 2, true, "", "", &text), STM_ERR_INPUT,
                 "messages[1]: role: found \"user\", expected \"assistant\"");
    stm_template_destroy(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(templates_print_what_the_models_own_print),
        cmocka_unit_test(named_templates_print_these_turns),
        cmocka_unit_test(qwen3_keeps_reasoning_after_the_last_question_only),
        cmocka_unit_test(templates_are_recognised_whatever_their_spelling),
        cmocka_unit_test(a_config_with_a_template_inside_is_read),
        cmocka_unit_test(what_is_not_known_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
