/* Overlay files that are nearly right: the header may hold anything (its checksum is mended, or nothing would get past it), the bitmap too. */
#include "fuzz_input.h"
#include "rig_disk.h"
#include "host/disk_layer.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

enum { DISK_BYTES = 64 * 4096 };

static struct disk *base;

static u64 fnv1a(const u8 *p, size_t n)
{
	u64 h = 0xcbf29ce484222325ull;

	while (n--)
		h = (h ^ *p++) * 0x100000001b3ull;
	return h;
}

/* A sound overlay of 64 clusters, with rubbish put over it. */
static int make_file(struct fuzz_input *in)
{
	u8 head[4096 + 8] = "NBOVERL\n";
	int fd = memfd_create("overlay", 0);

	store_le(head + 8, 1, 4);
	store_le(head + 12, 12, 4);
	store_le(head + 16, DISK_BYTES, 8);
	store_le(head + 24, 4096, 8);
	store_le(head + 32, 8, 8);
	store_le(head + 40, 8192, 8);
	for (unsigned i = fuzz_take(in, 1) & 3; i > 0; i--) {
		unsigned at = fuzz_take(in, 1) % 80, size = fuzz_size(in);

		store_le(head + at, fuzz_take(in, size), size);
	}
	if (fuzz_take(in, 1) & 7)
		store_le(head + 80, fnv1a(head, 80), 8);
	store_le(head + 4096, fuzz_take(in, 8), 8);
	bug_if(fd < 0 || write(fd, head, sizeof(head)) != sizeof(head));
	bug_if(ftruncate(fd, 8192 + DISK_BYTES - (fuzz_take(in, 1) & 15 ? 0 : 4096)) < 0);
	return fd;
}

static void use(struct disk *d, struct fuzz_input *in)
{
	static u8 buf[DISK_BYTES];
	u64 at = fuzz_take(in, 2) % 600 * 512, len = (fuzz_take(in, 1) + 1) * 512;

	rig_disk_do(d, (enum disk_op)(fuzz_take(in, 1) % 5), at, buf, len);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct fuzz_input in = { data, data + size };

	if (!base) {
		base = rig_scratch_disk(DISK_BYTES);
		stderr = fopen("/dev/null", "w"); /* every input says a line; the sanitizers write past stdio */
	}
	while (fuzz_more(&in)) {
		int fd = make_file(&in);

		if (disk_set_overlays(base, &fd, 1) < 0)
			continue;
		for (unsigned i = 0; i < 8; i++)
			use(base, &in);
		fd = memfd_create("next", 0);
		bug_if(fd < 0);
		if (disk_freeze(base, fd) < 0)
			close(fd);
		use(base, &in);
		bug_if(disk_set_overlays(base, NULL, 0) < 0);
	}
	return 0;
}
