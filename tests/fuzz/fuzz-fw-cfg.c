/* fw_cfg's ports and DMA descriptors with rubbish. */
#include "fuzz_input.h"
#include "base/log.h"
#include "dev_rig.h"
#include "dev/fw_cfg.h"

static struct rig *r;

static void create(void)
{
	struct fw_cfg *f;
	u8 big[10000] = { 1, 2, 3 };

	r = rig_create();
	f = fw_cfg_create(&r->bus, &r->devs);
	fw_cfg_add_file(f, "big", big, sizeof(big));
	fw_cfg_add_file(f, "small", "x", 1);
	fw_cfg_add_file(f, "empty", "", 0);
	log_set_level(LOG_ERROR);
}

static u64 address(struct fuzz_input *in)
{
	u8 how = (u8)fuzz_take(in, 1);

	return how < 220 ? fuzz_take(in, 2) : how < 240 ? RIG_RAM - 0x10000 - fuzz_take(in, 1) : fuzz_take(in, 8);
}

static void op_dma(struct fuzz_input *in)
{
	u64 at = address(in), to = address(in);
	u32 d[4] = { bswap32((u32)fuzz_take(in, 1) << 16 | ((u32)fuzz_take(in, 1) & 0x1f)), bswap32((u32)fuzz_take(in, fuzz_size(in) & 3)),
		bswap32((u32)(to >> 32)), bswap32((u32)to) };

	mem_write(&r->mem, gpa(at), d, sizeof(d));
	out32(r, 0x514, bswap32((u32)(at >> 32)));
	out32(r, 0x518, bswap32((u32)at));
}

static void op_port(struct fuzz_input *in)
{
	u16 port = 0x510 + (fuzz_take(in, 1) & 15);
	unsigned size = 1u << (fuzz_take(in, 1) % 3);

	bus_port_write(&r->bus, port, fuzz_take(in, size), size);
	bus_port_read(&r->bus, port, size);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct fuzz_input in = { data, data + size };

	if (!r)
		create();
	while (fuzz_more(&in))
		(fuzz_take(&in, 1) & 1 ? op_dma : op_port)(&in);
	rig_check_save_load(r);
	return 0;
}
