/* A driver gone mad in front of an NVMe controller: commands, PRP lists, doorbells and registers hold rubbish, or nearly sense. */
#include "fuzz_input.h"
#include "nvme_driver.h"
#include "rig_disk.h"
#include "base/log.h"
#include "dev/nvme.h"

enum { SLOT = 4, DISK_BYTES = 64 * 512 };

static struct rig *r;
static struct nvme_driver d;

static void create(void)
{
	r = rig_create();
	nvme_create(r->pci, SLOT, &(struct nvme_config){ rig_scratch_disk(DISK_BYTES), "fuzz" });
	log_set_level(LOG_ERROR);
}

/* An address that is mostly a page of a small arena, so that structures meet; or in the queues themselves. */
static u64 address(struct fuzz_input *in)
{
	u8 how = (u8)fuzz_take(in, 1);

	if (how < 180)
		return ND_PAGE + fuzz_take(in, 1) % 32 * 0x1000 + (how & 8 ? fuzz_take(in, 1) * 16 : 0);
	if (how < 230)
		return 0x100000 + fuzz_take(in, 2) % 0x6000;
	return fuzz_take(in, 8);
}

static void post(struct fuzz_input *in, unsigned q, u8 opcode)
{
	u32 dw[6];

	for (unsigned i = 0; i < 6; i++)
		dw[i] = (u32)fuzz_take(in, fuzz_take(in, 1) < 230 ? 1 : 4);
	u64 prp1 = address(in), prp2 = address(in);

	nd_post(&d, q, opcode, fuzz_take(in, 1) < 240 ? 1 : (u32)fuzz_take(in, 4), prp1, prp2, dw);
}

static void op_io(struct fuzz_input *in)
{
	static const u8 opcode[] = { 0, 1, 2, 2, 8, 9, 9, 0x55 };

	post(in, 1 + (fuzz_take(in, 1) & 1), opcode[fuzz_take(in, 1) & 7]);
}

static void op_admin(struct fuzz_input *in)
{
	static const u8 opcode[] = { 0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 6, 1, 5, 0, 4, 0x80 };

	post(in, 0, opcode[fuzz_take(in, 1) & 15]);
}

/* Queues that are right but for their number and size. */
static void op_queue(struct fuzz_input *in)
{
	u32 q = (u32)fuzz_take(in, 1) & 3, size = (u32)fuzz_take(in, 1) & 7, cq = (u32)fuzz_take(in, 1) & 3;

	nd_post(&d, 0, fuzz_take(in, 1) & 1 ? 5 : 1, 0, fuzz_take(in, 1) & 1 ? nd_cq(q % 3) : nd_sq(q % 3), 0, (u32[6]){ size << 16 | q, cq << 16 | 3 });
	nd_ring(&d, 0);
}

static void op_list(struct fuzz_input *in)
{
	u64 at = ND_PAGE + fuzz_take(in, 1) % 32 * 0x1000;

	if (fuzz_take(in, 1) & 1)
		at += 0x1000 - 32;
	for (unsigned i = 0; i < 8; i++)
		mem_write_le(&r->mem, gpa(at + 8 * i), address(in), 8);
}

static void op_ring(struct fuzz_input *in) { nd_ring(&d, (unsigned)fuzz_take(in, 1) % ND_QUEUES); }
static void op_take(struct fuzz_input *in) { nd_take(&d, (unsigned)fuzz_take(in, 1) % ND_QUEUES, 0); }
static void op_doorbell(struct fuzz_input *in) { nd_set(&d, 0x1000 + 4 * ((unsigned)fuzz_take(in, 1) % 24), fuzz_take(in, 1), 4); }
static void op_wait(struct fuzz_input *in) { dev_list_quiesce(&r->devs); }
static void op_memory(struct fuzz_input *in) { mem_write_le(&r->mem, gpa(address(in)), fuzz_take(in, 8), 8); }

static void op_register(struct fuzz_input *in)
{
	unsigned size = fuzz_size(in), off = (unsigned)fuzz_take(in, 2) % (fuzz_take(in, 1) & 1 ? 0x40 : 0x2000) & ~(size - 1);

	nd_set(&d, off, fuzz_take(in, size), size);
	nd_reg(&d, off, size);
}

static void op_restart(struct fuzz_input *in)
{
	nd_set(&d, 0x14, 0, 4);
	nd_enable(&d);
}

static void (*const op[16])(struct fuzz_input *in) = { op_io, op_admin, op_ring, op_io, op_queue, op_ring, op_list, op_take, op_take, op_doorbell,
	op_wait, op_memory, op_register, op_restart, op_io, op_ring };

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct fuzz_input in = { data, data + size };

	if (!r)
		create();
	dev_list_reset(&r->devs);
	nd_find(&d, r, SLOT);
	nd_enable(&d);
	nd_queues(&d);
	while (fuzz_more(&in))
		op[fuzz_take(&in, 1) & 15](&in);
	rig_check_save_load(r);
	return 0;
}
