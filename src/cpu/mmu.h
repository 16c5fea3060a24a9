/* Guest-linear memory: TLB, page walks, and typed accesses for engines and for the CPU's own implicit accesses.
 *
 * A TLB entry maps a linear page straight to host memory (through EPT/NPT where there is one) with permission bits
 * per access class, so a hit needs one compare and one bit test. Pages without host memory (devices, APIC) and pages
 * with decoded code (writes) have the bit missing and go to the slow path. Contexts are tagged (VPID, nested root,
 * PCID): switching them throws nothing away. */
#ifndef NB_MMU_H
#define NB_MMU_H

#include "cpu/cpu.h"
#include "cpu/debugger.h"
#include "cpu/virt.h"

/* Access kinds for walks. */
#define ACC_R 1u
#define ACC_W 2u
#define ACC_X 4u
#define ACC_SYS 8u   /* implicit supervisor access (descriptor tables, TSS): supervisor whatever the CPL, AC ignored */
#define ACC_PROBE 16u /* do not fill cpu->fault, do not set A/D (debugger, explain) */
#define ACC_UPAGE 32u /* given to npt_walk with NPT_DATA: the linear address is a user page (mode-based execute control) */

/* Access classes (cpu->acc_class): 0 supervisor with SMAP on and AC clear, 1 supervisor with AC set or SMAP off, 2
 * user, and 3 for when every access must take the slow path: alignment checks or data breakpoints are on.
 * mmu_access_class() picks one.
 *
 * Permission bits of an entry. TLB_R, TLB_W: host memory may be touched directly; those of class 3 are never set.
 * TLB_OK_*: the translation permits it, but the page may be a device, hold code, or have to be logged: ask the slow
 * path, which then need not walk. */
#define TLB_R(cls) (1u << (2 * (cls)))
#define TLB_W(cls) (2u << (2 * (cls)))
#define TLB_W_ALL (TLB_W(0) | TLB_W(1) | TLB_W(2))
#define TLB_RW_ALL (TLB_R(0) | TLB_R(1) | TLB_R(2) | TLB_W_ALL)
#define TLB_XS BIT32(8)      /* execute at CPL < 3 */
#define TLB_XU BIT32(9)      /* execute at CPL 3 */
#define TLB_GLOBAL BIT32(10)
#define TLB_LARGE BIT32(11)  /* a piece of a 2 or 4 MiB page of the guest */
#define TLB_HUGE BIT32(12)   /* a piece of a 1 GiB page */
#define TLB_PKEY BIT32(13)   /* depends on PKRU */
#define TLB_IO BIT32(14)     /* device, APIC page or nothing: no host memory */
#define TLB_ROM BIT32(15)    /* writes go to the bus */
#define TLB_BANKED(cls) BIT32(24 + (cls)) /* the bank of that class may have it */
#define TLB_BANKED_SHIFT 24
#define TLB_OK_SHIFT 16
#define TLB_OK_R(cls) (TLB_R(cls) << TLB_OK_SHIFT)
#define TLB_OK_W(cls) (TLB_W(cls) << TLB_OK_SHIFT)

#define TLB_EMPTY 1          /* tag that no page address equals */
#define TLB_NO_FRAME (~0u)

struct tlb_entry {
	u64 tag;     /* linear page address, or TLB_EMPTY */
	u64 addend;  /* host address = linear address + addend; valid unless TLB_IO */
	u64 gpa;     /* L1-physical page address */
	u32 perm;    /* TLB_* */
	u32 frame;   /* mem/ page number; TLB_NO_FRAME with TLB_IO */
};

#define TLB_ENTRIES 2048 /* per context; by page number. Kernel, KVM and guest pages that meet in one place cost a miss each, at every exit */
#define TLB_RUNS 32 /* per context; by run of 2 MiB */
#define TLB_RUN_SHIFT 21
/* A run of 2 MiB that is one translation: a large page of the guest, or a part of one, and of NPT if there is one. Its 512 pages are filled from here without a
 * walk; each still learns by itself what the host's memory allows. */
struct tlb_run {
	u64 tag;     /* linear address of the run, or TLB_EMPTY */
	u64 gpa;     /* L1-physical */
	u32 perm;    /* as the walk granted it: TLB_OK_*, TLB_X*, TLB_GLOBAL, TLB_LARGE, TLB_HUGE */
	u32 wanted;  /* how often a bank missed a page of it */
};
#define TLB_REGION_BITS 13 /* of the filters below: so many are 1 << this */
struct tlb_ctx {
	/* Only the first half is looked at by hits. An entry that another page replaces moves to the second half, same place, and comes back
	 * without a walk when it is wanted: the kernel's and a program's pages collide all the time. */
	struct tlb_entry e[2 * TLB_ENTRIES];
	u64 used[2 * TLB_ENTRIES / 64]; /* which entries may be filled */
	struct tlb_run run[TLB_RUNS];
	/* Which large pages may have pieces here, runs included, so that INVLPG of a small page need not look: three bits per region. */
	u64 large[(1u << TLB_REGION_BITS) / 64], huge[(1u << TLB_REGION_BITS) / 64];
};

/* What a context's translations depend on. `key` holds the mode bits that decide permissions (CR0.PG WP, CR4.PSE PAE
 * SMEP SMAP PKE, EFER.LMA NXE, guest mode), so a change of one cannot revive stale permissions: call mmu_switch after
 * it. (The next miss notices too.) */
struct tlb_tag {
	u64 npt_root;
	union {
		struct { u16 vpid, pcid; u32 key; };
		u64 who; /* all three, stored and compared at once: a load of parts that were just stored waits */
	};
	u64 lru;
	bool valid;
};

/* A nested guest's page that was used as a paging structure: guest-physical -> host, tagged by the nested root only
 * (the manual's "guest-physical mappings"). It saves four nested walks of five. */
struct ntlb_entry {
	u64 at;      /* l2gpa of the page, or TLB_EMPTY */
	u64 root;
	u8 *host;    /* NULL: no memory */
	u32 frame;
	bool w;      /* may be written without another nested walk */
};

/* What translated code probes: for one context and access class, a subset of the entries above in the shape that needs one compare. `r` and `w` are
 * the linear page address where a read or a write may touch host memory directly, else an address that belongs to another entry. `jump` finds
 * host code by linear address; it may outlive a TLB entry that was merely replaced, but nothing that was invalidated. */
struct tlb_fast {
	u64 r, w;
	u8 *host; /* of the page's first byte */
	/* Of a window: which page of the run was found last, and how many more times one is found before C is asked for it. Who comes to a page again soon wants it
	 * in a place of its own. */
	u32 last;
	i32 left;
};
struct tlb_jump { u64 rip; void *code; };
#define TLB_JUMP_BITS 12
#define TLB_JUMPS (1u << TLB_JUMP_BITS)
#define TLB_PAGE_BITS 15 /* of the filter of pages that a jump table knows, with three bits for each */
static inline unsigned mmu_jump_slot(u64 rip) { return (u32)(rip ^ rip >> TLB_JUMP_BITS) >> 1 & (TLB_JUMPS - 1); }
/* Behind the others: those that have been pushed out of their places. Two that take turns in one place mostly have different ones here. */
#define TLB_JUMPS_ASIDE_BITS 7
#define TLB_JUMPS_ASIDE (1u << TLB_JUMPS_ASIDE_BITS)
#define TLB_JUMPS_ALL (TLB_JUMPS + TLB_JUMPS_ASIDE)
static inline unsigned mmu_jump_aside_slot(u64 rip) { return TLB_JUMPS + ((u32)(rip ^ rip >> TLB_JUMPS_ASIDE_BITS) >> 1 & (TLB_JUMPS_ASIDE - 1)); }
/* Pages that others have pushed out of their places in e. Host code looks here before it asks C; those that take turns in one place of e have different ones here. */
#define TLB_ASIDE 64
static inline unsigned mmu_aside_slot(u64 la) { return (unsigned)((la >> 11 ^ la) >> 12) & (TLB_ASIDE - 1); }
/* Runs of 2 MiB whose pages a bank has missed often: host code looks here before it asks C. Two runs that share a place take turns. */
#define TLB_WINDOWS 64
#define TLB_WINDOW_MISSES 128 /* a power of two */
#define TLB_WINDOW_ASKS 16
static inline unsigned mmu_window_slot(u64 la) { return (unsigned)(la >> TLB_RUN_SHIFT) & (TLB_WINDOWS - 1); }
struct tlb_bank {
	struct tlb_fast e[TLB_ENTRIES];
	struct tlb_fast aside[TLB_ASIDE]; /* by mmu_aside_slot() */
	struct tlb_fast window[TLB_WINDOWS]; /* by mmu_window_slot(); r, w: of the run, host: of its first byte */
	struct tlb_jump jump[TLB_JUMPS_ALL]; /* by mmu_jump_slot(), mmu_jump_aside_slot() */
	u64 jump_pages[(1u << TLB_PAGE_BITS) / 64]; /* which pages may have an entry in jump, or return addresses on the host's stack */
	u64 jump_local[TLB_JUMPS_ALL / 64];      /* which entries are not of global pages */
	bool ready, any_jump, any_local, any_window;
	bool flat; /* jump: 32-bit code */
};

#define TLB_STREAMS 4
#define TLB_CONTEXTS 24
#define NTLB_ENTRIES 256
struct tlb {
	struct tlb_ctx *cur;      /* the active context */
	struct tlb_tag *cur_tag;
	unsigned before;          /* the context that was active before */
	u64 tick;
	u64 stream[TLB_STREAMS];  /* pages whose misses would go on with a sequence of misses */
	unsigned stream_next;
	struct tlb_bank *banks;   /* [context * 3 + class], and one that stays empty for class 3; NULL when no engine asked for them */
	u64 nowhere;              /* in empty places of banks: see tlb.c */
	struct { u64 by_page, by_flush, of_local; } emptied; /* jump tables: because a page that they know was invalidated, all, or non-global ones */
	u32 jump_gen;             /* counts what may have changed an address in a jump table or on the host's stack */
	struct tlb_bank *cur_bank[4]; /* the active context's, by class; NULL: not ready */
	struct tlb_bank *before_bank[4]; /* and those of `before` when it was left: banks stay ready */
	u8 *maybe_written;        /* per frame: bit n = a context whose number mod 8 is n may give write permission */
	struct tlb_tag tag[TLB_CONTEXTS];
	struct ntlb_entry ntlb[NTLB_ENTRIES];
	struct tlb_ctx ctx[TLB_CONTEXTS];
};

/* ---- access class, for cpu_update_mode() ---- */
/* Also after changes of DR7, CR0.AM, CR4.SMAP, RFLAGS.AC and CPL. */
static inline bool mmu_alignment_on(const struct cpu *c)
{
	return unlikely(c->arch.rflags & FLAG_AC) && c->arch.cpl == 3 && (c->arch.cr0 & CR0_AM);
}
/* A data or I/O breakpoint is enabled: type field (R/W) not 0. */
static inline bool mmu_debug_on(const struct cpu *c)
{
	u64 dr7 = c->arch.dr[7];
	if (likely(!(dr7 & 0xff)))
		return false;
	for (unsigned i = 0; i < 4; i++)
		if ((dr7 >> (2 * i) & 3) && (dr7 >> (16 + 4 * i) & 3))
			return true;
	return false;
}
/* 0, 1 or 2. */
static inline u8 mmu_privilege_class(const struct cpu *c)
{
	if (c->arch.cpl == 3)
		return 2;
	return (c->arch.cr4 & CR4_SMAP) && !(c->arch.rflags & FLAG_AC) ? 0 : 1;
}
static inline u8 mmu_access_class(const struct cpu *c)
{
	return mmu_alignment_on(c) || mmu_debug_on(c) || (unlikely(c->dbg) && c->dbg->nwatch) ? 3 : mmu_privilege_class(c);
}

int mmu_create(struct cpu *c);
void mmu_destroy(struct cpu *c);

/* ---- banks for translated code ---- */
int mmu_banks_create(struct cpu *c);
struct tlb_bank *mmu_bank_ready(struct cpu *c);
/* The bank of the current context and class; never NULL once created. */
static inline struct tlb_bank *mmu_bank(struct cpu *c)
{
	struct tlb_bank *b = c->tlb->cur_bank[c->acc_class];
	return likely(b != NULL) ? b : mmu_bank_ready(c);
}
/* Copies what entry e of the current context permits to the current class. */
void mmu_bank_fill(struct cpu *c, struct tlb_entry *e);
/* A page of la, of which the bank may know nothing yet, was missed. Makes a window of its run when that has often been so, as far as all its pages allow it.
 * True: it did. */
bool mmu_bank_window(struct cpu *c, u64 la);
/* The place that has rip, or NULL. */
static inline const struct tlb_jump *mmu_bank_find_jump(const struct tlb_bank *b, u64 rip)
{
	const struct tlb_jump *at = &b->jump[mmu_jump_slot(rip)];
	if (likely(at->rip == rip))
		return at;
	at = &b->jump[mmu_jump_aside_slot(rip)];
	return at->rip == rip ? at : NULL;
}
void mmu_bank_jump(struct cpu *c, u64 rip, void *code);
void mmu_bank_forget_jump(struct cpu *c, u64 rip);
/* Host code of rip's page is entered, not through the table: what it leaves on the host's stack has to be found by invalidations. */
void mmu_bank_runs(struct cpu *c, u64 rip);
/* From now on the current context's banks of this privilege have jump tables for 32-bit code (flat), or for 64-bit code. */
void mmu_bank_mode(struct cpu *c, bool flat);
/* All host code goes away. */
void mmu_banks_drop_jumps(struct cpu *c);

/* After CR3, PCID, VPID, nested root or a bit of tlb_tag.key changed: make the right context current (an empty one if
 * unknown). Drops nothing. */
void mmu_switch(struct cpu *c);

/* ---- invalidation (SDM "Invalidation of TLBs and Paging-Structure Caches"; VMX "Operations that Invalidate Cached
 * Mappings") ---- */
void mmu_flush_all(struct cpu *c);                              /* every context */
void mmu_flush_current(struct cpu *c, bool globals);            /* current VPID+PCID; without globals: G entries stay; with: all PCIDs (CR4.PGE) */
void mmu_flush_vpid(struct cpu *c, u16 vpid, bool globals);     /* all PCIDs of a VPID */
void mmu_flush_pcid(struct cpu *c, u16 vpid, u16 pcid);         /* INVPCID type 1: non-global */
void mmu_flush_npt(struct cpu *c, u64 npt_root);                /* INVEPT single context: all contexts with this root */
void mmu_invlpg(struct cpu *c, gva_t la);                       /* current VPID, every PCID for global entries */
void mmu_invlpg_vpid(struct cpu *c, u16 vpid, gva_t la);        /* INVVPID type 0 */
void mmu_flush_pkeys(struct cpu *c);                            /* PKRU changed: all that depended on it */
/* Take write permission for `frame` from every entry of every context (a page gets decoded code: its bit in
 * mem->code_lines is set before this, so that the next miss leaves the permission out). */
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

/* The same, and an entry that was replaced comes back into place. */
struct tlb_entry *mmu_recall(struct cpu *c, u64 la, u32 need);

static must_inline u64 mmu_host_load(const void *p, unsigned size) { return host_load(p, size); }
static must_inline void mmu_host_store(void *p, unsigned size, u64 v) { host_store(p, size, v); }

/* Data access at linear address la with the current privilege; size 1, 2, 4 or 8. False: cpu->fault is set. A
 * non-canonical address gives #GP(0): the MMU does not know the segment, so engines turn it into #SS(0) when the
 * operand's segment is SS. Alignment (#AC) and data breakpoints: access class 3. */
static must_inline bool mmu_read(struct cpu *c, u64 la, unsigned size, u64 *v)
{
	struct tlb_entry *e = mmu_hit(c, la, TLB_R(c->acc_class));
	if (unlikely(!e || (la & 0xfff) > 0x1000 - size))
		return mmu_read_slow(c, la, size, v);
	*v = host_load((const void *)(la + e->addend), size);
	return true;
}

static must_inline bool mmu_write(struct cpu *c, u64 la, unsigned size, u64 v)
{
	struct tlb_entry *e = mmu_hit(c, la, TLB_W(c->acc_class));
	if (unlikely(!e || (la & 0xfff) > 0x1000 - size))
		return mmu_write_slow(c, la, size, v);
	host_store((void *)(la + e->addend), size, v);
	return true;
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

/* Read-modify-write in place: host address of [la, la+size) with write permission checked, when it is plain RAM that
 * lies in one piece on the host (which makes the host's own locked instructions right, split ones too); then end with
 * mmu_rmw_done. *slow is set (and NULL returned, no fault) when it is not: scattered pages, device, a page with
 * code... For those use mmu_rmw_slow. NULL and !*slow: cpu->fault is set. */
void *mmu_rmw_miss(struct cpu *c, u64 la, unsigned size, bool *slow);
static must_inline void *mmu_rmw(struct cpu *c, u64 la, unsigned size, bool *slow)
{
	struct tlb_entry *e = mmu_hit(c, la, TLB_W(c->acc_class));
	if (unlikely(!e || (la & 0xfff) > 0x1000 - size))
		return mmu_rmw_miss(c, la, size, slow);
	*slow = false;
	return (void *)(la + e->addend);
}
/* Nothing to do today: pages that must hear of writes are never given out by mmu_rmw. */
static inline void mmu_rmw_done(struct cpu *c, u64 la, unsigned size) {}
/* Under the process-wide split lock: calls fn on a copy of the 1 to 16 bytes at la, which it changes in place, and
 * writes them back (always a write cycle). fn may be called again when another vCPU got in between: it must not
 * consume its arg. False: fault. */
bool mmu_rmw_slow(struct cpu *c, u64 la, unsigned size, void (*fn)(void *bytes, void *arg), void *arg);

/* For string instructions: host address at la for reading or writing, and in *len how many bytes from there lie in
 * plain RAM of the same page (<= *len on entry). NULL: not plain RAM (use single accesses) or, with cpu->fault.kind
 * != EVENT_NONE, a fault. After writing, mmu_span_written. */
void *mmu_span(struct cpu *c, u64 la, bool write, u64 *len);
static inline void mmu_span_written(struct cpu *c, u64 la, u64 len) {} /* as mmu_rmw_done */

/* Instruction fetch: translation of la's page with execute permission. NULL: cpu->fault is set (#PF, or #GP for a
 * non-canonical address). The entry's frame says where the bytes are; bytes outside RAM cannot be executed (perm &
 * TLB_IO, frame is TLB_NO_FRAME: fetch with mmu_fetch_bytes). */
const struct tlb_entry *mmu_fetch(struct cpu *c, u64 la);
/* Copies up to 15 instruction bytes at la, crossing pages. Returns how many are fetchable (>= 1); 0: cpu->fault is
 * set for the first byte. *fault_la is the address of the first byte that could not be fetched when fewer than `len`
 * came; re-raise with mmu_fetch(c, *fault_la). */
unsigned mmu_fetch_bytes(struct cpu *c, u64 la, u8 *to, unsigned len, u64 *fault_la);

/* Walk for debugger and explain: no side effects. False: not mapped. */
bool mmu_translate_probe(struct cpu *c, u64 la, u64 *gpa_out);

/* PAE: load PDPTEs from CR3 (through EPT if any). False: a reserved bit is set; caller raises #GP. *virt set:
 * cpu->fault is EVENT_VIRT. */
bool mmu_load_pdptes(struct cpu *c, u64 cr3, bool *virt);

/* L1-physical accesses of the CPU itself (VMCS pages, bitmaps, APIC pages); devices read all ones. */
u64 cpu_phys_read(struct cpu *c, u64 gpa_, unsigned size);
void cpu_phys_write(struct cpu *c, u64 gpa_, unsigned size, u64 v);

#endif
