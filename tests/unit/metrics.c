/* Step records: metrics.jsonl and the step line. */
#include "metrics/metrics.h"

#include <jansson.h>
#include <signal.h>
#include <sys/resource.h>

#include "metrics/step_line.h"
#include "metrics/waits.h"
#include "support/folder.h"

static int make_folder(void **state)
{
    *state = stm_test_folder_create();
    return 0;
}

static int remove_folder(void **state)
{
    stm_test_folder_remove(*state);
    return 0;
}

static char *text_of(const char *folder, const char *name)
{
    char *text;
    size_t n;
    assert_ok(stm_read_file(stm_test_path(folder, name), &text, &n));
    return text;
}

static stm_record record_of(int64_t step)
{
    stm_record record;
    stm_record_init(&record);
    record.step = (double)step;
    record.reward_mean = 0.1 * (double)step;
    record.step_s = 2;
    return record;
}

static void write_steps(const char *folder, int64_t resume_step, int64_t first, int64_t last)
{
    stm_metrics *metrics;
    assert_ok(stm_metrics_open(folder, resume_step, 100, &metrics));
    for (int64_t step = first; step <= last; step++) {
        const stm_record record = record_of(step);
        assert_ok(stm_metrics_write(metrics, &record));
    }
    stm_metrics_close(metrics);
}

static void assert_steps(const char *folder, int64_t n_steps)
{
    stm_record *records;
    size_t n;
    assert_ok(stm_metrics_read(folder, &records, &n));
    assert_int_equal(n, n_steps);
    for (size_t i = 0; i < n; i++)
        assert_int_equal((int64_t)records[i].step, i + 1);
    free(records);
}

static void every_field_comes_back_with_all_its_bits(void **state)
{
    stm_metrics *metrics;
    stm_record record;
    size_t n_fields, n;
    const stm_record_field *fields = stm_record_fields(&n_fields);
    assert_int_equal(n_fields * sizeof(double), sizeof(stm_record));
    for (size_t i = 0; i < n_fields; i++)
        *stm_record_at(&record, fields + i) =
            fields[i].kind == STM_FIELD_COUNT ? (double)(i + 1) : 1.0 / (double)(i + 3);
    assert_ok(stm_metrics_open(*state, -1, 10, &metrics));
    assert_ok(stm_metrics_write(metrics, &record));
    stm_record *read;
    assert_ok(stm_metrics_read(*state, &read, &n)); /* it was flushed */
    assert_int_equal(n, 1);
    assert_memory_equal(read, &record, sizeof record);
    free(read);
    stm_metrics_close(metrics);
}

static void what_is_not_a_number_is_null(void **state)
{
    stm_metrics *metrics;
    stm_record record = record_of(3), *read;
    record.grad_norm = INFINITY;
    assert_ok(stm_metrics_open(*state, -1, 10, &metrics));
    assert_ok(stm_metrics_write(metrics, &record));
    stm_metrics_close(metrics);
    char *text = text_of(*state, "metrics.jsonl");
    json_t *object = json_loads(text, 0, NULL);
    assert_true(json_is_null(json_object_get(object, "entropy")));
    assert_true(json_is_null(json_object_get(object, "grad_norm")));
    assert_true(json_is_integer(json_object_get(object, "step")));
    json_decref(object);
    free(text);
    size_t n;
    assert_ok(stm_metrics_read(*state, &read, &n));
    assert_true(isnan(read->entropy) && read->step == 3);
    free(read);
}

static void resumed_run_has_each_step_once(void **state)
{
    write_steps(*state, -1, 1, 7);
    write_steps(*state, 4, 5, 9); /* killed after step 7, the last checkpoint of step 4 */
    assert_steps(*state, 9);
    write_steps(*state, 9, 10, 12);
    assert_steps(*state, 12);
    assert_false(stm_test_exists(stm_test_path(*state, "metrics.jsonl.part")));
}

static void torn_line_of_a_killed_job_is_dropped(void **state)
{
    write_steps(*state, -1, 1, 3);
    FILE *file = fopen(stm_test_path(*state, "metrics.jsonl"), "a");
    fputs("{\"step\": 4, \"rew", file);
    fclose(file);
    assert_steps(*state, 3);
    write_steps(*state, 3, 4, 5);
    assert_steps(*state, 5);
    char *text = text_of(*state, "metrics.jsonl");
    assert_null(strstr(text, "\"rew{"));
    free(text);
}

static void unknown_fields_of_another_version_survive_a_resume(void **state)
{
    stm_test_write_text(stm_test_path(*state, "metrics.jsonl"), "{\"step\": 1, \"novelty\": 0.5}\n{\"step\": 2}\n");
    write_steps(*state, 1, 2, 2);
    char *text = text_of(*state, "metrics.jsonl");
    assert_int_equal(strncmp(text, "{\"step\": 1, \"novelty\": 0.5}\n", 28), 0);
    free(text);
    assert_steps(*state, 2);
}

static void fresh_start_keeps_the_records_of_an_earlier_run_aside(void **state)
{
    write_steps(*state, -1, 1, 5);
    char *before = text_of(*state, "metrics.jsonl");
    write_steps(*state, -1, 1, 2);
    assert_steps(*state, 2);
    char *old = text_of(*state, "metrics.old.jsonl");
    assert_string_equal(old, before);
    free(old);
    free(before);
}

static void folder_that_is_missing_is_named(void **state)
{
    stm_metrics *metrics = NULL;
    assert_fails(stm_metrics_open(stm_test_path(*state, "none"), -1, 10, &metrics), STM_ERR_IO, "none/metrics.jsonl");
    assert_null(metrics);
}

/* Writes the records from..to while files may not grow beyond `most` bytes: as a full disk, but for the error's name.
 */
static void write_without_room(stm_metrics *metrics, int from, int to, rlim_t most)
{
    struct rlimit all, few;
    getrlimit(RLIMIT_FSIZE, &all);
    few = all;
    few.rlim_cur = most;
    signal(SIGXFSZ, SIG_IGN);
    for (int step = from; step <= to; step++) {
        const stm_record record = record_of(step);
        setrlimit(RLIMIT_FSIZE, &few);
        const stm_status status = stm_metrics_write(metrics, &record);
        setrlimit(RLIMIT_FSIZE, &all);
        assert_fails(status, STM_ERR_IO, "metrics.jsonl: cannot be written: ");
    }
}

static void steps_that_found_no_room_are_written_when_there_is_some(void **state)
{
    stm_metrics *metrics;
    const stm_record first = record_of(1), fourth = record_of(4);
    assert_ok(stm_metrics_open(*state, -1, 10, &metrics));
    assert_ok(stm_metrics_write(metrics, &first));
    char *before = text_of(*state, "metrics.jsonl");
    write_without_room(metrics, 2, 3, strlen(before) + 16); /* room for a part of a line */
    char *full = text_of(*state, "metrics.jsonl");
    assert_string_equal(full, before); /* no torn line */
    assert_ok(stm_metrics_write(metrics, &fourth));
    assert_steps(*state, 4);
    write_without_room(metrics, 5, 5, 16);
    stm_metrics_close(metrics);
    assert_steps(*state, 5);
    free(full);
    free(before);
}

static void rates_follow_from_counts_and_seconds(void **state)
{
    (void)state;
    stm_record record;
    stm_record_init(&record);
    record.tokens_computed = 1000, record.tokens_repeated = 5500, record.update_s = 4;
    stm_record_rates(&record);
    assert_near(record.sharing_factor, 5.5, 1e-15);
    assert_near(record.tokens_per_s, 250, 1e-15);
    assert_true(isnan(record.rollout_tokens_per_s)); /* nothing was sampled */
    assert_true(isnan(record.exposed_share));        /* nobody measured a wait */
    record.wait_kv_s = 0.1, record.wait_dkv_s = 0.2, record.wait_stages_s = 0.3, record.wait_gradients_s = 0.05;
    record.wait_parameters_s = 0.05, record.wait_ranks_s = 0.1, record.step_s = 8;
    stm_record_rates(&record);
    assert_near(record.exposed_share, 0.1, 1e-15);
    assert_true(stm_memory_peak_bytes() > 1e5);
}

static void waits_are_those_between_two_readings(void **state)
{
    (void)state;
    stm_timers timers;
    stm_timers_init(&timers);
    timers.self_s[STM_PHASE_DKV] = 3;
    timers.self_s[STM_PHASE_UPDATE] = 5; /* no wait */
    const stm_waits before = stm_waits_of(&timers);
    timers.self_s[STM_PHASE_KV] += 0.5;
    timers.self_s[STM_PHASE_DKV] += 1;
    timers.self_s[STM_PHASE_UPDATE] += 7;
    timers.self_s[STM_PHASE_GATHER] += 0.25;
    const stm_waits after = stm_waits_of(&timers), waits = stm_waits_between(&before, &after);
    double sum = 0;
    for (size_t i = 0; i < STM_N_WAITS; i++)
        sum += waits.s[i];
    assert_near(sum, 1.75, 1e-15);
    assert_near(stm_waits_of(NULL).s[0], 0, 0);
}

static void numbers_fit_their_width(void **state)
{
    (void)state;
    static const struct {
        double value;
        int width, decimals;
        const char *expected;
    } cases[] = {
        {0.4123, 7, 3, "0.412"}, {-0.056, 7, 3, "-0.056"}, {0, 6, 3, "0.000"},        {12345.678, 7, 3, "12345.7"},
        {18.31, 6, 1, "18.3"},   {9132, 5, 0, "9132"},     {1234567, 5, 0, "1.2M"},   {123456, 5, 0, "123k"},
        {4.2e-5, 6, 4, "4e-5"},  {-9.7e-5, 6, 4, "-1e-4"}, {1e-5, 6, 4, "1e-5"},      {NAN, 6, 3, "-"},
        {99999.6, 5, 0, "100k"}, {INFINITY, 6, 3, "inf"},  {999.96e3, 5, 0, "1000k"}, {3e20, 6, 1, "3e20"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[32];
        stm_short_number(text, cases[i].value, cases[i].width, cases[i].decimals);
        assert_string_equal(text, cases[i].expected);
    }
    for (int power = -300; power < 300; power++) {
        char text[32];
        stm_short_number(text, -9.99 * pow(10, power), 6, 3);
        assert_true(strlen(text) <= 7); /* -1e-100 */
    }
}

static void times_are_short(void **state)
{
    (void)state;
    static const struct {
        double seconds;
        const char *expected;
    } cases[] = {{0, "0:00"},       {602, "10:02"}, {3599.4, "59:59"}, {3599.6, "1h00m"}, {43500, "12h05m"},
                 {274000, "3d04h"}, {1e7, "115d"},  {NAN, "-"},        {-1, "-"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[32];
        stm_short_time(text, cases[i].seconds);
        assert_string_equal(text, cases[i].expected);
    }
}

/* A step as users see one, every column set. */
static stm_record full_record(void)
{
    stm_record record = record_of(12);
    record.reward_mean = 0.4123, record.reward_std = 0.22, record.groups_equal = 3;
    record.response_tokens_mean = 18.31, record.truncated_share = 0.021, record.kl_reference = 0.0012;
    record.clip_share = 1, record.entropy = 1.31, record.grad_norm = 0.9, record.tokens_per_s = 9132;
    record.step_s = 3.2;
    return record;
}

static void line_shows_the_step(void **state)
{
    (void)state;
    const stm_record record = full_record();
    char line[STM_STEP_LINE_BYTES], heading[STM_STEP_LINE_BYTES];
    stm_step_heading(heading, 200, false);
    stm_step_line(line, 200, false, &record, 602);
    assert_string_equal(
        heading,
        "               reward         equal  length   cut      kl  clip  entropy  |grad|  tok/s  s/step    left\n");
    assert_string_equal(line, "step  12/200    0.412 \u00b10.220      3    18.3  2.1%  0.0012  100%    1.310   0.900   "
                              "9132   3.20s   10:02\n");
}

static size_t columns_of(const char *line)
{
    size_t n = 0;
    for (; *line && *line != '\n'; line++)
        n += ((unsigned char)*line & 0xc0) != 0x80; /* continuation bytes of UTF-8 take no column */
    return n;
}

static void lines_are_aligned_and_at_most_110_columns(void **state)
{
    (void)state;
    static const double values[] = {NAN, 0, -0.5, 1, 3.14159, 1e-9, -1e-9, 12345.678, 1e7, -1e7, 9e11};
    char heading[STM_STEP_LINE_BYTES], line[STM_STEP_LINE_BYTES];
    size_t n_fields;
    const stm_record_field *fields = stm_record_fields(&n_fields);
    for (int supervised = 0; supervised < 2; supervised++)
        for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
            stm_record record;
            for (size_t i = 0; i < n_fields; i++)
                *stm_record_at(&record, fields + i) = values[v];
            record.step = 123456;
            stm_step_heading(heading, 200000, supervised);
            stm_step_line(line, 200000, supervised, &record, values[v]);
            assert_int_equal(columns_of(line), columns_of(heading));
            assert_true(columns_of(line) <= 110);
        }
}

static size_t count_lines(const char *text)
{
    size_t n = 0;
    for (; *text; text++)
        n += *text == '\n';
    return n;
}

static void heading_comes_first_and_every_25_lines(void **state)
{
    stm_metrics *metrics;
    assert_ok(stm_metrics_open(*state, -1, 100, &metrics));
    for (int64_t step = 1; step <= 60; step++) {
        const stm_record record = record_of(step);
        assert_int_equal(count_lines(stm_metrics_line(metrics, &record)), step % 25 == 1 ? 2 : 1);
    }
    stm_metrics_close(metrics);
}

static void time_left_follows_recent_steps(void **state)
{
    stm_metrics *metrics;
    assert_ok(stm_metrics_open(*state, -1, 100, &metrics));
    stm_record record = record_of(1);
    record.step_s = 1000; /* a slow first step is forgotten after 20 others */
    stm_metrics_line(metrics, &record);
    const char *line = NULL;
    for (int64_t step = 2; step <= 21; step++) {
        record = record_of(step);
        line = stm_metrics_line(metrics, &record);
    }
    assert_non_null(strstr(line, "   2:38\n")); /* 79 steps of 2 s */
    stm_metrics_close(metrics);
}

static void evaluation_has_a_line_of_its_own(void **state)
{
    stm_metrics *metrics;
    assert_ok(stm_metrics_open(*state, -1, 100, &metrics));
    stm_record record = record_of(50);
    record.eval_reward = 0.8125, record.eval_pass_at_1 = 0.75, record.eval_pass_at_k = 0.905, record.eval_k = 8;
    assert_non_null(strstr(stm_metrics_line(metrics, &record),
                           "\neval at step 50: mean reward 0.8125, pass@1 75.0%, pass@8 90.5%\n"));
    record.eval_k = 1;
    assert_non_null(
        strstr(stm_metrics_line(metrics, &record), "\neval at step 50: mean reward 0.8125, pass@1 75.0%\n"));
    stm_metrics_close(metrics);
}

static void run_without_rewards_shows_its_loss(void **state)
{
    stm_metrics *metrics;
    assert_ok(stm_metrics_open(*state, -1, 100, &metrics));
    stm_record record = record_of(2);
    record.reward_mean = NAN, record.loss = 1.25, record.lr = 1e-5;
    const char *text = stm_metrics_line(metrics, &record);
    assert_non_null(strstr(text, "  loss  "));
    assert_null(strstr(text, "reward"));
    assert_non_null(strstr(text, "step   2/100    1.2500 "));
    assert_non_null(strstr(text, "  1e-5 "));
    stm_metrics_close(metrics);
}

int main(void)
{
#define IN_A_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        IN_A_FOLDER(every_field_comes_back_with_all_its_bits),
        IN_A_FOLDER(what_is_not_a_number_is_null),
        IN_A_FOLDER(resumed_run_has_each_step_once),
        IN_A_FOLDER(torn_line_of_a_killed_job_is_dropped),
        IN_A_FOLDER(unknown_fields_of_another_version_survive_a_resume),
        IN_A_FOLDER(fresh_start_keeps_the_records_of_an_earlier_run_aside),
        IN_A_FOLDER(folder_that_is_missing_is_named),
        IN_A_FOLDER(steps_that_found_no_room_are_written_when_there_is_some),
        cmocka_unit_test(rates_follow_from_counts_and_seconds),
        cmocka_unit_test(waits_are_those_between_two_readings),
        cmocka_unit_test(numbers_fit_their_width),
        cmocka_unit_test(times_are_short),
        cmocka_unit_test(line_shows_the_step),
        cmocka_unit_test(lines_are_aligned_and_at_most_110_columns),
        IN_A_FOLDER(heading_comes_first_and_every_25_lines),
        IN_A_FOLDER(time_left_follows_recent_steps),
        IN_A_FOLDER(evaluation_has_a_line_of_its_own),
        IN_A_FOLDER(run_without_rewards_shows_its_loss),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
