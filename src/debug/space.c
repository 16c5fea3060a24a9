#include "debug/space.h"
#include "vmx/nest.h"

#include <errno.h>

#define ADDRESS 0x000ffffffffff000ull
#define PRESENT BIT(0)
#define LARGE BIT(7)

#define SAY(...) do { if (out) fprintf(out, __VA_ARGS__); } while (0)
#define ULL(x) ((unsigned long long)(x))

static const char *const table_name[4] = { "page-table", "page-directory", "page-directory-pointer", "PML4" };

/* ---- EPT (SDM "EPT Translation Mechanism") ---- */
static bool ept_entry_ok(u64 e, unsigned level, u64 at, FILE *out)
{
	SAY("    the EPT %s entry at 0x%llx is 0x%llx: ", table_name[level], ULL(at), ULL(e));
	if (!(e & 7)) {
		SAY("not present\n");
		return false;
	}
	SAY("%s%s%s%s\n", e & 1 ? "r" : "-", e & 2 ? "w" : "-", e & 4 ? "x" : "-", level && (e & LARGE) ? ", large page" : "");
	if ((e & 3) == 2)
		SAY("    this is an EPT misconfiguration: writable and not readable [SDM \"EPT Misconfigurations\"]\n");
	return (e & 3) != 2;
}

static bool through_ept(const struct mem *mem, u64 eptp, u64 gpa_, u64 *at, FILE *out)
{
	u64 table = eptp & ADDRESS;
	for (unsigned level = 3;; level--) {
		unsigned shift = 12 + 9 * level;
		u64 where = table + (gpa_ >> shift & 511) * 8;
		u64 e = mem_ptr(mem, gpa(where), 8) ? mem_read_le(mem, gpa(where), 8) : 0;
		if (!ept_entry_ok(e, level, where, out))
			return false;
		if (level == 0 || (level < 3 && (e & LARGE))) {
			u64 mask = BIT(shift) - 1;
			*at = (e & ADDRESS & ~mask) | (gpa_ & mask);
			return true;
		}
		table = e & ADDRESS;
	}
}

static bool to_l1(const struct mem *mem, const struct debug_space *s, u64 gpa_, u64 *at, FILE *out)
{
	if (!s->eptp) {
		*at = gpa_;
		return true;
	}
	return through_ept(mem, s->eptp, gpa_, at, out);
}

/* ---- guest paging (SDM "Paging") ---- */
struct shape { unsigned levels, bits, top_bits, size; };

static struct shape shape_of(const struct debug_space *s)
{
	if (!(s->cr0 & CR0_PG))
		return (struct shape){ 0, 0, 0, 0 };
	if (s->efer & EFER_LMA)
		return (struct shape){ 4, 9, 9, 8 };
	if (s->cr4 & CR4_PAE)
		return (struct shape){ 3, 9, 2, 8 };
	return (struct shape){ 2, 10, 10, 4 };
}

static void say_entry(u64 e, unsigned level, u64 at, bool large, bool wide, FILE *out)
{
	SAY("  the %s entry at 0x%llx is 0x%llx: ", table_name[level], ULL(at), ULL(e));
	if (!(e & PRESENT)) {
		SAY("not present\n");
		return;
	}
	SAY("present, %s, %s%s%s%s%s\n", e & 2 ? "writable" : "read-only", e & 4 ? "user" : "supervisor", wide && e >> 63 ? ", no-execute" : "",
	    e & 32 ? ", accessed" : "", e & 64 ? ", dirty" : "", large ? ", large page" : "");
}

static bool is_large(const struct debug_space *s, const struct shape *p, unsigned level, u64 e)
{
	if (!level || level == 3 || !(e & LARGE))
		return false;
	return p->size == 8 ? level == 1 || p->levels == 4 : (s->cr4 & CR4_PSE) != 0;
}

static bool guest_walk(const struct mem *mem, const struct debug_space *s, u64 la, u64 *gpa_, FILE *out)
{
	struct shape p = shape_of(s);
	u64 table = p.levels == 3 ? s->cr3 & 0xffffffe0 : s->cr3 & (p.size == 4 ? 0xfffff000 : ADDRESS);
	if (!p.levels) {
		SAY("  paging is off: the linear address is the physical one\n");
		*gpa_ = la;
		return true;
	}
	if (p.size == 4 || p.levels == 3)
		la = (u32)la;
	for (unsigned level = p.levels - 1;; level--) {
		unsigned shift = 12 + p.bits * level, bits = level == p.levels - 1 ? p.top_bits : p.bits;
		u64 where = table + (la >> shift & (BIT(bits) - 1)) * p.size, at;
		if (!to_l1(mem, s, where, &at, NULL)) {
			SAY("  the %s entry would be at 0x%llx, which EPT does not map:\n", table_name[level], ULL(where));
			to_l1(mem, s, where, &at, out);
			return false;
		}
		u64 e = mem_ptr(mem, gpa(at), p.size) ? mem_read_le(mem, gpa(at), p.size) : 0;
		bool large = is_large(s, &p, level, e);
		say_entry(e, level, where, large, p.size == 8, out);
		if (!(e & PRESENT))
			return false;
		if (level == 0 || large) {
			u64 mask = BIT(shift) - 1;
			*gpa_ = (e & (p.size == 4 ? 0xfffff000 : ADDRESS) & ~mask) | (la & mask);
			if (p.size == 4 && large) /* PSE-36 */
				*gpa_ |= (e >> 13 & 0xff) << 32;
			return true;
		}
		table = e & (p.size == 4 ? 0xfffff000 : ADDRESS);
	}
}

static void say_end(const struct mem *mem, u64 at, FILE *out)
{
	const struct mem_slot *slot = mem_slot_at(mem, gpa(at));
	if (slot)
		SAY("  L1-physical 0x%llx is %s (%s)\n", ULL(at), slot->kind == MEM_ROM ? "ROM" : "RAM", slot->name);
	else
		SAY("  L1-physical 0x%llx is no memory: a device, or nothing\n", ULL(at));
}

bool debug_translate(const struct mem *mem, const struct debug_space *s, u64 la, u64 *at, FILE *out)
{
	u64 gpa_;
	SAY("linear address 0x%llx at level %u, CR3 0x%llx%s:\n", ULL(la), s->level, ULL(s->cr3), s->efer & EFER_LMA ? ", 4-level paging" : "");
	if (!guest_walk(mem, s, la, &gpa_, out))
		return false;
	SAY("  guest-physical 0x%llx\n", ULL(gpa_));
	if (s->eptp)
		SAY("  through EPT, root 0x%llx:\n", ULL(s->eptp & ADDRESS));
	if (!to_l1(mem, s, gpa_, at, out)) {
		SAY("  an access is an EPT violation or misconfiguration, which its hypervisor gets\n");
		return false;
	}
	say_end(mem, *at, out);
	return true;
}

/* ---- memory ---- */
static u8 *next_piece(const struct mem *mem, const struct debug_space *s, u64 la, size_t len, size_t *piece, u64 *at)
{
	*piece = min_u64(len, PAGE_SIZE - (la & (PAGE_SIZE - 1)));
	return debug_translate(mem, s, la, at, NULL) ? mem_ptr(mem, gpa(*at), *piece) : NULL;
}

size_t debug_read(const struct mem *mem, const struct debug_space *s, u64 la, void *to, size_t len)
{
	size_t done = 0, piece;
	u64 at;
	while (done < len) {
		const u8 *p = next_piece(mem, s, la + done, len - done, &piece, &at);
		if (!p)
			break;
		memcpy((u8 *)to + done, p, piece);
		done += piece;
	}
	return done;
}

size_t debug_write(struct mem *mem, const struct debug_space *s, u64 la, const void *from, size_t len)
{
	size_t done = 0, piece;
	u64 at;
	while (done < len) {
		if (!next_piece(mem, s, la + done, len - done, &piece, &at) || mem_write(mem, gpa(at), (const u8 *)from + done, piece))
			break;
		done += piece;
	}
	return done;
}

/* ---- whose ---- */
static const struct nest_guest *latest(const struct nest *n, unsigned level)
{
	const struct nest_guest *best = NULL;
	for (unsigned i = 0; n && i < min_u64(n->n, NEST_GUESTS); i++)
		if (n->guest[i].level == level && (!best || n->guest[i].last_entry > best->last_entry))
			best = &n->guest[i];
	return best;
}

int debug_space_of(struct vm *vm, unsigned cpu, unsigned level, struct debug_space *s)
{
	const struct cpu *c = cpu < vm->ncpus ? vm->vcpus[cpu].cpu : NULL;
	const struct nest *n = c ? vmx_nest(c) : NULL;
	struct nest_state st;
	if (!c || level < 1)
		return -ENOENT;
	if (level == 1 && !c->arch.guest_mode) {
		*s = (struct debug_space){ c->arch.cr0, c->arch.cr3, c->arch.cr4, c->arch.efer, 0, 1 };
		return 0;
	}
	if (level == 1) { /* where the hypervisor goes on: VMX operation is protected mode with paging */
		if (!n || !n->n || !vmx_nest_state(c, &n->guest[n->cur], &st))
			return -ENOENT;
		*s = (struct debug_space){ CR0_PE | CR0_PG, st.host_cr3, st.host_cr4, st.host64 ? EFER_LMA | EFER_LME : 0, 0, 1 };
		return 0;
	}
	const struct nest_guest *g = latest(n, level);
	if (!g || !vmx_nest_state(c, g, &st))
		return -ENOENT;
	*s = (struct debug_space){ st.cr0, st.cr3, st.cr4, st.efer, st.eptp, level };
	return 0;
}
