/* The silicon oracle: random unprivileged instructions run on the host's CPU and on a bare vCPU, and everything that
 * software can see afterwards is compared. One case = one instruction with registers, flags, FPU state and memory. */
#ifndef NB_TEST_ORACLE_H
#define NB_TEST_ORACLE_H

#include "base/base.h"
#include <Zydis/Zydis.h>

/* Linear addresses, the same on the host and in the guest, below 4 GiB so that 32-bit addressing reaches them. */
#define O_BASE 0x20000000ull
#define O_DATA (O_BASE + 0x1000) /* two pages read-write; nothing before and after */
#define O_DATA_SIZE 0x2000u
#define O_RO (O_BASE + 0x4000)   /* a read-only page */
#define O_CODE (O_BASE + 0x40000) /* farther from the data than a 16-bit segment reaches */
#define O_TRAMPOLINE (O_BASE + 0x50000) /* host only: from compatibility mode back to 64-bit mode */
#define O_PAD_B (O_CODE + 0xf00) /* where taken branches land */
#define O_GS_BASE (O_BASE + 0x340)

#define VECTOR_NONE 255u

/* XSAVE area in standard form, x87 + SSE + AVX. */
struct oxsave {
	u8 fx[512];
	u8 header[64];
	u8 ymmh[256];
} __attribute__((aligned(64)));

struct ostate {
	u64 gpr[16], rip, rflags;
	struct oxsave fp;
	u32 vector, error; /* VECTOR_NONE: the instruction completed */
	u64 cr2;
	u8 pad_b;          /* it completed at O_PAD_B */
};

enum oclass { O_INT, O_BRANCH, O_STRING, O_BMI, O_X87, O_MMX, O_SSE, O_AVX, O_AVX2, O_FMA, O_CRYPTO, O_XSAVE, O_UNDEFINED, O_CLASSES };
extern const char *const oclass_names[O_CLASSES];

/* 64-bit mode; compatibility mode with flat 32-bit segments, or with 16-bit segments of the LDT. */
enum omode { O_64, O_32, O_16, O_MODES };

/* The LDT. The code segment starts at O_CODE, the others at O_DATA; attr as in cpu.h. */
enum oseg { O_SEG_CODE, O_SEG_DATA, O_SEG_READONLY, O_SEG_DOWN, O_SEG_SMALL, O_SEGS };
#define O_SELECTOR(n) ((u16)((n) << 3 | 7))
struct osegment { u64 base; u32 limit, attr; };
extern const struct osegment osegments[O_SEGS];

struct ocase {
	u64 seed;
	enum omode mode;
	u8 ds, es, ss; /* O_16: enum oseg */
	enum oclass cls;
	u8 code[16];
	const u8 *block; /* instead of code, for guests only */
	unsigned len;
	u64 at; /* address of the first byte */
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	struct ostate in;
	u8 mem[O_DATA_SIZE];
};

/* ---- random numbers: rng.c ---- */
u64 rnd(void);
void rnd_seed(u64 seed);
static inline u64 rnd_below(u64 n) { return (u64)((u128)rnd() * n >> 64); }
static inline bool rnd_chance(unsigned percent) { return rnd_below(100) < percent; }
u64 rnd_edge(void);                   /* an integer, likely near an edge */
void rnd_vector(u8 *to, unsigned n);  /* n bytes (multiple of 8) of integers or floats, many special */
void rnd_f80(u8 to[10]);

/* ---- cases: gen.c, operands.c ---- */
struct filter {
	u32 only, modes; /* bit per oclass, per omode */
	bool (*shown)(ZydisISASet set);
	const char *mnemonic; /* NULL: all */
};
/* Builds the tables of instruction templates. */
void gen_init(const struct filter *f);
unsigned gen_templates(enum omode mode, enum oclass cls);
bool gen_decode(enum omode mode, const u8 *b, ZydisDecodedInstruction *zi, ZydisDecodedOperand *op);
/* Fills *k from k->seed. */
void gen_case(struct ocase *k);
void gen_state(struct ocase *k); /* registers, FPU and memory for the decoded instruction */

/* ---- the two CPUs ---- */
int native_init(void);
void native_run(const struct ocase *k, struct ostate *out, u8 mem[O_DATA_SIZE]);
/* Guest 0 (default) or 1; each has a memory and an engine of its own. */
void guest_select(unsigned n);
/* Before guest_init: interp (default) or jit. */
bool guest_engine(const char *name);
int guest_init(void);
bool guest_shows(ZydisISASet set);
/* False: the vCPU did something that is not an instruction's outcome; why is printed. */
bool guest_run(const struct ocase *k, struct ostate *out, u8 mem[O_DATA_SIZE]);
/* What earlier cases left in the page of code goes: a case may run into it, and two guests that have not run the same cases have not the same there. */
void guest_forget_code(void);
extern bool guest_endless; /* it returned false because the case did not end */
extern u64 guest_insns; /* how many instructions the last guest_run counted, its handler's HLT included */

/* ---- compare.c ---- */
/* Linear address of an explicit memory operand. */
bool oracle_address(const struct ocase *k, const ZydisDecodedOperand *o, u64 *at);
/* The operand lies near the code, whose page differs between the two. */
bool touches_code(const struct ocase *k);
/* A branch that may go anywhere in a 16-bit segment, which is full of code. */
bool is_wild(const struct ocase *k);
bool same_outcome(const struct ocase *k, struct ostate *n, struct ostate *g, u8 *nmem, u8 *gmem);
void print_case(const struct ocase *k, const struct ostate *n, const struct ostate *g, const u8 *nmem, const u8 *gmem);

#endif
