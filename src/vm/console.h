/* The machine's console output: bytes from the serial port and the virtio console on their way to the user. The main loop writes them out when
 * the reader is ready, so that a reader that has stopped delays the guest, but neither --timeout nor a signal. */
#ifndef NB_VM_CONSOLE_H
#define NB_VM_CONSOLE_H

#include "base/base.h"
#include <pthread.h>

#define CONSOLE_BUFFER 65536

struct console {
	pthread_mutex_t lock;
	pthread_cond_t room;    /* buf has room again, or output is abandoned */
	u8 buf[CONSOLE_BUFFER]; /* lock */
	size_t len;             /* lock */
	bool abandoned;         /* lock: nobody waits for the reader any more */
	int fd;                 /* -1: output is thrown away */
	int event_fd;           /* written when buf becomes non-empty */
};

/* fd: where output goes, -1 for nowhere; owned by the caller. event_fd: wakes the main loop, which calls console_drain(). */
void console_init(struct console *c, int fd, int event_fd);
/* Any thread. Waits while the buffer is full. */
void console_put(struct console *c, const u8 *data, size_t len);
/* Writes what the reader takes at once. Returns true when bytes remain: call again when fd can be written. */
bool console_drain(struct console *c);
/* on: a full buffer loses bytes instead of holding a vCPU. */
void console_abandon(struct console *c, bool on);
/* Writes out the rest, waiting for the reader at most limit_ms in all (-1: as long as it takes). */
void console_finish(struct console *c, int limit_ms);

#endif
