/* Disks for device tests. */
#ifndef RIG_DISK_H
#define RIG_DISK_H

#include "host/disk.h"

/* As --disk. */
int rig_disk_open(struct disk **out, const char *text);
/* The same with "path,words"; it must succeed. */
struct disk *rig_disk(const char *path, const char *words);
/* An image of this size without a name, gone with the process. */
struct disk *rig_scratch_disk(u64 bytes);
/* Does one request and waits for it. buf: len bytes, or NULL. */
int rig_disk_do(struct disk *d, enum disk_op op, u64 at, void *buf, u64 len);
/* The same by disk_at_once: whether it did. */
bool rig_disk_at_once(struct disk *d, enum disk_op op, u64 at, void *buf, u64 len);

#endif
