/* A sound checkpoint, changed: the input is a list of patches {place uint32, length uint8, bytes}, after a byte that
 * says which hashes are made right again as a forger would (bit 0: those of the first bytes and the table), whether
 * the file is cut at the first patch's place (bit 1), and whether all hashes are made right, so that HDF5 and what
 * reads through it see the patches (bit 2). It is read as a checkpoint of a run and as a model. */
#include "checkpoint/checkpoint.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/hashes.h"
#include "fuzz/fuzz.h"
#include "support/checkpoint.h"
#include "support/folder.h"

static run sound;
static char *image;
static size_t image_bytes;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    MPI_Init(argc, argv);
    char *folder = stm_test_folder_create();
    char *path;
    stm_model_config config = stm_test_configs[STM_TEST_LLAMA]; /* and smaller: every byte of the file has its turn */
    config.vocab_size = 7;
    config.hidden_size = 4;
    config.intermediate_size = 6;
    config.n_layers = 1;
    config.n_heads = 2;
    config.n_kv_heads = 1;
    config.head_dim = 2;
    config.max_positions = 8;
    run_open(&sound, MPI_COMM_SELF, 4, &config, 16, 1);
    fuzz_expect(stm_checkpoint_prepare(MPI_COMM_SELF, folder) == STM_OK && run_save(&sound, folder) == STM_OK,
                "no checkpoint");
    fuzz_expect(stm_format(&path, "%s/step-00000001.h5", folder) == STM_OK &&
                    stm_read_file(path, &image, &image_bytes) == STM_OK,
                "no checkpoint");
    free(path);
    stm_test_folder_remove(folder);
    return 0;
}

/* Makes hashes of the table and the first bytes fit what they now say. */
static void forge(char *bytes, size_t n)
{
    uint64_t file_bytes, offset, n_rows, hash;
    char *line = n >= STM_FIRST_BYTES ? memchr(bytes, '\n', 64) : NULL;
    if (!line)
        return;
    bytes[STM_FIRST_BYTES - sizeof hash - 1] = 0;
    if (sscanf(line + 1, "bytes %" SCNu64 "\ntable %" SCNu64 "\nrows %" SCNu64, &file_bytes, &offset, &n_rows) == 3) {
        char *text = strstr(line + 1, "\nxxh3 "), digits[17];
        const uint64_t table_bytes = n_rows * sizeof(stm_hash_row); /* may overflow, as the reader's might */
        if (text && text + 22 < bytes + STM_FIRST_BYTES - sizeof hash && offset <= n && table_bytes <= n - offset) {
            snprintf(digits, sizeof digits, "%016" PRIx64, stm_hash(bytes + offset, table_bytes));
            memcpy(text + 6, digits, 16);
        }
    }
    hash = stm_hash(bytes, STM_FIRST_BYTES - sizeof hash);
    memcpy(bytes + STM_FIRST_BYTES - sizeof hash, &hash, sizeof hash);
}

/* Makes all hashes fit the changed bytes: HDF5 then reads them. */
static void seal(const char *path)
{
    static char buffer[STM_BLOCK_BYTES];
    const int descriptor = open(path, O_RDWR);
    stm_hash_table table = {.rows = NULL};
    const char *line = strchr(image, '\n') + 1;
    fuzz_expect(descriptor >= 0 && sscanf(line, "bytes %" SCNu64 "\ntable %" SCNu64 "\nrows %zu", &table.file_bytes,
                                          &table.table_offset, &table.n_rows) == 3,
                "no table");
    table.rows = malloc(table.n_rows * sizeof *table.rows);
    memcpy(table.rows, image + table.table_offset, table.n_rows * sizeof *table.rows);
    for (size_t i = 1; i < table.n_rows; i++) {
        fuzz_expect(pread(descriptor, buffer, table.rows[i].bytes, (off_t)table.rows[i].offset) ==
                        (ssize_t)table.rows[i].bytes,
                    "a row is gone");
        table.rows[i].hash = stm_hash(buffer, table.rows[i].bytes);
    }
    fuzz_expect(stm_hashes_seal(&table, descriptor, descriptor, path, buffer) == STM_OK, "no seal");
    free(table.rows);
    close(descriptor);
}

static size_t change(char *bytes, const uint8_t *data, size_t size)
{
    size_t n = image_bytes;
    const bool forged = size > 0 && data[0] & 1, cut = size > 0 && data[0] & 2;
    for (size_t at = 1; at + 5 < size;) {
        uint32_t place;
        memcpy(&place, data + at, sizeof place);
        place %= (uint32_t)image_bytes;
        const size_t length = STM_MIN(STM_MIN((size_t)data[at + 4], size - at - 5), image_bytes - place);
        if (cut && at == 1)
            n = place;
        memcpy(bytes + place, data + at + 5, length);
        at += 5 + STM_MAX(length, (size_t)1);
    }
    if (forged)
        forge(bytes, n);
    return n;
}

static void read_as_run(const char *path)
{
    stm_checkpoint_state state = {0};
    void *moments[2];
    for (size_t k = 0; k < 2; k++)
        moments[k] = device_reals(&sound.device, NULL, sound.owned_n);
    if (fuzz_took(stm_checkpoint_read_state(MPI_COMM_SELF, path, &state))) {
        stm_checkpoint_state_clear(&state);
        if (fuzz_took(
                stm_checkpoint_load(MPI_COMM_SELF, path, sound.model, &sound.shards, moments[0], moments[1], &state)))
            stm_checkpoint_state_clear(&state);
    }
    device_release(&sound.device);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *bytes = malloc(image_bytes);
    stm_model *model = NULL;
    memcpy(bytes, image, image_bytes);
    const size_t n = change(bytes, data, size);
    const char *path = fuzz_file((const uint8_t *)bytes, n);
    if (size > 0 && data[0] & 4 && n == image_bytes)
        seal(path);
    if (stm_checkpoint_is(path)) {
        if (fuzz_took(stm_checkpoint_verify(MPI_COMM_SELF, path)))
            read_as_run(path); /* a file that does not verify is never loaded */
        if (fuzz_took(stm_checkpoint_model(path, sound.device.backend, sound.device.stream, &model)))
            stm_model_destroy(model);
    }
    free(bytes);
    return 0;
}
