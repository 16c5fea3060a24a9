/* The vector unit: x87, MMX, SSE, AVX, and the instructions that save and load their state.
 *
 * Each guest instruction becomes a few bytes of host code (a stub) that loads only the registers involved, executes the
 * very same instruction and stores the results, so the host's silicon computes every bit. Not here: integer
 * instructions of the SSE era (MOVNTI, CRC32, POPCNT, fences, prefetches). Surprise: the guest's x87 and MMX registers
 * live in the host's while the vCPU runs; nothing else in a vCPU thread may use x87. */
#ifndef NB_VEC_H
#define NB_VEC_H

#include "cpu/cpu.h"
#include <Zydis/Zydis.h>

/* insn.imm2 of SSE and AVX instructions that another engine may execute by re-encoding them, and what it must know: aux8 is then the alignment mask,
 * opsize the bytes of a memory operand, src2 & VEC_F_FP whether MXCSR matters, src2 & VEC_F_STORE whether memory is written. */
#define VEC_PLAIN 0x56000000u
#define VEC_PLAIN_MASK 0xff000000u
#define VEC_PLAIN_AVX 1u
#define VEC_PLAIN_FLAGS 2u /* sets all six arithmetic flags */
#define VEC_PLAIN_GPR 4u   /* writes a general register: dst */

/* The same for x87 instructions; the low 16 bits are FOP, which says the opcode and, for registers, the ModRM byte. */
#define X87_PLAIN 0x58000000u
#define X87_PLAIN_FLAGS 0x10000u /* sets all six arithmetic flags */
#define X87_FIP_AT 8             /* offset of FIP in arch.x87: the address of the last such instruction */

/* A handler for the instruction, or NULL: not the vector unit's, or its feature is not shown (#UD). `ops` holds all
 * zi->operand_count operands. `out` already has base, index, scale, seg, disp, asize, len and off. Never fails
 * otherwise; makes the unit on first use. */
insn_fn *vec_decode(struct cpu *c, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops, struct insn *out);

/* 0 or -errno. Optional: vec_decode calls it. */
int vec_create(struct cpu *c);
/* For engines that run guest floating point themselves: the host's MXCSR becomes the guest's. False: not now, the guest has unmasked exceptions. */
bool vec_fp_open(struct cpu *c);
/* VEX.W for host code that does what zi does: the size of a general register, or of what would be one, is ignored outside 64-bit mode. map: 1 0F, 2 0F38, 3 0F3A. */
bool vec_vex_w(const ZydisDecodedInstruction *zi, unsigned map);
/* The guest's x87 registers are the host's and all exceptions are masked. */
bool vec_x87_open(const struct cpu *c);
/* For engines that run a stretch twice: arch.x87 becomes what the host has; the host gets what arch.x87 says. Nothing if the registers are not the host's. */
void vec_x87_show(struct cpu *c);
void vec_x87_put_back(struct cpu *c);
/* After some of it has run: the flags that it raised. */
void vec_fp_close(struct cpu *c);
/* From the vCPU's own thread, or after that has ended. */
void vec_destroy(struct cpu *c);
/* Forget every stub: the engine has dropped, or is about to drop, all its decoded instructions. */
void vec_reset(struct cpu *c);
/* Own thread: makes arch.x87 valid and gives x87 and MXCSR back to the host. Before arch state is read or written from
 * outside, and before the vCPU moves to another thread. */
void vec_sync(struct cpu *c);

#endif
