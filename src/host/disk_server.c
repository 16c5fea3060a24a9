/* Starting, hearing and stopping qemu-storage-daemon. Surprise: the listening socket is made and connected to by us before the program
 * starts, and has no name any more when it does; so nobody else on this host can reach the image. */
#include "host/disk_server.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LISTEN_FD = 3, STOP_LIMIT_MS = 30000 };

/* Doubles commas, as QEMU's key=value lists want. */
static void escape(char *to, size_t size, const char *from)
{
	size_t n = 0;

	for (; *from && n + 3 < size; from++) {
		if (*from == ',')
			to[n++] = ',';
		to[n++] = *from;
	}
	to[n] = 0;
}

/* In a folder that only we may enter. */
static int bind_in(const char *folder, struct sockaddr_un *addr)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), err = 0;

	*addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (fd < 0)
		return -errno;
	if (snprintf(addr->sun_path, sizeof(addr->sun_path), "%s/nbd", folder) >= (int)sizeof(addr->sun_path))
		err = -ENAMETOOLONG;
	else if (bind(fd, (struct sockaddr *)addr, sizeof(*addr)) < 0 || listen(fd, 16) < 0)
		err = -errno;
	if (!err)
		return fd;
	close(fd);
	return err;
}

static int connect_all(const struct sockaddr_un *addr, int *sock, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		sock[i] = -1;
	for (unsigned i = 0; i < n; i++) {
		sock[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (sock[i] < 0 || connect(sock[i], (const struct sockaddr *)addr, sizeof(*addr)) < 0)
			return -errno;
	}
	return 0;
}

static void close_all(int *sock, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (sock[i] >= 0)
			close(sock[i]);
}

/* A listening socket to which n sockets are connected; it has no name any more. */
static int make_sockets(int *sock, unsigned n)
{
	char folder[] = "/tmp/nestbox-disk-XXXXXX";
	struct sockaddr_un addr;
	int fd, err;

	if (!mkdtemp(folder))
		return -errno;
	fd = bind_in(folder, &addr);
	if (fd >= 0) {
		err = connect_all(&addr, sock, n);
		unlink(addr.sun_path);
		if (err) {
			close_all(sock, n);
			close(fd);
			fd = err;
		}
	}
	rmdir(folder);
	return fd;
}

/* The child, between fork and exec. Never returns. */
static void become_server(char *const *argv, int listener, int out, pid_t parent)
{
	sigset_t none;
	int null = open("/dev/null", O_RDWR);

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(1);
	setpgid(0, 0); /* Ctrl-C is for the VM */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	dup2(null, 0);
	dup2(null, 1);
	dup2(out, 2);
	if (listener == LISTEN_FD)
		fcntl(listener, F_SETFD, 0);
	else
		dup2(listener, LISTEN_FD);
	syscall(SYS_close_range, LISTEN_FD + 1, ~0u, 0);
	execvp(argv[0], argv);
	dprintf(2, "%s\n", errno == ENOENT ? "not found; install the package qemu-system-common" : strerror(errno));
	_exit(127);
}

static int spawn(struct disk_server *s, char *const *argv, int listener)
{
	int pipe_fd[2], err = 0;
	pid_t parent = getpid();

	if (pipe2(pipe_fd, O_CLOEXEC) < 0)
		return -errno;
	s->pid = fork();
	if (s->pid == 0)
		become_server(argv, listener, pipe_fd[1], parent);
	if (s->pid < 0)
		err = -errno;
	close(pipe_fd[1]);
	if (err) {
		close(pipe_fd[0]);
		return err;
	}
	fcntl(pipe_fd[0], F_SETFL, O_NONBLOCK);
	s->messages = pipe_fd[0];
	s->pidfd = (int)syscall(SYS_pidfd_open, s->pid, 0);
	return 0;
}

int disk_server_start(struct disk_server *s, const char *path, const char *format, bool read_only, bool block_device, int *sock, unsigned n)
{
	char name[8300], blockdev[8700], server[64], export[128];
	char *argv[] = { DISK_SERVER_PROGRAM, "--blockdev", blockdev, "--nbd-server", server, "--export", export, NULL };
	int listener = make_sockets(sock, n), err;

	*s = (struct disk_server){ .pid = -1, .pidfd = -1, .messages = -1 };
	if (listener < 0) {
		log_error("disk \"%s\": cannot make sockets for %s: %s", path, DISK_SERVER_PROGRAM, strerror(-listener));
		return listener;
	}
	escape(name, sizeof(name), path);
	snprintf(blockdev, sizeof(blockdev), "driver=%s,node-name=d,read-only=%s,discard=unmap,file.driver=%s,file.filename=%s", format,
		 read_only ? "on" : "off", block_device ? "host_device" : "file", name);
	snprintf(server, sizeof(server), "addr.type=fd,addr.str=%d,max-connections=%u", LISTEN_FD, n);
	snprintf(export, sizeof(export), "type=nbd,id=e,node-name=d,name=%s,writable=%s", DISK_SERVER_EXPORT, read_only ? "off" : "on");
	err = spawn(s, argv, listener);
	close(listener);
	if (err) {
		log_error("disk \"%s\": cannot start %s: %s", path, DISK_SERVER_PROGRAM, strerror(-err));
		close_all(sock, n);
	}
	return err;
}

/* The last line of text, without "program: " and what it repeats of our arguments; control characters become blanks. */
static void clean(char *text)
{
	size_t n = strlen(text);
	char *p, *cut;

	while (n > 0 && text[n - 1] == '\n')
		text[--n] = 0;
	p = strrchr(text, '\n');
	p = p ? p + 1 : text;
	cut = strstr(p, DISK_SERVER_PROGRAM ": ");
	p = cut ? cut + strlen(DISK_SERVER_PROGRAM ": ") : p;
	if (!strncmp(p, "--blockdev ", 11) && (cut = strstr(p, ": ")))
		p = cut + 2;
	memmove(text, p, strlen(p) + 1);
	for (p = text; *p; p++)
		if ((u8)*p < 32)
			*p = ' ';
}

void disk_server_last_words(struct disk_server *s, char *text, size_t size, int wait_ms)
{
	struct pollfd pfd = { .fd = s->pidfd, .events = POLLIN };
	ssize_t n;

	if (s->pidfd >= 0)
		poll(&pfd, 1, wait_ms);
	n = read(s->messages, text, size - 1);
	text[n > 0 ? n : 0] = 0;
	clean(text);
}

void disk_server_stop(struct disk_server *s)
{
	struct pollfd pfd = { .fd = s->pidfd, .events = POLLIN };

	if (s->pidfd >= 0) {
		syscall(SYS_pidfd_send_signal, s->pidfd, SIGTERM, NULL, 0);
		if (poll(&pfd, 1, STOP_LIMIT_MS) == 0)
			log_warn("%s (process %d) does not end", DISK_SERVER_PROGRAM, (int)s->pid);
		else
			waitid(P_PIDFD, (id_t)s->pidfd, NULL, WEXITED);
		close(s->pidfd);
	}
	if (s->messages >= 0)
		close(s->messages);
}
