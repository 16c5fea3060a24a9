/* The network card in front of a socket pair that is its cable: both directions, offloads, filter, control queue, and what a switch port forbids. */
#include "virtio_driver.h"
#include "virtio/virtio_net.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SLOT = 4, RX = 0, TX = 1, BUF = 0x100000, BUF_STEP = 0x1000, CTRL_DATA = 0x180000, CTRL_ACK = 0x181000 };
#define F_GUEST_CSUM BIT(1)
#define F_MRG BIT(15)
#define F_CTRL (BIT(17) | BIT(18) | BIT(19) | BIT(20) | BIT(23))
#define F_ANNOUNCE BIT(21)

static const u8 own[6] = { 0x02, 0, 0, 0, 0, 0x10 }, other[6] = { 0x02, 0, 0, 0, 0, 0x20 }, all[6] = { 255, 255, 255, 255, 255, 255 };
static struct rig *r;
static struct vdrv d;
static struct virtio_net *n;
static int cable;

static void attach_by(int type, enum net_framing framing, bool spoofing, unsigned pairs)
{
	struct virtio_net_config cfg = { .port = calloc(1, sizeof(struct net_port)), .mac_spoofing = spoofing, .pairs = pairs, .allow = "switch,name=x" };
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, type | SOCK_NONBLOCK, 0, pair), 0);
	cable = pair[1];
	cfg.port->fd = pair[0];
	cfg.port->listen_fd = -1;
	cfg.port->framing = framing;
	strcpy(cfg.port->name, "net0");
	strcpy(cfg.port->peer, "test");
	memcpy(cfg.mac, own, 6);
	r = rig_create();
	n = virtio_net_create(r->pci, SLOT, &cfg);
	assert_non_null(n);
}

static void attach(bool spoofing, unsigned pairs) { attach_by(SOCK_SEQPACKET, NET_FRAMING_HDR, spoofing, pairs); }

static void start(u64 features, unsigned queues) { vdrv_start(&d, r, SLOT, features | VIRTIO_F_EVENT_IDX, queues); }

static int setup(void **state)
{
	signal(SIGPIPE, SIG_IGN);
	attach(false, 1);
	return 0;
}

static int setup_spoofing(void **state)
{
	attach(true, 2);
	return 0;
}

static int setup_stream(void **state)
{
	signal(SIGPIPE, SIG_IGN);
	attach_by(SOCK_STREAM, NET_FRAMING_STREAM, false, 1);
	return 0;
}

static int teardown(void **state)
{
	rig_check_save_load(r);
	rig_free(r);
	close(cable);
	return 0;
}

static void step(void)
{
	for (unsigned i = 0; i < 4; i++)
		net_port_step(n->port, 0);
}

/* An Ethernet frame of `len` bytes whose data are its offsets. */
static void make(u8 *f, const u8 *to, const u8 *from, u32 len)
{
	for (u32 i = 14; i < len; i++)
		f[i] = (u8)i;
	memcpy(f, to, 6);
	memcpy(f + 6, from, 6);
	net_put16(f + 12, 0x88b5);
}

static void guest_sends(const struct net_hdr *h, const u8 *f, u32 len)
{
	u32 head, used;

	assert_int_equal(mem_write(&r->mem, gpa(BUF), h, sizeof(*h)), 0);
	assert_int_equal(mem_write(&r->mem, gpa(BUF + sizeof(*h)), f, len), 0);
	vdrv_add(&d, TX, (struct vbuf[]){ { BUF, sizeof(*h), 0 }, { BUF + sizeof(*h), len, 0 } }, 2);
	vdrv_kick(&d, TX);
	step();
	assert_true(vdrv_used(&d, TX, &head, &used)); /* whatever becomes of it, the buffer comes back */
}

static ssize_t from_cable(u8 *buf, size_t size) { return read(cable, buf, size); }

static void to_cable(const struct net_hdr *h, const u8 *f, u32 len)
{
	u8 buf[NET_HDR_BYTES + NET_FRAME_MAX];

	memcpy(buf, h, sizeof(*h));
	memcpy(buf + sizeof(*h), f, len);
	assert_int_equal(write(cable, buf, sizeof(*h) + len), sizeof(*h) + len);
	step();
}

static void guest_buffers(unsigned count, u32 len)
{
	for (unsigned i = 0; i < count; i++)
		vdrv_add(&d, RX, (struct vbuf[]){ { BUF + 0x10000 + i * BUF_STEP, len, VD_WRITE } }, 1);
	vdrv_kick(&d, RX);
	step();
}

static void the_guests_frames_come_out_as_they_are(void **state)
{
	u8 f[1514], got[2000];
	struct net_hdr h = { 0 };

	start(0, 3);
	make(f, other, own, sizeof(f));
	guest_sends(&h, f, sizeof(f));
	assert_int_equal(from_cable(got, sizeof(got)), NET_HDR_BYTES + sizeof(f));
	assert_memory_equal(got + NET_HDR_BYTES, f, sizeof(f));
	assert_int_equal(n->counts.out_frames, 1);
	assert_int_equal(n->counts.out_bytes, sizeof(f));
}

static void a_foreign_source_mac_is_dropped_and_counted(void **state)
{
	u8 f[60], got[100];
	struct net_hdr h = { 0 };

	start(0, 3);
	for (unsigned i = 0; i < 3; i++) {
		make(f, all, other, sizeof(f));
		guest_sends(&h, f, sizeof(f));
	}
	assert_int_equal(from_cable(got, sizeof(got)), -1);
	assert_int_equal(n->counts.spoofed, 3);
	assert_true(n->said_spoofed);
}

/* A clone of a checkpoint: the card has another address than the one that its driver read. */
static void a_loaded_driver_may_go_on_with_the_address_it_was_given(void **state)
{
	struct state_buf b = { 0 };
	size_t pos = 0;
	u8 f[60], got[100];
	struct net_hdr h = { 0 };

	start(0, 3);
	dev_list_quiesce(&r->devs);
	dev_list_save(&r->devs, &b);
	n->own[5] ^= 1;
	assert_int_equal(dev_list_load(&r->devs, &b, &pos), 0);
	state_buf_free(&b);
	rig_advance(r, NSEC_PER_SEC);
	make(f, all, own, sizeof(f));
	guest_sends(&h, f, sizeof(f));
	step();
	assert_int_equal(from_cable(got, sizeof(got)), NET_HDR_BYTES + sizeof(f));
	assert_int_equal(n->counts.spoofed, 0);
	start(0, 3); /* the driver comes anew */
	guest_sends(&h, f, sizeof(f));
	step();
	assert_int_equal(n->counts.spoofed, 1);
	n->own[5] ^= 1;
}

static void mac_spoofing_lets_it_pass(void **state)
{
	u8 f[60], got[100];
	struct net_hdr h = { 0 };

	start(0, 5);
	make(f, all, other, sizeof(f));
	guest_sends(&h, f, sizeof(f));
	assert_int_equal(from_cable(got, sizeof(got)), NET_HDR_BYTES + 60);
	assert_int_equal(n->counts.spoofed, 0);
}

static void headers_that_make_no_sense_are_dropped(void **state)
{
	static const struct net_hdr bad[] = {
		{ .flags = 1, .csum_start = 50, .csum_offset = 9 },   /* checksum beyond the end */
		{ .flags = 1, .csum_start = 65535, .csum_offset = 65535 },
		{ .gso_type = 1, .gso_size = 100 },                    /* no segmentation was agreed on */
		{ .gso_type = 99, .gso_size = 100 },
	};
	u8 f[60], got[100];

	start(BIT(0), 3);
	make(f, other, own, sizeof(f));
	for (unsigned i = 0; i < array_len(bad); i++) {
		guest_sends(&bad[i], f, sizeof(f));
		assert_int_equal(from_cable(got, sizeof(got)), -1);
	}
	assert_int_equal(n->counts.bad_out, array_len(bad));
}

static void a_frame_spreads_over_merged_buffers(void **state)
{
	u8 f[1000], got[1012];
	u32 head, len, at = 0;
	struct net_hdr h = { 0 };

	start(F_MRG, 3);
	guest_buffers(10, 400);
	make(f, own, other, sizeof(f));
	to_cable(&h, f, sizeof(f));
	for (unsigned i = 0; i < 3; i++) {
		assert_true(vdrv_used(&d, RX, &head, &len));
		assert_int_equal(mem_read(&r->mem, gpa(BUF + 0x10000 + i * BUF_STEP), got + at, len), 0);
		at += len;
	}
	assert_false(vdrv_used(&d, RX, &head, &len));
	assert_int_equal(at, sizeof(got));
	assert_int_equal(load_le(got + 10, 2), 3); /* num_buffers */
	assert_memory_equal(got + NET_HDR_BYTES, f, sizeof(f));
	assert_true(r->msis > 0);
}

static void a_frame_waits_for_buffers(void **state)
{
	u8 f[1000], got[1012];
	u32 head, len;
	struct net_hdr h = { 0 };

	start(0, 3);
	make(f, own, other, sizeof(f));
	to_cable(&h, f, sizeof(f));
	assert_int_equal(n->counts.in_frames, 0);
	guest_buffers(1, 2000);
	assert_true(vdrv_used(&d, RX, &head, &len));
	assert_int_equal(len, sizeof(got));
	assert_int_equal(mem_read(&r->mem, gpa(BUF + 0x10000), got, len), 0);
	assert_memory_equal(got + NET_HDR_BYTES, f, sizeof(f));
	assert_int_equal(load_le(got + 10, 2), 1);
}

/* Four of five buffers that it needs: nothing is used up until the fifth is there. */
static void a_frame_takes_all_its_buffers_or_none(void **state)
{
	u8 f[1900];
	u32 head, len;
	struct net_hdr h = { 0 };

	start(F_MRG, 3);
	guest_buffers(4, 400);
	make(f, own, other, sizeof(f));
	to_cable(&h, f, sizeof(f));
	assert_false(vdrv_used(&d, RX, &head, &len));
	guest_buffers(1, 400);
	for (unsigned i = 0; i < 5; i++)
		assert_true(vdrv_used(&d, RX, &head, &len));
}

static void a_frame_too_long_for_a_single_buffer_is_lost_not_cut(void **state)
{
	u8 f[1900];
	u32 head, len;
	struct net_hdr h = { 0 };

	start(0, 3);
	guest_buffers(2, 400);
	make(f, own, other, sizeof(f));
	to_cable(&h, f, sizeof(f));
	assert_false(vdrv_used(&d, RX, &head, &len));
	assert_int_equal(n->counts.lost_in, 1);
	make(f, own, other, 300);
	to_cable(&h, f, 300);
	assert_true(vdrv_used(&d, RX, &head, &len));
}

/* A TCP segment of 3000 bytes of data for a driver without any offload: three packets with right checksums. */
static void large_frames_are_cut_for_a_driver_without_offloads(void **state)
{
	static const u8 ip[40] = { 0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, /* TCP: */ 0x13, 0x88, 0x13, 0x89,
		0, 0, 1, 0, 0, 0, 0, 9, 0x50, 0x18, 0x10, 0, 0, 0, 0, 0 };
	struct net_hdr h = { .flags = NET_NEEDS_CSUM, .gso_type = NET_GSO_TCPV4, .gso_size = 1200, .csum_start = 34, .csum_offset = 16 };
	u8 f[3054], got[2000];
	u32 head, len, seq = 256;

	start(0, 3);
	guest_buffers(8, 2000);
	make(f, own, other, sizeof(f));
	net_put16(f + 12, 0x0800);
	memcpy(f + 14, ip, 40);
	net_put16(f + 16, 3040);
	to_cable(&h, f, sizeof(f));
	for (unsigned i = 0; i < 3; i++) {
		struct net_layers l;

		assert_true(vdrv_used(&d, RX, &head, &len));
		assert_int_equal(mem_read(&r->mem, gpa(BUF + 0x10000 + i * BUF_STEP), got, len), 0);
		assert_int_equal(load_le(got, 2), 0); /* neither flags nor gso_type */
		assert_true(net_parse(got + NET_HDR_BYTES, len - NET_HDR_BYTES, &l));
		assert_int_equal(net_get32(got + NET_HDR_BYTES + 38), seq);
		assert_int_equal(got[NET_HDR_BYTES + 47] & 8, i == 2 ? 8 : 0); /* PSH in the last */
		assert_int_equal(net_sum(got + NET_HDR_BYTES + 14, 20, 0), 0xffff);
		assert_int_equal(net_sum(got + NET_HDR_BYTES + l.l4, l.end - l.l4, net_pseudo_sum(got + NET_HDR_BYTES, &l, l.end - l.l4)), 0xffff);
		assert_memory_equal(got + NET_HDR_BYTES + 54, f + 54 + (seq - 256), l.end - l.payload);
		seq += l.end - l.payload;
	}
	assert_int_equal(seq, 3256);
	assert_false(vdrv_used(&d, RX, &head, &len));
}

/* The nth packet of a TCP connection, 100 bytes of data each, with right checksums. */
static void make_tcp(u8 *f, unsigned nth)
{
	static const u8 ip[40] = { 0x45, 0, 0, 140, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, /* TCP: */ 0x13, 0x88, 0x13, 0x89,
		0, 0, 0, 0, 0, 0, 0, 9, 0x50, 0x10, 0x10, 0, 0, 0, 0, 0 };
	struct net_layers l;

	make(f, own, other, 154);
	net_put16(f + 12, 0x0800);
	memcpy(f + 14, ip, 40);
	net_put32(f + 38, 100 * nth);
	net_put16(f + 24, (u16)~net_sum(f + 14, 20, 0));
	assert_true(net_parse(f, 154, &l));
	net_put16(f + 50, (u16)~net_sum(f + 34, 120, net_pseudo_sum(f, &l, 120)));
}

static void stream_write(const u8 *f, u32 len)
{
	u8 head[4];

	net_put32(head, len);
	assert_int_equal(write(cable, head, 4), 4);
	assert_int_equal(write(cable, f, len), len);
}

static void a_stream_carries_lengths_and_plain_frames(void **state)
{
	u8 f[60], got[100];
	struct net_hdr h = { 0 };

	start(0, 3);
	make(f, other, own, sizeof(f));
	guest_sends(&h, f, sizeof(f));
	assert_int_equal(read(cable, got, sizeof(got)), 64);
	assert_int_equal(net_get32(got), 60);
	assert_memory_equal(got + 4, f, 60);
}

/* Five packets that become one frame, then one that does not belong to it, while the guest has no buffer: all wait, none is lost. */
static void frames_of_a_stream_wait_and_none_is_lost(void **state)
{
	u8 f[154], got[700];
	u32 head, len;

	start(F_GUEST_CSUM | BIT(7) | F_MRG, 3);
	for (unsigned i = 0; i < 5; i++) {
		make_tcp(f, i);
		stream_write(f, sizeof(f));
	}
	make(f, all, other, 60);
	stream_write(f, 60);
	step();
	guest_buffers(4, 2000);
	assert_true(vdrv_used(&d, RX, &head, &len));
	assert_int_equal(len, NET_HDR_BYTES + 54 + 500);
	assert_int_equal(mem_read(&r->mem, gpa(BUF + 0x10000), got, len), 0);
	assert_int_equal(got[1], NET_GSO_TCPV4);
	assert_int_equal(load_le(got + 4, 2), 100); /* gso_size */
	assert_true(vdrv_used(&d, RX, &head, &len));
	assert_int_equal(len, NET_HDR_BYTES + 60);
	assert_int_equal(n->counts.lost_in + n->port->lost_in, 0);
}

static void a_peer_that_lies_about_lengths_is_cut_off(void **state)
{
	start(BIT(16), 3);
	assert_int_equal(write(cable, "\x7f\xff\xff\xff", 4), 4);
	step();
	assert_int_equal(bus_mmio_read(&r->bus, d.device + 6, 2), 0);
	assert_int_equal(n->port->fd, -1);
}

static u8 control(u8 class, u8 cmd, const void *data, u32 bytes, unsigned queue)
{
	u8 head[2] = { class, cmd };
	u32 h, len;

	mem_write(&r->mem, gpa(CTRL_DATA), head, 2);
	mem_write(&r->mem, gpa(CTRL_DATA + 2), data, bytes);
	mem_write_le(&r->mem, gpa(CTRL_ACK), 0xee, 1);
	vdrv_add(&d, queue, (struct vbuf[]){ { CTRL_DATA, 2 + bytes, 0 }, { CTRL_ACK, 1, VD_WRITE } }, 2);
	vdrv_kick(&d, queue);
	assert_true(vdrv_used(&d, queue, &h, &len));
	return (u8)mem_read_le(&r->mem, gpa(CTRL_ACK), 1);
}

static bool arrives(const u8 *to, u16 vlan)
{
	u64 before = n->counts.in_frames;
	struct net_hdr h = { 0 };
	u32 head, len;
	u8 f[80];

	make(f, to, other, sizeof(f));
	if (vlan) {
		net_put16(f + 12, 0x8100);
		net_put16(f + 14, vlan);
	}
	guest_buffers(1, 500);
	to_cable(&h, f, sizeof(f));
	while (vdrv_used(&d, RX, &head, &len))
		;
	return n->counts.in_frames > before;
}

static void the_filter_passes_what_the_driver_asked_for(void **state)
{
	static const u8 group[6] = { 0x33, 0x33, 0, 0, 0, 1 };
	u8 on = 1, off = 0, table[] = { 1, 0, 0, 0, 2, 0, 0, 0, 0, 0x20, 1, 0, 0, 0, 0x33, 0x33, 0, 0, 0, 1 };
	u16 vlan = 7, big = 4096;

	start(F_CTRL, 3);
	assert_true(arrives(own, 0));
	assert_true(arrives(all, 0));
	assert_false(arrives(other, 0));
	assert_false(arrives(group, 0));
	assert_false(arrives(own, 7));
	assert_int_equal(control(2, 0, &vlan, 2, 2), 0);
	assert_true(arrives(own, 7));
	assert_int_equal(control(2, 1, &vlan, 2, 2), 0);
	assert_false(arrives(own, 7));
	assert_int_equal(control(2, 0, &big, 2, 2), 1);
	assert_int_equal(control(1, 0, table, sizeof(table), 2), 0);
	assert_true(arrives(other, 0));
	assert_true(arrives(group, 0));
	table[0] = 200; /* says more than there is */
	assert_int_equal(control(1, 0, table, sizeof(table), 2), 1);
	assert_int_equal(control(0, 5, &on, 1, 2), 0);
	assert_false(arrives(all, 0));
	assert_int_equal(control(0, 0, &on, 1, 2), 0);
	assert_true(arrives(all, 9));
	assert_int_equal(control(0, 0, &off, 1, 2), 0);
	assert_int_equal(control(1, 1, "\x02\0\0\0\0\x77", 6, 2), 0);
	assert_true(arrives((const u8 *)"\x02\0\0\0\0\x77", 0));
	assert_int_equal(bus_mmio_read(&r->bus, d.device + 5, 1), 0x77);
	assert_int_equal(control(9, 0, &on, 1, 2), 1);
	assert_int_equal(control(0, 200, &on, 1, 2), 1);
}

static void pairs_are_chosen_by_the_control_queue(void **state)
{
	u16 two = 2, three = 3, zero = 0;

	start(F_CTRL | BIT(22), 5);
	assert_int_equal(bus_mmio_read(&r->bus, d.device + 8, 2), 2);
	assert_int_equal(n->regs.pairs, 1);
	assert_int_equal(control(4, 0, &three, 2, 4), 1);
	assert_int_equal(control(4, 0, &zero, 2, 4), 1);
	assert_int_equal(control(4, 0, &two, 2, 4), 0);
	assert_int_equal(n->regs.pairs, 2);
}

static void the_link_goes_down_with_the_cable(void **state)
{
	start(BIT(16), 3);
	assert_int_equal(bus_mmio_read(&r->bus, d.device + 6, 2), 1);
	unsigned before = r->msis, generation = (unsigned)vdrv_common(&d, 0x15, 1);

	close(cable);
	step();
	assert_int_equal(bus_mmio_read(&r->bus, d.device + 6, 2), 0);
	assert_int_equal(r->msis, before + 1);
	assert_int_equal(vdrv_common(&d, 0x15, 1), generation + 1);
}

static void a_loaded_card_announces_itself_when_time_goes_on(void **state)
{
	struct state_buf b = { 0 };
	size_t pos = 0;

	start(F_CTRL | F_ANNOUNCE | BIT(16), 3);
	dev_list_quiesce(&r->devs);
	dev_list_save(&r->devs, &b);
	assert_int_equal(dev_list_load(&r->devs, &b, &pos), 0);
	state_buf_free(&b);
	assert_int_equal(bus_mmio_read(&r->bus, d.device + 6, 2), 1);
	rig_advance(r, 1000);
	assert_int_equal(bus_mmio_read(&r->bus, d.device + 6, 2), 3);
	assert_int_equal(control(3, 0, "", 0, 2), 0);
	assert_int_equal(bus_mmio_read(&r->bus, d.device + 6, 2), 1);
	assert_int_equal(control(3, 0, "", 0, 2), 1);
}

static void no_frame_moves_between_a_save_and_the_next_tick(void **state)
{
	u8 f[60], got[100];
	u32 head, len;
	struct net_hdr h = { 0 };

	start(0, 3);
	guest_buffers(1, 500);
	dev_list_quiesce(&r->devs);
	make(f, own, other, sizeof(f));
	to_cable(&h, f, sizeof(f));
	make(f, other, own, sizeof(f));
	mem_write(&r->mem, gpa(BUF), &h, sizeof(h));
	mem_write(&r->mem, gpa(BUF + NET_HDR_BYTES), f, sizeof(f));
	vdrv_add(&d, TX, (struct vbuf[]){ { BUF, NET_HDR_BYTES + sizeof(f), 0 } }, 1);
	vdrv_kick(&d, TX);
	step();
	assert_false(vdrv_used(&d, RX, &head, &len));
	assert_false(vdrv_used(&d, TX, &head, &len));
	rig_advance(r, 1000);
	step();
	assert_true(vdrv_used(&d, RX, &head, &len));
	assert_true(vdrv_used(&d, TX, &head, &len));
	assert_int_equal(from_cable(got, sizeof(got)), NET_HDR_BYTES + 60);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define W(f) cmocka_unit_test_setup_teardown(f, setup_stream, teardown)
#define S(f) cmocka_unit_test_setup_teardown(f, setup_spoofing, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_guests_frames_come_out_as_they_are), T(a_foreign_source_mac_is_dropped_and_counted), T(a_loaded_driver_may_go_on_with_the_address_it_was_given),
		S(mac_spoofing_lets_it_pass),
		T(headers_that_make_no_sense_are_dropped), T(a_frame_spreads_over_merged_buffers), T(a_frame_waits_for_buffers),
		T(a_frame_takes_all_its_buffers_or_none), T(a_frame_too_long_for_a_single_buffer_is_lost_not_cut),
		T(large_frames_are_cut_for_a_driver_without_offloads), T(the_filter_passes_what_the_driver_asked_for),
		S(pairs_are_chosen_by_the_control_queue), T(the_link_goes_down_with_the_cable), T(a_loaded_card_announces_itself_when_time_goes_on),
		T(no_frame_moves_between_a_save_and_the_next_tick), W(a_stream_carries_lengths_and_plain_frames),
		W(frames_of_a_stream_wait_and_none_is_lost), W(a_peer_that_lies_about_lengths_is_cut_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
