/* Random operands: uniform noise finds few bugs, so most values are special ones. */
#include "oracle.h"

static u64 s[2];

u64 rnd(void)
{
	u64 a = s[0], b = s[1];

	s[0] = b;
	a ^= a << 23;
	s[1] = a ^ b ^ (a >> 17) ^ (b >> 26);
	return s[1] + b;
}

static u64 mix(u64 z)
{
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

void rnd_seed(u64 seed)
{
	s[0] = mix(seed + 0x9e3779b97f4a7c15u);
	s[1] = mix(seed + 2 * 0x9e3779b97f4a7c15u) | 1;
}

u64 rnd_edge(void)
{
	switch (rnd_below(10)) {
	case 0: return rnd_below(4);
	case 1: return -rnd_below(4);
	case 2: return ((u64)1 << rnd_below(64)) - rnd_below(3) + 1;
	case 3: return ~(((u64)1 << rnd_below(64)) - 1);
	case 4: return (u64)(i64)(i8)rnd();
	case 5: return (u32)rnd();
	case 6: return (u64)(i64)(i32)rnd();
	case 7: return rnd() & 0xff;
	default: return rnd();
	}
}

static const u64 f64_special[] = {
	0, 0x8000000000000000, 0x3ff0000000000000, 0xbff0000000000000, 0x7ff0000000000000, 0xfff0000000000000, 0x7ff8000000000000,
	0xfff8000000000000, 0x7ff0000000000001, 0xfff7ffffffffffff, 1, 0x8000000000000001, 0x000fffffffffffff, 0x0010000000000000,
	0x800fffffffffffff, 0x7fefffffffffffff, 0xffefffffffffffff, 0x3fe0000000000000, 0x4000000000000000, 0x3ff8000000000000,
	0x43e0000000000000, 0xc3e0000000000000, 0x41e0000000000000, 0xc1e0000000000000, 0x41dfffffffc00000, 0xc1e0000000200000,
	0x4330000000000000, 0x3cb0000000000000, 0x47efffffe0000000, 0x47efffffefffffff, 0x3810000000000000, 0x36a0000000000000,
	0x3690000000000000, 0x0018000000000000, 0x5ff0000000000000, 0x1ff0000000000000, 0x4415000000000000,
};

static u64 rnd_f64(void)
{
	switch (rnd_below(6)) {
	case 0:
	case 1: return f64_special[rnd_below(array_len(f64_special))];
	case 2: return f64_special[rnd_below(array_len(f64_special))] + rnd_below(5) - 2;
	case 3: return (rnd() & 0x800fffffffffffff) | (0x3f0 + rnd_below(0x40)) << 52; /* near 1 */
	case 4: return (rnd() & 0x800fffffffffffff) & ~low_mask(rnd_below(52));         /* denormals and zeros */
	default: return rnd();
	}
}

static const u32 f32_special[] = {
	0, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc00000, 0x7f800001, 0xffbfffff, 1, 0x80000001,
	0x007fffff, 0x00800000, 0x807fffff, 0x7f7fffff, 0xff7fffff, 0x3f000000, 0x40000000, 0x4f000000, 0xcf000000, 0x5f000000,
	0xdf000000, 0x4effffff, 0x477fe000, 0x477ff000, 0x33800000, 0x38800000, 0x387fc000, 0x3fc00000, 0x00c00000, 0x5f800000, 0x1f800000,
};

static u32 rnd_f32(void)
{
	switch (rnd_below(6)) {
	case 0:
	case 1: return f32_special[rnd_below(array_len(f32_special))];
	case 2: return f32_special[rnd_below(array_len(f32_special))] + (u32)rnd_below(5) - 2;
	case 3: return ((u32)rnd() & 0x807fffff) | (u32)(0x70 + rnd_below(0x20)) << 23;
	case 4: return (u32)rnd() & 0x807fffff & ~(u32)low_mask(rnd_below(23));
	default: return (u32)rnd();
	}
}

/* One format for all of the bytes, or a mix. */
void rnd_vector(u8 *to, unsigned n)
{
	unsigned how = (unsigned)rnd_below(7);

	for (unsigned k = 0; k + 8 <= n; k += 8) {
		u64 v;

		switch (how == 6 ? rnd_below(6) : how) {
		case 0: v = rnd_f64(); break;
		case 1: v = rnd_f32() | (u64)rnd_f32() << 32; break;
		case 2: v = rnd_edge(); break;
		case 3: v = 0; for (unsigned b = 0; b < 8; b++) v |= (u64)"\0\1\177\200\377aA0"[rnd_below(8)] << (8 * b); break;
		case 4: v = rnd_below(2) ? 0 : rnd_below(300); break;
		default: v = rnd(); break;
		}
		memcpy(to + k, &v, 8);
	}
}

void rnd_f80(u8 to[10])
{
	u64 m = rnd_below(3) ? rnd() | BIT(63) : f64_special[rnd_below(array_len(f64_special))] << 11 | BIT(63);
	u16 e = (u16)(0x3fff + rnd_below(140) - 70);

	switch (rnd_below(16)) {
	case 0: m = 0; e = 0; break;
	case 1: m = BIT(63); e = 0x7fff; break;
	case 2: e = 0x7fff; break;                        /* NaN, quiet or signalling */
	case 3: e = 0; m &= ~BIT(63); break;              /* denormal */
	case 4: e = 0; break;                             /* pseudo-denormal */
	case 5: m &= ~BIT(63); break;                     /* unnormal, pseudo-infinity */
	case 6: e = (u16)rnd() & 0x7fff; break;
	case 7: m = BIT(63); break;                       /* powers of two */
	case 8: e = (u16)(0x3fff + rnd_below(64)); m = (rnd() | BIT(63)) & ~low_mask(63 - (e - 0x3fff)); break; /* integers */
	case 9: e = 0x7fff; m = BIT(63) | BIT(62); break;
	case 10: m = BIT(63) | rnd_below(3); break;
	case 11: e = (u16)(0x3fff + 1023 + rnd_below(4) - 2); break; /* near the end of double */
	case 12: e = (u16)(0x3fff - 1023 - rnd_below(60)); break;
	default: break;
	}
	e |= (u16)(rnd() & 0x8000);
	memcpy(to, &m, 8);
	memcpy(to + 8, &e, 2);
}
