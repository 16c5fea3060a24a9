/* The machine's console output: bytes from the serial port and the virtio console on their way to the user. */
#ifndef NB_VM_CONSOLE_H
#define NB_VM_CONSOLE_H

#include "base/base.h"
#include <pthread.h>

#define CONSOLE_BUFFER 65536

struct console {
	pthread_mutex_t lock;
	u8 buf[CONSOLE_BUFFER]; /* lock */
	size_t len;             /* lock */
	int fd;                 /* -1: output is thrown away */
	int event_fd;           /* written when buf becomes non-empty */
};

/* fd: where output goes, -1 for nowhere; owned by the caller. event_fd: wakes the main loop, which calls console_drain(). */
void console_init(struct console *c, int fd, int event_fd);
/* Any thread. Blocks only when the buffer is full and the reader slow. */
void console_put(struct console *c, const u8 *data, size_t len);
/* Writes out what has gathered. */
void console_drain(struct console *c);

#endif
