/* Stubs with unmasked SIMD exceptions: the silicon raises them as on any process, and the SIGFPE handler makes the stub return. */
#include "interp/vec_priv.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <ucontext.h>

/* Where the thread's guarded stub was called from; rsp 0: none is running. */
static __thread struct { u64 rsp; } guard;

u64 vec_guarded_call(vec_stub *code, struct cpu *c, void *mem, u64 *rsp_slot);
extern const char vec_guarded_recover[];
__asm__(".text\n"
	".type vec_guarded_call, @function\n"
	"vec_guarded_call:\n"
	"\tmov %rsp, (%rcx)\n"
	"\tmov %rdi, %rax\n"
	"\tmov %rsi, %rdi\n"
	"\tmov %rdx, %rsi\n"
	"\tsub $8, %rsp\n"
	"\tcall *%rax\n"
	"\tadd $8, %rsp\n"
	"\txor %eax, %eax\n"
	"\tret\n"
	"vec_guarded_recover:\n"
	"\tmov $1, %eax\n"
	"\tret\n"
	".size vec_guarded_call, . - vec_guarded_call\n");

static struct sigaction sigfpe_before;

/* The stub's instruction raised a SIMD exception: nothing of it has happened except the flags in MXCSR, which the kernel
 * gives back with the rest of the registers. Go on as if the stub had returned, with another result. */
static void on_sigfpe(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	if (guard.rsp) {
		uc->uc_mcontext.gregs[REG_RIP] = (greg_t)vec_guarded_recover;
		uc->uc_mcontext.gregs[REG_RSP] = (greg_t)guard.rsp;
		guard.rsp = 0;
		return;
	}
	/* Not ours: whoever was there before, or the default, which the instruction meets when it is tried again. */
	if (sigfpe_before.sa_flags & SA_SIGINFO)
		sigfpe_before.sa_sigaction(sig, info, context);
	else if (sigfpe_before.sa_handler != SIG_DFL && sigfpe_before.sa_handler != SIG_IGN)
		sigfpe_before.sa_handler(sig);
	else
		signal(SIGFPE, SIG_DFL);
}

/* Each time anew: somebody else may have taken the signal since. */
int vec_guard_init(void)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct sigaction sa = { .sa_sigaction = on_sigfpe, .sa_flags = SA_SIGINFO | SA_ONSTACK }, now;
	int err = 0;

	sigemptyset(&sa.sa_mask);
	pthread_mutex_lock(&lock);
	if (sigaction(SIGFPE, NULL, &now) < 0 || (now.sa_sigaction != on_sigfpe && sigaction(SIGFPE, &sa, &sigfpe_before) < 0))
		err = -errno;
	pthread_mutex_unlock(&lock);
	return err;
}

/* A blocked SIGFPE would kill the process instead of reaching the handler. */
static void sigfpe_open(struct vec *v)
{
	sigset_t set;

	if (v->sigfpe_open)
		return;
	sigemptyset(&set);
	sigaddset(&set, SIGFPE);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	v->sigfpe_open = true;
}

static inline void load_mxcsr(u32 v) { __asm__ volatile("ldmxcsr %0" : : "m"(v) : "memory"); }

bool vec_stub_guarded(struct cpu *c, vec_stub *code, void *mem)
{
	struct vec *v = vec_of(c);
	u64 faulted;

	sigfpe_open(v);
	load_mxcsr(c->arch.mxcsr);
	faulted = vec_guarded_call(code, c, mem, &guard.rsp);
	guard.rsp = 0;
	if (faulted)
		__asm__ volatile("stmxcsr %0" : "=m"(c->arch.mxcsr) : : "memory");
	load_mxcsr(MXCSR_INIT);
	v->host_mxcsr = MXCSR_INIT;
	if (faulted && cpu_has(c, FEAT_AVX))
		__asm__ volatile("vzeroupper" : : : "memory");
	return !faulted;
}
