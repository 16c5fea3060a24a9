/* virtio-net, frames for the guest. Specification "Processing of Incoming Packets". */
#include "virtio/virtio_net_int.h"
#include "base/log.h"

/* Which receive queue: that of the pair where the driver sends this flow ("Automatic receive steering in multiqueue mode"). */
static unsigned queue_for(const struct virtio_net *n, const u8 *frame, u32 len)
{
	unsigned pair = n->regs.pairs > 1 ? n->flow_pair[virtio_net_flow(frame, len)] : 0;

	return 2 * (pair < n->regs.pairs ? pair : 0);
}

enum put { PUT_DONE, PUT_NO_ROOM, PUT_LOST };

/* The bytes at `at` of header and frame, into the chain from its start. */
static void fill(struct virtio_net *n, const struct virtq_chain *c, const u8 *frame, u32 at, u32 bytes, bool first)
{
	u32 head = first ? NET_HDR_BYTES : 0;

	virtq_chain_write(n->v.bus->mem, c, head, frame + (first ? 0 : at - NET_HDR_BYTES), bytes - head);
}

static void finish(struct virtio_net *n, unsigned q, const struct virtq_chain *first, struct net_hdr h, u16 chains, u32 bytes)
{
	h.num_buffers = chains;
	virtq_chain_write(n->v.bus->mem, first, 0, &h, sizeof(h));
	virtio_publish(&n->v, q, chains);
	n->touched |= (u16)(1u << q);
	n->counts.in_frames++;
	n->counts.in_bytes += bytes;
}

/* As many chains as it needs, or none. */
static enum put put(struct virtio_net *n, unsigned q, const struct net_hdr *h, const u8 *frame, u32 len)
{
	struct virtq_chain first, more, *c = &first;
	u32 total = NET_HDR_BYTES + len, done = 0;
	u16 chains = 0;

	while (done < total) {
		if (chains == n->v.regs.queue[q].size || !virtio_pop(&n->v, q, c)) {
			bool hopeless = chains == n->v.regs.queue[q].size || !virtio_queue_ready(&n->v, q);

			virtio_unpop_chains(&n->v, q, chains);
			return hopeless ? PUT_LOST : PUT_NO_ROOM;
		}
		u32 bytes = (u32)min_u64(c->in_len, total - done);

		if (chains == 0 && bytes < NET_HDR_BYTES) {
			virtio_broken(&n->v, "receive buffer shorter than a header");
			return PUT_LOST;
		}
		if (bytes < total - done && !virtio_has(&n->v, NET_F_MRG_RXBUF)) {
			virtio_unpop(&n->v, q);
			return PUT_LOST;
		}
		fill(n, c, frame, done, bytes, chains == 0);
		virtio_put(&n->v, q, chains, c->head, bytes);
		chains++;
		done += bytes;
		c = &more;
	}
	finish(n, q, &first, *h, chains, len);
	return PUT_DONE;
}

/* No room: with the driver's promise to tell when there is more. */
static enum put put_or_arm(struct virtio_net *n, unsigned q, const struct net_hdr *h, const u8 *frame, u32 len)
{
	enum put r;

	do
		r = put(n, q, h, frame, len);
	while (r == PUT_NO_ROOM && virtio_arm_more(&n->v, q));
	return r;
}

/* ---- what the driver does not take as it is ---- */
static bool takes_gso(const struct virtio_net *n, const struct net_hdr *h)
{
	switch (h->gso_type & (u8)~NET_GSO_ECN) {
	case NET_GSO_NONE: return true;
	case NET_GSO_TCPV4:
		if (!virtio_net_guest_takes(n, NET_F_GUEST_TSO4))
			return false;
		break;
	case NET_GSO_TCPV6:
		if (!virtio_net_guest_takes(n, NET_F_GUEST_TSO6))
			return false;
		break;
	default: /* the driver that takes one IP version's alone does not exist */
		return virtio_net_guest_takes(n, NET_F_GUEST_USO4 | NET_F_GUEST_USO6);
	}
	return !(h->gso_type & NET_GSO_ECN) || virtio_net_guest_takes(n, NET_F_GUEST_ECN);
}

static enum put put_plain(struct virtio_net *n, unsigned q, const struct net_hdr *h, const u8 *frame, u32 len)
{
	struct net_hdr own = *h;

	if (!virtio_net_guest_takes(n, NET_F_GUEST_CSUM)) {
		if (own.flags & NET_NEEDS_CSUM) {
			memcpy(n->scratch, frame, len);
			net_finish_csum(&own, n->scratch, len);
			frame = n->scratch;
		}
		own.flags = 0;
	}
	return put_or_arm(n, q, &own, frame, len);
}

struct pieces {
	struct virtio_net *n;
	unsigned q;
};

static void put_piece(void *opaque, const struct net_hdr *h, const u8 *frame, u32 len)
{
	struct pieces *p = opaque;

	if (put_plain(p->n, p->q, h, frame, len) != PUT_DONE)
		p->n->counts.lost_in++;
}

/* In packets. They are many, so first there must be room for all of them, or for as many as the ring can hold at most. */
static enum put put_cut(struct virtio_net *n, unsigned q, const struct net_hdr *h, const u8 *frame, u32 len)
{
	u16 need = (u16)min_u64(len / h->gso_size + 1, n->v.regs.queue[q].size);

	while (virtio_available(&n->v, q) < need)
		if (!virtio_arm_more(&n->v, q))
			return virtio_queue_ready(&n->v, q) ? PUT_NO_ROOM : PUT_LOST;
	return net_segment(h, frame, len, put_piece, &(struct pieces){ n, q }) ? PUT_DONE : PUT_LOST;
}

static enum put receive(struct virtio_net *n, const struct net_hdr *h, const u8 *frame, u32 len)
{
	unsigned q = queue_for(n, frame, len);

	if (!virtio_net_accepts(n, frame, len)) {
		n->counts.filtered++;
		return PUT_DONE;
	}
	if (!n->link_up || !virtio_queue_ready(&n->v, q))
		return PUT_LOST;
	return takes_gso(n, h) ? put_plain(n, q, h, frame, len) : put_cut(n, q, h, frame, len);
}

bool virtio_net_receive(void *net, const struct net_hdr *h, const u8 *frame, u32 len)
{
	struct virtio_net *n = net;
	enum put r = PUT_NO_ROOM;

	bus_lock(n->v.bus);
	if (!n->held)
		r = receive(n, h, frame, len);
	n->counts.lost_in += r == PUT_LOST;
	bus_unlock(n->v.bus);
	return r != PUT_NO_ROOM;
}

void virtio_net_received(void *net)
{
	struct virtio_net *n = net;

	bus_lock(n->v.bus);
	for (unsigned q = 0; !n->held && n->touched; q += 2) {
		if (n->touched & (1u << q))
			virtio_signal(&n->v, q);
		n->touched &= (u16)~(1u << q);
	}
	bus_unlock(n->v.bus);
}
