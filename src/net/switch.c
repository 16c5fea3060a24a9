/* The virtual switch between VMs of one host: a process of its own, started by the first VM that wants it, ended by itself when the last has gone.
 * It learns where MACs are, and enforces once more, whatever has become of a VM's process, that a port without mac_spoofing sends only from its own
 * MAC and gets only what is for it. Not here: who starts it (open.c). Surprise: a port's first message (switch.h) binds its MAC for good. */
#include "net/switch.h"
#include "base/log.h"
#include "net/helper.h"
#include "net/queue.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_PORTS = 64, ROUND = 32, LEARNED = 1024, IDLE_MS = 1000 };

struct port {
	int fd;            /* -1: free */
	bool plugged;      /* has said hello */
	bool mac_spoofing;
	u8 mac[NET_MAC_BYTES];
	struct net_queue out;
};

/* Where a foreign MAC was last seen; one place per hash value, the newest wins. */
struct learned {
	u8 mac[NET_MAC_BYTES];
	u16 port;          /* number + 1; 0: empty */
};

static struct {
	const char *path;
	struct port port[MAX_PORTS];
	struct learned learned[LEARNED];
	u8 buf[NET_HDR_BYTES + NET_FRAME_MAX];
} sw;

static bool mac_equal(const u8 *a, const u8 *b) { return !memcmp(a, b, NET_MAC_BYTES); }
static struct learned *place(const u8 *mac) { return &sw.learned[(net_get32(mac + 2) * 2654435761u >> 16) % LEARNED]; }

static void unplug(struct port *p)
{
	unsigned number = (unsigned)(p - sw.port);

	for (unsigned i = 0; i < LEARNED; i++)
		if (sw.learned[i].port == number + 1)
			sw.learned[i].port = 0;
	close(p->fd);
	net_queue_free(&p->out);
	p->fd = -1;
}

static void deliver(struct port *to, const struct net_hdr *h, const u8 *frame, u32 len)
{
	if (net_queue_send(&to->out, to->fd, h, frame, len) < 0)
		unplug(to);
}

/* The port whose own MAC it is, or where it was seen; NULL: unknown. */
static struct port *owner(const u8 *mac)
{
	for (unsigned i = 0; i < MAX_PORTS; i++)
		if (sw.port[i].fd >= 0 && sw.port[i].plugged && mac_equal(sw.port[i].mac, mac))
			return &sw.port[i];
	const struct learned *l = place(mac);

	return l->port && mac_equal(l->mac, mac) ? &sw.port[l->port - 1] : NULL;
}

static void flood(const struct port *from, const struct net_hdr *h, const u8 *frame, u32 len)
{
	for (unsigned i = 0; i < MAX_PORTS; i++) {
		struct port *p = &sw.port[i];

		if (p != from && p->fd >= 0 && p->plugged && (p->mac_spoofing || net_is_multicast(frame)))
			deliver(p, h, frame, len);
	}
}

static void forward(struct port *from, const struct net_hdr *h, const u8 *frame, u32 len)
{
	const u8 *source = frame + NET_MAC_BYTES;
	struct port *to;

	if (!mac_equal(source, from->mac)) {
		if (!from->mac_spoofing || net_is_multicast(source))
			return;
		struct learned *l = place(source);

		memcpy(l->mac, source, NET_MAC_BYTES);
		l->port = (u16)(from - sw.port + 1);
	}
	to = net_is_multicast(frame) ? NULL : owner(frame);
	if (!to)
		flood(from, h, frame, len);
	else if (to != from)
		deliver(to, h, frame, len);
}

static u8 greet(struct port *p, ssize_t n)
{
	struct net_switch_hello hello;

	memcpy(&hello, sw.buf, sizeof(hello));
	if (n != sizeof(hello) || hello.magic != NET_SWITCH_MAGIC || hello.version != NET_SWITCH_VERSION)
		return NET_SWITCH_BAD_HELLO;
	for (unsigned i = 0; i < MAX_PORTS; i++)
		if (sw.port[i].fd >= 0 && sw.port[i].plugged && mac_equal(sw.port[i].mac, hello.mac))
			return NET_SWITCH_MAC_TAKEN;
	memcpy(p->mac, hello.mac, NET_MAC_BYTES);
	p->mac_spoofing = hello.mac_spoofing;
	p->plugged = true;
	return NET_SWITCH_WELCOME;
}

static void plug(struct port *p, ssize_t n)
{
	u8 answer = greet(p, n);

	if (write(p->fd, &answer, 1) != 1 || answer != NET_SWITCH_WELCOME)
		unplug(p);
}

static void read_port(struct port *p)
{
	struct net_hdr h;

	for (unsigned i = 0; i < ROUND && p->fd >= 0; i++) {
		ssize_t n = read(p->fd, sw.buf, sizeof(sw.buf));

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			unplug(p);
			return;
		}
		if (!p->plugged) {
			plug(p, n);
			continue;
		}
		if (n < NET_HDR_BYTES + NET_ETH_BYTES)
			continue;
		memcpy(&h, sw.buf, sizeof(h));
		if (net_hdr_valid(&h, sw.buf + NET_HDR_BYTES, (u32)n - NET_HDR_BYTES))
			forward(p, &h, sw.buf + NET_HDR_BYTES, (u32)n - NET_HDR_BYTES);
	}
}

static void accept_port(void)
{
	const u8 full = NET_SWITCH_FULL;
	int fd = accept4(NET_HELPER_FD, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	for (unsigned i = 0; i < MAX_PORTS && fd >= 0; i++)
		if (sw.port[i].fd < 0) {
			sw.port[i] = (struct port){ .fd = fd };
			net_queue_init(&sw.port[i].out);
			return;
		}
	if (fd >= 0 && write(fd, &full, 1) < 0)
		log_debug("switch: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
}

static unsigned ports(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < MAX_PORTS; i++)
		n += sw.port[i].fd >= 0;
	return n;
}

/* Who starts or joins a switch holds the folder's lock meanwhile; so under the lock, with no port, nobody can be about to come. */
static bool may_end(void)
{
	struct pollfd p = { NET_HELPER_FD, POLLIN, 0 };

	if (ports() || flock(NET_HELPER_DIR_FD, LOCK_EX | LOCK_NB))
		return false;
	if (poll(&p, 1, 0) == 0) {
		unlink(sw.path);
		return true;
	}
	flock(NET_HELPER_DIR_FD, LOCK_UN);
	return false;
}

static void loop(void)
{
	struct pollfd fds[MAX_PORTS + 1];

	for (;;) {
		for (unsigned i = 0; i < MAX_PORTS; i++)
			fds[i] = (struct pollfd){ sw.port[i].fd, (short)(POLLIN | (sw.port[i].out.first ? POLLOUT : 0)), 0 };
		fds[MAX_PORTS] = (struct pollfd){ NET_HELPER_FD, POLLIN, 0 };
		if (poll(fds, array_len(fds), ports() ? -1 : IDLE_MS) == 0 && may_end())
			return;
		for (unsigned i = 0; i < MAX_PORTS; i++) {
			struct port *p = &sw.port[i];

			if (p->fd != fds[i].fd || p->fd < 0)
				continue;
			if (fds[i].revents & POLLOUT && net_queue_flush(&p->out, p->fd) < 0)
				unplug(p);
			else if (fds[i].revents & (POLLIN | POLLHUP | POLLERR))
				read_port(p);
		}
		if (fds[MAX_PORTS].revents)
			accept_port();
	}
}

static int confine(void)
{
	static const int calls[] = {
		SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(writev), SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(close), SCMP_SYS(accept4), SCMP_SYS(flock),
		SCMP_SYS(unlink), SCMP_SYS(mmap), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(mprotect), SCMP_SYS(madvise), SCMP_SYS(brk),
		SCMP_SYS(futex), SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigprocmask), SCMP_SYS(restart_syscall), SCMP_SYS(exit_group), SCMP_SYS(fstat),
		SCMP_SYS(newfstatat), SCMP_SYS(getrandom), SCMP_SYS(clock_gettime), SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(tgkill),
	};

	return net_helper_confine(calls, array_len(calls), NULL);
}

/* argv: the verb, the name in messages, the socket's path. Descriptor 3 listens there already, 4 is its folder. */
int net_switch_main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	sw.path = argv[2];
	for (unsigned i = 0; i < MAX_PORTS; i++)
		sw.port[i].fd = -1;
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	net_helper_detach(false);
	fcntl(NET_HELPER_FD, F_SETFL, O_NONBLOCK);
	if (confine())
		return 2;
	loop();
	return 0;
}
