/* Descriptor table reads. Not here: what to check of a descriptor (seg.c, far.c). */
#include "cpu/desc.h"

/* The table that sel points into; false: no LDT. */
static bool desc_table(const struct cpu *c, u16 sel, u64 *base, u32 *limit)
{
	if (!(sel & 4)) {
		*base = c->arch.gdtr.base;
		*limit = c->arch.gdtr.limit;
		return true;
	}
	*base = c->arch.ldtr.base;
	*limit = c->arch.ldtr.limit;
	return !(c->arch.ldtr.attr & SEG_UNUSABLE);
}

bool desc_find(struct cpu *c, u16 sel, struct desc *d, bool *found)
{
	u64 base, raw;
	u32 limit;
	*found = desc_table(c, sel, &base, &limit) && (sel | 7u) <= limit;
	if (!*found)
		return true;
	d->la = cpu_wrap_la(c, base + (sel & 0xfff8u));
	if (!mmu_read_sys(c, d->la, 8, &raw))
		return false;
	d->lo = (u32)raw;
	d->hi = (u32)(raw >> 32);
	return true;
}

bool desc_read(struct cpu *c, u16 sel, unsigned vector, u32 ext, struct desc *d)
{
	bool found;
	if (!desc_find(c, sel, d, &found))
		return false;
	return found || fail(c, vector, sel_error(sel, ext));
}

bool desc_read_upper(struct cpu *c, u16 sel, unsigned vector, u32 ext, const struct desc *d, u32 *upper)
{
	u64 base, raw;
	u32 limit;
	if (!desc_table(c, sel, &base, &limit) || (sel | 7u) + 8 > limit)
		return fail(c, vector, sel_error(sel, ext));
	if (!mmu_read_sys(c, cpu_wrap_la(c, d->la + 8), 8, &raw))
		return false;
	/* SDM "System Descriptors in IA-32e mode": the type field of the second half must be 0 */
	if (raw >> 40 & 0x1f)
		return fail(c, vector, sel_error(sel, ext));
	*upper = (u32)raw;
	return true;
}

bool desc_set_type_bits(struct cpu *c, struct desc *d, u8 set, u8 clear)
{
	u32 hi = (d->hi & ~((u32)clear << 8)) | (u32)set << 8;
	if (hi == d->hi)
		return true;
	if (!mmu_write_sys(c, cpu_wrap_la(c, d->la + 5), 1, (u8)(hi >> 8)))
		return false;
	d->hi = hi;
	return true;
}

bool desc_mark_accessed(struct cpu *c, struct desc *d)
{
	return desc_set_type_bits(c, d, SEG_TYPE_ACCESSED, 0);
}
