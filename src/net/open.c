/* Back-ends, each as a way to get a descriptor: user mode, TAP, a stream socket, the switch. */
#include "net/open.h"
#include "base/log.h"
#include "net/helper.h"
#include "net/switch.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* Datagram sockets hold what is on its way; some frames of 64 KiB should have room. */
enum { SOCKET_BYTES = 1 << 20, JOIN_TRIES = 5 };

static int fail(const struct net_spec *s, int err, const char *what, const char *which, const char *advice)
{
	log_error("--net \"%s\": %s%s%s%s: %s%s", s->text, what, *which ? " \"" : "", which, *which ? "\"" : "", strerror(err), advice);
	return -err;
}

static void enlarge(int fd)
{
	int n = SOCKET_BYTES;

	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &n, sizeof(n));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &n, sizeof(n));
}

/* ---- user ---- */
static int open_user(struct net_port *p, const struct net_spec *s)
{
	int pair[2], err;
	u8 answer;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return fail(s, errno, "cannot make a socket", "", "");
	enlarge(pair[0]);
	enlarge(pair[1]);
	err = net_helper_spawn("net-user", p->name, s->text, pair[1], -1);
	close(pair[1]);
	if (!err) {
		err = net_helper_wait(pair[0], &answer);
		if (err == -ETIMEDOUT)
			log_error("--net \"%s\": the user-mode network process does not answer", s->text);
	}
	if (err) {
		close(pair[0]);
		return err;
	}
	p->fd = pair[0];
	p->trusted = true;
	snprintf(p->peer, sizeof(p->peer), "user-mode network");
	return 0;
}

/* ---- tap ---- */
static int set_tap(int fd, const char *ifname)
{
	struct ifreq r = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int hdr = NET_HDR_BYTES;

	memcpy(r.ifr_name, ifname, strlen(ifname));
	if (ioctl(fd, TUNSETIFF, &r) || ioctl(fd, TUNSETVNETHDRSZ, &hdr))
		return errno;
	return ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN) ? errno : 0;
}

static int open_tap(struct net_port *p, const struct net_spec *s)
{
	char advice[160];
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK), err = fd < 0 ? errno : set_tap(fd, s->ifname);

	if (err) {
		if (fd >= 0)
			close(fd);
		snprintf(advice, sizeof(advice), "; as root: ip tuntap add dev %s mode tap user %u", s->ifname, (unsigned)getuid());
		return fail(s, err, fd < 0 ? "cannot open /dev/net/tun for TAP device" : "cannot use TAP device", s->ifname,
			    err == EBUSY ? "; another program has it" : err == EPERM || err == EACCES ? advice : "");
	}
	p->fd = fd;
	snprintf(p->peer, sizeof(p->peer), "TAP device %s", s->ifname);
	return 0;
}

/* ---- socket ---- */
static void address(struct sockaddr_un *a, const char *path)
{
	memset(a, 0, sizeof(*a));
	a->sun_family = AF_UNIX;
	memcpy(a->sun_path, path, strlen(path));
}

/* A socket file that nobody listens on (any more) may go; anything else may not. */
static bool stale(const char *path, int type)
{
	struct sockaddr_un a;
	struct stat st;
	int fd;
	bool dead;

	if (lstat(path, &st) || !S_ISSOCK(st.st_mode))
		return false;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	address(&a, path);
	dead = fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) && errno == ECONNREFUSED;
	if (fd >= 0)
		close(fd);
	return dead;
}

/* Only this user may connect. */
static int listen_at(const char *path, int type)
{
	struct sockaddr_un a;
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), err = 0;
	mode_t old;

	if (fd < 0)
		return -errno;
	if (stale(path, type))
		unlink(path);
	address(&a, path);
	old = umask(077);
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 16))
		err = errno;
	umask(old);
	if (err)
		close(fd);
	return err ? -err : fd;
}

static int connect_to(const char *path, int type)
{
	struct sockaddr_un a;
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0), err;

	if (fd < 0)
		return -errno;
	address(&a, path);
	if (!connect(fd, (struct sockaddr *)&a, sizeof(a)))
		return fd;
	err = errno;
	close(fd);
	return -err;
}

static int open_socket(struct net_port *p, const struct net_spec *s)
{
	int fd = s->server ? listen_at(s->path, SOCK_STREAM) : connect_to(s->path, SOCK_STREAM);

	if (fd < 0)
		return fail(s, -fd, s->server ? "cannot listen at" : "cannot connect to", s->path,
			    s->server || (fd != -ENOENT && fd != -ECONNREFUSED) ? "" : "; start the other side first, or say server=on");
	p->framing = NET_FRAMING_STREAM;
	*(s->server ? &p->listen_fd : &p->fd) = fd;
	fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
	snprintf(p->peer, sizeof(p->peer), "socket %s", s->path);
	return 0;
}

/* ---- switch ---- */

/* Folder of switches that have only a name; made when it is missing. */
static int switch_path(const struct net_spec *s, char *path, size_t size)
{
	const char *run = getenv("XDG_RUNTIME_DIR");
	char dir[128];
	struct stat st;
	int n;

	if (*s->path)
		return snprintf(path, size, "%s", s->path) < size ? 0 : -ENAMETOOLONG;
	if (run && *run == '/' && strlen(run) < 40)
		snprintf(dir, sizeof(dir), "%s/nestbox", run);
	else
		snprintf(dir, sizeof(dir), "/tmp/nestbox-%u", (unsigned)getuid());
	if (mkdir(dir, 0700) && errno != EEXIST)
		return -errno;
	if (lstat(dir, &st) || !S_ISDIR(st.st_mode) || st.st_uid != getuid())
		return -EPERM; /* somebody else's */
	n = snprintf(path, size, "%s/switch-%s", dir, s->name);
	return n < size ? 0 : -ENAMETOOLONG;
}

static int lock_folder(const char *path)
{
	char copy[NET_PATH_MAX + 1];
	int fd;

	snprintf(copy, sizeof(copy), "%s", path);
	fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX)) {
		int err = errno;

		close(fd);
		return -err;
	}
	return fd;
}

/* Connects, starting the switch when there is none. The switch gets its own description of the folder, since a lock belongs to that. */
static int join(struct net_port *p, const char *path)
{
	int fd = connect_to(path, SOCK_SEQPACKET), listener, dir, err;
	char copy[NET_PATH_MAX + 1];

	if (fd != -ENOENT && fd != -ECONNREFUSED)
		return fd;
	listener = listen_at(path, SOCK_SEQPACKET);
	if (listener < 0)
		return listener;
	snprintf(copy, sizeof(copy), "%s", path);
	dir = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	err = dir < 0 ? -errno : net_helper_spawn("net-switch", p->name, path, listener, dir);
	close(listener);
	if (dir >= 0)
		close(dir);
	return err ? err : connect_to(path, SOCK_SEQPACKET);
}

static int hello(int fd, const struct net_spec *s, const u8 *mac, u8 *answer)
{
	struct net_switch_hello h = { .magic = NET_SWITCH_MAGIC, .version = NET_SWITCH_VERSION, .mac_spoofing = s->mac_spoofing };

	memcpy(h.mac, mac, NET_MAC_BYTES);
	if (write(fd, &h, sizeof(h)) != sizeof(h))
		return -errno;
	return net_helper_wait(fd, answer);
}

static int refused(const struct net_spec *s, const u8 *mac, u8 answer)
{
	const char *why = answer == NET_SWITCH_MAC_TAKEN ? "another port has this MAC; give each machine its own by mac=" :
			  answer == NET_SWITCH_FULL ? "all its ports are taken" : "it is of another version";

	log_error("--net \"%s\": the switch refuses MAC %02x:%02x:%02x:%02x:%02x:%02x: %s", s->text, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], why);
	return -EADDRINUSE;
}

static int open_switch(struct net_port *p, const struct net_spec *s, const u8 *mac)
{
	char path[NET_PATH_MAX + 1];
	int err = switch_path(s, path, sizeof(path)), lock = err ? err : lock_folder(path), fd;
	u8 answer = 0;

	if (lock < 0)
		return fail(s, -lock, "cannot use the switch's folder", "", "");
	fd = join(p, path);
	if (fd >= 0)
		enlarge(fd);
	err = fd < 0 ? fd : hello(fd, s, mac, &answer);
	close(lock);
	if (err)
		err = fail(s, -err, "cannot use switch", path, "");
	else if (answer != NET_SWITCH_WELCOME)
		err = refused(s, mac, answer);
	if (err) {
		if (fd >= 0)
			close(fd);
		return err;
	}
	p->fd = fd;
	snprintf(p->peer, sizeof(p->peer), "switch %s", path);
	return 0;
}

int net_open(struct net_port *p, const struct net_spec *s, const char *name, const u8 *mac)
{
	int err = -EINVAL;

	memset(p, 0, sizeof(*p));
	p->fd = p->listen_fd = p->wake_fd = -1;
	snprintf(p->name, sizeof(p->name), "%s", name);
	switch (s->kind) {
	case NET_KIND_USER: err = open_user(p, s); break;
	case NET_KIND_TAP: err = open_tap(p, s); break;
	case NET_KIND_SOCKET: err = open_socket(p, s); break;
	case NET_KIND_SWITCH: err = open_switch(p, s, mac); break;
	case NET_KINDS: break;
	}
	if (!err && p->fd >= 0)
		fcntl(p->fd, F_SETFL, O_RDWR | O_NONBLOCK);
	return err;
}

/* FNV-1a, spread over the 40 bits that a locally administered address leaves. */
void net_default_mac(u8 *mac, const char *identity, unsigned number)
{
	u64 h = 0xcbf29ce484222325ull;

	for (const char *c = identity; *c; c++)
		h = (h ^ (u8)*c) * 0x100000001b3ull;
	if (!*identity && getrandom(&h, sizeof(h), 0) != sizeof(h))
		h ^= (u64)getpid();
	h = (h ^ (h >> 29)) * 0x9e3779b97f4a7c15ull + number;
	mac[0] = 0x02;
	net_put32(mac + 1, (u32)(h >> 8));
	mac[5] = (u8)h;
}
