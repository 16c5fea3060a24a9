/* virtio-net. Specification "Network Device". The port's thread (net/port.h) moves frames between the rings and the outside, a batch at a time
 * under bus->lock; the control queue is served at once. Not here: what is outside. Surprises: like a switch port of Hyper-V's, the device drops
 * frames whose source MAC is not its own unless mac_spoofing is set; and from a save or load until the virtual clock moves again no frame touches
 * the guest's memory. */
#ifndef NB_VIRTIO_NET_H
#define NB_VIRTIO_NET_H

#include "net/port.h"
#include "virtio/virtio_pci.h"

enum { VIRTIO_NET_MAX_PAIRS = (VIRTIO_MAX_QUEUES - 1) / 2, VIRTIO_NET_MACS = 32, VIRTIO_NET_BATCH = 64, VIRTIO_NET_FLOWS = 256 };

/* rx_mode: a bit per command of class CTRL_RX; many_*: the table is too long for us, all pass. macs[0] unicast, macs[1] multicast.
 * given: the card's own address when its driver last reset it: another than now in a clone that goes on from a checkpoint. */
#define VIRTIO_NET_STATE(F, A) \
	F(u64, offloads) \
	A(u8, vlans, 4096 / 8) \
	A(u8, macs, 2 * VIRTIO_NET_MACS * NET_MAC_BYTES) \
	A(u16, nmacs, 2) A(u8, many, 2) \
	A(u8, mac, NET_MAC_BYTES) A(u8, given, NET_MAC_BYTES) A(u8, pad_, 2) \
	F(u16, pairs) F(u8, rx_mode) F(u8, announce)
STATE_STRUCT(virtio_net_regs, VIRTIO_NET_STATE);

struct virtio_net_counts {
	u64 out_frames, out_bytes, in_frames, in_bytes;
	u64 spoofed;      /* from the guest, with a source MAC that is not the port's */
	u64 bad_out;      /* from the guest, with a header that makes no sense */
	u64 filtered;     /* for others */
	u64 lost_in;      /* the guest's buffers were too small, or its driver was not there */
};

struct virtio_net_frame {
	struct net_hdr hdr;
	u32 at, len;      /* in the batch's bytes */
};

struct virtio_net {
	struct virtio_device v;
	struct virtio_net_regs regs;      /* bus->lock, as all up to the batch */
	struct net_port *port;
	u8 own[NET_MAC_BYTES];            /* the port's MAC; fixed */
	bool mac_spoofing;                /* fixed */
	char allow[600];                  /* the option that would allow spoofing, for the log; fixed */
	unsigned max_pairs;               /* fixed */
	bool held, announce_due, said_spoofed;
	bool cable, peer, link_up;        /* the cable is in; somebody is at its other end; both */
	struct clock_timer go_on;         /* fires when the machine runs again */
	u16 touched;                      /* receive queues that want a signal */
	u8 flow_pair[VIRTIO_NET_FLOWS];   /* where the driver last sent a flow's frames */
	struct virtio_net_counts counts;  /* bus->lock */
	/* port->out_lock: frames taken from the rings and not yet sent. */
	struct virtio_net_frame batch[VIRTIO_NET_BATCH];
	unsigned batch_len, batch_at;
	u8 *bytes, *scratch;
};

struct virtio_net_config {
	struct net_port *port;            /* open; the device starts and stops it, and frees it */
	u8 mac[NET_MAC_BYTES];
	bool mac_spoofing, threaded;
	unsigned pairs;                   /* 1..VIRTIO_NET_MAX_PAIRS */
	u16 mtu;                          /* 0: the driver's own */
	const char *allow;                /* the --net option as given, for the message about spoofing */
};

/* NULL with one log line when the thread cannot be made. */
struct virtio_net *virtio_net_create(struct pci_host *h, unsigned slot, const struct virtio_net_config *cfg);
/* Counters. Takes bus->lock. */
void virtio_net_get_counts(struct virtio_net *n, struct virtio_net_counts *to);
/* The cable: out and in again. Takes bus->lock. */
void virtio_net_set_cable(struct virtio_net *n, bool in);

#endif
