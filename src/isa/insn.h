/* One decoded guest instruction, as engines cache it and vmx/svm explain it. Filled by isa/decode.c from Zydis. */
#ifndef NB_INSN_H
#define NB_INSN_H

#include "base/base.h"

struct cpu;
struct insn;

/* What a handler says to the block loop. */
enum step {
	STEP_END = 0, /* block left normally; cpu->rip is the next instruction */
	STEP_FAULT,   /* cpu->fault is set, cpu->rip is the faulting instruction, nothing of it has happened */
	STEP_STOP,    /* as STEP_END, but leave the block loop: mode, interrupt or run state may have changed */
};

typedef enum step insn_fn(struct cpu *c, const struct insn *i);

/* Register numbers of an address: 0-15 the GPRs, and two more words of cpu->gpr. */
enum { GPR_RAX, GPR_RCX, GPR_RDX, GPR_RBX, GPR_RSP, GPR_RBP, GPR_RSI, GPR_RDI, GPR_R8, GPR_R9, GPR_R10, GPR_R11, GPR_R12, GPR_R13,
       GPR_R14, GPR_R15, GPR_ZERO = 16, GPR_BLOCK_RIP = 17, GPR_COUNT = 18 };

enum seg_reg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_COUNT };

#define INSN_LOCK  BIT(0)
#define INSN_REP   BIT(1) /* F3 on a string instruction: REP or REPE */
#define INSN_REPNE BIT(2)
#define INSN_MEM   BIT(3) /* has an explicit memory operand (base/index/scale/disp/seg) */
#define INSN_RIPREL BIT(4)
#define INSN_SEGOVR BIT(5) /* seg came from an override prefix */
#define INSN_M0    BIT(6) /* the first operand is the memory operand */
#define INSN_IMM   BIT(7) /* imm holds an immediate operand */

struct insn {
	insn_fn *fn;
	u64 imm;       /* first immediate, sign-extended to 64 bits; relative branches: displacement from the next instruction */
	i32 disp;      /* address displacement; with base GPR_BLOCK_RIP the offset of the next instruction is folded in */
	u8 base, index, scale /* shift 0-3 */, seg /* enum seg_reg */;
	u8 dst, src, src2; /* register numbers (GPR, XMM, CR, DR, segment); 8-bit GPRs: byte offset into cpu->gpr */
	u8 opsize;     /* bytes: 1, 2, 4, 8, 16, 32 */
	u8 asize;      /* address size in bytes: 2, 4, 8 */
	u8 len;        /* instruction length in bytes, 1-15 */
	u8 flags;      /* INSN_* */
	u8 aux8;       /* handler's own */
	u16 op;        /* ZydisMnemonic */
	u16 off;       /* byte offset from the start of its block */
	u32 imm2;      /* second immediate (ENTER, far pointers' selector, INSERTQ...) */
	void *aux;     /* handler's own (native stub...) */
};

#endif
