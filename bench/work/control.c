/* Workloads that are bound by calls, jumps and fresh code. */
#include "work.h"
#include <string.h>
#include <sys/mman.h>

/* Takeuchi's function: hardly anything but calls and returns. Without tail calls, or it is a loop. */
static noinline __attribute__((optimize("no-optimize-sibling-calls", "no-inline"))) int tak(int x, int y, int z)
{
	if (y >= x)
		return z;
	return tak(tak(x - 1, y, z), tak(y - 1, z, x), tak(z - 1, x, y));
}

u64 calls_unit(void)
{
	int x = 18, y = 12, z = 6;

	__asm__ volatile("" : "+r"(x), "+r"(y), "+r"(z)); /* unknown to the compiler */
	return tak(x, y, z);
}

/* Ten instructions as kernels have them, 100,000 times: loads, stores, arithmetic, a branch not taken. */
u64 loop_unit(void)
{
	u64 memory[2] = { 3, 5 }, sum = 1, n = 100000;

	__asm__ volatile("1: mov (%2), %%rax\n\tadd %0, %%rax\n\tmov %%rax, 8(%2)\n\tlea 7(%0, %1), %0\n\txor %%rax, %0\n\t"
		"and $0xffffff, %0\n\ttest %1, %1\n\tjz 2f\n\tdec %1\n\tjmp 1b\n2:"
		: "+r"(sum), "+r"(n) : "r"(memory) : "rax", "memory", "cc");
	return sum;
}

/* ---- a byte-code interpreter: counts the steps of Collatz sequences ---- */
enum { OP_SET, OP_COPY, OP_ADD, OP_ODD, OP_TRIPLE, OP_HALVE, OP_LESS, OP_ISONE, OP_BRANCH, OP_JUMP, OP_END };

static const u8 program[] = {
	OP_SET, 0, 1,           /*  0: r0 = 1                 number */
	OP_SET, 1, 0,           /*  3: r1 = 0                 steps in all */
	OP_COPY, 2, 0,          /*  6: r2 = r0 */
	OP_ISONE, 2, 0,         /*  9: flag = r2 == 1 */
	OP_BRANCH, 36, 0,       /* 12: if flag goto 36 */
	OP_ADD, 1, 1,           /* 15: r1 += 1 */
	OP_ODD, 2, 0,           /* 18: flag = r2 odd */
	OP_BRANCH, 30, 0,       /* 21: if flag goto 30 */
	OP_HALVE, 2, 0,         /* 24: r2 /= 2 */
	OP_JUMP, 9, 0,          /* 27 */
	OP_TRIPLE, 2, 0,        /* 30: r2 = 3 r2 + 1 */
	OP_JUMP, 9, 0,          /* 33 */
	OP_ADD, 0, 1,           /* 36: r0 += 1 */
	OP_LESS, 0, 200,        /* 39: flag = r0 < 200 */
	OP_BRANCH, 6, 0,        /* 42 */
	OP_END, 0, 0,           /* 45 */
};

static noinline u64 interpret(const u8 *pc)
{
	static const void *const labels[] = { &&set, &&copy, &&add, &&odd, &&triple, &&halve, &&less, &&isone, &&branch, &&jump, &&end };
	const u8 *start = pc;
	u64 r[4] = { 0 };
	int flag = 0;

#define NEXT do { pc += 3; goto *labels[*pc]; } while (0)
	goto *labels[*pc];
set:	r[pc[1]] = pc[2]; NEXT;
copy:	r[pc[1]] = r[pc[2]]; NEXT;
add:	r[pc[1]] += pc[2]; NEXT;
odd:	flag = r[pc[1]] & 1; NEXT;
triple:	r[pc[1]] = 3 * r[pc[1]] + 1; NEXT;
halve:	r[pc[1]] >>= 1; NEXT;
less:	flag = r[pc[1]] < pc[2]; NEXT;
isone:	flag = r[pc[1]] == 1; NEXT;
branch:	if (flag) { pc = start + pc[1]; goto *labels[*pc]; } NEXT;
jump:	pc = start + pc[1]; goto *labels[*pc];
end:	return r[1];
#undef NEXT
}

u64 bytecode_unit(void)
{
	const u8 *at = program;

	__asm__ volatile("" : "+r"(at));
	return interpret(at);
}

/* ---- run-time generated code: a page of fresh functions, then calls of them, then the next page of a ring ---- */
#define FUNCTIONS 64
#define FUNCTION_BYTES 64 /* 64 of them are a page */
#define RING_PAGES 64
#define CALLS 16
static u8 *code;
static u32 page;

void codegen_setup(void)
{
	if (!code)
		code = pages(RING_PAGES * FUNCTIONS * FUNCTION_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC);
}

/* mov eax, edi; then five times imul eax, eax, CONSTANT; add eax, CONSTANT; ret. The constants differ from function to function and
 * from page to page, so nothing translated earlier is of use. */
static void emit(u8 *at, u32 seed)
{
	*at++ = 0x89;
	*at++ = 0xf8;
	for (int k = 0; k < 5; k++) {
		u32 factor = next_random(&seed) | 1, term = next_random(&seed);

		*at++ = 0x69;
		*at++ = 0xc0;
		memcpy(at, &factor, 4);
		at[4] = 0x05;
		memcpy(at + 5, &term, 4);
		at += 9;
	}
	*at = 0xc3;
}

u64 codegen_unit(void)
{
	u32 v = 1;

	for (u32 round = 0; round < 8; round++, page++) {
		u8 *at = code + page % RING_PAGES * FUNCTIONS * FUNCTION_BYTES;

		for (u32 k = 0; k < FUNCTIONS; k++)
			emit(at + k * FUNCTION_BYTES, 1 + round * FUNCTIONS + k);
		for (u32 k = 0; k < FUNCTIONS * CALLS; k++)
			v = ((u32 (*)(u32))(void *)(at + k % FUNCTIONS * FUNCTION_BYTES))(v);
	}
	return v;
}
