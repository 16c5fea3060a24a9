/* A driver gone mad in front of virtio-net, and a cable that brings rubbish: rings, headers of frames, control commands, transport registers. */
#include "fuzz_input.h"
#include "virtio_driver.h"
#include "virtio/virtio_net.h"
#include "base/log.h"
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SLOT = 4, PAIRS = 2, QUEUES = 2 * PAIRS + 1, ARENA = 0x100000, ARENA_BYTES = 0x20000 };

static struct rig *r;
static struct vdrv d;
static struct virtio_net *n;
static int cable;

static void create(void)
{
	struct virtio_net_config cfg = { .port = calloc(1, sizeof(struct net_port)), .mac = { 2, 0, 0, 0, 0, 1 }, .pairs = PAIRS, .allow = "" };
	int pair[2];

	signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_ERROR);
	r = rig_create();
	bug_if(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair) < 0);
	cable = pair[1];
	cfg.port->fd = pair[0];
	cfg.port->listen_fd = -1;
	n = virtio_net_create(r->pci, SLOT, &cfg);
	bug_if(!n);
}

/* An address that is mostly in a small part of RAM, so that structures meet. */
static u64 address(struct fuzz_input *in)
{
	u8 how = (u8)fuzz_take(in, 1);

	if (how < 200)
		return ARENA + fuzz_take(in, 2) % ARENA_BYTES;
	if (how < 230)
		return 0x10000 + fuzz_take(in, 2) % 0x14000; /* the rings themselves */
	return fuzz_take(in, 8);
}

/* A frame that is nearly one, with a header that nearly fits it. */
static u32 make(struct fuzz_input *in, struct net_hdr *h, u8 *f, u32 max)
{
	static const u8 gso[] = { 0, 0, 1, 4, 5, 0x81, 3, 77 };
	u32 len = (u32)fuzz_take(in, 2) % max;
	u8 how = (u8)fuzz_take(in, 1);
	bool six = how & 1;

	*h = (struct net_hdr){ .flags = (u8)fuzz_take(in, 1) & 3, .gso_type = gso[fuzz_take(in, 1) & 7], .gso_size = (u16)fuzz_take(in, 2),
			       .csum_start = 14 + (six ? 40 : 20), .csum_offset = how & 2 ? 16 : 6 };
	for (u32 i = 0; i < len; i += 61)
		f[i] = (u8)fuzz_take(in, 1);
	if (len < 80)
		return len;
	memcpy(f, "\x02\0\0\0\0\x01\x02\0\0\0\0\x01", 12);
	net_put16(f + 12, six ? 0x86dd : 0x0800);
	f[14] = six ? 0x60 : 0x45;
	net_put16(f + (six ? 18 : 16), len - (six ? 54 : 14));
	net_put16(f + 20, six ? 0x0600 : 0);
	f[six ? 20 : 23] = how & 2 ? 6 : 17;
	f[14 + (six ? 40 : 20) + 12] = (u8)fuzz_take(in, 1);
	if (how & 0x80)
		f[fuzz_take(in, 1) % 80] = (u8)fuzz_take(in, 1);
	if (how & 0x40)
		h->csum_start = (u16)fuzz_take(in, 2);
	return len;
}

static void op_frame_out(struct fuzz_input *in)
{
	static u8 f[0x8000];
	struct net_hdr h;
	u32 len = make(in, &h, f, sizeof(f));

	mem_write(&r->mem, gpa(ARENA), &h, sizeof(h));
	mem_write(&r->mem, gpa(ARENA + NET_HDR_BYTES), f, len);
	vdrv_add(&d, 1 + 2 * (fuzz_take(in, 1) & 1), (struct vbuf[]){ { ARENA, NET_HDR_BYTES + len, 0 } }, 1);
}

static void op_frame_in(struct fuzz_input *in)
{
	static u8 buf[NET_HDR_BYTES + NET_FRAME_MAX];
	struct net_hdr h;
	u32 len = make(in, &h, buf + NET_HDR_BYTES, NET_FRAME_MAX);

	memcpy(buf, &h, sizeof(h));
	if (write(cable, buf, NET_HDR_BYTES + len) < 0)
		return; /* it is full */
}

static void op_buffers(struct fuzz_input *in)
{
	u32 len = (u32)fuzz_take(in, 2);

	for (unsigned i = (unsigned)fuzz_take(in, 1) & 15; i; i--)
		vdrv_add(&d, 2 * (fuzz_take(in, 1) & 1), (struct vbuf[]){ { ARENA + 0x8000 + i * 0x1000, len, VD_WRITE } }, 1);
}

static void op_control(struct fuzz_input *in)
{
	u64 at = address(in);

	mem_write_le(&r->mem, gpa(at), fuzz_take(in, 1) & 7, 1);
	mem_write_le(&r->mem, gpa(at + 1), fuzz_take(in, 1) & 7, 1);
	mem_write_le(&r->mem, gpa(at + 2), fuzz_take(in, 4), 4);
	vdrv_add(&d, fuzz_take(in, 1) & 1 ? QUEUES - 1 : 2, (struct vbuf[]){ { at, (u32)fuzz_take(in, 2), 0 }, { address(in), 1, VD_WRITE } }, 2);
}

static void op_desc(struct fuzz_input *in)
{
	u32 len = (u32)fuzz_take(in, 2);
	unsigned q = fuzz_take(in, 1) % QUEUES;
	u16 i = (u16)fuzz_take(in, 1) % VD_QSIZE;

	vdrv_desc(&d, q, i, address(in), len, (u16)fuzz_take(in, 1) & 7, (u16)fuzz_take(in, 1) % (VD_QSIZE + 1));
}

static void op_publish(struct fuzz_input *in) { vdrv_publish(&d, fuzz_take(in, 1) % QUEUES, (u16)fuzz_take(in, 1) % (VD_QSIZE + 1)); }
static void op_kick(struct fuzz_input *in) { vdrv_kick(&d, fuzz_take(in, 1) % (QUEUES + 1)); }
static void op_memory(struct fuzz_input *in) { mem_write_le(&r->mem, gpa(address(in)), fuzz_take(in, 8), 8); }
static void op_advance(struct fuzz_input *in) { rig_advance(r, 100000); }
static void op_hold(struct fuzz_input *in) { dev_list_quiesce(&r->devs); }
static void op_restart(struct fuzz_input *in) { vdrv_start(&d, r, SLOT, n->v.features & (fuzz_take(in, 8) | BIT(32)), QUEUES); }

static void op_step(struct fuzz_input *in)
{
	static u8 out[NET_HDR_BYTES + NET_FRAME_MAX];

	net_port_step(n->port, 0);
	while (read(cable, out, sizeof(out)) > 0)
		;
}

static void op_register(struct fuzz_input *in)
{
	u64 off = fuzz_take(in, 2);
	unsigned size = fuzz_size(in);

	off = (off & 0x8000 ? off % 0x40 : off % 0x4000) & ~(u64)(size - 1); /* the common structure, more often */
	bus_mmio_write(&r->bus, d.common + off, fuzz_take(in, size), size);
	bus_mmio_read(&r->bus, d.common + off, size);
}

static void (*const op[16])(struct fuzz_input *in) = { op_desc, op_frame_out, op_publish, op_kick, op_frame_in, op_buffers, op_control, op_memory,
	op_step, op_advance, op_register, op_restart, op_kick, op_step, op_buffers, op_hold };

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct fuzz_input in = { data, data + size };

	if (!r)
		create();
	vdrv_start(&d, r, SLOT, n->v.features & ~(fuzz_take(&in, 1) & 1 ? BIT(15) | BIT(7) | BIT(8) : 0), QUEUES);
	while (fuzz_more(&in))
		op[fuzz_take(&in, 1) & 15](&in);
	op_advance(&in);
	op_step(&in);
	rig_check_save_load(r);
	rig_advance(r, 1000);
	return 0;
}
