/* gdb's registers: one table makes the target description, g, G, p and P. */
#include "cpu/core.h"
#include "debug/gdb_priv.h"

enum what { GPR, RIP, FLAGS, SEGMENT, ST, FPU, XMM, MXCSR, BASE, CONTROL };
enum control { C_CR0, C_CR2, C_CR3, C_CR4, C_EFER, C_KERNEL_GS };

struct reg {
	const char *name, *type, *feature; /* feature: starts a new one */
	u8 bits, what, arg;
};

#define CORE "org.gnu.gdb.i386.core"
static const struct reg regs[] = {
	{ "rax", "int64", CORE, 64, GPR, GPR_RAX }, { "rbx", "int64", 0, 64, GPR, GPR_RBX }, { "rcx", "int64", 0, 64, GPR, GPR_RCX },
	{ "rdx", "int64", 0, 64, GPR, GPR_RDX }, { "rsi", "int64", 0, 64, GPR, 6 }, { "rdi", "int64", 0, 64, GPR, 7 },
	{ "rbp", "data_ptr", 0, 64, GPR, GPR_RBP }, { "rsp", "data_ptr", 0, 64, GPR, GPR_RSP },
	{ "r8", "int64", 0, 64, GPR, 8 }, { "r9", "int64", 0, 64, GPR, 9 }, { "r10", "int64", 0, 64, GPR, 10 }, { "r11", "int64", 0, 64, GPR, 11 },
	{ "r12", "int64", 0, 64, GPR, 12 }, { "r13", "int64", 0, 64, GPR, 13 }, { "r14", "int64", 0, 64, GPR, 14 }, { "r15", "int64", 0, 64, GPR, 15 },
	{ "rip", "code_ptr", 0, 64, RIP, 0 }, { "eflags", "int32", 0, 32, FLAGS, 0 },
	{ "cs", "int32", 0, 32, SEGMENT, SEG_CS }, { "ss", "int32", 0, 32, SEGMENT, SEG_SS }, { "ds", "int32", 0, 32, SEGMENT, SEG_DS },
	{ "es", "int32", 0, 32, SEGMENT, SEG_ES }, { "fs", "int32", 0, 32, SEGMENT, SEG_FS }, { "gs", "int32", 0, 32, SEGMENT, SEG_GS },
	{ "st0", "i387_ext", 0, 80, ST, 0 }, { "st1", "i387_ext", 0, 80, ST, 1 }, { "st2", "i387_ext", 0, 80, ST, 2 }, { "st3", "i387_ext", 0, 80, ST, 3 },
	{ "st4", "i387_ext", 0, 80, ST, 4 }, { "st5", "i387_ext", 0, 80, ST, 5 }, { "st6", "i387_ext", 0, 80, ST, 6 }, { "st7", "i387_ext", 0, 80, ST, 7 },
	{ "fctrl", "int", 0, 32, FPU, 0 }, { "fstat", "int", 0, 32, FPU, 2 }, { "ftag", "int", 0, 32, FPU, 4 }, { "fiseg", "int", 0, 32, FPU, 0xff },
	{ "fioff", "int", 0, 32, FPU, 8 }, { "foseg", "int", 0, 32, FPU, 0xff }, { "fooff", "int", 0, 32, FPU, 16 }, { "fop", "int", 0, 32, FPU, 6 },
	{ "xmm0", "vec128", "org.gnu.gdb.i386.sse", 128, XMM, 0 }, { "xmm1", "vec128", 0, 128, XMM, 1 }, { "xmm2", "vec128", 0, 128, XMM, 2 },
	{ "xmm3", "vec128", 0, 128, XMM, 3 }, { "xmm4", "vec128", 0, 128, XMM, 4 }, { "xmm5", "vec128", 0, 128, XMM, 5 }, { "xmm6", "vec128", 0, 128, XMM, 6 },
	{ "xmm7", "vec128", 0, 128, XMM, 7 }, { "xmm8", "vec128", 0, 128, XMM, 8 }, { "xmm9", "vec128", 0, 128, XMM, 9 }, { "xmm10", "vec128", 0, 128, XMM, 10 },
	{ "xmm11", "vec128", 0, 128, XMM, 11 }, { "xmm12", "vec128", 0, 128, XMM, 12 }, { "xmm13", "vec128", 0, 128, XMM, 13 },
	{ "xmm14", "vec128", 0, 128, XMM, 14 }, { "xmm15", "vec128", 0, 128, XMM, 15 }, { "mxcsr", "int", 0, 32, MXCSR, 0 },
	{ "fs_base", "int", "org.gnu.gdb.i386.segments", 64, BASE, SEG_FS }, { "gs_base", "int", 0, 64, BASE, SEG_GS },
	{ "cr0", "int64", "org.nestbox.i386.control", 64, CONTROL, C_CR0 }, { "cr2", "int64", 0, 64, CONTROL, C_CR2 }, { "cr3", "int64", 0, 64, CONTROL, C_CR3 },
	{ "cr4", "int64", 0, 64, CONTROL, C_CR4 }, { "efer", "int64", 0, 64, CONTROL, C_EFER }, { "kernel_gs_base", "int64", 0, 64, CONTROL, C_KERNEL_GS },
};

void gdb_target_xml(struct gdb_text *t)
{
	gdb_put(t, "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target version=\"1.0\"><architecture>i386:x86-64</architecture>");
	for (unsigned i = 0; i < array_len(regs); i++) {
		if (regs[i].feature) {
			gdb_put(t, "%s<feature name=\"%s\">", i ? "</feature>" : "", regs[i].feature);
			if (regs[i].what == XMM)
				gdb_put(t, "<vector id=\"vec128\" type=\"uint8\" count=\"16\"/>");
		}
		gdb_put(t, "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\"/>", regs[i].name, regs[i].bits, regs[i].type);
	}
	gdb_put(t, "</feature></target>");
}

bool gdb_in_view(const struct gdb *g, const struct cpu *c)
{
	const struct nest *n = vmx_nest(c);
	if (!c->arch.guest_mode)
		return g->level == 1;
	return n && n->n && n->guest[n->cur].level == g->level;
}

static u64 *control(struct cpu *c, unsigned which)
{
	switch ((enum control)which) {
	case C_CR0: return &c->arch.cr0;
	case C_CR2: return &c->arch.cr2;
	case C_CR3: return &c->arch.cr3;
	case C_CR4: return &c->arch.cr4;
	case C_EFER: return &c->arch.efer;
	case C_KERNEL_GS: return &c->arch.kernel_gs_base;
	}
	return NULL;
}

static void get(struct cpu *c, const struct reg *r, u8 *to)
{
	u64 v = 0;
	switch ((enum what)r->what) {
	case GPR: v = c->arch.gpr[r->arg]; break;
	case RIP: v = c->arch.rip; break;
	case FLAGS: v = cpu_rflags(c); break;
	case SEGMENT: v = c->arch.seg[r->arg].sel; break;
	case ST: memcpy(to, c->arch.x87 + 32 + 16 * r->arg, 10); return;
	case FPU: v = r->arg == 0xff ? 0 : load_le(c->arch.x87 + r->arg, r->arg >= 8 ? 4 : 2); break;
	case XMM: memcpy(to, c->arch.ymm + 32 * r->arg, 16); return;
	case MXCSR: v = c->arch.mxcsr; break;
	case BASE: v = c->arch.seg[r->arg].base; break;
	case CONTROL: v = *control(c, r->arg); break;
	}
	store_le(to, v, r->bits / 8);
}

static bool set(struct cpu *c, const struct reg *r, const u8 *from)
{
	u64 v = load_le(from, r->bits > 64 ? 8 : r->bits / 8);
	switch ((enum what)r->what) {
	case GPR: c->arch.gpr[r->arg] = v; return true;
	case RIP: c->arch.rip = v; return true;
	case FLAGS: cpu_set_rflags(c, (cpu_rflags(c) & ~0xffffffffull) | v); return true;
	case ST: memcpy(c->arch.x87 + 32 + 16 * r->arg, from, 10); return true;
	case FPU:
		if (r->arg != 0xff)
			store_le(c->arch.x87 + r->arg, v, r->arg >= 8 ? 4 : 2);
		return true;
	case XMM: memcpy(c->arch.ymm + 32 * r->arg, from, 16); return true;
	case MXCSR: c->arch.mxcsr = (u32)v & 0xffff; return true;
	case BASE: c->arch.seg[r->arg].base = v; cpu_update_mode(c); return true;
	case SEGMENT: return c->arch.seg[r->arg].sel == v; /* a selector alone makes no segment: changing it is refused */
	case CONTROL: return *control(c, r->arg) == v;
	}
	return false;
}

/* What the VMCS tells of a level that the vCPU does not run now. False: not that one. */
static bool get_absent(struct gdb *g, const struct cpu *c, const struct reg *r, u8 *to)
{
	const struct nest *n = vmx_nest(c);
	const struct nest_guest *best = NULL;
	struct nest_state s;
	unsigned level = g->level == 1 ? 2 : g->level; /* L1 goes on where its own guest's VMCS says */
	for (unsigned i = 0; n && i < min_u64(n->n, NEST_GUESTS); i++)
		if ((g->level == 1 ? i == n->cur : n->guest[i].level == level) && (!best || n->guest[i].last_entry > best->last_entry))
			best = &n->guest[i];
	if (!best || !vmx_nest_state(c, best, &s))
		return false;
	bool host = g->level == 1;
	u64 v;
	if (r->what == RIP)
		v = host ? s.host_rip : s.rip;
	else if (r->what == GPR && r->arg == GPR_RSP)
		v = host ? s.host_rsp : s.rsp;
	else if (r->what == FLAGS)
		v = host ? FLAG_FIXED1 : s.rflags;
	else if (r->what == CONTROL && r->arg == C_CR3)
		v = host ? s.host_cr3 : s.cr3;
	else
		return false;
	store_le(to, v, r->bits / 8);
	return true;
}

static void put_register(struct gdb *g, const struct reg *r, struct gdb_text *t)
{
	struct cpu *c = g->vm->vcpus[g->cpu].cpu;
	u8 bytes[16] = { 0 };
	bool known = true;
	if (gdb_in_view(g, c))
		get(c, r, bytes);
	else
		known = get_absent(g, c, r, bytes);
	for (unsigned i = 0; !known && i < r->bits / 8; i++)
		gdb_put(t, "xx");
	if (known)
		gdb_put_hex(t, bytes, r->bits / 8);
}

void gdb_read_registers(struct gdb *g, struct gdb_text *t)
{
	for (unsigned i = 0; i < array_len(regs); i++)
		put_register(g, &regs[i], t);
}

bool gdb_read_register(struct gdb *g, unsigned n, struct gdb_text *t)
{
	if (n >= array_len(regs))
		return false;
	put_register(g, &regs[n], t);
	return true;
}

bool gdb_write_register(struct gdb *g, unsigned n, const char **hex)
{
	struct cpu *c = g->vm->vcpus[g->cpu].cpu;
	u8 bytes[16];
	if (n >= array_len(regs) || !gdb_get_hex(hex, bytes, regs[n].bits / 8) || !gdb_in_view(g, c))
		return false;
	return set(c, &regs[n], bytes);
}

bool gdb_write_registers(struct gdb *g, const char *hex)
{
	bool ok = true;
	for (unsigned i = 0; ok && i < array_len(regs); i++) {
		if (hex[0] == 'x') { /* unknown stays unknown */
			hex += strspn(hex, "x") < regs[i].bits / 4u ? strspn(hex, "x") : regs[i].bits / 4u;
			continue;
		}
		ok = gdb_write_register(g, i, &hex);
	}
	return ok;
}
