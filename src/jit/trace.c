/* --trace jit: each translated block, guest instruction by guest instruction with the host code made of it. */
#include "jit/tr.h"
#include <stdio.h>

static void bytes_of(const u8 *p, unsigned n, char *to, size_t room)
{
	to[0] = 0;
	for (unsigned k = 0; k < n && 2 * k + 3 < room; k++)
		snprintf(to + 2 * k, room - 2 * k, "%02x", p[k]);
}

static void host_code(const struct tr *t, const u8 *from, const u8 *to)
{
	const struct isa_decoder *d = &t->j->in.dec;
	while (from < to) {
		struct isa_insn in;
		char text[128] = "?", hex[40];
		enum isa_result r = isa_decode(d, ISA_64, from, (unsigned)(to - from), &in);
		unsigned len = r == ISA_OK ? in.zi.length : 1;
		if (r == ISA_OK)
			isa_format(&in, (u64)(uintptr_t)from, text, sizeof text);
		bytes_of(from, len, hex, sizeof hex);
		trace_line(TRACE_JIT, "        %-24s %s", hex, text);
		from += len;
	}
}

void tr_trace(const struct tr *t)
{
	struct cpu *c = t->c;
	const struct block *b = t->code->block;
	unsigned first = block_first_slot(b), end = first + b->n;
	u64 rip = c->arch.gpr[GPR_BLOCK_RIP];
	const u8 *cold = t->hot_end;
	trace_line(TRACE_JIT, "cpu%u block %016llx: %u instructions, %ld bytes and %ld of stubs at host %p", c->index, (unsigned long long)rip, b->n,
		   (long)(cold - t->code->far), (long)(t->a.p - cold), (void *)t->code->far);
	host_code(t, t->code->far, t->begin[first]);
	for (unsigned k = first; k < end && t->begin[k]; k++) {
		struct isa_insn in;
		u8 bytes[ISA_MAX_LEN];
		u64 at = rip + b->insn[k].off, bad;
		char text[128] = "?", hex[40];
		unsigned len = mmu_fetch_bytes(c, at, bytes, ISA_MAX_LEN, &bad);
		if (isa_decode(&t->j->in.dec, jit_isa(b), bytes, len, &in) == ISA_OK)
			isa_format(&in, at, text, sizeof text);
		bytes_of(bytes, b->insn[k].len, hex, sizeof hex);
		trace_line(TRACE_JIT, "    %-28s %s", hex, text);
		host_code(t, t->begin[k], k + 1u < end && t->begin[k + 1] ? t->begin[k + 1] : cold);
	}
}

void tr_trace_region(const struct tr *t, const u8 *from)
{
	trace_line(TRACE_JIT, "cpu%u region of %u blocks at page offset %03x: %ld bytes and %ld of stubs; SLOW, the entries with ENTRY, FAST: at host %p", t->c->index, t->j->path.n,
		   t->code->block->off, (long)(t->hot_end - from), (long)(t->a.p - t->hot_end), (const void *)from);
	host_code(t, from, t->hot_end);
}
