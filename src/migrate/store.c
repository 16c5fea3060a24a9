/* Checkpoints as files: see store.h. */
#include "migrate/store.h"

#include "base/log.h"
#include "host/disk.h"
#include "migrate/snapshot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define FOLDER "checkpoints"

bool store_name_ok(const char *name)
{
	size_t n = strlen(name);
	if (!n || n > 64 || name[0] == ' ' || name[0] == '-' || name[0] == '.' || name[n - 1] == ' ')
		return false;
	return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:+ ") == n;
}

void store_new_key(char key[STORE_KEY])
{
	u64 v = host_now_ns();
	if (getrandom(&v, sizeof v, 0) != sizeof v)
		log_debug("no random numbers: %s", strerror(errno));
	snprintf(key, STORE_KEY, "%016llx", (unsigned long long)v);
}

void store_path(const char *folder, const char *key, const char *suffix, char *to, size_t size)
{
	snprintf(to, size, "%s/" FOLDER "/%s%s", folder, key ? key : "", suffix);
}

/* ---- JSON files ---- */

static int sync_folder(const char *path)
{
	char dir[PATH_MAX];
	const char *slash = strrchr(path, '/');
	snprintf(dir, sizeof dir, "%.*s", (int)(slash - path), path);
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), err = fd < 0 || fsync(fd) ? -errno : 0;
	if (fd >= 0)
		close(fd);
	return err;
}

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ssize_t len = strlen(text), n = fd < 0 ? -1 : write(fd, text, len);
	int err = n < 0 ? -errno : n != len ? -ENOSPC : fsync(fd) ? -errno : 0;
	if (fd >= 0)
		close(fd);
	return err;
}

int store_put(const char *folder, const char *file, json_t *v)
{
	char path[PATH_MAX], new[PATH_MAX + 8];
	char *text = json_dumps(v, JSON_COMPACT);
	snprintf(path, sizeof path, "%s/%s", folder, file);
	snprintf(new, sizeof new, "%s.new", path);
	int err = text ? write_text(new, text) : -ENOMEM;
	if (!err && rename(new, path))
		err = -errno;
	if (!err)
		err = sync_folder(path);
	if (err)
		log_error("\"%s\": cannot be written: %s", path, strerror(-err));
	free(text);
	json_decref(v);
	return err;
}

json_t *store_get(const char *folder, const char *file)
{
	char path[PATH_MAX];
	json_error_t e;
	snprintf(path, sizeof path, "%s/%s", folder, file);
	json_t *v = json_load_file(path, 0, &e);
	if (!v && json_error_code(&e) != json_error_cannot_open_file)
		log_error("\"%s\": line %d: %s", path, e.line, e.text);
	return v;
}

void store_remove(const char *folder, const char *file)
{
	char path[PATH_MAX];
	snprintf(path, sizeof path, "%s/%s", folder, file);
	if (unlink(path) && errno != ENOENT)
		log_error("\"%s\": cannot be removed: %s", path, strerror(errno));
}

json_t *store_current(const char *folder)
{
	json_t *v = store_get(folder, FOLDER "/current");
	if (json_is_array(json_object_get(v, "disks")) && json_is_string(json_object_get(v, "parent")))
		return v;
	json_decref(v);
	return json_pack("{ss s[]}", "parent", "", "disks");
}

/* ---- the list ---- */

static bool is_key(const char *s, const char *suffix)
{
	return strspn(s, "0123456789abcdef") == STORE_KEY - 1 && !strcmp(s + STORE_KEY - 1, suffix);
}

static bool exists(const char *folder, const char *key, const char *suffix)
{
	char path[PATH_MAX];
	store_path(folder, key, suffix, path, sizeof path);
	return !access(path, F_OK);
}

static bool read_entry(const char *folder, const char *file, struct store_entry *e)
{
	char path[PATH_MAX];
	struct snap_header h;
	struct snap_meta m;
	store_path(folder, NULL, file, path, sizeof path);
	if (snap_peek(path, &h, &m))
		return false;
	*e = (struct store_entry){ .created = m.created_s, .bytes = h.file_bytes, .pages = m.data_pages, .virtual_ns = m.virtual_ns };
	snprintf(e->key, sizeof e->key, "%.16s", file);
	snprintf(e->name, sizeof e->name, "%s", (const char *)m.name);
	if (is_key((const char *)m.parent_file, ".snap"))
		snprintf(e->file_parent, sizeof e->file_parent, "%.16s", (const char *)m.parent_file);
	e->gone = exists(folder, e->key, ".gone");
	struct stat st;
	if (!stat(path, &st))
		e->written_ns = (u64)st.st_mtim.tv_sec * NSEC_PER_SEC + st.st_mtim.tv_nsec;
	return true;
}

static int by_time(const void *a, const void *b)
{
	const struct store_entry *x = a, *y = b;
	if (x->created != y->created)
		return x->created < y->created ? -1 : 1;
	if (x->written_ns != y->written_ns) /* within a second: in the order in which they were finished */
		return x->written_ns < y->written_ns ? -1 : 1;
	return strcmp(x->file_parent, y->key) ? strcmp(y->file_parent, x->key) ? strcmp(x->key, y->key) : -1 : 1;
}

static const struct store_entry *by_key(const struct store_entry *list, unsigned n, const char *key)
{
	for (unsigned i = 0; i < n; i++)
		if (!strcmp(list[i].key, key))
			return &list[i];
	return NULL;
}

/* What a checkpoint came from is written beside it: its file may stand on nothing (a full one). */
static void find_parent(const char *folder, struct store_entry *list, unsigned n, struct store_entry *e)
{
	const struct store_entry *p = e;
	for (unsigned i = 0; i <= n && p; i++) {
		char file[64];
		snprintf(file, sizeof file, FOLDER "/%s.disks", p->key);
		json_t *d = store_get(folder, file);
		const char *key = json_string_value(json_object_get(d, "parent"));
		p = key ? by_key(list, n, key) : NULL;
		json_decref(d);
		if (p && !p->gone) {
			snprintf(e->parent, sizeof e->parent, "%s", p->key);
			return;
		}
	}
}

int store_list(const char *folder, struct store_entry **list, unsigned *n)
{
	char path[PATH_MAX];
	struct dirent *d;
	*list = NULL;
	*n = 0;
	store_path(folder, NULL, "", path, sizeof path);
	DIR *dir = opendir(path);
	if (!dir)
		return errno == ENOENT ? 0 : -errno;
	while ((d = readdir(dir))) {
		struct store_entry *more = is_key(d->d_name, ".snap") ? realloc(*list, (*n + 1) * sizeof *more) : NULL;
		if (!more)
			continue;
		*list = more;
		*n += read_entry(folder, d->d_name, &more[*n]);
	}
	closedir(dir);
	if (*n)
		qsort(*list, *n, sizeof **list, by_time);
	for (unsigned i = 0; i < *n; i++)
		find_parent(folder, *list, *n, &(*list)[i]);
	return 0;
}

const struct store_entry *store_find(const struct store_entry *list, unsigned n, const char *name)
{
	for (unsigned i = 0; i < n; i++)
		if (!list[i].gone && (!strcmp(list[i].name, name) || !strcmp(list[i].key, name)))
			return &list[i];
	return NULL;
}

/* ---- removing ---- */

int store_mark_gone(const char *folder, const char *key)
{
	char path[PATH_MAX];
	store_path(folder, key, ".gone", path, sizeof path);
	return write_text(path, "");
}

static void remove_file(const char *folder, const char *key, const char *suffix)
{
	char path[PATH_MAX];
	store_path(folder, key, suffix, path, sizeof path);
	if (unlink(path) && errno != ENOENT)
		log_warn("\"%s\": %s", path, strerror(errno));
}

static bool needed(const struct store_entry *list, unsigned n, const struct store_entry *e, const char *saved)
{
	if (!e->gone || (saved && !strcmp(saved, e->key)))
		return true;
	for (unsigned i = 0; i < n; i++)
		if (!strcmp(list[i].file_parent, e->key))
			return true;
	return false;
}

/* Deleted ones that no other stands on; one may free the next. */
static void remove_gone(const char *folder, struct store_entry *list, unsigned *n)
{
	json_t *s = store_get(folder, "saved");
	const char *saved = json_string_value(json_object_get(s, "snapshot"));
	for (unsigned i = 0; i < *n;) {
		if (needed(list, *n, &list[i], saved)) {
			i++;
			continue;
		}
		remove_file(folder, list[i].key, ".snap");
		remove_file(folder, list[i].key, ".disks");
		remove_file(folder, list[i].key, ".mem");
		remove_file(folder, list[i].key, ".gone");
		memmove(&list[i], &list[i + 1], (--*n - i) * sizeof list[0]);
		i = 0;
	}
	json_decref(s);
}

static bool names_overlay(json_t *layers, const char *file)
{
	size_t i, k;
	json_t *disk, *o;
	json_array_foreach(json_object_get(layers, "disks"), i, disk)
		json_array_foreach(disk, k, o)
			if (json_is_string(o) && !strcmp(json_string_value(o), file))
				return true;
	return false;
}

static bool overlay_needed(const char *folder, const struct store_entry *list, unsigned n, json_t *current, const char *file)
{
	bool yes = names_overlay(current, file);
	for (unsigned i = 0; i < n && !yes; i++) {
		char name[64];
		if (list[i].gone) /* nobody can go back to it */
			continue;
		snprintf(name, sizeof name, FOLDER "/%s.disks", list[i].key);
		json_t *d = store_get(folder, name);
		yes = names_overlay(d, file);
		json_decref(d);
	}
	return yes;
}

/* What a process that was killed has left, and overlays that no checkpoint and no machine uses. */
static void remove_rubbish(const char *folder, const struct store_entry *list, unsigned n)
{
	char path[PATH_MAX];
	struct dirent *d;
	store_path(folder, NULL, "", path, sizeof path);
	DIR *dir = opendir(path);
	json_t *current = store_current(folder);
	while (dir && (d = readdir(dir))) {
		const char *name = d->d_name, *dot = strrchr(name, '.');
		bool overlay = dot && !strcmp(dot, ".overlay"), ours = dot && is_key(name, dot);
		bool rubbish = (dot && (!strcmp(dot, ".tmp") || !strcmp(dot, ".new"))) || (overlay && !overlay_needed(folder, list, n, current, name));
		if (ours && strcmp(dot, ".snap")) {
			char key[STORE_KEY];
			snprintf(key, sizeof key, "%.16s", name);
			rubbish |= !by_key(list, n, key);
		}
		if (rubbish)
			remove_file(folder, NULL, name);
	}
	if (dir)
		closedir(dir);
	json_decref(current);
}

/* A VM without checkpoints and overlays is one that never had any. */
static void remove_empty(const char *folder)
{
	char path[PATH_MAX];
	size_t i;
	json_t *current = store_current(folder), *disk;
	bool overlays = false;
	json_array_foreach(json_object_get(current, "disks"), i, disk)
		overlays |= json_array_size(disk) > 0;
	json_decref(current);
	if (overlays)
		return;
	remove_file(folder, NULL, "current");
	store_path(folder, NULL, "", path, sizeof path);
	rmdir(path);
}

void store_tidy(const char *folder)
{
	struct store_entry *list;
	unsigned n;
	if (!store_list(folder, &list, &n)) {
		remove_gone(folder, list, &n);
		remove_rubbish(folder, list, n);
		if (!n)
			remove_empty(folder);
	}
	free(list);
}

/* ---- clones ---- */

static int complain(const char *path, int err)
{
	log_error("\"%s\": %s", path, strerror(-err));
	return err;
}

/* first: one that has not been begun yet may be missing. */
static int copy_overlays(const char *from, const char *to, json_t *disks, bool first, int (*copy)(const char *from, const char *to))
{
	char a[PATH_MAX], b[PATH_MAX];
	size_t i, k;
	json_t *disk, *o;
	json_array_foreach(disks, i, disk)
		json_array_foreach(disk, k, o) {
			if (!json_is_string(o) || strchr(json_string_value(o), '/'))
				return complain(from, -EBADMSG);
			store_path(from, NULL, json_string_value(o), a, sizeof a);
			store_path(to, NULL, json_string_value(o), b, sizeof b);
			int err = copy(a, b);
			if (err && (err != -ENOENT || !first || k + 1 < json_array_size(disk)))
				return complain(a, err);
		}
	return 0;
}

static int link_file(const char *from, const char *to, const char *key, const char *suffix)
{
	char a[PATH_MAX], b[PATH_MAX];
	store_path(from, key, suffix, a, sizeof a);
	store_path(to, key, suffix, b, sizeof b);
	return link(a, b) && errno != EEXIST ? complain(a, -errno) : 0;
}

/* The snapshot and all that it stands on; hidden, since the clone has made no checkpoints. */
static int link_chain(const char *from, const char *to, const char *key)
{
	struct store_entry *list;
	unsigned n;
	int err = store_list(from, &list, &n);
	const struct store_entry *e = err ? NULL : by_key(list, n, key);
	for (unsigned i = 0; i <= n && e && !err; i++, e = by_key(list, n, e->file_parent)) {
		err = link_file(from, to, e->key, ".snap");
		if (!err)
			err = store_mark_gone(to, e->key);
	}
	free(list);
	return err;
}

static int clone_snapshot(const char *from, const char *to, const char *key)
{
	char path[PATH_MAX], image[32];
	snprintf(image, sizeof image, "%s.mem", key);
	store_path(from, NULL, image, path, sizeof path);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), err = fd < 0 ? complain(path, -errno) : 0;
	if (fd >= 0)
		close(fd);
	if (!err)
		err = link_chain(from, to, key);
	if (!err)
		err = link_file(from, to, key, ".mem");
	return err ? err : store_put(to, "saved", json_pack("{ss ss}", "snapshot", key, "share", image));
}

/* An overlay for each disk that has some: those below are as the others have them. */
static void top_off(json_t *disks, const char *key)
{
	char file[64];
	size_t i;
	json_t *disk;
	json_array_foreach(disks, i, disk) {
		snprintf(file, sizeof file, "disk%zu-%s.overlay", i, key);
		if (json_array_size(disk))
			json_array_append_new(disk, json_string(file));
	}
}

int store_clone(const char *from, const char *to, const char *key, int (*copy)(const char *from, const char *to))
{
	char path[PATH_MAX], file[64], own[STORE_KEY];
	json_t *source = store_current(from);
	if (key) {
		json_decref(source);
		snprintf(file, sizeof file, FOLDER "/%s.disks", key);
		source = store_get(from, file);
	}
	json_t *disks = json_deep_copy(json_object_get(source, "disks"));
	json_decref(source);
	if (!disks)
		return complain(from, -EBADMSG);
	store_path(to, NULL, "", path, sizeof path);
	int err = !key && !json_array_size(disks) ? 0 : mkdir(path, 0700) ? complain(path, -errno) : 0;
	if (!err)
		err = copy_overlays(from, to, disks, !key, copy);
	store_new_key(own);
	top_off(disks, own);
	if (!err && (key || json_array_size(disks)))
		err = store_put(to, FOLDER "/current", json_pack("{ss sO}", "parent", "", "disks", disks));
	if (!err && key)
		err = clone_snapshot(from, to, key);
	json_decref(disks);
	return err;
}

/* ---- starting ---- */

/* A comma in a file's name is written twice in a disk's text. */
static void add_overlay(FILE *f, const char *folder, const char *file)
{
	char path[PATH_MAX];
	store_path(folder, NULL, file, path, sizeof path);
	fputs(",overlay=", f);
	for (const char *p = path; *p; p++)
		fprintf(f, *p == ',' ? ",," : "%c", *p);
}

static const char *with_overlays(const struct vm_config *cfg, const char *text, json_t *files)
{
	char *out = NULL;
	size_t size, i;
	json_t *o;
	FILE *f = open_memstream(&out, &size);
	if (!f)
		return NULL;
	size_t len = strlen(text);
	fputs(text, f);
	bug_if(len > 3 && !strcmp(text + len - 3, ":ro"));
	json_array_foreach(files, i, o)
		if (json_is_string(o) && !strchr(json_string_value(o), '/'))
			add_overlay(f, cfg->folder, json_string_value(o));
	fclose(f);
	return out;
}

int store_configure(struct vm_config *cfg)
{
	static char snap[PATH_MAX], share[PATH_MAX];
	json_t *current = store_current(cfg->folder), *saved = store_get(cfg->folder, "saved");
	for (unsigned i = 0; i < cfg->ndisks; i++) {
		json_t *files = json_array_get(json_object_get(current, "disks"), i);
		if (json_array_size(files) && !(cfg->disks[i] = with_overlays(cfg, cfg->disks[i], files)))
			return -ENOMEM;
	}
	const char *key = json_string_value(json_object_get(saved, "snapshot")), *image = json_string_value(json_object_get(saved, "share"));
	if (key && is_key(key, "") && !cfg->restore) {
		store_path(cfg->folder, key, ".snap", snap, sizeof snap);
		cfg->restore = snap;
	}
	if (cfg->restore == snap && image && !strchr(image, '/')) {
		store_path(cfg->folder, NULL, image, share, sizeof share);
		cfg->share = share;
	}
	json_decref(current);
	json_decref(saved);
	return 0;
}

int store_resumed(const char *folder)
{
	char path[PATH_MAX];
	snprintf(path, sizeof path, "%s/saved", folder);
	if (unlink(path) && errno != ENOENT)
		return -errno;
	return sync_folder(path);
}
