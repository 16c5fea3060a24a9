#include "cpu/core.h"
#include "cpu/engine.h"
#include "cpu/mmu.h"
#include "bus/clock.h"
#include "mem/mem.h"
#include "base/log.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <time.h>
#include <sys/mman.h>
#define AT_TABLES 0x1000ull
#define AT_CODE 0x100000ull
#define BLOB 0x2000000ull
#define MEM_BYTES (256 * MiB)
#define AT_STACK 0x1f00000ull
static const struct engine_ops *engine;
static int no_irq(void *o) { return -1; }
static u8 tpr(void *o) { return 0; }
static const struct intc_ops intc = { .pending = no_irq, .acknowledge = no_irq, .tpr = tpr };
static void enter_long(struct cpu *c)
{
	u64 *t = mem_ptr(c->mem, gpa(AT_TABLES), 0x3000);
	t[0] = (AT_TABLES + 0x1000) | 3;
	t[512] = (AT_TABLES + 0x2000) | 3;
	for (int k = 0; k < 512; k++) t[1024 + k] = 0x83 | (u64)k << 21;
	for (unsigned s = 0; s < SEG_COUNT; s++)
		c->arch.seg[s] = (struct seg){ .limit = 0xffffffff, .attr = s == SEG_CS ? 0xa09b : 0xc093, .sel = s == SEG_CS ? 8 : 16 };
	cpu_load_control(c, CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP, AT_TABLES, CR4_PAE | CR4_OSFXSR | CR4_OSXSAVE, EFER_LME | EFER_LMA);
	c->arch.xcr0 = 7;
	cpu_update_mode(c);
}
static double now_s(void) { struct timespec t; clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
static u64 insns;
static double run(struct cpu *c, u64 k, u64 n, u64 *result)
{
	struct exit_record out;
	u8 *code = mem_ptr(c->mem, gpa(AT_CODE), 16);
	code[0] = 0xf4;
	store_le(mem_ptr(c->mem, gpa(AT_STACK - 8 - 0x40), 8), AT_CODE, 8);
	c->arch.gpr[GPR_RSP] = AT_STACK - 8 - 0x40;
	c->arch.gpr[GPR_RDI] = k;
	c->arch.gpr[GPR_RSI] = n;
	c->arch.activity = ACT_ACTIVE;
	c->arch.rip = BLOB;
	u64 i0 = c->icount;
	double begin = now_s();
	do engine->run(c, &out); while (out.kind == EXIT_KICK);
	double s = now_s() - begin;
	if (out.kind == EXIT_SHUTDOWN) { printf("%s\n", c->death); exit(1); }
	*result = c->arch.gpr[GPR_RAX];
	insns = c->icount - i0;
	return s;
}
int main(int argc, char **argv)
{
	static struct mem mem; static struct clock clock; static struct cpu_io io;
	static const char *const names[] = { "sort","sieve","hash","matrix","x87","chase","copy","repmovs","calls","bytecode","avx2","strings","codegen" };
	const char *only = argc > 2 ? argv[2] : "";
	engine = !strcmp(argv[1], "jit") ? &jit_engine : !strcmp(argv[1], "lockstep") ? &lockstep_engine : &interp_engine;
	if (mem_init(&mem, MEM_BYTES) || mem_add_slot(&mem, gpa(0), MEM_BYTES, MEM_RAM, "ram")) return 1;
	clock_init(&clock, NULL);
	struct cpu *c = aligned_alloc(64, align_up(sizeof *c, 64));
	memset(c, 0, sizeof *c);
	c->mem = &mem; c->io = &io; c->clock = &clock; c->intc = &intc; c->ncpus = 1; c->tsc_khz = 2000000;
	c->model = cpu_model_make("fast", false, 1, c->tsc_khz);
	if (!c->model || mmu_create(c) || engine->create(c)) return 1;
	if (argc > 3 && trace_enable(argv[3], &(const char *){ NULL })) return 1;
	FILE *f = fopen("/tmp/jita/blob/blob.bin", "r");
	u8 *host = mmap((void *)BLOB, 72 * MiB, PROT_READ|PROT_WRITE|PROT_EXEC, MAP_PRIVATE|MAP_ANONYMOUS|MAP_FIXED_NOREPLACE, -1, 0);
	if (host != (u8 *)BLOB) return 1;
	u64 n = fread(host, 1, 72 * MiB, f); 
	while (n && !host[n - 1]) n--;
	memcpy(mem_ptr(&mem, gpa(BLOB), n), host, n);
	c->arch.rflags = FLAG_FIXED1; c->arch.mxcsr = 0x1f80; store_le(c->arch.x87, 0x37f, 2);
	enter_long(c);
	u64 (*nat)(u64, u64) = (void *)BLOB;
	double sum = 0; int cnt = 0;
	int rounds = getenv("ROUNDS") ? atoi(getenv("ROUNDS")) : 9;
	for (unsigned k = 0; k < array_len(names); k++) {
		u64 want = 0, got;
		if (*only && !strstr(only, names[k])) continue;
		nat(k, 0); run(c, k, 0, &got);
		nat(k, 1); run(c, k, 3, &got);
		double b = now_s(); nat(k, 1); double one = now_s() - b;
		u64 units = one > 0.004 ? 1 : (u64)(0.004 / one) + 1;
		double bn = 1e9, bj = 1e9;
		for (int r = 0; r < rounds; r++) {
			b = now_s(); want = nat(k, units); double t = now_s() - b; if (t < bn) bn = t;
			t = run(c, k, units, &got); if (t < bj) bj = t;
		}
		if (k < 10) sum += log(bj / bn), cnt++;
		printf("%-9s native %8.1f us  jit %8.1f us  %6.2f x  %5.0f MIPS native %5.0f%s\n", names[k], bn / units * 1e6, bj / units * 1e6, bj / bn, insns / bj / 1e6, insns / bn / 1e6, want == got || k == 12 ? "" : " WRONG");
		fflush(stdout);
	}
	printf("geomean %.2f of %d\n", exp(sum / cnt), cnt);
	if (argc > 4) engine->print_stats(c, stdout);
	return 0;
}
