/* Segmentation in software, for receivers that take no large frames, and its reverse. */
#include "net/frame.h"

enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_PSH = 8, TCP_ACK = 16, TCP_CWR = 128 };
enum { IP4_CSUM = 10, TCP_SEQ = 4, TCP_FLAGS = 13, TCP_CSUM = 16, UDP_LEN = 4, UDP_CSUM = 6 };

static void set_ip_length(u8 *f, const struct net_layers *l, u32 end, u16 id)
{
	u8 *ip = f + l->l3;

	if (l->version == 6) {
		net_put16(ip + 4, end - l->l4);
		return;
	}
	net_put16(ip + 2, end - l->l3);
	net_put16(ip + 4, id);
	net_put16(ip + IP4_CSUM, 0);
	net_put16(ip + IP4_CSUM, (u16)~net_sum(ip, l->l4 - l->l3, 0));
}

static void set_transport(u8 *seg, const struct net_layers *l, u32 at, u32 n, bool last)
{
	u8 *h = seg + l->l4, *csum = h + (l->proto == NET_TCP ? TCP_CSUM : UDP_CSUM);
	u32 bytes = l->payload - l->l4 + n;

	if (l->proto == NET_TCP) {
		net_put32(h + TCP_SEQ, net_get32(h + TCP_SEQ) + at);
		if (!last)
			h[TCP_FLAGS] &= (u8)~(TCP_FIN | TCP_PSH);
		if (at)
			h[TCP_FLAGS] &= (u8)~TCP_CWR;
	} else {
		net_put16(h + UDP_LEN, bytes);
	}
	net_put16(csum, 0);
	u16 sum = (u16)~net_sum(h, bytes, net_pseudo_sum(seg, l, bytes));

	net_put16(csum, sum ? sum : 0xffff);
}

bool net_segment(const struct net_hdr *h, const u8 *frame, u32 len, net_emit emit, void *opaque)
{
	const struct net_hdr plain = { .flags = NET_DATA_VALID };
	u8 seg[NET_FRAME_MAX];
	struct net_layers l;

	if (h->gso_type == NET_GSO_NONE || !net_hdr_valid(h, frame, len) || !net_parse(frame, len, &l))
		return false;
	u32 data = l.end - l.payload;
	u16 id = net_get16(frame + l.l3 + 4);

	for (u32 at = 0; at < data || at == 0; at += h->gso_size) {
		u32 n = (u32)min_u64(h->gso_size, data - at);

		memcpy(seg, frame, l.payload);
		memcpy(seg + l.payload, frame + l.payload + at, n);
		set_ip_length(seg, &l, l.payload + n, id++);
		set_transport(seg, &l, at, n, at + n >= data);
		emit(opaque, &plain, seg, l.payload + n);
	}
	return true;
}

/* ---- merging ---- */
static bool checksum_right(const u8 *f, const struct net_layers *l)
{
	u32 bytes = l->end - l->l4;

	return net_sum(f + l->l4, bytes, net_pseudo_sum(f, l, bytes)) == 0xffff &&
	       (l->version == 6 || net_sum(f + l->l3, l->l4 - l->l3, 0) == 0xffff);
}

/* Data of an established connection, without anything that a cut would not bring back. */
static bool mergeable(const struct net_merge *m, const u8 *f, u32 len, struct net_layers *l)
{
	if (!net_parse(f, len, l) || l->proto != NET_TCP || l->l3 != NET_ETH_BYTES || l->end == l->payload)
		return false;
	if (l->version == 4 && l->l4 != l->l3 + 20)
		return false;
	if ((f[l->l4 + TCP_FLAGS] & (u8)~TCP_PSH) != TCP_ACK)
		return false;
	return m->trusted || checksum_right(f, l);
}

/* Same addresses, ports, acknowledgement and options, and the bytes that follow. */
static bool follows(const struct net_merge *m, const u8 *f, const struct net_layers *l)
{
	const u8 *a = m->frame, *x = a + m->l.l4, *y = f + l->l4;
	u32 l3 = NET_ETH_BYTES, tcp = l->payload - l->l4;

	if (m->l.version != l->version || m->l.payload != l->payload || memcmp(a, f, NET_ETH_BYTES))
		return false;
	if (l->version == 4 ? memcmp(a + l3, f + l3, 2) || memcmp(a + l3 + 6, f + l3 + 6, 4) || memcmp(a + l3 + 12, f + l3 + 12, 8)
			    : memcmp(a + l3, f + l3, 4) || memcmp(a + l3 + 6, f + l3 + 6, 34))
		return false;
	if (memcmp(x, y, 4) || memcmp(x + 8, y + 8, 5) || memcmp(x + 20, y + 20, tcp - 20))
		return false;
	u32 data = l->end - l->payload;

	return net_get32(y + TCP_SEQ) == m->next_seq && data <= m->gso_size && m->len + data - NET_ETH_BYTES <= 65535;
}

void net_merge_flush(struct net_merge *m)
{
	struct net_hdr h = { .flags = NET_DATA_VALID };

	if (!m->len)
		return;
	if (m->packets > 1) {
		u32 bytes = m->len - m->l.l4;

		set_ip_length(m->frame, &m->l, m->len, net_get16(m->frame + m->l.l3 + 4));
		net_put16(m->frame + m->l.l4 + TCP_CSUM, net_pseudo_sum(m->frame, &m->l, bytes));
		h = (struct net_hdr){ .flags = NET_NEEDS_CSUM, .gso_type = m->l.version == 4 ? NET_GSO_TCPV4 : NET_GSO_TCPV6,
				      .hdr_len = (u16)m->l.payload, .gso_size = m->gso_size, .csum_start = m->l.l4, .csum_offset = TCP_CSUM };
	}
	u32 len = m->len;

	m->len = 0;
	m->emit(m->opaque, &h, m->frame, len);
}

static void begin(struct net_merge *m, const u8 *f, const struct net_layers *l)
{
	memcpy(m->frame, f, l->end);
	m->l = *l;
	m->len = l->end;
	m->packets = 1;
	m->gso_size = (u16)(l->end - l->payload);
	m->next_seq = net_get32(f + l->l4 + TCP_SEQ) + m->gso_size;
}

static void append(struct net_merge *m, const u8 *f, const struct net_layers *l)
{
	u32 data = l->end - l->payload;

	memcpy(m->frame + m->len, f + l->payload, data);
	memcpy(m->frame + m->l.l4 + 14, f + l->l4 + 14, 2); /* the newest window */
	m->frame[m->l.l4 + TCP_FLAGS] |= f[l->l4 + TCP_FLAGS] & TCP_PSH;
	m->len += data;
	m->next_seq += data;
	m->packets++;
}

void net_merge_add(struct net_merge *m, const u8 *f, u32 len)
{
	const struct net_hdr plain = { .flags = m->trusted ? NET_DATA_VALID : 0 };
	struct net_layers l;

	if (!mergeable(m, f, len, &l)) {
		net_merge_flush(m);
		m->emit(m->opaque, &plain, f, len);
		return;
	}
	u32 data = l.end - l.payload;
	bool joined = m->len && follows(m, f, &l);

	if (joined) {
		append(m, f, &l);
	} else {
		net_merge_flush(m);
		begin(m, f, &l);
	}
	if (data < m->gso_size || (f[l.l4 + TCP_FLAGS] & TCP_PSH))
		net_merge_flush(m);
}
