/* One translation under way, and the pieces that emitters are made of. Private to jit/. */
#ifndef NB_JIT_TR_H
#define NB_JIT_TR_H

#include "jit/jit.h"

/* Flags, in the order of liveness masks. */
#define F_CF 1u
#define F_PF 2u
#define F_AF 4u
#define F_ZF 8u
#define F_SF 16u
#define F_OF 32u
#define F_ALL 63u

/* Guest registers that an instruction writes, besides what its operands say. */
#define W_DST 1u
#define W_SRC 2u
#define W_RAX 4u
#define W_RCX 8u
#define W_RDX 16u
#define W_RSP 32u
#define W_RBP 64u

/* row.how */
#define H_KEEPS 1u /* host flags survive the emitted code when there is no memory operand */
#define H_STACK 2u /* touches the stack: may fault without a memory operand */
#define H_ENDS 4u  /* leaves the block */
#define H_LEAVES 8u /* the same, but is no branch */

struct tr;
struct plan;
struct access;
struct group;
typedef bool emit_fn(struct tr *t, const struct insn *i);
struct row {
	emit_fn *emit;
	u8 arg, reads, kills, writes, how;
};
extern const struct row jit_rows[ZYDIS_MNEMONIC_MAX_VALUE + 1];

/* A CMP or TEST of memory whose branch follows: one operand is in S1, and what flags.c wants to know of it has yet to be stored. */
struct kept {
	u8 op, size;     /* of its recipe; 0: none */
	bool imm, second; /* S1 is the second operand */
	u8 other;        /* host register of the other one, or v */
	i32 v;
};

/* Where flags and vector registers are. */
#define PLACE \
	struct kept kept; /* flags: beside the host's */ \
	bool mem;        /* flags: arch.cc, or lazy in struct hot */ \
	u8 host;         /* flags that are in the host's */ \
	struct recipe rc; /* how to compute them */ \
	u16 vec_loaded, vec_dirty; \
	u8 vec_checked;  /* VEC_OK_* known to be set */ \
	u8 sys_checked;  /* SYS_*, see sys.c */ \
	bool vec_wide;
struct place { PLACE };

#define MAX_HOSTS 3
#define MAX_STUBS 1024
/* at: displacement of the jump that leads here. The rest is for regions. */
struct stub {
	u8 *at;
	struct site *site;
	struct place now;
	u16 counted, insn;
	u8 copy, part, in_host[MAX_HOSTS];
};
struct region;
/* Blocks translated together with one that leads to them: join.c. */
#define JOIN_BLOCKS 8
#define JOIN_INSNS 56 /* in all, with the block's own */
#define JOIN_DEPTH 5
struct joins {
	bool on;
	struct block *block[JOIN_BLOCKS]; /* each place where one is: the same may be here twice */
	u8 first[JOIN_BLOCKS];            /* number of its first instruction */
	u8 n, insns, depth;
	struct block *path[JOIN_DEPTH + 1]; /* that led here, the block itself first */
};
/* A block's translation without groups, for where a group splits: twin.c. */
struct twin {
	u8 *at[JOIN_INSNS + BLOCK_MAX_INSNS + 2]; /* host code of each instruction with a stub, and where things are there */
	struct place place[JOIN_INSNS + BLOCK_MAX_INSNS + 2];
	bool slow;              /* being made; else it is complete */
	bool odd;               /* the two disagree */
};

/* What is known at a place, to know it again on the other side of a branch. */
struct fork {
	struct place now;
	u16 version[18], epoch;
	i64 moved[18];
	u8 in_host[MAX_HOSTS], aligned[MAX_HOSTS];
	i32 aligned_at[MAX_HOSTS];
};
/* What follows a branch at the side that is not joined. */
struct edge {
	u8 *at;
	i64 off;
	u8 cond;                /* which holds there */
	struct block *b;
	unsigned k, first;
	u8 *start;
	struct fork f;
};
#define MAX_EDGES (JOIN_BLOCKS + 1)

struct tr {
	struct as a;
	struct cpu *c;
	struct jit *j;
	struct hot *hot;
	struct block *b;
	struct code *code;
	u8 width;               /* bytes of an address and of a stack slot: 8, or 4 in flat 32-bit code */
	unsigned k;             /* slot of the instruction */
	u8 *start;              /* its host code: where a miss tries again */
	const u8 *live;         /* flags needed after instruction k */
	struct region *region;  /* NULL: a block */
	struct twin *twin;      /* or NULL */
	struct joins join;
	unsigned first;         /* number of b's first instruction */
	union {
		struct place now;
		struct { PLACE }; /* the same */
	};
	bool fresh;             /* this instruction set the flags' place itself */
	bool ended;
	u16 uses[16];           /* of guest registers by name */
	u8 home[16];            /* host register of each guest register, or NO_HOME */
	struct rm m;            /* where tr_access() put its operand */
	struct site *probed;    /* its probe; NULL: a group's */
	u64 expected;           /* its address in the first run, or 0 */
	i32 rsp_late;           /* what PUSH and POP have yet to add to RSP's home: nothing can leave since the first of them */
	bool may_be_late;       /* this one is such a PUSH or POP */
	struct plan *plan;
	unsigned naccess;       /* accesses so far */
	u16 version[18], epoch, versions, epochs; /* the latter two: how many there were */
	i64 moved[18];          /* of base registers: constants added since version changed */
	u8 in_host[MAX_HOSTS];  /* group whose host address is in plan->host[n], or NO_GROUP */
	u8 aligned[MAX_HOSTS];  /* that address + aligned_at is a multiple of aligned + 1 */
	i32 aligned_at[MAX_HOSTS];
	unsigned nstubs, nedges;
	u8 *cold;               /* sites are allocated downwards */
	unsigned emitted, handlers;
	u8 *hot_end;            /* stubs follow */
	/* What is before can be put back, and is 0 when a translation starts. */
	struct stub stubs[MAX_STUBS];
	u8 live_[JOIN_INSNS + BLOCK_MAX_INSNS + 2];
	u8 *begin[JOIN_INSNS + BLOCK_MAX_INSNS + 2]; /* host code of each instruction, for traces */
	struct edge edge[MAX_EDGES];
};

/* ---- operands ---- */
static inline bool homed(struct tr *t, unsigned g)
{
	t->uses[g]++;
	return t->home[g] != NO_HOME;
}
static inline struct rm greg(struct tr *t, unsigned g) { return homed(t, g) ? rm_reg(t->home[g]) : rm_abs(&t->c->arch.gpr[g]); }
/* 8-bit operand at byte offset n of the register file. */
static inline unsigned byte_home(struct tr *t, unsigned n) { return (n & 1 ? HIGH : 0) | t->home[n >> 3]; }
static inline struct rm breg(struct tr *t, unsigned n) { return homed(t, n >> 3) ? rm_reg(byte_home(t, n)) : rm_abs((u8 *)t->c->arch.gpr + n); }
static inline struct rm oreg(struct tr *t, unsigned n, unsigned size) { return size == 1 ? breg(t, n) : greg(t, n); }
static inline bool ohomed(struct tr *t, unsigned n, unsigned size) { return homed(t, size == 1 ? n >> 3 : n); }
static inline unsigned ohome(struct tr *t, unsigned n, unsigned size) { return size == 1 ? byte_home(t, n) : t->home[n]; }
/* The operand in a host register: its home, or `scratch` after a load. */
static inline unsigned in_reg(struct tr *t, unsigned n, unsigned size, unsigned scratch)
{
	if (ohomed(t, n, size))
		return ohome(t, n, size);
	as_load(&t->a, size, scratch, oreg(t, n, size));
	return scratch;
}
/* ah and its like cannot be encoded beside anything that needs REX. */
static inline bool is_high(unsigned n, unsigned size) { return size == 1 && (n & 1); }
/* reg of the given size into guest register n; 32 bits zero the upper half. */
static inline void put_reg(struct tr *t, unsigned n, unsigned size, unsigned reg)
{
	as_store(&t->a, size == 4 && !homed(t, n) ? 8 : size, oreg(t, n, size), reg);
}

/* ---- translate.c ---- */
u8 tr_width(const struct block *b);
struct site *tr_site(struct tr *t, enum site_kind kind);
bool tr_emits(const struct insn *i); /* in host code, by a row or natively */
bool tr_is_special_mov(const struct insn *i); /* of a control, debug or segment register */
u32 tr_writes(const struct insn *i);
bool tr_suits_crossing(const struct cpu *c, const struct block *b); /* host code for a block with an instruction that goes on in the next page? */
/* A call of the instruction's handler, in two steps. Flags are in memory or a recipe, vector registers flushed. over: of a jump to behind it, or NULL. */
struct site *tr_handler_site(struct tr *t, const struct insn *i);
void tr_call_handler(struct tr *t, struct site *s, u8 *over);
/* live[k] = flags needed after instruction k of b, when `after` are after its last; returns those needed before it. */
unsigned tr_find_live(const struct block *b, unsigned after, u8 *live);
/* An empty translation of b, to go where code goes next. */
void tr_start(struct cpu *c, struct block *b, struct tr *t, struct plan *plan);
void tr_start_joined(struct cpu *c, struct block *b, struct tr *t, struct plan *plan); /* others may be joined to it */
void tr_entries(struct tr *t); /* far, and near up to where it counts */
void tr_one(struct tr *t, const struct insn *i, bool last);
void tr_settle_rsp(struct tr *t, const struct insn *next); /* RSP's home is right again, unless next may go on being late; NULL: nothing may */
void tr_body(struct tr *t);  /* a block's instructions and its end */
void tr_insns(struct tr *t); /* the same, going on from where flags and registers are */
void tr_block(struct tr *t); /* all of a block: entries, body, stubs */
void tr_commit(struct tr *t);
/* at: 32-bit displacement of a jump that shall lead to the site. */
void tr_stub(struct tr *t, u8 *at, struct site *s);
void tr_exit_if(struct tr *t, unsigned cond, enum site_kind kind);

/* ---- region.c ---- */
/* Notes what a stub needs to know. */
void region_stub(struct tr *t, struct stub *st);
/* The address of a group that is held, from that of the round before. */
void region_step(struct tr *t, const struct access *x, const struct group *g);
bool region_is_vex(const struct tr *t);
unsigned region_k(const struct tr *t); /* number of the instruction, over all copies */

/* ---- twin.c ---- */
/* The block with groups, and without for what splits; or false: the two do not fit together. */
bool twin_make(struct cpu *c, struct block *b, struct tr *t, struct plan *plan, struct twin *w);
void twin_stub(struct tr *t, struct stub *st); /* notes what a stub needs to know */
void twin_put(struct tr *t, const struct stub *st);         /* in a group's stub, before it calls C */

/* ---- join.c ---- */
/* Whether the block at page + off is translated here, instead of a jump to it; and that. call: after a CALL's push. */
struct block *join_at(struct tr *t, i64 off, bool call);
void join_block(struct tr *t, struct block *b);
void tr_edges(struct tr *t); /* behind the hot code */
void fork_keep(const struct tr *t, struct fork *f);
void fork_back(struct tr *t, const struct fork *f);
/* The blocks are noted with the code, for when one of them dies. */
void join_note(struct tr *t);

/* ---- trace.c ---- */
void tr_trace_region(const struct tr *t, const u8 *from);
void tr_trace(const struct tr *t);

/* ---- memory.c ---- */
/* base + (index << scale) + disp; GPR_ZERO: none. Base GPR_BLOCK_RIP: from the start of the page. */
struct address { u8 base, index, scale; i64 disp; };
bool tr_effective(struct tr *t, const struct insn *i, unsigned to);
/* t->m = host memory of the access, or leave. Changes S0, S1, HOST and the host's flags. */
void tr_access(struct tr *t, const struct address *at, unsigned size, bool write);
/* The same for the memory operand. False: an address form that is left to the handler. */
bool tr_operand(struct tr *t, const struct insn *i, unsigned size, bool write);
/* The instruction is MOV to memory, and its end is here: C may do it instead of what is behind the probe. */
void tr_stored(struct tr *t);
/* The next access is of a group whose host address is at hand: it cannot leave. */
bool tr_access_is_free(const struct tr *t);
/* For what does its own: S0 = linear address of the memory operand, changing flags only for FS and GS; S0: linear -> host address, or leave, changing S1 and flags. */
bool tr_address(struct tr *t, const struct insn *i);
void tr_probe(struct tr *t, unsigned size, bool write);
/* First in the stub of a probe: a thunk that looks elsewhere, and back. What follows is for when it did not find the page. */
void memory_stub(struct tr *t, const struct site *s);
u8 *memory_search_thunk(struct as *a, struct jit *j, bool guess, bool write, unsigned reg);
/* Lockstep: what is at t->m, in S0, is about to be overwritten. Changes S0, S1 and flags. */
void tr_log_store(struct tr *t, unsigned size);
/* The probe of a group that begins with x. */
void tr_establish(struct tr *t, const struct access *x, const struct group *g);
/* Leaves unless t->m is a multiple of mask + 1. */
void tr_aligned(struct tr *t, unsigned mask);

/* ---- group.c ---- */
#define MAX_ACCESSES 160
#define NO_GROUP 0xff
/* One access to memory, as a first look at the block found it. The address is off from what `base` and `index` were when they last changed by something
 * else than a constant; `epoch` changes when anything may have happened to translations. */
struct access {
	struct address at;
	u16 base_version, index_version, epoch;
	u16 k, size;
	bool write;
	u8 group;
};
struct group {
	i64 lo;
	u16 span, first_k, last_k;
	u8 host;
	bool write, held; /* held: a region's, and the register stays what it is from round to round, but for step */
	i32 step;
};
struct plan {
	struct access access[MAX_ACCESSES];
	struct group group[MAX_ACCESSES];
	unsigned n, groups;
	bool made;              /* second look */
	u8 host[MAX_HOSTS], hosts; /* registers for groups */
};
/* Finds groups among plan->access[0..n). */
void plan_make(struct plan *p);
/* What instruction i, emitted as host code, did to base registers. */
void plan_follow(struct tr *t, const struct insn *i, u32 writes);
/* A handler ran: nothing is known any more. */
void plan_forget(struct tr *t);

/* ---- flags.c ---- */
void tr_flags_save(struct tr *t);                  /* to memory; host flags survive. Uses S1 */
u32 tr_lazy_imm(struct tr *t, u32 form, i32 v);
void tr_lazy_op(struct tr *t, u32 form);
void tr_flags_host(struct tr *t, unsigned need);   /* into the host's flags. Uses S1 */
void tr_flags_set(struct tr *t, struct recipe rc); /* the host's flags are now the guest's */
void tr_flags_side(struct tr *t, unsigned cond);   /* this is where cond holds */
int tr_flags_know(const struct tr *t, unsigned cond); /* does it hold? 0, 1; -1: who knows */
void flags_make_thunk(struct as *a, struct jit *j, struct cpu *c); /* j->load_flags */
void tr_cf_to_cc(struct tr *t);                    /* arch.cc's CF is valid and stays so beside a recipe that keeps it */
/* What instruction i reads and fully replaces, in this form. */
void tr_flag_effect(const struct insn *i, unsigned *reads, unsigned *kills);
unsigned tr_cond_reads(unsigned cond);
/* Flags that the manual leaves undefined after i and that this host leaves as they were. */
unsigned tr_host_keeps(const struct insn *i);
unsigned tr_live(const struct tr *t);               /* needed after this instruction */
static inline struct recipe rc_none(void) { return (struct recipe){ .op = RC_NONE }; }

/* ---- flow.c ---- */
/* Offsets, from the page's start, of a direct branch's target and of what follows the branch. */
i64 tr_target(const struct block *b, const struct insn *i);
i64 tr_after(const struct block *b, const struct insn *i);
void tr_goto(struct tr *t, i64 off); /* end of the block: to page + off */
/* S0 = rip -> S1, for flow_jump_found(); flags change. Returns the place of a jump that wants to be aimed at what happens when the table does not know it. */
u8 *flow_lookup(struct as *a, const struct jit *j);
u8 *flow_lookup_both(struct as *a, const struct jit *j); /* the same, aside as well */
void flow_jump_found(struct as *a);
/* A jump for when the vCPU is wanted elsewhere (CC_LE), or is not (CC_G); returns its displacement. */
u8 *flow_poll(struct tr *t, unsigned cond);
bool jit_is_relative(const struct insn *i); /* of JMP */
/* First in the stub of a jump or call that found nothing, whose displacement is at `at`: a thunk that looks in the right place, and aside. What follows is for when the table
 * does not know the target. */
void flow_stub(struct tr *t, const struct site *s, const u8 *at);
u8 *flow_aside_thunk(struct as *a);
u8 *flow_far_thunk(struct as *a, struct jit *j, bool call);
emit_fn e_jcc, e_jmp, e_call, e_ret;

#endif
