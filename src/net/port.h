/* A network port: where a network card's frames leave the VM process and come in. One descriptor and one thread; the thread moves frames
 * both ways. Not here: what stands behind the descriptor (spec.h, open.c, user.c, switch.c), what the guest sees (virtio/virtio_net.c).
 * Surprise: the thread holds no lock of its own; the client takes what locks it needs in its callbacks. */
#ifndef NB_NET_PORT_H
#define NB_NET_PORT_H

#include "net/frame.h"
#include <pthread.h>

enum net_framing {
	NET_FRAMING_HDR,    /* a message is net_hdr and frame: TAP, our helpers */
	NET_FRAMING_STREAM, /* 4 bytes of length, big-endian, then the frame, complete in itself: QEMU's and passt's */
};

enum { NET_WAITING = 4 };

struct net_client {
	/* With out_lock held. The guest may have frames to send, or the port can take frames again: give them to net_port_send until that says false. True: there
	 * is more, call again soon. */
	bool (*transmit)(void *opaque);
	/* A frame for the guest. False: no room now; the port keeps it and asks again after net_port_wake. */
	bool (*receive)(void *opaque, const struct net_hdr *h, const u8 *frame, u32 len);
	/* No frame follows at once: a good time for interrupts. */
	void (*received)(void *opaque);
	/* The other side is there, or gone. */
	void (*link)(void *opaque, bool up);
	void *opaque;
};

struct net_port {
	/* Set by whoever opens it; then fixed but for fd, which is the thread's. */
	enum net_framing framing;
	int fd;                /* -1: nobody is there */
	int listen_fd;         /* a stream's: the next peer comes from here; -1: none */
	bool trusted;          /* frames that come are as our own stack makes them */
	char name[24];         /* in messages: "net0" */
	char peer[128];        /* what the other side is, in messages */

	struct net_client client;
	pthread_t thread;
	bool threaded;
	int wake_fd;
	bool stop;             /* atomic */
	pthread_mutex_t out_lock; /* recursive; guards the client's way out, and fd against being closed meanwhile. Taken before the client's locks */
	bool blocked;          /* atomic: a frame waits for room in the guest */
	/* The thread's own. */
	bool up, full;         /* full: the descriptor takes nothing now */
	u8 *in;                /* NET_FRAME_MAX and header: what is being read */
	u32 in_len;            /* stream: bytes of it there */
	u8 *out;               /* stream: bytes to be written */
	u32 out_len, out_at;
	/* Frames that the guest had no room for. While there is one nothing is read; what was read last may make three of them: what it does not
	 * belong to, itself, and the rest of the merge. */
	struct net_waiting { struct net_hdr hdr; u32 len; u8 *frame; } waiting[NET_WAITING];
	unsigned nwaiting;
	struct net_merge merge;
	/* Counters, for --stats. */
	u64 lost_out, lost_in;
};

/* Takes over the descriptors of *p into use for this client and starts the thread (or not: then net_port_step does its work). 0 or -errno with one log line. */
int net_port_start(struct net_port *p, const struct net_client *client, bool threaded);
/* Ends the thread, closes the descriptors. */
void net_port_stop(struct net_port *p);

/* Any thread: there may be frames to send, or (when p->blocked) room for received ones. */
void net_port_wake(struct net_port *p);
/* From transmit. A frame from the guest; h is valid. False: not taken, the port is full; transmit will be called when it is not. */
bool net_port_send(struct net_port *p, const struct net_hdr *h, u8 *frame, u32 len);

/* A shortcut for few small frames, which saves the thread's waking up: any thread, whatever locks it holds. True: out_lock is held until
 * net_port_leave, and net_port_send_now may be used. */
bool net_port_enter(struct net_port *p);
void net_port_leave(struct net_port *p);
/* Like net_port_send, but whatever stands in the way is left to the thread (wake it). */
bool net_port_send_now(struct net_port *p, const struct net_hdr *h, u8 *frame, u32 len);

/* One round without a thread, waiting at most timeout_ms. */
void net_port_step(struct net_port *p, int timeout_ms);

#endif
