/* Shared by the files of the vector unit only: stubs, memory operands, enable checks. */
#ifndef NB_VEC_PRIV_H
#define NB_VEC_PRIV_H

#include "interp/vec.h"
#include "interp/interp.h"

/* A stub: c in rdi, host address of the memory operand in rsi. Clobbers rax, rcx, rdx, flags and vector registers. */
typedef void vec_stub(struct cpu *c, void *mem);

struct vec_code;  /* one stub in the arena's hash table */
struct vec_chunk; /* one mapping of the arena */

#define VEC_HASH 4096
#define VEC_BOUNCE 1024

struct vec {
	u8 bounce[VEC_BOUNCE] __attribute__((aligned(64))); /* memory operands that are not plain RAM in one page */
	u32 host_mxcsr;      /* what the thread's MXCSR holds; only ever a value with all exceptions masked, or VEC_NO_MXCSR */
	bool x87_unmasked;   /* FCW does not mask everything: look at FSW.ES around x87 and MMX instructions */
	bool sigfpe_open;    /* SIGFPE is known to be unblocked in this thread */
	struct vec_chunk *chunks;
	unsigned nchunks;
	struct vec_code *hash[VEC_HASH];
};
#define VEC_NO_MXCSR (~0u)
#define MXCSR_INIT 0x1f80u
#define MXCSR_MASKS 0x1f80u
#define MXCSR_VALID 0xffffu

static inline struct vec *vec_of(const struct cpu *c) { return c->vec; }

/* What an instruction needs enabled. */
enum vec_kind { VEC_SSE, VEC_AVX, VEC_MMX, VEC_MMX_SSE /* both files */ };
enum vec_mem { VEC_REG, VEC_LOAD, VEC_STORE };

/* insn.aux8 of an instruction with a stub: the memory operand's address must have these bits clear, else #GP(0).
 * insn.opsize: bytes of the memory operand. insn.src2: */
#define VEC_F_FP 1u    /* reads MXCSR and may raise SIMD exceptions */
#define VEC_F_STORE 2u /* the memory operand is written */
#define VEC_F_ANY 4u   /* alignment checks (#AC) do not concern it */

/* ---- stubs: vec_stub.c, vec_arena.c, vec_guard.c ---- */
/* An executable copy of the bytes, perhaps an old one. NULL: no memory. */
vec_stub *vec_code_share(struct cpu *c, const u8 *bytes, unsigned len);
/* Host code for the instruction; identical code is shared. NULL when memory for code is exhausted. */
vec_stub *vec_stub_make(struct cpu *c, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops, bool fp);
/* Stores two MMX registers at rsi. */
vec_stub *vec_stub_two_mmx(struct cpu *c, unsigned a, unsigned b);
void vec_stub_free(struct vec *v, bool all);
/* Runs a stub with the guest's MXCSR, some exceptions unmasked. True: done. False: a SIMD exception is pending and
 * arch.mxcsr has its flags. */
bool vec_stub_guarded(struct cpu *c, vec_stub *code, void *mem);
int vec_guard_init(void);

/* ---- enable checks ---- */
static must_inline bool vec_enabled(const struct cpu *c, enum vec_kind kind)
{
	if (kind == VEC_AVX)
		return !(c->arch.cr0 & CR0_TS) && (c->arch.cr4 & CR4_OSXSAVE) && (c->arch.xcr0 & 6) == 6;
	if (kind == VEC_MMX)
		return !(c->arch.cr0 & (CR0_EM | CR0_TS));
	return !(c->arch.cr0 & (CR0_EM | CR0_TS)) && (c->arch.cr4 & CR4_OSFXSR);
}
/* The fault of an instruction that vec_enabled() refuses. */
enum step vec_refuse(struct cpu *c, const struct insn *i, enum vec_kind kind);

/* ---- memory operands ---- */
/* Host address of the operand when it is plain RAM in one page, aligned as it must be, and may be accessed so; else NULL:
 * take the slow way. x: 64-bit mode with 64-bit addresses, where there are no limits. */
static must_inline void *vec_direct(const struct cpu *c, const struct insn *i, unsigned size, bool write, bool x)
{
	u64 ea = x ? ea_plain(c, i) : ea_masked(c, i), la = c->seg_base[i->seg] + ea;

	if (!x) {
		if (unlikely(ea + size - 1 >= (write ? c->bound_w[i->seg] : c->bound_r[i->seg])))
			return NULL;
		la = c->mode & MODE_L ? la : (u32)la;
	}
	const struct tlb_entry *e = mmu_hit(c, la, write ? TLB_W(c->acc_class) : TLB_R(c->acc_class));

	if (unlikely(!e || (la & 0xfff) > 0x1000 - size || (la & i->aux8)))
		return NULL;
	return (void *)(la + e->addend);
}

/* Effective address of a later piece of an operand: it does not wrap at 64 KiB, only where offsets end. */
static inline u64 vec_piece(const struct cpu *c, u64 ea) { return c->mode & MODE_L ? ea : (u32)ea; }

/* Checked copies through the instruction's operand (plus `plus`); false: fault. vec_mem.c */
bool vec_la(struct cpu *c, const struct insn *i, u64 plus, unsigned size, bool write, u64 *la);
bool vec_read(struct cpu *c, const struct insn *i, u64 plus, void *to, unsigned size);
bool vec_write(struct cpu *c, const struct insn *i, u64 plus, const void *from, unsigned size);
bool vec_probe_write(struct cpu *c, const struct insn *i, u64 plus, unsigned size);
/* The whole of an instruction with a stub whose operand is not directly accessible. */
enum step vec_slow(struct cpu *c, const struct insn *i);
/* Runs the stub with the guest's MXCSR if it needs that. */
enum step vec_run(struct cpu *c, const struct insn *i, void *p);

static inline u8 *vec_reg(struct cpu *c, unsigned r) { return c->arch.ymm + 32 * r; }

/* ---- decoders of the parts ---- */
typedef insn_fn *vec_decoder(struct cpu *c, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops, struct insn *out);
vec_decoder vec_decode_misc, vec_decode_masked, x87_decode, xsave_decode;

/* A quicker handler for a plain move whose stub is made, or NULL. insn.dst and insn.src are the first two operands'
 * registers. */
insn_fn *vec_decode_move(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops, bool x);

/* ---- x87: x87.c ---- */
void x87_load(struct cpu *c);  /* arch.x87 -> host, resident */
void x87_store(struct cpu *c); /* host -> arch.x87, stays resident; nothing to do when it is not */
void x87_forget(struct cpu *c);
/* FSW.ES is set before a waiting instruction: #MF, or what CR0.NE=0 makes of it. STEP_END: go on. */
enum step x87_pending(struct cpu *c, const struct insn *i);
static inline u16 x87_host_fsw(void)
{
	u16 w;
	__asm__ volatile("fnstsw %0" : "=a"(w));
	return w;
}
/* Makes the x87 state resident and asks for pending exceptions. STEP_END: go on. */
static must_inline enum step x87_ready(struct cpu *c, const struct insn *i)
{
	if (unlikely(!c->x87_resident))
		x87_load(c);
	if (unlikely(vec_of(c)->x87_unmasked) && (x87_host_fsw() & 0x80))
		return x87_pending(c, i);
	return STEP_END;
}

#endif
