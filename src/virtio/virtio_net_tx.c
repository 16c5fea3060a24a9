/* virtio-net, frames from the guest. Specification "Packet Transmission". Surprise: a frame is copied out and its buffer given back at once, so that
 * nothing of the guest's is in flight while a back-end is slow. */
#include "virtio/virtio_net_int.h"
#include "base/log.h"
#include <stdio.h>

/* ROUNDS: batches before the other direction's turn. */
enum { BATCH_BYTES = 4 * (NET_HDR_BYTES + NET_FRAME_MAX), ROUNDS = 4 };

unsigned virtio_net_flow(const u8 *frame, u32 len)
{
	struct net_layers l;
	u32 h;

	if (!net_parse(frame, len, &l))
		return 0;
	unsigned at = l.version == 4 ? 12 : 8, bytes = l.version == 4 ? 4 : 16;
	const u8 *ip = frame + l.l3 + at;

	h = net_get16(frame + l.l4) ^ net_get16(frame + l.l4 + 2);
	for (unsigned i = 0; i < bytes; i += 4)
		h = h * 31 + (net_get32(ip + i) ^ net_get32(ip + bytes + i));
	return (h ^ h >> 8 ^ h >> 16) % VIRTIO_NET_FLOWS;
}

static void say_spoofed(struct virtio_net *n, const u8 *from)
{
	if (n->said_spoofed)
		return;
	n->said_spoofed = true;
	log_warn("%s: dropping frames from MAC %02x:%02x:%02x:%02x:%02x:%02x, which is not this port's (%02x:%02x:%02x:%02x:%02x:%02x). "
		 "To allow it, for a bridge or virtual machines inside the guest: --net %s,mac-spoofing=on", n->port->name,
		 from[0], from[1], from[2], from[3], from[4], from[5], n->own[0], n->own[1], n->own[2], n->own[3], n->own[4], n->own[5], n->allow);
}

static bool is_own(const struct virtio_net *n, const u8 *mac) { return !memcmp(mac, n->own, NET_MAC_BYTES) || !memcmp(mac, n->regs.given, NET_MAC_BYTES); }

static bool header_allowed(const struct virtio_net *n, const struct net_hdr *h)
{
	static const struct { u8 type; u64 feature; } row[] = {
		{ NET_GSO_NONE, 0 }, { NET_GSO_TCPV4, NET_F_HOST_TSO4 }, { NET_GSO_TCPV6, NET_F_HOST_TSO6 }, { NET_GSO_UDP_L4, NET_F_HOST_USO },
	};

	if ((h->flags & NET_NEEDS_CSUM) && !virtio_has(&n->v, NET_F_CSUM))
		return false;
	for (unsigned i = 0; i < array_len(row); i++)
		if (row[i].type == (h->gso_type & (u8)~NET_GSO_ECN))
			return virtio_has(&n->v, row[i].feature);
	return false;
}

/* Reads one frame to the end of the batch. */
static void take_frame(struct virtio_net *n, const struct virtq_chain *c, unsigned pair, u32 *end)
{
	struct virtio_net_frame *f = &n->batch[n->batch_len];
	u8 *to = n->bytes + *end;

	f->at = *end;
	f->len = (u32)(c->out_len - NET_HDR_BYTES);
	virtq_chain_read(c, 0, &f->hdr, NET_HDR_BYTES);
	virtq_chain_read(c, NET_HDR_BYTES, to, f->len);
	f->hdr.flags &= NET_NEEDS_CSUM; /* other bits are to be ignored */
	f->hdr.num_buffers = 0;
	if (!header_allowed(n, &f->hdr) || !net_hdr_valid(&f->hdr, to, f->len)) {
		n->counts.bad_out++;
		return;
	}
	if (!n->mac_spoofing && !is_own(n, to + NET_MAC_BYTES)) {
		n->counts.spoofed++;
		say_spoofed(n, to + NET_MAC_BYTES);
		return;
	}
	if (!n->link_up)
		return;
	if (n->regs.pairs > 1)
		n->flow_pair[virtio_net_flow(to, f->len)] = (u8)pair;
	n->counts.out_frames++;
	n->counts.out_bytes += f->len;
	n->batch_len++;
	*end += f->len;
}

static bool room(const struct virtio_net *n, u32 end)
{
	return n->batch_len < VIRTIO_NET_BATCH && BATCH_BYTES - end >= NET_FRAME_MAX;
}

/* True: it may have more. LIMIT chains at most, so that rubbish alone does not hold the bus. */
static bool drain_queue(struct virtio_net *n, unsigned pair, u32 *end)
{
	enum { LIMIT = 256 };
	struct virtq_chain c;
	unsigned q = 2 * pair + 1, taken = 0;
	bool more = false;

	do {
		while (room(n, *end) && taken < LIMIT && virtio_pop(&n->v, q, &c)) {
			if (c.out_len >= NET_HDR_BYTES + NET_ETH_BYTES && c.out_len <= NET_HDR_BYTES + NET_FRAME_MAX)
				take_frame(n, &c, pair, end);
			else
				n->counts.bad_out++;
			virtio_push(&n->v, q, c.head, 0);
			taken++;
		}
		if (!room(n, *end) || taken >= LIMIT) {
			more = true; /* or not, but only an empty queue is armed */
			break;
		}
	} while (virtio_arm_notify(&n->v, q));
	if (taken)
		virtio_signal(&n->v, q);
	return more;
}

static bool take_batch(struct virtio_net *n)
{
	u32 end = 0;
	bool more = false;

	n->batch_len = n->batch_at = 0;
	bus_lock(n->v.bus);
	for (unsigned pair = 0; !n->held && pair < n->regs.pairs; pair++)
		more |= drain_queue(n, pair, &end);
	bus_unlock(n->v.bus);
	return more;
}

static bool send_batch(struct virtio_net *n)
{
	for (; n->batch_at < n->batch_len; n->batch_at++) {
		const struct virtio_net_frame *f = &n->batch[n->batch_at];

		if (!net_port_send(n->port, &f->hdr, n->bytes + f->at, f->len))
			return false;
	}
	return true;
}

bool virtio_net_transmit(void *net)
{
	struct virtio_net *n = net;
	bool more = true;

	for (unsigned i = 0; i < ROUNDS && more; i++) {
		if (!send_batch(n))
			return false;
		more = take_batch(n);
	}
	return send_batch(n) && more;
}

/* Small frames (acknowledgements, requests) go at once from this thread; for large ones another processor may copy. */
void virtio_net_kicked(struct virtio_net *n)
{
	enum { SMALL = 4096 };
	bool left = true;

	if (net_port_enter(n->port)) {
		if (n->batch_at == n->batch_len) {
			left = take_batch(n);
			if (n->batch_len && n->batch[n->batch_len - 1].at + n->batch[n->batch_len - 1].len <= SMALL)
				for (; n->batch_at < n->batch_len; n->batch_at++) {
					const struct virtio_net_frame *f = &n->batch[n->batch_at];

					if (!net_port_send_now(n->port, &f->hdr, n->bytes + f->at, f->len))
						break;
				}
			left |= n->batch_at < n->batch_len;
		}
		net_port_leave(n->port);
	}
	if (left)
		net_port_wake(n->port);
}
