/* Fuzz inputs as a stream of small numbers. A target is LLVMFuzzerTestOneInput alone: libFuzzer drives it, or
 * standalone.c with random bytes. */
#ifndef FUZZ_INPUT_H
#define FUZZ_INPUT_H

#include "base/base.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

struct fuzz_input {
	const u8 *p, *end;
};

/* The next n bytes as a number; zeros after the end. */
static inline u64 fuzz_take(struct fuzz_input *in, unsigned n)
{
	u64 v = 0;

	n = (unsigned)min_u64(n, (u64)(in->end - in->p));
	memcpy(&v, in->p, n);
	in->p += n;
	return v;
}

static inline bool fuzz_more(const struct fuzz_input *in) { return in->p < in->end; }
/* 1, 2, 4 or 8 */
static inline unsigned fuzz_size(struct fuzz_input *in) { return 1u << (fuzz_take(in, 1) & 3); }

#endif
