/* The selectors that rows.def names, and their `arg` values. Private to interp/. */
#ifndef NB_INTERP_SELECT_H
#define NB_INTERP_SELECT_H

#include "interp/interp.h"

/* insn.src2 of a MOV or POP that is not between general registers, memory and immediates. */
#define SEL_MOV_SPECIAL 0xff
#define SEL_MOV_FROM_SEG 0xfe /* of a MOV whose source is a segment register */

enum alu_op { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP, ALU_TEST };
enum unary_op { UN_INC, UN_DEC, UN_NEG, UN_NOT };
enum shift_op { SH_ROL, SH_ROR, SH_RCL, SH_RCR, SH_SHL, SH_SHR, SH_SAR };
enum dshift_op { SH_SHLD, SH_SHRD };
enum bt_op { BT_BT, BT_BTS, BT_BTR, BT_BTC };
enum scan_op { SCAN_BSF, SCAN_BSR, SCAN_TZCNT, SCAN_LZCNT, SCAN_POPCNT };
enum mul_op { MUL_MUL, MUL_IMUL, MUL_DIV, MUL_IDIV };
enum string_op { STR_MOVS, STR_STOS, STR_LODS, STR_CMPS, STR_SCAS, STR_INS, STR_OUTS };

select_fn sel_alu, sel_unary, sel_lock_alu, sel_lock_unary, sel_lock_bt, sel_shift, sel_dshift, sel_mul, sel_imul, sel_mulx, sel_shiftx, sel_rorx,
	sel_mov, sel_movzx, sel_movsx, sel_movsxd, sel_lea, sel_xchg, sel_cmov, sel_setcc, sel_bswap, sel_movbe, sel_movnti, sel_convert, sel_flag, sel_lahf, sel_sahf,
	sel_cmpxchg, sel_cmpxchg8b, sel_xadd, sel_bt, sel_scan, sel_bmi, sel_crc32, sel_adx, sel_bcd, sel_nop,
	sel_push, sel_pop, sel_pusha, sel_popa, sel_pushf, sel_popf, sel_enter, sel_leave, sel_jmp, sel_jcc, sel_jcxz, sel_loop, sel_call, sel_ret, sel_iret,
	sel_ud, sel_string, sel_in, sel_out, sel_xlat, sel_sys;

#endif
