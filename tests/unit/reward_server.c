/* A reward command that stays for the whole run: asked a batch at a time, answers by id, in any order. */
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/helper.h"
#include "reward/reward.h"
#include "support/support.h"

enum { N = 5 };

/* Folders, one for each server in turn: it leaves there what it was asked (`asked`) and a line for each start
 * (`starts`). One that is let end by itself may still write while the next one runs. */
static char root[] = "/tmp/stemma_server_XXXXXX", folder[64];

/* Shell: `answer ID REWARD` prints an answer, and each line of stdin goes through `batch`, which finds it in $line and
 * its ids in $ids, the number of the batch in $batch and of the start in $start. */
static const char frame[] = "echo x >> starts; start=$(wc -l < starts); batch=0\n"
                            "answer() { printf '{\"id\": %%s, \"reward\": %%s}\\n' \"$1\" \"$2\"; }\n"
                            "batch() { %s\n}\n"
                            "while IFS= read -r line; do\n"
                            "  printf '%%s\\n' \"$line\" >> asked; batch=$((batch + 1))\n"
                            "  ids=$(printf '%%s' \"$line\" | grep -o '\"id\":[0-9]*' | grep -o '[0-9]*')\n"
                            "  batch\n"
                            "done; echo over >> starts";

typedef struct {
    stm_reward_set *set;
    char command[4096], text[N][8];
    stm_reward_input inputs[N];
    double total[N];
} fixture;

static void server(fixture *f, const char *batch, double timeout_s)
{
    static int n_folders;
    char script[2048];
    snprintf(folder, sizeof folder, "%s/%d", root, n_folders++);
    assert_ok(stm_make_folders(folder));
    snprintf(script, sizeof script, frame, batch);
    snprintf(f->command, sizeof f->command, "cd %s\n%s", folder, script);
    const stm_reward_options o = {.name = (char *)"command",
                                  .weight = 1.0,
                                  .command = f->command,
                                  .style = (char *)"server",
                                  .timeout_s = timeout_s};
    assert_ok(stm_reward_set_create(&o, 1, &f->set));
    for (size_t i = 0; i < N; i++) {
        snprintf(f->text[i], sizeof f->text[i], "text%zu", i);
        f->inputs[i] = (stm_reward_input){.prompt_text = "p", .text = f->text[i], .group = i / 2};
    }
}

static void run(fixture *f, size_t n)
{
    assert_ok(stm_reward_set_run(f->set, n, f->inputs, f->total, NULL));
}

static void read_left(const char *name, char **text)
{
    char path[128];
    size_t n;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ok(stm_read_file(path, text, &n));
}

static void assert_starts(const char *expected)
{
    char *starts;
    read_left("starts", &starts);
    assert_string_equal(starts, expected);
    free(starts);
}

static void one_process_answers_all_batches_by_id(void **state)
{
    (void)state;
    fixture f;
    server(&f, "for id in $(echo $ids | tr ' ' '\\n' | sort -rn); do answer $id $id; done", 20);
    f.inputs[0].answer = "4";
    f.inputs[0].fields_json = "{\"answer\": 4, \"level\": [1]}";
    run(&f, 2);
    assert_true(f.total[0] == 1.0 && f.total[1] == 2.0); /* answered in the other order */
    run(&f, 0);                                          /* nothing to ask */
    run(&f, N);
    for (size_t i = 0; i < N; i++)
        assert_true(f.total[i] == 3.0 + (double)i);
    stm_reward_set_destroy(f.set);
    char *asked;
    read_left("asked", &asked);
    char *second = strchr(asked, '\n') + 1;
    second[-1] = 0;
    assert_string_equal(asked,
                        "{\"responses\":[{\"prompt\":\"p\",\"response\":\"text0\",\"answer\":\"4\",\"level\":[1],"
                        "\"group\":0,\"id\":1},{\"prompt\":\"p\",\"response\":\"text1\",\"group\":0,\"id\":2}]}");
    assert_non_null(strstr(second, "\"text4\",\"group\":2,\"id\":7}]}\n"));
    free(asked);
    for (int i = 0; i < 400; i++) { /* it has seen its stdin end, and had time to say so */
        char *starts;
        read_left("starts", &starts);
        const bool over = strcmp(starts, "x\nover\n") == 0;
        free(starts);
        if (over)
            return;
        usleep(5000);
    }
    fail_msg("the server was not let end by itself");
}

static void one_that_dies_is_started_once_more_for_what_it_has_not_answered(void **state)
{
    (void)state;
    fixture f;
    server(&f, "for id in $ids; do [ $start = 1 ] && [ $id = 4 ] && exit 3; answer $id $id; done", 20);
    run(&f, N);
    for (size_t i = 0; i < N; i++)
        assert_true(f.total[i] == 1.0 + (double)i);
    stm_reward_set_destroy(f.set);
    char *asked;
    read_left("asked", &asked);
    assert_null(strstr(strchr(asked, '\n'), "text2"));
    assert_non_null(strstr(strchr(asked, '\n'), "text3"));
    free(asked);
}

/* Only the responses that it dies of have no reward, and the next batch finds it well. */
static void what_it_dies_of_twice_has_no_reward(void **state)
{
    (void)state;
    fixture f;
    server(&f, "for id in $ids; do [ $id = 4 ] && kill -9 $$; answer $id $id; done", 20);
    run(&f, N);
    assert_true(f.total[2] == 3.0 && isnan(f.total[3]) && isnan(f.total[4]));
    assert_string_equal(stm_failure(), "reward[0].command: was ended by signal 9");
    assert_starts("x\nx\n");
    run(&f, N);
    assert_true(f.total[0] == 6.0 && f.total[4] == 10.0);
    assert_starts("x\nx\nx\n");
    stm_reward_set_destroy(f.set);
}

static void one_that_hangs_or_talks_nonsense_costs_the_batch_alone(void **state)
{
    (void)state;
    static const struct {
        const char *batch, *words;
    } cases[] = {
        {"sleep 100", "timed out after 0.5 s"},
        {"for id in $ids; do echo nonsense; done",
         "answered \"nonsense\", expected an object with the \"id\" of a question"},
        {"for id in $ids; do answer 99 1; done", "answered \"{\"id\": 99, \"reward\": 1}\", expected"},
        {"for id in $ids; do answer 1 1; done", "answered \"{\"id\": 1, \"reward\": 1}\", expected"},
        {"yes", "answered \"y\", expected"},
        {"head -c 2000000 /dev/zero", "printed more than"},
        {"exit 0", "ended with exit code 0 after 0 of 5 answers"},
        {"exec 1>&-; exit 7", "ended with exit code 7 after 0 of 5 answers"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f;
        char batch[512];
        snprintf(batch, sizeof batch, "case $ids in 1*|2*) %s ;; *) for id in $ids; do answer $id 1; done ;; esac",
                 cases[i].batch);
        server(&f, batch, i == 0 ? 0.5 : 20);
        const double before = stm_now_s();
        run(&f, N);
        assert_true(stm_now_s() - before < 10.0);
        assert_true(isnan(f.total[4]));
        if (!strstr(stm_failure(), cases[i].words))
            fail_msg("%s: \"%s\"", cases[i].batch, stm_failure());
        run(&f, N);
        assert_true(f.total[0] == 1.0 && f.total[4] == 1.0);
        stm_reward_set_destroy(f.set);
    }
}

static void an_answer_without_a_number_is_the_fault_of_its_response(void **state)
{
    (void)state;
    fixture f;
    server(&f,
           "if [ $start = 1 ]; then answer 1 0.25; echo '{\"id\": 2, \"error\": \"no verdict\"}'; answer 3 null; "
           "answer 4 1e999; answer 5 1; else for id in $ids; do answer $id $id; done; fi",
           20);
    f.inputs[0].text = "\xC3"; /* half a character */
    run(&f, N);
    assert_true(f.total[0] == 0.25 && isnan(f.total[1]) && isnan(f.total[2]));
    assert_true(f.total[3] == 4.0 && f.total[4] == 5.0); /* 1e999 is no JSON: asked again */
    assert_string_equal(stm_failure(), "reward[0].command: no verdict");
    assert_starts("x\nx\n");
    stm_reward_set_destroy(f.set);
    server(&f, "answer 1 '\"high\"'", 20);
    run(&f, 1);
    assert_true(isnan(f.total[0]));
    assert_string_equal(stm_failure(),
                        "reward[0].command: answered {\"id\": 1, \"reward\": \"high\"}, expected a finite "
                        "number as \"reward\"");
    stm_reward_set_destroy(f.set);
}

/* More than both pipes hold, with a server that does not read on before it has answered. */
static void large_batches_do_not_deadlock(void **state)
{
    (void)state;
    fixture f;
    char *text = malloc(400001);
    memset(text, 'x', 400000);
    text[400000] = 0;
    server(&f, "for id in $ids; do printf '{\"id\": %d, \"reward\": 1, \"note\": \"%0300000d\"}\\n' $id 7; done", 60);
    for (size_t i = 0; i < N; i++)
        f.inputs[i].text = text;
    run(&f, N);
    assert_true(isnan(f.total[4])); /* 300 kB each are too much to say */
    assert_non_null(strstr(stm_failure(), "printed more than"));
    stm_reward_set_destroy(f.set);
    server(&f, "for id in $ids; do printf '{\"id\": %d, \"reward\": 1, \"note\": \"%060000d\"}\\n' $id 7; done", 60);
    for (size_t i = 0; i < N; i++)
        f.inputs[i].text = text;
    run(&f, N);
    assert_true(f.total[0] == 1.0 && f.total[4] == 1.0);
    stm_reward_set_destroy(f.set);
    free(text);
}

int main(void)
{
    if (stm_helper_begin() != STM_OK || !mkdtemp(root))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_process_answers_all_batches_by_id),
        cmocka_unit_test(one_that_dies_is_started_once_more_for_what_it_has_not_answered),
        cmocka_unit_test(what_it_dies_of_twice_has_no_reward),
        cmocka_unit_test(one_that_hangs_or_talks_nonsense_costs_the_batch_alone),
        cmocka_unit_test(an_answer_without_a_number_is_the_fault_of_its_response),
        cmocka_unit_test(large_batches_do_not_deadlock),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    stm_helper_end();
    char remove[64];
    snprintf(remove, sizeof remove, "rm -rf %s", root);
    return system(remove) == 0 ? failed : 1;
}
