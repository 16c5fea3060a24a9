/* One guest page walk, kept step by step so that faults, A/D updates and explanations need no second walk. Internal
 * to the MMU's files. */
#ifndef NB_PAGING_H
#define NB_PAGING_H

#include "cpu/mmu.h"
#include "mem/mem.h"

#define PTE_P BIT(0)
#define PTE_RW BIT(1)
#define PTE_US BIT(2)
#define PTE_A BIT(5)
#define PTE_D BIT(6)
#define PTE_PS BIT(7)
#define PTE_G BIT(8)
#define PTE_NX BIT(63)

/* #PF error code (SDM "Page-Fault Exceptions"). */
#define PF_P BIT32(0)
#define PF_W BIT32(1)
#define PF_U BIT32(2)
#define PF_RSVD BIT32(3)
#define PF_I BIT32(4)
#define PF_PK BIT32(5)

struct walk_step {
	u64 at;      /* guest-physical address of the entry */
	u64 value;
	void *host;  /* NULL: a latched PDPTE, or no RAM; A/D flags cannot be set there */
	u32 frame;
	u8 level;    /* 0 page table .. 3 PML4 */
};

struct walk {
	struct walk_step step[4];
	u8 n;
	u8 esize;    /* bytes of an entry: 4 or 8 */
	u8 shift;    /* log2 of the page's size */
	u8 pkey;
	bool w, u, nx, global;
	bool dirty;  /* the leaf's D flag is set (or there is no paging) */
	u64 gpa;     /* guest-physical address that la means */
	u32 error;   /* WALK_PF: PF_P and PF_RSVD as they belong */
};

enum walk_end { WALK_OK, WALK_PF, WALK_VIRT /* cpu->fault is EVENT_VIRT */, WALK_AGAIN /* entries changed under us */ };

/* Guest page tables only, no side effect on them. acc: ACC_PROBE matters. */
enum walk_end paging_walk(struct cpu *c, u64 la, u32 acc, struct walk *w);
/* Sets the A flags, and for ACC_W the leaf's D flag, of a finished walk. */
enum walk_end paging_set_flags(struct cpu *c, u64 la, u32 acc, struct walk *w);
/* What the walk permits: TLB_OK_*, TLB_X*, and the entry's attributes (global, size, key). */
u32 paging_rights(const struct cpu *c, const struct walk *w);
/* The TLB_* bit that an access of class cls (0-2) needs. */
static inline u32 paging_need(u32 acc, unsigned cls)
{
	if (acc & ACC_X)
		return cls == 2 ? TLB_XU : TLB_XS;
	return acc & ACC_W ? TLB_OK_W(cls) : TLB_OK_R(cls);
}
/* Fills cpu->fault with the #PF of a walk that ended in WALK_PF or lacks rights (then w->error is PF_P). */
void paging_fault(struct cpu *c, u64 la, u32 acc, unsigned cls, const struct walk *w);
void paging_explain(struct cpu *c, u64 la, u32 acc, unsigned cls, const struct walk *w, u32 error);

/* Host address of a page of paging structures, through NPT and its cache; NULL in *host when it is no memory (to
 * write: no RAM). acc: ACC_R, or both ACC_R and ACC_W to set flags, and ACC_PROBE. WALK_OK or WALK_VIRT. */
enum walk_end paging_table(struct cpu *c, u64 at, u64 la, u32 acc, u8 **host, u32 *frame);

static inline bool paging_on(const struct cpu *c) { return c->arch.cr0 & CR0_PG; }
static inline bool paging_nested(struct cpu *c) { return unlikely(c->arch.guest_mode) && c->virt->npt_enabled(c); }

/* Walks and fills the TLB. NULL: cpu->fault is set. cls: 0-2. */
struct tlb_entry *mmu_fill(struct cpu *c, u64 la, u32 acc, unsigned cls);
/* The direct-access bits that an entry may have now, from its TLB_OK_* bits and the page's code and dirty state. */
u32 tlb_direct(struct cpu *c, u32 perm, u32 frame);
/* Adds them to an entry of the current context, and remembers that its page may be written. */
void tlb_open(struct cpu *c, struct tlb_entry *e, u32 direct);
/* Switches contexts if the mode has changed since the last mmu_switch. */
void tlb_check_context(struct cpu *c);
/* The run around la, if there is one in the current context, that grants all of `need`. */
static inline const struct tlb_run *tlb_run(const struct cpu *c, u64 la, u32 need)
{
	const struct tlb_run *r = &c->tlb->cur->run[la >> TLB_RUN_SHIFT & (TLB_RUNS - 1)];
	return r->tag == align_down(la, bit(TLB_RUN_SHIFT)) && (r->perm & need) == need ? r : NULL;
}
/* A walk has found that la, and all of its run, is L1-physical `at` with these rights. */
void tlb_note_run(struct cpu *c, u64 la, u64 at, u32 perm);
void tlb_forget_run(struct cpu *c, u64 la);
struct tlb_entry *tlb_insert(struct cpu *c, u64 la, u64 page, u32 perm);

/* #GP(0) for a non-canonical address in IA-32e mode. */
static inline bool paging_canonical(struct cpu *c, u64 la)
{
	if (likely(cpu_canonical(la) || !(c->arch.efer & EFER_LMA)))
		return true;
	cpu_fault_err(c, VEC_GP, 0);
	return false;
}

/* The VMX APIC-access page or the local APIC's page at L1-physical `page`. */
static inline bool mmu_is_vapic(struct cpu *c, u64 page)
{
	return unlikely(c->arch.guest_mode) && c->virt->apic_access_page(c) == page;
}
static inline bool mmu_is_lapic(const struct cpu *c, u64 page)
{
	u64 base = c->arch.apic_base; /* bit 11 enable, bit 10 x2APIC */
	return (base & (BIT(11) | BIT(10))) == BIT(11) && page == (base & 0x000ffffffffff000ull) && c->intc;
}
/* A device access of 1, 2, 4 or 8 bytes at L1-physical `at`. False: EVENT_VIRT. */
bool mmu_io(struct cpu *c, u64 at, u64 la, unsigned size, bool write, u64 *v);

#endif
