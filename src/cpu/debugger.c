#include "cpu/debugger.h"
#include <errno.h>

static bool same(const struct cpu_debug_point *a, const struct cpu_debug_point *b)
{
	return a->la == b->la && a->len == b->len && a->kind == b->kind && a->level == b->level;
}

int cpu_debug_add(struct cpu_debug *d, struct cpu_debug_point p)
{
	for (unsigned i = 0; i < d->n; i++)
		if (same(&d->point[i], &p))
			return 0;
	if (d->n == CPU_DEBUG_POINTS)
		return -ENOSPC;
	d->point[d->n++] = p;
	d->nwatch += p.kind != DEBUG_EXECUTE;
	return 0;
}

int cpu_debug_remove(struct cpu_debug *d, struct cpu_debug_point p)
{
	for (unsigned i = 0; i < d->n; i++)
		if (same(&d->point[i], &p)) {
			d->point[i] = d->point[--d->n];
			d->nwatch -= p.kind != DEBUG_EXECUTE;
			return 0;
		}
	return -ENOENT;
}

bool cpu_debug_page(const struct cpu *c, u64 la)
{
	const struct cpu_debug *d = c->dbg;
	for (unsigned i = 0; i < d->n; i++)
		if (d->point[i].kind == DEBUG_EXECUTE && (d->point[i].la & PAGE_MASK) == (la & PAGE_MASK))
			return true;
	return false;
}

static bool level_fits(const struct cpu *c, const struct cpu_debug_point *p) { return (p->level > 1) == (c->arch.guest_mode != 0); }

static void stop(struct cpu *c, enum cpu_debug_hit why)
{
	c->dbg->hit = why;
	cpu_pend(c, PEND_KICK);
}

bool cpu_debug_break(struct cpu *c, u64 la)
{
	struct cpu_debug *d = c->dbg;
	if (d->hit != DEBUG_HIT_NONE) { /* somebody else let the machine go on */
		cpu_pend(c, PEND_KICK);
		return true;
	}
	if (c->icount == d->began)
		return false;
	for (unsigned i = 0; i < d->n; i++)
		if (d->point[i].kind == DEBUG_EXECUTE && d->point[i].la == la && level_fits(c, &d->point[i])) {
			stop(c, DEBUG_HIT_BREAK);
			return true;
		}
	return false;
}

void cpu_debug_stepped(struct cpu *c)
{
	if (c->dbg->step && c->dbg->hit == DEBUG_HIT_NONE && c->icount != c->dbg->began)
		stop(c, DEBUG_HIT_STEP);
}

void cpu_debug_access(struct cpu *c, u64 la, unsigned len, bool write)
{
	struct cpu_debug *d = c->dbg;
	for (unsigned i = 0; i < d->n; i++) {
		const struct cpu_debug_point *p = &d->point[i];
		if (p->kind == DEBUG_EXECUTE || (p->kind == DEBUG_WRITE && !write) || (p->kind == DEBUG_READ && write) || !level_fits(c, p))
			continue;
		if (la - p->la < p->len || p->la - la < len) {
			d->hit_la = la > p->la ? la : p->la;
			d->hit_kind = p->kind;
			stop(c, DEBUG_HIT_WATCH);
			return;
		}
	}
}
