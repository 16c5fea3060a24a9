/* MOVS STOS LODS CMPS SCAS INS OUTS, with and without REP.
 *
 * Forward MOVS, STOS, CMPS and SCAS work on whole spans of a page when both sides are plain memory; everything else goes one element at a time. Registers
 * are right after every element, so a fault or an interruption leaves exactly what the manual says. An interrupted REP returns STEP_STOP with rip on
 * itself. */
#include "interp/select.h"

struct run {
	unsigned size;
	u64 mask;        /* of addresses and counter */
	i64 step;        /* +size or -size */
	u64 left;        /* elements to do, 1 without REP */
	u64 si, di;
	u16 cc;          /* flags before */
	bool rep, until; /* until: CMPS or SCAS found its end */
};

static u16 compare(u64 a, u64 b, unsigned size)
{
	u16 cc;
	switch (size) {
	case 1: asm("cmpb %2, %1\n\tlahf\n\tseto %%al" : "=a"(cc) : "q"((u8)a), "q"((u8)b) : "cc"); break;
	case 2: asm("cmpw %2, %1\n\tlahf\n\tseto %%al" : "=a"(cc) : "r"((u16)a), "r"((u16)b) : "cc"); break;
	case 4: asm("cmpl %2, %1\n\tlahf\n\tseto %%al" : "=a"(cc) : "r"((u32)a), "r"((u32)b) : "cc"); break;
	default: asm("cmpq %2, %1\n\tlahf\n\tseto %%al" : "=a"(cc) : "r"(a), "r"(b) : "cc"); break;
	}
	return cc;
}

static bool moves_si(unsigned op) { return op == STR_MOVS || op == STR_LODS || op == STR_CMPS || op == STR_OUTS; }
static bool moves_di(unsigned op) { return op != STR_LODS && op != STR_OUTS; }

/* n elements are done. */
static void advance(struct cpu *c, const struct insn *i, struct run *r, u64 n)
{
	unsigned width = i->asize;
	if (moves_si(i->aux8)) {
		r->si = (r->si + (u64)r->step * n) & r->mask;
		wr_size(c, GPR_RSI, width, r->si);
	}
	if (moves_di(i->aux8)) {
		r->di = (r->di + (u64)r->step * n) & r->mask;
		wr_size(c, GPR_RDI, width, r->di);
	}
	r->left -= n;
	if (r->rep)
		wr_size(c, GPR_RCX, width, r->left);
}

/* REPE stops when ZF is clear, REPNE when it is set. */
static void compared(struct cpu *c, const struct insn *i, struct run *r, u64 a, u64 b)
{
	c->arch.cc = compare(a, b, r->size);
	r->until = r->rep && ((i->flags & INSN_REP) ? a != b : a == b);
}

/* ---- one element ---- */
static enum step ins(struct cpu *c, const struct insn *i, struct run *r)
{
	u16 port = rd_u16(c, GPR_RDX);
	u64 la;
	if (!cpu_io_allowed(c, port, r->size))
		return STEP_FAULT;
	if (cpu_icept(c, ICEPT_IN, i, port, r->size | 16))
		return STEP_STOP;
	/* The destination faults before the port is read (GUESTS.md section 8.48). */
	if (!seg_la(c, i, SEG_ES, r->di, r->size, true, &la) || !mmu_probe_write(c, la, r->size))
		return STEP_FAULT;
	if (c->arch.dr[7] & 0xff)
		cpu_debug_io(c, port, r->size);
	c->stats.ports++;
	u64 v = c->io->port_read(c->io->vm, port, r->size);
	return st_seg(c, i, la, r->size, SEG_ES, v) ? STEP_END : STEP_FAULT;
}

static enum step outs(struct cpu *c, const struct insn *i, struct run *r)
{
	u16 port = rd_u16(c, GPR_RDX);
	u64 v;
	if (!cpu_io_allowed(c, port, r->size))
		return STEP_FAULT;
	if (cpu_icept(c, ICEPT_OUT, i, port, r->size | 16))
		return STEP_STOP;
	if (!seg_read(c, i, i->seg, r->si, r->size, &v))
		return STEP_FAULT;
	if (c->arch.dr[7] & 0xff)
		cpu_debug_io(c, port, r->size);
	c->stats.ports++;
	c->io->port_write(c->io->vm, port, v, r->size);
	return STEP_END;
}

static enum step one(struct cpu *c, const struct insn *i, struct run *r)
{
	u64 a, b;
	enum step s = STEP_END;
	switch (i->aux8) {
	case STR_MOVS:
		if (!seg_read(c, i, i->seg, r->si, r->size, &a) || !seg_write(c, i, SEG_ES, r->di, r->size, a))
			return STEP_FAULT;
		break;
	case STR_STOS:
		if (!seg_write(c, i, SEG_ES, r->di, r->size, rd_size(c, GPR_RAX, r->size)))
			return STEP_FAULT;
		break;
	case STR_LODS:
		if (!seg_read(c, i, i->seg, r->si, r->size, &a))
			return STEP_FAULT;
		wr_size(c, GPR_RAX, r->size, a);
		break;
	case STR_CMPS:
		if (!seg_read(c, i, SEG_ES, r->di, r->size, &b) || !seg_read(c, i, i->seg, r->si, r->size, &a)) /* the silicon's order */
			return STEP_FAULT;
		compared(c, i, r, a, b);
		break;
	case STR_SCAS:
		if (!seg_read(c, i, SEG_ES, r->di, r->size, &b))
			return STEP_FAULT;
		compared(c, i, r, rd_size(c, GPR_RAX, r->size), b);
		break;
	case STR_INS: s = ins(c, i, r); break;
	default: s = outs(c, i, r); break;
	}
	if (s == STEP_END)
		advance(c, i, r, 1);
	return s;
}

/* ---- spans ---- */
/* Host address of up to *len bytes at seg:ea, upwards, in one page. NULL: single elements (or a fault, in cpu->fault). */
static u8 *span(struct cpu *c, unsigned seg, u64 ea, u64 mask, bool write, u64 *len)
{
	u64 bound = write ? c->bound_w[seg] : c->bound_r[seg];
	u64 room = PAGE_SIZE - ((c->seg_base[seg] + ea) & ~PAGE_MASK);
	*len = min_u64(*len, room);
	if (ea + *len - 1 >= bound || ea + *len - 1 > mask || ea + *len - 1 < ea)
		return NULL;
	u64 la = c->seg_base[seg] + ea;
	return mmu_span(c, c->mode & MODE_L ? la : (u32)la, write, len);
}

/* Zeros and the like by the host's memset. */
void string_fill(u8 *to, u64 v, unsigned size, u64 bytes)
{
	if (size == 1 || v == (u8)v * (low_mask(8 * size) / 0xff)) {
		memset(to, (u8)v, bytes);
		return;
	}
	for (u64 k = 0; k < bytes; k += size)
		mmu_host_store(to + k, size, v);
}

/* REP MOVS is forward by elements: an overlap with the destination above the source repeats the pattern. */
void string_copy(u8 *to, const u8 *from, unsigned size, u64 bytes)
{
	if (to <= from || to >= from + bytes) {
		memmove(to, from, bytes);
		return;
	}
	for (u64 k = 0; k < bytes; k += size)
		mmu_host_store(to + k, size, mmu_host_load(from + k, size));
}

/* Elements compared until the condition ends it; flags from the last. */
static u64 compare_span(struct cpu *c, const struct insn *i, struct run *r, const u8 *a, const u8 *b, u64 n)
{
	bool repe = i->flags & INSN_REP;
	u64 k = 0, x = rd_size(c, GPR_RAX, r->size), y = 0;
	do {
		if (a)
			x = mmu_host_load(a + k * r->size, r->size);
		y = mmu_host_load(b + k * r->size, r->size);
		k++;
	} while (k < n && (x == y) == repe);
	compared(c, i, r, x, y);
	return k;
}

/* Elements done: 0 = take the slow way for the next one. A fault is in cpu->fault. */
static u64 by_span(struct cpu *c, const struct insn *i, struct run *r)
{
	unsigned op = i->aux8;
	u64 want = min_u64(r->left, PAGE_SIZE / r->size) * r->size, len = want, len2 = want, n;
	u8 *from = NULL, *to;
	if (op == STR_MOVS) {
		from = span(c, i->seg, r->si, r->mask, false, &len);
		if (!from || len < r->size) /* an element across pages: its fault comes before the destination's */
			return 0;
	}
	len2 = len;
	to = span(c, SEG_ES, r->di, r->mask, op == STR_MOVS || op == STR_STOS, &len2);
	if (!to || len2 < r->size)
		return 0;
	if (op == STR_CMPS) { /* the other way round */
		len = len2;
		from = span(c, i->seg, r->si, r->mask, false, &len);
		if (!from)
			return 0;
	}
	n = min_u64(len, len2) / r->size;
	if (!n)
		return 0;
	if (op == STR_MOVS)
		string_copy(to, from, r->size, n * r->size);
	else if (op == STR_STOS)
		string_fill(to, rd_size(c, GPR_RAX, r->size), r->size, n * r->size);
	else
		n = compare_span(c, i, r, from, to, n);
	u64 la = c->seg_base[SEG_ES] + r->di;
	if (op == STR_MOVS || op == STR_STOS)
		mmu_span_written(c, c->mode & MODE_L ? la : (u32)la, n * r->size);
	advance(c, i, r, n);
	return n;
}

static bool spans(unsigned op) { return op == STR_MOVS || op == STR_STOS || op == STR_CMPS || op == STR_SCAS; }

/* SDM "REP": a fault in the middle leaves the flags as before the instruction, though the registers have moved. */
static enum step string_fault(struct cpu *c, const struct insn *i, const struct run *r)
{
	c->arch.cc = r->cc;
	return STEP_FAULT;
}

static noinline enum step body_string(struct cpu *c, const struct insn *i)
{
	u64 mask = size_mask(i->asize);
	struct run r = { .size = i->opsize, .mask = mask, .rep = i->flags & (INSN_REP | INSN_REPNE), .left = 1, .cc = c->arch.cc,
		.si = rd_u64(c, GPR_RSI) & mask, .di = rd_u64(c, GPR_RDI) & mask };
	bool single = c->mode & MODE_ONE;
	r.step = c->arch.rflags & FLAG_DF ? -(i64)r.size : r.size;
	if (r.rep)
		r.left = rd_u64(c, GPR_RCX) & mask;
	set_rip(c, i);
	c->fault.kind = EVENT_NONE;
	while (r.left) {
		u64 before = r.left / (STRING_BYTES_PER_TICK / r.size);
		if (r.left > 4 && r.step > 0 && !single && spans(i->aux8) && by_span(c, i, &r) != 0) {
			/* went well */
		} else if (c->fault.kind != EVENT_NONE) {
			interp_fix_fault(c, i->seg, c->seg_base[i->seg] + r.si);
			return string_fault(c, i, &r);
		} else {
			enum step s = one(c, i, &r);
			if (s != STEP_END)
				return s == STEP_FAULT ? string_fault(c, i, &r) : s;
		}
		if (r.rep)
			c->icount += before - r.left / (STRING_BYTES_PER_TICK / r.size);
		if (!r.rep || r.until)
			break;
		if (r.left && (single || cpu_must_service(c))) {
			c->icount--; /* counted once, when it completes: time must not depend on how often it was interrupted */
			return STEP_STOP;
		}
	}
	return STEP_END;
}
static enum step h_string(struct cpu *c, const struct insn *i) { return after(c, i, body_string(c, i)); }

insn_fn *sel_string(const struct form *f, struct insn *o)
{
	o->aux8 = f->arg;
	return h_string;
}
