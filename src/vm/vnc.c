/* VNC: the VM's side. Surprise: pictures are drawn only when the helper asks, which it does only while somebody watches. */
#include "vm/vnc.h"
#include "base/log.h"
#include "dev/i8042.h"
#include "dev/vga.h"
#include "vm/vm.h"
#include "vm/vnc_proto.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

struct vnc {
	struct vm *vm;
	int sock;               /* to the helper; -1: gone */
	struct loop_fd *watch;
	pid_t pid;
	u32 *pixels;            /* shared; VNC_MAX_WIDTH * VNC_MAX_HEIGHT */
	struct vga_picture picture;
};

#define PIXEL_BYTES ((size_t)VNC_MAX_WIDTH * VNC_MAX_HEIGHT * 4)

static int complain(const char *where, int err, const char *what)
{
	log_error("--vnc \"%s\": %s", where, what);
	return -err;
}

static int listen_unix(const char *where)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	const char *path = where + strlen("unix:");
	if (!*path || strlen(path) >= sizeof a.sun_path)
		return complain(where, EINVAL, "the path must have 1 to 107 bytes");
	strcpy(a.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	mode_t old = umask(0077);
	int err = fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 8) ? errno : 0;
	umask(old);
	if (!err)
		return fd;
	if (fd >= 0)
		close(fd);
	return complain(where, err, err == EADDRINUSE ? "exists already; remove it, or choose another path" : strerror(err));
}

static int bind_first(const struct addrinfo *list)
{
	int err = EADDRNOTAVAIL;
	for (const struct addrinfo *i = list; i; i = i->ai_next) {
		int one = 1, fd = socket(i->ai_family, i->ai_socktype | SOCK_CLOEXEC, i->ai_protocol);
		if (fd >= 0 && !setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) && !bind(fd, i->ai_addr, i->ai_addrlen) && !listen(fd, 8))
			return fd;
		err = errno;
		if (fd >= 0)
			close(fd);
	}
	return -err;
}

static int listen_tcp(const char *where)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE }, *list = NULL;
	const char *colon = strrchr(where, ':');
	char host[256], *end;
	long port = colon ? strtol(colon + 1, &end, 10) : 0;
	if (!colon || colon == where || colon - where >= (long)sizeof host || *end || port < 1 || port > 65535)
		return complain(where, EINVAL, "must be unix:PATH or HOST:PORT with a port from 1 to 65535");
	snprintf(host, sizeof host, "%.*s", (int)(colon - where), where);
	int r = getaddrinfo(host, colon + 1, &hints, &list);
	if (r)
		return complain(where, EINVAL, gai_strerror(r));
	int fd = bind_first(list);
	freeaddrinfo(list);
	if (fd == -EADDRINUSE)
		return complain(where, EADDRINUSE, "the port is in use; choose another one");
	return fd < 0 ? complain(where, -fd, strerror(-fd)) : fd;
}

/* ---- the helper ---- */

/* Beside this program. */
static bool helper_path(char *out, size_t size)
{
	ssize_t n = readlink("/proc/self/exe", out, size - 1);
	if (n <= 0)
		return false;
	out[n] = 0;
	char *slash = strrchr(out, '/');
	return slash && snprintf(slash + 1, size - (size_t)(slash + 1 - out), "nestbox-vnc") < (int)(size - (size_t)(slash + 1 - out));
}

/* The child. Never returns. */
static void become_helper(const char *path, int vm, int listener, int pixels)
{
	int fds[] = { vm, listener, pixels };
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setpgid(0, 0); /* Ctrl-C is for the VM */
	for (unsigned i = 0; i < array_len(fds); i++) /* out of the way first */
		fds[i] = fcntl(fds[i], F_DUPFD, 16);
	for (unsigned i = 0; i < array_len(fds); i++)
		dup2(fds[i], VNC_FD_VM + (int)i);
	syscall(SYS_close_range, VNC_FD_PIXELS + 1, ~0u, 0);
	execl(path, "nestbox-vnc", (char *)NULL);
	dprintf(2, "nestbox: --vnc: %s: %s\n", path, strerror(errno));
	_exit(127);
}

static int start_helper(struct vnc *v, int listener)
{
	char path[4096];
	int pair[2] = { -1, -1 }, memory = memfd_create("nestbox-screen", MFD_CLOEXEC), err = 0;
	if (!helper_path(path, sizeof path) || access(path, X_OK))
		err = complain(v->vm->cfg.vnc, ENOENT, "the program nestbox-vnc is not beside nestbox");
	else if (memory < 0 || ftruncate(memory, PIXEL_BYTES) || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair))
		err = complain(v->vm->cfg.vnc, errno, strerror(errno));
	void *p = err ? MAP_FAILED : mmap(NULL, PIXEL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memory, 0);
	if (!err && p == MAP_FAILED)
		err = complain(v->vm->cfg.vnc, errno, strerror(errno));
	if (!err) {
		v->pixels = p;
		v->pid = fork();
		if (!v->pid)
			become_helper(path, pair[1], listener, memory);
		if (v->pid < 0)
			err = complain(v->vm->cfg.vnc, errno, strerror(errno));
	}
	v->sock = err ? -1 : pair[0];
	if (err && pair[0] >= 0)
		close(pair[0]);
	if (pair[1] >= 0)
		close(pair[1]);
	if (memory >= 0)
		close(memory);
	return err;
}

/* ---- messages ---- */

static void drop(struct vnc *v)
{
	loop_fd_remove(v->watch);
	v->watch = NULL;
	if (v->sock >= 0)
		close(v->sock);
	v->sock = -1;
}

static void draw(struct vnc *v)
{
	struct vga_picture *p = &v->picture;
	vga_render(board_display(v->vm), p);
	if (!p->pixel || p->width > VNC_MAX_WIDTH || p->height > VNC_MAX_HEIGHT)
		return;
	memcpy(v->pixels, p->pixel, (size_t)p->width * p->height * 4);
	struct vnc_message m = { .kind = VNC_FRAME, .a = (i32)p->width, .b = (i32)p->height };
	if (write(v->sock, &m, sizeof m) < 0 && errno != EAGAIN)
		drop(v);
}

static int clamp(int x) { return x < -4096 ? -4096 : x > 4096 ? 4096 : x; }

static void on_message(void *opaque, unsigned ready)
{
	struct vnc *v = opaque;
	struct vnc_message m;
	ssize_t n = read(v->sock, &m, sizeof m);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n != sizeof m) {
		log_warn("--vnc: nestbox-vnc has ended; the VM goes on without viewers");
		drop(v);
		return;
	}
	switch (m.kind) {
	case VNC_FRAME: draw(v); break;
	case VNC_KEY:
		if (!(m.a & ~0xe07f))
			i8042_key(board_keyboard(v->vm), (u16)m.a, m.b);
		break;
	case VNC_POINTER: i8042_mouse(board_keyboard(v->vm), clamp(m.a), clamp(m.b), clamp(m.c), (u8)m.d); break;
	}
}

int vnc_start(struct vm *vm)
{
	const char *where = vm->cfg.vnc;
	if (!where)
		return 0;
	if (!board_display(vm))
		return complain(where, ENODEV, "a machine without firmware has no display");
	struct vnc *v = calloc(1, sizeof *v);
	if (!v)
		return -ENOMEM;
	*v = (struct vnc){ .vm = vm, .sock = -1 };
	vm->vnc = v;
	int listener = !strncmp(where, "unix:", 5) ? listen_unix(where) : listen_tcp(where);
	if (listener < 0)
		return listener;
	int err = start_helper(v, listener);
	close(listener);
	if (err && !strncmp(where, "unix:", 5))
		unlink(where + 5);
	if (!err)
		v->watch = loop_fd_add(vm->loop, v->sock, LOOP_READ, on_message, v);
	return err ? err : v->watch ? 0 : -ENOMEM;
}

void vnc_stop(struct vm *vm)
{
	struct vnc *v = vm->vnc;
	if (!v)
		return;
	drop(v);
	/* The helper sees its socket close, removes a unix socket's name and leaves; nobody waits for it: the sandbox knows neither unlink nor wait. */
	if (v->pixels)
		munmap(v->pixels, PIXEL_BYTES);
	free(v->picture.pixel);
	free(v);
	vm->vnc = NULL;
}
