/* usage: interp-mips [size [interp|jit [trace points]]]
 * How many million guest instructions per second an engine runs: small compiled integer kernels on a bare 64-bit vCPU. Prints one line each.
 * The kernels are compiled into the section "guest" of this very program, copied into the guest's memory and called there. */
#include "cpu/core.h"
#include "cpu/engine.h"
#include "cpu/mmu.h"
#include "bus/clock.h"
#include "mem/mem.h"
#include "base/log.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#undef noinline
#undef unused
#define GUEST __attribute__((section("guest"), noinline, used, target("general-regs-only"), optimize("no-tree-loop-distribute-patterns", "no-tree-vectorize", "no-jump-tables")))
#define AT_TABLES 0x1000ull
#define AT_CODE 0x100000ull
#define AT_DATA 0x400000ull
#define AT_STACK 0x300000ull
#define MEM_BYTES (64 * MiB)

static const struct engine_ops *engine;
extern const u8 __start_guest[], __stop_guest[];

/* ---- kernels ---- */
GUEST static u64 g_alu(u64 n, u64 *mem)
{
	u64 a = n, b = 0x9e3779b97f4a7c15ull, c = 1;
	for (u64 k = 0; k < n * 40; k++) {
		a += b ^ k;
		b = (b << 7) | (b >> 57);
		c ^= a >> 3;
		a -= c & 0xffff;
	}
	return a + b + c;
}
GUEST static u64 g_sieve(u64 n, u64 *mem)
{
	u8 *flags = (u8 *)mem;
	u64 count = 0;
	for (u64 k = 2; k < n; k++)
		flags[k] = 1;
	for (u64 k = 2; k < n; k++) {
		if (!flags[k])
			continue;
		count++;
		for (u64 m = 2 * k; m < n; m += k)
			flags[m] = 0;
	}
	return count;
}
GUEST static u64 g_sort(u64 n, u64 *mem)
{
	u32 *v = (u32 *)mem;
	u32 x = 12345;
	n /= 64;
	for (u64 k = 0; k < n; k++)
		v[k] = x = x * 1664525 + 1013904223;
	for (u64 gap = n / 2; gap; gap /= 2)
		for (u64 k = gap; k < n; k++) {
			u32 t = v[k];
			u64 m = k;
			for (; m >= gap && v[m - gap] > t; m -= gap)
				v[m] = v[m - gap];
			v[m] = t;
		}
	return v[n / 2];
}
GUEST static u64 g_fib(u64 n, u64 *mem) { return n < 2 ? n : g_fib(n - 1, mem) + g_fib(n - 2, mem); }
GUEST static u64 g_calls(u64 n, u64 *mem) { return g_fib(25, mem); }
GUEST static u64 g_list(u64 n, u64 *mem)
{
	u64 sum = 0;
	for (u64 k = 0; k < 4096; k++)
		mem[2 * k] = (u64)&mem[2 * ((k * 1103 + 7) & 4095)], mem[2 * k + 1] = k;
	u64 *p = mem;
	for (u64 k = 0; k < n * 4; k++) {
		sum += p[1];
		p = (u64 *)p[0];
	}
	return sum;
}
GUEST static u64 g_hash(u64 n, u64 *mem)
{
	u8 *s = (u8 *)mem;
	u32 h = 2166136261u;
	for (u64 k = 0; k < 0x10000; k++)
		s[k] = (u8)(k * 7);
	for (u64 k = 0; k < n * 8; k++) {
		h ^= s[k & 0xffff];
		h *= 16777619u;
	}
	return h;
}
GUEST static u64 g_strings(u64 n, u64 *mem)
{
	char *s = (char *)mem;
	u64 words = 0, sum = 0;
	for (u64 k = 0; k < 4096; k++)
		s[k] = k % 5 ? 'a' + k % 26 : ' ';
	for (u64 r = 0; r < n / 512; r++)
		for (u64 k = 0; k < 4096; k++) {
			u8 ch = s[k];
			if (ch == ' ')
				words++;
			else if (ch >= 'a' && ch <= 'm')
				sum += ch - 'a';
			else
				sum ^= ch;
		}
	return words + sum;
}

static const struct { const char *name; u64 (*fn)(u64, u64 *); } kernels[] = {
	{ "alu", g_alu }, { "sieve", g_sieve }, { "shell sort", g_sort }, { "calls (fib)", g_calls }, { "list walk", g_list }, { "fnv hash", g_hash },
	{ "text scan", g_strings },
};

/* ---- a bare machine ---- */
static int no_irq(void *o) { return -1; }
static u8 tpr(void *o) { return 0; }
static const struct intc_ops intc = { .pending = no_irq, .acknowledge = no_irq, .tpr = tpr };

static void enter_long(struct cpu *c, u64 rip)
{
	u64 *t = mem_ptr(c->mem, gpa(AT_TABLES), 0x2000);
	t[0] = (AT_TABLES + 0x1000) | 3;
	t[512] = 0x83;
	for (unsigned s = 0; s < SEG_COUNT; s++)
		c->arch.seg[s] = (struct seg){ .limit = 0xffffffff, .attr = s == SEG_CS ? 0xa09b : 0xc093, .sel = s == SEG_CS ? 8 : 16 };
	cpu_load_control(c, CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP, AT_TABLES, CR4_PAE, EFER_LME | EFER_LMA);
	c->arch.rip = rip;
	cpu_update_mode(c);
}

static double now_s(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* others may use the machine too */
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static double run(struct cpu *c, u64 fn, u64 n, u64 *result, u64 *insns)
{
	struct exit_record out;
	u8 *code = mem_ptr(c->mem, gpa(AT_CODE), 16);
	code[0] = 0xf4; /* HLT: where the kernel returns to */
	store_le(mem_ptr(c->mem, gpa(AT_STACK - 8), 8), AT_CODE, 8);
	c->arch.gpr[GPR_RSP] = AT_STACK - 8;
	c->arch.gpr[GPR_RDI] = n;
	c->arch.gpr[GPR_RSI] = AT_DATA;
	c->arch.activity = ACT_ACTIVE;
	c->arch.rip = fn;
	u64 from = c->icount;
	double begin = now_s();
	do
		engine->run(c, &out);
	while (out.kind == EXIT_KICK);
	double seconds = now_s() - begin;
	if (out.kind == EXIT_SHUTDOWN) {
		printf("%s\n", c->death);
		exit(1);
	}
	*result = c->arch.gpr[GPR_RAX];
	*insns = c->icount - from;
	return seconds;
}

int main(int argc, char **argv)
{
	static struct mem mem;
	static struct clock clock;
	static struct cpu_io io;
	u64 n = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000000, total = 0;
	double seconds = 0;
	engine = argc > 2 && !strcmp(argv[2], "jit") ? &jit_engine : &interp_engine;
	if (mem_init(&mem, MEM_BYTES) || mem_add_slot(&mem, gpa(0), MEM_BYTES, MEM_RAM, "ram"))
		return 1;
	clock_init(&clock, NULL);
	struct cpu *c = aligned_alloc(64, align_up(sizeof *c, 64));
	memset(c, 0, sizeof *c);
	c->mem = &mem;
	c->io = &io;
	c->clock = &clock;
	c->intc = &intc;
	c->ncpus = 1;
	c->tsc_khz = 2000000;
	c->model = cpu_model_make("fast", false, 1, c->tsc_khz);
	if (!c->model || mmu_create(c) || engine->create(c))
		return 1;
	if (argc > 3 && trace_enable(argv[3], &(const char *){ NULL }))
		return 1;
	memcpy(mem_ptr(&mem, gpa(AT_CODE + 64), __stop_guest - __start_guest), __start_guest, __stop_guest - __start_guest);
	c->arch.rflags = FLAG_FIXED1;
	enter_long(c, AT_CODE);
	bool bad = false;
	for (unsigned k = 0; k < array_len(kernels); k++) {
		u64 got, insns, want;
		double s = run(c, AT_CODE + 64 + ((const u8 *)kernels[k].fn - __start_guest), n, &got, &insns);
		static u64 area[2 * MiB];
		kernels[k].fn(n / 10, area);
		double begin = now_s();
		want = kernels[k].fn(n, area);
		double native = now_s() - begin;
		bad |= got != want;
		printf("%-12s %8.1f M instructions %7.1f MIPS, %6.2f times native%s\n", kernels[k].name, insns / 1e6, insns / s / 1e6, s / native,
		       got == want ? "" : "  WRONG RESULT");
		total += insns;
		seconds += s;
	}
	printf("%-12s %8.1f M instructions %7.1f MIPS\n", "all", total / 1e6, total / seconds / 1e6);
	return bad;
}
