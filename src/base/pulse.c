#include "base/pulse.h"

#include <string.h>
#include <sys/mman.h>

static stm_pulse before_sharing = {.phase = STM_PHASE_OTHER, .rank = -1, .host = "?"};
stm_pulse *stm_pulse_own = &before_sharing;

stm_status stm_pulse_share(void)
{
    stm_pulse *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return stm_fail(STM_ERR_MEMORY, "no memory that processes share");
    shared->phase = STM_PHASE_OTHER;
    shared->rank = -1;
    strcpy(shared->host, "?");
    stm_pulse_own = shared;
    return STM_OK;
}

void stm_pulse_elsewhere(const char *name)
{
    stm_pulse_own->elsewhere = name;
    stm_pulse_progress();
}

void stm_pulse_step(int64_t step)
{
    stm_pulse_own->step = step;
    stm_pulse_progress();
}

void stm_pulse_rest(void)
{
    stm_pulse_own->resting = true;
}

void stm_pulse_told_to_end(void)
{
    stm_pulse_own->told_to_end = true;
}

/* Appends to text, which has STM_PULSE_TEXT_BYTES; snprintf may not be called by signal handlers. */
static void append(char *text, const char *more)
{
    size_t n = strlen(text);
    while (*more && n + 1 < STM_PULSE_TEXT_BYTES)
        text[n++] = *more++;
    text[n] = 0;
}

static void append_number(char *text, int64_t number)
{
    char digits[24];
    size_t at = sizeof digits;
    digits[--at] = 0;
    do
        digits[--at] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    append(text, digits + at);
}

void stm_pulse_text(const stm_pulse *pulse, char *text)
{
    const int phase = pulse->phase;
    const char *elsewhere = pulse->elsewhere;
    const int64_t step = pulse->step;
    *text = 0;
    append(text, "phase ");
    append(text, phase == STM_PHASE_OTHER && elsewhere ? elsewhere : stm_phase_name((stm_phase)phase));
    if (step > 0) {
        append(text, ", step ");
        append_number(text, step);
    }
}
