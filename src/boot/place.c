/* Which guest memory is taken while a kernel is being placed. Every byte a loader writes goes through boot_take or boot_find first,
 * so a file cannot overwrite the tables or another module, nor leave RAM. */
#include "boot/boot_int.h"

#include <errno.h>

static bool in_ram(const struct boot *b, u64 at, u64 size)
{
	u64 ram = b->rq->board.ram, low = board_low_ram(ram), high = board_high_ram(ram);

	if (at + size < at)
		return false;
	if (at + size <= low)
		return true;
	return at >= 4 * GiB && at + size <= 4 * GiB + high;
}

static const struct boot_range *overlap(const struct boot *b, u64 at, u64 size)
{
	for (unsigned i = 0; i < b->nused; i++) {
		const struct boot_range *r = &b->used[i];

		if (at < r->at + r->size && r->at < at + size)
			return r;
	}
	return NULL;
}

static int note(struct boot *b, u64 at, u64 size, const char *what)
{
	if (b->nused == BOOT_MAX_RANGES)
		return boot_fail(b, E2BIG, "kernel \"%s\": more than %d pieces to load", b->rq->kernel, BOOT_MAX_RANGES);
	b->used[b->nused++] = (struct boot_range){ at, size, what };
	return 0;
}

int boot_take(struct boot *b, u64 at, u64 size, const char *what)
{
	const struct boot_range *o;

	if (!size)
		return 0;
	if (!in_ram(b, at, size))
		return boot_fail(b, ENOMEM, "kernel \"%s\": %s wants addresses %llx-%llxh, but the VM's RAM ends at %llxh; try more --memory",
				 b->rq->kernel, what, (unsigned long long)at, (unsigned long long)(at + size - 1),
				 (unsigned long long)board_low_ram(b->rq->board.ram));
	o = overlap(b, at, size);
	if (o)
		return boot_fail(b, EINVAL, "kernel \"%s\": %s at %llx-%llxh would overwrite %s at %llx-%llxh", b->rq->kernel, what,
				 (unsigned long long)at, (unsigned long long)(at + size - 1), o->what, (unsigned long long)o->at,
				 (unsigned long long)(o->at + o->size - 1));
	return note(b, at, size, what);
}

/* The lowest start >= lo; or with `high` the highest start so that the end is <= hi. Each step jumps over the range in the way. */
static bool search(const struct boot *b, u64 size, u64 align, u64 lo, u64 hi, bool high, u64 *at)
{
	const struct boot_range *o;
	u64 p = high ? align_down(hi - size, align) : align_up(lo, align);

	while (p >= lo && p + size <= hi) {
		o = overlap(b, p, size);
		if (!o) {
			*at = p;
			return true;
		}
		if (high && o->at < size)
			return false;
		p = high ? align_down(o->at - size, align) : align_up(o->at + o->size, align);
	}
	return false;
}

int boot_find(struct boot *b, u64 size, u64 align, u64 lo, u64 hi, bool high, const char *what, u64 *at)
{
	u64 top = board_low_ram(b->rq->board.ram);

	if (hi > top)
		hi = top;
	if (!size)
		size = 1;
	if (size > hi || lo > hi || !search(b, size, align, lo, hi, high, at))
		return boot_fail(b, ENOMEM, "%s: %llu KiB do not fit below %llxh beside the kernel; try more --memory", what,
				 (unsigned long long)(size + 1023) / 1024, (unsigned long long)hi);
	return note(b, *at, size, what);
}

int boot_put(struct boot *b, u64 at, const void *data, u64 size)
{
	int r = size ? mem_load(b->m, gpa(at), data, size) : 0;

	if (r)
		return boot_fail(b, EFAULT, "kernel \"%s\": no RAM at %llx-%llxh", b->rq->kernel, (unsigned long long)at,
				 (unsigned long long)(at + size - 1));
	return 0;
}

int boot_zero(struct boot *b, u64 at, u64 size)
{
	static const u8 zero[4096];

	while (size) {
		u64 n = min_u64(size, sizeof(zero));
		int r = boot_put(b, at, zero, n);

		if (r)
			return r;
		at += n;
		size -= n;
	}
	return 0;
}

int boot_put_string(struct boot *b, u64 at, const char *s)
{
	return boot_put(b, at, s, strlen(s) + 1);
}
