/* A driver gone mad in front of virtio-blk: rings, descriptors, requests and transport registers hold rubbish, or
 * nearly sense. */
#include "fuzz_input.h"
#include "rig_disk.h"
#include "virtio_driver.h"
#include "virtio/virtio_blk.h"
#include "base/log.h"
#include <sys/mman.h>
#include <unistd.h>

enum { SLOT = 4, QUEUES = 2, DISK_BYTES = 64 * 512, ARENA = 0x100000, ARENA_BYTES = 0x20000 };

static struct rig *r;
static struct vdrv d;

static void create(void)
{
	struct virtio_blk_config cfg = { .queues = QUEUES, .id = "fuzz" };

	r = rig_create();
	cfg.disk = rig_scratch_disk(DISK_BYTES);
	bug_if(!virtio_blk_create(r->pci, SLOT, &cfg));
	log_set_level(LOG_ERROR);
}

/* An address that is mostly in a small part of RAM, so that structures meet. */
static u64 address(struct fuzz_input *in)
{
	u8 how = (u8)fuzz_take(in, 1);

	if (how < 200)
		return ARENA + fuzz_take(in, 2) % ARENA_BYTES;
	if (how < 230)
		return 0x10000 + fuzz_take(in, 2) % 0x8000; /* the rings themselves */
	return fuzz_take(in, 8);
}

static void op_desc(struct fuzz_input *in)
{
	u32 len = (u32)fuzz_take(in, 1) & 1 ? (u32)fuzz_take(in, 2) : (u32)(fuzz_take(in, 1) & 7) * 512;
	unsigned q = fuzz_take(in, 1) % QUEUES;
	u16 i = (u16)fuzz_take(in, 1) % VD_QSIZE;

	vdrv_desc(&d, q, i, address(in), len, (u16)fuzz_take(in, 1) & 7, (u16)fuzz_take(in, 1) % (VD_QSIZE + 1));
}

/* A request that is right but for its values. */
static void op_request(struct fuzz_input *in)
{
	static const u8 type[] = { 0, 1, 4, 8, 11, 13, 2, 77 };
	u64 hdr = address(in);
	u32 t = type[fuzz_take(in, 1) & 7], len = (u32)(fuzz_take(in, 1) & 15) * 16;
	bool reads = t == 0 || t == 8;

	mem_write_le(&r->mem, gpa(hdr), t, 8);
	mem_write_le(&r->mem, gpa(hdr + 8), fuzz_take(in, 1), 8);
	vdrv_add(&d, fuzz_take(in, 1) % QUEUES, (struct vbuf[]){ { hdr, 16, 0 }, { address(in), len * 32, reads ? VD_WRITE : 0 },
		{ address(in), 1, VD_WRITE } }, 3);
}

static void op_publish(struct fuzz_input *in) { vdrv_publish(&d, fuzz_take(in, 1) % QUEUES, (u16)fuzz_take(in, 1) % (VD_QSIZE + 1)); }
static void op_kick(struct fuzz_input *in) { vdrv_kick(&d, fuzz_take(in, 1) % (QUEUES + 1)); }
static void op_memory(struct fuzz_input *in) { mem_write_le(&r->mem, gpa(address(in)), fuzz_take(in, 8), 8); }
static void op_wait(struct fuzz_input *in) { dev_list_quiesce(&r->devs); }
static void op_advance(struct fuzz_input *in) { rig_advance(r, 100000); }
static void op_restart(struct fuzz_input *in) { vdrv_start(&d, r, SLOT, fuzz_take(in, 1) << 28 & (BIT(28) | BIT(29)), QUEUES); }

static void op_register(struct fuzz_input *in)
{
	u64 off = fuzz_take(in, 2);
	unsigned size = fuzz_size(in);

	off = (off & 0x8000 ? off % 0x40 : off % 0x4000) & ~(u64)(size - 1); /* the common structure, more often */
	bus_mmio_write(&r->bus, d.common + off, fuzz_take(in, size), size);
	bus_mmio_read(&r->bus, d.common + off, size);
}

static void (*const op[16])(struct fuzz_input *in) = { op_desc, op_request, op_publish, op_kick, op_desc, op_request, op_kick, op_memory,
	op_wait, op_advance, op_register, op_restart, op_request, op_kick, op_publish, op_desc };

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct fuzz_input in = { data, data + size };

	if (!r)
		create();
	vdrv_start(&d, r, SLOT, BIT(28) | BIT(29), QUEUES);
	while (fuzz_more(&in))
		op[fuzz_take(&in, 1) & 15](&in);
	rig_check_save_load(r);
	return 0;
}
