/* Process 1 of `nestbox kvm`'s guest: modules, the host's root file system under a layer of memory, the writable folders, then sessions. Everything is in
 * the initial RAM disk: /init is this program, /modules/order names the modules in the order to load them. */
#include "agent/guest/helper.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void die(const char *what)
{
	printf("nestbox guest: %s: %s\n", what, strerror(errno));
	fflush(stdout);
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

static void must_mount(const char *from, const char *to, const char *type, unsigned long flags, const char *options)
{
	mkdir(to, 0755);
	if (mount(from, to, type, flags, options))
		die(to);
}

static void load_modules(void)
{
	char line[256], path[300];
	FILE *order = fopen("/modules/order", "r");
	if (!order)
		die("/modules/order");
	while (fgets(line, sizeof line, order)) {
		char *args = strchr(line, ' ');
		line[strcspn(line, "\n")] = 0;
		if (args)
			*args++ = 0;
		snprintf(path, sizeof path, "/modules/%s.ko", line);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || (syscall(SYS_finit_module, fd, args ? args : "", 0) && errno != EEXIST))
			printf("nestbox guest: module %s: %s\n", line, strerror(errno));
		close(fd);
	}
	fclose(order);
}

static void loopback_up(void)
{
	struct ifreq r = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &r))
		printf("nestbox guest: lo: %s\n", strerror(errno));
	close(fd);
}

/* The host's root, read-only, with a layer in memory above it. */
static void make_root(void)
{
	must_mount("root", "/lower", "virtiofs", MS_RDONLY, NULL);
	must_mount("rw", "/rw", "tmpfs", 0, "mode=0755");
	mkdir("/rw/upper", 0755);
	mkdir("/rw/work", 0755);
	must_mount("overlay", "/newroot", "overlay", 0, "lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work");
	static const struct { const char *type, *to, *options; } more[] = {
		{ "devtmpfs", "/newroot/dev", "mode=0755" }, { "devpts", "/newroot/dev/pts", "gid=5,mode=620,ptmxmode=666" }, { "tmpfs", "/newroot/dev/shm", "mode=1777" },
		{ "proc", "/newroot/proc", NULL }, { "sysfs", "/newroot/sys", NULL }, { "tmpfs", "/newroot/run", "mode=0755" },
	};
	for (unsigned i = 0; i < sizeof more / sizeof more[0]; i++)
		must_mount(more[i].type, more[i].to, more[i].type, MS_NOSUID, more[i].options);
	mount("cgroup2", "/newroot/sys/fs/cgroup", "cgroup2", 0, NULL);
}

/* TAG:PATH; the folder is there, for it is the host's. */
static void mount_folder(const char *spec)
{
	char tag[64], path[4200];
	const char *colon = strchr(spec, ':');
	if (!colon || colon - spec >= (long)sizeof tag)
		return;
	snprintf(tag, sizeof tag, "%.*s", (int)(colon - spec), spec);
	snprintf(path, sizeof path, "/newroot%s", colon + 1);
	if (mount(tag, path, "virtiofs", 0, NULL))
		die(path);
}

static void enter_root(void)
{
	if (chdir("/newroot") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		die("/newroot");
	static const char *const links[][2] = { { "/proc/self/fd", "/dev/fd" }, { "/proc/self/fd/0", "/dev/stdin" }, { "/proc/self/fd/1", "/dev/stdout" },
		{ "/proc/self/fd/2", "/dev/stderr" } };
	for (unsigned i = 0; i < 4; i++)
		symlink(links[i][0], links[i][1]);
	static const char *const open_to_all[] = { "/dev/kvm", "/dev/net/tun", "/dev/vhost-net", "/dev/vhost-vsock", "/dev/fuse" };
	for (unsigned i = 0; i < 5; i++)
		chmod(open_to_all[i], 0666);
	mkdir("/run/lock", 01777);
	chmod("/run/lock", 01777);
}

static bool wait_for_host(struct port *p)
{
	for (;;) {
		struct pollfd f = { .fd = p->fd, .events = POLLIN };
		poll(&f, 1, 0);
		if (!(f.revents & POLLHUP))
			return true;
		usleep(50000); /* a port without a host is always ready: nothing to wait on */
	}
}

static void hello(struct port *p)
{
	uint32_t version = FRAME_VERSION;
	*p = (struct port){ .fd = p->fd };
	port_put(p, FRAME_HELLO, &version, sizeof version);
	port_flush(p);
}

/* Sessions on one port, for ever. */
static void serve(unsigned n)
{
	static struct port p;
	struct request r;
	for (;;) {
		p.fd = port_open(n);
		if (p.fd < 0) {
			sleep(1);
			continue;
		}
		if (wait_for_host(&p)) {
			hello(&p);
			if (request_read(&p, &r))
				session_run(&p, &r, false);
		}
		/* The host closes when it has read the end. */
		while (!p.gone && p.fd >= 0) {
			struct pollfd f = { .fd = p.fd, .events = POLLIN };
			poll(&f, 1, -1);
			p.in_len = 0;
			port_read(&p);
			p.gone |= (f.revents & POLLHUP) != 0;
		}
		close(p.fd);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}

void boot_main(void)
{
	static struct port p;
	struct request r;
	mkdir("/dev", 0755);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	must_mount("proc", "/proc", "proc", 0, NULL);
	must_mount("sysfs", "/sys", "sysfs", 0, NULL);
	load_modules();
	for (unsigned i = 0; (p.fd = port_open(0)) < 0; i++) {
		if (i == 5000)
			die("port org.nestbox.exec.0");
		usleep(2000);
	}
	hello(&p);
	make_root();
	loopback_up();
	if (!request_read(&p, &r))
		die("the host has gone");
	for (unsigned i = 0; i < r.nmount; i++)
		mount_folder(r.mount[i]);
	if (r.host)
		sethostname(r.host, strlen(r.host));
	enter_root();
	session_run(&p, &r, true);
	for (unsigned n = 1; n < 4; n++)
		if (fork() == 0)
			serve(n);
	if (fork() == 0) {
		close(p.fd);
		serve(0);
	}
	close(p.fd);
	for (;;)
		if (waitpid(-1, NULL, 0) < 0)
			pause();
}
