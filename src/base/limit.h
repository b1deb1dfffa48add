/* src/base/limit.h: how much memory the processes of this node may have.
 *
 * A control group limits itself and all groups below it, so the least limit on the way from this process's group to the
 * root counts: memory.max in a version 2 hierarchy, memory.limit_in_bytes in version 1. In a container that way may be
 * hidden in part; what cannot be seen does not limit. A property of the machine, not of the moment. Local. */
#ifndef STM_BASE_LIMIT_H
#define STM_BASE_LIMIT_H

#include <stddef.h>

/* Bytes of the node's memory, or the least limit of a control group that this process is in. */
size_t stm_memory_bytes(void);

/* The least limit that the files under `root` ("" for the system's own: <root>/proc/self/cgroup, <root>/sys/fs/cgroup)
 * tell; SIZE_MAX where they tell none. */
size_t stm_cgroup_bytes(const char *root);

#endif
