#include "checkpoint/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/pulse.h"

static stm_status open_file(const char *path, int flags, const char *verb, int *descriptor)
{
    const int opened = open(path, flags | O_CLOEXEC, 0666);
    if (opened < 0)
        return stm_fail((flags & O_ACCMODE) == O_RDONLY ? STM_ERR_INPUT : STM_ERR_IO, "%s: cannot be %s: %s", path,
                        verb, strerror(errno));
    *descriptor = opened;
    return STM_OK;
}

stm_status stm_disk_create(const char *path, int *descriptor)
{
    return open_file(path, O_RDWR | O_CREAT | O_TRUNC, "written", descriptor);
}

stm_status stm_disk_open(const char *path, bool write, int *descriptor)
{
    return open_file(path, write ? O_RDWR : O_RDONLY, write ? "written" : "read", descriptor);
}

void stm_disk_close(int descriptor)
{
    if (descriptor >= 0)
        close(descriptor);
}

/* What is free for us; a quota may leave less. */
static bool free_bytes_of(int descriptor, uint64_t *bytes)
{
    struct statvfs system;
    if (fstatvfs(descriptor, &system) != 0)
        return false;
    *bytes = (uint64_t)system.f_bavail * system.f_frsize;
    return true;
}

stm_status stm_disk_no_room(int descriptor, const char *path, uint64_t bytes, int why)
{
    uint64_t free_bytes = 0;
    struct rlimit limit;
    if (why == EFBIG && getrlimit(RLIMIT_FSIZE, &limit) == 0) /* then no disk is full */
        free_bytes = limit.rlim_cur;
    else
        (void)free_bytes_of(descriptor, &free_bytes);
    return stm_fail(STM_ERR_IO, "%s: cannot be written: no room: %" PRIu64 " bytes needed, %" PRIu64 " free: %s", path,
                    bytes, free_bytes, strerror(why));
}

/* glibc's posix_fallocate would write to every block of a file system that has no such call; this asks instead. */
static stm_status check_free_space(int descriptor, const char *path, uint64_t bytes)
{
    struct stat file;
    uint64_t free_bytes;
    if (!free_bytes_of(descriptor, &free_bytes) || fstat(descriptor, &file) != 0)
        return stm_disk_no_room(descriptor, path, bytes, errno);
    const uint64_t held = (uint64_t)file.st_blocks * 512;
    if (bytes > held && free_bytes < bytes - held)
        return stm_disk_no_room(descriptor, path, bytes, ENOSPC);
    if ((uint64_t)file.st_size < bytes && ftruncate(descriptor, (off_t)bytes) != 0)
        return stm_disk_no_room(descriptor, path, bytes, errno);
    return STM_OK;
}

stm_status stm_disk_reserve(int descriptor, const char *path, uint64_t bytes)
{
    int result;
    if (bytes == 0)
        return STM_OK;
    do
        result = fallocate(descriptor, 0, 0, (off_t)bytes);
    while (result != 0 && errno == EINTR);
    if (result == 0)
        return STM_OK;
    if (errno == EOPNOTSUPP || errno == ENOSYS)
        return check_free_space(descriptor, path, bytes);
    return stm_disk_no_room(descriptor, path, bytes, errno);
}

static bool is_full(int why)
{
    return why == ENOSPC || why == EDQUOT || why == EFBIG;
}

stm_status stm_disk_write(int descriptor, const char *path, uint64_t offset, const void *bytes, size_t n)
{
    for (size_t done = 0; done < n;) {
        const ssize_t written = pwrite(descriptor, (const char *)bytes + done, n - done, (off_t)(offset + done));
        if (written < 0 && errno == EINTR)
            continue;
        if (written == 0 || (written < 0 && is_full(errno)))
            return stm_disk_no_room(descriptor, path, n - done, written < 0 ? errno : ENOSPC);
        if (written < 0)
            return stm_fail(STM_ERR_IO, "%s: cannot be written: %s", path, strerror(errno));
        done += (size_t)written;
        stm_pulse_progress();
    }
    return STM_OK;
}

stm_status stm_disk_read(int descriptor, const char *path, uint64_t offset, void *bytes, size_t n)
{
    for (size_t done = 0; done < n;) {
        const ssize_t got = pread(descriptor, (char *)bytes + done, n - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return stm_fail(STM_ERR_IO, "%s: cannot be read: %s", path, strerror(errno));
        if (got == 0)
            return stm_fail(STM_ERR_IO, "%s: ends after %llu bytes, expected %llu or more", path,
                            (unsigned long long)(offset + done), (unsigned long long)(offset + n));
        done += (size_t)got;
        stm_pulse_progress();
    }
    return STM_OK;
}

void stm_disk_will_read(int descriptor, uint64_t offset, uint64_t n)
{
    (void)posix_fadvise(descriptor, (off_t)offset, (off_t)n, POSIX_FADV_WILLNEED);
}

void stm_disk_push(int descriptor, uint64_t offset, uint64_t n)
{
    (void)sync_file_range(descriptor, (off_t)offset, (off_t)n, SYNC_FILE_RANGE_WRITE);
}

stm_status stm_disk_size(int descriptor, const char *path, uint64_t *bytes)
{
    struct stat file;
    if (fstat(descriptor, &file) != 0)
        return stm_fail(STM_ERR_IO, "%s: cannot be read: %s", path, strerror(errno));
    *bytes = (uint64_t)file.st_size;
    return STM_OK;
}

stm_status stm_disk_sync(int descriptor, const char *path)
{
    if (fsync(descriptor) != 0)
        return stm_fail(STM_ERR_IO, "%s: cannot be synced: %s", path, strerror(errno));
    return STM_OK;
}

stm_status stm_disk_sync_folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = NULL;
    STM_TRY(slash ? stm_format(&folder, "%.*s", (int)STM_MAX(slash - path, 1), path) : stm_format(&folder, "."));
    int descriptor = -1;
    stm_status status = open_file(folder, O_RDONLY | O_DIRECTORY, "synced", &descriptor);
    if (status == STM_ERR_INPUT)
        status = STM_ERR_IO;
    /* Some network file systems do not sync folders, and say so: then nothing better can be done. */
    if (status == STM_OK && fsync(descriptor) != 0 && errno != EINVAL && errno != EOPNOTSUPP)
        status = stm_fail(STM_ERR_IO, "%s: cannot be synced: %s", folder, strerror(errno));
    stm_disk_close(descriptor);
    free(folder);
    return status;
}

stm_status stm_disk_rename(const char *temporary, const char *path)
{
    if (rename(temporary, path) != 0)
        return stm_fail(STM_ERR_IO, "%s: cannot be renamed to %s: %s", temporary, path, strerror(errno));
    return stm_disk_sync_folder_of(path);
}
