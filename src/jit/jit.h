/* The inside of the translating engine. It contains the interpreter: blocks are decoded, found, kept coherent and, until they are hot, run by it.
 *
 * A hot block gets host code. Its first instruction's handler becomes jit_h_enter, so every way into the block that the interpreter knows leads
 * into the code; the code leaves by "exits" (struct site), and what it cannot do it hands back: one instruction (a helper call in the middle of
 * a block) or the rest of the block (resume). Register plan, flags, memory accesses: docs/jit.md. */
#ifndef NB_JIT_H
#define NB_JIT_H

#include "interp/interp.h"
#include "interp/vec.h"
#include "jit/asm.h"

/* ---- register plan ---- */
#define S0 R10    /* scratch: addresses */
#define S1 R11    /* scratch */
#define HOST R9   /* host address that a group's accesses share, see group.c; survives a site that comes back */
#define LEFT R15  /* instructions left until service; signed */
#define NO_HOME 0xff
extern const u8 jit_home[16]; /* host register of each guest register, or NO_HOME: it stays in cpu->arch.gpr */

/* ---- flags ---- */
/* How to compute all six arithmetic flags from values that still exist. */
enum recipe_op {
	RC_NONE,
	RC_INC, RC_DEC,  /* a: result; CF is the one in arch.cc */
	RC_ADD, RC_SUB,  /* a: result, b: second operand */
	RC_CMP, RC_TEST, /* a, b: operands */
	RC_LOGIC,        /* a: result */
	RC_NEG,          /* a: result */
	RC_CLEAR,        /* all are 0 */
	RC_ZERO,         /* as behind a result of 0, without carry or overflow */
	RC_RESULT,       /* as RC_LOGIC, of v */
#define RC_LAST RC_RESULT
};
#define RC_KEEPS_CF RC_DEC /* this one and lower: arch.cc has CF */
struct recipe {
	u8 op : 4, size : 4;
	u8 imm : 1, a : 7; /* b is v; guest register */
	u8 b;
	i32 v;
} __attribute__((packed));
/* All six flags as LAHF;SETO gives them. */
u16 jit_flags(unsigned op, unsigned size, u64 a, u64 b, u16 old);

/* ---- sites: what C needs to know about a place in host code that leaves it ---- */
enum site_kind {
	SITE_READ, SITE_WRITE, /* a probe missed; S0: address xor tag, S1: byte offset in the bank */
	SITE_JUMP,             /* an indirect or far jump found nothing; S0: target */
	SITE_RESUME,           /* the interpreter goes on with this instruction */
	SITE_LINK,             /* a direct jump within the page, not linked yet */
	SITE_HELPER,           /* one instruction by its handler */
	SITE_FLAGS,            /* make arch.cc valid */
	SITE_LOG,              /* lockstep: a store is about to happen at S0 */
	SITE_GONE,             /* entered a block that has died; S0: rip */
	SITE_RET,              /* a RET whose target the host's stack does not know; S0: rip, hot->ret: its site */
	SITE_GO_ON,            /* C has brought the guest to S0 by a short way, and host code was not at hand */
};
/* Offsets instead of pointers: there are as many sites as instructions. */
struct site {
	u32 block;             /* in the interpreter's arena: jit_block() */
	u32 retry;             /* in ours: jit_host() */
	u8 kind, slot;
	u16 size;
	bool group : 1;        /* SITE_READ, SITE_WRITE: for several accesses, the address is in HOST */
	bool writes : 1;       /* the instruction itself writes */
	u8 host : 2;           /* number of the group's register */
	bool far : 1;          /* SITE_JUMP: registers are as after the instruction */
	bool live : 1;         /* the recipe holds */
	bool twice : 1;        /* SITE_READ, SITE_WRITE: the instruction probes again, and the two may want the same entry for ever */
	bool vec : 1, vec_wide : 1; /* vector registers are in use; were loaded whole */
	bool guess : 1;        /* SITE_READ, SITE_WRITE, SITE_JUMP: looks in one place of the bank first: probe.at ... */
	bool call : 1;         /* SITE_JUMP: the host's stack gets a return address */
	u16 vec_dirty;         /* vector registers whose values are newer than arch.ymm */
	struct recipe recipe;
	u16 first;             /* of a group: the instruction's own access, from the group's first byte */
	union {
		u32 helper; /* two struct insn: a copy, and what returns to us */
		/* SITE_READ, SITE_WRITE, SITE_JUMP. split: of a group in a region or twin: the same instruction without groups; 0: in the interpreter. Of one access in a region: behind it. The rest, but for at and limit, of a guess: */
		struct {
			u32 split;
			u32 at;      /* its place, in host code: the first displacement that has it; not a guess: behind the probe */
			u64 limit;   /* 4096 - size */
			u16 place;   /* the guess: number in the bank */
			i16 left;    /* so many wrong guesses until C is asked for a better one */
			u16 since;   /* icount / 256 when C was asked last */
			u8 asks;
			u8 store;    /* of any: MOV to memory, and so many bytes behind the probe it is done; C may do it instead */
		} probe;
		/* off: target, from the page. at 0: never linked. to: 0 or where it leads, as block; next: in its list */
		struct { i32 off; u32 at, stub, to, next, own; } link; /* own: the code's next link */
	};
} __attribute__((packed, aligned(4)));

struct code {
	struct code *next;      /* all */
	struct block *block;
	u8 *far, *near;   /* entries: S0 = rip; and from the same page */
	u32 in;                 /* links that jump here: offset of the first */
	u32 own;                /* our own links: offset of the first */
	unsigned nblocks;       /* of a region, or joined to a block */
	struct block **blocks;
	struct code *next_many; /* in its list of struct jit */
	bool loop;              /* a region */
};

/* ---- ways to another privilege level: syscall.c ---- */
enum way { WAY_SYSCALL, WAY_SYSRET, WAY_IRET, WAY_VIRT, WAY_STRING, WAYS };

/* hot->lazy_op: bits 7:4 recipe_op, 1:0 log2 of the size, and where the second operand is, if not in lazy_b. Only this byte is always written. 0: arch.cc is valid. */
#define LAZY_SAME 4u      /* it is the first */
#define LAZY_IMM 8u       /* bits 31:16, sign-extended */
static inline u32 lazy_form(unsigned op, unsigned size) { return op << 4 | (u32)__builtin_ctz(size); }

/* ---- what host code touches, at the start of the arena ---- */
struct hot {
	u64 left;
	u64 base;               /* as struct jit's */
	struct tlb_bank *bank;
	u64 page;               /* linear address of the page that runs */
	u32 lazy_op;            /* lazy_form(), LAZY_* */
	u32 vec_ok;             /* VEC_OK_*: what may run */
	u64 lazy_a, lazy_b;
	u64 s0, s1, host;       /* S0, S1, HOST as a site left them */
	u64 keep[3];            /* a region's registers for groups, while C runs */
	u64 limit[3];           /* of those that stay from round to round: where they leave their page */
	u64 rsp, rsp_base, rsp_limit; /* of the host: as a site left it; no return addresses; and when there are too many */
	u64 rsp_top;            /* below all stretches, see returns.c */
	u8 *ret_empty;          /* what lies at rsp_base */
	const struct site *ret; /* of the last RET */
	u64 tmp, tmp2;
	u64 ticks;              /* what WAY_STRING has to count */
	u64 search_rax, place;  /* the place where a probe looked that is no guess */
	const struct site *site;
	void *on_site;
	void *way[WAYS];        /* C that a thunk of j->way calls */
	u32 mxcsr_used;
	u64 borders;            /* reads that went on in the next page */
	u8 both[2 * 64] __attribute__((aligned(64))); /* what was read at a page's border */
	u8 vec[16 * 32] __attribute__((aligned(32)));
};

#define NO_NEXT 0xffff /* block.next_off */
#define RETURNS_DEPTH 6
/* A loop that is hot: the blocks of one round, as the interpreter ran them. */
#define REGION_BLOCKS 12
struct path { struct block *head, *block[REGION_BLOCKS]; unsigned n; bool on; u64 page; };

/* What happens most, found without counting everything: a place per hashed key, whose count goes down when another key comes by, and which that one
 * gets at 0. A count is what is left after that: at most how often it happened, and close to it for what happens all the time. */
#define OFTEN_PLACES 128
struct often { struct { u64 what, beside; u32 n; } place[OFTEN_PLACES]; };
static inline void jit_often(struct often *o, u64 what, u64 beside)
{
	unsigned k = (unsigned)((what ^ beside << 1) * 0x9e3779b97f4a7c15ull >> 57);
	if (o->place[k].what == what && o->place[k].beside == beside && o->place[k].n) {
		o->place[k].n++;
	} else if (!o->place[k].n || !--o->place[k].n) {
		o->place[k].what = what;
		o->place[k].beside = beside;
		o->place[k].n = 1;
	}
}

#define MANY_LISTS 256
struct jit_stats { u64 windows, joined, stores, strings, asks, scattered, regions, region_insns, samples, blocks, insns, helpers_built, bytes, flushes, entries, stays, cold, misses, slow, splits, faults, jumps, jump_fills, helper_calls, links, killed, ns; };

struct jit {
	struct interp in;       /* first: it is cpu->engine */
	struct hot *hot;
	u8 *arena, *arena_end;
	u8 *first, *next;       /* code: first byte after the thunks, free space up to */
	u8 *sites;              /* sites, downwards from the end */
	u8 *enter, *out, *out_vec, *gone, *go_on; /* thunks: into host code; from a site to C */
	u8 *way[WAYS];          /* thunks: a call either ends in the other side's host code, or comes back with nothing done; use S0, S1, HOST */
	u8 *load_flags;         /* a call of it brings the flags from memory into the host's; uses S1 */
	u8 *search[2][2][2];    /* thunks [guess][writes][address in HOST]: what a probe looks for may be elsewhere; S1: its site */
	u8 *far[2];             /* thunks [call]: a far jump's target may be elsewhere in the jump table; S0: rip, S1: its site */
	u8 *aside;              /* thunk: an indirect jump's may be there; S0: rip, S1 */
	u8 *zero_uppers;        /* thunk: VZEROUPPER, when no vector register is loaded; keeps flags */
	u8 *ret_miss;           /* a return to another place than the host's stack says; S0: rip, S1: the RET's site */
	u32 jump_gen;           /* c->tlb->jump_gen when the host's stack was empty */
	struct { u64 space, rsp, base; } stretch[RETURNS_DEPTH]; /* returns.c */
	unsigned stretches;
	struct code *all;
	struct code *many[MANY_LISTS]; /* made of several blocks, by frame */
	struct path path;       /* being recorded */
	struct block *last;     /* the cold block that was entered last, if no host code ran since */
	u64 base;               /* icount = base - left */
	/* What a site decided when it left host code: */
	const struct insn *resume; /* the interpreter goes on here; else */
	enum step step;         /* STEP_END: at arch.rip */
	bool inside;            /* a handler runs that host code called: it must not enter host code itself */
	bool avx, bmi2, fsgsbase;
	bool lockstep;
	u64 kills;              /* counts blocks that died and had host code, or a part in that of others */
	u8 *rewritten;          /* per frame: how often its host code died, up to 255 */
	struct { u64 since; unsigned n; bool often; } asks; /* of C for better guesses: the last 64 */
	struct jit_stats stats;
	struct often split_at, left_often, jump_beside, miss_beside; /* instruction; the same; address, and the one that has its place; the same for pages */
	u32 prof_helper[ZYDIS_MNEMONIC_MAX_VALUE + 1], prof_left[ZYDIS_MNEMONIC_MAX_VALUE + 1]; /* per mnemonic: how often host code called its handler, left at it */
};
static must_inline struct jit *jit_of(const struct cpu *c) { return c->engine; }
static inline struct block *jit_block(const struct jit *j, const struct site *s) { return (struct block *)(j->in.arena + s->block); }
static inline u8 *jit_host(const struct jit *j, u32 off) { return j->arena + off; }
static inline u32 jit_off(const struct jit *j, const void *p) { return (u32)((const u8 *)p - j->arena); }

/* ---- translate.c ---- */
/* Code of this mode may have host code: 64-bit, and 32-bit with flat segments. */
static inline bool jit_mode(u32 mode) { return (mode & (MODE_L | MODE_FLAT)) && !(mode & MODE_ONE); }
/* Mode of a block. */
static inline enum isa_mode jit_isa(const struct block *b) { return b->key & MODE_L ? ISA_64 : ISA_32; }
/* Host code for the block, or false: it stays with the interpreter. */
bool jit_translate(struct cpu *c, struct block *b);

/* ---- region.c ---- */
/* Host code for the loop of j->path, in place of its first block's; or false. */
bool jit_translate_region(struct cpu *c);
/* The interpreter is about to run b, whose address is rip, and j->path.on: notes it. When the round is complete, or will never be, j->path.on is off. */
void jit_record(struct cpu *c, struct block *b, u64 rip);

/* ---- cache.c ---- */
int jit_cache_create(struct cpu *c);
void jit_cache_destroy(struct cpu *c);
u64 jit_blocks_bytes(const struct cpu *c); /* for the interpreter's blocks */
void jit_cache_flush(struct cpu *c);
/* The block's host code goes; the block stays. */
void jit_drop(struct cpu *c, struct block *b);
/* k takes the place of the block's host code. */
void jit_replace(struct cpu *c, struct block *b, struct code *k);
void jit_link(struct cpu *c, struct site *s, struct block *to);
/* k is made of more blocks than its own: it goes when one of them dies. */
void jit_know_blocks(struct jit *j, struct code *k);
/* Host code that contains b goes, b's own aside. splits: whose it is shall have a twin. */
void jit_drop_containing(struct cpu *c, const struct block *b, bool splits);
extern const struct interp_hooks jit_hooks;

/* ---- memory.c ---- */
#define GUESS_NEXT 22 /* from a guess's first displacement in host code to its second */
#define SEARCH_BACK 5 /* length of the jump behind the thunk's call in a probe's stub */
#define GUESSES 16    /* wrong ones until C is asked */
/* Where host code goes on when the probe has found the page. */
u8 *jit_behind_probe(const struct jit *j, const struct site *s);
/* From now on the site looks at this place, a byte offset in the bank, first. */
void jit_guess(struct jit *j, struct site *s, u32 place);

/* ---- flow.c ---- */
#define JUMP_NEXT 14  /* the same in a far jump */
#define JUMP_ASKS 8   /* that wander are left to the thunk after so many times */
void jit_guess_jump(struct jit *j, struct site *s, unsigned place);
/* Host code may run an STI of a guest's in front of this instruction, and leaves the shadow to us if the instruction does not come to its end. */
bool jit_sti_shadow(const struct insn *i);

/* ---- thunks.c ---- */
void jit_make_thunks(struct cpu *c);

/* ---- syscall.c ---- */
void jit_set_ways(struct hot *h);

/* ---- string.c ---- */
u8 *jit_on_string(struct cpu *c, struct site *s); /* of WAY_STRING */

/* ---- lockstep.c ---- */
insn_fn lockstep_enter;
void lockstep_log(struct cpu *c, const struct site *s);

/* ---- returns.c ---- */
/* Host code is entered anew, with an empty stack. */
void jit_returns_begin(struct cpu *c);
/* Before host code goes on: other return addresses if the address space or the privilege changed, none if a translation went. */
void jit_returns_switch(struct cpu *c);

/* ---- stats.c: engine_ops.print_stats ---- */
void jit_print_stats(const struct cpu *c, void *file);

/* ---- engine.c ---- */
insn_fn jit_h_enter, jit_h_count, jit_h_return;
/* Runs the block's host code from its first instruction, already counted, until it leaves: see struct jit. */
void jit_run_code(struct cpu *c, struct block *b, u64 rip);
/* Called by thunks. 0: leave; else the host address to go on at. */
u8 *jit_on_site(struct cpu *c, struct site *s);

/* C needs guest flags (arch.cc) at a site; hot->vec_ok as it has to be now. */
void jit_settle_flags(struct cpu *c, const struct site *s);
u32 jit_vec_ok(struct cpu *c);

/* Bits of hot->vec_ok. */
#define VEC_OK_SSE 1u
#define VEC_OK_AVX 2u
#define VEC_OK_X87 8u
#define VEC_OK_FP 4u /* the host's MXCSR is the guest's, all exceptions masked */
/* vec.c: changed vector registers, as the thunk left them in hot->vec, to arch.ymm. */
void jit_vec_write_back(struct cpu *c, const struct site *s);
#define STEP_GO ((enum step)3) /* jit_h_return's */

#endif
