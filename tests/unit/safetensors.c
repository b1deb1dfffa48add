/* Safetensors files: what is read and written, what is refused, and the number formats. */
#include "model/safetensors.h"
#include "base/random.h"
#include "support/folder.h"

#include <unistd.h>

static char *folder; /* one for the whole program */

static int make_folder(void **state)
{
    (void)state;
    folder = stm_test_folder_create();
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    stm_test_folder_remove(folder);
    return 0;
}

/* Writes "a.safetensors": length, header (' for "), data; returns its path. header_bytes 0: the header's own length. */
static const char *file_of(const char *header, uint64_t header_bytes, const void *data, size_t data_bytes)
{
    const char *path = stm_test_path(folder, "a.safetensors");
    const size_t n = strlen(header);
    char *bytes = calloc(1, sizeof header_bytes + n + data_bytes + 1);
    assert_non_null(bytes);
    if (header_bytes == 0)
        header_bytes = n;
    memcpy(bytes, &header_bytes, sizeof header_bytes);
    for (size_t i = 0; i < n; i++)
        bytes[sizeof header_bytes + i] = header[i] == '\'' ? '"' : header[i];
    memcpy(bytes + sizeof header_bytes + n, data, data_bytes);
    stm_test_write(path, bytes, sizeof header_bytes + n + data_bytes);
    free(bytes);
    return path;
}

static void tensors_are_found_with_shape_and_data(void **state)
{
    (void)state;
    const float numbers[] = {1, -2, 3.5f, 0x1p-149f, -0.0f, 6, 7};
    const char *header = "{'__metadata__': {'format': 'pt'}, 'b': {'dtype': 'F32', 'shape': [], 'data_offsets': [24, "
                         "28]}, 'a': {'dtype': 'F32', 'shape': [2, 3], 'data_offsets': [0, 24]}, 'none': {'dtype': "
                         "'BF16', 'shape': [0, 4], 'data_offsets': [28, 28]}}   ";
    stm_safetensors *file;
    assert_ok(stm_safetensors_open(file_of(header, 0, numbers, sizeof numbers), &file));
    assert_int_equal(file->n_tensors, 3);
    const stm_tensor *a = stm_safetensors_find(file, "a"), *b = stm_safetensors_find(file, "b");
    assert_true(a && b && !stm_safetensors_find(file, "c"));
    assert_ptr_equal(a, &file->tensors[0]); /* in order of place */
    assert_int_equal(a->n_dims, 2);
    assert_int_equal(a->shape[0], 2);
    assert_int_equal(a->shape[1], 3);
    assert_int_equal(a->n, 6);
    assert_int_equal(b->n_dims, 0);
    assert_int_equal(b->n, 1);
    assert_int_equal(stm_safetensors_find(file, "none")->n, 0);
    float part[3];
    assert_ok(stm_safetensors_read(file, a, 2, 3, sizeof *part, part));
    assert_memory_equal(part, numbers + 2, sizeof part);
    double one;
    assert_ok(stm_safetensors_read(file, b, 0, 1, sizeof one, &one));
    assert_true(one == 7);
    stm_safetensors_close(file);

    assert_ok(stm_safetensors_open(file_of("{}", 0, "", 0), &file));
    assert_int_equal(file->n_tensors, 0);
    stm_safetensors_close(file);
}

#define ONE(dtype, shape, offsets) "{'a': {'dtype': '" dtype "', 'shape': " shape ", 'data_offsets': " offsets "}}"
#define TWO(first, second)                                                                                             \
    "{'a': {'dtype': 'F32', 'shape': [2], 'data_offsets': " first "}, 'b': {'dtype': 'F32', 'shape': [2], "            \
    "'data_offsets': " second "}}"

static void damaged_files_are_refused_by_name(void **state)
{
    (void)state;
    const struct {
        const char *header;
        uint64_t header_bytes;
        size_t data_bytes;
        const char *words;
    } cases[] = {
        {"{}", 3, 0, "a.safetensors: found a header of 3 bytes in a file of 10: cut short, or not a safetensors file"},
        {"{}", UINT64_MAX, 0, "found a header of 18446744073709551615 bytes in a file of 10"},
        {"{", 0, 0, "a.safetensors: its header is not a JSON object"},
        {"[]", 0, 0, "its header is not a JSON object: found another value"},
        {"{'a': {}, 'a': {}}", 0, 0, "its header is not a JSON object: duplicate object key"},
        {"{'a': 1}", 0, 0, "a.safetensors: a: dtype: found none, expected a type such as F32 or BF16"},
        {ONE("Q4", "[1]", "[0, 4]"), 0, 4, "a: dtype: found Q4, expected a type such as F32"},
        {ONE("F32", "1", "[0, 4]"), 0, 4, "a: shape: expected an array of at most 8 sizes"},
        {ONE("F32", "[1,1,1,1,1,1,1,1,1]", "[0, 4]"), 0, 4, "a: shape: expected an array of at most 8 sizes"},
        {ONE("F32", "[-1]", "[0, 4]"), 0, 4, "a: shape: expected sizes of 0 or more"},
        {ONE("F32", "[1.0]", "[0, 4]"), 0, 4, "a: shape: expected sizes of 0 or more"},
        {ONE("F32", "[4294967296, 4294967297]", "[0, 4]"), 0, 4, "a: shape: more elements than memory can hold"},
        {ONE("F32", "[4611686018427387905]", "[0, 4]"), 0, 4, "a: data_offsets: found 4 bytes, expected those of"},
        {ONE("F32", "[1]", "[0]"), 0, 4, "a: data_offsets: expected two integers"},
        {ONE("F32", "[1]", "[0, 4.0]"), 0, 4, "a: data_offsets: expected two integers"},
        {ONE("F32", "[1]", "[0, 8]"), 0, 4, "a: data_offsets: found [0, 8], but the file has 4 bytes of data"},
        {ONE("F32", "[1]", "[4, 0]"), 0, 4, "a: data_offsets: found [4, 0], but the file has 4 bytes of data"},
        {ONE("F32", "[1]", "[-4, 0]"), 0, 4, "a: data_offsets: found [-4, 0]"},
        {ONE("F32", "[2, 3]", "[0, 4]"), 0, 4, "a: data_offsets: found 4 bytes, expected those of shape [2, 3] in F32"},
        {TWO("[0, 8]", "[4, 12]"), 0, 12, "b: data_offsets: found a start at byte 4, expected 8"},
        {TWO("[0, 8]", "[0, 8]"), 0, 8, "data_offsets: found a start at byte 0, expected 8"},
        {TWO("[0, 8]", "[12, 20]"), 0, 20, "b: data_offsets: found a start at byte 12, expected 8"},
        {TWO("[0, 8]", "[8, 16]"), 0, 20, "a.safetensors: found 20 bytes of data, expected 16 by its header"},
        {TWO("[0, 8]", "[8, 16]"), 0, 15, "data_offsets: found [8, 16], but the file has 15 bytes of data"},
    };
    const char zeros[32] = {0};
    stm_safetensors *file;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_fails(
            stm_safetensors_open(file_of(cases[i].header, cases[i].header_bytes, zeros, cases[i].data_bytes), &file),
            STM_ERR_INPUT, cases[i].words);
    const char *path = stm_test_path(folder, "a.safetensors");
    stm_test_write(path, "1234567", 7);
    assert_fails(stm_safetensors_open(path, &file), STM_ERR_INPUT, "found 7 bytes, expected a safetensors file");
    stm_test_write(path, "", 0);
    assert_fails(stm_safetensors_open(path, &file), STM_ERR_INPUT, "found 0 bytes, expected a safetensors file");
    assert_fails(stm_safetensors_open(folder, &file), STM_ERR_INPUT, "found no regular file");
    assert_fails(stm_safetensors_open(stm_test_path(folder, "absent"), &file), STM_ERR_INPUT,
                 "absent: cannot be read: No such file");
}

static void numbers_that_are_not_finite_are_refused_by_place(void **state)
{
    (void)state;
    const float numbers[] = {1, 2, 3, NAN};
    const double wide[] = {1e300, 1};
    stm_safetensors *file;
    float floats[4];
    double doubles[4];
    assert_ok(stm_safetensors_open(file_of(ONE("F32", "[4]", "[0, 16]"), 0, numbers, sizeof numbers), &file));
    assert_ok(stm_safetensors_read(file, file->tensors, 0, 3, 4, floats));
    assert_fails(stm_safetensors_read(file, file->tensors, 1, 3, 4, floats), STM_ERR_INPUT,
                 "a.safetensors: a: element 3: found nan, expected a finite number");
    assert_fails(stm_safetensors_read(file, file->tensors, 0, 4, 8, doubles), STM_ERR_INPUT, "a: element 3: found nan");
    stm_safetensors_close(file);
    assert_ok(stm_safetensors_open(file_of(ONE("F64", "[2]", "[0, 16]"), 0, wide, sizeof wide), &file));
    assert_ok(stm_safetensors_read(file, file->tensors, 0, 2, 8, doubles));
    assert_true(doubles[0] == 1e300);
    assert_fails(stm_safetensors_read(file, file->tensors, 0, 2, 4, floats), STM_ERR_INPUT, "a: element 0: found inf");
    stm_safetensors_close(file);
    assert_ok(stm_safetensors_open(file_of(ONE("I64", "[2]", "[0, 16]"), 0, wide, sizeof wide), &file));
    assert_fails(stm_safetensors_read(file, file->tensors, 0, 2, 4, floats), STM_ERR_INPUT,
                 "a: dtype: found I64, expected F32, BF16, F16 or F64");
    stm_safetensors_close(file);
}

/* The value of a binary format: 1 sign bit, `exponent_bits`, `mantissa_bits`. */
static double value_of(uint32_t bits, int exponent_bits, int mantissa_bits)
{
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const int exponent = (int)(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
    const double mantissa = bits & ((1u << mantissa_bits) - 1);
    const double sign = bits >> (exponent_bits + mantissa_bits) & 1 ? -1 : 1;
    if (exponent == (1 << exponent_bits) - 1)
        return mantissa != 0 ? NAN : sign * INFINITY;
    if (exponent == 0)
        return sign * ldexp(mantissa, 1 - bias - mantissa_bits);
    return sign * ldexp(mantissa + ldexp(1, mantissa_bits), exponent - bias - mantissa_bits);
}

static void every_number_of_16_bits_is_widened_exactly(void **state)
{
    (void)state;
    static uint16_t all[1 << 16];
    static float floats[1 << 16];
    static double doubles[1 << 16];
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        all[i] = (uint16_t)i;
    for (size_t half = 0; half < 2; half++) {
        stm_dtype_to_float(half ? STM_F16 : STM_BF16, all, 1 << 16, floats);
        stm_dtype_to_double(half ? STM_F16 : STM_BF16, all, 1 << 16, doubles);
        for (uint32_t i = 0; i < 1 << 16; i++) {
            const double expected = half ? value_of(i, 5, 10) : value_of(i, 8, 7);
            assert_true(isnan(expected) ? isnan(doubles[i]) && isnan(floats[i])
                                        : doubles[i] == expected && (double)floats[i] == expected &&
                                              signbit(doubles[i]) == signbit(expected));
        }
    }
}

/* Rounds x to bfloat16 by trying the two neighbours; ties go to the even one. x: normal. */
static double nearest_bfloat16(double x)
{
    int exponent;
    const double mantissa = frexp(x, &exponent), scaled = ldexp(mantissa, 8); /* [128, 256) */
    const double below = floor(scaled), above = below + 1;
    const double rounded = scaled - below < above - scaled   ? below
                           : scaled - below > above - scaled ? above
                           : fmod(below, 2) == 0             ? below
                                                             : above;
    return ldexp(rounded, exponent - 8);
}

static void narrowing_to_bfloat16_rounds_once_to_nearest_even(void **state)
{
    (void)state;
    double wide[4096];
    uint16_t narrow[4096];
    double back[4096];
    for (size_t i = 0; i < 4096; i++) {
        const stm_random_key key = {.seed = 5, .use = STM_RANDOM_INIT, .token = (uint32_t)i};
        const double near = nearest_bfloat16(stm_random_normal(&key));
        int exponent;
        frexp(near, &exponent);
        /* Ties, and numbers just beside a tie that a first rounding to float would turn into one. */
        wide[i] = near + ldexp(i % 2 ? 0.5 : -0.5, exponent - 8) + ldexp((double)(i % 3) - 1, exponent - 40);
    }
    stm_dtype_from_real(STM_BF16, wide, 8, 4096, narrow);
    stm_dtype_to_double(STM_BF16, narrow, 4096, back);
    for (size_t i = 0; i < 4096; i++)
        assert_true(back[i] == nearest_bfloat16(wide[i]));
    float floats[4096];
    for (size_t i = 0; i < 4096; i++)
        floats[i] = (float)wide[i];
    stm_dtype_from_real(STM_BF16, floats, 4, 4096, narrow);
    stm_dtype_to_double(STM_BF16, narrow, 4096, back);
    for (size_t i = 0; i < 4096; i++)
        assert_true(back[i] == nearest_bfloat16((double)floats[i]));
}

static stm_tensor tensor_of(char *name, size_t n_rows, size_t n_columns)
{
    return (stm_tensor){.name = name, .n_dims = 2, .shape = {n_rows, n_columns}, .n = n_rows * n_columns};
}

static void what_is_written_is_read_back(void **state)
{
    (void)state;
    enum { N_A = 333 * 127, N = N_A + 5 };
    char a[] = "first", b[] = "quote \" and snowman \xe2\x98\x83";
    const stm_tensor tensors[] = {tensor_of(a, 333, 127), tensor_of(b, 1, 5)};
    double *wide = calloc(N, sizeof *wide);
    float *read = calloc(N, sizeof *read);
    assert_true(wide && read);
    for (size_t i = 0; i < N; i++)
        wide[i] = (double)((float)i * 0.37f) - 900;
    const char *path = stm_test_path(folder, "b.safetensors");
    stm_safetensors_writer *writer;
    assert_ok(stm_safetensors_write_begin(path, tensors, 2, STM_F32, &writer));
    assert_ok(stm_safetensors_write(writer, wide, 8, 20000));
    assert_false(stm_test_exists(path)); /* not before it is whole */
    assert_ok(stm_safetensors_write(writer, wide + 20000, 8, N - 20000));
    assert_ok(stm_safetensors_write_finish(writer));

    stm_safetensors *file;
    assert_ok(stm_safetensors_open(path, &file));
    const stm_tensor *first = stm_safetensors_find(file, a), *second = stm_safetensors_find(file, b);
    assert_true(first && second);
    assert_int_equal(first->shape[1], 127);
    assert_int_equal((uintptr_t)first->data % 8, 0); /* the header is padded, and mappings start at pages */
    assert_ok(stm_safetensors_read(file, first, 0, N_A, 4, read));
    assert_ok(stm_safetensors_read(file, second, 0, 5, 4, read + N_A));
    for (size_t i = 0; i < N; i++)
        assert_true(read[i] == (float)wide[i]);
    stm_safetensors_close(file);
    free(wide);
    free(read);
    unlink(path);
}

static void a_file_that_is_not_completed_leaves_nothing(void **state)
{
    (void)state;
    char name[] = "a";
    const stm_tensor tensor = tensor_of(name, 2, 2);
    const float numbers[5] = {0};
    char *own = stm_test_folder_create();
    const char *path = stm_test_path(own, "c.safetensors");
    stm_safetensors_writer *writer;
    assert_ok(stm_safetensors_write_begin(path, &tensor, 1, STM_F32, &writer));
    assert_ok(stm_safetensors_write(writer, numbers, 4, 3));
    assert_fails(stm_safetensors_write(writer, numbers, 4, 2), STM_ERR_IO,
                 "c.safetensors: more elements than its header announces");
    assert_fails(stm_safetensors_write_finish(writer), STM_ERR_IO,
                 "c.safetensors: 1 elements fewer than its header announces");
    assert_int_equal(stm_test_count_files(own), 0);
    assert_ok(stm_safetensors_write_begin(path, &tensor, 1, STM_F32, &writer));
    stm_safetensors_write_abandon(writer);
    assert_int_equal(stm_test_count_files(own), 0);
    assert_fails(stm_safetensors_write_begin(stm_test_path(own, "no/c.safetensors"), &tensor, 1, STM_F32, &writer),
                 STM_ERR_IO, "no/c.safetensors.part: cannot be written: No such file or directory");
    stm_test_folder_remove(own);
}

/* Opens a file that may be anything, and reads all of it. */
static bool survives(const char *path)
{
    stm_safetensors *file;
    if (stm_safetensors_open(path, &file) != STM_OK) {
        assert_non_null(strstr(stm_failure(), "a.safetensors: "));
        return false;
    }
    float reals[64];
    for (size_t i = 0; i < file->n_tensors; i++) {
        const stm_tensor *tensor = &file->tensors[i];
        if (tensor->dtype != STM_OTHER && tensor->n <= 64)
            (void)stm_safetensors_read(file, tensor, 0, tensor->n, 4, reals);
    }
    stm_safetensors_close(file);
    return true;
}

/* Random edits of a good file: each is read or refused, never followed out of the file (the sanitizers would see). */
static void random_damage_is_read_or_refused(void **state)
{
    (void)state;
    const char good[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]},\"b\":{\"dtype\":\"BF16\","
                        "\"shape\":[4],\"data_offsets\":[16,24]}}";
    const char pieces[] = "0123456789-{}[],:\"ef \\u\xff";
    enum { N_HEADER = sizeof good - 1, N_FILE = 8 + N_HEADER + 24 };
    size_t n_read = 0;
    const uint64_t header_bytes = N_HEADER;
    for (uint32_t trial = 0; trial < 4000; trial++) {
        unsigned char bytes[N_FILE] = {0};
        memcpy(bytes, &header_bytes, 8);
        memcpy(bytes + 8, good, N_HEADER);
        const double n_edits = trial % 4 + 1;
        for (uint32_t e = 0; e < n_edits; e++) {
            const stm_random_key where = {.seed = 11, .use = STM_RANDOM_INIT, .slot = trial, .token = 2 * e};
            const stm_random_key what = {.seed = 11, .use = STM_RANDOM_INIT, .slot = trial, .token = 2 * e + 1};
            const size_t piece = (size_t)(stm_random_uniform(&what) * (sizeof pieces - 1));
            bytes[(size_t)(stm_random_uniform(&where) * (8 + N_HEADER))] = (unsigned char)pieces[piece];
        }
        const stm_random_key cut = {.seed = 12, .use = STM_RANDOM_INIT, .slot = trial};
        const size_t n = trial % 8 ? N_FILE : (size_t)(stm_random_uniform(&cut) * N_FILE);
        const char *path = stm_test_path(folder, "a.safetensors");
        stm_test_write(path, bytes, n);
        n_read += survives(path);
    }
    assert_in_range(n_read, 10, 3000); /* a letter of a name may change: not all of them are refused */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_are_found_with_shape_and_data),
        cmocka_unit_test(damaged_files_are_refused_by_name),
        cmocka_unit_test(numbers_that_are_not_finite_are_refused_by_place),
        cmocka_unit_test(every_number_of_16_bits_is_widened_exactly),
        cmocka_unit_test(narrowing_to_bfloat16_rounds_once_to_nearest_even),
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(a_file_that_is_not_completed_leaves_nothing),
        cmocka_unit_test(random_damage_is_read_or_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
