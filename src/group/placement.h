/* src/group/placement.h: which rank computes what.
 *
 * Groups go to teams; inside a team, what several of its ranks need of a tree (its root, and further down where a
 * single subtree would be too much for one rank) is shared: one owner computes it and the others receive its K and V,
 * or, where messages would take longer than that, each of them computes it for itself. The subtrees below are units,
 * each for one rank. All of it is a function of the sequences, the layout, and rates that are the same on every rank,
 * so every rank finds the same. Local. */
#ifndef STM_GROUP_PLACEMENT_H
#define STM_GROUP_PLACEMENT_H

#include "group/forest.h"
#include "model/model.h"

/* What a rank does in a second, and its messages to others of its team. Zeros: not known; work is then counted in
 * FLOPs, and what is shared is sent. */
typedef struct {
    double dense, attention;     /* FLOP/s of products and of attention, forward and backward together */
    double latency_s, bandwidth; /* of a message; bytes/s */
} stm_rates;

/* A segment's forward, attention to its ancestors included, in seconds, or in FLOPs where the rates are not known; it
 * has loss on all rows, or, where no response runs through it, on none. */
double stm_segment_cost(const stm_model_config *config, const stm_rates *rates, const stm_segment *segment);

/* Which team works on each group: trees stay whole where no team would wait for them, else they are cut between groups.
 * team_sizes [n_teams]; team_of [batch's n_groups]. sequences [n] as for stm_forest_create. Fails: STM_ERR_MEMORY. */
stm_status stm_teams_assign(const stm_batch *batch, const stm_sequence *sequences, size_t n,
                            const stm_forest_options *options, const stm_model_config *config, const stm_rates *rates,
                            int n_teams, const int *team_sizes, int *team_of);

/* Segments (preorder, a range of placement->segments) that `owner` computes for the whole team. Ancestors are in
 * earlier entries, or earlier in the same. */
typedef struct {
    int owner;
    bool everywhere; /* whoever needs them computes them for himself; no response runs through them */
    size_t first, n;
} stm_shared;

typedef struct {
    size_t segment; /* a subtree's root */
    int rank;
} stm_unit;

/* Shared segments alive together, and the units below them (ranges of placement->shared and ->units). */
typedef struct {
    size_t first_shared, n_shared, first_unit, n_units;
} stm_wave;

typedef struct {
    size_t n_waves, n_shared, n_units, n_segments;
    stm_wave *waves;
    stm_shared *shared;
    stm_unit *units;
    size_t *segments;
} stm_placement;

typedef struct {
    size_t in_flight;    /* trees whose shared segments are alive at once, at most */
    stm_context context; /* whether the pieces of a long segment go round the ranks (context parallelism) */
    stm_prefix prefix;   /* whether what is shared is sent, or computed by each rank */
    stm_rates rates;
    size_t activation_bytes, real_bytes; /* of K and V, of their gradients; 0: nothing is known of messages */
} stm_placement_options;

/* Ranks are the team's, 0 .. team_size-1. The caller clears *out, also after a failure. Fails: STM_ERR_MEMORY. */
stm_status stm_placement_create(const stm_forest *forest, const stm_model_config *config, int team_size,
                                const stm_placement_options *options, stm_placement *out);

/* For prompts that the whole team samples from: everything is shared, roots first, then what hangs on them. */
stm_status stm_placement_create_shared(const stm_forest *forest, const stm_model_config *config, int team_size,
                                       const stm_placement_options *options, stm_placement *out);
void stm_placement_clear(stm_placement *placement);

#endif
