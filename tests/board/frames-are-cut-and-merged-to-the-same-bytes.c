/* Checksums against RFC 1071's own example and a captured header; segmentation and merging against each other. */
#include "dev_rig.h"
#include "net/frame.h"
#include "net/spec.h"
#include <stdlib.h>

enum { MAX_PIECES = 128 };

static struct { struct net_hdr hdr; u8 *bytes; u32 len; } piece[MAX_PIECES];
static unsigned pieces;

static void collect(void *opaque, const struct net_hdr *h, const u8 *frame, u32 len)
{
	assert_true(pieces < MAX_PIECES);
	piece[pieces].hdr = *h;
	piece[pieces].bytes = memcpy(malloc(len), frame, len);
	piece[pieces++].len = len;
}

static void drop_pieces(void)
{
	while (pieces)
		free(piece[--pieces].bytes);
}

/* RFC 1071, section 3: the sum of 00 01 f2 03 f4 f5 f6 f7 is ddf2. */
static void sums_are_those_of_rfc_1071(void **state)
{
	static const u8 example[] = { 0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7 };
	/* an IP header as a kernel sent it: its checksum, b861, makes the sum all ones */
	static const u8 header[] = { 0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7 };
	u8 many[100];

	assert_int_equal(net_sum(example, 8, 0), 0xddf2);
	assert_int_equal(net_sum(header, 20, 0), 0xffff);
	memset(many, 0xff, sizeof(many));
	assert_int_equal(net_sum(many, 99, 0), 0xff00);
	assert_int_equal(net_sum(many, 0, 0x1234), 0x1234);
}

static u32 make(u8 *f, bool six, u8 proto, u32 data)
{
	u32 l3 = 14, l4 = l3 + (six ? 40 : 20), payload = l4 + (proto == NET_TCP ? 32 : 8), len = payload + data;

	for (u32 i = 0; i < len; i++)
		f[i] = (u8)(i * 7 + (i >> 8));
	net_put16(f + 12, six ? 0x86dd : 0x0800);
	f[l3] = six ? 0x60 : 0x45;
	if (six) {
		net_put16(f + l3 + 4, len - l4);
		f[l3 + 6] = proto;
	} else {
		net_put16(f + l3 + 2, len - l3);
		net_put16(f + l3 + 6, 0x4000);
		f[l3 + 9] = proto;
	}
	if (proto == NET_TCP) {
		f[l4 + 12] = 0x80;
		f[l4 + 13] = 0x18;
	} else {
		net_put16(f + l4 + 4, len - l4);
	}
	return len;
}

static void check_pieces(const u8 *f, bool six, u8 proto, u32 data, u32 mss)
{
	u32 at = 0;

	for (unsigned i = 0; i < pieces; i++) {
		const u8 *p = piece[i].bytes;
		struct net_layers l;

		assert_true(net_parse(p, piece[i].len, &l));
		assert_int_equal(l.end, piece[i].len);
		assert_int_equal(net_sum(p + l.l4, l.end - l.l4, net_pseudo_sum(p, &l, l.end - l.l4)), 0xffff);
		if (!six)
			assert_int_equal(net_sum(p + 14, 20, 0), 0xffff);
		if (proto == NET_UDP)
			assert_int_equal(net_get16(p + l.l4 + 4), l.end - l.l4);
		assert_int_equal(l.end - l.payload, min_u64(mss, data - at));
		assert_memory_equal(p + l.payload, f + l.payload + at, l.end - l.payload);
		at += l.end - l.payload;
	}
	assert_int_equal(at, data);
}

static void a_cut_frame_has_the_data_and_right_checksums(void **state)
{
	static u8 f[NET_FRAME_MAX];

	for (unsigned i = 0; i < 32; i++) {
		bool six = i & 1;
		u8 proto = i & 2 ? NET_UDP : NET_TCP;
		u32 mss = i & 4 ? 1000 : 1448, data = i & 8 ? 60000 : 3 * mss + (i & 16 ? 1 : 0), len = make(f, six, proto, data);
		struct net_hdr h = { .flags = NET_NEEDS_CSUM, .gso_size = (u16)mss, .csum_start = six ? 54 : 34, .csum_offset = proto == NET_TCP ? 16 : 6,
				     .gso_type = proto == NET_UDP ? NET_GSO_UDP_L4 : six ? NET_GSO_TCPV6 : NET_GSO_TCPV4 };

		assert_true(net_segment(&h, f, len, collect, NULL));
		check_pieces(f, six, proto, data, mss);
		drop_pieces();
	}
}

static void merging_is_cutting_backwards(void **state)
{
	static u8 f[NET_FRAME_MAX], buffer[NET_FRAME_MAX];

	for (unsigned six = 0; six < 2; six++) {
		u32 len = make(f, six, NET_TCP, 20000);
		struct net_hdr h = { .flags = NET_NEEDS_CSUM, .gso_size = 1448, .csum_start = six ? 54 : 34, .csum_offset = 16,
				     .gso_type = six ? NET_GSO_TCPV6 : NET_GSO_TCPV4 };
		struct net_merge m = { .frame = buffer, .emit = collect };

		assert_true(net_segment(&h, f, len, collect, NULL));
		unsigned n = pieces;

		for (unsigned i = 0; i < n; i++)
			net_merge_add(&m, piece[i].bytes, piece[i].len);
		net_merge_flush(&m);
		assert_int_equal(pieces, n + 1);
		assert_int_equal(piece[n].len, len);
		assert_int_equal(piece[n].hdr.gso_size, 1448);
		assert_int_equal(piece[n].hdr.gso_type, h.gso_type);
		assert_memory_equal(piece[n].bytes + h.csum_start + 32, f + h.csum_start + 32, 20000);
		assert_true(net_hdr_valid(&piece[n].hdr, piece[n].bytes, len));
		drop_pieces();
	}
}

/* A gap, another acknowledgement, a FIN or a wrong checksum is not merged. */
static void what_does_not_follow_is_not_merged(void **state)
{
	static u8 f[NET_FRAME_MAX], buffer[NET_FRAME_MAX];
	u32 len = make(f, false, NET_TCP, 3000);
	struct net_hdr h = { .flags = NET_NEEDS_CSUM, .gso_type = NET_GSO_TCPV4, .gso_size = 1000, .csum_start = 34, .csum_offset = 16 };
	static const struct { u32 at; u8 flip; bool trusted; } change[] = {
		{ 34 + 7, 1, true }, { 34 + 11, 1, true }, { 34 + 13, 1, true }, { 34 + 1, 1, true }, { 14 + 12, 1, true }, { 0, 2, true }, { 500, 1, false },
	};

	for (unsigned i = 0; i < array_len(change); i++) {
		struct net_merge m = { .frame = buffer, .emit = collect, .trusted = change[i].trusted };

		assert_true(net_segment(&h, f, len, collect, NULL));
		piece[1].bytes[change[i].at] ^= change[i].flip;
		net_merge_add(&m, piece[0].bytes, piece[0].len);
		net_merge_add(&m, piece[1].bytes, piece[1].len);
		net_merge_flush(&m);
		assert_int_equal(pieces, 5); /* three from the cut, then the two as they were */
		assert_memory_equal(piece[3].bytes, piece[0].bytes, piece[0].len);
		assert_memory_equal(piece[4].bytes, piece[1].bytes, piece[1].len);
		drop_pieces();
	}
}

static void options_are_read_or_refused_with_a_sentence(void **state)
{
	struct net_spec s;
	char err[200];

	assert_int_equal(net_spec_parse(&s, "user,hostfwd=tcp::2222-:22,hostfwd=udp:0.0.0.0:53-10.0.2.16:5353,mac=02:00:00:00:00:01", err, sizeof(err)), 0);
	assert_int_equal(s.nforwards, 2);
	assert_int_equal(ntohl(s.forward[0].host.s_addr), 0x7f000001);
	assert_int_equal(ntohl(s.forward[0].guest.s_addr), 0x0a00020f);
	assert_int_equal(s.forward[0].guest_port, 22);
	assert_true(s.forward[1].udp && !s.forward[0].udp);
	assert_int_equal(ntohl(s.forward[1].guest.s_addr), 0x0a000210);
	static const char *const bad[] = { "", "user,", "user,hostfwd=", "user,hostfwd=tcp::1-", "user,hostfwd=tcp:a:1-:2", "user,hostfwd=tcp::1-:99999", "tap,ifname=",
		"tap,ifname=a/b", "switch,name=x,path=/y", "user,mac=02:00:00:00:00:0", "user,queues=0", "user,mtu=10", "user,restrict=yes" };

	for (unsigned i = 0; i < array_len(bad); i++) {
		*err = 0;
		assert_true(net_spec_parse(&s, bad[i], err, sizeof(err)) < 0);
		assert_true(*err);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sums_are_those_of_rfc_1071), cmocka_unit_test(a_cut_frame_has_the_data_and_right_checksums),
		cmocka_unit_test(merging_is_cutting_backwards), cmocka_unit_test(what_does_not_follow_is_not_merged),
		cmocka_unit_test(options_are_read_or_refused_with_a_sentence),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
