/* What this host does to flags that the manual leaves undefined: asked of the silicon once. */
#include "interp/host_flags.h"

#define FLAGS_IN "mov %[f], %%rax\n\taddb $127, %%al\n\tsahf\n\t"
#define FLAGS_OUT "lahf\n\tseto %%al\n\tmovzwl %%ax, %k[f]\n\t"
/* One instruction on rax (through rcx), rbx and rdx. */
#define RUN(ins) asm volatile(FLAGS_IN "mov %%rcx, %%rax\n\t" ins "\n\t" FLAGS_OUT : [f] "+&r"(f), "+c"(x), "+d"(d), "+b"(b) : : "rax", "cc")

enum probe { P_MUL, P_IMUL1, P_IMUL, P_BSF, P_BSR, P_TZCNT, P_LZCNT, P_SHIFT, P_DSHIFT, P_ROTATE, PROBES };
static u16 kept[PROBES]; /* CC_* */

static u64 run(enum probe p, u64 f, u64 x, u64 b)
{
	u64 d = 0;
	switch (p) {
	case P_MUL: RUN("mul %%rbx"); break;
	case P_IMUL1: RUN("imul %%rbx"); break;
	case P_IMUL: RUN("imul %%rbx, %%rcx"); break;
	case P_BSF: RUN("bsf %%rbx, %%rcx"); break;
	case P_BSR: RUN("bsr %%rbx, %%rcx"); break;
	case P_TZCNT: RUN("rep bsf %%rbx, %%rcx"); break;
	case P_LZCNT: RUN("rep bsr %%rbx, %%rcx"); break;
	case P_SHIFT: RUN("shl $3, %%rbx"); break;
	case P_DSHIFT: RUN("shld $3, %%rcx, %%rbx"); break;
	case P_ROTATE: RUN("rol $3, %%rbx"); break;
	case PROBES: break;
	}
	return f;
}

void host_flags_probe(void)
{
	static const u64 values[] = { 0, 1, 5, 1ull << 63, ~0ull };
	const unsigned n = array_len(values);
	for (unsigned p = 0; p < PROBES; p++)
		for (unsigned v = 0; v < n * n; v++) {
			u64 x = values[v % n], b = values[v / n];
			kept[p] |= ~run(p, 0x200, x, b) & run(p, 0xd701, x, b);
		}
}

u16 host_flags_kept(const struct insn *i)
{
	switch (i->op) {
	case ZYDIS_MNEMONIC_MUL: return kept[P_MUL];
	case ZYDIS_MNEMONIC_IMUL: return kept[i->src2 == 1 ? P_IMUL1 : P_IMUL];
	case ZYDIS_MNEMONIC_BSF: return kept[P_BSF];
	case ZYDIS_MNEMONIC_BSR: return kept[P_BSR];
	case ZYDIS_MNEMONIC_TZCNT: return kept[P_TZCNT];
	case ZYDIS_MNEMONIC_LZCNT: return kept[P_LZCNT];
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR: return kept[P_SHIFT];
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD: return kept[P_DSHIFT];
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR: return kept[P_ROTATE];
	}
	return 0;
}
