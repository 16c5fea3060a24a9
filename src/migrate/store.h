/* The checkpoints of one VM that stays, as files in its folder:
 *   checkpoints/KEY.snap      memory and state (docs/formats/snapshot.md); KEY is 16 hex digits
 *   checkpoints/KEY.disks     for each disk the overlays that were frozen then, as JSON
 *   checkpoints/KEY.gone      deleted, but others stand on it, or saved state: not shown
 *   checkpoints/current       what the machine stands on now: {"parent": KEY, "disks": [[overlay, ...], ...]}, also when it is off
 *   checkpoints/diskN-KEY.overlay
 *   started                   the options of the last start that did not go on from saved state (cli/life.c)
 *   saved                     {"snapshot": KEY, "share": file or null}: start goes on from there
 * A snapshot exists from the moment its file has its name; everything else that a killed process leaves is rubbish, which store_tidy removes. Here: the
 * folder, for the VM process and for commands on VMs that are off. Not here: snapshots themselves (snapshot.h). Surprise: an overlay is written down in
 * `current` before the machine writes to it, since an empty overlay changes nothing. */
#ifndef NB_STORE_H
#define NB_STORE_H

#include "base/base.h"
#include "vm/vm.h"
#include <jansson.h>

#define STORE_KEY 17 /* 16 digits and a zero byte */
#define STORE_OVERLAY 64 /* an overlay's file name with its zero byte is shorter */

struct store_entry {
	char key[STORE_KEY], parent[STORE_KEY]; /* parent: the nearest one that is shown, or empty */
	char file_parent[STORE_KEY];            /* whose file this one's stands on, or empty */
	char name[128];
	i64 created;                            /* seconds since 1970 */
	u64 written_ns;                         /* its file's time of last change */
	u64 bytes, pages, virtual_ns;
	bool gone;
};

/* All of them, oldest first; free the array. Files that are no snapshots are left out. 0 or -errno. */
int store_list(const char *folder, struct store_entry **list, unsigned *n);
/* The shown one called `name` (or whose key it is), or NULL. */
const struct store_entry *store_find(const struct store_entry *list, unsigned n, const char *name);
/* A checkpoint's name: letters, digits and -_.:+ and spaces inside, at most 64. */
bool store_name_ok(const char *name);
void store_new_key(char key[STORE_KEY]);
/* FOLDER/checkpoints/KEY+suffix, or FOLDER/checkpoints/suffix for a NULL key. */
void store_path(const char *folder, const char *key, const char *suffix, char *to, size_t size);

/* Replaces or reads a JSON file below the folder; store_put takes v, and what it wrote is durable. 0 or -errno with one log line. NULL: not there. */
int store_put(const char *folder, const char *file, json_t *v);
json_t *store_get(const char *folder, const char *file);
/* Removes it, if it is there. */
void store_remove(const char *folder, const char *file);
/* What the machine stands on: never NULL; {"parent": "", "disks": []} at first. */
json_t *store_current(const char *folder);
/* Marks as deleted. 0 or -errno. */
int store_mark_gone(const char *folder, const char *key);
/* Removes files that nothing needs any more. */
void store_tidy(const char *folder);

/* Two overlays of disk number `disk` that can be one: the upper one absorbs the one below it (host/disk.h), which stands on `base` (empty: the image). position: where the
 * upper one is in what the machine stands on, counted from the end (-1: the last); 0: it is not in it. */
struct store_merge {
	unsigned disk;
	char base[STORE_OVERLAY], below[STORE_OVERLAY], upper[STORE_OVERLAY];
	int position;
	bool copied; /* nothing is left to do but store_merged */
};
/* The next pair that it pays to merge. */
bool store_find_merge(const char *folder, struct store_merge *m);
/* The upper one's file, for disk_absorb. Descriptor or -errno. */
int store_open_upper(const char *folder, const struct store_merge *m);
/* The work itself, for overlays that no disk uses. 0, -ECANCELED once *cancel is true, or -errno. */
int store_absorb(const char *folder, const struct store_merge *m, const bool *cancel);
/* It is done: takes the lower one out of all lists; store_tidy then removes its file. 0 or -errno with one log line. */
int store_merged(const char *folder, const struct store_merge *m);
/* All of that for a machine that is off. */
void store_merge_all(const char *folder);

/* A new VM's folder gets what a clone needs: copies of the overlays that `from` stands on, or, with a checkpoint's key, those of then, and that snapshot (its
 * files are linked, not copied) as saved state that shares memory with all other clones of it. copy: copies a file. 0 or -errno with one log line. */
int store_clone(const char *from, const char *to, const char *key, int (*copy)(const char *from, const char *to));

/* Before the machine is made: its disks get the overlays that it stands on, and saved state makes it a restore. Strings are never freed. 0, or -errno with
 * one log line. */
int store_configure(struct vm_config *cfg);
/* Saved state is being gone on from: from here on it is past. Right before the vCPUs start. */
int store_resumed(const char *folder);

#endif
