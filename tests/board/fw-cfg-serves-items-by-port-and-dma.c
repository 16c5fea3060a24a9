/* The firmware configuration interface. */
#include "dev_rig.h"
#include "dev/fw_cfg.h"
#include <errno.h>

static struct rig *r;
static struct fw_cfg *f;

static int setup(void **state)
{
	r = rig_create();
	f = fw_cfg_create(&r->bus, &r->devs);
	fw_cfg_set_u16(f, FW_CFG_NB_CPUS, 2);
	assert_int_equal(fw_cfg_add_file(f, "etc/e820", "eeee", 4), 0);
	assert_int_equal(fw_cfg_add_file(f, "etc/acpi/rsdp", "RSD PTR ", 8), 0);
	assert_int_equal(fw_cfg_add_file(f, "bootorder", "x", 1), 0);
	return 0;
}

static int teardown(void **state)
{
	rig_check_save_load(r);
	rig_free(r);
	return 0;
}

static void select_key(u16 key) { out16(r, 0x510, key); }

static u32 read_be(unsigned n)
{
	u32 v = 0;

	while (n--)
		v = v << 8 | in8(r, 0x511);
	return v;
}

static void signature_and_id_say_dma(void **state)
{
	select_key(0);
	assert_int_equal(read_be(4), 0x51454d55);
	select_key(1);
	assert_int_equal(read_be(4), 0x03000000);
	assert_int_equal(in32(r, 0x514), 0x554d4551);
	assert_int_equal(in32(r, 0x518), 0x47464320);
}

static void bytes_come_one_by_one_then_zeros(void **state)
{
	select_key(FW_CFG_NB_CPUS);
	assert_int_equal(in8(r, 0x511), 2);
	assert_int_equal(in8(r, 0x511), 0);
	assert_int_equal(in8(r, 0x511), 0);
	select_key(0x3fff);
	assert_int_equal(in8(r, 0x511), 0);
}

static void the_directory_is_sorted_and_keys_match(void **state)
{
	static const struct { const char *name; u32 size; } want[] = { { "bootorder", 1 }, { "etc/acpi/rsdp", 8 }, { "etc/e820", 4 } };

	select_key(FW_CFG_FILE_DIR);
	assert_int_equal(read_be(4), 3);
	for (unsigned i = 0; i < 3; i++) {
		char name[56];

		assert_int_equal(read_be(4), want[i].size);
		assert_int_equal(read_be(2), FW_CFG_FILE_FIRST + i);
		assert_int_equal(read_be(2), 0);
		for (unsigned k = 0; k < sizeof(name); k++)
			name[k] = (char)in8(r, 0x511);
		assert_string_equal(name, want[i].name);
	}
	select_key(FW_CFG_FILE_FIRST + 1);
	assert_int_equal(in8(r, 0x511), 'R');
}

static void adding_a_name_again_replaces_the_file(void **state)
{
	char longname[57];

	memset(longname, 'n', 56);
	longname[56] = 0;
	assert_int_equal(fw_cfg_add_file(f, "etc/e820", "EE", 2), 0);
	assert_int_equal(f->nfiles, 3);
	assert_int_equal(fw_cfg_add_file(f, longname, "", 0), -ENAMETOOLONG);
	select_key(FW_CFG_FILE_FIRST + 2);
	assert_int_equal(read_be(2), 0x4545);
}

static u32 dma(u64 at, u32 control, u32 len, u64 addr)
{
	u32 d[4] = { bswap32(control), bswap32(len), bswap32((u32)(addr >> 32)), bswap32((u32)addr) };

	mem_write(&r->mem, gpa(at), d, sizeof(d));
	out32(r, 0x514, bswap32((u32)(at >> 32)));
	out32(r, 0x518, bswap32((u32)at));
	return bswap32((u32)mem_read_le(&r->mem, gpa(at), 4));
}

static void dma_selects_reads_and_clears_control(void **state)
{
	char buf[12];

	memset(mem_ptr(&r->mem, gpa(0x2000), 16), 0xcc, 16);
	assert_int_equal(dma(0x1000, (FW_CFG_FILE_FIRST + 1) << 16 | 8 | 2, 12, 0x2000), 0);
	mem_read(&r->mem, gpa(0x2000), buf, sizeof(buf));
	assert_memory_equal(buf, "RSD PTR \0\0\0\0", 12);
	assert_int_equal(mem_read_le(&r->mem, gpa(0x200c), 1), 0xcc);
}

static void dma_skips_and_continues(void **state)
{
	assert_int_equal(dma(0x1000, (FW_CFG_FILE_FIRST + 1) << 16 | 8 | 4, 4, 0), 0);
	assert_int_equal(dma(0x1000, 2, 4, 0x2000), 0);
	assert_int_equal(mem_read_le(&r->mem, gpa(0x2000), 4), load_le("PTR ", 4));
	assert_int_equal(in8(r, 0x511), 0);
}

static void dma_to_nowhere_and_writes_report_an_error(void **state)
{
	assert_int_equal(dma(0x1000, FW_CFG_FILE_FIRST << 16 | 8 | 2, 0xffffffff, 0x2000), 1);
	assert_int_equal(dma(0x1000, FW_CFG_FILE_FIRST << 16 | 8 | 2, 1, 0xffffffffffffffffull), 1);
	assert_int_equal(dma(0x1000, FW_CFG_FILE_FIRST << 16 | 8 | 16, 1, 0x2000), 1);
	assert_int_equal(dma(0x1000, FW_CFG_FILE_FIRST << 16 | 8 | 2, 4, 0xfffc0000), 1); /* ROM */
	out32(r, 0x514, 0xffffffff);
	out32(r, 0x518, 0xffffffff); /* the descriptor itself is nowhere */
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(signature_and_id_say_dma), T(bytes_come_one_by_one_then_zeros), T(the_directory_is_sorted_and_keys_match),
		T(adding_a_name_again_replaces_the_file), T(dma_selects_reads_and_clears_control), T(dma_skips_and_continues),
		T(dma_to_nowhere_and_writes_report_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
