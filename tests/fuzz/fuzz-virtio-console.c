/* The console's and the entropy device's queues with rubbish, while bytes arrive from the host. */
#include "fuzz_input.h"
#include "base/log.h"
#include "virtio_driver.h"
#include "virtio/virtio_console.h"
#include "virtio/virtio_rng.h"

enum { CONSOLE, RNG, DEVICES, ARENA = 0x100000, ARENA_BYTES = 0x8000 };

static struct rig *r;
static struct virtio_console *console;
static struct vdrv d[DEVICES];
static u64 sum;

/* Looks at every byte, so that ASan sees where they come from. */
static void output(void *opaque, const u8 *data, size_t len)
{
	for (size_t i = 0; i < len; i++)
		sum += data[i];
}

static void create(void)
{
	r = rig_create();
	console = virtio_console_create(r->pci, 2 + CONSOLE, &(struct virtio_console_config){ .output = output });
	virtio_rng_create(r->pci, 2 + RNG);
	log_set_level(LOG_ERROR);
}

static void start(unsigned i, u64 features)
{
	vdrv_start(&d[i], r, 2 + i, features, i == CONSOLE ? 2 : 1);
}

static struct vdrv *device(struct fuzz_input *in, unsigned *q)
{
	u8 v = (u8)fuzz_take(in, 1);

	*q = v & 2 ? 0 : v >> 2 & 1;
	if (v & 1)
		*q = 0; /* the entropy device has one queue */
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

static void op_receive(struct fuzz_input *in)
{
	static const u8 text[600];

	virtio_console_receive(console, text, fuzz_take(in, 2) % sizeof(text));
}

static void op_ring(struct fuzz_input *in)
{
	mem_write_le(&r->mem, gpa(0x10000 + fuzz_take(in, 2) % 0x8000), fuzz_take(in, 2), 2);
}

static void op_time(struct fuzz_input *in)
{
	rig_advance(r, fuzz_take(in, 3));
}

static void op_restart(struct fuzz_input *in)
{
	u8 v = (u8)fuzz_take(in, 1);

	start(v & 1, (u64)(v >> 1 & 3) << 28);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static void (*const op[8])(struct fuzz_input *in) = { op_chain, op_desc, op_receive, op_ring, op_time, op_restart, op_chain, op_desc };
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
