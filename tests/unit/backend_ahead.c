/* What lets the host run ahead of a device: recordings, marks, rows that go on by themselves, attention to keys that
 * the device counts. A backend without has none of it. */
#include "support/attention.h"

static bool runs_ahead(const device *d)
{
    const stm_backend *b = d->backend;
    const bool rows[] = {b->host_room,     b->mark,       b->wait_mark, b->has_passed_mark, b->begin_recording,
                         b->end_recording, b->can_replay, b->replay,    b->advance};
    for (size_t i = 1; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(rows[i], rows[0]);
    return rows[0];
}

static void on_every_kind(void (*test)(device *d))
{
    for (size_t i = 0; i < 3; i += device_kind_step()) {
        device d;
        device_open(&d, backend_under_test(), device_kinds[i].real_bytes, device_kinds[i].n_threads);
        assert_int_equal(runs_ahead(&d), strcmp(d.backend->name, "cpu") != 0);
        if (runs_ahead(&d))
            test(&d);
        device_close(&d);
    }
}

static void on_every_precision(void (*test)(device *d))
{
    device d;
    const char *why;
    on_every_kind(test);
    if (!device_open_bf16(&d, 1, &why))
        return;
    if (runs_ahead(&d))
        test(&d);
    device_close(&d);
}

/* Recordings */

enum { N = 300 };

static void assert_holds(device *d, const void *reals, double expected)
{
    double found[N];
    device_read(d, reals, found, N);
    for (size_t i = 0; i < N; i++)
        assert_near(found[i], expected, 1e-6);
}

static void *filled(device *d, double value)
{
    double x[N];
    for (size_t i = 0; i < N; i++)
        x[i] = value;
    return device_reals(d, x, N);
}

static void record_sums(device *d, const void *const *x, size_t n, void *y)
{
    assert_ok(d->backend->begin_recording(d->stream));
    for (size_t i = 0; i < n; i++)
        assert_ok(d->backend->add(d->stream, N, x[i], y));
    assert_ok(d->backend->end_recording(d->stream, 0));
}

static void replay_sums(device *d)
{
    const stm_backend *b = d->backend;
    void *const x[] = {filled(d, 1), filled(d, 10), filled(d, 100)}, *y = filled(d, 0);
    record_sums(d, (const void *const[]){x[0], x[1]}, 2, y);
    assert_holds(d, y, 0);
    for (int i = 0; i < 3; i++)
        assert_ok(b->replay(d->stream, 0));
    assert_holds(d, y, 33);
    assert_ok(b->copy(d->stream, x[1], x[2], N * b->real_bytes)); /* what arguments point to is read by the replay */
    assert_ok(b->replay(d->stream, 0));
    assert_holds(d, y, 134);

    record_sums(d, (const void *const[]){x[0], x[0]}, 2, y); /* the same work of other arguments */
    assert_ok(b->replay(d->stream, 0));
    assert_holds(d, y, 136);
    record_sums(d, (const void *const[]){x[0], x[0], x[2]}, 3, y); /* other work */
    assert_ok(b->replay(d->stream, 0));
    record_sums(d, (const void *const[]){x[2]}, 1, y); /* a replay that is queued stays what it was */
    assert_holds(d, y, 238);
}

static void recorded_work_runs_when_it_is_replayed(void **state)
{
    (void)state;
    on_every_kind(replay_sums);
}

/* Each of its own number, whose scratch another may have outgrown. */
static void replay_by_number(device *d)
{
    const stm_backend *b = d->backend;
    void *const x[] = {filled(d, 1), filled(d, 10)}, *y = filled(d, 0), *db = filled(d, 0);
    const stm_bias bias = {.n_rows = 3, .width = N / 3, .stride = N / 3, .dy = x[0], .db = db};
    stm_bias wide = bias;
    wide.n_rows = 1;
    wide.width = wide.stride = N;
    assert_false(b->can_replay(d->stream, 2));
    for (size_t i = 0; i < 2; i++) {
        assert_ok(b->begin_recording(d->stream));
        assert_ok(b->add(d->stream, N, x[i], y));
        assert_ok(b->end_recording(d->stream, 2 + i));
    }
    for (size_t i = 0; i < 5; i++)
        assert_ok(b->replay(d->stream, 2 + i % 2));
    assert_holds(d, y, 23);
    assert_ok(b->bias_backward(d->stream, &bias));
    assert_ok(b->begin_recording(d->stream));
    assert_ok(b->bias_backward(d->stream, &bias));
    assert_ok(b->end_recording(d->stream, 2));
    assert_true(b->can_replay(d->stream, 2));
    assert_ok(b->bias_backward(d->stream, &wide));
    assert_false(b->can_replay(d->stream, 2));
    assert_false(b->can_replay(d->stream, STM_RECORDINGS - 1));
}

static void recordings_have_numbers(void **state)
{
    (void)state;
    on_every_kind(replay_by_number);
}

static void spoil_recordings(device *d)
{
    const stm_backend *b = d->backend;
    void *const x = filled(d, 1), *y = filled(d, 0);
    double number;
    void *memory;
    assert_fails(b->replay(d->stream, 0), STM_ERR_DEVICE, "nothing is recorded");
    for (int way = 0; way < 5; way++) {
        record_sums(d, (const void *const[]){x}, 1, y);
        assert_ok(b->begin_recording(d->stream));
        assert_ok(b->add(d->stream, N, x, y));
        if (way == 0)
            assert_fails(b->synchronize(d->stream), STM_ERR_DEVICE, "captur");
        else if (way == 1)
            assert_fails(b->read(d->stream, &number, y, b->real_bytes), STM_ERR_DEVICE, "captur");
        else if (way == 2)
            assert_fails(b->alloc(d->stream, 100, &memory), STM_ERR_DEVICE, "captur");
        else if (way == 3)
            assert_fails(b->wait_mark(d->stream, 0), STM_ERR_DEVICE, "captur");
        else
            assert_fails(b->host_room(d->stream, (size_t)1 << 20, &memory), STM_ERR_DEVICE, "captur");
        assert_fails(b->end_recording(d->stream, 0), STM_ERR_DEVICE, "a recording");
        assert_fails(b->replay(d->stream, 0), STM_ERR_DEVICE, "nothing is recorded");
    }
    record_sums(d, (const void *const[]){x}, 1, y);
    assert_ok(b->replay(d->stream, 0));
    assert_holds(d, y, 1);
}

static void what_waits_or_takes_memory_spoils_a_recording(void **state)
{
    (void)state;
    if (!device_is_emulated()) /* a GPU's runtime must not be left with what it calls misuse */
        return;
    on_every_kind(spoil_recordings);
}

static void outgrow_scratch(device *d)
{
    const stm_backend *b = d->backend;
    void *const dy = filled(d, 1), *db = filled(d, 0);
    stm_bias bias = {.n_rows = 3, .width = N / 3, .stride = N / 3, .dy = dy, .db = db};
    assert_ok(b->begin_recording(d->stream));
    assert_fails(b->bias_backward(d->stream, &bias), STM_ERR_DEVICE, "expected its work to have run once before");
    (void)b->end_recording(d->stream, 0);

    assert_ok(b->bias_backward(d->stream, &bias));
    assert_ok(b->begin_recording(d->stream));
    assert_ok(b->bias_backward(d->stream, &bias));
    assert_ok(b->end_recording(d->stream, 0));
    assert_ok(b->replay(d->stream, 0));
    double found[N / 3];
    device_read(d, db, found, N / 3);
    assert_near(found[7], 6, 1e-6);

    bias.n_rows = 1;
    bias.width = bias.stride = N;
    assert_ok(b->bias_backward(d->stream, &bias));
    assert_fails(b->replay(d->stream, 0), STM_ERR_DEVICE, "the scratch has moved");
}

static void a_recording_refuses_a_scratch_that_is_not_there(void **state)
{
    (void)state;
    on_every_kind(outgrow_scratch);
}

/* Marks */

static double number_at(const stm_backend *b, const char *reals, size_t i)
{
    float narrow;
    double wide;
    memcpy(b->real_bytes == 4 ? (void *)&narrow : (void *)&wide, reals + i * b->real_bytes, b->real_bytes);
    return b->real_bytes == 4 ? (double)narrow : wide;
}

static void run_past_marks(device *d)
{
    const stm_backend *b = d->backend;
    void *const x = filled(d, 1), *y = filled(d, 0);
    const size_t bytes = N * b->real_bytes;
    char *room;
    assert_ok(b->host_room(d->stream, 4 * bytes, &room));
    memset(room, 0, 4 * bytes);
    for (size_t i = 0; i < 4; i++) {
        assert_ok(b->add(d->stream, N, x, y));
        assert_ok(b->copy(d->stream, room + i * bytes, y, bytes));
        assert_ok(b->mark(d->stream, i));
    }
    for (size_t i = 0; i < 4; i++) {
        assert_ok(b->wait_mark(d->stream, i));
        for (size_t j = 0; j < N; j++)
            assert_near(number_at(b, room + i * bytes, j), (double)i + 1, 1e-6);
        bool passed = false;
        assert_ok(b->has_passed_mark(d->stream, i, &passed));
        assert_true(passed);
        if (i + 1 < 4 && device_is_emulated()) /* and what comes later has not been waited for */
            assert_true(room[(i + 2) * bytes - 1] == 0);
    }
    void *larger;
    assert_ok(b->host_room(d->stream, 9 * bytes, &larger));
    memset(larger, 7, 9 * bytes);
}

static void a_mark_is_waited_for_and_nothing_behind_it(void **state)
{
    (void)state;
    on_every_kind(run_past_marks);
}

/* Rows of decoding */

static void advance_rows(device *d)
{
    enum { ROWS = 400, AHEAD = 3, ROUNDS = 3 };
    const stm_backend *b = d->backend;
    int32_t from[ROWS], turns[ROWS], positions[ROWS], lengths[ROWS], sampled[2 * ROWS], found[ROWS];
    double *uniforms = random_numbers(1, ROWS * AHEAD), numbers[ROWS];
    for (int32_t r = 0; r < ROWS; r++) {
        from[r] = r % 5 == 4 ? -1 - (7 * r) : 2 * r; /* every fifth begins; the others stood further back */
        turns[r] = 0;
        positions[r] = 1000 + r;
        lengths[r] = r % 5 == 4 ? -1 : r;
    }
    for (int32_t r = 0; r < 2 * ROWS; r++)
        sampled[r] = 3 * r;
    stm_advance a = {.n_rows = ROWS,
                     .n_ahead = AHEAD,
                     .sampled = device_bytes(d, sampled, sizeof sampled),
                     .uniforms = device_bytes(d, uniforms, ROWS * AHEAD * sizeof *uniforms),
                     .from = device_bytes(d, from, sizeof from),
                     .turns = device_bytes(d, turns, sizeof turns),
                     .ids = device_bytes(d, sampled, sizeof from),
                     .positions = device_bytes(d, positions, sizeof from),
                     .lengths = device_bytes(d, lengths, sizeof from),
                     .uniform = device_bytes(d, uniforms, ROWS * sizeof *uniforms)};
    for (int32_t round = 0; round < ROUNDS; round++) {
        assert_ok(b->advance(d->stream, &a));
        assert_ok(b->read(d->stream, found, a.ids, sizeof found));
        for (int32_t r = 0; r < ROWS; r++)
            assert_int_equal(found[r], round > 0 ? 3 * r : r % 5 == 4 ? 7 * r : 6 * r);
        assert_ok(b->read(d->stream, found, a.positions, sizeof found));
        for (int32_t r = 0; r < ROWS; r++)
            assert_int_equal(found[r], 1001 + r + round);
        assert_ok(b->read(d->stream, found, a.lengths, sizeof found));
        for (int32_t r = 0; r < ROWS; r++)
            assert_int_equal(found[r], (r % 5 == 4 ? 0 : r + 1) + round);
        assert_ok(b->read(d->stream, numbers, a.uniform, sizeof numbers));
        for (int32_t r = 0; r < ROWS; r++)
            assert_true(numbers[r] == uniforms[r * AHEAD + round]);
    }
    free(uniforms);
}

static void rows_go_on_with_their_own_ids_and_numbers(void **state)
{
    (void)state;
    on_every_kind(advance_rows);
}

/* Attention */

/* Rows of two prompts, which have keys of their own that the device counts: all of them, or all but one. */
static attention decode_round(void)
{
    attention p = {9, 6, 2, 32, .kv_stride = 140, .n_sources = 11, .n_parts = 11};
    p.parts[0] = (part_shape){.n_rows = 5, .n_keys = 130, .source = 9};
    p.parts[1] = (part_shape){.first_row = 5, .n_rows = 4, .n_keys = 63, .source = 10};
    for (size_t r = 0; r < 9; r++)
        p.parts[r + 2] = (part_shape){.first_row = r, .n_rows = 1, .n_keys = 1 + 17 * r, .source = r};
    attention_fill(&p, true);
    return p;
}

static void assert_grown_parts_agree(device *d)
{
    attention p = decode_round();
    const size_t n_q = attention_n_q(&p), n_lse = p.n_rows * p.n_heads;
    attention_answer listed = attention_found(d, &p, false);
    p.on_device = true;
    for (size_t i = 2; i < p.n_parts; i++)
        p.grown[i] = p.parts[i].n_keys - i % 2;
    attention_answer counted = attention_found(d, &p, false);
    assert_memory_equal(listed.o, counted.o, n_q * sizeof(double));
    assert_memory_equal(listed.lse, counted.lse, n_lse * sizeof(double));
    attention_discard(&listed), attention_discard(&counted);
    attention_empty(&p);
}

static void keys_that_the_device_counts_are_as_those_of_a_list(void **state)
{
    (void)state;
    on_every_precision(assert_grown_parts_agree);
}

/* One row and its keys, as many as `lengths` says. */
static void replay_growing_attention(device *d)
{
    enum { DIM = 16, MOST = 80 };
    const stm_backend *b = d->backend;
    double *numbers = random_numbers(1, MOST * DIM), listed[DIM], counted[DIM];
    int32_t length = 5;
    int32_t *const lengths = device_bytes(d, &length, sizeof length);
    stm_attend_part part = {.n_rows = 1, .n_keys = 1, .kv_stride = MOST, .grown = lengths, .most_grown = MOST - 1};
    part.k = part.v = device_reals(d, numbers, MOST * DIM);
    const stm_attend growing = {.n_rows = 1,
                                .n_heads = 1,
                                .n_kv_heads = 1,
                                .head_dim = DIM,
                                .scale = 1,
                                .q = device_reals(d, numbers, DIM),
                                .n_parts = 1,
                                .parts = &part,
                                .device_parts = device_bytes(d, &part, sizeof part),
                                .o = device_reals(d, NULL, DIM),
                                .lse = device_reals(d, NULL, 1)};
    stm_attend still = growing;
    stm_attend_part all = part;
    still.parts = &all;
    still.device_parts = NULL;
    all.grown = NULL;
    all.n_keys = MOST;
    assert_ok(b->attend(d->stream, &still)); /* also takes the scratch of a list */
    assert_ok(b->begin_recording(d->stream));
    assert_ok(b->attend(d->stream, &growing));
    assert_ok(b->end_recording(d->stream, 0));
    for (; length < MOST; length += 37) {
        assert_ok(b->write(d->stream, lengths, &length, sizeof length));
        assert_ok(b->replay(d->stream, 0));
        device_read(d, growing.o, counted, DIM);
        all.n_keys = (size_t)length + 1;
        assert_ok(b->attend(d->stream, &still));
        device_read(d, still.o, listed, DIM);
        assert_memory_equal(counted, listed, sizeof listed);
    }
    free(numbers);
}

static void a_replay_meets_the_keys_of_its_time(void **state)
{
    (void)state;
    on_every_precision(replay_growing_attention);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recorded_work_runs_when_it_is_replayed),
        cmocka_unit_test(recordings_have_numbers),
        cmocka_unit_test(what_waits_or_takes_memory_spoils_a_recording),
        cmocka_unit_test(a_recording_refuses_a_scratch_that_is_not_there),
        cmocka_unit_test(a_mark_is_waited_for_and_nothing_behind_it),
        cmocka_unit_test(rows_go_on_with_their_own_ids_and_numbers),
        cmocka_unit_test(keys_that_the_device_counts_are_as_those_of_a_list),
        cmocka_unit_test(a_replay_meets_the_keys_of_its_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
