/* Which overlays may become one, and the lists afterwards: see store.h. A checkpoint that is deleted leaves its overlay between two others; when no list of overlays
 * ends in it, and everywhere the same one follows, the one above absorbs it (docs/formats/overlay.md). Surprise: lists are rewritten one by one. Whoever is killed between two
 * leaves some with both and some with the upper one alone, which mean the same; the next merge ends it. */
#include "base/log.h"
#include "host/disk.h"
#include "migrate/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define FOLDER "checkpoints"
/* Copying costs what the lower one holds, time and again when checkpoints come and go. So a big one waits until the one above it has grown, or lists are long. */
#define ALWAYS_BYTES (64 * MiB)
#define LONG_LIST 16

/* Files that hold lists in use: `current`, and one per checkpoint that is not deleted, also of one that is just being made. */
struct lists {
	char (*file)[64];
	json_t **doc;
	unsigned n;
};

static void add_list(struct lists *l, const char *folder, const char *file)
{
	json_t *doc = store_get(folder, file);
	if (!json_is_array(json_object_get(doc, "disks"))) {
		json_decref(doc);
		return;
	}
	l->file = realloc(l->file, (l->n + 1) * sizeof *l->file);
	l->doc = realloc(l->doc, (l->n + 1) * sizeof *l->doc);
	bug_if(!l->file || !l->doc);
	snprintf(l->file[l->n], sizeof *l->file, "%s", file);
	l->doc[l->n++] = doc;
}

static void read_lists(const char *folder, struct lists *l)
{
	char path[PATH_MAX];
	struct dirent *d;
	*l = (struct lists){ 0 };
	add_list(l, folder, FOLDER "/current");
	store_path(folder, NULL, "", path, sizeof path);
	DIR *dir = opendir(path);
	while (dir && (d = readdir(dir))) {
		char file[64], key[STORE_KEY];
		const char *dot = strrchr(d->d_name, '.');
		if (!dot || strcmp(dot, ".disks") || dot - d->d_name != STORE_KEY - 1)
			continue;
		snprintf(key, sizeof key, "%.16s", d->d_name);
		store_path(folder, key, ".gone", path, sizeof path);
		snprintf(file, sizeof file, FOLDER "/%s.disks", key);
		if (access(path, F_OK))
			add_list(l, folder, file);
	}
	if (dir)
		closedir(dir);
}

static void free_lists(struct lists *l)
{
	for (unsigned i = 0; i < l->n; i++)
		json_decref(l->doc[i]);
	free(l->file);
	free(l->doc);
}

static json_t *overlays(const struct lists *l, unsigned list, unsigned disk) { return json_array_get(json_object_get(l->doc[list], "disks"), disk); }

static const char *at(json_t *list, size_t i)
{
	const char *s = json_string_value(json_array_get(list, i));
	return s && !strchr(s, '/') && strlen(s) < STORE_OVERLAY ? s : "";
}

/* Where `file` stands; the list's length: nowhere. */
static size_t find(json_t *list, const char *file)
{
	size_t i = 0;
	while (i < json_array_size(list) && strcmp(at(list, i), file))
		i++;
	return i;
}

/* Every list that has the lower one goes on with the upper one, and has the same one below. A list that has the upper one alone was rewritten by somebody who was killed
 * before he came to the others: then all has been copied. */
static bool agreed(const struct lists *l, struct store_merge *m)
{
	m->copied = false;
	for (unsigned i = 0; i < l->n; i++) {
		json_t *o = overlays(l, i, m->disk);
		size_t pos = find(o, m->below), up = find(o, m->upper);
		if (pos == json_array_size(o) && up == json_array_size(o))
			continue;
		if (pos == json_array_size(o)) {
			m->copied = true;
			if (strcmp(up ? at(o, up - 1) : "", m->base))
				return false;
			continue;
		}
		if (strcmp(at(o, pos + 1), m->upper) || strcmp(pos ? at(o, pos - 1) : "", m->base))
			return false;
	}
	return true;
}

/* -1: there is no such file, or it has not been begun. */
static i64 bytes_of(const char *folder, const char *file)
{
	char path[PATH_MAX];
	struct stat st;
	store_path(folder, NULL, file, path, sizeof path);
	return !*file || stat(path, &st) || !st.st_size ? -1 : (i64)st.st_blocks * 512;
}

/* Whether they may, and it pays. */
static bool possible(const char *folder, const struct lists *l, struct store_merge *m, size_t length)
{
	i64 below = bytes_of(folder, m->below), upper = bytes_of(folder, m->upper);
	struct statvfs fs;
	if (!agreed(l, m) || (!m->copied && (below < 0 || upper < 0 || statvfs(folder, &fs))))
		return false;
	if (m->copied)
		return true;
	bool room = (u64)fs.f_bavail * fs.f_frsize > (u64)below + ALWAYS_BYTES;
	return room && (length > LONG_LIST || below <= (i64)ALWAYS_BYTES + 2 * upper);
}

static void look_at(const char *folder, const struct lists *l, unsigned list, unsigned disk, struct store_merge *best, i64 *least)
{
	json_t *o = overlays(l, list, disk);
	for (size_t k = 0; k + 1 < json_array_size(o); k++) {
		struct store_merge m = { .disk = disk };
		snprintf(m.base, sizeof m.base, "%s", k ? at(o, k - 1) : "");
		snprintf(m.below, sizeof m.below, "%s", at(o, k));
		snprintf(m.upper, sizeof m.upper, "%s", at(o, k + 1));
		if (!possible(folder, l, &m, json_array_size(o)))
			continue;
		i64 cost = m.copied ? 0 : bytes_of(folder, m.below);
		if (*least >= 0 && cost >= *least)
			continue;
		*least = cost;
		*best = m;
	}
}

bool store_find_merge(const char *folder, struct store_merge *m)
{
	struct lists l;
	i64 least = -1;
	read_lists(folder, &l);
	for (unsigned i = 0; i < l.n; i++)
		for (unsigned disk = 0; disk < json_array_size(json_object_get(l.doc[i], "disks")); disk++)
			look_at(folder, &l, i, disk, m, &least);
	free_lists(&l);
	if (least < 0)
		return false;
	json_t *current = store_current(folder), *o = json_array_get(json_object_get(current, "disks"), m->disk);
	size_t pos = find(o, m->upper);
	m->position = pos < json_array_size(o) ? (int)(pos - json_array_size(o)) : 0;
	json_decref(current);
	return true;
}

int store_merged(const char *folder, const struct store_merge *m)
{
	struct lists l;
	int err = 0;
	read_lists(folder, &l);
	for (unsigned i = 0; i < l.n && !err; i++) {
		json_t *o = overlays(&l, i, m->disk);
		size_t pos = find(o, m->below);
		if (pos == json_array_size(o))
			continue;
		json_array_remove(o, pos);
		err = store_put(folder, l.file[i], json_incref(l.doc[i]));
	}
	free_lists(&l);
	return err;
}

static int open_overlay(const char *folder, const char *file, int flags)
{
	char path[PATH_MAX];
	store_path(folder, NULL, file, path, sizeof path);
	int fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int store_open_upper(const char *folder, const struct store_merge *m) { return open_overlay(folder, m->upper, O_RDWR); }

int store_absorb(const char *folder, const struct store_merge *m, const bool *cancel)
{
	int base = *m->base ? open_overlay(folder, m->base, O_RDONLY) : -1, below = open_overlay(folder, m->below, O_RDONLY);
	int upper = store_open_upper(folder, m), err = below < 0 ? below : upper < 0 ? upper : *m->base && base < 0 ? base : 0;
	if (!err)
		err = disk_overlay_absorb_files(base, below, upper, cancel);
	int fds[] = { base, below, upper };
	for (unsigned i = 0; i < array_len(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	return err;
}

void store_merge_all(const char *folder)
{
	static const bool never = false;
	struct store_merge m;
	while (store_find_merge(folder, &m)) {
		int err = m.copied ? 0 : store_absorb(folder, &m, &never);
		if (!err)
			err = store_merged(folder, &m);
		if (err) {
			log_warn("\"%s\": the overlays \"%s\" and \"%s\" stay two: %s", folder, m.below, m.upper, strerror(-err));
			return;
		}
		store_tidy(folder);
	}
}
