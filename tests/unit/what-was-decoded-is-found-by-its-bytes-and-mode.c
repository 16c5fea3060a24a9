/* interp/memo.c: what it finds is what Zydis and the selectors say of the same bytes, whatever their values, place and mode; and most is found. */
#include "interp/interp.h"
#include "interp_rig.h"

static struct core r;
static int open_it(void **state) { interp_open(&r, CORE_LONG); return 0; }
static int close_it(void **state) { interp_close(&r); return 0; }

static struct insn got;
static bool end, last;
static bool known(u32 mode, const u8 *bytes, unsigned avail, unsigned off)
{
	return memo_find(interp_of(r.cpu), mode, bytes, avail, off, &got, &end, &last);
}

/* Decodes without the memo, and lets it learn. False: no such instruction. */
static bool decode(u32 mode, const u8 *bytes, unsigned off, struct insn *to, bool *ends, bool *leaves)
{
	struct interp *e = interp_of(r.cpu);
	struct isa_insn in;
	enum isa_mode isa = mode & MODE_L ? ISA_64 : mode & MODE_D ? ISA_32 : ISA_16;
	if (isa_decode(&e->dec, isa, bytes, ISA_MAX_LEN, &in) != ISA_OK || !isa_fill(&in, off, to))
		return false;
	*ends = interp_select(r.cpu, &in, mode, to, leaves);
	memo_keep(e, mode, bytes, &in, to, *ends, *leaves);
	return true;
}

static u64 seed = 1;
static unsigned dice(unsigned n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)(seed >> 33) % n;
}

/* Mostly opcodes of every program, with prefixes that are usual, and any values. */
static void some_bytes(u8 *bytes)
{
	static const u8 usual[] = { 0x89, 0x8b, 0x8d, 0x83, 0x81, 0x85, 0x39, 0x3b, 0x01, 0x03, 0x29, 0x31, 0x33, 0xc1, 0xd1, 0xd3, 0xc0, 0xc7, 0xc6, 0xf6, 0xf7, 0xff, 0xfe, 0x50, 0x58, 0x5d, 0xc3,
		0xe8, 0xe9, 0xeb, 0x74, 0x75, 0x90, 0xb8, 0xb0, 0x68, 0x6a, 0x69, 0x6b, 0xa1, 0xa3, 0xa8, 0xa9, 0x3c, 0x3d, 0xc2, 0xcd, 0xe4, 0xe3, 0xc8, 0x9a, 0xea, 0xd9, 0x62, 0xc5, 0xc4 };
	static const u8 usual_0f[] = { 0x84, 0x85, 0xb6, 0xb7, 0xbe, 0xbf, 0x44, 0x45, 0x1f, 0x94, 0xaf, 0xa3, 0xba, 0xb1, 0xc1, 0xa4, 0xac, 0x10, 0x11, 0x6f, 0x7f, 0x05, 0xa2, 0x0b, 0x70, 0xc6, 0x38, 0x3a };
	static const u8 prefixes[] = { 0x66, 0xf2, 0xf3, 0xf0, 0x64, 0x65, 0x2e, 0x67 };
	unsigned n = 0;
	for (unsigned k = 0; k < ISA_MAX_LEN; k++)
		bytes[k] = (u8)(dice(4) ? dice(256) : dice(2) * 255);
	while (n < 3 && !dice(4))
		bytes[n++] = prefixes[dice(array_len(prefixes))];
	if (dice(2))
		bytes[n++] = (u8)(0x40 | dice(16));
	if (!dice(4)) {
		bytes[n++] = 0x0f;
		bytes[n++] = dice(8) ? usual_0f[dice(array_len(usual_0f))] : (u8)dice(256);
	} else if (dice(8)) {
		bytes[n++] = usual[dice(array_len(usual))];
	}
	bytes[n] &= (u8)(dice(4) ? 0xdb : 0xff); /* fewer ModRM bytes: some come again */
}

static void it_says_what_decoding_says(void **state)
{
	static const u32 modes[] = { MODE_PE | MODE_L, MODE_PE | MODE_L, MODE_PE | MODE_L, MODE_PE | MODE_D | MODE_SSB | MODE_FLAT, MODE_PE | MODE_D | MODE_SSB, MODE_PE, 0 };
	unsigned found = 0, all = 0;
	for (unsigned n = 0; n < 400000; n++) {
		u8 bytes[ISA_MAX_LEN];
		u32 mode = modes[dice(array_len(modes))];
		unsigned off = dice(400);
		struct insn want;
		bool ends, leaves;
		some_bytes(bytes);
		bool is = known(mode, bytes, sizeof bytes, off);
		struct insn it = got;
		bool one = end, two = last;
		if (!decode(mode, bytes, off, &want, &ends, &leaves)) {
			assert_false(is);
			continue;
		}
		all++;
		found += is;
		if (is && (memcmp(&it, &want, sizeof it) || one != ends || two != leaves))
			fail_msg("mode %x: %02x %02x %02x %02x %02x %02x %02x %02x: imm %lx, not %lx; disp %x, not %x; length %u, not %u", mode, bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5],
				 bytes[6], bytes[7], it.imm, want.imm, it.disp, want.disp, it.len, want.len);
	}
	if (found < all / 3)
		fail_msg("%u of %u found", found, all);
}

static void learn(u32 mode, const u8 *bytes, unsigned off)
{
	u8 more[ISA_MAX_LEN] = { 0 };
	struct insn i;
	bool a, b;
	memcpy(more, bytes, 8);
	assert_true(decode(mode, more, off, &i, &a, &b));
}

#define LONG (MODE_PE | MODE_L)

static void other_values_are_found_and_other_bytes_are_not(void **state)
{
	const u8 cmp[8] = { 0x83, 0x7d, 0x10, 0x01 }, other[8] = { 0x83, 0x7d, 0xf0, 0xff }, or[8] = { 0x83, 0x4d, 0x10, 0x01 };
	assert_false(known(LONG, cmp, 8, 0));
	learn(LONG, cmp, 0);
	assert_true(known(LONG, other, 8, 40));
	assert_int_equal(got.off, 40);
	assert_int_equal(got.disp, -16);
	assert_true(got.imm == ~(u64)0);
	assert_false(known(LONG, or, 8, 0));
	assert_false(known(MODE_PE | MODE_D, cmp, 8, 0));
	assert_true(known(LONG, cmp, 4, 0));
	assert_false(known(LONG, cmp, 3, 0)); /* the page ends before */
}

static void a_distance_counts_from_where_it_is(void **state)
{
	const u8 lea[8] = { 0x48, 0x8d, 0x05, 0xf0, 0xff, 0xff, 0x7f }, near[8] = { 0x48, 0x8d, 0x05, 0x00, 0x01, 0x00, 0x00 }, jz[8] = { 0x74, 0x10 };
	learn(LONG, near, 100);
	assert_true(known(LONG, near, 7, 40));
	assert_int_equal(got.disp, 0x100 + 40 + 7);
	assert_false(known(LONG, lea, 7, 40)); /* beyond what a displacement holds, there */
	assert_true(known(LONG, lea, 7, 8));
	assert_int_equal(got.disp, 0x7fffffff);
	learn(LONG, jz, 3);
	assert_true(known(LONG, jz, 2, 40) && end && last);
	assert_int_equal(got.disp, 40 + 2); /* chained: from the block's start */
	assert_int_equal(got.imm, 0x10 + 40 + 2);
}

static void a_shift_by_nothing_is_not_one_by_something(void **state)
{
	const u8 shl0[8] = { 0xc1, 0xe0, 0x00 }, shl5[8] = { 0xc1, 0xe0, 0x05 };
	learn(LONG, shl0, 0);
	assert_false(known(LONG, shl5, 8, 0));
	learn(LONG, shl5, 0);
	assert_true(known(LONG, shl5, 8, 0));
	assert_int_equal(got.imm, 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(it_says_what_decoding_says, open_it, close_it),
		cmocka_unit_test_setup_teardown(other_values_are_found_and_other_bytes_are_not, open_it, close_it),
		cmocka_unit_test_setup_teardown(a_distance_counts_from_where_it_is, open_it, close_it),
		cmocka_unit_test_setup_teardown(a_shift_by_nothing_is_not_one_by_something, open_it, close_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
