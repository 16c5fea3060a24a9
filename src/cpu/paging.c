/* Guest page walks: 32-bit, PAE and 4-level paging (SDM "Paging"). Not here: the TLB (tlb.c), nested page tables
 * (virt->npt_walk). Surprise: nothing is written until the whole walk and its permissions are known to be good; then
 * A and D flags are set with compare-and-swap and a lost race starts the walk again. So an access that faults leaves
 * no trace, as cpu.h promises. */
#include "base/log.h"
#include "cpu/core.h"
#include "cpu/paging.h"

#define ADDR_52 0x000ffffffffff000ull

/* Reserved bits of an entry that maps a large page, below the page's size; by level. A PML4 entry maps no page: PS
 * itself is reserved. */
static const u64 large_reserved[4] = { 0, 0x1fe000, 0x3fffe000, PTE_PS };

/* Levels of each mode. Latched PDPTEs make PAE's walk start at level 1. */
struct format {
	u8 top;
	u8 esize;
	u8 index_bits;
	u64 addr;      /* address bits of an entry */
	u64 reserved;  /* in every entry, from MAXPHYADDR and EFER.NXE */
};

static unsigned level_shift(const struct format *f, unsigned level) { return 12 + level * f->index_bits; }

static struct format format_of(const struct cpu *c)
{
	if (!(c->arch.cr4 & CR4_PAE))
		return (struct format){ .top = 1, .esize = 4, .index_bits = 10, .addr = 0xfffff000 };
	bool lma = c->arch.efer & EFER_LMA;
	/* From MAXPHYADDR to bit 62 in PAE paging, to bit 51 in 4-level paging. */
	u64 high = low_mask(lma ? 52 : 63) & ~low_mask(cpu_maxphyaddr(c));
	if (!(c->arch.efer & EFER_NXE))
		high |= PTE_NX;
	return (struct format){ .top = lma ? 3 : 1, .esize = 8, .index_bits = 9, .addr = ADDR_52, .reserved = high };
}

/* PS in an entry of this level maps a page, or may make it reserved. */
static bool is_large(struct cpu *c, unsigned level, u64 e)
{
	if (!(e & PTE_PS) || !level)
		return false;
	return c->arch.cr4 & (CR4_PAE | CR4_PSE);
}

static u64 reserved_bits(struct cpu *c, const struct format *f, unsigned level, bool large)
{
	if (!large)
		return f->reserved;
	if (f->esize == 4) /* PSE-36: address bits 39:32 are bits 20:13 (SDM "32-Bit Paging") */
		return low_mask(22) & ~low_mask(min_u64(cpu_maxphyaddr(c), 40) - 19);
	if (level == 2 && !cpu_has(c, FEAT_PAGE1G))
		return f->reserved | PTE_PS;
	return f->reserved | large_reserved[level];
}

static u64 page_address(const struct format *f, unsigned level, u64 e, u64 la)
{
	u64 offset = low_mask(level_shift(f, level));
	u64 base = e & f->addr & ~offset;
	if (f->esize == 4 && level)
		base |= bits(e, 20, 13) << 32;
	return base | (la & offset);
}

static enum walk_end read_step(struct cpu *c, struct walk *w, struct walk_step *s, u64 la, u32 acc)
{
	u8 *host;
	enum walk_end end = paging_table(c, s->at, la, ACC_R | (acc & ACC_PROBE), &host, &s->frame);
	if (end != WALK_OK)
		return end;
	if (unlikely(!host)) {
		s->host = NULL;
		s->value = low_mask(8 * w->esize); /* nothing answers: all ones */
		return WALK_OK;
	}
	s->host = host + (s->at & 0xfff);
	s->value = host_load(s->host, w->esize);
	return WALK_OK;
}

/* Where the walk starts: the table's address. PAE: the latched PDPTE is the first step. */
static u64 first_table(struct cpu *c, const struct format *f, struct walk *w, u64 la)
{
	if (f->top == 3)
		return c->arch.cr3 & ADDR_52;
	if (f->esize == 4)
		return c->arch.cr3 & 0xfffff000;
	unsigned i = bits(la, 31, 30);
	u64 e = c->arch.pdpte[i];
	w->step[w->n++] = (struct walk_step){ .at = (c->arch.cr3 & 0xffffffe0) + 8 * i, .value = e, .level = 2 };
	return e & ADDR_52;
}

static void finish(struct walk *w, const struct format *f, unsigned level, u64 e, u64 la)
{
	w->shift = level_shift(f, level);
	w->gpa = page_address(f, level, e, la);
	w->global = e & PTE_G;
	w->dirty = e & PTE_D;
	w->pkey = bits(e, 62, 59);
}

enum walk_end paging_walk(struct cpu *c, u64 la, u32 acc, struct walk *w)
{
	w->n = 0;
	w->error = 0;
	w->w = w->u = true;
	w->nx = false;
	if (!paging_on(c)) {
		w->gpa = la;
		w->shift = 12;
		w->global = false;
		w->dirty = true;
		w->pkey = 0;
		return WALK_OK;
	}
	struct format f = format_of(c);
	w->esize = f.esize;
	c->stats.walks++;
	u64 table = first_table(c, &f, w, la);
	if (w->n && !(w->step[0].value & PTE_P))
		return WALK_PF;
	for (unsigned level = f.top;; level--) {
		struct walk_step *s = &w->step[w->n++];
		s->level = level;
		s->at = table + (bits(la, 47, level_shift(&f, level)) & low_mask(f.index_bits)) * f.esize;
		enum walk_end end = read_step(c, w, s, la, acc);
		if (end != WALK_OK)
			return end;
		u64 e = s->value;
		if (!(e & PTE_P))
			return WALK_PF;
		bool large = is_large(c, level, e);
		if (unlikely(e & reserved_bits(c, &f, level, large))) {
			w->error = PF_P | PF_RSVD;
			return WALK_PF;
		}
		w->w &= !!(e & PTE_RW);
		w->u &= !!(e & PTE_US);
		w->nx |= !!(e & PTE_NX);
		if (large || !level) {
			finish(w, &f, level, e, la);
			return WALK_OK;
		}
		table = e & f.addr;
	}
}

/* ---- accessed and dirty flags ---- */

/* A locked update, as the CPU's: only if the entry is still what the walk saw (but for the flags themselves). */
static bool or_entry(struct walk_step *s, unsigned esize, u64 want)
{
	u64 now = host_load(s->host, esize);
	bool ok;
	if ((now ^ s->value) & ~(PTE_A | PTE_D))
		return false;
	if (esize == 8) {
		ok = __atomic_compare_exchange_n((u64 *)s->host, &now, now | want, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	} else {
		u32 old = (u32)now;
		ok = __atomic_compare_exchange_n((u32 *)s->host, &old, old | (u32)want, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	}
	s->value |= want;
	return ok;
}

static enum walk_end set_step(struct cpu *c, struct walk *w, struct walk_step *s, u64 want, u64 la)
{
	u8 *host;
	u32 frame;
	/* Nested: the table's page must be writable in EPT too, and its D flag set. ROM: the write is lost, as on a
	 * real bus. */
	enum walk_end end = paging_table(c, s->at, la, ACC_R | ACC_W, &host, &frame);
	if (end != WALK_OK)
		return end;
	if (!host)
		return WALK_OK;
	mem_will_write(c->mem, frame);
	if (host + (s->at & 0xfff) != s->host || !or_entry(s, w->esize, want))
		return WALK_AGAIN;
	if (unlikely(mem_code_lines(c->mem, frame) || c->mem->dirty_log))
		mem_note_write(c->mem, frame, s->at & 0xfff, w->esize);
	return WALK_OK;
}

enum walk_end paging_set_flags(struct cpu *c, u64 la, u32 acc, struct walk *w)
{
	for (unsigned i = 0; i < w->n; i++) {
		struct walk_step *s = &w->step[i];
		bool leaf = i + 1u == w->n;
		u64 want = PTE_A | (leaf && (acc & ACC_W) ? PTE_D : 0);
		if (likely((s->value & want) == want) || !s->host)
			continue;
		enum walk_end end = set_step(c, w, s, want, la);
		if (end != WALK_OK)
			return end;
	}
	if (w->n && (acc & ACC_W))
		w->dirty = true;
	return WALK_OK;
}

/* ---- rights (SDM "Access Rights", "Protection Keys") ---- */

static bool uses_pkeys(const struct cpu *c, const struct walk *w)
{
	return (c->arch.cr4 & CR4_PKE) && (c->arch.efer & EFER_LMA) && w->u;
}

/* TLB_OK_* bits that the protection key takes away. */
static u32 pkey_denies(const struct cpu *c, const struct walk *w)
{
	unsigned key = c->arch.pkru >> (2 * w->pkey) & 3; /* bit 0 access disable, bit 1 write disable */
	u32 deny = 0;
	if (key & 1)
		deny |= TLB_OK_R(1) | TLB_OK_W(1) | TLB_OK_R(2) | TLB_OK_W(2);
	if (key & 2)
		deny |= TLB_OK_W(2) | (c->arch.cr0 & CR0_WP ? TLB_OK_W(1) : 0);
	return deny;
}

u32 paging_rights(const struct cpu *c, const struct walk *w)
{
	u32 all = TLB_OK_R(0) | TLB_OK_W(0) | TLB_OK_R(1) | TLB_OK_W(1) | TLB_OK_R(2) | TLB_OK_W(2);
	if (!paging_on(c))
		return all | TLB_XS | TLB_XU;
	bool super_w = w->w || !(c->arch.cr0 & CR0_WP);
	u32 r = TLB_OK_R(1) | (super_w ? TLB_OK_W(1) : 0);
	if (w->u)
		r |= TLB_OK_R(2) | (w->w ? TLB_OK_W(2) : 0);
	else
		r |= TLB_OK_R(0) | (super_w ? TLB_OK_W(0) : 0);
	if (!w->nx)
		r |= (w->u ? TLB_XU : 0) | (w->u && (c->arch.cr4 & CR4_SMEP) ? 0 : TLB_XS);
	if (uses_pkeys(c, w))
		r = (r & ~pkey_denies(c, w)) | TLB_PKEY;
	if (w->global && (c->arch.cr4 & CR4_PGE))
		r |= TLB_GLOBAL;
	if (w->shift > 12)
		r |= w->shift == 30 ? TLB_HUGE : TLB_LARGE;
	return r;
}

void paging_fault(struct cpu *c, u64 la, u32 acc, unsigned cls, const struct walk *w)
{
	u32 error = w->error | (acc & ACC_W ? PF_W : 0) | (cls == 2 ? PF_U : 0);
	if (acc & ACC_X) {
		if ((c->arch.cr4 & CR4_SMEP) || ((c->arch.cr4 & CR4_PAE) && (c->arch.efer & EFER_NXE)))
			error |= PF_I;
	} else if (w->error == PF_P && uses_pkeys(c, w) && (pkey_denies(c, w) & paging_need(acc, cls ? cls : 1))) {
		error |= PF_PK;
	}
	c->fault = (struct event){ .kind = EVENT_FAULT, .vector = VEC_PF, .has_error = 1, .error = error, .payload = la };
	if (trace_on(TRACE_PAGE))
		paging_explain(c, la, acc, cls, w, error);
}

bool mmu_translate_probe(struct cpu *c, u64 la, u64 *gpa_out)
{
	struct walk w;
	struct npt_page np;
	struct event saved = c->fault;
	bool ok = paging_walk(c, la, ACC_R | ACC_PROBE, &w) == WALK_OK;
	if (ok && paging_nested(c)) {
		ok = c->virt->npt_walk(c, l2gpa(w.gpa), ACC_R | ACC_PROBE, NPT_DATA, true, gva(la), &np);
		w.gpa = np.gpa;
	}
	if (ok)
		*gpa_out = w.gpa;
	c->fault = saved;
	return ok;
}

bool mmu_load_pdptes(struct cpu *c, u64 cr3, bool *virt)
{
	u64 at = cr3 & 0xffffffe0, e[4];
	struct npt_page np;
	*virt = false;
	/* SDM "Accessed and Dirty Flags for EPT": these loads are reads, not accesses to paging structures. */
	if (paging_nested(c)) {
		if (!c->virt->npt_walk(c, l2gpa(at), ACC_R, NPT_DATA, false, gva(0), &np)) {
			*virt = true;
			return false;
		}
		at = np.gpa;
	}
	u64 reserved = 0x1e6 | (~(u64)0 & ~low_mask(cpu_maxphyaddr(c))); /* bits 2:1, 8:5, 63:MAXPHYADDR */
	for (unsigned i = 0; i < 4; i++) {
		e[i] = mem_read_le(c->mem, gpa(at + 8 * i), 8);
		if ((e[i] & PTE_P) && (e[i] & reserved))
			return false;
	}
	memcpy(c->arch.pdpte, e, sizeof e);
	return true;
}
