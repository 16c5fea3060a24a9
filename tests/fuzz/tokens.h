/* Texts for parsers: each input byte is a token of a dictionary or, now and then, itself. */
#ifndef FUZZ_TOKENS_H
#define FUZZ_TOKENS_H

#include "fuzz_input.h"

/* Appends what the input says, at most `size` bytes, until the input or the size ends. Returns the length. */
static inline size_t fuzz_text(struct fuzz_input *in, const char *const *dict, unsigned n, char *to, size_t size, unsigned max_tokens)
{
	size_t len = 0;

	while (fuzz_more(in) && max_tokens--) {
		u8 pick = (u8)fuzz_take(in, 1);
		const char *s = dict[pick % n];
		size_t l = strlen(s);

		if (pick >= 250) {
			u8 raw = (u8)fuzz_take(in, 1);

			if (len + 1 > size)
				break;
			to[len++] = (char)raw;
			continue;
		}
		if (len + l > size)
			break;
		memcpy(to + len, s, l);
		len += l;
	}
	return len;
}

#endif
