/* User-mode networking: libslirp in a process of its own. It is the guest's router, DHCP server (10.0.2.15 and up), name server (10.0.2.3) and
 * gateway (10.0.2.2, which is also this host), and makes ordinary sockets of the guest's connections. Not here: the network card. Surprise: libslirp
 * knows no segmentation offload, but takes an IP packet of any size; so a guest's 64 KiB go in whole, and what comes out is merged. */
#include "base/log.h"
#include "net/helper.h"
#include "net/queue.h"
#include "net/spec.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <seccomp.h>
#include <signal.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { ROUND = 64, MAX_TIMERS = 8 };

/* Loaded when it is wanted: it brings GLib along, which every machine would pay for. */
#define SLIRP_CALLS(C) C(slirp_new) C(slirp_add_hostfwd) C(slirp_pollfds_fill) C(slirp_pollfds_poll) C(slirp_input)
#define C(name) __typeof__(name) *name;
static struct { SLIRP_CALLS(C) } lib;
#undef C

static bool load_library(void)
{
	void *handle = dlopen("libslirp.so.0", RTLD_NOW | RTLD_LOCAL);
	const struct { const char *name; void **to; } row[] = {
#define C(name) { #name, (void **)&lib.name },
		SLIRP_CALLS(C)
#undef C
	};

	for (unsigned i = 0; handle && i < array_len(row); i++)
		if (!(*row[i].to = dlsym(handle, row[i].name)))
			handle = NULL;
	if (!handle)
		log_error("--net user: %s; install libslirp0", dlerror());
	return handle;
}

struct timer {
	SlirpTimerCb fire;
	void *opaque;
	i64 at_ms;   /* -1: not armed */
	bool used;
};

struct user {
	Slirp *slirp;
	struct net_queue out;
	struct net_merge merge;
	struct pollfd *fds;
	unsigned nfds, cap;
	struct timer timers[MAX_TIMERS];
	bool gone;
};

static i64 now_ns(void *opaque)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (i64)t.tv_sec * (i64)NSEC_PER_SEC + t.tv_nsec;
}

/* ---- libslirp's wishes ---- */
static void emit(void *opaque, const struct net_hdr *h, const u8 *frame, u32 len)
{
	struct user *u = opaque;

	if (net_queue_send(&u->out, NET_HELPER_FD, h, frame, len) < 0)
		u->gone = true;
}

static ssize_t send_packet(const void *buf, size_t len, void *opaque)
{
	struct user *u = opaque;

	if (len >= NET_ETH_BYTES && len <= NET_FRAME_MAX)
		net_merge_add(&u->merge, buf, (u32)len);
	return (ssize_t)len;
}

static void guest_error(const char *msg, void *opaque) { log_debug("user network: %s", msg); }

static void *timer_new(SlirpTimerCb fire, void *cb_opaque, void *opaque)
{
	struct user *u = opaque;

	for (unsigned i = 0; i < MAX_TIMERS; i++)
		if (!u->timers[i].used) {
			u->timers[i] = (struct timer){ fire, cb_opaque, -1, true };
			return &u->timers[i];
		}
	bug_if(true); /* this version of libslirp has one */
	return NULL;
}

static void timer_free(void *timer, void *opaque) { ((struct timer *)timer)->used = false; }
static void timer_mod(void *timer, int64_t at_ms, void *opaque) { ((struct timer *)timer)->at_ms = at_ms; }
static void no_fd(int fd, void *opaque) {}
static void no_notify(void *opaque) {}

static const SlirpCb callbacks = { .send_packet = send_packet, .guest_error = guest_error, .clock_get_ns = now_ns, .timer_new = timer_new,
	.timer_free = timer_free, .timer_mod = timer_mod, .register_poll_fd = no_fd, .unregister_poll_fd = no_fd, .notify = no_notify };

/* ---- waiting ---- */
static const struct { short poll; int slirp; } event_rows[] = {
	{ POLLIN, SLIRP_POLL_IN }, { POLLOUT, SLIRP_POLL_OUT }, { POLLPRI, SLIRP_POLL_PRI }, { POLLERR, SLIRP_POLL_ERR }, { POLLHUP, SLIRP_POLL_HUP },
};

static int add_poll(int fd, int events, void *opaque)
{
	struct user *u = opaque;
	short wanted = 0;

	if (u->nfds == u->cap) {
		u->cap = u->cap ? 2 * u->cap : 64;
		u->fds = realloc(u->fds, u->cap * sizeof(*u->fds));
		bug_if(!u->fds);
	}
	for (unsigned i = 0; i < array_len(event_rows); i++)
		if (events & event_rows[i].slirp)
			wanted |= event_rows[i].poll;
	u->fds[u->nfds] = (struct pollfd){ fd, wanted, 0 };
	return (int)u->nfds++;
}

static int get_revents(int index, void *opaque)
{
	struct user *u = opaque;
	int events = 0;

	for (unsigned i = 0; i < array_len(event_rows); i++)
		if (u->fds[index].revents & event_rows[i].poll)
			events |= event_rows[i].slirp;
	return events;
}

static int next_timeout(const struct user *u, u32 timeout)
{
	i64 now = now_ns(NULL) / 1000000, best = timeout > 60000 ? 60000 : timeout;

	for (unsigned i = 0; i < MAX_TIMERS; i++)
		if (u->timers[i].used && u->timers[i].at_ms >= 0 && u->timers[i].at_ms - now < best)
			best = u->timers[i].at_ms > now ? u->timers[i].at_ms - now : 0;
	return (int)best;
}

static void run_timers(struct user *u)
{
	i64 now = now_ns(NULL) / 1000000;

	for (unsigned i = 0; i < MAX_TIMERS; i++) {
		struct timer *t = &u->timers[i];

		if (!t->used || t->at_ms < 0 || t->at_ms > now)
			continue;
		t->at_ms = -1;
		t->fire(t->opaque);
	}
}

/* ---- frames from the guest ---- */
static void input_piece(void *opaque, const struct net_hdr *h, const u8 *frame, u32 len)
{
	struct user *u = opaque;

	lib.slirp_input(u->slirp, frame, (int)len);
}

static void input(struct user *u, struct net_hdr *h, u8 *frame, u32 len)
{
	struct net_layers l;

	if (h->gso_type == NET_GSO_UDP_L4) {
		net_segment(h, frame, len, input_piece, u);
		return;
	}
	/* One long packet: its checksum begins with its own length. */
	if (h->gso_type && net_parse(frame, len, &l))
		net_put16(frame + h->csum_start + h->csum_offset, net_pseudo_sum(frame, &l, l.end - l.l4));
	net_finish_csum(h, frame, len);
	lib.slirp_input(u->slirp, frame, (int)len);
}

static void read_frames(struct user *u)
{
	static u8 buf[NET_HDR_BYTES + NET_FRAME_MAX];
	struct net_hdr h;

	for (unsigned i = 0; i < ROUND; i++) {
		ssize_t n = read(NET_HELPER_FD, buf, sizeof(buf));

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			u->gone = true;
			return;
		}
		if (n < NET_HDR_BYTES + NET_ETH_BYTES)
			continue;
		memcpy(&h, buf, sizeof(h));
		if (net_hdr_valid(&h, buf + NET_HDR_BYTES, (u32)n - NET_HDR_BYTES))
			input(u, &h, buf + NET_HDR_BYTES, (u32)n - NET_HDR_BYTES);
	}
}

/* While frames wait for the guest, the outside waits too. */
static void loop(struct user *u)
{
	while (!u->gone) {
		u32 timeout = UINT32_MAX;
		bool full = u->out.bytes > NET_QUEUE_BYTES / 2;

		u->nfds = 0;
		add_poll(NET_HELPER_FD, SLIRP_POLL_IN | (u->out.first ? SLIRP_POLL_OUT : 0), u);
		if (!full)
			lib.slirp_pollfds_fill(u->slirp, &timeout, add_poll, u);
		int n = poll(u->fds, u->nfds, next_timeout(u, timeout));

		if (u->fds[0].revents & POLLOUT && net_queue_flush(&u->out, NET_HELPER_FD) < 0)
			return;
		if (!full)
			lib.slirp_pollfds_poll(u->slirp, n < 0, get_revents, u);
		run_timers(u);
		if (u->fds[0].revents & (POLLIN | POLLHUP | POLLERR))
			read_frames(u);
		net_merge_flush(&u->merge);
	}
}

/* ---- start ---- */
static int add_forwards(struct user *u, const struct net_spec *s)
{
	for (unsigned i = 0; i < s->nforwards; i++) {
		const struct net_forward *f = &s->forward[i];

		if (!lib.slirp_add_hostfwd(u->slirp, f->udp, f->host, f->host_port, f->guest, f->guest_port))
			continue;
		int err = errno;

		log_error("--net \"%s\": cannot listen on %s port %u of %s: %s; choose another host port", s->text, f->udp ? "udp" : "tcp",
			  f->host_port, inet_ntoa(f->host), strerror(err));
		return -err;
	}
	return 0;
}

static int create(struct user *u, const struct net_spec *s)
{
	SlirpConfig cfg = { .version = 1, .restricted = s->restricted, .in_enabled = true, .in6_enabled = true, .vprefix_len = 64,
		.vhostname = "nestbox" };

	inet_pton(AF_INET, "10.0.2.0", &cfg.vnetwork);
	inet_pton(AF_INET, "255.255.255.0", &cfg.vnetmask);
	inet_pton(AF_INET, "10.0.2.2", &cfg.vhost);
	inet_pton(AF_INET, "10.0.2.15", &cfg.vdhcp_start);
	inet_pton(AF_INET, "10.0.2.3", &cfg.vnameserver);
	inet_pton(AF_INET6, "fec0::", &cfg.vprefix_addr6);
	inet_pton(AF_INET6, "fec0::2", &cfg.vhost6);
	inet_pton(AF_INET6, "fec0::3", &cfg.vnameserver6);
	u->slirp = lib.slirp_new(&cfg, &callbacks, u);
	if (!u->slirp) {
		log_error("--net \"%s\": libslirp does not start", s->text);
		return -EINVAL;
	}
	return add_forwards(u, s);
}

/* The folder of the file that /etc/resolv.conf points to may be another. */
static int confine(void)
{
	static const int calls[] = {
		SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(writev), SCMP_SYS(readv), SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(close), SCMP_SYS(fstat),
		SCMP_SYS(newfstatat), SCMP_SYS(stat), SCMP_SYS(lseek), SCMP_SYS(fcntl), SCMP_SYS(ioctl), SCMP_SYS(mmap), SCMP_SYS(munmap),
		SCMP_SYS(mremap), SCMP_SYS(mprotect), SCMP_SYS(madvise), SCMP_SYS(brk), SCMP_SYS(futex), SCMP_SYS(rt_sigreturn),
		SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigaction), SCMP_SYS(restart_syscall), SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(getpid),
		SCMP_SYS(gettid), SCMP_SYS(tgkill), SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(getrandom), SCMP_SYS(time),
		/* the guest's connections */
		SCMP_SYS(socket), SCMP_SYS(connect), SCMP_SYS(bind), SCMP_SYS(listen), SCMP_SYS(accept), SCMP_SYS(accept4), SCMP_SYS(shutdown),
		SCMP_SYS(sendto), SCMP_SYS(recvfrom), SCMP_SYS(sendmsg), SCMP_SYS(recvmsg), SCMP_SYS(getsockopt), SCMP_SYS(setsockopt),
		SCMP_SYS(getsockname), SCMP_SYS(getpeername),
	};
	static char real[4096];
	const char *readable[] = { "/etc", real, NULL };

	if (realpath("/etc/resolv.conf", real) && strrchr(real, '/') != real)
		*strrchr(real, '/') = 0;
	else
		readable[1] = NULL;
	return net_helper_confine(calls, array_len(calls), readable);
}

int net_user_main(int argc, char **argv)
{
	static struct user u;
	struct net_spec s;
	char err[256];
	u8 ready = 1;

	if (argc != 3 || net_spec_parse(&s, argv[2], err, sizeof(err)))
		return 2;
	signal(SIGPIPE, SIG_IGN);
	net_helper_detach(true);
	net_queue_init(&u.out);
	u.merge = (struct net_merge){ .frame = malloc(NET_FRAME_MAX), .trusted = true, .emit = emit, .opaque = &u };
	if (!u.merge.frame || !load_library() || create(&u, &s))
		return 2;
	int failed = confine();

	if (failed) {
		log_error("--net \"%s\": cannot confine the user-mode network process: %s", s.text, strerror(-failed));
		return 2;
	}
	if (write(NET_HELPER_FD, &ready, 1) != 1 || fcntl(NET_HELPER_FD, F_SETFL, O_NONBLOCK) < 0)
		return 2;
	loop(&u);
	return 0;
}
