/* Instruction decoding: Zydis plus the rules of the silicon that Zydis leaves to its user. Knows no CPU state beyond the mode.
 * Surprise: CET, MPX and CLDEMOTE encodings decode as the NOPs that they are on processors without them; TZCNT and LZCNT decode as
 * BSF and BSR unless the model shows them. */
#ifndef NB_ISA_DECODE_H
#define NB_ISA_DECODE_H

#include "isa/insn.h"
#include <Zydis/Zydis.h>

#define ISA_MAX_LEN 15

enum isa_mode { ISA_16, ISA_32, ISA_64, ISA_MODES };

enum isa_result {
	ISA_OK,
	ISA_MORE,  /* the bytes given end inside the instruction, and it may still be legal: fetch more */
	ISA_LONG,  /* longer than 15 bytes: #GP(0) (SDM "Instruction Length") */
	ISA_UD,    /* no such instruction, or LOCK where it is not allowed: #UD */
};

struct isa_decoder {
	ZydisDecoder mode[ISA_MODES];
};

struct isa_insn {
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

/* tzcnt, lzcnt: whether the CPU model shows BMI1 and LZCNT. */
void isa_decoder_init(struct isa_decoder *d, bool tzcnt, bool lzcnt);

/* Decodes the instruction at bytes[0..len). */
enum isa_result isa_decode(const struct isa_decoder *d, enum isa_mode mode, const u8 *bytes, unsigned len, struct isa_insn *out);

/* Fills the operand fields of *out from a decoded instruction that starts `off` bytes into its block: memory operand, immediates, register numbers
 * (first, second and third explicit register operand position -> dst, src, src2), sizes, prefixes. fn, aux, aux8 are zero. False: the RIP-relative
 * displacement cannot be expressed (within 4 KiB of +-2 GiB). */
bool isa_fill(const struct isa_insn *in, unsigned off, struct insn *out);

/* Register number as insn.h wants it: GPR, segment, control, debug, vector number; byte offset for 8-bit GPRs. */
u8 isa_reg(ZydisRegister r);

/* One line of assembler text for traces. rip is the address of the instruction. */
void isa_format(const struct isa_insn *in, u64 rip, char *text, size_t size);

#endif
