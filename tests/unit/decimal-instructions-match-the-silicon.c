/* DAA DAS AAA AAS AAM AAD do not exist in 64-bit mode, so the silicon oracle cannot reach them: here the host runs them in compatibility mode. Every input. */
#include "../host_cpu.h"
#include "interp_rig.h"

#include <sys/mman.h>

#define LOW 0x30000000u
#define SLOT(n) (LOW + 0x800 + 8 * (n))
enum { S_RSP, S_FLAGS_IN, S_IN, S_OUT, S_FLAGS_OUT, S_FAR };

static struct core r;
static u8 *low;

static u8 *emit(u8 *p, const char *bytes, unsigned n, u32 addr)
{
	memcpy(p, bytes, n);
	memcpy(p + n, &addr, 4);
	return p + n + 4;
}

/* Low memory: 32-bit code at LOW, which ends in a far jump to 64-bit code at LOW + 400h, which returns. */
static void build_native(const u8 *op, unsigned len)
{
	u8 *p = low;
	p = emit(p, "\xff\x35", 2, SLOT(S_FLAGS_IN)); /* push [..] */
	*p++ = 0x9d;                                  /* popfd */
	p = emit(p, "\xa1", 1, SLOT(S_IN));           /* mov eax, [..] */
	memcpy(p, op, len);
	p += len;
	p = emit(p, "\xa3", 1, SLOT(S_OUT));          /* mov [..], eax */
	*p++ = 0x9c;                                  /* pushfd */
	p = emit(p, "\x8f\x05", 2, SLOT(S_FLAGS_OUT)); /* pop [..] */
	p = emit(p, "\xea", 1, LOW + 0x400);          /* jmp 33h:.. */
	p[0] = 0x33;
	p[1] = 0;
	p = low + 0x400;
	p = emit(p, "\x48\x8b\x24\x25", 4, SLOT(S_RSP)); /* mov rsp, [..] */
	*p++ = 0xc3;
	u32 *far = (u32 *)(u64)SLOT(S_FAR);
	far[0] = LOW;
	far[1] = 0x23;
}

static void native(u32 *eax, u32 *flags)
{
	*(u32 *)(u64)SLOT(S_IN) = *eax;
	*(u32 *)(u64)SLOT(S_FLAGS_IN) = *flags;
	asm volatile("sub $128, %%rsp\n\tmov $0x2b, %%eax\n\tmov %%eax, %%ds\n\tcall 1f\n\tjmp 2f\n"
		     "1:\tmov %%rsp, (%0)\n\tmov %1, %%rsp\n\tljmp *(%2)\n"
		     "2:\tadd $128, %%rsp"
		     : : "r"((u64)SLOT(S_RSP)), "r"((u64)LOW + 0x1000), "r"((u64)SLOT(S_FAR))
		     : "rax", "rbx", "rcx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
	*eax = *(u32 *)(u64)SLOT(S_OUT);
	*flags = *(u32 *)(u64)SLOT(S_FLAGS_OUT);
}

/* undefined: flags that the manual leaves open (SDM "DAA", "AAA", ...); the vCPU does as an Intel. */
static void compare(const char *hex, const u8 *op, unsigned len, unsigned inputs, u32 undefined)
{
	u32 asked = host_cpu_is_intel() ? FLAG_ARITH : FLAG_ARITH & ~undefined;
	build_native(op, len);
	unsigned n = interp_put(&r, AT_CODE, hex);
	interp_put(&r, AT_CODE + n, "f4");
	for (unsigned ax = 0; ax < inputs; ax++)
		for (unsigned f = 0; f < 4; f++) {
			u32 flags = 2 | (f & 1 ? FLAG_CF : 0) | (f & 2 ? FLAG_AF : 0), eax = 0x12340000 | ax, got_flags;
			r.cpu->arch.gpr[GPR_RAX] = eax;
			r.cpu->arch.cc = cpu_flags_to_cc(flags);
			interp_go(&r, AT_CODE);
			native(&eax, &flags);
			got_flags = (u32)cpu_rflags(r.cpu);
			if ((u32)r.cpu->arch.gpr[GPR_RAX] != eax || ((got_flags ^ flags) & asked))
				fail_msg("%s ax=%04x CF=%u AF=%u: eax %x flags %x, silicon eax %x flags %x", hex, ax, f & 1, f >> 1, (u32)r.cpu->arch.gpr[GPR_RAX],
					 (unsigned)(got_flags & FLAG_ARITH), eax, (unsigned)(flags & FLAG_ARITH));
		}
}

static void daa(void **state) { compare("27", (const u8 *)"\x27", 1, 256, FLAG_OF); }
static void das(void **state) { compare("2f", (const u8 *)"\x2f", 1, 256, FLAG_OF); }
static void aaa(void **state) { compare("37", (const u8 *)"\x37", 1, 65536, FLAG_OF | FLAG_SF | FLAG_ZF | FLAG_PF); }
static void aas(void **state) { compare("3f", (const u8 *)"\x3f", 1, 65536, FLAG_OF | FLAG_SF | FLAG_ZF | FLAG_PF); }
static void aam(void **state)
{
	compare("d40a", (const u8 *)"\xd4\x0a", 2, 256, FLAG_OF | FLAG_AF | FLAG_CF);
	compare("d407", (const u8 *)"\xd4\x07", 2, 256, FLAG_OF | FLAG_AF | FLAG_CF);
}
static void aad(void **state)
{
	compare("d50a", (const u8 *)"\xd5\x0a", 2, 65536, FLAG_OF | FLAG_AF | FLAG_CF);
	compare("d5f1", (const u8 *)"\xd5\xf1", 2, 65536, FLAG_OF | FLAG_AF | FLAG_CF);
}

static int open_it(void **state)
{
	low = mmap((void *)(u64)LOW, 0x1000, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	assert_ptr_equal(low, (void *)(u64)LOW);
	interp_open(&r, CORE_PROT);
	return 0;
}
static int close_it(void **state)
{
	interp_close(&r);
	munmap(low, 0x1000);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(daa), cmocka_unit_test(das), cmocka_unit_test(aaa), cmocka_unit_test(aas), cmocka_unit_test(aam), cmocka_unit_test(aad),
	};
	return cmocka_run_group_tests(tests, open_it, close_it);
}
