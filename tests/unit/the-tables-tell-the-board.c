#include "boot_rig.h"

static u8 blob[BOARD_ACPI_SIZE];
static size_t blob_len;

static u8 sum(const u8 *p, size_t n)
{
	u8 s = 0;

	while (n--)
		s += *p++;
	return s;
}

static const u8 *at(u64 address)
{
	assert_true(address >= BOARD_ACPI_BASE && address < BOARD_ACPI_BASE + blob_len);
	return blob + (address - BOARD_ACPI_BASE);
}

static void build(unsigned ncpus)
{
	const struct board_info b = { .ncpus = ncpus, .ram = 512 * MiB };

	blob_len = acpi_build(&b, BOARD_ACPI_BASE, blob, sizeof(blob));
	assert_true(blob_len > 0);
}

static const u8 *table(const char *signature)
{
	const u8 *xsdt = at(load_le(blob + 24, 8));
	u32 len = load_le(xsdt + 4, 4);

	for (u32 i = 36; i < len; i += 8) {
		const u8 *t = at(load_le(xsdt + i, 8));

		if (!memcmp(t, signature, 4))
			return t;
	}
	return NULL;
}

static void every_acpi_table_sums_to_zero(void **state)
{
	static const u16 roots[] = { 16, 24 };
	static const unsigned cpus[] = { 1, 2, 64, 300 };

	for (unsigned c = 0; c < array_len(cpus); c++) {
		build(cpus[c]);
		assert_memory_equal(blob, "RSD PTR ", 8);
		assert_int_equal(sum(blob, 20), 0);
		assert_int_equal(sum(blob, 36), 0);
		for (unsigned r = 0; r < array_len(roots); r++) {
			unsigned size = r ? 8 : 4;
			const u8 *root = at(load_le(blob + roots[r], size));
			u32 len = load_le(root + 4, 4);

			assert_int_equal(sum(root, len), 0);
			for (u32 i = 36; i < len; i += size) {
				const u8 *t = at(load_le(root + i, size));

				assert_int_equal(sum(t, load_le(t + 4, 4)), 0);
			}
		}
		assert_int_equal(sum(at(load_le(table("FACP") + 40, 4)), load_le(at(load_le(table("FACP") + 40, 4)) + 4, 4)), 0);
	}
}

static void the_fadt_says_acpi_is_always_on_and_where_its_ports_are(void **state)
{
	const u8 *f;

	build(1);
	f = table("FACP");
	assert_non_null(f);
	assert_true(f[8] >= 5);
	assert_int_equal(load_le(f + 48, 4), 0);           /* SMI_CMD */
	assert_int_equal(load_le(f + 46, 2), 9);           /* SCI_INT */
	assert_int_equal(load_le(f + 56, 4), 0x600);
	assert_int_equal(load_le(f + 64, 4), 0x604);
	assert_int_equal(load_le(f + 76, 4), 0x608);
	assert_int_equal(f[108], 0x32);                    /* century */
	assert_int_equal(load_le(f + 109, 2) & 2, 0);      /* no 8042 */
	assert_int_equal(load_le(f + 112, 4) & BIT(10), BIT(10));
	assert_int_equal(load_le(f + 120, 8), 0xcf9);
	assert_int_equal(f[128], 0x0f);
	assert_int_equal(load_le(f + 140, 8), load_le(f + 40, 4)); /* X_DSDT = DSDT */
	assert_int_equal(load_le(f + 148 + 4, 8), load_le(f + 56, 4));
	assert_int_equal(load_le(f + 208 + 4, 8), load_le(f + 76, 4));
	assert_int_equal(load_le(f + 36, 4) % 64, 0);      /* FACS */
	assert_memory_equal(at(load_le(f + 36, 4)), "FACS", 4);
}

static void the_madt_lists_every_cpu_once(void **state)
{
	u64 seen = 0;
	const u8 *m;
	u32 len;

	build(64);
	m = table("APIC");
	len = load_le(m + 4, 4);
	assert_int_equal(load_le(m + 36, 4), 0xfee00000);
	for (u32 i = 44; i < len; i += m[i + 1]) {
		assert_true(m[i + 1] >= 2);
		if (m[i] == 0)
			seen |= bit(m[i + 3]);
		if (m[i] == 1)
			assert_int_equal(load_le(m + i + 4, 4), 0xfec00000);
		if (m[i] == 2 && m[i + 3] == 0)
			assert_int_equal(load_le(m + i + 4, 4), 2);
		if (m[i] == 2 && m[i + 3] == 9)
			assert_int_equal(load_le(m + i + 8, 2), 0xd);
	}
	assert_true(seen == ~(u64)0);
}

static void mcfg_and_hpet_are_where_the_devices_are(void **state)
{
	build(1);
	assert_int_equal(load_le(table("MCFG") + 44, 8), 0xb0000000);
	assert_int_equal(load_le(table("MCFG") + 54, 2), 0xff00);
	assert_int_equal(load_le(table("HPET") + 36, 4), 0x8086a201);
	assert_int_equal(load_le(table("HPET") + 44, 8), 0xfed00000);
}

static void a_blob_too_small_is_refused(void **state)
{
	const struct board_info b = { .ncpus = 1, .ram = 512 * MiB };

	build(1);
	for (size_t n = 0; n < blob_len; n += 7)
		assert_int_equal(acpi_build(&b, BOARD_ACPI_BASE, blob, n), 0);
	assert_int_equal(smbios_build(&b, BOARD_SMBIOS_BASE, blob, 100), 0);
}

static void smbios_structures_can_be_walked(void **state)
{
	static const u8 want[] = { 0, 1, 3, 4, 16, 17, 19, 19, 127 };
	const struct board_info b = { .ncpus = 2, .ram = 6 * GiB };
	static u8 t[4096];
	size_t len = smbios_build(&b, BOARD_SMBIOS_BASE, t, sizeof(t)), pos = 32;

	assert_memory_equal(t, "_SM3_", 5);
	assert_int_equal(sum(t, 24), 0);
	assert_int_equal(load_le(t + 12, 4), len - 32);
	assert_int_equal(load_le(t + 16, 8), BOARD_SMBIOS_BASE + 32);
	for (unsigned i = 0; i < array_len(want); i++) {
		assert_int_equal(t[pos], want[i]);
		pos += t[pos + 1];
		while (t[pos] || t[pos + 1])
			pos++;
		pos += 2;
	}
	assert_int_equal(pos, len);
}

static void the_memory_map_is_ascending_and_holds_all_ram(void **state)
{
	static const u64 sizes[] = { 2 * MiB, 128 * MiB, 2816 * MiB, 2817 * MiB, 4 * GiB, 64 * GiB };

	for (unsigned s = 0; s < array_len(sizes); s++) {
		struct e820_entry e[E820_MAX];
		u64 end = 0, ram = 0;
		unsigned n = e820_build(sizes[s], E820_OS, e);

		for (unsigned i = 0; i < n; i++) {
			assert_true(e[i].addr >= end && e[i].len);
			end = e[i].addr + e[i].len;
			ram += e[i].type == E820_RAM ? e[i].len : 0;
			if (e[i].type == E820_RAM)
				assert_true(end <= BOARD_LOW_RAM_MAX || e[i].addr >= 4 * GiB);
		}
		assert_int_equal(ram, sizes[s] - (MiB - BOARD_EBDA));
		n = e820_build(sizes[s], E820_FIRMWARE, e);
		assert_int_equal(e[0].addr, 0);
		assert_int_equal(e[0].len + (n > 1 ? e[1].len : 0), sizes[s]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_acpi_table_sums_to_zero),
		cmocka_unit_test(the_fadt_says_acpi_is_always_on_and_where_its_ports_are),
		cmocka_unit_test(the_madt_lists_every_cpu_once),
		cmocka_unit_test(mcfg_and_hpet_are_where_the_devices_are),
		cmocka_unit_test(a_blob_too_small_is_refused),
		cmocka_unit_test(smbios_structures_can_be_walked),
		cmocka_unit_test(the_memory_map_is_ascending_and_holds_all_ram),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
