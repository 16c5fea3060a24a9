/* The interpreter's inside: blocks of decoded instructions and the inline halves of memory accesses. Private to interp/.
 *
 * A handler ends with `return next(c, i)`, which gcc turns into a jump to the next instruction's handler. That only works while no
 * local variable's address escapes, so slow paths return their results by value (struct val), and handlers with bigger needs put their work
 * into a `noinline` body and end with `return after(c, i, body(c, i))`.
 *
 * Counting: a block's instructions are added to cpu->icount when it is entered; who leaves early takes the rest back (interp_uncount). */
#ifndef NB_INTERP_H
#define NB_INTERP_H

#include "base/log.h"
#include "cpu/core.h"
#include "cpu/engine.h"
#include "cpu/mmu.h"
#include "isa/decode.h"

#define BLOCK_MAX_INSNS 32
#define BLOCK_DEAD_KEY (~(u64)0)

/* What is looked at when a block is found and entered lies beside its first instruction: mostly in one line of the host's cache. */
struct block {
	struct block *frame_next[2]; /* in the lists of frame[0] and frame[1] */
	u64 misses_since;            /* the hooks' own: icount */
	u16 misses;                  /* the hooks' own: groups of accesses that missed */
	bool plain, in_region;       /* the hooks' own: its groups split; part of a region */
	u32 scattered;               /* the hooks' own: instructions whose memory is now here, now there */
	u32 frame[2];                /* frame[1] != NO_FRAME: a single instruction that crosses into that page */
	u8 samples;                  /* the hooks' own: how often it was found looping */
	u16 next_off;                /* the hooks' own: where in the page its indirect jump led last */
	u16 slots;                   /* insn[] used, sentinel included */
	u16 heat;                    /* the hooks' own: entries so far */
	struct block *link[2];       /* successors in the same linear page and mode: not taken / fall through, taken */
	u16 off, bytes;              /* place in frame[0] */
	u16 n;                       /* guest instructions */
	u64 key;                     /* frame << 20 | page offset << 8 | mode */
	struct block *hash_next;
	insn_fn *first;              /* the hooks' own: handler of insn[0] when they have put theirs there */
	void *code;                  /* the hooks' own: host code */
	struct insn insn[];
};
#define NO_FRAME (~0u)
/* Slot of its first instruction: one that crosses pages comes after a look at the second page. */
static inline unsigned block_first_slot(const struct block *b) { return b->frame[1] != NO_FRAME; }

#define JUMP_CACHE 8192
#define HASH_SIZE 65536
#define ARENA_TOTAL (40 * MiB)
#define ARENA_MIN (4 * MiB)

/* Another engine on top of this one: told about blocks. NULL members: not interested. */
struct interp_hooks {
	void (*built)(struct cpu *c, struct block *b);
	void (*killed)(struct cpu *c, struct block *b); /* its bytes are about to change; handlers are dead already */
	void (*reset)(struct cpu *c);                   /* all blocks go away */
};

struct interp {
	struct block *cur;            /* running */
	const struct interp_hooks *hooks;
	u32 xneed;                    /* TLB bit that instruction fetch needs at this CPL */
	bool reset_wanted;            /* all blocks are dead; empty the arena at the next lookup */
	struct block **hash;
	struct block **frame_blocks;  /* per frame: blocks with bytes in it */
	u64 nframes;
	u8 *arena;
	size_t arena_used, arena_bytes; /* bytes 0 at interp_init: as usual */
	struct isa_decoder dec;
	struct memo *memo;            /* memo.c's */
	struct block *scratch;        /* for code that must not be cached */
	struct recent { u32 tag, at; } jump[JUMP_CACHE]; /* block_recent() */
};

static must_inline struct interp *interp_of(const struct cpu *c) { return c->engine; }

static must_inline u64 block_key(u32 frame, u64 la, u32 mode) { return (u64)frame << 20 | (la & 0xfff) << 8 | mode; }
static must_inline u32 jump_slot(u64 key) { return (u32)((key >> 8) ^ (key >> 19)) & (JUMP_CACHE - 1); }

/* Blocks found lately: most of the key, and where in the arena, from 1 in steps of 8 bytes; at 0: none. To find out that it is another costs no look at that one, which
 * would be a miss of the host's caches. */
static must_inline struct block *block_recent(const struct interp *e, u64 key)
{
	const struct recent *j = &e->jump[jump_slot(key)];
	if (j->tag != (u32)(key >> 8) || !j->at)
		return NULL;
	struct block *b = (struct block *)(e->arena + (u64)(j->at - 1) * 8);
	return likely(b->key == key) ? b : NULL;
}

/* engine.c: for engines that contain this one. e is zeroed memory; it becomes c->engine. */
int interp_init(struct cpu *c, struct interp *e);
void interp_fini(struct cpu *c);
void interp_run(struct cpu *c, struct exit_record *out);
void interp_uncount_fault(struct cpu *c);

/* block.c */
int block_cache_create(struct cpu *c);
void block_cache_destroy(struct cpu *c);
/* The block at CS:cpu->rip, decoded if need be. NULL: cpu->fault is set. */
struct block *block_find(struct cpu *c);
/* The block at rip in 64-bit mode if the TLB knows its page and there is one, else NULL. */
struct block *block_peek(struct cpu *c, u64 rip);
void block_forget(struct cpu *c, u64 frame, unsigned first_line, unsigned last_line);
void block_forget_all(struct cpu *c);
insn_fn h_dead, h_cross, h_ud, h_too_long, h_sentinel, h_sentinel_chain;

/* memo.c: instructions decoded before. mode: of the block. */
int memo_create(struct interp *e, unsigned ncpus);
void memo_destroy(struct interp *e);
/* avail: bytes that may be read; off: from the block's start. *end, *last: as from interp_select, whose caller completes aux. False: not known; *to means nothing. */
bool memo_find(const struct interp *e, u32 mode, const u8 *bytes, unsigned avail, unsigned off, struct insn *to, bool *end, bool *last);
/* One just decoded, as interp_select left it. */
void memo_keep(struct interp *e, u32 mode, const u8 *bytes, const struct isa_insn *in, const struct insn *i, bool end, bool last);

/* select.c: chooses the handler. Returns true when the block must end after this instruction; *last when its handler leaves the block by itself (branches). */
bool interp_select(struct cpu *c, const struct isa_insn *in, u32 mode, struct insn *out, bool *last);
/* Chosen by a row: aux, if any, is the row's own. */
bool interp_is_row(const struct isa_insn *in);
/* Does more than insn.imm depend on the immediate? */
bool interp_by_imm(const struct isa_insn *in);

/* string.c: n elements upwards, as REP STOS and REP MOVS do it; plain memory, no page ends in between. */
void string_fill(u8 *to, u64 v, unsigned size, u64 bytes);
void string_copy(u8 *to, const u8 *from, unsigned size, u64 bytes);
/* A REP takes an instruction's time for so many bytes, or a count of 2^64 would stop the clock. */
#define STRING_BYTES_PER_TICK 32u

/* trace.c */
void interp_trace_before(struct cpu *c, const struct block *b);
void interp_trace_after(struct cpu *c);

/* May blocks of this mode jump straight into each other? Not while tracing wants to see each entry. */
static inline bool block_chains(u32 mode) { return (mode & MODE_L) && !(mode & MODE_ONE) && !trace_on(TRACE_BLOCK); }

/* ---- control flow ---- */
static must_inline enum step next(struct cpu *c, const struct insn *i) { return i[1].fn(c, i + 1); }

static must_inline u64 insn_rip(const struct cpu *c, const struct insn *i)
{
	u64 rip = c->arch.gpr[GPR_BLOCK_RIP] + i->off;
	return c->mode & MODE_L ? rip : (u32)rip;
}
static must_inline u64 insn_next_rip(const struct cpu *c, const struct insn *i)
{
	u64 rip = c->arch.gpr[GPR_BLOCK_RIP] + i->off + i->len;
	return c->mode & MODE_L ? rip : (u32)rip;
}
/* Before anything that can fault or exit. */
static must_inline void set_rip(struct cpu *c, const struct insn *i) { c->arch.rip = insn_rip(c, i); }

/* The running block is left at i: instructions after it did not run, i itself did (done) or did not. */
void interp_uncount(struct cpu *c, const struct insn *i, bool done);
/* What a handler with a body returns: STEP_END goes on in the block. */
static must_inline enum step after(struct cpu *c, const struct insn *i, enum step s)
{
	if (likely(s == STEP_END))
		return next(c, i);
	if (s == STEP_STOP)
		interp_uncount(c, i, true);
	return s;
}
/* Finished, and the block must be left: rip moves on. */
static inline enum step stop_next(struct cpu *c, const struct insn *i)
{
	c->arch.rip = insn_next_rip(c, i);
	return STEP_STOP;
}
/* For bodies: a core helper's verdict, when rip was left alone. */
static inline enum step finish(struct cpu *c, const struct insn *i, enum step s)
{
	return s == STEP_STOP ? stop_next(c, i) : s;
}

static must_inline enum step block_enter(struct cpu *c, struct block *b, u64 rip)
{
	interp_of(c)->cur = b;
	c->icount += b->n;
	c->arch.gpr[GPR_BLOCK_RIP] = rip;
	return b->insn[0].fn(c, b->insn);
}

/* ---- registers; u8 numbers are byte offsets ---- */
static must_inline u8 rd_u8(const struct cpu *c, unsigned n) { return ((const u8 *)c->arch.gpr)[n]; }
static must_inline u16 rd_u16(const struct cpu *c, unsigned n) { return *(const u16 *)&c->arch.gpr[n]; }
static must_inline u32 rd_u32(const struct cpu *c, unsigned n) { return *(const u32 *)&c->arch.gpr[n]; }
static must_inline u64 rd_u64(const struct cpu *c, unsigned n) { return c->arch.gpr[n]; }
static must_inline void wr_u8(struct cpu *c, unsigned n, u8 v) { ((u8 *)c->arch.gpr)[n] = v; }
static must_inline void wr_u16(struct cpu *c, unsigned n, u16 v) { *(u16 *)&c->arch.gpr[n] = v; }
static must_inline void wr_u32(struct cpu *c, unsigned n, u32 v) { c->arch.gpr[n] = v; }
static must_inline void wr_u64(struct cpu *c, unsigned n, u64 v) { c->arch.gpr[n] = v; }

static inline u64 rd_size(const struct cpu *c, unsigned n, unsigned size)
{
	return size == 8 ? rd_u64(c, n) : size == 4 ? rd_u32(c, n) : size == 2 ? rd_u16(c, n) : rd_u8(c, n);
}
static inline void wr_size(struct cpu *c, unsigned n, unsigned size, u64 v)
{
	if (size == 8)
		wr_u64(c, n, v);
	else if (size == 4)
		wr_u32(c, n, (u32)v);
	else if (size == 2)
		wr_u16(c, n, (u16)v);
	else
		wr_u8(c, n, (u8)v);
}
static inline u64 size_mask(unsigned size) { return ~(u64)0 >> (64 - 8 * size); }
static inline u64 sext_size(u64 v, unsigned size) { return sign_extend(v, 8 * size); }

/* ---- conditions on cpu->arch.cc ---- */
#define CC_CF 0x0100u
#define CC_PF 0x0400u
#define CC_AF 0x1000u
#define CC_ZF 0x4000u
#define CC_SF 0x8000u
#define CC_OF 0x0001u
static must_inline bool cc_l(u16 cc) { return ((cc >> 15) ^ cc) & 1; }
#define COND_ROWS(R) \
	R(o, O, cc & CC_OF) R(no, NO, !(cc & CC_OF)) R(b, B, cc & CC_CF) R(nb, NB, !(cc & CC_CF)) R(z, Z, cc & CC_ZF) R(nz, NZ, !(cc & CC_ZF)) \
	R(be, BE, cc & (CC_CF | CC_ZF)) R(nbe, NBE, !(cc & (CC_CF | CC_ZF))) R(s, S, cc & CC_SF) R(ns, NS, !(cc & CC_SF)) R(p, P, cc & CC_PF) \
	R(np, NP, !(cc & CC_PF)) R(l, L, cc_l(cc)) R(nl, NL, !cc_l(cc)) R(le, LE, (cc & CC_ZF) || cc_l(cc)) R(nle, NLE, !((cc & CC_ZF) || cc_l(cc)))
enum cond {
#define R(name, M, expr) COND_##M,
	COND_ROWS(R)
#undef R
};
#define R(name, M, expr) static must_inline bool cond_##name(u16 cc) { return expr; }
COND_ROWS(R)
#undef R

/* ---- memory ---- */
/* A value and whether there is one, in two registers. */
struct val { u64 v; u64 ok; };

/* size | segment << 8. The slow paths set rip and turn #GP(0) for a non-canonical stack address into #SS(0). */
struct val interp_load(struct cpu *c, const struct insn *i, u64 la, unsigned size_seg);
bool interp_store(struct cpu *c, const struct insn *i, u64 la, unsigned size_seg, u64 v);
/* First half of a read-modify-write that has no direct host address: write permission is checked, the old value read; interp_store ends it. */
struct val interp_load_rmw(struct cpu *c, const struct insn *i, u64 la, unsigned size_seg);
/* Before mmu_probe_write and accesses in bytes, which do not ask for alignment: false is #AC. size: a power of two. */
bool interp_aligned(struct cpu *c, u64 la, unsigned size);
/* Limit and type check of an unusual segment. */
bool interp_seg_check(struct cpu *c, const struct insn *i, unsigned seg, u64 ea, unsigned size_write);
/* After a failed access through segment seg. */
void interp_fix_fault(struct cpu *c, unsigned seg, u64 la);

/* Address kinds: bd = base + disp, 64-bit, no segment base; x = any 64-bit; g = general. Handlers exist per kind. */
enum ea_kind { EA_BD, EA_X, EA_G, EA_KINDS };
#define EA_ROWS(R, ...) R(bd, __VA_ARGS__) R(x, __VA_ARGS__) R(g, __VA_ARGS__)

static must_inline u64 ea_plain(const struct cpu *c, const struct insn *i)
{
	return c->arch.gpr[i->base] + (c->arch.gpr[i->index] << i->scale) + (u64)(i64)i->disp;
}
static must_inline u64 ea_masked(const struct cpu *c, const struct insn *i) { return ea_plain(c, i) & size_mask(i->asize); }

/* Linear address of `size` bytes at ea of segment seg; false: fault. */
static must_inline bool la_seg(struct cpu *c, const struct insn *i, unsigned seg, u64 ea, unsigned size, bool write, u64 *la)
{
	u64 bound = write ? c->bound_w[seg] : c->bound_r[seg];
	if (unlikely(ea + size - 1 >= bound) && !interp_seg_check(c, i, seg, ea, size | write << 8))
		return false;
	u64 a = c->seg_base[seg] + ea;
	*la = c->mode & MODE_L ? a : (u32)a;
	return true;
}
static must_inline bool la_bd(struct cpu *c, const struct insn *i, unsigned size, bool write, u64 *la)
{
	*la = c->arch.gpr[i->base] + (u64)(i64)i->disp;
	return true;
}
static must_inline bool la_x(struct cpu *c, const struct insn *i, unsigned size, bool write, u64 *la)
{
	*la = c->seg_base[i->seg] + ea_plain(c, i);
	return true;
}
static must_inline bool la_g(struct cpu *c, const struct insn *i, unsigned size, bool write, u64 *la)
{
	return la_seg(c, i, i->seg, ea_masked(c, i), size, write, la);
}

static must_inline bool ld_seg(struct cpu *c, const struct insn *i, u64 la, unsigned size, unsigned seg, u64 *v)
{
	struct tlb_entry *e = &c->tlb->cur->e[(la >> 12) & (TLB_ENTRIES - 1)];
	if (likely(e->tag == (la & PAGE_MASK)) && likely(e->perm >> (2 * c->acc_class) & 1) && likely((la & 0xfff) <= 0x1000 - size)) {
		*v = mmu_host_load((const void *)(la + e->addend), size);
		return true;
	}
	struct val r = interp_load(c, i, la, size | seg << 8);
	*v = r.v;
	return r.ok;
}
static must_inline bool ld(struct cpu *c, const struct insn *i, u64 la, unsigned size, u64 *v)
{
	return ld_seg(c, i, la, size, i->seg, v);
}
/* Host address for writing, or NULL. */
static must_inline void *host_w(struct cpu *c, u64 la, unsigned size)
{
	struct tlb_entry *e = &c->tlb->cur->e[(la >> 12) & (TLB_ENTRIES - 1)];
	if (likely(e->tag == (la & PAGE_MASK)) && likely(e->perm >> (2 * c->acc_class + 1) & 1) && likely((la & 0xfff) <= 0x1000 - size))
		return (void *)(la + e->addend);
	return NULL;
}
static must_inline bool st_seg(struct cpu *c, const struct insn *i, u64 la, unsigned size, unsigned seg, u64 v)
{
	void *p = host_w(c, la, size);
	if (unlikely(!p))
		return interp_store(c, i, la, size | seg << 8, v);
	mmu_host_store(p, size, v);
	return true;
}
static must_inline bool st(struct cpu *c, const struct insn *i, u64 la, unsigned size, u64 v) { return st_seg(c, i, la, size, i->seg, v); }

/* Out-of-line versions for bodies: through the instruction's own operand, general address. */
bool op_read(struct cpu *c, const struct insn *i, unsigned size, u64 *v);
bool op_write(struct cpu *c, const struct insn *i, unsigned size, u64 v);
/* Linear address of the operand plus `plus`; and of seg:ea. */
bool mem_la(struct cpu *c, const struct insn *i, unsigned plus, unsigned size, bool write, u64 *la);
bool seg_la(struct cpu *c, const struct insn *i, unsigned seg, u64 ea, unsigned size, bool write, u64 *la);
bool seg_read(struct cpu *c, const struct insn *i, unsigned seg, u64 ea, unsigned size, u64 *v);
bool seg_write(struct cpu *c, const struct insn *i, unsigned seg, u64 ea, unsigned size, u64 v);

/* ---- faults from handlers ---- */
static inline enum step fault_gp(struct cpu *c, const struct insn *i) { set_rip(c, i); return cpu_gp(c, 0); }
static inline enum step fault_ud(struct cpu *c, const struct insn *i) { set_rip(c, i); return cpu_ud(c); }

/* ---- choosing handlers ---- */
struct form {
	struct cpu *c;
	const struct isa_insn *in;
	u32 mode;
	u16 arg;          /* from the row */
	bool m0, m1;      /* first, second visible operand is memory */
	bool i1;          /* second visible operand is an immediate */
	bool chain;       /* 64-bit and not MODE_ONE: blocks may be linked */
	enum ea_kind ea;
	unsigned sz;      /* 0-3: operand size 1, 2, 4, 8 */
};
typedef insn_fn *select_fn(const struct form *f, struct insn *out);

#endif
