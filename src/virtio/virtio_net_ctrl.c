/* virtio-net's control queue, and the receive filter that it sets. Specification "Control Virtqueue". */
#include "virtio/virtio_net_int.h"

enum { CLASS_RX, CLASS_MAC, CLASS_VLAN, CLASS_ANNOUNCE, CLASS_MQ, CLASS_GUEST_OFFLOADS };
enum { MAC_TABLE_SET, MAC_ADDR_SET, VLAN_ADD = 0, VLAN_DEL = 1, MQ_PAIRS_SET = 0 };
enum { ACK_OK, ACK_ERR, HEAD_BYTES = 2, BURST = 64 };

static bool set_rx_mode(struct virtio_net *n, const struct virtq_chain *c, u8 cmd)
{
	u64 feature = cmd <= NET_RX_ALLMULTI ? NET_F_CTRL_RX : NET_F_CTRL_RX_EXTRA;
	u8 on;

	if (cmd >= NET_RX_MODES || !virtio_has(&n->v, feature) || virtq_chain_read(c, HEAD_BYTES, &on, 1) != 1)
		return false;
	n->regs.rx_mode = (u8)((n->regs.rx_mode & ~(1u << cmd)) | (on ? 1u << cmd : 0));
	return true;
}

/* One of the two tables at *at: a count, then addresses. A longer one than ours lets everything of its kind pass. */
static bool read_table(struct virtio_net *n, const struct virtq_chain *c, u64 *at, unsigned which)
{
	u8 *to = n->regs.macs + which * VIRTIO_NET_MACS * NET_MAC_BYTES;
	u32 count;

	if (virtq_chain_read(c, *at, &count, sizeof(count)) != sizeof(count))
		return false;
	*at += sizeof(count);
	if (count > (c->out_len - *at) / NET_MAC_BYTES)
		return false;
	n->regs.many[which] = count > VIRTIO_NET_MACS;
	n->regs.nmacs[which] = count > VIRTIO_NET_MACS ? 0 : (u16)count;
	virtq_chain_read(c, *at, to, (u64)n->regs.nmacs[which] * NET_MAC_BYTES);
	*at += (u64)count * NET_MAC_BYTES;
	return true;
}

static bool set_mac(struct virtio_net *n, const struct virtq_chain *c, u8 cmd)
{
	u64 at = HEAD_BYTES;

	if (cmd == MAC_TABLE_SET)
		return virtio_has(&n->v, NET_F_CTRL_RX) && read_table(n, c, &at, 0) && read_table(n, c, &at, 1);
	if (cmd != MAC_ADDR_SET || !virtio_has(&n->v, NET_F_CTRL_MAC_ADDR) || c->out_len != HEAD_BYTES + NET_MAC_BYTES)
		return false;
	virtq_chain_read(c, HEAD_BYTES, n->regs.mac, NET_MAC_BYTES);
	virtio_net_update(n);
	return true;
}

static bool set_vlan(struct virtio_net *n, const struct virtq_chain *c, u8 cmd)
{
	u16 id;

	if (cmd > VLAN_DEL || !virtio_has(&n->v, NET_F_CTRL_VLAN) || virtq_chain_read(c, HEAD_BYTES, &id, 2) != 2 || id > 4095)
		return false;
	if (cmd == VLAN_ADD)
		n->regs.vlans[id / 8] |= (u8)(1u << id % 8);
	else
		n->regs.vlans[id / 8] &= (u8)~(1u << id % 8);
	return true;
}

static bool acknowledge(struct virtio_net *n, const struct virtq_chain *c, u8 cmd)
{
	if (cmd || !virtio_has(&n->v, NET_F_GUEST_ANNOUNCE) || !n->regs.announce)
		return false;
	n->regs.announce = 0;
	virtio_net_update(n);
	return true;
}

static bool set_pairs(struct virtio_net *n, const struct virtq_chain *c, u8 cmd)
{
	u16 pairs;

	if (cmd != MQ_PAIRS_SET || !virtio_has(&n->v, NET_F_MQ) || virtq_chain_read(c, HEAD_BYTES, &pairs, 2) != 2)
		return false;
	if (pairs < 1 || pairs > n->max_pairs)
		return false;
	n->regs.pairs = pairs;
	net_port_wake(n->port); /* frames may wait in queues that are new */
	return true;
}

static bool set_offloads(struct virtio_net *n, const struct virtq_chain *c, u8 cmd)
{
	u64 wanted;

	if (cmd || !virtio_has(&n->v, NET_F_CTRL_GUEST_OFFLOADS) || virtq_chain_read(c, HEAD_BYTES, &wanted, 8) != 8)
		return false;
	if (wanted & ~(n->v.regs.driver_features & NET_GUEST_OFFLOADS))
		return false;
	n->regs.offloads = wanted;
	return true;
}

static u8 command(struct virtio_net *n, const struct virtq_chain *c)
{
	static bool (*const by_class[])(struct virtio_net *n, const struct virtq_chain *c, u8 cmd) = {
		[CLASS_RX] = set_rx_mode, [CLASS_MAC] = set_mac, [CLASS_VLAN] = set_vlan, [CLASS_ANNOUNCE] = acknowledge,
		[CLASS_MQ] = set_pairs, [CLASS_GUEST_OFFLOADS] = set_offloads,
	};
	u8 head[HEAD_BYTES];

	if (virtq_chain_read(c, 0, head, sizeof(head)) != sizeof(head) || head[0] >= array_len(by_class))
		return ACK_ERR;
	return by_class[head[0]](n, c, head[1]) ? ACK_OK : ACK_ERR;
}

void virtio_net_serve_ctrl(struct virtio_net *n, unsigned queue)
{
	struct virtq_chain c;
	unsigned served = 0;

	do {
		while (served < BURST && virtio_pop(&n->v, queue, &c)) {
			if (c.in_len < 1) {
				virtio_broken(&n->v, "control command without room for its answer");
				return;
			}
			u8 ack = command(n, &c);

			virtio_push(&n->v, queue, c.head, (u32)virtq_chain_write(n->v.bus->mem, &c, 0, &ack, 1));
			served++;
		}
	} while (virtio_arm_notify(&n->v, queue) && served < BURST);
	virtio_signal(&n->v, queue);
	if (served >= BURST)
		virtio_notify_later(&n->v, queue);
}

/* ---- the filter ---- */
static bool in_table(const struct virtio_net *n, const u8 *mac, unsigned which)
{
	const u8 *p = n->regs.macs + which * VIRTIO_NET_MACS * NET_MAC_BYTES;

	for (unsigned i = 0; i < n->regs.nmacs[which]; i++)
		if (!memcmp(p + i * NET_MAC_BYTES, mac, NET_MAC_BYTES))
			return true;
	return n->regs.many[which];
}

static bool mode(const struct virtio_net *n, unsigned which) { return n->regs.rx_mode & (1u << which); }

static bool vlan_passes(const struct virtio_net *n, const u8 *frame, u32 len)
{
	if (!virtio_has(&n->v, NET_F_CTRL_VLAN) || len < 18 || net_get16(frame + 12) != 0x8100)
		return true;
	u16 id = net_get16(frame + 14) & 0xfff;

	return n->regs.vlans[id / 8] & (1u << id % 8);
}

/* "Packet Receive Filtering", "Setting MAC Address Filtering", "VLAN Filtering". */
bool virtio_net_accepts(const struct virtio_net *n, const u8 *frame, u32 len)
{
	static const u8 broadcast[NET_MAC_BYTES] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

	if (mode(n, NET_RX_PROMISC))
		return true;
	if (!vlan_passes(n, frame, len))
		return false;
	if (!memcmp(frame, broadcast, NET_MAC_BYTES))
		return !mode(n, NET_RX_NOBCAST);
	if (net_is_multicast(frame))
		return !mode(n, NET_RX_NOMULTI) && (mode(n, NET_RX_ALLMULTI) || in_table(n, frame, 1));
	return !mode(n, NET_RX_NOUNI) && (mode(n, NET_RX_ALLUNI) || !memcmp(frame, n->regs.mac, NET_MAC_BYTES) || in_table(n, frame, 0));
}
