/* Ethernet frames: layers, checksums, header checks. */
#include "net/frame.h"

enum { ETHERTYPE_IP4 = 0x0800, ETHERTYPE_IP6 = 0x86dd, ETHERTYPE_VLAN = 0x8100, IP4_BYTES = 20, IP6_BYTES = 40, TCP_BYTES = 20, UDP_BYTES = 8 };

/* RFC 791 "Internet Header Format". */
static bool parse_ip4(const u8 *f, u32 len, struct net_layers *l)
{
	const u8 *ip = f + l->l3;

	if (l->l3 + IP4_BYTES > len || ip[0] >> 4 != 4)
		return false;
	u32 ihl = (ip[0] & 15u) * 4, total = net_get16(ip + 2);

	if (ihl < IP4_BYTES || total < ihl || l->l3 + total > len || (net_get16(ip + 6) & 0x3fff))
		return false;
	l->version = 4;
	l->proto = ip[9];
	l->l4 = (u16)(l->l3 + ihl);
	l->end = l->l3 + total;
	return true;
}

/* RFC 8200 "IPv6 Header Format". */
static bool parse_ip6(const u8 *f, u32 len, struct net_layers *l)
{
	const u8 *ip = f + l->l3;

	if (l->l3 + IP6_BYTES > len || ip[0] >> 4 != 6)
		return false;
	l->version = 6;
	l->proto = ip[6];
	l->l4 = (u16)(l->l3 + IP6_BYTES);
	l->end = l->l4 + net_get16(ip + 4);
	return l->end <= len;
}

static bool parse_transport(const u8 *f, struct net_layers *l)
{
	u32 room = l->end - l->l4, bytes;

	if (l->proto == NET_UDP) {
		bytes = UDP_BYTES;
	} else if (l->proto == NET_TCP && room >= TCP_BYTES) {
		bytes = (f[l->l4 + 12] >> 4) * 4u;
		if (bytes < TCP_BYTES)
			return false;
	} else {
		return false;
	}
	l->payload = l->l4 + bytes;
	return bytes <= room;
}

bool net_parse(const u8 *f, u32 len, struct net_layers *l)
{
	u16 type;

	if (len < NET_ETH_BYTES)
		return false;
	l->l3 = NET_ETH_BYTES;
	type = net_get16(f + 12);
	if (type == ETHERTYPE_VLAN && len >= NET_ETH_BYTES + 4) {
		l->l3 += 4;
		type = net_get16(f + 16);
	}
	if (type != ETHERTYPE_IP4 && type != ETHERTYPE_IP6)
		return false;
	return (type == ETHERTYPE_IP4 ? parse_ip4(f, len, l) : parse_ip6(f, len, l)) && parse_transport(f, l);
}

static u16 fold(u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (u16)sum;
}

/* RFC 1071 "Byte Order Independence": the sum of byte-swapped words is the byte-swapped sum. */
u16 net_sum(const u8 *p, u32 n, u32 sum)
{
	u64 acc = 0, more = 0;

	for (; n >= 16; n -= 16, p += 16) {
		u64 a = load_le(p, 8), b = load_le(p + 8, 8);

		acc += (a & 0xffffffff) + (a >> 32);
		more += (b & 0xffffffff) + (b >> 32);
	}
	acc = (u64)fold(acc) + fold(more);
	for (; n >= 2; n -= 2, p += 2)
		acc += load_le(p, 2);
	if (n)
		acc += *p;
	return fold((u64)bswap16(fold(acc)) + sum);
}

u16 net_pseudo_sum(const u8 *f, const struct net_layers *l, u32 bytes)
{
	u32 at = l->version == 4 ? 12 : 8, n = l->version == 4 ? 8 : 32;

	return net_sum(f + l->l3 + at, n, fold((u64)l->proto + bytes));
}

bool net_hdr_valid(const struct net_hdr *h, const u8 *frame, u32 len)
{
	struct net_layers l;
	u8 type = h->gso_type & (u8)~NET_GSO_ECN;

	if (len < NET_ETH_BYTES || len > NET_FRAME_MAX || (h->flags & ~(NET_NEEDS_CSUM | NET_DATA_VALID)))
		return false;
	if ((h->flags & NET_NEEDS_CSUM) && (u32)h->csum_start + h->csum_offset + 2 > len)
		return false;
	if (type == NET_GSO_NONE)
		return h->gso_type == NET_GSO_NONE;
	if (!h->gso_size || !(h->flags & NET_NEEDS_CSUM) || !net_parse(frame, len, &l) || h->csum_start != l.l4)
		return false;
	switch (type) {
	case NET_GSO_TCPV4: return l.version == 4 && l.proto == NET_TCP && h->csum_offset == 16;
	case NET_GSO_TCPV6: return l.version == 6 && l.proto == NET_TCP && h->csum_offset == 16;
	case NET_GSO_UDP_L4: return l.proto == NET_UDP && h->csum_offset == 6;
	}
	return false;
}

void net_finish_csum(struct net_hdr *h, u8 *frame, u32 len)
{
	if (!(h->flags & NET_NEEDS_CSUM))
		return;
	u16 sum = (u16)~net_sum(frame + h->csum_start, len - h->csum_start, 0);

	/* RFC 768: a computed 0 is sent as all ones, which TCP does not mind. */
	net_put16(frame + h->csum_start + h->csum_offset, sum ? sum : 0xffff);
	h->flags = NET_DATA_VALID;
	h->csum_start = h->csum_offset = 0;
}
