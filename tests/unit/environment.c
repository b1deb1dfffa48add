/* The command that answers turns of rollouts: what it is told, what it may say, and what it must not. */
#include "train/environment.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/helper.h"
#include "support/options.h"
#include "support/support.h"
#include "support/tiny_tokenizer.h"

enum { N = 2 };

typedef struct {
    stm_options options;
    stm_text_context text;
    stm_tokenizer *tokenizer;
    stm_environment *environment;
    stm_prompt prompt;
    stm_prompts prompts;
    size_t which[1];
    stm_sampling sampling;
    char command[1024];
    stm_response responses[N];
    stm_turn turns[N];
    stm_reply replies[N];
} fixture;

/* Two rollouts of one prompt, "ab" and "ab|cd" whose second turn is "cd". shell: answers ids $1 and $2 of the line
 * $line. */
static void begin(fixture *f, const char *shell)
{
    static char prompt[] = "1+1=", answer[] = "2",
                fields[] = "{\"prompt\": \"1+1=\", \"answer\": 2, \"level\": 3, "
                           "\"turn\": \"none\"}";
    *f = (fixture){.tokenizer = tiny_tokenizer()};
    snprintf(
        f->command, sizeof f->command,
        "while IFS= read -r line; do set -- $(printf '%%s' \"$line\" | grep -o '\"id\":[0-9]*' | grep -o '[0-9]*'); "
        "%s; done",
        shell);
    assert_ok(stm_options_init(&f->options));
    free(f->options.rollout.environment);
    f->options.rollout.environment = strdup(f->command);
    f->options.rollout.environment_timeout_s = 20;
    f->text = (stm_text_context){.tokenizer = f->tokenizer, .vocab_size = TINY_VOCAB, .max_positions = 100};
    f->prompt = (stm_prompt){.prompt_text = prompt, .answer = answer, .fields_json = fields};
    f->prompts = (stm_prompts){.n = 1, .items = &f->prompt};
    assert_ok(stm_environment_create(&f->options, &f->text, &f->environment));
    static const char *const texts[N] = {"ab", "ab|cd"};
    for (size_t i = 0; i < N; i++) {
        stm_response *r = &f->responses[i];
        assert_ok(stm_tokenizer_encode(f->tokenizer, texts[i], strlen(texts[i]), false, &r->ids, &r->n));
        f->turns[i] = (stm_turn){.rollout = i, .number = 1 + i, .first = 3 * i, .last = i == 1, .response = r};
    }
}

static void join(fixture *f)
{
    f->sampling = (stm_sampling){.use = STM_RANDOM_EVAL, .group_size = N};
    stm_environment_join(f->environment, &f->prompts, f->which, &f->sampling);
}

static void ask(fixture *f)
{
    memset(f->replies, 0, sizeof f->replies);
    assert_ok(f->sampling.partner->reply(f->sampling.partner->context, N, f->turns, f->replies));
}

static void end(fixture *f)
{
    for (size_t i = 0; i < N; i++) {
        free(f->replies[i].ids);
        free(f->responses[i].ids);
    }
    stm_environment_destroy(f->environment);
    stm_tokenizer_destroy(f->tokenizer);
    stm_options_clear(&f->options);
}

static void it_sees_the_turn_the_text_so_far_and_the_line(void **state)
{
    (void)state;
    fixture f;
    char path[] = "/tmp/stemma_environment_XXXXXX", shell[512], *asked;
    size_t n;
    const int file = mkstemp(path);
    assert_true(file >= 0);
    snprintf(shell, sizeof shell,
             "printf '%%s\\n' \"$line\" >> %s; echo \"{\\\"id\\\": $2, \\\"reward\\\": 0.5}\"; "
             "echo \"{\\\"id\\\": $1, \\\"append\\\": \\\"xy</s>\\\", \\\"reward\\\": 2}\"",
             path);
    begin(&f, shell);
    join(&f);
    ask(&f);
    assert_int_equal(f.replies[0].n, 3); /* "</s>" is the special token */
    assert_int_equal(f.replies[0].ids[0], 'x' - 30);
    assert_int_equal(f.replies[0].ids[2], TINY_EOS);
    assert_true(f.replies[0].has_reward && f.replies[0].reward == 2.0 && !f.replies[0].ends && !f.replies[0].failed);
    assert_true(f.replies[1].n == 0 && f.replies[1].reward == 0.5 && !f.replies[1].failed);
    assert_string_equal(stm_environment_complaint(f.environment), "");
    free(f.replies[0].ids);
    join(&f);
    ask(&f);
    assert_ok(stm_read_file(path, &asked, &n));
    assert_string_equal(asked,
                        "{\"turns\":[{\"prompt\":\"1+1=\",\"response\":\"ab\",\"answer\":\"2\",\"level\":3,\"turn\":1,"
                        "\"conversation\":0,\"use\":\"eval\",\"last\":false,\"said\":\"ab\",\"id\":1},"
                        "{\"prompt\":\"1+1=\",\"response\":\"ab|cd\",\"answer\":\"2\",\"level\":3,\"turn\":2,"
                        "\"conversation\":1,\"use\":\"eval\",\"last\":true,\"said\":\"cd\",\"id\":2}]}\n"
                        "{\"turns\":[{\"prompt\":\"1+1=\",\"response\":\"ab\",\"answer\":\"2\",\"level\":3,\"turn\":1,"
                        "\"conversation\":2,\"use\":\"eval\",\"last\":false,\"said\":\"ab\",\"id\":3},"
                        "{\"prompt\":\"1+1=\",\"response\":\"ab|cd\",\"answer\":\"2\",\"level\":3,\"turn\":2,"
                        "\"conversation\":3,\"use\":\"eval\",\"last\":true,\"said\":\"cd\",\"id\":4}]}\n");
    free(asked);
    close(file);
    unlink(path);
    end(&f);
}

/* Of the first conversation; the second gets an orderly end, and is no worse for it. */
static void what_it_must_not_say_costs_the_conversation(void **state)
{
    (void)state;
    static const struct {
        const char *answer, *words;
    } cases[] = {
        {"\\\"append\\\": 3",
         "answered {\"id\": 1, \"append\": 3}, expected a text \"append\" or \"done\": true, and a"},
        {"\\\"append\\\": \\\"a\\\", \\\"done\\\": true", "expected a text \"append\" or \"done\": true"},
        {"\\\"done\\\": 1", "answered {\"id\": 1, \"done\": 1}, expected"},
        {"\\\"done\\\": false", "answered {\"id\": 1, \"done\": false}, expected"},
        {"\\\"reward\\\": 1", "answered {\"id\": 1, \"reward\": 1}, expected"},
        {"\\\"done\\\": true, \\\"reward\\\": \\\"1\\\"", "answered {\"id\": 1, \"done\": true, \"reward\": \"1\"}"},
        {"\\\"error\\\": \\\"out of paper\\\"", "rollout.environment: out of paper"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f;
        char shell[512];
        snprintf(shell, sizeof shell,
                 "echo \"{\\\"id\\\": $1, %s}\"; echo \"{\\\"id\\\": $2, \\\"done\\\": true, \\\"reward\\\": 1}\"",
                 cases[i].answer);
        begin(&f, shell);
        join(&f);
        ask(&f);
        assert_true(f.replies[0].failed && !f.replies[1].failed);
        assert_true(f.replies[1].ends && f.replies[1].reward == 1.0);
        if (!strstr(stm_environment_complaint(f.environment), cases[i].words))
            fail_msg("%s: \"%s\"", cases[i].answer, stm_environment_complaint(f.environment));
        join(&f);
        assert_string_equal(stm_environment_complaint(f.environment), ""); /* of another batch */
        end(&f);
    }
}

static void one_that_ends_fails_what_it_has_not_answered(void **state)
{
    (void)state;
    fixture f;
    begin(&f, "[ $# = 2 ] && echo \"{\\\"id\\\": $2, \\\"done\\\": true}\"; exit 5");
    join(&f);
    ask(&f);
    assert_true(f.replies[0].failed && !f.replies[1].failed && !f.replies[1].has_reward);
    assert_string_equal(stm_environment_complaint(f.environment),
                        "rollout.environment: ended with exit code 5 after 0 of 1 answers");
    end(&f);
}

static void without_a_command_there_is_none(void **state)
{
    (void)state;
    stm_options options;
    stm_environment *environment;
    stm_sampling sampling = {.group_size = 1};
    const stm_text_context text = {.tokenizer = NULL};
    assert_ok(stm_options_init(&options));
    assert_ok(stm_environment_check(&options, &text));
    assert_ok(stm_environment_create(&options, &text, &environment));
    assert_null(environment);
    stm_environment_join(environment, NULL, NULL, &sampling);
    assert_null(sampling.partner);
    free(options.rollout.environment);
    options.rollout.environment = strdup("cat");
    assert_int_equal(stm_environment_check(&options, &text), STM_ERR_INPUT);
    stm_environment_destroy(environment);
    stm_options_clear(&options);
}

int main(void)
{
    if (stm_helper_begin() != STM_OK)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_sees_the_turn_the_text_so_far_and_the_line),
        cmocka_unit_test(what_it_must_not_say_costs_the_conversation),
        cmocka_unit_test(one_that_ends_fails_what_it_has_not_answered),
        cmocka_unit_test(without_a_command_there_is_none),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    stm_helper_end();
    return failed;
}
