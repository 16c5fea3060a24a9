/* isa_decode on bytes with many prefixes, in each mode. Its length is Zydis's own with every extension on; the verdict does not depend
 * on bytes after the instruction, and one byte less asks for more; all register numbers of isa_fill are in range; the text fits. */
#include "fuzz_input.h"
#include "isa/decode.h"

static ZydisDecoder plain[ISA_MODES];
static struct isa_decoder dec[2];

static void init(void)
{
	ZydisDecoderInit(&plain[ISA_16], ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
	ZydisDecoderInit(&plain[ISA_32], ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
	ZydisDecoderInit(&plain[ISA_64], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	isa_decoder_init(&dec[0], false, false);
	isa_decoder_init(&dec[1], true, true);
}

static void check_filled(const struct isa_insn *in, enum isa_mode mode)
{
	struct insn o;
	char text[32];
	if (!isa_fill(in, 0x1ff, &o))
		bug_if(mode != ISA_64);
	bug_if(o.base > GPR_BLOCK_RIP || o.index > GPR_ZERO || o.scale > 3 || o.seg >= SEG_COUNT);
	bug_if(o.dst >= 128 || o.src >= 128 || o.src2 >= 128 || o.len != in->zi.length || o.off != 0x1ff);
	bug_if(o.asize != 2 && o.asize != 4 && o.asize != 8);
	isa_format(in, 0xfffffffffffffff8, text, sizeof text);
	bug_if(!memchr(text, 0, sizeof text));
}

static void check(const struct isa_decoder *d, enum isa_mode mode, const u8 *bytes, unsigned n)
{
	struct isa_insn in, again;
	ZydisDecodedInstruction zi;
	u8 copy[ISA_MAX_LEN];
	enum isa_result r = isa_decode(d, mode, bytes, n, &in);
	if (r == ISA_MORE)
		bug_if(n >= ISA_MAX_LEN);
	if (r != ISA_OK)
		return;
	unsigned len = in.zi.length;
	bug_if(!len || len > n || len > ISA_MAX_LEN);
	/* Some operands of MPX and CET are refused there; here they are NOPs. */
	if (ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&plain[mode], NULL, bytes, n, &zi)))
		bug_if(zi.length != len);
	memset(copy, 0xcc, sizeof copy);
	memcpy(copy, bytes, len);
	bug_if(isa_decode(d, mode, copy, sizeof copy, &again) != ISA_OK || again.zi.length != len || again.zi.mnemonic != in.zi.mnemonic);
	bug_if(isa_decode(d, mode, copy, len, &again) != ISA_OK);
	bug_if(len > 1 && isa_decode(d, mode, copy, len - 1, &again) != ISA_MORE);
	check_filled(&in, mode);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static const u8 starts[] = { 0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x64, 0x48, 0x4f, 0x0f, 0x0f, 0xc4, 0xc5, 0x62, 0x8f, 0xd9, 0xdf, 0xf6, 0xff };
	if (!plain[ISA_64].machine_mode)
		init();
	for (size_t at = 0; at + 24 <= size; at += 24) {
		const u8 *in = data + at;
		u8 bytes[20];
		unsigned lead = in[0] % 5, n = in[1] & 1 ? 15 : in[1] % 20;
		memcpy(bytes, in + 4, sizeof bytes);
		for (unsigned i = 0; i < lead; i++)
			bytes[i] = starts[(in[2] + bytes[i]) % sizeof starts];
		for (unsigned m = 0; m < ISA_MODES; m++)
			check(&dec[in[3] & 1], m, bytes, n);
	}
	return 0;
}
