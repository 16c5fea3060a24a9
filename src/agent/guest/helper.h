/* The helper that nestbox runs inside a guest: a small static program for Linux, built with musl and carried inside the nestbox binary. As a command,
 * `helper N`, it serves one session on port org.nestbox.exec.N; as process 1 of the guest of `nestbox kvm` it also makes the file systems. Not part of the
 * VM process. */
#ifndef NB_AGENT_HELPER_H
#define NB_AGENT_HELPER_H

#include "agent/frames.h"
#include <stdbool.h>
#include <stddef.h>

/* What the host asked for. */
struct request {
	char *op, *cwd, *path, *mode, *tty, *uid, *gid, *groups, *host;
	char **argv, **env, **mount;
	unsigned nargv, nenv, nmount;
};

/* ---- port.c: frames over the port ---- */
struct port {
	int fd;
	uint8_t in[FRAME_HEAD + FRAME_MAX];
	size_t in_len;
	uint8_t out[4 * (FRAME_HEAD + FRAME_MAX)];
	size_t out_len;
	bool gone; /* the host has closed its end */
};

/* The device of port N. -1: there is none. O_NONBLOCK. */
int port_open(unsigned n);
/* Room for another frame of the largest size. */
bool port_room(const struct port *p);
void port_put(struct port *p, enum frame_type type, const void *data, size_t len);
/* Writes what the port takes; port_finish waits until all is written. */
void port_flush(struct port *p);
void port_finish(struct port *p);
/* Reads once. */
void port_read(struct port *p);
/* The next complete frame, to be given back with port_next; NULL: not yet. A frame that cannot be makes `gone`. */
const struct frame_head *port_frame(struct port *p, const uint8_t **data);
void port_next(struct port *p);

/* ---- start.c: the child ---- */
/* Reads SET frames until GO. False: the host has gone. */
bool request_read(struct port *p, struct request *r);
struct child {
	int pid;
	int in, out, err; /* our ends, O_NONBLOCK; -1: closed or none. With a terminal in and out are the same. */
	bool tty;
};
/* Starts it. 0, or a status with a sentence in why. */
int child_start(const struct request *r, struct child *c, char *why, size_t size);

/* ---- session.c ---- */
/* Serves one session that begins with the request r. init: reap every process, not just ours. */
void session_run(struct port *p, const struct request *r, bool init);

/* ---- boot.c ---- */
/* Process 1. */
void boot_main(void);

#endif
