#include "group/placement.h"

#include <stdlib.h>

#include "group/flops.h"

static bool knows_speed(const stm_rates *rates)
{
    return rates->dense > 0 && rates->attention > 0;
}

double stm_segment_cost(const stm_model_config *config, const stm_rates *rates, const stm_segment *segment)
{
    const size_t first = stm_segment_first_position(segment);
    stm_flops flops = {0};
    stm_flops_add_rows(config, first, segment->n_rows, &flops);
    stm_flops_add_last_layer(config, first, segment->n_rows, segment->n_uses > 0, &flops);
    if (!knows_speed(rates))
        return stm_flops_forward(&flops);
    return (flops.dense + flops.head) / rates->dense + flops.attention / rates->attention;
}

/* Least loaded of n bins, relative to their sizes; the first on a tie. */
static size_t lightest(const double *load, const int *sizes, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (load[i] / (sizes ? sizes[i] : 1) < load[best] / (sizes ? sizes[best] : 1))
            best = i;
    return best;
}

/* Something to place, with its cost. home: a rank that has what lies above it. */
typedef struct {
    double cost;
    size_t index;
    int home;
} burden;

enum { NOWHERE = -1 };

static int compare_burdens(const void *left, const void *right)
{
    const burden *a = left, *b = right;
    if (a->cost != b->cost)
        return a->cost > b->cost ? -1 : 1;
    return (a->index > b->index) - (a->index < b->index);
}

/* Teams */

static size_t root_of(const stm_forest *forest, size_t segment)
{
    while (forest->segments[segment].parent != STM_NONE)
        segment = forest->segments[segment].parent;
    return segment;
}

/* Groups that share a tree, in the order of their sequences. */
typedef struct {
    size_t *groups, n_groups; /* those that have sequences, bundle after bundle */
    size_t *first;            /* [n_bundles + 1] into groups */
    size_t n_bundles;
    double *weight; /* [batch's groups]: of each group's own tokens */
    double *cost;   /* [n_bundles] */
} bundles;

static void clear_bundles(bundles *b)
{
    free(b->groups);
    free(b->first);
    free(b->weight);
    free(b->cost);
}

/* A group's sequences stand in one tree, or (repeated) in trees of their own: its bundle is that of its first one. */
static stm_status find_bundles(const stm_forest *forest, const stm_model_config *config, const stm_rates *rates,
                               bundles *out)
{
    const size_t n_groups = forest->batch->n_groups;
    size_t *bundle_of_group, *bundle_of_root;
    stm_status status;
    *out = (bundles){0};
    STM_TRY(stm_alloc(n_groups, sizeof *bundle_of_group, &bundle_of_group));
    if ((status = stm_alloc(forest->n_segments, sizeof *bundle_of_root, &bundle_of_root)) != STM_OK) {
        free(bundle_of_group);
        return status;
    }
    STM_GOTO_OUT(stm_alloc(n_groups, sizeof *out->groups, &out->groups));
    STM_GOTO_OUT(stm_alloc(n_groups + 1, sizeof *out->first, &out->first));
    STM_GOTO_OUT(stm_alloc(n_groups, sizeof *out->weight, &out->weight));
    STM_GOTO_OUT(stm_alloc(n_groups, sizeof *out->cost, &out->cost));
    for (size_t i = 0; i < n_groups; i++)
        bundle_of_group[i] = STM_NONE;
    for (size_t i = 0; i < forest->n_segments; i++)
        bundle_of_root[i] = STM_NONE;
    for (size_t i = 0; i < forest->n_sequences; i++) {
        const stm_sequence *s = &forest->sequences[i];
        const size_t root = root_of(forest, forest->ends[i]);
        out->weight[s->group] += (double)(s->n - forest->batch->groups[s->group].n_prompt + 1);
        if (bundle_of_root[root] == STM_NONE) {
            if (bundle_of_group[s->group] == STM_NONE) {
                out->first[out->n_bundles] = out->n_groups;
                bundle_of_group[s->group] = out->n_bundles++;
                out->groups[out->n_groups++] = s->group;
            }
            bundle_of_root[root] = bundle_of_group[s->group];
        } else if (bundle_of_group[s->group] == STM_NONE) {
            bundle_of_group[s->group] = bundle_of_root[root];
            out->groups[out->n_groups++] = s->group;
        }
    }
    out->first[out->n_bundles] = out->n_groups;
    for (size_t i = 0; i < forest->n_segments; i++)
        out->cost[bundle_of_root[root_of(forest, i)]] += stm_segment_cost(config, rates, &forest->segments[i]);
out:
    free(bundle_of_group);
    free(bundle_of_root);
    return status;
}

/* Cuts bundles that are more than a team's fair share into runs of groups. pieces: (first group, cost) each. */
typedef struct {
    size_t first, n;
} piece;

static size_t cut_bundle(const bundles *b, size_t bundle, double fair, piece *pieces, burden *burdens, size_t n_pieces)
{
    const size_t first = b->first[bundle], last = b->first[bundle + 1];
    size_t cuts = fair > 0 && b->cost[bundle] > 1.2 * fair ? (size_t)(b->cost[bundle] / fair + 0.999) : 1;
    cuts = STM_MAX((size_t)1, STM_MIN(cuts, last - first));
    double all = 0, before = 0;
    for (size_t i = first; i < last; i++)
        all += b->weight[b->groups[i]];
    size_t at = first;
    for (size_t c = 0; c < cuts; c++) {
        const size_t begin = at;
        double weight = 0;
        while (at < last && (at == begin || c + 1 == cuts || before + weight < all * (double)(c + 1) / (double)cuts) &&
               (at == begin || last - at > cuts - c - 1))
            weight += b->weight[b->groups[at++]];
        before += weight;
        pieces[n_pieces] = (piece){begin, at - begin};
        burdens[n_pieces] = (burden){b->cost[bundle] * weight / all, n_pieces, NOWHERE};
        n_pieces++;
    }
    return n_pieces;
}

stm_status stm_teams_assign(const stm_batch *batch, const stm_sequence *sequences, size_t n,
                            const stm_forest_options *options, const stm_model_config *config, const stm_rates *rates,
                            int n_teams, const int *team_sizes, int *team_of)
{
    for (size_t i = 0; i < batch->n_groups; i++)
        team_of[i] = 0;
    if (n_teams == 1)
        return STM_OK;
    stm_forest forest;
    bundles b = {0};
    piece *pieces = NULL;
    burden *burdens = NULL;
    double *load = NULL, total = 0;
    size_t n_pieces = 0, n_ranks = 0;
    stm_status status;
    STM_GOTO_OUT(stm_forest_create(batch, sequences, n, options, &forest));
    STM_GOTO_OUT(find_bundles(&forest, config, rates, &b));
    STM_GOTO_OUT(stm_alloc(batch->n_groups, sizeof *pieces, &pieces));
    STM_GOTO_OUT(stm_alloc(batch->n_groups, sizeof *burdens, &burdens));
    STM_GOTO_OUT(stm_alloc((size_t)n_teams, sizeof *load, &load));
    for (size_t i = 0; i < b.n_bundles; i++)
        total += b.cost[i];
    for (int t = 0; t < n_teams; t++)
        n_ranks += (size_t)team_sizes[t];
    for (size_t i = 0; i < b.n_bundles; i++)
        n_pieces = cut_bundle(&b, i, total / n_teams, pieces, burdens, n_pieces);
    qsort(burdens, n_pieces, sizeof *burdens, compare_burdens);
    for (size_t i = 0; i < n_pieces; i++) {
        const size_t team = lightest(load, team_sizes, (size_t)n_teams);
        load[team] += burdens[i].cost;
        for (size_t k = 0; k < pieces[burdens[i].index].n; k++)
            team_of[b.groups[pieces[burdens[i].index].first + k]] = (int)team;
    }
out:
    stm_forest_clear(&forest);
    clear_bundles(&b);
    free(pieces);
    free(burdens);
    free(load);
    return status;
}

/* Inside a team */

enum { SHARED = 1, UNIT = 2 };

typedef struct {
    const stm_forest *forest;
    const stm_model_config *config;
    const stm_placement_options *options;
    int team_size;
    bool gradient; /* what is shared goes back, too */
    double fair;   /* an even share of all */
    double *cost;  /* [n_segments]: of the whole subtree */
    uint8_t *mark; /* [n_segments]: SHARED, UNIT (its root), or 0 below a unit */
    double *load;  /* [team_size]: of the wave */
    burden *order; /* [n_segments] */
    size_t *roots; /* [n_segments]: of the wave's shared trees */
    int turn;      /* ownership rotates over prompts */
} placing;

static void clear_placing(placing *p)
{
    free(p->cost);
    free(p->mark);
    free(p->load);
    free(p->order);
    free(p->roots);
}

static stm_status begin_placing(const stm_forest *forest, const stm_model_config *config, int team_size,
                                const stm_placement_options *options, placing *p, stm_placement *out)
{
    const size_t n = forest->n_segments;
    *p = (placing){.forest = forest, .config = config, .options = options, .team_size = team_size};
    *out = (stm_placement){0};
    STM_TRY(stm_alloc(n, sizeof *p->cost, &p->cost));
    STM_TRY(stm_alloc(n, sizeof *p->mark, &p->mark));
    STM_TRY(stm_alloc((size_t)team_size, sizeof *p->load, &p->load));
    STM_TRY(stm_alloc(n, sizeof *p->order, &p->order));
    STM_TRY(stm_alloc(n, sizeof *p->roots, &p->roots));
    STM_TRY(stm_alloc(n + 2, sizeof *out->waves, &out->waves));
    STM_TRY(stm_alloc(n, sizeof *out->shared, &out->shared));
    STM_TRY(stm_alloc(n, sizeof *out->units, &out->units));
    STM_TRY(stm_alloc(n, sizeof *out->segments, &out->segments));
    for (size_t i = n; i-- > 0;) {
        p->cost[i] += stm_segment_cost(config, &options->rates, &forest->segments[i]);
        if (forest->segments[i].parent != STM_NONE)
            p->cost[forest->segments[i].parent] += p->cost[i];
        else
            p->fair += p->cost[i] / team_size;
    }
    return STM_OK;
}

/* The end of the chain of only children that begins at `segment`. */
static size_t chain_end(const stm_forest *forest, size_t segment)
{
    while (segment + 1 < forest->segments[segment].last &&
           forest->segments[segment + 1].last == forest->segments[segment].last)
        segment++;
    return segment;
}

/* Whether pieces that cost so much go round the ranks, where a rank's share is `share`. */
static bool goes_round(const placing *p, double cost, double share)
{
    const stm_context context = p->options->context;
    return context == STM_CONTEXT_AUTO ? cost > share : context == STM_CONTEXT_ON;
}

/* Marks a subtree: one unit, or its chain shared and what hangs on it marked in turn. A chain of several pieces may be
 * shared though nothing branches off, where its pieces go to several ranks. */
static void mark_subtree(placing *p, size_t segment, double heavy, bool split)
{
    const stm_segment *s = p->forest->segments;
    const size_t end = chain_end(p->forest, segment);
    const bool branches = end + 1 < s[end].last;
    if (branches ? !split && p->cost[segment] <= heavy : end == segment || !goes_round(p, p->cost[segment], p->fair)) {
        p->mark[segment] = UNIT;
        return;
    }
    for (size_t i = segment; i <= end; i++)
        p->mark[i] = SHARED;
    for (size_t child = end + 1; child < s[end].last; child = s[child].last)
        mark_subtree(p, child, heavy, false);
}

/* The subtree's, less its children's. */
static double own_cost(const placing *p, size_t segment)
{
    const stm_segment *s = p->forest->segments;
    double cost = p->cost[segment];
    for (size_t child = segment + 1; child < s[segment].last; child = s[child].last)
        cost -= p->cost[child];
    return cost;
}

/* Whether a segment is one more piece of what was cut for its length. */
static bool is_next_piece(const stm_forest *forest, size_t segment)
{
    const stm_segment *s = forest->segments;
    return segment > 0 && s[segment].parent == segment - 1 && s[segment - 1].last == s[segment].last;
}

/* Whether a rank computes a segment faster than it comes: K and V, and their gradients back, against the work that
 * owners would have spared the ranks, each its even share of them. A message of a layer hides behind the next layer's
 * work, so the slower of the two is what it takes. */
static bool is_faster_everywhere(const placing *p, size_t segment)
{
    const stm_rates *rates = &p->options->rates;
    const stm_model_config *config = p->config;
    if (!knows_speed(rates) || rates->bandwidth <= 0)
        return false;
    const double times = p->gradient ? 3 : 1, messages = p->gradient ? 2 : 1;
    const double n =
        2.0 * (double)p->forest->segments[segment].n_rows * (double)(config->n_kv_heads * config->head_dim);
    const double bytes = n * (double)(p->options->activation_bytes + (p->gradient ? p->options->real_bytes : 0));
    const double sent_s = (double)config->n_layers * (messages * rates->latency_s + bytes / rates->bandwidth);
    const double spared = 1 - 1.0 / p->team_size;
    return sent_s > times * spared * stm_segment_cost(config, rates, &p->forest->segments[segment]);
}

/* Tokens that have loss are visited once, so only what no response runs through can be computed by several. */
static bool goes_everywhere(const placing *p, size_t segment)
{
    if (p->team_size == 1 || p->forest->segments[segment].n_uses > 0)
        return false;
    return p->options->prefix == STM_PREFIX_AUTO ? is_faster_everywhere(p, segment)
                                                 : p->options->prefix == STM_PREFIX_RECOMPUTE;
}

static void add_load(placing *p, const stm_shared *shared, double cost)
{
    for (int rank = 0; rank < p->team_size; rank++)
        if (shared->everywhere || rank == shared->owner)
            p->load[rank] += cost;
}

/* Lists the shared segments of [first, last): one entry of the owner's. Where they go round, for that would be more
 * than `share`, the pieces of a long segment are entries of one rank after the other: each follows the piece before it
 * one layer behind. What every rank computes has entries of its own.
 */
static void add_shared(placing *p, size_t first, size_t last, int owner, double share, stm_placement *out)
{
    stm_shared *shared = NULL;
    for (size_t i = first; i < last; i++) {
        if (p->mark[i] != SHARED)
            continue;
        const bool everywhere = goes_everywhere(p, i);
        const bool moves = shared && !everywhere && !shared->everywhere && goes_round(p, p->cost[first], share) &&
                           is_next_piece(p->forest, i);
        if (!shared || moves || shared->everywhere != everywhere) {
            owner = moves ? (owner + 1) % p->team_size : owner;
            shared = &out->shared[out->n_shared++];
            *shared = (stm_shared){.owner = owner, .everywhere = everywhere, .first = out->n_segments};
        }
        out->segments[out->n_segments++] = i;
        shared->n++;
        add_load(p, shared, own_cost(p, i));
    }
}

static void begin_wave(placing *p, stm_placement *out)
{
    out->waves[out->n_waves++] = (stm_wave){.first_shared = out->n_shared, .first_unit = out->n_units};
    for (int r = 0; r < p->team_size; r++)
        p->load[r] = 0;
}

static int compare_units(const void *left, const void *right)
{
    const stm_unit *a = left, *b = right;
    return (a->segment > b->segment) - (a->segment < b->segment);
}

/* An even share of what the ranks have and of what is to be placed. */
static double even_share(const placing *p, size_t n_units)
{
    double sum = 0;
    for (int r = 0; r < p->team_size; r++)
        sum += p->load[r];
    for (size_t i = 0; i < n_units; i++)
        sum += p->order[i].cost;
    return sum / p->team_size;
}

/* Heaviest first: home, where nothing need travel, up to an even share, and what is left to the rank with least to do.
 * Then in preorder again, so that neighbours share their chunks. */
static void end_wave(placing *p, size_t n_units, stm_placement *out)
{
    stm_wave *wave = &out->waves[out->n_waves - 1];
    const double share = even_share(p, n_units) * (1 + 1e-9); /* its own rounding is no reason to travel */
    size_t n_left = 0;
    qsort(p->order, n_units, sizeof *p->order, compare_burdens);
    for (size_t i = 0; i < n_units; i++) {
        const burden unit = p->order[i];
        if (unit.home == NOWHERE || p->load[unit.home] + unit.cost > share) {
            p->order[n_left++] = unit;
            continue;
        }
        p->load[unit.home] += unit.cost;
        out->units[out->n_units++] = (stm_unit){unit.index, unit.home};
    }
    for (size_t i = 0; i < n_left; i++) {
        const size_t rank = lightest(p->load, NULL, (size_t)p->team_size);
        p->load[rank] += p->order[i].cost;
        out->units[out->n_units++] = (stm_unit){p->order[i].index, (int)rank};
    }
    wave->n_shared = out->n_shared - wave->first_shared;
    wave->n_units = out->n_units - wave->first_unit;
    qsort(out->units + wave->first_unit, wave->n_units, sizeof *out->units, compare_units);
}

static size_t list_units(placing *p, size_t first, size_t last, int home, size_t n)
{
    for (size_t i = first; i < last; i++)
        if (p->mark[i] == UNIT)
            p->order[n++] = (burden){p->cost[i], i, home};
    return n;
}

/* The shared trees p->roots [n], alive together; returns the number of units in p->order. */
static size_t place_shared(placing *p, size_t n, stm_placement *out)
{
    double share = 0;
    size_t n_units = 0;
    begin_wave(p, out);
    for (size_t i = 0; i < n; i++)
        share += p->cost[p->roots[i]] / p->team_size;
    for (size_t i = 0; i < n; i++) {
        const size_t root = p->roots[i], last = p->forest->segments[root].last;
        const int owner = p->turn++ % p->team_size;
        add_shared(p, root, last, owner, share, out);
        n_units = list_units(p, root, last, owner, n_units);
    }
    return n_units;
}

/* Waves of trees that have something shared; the others, whole, go with the last. */
static void place_trees(placing *p, size_t in_flight, stm_placement *out)
{
    const stm_forest *forest = p->forest;
    size_t n = 0;
    for (size_t root = 0; root < forest->n_segments; root = forest->segments[root].last) {
        if (p->mark[root] != SHARED)
            continue;
        if (n == in_flight) {
            end_wave(p, place_shared(p, n, out), out);
            n = 0;
        }
        p->roots[n++] = root;
    }
    size_t n_units = place_shared(p, n, out);
    for (size_t root = 0; root < forest->n_segments; root = forest->segments[root].last)
        if (p->mark[root] == UNIT)
            p->order[n_units++] = (burden){p->cost[root], root, NOWHERE};
    end_wave(p, n_units, out);
}

stm_status stm_placement_create(const stm_forest *forest, const stm_model_config *config, int team_size,
                                const stm_placement_options *options, stm_placement *out)
{
    placing p;
    stm_status status;
    STM_GOTO_OUT(begin_placing(forest, config, team_size, options, &p, out));
    p.gradient = true;
    for (size_t root = 0; root < forest->n_segments; root = forest->segments[root].last) {
        const double heavy = p.cost[root] / (2.0 * team_size); /* a unit that would leave ranks waiting */
        if (team_size == 1 || p.cost[root] <= p.fair / 8)      /* many small trees balance whole */
            p.mark[root] = UNIT;
        else
            mark_subtree(&p, root, heavy, true);
    }
    place_trees(&p, options->in_flight, out);
out:
    clear_placing(&p);
    return status;
}

/* One wave of the tops that have something below them, one of everything else: each entry a subtree or a top. */
stm_status stm_placement_create_shared(const stm_forest *forest, const stm_model_config *config, int team_size,
                                       const stm_placement_options *options, stm_placement *out)
{
    placing p;
    stm_status status;
    STM_GOTO_OUT(begin_placing(forest, config, team_size, options, &p, out));
    begin_wave(&p, out);
    for (size_t root = 0; root < forest->n_segments; root = forest->segments[root].last) {
        const double heavy = p.cost[root] / (2.0 * team_size);
        mark_subtree(&p, root, heavy, team_size > 1);
        if (p.mark[root] == SHARED)
            add_shared(&p, root, forest->segments[root].last, p.turn++ % team_size, p.fair, out);
    }
    end_wave(&p, 0, out);
    begin_wave(&p, out);
    const size_t n_units = list_units(&p, 0, forest->n_segments, NOWHERE, 0);
    qsort(p.order, n_units, sizeof *p.order, compare_burdens);
    for (size_t i = 0; i < forest->n_segments; i++)
        p.mark[i] = SHARED;
    for (size_t i = 0; i < n_units; i++) {
        const size_t rank = lightest(p.load, NULL, (size_t)team_size), segment = p.order[i].index;
        add_shared(&p, segment, forest->segments[segment].last, (int)rank, p.fair, out);
    }
    end_wave(&p, 0, out);
out:
    clear_placing(&p);
    return status;
}

void stm_placement_clear(stm_placement *placement)
{
    free(placement->waves);
    free(placement->shared);
    free(placement->units);
    free(placement->segments);
    *placement = (stm_placement){0};
}
