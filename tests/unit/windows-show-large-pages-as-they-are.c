/* Host code finds pieces of large pages in windows. Two neighbours in linear memory that are none in the guest's: what lies in one, over its pages' borders and over the
 * border to the other is read and written where it belongs; and nothing of it is seen any more when the large page is another one, or holds code. */
#include "interp_rig.h"

#define DIRECTORY (AT_TABLES + 0x2000)
#define AT 0x40000000ull
#define HIGH (6 * MiB) /* of the first, the second lies below */
#define LOW (2 * MiB)
#define STEP 4091u /* every odd while over a border, at last over the one between the two */
#define N 1024u

static void map(struct core *r, unsigned n, u64 at)
{
	core_set(r, DIRECTORY + 8 * n, 8, at | 0xe7);
	mmu_invlpg(r->cpu, gva(AT + n * 2 * MiB));
}

static void open_pages(struct core *r)
{
	core_ram = 10 * MiB;
	interp_open(r, CORE_LONG);
	core_set(r, AT_TABLES + 0x1000 + 8, 8, DIRECTORY | 7);
	map(r, 0, HIGH);
	map(r, 1, LOW);
	/* a: add qword ptr [rsi], rdi; add rdx, [rsi]; add rsi, r8; dec ecx; jz b; jmp r9; b: hlt. Not a region. */
	interp_put(r, 0x22000, "48013e 480316 4c01c6 ffc9 7403 41ffe1 f4");
	/* the same, as one: a: add [rsi], rdi; add rdx, [rsi]; add rsi, r8; dec ecx; jnz a; hlt */
	interp_put(r, 0x23000, "48013e 480316 4c01c6 ffc9 75f3 f4");
}

static u64 place(u64 off) { return off < 2 * MiB ? HIGH + off : LOW + off - 2 * MiB; }

static u64 expected[N];
static u64 get(struct core *r, u64 off)
{
	u64 v = 0;
	for (unsigned k = 0; k < 8; k++)
		v |= core_get(r, place(off + k), 1) << (8 * k);
	return v;
}

static void go(struct core *r, u64 code, u64 by)
{
	u64 sum = 0, *g = r->cpu->arch.gpr;
	for (unsigned n = 0; n < N; n++)
		sum += expected[n] = get(r, (u64)n * STEP) + by;
	g[GPR_RSI] = AT;
	g[GPR_RDI] = by;
	g[GPR_RDX] = 0;
	g[GPR_R8] = STEP;
	g[GPR_R9] = code;
	g[GPR_RCX] = N;
	interp_go(r, code);
	assert_int_equal(g[GPR_RDX], sum);
	for (unsigned n = 0; n < N; n++)
		assert_int_equal(get(r, (u64)n * STEP), expected[n]);
}

static void all_of_them(struct core *r)
{
	go(r, 0x22000, 1);
	go(r, 0x23000, 0x100);
	go(r, 0x22000, 0x010203040506);
}

static void reads_and_writes_go_where_they_belong(void **state)
{
	struct core r;
	open_pages(&r);
	for (unsigned n = 0; n < 3; n++)
		all_of_them(&r);
	interp_close(&r);
}

static void another_page_is_seen_at_once(void **state)
{
	struct core r;
	open_pages(&r);
	all_of_them(&r);
	u64 was = core_get(&r, LOW, 8);
	map(&r, 1, 4 * MiB);
	r.cpu->arch.gpr[GPR_RDX] = 0;
	r.cpu->arch.gpr[GPR_RDI] = 5;
	r.cpu->arch.gpr[GPR_RSI] = AT + 2 * MiB;
	r.cpu->arch.gpr[GPR_RCX] = 1;
	interp_go(&r, 0x22000);
	assert_int_equal(r.cpu->arch.gpr[GPR_RDX], 5);
	assert_int_equal(core_get(&r, 4 * MiB, 8), 5);
	assert_int_equal(core_get(&r, LOW, 8), was);
	interp_close(&r);
}

/* mov eax, 1; hlt, and then the 1 is written over, through the large page. */
static void code_in_one_is_not_written_unseen(void **state)
{
	struct core r;
	open_pages(&r);
	all_of_them(&r);
	const u64 code = AT + 1 * MiB + 0x5000;
	for (unsigned n = 0; n < 3; n++) {
		if (!n)
			interp_put(&r, HIGH + 1 * MiB + 0x5000, "b8 01000000 f4");
		interp_go(&r, code);
		assert_int_equal(r.cpu->arch.gpr[GPR_RAX], 1 + 7 * n);
		r.cpu->arch.gpr[GPR_RDX] = 0;
		r.cpu->arch.gpr[GPR_RDI] = 7;
		r.cpu->arch.gpr[GPR_RSI] = code + 1;
		r.cpu->arch.gpr[GPR_RCX] = 1;
		interp_go(&r, 0x22000);
	}
	all_of_them(&r);
	interp_close(&r);
}

static bool is_dirty(const struct core *r, u64 at)
{
	u64 f = (u64)mem_frame(&r->mem, gpa(at));
	return r->mem.dirty[f / 64] >> (f % 64) & 1;
}

static void writes_are_logged(void **state)
{
	struct core r;
	open_pages(&r);
	all_of_them(&r);
	mem_dirty_take(&r.mem, NULL);
	mmu_flush_all(r.cpu);
	interp_put(&r, 0x24000, "480316 4c01c6 ffc9 7403 41ffe1 f4"); /* only reads */
	r.cpu->arch.gpr[GPR_RSI] = AT;
	r.cpu->arch.gpr[GPR_R9] = 0x24000;
	r.cpu->arch.gpr[GPR_RCX] = N;
	interp_go(&r, 0x24000);
	for (unsigned turn = 0; turn < 2; turn++) { /* the second finds all pages written */
		all_of_them(&r);
		for (unsigned n = 0; n < N; n++) {
			assert_true(is_dirty(&r, place((u64)n * STEP)));
			assert_true(is_dirty(&r, place((u64)n * STEP + 7)));
		}
	}
	interp_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(reads_and_writes_go_where_they_belong), cmocka_unit_test(another_page_is_seen_at_once),
					    cmocka_unit_test(code_in_one_is_not_written_unseen), cmocka_unit_test(writes_are_logged) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
