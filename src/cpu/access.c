/* Data accesses that the inline TLB hit cannot do: misses, page crossings, devices, pages with code, alignment checks
 * and data breakpoints. Surprise: both pages of a crossing access are translated before a byte moves, so that a fault
 * on the second leaves the first alone. */
#include "cpu/core.h"
#include "cpu/paging.h"

#include <pthread.h>

/* The bytes of an access that lie in one page. A copy, because device callbacks may change the TLB. */
struct part {
	u64 la, gpa;
	u8 *host;      /* NULL: device */
	u32 perm, frame;
	unsigned len;
	bool direct;   /* writes may go to host memory unseen */
};

struct access {
	struct part p[2];
	unsigned n;
	bool user_breaks; /* check data breakpoints afterwards */
};

static unsigned class_of(const struct cpu *c, u32 acc)
{
	if (acc & ACC_SYS) /* SDM "Access Rights": implicit accesses ignore RFLAGS.AC */
		return c->arch.cr4 & CR4_SMAP ? 0 : 1;
	return c->acc_class < 3 ? c->acc_class : mmu_privilege_class(c);
}

/* Address of the byte at la + n. Outside 64-bit mode linear addresses wrap at 4 GiB. */
static u64 advance(const struct cpu *c, u64 la, u64 n)
{
	u64 next = la + n;
	return (c->mode & MODE_L) || la >> 32 ? next : (u32)next;
}

static bool get_part(struct cpu *c, u64 la, unsigned len, u32 acc, unsigned cls, struct part *p)
{
	struct tlb_entry *e = mmu_hit(c, la, paging_need(acc, cls));
	if (!e && !(e = mmu_fill(c, la, acc, cls)))
		return false;
	p->la = la;
	p->gpa = e->gpa | (la & 0xfff);
	p->host = e->perm & TLB_IO ? NULL : (u8 *)(la + e->addend);
	p->perm = e->perm;
	p->frame = e->frame;
	p->len = len;
	p->direct = e->perm & TLB_W(cls);
	return true;
}

/* Checks and translates [la, la+len), len <= 4096. align: power of two for #AC, or 1. False: cpu->fault. */
static bool begin(struct cpu *c, u64 la, unsigned len, unsigned align, u32 acc, struct access *a)
{
	unsigned cls = class_of(c, acc), first = min_u64(len, PAGE_SIZE - (la & 0xfff));
	if (!(c->arch.efer & EFER_LMA))
		la = (u32)la;
	u64 last = advance(c, la, len - 1);
	a->user_breaks = false;
	if (!paging_canonical(c, la) || !paging_canonical(c, last))
		return false;
	if (unlikely(c->acc_class == 3) && !(acc & ACC_SYS)) {
		if ((la & (align - 1)) && mmu_alignment_on(c)) {
			cpu_fault_err(c, VEC_AC, 0);
			return false;
		}
		a->user_breaks = mmu_debug_on(c) || c->dbg;
	}
	a->n = first < len ? 2 : 1;
	return get_part(c, la, first, acc, cls, &a->p[0]) &&
	       (a->n == 1 || get_part(c, advance(c, la, first), len - first, acc, cls, &a->p[1]));
}

static void end(struct cpu *c, const struct access *a, bool write)
{
	if (likely(!a->user_breaks))
		return;
	for (unsigned i = 0; i < a->n; i++)
		cpu_debug_data(c, a->p[i].la, a->p[i].len, write);
	for (unsigned i = 0; c->dbg && i < a->n; i++)
		cpu_debug_access(c, a->p[i].la, a->p[i].len, write);
}

/* ---- devices ---- */

static void lapic_access(struct cpu *c, u32 off, unsigned size, bool write, u64 *v)
{
	u64 value = 0;
	for (unsigned i = 0; i < size; i += 4) { /* registers are 32 bits wide */
		unsigned n = size < 4 ? size : 4;
		if (write)
			c->intc->mmio_write(c->intc_state, off + i, *v >> (8 * i) & low_mask(8 * n), n);
		else
			value |= (c->intc->mmio_read(c->intc_state, off + i, n) & low_mask(8 * n)) << (8 * i);
	}
	if (!write)
		*v = value;
}

bool mmu_io(struct cpu *c, u64 at, u64 la, unsigned size, bool write, u64 *v)
{
	u64 page = at & PAGE_MASK;
	c->stats.mmios++;
	if (mmu_is_vapic(c, page))
		return c->virt->virtual_apic(c, at & 0xfff, size, write, false, v, gva(la));
	if (mmu_is_lapic(c, page))
		lapic_access(c, at & 0xfff, size, write, v);
	else if (write)
		c->io->mmio_write(c->io->vm, at, *v, size);
	else
		*v = c->io->mmio_read(c->io->vm, at, size);
	return true;
}

/* Largest access of 1, 2, 4 or 8 bytes within the `left` ones. */
static unsigned io_size(unsigned left) { return left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1; }

static bool io_read(struct cpu *c, const struct part *p, u8 *to)
{
	for (unsigned done = 0, n; done < p->len; done += n) {
		u64 v = 0;
		n = io_size(p->len - done);
		if (!mmu_io(c, p->gpa + done, p->la + done, n, false, &v))
			return false;
		store_le(to + done, v, n);
	}
	return true;
}

static bool io_write(struct cpu *c, const struct part *p, const u8 *from)
{
	for (unsigned done = 0, n; done < p->len; done += n) {
		n = io_size(p->len - done);
		u64 v = load_le(from + done, n);
		if (!mmu_io(c, p->gpa + done, p->la + done, n, true, &v))
			return false;
	}
	return true;
}

/* ---- parts ---- */

/* Constant sizes, so that vector accesses are the host's vector accesses. */
static void copy(void *to, const void *from, unsigned len)
{
	switch (len) {
	case 1: case 2: case 4: case 8: host_store(to, len, host_load(from, len)); break;
	case 16: memcpy(to, from, 16); break;
	case 32: memcpy(to, from, 32); break;
	default: memcpy(to, from, len);
	}
}

static bool read_part(struct cpu *c, const struct part *p, u8 *to)
{
	if (unlikely(!p->host))
		return io_read(c, p, to);
	copy(to, p->host, p->len);
	return true;
}

/* After a write that TLB_W did not cover: tell the listeners; if the page has lost its code meanwhile, open it. */
static void note_part(struct cpu *c, const struct part *p)
{
	mem_note_write(c->mem, p->frame, p->gpa & 0xfff, p->len);
	struct tlb_entry *e = mmu_hit(c, p->la, 0);
	if (!e || e->frame != p->frame)
		return;
	tlb_open(c, e, tlb_direct(c, e->perm, e->frame));
}

static bool write_part(struct cpu *c, const struct part *p, const u8 *from)
{
	if (unlikely(!p->host || (p->perm & TLB_ROM)))
		return io_write(c, p, from);
	if (!p->direct)
		mem_will_write(c->mem, p->frame);
	copy(p->host, from, p->len);
	if (!p->direct)
		note_part(c, p);
	return true;
}

/* ---- scalars ---- */

static bool read_scalar(struct cpu *c, u64 la, unsigned size, u32 acc, u64 *v)
{
	struct access a;
	u8 bytes[32] = { 0 }; /* 8 are used; copy() may be inlined with all its sizes */
	if (!begin(c, la, size, size, acc, &a))
		return false;
	if (!read_part(c, &a.p[0], bytes) || (a.n == 2 && !read_part(c, &a.p[1], bytes + a.p[0].len)))
		return false;
	*v = load_le(bytes, 8);
	end(c, &a, false);
	return true;
}

static bool write_scalar(struct cpu *c, u64 la, unsigned size, u32 acc, u64 v)
{
	struct access a;
	u8 bytes[32]; /* as much as copy() could touch, which the compiler cannot know it does not */
	if (!begin(c, la, size, size, acc, &a))
		return false;
	store_le(bytes, v, 8);
	if (!write_part(c, &a.p[0], bytes) || (a.n == 2 && !write_part(c, &a.p[1], bytes + a.p[0].len)))
		return false;
	end(c, &a, true);
	return true;
}

bool mmu_read_slow(struct cpu *c, u64 la, unsigned size, u64 *v) { return read_scalar(c, la, size, ACC_R, v); }
bool mmu_write_slow(struct cpu *c, u64 la, unsigned size, u64 v) { return write_scalar(c, la, size, ACC_W, v); }
bool mmu_read_sys(struct cpu *c, u64 la, unsigned size, u64 *v) { return read_scalar(c, la, size, ACC_R | ACC_SYS, v); }
bool mmu_write_sys(struct cpu *c, u64 la, unsigned size, u64 v) { return write_scalar(c, la, size, ACC_W | ACC_SYS, v); }

/* ---- bytes ---- */

bool mmu_read_bytes(struct cpu *c, u64 la, void *to, unsigned len)
{
	struct tlb_entry *e = mmu_hit(c, la, TLB_R(c->acc_class));
	if (likely(e && (la & 0xfff) + len <= PAGE_SIZE)) {
		copy(to, (const void *)(la + e->addend), len);
		return true;
	}
	struct access a;
	if (!len)
		return true;
	bug_if(len > PAGE_SIZE);
	if (!begin(c, la, len, 1, ACC_R, &a))
		return false;
	if (!read_part(c, &a.p[0], to) || (a.n == 2 && !read_part(c, &a.p[1], (u8 *)to + a.p[0].len)))
		return false;
	end(c, &a, false);
	return true;
}

bool mmu_write_bytes(struct cpu *c, u64 la, const void *from, unsigned len)
{
	struct tlb_entry *e = mmu_hit(c, la, TLB_W(c->acc_class));
	if (likely(e && (la & 0xfff) + len <= PAGE_SIZE)) {
		copy((void *)(la + e->addend), from, len);
		return true;
	}
	struct access a;
	if (!len)
		return true;
	bug_if(len > PAGE_SIZE);
	if (!begin(c, la, len, 1, ACC_W, &a))
		return false;
	if (!write_part(c, &a.p[0], from) || (a.n == 2 && !write_part(c, &a.p[1], (const u8 *)from + a.p[0].len)))
		return false;
	end(c, &a, true);
	return true;
}

bool mmu_probe_read(struct cpu *c, u64 la, unsigned len)
{
	struct access a;
	return !len || begin(c, la, len, 1, ACC_R, &a);
}

bool mmu_probe_write(struct cpu *c, u64 la, unsigned len)
{
	struct access a;
	return !len || begin(c, la, len, 1, ACC_W, &a);
}

/* ---- read-modify-write ---- */

void *mmu_rmw_miss(struct cpu *c, u64 la, unsigned size, bool *slow)
{
	struct access a;
	*slow = false;
	if (c->acc_class == 3) { /* mmu_rmw_slow does the checks */
		*slow = true;
		return NULL;
	}
	if (!begin(c, la, size, 1, ACC_R | ACC_W, &a))
		return NULL;
	bool whole = a.p[0].direct && (a.n == 1 || (a.p[1].direct && a.p[1].host == a.p[0].host + a.p[0].len));
	*slow = !whole;
	return whole ? a.p[0].host : NULL;
}

/* Serialises read-modify-writes that the host cannot do in one locked instruction. */
static pthread_mutex_t split_lock = PTHREAD_MUTEX_INITIALIZER;

/* Locked compare-and-swap; *old becomes what was there. */
static bool cas(void *p, unsigned size, u64 *old, u64 next)
{
	bool ok;
	switch (size) {
	case 1: asm volatile("lock cmpxchgb %b3, %1" : "=@cce"(ok), "+m"(*(u8 *)p), "+a"(*old) : "q"(next) : "memory"); break;
	case 2: asm volatile("lock cmpxchgw %w3, %1" : "=@cce"(ok), "+m"(*(any_u16 *)p), "+a"(*old) : "r"(next) : "memory"); break;
	case 4: asm volatile("lock cmpxchgl %k3, %1" : "=@cce"(ok), "+m"(*(any_u32 *)p), "+a"(*old) : "r"(next) : "memory"); break;
	default: asm volatile("lock cmpxchgq %q3, %1" : "=@cce"(ok), "+m"(*(any_u64 *)p), "+a"(*old) : "r"(next) : "memory");
	}
	return ok;
}

/* One word of RAM, so that plain writes of other vCPUs are not lost. */
static void rmw_word(const struct part *p, void (*fn)(void *bytes, void *arg), void *arg)
{
	u64 old = host_load(p->host, p->len), next;
	do {
		next = old;
		fn(&next, arg);
	} while (!cas(p->host, p->len, &old, next));
}

/* The same for 16 bytes. Alignment is the caller's check. */
static void rmw_pair(const struct part *p, void (*fn)(void *bytes, void *arg), void *arg)
{
	u64 old[2] = { host_load(p->host, 8), host_load(p->host + 8, 8) }, next[2];
	bool ok;
	do {
		memcpy(next, old, 16);
		fn(next, arg);
		asm volatile("lock cmpxchg16b %1" : "=@cce"(ok), "+m"(*(u128 *)p->host), "+a"(old[0]), "+d"(old[1])
			     : "b"(next[0]), "c"(next[1]) : "memory");
	} while (!ok);
}

/* Anything else: devices, scattered pages. */
static bool rmw_bytes(struct cpu *c, const struct access *a, void (*fn)(void *bytes, void *arg), void *arg)
{
	u8 bytes[16] = { 0 };
	unsigned first = a->p[0].len;
	if (!read_part(c, &a->p[0], bytes) || (a->n == 2 && !read_part(c, &a->p[1], bytes + first)))
		return false;
	fn(bytes, arg);
	return write_part(c, &a->p[0], bytes) && (a->n == 1 || write_part(c, &a->p[1], bytes + first));
}

bool mmu_rmw_slow(struct cpu *c, u64 la, unsigned size, void (*fn)(void *bytes, void *arg), void *arg)
{
	struct access a;
	bool ok = true;
	bug_if(size > 16);
	if (!begin(c, la, size, size, ACC_R | ACC_W, &a))
		return false;
	const struct part *p = &a.p[0];
	bool word = !(size & (size - 1)) && (size < 16 || !(la & 15));
	bool ram = a.n == 1 && p->host && !(p->perm & TLB_ROM) && word;
	if (ram && !p->direct)
		mem_will_write(c->mem, p->frame);
	pthread_mutex_lock(&split_lock);
	if (!ram)
		ok = rmw_bytes(c, &a, fn, arg);
	else if (size == 16)
		rmw_pair(p, fn, arg);
	else
		rmw_word(p, fn, arg);
	pthread_mutex_unlock(&split_lock);
	if (!ok)
		return false;
	if (ram && !p->direct)
		note_part(c, p);
	end(c, &a, true);
	return true;
}

/* ---- strings ---- */

void *mmu_span(struct cpu *c, u64 la, bool write, u64 *len)
{
	c->fault.kind = EVENT_NONE;
	unsigned cls = c->acc_class;
	if (unlikely(cls == 3))
		return NULL;
	u32 need = write ? TLB_W(cls) : TLB_R(cls);
	struct tlb_entry *e = mmu_hit(c, la, need);
	if (unlikely(!e)) {
		if (mmu_hit(c, la, need << TLB_OK_SHIFT) || !paging_canonical(c, la))
			return NULL; /* permitted, but not directly; or #GP */
		e = mmu_fill(c, la, write ? ACC_W : ACC_R, cls);
		if (!e || !(e->perm & need))
			return NULL;
	}
	*len = min_u64(*len, PAGE_SIZE - (la & 0xfff));
	return (void *)(la + e->addend);
}
