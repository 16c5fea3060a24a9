/* The host's CPU as a test subject: loads the whole state, runs the one instruction, catches its exception. */
#include "oracle.h"

#include <asm/ldt.h>
#include <asm/prctl.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

/* Used by the assembler code below. */
struct native_slots {
	u64 gpr[16]; /* in, then out */
	u64 rflags, host_rsp, entry, pad_b;
	u32 mxcsr, selector; /* entry and selector: a far pointer, for compatibility mode */
	u64 far_entry;
	u64 ds, es, ss; /* selectors for compatibility mode */
	u64 host_ss;
} native_slots __attribute__((visibility("hidden")));
struct oxsave native_fp __attribute__((visibility("hidden")));
void native_enter(void);
extern const char native_exit_a[], native_exit_b[], native_exit_fault[];

#define STR_(x) #x
#define STR(x) STR_(x)
#define LOAD(n, r) "	mov native_slots+8*" #n "(%rip), %" #r "\n"
#define STORE(n, r) "	mov %" #r ", native_slots+8*" #n "(%rip)\n"
#define GPRS(X) X(0, rax) X(1, rcx) X(2, rdx) X(3, rbx) X(5, rbp) X(6, rsi) X(7, rdi) X(8, r8) X(9, r9) X(10, r10) X(11, r11) X(12, r12) \
	X(13, r13) X(14, r14) X(15, r15)

__asm__(".text\n"
	"native_enter:\n"
	"	push %rbx\n	push %rbp\n	push %r12\n	push %r13\n	push %r14\n	push %r15\n"
	"	mov %rsp, native_slots+8*17(%rip)\n"
	"	mov $7, %eax\n"
	"	xor %edx, %edx\n"
	"	lea native_fp(%rip), %rcx\n"
	"	xrstor64 (%rcx)\n"
	"	cmpl $0, native_slots+8*20+4(%rip)\n"
	"	jne 1f\n"
	"	pushq native_slots+8*16(%rip)\n"
	"	popfq\n"
	GPRS(LOAD) LOAD(4, rsp)
	"	jmp *native_slots+8*18(%rip)\n"
	"1:	mov native_slots+8*22(%rip), %ds\n"
	"	mov native_slots+8*23(%rip), %es\n"
	"	mov native_slots+8*24(%rip), %ss\n"
	"	pushq native_slots+8*16(%rip)\n"
	"	popfq\n"
	GPRS(LOAD) LOAD(4, rsp)
	"	ljmp *native_slots+8*21(%rip)\n"
	"native_exit_b:\n"
	"	movq $1, native_slots+8*19(%rip)\n"
	"native_exit_a:\n"
	GPRS(STORE) STORE(4, rsp)
	"	mov native_slots+8*17(%rip), %rsp\n"
	"	mov native_slots+8*25(%rip), %ss\n"
	"	pushfq\n"
	"	popq native_slots+8*16(%rip)\n"
	"	mov $7, %eax\n"
	"	xor %edx, %edx\n"
	"	lea native_fp(%rip), %rcx\n"
	"	xsave64 (%rcx)\n"
	"native_exit_fault:\n"
	"	mov native_slots+8*17(%rip), %rsp\n"
	"	pushq $0x202\n"
	"	popfq\n"
	"	fninit\n"
	"	ldmxcsr native_slots+8*20(%rip)\n"
	"	vzeroupper\n"
	"	pop %r15\n	pop %r14\n	pop %r13\n	pop %r12\n	pop %rbp\n	pop %rbx\n"
	"	ret\n");

#define USER_CS64 0x33
#define USER_CS32 0x23
#define USER_DS 0x2b

static struct ostate *result; /* of the run under way */
static volatile bool running;

static void take_fp(struct oxsave *to, const u8 *from)
{
	u64 bv = 7;

	if (load_le(from + 464, 4) == 0x46505853) /* FP_XSTATE_MAGIC1 */
		bv = load_le(from + 512, 8);
	memset(to, 0, sizeof(*to));
	memcpy(to->fx, from, 416);
	if (!(bv & 1)) {
		memset(to->fx, 0, 24);
		memset(to->fx + 32, 0, 128);
		store_le(to->fx, 0x37f, 2);
	}
	if (!(bv & 2))
		memset(to->fx + 160, 0, 256);
	if (bv & 4)
		memcpy(to->ymmh, from + 576, 256);
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
	static const u8 order[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
	                              REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };
	ucontext_t *uc = context;
	greg_t *g = uc->uc_mcontext.gregs;

	__asm__ volatile("pushfq\n\tandl $~0x40000, (%%rsp)\n\tpopfq" : : : "memory", "cc"); /* the case's AC is still set */
	if (!running) {
		signal(sig, SIG_DFL);
		return;
	}
	for (unsigned k = 0; k < 16; k++)
		result->gpr[k] = (u64)g[order[k]];
	result->rip = (u64)g[REG_RIP];
	result->rflags = (u64)g[REG_EFL];
	result->vector = (u32)g[REG_TRAPNO];
	result->error = (u32)g[REG_ERR];
	result->cr2 = result->vector == 14 ? (u64)g[REG_CR2] : 0;
	take_fp(&result->fp, (const u8 *)uc->uc_mcontext.fpregs);
	g[REG_RIP] = (greg_t)native_exit_fault;
	g[REG_EFL] &= ~(greg_t)0x40000;
	g[REG_CSGSFS] = (greg_t)(((u64)g[REG_CSGSFS] & 0x0000ffffffff0000) | USER_CS64 | (u64)USER_DS << 48);
	running = false;
}

static void *map_at(u64 at, u64 size, int prot)
{
	void *p = mmap((void *)at, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_POPULATE, -1, 0);

	if (p != (void *)at) {
		fprintf(stderr, "oracle: cannot map %#llx: %s\n", (unsigned long long)at, strerror(errno));
		exit(2);
	}
	return p;
}

/* JMP through a pointer at `slot`, which is aligned: the case may have alignment checks on. */
static void put_jump(u8 *at, u64 *slot, const void *to)
{
	u32 distance = (u32)((u8 *)slot - at - 6);

	at[0] = 0xff;
	at[1] = 0x25;
	memcpy(at + 2, &distance, 4);
	*slot = (u64)to;
}

/* Where the instruction ends: on to native_exit_a or _b. */
static void put_end(enum omode mode, u8 *at, bool b)
{
	u32 to = O_TRAMPOLINE + (b ? 32 : 0);
	u16 cs = USER_CS64;

	if (mode == O_64) {
		put_jump(at, (u64 *)(O_CODE + (b ? 0xff8 : 0xff0)), b ? native_exit_b : native_exit_a);
		return;
	}
	if (mode == O_16)
		*at++ = 0x66;
	*at = 0xea; /* JMP ptr16:32 */
	memcpy(at + 1, &to, 4);
	memcpy(at + 5, &cs, 2);
}

static int fill_ldt(void)
{
	for (unsigned n = 0; n < O_SEGS; n++) {
		const struct osegment *s = &osegments[n];
		struct user_desc d = { .entry_number = n, .base_addr = (u32)s->base, .limit = s->limit,
		                       .contents = s->attr >> 2 & 3, .read_exec_only = !(s->attr & 2), .useable = 1 };

		if (syscall(SYS_modify_ldt, 1, &d, sizeof(d)) < 0)
			return -errno;
	}
	return 0;
}

int native_init(void)
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP };
	struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	stack_t stack = { .ss_sp = malloc(256 * KiB), .ss_size = 256 * KiB };

	map_at(O_DATA, O_DATA_SIZE, PROT_READ | PROT_WRITE);
	memset((void *)O_DATA, 0, O_DATA_SIZE);
	map_at(O_RO, 4096, PROT_READ | PROT_WRITE);
	for (unsigned k = 0; k < 4096; k++)
		((u8 *)O_RO)[k] = (u8)(k * 7 + 1);
	mprotect((void *)O_RO, 4096, PROT_READ);
	map_at(O_CODE, 4096, PROT_READ | PROT_WRITE | PROT_EXEC);
	map_at(O_TRAMPOLINE, 4096, PROT_READ | PROT_WRITE | PROT_EXEC);
	put_jump((u8 *)O_TRAMPOLINE, (u64 *)(O_TRAMPOLINE + 64), native_exit_a);
	put_jump((u8 *)O_TRAMPOLINE + 32, (u64 *)(O_TRAMPOLINE + 72), native_exit_b);
	__asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"(USER_DS));
	native_slots.mxcsr = 0x1f80;
	native_slots.host_ss = USER_DS;
	if (fill_ldt() < 0 || sigaltstack(&stack, NULL) < 0)
		return -errno;
	for (unsigned k = 0; k < array_len(signals); k++)
		sigaction(signals[k], &sa, NULL);
	return 0;
}

static void set_entry(const struct ocase *k)
{
	u64 cs = k->mode == O_16 ? O_SELECTOR(O_SEG_CODE) : USER_CS32;

	native_slots.entry = k->at;
	native_slots.selector = k->mode != O_64;
	native_slots.far_entry = (k->mode == O_16 ? k->at - O_CODE : k->at) | cs << 32;
	native_slots.ds = k->mode == O_16 ? O_SELECTOR(k->ds) : USER_DS;
	native_slots.es = k->mode == O_16 ? O_SELECTOR(k->es) : USER_DS;
	native_slots.ss = k->mode == O_16 ? O_SELECTOR(k->ss) : USER_DS;
}

void native_run(const struct ocase *k, struct ostate *out, u8 mem[O_DATA_SIZE])
{
	memcpy((void *)O_DATA, k->mem, O_DATA_SIZE);
	memcpy((void *)k->at, k->code, k->len);
	put_end(k->mode, (u8 *)k->at + k->len, false);
	put_end(k->mode, (u8 *)O_PAD_B, true);
	set_entry(k);
	memcpy(native_slots.gpr, k->in.gpr, sizeof(k->in.gpr));
	native_slots.rflags = k->in.rflags;
	native_slots.pad_b = 0;
	native_fp = k->in.fp;
	syscall(SYS_arch_prctl, ARCH_SET_GS, O_GS_BASE); /* the translator has its own */
	memset(out, 0, sizeof(*out));
	out->vector = VECTOR_NONE;
	result = out;
	running = true;
	native_enter();
	if (out->vector == VECTOR_NONE) {
		memcpy(out->gpr, native_slots.gpr, sizeof(out->gpr));
		out->rflags = native_slots.rflags;
		out->pad_b = (u8)native_slots.pad_b;
		out->rip = (out->pad_b ? O_PAD_B : k->at + k->len) - (k->mode == O_16 ? O_CODE : 0);
		out->fp = native_fp;
	}
	running = false;
	memcpy(mem, (void *)O_DATA, O_DATA_SIZE);
}
