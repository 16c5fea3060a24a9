/* Host code, byte by byte: one function per shape of instruction. Knows no guest.
 *
 *   [66] [F2/F3] [REX] opcode(1-3 bytes) ModRM [SIB] [disp] [imm]
 *
 * State is addressed RIP-relative: the code arena lies within 2 GiB of the vCPU (cache.c), so no register is spent on a base. */
#ifndef NB_JIT_ASM_H
#define NB_JIT_ASM_H

#include "base/base.h"

enum hreg { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
#define HIGH 16u  /* HIGH | n: ah, ch, dh, bh */
#define DIGIT 32u /* DIGIT | n: no register but the opcode's extension */

struct as { u8 *p, *end; };

enum rm_kind { RM_REG, RM_MEM, RM_SIB, RM_ABS, RM_INDEX };
struct rm {
	u8 kind, reg /* or base */, index, scale;
	i32 disp;
	const void *abs;
};

static inline struct rm rm_reg(unsigned r) { return (struct rm){ .kind = RM_REG, .reg = r }; }
static inline struct rm rm_mem(unsigned base, i32 disp) { return (struct rm){ .kind = RM_MEM, .reg = base, .disp = disp }; }
static inline struct rm rm_sib(unsigned base, unsigned index, unsigned scale, i32 disp)
{
	return (struct rm){ .kind = RM_SIB, .reg = base, .index = index, .scale = scale, .disp = disp };
}
/* index << scale, no base. */
static inline struct rm rm_index(unsigned index, unsigned scale, i32 disp)
{
	return (struct rm){ .kind = RM_INDEX, .index = index, .scale = scale, .disp = disp };
}
static inline struct rm rm_abs(const volatile void *p) { return (struct rm){ .kind = RM_ABS, .abs = (const void *)p }; }

static inline void as8(struct as *a, unsigned v) { *a->p++ = (u8)v; }
static inline void as32(struct as *a, u32 v) { memcpy(a->p, &v, 4); a->p += 4; }
static inline void as64(struct as *a, u64 v) { memcpy(a->p, &v, 8); a->p += 8; }
static inline bool fits8(i64 v) { return v == (i8)v; }
static inline bool fits32(i64 v) { return v == (i32)v; }

/* ModRM and what follows it, imm bytes to come. */
static inline void as_modrm(struct as *a, unsigned reg, struct rm m, unsigned imm)
{
	reg = (reg & 7) << 3;
	if (m.kind == RM_REG) {
		as8(a, 0xc0 | reg | (m.reg & 7));
	} else if (m.kind == RM_ABS) {
		as8(a, 0x05 | reg);
		as32(a, (u32)((const u8 *)m.abs - (a->p + 4 + imm)));
	} else if (m.kind == RM_INDEX) {
		as8(a, 0x04 | reg);
		as8(a, m.scale << 6 | (m.index & 7) << 3 | RBP);
		as32(a, (u32)m.disp);
	} else {
		bool sib = m.kind == RM_SIB || (m.reg & 7) == RSP;
		unsigned mod = m.disp == 0 && (m.reg & 7) != RBP ? 0 : fits8(m.disp) ? 0x40 : 0x80;
		as8(a, mod | reg | (sib ? 4 : m.reg & 7));
		if (sib)
			as8(a, (m.kind == RM_SIB ? m.scale << 6 | (m.index & 7) << 3 : 0x20) | (m.reg & 7));
		if (mod == 0x40)
			as8(a, (u8)m.disp);
		else if (mod == 0x80)
			as32(a, (u32)m.disp);
	}
}

static inline unsigned rm_rex(struct rm m)
{
	if (m.kind == RM_ABS)
		return 0;
	return (m.kind != RM_INDEX && (m.reg & 8) ? 1 : 0) | ((m.kind == RM_SIB || m.kind == RM_INDEX) && (m.index & 8) ? 2 : 0);
}

/* size 1, 2, 4, 8: operand size; the opcode is the one of that size already. opcode: up to 0fxxxx. prefix: F2, F3, F0 or 0. */
static inline void as_ins(struct as *a, unsigned prefix, unsigned size, u32 opcode, unsigned reg, struct rm m, unsigned imm)
{
	unsigned rex = (size == 8 ? 8 : 0) | (reg & 8 ? 4 : 0) | rm_rex(m);
	bool byte = size == 1 && ((!(reg & (HIGH | DIGIT)) && reg >= RSP && reg <= RDI) || (m.kind == RM_REG && !(m.reg & HIGH) && m.reg >= RSP && m.reg <= RDI));
	if (reg & HIGH)
		reg = (reg & 3) | 4;
	if (m.kind == RM_REG && (m.reg & HIGH))
		m.reg = (m.reg & 3) | 4;
	if (size == 2)
		as8(a, 0x66);
	if (prefix)
		as8(a, prefix);
	if (rex || byte)
		as8(a, 0x40 | rex);
	if (opcode > 0xffff)
		as8(a, opcode >> 16);
	if (opcode > 0xff)
		as8(a, opcode >> 8);
	as8(a, opcode);
	as_modrm(a, reg, m, imm);
}

/* The memory operand of the next instruction is in the GS segment. */
static inline void as_gs(struct as *a) { as8(a, 0x65); }

/* ---- moves ---- */
static inline void as_load(struct as *a, unsigned size, unsigned reg, struct rm m) { as_ins(a, 0, size, size == 1 ? 0x8a : 0x8b, reg, m, 0); }
static inline void as_store(struct as *a, unsigned size, struct rm m, unsigned reg) { as_ins(a, 0, size, size == 1 ? 0x88 : 0x89, reg, m, 0); }
static inline void as_mov(struct as *a, unsigned size, unsigned to, unsigned from) { as_load(a, size, to, rm_reg(from)); }
static inline void as_lea(struct as *a, unsigned size, unsigned reg, struct rm m) { as_ins(a, 0, size, 0x8d, reg, m, 0); }
static inline void as_imm(struct as *a, unsigned size, u64 v)
{
	if (size == 1)
		as8(a, (u8)v);
	else if (size == 2)
		as8(a, (u8)v), as8(a, (u8)(v >> 8));
	else
		as32(a, (u32)v);
}
static inline unsigned imm_len(unsigned size) { return size == 8 ? 4 : size; }
/* v sign-extends from 32 bits when size is 8. */
static inline void as_store_imm(struct as *a, unsigned size, struct rm m, u64 v)
{
	as_ins(a, 0, size, size == 1 ? 0xc6 : 0xc7, 0, m, imm_len(size));
	as_imm(a, size, v);
}
/* Flags survive. */
static inline void as_mov_imm(struct as *a, unsigned reg, u64 v)
{
	if (v >> 32 == 0) {
		if (reg & 8)
			as8(a, 0x41);
		as8(a, 0xb8 | (reg & 7));
		as32(a, (u32)v);
	} else if (fits32((i64)v)) {
		as_store_imm(a, 8, rm_reg(reg), v);
	} else {
		as8(a, reg & 8 ? 0x49 : 0x48);
		as8(a, 0xb8 | (reg & 7));
		as64(a, v);
	}
}

/* ---- arithmetic: op is the manual's number 0-7 (ADD OR ADC SBB AND SUB XOR CMP) ---- */
enum { OP_ADD, OP_OR, OP_ADC, OP_SBB, OP_AND, OP_SUB, OP_XOR, OP_CMP, OP_TEST };
/* reg op= m; TEST is symmetrical. */
static inline void as_alu_load(struct as *a, unsigned op, unsigned size, unsigned reg, struct rm m)
{
	as_ins(a, 0, size, (op == OP_TEST ? 0x84 : op << 3 | 2) | (size > 1), reg, m, 0);
}
static inline void as_alu_store(struct as *a, unsigned lock, unsigned op, unsigned size, struct rm m, unsigned reg)
{
	as_ins(a, lock, size, (op == OP_TEST ? 0x84 : op << 3) | (size > 1), reg, m, 0);
}
static inline void as_alu_imm(struct as *a, unsigned lock, unsigned op, unsigned size, struct rm m, u64 v)
{
	if (op == OP_TEST) {
		as_ins(a, lock, size, 0xf6 | (size > 1), 0, m, imm_len(size));
		as_imm(a, size, v);
	} else if (size > 1 && fits8((i64)v)) {
		as_ins(a, lock, size, 0x83, DIGIT | op, m, 1);
		as8(a, (u8)v);
	} else {
		as_ins(a, lock, size, 0x80 | (size > 1), DIGIT | op, m, imm_len(size));
		as_imm(a, size, v);
	}
}

/* ---- jumps: return where the 32-bit displacement is ---- */
static inline u8 *as_jmp(struct as *a, const u8 *to)
{
	as8(a, 0xe9);
	as32(a, (u32)(to - (a->p + 4)));
	return a->p - 4;
}
static inline u8 *as_jcc(struct as *a, unsigned cond, const u8 *to)
{
	as8(a, 0x0f);
	as8(a, 0x80 | cond);
	as32(a, (u32)(to - (a->p + 4)));
	return a->p - 4;
}
static inline void as_call(struct as *a, const u8 *to)
{
	as8(a, 0xe8);
	as32(a, (u32)(to - (a->p + 4)));
}
/* Short forward jump: returns the place to give to as_here(). */
static inline u8 *as_jcc_short(struct as *a, unsigned cond)
{
	as8(a, 0x70 | cond);
	as8(a, 0);
	return a->p - 1;
}
static inline void as_here(struct as *a, u8 *at) { *at = (u8)(a->p - (at + 1)); }
static inline void as_aim(u8 *at, const u8 *to)
{
	i32 d = (i32)(to - (at + 4));
	memcpy(at, &d, 4);
}
static inline void as_push(struct as *a, unsigned r)
{
	if (r & 8)
		as8(a, 0x41);
	as8(a, 0x50 | (r & 7));
}
static inline void as_pop(struct as *a, unsigned r)
{
	if (r & 8)
		as8(a, 0x41);
	as8(a, 0x58 | (r & 7));
}

enum { CC_O, CC_NO, CC_B, CC_AE, CC_E, CC_NE, CC_BE, CC_A, CC_S, CC_NS, CC_P, CC_NP, CC_L, CC_GE, CC_LE, CC_G };

#endif
