/* A reward as a shared object. Write STEMMA_REWARD once, at the top of a C file, and one function stemma_reward; build
 * it by `cc -O2 -fPIC -shared -I PREFIX/include -o mine.so mine.c`, where stemma was installed in PREFIX, and name it
 * in the input file: reward: [ { name: plugin, library: mine.so } ]. It is loaded into the process of rank 0 of the run
 * and called once a step for all responses; a crash there ends the run. What should live in a process of its own, or
 * another language, is for the reward `command`. */
#ifndef STEMMA_REWARD_H
#define STEMMA_REWARD_H

#include <stddef.h>

#define STEMMA_REWARD_VERSION 1
#define STEMMA_REWARD const int stemma_reward_version = STEMMA_REWARD_VERSION

/* All texts are UTF-8 and end in a NUL; they are gone after the call. */
typedef struct {
    const char *prompt, *response;
    const char *answer; /* the data line's "answer"; NULL: it has none, or no text or number */
    const char *line;   /* the whole data line, JSON */
    size_t n_tokens;    /* of the response */
    size_t group;       /* responses to one prompt stand together and have the same number */
    int truncated;      /* 1: the response ended because it had become too long */
} stemma_response;

extern const int stemma_reward_version;

/* Writes rewards[0..n); a number that is not finite fails that response. Returns 0, or a number of your choice when
 * nothing could be judged, which the log will name. */
int stemma_reward(size_t n, const stemma_response *responses, double *rewards);

#endif
