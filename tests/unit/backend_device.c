/* What a device with memory of its own does besides (stm_apart): memory where an array is asked for it, and a second
 * queue for messages, whose work comes after what it was told to follow. Other backends have no such rows. */
#include <string.h>

#include "group/device_reach.h"
#include "group/engine.h"
#include "model/layout.h"
#include "model/stages.h"
#include "rollout/decode.h"
#include "rollout/draw.h"
#include "support/device.h"
#include "support/model.h"
#include "train/optimizer.h"
#include "train/parameter_set.h"

enum { N = 5000, MIB = 1 << 20 };

static bool has_device(device *d, size_t real_bytes)
{
    stm_device described;
    device_open(d, backend_under_test(), real_bytes, 1);
    d->backend->describe(d->stream, &described);
    assert_true((d->backend->apart != NULL) == (described.bytes > 0));
    assert_true((d->backend->apart != NULL) == (described.name[0] != '\0' && described.id[0] != '\0'));
    return d->backend->apart != NULL;
}

static void write_number(device *d, void *at, double x)
{
    assert_ok(d->backend->write(d->stream, at, &x, sizeof x));
}

static double number_at(device *d, const void *at)
{
    double x;
    assert_ok(d->backend->read(d->stream, &x, at, sizeof x));
    return x;
}

/* Ranges in any order, that share what the device gives at once; then more, piece by piece, over some that is there. */
static void reserved_arrays_hold_what_is_written(void **state)
{
    (void)state;
    device d;
    const size_t bytes = (size_t)64 * MIB + 24;
    const stm_byte_range ranges[] = {{40 * MIB + 8, 3 * MIB}, {0, 100}, {4000, 0}, {200, MIB}, {bytes - 8, 8}};
    const size_t at[] = {0, 92, 200, 200 + MIB - 8, 40 * MIB + 8, 43 * MIB, bytes - 8, 30 * MIB, 45 * MIB, 50 * MIB};
    char *array;
    if (has_device(&d, sizeof(double))) {
        assert_ok(d.backend->reserve(d.stream, bytes, ranges, sizeof ranges / sizeof *ranges, &array));
        for (size_t i = 0; i < 7; i++)
            write_number(&d, array + at[i], (double)i);
        assert_ok(d.backend->apart->commit(d.stream, array, 30 * MIB, 45 * MIB));
        assert_ok(d.backend->apart->commit(d.stream, array, 44 * MIB, 51 * MIB));
        for (size_t i = 7; i < sizeof at / sizeof *at; i++)
            write_number(&d, array + at[i], (double)i);
        for (size_t i = 0; i < sizeof at / sizeof *at; i++)
            assert_true(number_at(&d, array + at[i]) == (double)i);
        d.backend->unreserve(d.stream, array, bytes);
    }
    device_close(&d);
}

/* The copy to the host is of what the first queue's work leaves. */
static void messages_follow_what_was_computed(void **state)
{
    (void)state;
    device d;
    stm_stream *beside;
    double x[N], *host;
    uint64_t first, second;
    bool passed = false;
    for (size_t i = 0; i < N; i++)
        x[i] = (double)i;
    if (has_device(&d, sizeof(double))) {
        const stm_apart *rows = d.backend->apart;
        double *a = device_reals(&d, x, N), *b = device_reals(&d, x, N), *c = device_reals(&d, NULL, N);
        assert_ok(rows->open_beside(d.stream, &beside));
        assert_ok(rows->alloc_host(d.stream, sizeof x, &host));
        for (int times = 0; times < 3; times++)
            assert_ok(d.backend->add(d.stream, N, a, b));
        assert_ok(rows->follow(beside, d.stream));
        assert_ok(d.backend->copy(beside, host, b, sizeof x));
        assert_ok(rows->note(beside, &first));
        assert_ok(d.backend->copy(beside, c, host, sizeof x));
        assert_ok(rows->note(beside, &second));
        assert_true(second > first);
        while (!passed)
            assert_ok(rows->has_passed(beside, second, &passed));
        for (size_t i = 0; i < N; i++)
            assert_true(host[i] == 4 * x[i]);
        device_read(&d, c, x, N);
        for (size_t i = 0; i < N; i++)
            assert_true(x[i] == 4.0 * (double)i);
        for (int i = 0; i < 1000; i++) /* more than a device keeps in mind */
            assert_ok(rows->note(beside, &first));
        assert_ok(d.backend->synchronize(beside));
        assert_ok(rows->has_passed(beside, first, &passed));
        assert_true(passed);
        rows->free_host(d.stream, host);
        d.backend->close(beside);
    }
    device_close(&d);
}

/* Numbers whose sum depends on the order; float's is formed in double. The sum may take the place of the first part. */
static void sums_are_in_the_order_of_their_parts(void **state)
{
    (void)state;
    enum { PARTS = 5 };
    for (size_t real_bytes = sizeof(float); real_bytes <= sizeof(double); real_bytes *= 2) {
        device d;
        double *x = random_numbers(7, PARTS * N), sums[N], again[N];
        for (size_t i = 0; i < PARTS * N; i++)
            x[i] = i % 3 == 0 ? (float)(x[i] * 1e9) : (float)x[i];
        if (has_device(&d, real_bytes)) {
            void *parts = device_reals(&d, x, PARTS * N), *sum = device_reals(&d, NULL, N);
            assert_ok(d.backend->apart->add_in_order(d.stream, PARTS, N, parts, sum));
            assert_ok(d.backend->apart->add_in_order(d.stream, PARTS, N, parts, parts));
            device_read(&d, sum, sums, N);
            device_read(&d, parts, again, N);
            for (size_t i = 0; i < N; i++) {
                double expected = 0;
                for (size_t p = 0; p < PARTS; p++)
                    expected += x[p * N + i];
                assert_true(sums[i] == (real_bytes == sizeof(float) ? (double)(float)expected : expected));
                assert_true(again[i] == sums[i]);
            }
        }
        free(x);
        device_close(&d);
    }
}

/* The host's memory for messages: of the team's, of the gradient's sums and of new weights, and of another's weights.
 */
static void memory_for_messages_is_planned(void **state)
{
    (void)state;
    device d;
    const bool apart = has_device(&d, sizeof(double));
    const size_t of_one = stm_device_reach_courier_bytes(d.backend);
    assert_true(apart ? of_one >= 2 * d.backend->apart->piece_bytes : of_one == 0);
    stm_model model, *on_host;
    assert_ok(stm_model_lay_out(&stm_test_configs[STM_TEST_LLAMA], &on_host));
    on_host->backend = &stm_backend_cpu_f64;
    model = *on_host;
    model.backend = d.backend;
    assert_int_equal(stm_engine_process_bytes(&model), stm_engine_process_bytes(on_host) + of_one);
    stm_model_hold_stage(&model, 2, 1); /* which sends along its column, too */
    stm_model_hold_stage(on_host, 2, 1);
    assert_int_equal(stm_engine_process_bytes(&model), stm_engine_process_bytes(on_host) + 2 * of_one);
    stm_model_hold_stage(&model, 1, 0);
    stm_model_hold_stage(on_host, 1, 0);
    for (stm_shard shard = STM_SHARD_OPTIMIZER; shard <= STM_SHARD_GRADIENT; shard++) {
        assert_int_equal(stm_optimizer_bytes(&model, 3, shard), stm_optimizer_bytes(on_host, 3, shard) + 2 * of_one);
        assert_int_equal(stm_optimizer_bytes(&model, 1, shard), stm_optimizer_bytes(on_host, 1, shard));
    }
    assert_int_equal(stm_parameter_set_bytes(&model, 3, 100), stm_parameter_set_bytes(on_host, 3, 100) + of_one);
    stm_model_destroy(on_host);
    device_close(&d);
}

/* A device takes more rows of logits at once, but not all, and keeps lists of what recorded rounds attend to: for each
 * of the rows, segments on its path and layers, one that is read, and one a round that is queued or a batch of a stage.
 */
static void memory_of_rounds_is_planned(void **state)
{
    (void)state;
    device d;
    const bool apart = has_device(&d, sizeof(double));
    stm_model model, *on_host;
    stm_sampling sampling = {.max_new_tokens = 10, .rounds_ahead = 3};
    stm_model_config config = stm_test_configs[STM_TEST_LLAMA];
    config.vocab_size = 150000;
    config.n_layers = 4;
    assert_ok(stm_model_lay_out(&config, &on_host));
    on_host->backend = &stm_backend_cpu_f64;
    model = *on_host;
    model.backend = d.backend;
    const size_t row = config.vocab_size * sizeof(double);
    for (size_t rows = 16; rows <= 512; rows *= 2) {
        const size_t beside = rows * config.hidden_size * sizeof(double);
        assert_int_equal(stm_draw_bytes(on_host, rows), STM_MIN(rows, (size_t)27) * row + beside);
        assert_int_equal(stm_draw_bytes(&model, rows), STM_MIN(rows, (size_t)(apart ? 128 : 27)) * row + beside);
    }
    const size_t part = apart ? sizeof(stm_attend_part) : 0;
    assert_int_equal(stm_decode_bytes(&model, &sampling, 8, 1, false).a_segment, 5 * 8 * 4 * part);
    assert_int_equal(stm_decode_bytes(&model, &sampling, 8, 1, true).a_segment, 5 * 8 * 4 * part);
    assert_int_equal(stm_decode_bytes(on_host, &sampling, 8, 1, false).a_segment, 0);
    stm_model_hold_stage(&model, 2, 0); /* two batches of four rows; some of the layers */
    assert_int_equal(stm_decode_bytes(&model, &sampling, 8, 2, false).a_segment,
                     4 * 4 * (model.end_layer - model.first_layer) * part);
    sampling.rounds_ahead = 0;
    assert_int_equal(stm_decode_bytes(&model, &sampling, 8, 2, false).a_segment, 0);
    stm_model_destroy(on_host);
    device_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reserved_arrays_hold_what_is_written), cmocka_unit_test(messages_follow_what_was_computed),
        cmocka_unit_test(sums_are_in_the_order_of_their_parts), cmocka_unit_test(memory_for_messages_is_planned),
        cmocka_unit_test(memory_of_rounds_is_planned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
