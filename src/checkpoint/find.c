/* Which checkpoint of a folder is the newest that can be trusted. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/folder.h"
#include "checkpoint/hashes.h"

/* Rank 0's steps, newest first, on every rank. Collective. */
static stm_status share_steps(MPI_Comm comm, const char *folder, int64_t **steps, size_t *n)
{
    int rank;
    STM_MPI(MPI_Comm_rank(comm, &rank));
    *steps = NULL;
    *n = 0;
    STM_TRY(stm_agree_on(comm, rank == 0 ? stm_steps_list(folder, steps, n) : STM_OK));
    stm_broadcast(comm, 0, n, sizeof *n);
    STM_TRY(stm_agree_on(comm, rank == 0 ? STM_OK : stm_alloc(*n, sizeof **steps, steps)));
    stm_broadcast(comm, 0, *steps, *n * sizeof **steps);
    return STM_OK;
}

/* The candidates in a folder, from the newest on, and what became of them. */
typedef struct {
    MPI_Comm comm;
    const char *folder, *tired;
    int64_t *steps;
    size_t n_steps;
    bool has_best;
    char *found, *refused;
} search;

/* Adds a line to what is said of those refused. Collective. */
static stm_status note(search *s, const char *path, const char *why)
{
    char *longer = NULL;
    STM_TRY(stm_agree_on(s->comm, stm_format(&longer, "%s%s%s%s\n", s->refused ? s->refused : "", path ? path : "",
                                             path ? ": " : "", why)));
    free(s->refused);
    s->refused = longer;
    return STM_OK;
}

/* The best one, of unknown step, comes last. */
static stm_status candidate_path(const search *s, size_t i, char **path)
{
    return i < s->n_steps ? stm_step_path(s->folder, s->steps[i], path) : stm_format(path, "%s/best.h5", s->folder);
}

/* Whether the file's name is a line of the text. */
static bool is_among(const char *lines, const char *path)
{
    const char *name = strrchr(path, '/') + 1;
    const size_t n = strlen(name);
    for (const char *line = lines; line && *line; line += strcspn(line, "\n"), line += *line == '\n')
        if (strncmp(line, name, n) == 0 && line[n] == '\n')
            return true;
    return false;
}

/* Takes the candidate for found if it verifies; if not, the lines say why. A sound file of a later format ends the
 * search, for nothing is wrong with it. Collective. */
static stm_status try_candidate(search *s, char **path)
{
    int rank;
    STM_MPI(MPI_Comm_rank(s->comm, &rank));
    STM_TRY(stm_agree_on(s->comm, rank == 0 ? stm_hashes_refuse_newer(*path) : STM_OK));
    const stm_status status = stm_checkpoint_verify(s->comm, *path);
    if (status == STM_ERR_INPUT || status == STM_ERR_IO)
        return note(s, NULL, stm_failure());
    STM_TRY(status);
    s->found = *path;
    *path = NULL;
    return STM_OK;
}

/* Tries those that are tired, or the others, until one is found. Collective. */
static stm_status try_those(search *s, bool tired)
{
    for (size_t i = 0; i < s->n_steps + s->has_best && !s->found; i++) {
        char *path = NULL;
        STM_TRY(stm_agree_on(s->comm, candidate_path(s, i, &path)));
        stm_status status = STM_OK;
        if (is_among(s->tired, path) == tired)
            status = try_candidate(s, &path);
        else if (!tired)
            status = note(s, path, "runs that went on from it came to no step");
        free(path);
        STM_TRY(status);
    }
    return STM_OK;
}

/* Collective. */
static stm_status share_has_best(search *s)
{
    int rank, found = 0;
    char *path;
    STM_TRY(stm_agree_on(s->comm, candidate_path(s, s->n_steps, &path)));
    STM_MPI(MPI_Comm_rank(s->comm, &rank));
    if (rank == 0)
        found = access(path, F_OK) == 0;
    stm_broadcast(s->comm, 0, &found, sizeof found);
    s->has_best = found;
    free(path);
    return STM_OK;
}

stm_status stm_checkpoint_find(MPI_Comm comm, const char *folder, const char *tired, char **path, char **refused)
{
    stm_status status = STM_OK;
    search s = {.comm = comm, .folder = folder, .tired = tired};
    STM_GOTO_OUT(share_steps(comm, folder, &s.steps, &s.n_steps));
    STM_GOTO_OUT(share_has_best(&s));
    STM_GOTO_OUT(try_those(&s, false));
    if (!s.found) {
        STM_GOTO_OUT(try_those(&s, true));
        if (s.found)
            STM_GOTO_OUT(note(&s, s.found, "taken once more, for want of an earlier one"));
    }
out:
    free(s.steps);
    if (status != STM_OK) {
        free(s.found);
        free(s.refused);
        s.found = s.refused = NULL;
    }
    *path = s.found;
    *refused = s.refused;
    return status;
}
