/* Pictures by gnuplot, by one that fails, and without it. */
#include "metrics/plot.h"

#include <sys/stat.h>
#include <unistd.h>

#include "metrics/log.h"
#include "metrics/metrics.h"
#include "support/folder.h"

static char *path_before;

static int make_folder(void **state)
{
    *state = stm_test_folder_create();
    path_before = strdup(getenv("PATH"));
    return stm_log_to(stm_test_path(*state, "log.txt"));
}

static int remove_folder(void **state)
{
    stm_log_to(NULL);
    setenv("PATH", path_before, 1);
    free(path_before);
    stm_test_folder_remove(*state);
    return 0;
}

/* Steps 1 .. n with all numbers that are drawn, or with the reward alone. */
static void write_records(const char *folder, int64_t n, bool all)
{
    stm_metrics *metrics;
    assert_ok(stm_metrics_open(folder, -1, n, &metrics));
    for (int64_t step = 1; step <= n; step++) {
        stm_record record;
        stm_record_init(&record);
        record.step = (double)step;
        record.reward_mean = 0.1 * (double)step;
        if (all) {
            record.reward_std = 0.2, record.response_tokens_mean = 20, record.response_tokens_max = 40 + record.step;
            record.kl_reference = 0, record.kl_old = 1e-5 * record.step, record.entropy = 1.5;
            record.tokens_per_s = 9000, record.rollout_tokens_per_s = 2000;
            if (step % 2 == 0)
                record.eval_reward = 0.5;
        }
        assert_ok(stm_metrics_write(metrics, &record));
    }
    stm_metrics_close(metrics);
}

/* Puts a program named gnuplot first, and alone but for the shell's own, on PATH. */
static void use_gnuplot(const char *folder, const char *script)
{
    char *bin;
    assert_ok(stm_format(&bin, "%s/bin", folder));
    assert_int_equal(mkdir(bin, 0777), 0);
    if (script) {
        stm_test_write_text(stm_test_path(bin, "gnuplot"), script);
        assert_int_equal(chmod(stm_test_path(bin, "gnuplot"), 0755), 0);
    }
    setenv("PATH", bin, 1);
    free(bin);
}

static char *log_text(const char *folder)
{
    char *text;
    size_t n;
    assert_ok(stm_read_file(stm_test_path(folder, "log.txt"), &text, &n));
    return text;
}

static void assert_png(const char *folder, const char *name)
{
    char *bytes;
    size_t n;
    assert_ok(stm_read_file(stm_test_path(folder, name), &bytes, &n));
    assert_true(n > 1000);
    assert_memory_equal(bytes, "\x89PNG\r\n\x1a\n", 8);
    assert_memory_equal(bytes + n - 8, "IEND", 4); /* whole */
    free(bytes);
}

static void pictures_are_png_where_gnuplot_is_installed(void **state)
{
    for (int all = 0; all < 2; all++) {
        write_records(*state, 5, all);
        const bool drawn = stm_plot_run(*state);
        char *text = log_text(*state);
        if (drawn) {
            assert_png(*state, "reward.png");
            assert_png(*state, "overview.png");
            assert_string_equal(text, ""); /* gnuplot had nothing to complain of */
        } else {
            assert_false(stm_test_exists(stm_test_path(*state, "reward.png")));
        }
        free(text);
    }
}

static void script_holds_the_data_inline(void **state)
{
    use_gnuplot(*state, "#!/bin/sh\nwhile IFS= read -r line; do printf '%s\\n' \"$line\"; done > script\n"
                        "echo a > reward.png.part; echo b > overview.png.part\n");
    write_records(*state, 3, true);
    assert_true(stm_plot_run(*state));
    char *script;
    size_t n;
    assert_ok(stm_read_file(stm_test_path(*state, "script"), &script, &n));
    assert_non_null(strstr(script, "$band << EOD\n1 0.1 0.2\n2 0.2 0.2\n3 0.3 0.2\nEOD\n"));
    assert_non_null(strstr(script, "$eval << EOD\n2 0.5\nEOD\n"));
    free(script);
    assert_ok(stm_read_file(stm_test_path(*state, "overview.png"), &script, &n));
    assert_string_equal(script, "b\n");
    free(script);
}

static void complaint_of_gnuplot_is_logged_and_old_pictures_stay(void **state)
{
    use_gnuplot(*state, "#!/bin/sh\necho broken > reward.png.part\necho 'unknown terminal' >&2\nexit 1\n");
    write_records(*state, 3, true);
    stm_test_write_text(stm_test_path(*state, "reward.png"), "old");
    assert_false(stm_plot_run(*state));
    char *text = log_text(*state);
    assert_string_equal(text, "gnuplot: unknown terminal\n");
    free(text);
    size_t n;
    assert_ok(stm_read_file(stm_test_path(*state, "reward.png"), &text, &n));
    assert_string_equal(text, "old");
    free(text);
    assert_false(stm_test_exists(stm_test_path(*state, "reward.png.part")));
}

static void gnuplot_that_reads_nothing_blocks_nobody(void **state)
{
    use_gnuplot(*state, "#!/bin/sh\nexit 0\n");
    write_records(*state, 20000, true); /* more than a pipe holds */
    assert_false(stm_plot_run(*state)); /* it drew nothing */
}

static void missing_gnuplot_is_said_once_and_no_error(void **state)
{
    use_gnuplot(*state, NULL);
    write_records(*state, 3, true);
    assert_false(stm_plot_run(*state));
    assert_false(stm_plot_run(*state));
    char *text = log_text(*state);
    assert_string_equal(text, "gnuplot not found: no plots\n");
    free(text);
}

static void too_few_records_draw_nothing(void **state)
{
    assert_false(stm_plot_run(*state)); /* no metrics.jsonl */
    write_records(*state, 1, true);
    assert_false(stm_plot_run(*state));
    assert_false(stm_test_exists(stm_test_path(*state, "reward.png")));
    char *text = log_text(*state);
    assert_string_equal(text, "");
    free(text);
}

int main(void)
{
#define IN_A_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        IN_A_FOLDER(too_few_records_draw_nothing),
        IN_A_FOLDER(script_holds_the_data_inline),
        IN_A_FOLDER(complaint_of_gnuplot_is_logged_and_old_pictures_stay),
        IN_A_FOLDER(gnuplot_that_reads_nothing_blocks_nobody),
        IN_A_FOLDER(missing_gnuplot_is_said_once_and_no_error),
        IN_A_FOLDER(pictures_are_png_where_gnuplot_is_installed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
