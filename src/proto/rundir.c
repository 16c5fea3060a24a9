#include "proto/rundir.h"
#include "base/log.h"
#include "host/time.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { STATUS_MAX = 65536 };

bool rundir_name_ok(const char *name)
{
	size_t n = strlen(name);
	if (!n || n > RUNDIR_MAX_NAME || !isalnum((unsigned char)name[0]))
		return false;
	return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == n;
}

int rundir_make_folders(const char *path)
{
	char p[PATH_MAX];
	if (snprintf(p, sizeof p, "%s", path) >= (int)sizeof p)
		return -ENAMETOOLONG;
	for (char *s = p + 1;; s++) {
		if (*s && *s != '/')
			continue;
		char was = *s;
		*s = 0;
		if (mkdir(p, 0700) && errno != EEXIST)
			return -errno;
		*s = was;
		if (!was)
			return 0;
	}
}

static int path_of(char *to, size_t size, const char *state_dir, const char *name)
{
	if (!rundir_name_ok(name))
		return -EINVAL;
	return snprintf(to, size, "%s/run/%s", state_dir, name) >= (int)size ? -ENAMETOOLONG : 0;
}

int rundir_open(const char *state_dir, const char *name)
{
	char path[PATH_MAX];
	int err = path_of(path, sizeof path, state_dir, name);
	if (err)
		return err;
	int fd = open(path, O_DIRECTORY | O_CLOEXEC | O_RDONLY);
	return fd < 0 ? -errno : fd;
}

/* The lock in `dir_fd`, exclusively, and only if that file is still the one by its name (somebody may have tidied up). */
static int lock(int dir_fd)
{
	for (;;) {
		struct flock f = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
		struct stat held, named;
		int fd = openat(dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (fd < 0)
			return -errno;
		if (fcntl(fd, F_OFD_SETLK, &f)) {
			int err = errno == EACCES || errno == EAGAIN ? -EBUSY : -errno;
			close(fd);
			return err;
		}
		if (!fstat(fd, &held) && !fstatat(dir_fd, "lock", &named, 0) && held.st_ino == named.st_ino)
			return fd;
		close(fd);
	}
}

/* Whose it is: `status` is of an earlier process until this one has written its own. */
static void sign(int lock_fd)
{
	char text[16];
	int n = snprintf(text, sizeof text, "%d\n", (int)getpid());
	if (ftruncate(lock_fd, 0) || pwrite(lock_fd, text, (size_t)n, 0) != n)
		log_debug("a lock file that says nothing: %s", strerror(errno));
}

int rundir_claim(struct rundir *r, const char *state_dir, const char *name)
{
	char path[PATH_MAX];
	*r = (struct rundir){ -1, -1, -1 };
	int err = path_of(path, sizeof path, state_dir, name);
	for (int tries = 0; !err && tries < 10; tries++) {
		err = rundir_make_folders(path);
		if (err)
			break;
		r->dir_fd = rundir_open(state_dir, name);
		err = r->lock_fd = r->dir_fd < 0 ? r->dir_fd : lock(r->dir_fd);
		if (err != -ENOENT)
			break; /* else: the folder was removed under us */
		close(r->dir_fd);
		r->dir_fd = -1;
		err = 0;
	}
	if (r->lock_fd >= 0) {
		sign(r->lock_fd);
		return 0;
	}
	rundir_close(r);
	return err < 0 ? err : -EAGAIN;
}

int rundir_listen(struct rundir *r)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/ctl", r->dir_fd);
	unlinkat(r->dir_fd, "ctl", 0);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && !bind(fd, (struct sockaddr *)&a, sizeof a) && !listen(fd, 64))
		return fd;
	int err = -errno;
	if (fd >= 0)
		close(fd);
	return err;
}

void rundir_boot_id(char *to, size_t size)
{
	FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
	*to = 0;
	if (!f)
		return;
	if (fgets(to, (int)size, f))
		to[strcspn(to, "\n")] = 0;
	fclose(f);
}

static int write_line(int fd, json_t *obj)
{
	char *text = json_dumps(obj, JSON_COMPACT);
	json_decref(obj);
	if (!text)
		return -ENOMEM;
	size_t n = strlen(text);
	text[n] = '\n'; /* in one write, so that a reader never sees half */
	int err = write(fd, text, n + 1) == (ssize_t)n + 1 ? 0 : errno ? -errno : -EIO;
	free(text);
	return err;
}

int rundir_started(struct rundir *r, json_t *start)
{
	char boot[64];
	rundir_boot_id(boot, sizeof boot);
	json_object_set_new(start, "pid", json_integer(getpid()));
	json_object_set_new(start, "watcher", json_integer(getppid()));
	json_object_set_new(start, "boot", json_string(boot));
	json_object_set_new(start, "time", json_integer(time(NULL)));
	r->status_fd = openat(r->dir_fd, "status.new", O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	int err = r->status_fd < 0 ? -errno : write_line(r->status_fd, json_pack("{sO}", "start", start));
	json_decref(start);
	if (!err && renameat(r->dir_fd, "status.new", r->dir_fd, "status"))
		err = -errno;
	return err;
}

void rundir_ended(struct rundir *r, json_t *end)
{
	if (r->status_fd >= 0)
		write_line(r->status_fd, json_pack("{so}", "end", end));
	else
		json_decref(end);
}

/* ---- crashes ---- */
static int crash_fd = -1;

static void on_crash(int sig)
{
	static const struct { int sig; const char *line; } rows[] = {
#define CRASH(s, text) { s, "{\"end\":{\"end\":\"crashed\",\"reason\":\"" text "\"}}\n" }
		CRASH(SIGSEGV, "a bug in nestbox: SIGSEGV"), CRASH(SIGBUS, "SIGBUS: host memory or a mapped file could not be read"),
		CRASH(SIGILL, "a bug in nestbox: SIGILL"), CRASH(SIGABRT, "a bug in nestbox: it aborted itself; the log says where"),
#undef CRASH
	};
	for (unsigned i = 0; i < array_len(rows); i++)
		if (rows[i].sig == sig && write(crash_fd, rows[i].line, strlen(rows[i].line)) < 0)
			break;
	signal(sig, SIG_DFL);
	raise(sig);
}

void rundir_catch_crashes(struct rundir *r)
{
	static const int sigs[] = { SIGSEGV, SIGBUS, SIGILL, SIGABRT };
	crash_fd = r->status_fd;
	for (unsigned i = 0; i < array_len(sigs); i++) {
		struct sigaction old;
		if (!sigaction(sigs[i], NULL, &old) && old.sa_handler == SIG_DFL && !(old.sa_flags & SA_SIGINFO))
			signal(sigs[i], on_crash);
	}
}

void rundir_close(struct rundir *r)
{
	if (r->status_fd >= 0)
		close(r->status_fd);
	if (r->lock_fd >= 0)
		close(r->lock_fd);
	if (r->dir_fd >= 0)
		close(r->dir_fd);
	*r = (struct rundir){ -1, -1, -1 };
}

/* ---- from outside ---- */
static bool locked(int dir_fd, pid_t *owner)
{
	char text[16] = "";
	struct flock f = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	int fd = openat(dir_fd, "lock", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return false;
	bool yes = !fcntl(fd, F_OFD_GETLK, &f) && f.l_type != F_UNLCK;
	*owner = pread(fd, text, sizeof text - 1, 0) > 0 ? atoi(text) : 0;
	close(fd);
	return yes;
}

/* The last valid line wins; lines that are cut off or damaged are passed over. */
static void read_lines(int fd, json_t **start, json_t **end)
{
	char *buf = calloc(1, STATUS_MAX + 1), *save = NULL;
	if (fd >= 0 && buf && read(fd, buf, STATUS_MAX) > 0)
		for (char *line = strtok_r(buf, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
			json_t *o = json_loads(line, 0, NULL), *v;
			if (start && json_is_object(v = json_object_get(o, "start"))) {
				json_decref(*start);
				*start = json_incref(v);
			}
			if (end && json_is_object(v = json_object_get(o, "end"))) {
				json_decref(*end);
				*end = json_incref(v);
			}
			json_decref(o);
		}
	free(buf);
}

static void read_status(int dir_fd, json_t **start, json_t **end)
{
	int fd = openat(dir_fd, "status", O_RDONLY | O_CLOEXEC);
	read_lines(fd, start, end);
	if (fd >= 0)
		close(fd);
}

void rundir_note_end(const char *state_dir, const char *name, pid_t pid, json_t *end)
{
	json_t *start = NULL, *said = NULL;
	int dir_fd = rundir_open(state_dir, name), fd = dir_fd < 0 ? -1 : openat(dir_fd, "status", O_RDWR | O_APPEND | O_CLOEXEC);
	read_lines(fd, &start, &said);
	if (fd >= 0 && start && !said && json_integer_value(json_object_get(start, "pid")) == pid)
		write_line(fd, json_pack("{sO}", "end", end)); /* a newer process has a file of its own under this name */
	json_decref(start);
	json_decref(said);
	json_decref(end);
	if (fd >= 0)
		close(fd);
	if (dir_fd >= 0)
		close(dir_fd);
}

/* And is no zombie. */
static bool lives(pid_t pid)
{
	char path[64], stat[512] = "";
	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, stat, sizeof stat - 1);
	if (fd >= 0)
		close(fd);
	const char *state = n > 0 ? strrchr(stat, ')') : NULL; /* "PID (NAME) STATE ..." */
	return fd < 0 ? errno != ENOENT || !kill(pid, 0) : !state || state[1] != ' ' || state[2] != 'Z';
}

/* The process that holds the lock has written `status`: it is the one that has signed the lock file, if it has done so yet, and it lives. */
static bool wrote_it(pid_t pid, pid_t owner) { return (!owner || owner == pid) && lives(pid); }

bool rundir_alive(const char *state_dir, const char *name, json_t **start, json_t **end)
{
	if (start)
		*start = NULL;
	if (end)
		*end = NULL;
	int dir_fd = rundir_open(state_dir, name);
	if (dir_fd < 0)
		return false;
	pid_t owner = 0;
	bool alive = locked(dir_fd, &owner);
	if (start || end)
		read_status(dir_fd, start, end);
	if (start && *start && alive && !wrote_it((pid_t)json_integer_value(json_object_get(*start, "pid")), owner)) {
		json_decref(*start);
		*start = NULL;
	}
	close(dir_fd);
	return alive;
}

bool rundir_last_words(const char *state_dir, const char *name, json_t **start, json_t **end)
{
	for (unsigned i = 0;; i++) {
		bool alive = rundir_alive(state_dir, name, start, end);
		pid_t watcher = (pid_t)json_integer_value(json_object_get(*start, "watcher"));
		struct timespec ms = { .tv_nsec = 5000000 };
		if (alive || !*start || *end || watcher < 2 || i == 40 || !lives(watcher))
			return alive;
		json_decref(*start);
		nanosleep(&ms, NULL);
	}
}

bool rundir_wait_gone(const char *state_dir, const char *name, int timeout_ms)
{
	u64 until = host_now_ns() + (u64)timeout_ms * 1000000;
	while (rundir_alive(state_dir, name, NULL, NULL)) {
		if (host_now_ns() >= until)
			return false;
		struct timespec ms = { .tv_nsec = 5000000 };
		nanosleep(&ms, NULL);
	}
	return true;
}

void rundir_remove(const char *state_dir, const char *name)
{
	static const char *const files[] = { "ctl", "status", "status.new", "log", "lock" };
	char path[PATH_MAX];
	struct rundir r;
	if (path_of(path, sizeof path, state_dir, name) || rundir_claim(&r, state_dir, name))
		return;
	for (unsigned i = 0; i < array_len(files); i++)
		unlinkat(r.dir_fd, files[i], 0);
	rundir_close(&r);
	rmdir(path);
}
