/* Messages to people (stderr or a file) and trace points. Host failures travel as negative errno plus one log line. */
#ifndef NB_LOG_H
#define NB_LOG_H

#include "base/base.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* One line; a newline is added. Prefix "nestbox: ". Thread-safe. */
void log_line(enum log_level level, const char *fmt, ...) printf_like(2, 3);
#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)
void log_set_level(enum log_level level);

/* For a path that we lack: the guest gets what the manual allows, the user one sentence per process and call site. */
#define todo(...) do { static bool said_; if (!__atomic_exchange_n(&said_, true, __ATOMIC_RELAXED)) \
	log_line(LOG_WARN, "not implemented: " __VA_ARGS__); } while (0)
/* At most once per process and call site. */
#define log_once(level, ...) do { static bool said_; if (!__atomic_exchange_n(&said_, true, __ATOMIC_RELAXED)) \
	log_line(level, __VA_ARGS__); } while (0)

/* Trace points: --trace NAME[,NAME...]. One row each: id, command-line name, what it prints. */
#define TRACE_ROWS(R) \
	R(INSN, "insn", "every guest instruction with its registers") \
	R(BLOCK, "block", "every decoded block as it is entered") \
	R(JIT, "jit", "every translated block: guest instructions and the host code made of them") \
	R(EVENT, "event", "exceptions and interrupts as they are delivered") \
	R(PAGE, "page", "page walks that end in a fault, step by step") \
	R(MSR, "msr", "RDMSR and WRMSR") \
	R(IO, "io", "port accesses") \
	R(MMIO, "mmio", "memory-mapped device accesses") \
	R(IRQ, "irq", "interrupt lines, MSIs and APIC acceptance") \
	R(VMENTRY, "vmentry", "VM entries, and for a failed one which check failed and why") \
	R(VMEXIT, "vmexit", "VM exits with reason and qualification") \
	R(VMX, "vmx", "VMX instructions and their results") \
	R(VIRTIO, "virtio", "virtqueue requests") \
	R(CLOCK, "clock", "virtual clock and timers") \
	R(SMP, "smp", "INIT, SIPI, halts and kicks") \
	R(FIRMWARE, "firmware", "what firmware says on the debug port 402h, POST codes, flash commands, shadow RAM")

enum trace_id {
#define R(id, name, text) TRACE_##id,
	TRACE_ROWS(R)
#undef R
	TRACE_COUNT
};

extern u32 trace_mask; /* written before the vCPUs start, then only read */

static inline bool trace_on(enum trace_id id) { return unlikely(trace_mask & (1u << id)); }
/* One line to the trace output; call under trace_on(). Prefix is the trace point's name. Thread-safe. */
void trace_line(enum trace_id id, const char *fmt, ...) printf_like(2, 3);
/* Adds the comma-separated names. Returns 0, or -EINVAL with *bad pointing at the unknown name. */
int trace_enable(const char *names, const char **bad);
/* Where traces go; NULL is stderr. Takes ownership of the FILE. */
void trace_set_output(void *file);
/* Prints "name  text" lines for --trace help. */
void trace_print_names(void *file);

#endif
