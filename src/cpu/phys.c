/* Instruction fetch, and the CPU's own accesses to L1-physical memory. */
#include "cpu/core.h"
#include "cpu/paging.h"

const struct tlb_entry *mmu_fetch(struct cpu *c, u64 la)
{
	unsigned cls = c->arch.cpl == 3 ? 2 : 1;
	u32 need = paging_need(ACC_X, cls);
	struct tlb_entry *e = mmu_hit(c, la, need);
	if (likely(e))
		return e;
	if (!paging_canonical(c, la))
		return NULL;
	e = mmu_fill(c, la, ACC_X, cls);
	if (!e || likely(e->perm & need))
		return e;
	/* The VMX APIC-access page: fetching from it is an exit. A device page that answers nevertheless reads as
	 * ones. */
	u64 v;
	if (!c->virt->virtual_apic(c, la & 0xfff, 1, false, true, &v, gva(la)))
		return NULL;
	cpu_fault_err(c, VEC_GP, 0);
	return NULL;
}

/* n bytes from one page, at the physical address that e stands for. */
static bool fetch_piece(struct cpu *c, const struct tlb_entry *e, u64 la, u8 *to, unsigned n)
{
	if (likely(!(e->perm & TLB_IO))) {
		memcpy(to, (const void *)(la + e->addend), n);
		return true;
	}
	u64 at = e->gpa | (la & 0xfff);
	for (unsigned i = 0; i < n; i++) {
		u64 v = 0;
		if (!mmu_io(c, at + i, la + i, 1, false, &v))
			return false;
		to[i] = (u8)v;
	}
	return true;
}

unsigned mmu_fetch_bytes(struct cpu *c, u64 la, u8 *to, unsigned len, u64 *fault_la)
{
	unsigned done = 0;
	while (done < len) {
		u64 at = (c->mode & MODE_L) ? la + done : (u32)(la + done);
		unsigned n = min_u64(len - done, PAGE_SIZE - (at & 0xfff));
		const struct tlb_entry *e = mmu_fetch(c, at);
		if (!e || !fetch_piece(c, e, at, to + done, n)) {
			*fault_la = at;
			if (done)
				c->fault.kind = EVENT_NONE;
			return done;
		}
		done += n;
	}
	return done;
}

u64 cpu_phys_read(struct cpu *c, u64 gpa_, unsigned size) { return mem_read_le(c->mem, gpa(gpa_), size); }
void cpu_phys_write(struct cpu *c, u64 gpa_, unsigned size, u64 v) { mem_write_le(c->mem, gpa(gpa_), v, size); }
