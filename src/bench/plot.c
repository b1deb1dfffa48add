#include "bench/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "metrics/plot.h"

/* A panel: what its x axis is, and what tells its curves apart. */
typedef struct {
    const char *title, *axis, *curve;
    double (*x_of)(const stm_bench_row *row), (*curve_of)(const stm_bench_row *row);
} panel;

static double prompt_of(const stm_bench_row *row)
{
    return row->shape.n_prompt;
}

static double group_size_of(const stm_bench_row *row)
{
    return row->shape.group_size;
}

static const panel panels[] = {
    {"against the size of a group", "answers to a prompt, G", "prompt", group_size_of, prompt_of},
    {"against the length of the prompt", "tokens of a prompt", "G", prompt_of, group_size_of}};

static const char *const colours[] = {"#2171b5", "#238b45", "#d94801"}; /* tree, prompt, repeated */

static bool is_drawn(const stm_bench_row *row)
{
    return row->plotted && row->work != STM_BENCH_DECODE && (row->left_out_s == 0 || isfinite(row->predicted_s));
}

/* NaN where nothing was measured, which fmin, fmax and gnuplot pass over. */
static double seconds_of(const stm_bench_row *row)
{
    return row->left_out_s > 0 ? NAN : row->best_s;
}

static bool same_curve(const panel *p, const stm_bench_row *a, const stm_bench_row *b)
{
    return is_drawn(b) && a->work == b->work && p->curve_of(a) == p->curve_of(b);
}

/* True for the first row of a curve, whose index then names it. */
static bool begins_curve(const panel *p, const stm_bench_report *report, size_t i)
{
    if (!is_drawn(&report->rows[i]))
        return false;
    for (size_t k = 0; k < i; k++)
        if (same_curve(p, &report->rows[i], &report->rows[k]))
            return false;
    return true;
}

/* "$c<i>": x, best repeat and prediction in seconds; NaN where there is none. */
static void write_curve(FILE *script, const panel *p, const stm_bench_report *report, size_t i)
{
    fprintf(script, "$c%zu << EOD\n", i);
    for (size_t k = i; k < report->n_rows; k++) {
        const stm_bench_row *row = &report->rows[k];
        if (same_curve(p, &report->rows[i], row))
            fprintf(script, "%.9g %.9g %.9g\n", p->x_of(row), seconds_of(row), row->predicted_s);
    }
    fputs("EOD\n", script);
}

/* One point has no extent that gnuplot could take for an axis. */
static void write_range(FILE *script, char axis, double least, double most)
{
    fprintf(script, "set %crange [%.9g:%.9g]\n", axis, least / 1.3, most * 1.3);
}

static void write_panel(FILE *script, const panel *p, const stm_bench_report *report)
{
    double least = INFINITY, most = 0, fastest = INFINITY, slowest = 0;
    for (size_t i = 0; i < report->n_rows; i++) {
        if (begins_curve(p, report, i))
            write_curve(script, p, report, i);
        if (is_drawn(&report->rows[i])) {
            least = fmin(least, p->x_of(&report->rows[i]));
            most = fmax(most, p->x_of(&report->rows[i]));
            fastest = fmin(fastest, fmin(seconds_of(&report->rows[i]), report->rows[i].predicted_s));
            slowest = fmax(slowest, fmax(seconds_of(&report->rows[i]), report->rows[i].predicted_s));
        }
    }
    write_range(script, 'x', least, most);
    write_range(script, 'y', fastest, slowest);
    fprintf(script, "set title 'an update %s'\nset xlabel '%s'\nset xtics (", p->title, p->axis);
    const char *comma = "";
    for (size_t i = 0; i < report->n_rows; i++)
        if (is_drawn(&report->rows[i])) {
            fprintf(script, "%s%.9g", comma, p->x_of(&report->rows[i]));
            comma = ", ";
        }
    fputs(")\nplot ", script);
    comma = "";
    for (size_t i = 0; i < report->n_rows; i++) {
        if (!begins_curve(p, report, i))
            continue;
        const stm_bench_row *row = &report->rows[i];
        fprintf(script,
                "%s$c%zu using 1:2 with points pt %zu ps 1.2 lc rgb '%s' title '%s, %s %.0f', "
                "$c%zu using 1:3 with lines lc rgb '%s' notitle",
                comma, i, 4 + i % 10, colours[row->work], stm_bench_work_name(row->work), p->curve, p->curve_of(row), i,
                colours[row->work]);
        comma = ", ";
    }
    fputc('\n', script);
}

static void write_script(FILE *script, const stm_bench_report *report, const char *name)
{
    stm_plot_begin(script, name, 1400, 650);
    fputs("set logscale xy\nset ylabel 'seconds'\nset key below samplen 1 font ',10'\nset multiplot layout 1,2 title "
          "'points: measured; lines: the cost model at the rate of the first update'\n",
          script);
    for (size_t i = 0; i < sizeof panels / sizeof *panels; i++)
        write_panel(script, &panels[i], report);
    fputs("unset multiplot\nunset output\n", script);
}

void stm_bench_plot(const stm_bench_report *report, const char *path)
{
    char *picture = NULL;
    FILE *script = NULL;
    size_t n_drawn = 0;
    for (size_t i = 0; i < report->n_rows; i++)
        n_drawn += is_drawn(&report->rows[i]);
    if (n_drawn > 0 && stm_bench_beside(path, ".png", &picture) == STM_OK && (script = tmpfile())) {
        char *slash = strrchr(picture, '/');
        const char *folder = slash == picture ? "/" : slash ? picture : ".", *name = slash ? slash + 1 : picture;
        if (slash)
            *slash = 0;
        write_script(script, report, name);
        stm_plot_script(folder, name, script);
    }
    if (script)
        fclose(script);
    free(picture);
}
