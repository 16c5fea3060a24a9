/* --trace page: a walk that ends in a fault, in sentences. */
#include "base/log.h"
#include "cpu/paging.h"

#include <stdio.h>

static const char *const level_names[4] = {
	"page-table entry", "page-directory entry", "page-directory-pointer entry", "PML4 entry",
};

static const char *reason(u32 acc, unsigned cls, const struct walk *w, u32 error)
{
	if (!(error & PF_P))
		return "the last entry is not present";
	if (error & PF_RSVD)
		return "the last entry has a reserved bit set";
	if (cls == 2 && !w->u)
		return "the page belongs to the supervisor";
	if (acc & ACC_X)
		return w->nx ? "the page is not executable" : "the supervisor may not execute user pages (SMEP)";
	if (cls == 0 && w->u)
		return "the supervisor may not touch user pages now (SMAP)";
	return error & PF_PK ? "the page's protection key forbids it" : "the page is read-only";
}

static void explain_step(const struct walk_step *s, unsigned esize)
{
	u64 e = s->value;
	const char *name = level_names[s->level];
	unsigned long long at = s->at, value = e;
	if (!(e & PTE_P)) {
		trace_line(TRACE_PAGE, "  the %s at 0x%llx is 0x%llx: not present", name, at, value);
		return;
	}
	trace_line(TRACE_PAGE, "  the %s at 0x%llx is 0x%llx: present, %s, %s%s%s%s%s", name, at, value,
		   e & PTE_RW ? "writable" : "read-only", e & PTE_US ? "user" : "supervisor",
		   esize == 8 && (e & PTE_NX) ? ", no-execute" : "", e & PTE_A ? ", accessed" : "",
		   e & PTE_D ? ", dirty" : "", (e & PTE_PS) && s->level ? ", large page" : "");
}

void paging_explain(struct cpu *c, u64 la, u32 acc, unsigned cls, const struct walk *w, u32 error)
{
	const char *what = acc & ACC_X ? "fetch from" : acc & ACC_W ? "write to" : "read of";
	const char *who = acc & ACC_SYS ? "an implicit supervisor" : cls == 2 ? "a user" : "a supervisor";
	trace_line(TRACE_PAGE, "vCPU %u, rip 0x%llx%s: %s %s 0x%llx faults with error code 0x%x, because %s; CR3 is 0x%llx%s",
		   c->index, (unsigned long long)c->arch.rip, c->arch.guest_mode ? " (guest mode)" : "", who, what,
		   (unsigned long long)la, error, reason(acc, cls, w, error), (unsigned long long)c->arch.cr3, w->n ? " and:" : "");
	for (unsigned i = 0; i < w->n; i++)
		explain_step(&w->step[i], w->esize);
}
