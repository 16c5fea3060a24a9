/* IN and OUT. The string forms are in string.c. */
#include "interp/select.h"
#include "base/log.h"

static u16 port_of(const struct cpu *c, const struct insn *i) { return i->aux8 ? (u8)i->imm : rd_u16(c, GPR_RDX); }

static noinline enum step body_in(struct cpu *c, const struct insn *i)
{
	u16 port = port_of(c, i);
	set_rip(c, i);
	if (!cpu_io_allowed(c, port, i->opsize))
		return STEP_FAULT;
	if (cpu_icept(c, ICEPT_IN, i, port, i->opsize | (i->aux8 ? 32 : 0)))
		return STEP_STOP;
	if (c->arch.dr[7] & 0xff)
		cpu_debug_io(c, port, i->opsize);
	c->stats.ports++;
	u64 v = c->io->port_read(c->io->vm, port, i->opsize);
	if (trace_on(TRACE_IO))
		trace_line(TRACE_IO, "in%u %04x -> %llx at %llx", i->opsize * 8, port, (unsigned long long)(v & size_mask(i->opsize)), (unsigned long long)c->arch.rip);
	wr_size(c, GPR_RAX, i->opsize, v);
	return stop_next(c, i);
}
static enum step h_in(struct cpu *c, const struct insn *i) { return after(c, i, body_in(c, i)); }

static noinline enum step body_out(struct cpu *c, const struct insn *i)
{
	u16 port = port_of(c, i);
	u64 v = rd_size(c, GPR_RAX, i->opsize);
	set_rip(c, i);
	if (!cpu_io_allowed(c, port, i->opsize))
		return STEP_FAULT;
	if (cpu_icept(c, ICEPT_OUT, i, port, i->opsize | (i->aux8 ? 32 : 0)))
		return STEP_STOP;
	if (c->arch.dr[7] & 0xff)
		cpu_debug_io(c, port, i->opsize);
	c->stats.ports++;
	if (trace_on(TRACE_IO))
		trace_line(TRACE_IO, "out%u %04x <- %llx at %llx", i->opsize * 8, port, (unsigned long long)v, (unsigned long long)c->arch.rip);
	c->io->port_write(c->io->vm, port, v, i->opsize);
	return stop_next(c, i);
}
static enum step h_out(struct cpu *c, const struct insn *i) { return after(c, i, body_out(c, i)); }

/* Operand width: AL, AX or EAX. */
insn_fn *sel_in(const struct form *f, struct insn *o)
{
	o->aux8 = f->in->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
	o->opsize = f->in->op[0].size / 8;
	return h_in;
}
insn_fn *sel_out(const struct form *f, struct insn *o)
{
	o->aux8 = f->in->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
	o->opsize = f->in->op[1].size / 8;
	return h_out;
}
