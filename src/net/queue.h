/* Messages (net_hdr and frame) on a datagram descriptor that may be slow: written at once, or kept up to a limit, or lost. */
#ifndef NB_NET_QUEUE_H
#define NB_NET_QUEUE_H

#include "net/frame.h"

struct net_message;

struct net_queue {
	struct net_message *first, **last;
	size_t bytes;
	u64 lost;
};

enum { NET_QUEUE_BYTES = 4 << 20 };

void net_queue_init(struct net_queue *q);
void net_queue_free(struct net_queue *q);
/* Both return 0, or -errno when nobody is there any more. */
int net_queue_send(struct net_queue *q, int fd, const struct net_hdr *h, const u8 *frame, u32 len);
int net_queue_flush(struct net_queue *q, int fd);

#endif
