/* Kernel files of every protocol with some bytes changed, and rubbish: each loads or is refused in one line. */
#include "../unit/boot_rig.h"
#include "fuzz_input.h"

static struct boot_rig r;
static struct image f;

static void make(unsigned kind)
{
	image_bzimage(&f);
	if (kind == 1 || kind == 2)
		image_elf(&f, kind == 1, 0x400000, 0x1000, 0x9000);
	if (kind == 1)
		image_add_pvh_note(&f, 0x400010);
	if (kind == 2)
		image_add_multiboot(&f, 0x1000, 0);
	if (kind == 3) {
		image_elf(&f, false, 0x200000, 0x1000, 0x1000);
		memset(f.data, 0, 0x1000);
		image_add_multiboot(&f, 0x100, BIT(16));
		image_set(&f, 0x10c, 0x200100, 4);
		image_set(&f, 0x110, 0x200000, 4);
		image_set(&f, 0x11c, 0x200180, 4);
	}
}

/* Mostly in the headers: offsets 0-3FFh, or the program header's notes at 800h. */
static u32 place(struct fuzz_input *in)
{
	u32 at = fuzz_take(in, 2);

	return at & 0x8000 ? at % f.size : at & 0x4000 ? 0x800 + (at & 0x1f) : at & 0x2000 ? 0x1f0 + (at & 0x7f) : at & 0xff;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct fuzz_input in = { data, data + size };
	unsigned kind = fuzz_take(&in, 1) % 5, patches = 1 + (fuzz_take(&in, 1) & 7);
	int rc;

	if (!r.ram)
		rig_open(&r, 32 * MiB);
	if (kind == 4) {
		rc = fuzz_more(&in) ? rig_load(&r, in.p, in.end - in.p) : -1;
	} else {
		make(kind);
		while (patches--) {
			u32 at = place(&in), n = fuzz_size(&in);

			if (at + n <= sizeof(f.data))
				image_set(&f, at, fuzz_take(&in, n), n);
		}
		rc = rig_load(&r, f.data, f.size);
	}
	rig_forget_files();
	bug_if(rc > 0 || strchr(r.err, '\n'));
	return 0;
}
