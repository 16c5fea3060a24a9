/* Workloads of integer and floating-point arithmetic. Not here: memory, calls and jumps (memory.c, control.c). */
#include "work.h"
#include <string.h>
#include <immintrin.h>

#define SORT_N 8192
static u32 unsorted[SORT_N], words[SORT_N];

void sort_setup(void)
{
	u32 seed = 12345;

	for (int k = 0; k < SORT_N; k++)
		unsorted[k] = next_random(&seed);
}

u64 sort_unit(void)
{
	u64 h = 0;

	memcpy(words, unsorted, sizeof words);
	for (int gap = SORT_N / 2; gap; gap /= 2)
		for (int k = gap; k < SORT_N; k++) {
			u32 v = words[k];
			int m = k;

			for (; m >= gap && words[m - gap] > v; m -= gap)
				words[m] = words[m - gap];
			words[m] = v;
		}
	for (int k = 0; k < SORT_N; k += 64)
		h = mix(h, words[k]);
	return h;
}

#define SIEVE_N 200000
u64 sieve_unit(void)
{
	static u8 composite[SIEVE_N];
	u64 count = 0;

	memset(composite, 0, sizeof composite);
	for (u32 k = 2; k < SIEVE_N; k++) {
		if (composite[k])
			continue;
		count++;
		for (u32 m = 2 * k; m < SIEVE_N; m += k)
			composite[m] = 1;
	}
	return count;
}

/* ---- SHA-256 (FIPS 180-4). The constants are the first 32 bits of the cube roots' fractions of the first 64 primes. ---- */
static const u32 sha_k[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static u32 ror(u32 v, int n) { return v >> n | v << (32 - n); }

static void sha_block(u32 state[8], const u32 in[16])
{
	u32 w[64], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];

	for (int k = 0; k < 16; k++)
		w[k] = __builtin_bswap32(in[k]);
	for (int k = 16; k < 64; k++)
		w[k] = w[k - 16] + w[k - 7] + (ror(w[k - 15], 7) ^ ror(w[k - 15], 18) ^ w[k - 15] >> 3) +
			(ror(w[k - 2], 17) ^ ror(w[k - 2], 19) ^ w[k - 2] >> 10);
	for (int k = 0; k < 64; k++) {
		u32 t1 = h + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + ((e & f) ^ (~e & g)) + sha_k[k] + w[k];
		u32 t2 = (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));

		h = g; g = f; f = e; e = d + t1;
		d = c; c = b; b = a; a = t1 + t2;
	}
	state[0] += a; state[1] += b; state[2] += c; state[3] += d;
	state[4] += e; state[5] += f; state[6] += g; state[7] += h;
}

u64 hash_unit(void)
{
	u32 state[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
	u32 block[16];

	for (u32 n = 0; n < 65536 / 64; n++) {
		for (u32 k = 0; k < 16; k++)
			block[k] = n * 16 + k;
		sha_block(state, block);
	}
	return (u64)state[0] << 32 | state[7];
}

#define MATRIX_N 96
static double left[MATRIX_N][MATRIX_N], right[MATRIX_N][MATRIX_N], product[MATRIX_N][MATRIX_N];

void matrix_setup(void)
{
	for (int r = 0; r < MATRIX_N; r++)
		for (int c = 0; c < MATRIX_N; c++) {
			left[r][c] = (r * 7 + c) % 31 - 15;
			right[r][c] = (r + c * 5) % 29 / 4.0;
		}
}

u64 matrix_unit(void)
{
	double trace = 0;
	u64 h;

	for (int r = 0; r < MATRIX_N; r++) {
		memset(product[r], 0, sizeof product[r]);
		for (int k = 0; k < MATRIX_N; k++)
			for (int c = 0; c < MATRIX_N; c++)
				product[r][c] += left[r][k] * right[k][c];
	}
	for (int r = 0; r < MATRIX_N; r++)
		trace += product[r][MATRIX_N - 1 - r];
	memcpy(&h, &trace, sizeof h);
	return h;
}

u64 x87_unit(void)
{
	long double x = 0.5L, y, sum = 0;
	u64 h = 0;

	for (int k = 1; k <= 8000; k++) {
		x = ((x * 0.25L + 1.5L) * x + 0.75L) / (x + k);
		y = x * k + 2;
		__asm__("fsqrt" : "+t"(y));
		sum += y;
	}
	memcpy(&h, &sum, sizeof h); /* the mantissa */
	return h;
}

/* ---- AVX2 ---- */
#define AVX_N 8192
static u32 ints[AVX_N] __attribute__((aligned(32)));
static float floats[AVX_N] __attribute__((aligned(32)));

int avx2_usable(void) { return __builtin_cpu_supports("avx2"); }

void avx2_setup(void)
{
	u32 seed = 99;

	for (int k = 0; k < AVX_N; k++) {
		ints[k] = next_random(&seed);
		floats[k] = ints[k] % 1000;
	}
}

__attribute__((target("avx2"))) u64 avx2_unit(void)
{
	__m256i sum = _mm256_setzero_si256(), mask = _mm256_set1_epi32(0x5a5a5a5a);
	__m256 total = _mm256_setzero_ps(), half = _mm256_set1_ps(0.5f);
	union { __m256i v; __m256 f; u64 q[4]; } a, b;

	for (int round = 0; round < 8; round++)
		for (int k = 0; k < AVX_N; k += 8) {
			__m256i v = _mm256_load_si256((const __m256i *)&ints[k]);
			__m256 f = _mm256_load_ps(&floats[k]);

			v = _mm256_xor_si256(_mm256_mullo_epi32(v, mask), _mm256_srli_epi32(v, 7));
			sum = _mm256_add_epi32(_mm256_shuffle_epi32(sum, 0x39), v);
			total = _mm256_add_ps(_mm256_mul_ps(total, half), f);
		}
	a.v = sum;
	b.f = total;
	return mix(mix(a.q[0] ^ a.q[1], a.q[2] ^ a.q[3]), b.q[0] ^ b.q[1] ^ b.q[2] ^ b.q[3]);
}
