/* Frames and options from strangers: layers, checksums, segmentation, merging of anything; --net with any text. */
#include "fuzz_input.h"
#include "net/frame.h"
#include "net/spec.h"

static u32 emitted;

static void emit(void *opaque, const struct net_hdr *h, const u8 *frame, u32 len)
{
	struct net_layers l;

	bug_if(len < 1 || len > NET_FRAME_MAX);
	emitted += frame[0] + frame[len - 1];
	net_parse(frame, len, &l);
}

/* Bytes that are nearly TCP or UDP. */
static u32 make(struct fuzz_input *in, u8 *f)
{
	u32 len = 54 + (u32)fuzz_take(in, 2) % 2000;
	u8 how = (u8)fuzz_take(in, 1);

	memset(f, (int)fuzz_take(in, 1), len);
	net_put16(f + 12, how & 1 ? 0x86dd : how & 2 ? 0x8100 : 0x0800);
	f[14] = how & 1 ? 0x60 : 0x45;
	net_put16(f + 16, len - 14);
	net_put16(f + 20, how & 1 ? 0x0600 : 0);
	f[23] = how & 4 ? 17 : 6;
	net_put32(f + 38, (u32)fuzz_take(in, 1) * 100);
	f[46] = how & 8 ? (u8)fuzz_take(in, 1) : 0x50;
	f[47] = 0x10;
	for (unsigned i = how >> 6; i; i--)
		f[fuzz_take(in, 1) % len] = (u8)fuzz_take(in, 1);
	return len;
}

static void frames(struct fuzz_input *in)
{
	static u8 f[4096], merged[NET_FRAME_MAX];
	struct net_merge m = { .frame = merged, .emit = emit, .trusted = fuzz_take(in, 1) & 1 };

	while (fuzz_more(in)) {
		u32 len = make(in, f);
		struct net_hdr h = { .flags = 1, .gso_type = (u8)fuzz_take(in, 1) & 7, .gso_size = (u16)fuzz_take(in, 2), .csum_start = 34, .csum_offset = 16 };

		net_merge_add(&m, f, len);
		net_segment(&h, f, len, emit, NULL);
		h.gso_type = 0;
		h.csum_start = (u16)fuzz_take(in, 2) % 2100;
		if (net_hdr_valid(&h, f, len))
			net_finish_csum(&h, f, len);
	}
	net_merge_flush(&m);
}

static void option(struct fuzz_input *in)
{
	static const char *const word[] = { "user", "tap", "socket", "switch", ",", "=", "hostfwd", "tcp:", "-", ":", "mac", "path", "name", "on", "1", "ifname" };
	char text[600] = "", err[100];
	struct net_spec s;

	while (fuzz_more(in) && strlen(text) < sizeof(text) - 20) {
		u8 c = (u8)fuzz_take(in, 1);

		if (c < 128)
			strcat(text, word[c & 15]);
		else
			text[strlen(text)] = (char)(c & 0x7f);
	}
	net_spec_parse(&s, text, err, sizeof(err));
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct fuzz_input in = { data, data + size };

	if (fuzz_take(&in, 1) & 1)
		frames(&in);
	else
		option(&in);
	return 0;
}
