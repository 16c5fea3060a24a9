#include "nvme_driver.h"
#include <unistd.h>

u64 nd_reg(struct nvme_driver *d, unsigned off, unsigned size) { return bus_mmio_read(&d->r->bus, d->bar + off, size); }
void nd_set(struct nvme_driver *d, unsigned off, u64 v, unsigned size) { bus_mmio_write(&d->r->bus, d->bar + off, v, size); }

void nd_find(struct nvme_driver *d, struct rig *r, unsigned slot)
{
	*d = (struct nvme_driver){ .r = r };
	rig_assign(r);
	d->bar = cfg_get(r, slot, PCI_BAR0, 4) & ~15u;
	d->msix = cfg_get(r, slot, PCI_BAR0 + 16, 4) & ~15u;
	unsigned cap = cfg_find_cap(r, slot, PCI_CAP_MSIX, 0);

	cfg_set(r, slot, cap + 2, 0x8000, 2);
	for (unsigned v = 0; v < ND_QUEUES; v++) {
		bus_mmio_write(&r->bus, d->msix + 16 * v, 0xfee00000, 4);
		bus_mmio_write(&r->bus, d->msix + 16 * v + 8, 0x40 + v, 4);
		bus_mmio_write(&r->bus, d->msix + 16 * v + 12, 0, 4);
	}
}

void nd_enable(struct nvme_driver *d)
{
	for (unsigned q = 0; q < ND_QUEUES; q++) {
		d->sq_tail[q] = d->cq_head[q] = 0;
		d->phase[q] = 1;
		for (u64 i = 0; i < 0x2000; i += 8)
			mem_write_le(&d->r->mem, gpa(nd_sq(q) + i), 0, 8);
	}
	nd_set(d, 0x24, (ND_ENTRIES - 1) << 16 | (ND_ENTRIES - 1), 4);
	nd_set(d, 0x28, nd_sq(0), 8);
	nd_set(d, 0x30, nd_cq(0), 8);
	nd_set(d, 0x14, 0x460001, 4);
}

u16 nd_post(struct nvme_driver *d, unsigned q, u8 opcode, u32 nsid, u64 prp1, u64 prp2, const u32 dw[6])
{
	u64 at = nd_sq(q) + d->sq_tail[q] * 64;
	u16 id = ++d->id;

	for (unsigned i = 0; i < 64; i += 8)
		mem_write_le(&d->r->mem, gpa(at + i), 0, 8);
	mem_write_le(&d->r->mem, gpa(at), opcode | (u32)id << 16, 4);
	mem_write_le(&d->r->mem, gpa(at + 4), nsid, 4);
	mem_write_le(&d->r->mem, gpa(at + 24), prp1, 8);
	mem_write_le(&d->r->mem, gpa(at + 32), prp2, 8);
	for (unsigned i = 0; i < 6; i++)
		mem_write_le(&d->r->mem, gpa(at + 40 + 4 * i), dw[i], 4);
	d->sq_tail[q] = (u16)((d->sq_tail[q] + 1) % ND_ENTRIES);
	return id;
}

void nd_ring(struct nvme_driver *d, unsigned q) { nd_set(d, 0x1000 + 8 * q, d->sq_tail[q], 4); }

struct nvme_result nd_take(struct nvme_driver *d, unsigned q, unsigned wait_ms)
{
	u64 at = nd_cq(q) + d->cq_head[q] * 16;
	u32 dw3 = 0;

	for (unsigned i = 0; i <= wait_ms * 10; i++) {
		dw3 = (u32)mem_read_le(&d->r->mem, gpa(at + 12), 4);
		if ((dw3 >> 16 & 1) == d->phase[q])
			break;
		if (i == wait_ms * 10)
			return (struct nvme_result){ 0 };
		usleep(100);
	}
	struct nvme_result res = { true, (u16)dw3, (u16)mem_read_le(&d->r->mem, gpa(at + 10), 2), (u16)(dw3 >> 17),
		(u32)mem_read_le(&d->r->mem, gpa(at), 4) };

	if (++d->cq_head[q] == ND_ENTRIES) {
		d->cq_head[q] = 0;
		d->phase[q] ^= 1;
	}
	nd_set(d, 0x1000 + 8 * q + 4, d->cq_head[q], 4);
	return res;
}

u16 nd_do(struct nvme_driver *d, unsigned q, u8 opcode, u32 nsid, u64 prp1, u64 prp2, u32 dw10, u32 dw11, u32 dw12)
{
	u16 id = nd_post(d, q, opcode, nsid, prp1, prp2, (u32[6]){ dw10, dw11, dw12 });

	nd_ring(d, q);
	struct nvme_result res = nd_take(d, q, 2000);

	assert_true(res.came);
	assert_int_equal(res.id, id);
	assert_int_equal(res.sq, q);
	return res.status;
}

void nd_queues(struct nvme_driver *d)
{
	for (u32 q = 1; q < ND_QUEUES; q++) {
		assert_int_equal(nd_do(d, 0, 5, 0, nd_cq(q), 0, (ND_ENTRIES - 1) << 16 | q, q << 16 | 3, 0), 0);
		assert_int_equal(nd_do(d, 0, 1, 0, nd_sq(q), 0, (ND_ENTRIES - 1) << 16 | q, q << 16 | 1, 0), 0);
	}
}
