/* The queues of the balloon and the multiport console with rubbish, while the host's programs come, go and talk. */
#include "fuzz_input.h"
#include "base/log.h"
#include "virtio_driver.h"
#include "virtio/virtio_balloon.h"
#include "virtio/virtio_serial.h"

enum { SERIAL, BALLOON, DEVICES, ARENA = 0x100000, ARENA_BYTES = 0x8000, PORTS = 3, SERIAL_QUEUES = 2 + 2 * PORTS, BALLOON_QUEUES = 5 };

static struct rig *r;
static struct virtio_serial *serial;
static struct virtio_balloon *balloon;
static struct vdrv d[DEVICES];
static u64 sum;
static size_t room;

static size_t output(void *opaque, const u8 *data, size_t len)
{
	size_t n = len < room ? len : room;

	for (size_t i = 0; i < n; i++)
		sum += data[i];
	room -= n;
	return n;
}

static void create(void)
{
	const struct virtio_serial_port ports[PORTS] = { { "a", output }, { "b", output }, { "c", output } };

	r = rig_create();
	serial = virtio_serial_create(r->pci, 2 + SERIAL, ports, PORTS);
	balloon = virtio_balloon_create(r->pci, 2 + BALLOON, &(struct virtio_balloon_config){ 0 });
	log_set_level(LOG_ERROR);
}

static unsigned queues(unsigned i) { return i == SERIAL ? SERIAL_QUEUES : BALLOON_QUEUES; }

static void start(unsigned i, u64 features)
{
	vdrv_start(&d[i], r, 2 + i, features | (i == SERIAL ? BIT(1) : BIT(1) | BIT(2) | BIT(5)), queues(i));
}

static struct vdrv *device(struct fuzz_input *in, unsigned *q)
{
	u8 v = (u8)fuzz_take(in, 1);

	*q = (v >> 1) % queues(v & 1);
	return &d[v & 1];
}

static void op_chain(struct fuzz_input *in)
{
	unsigned q, n = 1 + (fuzz_take(in, 1) & 3);
	struct vdrv *v = device(in, &q);
	struct vbuf b[4];

	for (unsigned i = 0; i < n; i++)
		b[i] = (struct vbuf){ ARENA + fuzz_take(in, 2) % ARENA_BYTES, (u32)fuzz_take(in, 2), fuzz_take(in, 1) & VD_WRITE };
	vdrv_add(v, q, b, n);
	vdrv_kick(v, q);
}

static void op_desc(struct fuzz_input *in)
{
	unsigned q;
	struct vdrv *v = device(in, &q);
	u16 i = fuzz_take(in, 1) % VD_QSIZE;

	vdrv_desc(v, q, i, ARENA + fuzz_take(in, 2), (u32)fuzz_take(in, fuzz_size(in) & 7), fuzz_take(in, 1) & 7, fuzz_take(in, 1) % VD_QSIZE);
	vdrv_publish(v, q, i);
	vdrv_kick(v, q);
}

/* A well-formed control message, mostly. */
static void op_control(struct fuzz_input *in)
{
	mem_write_le(&r->mem, gpa(ARENA), fuzz_take(in, 1) % 5, 4);
	mem_write_le(&r->mem, gpa(ARENA + 4), fuzz_take(in, 1) % 9, 2);
	mem_write_le(&r->mem, gpa(ARENA + 6), fuzz_take(in, 1) & 1, 2);
	vdrv_add(&d[SERIAL], 3, &(struct vbuf){ ARENA, 8, 0 }, 1);
	vdrv_kick(&d[SERIAL], 3);
}

static void op_host(struct fuzz_input *in)
{
	static const u8 text[600];
	unsigned what = (unsigned)fuzz_take(in, 1), port = what % PORTS;

	switch (what / PORTS % 5) {
	case 0: virtio_serial_receive(serial, port, text, fuzz_take(in, 2) % sizeof text); return;
	case 1: virtio_serial_host_open(serial, port, fuzz_take(in, 1) & 1); return;
	case 2: room = fuzz_take(in, 2); virtio_serial_output_space(serial, port); return;
	case 3: virtio_balloon_set_target(balloon, fuzz_take(in, 4)); return;
	default: virtio_balloon_ask_stats(balloon); return;
	}
}

static void op_ring(struct fuzz_input *in)
{
	mem_write_le(&r->mem, gpa(0x10000 + fuzz_take(in, 3) % 0x20000), fuzz_take(in, 2), 2);
}

static void op_time(struct fuzz_input *in) { rig_advance(r, fuzz_take(in, 3)); }

static void op_restart(struct fuzz_input *in)
{
	u8 v = (u8)fuzz_take(in, 1);

	start(v & 1, (u64)(v >> 1 & 3) << 28);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static void (*const op[8])(struct fuzz_input *in) = { op_chain, op_desc, op_host, op_ring, op_time, op_restart, op_control, op_host };
	struct fuzz_input in = { data, data + size };

	if (!r)
		create();
	for (unsigned i = 0; i < DEVICES; i++)
		start(i, VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC);
	while (fuzz_more(&in))
		op[fuzz_take(&in, 1) & 7](&in);
	rig_check_save_load(r);
	return 0;
}
