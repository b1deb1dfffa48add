#include "checkpoint/hashes.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "checkpoint/disk.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the table is little-endian");
_Static_assert(sizeof(stm_hash_row) == 32, "a row is four numbers");

static const char magic[] = "stemma checkpoint "; /* then the number of the format */
static const char *const kind_names[STM_CHECKPOINT_N_KINDS] = {
    "descriptions and texts", "/parameters",  "/optimizer/exp_avg",   "/optimizer/exp_avg_sq",
    "/copies/target",         "/copies/twin", "/copies/twin_exp_avg", "/copies/twin_exp_avg_sq"};

/* Feeds bytes [start, end) to the hash. */
static stm_status feed(XXH3_state_t *hash, int descriptor, const char *path, uint64_t start, uint64_t end, void *buffer)
{
    while (start < end) {
        const size_t n = (size_t)STM_MIN(end - start, (uint64_t)STM_BLOCK_BYTES);
        STM_TRY(stm_disk_read(descriptor, path, start, buffer, n));
        XXH3_64bits_update(hash, buffer, n);
        start += n;
    }
    return STM_OK;
}

/* The value of row 0: what is left between the other rows, which are in order, and the table. */
static stm_status hash_rest(const stm_hash_table *table, int descriptor, const char *path, void *buffer,
                            uint64_t *bytes, uint64_t *result)
{
    stm_status status = STM_OK;
    const uint64_t table_bytes = table->n_rows * sizeof *table->rows;
    bool table_passed = false, ended = false;
    XXH3_state_t *hash = XXH3_createState();
    if (!hash)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    XXH3_64bits_reset(hash);
    uint64_t at = STM_FIRST_BYTES;
    *bytes = 0;
    for (size_t i = 1; !ended;) {
        uint64_t start = i < table->n_rows ? table->rows[i].offset : table->file_bytes;
        uint64_t length = i < table->n_rows ? table->rows[i].bytes : 0;
        if (!table_passed && table->table_offset <= start) {
            start = table->table_offset;
            length = table_bytes;
            table_passed = true;
        } else if (i < table->n_rows) {
            i++;
        } else {
            ended = true;
        }
        STM_GOTO_OUT(feed(hash, descriptor, path, at, start, buffer));
        *bytes += start - at;
        at = start + length;
    }
    *result = XXH3_64bits_digest(hash);
out:
    XXH3_freeState(hash);
    return status;
}

static int by_offset(const void *a, const void *b)
{
    const stm_hash_row *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* The lowest format that tells what the rows hold. */
static int format_for(const stm_hash_table *table)
{
    for (size_t i = 0; i < table->n_rows; i++)
        if (table->rows[i].kind >= STM_CHECKPOINT_COPIES)
            return 2;
    return 1;
}

stm_status stm_hashes_seal(stm_hash_table *table, int skeleton, int descriptor, const char *path, void *buffer)
{
    qsort(table->rows + 1, table->n_rows - 1, sizeof *table->rows, by_offset);
    table->rows[0] = (stm_hash_row){.kind = STM_CHECKPOINT_REST};
    STM_TRY(hash_rest(table, skeleton, path, buffer, &table->rows[0].bytes, &table->rows[0].hash));
    const size_t table_bytes = table->n_rows * sizeof *table->rows;
    STM_TRY(stm_disk_write(descriptor, path, table->table_offset, table->rows, table_bytes));

    char first[STM_FIRST_BYTES] = "";
    snprintf(first, sizeof first, "%s%d\nbytes %" PRIu64 "\ntable %" PRIu64 "\nrows %zu\nxxh3 %016" PRIx64 "\n", magic,
             format_for(table), table->file_bytes, table->table_offset, table->n_rows,
             stm_hash(table->rows, table_bytes));
    const uint64_t hash = stm_hash(first, sizeof first - sizeof hash);
    memcpy(first + sizeof first - sizeof hash, &hash, sizeof hash);
    return stm_disk_write(descriptor, path, 0, first, sizeof first);
}

/* The bytes before their hash end in a zero, so that they are a text. */
static bool is_sealed(const char first[STM_FIRST_BYTES])
{
    uint64_t hash;
    memcpy(&hash, first + STM_FIRST_BYTES - sizeof hash, sizeof hash);
    return hash == stm_hash(first, STM_FIRST_BYTES - sizeof hash) && first[STM_FIRST_BYTES - sizeof hash - 1] == 0;
}

/* The number behind the magic words; 0: none of ours. */
static int format_of(const char first[STM_FIRST_BYTES])
{
    int format = 0;
    const char *digit = first + sizeof magic - 1;
    if (memcmp(first, magic, sizeof magic - 1) != 0)
        return 0;
    for (int i = 0; i < 6 && *digit >= '0' && *digit <= '9'; i++)
        format = 10 * format + *digit++ - '0';
    return *digit == '\n' ? format : 0;
}

static bool read_first(const char *path, char *first, size_t n)
{
    int descriptor;
    if (stm_disk_open(path, false, &descriptor) != STM_OK)
        return false;
    const bool read = stm_disk_read(descriptor, path, 0, first, n) == STM_OK;
    stm_disk_close(descriptor);
    return read;
}

bool stm_checkpoint_is(const char *path)
{
    char first[sizeof magic - 1];
    return read_first(path, first, sizeof first) && memcmp(first, magic, sizeof first) == 0;
}

stm_status stm_hashes_refuse_newer(const char *path)
{
    char first[STM_FIRST_BYTES];
    if (!read_first(path, first, sizeof first) || !is_sealed(first) || format_of(first) <= STM_CHECKPOINT_FORMAT)
        return STM_OK;
    return stm_fail(
        STM_ERR_INPUT,
        "%s: has format %d, and stemma %s reads formats 1 to %d: a newer stemma saved it; expected that one, or "
        "--resume=never or a path",
        path, format_of(first), STEMMA_VERSION, STM_CHECKPOINT_FORMAT);
}

/* The first bytes of a file -> table, but for its rows. */
static stm_status read_first_bytes(const char *path, const char first[STM_FIRST_BYTES], stm_hash_table *table,
                                   uint64_t *table_hash)
{
    const int format = format_of(first);
    if (memcmp(first, magic, sizeof magic - 1) != 0)
        return stm_fail(STM_ERR_INPUT, "%s: does not begin as a checkpoint does", path);
    if (format < 1 || format > STM_CHECKPOINT_FORMAT)
        return stm_fail(STM_ERR_INPUT, "%s: %shas format %d, and stemma %s reads formats 1 to %d", path,
                        is_sealed(first) ? "" : "damaged: its first bytes differ from their hash; ", format,
                        STEMMA_VERSION, STM_CHECKPOINT_FORMAT);
    if (!is_sealed(first) ||
        sscanf(strchr(first, '\n') + 1, "bytes %" SCNu64 "\ntable %" SCNu64 "\nrows %zu\nxxh3 %" SCNx64,
               &table->file_bytes, &table->table_offset, &table->n_rows, table_hash) != 4)
        return stm_fail(STM_ERR_INPUT, "%s: damaged: bytes 0 to %d differ from their hash", path, STM_FIRST_BYTES);
    return STM_OK;
}

/* A table with row 0, between the first bytes and the file's end; nothing overflows. */
static bool has_room(const stm_hash_table *table)
{
    return table->table_offset >= STM_FIRST_BYTES && table->table_offset <= table->file_bytes && table->n_rows > 0 &&
           table->n_rows <= (table->file_bytes - table->table_offset) / sizeof *table->rows;
}

/* Rows in order, inside the file, that do not overlap each other or the table: what a writer of ours leaves. */
static bool is_sound(const stm_hash_table *table)
{
    uint64_t end = STM_FIRST_BYTES;
    const uint64_t table_end = table->table_offset + table->n_rows * sizeof *table->rows;
    for (size_t i = 0; i < table->n_rows; i++) {
        const stm_hash_row *row = &table->rows[i];
        if (row->kind >= STM_CHECKPOINT_N_KINDS || (row->kind == STM_CHECKPOINT_REST) != (i == 0))
            return false;
        if (i == 0)
            continue;
        if (row->bytes > STM_BLOCK_BYTES || row->offset < end || row->offset > table->file_bytes ||
            row->bytes > table->file_bytes - row->offset ||
            (row->offset < table_end && row->offset + row->bytes > table->table_offset))
            return false;
        end = row->offset + row->bytes;
    }
    return true;
}

stm_status stm_hashes_open(int descriptor, const char *path, stm_hash_table *table)
{
    char first[STM_FIRST_BYTES];
    uint64_t bytes, table_hash;
    *table = (stm_hash_table){0};
    STM_TRY(stm_disk_size(descriptor, path, &bytes));
    if (bytes < sizeof first)
        return stm_fail(STM_ERR_INPUT, "%s: has %" PRIu64 " bytes, expected a checkpoint", path, bytes);
    STM_TRY(stm_disk_read(descriptor, path, 0, first, sizeof first));
    STM_TRY(read_first_bytes(path, first, table, &table_hash));
    if (bytes != table->file_bytes)
        return stm_fail(STM_ERR_INPUT, "%s: %s: has %" PRIu64 " bytes, expected %" PRIu64, path,
                        bytes < table->file_bytes ? "truncated" : "damaged", bytes, table->file_bytes);
    if (!has_room(table))
        return stm_fail(STM_ERR_INPUT,
                        "%s: damaged: found a table of %zu rows at byte %" PRIu64 ", expected at least one, and all "
                        "between byte %d and the end, %" PRIu64,
                        path, table->n_rows, table->table_offset, STM_FIRST_BYTES, bytes);

    const size_t table_bytes = table->n_rows * sizeof *table->rows;
    STM_TRY(stm_alloc(table->n_rows, sizeof *table->rows, &table->rows));
    stm_status status = stm_disk_read(descriptor, path, table->table_offset, table->rows, table_bytes);
    if (status == STM_OK && (stm_hash(table->rows, table_bytes) != table_hash || !is_sound(table)))
        status = stm_fail(STM_ERR_INPUT,
                          "%s: damaged: its table of hashes (%zu bytes from byte %" PRIu64 ") differs from its hash",
                          path, table_bytes, table->table_offset);
    if (status != STM_OK) {
        free(table->rows);
        table->rows = NULL;
    }
    return status;
}

stm_status stm_hashes_check(const stm_hash_table *table, size_t i, int descriptor, const char *path, void *buffer)
{
    const stm_hash_row *row = &table->rows[i];
    if (row->kind == STM_CHECKPOINT_REST) {
        uint64_t bytes, hash;
        STM_TRY(hash_rest(table, descriptor, path, buffer, &bytes, &hash));
        if (bytes != row->bytes || hash != row->hash)
            return stm_fail(STM_ERR_INPUT, "%s: damaged: its %s differ from their hash", path, kind_names[row->kind]);
        return STM_OK;
    }
    STM_TRY(stm_disk_read(descriptor, path, row->offset, buffer, row->bytes));
    if (stm_hash(buffer, row->bytes) != row->hash)
        return stm_fail(STM_ERR_INPUT, "%s: damaged: bytes %" PRIu64 " to %" PRIu64 " (%s) differ from their hash",
                        path, row->offset, row->offset + row->bytes, kind_names[row->kind]);
    return STM_OK;
}
