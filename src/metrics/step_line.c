#include "metrics/step_line.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Shortest text of a number with a unit behind it: fewer decimals until it fits; false when even none does. */
static bool fits(char out[32], double value, const char *unit, int width, int decimals)
{
    for (; decimals >= 0; decimals--)
        if (snprintf(out, 32, "%.*f%s", decimals, value, unit) <= width)
            return true;
    return false;
}

/* 4e-05 -> 4e-5 */
static void scientific(char out[32], double value)
{
    int power = value == 0 ? 0 : (int)floor(log10(fabs(value)));
    double digit = round(value / pow(10, power));
    if (fabs(digit) >= 10) { /* rounded up */
        digit /= 10;
        power++;
    }
    snprintf(out, 32, "%.0fe%d", digit, power);
}

void stm_short_number(char out[32], double value, int width, int decimals)
{
    static const char *const units[] = {"", "k", "M", "G", "T"};
    if (!isfinite(value)) {
        snprintf(out, 32, "%s", isnan(value) ? "-" : value > 0 ? "inf" : "-inf");
        return;
    }
    if (decimals > 0 && value != 0 && fabs(value) < pow(10, -decimals)) {
        scientific(out, value);
        if ((int)strlen(out) <= width)
            return;
    }
    for (size_t i = 0; i < sizeof units / sizeof *units; i++, value /= 1000)
        if ((i == 0 || fabs(value) < 1000) && fits(out, value, units[i], width, i == 0 ? decimals : 1))
            return;
    scientific(out, value * pow(1000, sizeof units / sizeof *units));
}

void stm_short_time(char out[32], double seconds)
{
    if (!(seconds >= 0 && seconds < 1e9)) {
        snprintf(out, 32, "-");
        return;
    }
    const long s = lround(seconds);
    if (s < 3600)
        snprintf(out, 32, "%ld:%02ld", s / 60, s % 60);
    else if (s < 86400)
        snprintf(out, 32, "%ldh%02ldm", s / 3600, s / 60 % 60);
    else if (s < 100 * 86400L)
        snprintf(out, 32, "%ldd%02ldh", s / 86400, s / 3600 % 24);
    else
        snprintf(out, 32, "%ldd", s / 86400);
}

typedef enum { FORM_NUMBER, FORM_SHARE, FORM_SECONDS, FORM_SPREAD } form_kind;
typedef enum { IN_BOTH, IN_REWARDED, IN_SUPERVISED } column_use;

/* The columns between the step and the time left; FORM_SPREAD stands after its mean. */
static const struct {
    const char *heading;
    size_t offset; /* of the field in stm_record */
    int width, decimals;
    form_kind form;
    column_use use;
} columns[] = {
    {"reward", offsetof(stm_record, reward_mean), 7, 3, FORM_NUMBER, IN_REWARDED},
    {"", offsetof(stm_record, reward_std), 5, 3, FORM_SPREAD, IN_REWARDED},
    {"equal", offsetof(stm_record, groups_equal), 5, 0, FORM_NUMBER, IN_REWARDED},
    {"loss", offsetof(stm_record, loss), 8, 4, FORM_NUMBER, IN_SUPERVISED},
    {"length", offsetof(stm_record, response_tokens_mean), 6, 1, FORM_NUMBER, IN_BOTH},
    {"cut", offsetof(stm_record, truncated_share), 4, 1, FORM_SHARE, IN_REWARDED},
    {"kl", offsetof(stm_record, kl_reference), 6, 4, FORM_NUMBER, IN_REWARDED},
    {"clip", offsetof(stm_record, clip_share), 4, 1, FORM_SHARE, IN_REWARDED},
    {"entropy", offsetof(stm_record, entropy), 7, 3, FORM_NUMBER, IN_BOTH},
    {"|grad|", offsetof(stm_record, grad_norm), 6, 3, FORM_NUMBER, IN_BOTH},
    {"lr", offsetof(stm_record, lr), 6, 4, FORM_NUMBER, IN_SUPERVISED},
    {"tok/s", offsetof(stm_record, tokens_per_s), 5, 0, FORM_NUMBER, IN_BOTH},
    {"s/step", offsetof(stm_record, step_s), 6, 2, FORM_SECONDS, IN_BOTH},
};
enum { N_COLUMNS = sizeof columns / sizeof *columns, LEFT_WIDTH = 6, SPREAD_SIGN_WIDTH = 2 };

static bool is_shown(size_t i, bool supervised)
{
    return columns[i].use == IN_BOTH || columns[i].use == (supervised ? IN_SUPERVISED : IN_REWARDED);
}

static int digits_of(int64_t n)
{
    return snprintf(NULL, 0, "%lld", (long long)n);
}

/* Appends text right-aligned after two spaces. */
static void append(char out[STM_STEP_LINE_BYTES], int width, const char *text)
{
    const size_t n = strlen(out);
    snprintf(out + n, STM_STEP_LINE_BYTES - n, "  %*s", width, text);
}

void stm_step_heading(char out[STM_STEP_LINE_BYTES], int64_t n_steps, bool supervised)
{
    snprintf(out, STM_STEP_LINE_BYTES, "%-*s", 6 + 2 * digits_of(n_steps), "");
    for (size_t i = 0; i < N_COLUMNS; i++)
        if (is_shown(i, supervised) && columns[i].form == FORM_SPREAD)
            append(out, columns[i].width, "");
        else if (is_shown(i, supervised))
            append(out, columns[i].width, columns[i].heading);
    append(out, LEFT_WIDTH, "left");
    strcat(out, "\n");
}

static void cell(char out[STM_STEP_LINE_BYTES], size_t i, double value)
{
    char text[32];
    const int width = columns[i].width, decimals = columns[i].decimals;
    switch (columns[i].form) {
    case FORM_NUMBER:
        stm_short_number(text, value, width, decimals);
        break;
    case FORM_SHARE:
        if (!isfinite(value) || !fits(text, 100 * value, "%", width, decimals))
            stm_short_number(text, value, width, decimals);
        break;
    case FORM_SECONDS:
        if (!isfinite(value) || !fits(text, value, "s", width, decimals))
            stm_short_number(text, value, width, decimals);
        break;
    case FORM_SPREAD: {
        stm_short_number(text, value, width, decimals);
        const size_t n = strlen(out);
        snprintf(out + n, STM_STEP_LINE_BYTES - n, " \u00b1%-*s", width, text);
        return;
    }
    }
    append(out, width, text);
}

void stm_step_line(char out[STM_STEP_LINE_BYTES], int64_t n_steps, bool supervised, const stm_record *record,
                   double left_s)
{
    char left[32];
    snprintf(out, STM_STEP_LINE_BYTES, "step %*lld/%lld", digits_of(n_steps), (long long)record->step,
             (long long)n_steps);
    for (size_t i = 0; i < N_COLUMNS; i++)
        if (is_shown(i, supervised))
            cell(out, i, *(const double *)((const char *)record + columns[i].offset));
    stm_short_time(left, left_s);
    append(out, LEFT_WIDTH, left);
    strcat(out, "\n");
}

void stm_eval_line(char out[STM_STEP_LINE_BYTES], const stm_record *record)
{
    int n = snprintf(out, STM_STEP_LINE_BYTES, "eval at step %lld: mean reward %.4g", (long long)record->step,
                     record->eval_reward);
    if (!isnan(record->eval_pass_at_1))
        n += snprintf(out + n, STM_STEP_LINE_BYTES - (size_t)n, ", pass@1 %.1f%%", 100 * record->eval_pass_at_1);
    if (!isnan(record->eval_pass_at_k) && record->eval_k > 1)
        n += snprintf(out + n, STM_STEP_LINE_BYTES - (size_t)n, ", pass@%lld %.1f%%", (long long)record->eval_k,
                      100 * record->eval_pass_at_k);
    snprintf(out + n, STM_STEP_LINE_BYTES - (size_t)n, "\n");
}
