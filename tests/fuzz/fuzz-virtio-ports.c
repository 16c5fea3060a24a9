/* The queues of the balloon, the multiport console and vsock with rubbish, while the host's programs come, go and talk. */
#include "fuzz_input.h"
#include "base/log.h"
#include "virtio_driver.h"
#include "virtio/virtio_balloon.h"
#include "virtio/virtio_serial.h"
#include "virtio/virtio_vsock.h"

enum { SERIAL, BALLOON, VSOCK, DEVICES, ARENA = 0x100000, ARENA_BYTES = 0x8000, PORTS = 3, SERIAL_QUEUES = 2 + 2 * PORTS, BALLOON_QUEUES = 5, VSOCK_QUEUES = 3 };

static struct rig *r;
static struct virtio_serial *serial;
static struct virtio_balloon *balloon;
static struct virtio_vsock *vsock;
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

/* Looks at every byte, and answers some. */
static void packet(void *opaque, const struct vsock_head *h, const u8 *data)
{
	for (u32 i = 0; i < h->len; i++)
		sum += data[i];
	if (h->op & 1)
		virtio_vsock_send(vsock, h, data);
}

static void create(void)
{
	const struct virtio_serial_port ports[PORTS] = { { "a", output }, { "b", output }, { "c", output } };

	r = rig_create();
	serial = virtio_serial_create(r->pci, 2 + SERIAL, ports, PORTS);
	balloon = virtio_balloon_create(r->pci, 2 + BALLOON, &(struct virtio_balloon_config){ 0 });
	vsock = virtio_vsock_create(r->pci, 2 + VSOCK, &(struct virtio_vsock_config){ .cid = 3, .packet = packet });
	log_set_level(LOG_ERROR);
}

static unsigned queues(unsigned i) { return i == SERIAL ? SERIAL_QUEUES : i == BALLOON ? BALLOON_QUEUES : VSOCK_QUEUES; }

static void start(unsigned i, u64 features)
{
	vdrv_start(&d[i], r, 2 + i, features | (i == SERIAL ? BIT(1) : i == BALLOON ? BIT(1) | BIT(2) | BIT(5) : 0), queues(i));
}

static struct vdrv *device(struct fuzz_input *in, unsigned *q)
{
	u8 v = (u8)fuzz_take(in, 1);

	*q = (v / DEVICES) % queues(v % DEVICES);
	return &d[v % DEVICES];
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

	start(v % DEVICES, (u64)(v >> 6) << 28);
}

/* Whatever has happened loads again. The bytes may differ then: ports go on at once, and vsock says that its connections are gone. */
static void save_and_load(void)
{
	struct state_buf b = { 0 };
	size_t pos = 0;

	dev_list_save(&r->devs, &b);
	assert_int_equal(dev_list_load(&r->devs, &b, &pos), 0);
	assert_int_equal(pos, b.len);
	state_buf_free(&b);
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
	save_and_load();
	return 0;
}
