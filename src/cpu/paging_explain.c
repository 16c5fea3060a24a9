/* --trace page: a walk that ends in a fault, in sentences. */
#include "base/log.h"
#include "cpu/paging.h"

#include <stdio.h>

static const char *const level_names[4] = { "page-table entry", "page-directory entry", "page-directory-pointer entry", "PML4 entry" };

static const struct { u32 bit; const char *text; } reasons[] = {
	{ PF_RSVD, "a reserved bit is set in the last entry" },
	{ PF_PK, "the page's protection key forbids it" },
	{ PF_I, "the page may not be executed here" },
	{ PF_W, "the page may not be written here" },
	{ PF_U, "the page belongs to the supervisor" },
};

static const char *reason(u32 error)
{
	if (!(error & PF_P))
		return "the last entry is not present";
	for (unsigned i = 0; i < array_len(reasons); i++)
		if (error & reasons[i].bit)
			return reasons[i].text;
	return "a user page is closed to the supervisor (SMAP)";
}

void paging_explain(struct cpu *c, u64 la, u32 acc, unsigned cls, const struct walk *w, u32 error)
{
	const char *what = acc & ACC_X ? "fetch from" : acc & ACC_W ? "write to" : "read of";
	const char *who = acc & ACC_SYS ? "an implicit supervisor" : cls == 2 ? "a user" : "a supervisor";
	trace_line(TRACE_PAGE, "vCPU %u, rip 0x%llx%s: %s %s 0x%llx faults with error code 0x%x, because %s; the walk from CR3 0x%llx was:",
		   c->index, (unsigned long long)c->arch.rip, c->arch.guest_mode ? " (guest mode)" : "", who, what,
		   (unsigned long long)la, error, reason(error), (unsigned long long)c->arch.cr3);
	for (unsigned i = 0; i < w->n; i++) {
		u64 e = w->step[i].value;
		const char *present = e & PTE_P ? "present" : "not present";
		if (!(e & PTE_P)) {
			trace_line(TRACE_PAGE, "  the %s at 0x%llx is 0x%llx: not present", level_names[w->step[i].level],
				   (unsigned long long)w->step[i].at, (unsigned long long)e);
			continue;
		}
		trace_line(TRACE_PAGE, "  the %s at 0x%llx is 0x%llx: %s, %s, %s%s%s%s%s", level_names[w->step[i].level],
			   (unsigned long long)w->step[i].at, (unsigned long long)e, present, e & PTE_RW ? "writable" : "read-only",
			   e & PTE_US ? "user" : "supervisor", w->esize == 8 && (e & PTE_NX) ? ", no-execute" : "",
			   e & PTE_A ? ", accessed" : "", e & PTE_D ? ", dirty" : "",
			   (e & PTE_PS) && w->step[i].level ? ", large page" : "");
	}
}
