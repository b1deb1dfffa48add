/* The schedule of a pass: each chunk once, in an order in which no rank waits for one that waits for it. */
#include "group/schedule.h"
#include "model/layout.h"
#include "model/stages.h"
#include "support/batch.h"
#include "support/model.h"

enum { VOCAB = 97, MOST_RANKS = 5, MOST_STAGES = 7, SLOTS = 4 /* messages that a stage may be ahead of the next */ };

static const stm_forest_options tree = {
    .mode = STM_FORWARD_TREE, .min_shared_tokens = 4, .across_groups = true, .max_segment_tokens = 20};

/* Nodes of a team: one, two, or as many as ranks. */
static const int nodes[3][MOST_RANKS] = {{7, 7, 7, 7, 7}, {0, 1, 1, 0, 1}, {4, 3, 2, 1, 0}};

/* The schedules of all ranks of a team and all stages for one batch. */
typedef struct {
    stm_batch batch;
    stm_forest forest;
    stm_placement placement;
    stm_model *model;
    size_t team_size, n_stages;
    stm_schedule schedules[MOST_STAGES][MOST_RANKS];
} fixture;

static void set_up(fixture *f, uint64_t seed, stm_pass_kind kind, size_t team_size, size_t n_stages, size_t chunk_rows)
{
    stm_model_config config = stm_test_configs[STM_TEST_LLAMA];
    config.n_layers = MOST_STAGES;
    *f = (fixture){.team_size = team_size, .n_stages = n_stages};
    stm_test_batch(seed, 8, VOCAB, &f->batch);
    stm_test_forest(&f->batch, &tree, &f->forest);
    assert_ok(stm_model_lay_out(&config, &f->model));
    f->model->backend = &stm_backend_cpu_f64;
    if (kind == STM_PASS_PREFILL)
        assert_ok(stm_placement_create_shared(&f->forest, &config, (int)team_size, &(stm_placement_options){0},
                                              &f->placement));
    else
        assert_ok(stm_placement_create(&f->forest, &config, (int)team_size,
                                       &(stm_placement_options){.in_flight = 1 + seed % 2}, &f->placement));
    for (size_t stage = 0; stage < n_stages; stage++) {
        stm_model_hold_stage(f->model, n_stages, stage);
        for (size_t rank = 0; rank < team_size; rank++) {
            const stm_schedule_options options = {.kind = kind,
                                                  .team_size = (int)team_size,
                                                  .team_rank = (int)rank,
                                                  .nodes = nodes[seed % 3],
                                                  .n_stages = n_stages,
                                                  .stage = stage,
                                                  .chunk_rows = chunk_rows,
                                                  .room_bytes = (size_t)1 << (10 + seed)};
            assert_ok(stm_schedule_create(&f->forest, &f->placement, f->model, &options, &f->schedules[stage][rank]));
        }
    }
}

static void tear_down(fixture *f)
{
    for (size_t stage = 0; stage < f->n_stages; stage++)
        for (size_t rank = 0; rank < f->team_size; rank++)
            stm_schedule_clear(&f->schedules[stage][rank]);
    stm_model_destroy(f->model);
    stm_placement_clear(&f->placement);
    stm_forest_clear(&f->forest);
    stm_batch_clear(&f->batch);
}

/* Runs a claim over batches, teams, pipelines and sizes of chunks. */
static void for_all(stm_pass_kind kind, void (*claim)(fixture *))
{
    static const size_t rows[] = {20, 33, 64, 400};
    for (uint64_t seed = 0; seed < 6; seed++)
        for (size_t team_size = 1; team_size <= MOST_RANKS; team_size++)
            for (size_t n_stages = 1; n_stages <= MOST_STAGES; n_stages++)
                for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
                    fixture f;
                    set_up(&f, seed, kind, team_size, n_stages, rows[i]);
                    claim(&f);
                    tear_down(&f);
                }
}

/* Each segment with rows runs forward on one rank, and back as often; on every stage. */
static void each_segment_once(fixture *f)
{
    for (size_t stage = 0; stage < f->n_stages; stage++) {
        int *forward, *backward;
        assert_ok(stm_alloc(2 * f->forest.n_segments, sizeof *forward, &forward));
        backward = forward + f->forest.n_segments;
        for (size_t rank = 0; rank < f->team_size; rank++) {
            const stm_schedule *s = &f->schedules[stage][rank];
            for (size_t e = 0; e < s->n_events; e++) {
                const stm_planned_chunk *c = &s->chunks[s->events[e].chunk];
                int *times = s->events[e].kind == STM_EVENT_FORWARD    ? forward
                             : s->events[e].kind == STM_EVENT_BACKWARD ? backward
                                                                       : NULL;
                for (size_t k = 0; times && k < c->n; k++)
                    times[s->segments[c->first_segment + k]]++;
            }
        }
        for (size_t i = 0; i < f->forest.n_segments; i++)
            if (f->forest.segments[i].n_rows > 0) {
                assert_int_equal(forward[i], 1);
                assert_int_equal(backward[i], 1);
            }
        free(forward);
    }
}

/* The chunks of one kind of event, in order, as a text of their segments. */
static void assert_same_order(const stm_schedule *a, const stm_schedule *b, stm_event_kind kind)
{
    size_t i = 0, j = 0;
    for (;;) {
        while (i < a->n_events && a->events[i].kind != kind)
            i++;
        while (j < b->n_events && b->events[j].kind != kind)
            j++;
        if (i == a->n_events || j == b->n_events)
            break;
        const stm_planned_chunk *c = &a->chunks[a->events[i++].chunk], *d = &b->chunks[b->events[j++].chunk];
        assert_int_equal(c->n, d->n);
        assert_memory_equal(a->segments + c->first_segment, b->segments + d->first_segment, c->n * sizeof(size_t));
    }
    assert_true(i == a->n_events && j == b->n_events);
}

static void same_orders_on_every_stage(fixture *f)
{
    for (size_t stage = 1; stage < f->n_stages; stage++)
        for (size_t rank = 0; rank < f->team_size; rank++) {
            assert_same_order(&f->schedules[0][rank], &f->schedules[stage][rank], STM_EVENT_FORWARD);
            assert_same_order(&f->schedules[0][rank], &f->schedules[stage][rank], STM_EVENT_BACKWARD);
        }
}

/* Replay: how far each rank has come, and what is done. */
typedef struct {
    const fixture *f;
    size_t next[MOST_STAGES][MOST_RANKS], n_forward[MOST_STAGES][MOST_RANKS], n_backward[MOST_STAGES][MOST_RANKS];
    uint8_t *closed;
    uint8_t *formed, *offered; /* [stages, ranks, n_shared]: K and V by the owner; all that a rank adds to dK, dV */
} replay;

static size_t place_of(const replay *r, size_t stage, size_t rank, size_t shared)
{
    return (stage * MOST_RANKS + rank) * r->f->schedules[0][0].n_shared + shared;
}

static bool all_offered(const replay *r, size_t stage, const stm_schedule *s, size_t shared, size_t but)
{
    const stm_shared_chunk *c = &s->shared[shared];
    for (int i = 0; i < c->n_members; i++) {
        const size_t member = (size_t)s->members[c->first_member + (size_t)i];
        if (member != but && !r->offered[place_of(r, stage, member, shared)])
            return false;
    }
    return true;
}

/* Whether those that share the chunk's K and V on the rank's node have come to its end, or are past it. */
static bool all_have_read(const replay *r, size_t stage, const stm_schedule *s, size_t shared)
{
    const stm_shared_chunk *c = &s->shared[shared];
    for (int i = 0; i < c->n_local; i++) {
        const size_t member = (size_t)s->local[c->first_local + (size_t)i], next = r->next[stage][member];
        const stm_schedule *other = &r->f->schedules[stage][member];
        bool read = r->closed[place_of(r, stage, member, shared)];
        if (next < other->n_events && other->events[next].kind == STM_EVENT_CLOSE)
            read = read || other->chunks[other->events[next].chunk].shared == shared;
        if (!read)
            return false;
    }
    return true;
}

/* Whether the rank's next event finds what it waits for. */
static bool may_run(const replay *r, size_t stage, size_t rank)
{
    const stm_schedule *s = &r->f->schedules[stage][rank];
    const stm_event *event = &s->events[r->next[stage][rank]];
    const stm_planned_chunk *c = &s->chunks[event->chunk];
    switch (event->kind) {
    case STM_EVENT_OPEN:
        return true;
    case STM_EVENT_FORWARD:
        if (stage > 0 && r->n_forward[stage - 1][rank] == r->n_forward[stage][rank])
            return false; /* no rows from the stage before */
        if (stage + 1 < r->f->n_stages && r->n_forward[stage][rank] - r->n_forward[stage + 1][rank] >= SLOTS)
            return false; /* no slot to send in */
        for (size_t i = c->first_read; i < c->first_read + c->n_reads; i++)
            if (!r->formed[place_of(r, stage, (size_t)s->shared[s->reads[i]].owner, s->reads[i])])
                return false;
        return true;
    case STM_EVENT_BACKWARD:
        if (stage + 1 < r->f->n_stages && r->n_backward[stage + 1][rank] == r->n_backward[stage][rank])
            return false;
        if (stage > 0 && r->n_backward[stage][rank] - r->n_backward[stage - 1][rank] >= SLOTS)
            return false;
        return c->shared == STM_NONE || all_offered(r, stage, s, c->shared, rank);
    case STM_EVENT_CLOSE: /* the sum passes through every member */
        return c->shared == STM_NONE ||
               (all_offered(r, stage, s, c->shared, MOST_RANKS) && all_have_read(r, stage, s, c->shared));
    }
    return false;
}

static void run_event(replay *r, size_t stage, size_t rank)
{
    const stm_schedule *s = &r->f->schedules[stage][rank];
    const stm_event *event = &s->events[r->next[stage][rank]++];
    const stm_planned_chunk *c = &s->chunks[event->chunk];
    if (event->kind == STM_EVENT_CLOSE && c->shared != STM_NONE)
        r->closed[place_of(r, stage, rank, c->shared)] = 1;
    if (event->kind == STM_EVENT_FORWARD) {
        r->n_forward[stage][rank]++;
        if (c->shared != STM_NONE)
            r->formed[place_of(r, stage, rank, c->shared)] = 1;
    } else if (event->kind == STM_EVENT_BACKWARD) {
        r->n_backward[stage][rank]++;
        for (size_t i = c->first_read; i < c->first_read + c->n_reads; i++)
            assert_false(r->offered[place_of(r, stage, rank, s->reads[i])]); /* or a part would be missing */
        for (size_t i = c->first_offer; i < c->first_offer + c->n_offers; i++) {
            uint8_t *offered = &r->offered[place_of(r, stage, rank, s->offers[i])];
            assert_false(*offered);
            *offered = 1;
        }
    }
}

static void nobody_waits_in_a_circle(fixture *f)
{
    replay r = {.f = f};
    const size_t n = MOST_STAGES * MOST_RANKS * f->schedules[0][0].n_shared;
    bool moved = true;
    assert_ok(stm_alloc(n, 1, &r.formed));
    assert_ok(stm_alloc(n, 1, &r.offered));
    assert_ok(stm_alloc(n, 1, &r.closed));
    while (moved) {
        moved = false;
        for (size_t stage = 0; stage < f->n_stages; stage++)
            for (size_t rank = 0; rank < f->team_size; rank++)
                while (r.next[stage][rank] < f->schedules[stage][rank].n_events && may_run(&r, stage, rank)) {
                    run_event(&r, stage, rank);
                    moved = true;
                }
    }
    for (size_t stage = 0; stage < f->n_stages; stage++)
        for (size_t rank = 0; rank < f->team_size; rank++)
            assert_int_equal(r.next[stage][rank], f->schedules[stage][rank].n_events);
    free(r.formed);
    free(r.offered);
    free(r.closed);
}

/* Chunks of a bank are closed in the reverse order of their opening; a rank that is alone needs one bank; a stage holds
 * no more chunks without descendants than it is stages from the last, plus one. */
static void memory_is_bounded(fixture *f)
{
    for (size_t stage = 0; stage < f->n_stages; stage++)
        for (size_t rank = 0; rank < f->team_size; rank++) {
            const stm_schedule *s = &f->schedules[stage][rank];
            size_t *open, n_open = 0, n_leaves = 0;
            assert_ok(stm_alloc(s->n_chunks, sizeof *open, &open));
            for (size_t e = 0; e < s->n_events; e++) {
                const size_t chunk = s->events[e].chunk;
                if (s->events[e].kind == STM_EVENT_OPEN) {
                    open[n_open++] = chunk;
                    n_leaves += !s->chunks[chunk].opens;
                } else if (s->events[e].kind == STM_EVENT_CLOSE) {
                    size_t at = n_open;
                    while (open[--at] != chunk) /* what was opened later lies elsewhere */
                        assert_true(s->chunks[open[at]].bank != s->chunks[chunk].bank);
                    memmove(open + at, open + at + 1, (--n_open - at) * sizeof *open);
                    n_leaves -= !s->chunks[chunk].opens;
                }
                assert_true(n_leaves <= f->n_stages - stage);
            }
            assert_int_equal(n_open, 0);
            assert_true(f->n_stages > 1 || s->n_banks <= 1);
            free(open);
        }
}

static size_t kv_end(const fixture *f, size_t stage, const stm_shared_chunk *c)
{
    stm_model_hold_stage(f->model, f->n_stages, stage);
    return c->offset + stm_chunk_kv_bytes(f->model, c->n_rows, false);
}

/* All ranks of a node see a chunk in one place of one leader's part, which is large enough. */
static void assert_seen_alike(const fixture *f, size_t stage, size_t shared)
{
    for (size_t rank = 0; rank < f->team_size; rank++) {
        const stm_schedule *s = &f->schedules[stage][rank];
        const stm_shared_chunk *c = &s->shared[shared];
        if (c->chunk == STM_NONE || c->n_local == 0)
            continue;
        assert_true(kv_end(f, stage, c) <= s->window_bytes[s->local[c->first_local]]);
        for (int i = 0; i < c->n_local; i++) {
            const stm_schedule *other = &f->schedules[stage][s->local[c->first_local + (size_t)i]];
            const stm_shared_chunk *same = &other->shared[shared];
            assert_int_equal(same->n_local, c->n_local);
            assert_int_equal(same->offset, c->offset);
            assert_memory_equal(other->local + same->first_local, s->local + c->first_local,
                                (size_t)c->n_local * sizeof(int));
            assert_memory_equal(other->window_bytes, s->window_bytes, f->team_size * sizeof(size_t));
        }
    }
}

/* What is open at a time on a rank does not overlap in any leader's part. */
static void assert_apart(const fixture *f, size_t stage, size_t rank)
{
    const stm_schedule *s = &f->schedules[stage][rank];
    uint8_t *open;
    assert_ok(stm_alloc(s->n_shared, 1, &open));
    for (size_t e = 0; e < s->n_events; e++) {
        const size_t shared = s->chunks[s->events[e].chunk].shared;
        if (shared == STM_NONE || s->shared[shared].n_local == 0)
            continue;
        const stm_shared_chunk *c = &s->shared[shared];
        if (s->events[e].kind == STM_EVENT_CLOSE)
            open[shared] = 0;
        if (s->events[e].kind != STM_EVENT_OPEN)
            continue;
        for (size_t i = 0; i < s->n_shared; i++)
            if (open[i] && s->local[s->shared[i].first_local] == s->local[c->first_local])
                assert_true(kv_end(f, stage, &s->shared[i]) <= c->offset || kv_end(f, stage, c) <= s->shared[i].offset);
        open[shared] = 1;
    }
    free(open);
}

static void places_are_the_same_for_all_and_apart(fixture *f)
{
    for (size_t stage = 0; stage < f->n_stages; stage++) {
        for (size_t i = 0; i < f->schedules[stage][0].n_shared; i++)
            assert_seen_alike(f, stage, i);
        for (size_t rank = 0; rank < f->team_size; rank++)
            assert_apart(f, stage, rank);
    }
}

static void ranks_of_a_node_agree_where_chunks_lie(void **state)
{
    (void)state;
    for_all(STM_PASS_GRADIENT, places_are_the_same_for_all_and_apart);
    for_all(STM_PASS_SCORE, places_are_the_same_for_all_and_apart);
    for_all(STM_PASS_PREFILL, places_are_the_same_for_all_and_apart);
}

static void every_segment_goes_forward_and_back_once(void **state)
{
    (void)state;
    for_all(STM_PASS_GRADIENT, each_segment_once);
}

static void stages_agree_on_the_order_of_their_messages(void **state)
{
    (void)state;
    for_all(STM_PASS_GRADIENT, same_orders_on_every_stage);
    for_all(STM_PASS_SCORE, same_orders_on_every_stage);
    for_all(STM_PASS_PREFILL, same_orders_on_every_stage);
}

static void no_rank_waits_for_one_that_waits_for_it(void **state)
{
    (void)state;
    for_all(STM_PASS_GRADIENT, nobody_waits_in_a_circle);
}

static void a_stage_holds_few_chunks_at_once(void **state)
{
    (void)state;
    for_all(STM_PASS_GRADIENT, memory_is_bounded);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_segment_goes_forward_and_back_once),
        cmocka_unit_test(stages_agree_on_the_order_of_their_messages),
        cmocka_unit_test(no_rank_waits_for_one_that_waits_for_it),
        cmocka_unit_test(a_stage_holds_few_chunks_at_once),
        cmocka_unit_test(ranks_of_a_node_agree_where_chunks_lie),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
