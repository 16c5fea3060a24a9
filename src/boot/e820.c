/* RAM size to memory map. The q35 split: RAM up to B0000000h, the rest from 4 GiB. */
#include "boot/boot.h"

u64 board_low_ram(u64 ram)
{
	return min_u64(ram, BOARD_LOW_RAM_MAX);
}

u64 board_high_ram(u64 ram)
{
	return ram - board_low_ram(ram);
}

/* Linux adds and removes memory in aligned pieces of 128 MiB, of 2 GiB at most. */
u64 board_plug_base(u64 ram)
{
	return align_up(4 * GiB + board_high_ram(ram), 2 * GiB);
}

unsigned e820_build(u64 ram, enum e820_view view, struct e820_entry out[E820_MAX])
{
	u64 low = board_low_ram(ram), high = board_high_ram(ram);
	const struct e820_entry rows[] = {
		{ 0, view == E820_OS ? min_u64(low, BOARD_EBDA) : low, E820_RAM },
		{ BOARD_EBDA, view == E820_OS ? 0xA0000 - BOARD_EBDA : 0, E820_RESERVED },
		{ BOARD_ACPI_BASE, view == E820_OS ? MiB - BOARD_ACPI_BASE : 0, E820_RESERVED },
		{ MiB, view == E820_OS && low > MiB ? low - MiB : 0, E820_RAM },
		/* Linux keeps ECAM only when E820 or a PNP0C02 resource reserves it. */
		{ BOARD_ECAM_BASE, view == E820_OS ? BOARD_ECAM_SIZE : 0, E820_RESERVED },
		{ 4 * GiB, high, E820_RAM },
	};
	unsigned n = 0;

	_Static_assert(array_len(rows) <= E820_MAX, "E820_MAX");
	for (unsigned i = 0; i < array_len(rows); i++)
		if (rows[i].len)
			out[n++] = rows[i];
	return n;
}
