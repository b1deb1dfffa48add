#include "base/crash.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/helper.h"
#include "base/pulse.h"

static const struct {
    int number;
    const char *name;
} crashes[] = {{SIGSEGV, "segmentation fault"},
               {SIGBUS, "bus error (a mapped file cut short, or /dev/shm full)"},
               {SIGFPE, "arithmetic fault"},
               {SIGILL, "illegal instruction (built for another processor?)"},
               {SIGABRT, "aborted"}};
enum { N_CRASHES = sizeof crashes / sizeof *crashes };

static struct sigaction before[N_CRASHES];

/* "stemma: rank 3 on node7: ", made ready beforehand. */
static char who[STM_PULSE_HOST_BYTES + 40];

/* Only what signal handlers may call. A message that cannot be written is lost. */
static void say(const char *text)
{
    const ssize_t n = write(STDERR_FILENO, text, strlen(text));
    (void)n;
}

static void on_crash(int number)
{
    for (size_t i = 0; i < N_CRASHES; i++) {
        if (crashes[i].number != number)
            continue;
        char what[STM_PULSE_TEXT_BYTES];
        stm_pulse_text(stm_pulse_own, what);
        say(who);
        say(crashes[i].name);
        say(" (");
        say(what);
        say(")\n");
        (void)stm_helper_speaks_first();
        sigaction(number, &before[i], NULL);
        raise(number);
    }
}

static void on_request(int number)
{
    stm_pulse_told_to_end();
    signal(number, SIG_DFL);
    raise(number);
}

void stm_crash_catch(void)
{
    static char stack[1 << 16]; /* a stack that has overflown holds no handler */
    const stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction crash = {.sa_handler = on_crash, .sa_flags = SA_ONSTACK}, request = {.sa_handler = on_request},
                     now;
    char *name;
    if (stm_format(&name, "stemma: rank %d on %s: ", (int)stm_pulse_own->rank, stm_pulse_own->host) == STM_OK) {
        strncpy(who, name, sizeof who - 1);
        free(name);
    }
    sigaltstack(&other, NULL);
    sigemptyset(&crash.sa_mask);
    sigemptyset(&request.sa_mask);
    for (size_t i = 0; i < N_CRASHES; i++)
        sigaction(crashes[i].number, &crash, &before[i]);
    for (size_t i = 0; i < 2; i++) {
        const int number = i == 0 ? SIGTERM : SIGINT;
        if (sigaction(number, NULL, &now) == 0 && now.sa_handler == SIG_DFL)
            sigaction(number, &request, NULL);
    }
}
