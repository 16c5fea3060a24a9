/* virtio-vsock: stream sockets between guest and host. Specification "Socket Device". Here: packets in and out of the rings. Not here: connections
 * (vm/vsock.h). Surprise: after a restore the guest is told that all its connections are gone, because the host's ends are. */
#ifndef NB_VIRTIO_VSOCK_H
#define NB_VIRTIO_VSOCK_H

#include "virtio/virtio_pci.h"

enum { VSOCK_HOST_CID = 2, VSOCK_MAX_DATA = 65536 };
enum vsock_op { VSOCK_REQUEST = 1, VSOCK_RESPONSE, VSOCK_RST, VSOCK_SHUTDOWN, VSOCK_RW, VSOCK_CREDIT_UPDATE, VSOCK_CREDIT_REQUEST };

/* The packet's header as it lies in memory. */
struct vsock_head {
	u64 src_cid, dst_cid;
	u32 src_port, dst_port, len;
	u16 type, op;
	u32 flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

#define VSOCK_STATE(F, A) F(u8, reset_due) A(u8, pad_, 7)
STATE_STRUCT(vsock_regs, VSOCK_STATE);

struct virtio_vsock_config {
	u64 cid;
	/* From the guest, under bus->lock; data: the packet's h->len bytes. */
	void (*packet)(void *opaque, const struct vsock_head *h, const u8 *data);
	void (*room)(void *opaque);  /* there may be room for packets again */
	void (*reset)(void *opaque); /* the driver knows of no connection any more */
	void *opaque;
};

struct virtio_vsock {
	struct virtio_device v;
	struct vsock_regs regs; /* bus->lock */
	struct virtio_vsock_config cfg;
	u8 data[VSOCK_MAX_DATA];
};

struct virtio_vsock *virtio_vsock_create(struct pci_host *h, unsigned slot, const struct virtio_vsock_config *cfg);
/* A packet for the guest, whole or not at all. bus->lock held. False: there is no buffer for it now; room() will be called. len is at most 3 KiB, so that
 * it fits into what drivers offer. */
bool virtio_vsock_send(struct virtio_vsock *s, const struct vsock_head *h, const u8 *data);

#endif
