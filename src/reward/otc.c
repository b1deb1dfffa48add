/* Right with few calls of tools (OTC, arXiv:2504.14870): m calls, of which n suffice, the least of the group's right
 * responses. n = 0: 1 without a call, else cos(pi m / (2m + 1)); n > 0: sin(pi f / 2n) with f = 2nm / (n + m). A wrong
 * response gets 0. A call is what begins with `text` ("<tool_call>" by default). */
#include <math.h>
#include <string.h>

#include "reward/span.h"
#include "reward/text_length.h"

static const double pi = 3.14159265358979323846;

static double factor(double m, double n)
{
    if (n > 0.0)
        return sin(pi * m / (n + m));
    return m > 0.0 ? cos(pi * m / (2.0 * m + 1.0)) : 1.0;
}

static stm_status score(const stm_reward_item *item, size_t n, const stm_reward_input *inputs, double *out,
                        stm_complaint *complaint)
{
    const char *call = item->options.text[0] ? item->options.text : "<tool_call>";
    for (size_t first = 0, end; first < n; first = end) {
        double least = INFINITY;
        end = stm_group_end(inputs, n, first);
        for (size_t r = first; r < end; r++) { /* calls; -1: wrong */
            bool failed;
            const bool right = stm_reward_is_right(item, &inputs[r], complaint, &failed);
            out[r] = failed ? NAN : right ? (double)stm_span_count(stm_span_of(inputs[r].text), call) : -1.0;
            if (right)
                least = STM_MIN(least, out[r]);
        }
        for (size_t r = first; r < end; r++)
            if (!isnan(out[r]))
                out[r] = out[r] < 0.0 ? 0.0 : factor(out[r], least);
    }
    return STM_OK;
}

const stm_reward_kind stm_reward_otc = {
    .name = "otc",
    .reads = STM_READS_RIGHT | STM_READS_TEXT,
    .needs_answer = stm_reward_always,
    .all = score,
};
