/* Outcomes side by side. */
#include "../host_cpu.h"
#include "oracle.h"

#include <stdio.h>

#define RF BIT(16)

static u64 undefined_flags(const struct ocase *k)
{
	return k->zi.cpu_flags ? k->zi.cpu_flags->undefined : 0;
}

/* Which byte of a long or masked operand a page fault names is the implementation's choice; the page is not. */
static bool vague_cr2(const struct ocase *k)
{
	for (unsigned n = 0; n < k->zi.operand_count; n++)
		if (k->op[n].type == ZYDIS_OPERAND_TYPE_MEMORY && (k->op[n].size > 256 || k->op[n].size == 80))
			return true;
	switch ((int)k->zi.mnemonic) {
	case ZYDIS_MNEMONIC_FNSTENV: case ZYDIS_MNEMONIC_FLDENV: case ZYDIS_MNEMONIC_FNSAVE: case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_MASKMOVQ: case ZYDIS_MNEMONIC_MASKMOVDQU: case ZYDIS_MNEMONIC_VMASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVPS: case ZYDIS_MNEMONIC_VMASKMOVPD: case ZYDIS_MNEMONIC_VPMASKMOVD: case ZYDIS_MNEMONIC_VPMASKMOVQ:
	case ZYDIS_MNEMONIC_ENTER:
		return true;
	default: return false;
	}
}

/* What the manual leaves open, made equal on both sides. */
static void normalise(const struct ocase *k, struct ostate *n, struct ostate *g)
{
	u64 ignore = RF;

	if (n->vector == VECTOR_NONE)
		ignore |= undefined_flags(k);
	n->rflags &= ~ignore;
	g->rflags &= ~ignore;
	/* The host kernel hides which of its own pages exist. */
	if (n->vector == 14 && n->cr2 >= 0x7ffffffff000)
		n->error &= ~1u, g->error &= ~1u;
	if (vague_cr2(k)) {
		n->cr2 &= PAGE_MASK;
		g->cr2 &= PAGE_MASK;
	}
	if (k->mode != O_64) /* upper halves are undefined after a mode change */
		for (unsigned r = 0; r < 8; r++) {
			n->gpr[r] = (u32)n->gpr[r];
			g->gpr[r] = (u32)g->gpr[r];
		}
	if (!host_cpu_is_intel()) /* AMD APM "FXSAVE": the last instruction's addresses only with an exception pending */
		for (unsigned b = 6; b < 24; b++)
			n->fp.fx[b] = g->fp.fx[b] = 0;
	store_le(n->fp.fx + 28, 0, 4);
	store_le(g->fp.fx + 28, 0, 4);
	memset(n->fp.fx + 416, 0, 96);
	memset(g->fp.fx + 416, 0, 96);
}

/* Operand k->op[n] is memory that the instruction writes. */
static bool stores(const struct ocase *k)
{
	for (unsigned n = 0; n < k->zi.operand_count; n++)
		if (k->op[n].type == ZYDIS_OPERAND_TYPE_MEMORY && (k->op[n].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			return true;
	return false;
}

/* An instruction that faults has changed nothing, but the silicon is not always that tidy. Where its leftovers cannot be noticed by software that
 * repeats the instruction, the vCPU must be tidy (so it is compared with the state before) and the silicon is not asked. */
static void forgive_leftovers(const struct ocase *k, struct ostate *n, u8 *nmem, const u8 *gmem)
{
	bool gather = k->zi.meta.isa_set == ZYDIS_ISA_SET_AVX2GATHER;

	if (n->vector == VECTOR_NONE)
		return;
	/* A store in several pieces; MMX stores enter MMX mode; a bad MXCSR is noticed after the registers are loaded. */
	if (stores(k) && (k->cls == O_X87 || k->cls == O_MMX || k->cls == O_XSAVE))
		memcpy(nmem, k->mem, O_DATA_SIZE);
	if ((k->cls == O_MMX && stores(k)) || k->cls == O_XSAVE)
		n->fp = k->in.fp;
	if (k->zi.mnemonic == ZYDIS_MNEMONIC_ENTER || (k->zi.mnemonic == ZYDIS_MNEMONIC_CALL && k->mode == O_16)) /* the vCPU may have pushed too */
		memcpy(nmem, gmem, O_DATA_SIZE);
	if (k->zi.mnemonic == ZYDIS_MNEMONIC_POPA || k->zi.mnemonic == ZYDIS_MNEMONIC_POPAD)
		memcpy(n->gpr, k->in.gpr, sizeof(n->gpr));
	if (gather) /* elements behind the one that faults may be done or not */
		for (unsigned o = 0; o < 3; o += 2) {
			unsigned r = (unsigned)ZydisRegisterGetId(k->op[o].reg.value) & 15;

			memcpy(n->fp.fx + 160 + 16 * r, k->in.fp.fx + 160 + 16 * r, 16);
			memcpy(n->fp.ymmh + 16 * r, k->in.fp.ymmh + 16 * r, 16);
		}
}

/* Both sides may stop a faulting gather in different places. */
static void forgive_gather(const struct ocase *k, const struct ostate *n, struct ostate *g)
{
	if (n->vector == VECTOR_NONE || k->zi.meta.isa_set != ZYDIS_ISA_SET_AVX2GATHER)
		return;
	for (unsigned o = 0; o < 3; o += 2) {
		unsigned r = (unsigned)ZydisRegisterGetId(k->op[o].reg.value) & 15;

		memcpy(g->fp.fx + 160 + 16 * r, k->in.fp.fx + 160 + 16 * r, 16);
		memcpy(g->fp.ymmh + 16 * r, k->in.fp.ymmh + 16 * r, 16);
	}
}

bool oracle_address(const struct ocase *k, const ZydisDecodedOperand *o, u64 *at)
{
	ZydisRegisterContext regs = { 0 };

	if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || o->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
		return false;
	for (unsigned r = 0; r < 16; r++) {
		regs.values[ZYDIS_REGISTER_RAX + r] = k->in.gpr[r];
		regs.values[ZYDIS_REGISTER_EAX + r] = (u32)k->in.gpr[r];
		regs.values[ZYDIS_REGISTER_AX + r] = (u16)k->in.gpr[r];
	}
	if (!ZYAN_SUCCESS(ZydisCalcAbsoluteAddressEx(&k->zi, o, k->at, &regs, at)))
		return false;
	if (k->mode == O_16)
		*at += o->mem.segment == ZYDIS_REGISTER_CS ? O_CODE : O_DATA;
	else
		*at += k->mode == O_64 && o->mem.segment == ZYDIS_REGISTER_GS ? O_GS_BASE : 0;
	return true;
}

/* A flat 4 GiB segment has no end for the silicon: an operand that passes it goes on at address 0. The vCPU refuses, as the manual allows. */
static bool passes_4g(const struct ocase *k, const struct ostate *n)
{
	u64 at;

	if (k->mode != O_32)
		return false;
	for (unsigned o = 0; o < k->zi.operand_count; o++)
		if (oracle_address(k, &k->op[o], &at) && at + k->op[o].size / 8 > BIT(32))
			return true;
	return n->vector == 14 && (n->cr2 >> 8) == 0xffffff;
}

static bool is_memory_fault(u32 vector) { return (vector >= 12 && vector <= 14) || vector == 17; }

/* Which of several things wrong with a long operand is noticed first (one page, the other page, the end of canonical addresses, the contents)
 * is the implementation's choice. */
static void forgive_order(const struct ocase *k, struct ostate *n, const struct ostate *g)
{
	if (!is_memory_fault(n->vector) || !is_memory_fault(g->vector) || (k->cls != O_XSAVE && !vague_cr2(k) && !passes_4g(k, n)))
		return;
	n->vector = g->vector;
	n->error = g->error;
	n->cr2 = g->cr2;
}

/* The same fields in an image that FXSAVE or XSAVE has written. */
static void forgive_pointers(const struct ocase *k, u8 *nmem, u8 *gmem)
{
	u64 at;

	if (host_cpu_is_intel() || k->cls != O_XSAVE || !stores(k))
		return;
	for (unsigned o = 0; o < k->zi.operand_count; o++)
		if (oracle_address(k, &k->op[o], &at))
			for (u64 b = at + 6; b < at + 32; b++) /* and MXCSR_MASK: AMD has misaligned-exception mask */
				if ((b < at + 24 || b >= at + 28) && b - O_DATA < O_DATA_SIZE)
					nmem[b - O_DATA] = gmem[b - O_DATA];
}

static bool has_prefix(const struct ocase *k, u8 a, u8 b)
{
	for (unsigned p = 0; p < k->zi.raw.prefix_count; p++)
		if (k->zi.raw.prefixes[p].value == a || k->zi.raw.prefixes[p].value == b)
			return true;
	return false;
}

/* The vCPU is an Intel. Where an AMD host is known to do otherwise, it is not asked. True: nothing of this case can be compared. */
static bool amd_differs(const struct ocase *k, struct ostate *n, const struct ostate *g, u8 *nmem, const u8 *gmem)
{
	bool faulted = n->vector != VECTOR_NONE, done = g->vector == VECTOR_NONE;

	if (host_cpu_is_intel())
		return false;
	switch ((int)k->zi.mnemonic) {
	case ZYDIS_MNEMONIC_LOOPE: case ZYDIS_MNEMONIC_LOOPNE: /* REP and REPNE choose the condition */
		return has_prefix(k, 0xf2, 0xf3);
	case ZYDIS_MNEMONIC_CALL: /* a target that faults: Intel has pushed by then */
		if (faulted)
			memcpy(nmem, gmem, O_DATA_SIZE);
		return false;
	case ZYDIS_MNEMONIC_NOP: /* 0F 0D with a register */
	case ZYDIS_MNEMONIC_VPINSRD: case ZYDIS_MNEMONIC_VPEXTRD: /* VEX.W outside 64-bit mode */
		return n->vector == 6 && g->vector != 6;
	case ZYDIS_MNEMONIC_MOVSXD: /* to 16 bits: reads 32 */
		return faulted && done && k->zi.operand_width == 16;
	case ZYDIS_MNEMONIC_FISTTP: /* checks more bytes than it stores */
		if (k->mode != O_64 && faulted && done)
			return true;
		break;
	case ZYDIS_MNEMONIC_VPMASKMOVD: case ZYDIS_MNEMONIC_VPMASKMOVQ: case ZYDIS_MNEMONIC_VMASKMOVPS: case ZYDIS_MNEMONIC_VMASKMOVPD:
		if (k->mode != O_64 && (g->vector == 12 || g->vector == 13)) /* segment limits by element */
			return true;
		break;
	case ZYDIS_MNEMONIC_VCVTPS2PH: /* Intel notes or raises exceptions of the conversion although the store faults */
		if (faulted)
			memcpy(n->fp.fx + 24, g->fp.fx + 24, 4);
		return n->vector == 17 || (g->vector == 19 && is_memory_fault(n->vector));
	case ZYDIS_MNEMONIC_LDMXCSR: case ZYDIS_MNEMONIC_VLDMXCSR: case ZYDIS_MNEMONIC_FXRSTOR: case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_XRSTOR: case ZYDIS_MNEMONIC_XRSTOR64: /* MXCSR bit 17; segment limits by component */
		return is_memory_fault(g->vector) && !faulted;
	default: break;
	}
	if (k->cls == O_STRING && faulted) /* flags of the iterations that are done */
		n->rflags = g->rflags;
	if (k->zi.meta.isa_set == ZYDIS_ISA_SET_SHA) /* needs no alignment */
		return g->vector == 13 && n->vector != 13;
	if (is_memory_fault(n->vector) && done && stores(k) && (g->fp.fx[2] & 0x80)) /* x87: a pending exception keeps Intel from touching memory */
		return true;
	if (k->cls == O_UNDEFINED && k->code[0] == 0xf0) /* LOCK where it must not be: noticed after the operand */
		return is_memory_fault(n->vector) && g->vector == 6;
	return k->cls >= O_SSE && n->vector == 17 && g->vector != 17; /* alignment checks also of vectors that may be anywhere */
}

bool touches_code(const struct ocase *k)
{
	u64 at;

	for (unsigned o = 0; o < k->zi.operand_count; o++)
		if (oracle_address(k, &k->op[o], &at) && at + 4096 > O_CODE && at < O_CODE + 2 * 4096)
			return true;
	return false;
}

static bool holds_pad(const struct ocase *k, u64 at, unsigned size)
{
	return at >= O_DATA && at + size <= O_DATA + O_DATA_SIZE && load_le(k->mem + (at - O_DATA), size) == O_PAD_B - O_CODE;
}

bool is_wild(const struct ocase *k)
{
	unsigned size = k->op[0].size / 8;
	u64 at;

	if (k->cls != O_BRANCH || k->mode != O_16)
		return false;
	if (k->zi.mnemonic == ZYDIS_MNEMONIC_RET)
		return !holds_pad(k, O_DATA + (k->in.gpr[4] & 0xffff), k->zi.operand_width / 8);
	if (k->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER && k->op[0].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
		return (k->in.gpr[ZydisRegisterGetId(k->op[0].reg.value) & 15] & low_mask(8 * size)) != O_PAD_B - O_CODE;
	return oracle_address(k, &k->op[0], &at) && !holds_pad(k, at, size);
}

bool same_outcome(const struct ocase *k, struct ostate *n, struct ostate *g, u8 *nmem, u8 *gmem)
{
	if (amd_differs(k, n, g, nmem, gmem))
		return true;
	forgive_leftovers(k, n, nmem, gmem);
	forgive_order(k, n, g);
	forgive_gather(k, n, g);
	forgive_pointers(k, nmem, gmem);
	normalise(k, n, g);
	return n->vector == g->vector && n->error == g->error && n->cr2 == g->cr2 && n->rip == g->rip && n->rflags == g->rflags &&
	       !memcmp(n->gpr, g->gpr, sizeof(n->gpr)) && !memcmp(n->fp.fx, g->fp.fx, 512) && !memcmp(n->fp.ymmh, g->fp.ymmh, 256) &&
	       !memcmp(nmem, gmem, O_DATA_SIZE);
}

static void print_u64(const char *what, u64 in, u64 n, u64 g)
{
	printf("  %c %-8s %016llx  %016llx  %016llx\n", n == g ? ' ' : '*', what, (unsigned long long)in, (unsigned long long)n, (unsigned long long)g);
}

static void print_hex(const u8 *p, unsigned n)
{
	while (n--)
		printf("%02x", p[n]);
}

static void print_bytes(const char *what, unsigned index, const u8 *in, const u8 *n, const u8 *g, unsigned size)
{
	printf("  %c %s%-2u ", memcmp(n, g, size) ? '*' : ' ', what, index);
	print_hex(in, size);
	printf("\n    host   ");
	print_hex(n, size);
	printf("\n    guest  ");
	print_hex(g, size);
	printf("\n");
}

static bool involved(const struct ocase *k, ZydisRegisterClass a, ZydisRegisterClass b, unsigned id)
{
	for (unsigned n = 0; n < k->zi.operand_count; n++)
		if (k->op[n].type == ZYDIS_OPERAND_TYPE_REGISTER) {
			ZydisRegisterClass c = ZydisRegisterGetClass(k->op[n].reg.value);

			if ((c == a || c == b) && (unsigned)ZydisRegisterGetId(k->op[n].reg.value) == id)
				return true;
		}
	return false;
}

static void print_fp(const struct ocase *k, const struct ostate *n, const struct ostate *g)
{
	static const struct { const char *name; u8 at, size; } words[] = {
		{ "FCW", 0, 2 }, { "FSW", 2, 2 }, { "FTW", 4, 2 }, { "FOP", 6, 2 }, { "FIP", 8, 8 }, { "FDP", 16, 8 }, { "MXCSR", 24, 4 },
	};

	for (unsigned w = 0; w < array_len(words); w++) {
		u64 i = load_le(k->in.fp.fx + words[w].at, words[w].size), a = load_le(n->fp.fx + words[w].at, words[w].size);
		u64 b = load_le(g->fp.fx + words[w].at, words[w].size);

		if (a != b || (w < 3 ? k->cls == O_X87 || k->cls == O_MMX : w == 6))
			print_u64(words[w].name, i, a, b);
	}
	for (unsigned r = 0; r < 8; r++)
		if (memcmp(n->fp.fx + 32 + 16 * r, g->fp.fx + 32 + 16 * r, 16) || k->cls == O_X87)
			print_bytes("ST", r, k->in.fp.fx + 32 + 16 * r, n->fp.fx + 32 + 16 * r, g->fp.fx + 32 + 16 * r, 10);
	for (unsigned r = 0; r < 16; r++) {
		unsigned x = 160 + 16 * r, y = 16 * r;

		if (memcmp(n->fp.fx + x, g->fp.fx + x, 16) || involved(k, ZYDIS_REGCLASS_XMM, ZYDIS_REGCLASS_YMM, r))
			print_bytes("XMM", r, k->in.fp.fx + x, n->fp.fx + x, g->fp.fx + x, 16);
		if (memcmp(n->fp.ymmh + y, g->fp.ymmh + y, 16) || involved(k, ZYDIS_REGCLASS_YMM, ZYDIS_REGCLASS_YMM, r))
			print_bytes("YMMH", r, k->in.fp.ymmh + y, n->fp.ymmh + y, g->fp.ymmh + y, 16);
	}
}

static void print_memory(const struct ocase *k, const u8 *nmem, const u8 *gmem)
{
	unsigned shown = 0;

	for (unsigned at = 0; at < O_DATA_SIZE && shown < 12; at += 16)
		if (memcmp(nmem + at, gmem + at, 16)) {
			printf("  * memory %#llx\n", (unsigned long long)(O_DATA + at));
			print_bytes("m", at & 0xfff, k->mem + at, nmem + at, gmem + at, 16);
			shown++;
		}
}

static void print_end(const char *who, const struct ostate *s)
{
	if (s->vector == VECTOR_NONE)
		printf("  %s: completed at %#llx\n", who, (unsigned long long)s->rip);
	else
		printf("  %s: exception %u error %#x cr2 %#llx at %#llx\n", who, s->vector, s->error, (unsigned long long)s->cr2, (unsigned long long)s->rip);
}

/* The explicit memory operand as it was before. */
static void print_operand(const struct ocase *k, const ZydisDecodedOperand *o)
{
	u64 at;

	if (!oracle_address(k, o, &at))
		return;
	printf("    operand %u at %#llx, %u bytes:", o->id, (unsigned long long)at, o->size / 8);
	for (unsigned n = 0; n < o->size / 8u && at + n >= O_DATA && at + n < O_DATA + O_DATA_SIZE; n++)
		printf("%s%02x", n % 32 ? "" : "\n      ", k->mem[at + n - O_DATA]);
	printf("\n");
}

void print_case(const struct ocase *k, const struct ostate *n, const struct ostate *g, const u8 *nmem, const u8 *gmem)
{
	static const char names[16][4] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15" };
	static const char mode_names[O_MODES][3] = { "64", "32", "16" };
	ZydisFormatter f;
	char text[128] = "?";

	ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
	if (k->cls != O_UNDEFINED)
		ZydisFormatterFormatInstruction(&f, &k->zi, k->op, k->zi.operand_count_visible, text, sizeof(text), k->at, NULL);
	printf("seed %#llx class %s, %s-bit: %s   [", (unsigned long long)k->seed, oclass_names[k->cls], mode_names[k->mode], text);
	for (unsigned b = 0; b < k->len; b++)
		printf("%s%02x", b ? " " : "", k->code[b]);
	printf("] at %#llx\n", (unsigned long long)k->at);
	if (k->mode == O_16)
		printf("  segments (enum oseg): ds %u es %u ss %u\n", k->ds, k->es, k->ss);
	print_end("host ", n);
	print_end("guest", g);
	printf("             before            host              guest\n");
	for (unsigned r = 0; r < 16; r++)
		print_u64(names[r], k->in.gpr[r], n->gpr[r], g->gpr[r]);
	print_u64("rflags", k->in.rflags, n->rflags, g->rflags);
	print_fp(k, n, g);
	print_memory(k, nmem, gmem);
	for (unsigned o = 0; o < k->zi.operand_count; o++)
		print_operand(k, &k->op[o]);
}
