/* src/checkpoint/disk.h: plain files, with the reason of every failure in the message. Local, all of it; what fails is
 * STM_ERR_IO, a file that cannot be opened for reading STM_ERR_INPUT; the message names `path`, and
 * how many bytes are needed and free where there is no room. */
#ifndef STM_CHECKPOINT_DISK_H
#define STM_CHECKPOINT_DISK_H

#include "base/base.h"

stm_status stm_disk_create(const char *path, int *descriptor); /* empty, to be read and written */
stm_status stm_disk_open(const char *path, bool write, int *descriptor);
void stm_disk_close(int descriptor); /* -1 is fine */

/* Takes room for the first `bytes` of the file and makes it that long, so that no later write finds the disk full. A
 * file system that cannot promise room is asked how much is free. */
stm_status stm_disk_reserve(int descriptor, const char *path, uint64_t bytes);

/* Stores "path: cannot be written: no room: .. bytes needed, .. free: why", and returns STM_ERR_IO. why: an errno; of a
 * limit on the size of files, that is what is free. */
stm_status stm_disk_no_room(int descriptor, const char *path, uint64_t bytes, int why);

stm_status stm_disk_write(int descriptor, const char *path, uint64_t offset, const void *bytes, size_t n);
stm_status stm_disk_read(int descriptor, const char *path, uint64_t offset, void *bytes, size_t n);
/* Lets the disk begin to read what is wanted next; a hint, whose failure changes nothing. */
void stm_disk_will_read(int descriptor, uint64_t offset, uint64_t n);
/* Lets the disk begin to write what has been written, so that stm_disk_sync finds less to wait for; a hint, too. */
void stm_disk_push(int descriptor, uint64_t offset, uint64_t n);
stm_status stm_disk_size(int descriptor, const char *path, uint64_t *bytes);
stm_status stm_disk_sync(int descriptor, const char *path);

/* Gives a complete, synced file its name, in place of what had it, and syncs the folder. */
stm_status stm_disk_rename(const char *temporary, const char *path);
stm_status stm_disk_sync_folder_of(const char *path);

#endif
