/* src/checkpoint/hashes.h: the first 512 bytes and the table of hashes of a checkpoint (checkpoint.h has the picture).
 *
 * The first 512 bytes are text with the file's size and the place and hash of the table, zeros, and in the last 8 the
 * hash of the other 504. All of it is read and checked without HDF5. Numbers are little-endian. Local, all of it; what
 * differs from its hash is STM_ERR_INPUT, naming path and place. */
#ifndef STM_CHECKPOINT_HASHES_H
#define STM_CHECKPOINT_HASHES_H

#include "checkpoint/checkpoint.h"

enum { STM_BLOCK_BYTES = 16 << 20, STM_FIRST_BYTES = 512 };

/* The latest format that is read; earlier ones are read, too. A number is raised by what an older program would read
 * wrongly or call damaged, and a file has the lowest one that tells all it holds, so that older programs go on with
 * files without it. Whatever a later format changes, its first 512 bytes begin with its number and end with their hash,
 * so that this program can tell it from a damaged file.
 *
 *   1  descriptions, /parameters and /optimizer; the first programs with /copies gave it to files with these, too
 *   2  /copies besides: rows of these kinds in the table of hashes */
enum { STM_CHECKPOINT_FORMAT = 2 };

/* A row of the table. Row 0 has the kind REST: its hash runs over all bytes from STM_FIRST_BYTES on that are neither in
 * another row nor in the table, and `bytes` is their number. */
typedef struct {
    uint64_t offset, bytes, kind, hash;
} stm_hash_row;

/* Rows are in order of offset once sealed. */
typedef struct {
    uint64_t file_bytes, table_offset;
    size_t n_rows;
    stm_hash_row *rows;
} stm_hash_table;

/* Sorts the rows, computes row 0 from the skeleton's file (in which the others' bytes need not be there yet), and
 * writes the table and the first bytes into `descriptor`. buffer: [STM_BLOCK_BYTES]. Fails: STM_ERR_IO. */
stm_status stm_hashes_seal(stm_hash_table *table, int skeleton, int descriptor, const char *path, void *buffer);

/* Fails (STM_ERR_INPUT, with both numbers) for a file of a later format whose first bytes are sound, and for nothing
 * else. */
stm_status stm_hashes_refuse_newer(const char *path);

/* Reads the table and checks it, and that the file has its full size. The caller frees table->rows. */
stm_status stm_hashes_open(int descriptor, const char *path, stm_hash_table *table);

/* Checks the bytes of row i. buffer: [STM_BLOCK_BYTES]. */
stm_status stm_hashes_check(const stm_hash_table *table, size_t i, int descriptor, const char *path, void *buffer);

/* Checks every row, in some threads that the disk is asked in advance for. Fails also: STM_ERR_MEMORY. */
stm_status stm_hashes_check_all(const stm_hash_table *table, int descriptor, const char *path);

#endif
