/* The FUSE server's process: takes requests from the socket, checks them, calls the operation, answers. */
#include "share/server.h"
#include "base/log.h"
#include "host/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct { share_op *fn; u16 bytes; bool writes; } ops[] = {
#define OP(number, fn, bytes, writes) [number] = { fn, bytes, writes },
#include "share/ops.def"
#undef OP
};

/* ---- the pieces of a request ---- */
static u64 total(const struct share_seg *seg, unsigned n)
{
	u64 sum = 0;
	for (unsigned i = 0; i < n; i++)
		sum += seg[i].len;
	return sum;
}

int request_iov(const struct request *r, bool in, u64 skip, u64 max, struct iovec iov[SHARE_MAX_SEGS])
{
	const struct share_seg *seg = r->segs->seg + (in ? r->segs->nout : 0);
	unsigned count = in ? r->segs->nin : r->segs->nout;
	int n = 0;
	for (unsigned i = 0; i < count && max; i++) {
		u64 s = min_u64(skip, seg[i].len), len = min_u64(seg[i].len - s, max);
		skip -= s;
		max -= len;
		if (len)
			iov[n++] = (struct iovec){ (u8 *)seg[i].addr + s, len };
	}
	return n;
}

static size_t copy_out(const struct request *r, u8 *to, size_t max)
{
	struct iovec iov[SHARE_MAX_SEGS];
	int n = request_iov(r, false, 0, max, iov);
	size_t len = 0;
	for (int i = 0; i < n; i++) {
		memcpy(to + len, iov[i].iov_base, iov[i].iov_len);
		len += iov[i].iov_len;
	}
	return len;
}

static size_t copy_in(const struct request *r, u64 skip, const u8 *from, size_t len)
{
	struct iovec iov[SHARE_MAX_SEGS];
	int n = request_iov(r, true, skip, len, iov);
	size_t done = 0;
	for (int i = 0; i < n; i++) {
		memcpy(iov[i].iov_base, from + done, iov[i].iov_len);
		done += iov[i].iov_len;
	}
	return done;
}

const char *request_name(const struct request *r, size_t off)
{
	const char *name = (const char *)r->arg + off;
	if (off >= r->len)
		return NULL;
	size_t room = r->len - off, len = strnlen(name, room);
	if (len == room || len == 0 || len > 255 || memchr(name, '/', len) || !strcmp(name, ".") || !strcmp(name, ".."))
		return NULL;
	return name;
}

void *reply_add(struct request *r, size_t n)
{
	if (n > REPLY_BYTES - r->reply_len)
		return NULL;
	r->reply_len += n;
	return r->reply + r->reply_len - n;
}

/* ---- one request ---- */
/* New files belong to the user of the guest who made them, if this process may say so. */
static void act_as(const struct server *s, u32 uid, u32 gid)
{
	if (!s->is_root)
		return;
	setfsgid(gid);
	setfsuid(uid);
}

static int perform(struct server *s, struct request *r)
{
	u32 op = r->h->opcode;
	if (op >= array_len(ops) || !ops[op].fn)
		return -ENOSYS;
	if (r->len < ops[op].bytes)
		return -EINVAL;
	if (ops[op].writes && s->cfg.read_only)
		return -EROFS;
	act_as(s, r->h->uid, r->h->gid);
	int err = ops[op].fn(s, r);
	act_as(s, 0, 0);
	return err;
}

int server_request(struct server *s, const struct share_request *rq, u32 *written)
{
	static u8 head[HEAD_BYTES] __attribute__((aligned(16))), reply[REPLY_BYTES] __attribute__((aligned(16)));
	struct request r = { .segs = rq, .reply = reply, .out_len = total(rq->seg, rq->nout), .in_len = total(rq->seg + rq->nout, rq->nin) };
	struct fuse_out_header out;
	size_t len = copy_out(&r, head, sizeof head);
	*written = 0;
	r.h = (const void *)head;
	if (len < sizeof *r.h)
		return -EINVAL;
	r.arg = head + sizeof *r.h;
	r.len = len - sizeof *r.h;
	int err = perform(s, &r);
	if (r.silent || r.in_len < sizeof out)
		return 0;
	if (!err && !r.direct && r.reply_len > r.in_len - sizeof out)
		err = -ERANGE; /* the guest left no room for what it asked */
	if (err)
		r.reply_len = 0;
	out = (struct fuse_out_header){ .len = (u32)(sizeof out + r.reply_len), .error = err, .unique = r.h->unique };
	copy_in(&r, 0, (const u8 *)&out, sizeof out);
	if (!r.direct)
		copy_in(&r, sizeof out, reply, r.reply_len);
	*written = out.len;
	return 0;
}

/* ---- the process ---- */
/* Beside the seccomp filter: a kernel with Landlock lets this process open nothing outside the folder, whatever we get wrong. */
static void confine_to_folder(const struct server *s)
{
	u64 reads = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
	struct landlock_ruleset_attr attr = { .handled_access_fs = (1ull << 13) - 1 }; /* all of version 1 */
	long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	if (version < 1)
		return;
	if (version >= 2)
		attr.handled_access_fs |= 1ull << 13; /* REFER: renaming between folders */
	if (version >= 3)
		attr.handled_access_fs |= 1ull << 14; /* TRUNCATE */
	int rules = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);
	struct landlock_path_beneath_attr path = { .parent_fd = s->node[FUSE_ROOT_ID].fd,
		.allowed_access = s->cfg.read_only ? reads : attr.handled_access_fs & ~(u64)LANDLOCK_ACCESS_FS_EXECUTE };
	if (rules >= 0 && !syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &path, 0) && !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		syscall(SYS_landlock_restrict_self, rules, 0);
	if (rules >= 0)
		close(rules);
}

static int init(struct server *s, const struct share_config *cfg)
{
	struct rlimit files;
	*s = (struct server){ .cfg = *cfg, .is_root = geteuid() == 0 };
	s->cfg.cache_s = cfg->cache_s ? cfg->cache_s : 1;
	umask(0); /* the guest's kernel has applied the caller's */
	/* A file that the guest's kernel remembers is an open file here. */
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	int err = nodes_init(s);
	s->proc = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return err ? err : s->proc < 0 ? -errno : 0;
}

/* The smallest message that the socket may carry. */
static bool whole(const struct share_request *rq, ssize_t n)
{
	return n >= (ssize_t)offsetof(struct share_request, seg) && (unsigned)rq->nout + rq->nin <= SHARE_MAX_SEGS &&
	       n == (ssize_t)(offsetof(struct share_request, seg) + ((size_t)rq->nout + rq->nin) * sizeof rq->seg[0]);
}

int share_serve(const struct share_config *cfg, int fd, bool confine)
{
	static struct server s;
	static struct share_request rq;
	int err = init(&s, cfg);
	if (err)
		return err;
	if (confine) {
		confine_to_folder(&s);
		err = host_sandbox_enter(SANDBOX_FILES | SANDBOX_SHARE);
	}
	while (!err) {
		struct share_reply reply;
		ssize_t n = read(fd, &rq, sizeof rq);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0 || !whole(&rq, n))
			break;
		reply.id = rq.id;
		server_request(&s, &rq, &reply.written);
		if (write(fd, &reply, sizeof reply) != sizeof reply)
			break;
	}
	nodes_clear(&s);
	close(s.node[FUSE_ROOT_ID].fd);
	close(s.proc);
	free(s.node);
	free(s.hash);
	free(s.handle);
	return err;
}

/* A terminal's Ctrl-C goes to all processes of the group; this one ends when the VM's does. */
static void ignore_signals(void)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGTSTP };
	for (unsigned i = 0; i < array_len(signals); i++)
		signal(signals[i], SIG_IGN);
}

static void close_others(int keep)
{
	if (keep > 3)
		syscall(SYS_close_range, 3u, (unsigned)keep - 1, 0);
	syscall(SYS_close_range, (unsigned)keep + 1, ~0u, 0);
}

static int check(const struct share_config *cfg)
{
	struct stat st;
	int fd = open(cfg->path, O_PATH | O_CLOEXEC), err = fd < 0 || fstat(fd, &st) ? errno : S_ISDIR(st.st_mode) ? 0 : ENOTDIR;
	if (!err && faccessat(fd, ".", cfg->read_only ? R_OK | X_OK : R_OK | W_OK | X_OK, 0))
		err = errno;
	if (fd >= 0)
		close(fd);
	if (err)
		log_error("share \"%s\": %s%s", cfg->path, strerror(err),
			  (err == EACCES || err == EROFS) && !cfg->read_only ? "; to share it for reading only append :ro" : "");
	return -err;
}

int share_start(const struct share_config *cfg)
{
	int pair[2], status, err = check(cfg);
	if (err)
		return err;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
		err = -errno;
		log_error("share \"%s\": %s", cfg->path, strerror(errno));
		return err;
	}
	/* Twice, so that nobody has to wait for it at its end: the sandbox allows no wait. */
	pid_t pid = fork();
	if (pid == 0) {
		if (fork() != 0)
			_exit(0);
		ignore_signals();
		close_others(pair[1]);
		prctl(PR_SET_NAME, "nestbox-share");
		_exit(share_serve(cfg, pair[1], true) ? 1 : 0);
	}
	err = pid < 0 ? -errno : 0;
	close(pair[1]);
	if (!err)
		waitpid(pid, &status, 0);
	else
		close(pair[0]);
	if (err)
		log_error("share \"%s\": cannot start its server: %s", cfg->path, strerror(-err));
	return err ? err : pair[0];
}
