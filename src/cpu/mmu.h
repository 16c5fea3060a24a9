/* Guest-linear memory: TLB, page walks, and typed accesses for engines and for the CPU's own implicit accesses.
 *
 * A TLB entry maps a linear page straight to host memory (through EPT/NPT where there is one) with permission bits per access class,
 * so a hit needs one compare and one bit test. Pages without host memory (devices, APIC) and pages with decoded code (writes) have the bit
 * missing and go to the slow path. Contexts are tagged (VPID, nested root, PCID): switching them throws nothing away. */
#ifndef NB_MMU_H
#define NB_MMU_H

#include "cpu/cpu.h"
#include "cpu/virt.h"

/* Access kinds for walks. */
#define ACC_R 1u
#define ACC_W 2u
#define ACC_X 4u
#define ACC_SYS 8u   /* implicit supervisor access (descriptor tables, TSS): supervisor whatever the CPL, AC ignored */
#define ACC_PROBE 16u /* do not fill cpu->fault, do not set A/D (debugger, explain) */

/* Permission bits of an entry: data classes 0 supervisor, 1 supervisor with AC set or SMAP off, 2 user. */
#define TLB_R(cls) (1u << (2 * (cls)))
#define TLB_W(cls) (2u << (2 * (cls)))
#define TLB_XS (1u << 6)
#define TLB_XU (1u << 7)
#define TLB_GLOBAL (1u << 8)
#define TLB_LARGE (1u << 9)

struct tlb_entry {
	u64 tag;     /* linear page address; 1 when empty (never matches) */
	u64 addend;  /* host address = linear address + addend; valid when any permission bit is set */
	u64 gpa;     /* L1-physical page address */
	u32 perm;
	u32 frame;   /* mem/ page number */
};

#define TLB_ENTRIES 1024 /* per context; direct-mapped by page number */
struct tlb_ctx {
	struct tlb_entry e[TLB_ENTRIES];
	u64 used[TLB_ENTRIES / 64]; /* which entries may be filled */
	u16 vpid, pcid;
	u64 npt_root;
	u64 lru;
	bool valid;
};

#define TLB_CONTEXTS 24
struct tlb {
	struct tlb_ctx *cur;      /* the active context */
	u64 tick;
	u64 *maybe_written;       /* bit per frame: some entry may give write permission; sized by mem->frames */
	struct tlb_ctx ctx[TLB_CONTEXTS];
};

int mmu_create(struct cpu *c);
void mmu_destroy(struct cpu *c);

/* After CR3, PCID, VPID, nested root or CR0.PG changed: make the right context current (an empty one if unknown). */
void mmu_switch(struct cpu *c);

/* ---- invalidation (SDM "Invalidation of TLBs and Paging-Structure Caches"; VMX "Operations that Invalidate Cached Mappings") ---- */
void mmu_flush_all(struct cpu *c);                              /* every context */
void mmu_flush_current(struct cpu *c, bool globals);            /* current VPID+PCID; without globals: G entries stay */
void mmu_flush_vpid(struct cpu *c, u16 vpid, bool globals);     /* all PCIDs of a VPID */
void mmu_flush_pcid(struct cpu *c, u16 vpid, u16 pcid);         /* INVPCID type 1: non-global */
void mmu_flush_npt(struct cpu *c, u64 npt_root);                /* INVEPT single context: all contexts with this root */
void mmu_invlpg(struct cpu *c, gva_t la);                       /* current VPID, every PCID for global entries */
void mmu_invlpg_vpid(struct cpu *c, u16 vpid, gva_t la);        /* INVVPID type 0 */
/* Take write permission for `frame` from every entry of every context (a page got decoded code, or dirty logging starts). */
void mmu_write_protect(struct cpu *c, u64 frame);

/* ---- slow paths; callers are the inline functions below ---- */
bool mmu_read_slow(struct cpu *c, u64 la, unsigned size, u64 *v);
bool mmu_write_slow(struct cpu *c, u64 la, unsigned size, u64 v);

/* The TLB entry of la's page if it grants all of `need` (TLB_* bits), else NULL. */
static inline struct tlb_entry *mmu_hit(const struct cpu *c, u64 la, u32 need)
{
	struct tlb_entry *e = &c->tlb->cur->e[(la >> 12) & (TLB_ENTRIES - 1)];
	return likely(e->tag == (la & PAGE_MASK) && (e->perm & need) == need) ? e : NULL;
}

/* Data access at linear address la with the current privilege; size 1, 2, 4 or 8. Alignment checks (#AC) are done in the slow path and by engines when
 * CR0.AM && RFLAGS.AC && CPL 3. False: cpu->fault is set. */
static must_inline bool mmu_read(struct cpu *c, u64 la, unsigned size, u64 *v)
{
	struct tlb_entry *e = mmu_hit(c, la, TLB_R(c->acc_class));
	if (unlikely(!e || (la & 0xfff) > 0x1000 - size))
		return mmu_read_slow(c, la, size, v);
	const void *p = (const void *)(la + e->addend);
	switch (size) {
	case 1: *v = __atomic_load_n((const u8 *)p, __ATOMIC_RELAXED); return true;
	case 2: *v = *(const volatile u16 *)p; return true;
	case 4: *v = *(const volatile u32 *)p; return true;
	default: *v = *(const volatile u64 *)p; return true;
	}
}

static must_inline bool mmu_write(struct cpu *c, u64 la, unsigned size, u64 v)
{
	struct tlb_entry *e = mmu_hit(c, la, TLB_W(c->acc_class));
	if (unlikely(!e || (la & 0xfff) > 0x1000 - size))
		return mmu_write_slow(c, la, size, v);
	void *p = (void *)(la + e->addend);
	switch (size) {
	case 1: *(volatile u8 *)p = (u8)v; return true;
	case 2: *(volatile u16 *)p = (u16)v; return true;
	case 4: *(volatile u32 *)p = (u32)v; return true;
	default: *(volatile u64 *)p = v; return true;
	}
}

/* Any length up to 4096, at most two pages; all or nothing. Device memory is accessed in pieces of at most 8 bytes. */
bool mmu_read_bytes(struct cpu *c, u64 la, void *to, unsigned len);
bool mmu_write_bytes(struct cpu *c, u64 la, const void *from, unsigned len);
/* Would a write of len bytes at la succeed? Sets A/D and fills the TLB like one. */
bool mmu_probe_write(struct cpu *c, u64 la, unsigned len);
bool mmu_probe_read(struct cpu *c, u64 la, unsigned len);

/* Implicit supervisor accesses: GDT, LDT, IDT, TSS. */
bool mmu_read_sys(struct cpu *c, u64 la, unsigned size, u64 *v);
bool mmu_write_sys(struct cpu *c, u64 la, unsigned size, u64 v);

/* Read-modify-write in place: host address of [la, la+size) with write permission checked, when it is plain RAM within one page; then end
 * with mmu_rmw_done. *slow is set (and NULL returned, no fault) when it is not: two pages, device or code-page lines... For those use
 * mmu_rmw_slow, which holds the VM-wide split lock. NULL and !*slow: cpu->fault is set. */
void *mmu_rmw(struct cpu *c, u64 la, unsigned size, bool *slow);
void mmu_rmw_done(struct cpu *c, u64 la, unsigned size);
/* Calls fn(old, arg, &new) under the split lock on up to 16 bytes; writes new back (always a write cycle). False: fault. */
bool mmu_rmw_slow(struct cpu *c, u64 la, unsigned size, void (*fn)(void *bytes, void *arg), void *arg);

/* For string instructions: host address at la for reading or writing, and in *len how many bytes from there lie in plain RAM of the same page
 * (<= *len on entry). NULL: not plain RAM (use single accesses) or, with cpu->fault.kind != EVENT_NONE, a fault. After writing, mmu_span_written. */
void *mmu_span(struct cpu *c, u64 la, bool write, u64 *len);
void mmu_span_written(struct cpu *c, u64 la, u64 len);

/* Instruction fetch: translation of la's page with execute permission. NULL: cpu->fault is set (#PF, or #GP for a non-canonical address). The entry's
 * frame says where the bytes are; bytes outside RAM cannot be executed (perm & TLB_X* may be set with frame ~0u: fetch with mmu_fetch_bytes). */
const struct tlb_entry *mmu_fetch(struct cpu *c, u64 la);
/* Copies up to 15 instruction bytes at la, crossing pages. Returns how many are fetchable (>= 1); 0: cpu->fault is set for the first byte. *fault_la is
 * the address of the first byte that could not be fetched when fewer than `len` came; re-raise with mmu_fetch(c, *fault_la). */
unsigned mmu_fetch_bytes(struct cpu *c, u64 la, u8 *to, unsigned len, u64 *fault_la);

/* Walk for debugger and explain: no side effects. False: not mapped. */
bool mmu_translate_probe(struct cpu *c, u64 la, u64 *gpa_out);

/* PAE: load PDPTEs from CR3 (through EPT if any). False: a reserved bit is set; caller raises #GP. *virt set: cpu->fault is EVENT_VIRT. */
bool mmu_load_pdptes(struct cpu *c, u64 cr3, bool *virt);

/* L1-physical accesses of the CPU itself (VMCS pages, bitmaps, APIC pages); devices read all ones. */
u64 cpu_phys_read(struct cpu *c, u64 gpa_, unsigned size);
void cpu_phys_write(struct cpu *c, u64 gpa_, unsigned size, u64 v);

#endif
