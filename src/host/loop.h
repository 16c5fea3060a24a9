/* The VM process's event loop: whatever does not run on a vCPU thread runs here, on the main thread: console, network, control socket, display.
 * Thin over libuv; nobody else includes uv.h. Surprise: a descriptor that cannot be polled (a regular file, /dev/null) counts as always ready. */
#ifndef NB_LOOP_H
#define NB_LOOP_H

#include "base/base.h"

struct loop;
struct loop_fd;
struct loop_timer;

#define LOOP_READ 1u
#define LOOP_WRITE 2u
#define LOOP_HUP 4u /* reported only: the other side has closed; comes together with LOOP_READ, so that what is left can be read */

/* NULL with one log line: out of memory or descriptors. Create before the sandbox closes. */
struct loop *loop_create(void);
/* Everything must have been removed from it before. */
void loop_destroy(struct loop *l);

/* Runs callbacks until loop_stop(). */
void loop_run(struct loop *l);
/* Makes loop_run() return after the callback that runs now. Loop thread only; other threads use loop_post(). */
void loop_stop(struct loop *l);

/* Calls fn(opaque, ready) on the loop thread whenever fd is ready for one of `events`. The caller keeps fd, and closes it after loop_fd_remove(). One
 * loop_fd per descriptor. NULL with one log line. Loop thread only, or before loop_run(). */
struct loop_fd *loop_fd_add(struct loop *l, int fd, unsigned events, void (*fn)(void *opaque, unsigned ready), void *opaque);
/* 0: none for now. */
void loop_fd_events(struct loop_fd *f, unsigned events);
/* May be called from the descriptor's own callback. NULL is allowed. */
void loop_fd_remove(struct loop_fd *f);

/* One-shot timer of the host's monotonic clock, for time limits towards the outside; what the guest sees uses bus/clock.h. */
struct loop_timer *loop_timer_add(struct loop *l, void (*fn)(void *opaque), void *opaque);
void loop_timer_set(struct loop_timer *t, u64 in_ms);
void loop_timer_cancel(struct loop_timer *t);
void loop_timer_remove(struct loop_timer *t);

/* Any thread: fn(opaque) runs on the loop thread, in the order of the calls. -ENOMEM: it will not. */
int loop_post(struct loop *l, void (*fn)(void *opaque), void *opaque);

#endif
