/* virtio-mem's queue with rubbish and with requests that are nearly right, while the host changes its wish. Whatever is said, no more is plugged than was ever
 * requested at once, and what the device counts is what its bitmap has. */
#include "fuzz_input.h"
#include "base/log.h"
#include "virtio_driver.h"
#include "virtio/virtio_mem.h"

enum { SLOT = 2, ARENA = 0x100000, ARENA_BYTES = 0x8000, BLOCKS = 70 };
#define BASE (4 * GiB)
#define SIZE (BLOCKS * VIRTIO_MEM_BLOCK)

static struct rig *r;
static struct virtio_mem *m;
static struct vdrv d;
static u64 most; /* that was ever requested */

static void create(void)
{
	r = rig_create();
	mem_free(&r->mem);
	bug_if(mem_init(&r->mem, RIG_RAM + SIZE) || mem_add_slot(&r->mem, gpa(0), RIG_RAM, MEM_RAM, "ram") ||
	       mem_add_slot(&r->mem, gpa(BASE), SIZE, MEM_RAM, "ram-plugged"));
	m = virtio_mem_create(r->pci, SLOT, BASE, SIZE);
	log_set_level(LOG_ERROR);
}

static void op_chain(struct fuzz_input *in)
{
	unsigned n = 1 + (fuzz_take(in, 1) & 3);
	struct vbuf b[4];

	for (unsigned i = 0; i < n; i++)
		b[i] = (struct vbuf){ ARENA + fuzz_take(in, 2) % ARENA_BYTES, (u32)fuzz_take(in, 2), fuzz_take(in, 1) & VD_WRITE };
	vdrv_add(&d, 0, b, n);
	vdrv_kick(&d, 0);
}

static void op_desc(struct fuzz_input *in)
{
	u16 i = fuzz_take(in, 1) % VD_QSIZE;

	vdrv_desc(&d, 0, i, ARENA + fuzz_take(in, 2), (u32)fuzz_take(in, fuzz_size(in) & 7), fuzz_take(in, 1) & 7, fuzz_take(in, 1) % VD_QSIZE);
	vdrv_publish(&d, 0, i);
	vdrv_kick(&d, 0);
}

/* Nearly right: a block in or just outside the region, and a page in it touched. */
static void op_request(struct fuzz_input *in)
{
	u64 type = fuzz_take(in, 1) % 5, block = fuzz_take(in, 1) % (BLOCKS + 2), n = fuzz_take(in, 1) % (BLOCKS + 2), odd = fuzz_take(in, 1);

	mem_write_le(&r->mem, gpa(ARENA), type, 8);
	mem_write_le(&r->mem, gpa(ARENA + 8), BASE + block * VIRTIO_MEM_BLOCK + (odd < 8 ? odd : 0), 8);
	mem_write_le(&r->mem, gpa(ARENA + 16), n, 8);
	mem_write_le(&r->mem, gpa(BASE + block * VIRTIO_MEM_BLOCK), odd, 8);
	vdrv_add(&d, 0, (struct vbuf[]){ { ARENA, 24, 0 }, { ARENA + 64, 10, VD_WRITE } }, 2);
	vdrv_kick(&d, 0);
}

static void op_wish(struct fuzz_input *in)
{
	u64 bytes = fuzz_take(in, fuzz_size(in)) * MiB;

	virtio_mem_request(m, bytes);
	most = max_u64(most, min_u64(bytes, SIZE));
}

static void op_ring(struct fuzz_input *in) { mem_write_le(&r->mem, gpa(d.q[0].desc + fuzz_take(in, 2) % 0x3000), fuzz_take(in, 4), 4); }
static void op_time(struct fuzz_input *in) { rig_advance(r, fuzz_take(in, 2) * 1000); }
static void op_restart(struct fuzz_input *in) { vdrv_start(&d, r, SLOT, fuzz_take(in, 1) & 1 ? VIRTIO_F_EVENT_IDX : 0, 1); }

static void op_load(struct fuzz_input *in)
{
	struct state_buf b = { 0 };
	size_t pos = 0;

	dev_list_save(&r->devs, &b);
	bug_if(dev_list_load(&r->devs, &b, &pos) || pos != b.len);
	state_buf_free(&b);
}

static void check(void)
{
	struct virtio_mem_info info;
	u64 n = 0;

	virtio_mem_info(m, &info);
	for (unsigned i = 0; i < VIRTIO_MEM_WORDS; i++)
		n += __builtin_popcountll(m->regs.plugged[i]);
	bug_if(info.plugged != n * info.block || info.plugged > most || info.plugged > SIZE);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static void (*const op[8])(struct fuzz_input *in) = { op_chain, op_desc, op_request, op_request, op_wish, op_time, op_restart, op_load };
	struct fuzz_input in = { data, data + size };

	if (!r)
		create();
	vdrv_start(&d, r, SLOT, VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC, 1);
	while (fuzz_more(&in)) {
		op[fuzz_take(&in, 1) & 7](&in);
		if (fuzz_more(&in) && (fuzz_take(&in, 1) & 31) == 0)
			op_ring(&in);
		check();
	}
	return 0;
}
