/* Workloads that are bound by loads, stores and string instructions. */
#include "work.h"
#include <string.h>
#include <sys/mman.h>

#define CHASE_LINES 65536
static struct line { u32 next; u32 pad[15]; } *lines; /* 64 bytes each, 4 MB in all: past the level-2 cache */

/* One cycle through all lines in random order (Sattolo's shuffle). */
void chase_setup(void)
{
	u32 seed = 7;

	if (lines)
		return;
	lines = pages(CHASE_LINES * sizeof *lines, PROT_READ | PROT_WRITE);
	for (u32 k = 0; k < CHASE_LINES; k++)
		lines[k].next = k;
	for (u32 k = CHASE_LINES - 1; k; k--) {
		u32 other = next_random(&seed) % k, t = lines[k].next;

		lines[k].next = lines[other].next;
		lines[other].next = t;
	}
}

u64 chase_unit(void)
{
	u32 at = 0, sum = 0;

	for (u32 k = 0; k < CHASE_LINES; k++) {
		at = lines[at].next;
		sum = sum * 3 + at;
	}
	return (u64)sum << 32 | at;
}

#define COPY_BYTES (8u << 20)
static u8 *from, *to;

void copy_setup(void)
{
	if (from)
		return;
	from = pages(COPY_BYTES, PROT_READ | PROT_WRITE);
	to = pages(COPY_BYTES, PROT_READ | PROT_WRITE);
	for (u32 k = 0; k < COPY_BYTES; k++)
		from[k] = k * 131 >> 3;
	memset(to, 1, COPY_BYTES);
}

u64 copy_unit(void)
{
	memcpy(to, from, COPY_BYTES);
	return mix(to[COPY_BYTES - 1], to[COPY_BYTES / 3]);
}

void repmovs_setup(void) { copy_setup(); }

u64 repmovs_unit(void)
{
	const u8 *src = from;
	u8 *dst = to;
	u64 n = COPY_BYTES;

	__asm__ volatile("rep movsb" : "+S"(src), "+D"(dst), "+c"(n) : : "memory");
	return mix(to[COPY_BYTES - 1], to[COPY_BYTES / 5]);
}

/* ---- strings: byte loops as a compiler makes them, so that every machine executes the same instructions ---- */
#define STRINGS 4096
static char text[STRINGS][24];

void strings_setup(void)
{
	u32 seed = 2024;

	for (int k = 0; k < STRINGS; k++) {
		int length = 8 + next_random(&seed) % 15;

		for (int c = 0; c < length; c++)
			text[k][c] = c < 6 ? "nestbo"[c] : "abcd"[next_random(&seed) % 4];
		text[k][length] = 0;
	}
}

static noinline int compare(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return (u8)*a - (u8)*b;
}

static noinline u32 length_of(const char *s)
{
	u32 n = 0;

	while (s[n]) {
		n++;
		__asm__ volatile("" : "+r"(n)); /* keeps the compiler from calling strlen */
	}
	return n;
}

u64 strings_unit(void)
{
	u64 larger = 0, bytes = 0;

	for (int round = 0; round < 4; round++)
		for (int k = 1; k < STRINGS; k++) {
			larger += compare(text[k - 1], text[k]) > 0;
			bytes += length_of(text[k]);
		}
	return larger << 32 | bytes;
}
