#include "metrics/plot.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "metrics/log.h"
#include "metrics/metrics.h"

enum { PATIENCE_S = 30, LOOK_EVERY_US = 5000 };

extern char **environ;

/* ---- the script: data inline, so that gnuplot needs nothing but its standard input ---- */

/* "$name << EOD": step and the named fields of each record that has all of them. false when no record has. */
static bool data_block(FILE *script, const char *name, const stm_record *records, size_t n, const char *const *fields)
{
    bool any = false;
    fprintf(script, "$%s << EOD\n", name);
    for (size_t i = 0; i < n; i++) {
        double values[4] = {0};
        size_t k = 0;
        bool whole = true;
        for (; fields[k]; k++) {
            values[k] = stm_record_get(records + i, stm_record_field_find(fields[k]));
            whole = whole && isfinite(values[k]);
        }
        if (!whole)
            continue;
        fprintf(script, "%.0f", records[i].step);
        for (size_t j = 0; j < k; j++)
            fprintf(script, " %.9g", values[j]);
        fputc('\n', script);
        any = true;
    }
    fputs("EOD\n", script);
    return any;
}

/* A name inside gnuplot's single quotes. */
static void write_quoted(FILE *script, const char *name)
{
    for (; *name; name++)
        fprintf(script, *name == '\'' ? "''" : "%c", *name);
}

void stm_plot_begin(FILE *script, const char *name, int width, int height)
{
    fprintf(script,
            "if (strstrt(GPVAL_TERMINALS, 'pngcairo') > 0) set terminal pngcairo size %d,%d font ',12'; "
            "else set terminal png size %d,%d\n"
            "set output '",
            width, height, width, height);
    write_quoted(script, name);
    fputs(".part'\nset grid lc rgb '#dddddd'\nset border 3\nset tics nomirror\n", script);
}

/* A plot command of the parts that have data; "no data yet" where none has, for gnuplot refuses an empty plot. */
static void plot_parts(FILE *script, const char *const *parts, const bool *has_data, size_t n)
{
    bool first = true;
    for (size_t i = 0; i < n; i++)
        if (has_data[i]) {
            fprintf(script, "%s%s", first ? "plot " : ", \\\n  ", parts[i]);
            first = false;
        }
    fputs(first ? "set label 1 'no data' at graph 0.5,0.5 center\nplot [0:1] [0:1] -1 notitle\nunset label 1\n" : "\n",
          script);
}

static void reward_picture(FILE *script, const stm_record *records, size_t n)
{
    static const char *const parts[] = {
        "$band using 1:($2-$3):($2+$3) with filledcurves lc rgb '#c6dbef' title 'train, mean \u00b1 std'",
        "$train using 1:2 with lines lw 2 lc rgb '#2171b5' title 'train'",
        "$eval using 1:2 with linespoints lw 2 pt 7 ps 1 lc rgb '#d94801' title 'eval'",
    };
    bool has_data[3];
    has_data[0] = data_block(script, "band", records, n, (const char *const[]){"reward_mean", "reward_std", NULL});
    has_data[1] = data_block(script, "train", records, n, (const char *const[]){"reward_mean", NULL});
    has_data[2] = data_block(script, "eval", records, n, (const char *const[]){"eval_reward", NULL});
    stm_plot_begin(script, "reward.png", 1000, 600);
    fputs("set xlabel 'step'\nset ylabel 'reward'\nset key bottom right\n", script);
    plot_parts(script, parts, has_data, 3);
    fputs("unset output\n", script);
}

/* One of the overview's pictures, of one field or (field_b not NULL) two. */
static void small_picture(FILE *script, const stm_record *records, size_t n, const char *title, const char *field_a,
                          const char *name_a, const char *field_b, const char *name_b)
{
    char a[128], b[128];
    const char *const parts[] = {a, b};
    bool has_data[2];
    snprintf(a, sizeof a, "$a using 1:2 with lines lw 2 lc rgb '#2171b5' title '%s'", name_a);
    snprintf(b, sizeof b, "$b using 1:2 with lines lw 2 lc rgb '#d94801' title '%s'", name_b);
    has_data[0] = data_block(script, "a", records, n, (const char *const[]){field_a, NULL});
    has_data[1] = field_b && data_block(script, "b", records, n, (const char *const[]){field_b, NULL});
    fprintf(script, "set title '%s'\nset key %s\n", title, has_data[0] && has_data[1] ? "on" : "off");
    plot_parts(script, parts, has_data, 2);
}

static void overview_picture(FILE *script, const stm_record *records, size_t n)
{
    stm_plot_begin(script, "overview.png", 1200, 800);
    fputs("set xlabel 'step'\nunset ylabel\nset yrange [0:1e-6<*]\nset multiplot layout 2,2\n", script);
    small_picture(script, records, n, "response length, tokens", "response_tokens_mean", "mean", "response_tokens_max",
                  "longest");
    small_picture(script, records, n, "KL, nats per token", "kl_reference", "to the reference", "kl_old",
                  "from the sampling policy");
    small_picture(script, records, n, "entropy, nats per token", "entropy", "", NULL, "");
    small_picture(script, records, n, "tokens per second", "tokens_per_s", "update", "rollout_tokens_per_s", "rollout");
    fputs("unset multiplot\nunset output\n", script);
}

static void write_script(FILE *script, const stm_record *records, size_t n)
{
    fputs("set encoding utf8\n", script);
    reward_picture(script, records, n);
    overview_picture(script, records, n);
}

/* ---- the run of gnuplot: input and output are unlinked files, so neither side can wait for the other ---- */

static int start(const char *folder, int script, int output, pid_t *pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    char *const arguments[] = {"gnuplot", NULL};
    int error = posix_spawn_file_actions_init(&actions);
    if (error)
        return error;
    error = posix_spawnattr_init(&attributes);
    if (error) {
        posix_spawn_file_actions_destroy(&actions);
        return error;
    }
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    error = posix_spawn_file_actions_adddup2(&actions, script, STDIN_FILENO);
    if (!error)
        error = posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    if (!error)
        error = posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
    if (!error)
        error = posix_spawn_file_actions_addchdir_np(&actions, folder);
    if (!error)
        error = posix_spawnp(pid, "gnuplot", &actions, &attributes, arguments, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return error;
}

/* Whether it ended well within PATIENCE_S; else it is killed. */
static bool wait_for(pid_t pid)
{
    const double start_s = stm_now_s();
    int state = 0;
    for (;;) {
        const pid_t ended = waitpid(pid, &state, WNOHANG);
        if (ended == pid)
            return WIFEXITED(state) && WEXITSTATUS(state) == 0;
        if (ended < 0 && errno != EINTR)
            return false;
        if (stm_now_s() - start_s > PATIENCE_S) {
            kill(pid, SIGKILL);
            waitpid(pid, &state, 0);
            stm_log("gnuplot took longer than %d s and was ended", PATIENCE_S);
            return false;
        }
        usleep(LOOK_EVERY_US);
    }
}

/* What it says of pictures that it drew (fonts, empty ranges) is said once, not after each drawing. */
static void log_output(FILE *output, bool drawn)
{
    static bool said;
    char text[1024];
    if (drawn && said)
        return;
    rewind(output);
    const size_t n = fread(text, 1, sizeof text - 1, output);
    text[n] = 0;
    const char *begin = text + strspn(text, " \t\r\n");
    if (*begin) {
        stm_log("gnuplot: %s", begin);
        said = true;
    }
}

static bool run_gnuplot(const char *folder, FILE *script)
{
    static bool said;
    FILE *output = tmpfile();
    pid_t pid;
    if (!output)
        return false;
    rewind(script);
    const int error = start(folder, fileno(script), fileno(output), &pid);
    bool drawn = false;
    if (error == 0) {
        drawn = wait_for(pid);
        log_output(output, drawn);
    } else if (!said) {
        said = true;
        if (error == ENOENT)
            stm_log("gnuplot not found: no plots");
        else
            stm_log("gnuplot could not be started (%s): no plots", strerror(error));
    }
    fclose(output);
    return drawn;
}

/* Only whole pictures take the place of older ones. */
static bool put_in_place(const char *folder, const char *name, bool drawn)
{
    char *path = NULL, *part = NULL;
    bool placed = false;
    if (stm_format(&path, "%s/%s", folder, name) == STM_OK && stm_format(&part, "%s.part", path) == STM_OK) {
        placed = drawn && rename(part, path) == 0;
        if (!placed)
            unlink(part);
    }
    free(path);
    free(part);
    return placed;
}

bool stm_plot_script(const char *folder, const char *name, FILE *script)
{
    const bool written = fflush(script) == 0 && !ferror(script);
    return put_in_place(folder, name, written && run_gnuplot(folder, script));
}

static bool draw(const char *folder, const stm_record *records, size_t n)
{
    FILE *script = tmpfile();
    if (!script)
        return false;
    write_script(script, records, n);
    const bool written = fflush(script) == 0 && !ferror(script);
    const bool drawn = written && run_gnuplot(folder, script);
    fclose(script);
    const bool reward = put_in_place(folder, "reward.png", drawn);
    return put_in_place(folder, "overview.png", drawn) && reward;
}

bool stm_plot_run(const char *folder)
{
    stm_record *records;
    size_t n;
    if (stm_metrics_read(folder, &records, &n) != STM_OK)
        return false;
    const bool drawn = n >= 2 && draw(folder, records, n);
    free(records);
    return drawn;
}
