/* How fast models and checkpoints go to the disk and come back, beside plain reads and writes of as many bytes on the
 * same disk in the same run.
 *
 *   mpirun -n RANKS bench_io FOLDER [MB] [REPEATS]
 *
 * FOLDER must not exist; it takes about six times MB (default 512, the size of the float32 weights) and is removed.
 * "cold": the file's pages are dropped first. The plain write and read are what `dd bs=16M`, with conv=fsync, does. Of
 * the REPEATS (3), which take turns, the medians are compared. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/folder.h"
#include "checkpoint/open.h"

enum { BLOCK = 16 << 20, MOST_REPEATS = 16 };

static int rank, n_ranks;
static const stm_backend *backend = &stm_backend_cpu_f32;
static stm_stream *stream;

static void must(stm_status status)
{
    if (status == STM_OK)
        return;
    fprintf(stderr, "rank %d: %s\n", rank, stm_failure());
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static void must_be(bool right, const char *what)
{
    must(right ? STM_OK : stm_fail(STM_ERR_IO, "%s failed", what));
}

static void drop(const char *path)
{
    const int file = open(path, O_RDONLY);
    must_be(file >= 0 && fsync(file) == 0, path);
    posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    close(file);
}

static uint64_t size_of(const char *path)
{
    struct stat about;
    must_be(stat(path, &about) == 0, path);
    return (uint64_t)about.st_size;
}

/* A virtual machine is given memory when it first touches it, ten times as slowly as what it had before: that time is
 * neither the disk's nor ours. */
static void touch_memory(uint64_t bytes)
{
    void *memory;
    must(backend->alloc(stream, bytes, &memory));
    must(backend->zero(stream, memory, bytes));
    backend->free(stream, memory);
}

/* Seconds between two barriers. */
static double began_s;
static void begin(void)
{
    MPI_Barrier(MPI_COMM_WORLD);
    began_s = stm_now_s();
}
static double end(void)
{
    MPI_Barrier(MPI_COMM_WORLD);
    return stm_now_s() - began_s;
}

static char *block;

/* Each rank its share, as dd does. */
static double plain_read_s(const char *path)
{
    const uint64_t bytes = size_of(path);
    begin();
    const int file = open(path, O_RDONLY);
    must_be(file >= 0, path);
    for (uint64_t at = (uint64_t)rank * BLOCK; at < bytes; at += (uint64_t)n_ranks * BLOCK)
        must_be(pread(file, block, BLOCK, (off_t)at) > 0, "read");
    close(file);
    return end();
}

static double plain_write_s(const char *path, uint64_t bytes)
{
    if (rank == 0)
        unlink(path);
    begin();
    const int file = open(path, O_WRONLY | O_CREAT, 0666);
    must_be(file >= 0, path);
    for (uint64_t at = (uint64_t)rank * BLOCK; at < bytes; at += (uint64_t)n_ranks * BLOCK)
        must_be(pwrite(file, block, STM_MIN(bytes - at, (uint64_t)BLOCK), (off_t)at) > 0, "write");
    must_be(fsync(file) == 0, "fsync");
    close(file);
    return end();
}

static double copy_s(uint64_t bytes)
{
    char *to = malloc(BLOCK);
    must_be(to != NULL, "malloc");
    begin();
    for (uint64_t at = 0; at < bytes; at += BLOCK) {
        memcpy(to, block, BLOCK);
        __asm__ volatile("" : : "r"(to) : "memory");
    }
    const double spent = end();
    free(to);
    return spent;
}

/* A number of /proc/self/status, in kB. */
static double status_kb(const char *key)
{
    char line[256];
    double found = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, key, strlen(key)) == 0)
            found = strtod(line + strlen(key) + 1, NULL);
    if (file)
        fclose(file);
    return found;
}

static void forget_peak(void)
{
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (file) {
        fputs("5", file);
        fclose(file);
    }
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int repeats = 3;

typedef struct {
    double s[MOST_REPEATS];
} times;

static double median(times *t)
{
    qsort(t->s, (size_t)repeats, sizeof *t->s, ascending);
    return t->s[repeats / 2];
}

/* work, plain: seconds for the same bytes. */
static void report(const char *name, uint64_t bytes, times *work, const char *plain_name, times *plain)
{
    const double w = median(work), p = median(plain), mb = 1e-6 * (double)bytes;
    if (rank == 0)
        printf("%-34s %8.0f MB/s   %-14s %8.0f MB/s   ratio %.2f\n", name, mb / w, plain_name, mb / p, p / w);
}

/* A Llama of about n_parameters: 24 layers, as wide as that makes it. */
static void make_model(double n_parameters, stm_model **out)
{
    char config[512];
    size_t hidden = 64;
    while (24.0 * 11.0 * (double)((hidden + 64) * (hidden + 64)) + 16000.0 * (double)(hidden + 64) < n_parameters)
        hidden += 64;
    snprintf(config, sizeof config,
             "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 8000, "
             "\"hidden_size\": %zu, \"intermediate_size\": %zu, \"num_hidden_layers\": 24, \"num_attention_heads\": "
             "%zu, \"num_key_value_heads\": %zu, \"max_position_embeddings\": 128, \"rms_norm_eps\": 1e-05, "
             "\"hidden_act\": \"silu\", \"tie_word_embeddings\": false}",
             hidden, hidden * 7 / 3, hidden / 64, hidden / 64);
    stm_model_config parsed;
    must(stm_model_config_parse("config", config, NULL, &parsed));
    must(stm_model_create(&parsed, backend, stream, out));
    must(stm_format(&(*out)->config_json, "%s", config));
    must(stm_model_randomize(*out, 1));
}

static void time_model(const char *folder, const char *dtype, const char *named, uint64_t weights_bytes)
{
    times cold = {{0}}, warm = {{0}}, cold_plain = {{0}}, copy = {{0}};
    char *path, name[64];
    double extra_mb = 0;
    must(stm_format(&path, "%s/model-%s/model.safetensors", folder, dtype));
    const uint64_t bytes = size_of(path);
    for (int i = 0; i < 2 * repeats; i++) {
        stm_model *model;
        const bool is_cold = i % 2 == 0;
        if (is_cold) {
            drop(path);
            touch_memory(bytes);
            cold_plain.s[i / 2] = plain_read_s(path);
            drop(path);
        } else {
            copy.s[i / 2] = copy_s(bytes);
        }
        touch_memory(weights_bytes + bytes);
        forget_peak();
        const double before_kb = status_kb("VmRSS");
        begin();
        must(stm_model_open_on(MPI_COMM_WORLD, named, backend, stream, &model));
        (is_cold ? &cold : &warm)->s[i / 2] = end();
        extra_mb = 1e-3 * (status_kb("VmHWM") - before_kb) - 1e-6 * 4.0 * (double)model->n_parameters;
        stm_model_destroy(model);
    }
    snprintf(name, sizeof name, "load %s model, cold", dtype);
    report(name, bytes, &cold, "plain read", &cold_plain);
    snprintf(name, sizeof name, "load %s model, warm", dtype);
    report(name, bytes, &warm, "memcpy", &copy);
    if (rank == 0)
        printf("%-34s %8.0f MB above the weights\n", "  peak resident memory", extra_mb);
    free(path);
}

/* For how long a save beside other work, which is to sleep here, holds it up. */
static double held_up_s(const char *folder, const stm_checkpoint_state *state, const stm_model *model,
                        const stm_shards *shards, void *const moments[2], void *copy)
{
    stm_background_save *save;
    double held_s;
    begin();
    must(stm_checkpoint_save_begin(MPI_COMM_WORLD, folder, state, model, shards, moments[0], moments[1], copy, &save));
    held_s = end();
    for (bool done = false; !done;) {
        usleep(20000);
        begin();
        must(stm_checkpoint_save_advance(save, false, &done));
        held_s += end();
    }
    stm_checkpoint_save_end(save);
    return held_s;
}

static void time_checkpoint(const char *folder, stm_model *model)
{
    times beside = {{0}}, save = {{0}}, save_plain = {{0}}, verify = {{0}}, load = {{0}}, read = {{0}},
          verify_warm = {{0}}, read_warm = {{0}};
    const stm_shards shards = {.n = model->n_parameters, .bucket_n = (size_t)4 << 20, .n_ranks = n_ranks};
    const size_t owned = stm_shards_count(&shards, rank);
    stm_checkpoint_state state = {.step = 1, .options_yaml = (char[]){""}, .best = 0}, loaded = {0};
    void *moments[2], *copy;
    char *path, *plain;
    must(stm_alloc(stm_checkpoint_copy_bytes(owned, 0, backend->real_bytes), 1, &copy));
    for (int k = 0; k < 2; k++) {
        must(backend->alloc(stream, owned * backend->real_bytes, &moments[k]));
        memset(moments[k], 1 + k, owned * backend->real_bytes);
    }
    must(stm_step_path(folder, 1, &path));
    must(stm_format(&plain, "%s/plain", folder));
    const uint64_t about = 3 * (uint64_t)model->n_parameters * backend->real_bytes;
    for (int i = 0; i < repeats; i++) {
        beside.s[i] = held_up_s(folder, &state, model, &shards, moments, copy);
        save_plain.s[i] = plain_write_s(plain, about);
        if (rank == 0)
            unlink(plain);
        begin();
        must(stm_checkpoint_save(MPI_COMM_WORLD, folder, &state, model, &shards, moments[0], moments[1]));
        save.s[i] = end();
        drop(path);
        read.s[i] = plain_read_s(path);
        read_warm.s[i] = plain_read_s(path);
        drop(path);
        begin();
        must(stm_checkpoint_verify(MPI_COMM_WORLD, path));
        verify.s[i] = end();
        begin();
        must(stm_checkpoint_verify(MPI_COMM_WORLD, path));
        verify_warm.s[i] = end();
        drop(path);
        begin();
        must(stm_checkpoint_load(MPI_COMM_WORLD, path, model, &shards, moments[0], moments[1], &loaded));
        load.s[i] = end();
        stm_checkpoint_state_clear(&loaded);
        MPI_Barrier(MPI_COMM_WORLD);
        if (rank == 0)
            unlink(path);
        MPI_Barrier(MPI_COMM_WORLD);
    }
    report("save a checkpoint", about, &save, "plain write", &save_plain);
    report("held up by a save beside", about, &beside, "a save at once", &save);
    report("verify a checkpoint, cold", about, &verify, "plain read", &read);
    report("verify a checkpoint, warm", about, &verify_warm, "plain read", &read_warm);
    report("load a checkpoint, cold", about, &load, "plain read", &read);
    backend->free(stream, moments[0]);
    backend->free(stream, moments[1]);
    free(copy);
    free(path);
    free(plain);
}

static void make_folders(const char *folder, stm_model *model)
{
    static const char *const dtypes[] = {"float32", "bfloat16"};
    must_be(mkdir(folder, 0777) == 0, folder);
    for (int k = 0; k < 2; k++) {
        char *path;
        must(stm_format(&path, "%s/model-%s", folder, dtypes[k]));
        must(stm_model_export(model, path, dtypes[k]));
        free(path);
    }
}

static void remove_folders(const char *folder)
{
    char *command;
    must(stm_format(&command, "rm -r -- '%s'", folder));
    must_be(system(command) == 0, command);
    free(command);
}

int main(int n_words, char **words)
{
    stm_model *model;
    char *path;
    MPI_Init(&n_words, &words);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    if (n_words < 2) {
        fprintf(stderr, "expected: bench_io FOLDER [MB] [REPEATS]\n");
        return 2;
    }
    const char *folder = words[1];
    const double mb = n_words > 2 ? strtod(words[2], NULL) : 512;
    repeats = n_words > 3 ? STM_MAX(1, STM_MIN(atoi(words[3]), (int)MOST_REPEATS)) : repeats;
    must(stm_alloc(BLOCK, 1, &block));
    memset(block, 0, BLOCK);
    must(backend->open(0, &stream));
    make_model(1e6 * mb / 4, &model);
    if (rank == 0)
        make_folders(folder, model);
    MPI_Barrier(MPI_COMM_WORLD);
    time_checkpoint(folder, model);
    const uint64_t weights_bytes = (uint64_t)model->n_parameters * backend->real_bytes;
    stm_model_destroy(model);
    static const char *const dtypes[] = {"float32", "bfloat16"};
    for (int k = 0; k < 2; k++) {
        must(stm_format(&path, "%s/model-%s", folder, dtypes[k]));
        time_model(folder, dtypes[k], path, weights_bytes);
        free(path);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0)
        remove_folders(folder);
    free(block);
    backend->close(stream);
    MPI_Finalize();
    return 0;
}
