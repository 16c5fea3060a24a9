/* The request, and the process that it asks for. get and put are functions of this program, run in a child like any other command. */
#include "agent/guest/helper.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- the request ---- */
static void append(char ***list, unsigned *n, char *text)
{
	*list = realloc(*list, (*n + 2) * sizeof **list);
	if (!*list)
		abort();
	(*list)[(*n)++] = text;
	(*list)[*n] = NULL;
}

static void set(struct request *r, const uint8_t *data, size_t len)
{
	char *text = strndup((const char *)data, len), *value = text ? strchr(text, '=') : NULL;
	if (!value)
		return;
	*value++ = 0;
	struct { const char *key; char **to; } one[] = { { "op", &r->op }, { "cwd", &r->cwd }, { "path", &r->path }, { "mode", &r->mode }, { "tty", &r->tty },
		{ "uid", &r->uid }, { "gid", &r->gid }, { "groups", &r->groups }, { "host", &r->host } };
	for (unsigned i = 0; i < sizeof one / sizeof one[0]; i++)
		if (!strcmp(text, one[i].key))
			*one[i].to = value;
	if (!strcmp(text, "arg"))
		append(&r->argv, &r->nargv, value);
	if (!strcmp(text, "env"))
		append(&r->env, &r->nenv, value);
	if (!strcmp(text, "mount"))
		append(&r->mount, &r->nmount, value);
}

bool request_read(struct port *p, struct request *r)
{
	const struct frame_head *h;
	const uint8_t *data;
	static char long_value[1 << 20]; /* a value longer than a frame comes in pieces: SET frames that are full go on in the next */
	size_t len = 0;
	*r = (struct request){ 0 };
	for (;;) {
		while ((h = port_frame(p, &data))) {
			uint8_t type = h->type;
			size_t n = h->len;
			if (type == FRAME_SET && len + n <= sizeof long_value) {
				memcpy(long_value + len, data, n);
				len += n;
				if (n < FRAME_MAX) {
					set(r, (uint8_t *)long_value, len);
					len = 0;
				}
			}
			port_next(p);
			if (type == FRAME_GO)
				return true;
		}
		struct pollfd f = { .fd = p->fd, .events = POLLIN };
		poll(&f, 1, -1);
		port_read(p);
		if (p->gone)
			return false;
	}
}

/* ---- in the child ---- */
static int copy_fd(int from, int to)
{
	static char buf[65536];
	for (ssize_t n; (n = read(from, buf, sizeof buf)) != 0;) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		for (ssize_t done = 0; done < n;) {
			ssize_t w = write(to, buf + done, n - done);
			if (w < 0 && errno != EINTR)
				return -errno;
			done += w > 0 ? w : 0;
		}
	}
	return 0;
}

static int complain(const char *path, int err)
{
	dprintf(2, "%s: %s\n", path, strerror(err));
	return 1;
}

static int get(const char *path)
{
	struct stat st;
	char mode[16];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		return complain(path, errno);
	if (S_ISDIR(st.st_mode))
		return complain(path, EISDIR);
	snprintf(mode, sizeof mode, "%06o\n", (unsigned)(st.st_mode & 07777)); /* 7 bytes, then the content */
	write(1, mode, 7);
	int err = copy_fd(fd, 1);
	return err ? complain(path, -err) : 0;
}

/* Written beside the target and renamed, so that nobody sees half a file. */
static int put(const char *path, unsigned mode, const char *base)
{
	char full[4096], temp[4096 + 16];
	struct stat st;
	bool dir = !stat(path, &st) && S_ISDIR(st.st_mode);
	if (dir)
		snprintf(full, sizeof full, "%s/%s", path, base);
	else
		snprintf(full, sizeof full, "%s", path);
	if (!stat(full, &st) && !S_ISREG(st.st_mode)) { /* a device, a pipe: written to, not replaced */
		int to = open(full, O_WRONLY | O_CLOEXEC), err = to < 0 ? -errno : copy_fd(0, to);
		return err ? complain(full, -err) : 0;
	}
	snprintf(temp, sizeof temp, "%s.XXXXXX", full);
	int fd = mkstemp(temp);
	if (fd < 0)
		return complain(full, errno);
	int err = copy_fd(0, fd);
	if (!err && (fchmod(fd, mode) || close(fd) || rename(temp, full)))
		err = -errno;
	if (err)
		unlink(temp);
	return err ? complain(full, -err) : 0;
}

static void become(const struct request *r)
{
	gid_t groups[256];
	int n = 0;
	for (const char *g = r->groups; g && *g && n < 256; g = strchr(g, ',') ? strchr(g, ',') + 1 : "")
		groups[n++] = (gid_t)strtoul(g, NULL, 10);
	if (r->uid && (setgroups(n, groups) || (r->gid && setgid((gid_t)strtoul(r->gid, NULL, 10))) || setuid((uid_t)strtoul(r->uid, NULL, 10)))) {
		dprintf(2, "cannot become user %s: %s\n", r->uid, strerror(errno));
		_exit(126);
	}
}

/* Tells the parent by the pipe `report` what went wrong; a successful exec closes it. */
static void child_main(const struct request *r, int report)
{
	sigset_t none;
	int err = 0;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	become(r);
	if (r->cwd && chdir(r->cwd))
		err = -errno;
	if (!err && r->op && strcmp(r->op, "exec")) {
		close(report);
		unsigned mode = r->mode ? (unsigned)strtoul(r->mode, NULL, 8) : 0644;
		_exit(!strcmp(r->op, "get") ? get(r->path ? r->path : "") : put(r->path ? r->path : "", mode & 07777, r->nargv ? r->argv[0] : ""));
	}
	if (!err && r->nargv) {
		if (r->env)
			environ = r->env;
		if (!getenv("PATH"))
			setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
		execvp(r->argv[0], r->argv);
		err = errno;
	}
	write(report, &err, sizeof err);
	_exit(126);
}

/* ---- in the parent ---- */
static int open_terminal(const struct request *r, int *master, int *slave)
{
	struct winsize w = { .ws_row = 24, .ws_col = 80 };
	char name[64];
	unsigned rows, cols;
	if (sscanf(r->tty, "%ux%u", &rows, &cols) == 2 && rows && cols)
		w = (struct winsize){ .ws_row = (unsigned short)rows, .ws_col = (unsigned short)cols };
	*master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (*master < 0 || grantpt(*master) || unlockpt(*master) || ptsname_r(*master, name, sizeof name))
		return -errno;
	*slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	ioctl(*master, TIOCSWINSZ, &w);
	return *slave < 0 ? -errno : 0;
}

static void nonblock(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

static int open_streams(const struct request *r, struct child *c, int theirs[3])
{
	int p[3][2];
	if (r->tty) {
		int master = -1, slave = -1, err = open_terminal(r, &master, &slave);
		if (err)
			return err;
		theirs[0] = theirs[1] = theirs[2] = slave;
		*c = (struct child){ .in = master, .out = master, .err = -1, .tty = true };
		nonblock(master);
		return 0;
	}
	for (unsigned i = 0; i < 3; i++)
		if (pipe2(p[i], O_CLOEXEC))
			return -errno;
	theirs[0] = p[0][0];
	theirs[1] = p[1][1];
	theirs[2] = p[2][1];
	*c = (struct child){ .in = p[0][1], .out = p[1][0], .err = p[2][0] };
	nonblock(c->in);
	nonblock(c->out);
	nonblock(c->err);
	return 0;
}

int child_start(const struct request *r, struct child *c, char *why, size_t size)
{
	int theirs[3], report[2], err = open_streams(r, c, theirs);
	if (!err && pipe2(report, O_CLOEXEC))
		err = -errno;
	c->pid = err ? -1 : fork();
	if (c->pid < 0) {
		snprintf(why, size, "cannot start a process in the guest: %s", strerror(err ? -err : errno));
		return 126;
	}
	if (c->pid == 0) {
		setsid();
		for (int i = 0; i < 3; i++)
			dup2(theirs[i], i);
		if (c->tty)
			ioctl(0, TIOCSCTTY, 0);
		/* get and put are not exec'd: they must not hold the other ends of their own pipes. */
		close(c->in);
		close(c->err);
		child_main(r, report[1]);
	}
	for (int i = 0; i < 3; i++)
		if (i == 0 || theirs[i] != theirs[0])
			close(theirs[i]);
	close(report[1]);
	ssize_t n = read(report[0], &err, sizeof err);
	close(report[0]);
	if (n != sizeof err)
		return 0;
	if (err < 0)
		snprintf(why, size, "folder \"%s\" in the guest: %s", r->cwd, strerror(-err));
	else
		snprintf(why, size, "\"%s\" cannot run in the guest: %s", r->nargv ? r->argv[0] : "", strerror(err));
	return err == ENOENT ? 127 : 126;
}
