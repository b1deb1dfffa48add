/* src/checkpoint/checkpoint.h: the state of a run in one HDF5 file, step-NNNNNNNN.h5.
 *
 *   byte 0       512 bytes of text: the number of the format (hashes.h: 1, or 2 with /copies), sizes, and the hash of
 *                the table (h5dump and h5py skip them)
 *   /trainer     attributes: step, seed, cursor, options, trainer, best, model_hash, version
 *   /model       config.json, tokenizer.json, tokenizer_config.json, generation_config.json, as text
 *   /kept        rewards, replay, filter, targets: bytes of what else is to be had back, where there is any
 *   /parameters/<name>, /optimizer/exp_avg/<name>, /optimizer/exp_avg_sq/<name>
 *                one contiguous dataset each, of the tensor's whole shape, float32 or float64 as the run computes
 *   /copies/target/<name>, /copies/twin/<name>, /copies/twin_exp_avg/<name>, /copies/twin_exp_avg_sq/<name>
 *                the same of other copies of the parameters, where the run has some
 *   /hashes      uint64 [n, 4]: offset, bytes, kind (stm_checkpoint_kind), XXH3 of each block of at most 16 MiB of the
 *                tensors above; row 0 is the hash of every byte that lies in no other row
 *
 * So every byte of the file is under some hash, and a file is checked before HDF5 looks at it.
 *
 * Every rank holds the parameters of its stage and the optimizer state of the elements that it owns (stm_shards); it
 * writes just these elements of all of them, with plain writes at places that rank 0 has laid out, under the name
 * .step-NNNNNNNN.h5.partial. When all is written, synced, and read back by another rank (of another node where there is
 * one), the file gets its name. A process killed at any instant leaves the former checkpoints as they were.
 *
 * Collective functions return the same status and message on every rank, and a failed one leaves nothing to clean up
 * but what it was given: after a full disk the run goes on. */
#ifndef STM_CHECKPOINT_CHECKPOINT_H
#define STM_CHECKPOINT_CHECKPOINT_H

#include "base/kept.h"
#include "model/model.h"
#include "mpi/grid.h"

/* config.json, tokenizer.json, tokenizer_config.json, generation_config.json, in this order. */
enum { STM_CHECKPOINT_N_TEXTS = 4 };

/* What is kept as bytes beside tensors: memories of rewards, successes to replay, prompts that stay, estimates
 * of targets. */
typedef enum {
    STM_KEPT_REWARDS,
    STM_KEPT_REPLAY,
    STM_KEPT_FILTER,
    STM_KEPT_TARGETS,
    STM_CHECKPOINT_N_KEPT
} stm_checkpoint_kept;

/* Copies of the parameters that a run may have beside them: the one that a proximal step began from; one that is
 * trained as well, with its optimizer's state. */
typedef enum {
    STM_COPY_TARGET,
    STM_COPY_TWIN,
    STM_COPY_TWIN_EXP_AVG,
    STM_COPY_TWIN_EXP_AVG_SQ,
    STM_CHECKPOINT_N_COPIES
} stm_checkpoint_copy;

/* What a checkpoint holds beside tensors. save borrows the texts; read_state and load allocate them, clear frees them.
 */
typedef struct {
    int64_t step; /* steps done */
    uint64_t seed, cursor;
    char *options_yaml;  /* all options, as stm_options_print writes them */
    char *trainer_json;  /* what else the trainer wants back; never looked into; NULL is saved as "" */
    double best;         /* best evaluation so far; NaN: none */
    uint64_t model_hash; /* of the start model (stm_model.hash) */
    char *version;       /* of the program that saved; save ignores it */
    stm_kept
        kept[STM_CHECKPOINT_N_KEPT]; /* empty ones are left out; save needs them on rank 0 alone; read_state has none
                                      */
    void *copies[STM_CHECKPOINT_N_COPIES]; /* device memory as exp_avg's, the caller's: save reads, load fills it. NULL:
                                            * not saved, not wanted */
    uint64_t text_hashes[STM_CHECKPOINT_N_TEXTS]; /* of the model's texts; 0: there is none; save ignores them */
} stm_checkpoint_state;
void stm_checkpoint_state_clear(stm_checkpoint_state *state);

/* The same of a model; names: of the texts. Local. */
void stm_checkpoint_text_hashes(const stm_model *model, uint64_t hashes[STM_CHECKPOINT_N_TEXTS]);
extern const char *const stm_checkpoint_text_names[STM_CHECKPOINT_N_TEXTS];

/* Makes the folder and removes what broken-off saves left in it. Collective over comm. Fails: STM_ERR_IO. */
stm_status stm_checkpoint_prepare(MPI_Comm comm, const char *folder);

/* Saves state->step, in place of an earlier file of that step. shards: the cut of what the model owns, of as many ranks
 * as a stage has; the ranks of comm are stages of so many consecutive ranks, the same cut of each. exp_avg, exp_avg_sq:
 * the optimizer state that this rank owns, device memory of the model's backend, [stm_shards_count], its ranges one
 * after the other. model: whole, or one stage. Collective over comm.
 * Fails: STM_ERR_IO (folder missing, disk full, what was read back differs; the partial file is gone then),
 * STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_checkpoint_save(MPI_Comm comm, const char *folder, const stm_checkpoint_state *state,
                               const stm_model *model, const stm_shards *shards, const void *exp_avg,
                               const void *exp_avg_sq);

/* The same beside the run. begin lays the file out and copies what this rank owns (owned_n elements) into `copy`
 * ([stm_checkpoint_copy_bytes], which stays until the end); then a thread writes that, and later one reads back, while
 * the caller does what it likes. They know neither MPI nor HDF5. advance looks whether all ranks are done with either
 * and takes the step that follows, so it is called now and then; wait: until it is *done, well or not, with the status
 * that save would have returned. end is called in any case: before it is done, it waits for the thread and gives up the
 * file. model and shards must outlive it. Collective over comm; the others: local. */
typedef struct stm_background_save stm_background_save;
size_t stm_checkpoint_copy_bytes(size_t owned_n, size_t n_copies, size_t real_bytes); /* n_copies: that state has */
size_t stm_checkpoint_background_bytes(size_t owned_n, size_t n_copies, size_t real_bytes); /* and all else of size */
stm_status stm_checkpoint_save_begin(MPI_Comm comm, const char *folder, const stm_checkpoint_state *state,
                                     const stm_model *model, const stm_shards *shards, const void *exp_avg,
                                     const void *exp_avg_sq, void *copy, stm_background_save **out);
stm_status stm_checkpoint_save_advance(stm_background_save *save, bool wait, bool *done);
double stm_checkpoint_save_busy_s(const stm_background_save *save); /* all parts together; once it is done */
void stm_checkpoint_save_end(stm_background_save *save);            /* NULL is fine */

/* Hard-links the file of `step` to best.h5, which outlives it (copies it where there are no links). Collective. Fails:
 * STM_ERR_IO. */
stm_status stm_checkpoint_mark_best(MPI_Comm comm, const char *folder, int64_t step);

/* Removes all step files but the `keep` newest (at least 1). Collective. Fails: STM_ERR_IO. */
stm_status stm_checkpoint_retain(MPI_Comm comm, const char *folder, int64_t keep);

/* The newest checkpoint of the folder that verifies (best.h5 comes last): *path, or NULL when there is none, or no
 * folder. tired: names of files, a line each, that are taken only where no other is good ("" or NULL: none).
 * *refused: a line "path: why\n" for each newer one that was not taken, or NULL. The caller frees both. The ranks share
 * the reading. Collective over comm. Fails: STM_ERR_IO for a folder that cannot be read; STM_ERR_INPUT, with both
 * numbers, for a sound file of a later format. */
stm_status stm_checkpoint_find(MPI_Comm comm, const char *folder, const char *tired, char **path, char **refused);

/* Reads the whole file against its hashes, the ranks sharing the work. Collective over comm. Fails: STM_ERR_INPUT
 * with path, what is wrong and where. */
stm_status stm_checkpoint_verify(MPI_Comm comm, const char *path);

/* The state alone, before there is a model. The file must have been verified. Collective over comm. Fails:
 * STM_ERR_INPUT. */
stm_status stm_checkpoint_read_state(MPI_Comm comm, const char *path, stm_checkpoint_state *state);

/* State, parameters and optimizer state of a verified file, on any number of ranks and in either precision: arguments
 * as for save; `shards` and stages need not be those of the save. *state: on entry, its copies alone. model: laid out
 * with the names and shapes of the file, else refused by name; its weights and hash are set. Parameters are read once
 * and broadcast. Collective over comm. Fails: STM_ERR_INPUT, STM_ERR_IO, STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_checkpoint_load(MPI_Comm comm, const char *path, stm_model *model, const stm_shards *shards,
                               void *exp_avg, void *exp_avg_sq, stm_checkpoint_state *state);

/* Local readers, for one process. */

typedef enum {
    STM_CHECKPOINT_REST, /* texts, attributes, descriptions */
    STM_CHECKPOINT_PARAMETERS,
    STM_CHECKPOINT_EXP_AVG,
    STM_CHECKPOINT_EXP_AVG_SQ,
    STM_CHECKPOINT_COPIES, /* the first of them; they may be missing */
    STM_CHECKPOINT_N_KINDS = STM_CHECKPOINT_COPIES + STM_CHECKPOINT_N_COPIES
} stm_checkpoint_kind;

/* True if the file says that it is a checkpoint of ours; it may still be damaged. */
bool stm_checkpoint_is(const char *path);

/* As stm_checkpoint_verify and _read_state, by this process alone. kinds: bits 1 << stm_checkpoint_kind of what is
 * checked. */
enum { STM_CHECKPOINT_ALL_KINDS = (1 << STM_CHECKPOINT_N_KINDS) - 1 };
stm_status stm_checkpoint_verify_here(const char *path, unsigned kinds);
stm_status stm_checkpoint_state_here(const char *path, stm_checkpoint_state *state);

/* The model in a checkpoint, after verifying what is read. The caller destroys *out. Fails: STM_ERR_INPUT, STM_ERR_IO,
 * STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_checkpoint_model(const char *path, const stm_backend *backend, stm_stream *stream, stm_model **out);

#endif
