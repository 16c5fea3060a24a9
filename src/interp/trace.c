/* --trace insn: each instruction with the registers that it changed. --trace block: each block as it is entered from the loop. */
#include "interp/interp.h"
#include "base/log.h"
#include <stdio.h>

static const char *const names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15" };
static _Thread_local u64 before_gpr[16], before_flags;
static _Thread_local bool armed;

static enum isa_mode mode_of(const struct cpu *c) { return c->mode & MODE_L ? ISA_64 : c->mode & MODE_D ? ISA_32 : ISA_16; }

void interp_trace_before(struct cpu *c, const struct block *b)
{
	struct isa_insn in;
	u8 bytes[ISA_MAX_LEN];
	char text[128] = "?", hex[2 * ISA_MAX_LEN + 1] = "";
	u64 fault_la;
	unsigned n = mmu_fetch_bytes(c, c->seg_base[SEG_CS] + c->arch.rip, bytes, ISA_MAX_LEN, &fault_la);
	if (isa_decode(&interp_of(c)->dec, mode_of(c), bytes, n, &in) == ISA_OK) {
		isa_format(&in, c->arch.rip, text, sizeof text);
		n = in.zi.length;
	}
	for (unsigned k = 0; k < n; k++)
		snprintf(hex + 2 * k, 3, "%02x", bytes[k]);
	if (trace_on(TRACE_BLOCK))
		trace_line(TRACE_BLOCK, "cpu%u %llu %04x:%016llx cpl%u%s %u instructions: %s", c->index, (unsigned long long)c->icount, c->arch.seg[SEG_CS].sel,
			   (unsigned long long)c->arch.rip, c->arch.cpl, c->arch.guest_mode ? " L2" : "", b->n, text);
	if (trace_on(TRACE_INSN))
		trace_line(TRACE_INSN, "cpu%u %llu %04x:%016llx cpl%u%s %-30s %s", c->index, (unsigned long long)c->icount, c->arch.seg[SEG_CS].sel,
			   (unsigned long long)c->arch.rip, c->arch.cpl, c->arch.guest_mode ? " L2" : "", hex, text);
	memcpy(before_gpr, c->arch.gpr, sizeof before_gpr);
	before_flags = cpu_rflags(c);
	armed = trace_on(TRACE_INSN);
}

void interp_trace_after(struct cpu *c)
{
	char line[600];
	int len = 0;
	if (!armed)
		return;
	for (unsigned r = 0; r < 16; r++)
		if (c->arch.gpr[r] != before_gpr[r])
			len += snprintf(line + len, sizeof line - len, " %s=%llx", names[r], (unsigned long long)c->arch.gpr[r]);
	if (cpu_rflags(c) != before_flags)
		len += snprintf(line + len, sizeof line - len, " rflags=%llx", (unsigned long long)cpu_rflags(c));
	if (len)
		trace_line(TRACE_INSN, "   %s", line);
}
