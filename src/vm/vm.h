/* One virtual machine: memory, board, vCPU threads, run loop, power. Devices and CPU semantics live below. */
#ifndef NB_VM_H
#define NB_VM_H

#include "base/base.h"
#include "bus/bus.h"
#include "cpu/cpu.h"
#include "cpu/engine.h"
#include "host/loop.h"
#include "host/sandbox.h"
#include "host/time.h"
#include "mem/mem.h"
#include "vm/firmware.h"
#include <pthread.h>
#include <stdio.h>

#define VM_MAX_CPUS 64
#define VM_MAX_DISKS 8
#define VM_MAX_SHARES 4
#define VM_MAX_NETS 8
#define VM_TSC_KHZ 2000000ull

enum vm_serial { VM_SERIAL_STDIO, VM_SERIAL_NULL, VM_SERIAL_FILE, VM_SERIAL_CONTROL /* readers come and go by the control socket */ };

struct vm_config {
	const char *name;                     /* NULL: no control socket */
	const char *folder;                   /* STATE/vms/ID of a VM that stays: for files that belong to it; NULL otherwise */
	const char *firmware, *firmware_vars; /* auto (NULL), bios, uefi or none; file with UEFI's variables or NULL */
	const char *cdrom;                    /* ISO image or NULL */
	const char *vnc;                      /* "unix:PATH" or "HOST:PORT" or NULL */
	const char *screenshot;               /* file that gets a picture of the screen at the end; NULL: none */
	const char *kernel, *initrd, *append; /* initrd: comma-separated modules for multiboot */
	u64 memory;                           /* bytes, multiple of 1 MiB: what the guest is told it has */
	u64 memory_min;                       /* bytes; 0: all of it, always. See vm/memory_policy.h */
	u64 memory_more;                      /* bytes, multiple of 2 MiB: what it may plug on top of that (virtio/virtio_mem.h) */
	unsigned cpus;
	bool nested;
	const char *cpu_model;
	const char *engine;                   /* as vm_engine() knows it; NULL: auto */
	enum vm_serial serial;
	const char *serial_path;
	const char *disks[VM_MAX_DISKS];
	unsigned ndisks;
	const char *nets[VM_MAX_NETS];        /* as net/spec.h reads them */
	unsigned nnets;
	const char *shares[VM_MAX_SHARES];    /* as vm/shares.h reads them */
	unsigned nshares;
	const char *vsock;                    /* as vm/vsock.h reads it; NULL: none */
	int exec_socket;                      /* joined to the first port for commands at power-on; 0: none */
	bool test_devices, no_reboot, stats;
	unsigned timeout_s;                   /* 0: none */
	const char *restore;                  /* snapshot to start from, or NULL */
	const char *share;                    /* image for sharing memory with other machines restored from the same snapshot, or NULL */
};

/* Why the machine stopped; becomes the process's exit status. */
enum vm_end { VM_RUNNING, VM_POWERED_OFF, VM_DIED, VM_DEBUG_EXIT, VM_TIMEOUT, VM_QUIT, VM_REBOOT_REFUSED, VM_HOST_ERROR };

struct vm;
struct pci_host;
struct virtio_net;

/* A request to a vCPU's own thread about code; see code.c. */
struct vm_code_request { u64 frame; u8 first, last; bool claim; u32 *acks; };
#define VM_CODE_QUEUE 256

struct vcpu {
	struct cpu *cpu;
	struct vm *vm;
	pthread_t thread;
	bool started;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool sleeping;              /* lock */
	bool in_guest;              /* atomic: may touch guest memory through its TLB */
	struct { u64 began, lived, ran, slept, preempted; } times; /* the own thread's, in ns of the host; lived, ran and preempted (how often) when it has ended */
	struct clock_timer wake_timer; /* a halted guest-mode vCPU's own deadline */
	pthread_mutex_t code_lock;
	struct vm_code_request queue[VM_CODE_QUEUE + VM_MAX_CPUS]; /* code_lock */
	unsigned nqueue;            /* code_lock */
	bool overflow;              /* code_lock: requests were lost, so forget everything */
};

struct snapshots;

struct vm {
	struct vm_config cfg;
	struct mem mem;
	struct clock clock;
	struct bus bus;
	const struct engine_ops *engine;
	struct cpu_model *model;
	struct vcpu vcpus[VM_MAX_CPUS];
	unsigned ncpus;
	struct cpu_io io;
	struct firmware firmware;
	struct board *board;
	void (*debug_stopped)(void *opaque); /* set while a debugger is there; loop thread */
	void *debug_opaque;
	struct loop *loop;          /* the main thread's: back-ends add their descriptors before or while it runs */
	struct virtio_net *nics[VM_MAX_NETS]; /* one per cfg.nets, the board's */
	unsigned promises;          /* SANDBOX_* that back-ends need once the guest runs: collected by vm_create */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum vm_end end;            /* lock; first reason wins */
	u32 debug_exit_value;       /* lock */
	bool reset_wanted;          /* lock */
	bool stop;                  /* atomic: vCPU threads return */
	unsigned parked;            /* lock: vCPU threads that wait in a pause */
	bool pause;                 /* lock */
	bool user_paused;           /* main loop's: the user said pause, so vm_resume leaves it paused */
	bool hold_wanted;           /* lock: vm_hold was called */
	int event_fd;               /* wakes the main loop when end or reset_wanted changes */
	struct memory_policy *memory; /* vm/memory_policy.h; owned by who runs the machine */
	struct snapshots *snapshots; /* migrate/snapshot.h; NULL: none. Owned by who runs the machine */
	struct state_buf poweron;   /* all device and CPU state at power-on: RESET loads it */
	struct vnc *vnc;            /* NULL: no viewers */
	int screenshot_fd;          /* cfg.screenshot, opened before the sandbox closes; -1: none */
	int statm_fd;               /* /proc/self/statm, opened before the sandbox closes */
	u64 start_host_ns, start_ticks; /* the same moment on the host's monotonic clock and TSC */
	bool input_closed;          /* main loop's: nobody types (any more) */
	volatile int resume_signal; /* set by a signal handler: SIGCONT resumes a paused VM */
	volatile int quit_signal;   /* set by a signal handler */
};

/* Builds the machine and loads the kernel. 0, or -errno with one log line. */
int vm_create(struct vm *vm, const struct vm_config *cfg);
void vm_destroy(struct vm *vm);
/* --screenshot-at-exit, once the vCPUs have stopped. One log line when it fails. */
void vm_last_screenshot(struct vm *vm);

/* Starts the vCPU threads; returns at once. 0 or -errno. */
int vm_start(struct vm *vm);
/* Stops the vCPU threads and joins them. False, with one log line: a thread is stuck, so the machine must not be destroyed; leave with _exit. */
bool vm_stop(struct vm *vm);
/* Ends the machine for `why` (first caller wins) and wakes the main loop. Any thread. */
void vm_end(struct vm *vm, enum vm_end why);
/* Main loop's part when event_fd fired: performs a pending reset. True while the machine goes on. */
bool vm_handle_events(struct vm *vm);
/* All vCPUs outside the guest until vm_resume; device state is still. Not from a vCPU thread. */
void vm_pause(struct vm *vm);
/* Also does again what the host could not do before (on-error=pause). */
void vm_resume(struct vm *vm);
/* The user's own pause and resume: lasts through any number of vm_pause/vm_resume pairs, and V stands still meanwhile. Main loop only. */
void vm_user_pause(struct vm *vm, bool on);
/* The reset button. Any thread. */
void vm_reset(struct vm *vm);
/* The host cannot do its part (text: one sentence): pauses as a user would, and says so. Any thread; does not wait. */
void vm_hold(struct vm *vm, const char *text);

bool vm_is_paused(struct vm *vm);

/* All state of CPUs and devices into / from b. Paused only. */
void vm_save_state(struct vm *vm, struct state_buf *b);
enum vm_time { VM_TIME_LOADED, VM_TIME_GOES_ON /* RESET: the virtual clock never goes back */ };
int vm_load_state(struct vm *vm, const struct state_buf *b, enum vm_time time);
/* Whether vm_load_state would take b; changes nothing. 0, or -EINVAL with one log line. */
int vm_check_state(struct vm *vm, const struct state_buf *b);
/* Waits until no device has work in flight. Paused only. */
void vm_quiesce(struct vm *vm);

/* auto, interp, jit; NULL: no such engine. */
const struct engine_ops *vm_engine(const char *name);
/* Why `name` (as given with --engine; NULL: auto) means the engine that it means: a sentence for people. */
const char *vm_engine_reason(const char *name);
/* The host's TSC ticks per second, from what both clocks did since the machine was started. */
double vm_ticks_per_s(const struct vm *vm);
void vm_print_stats(struct vm *vm, FILE *out);

/* ---- nets.c ---- */
/* A network card per cfg.nets at PCI slots from first_slot. 0 or -errno with one log line. */
int nets_create(struct vm *vm, struct pci_host *pci, unsigned first_slot);
void nets_print_stats(struct vm *vm, FILE *out);

/* ---- vcpu.c ---- */
int vcpu_create(struct vm *vm, unsigned index);
void vcpu_destroy(struct vcpu *v);
int vcpu_start(struct vcpu *v);
void vcpu_kick(struct vm *vm, unsigned index);   /* wake if asleep; something was pended before */
void vm_clock_changed(void *vm);

/* A vCPU's thread: its debugger's point was hit. Parks all vCPUs and runs vm->debug_stopped on the loop thread. */
void vm_debug_stop(struct vm *vm);

/* ---- code.c ---- */
void vm_claim_code(void *vm, struct cpu *c, u64 frame);
void vm_service_code(void *vm, struct cpu *c);
void vm_code_written(void *vm, u64 frame, unsigned first_line, unsigned last_line);
/* Guest-physical addresses mean other host memory now: the calling vCPU forgets its translations at once, the others at their next boundary. */
void vm_remapped(void *vm);
extern _Thread_local struct vcpu *vcpu_current;

/* ---- board.c ---- */
int board_create(struct vm *vm);
void board_destroy(struct vm *vm);
int board_boot(struct vm *vm);                   /* load the kernel into memory and vCPU 0 */
void board_save(struct vm *vm, struct state_buf *b);
int board_load(struct vm *vm, const struct state_buf *b, size_t *pos);
struct virtio_balloon *board_balloon(struct vm *vm);
struct virtio_mem *board_virtio_mem(struct vm *vm); /* NULL: cfg.memory is all there is */
struct guest_ports *board_guest_ports(struct vm *vm);
/* The user presses the power button: an operating system that listens shuts itself down. Any thread. */
void board_power_button(struct vm *vm);
/* The i-th --disk (host/disk.h), NULL after the last. */
struct i8042 *board_keyboard(struct vm *vm);
struct vga *board_display(struct vm *vm);        /* NULL: the machine has no display */
struct disk *board_disk(struct vm *vm, unsigned i);
void board_retry_disks(struct vm *vm);
int board_check(struct vm *vm, const struct state_buf *b, size_t *pos);
void board_quiesce(struct vm *vm);
/* Console output, see vm/console.h: drain from the main loop (true: go on when board_console_fd can be written), abandon before stopping
 * vCPUs, finish at the end. */
bool board_console_drain(struct vm *vm);
int board_console_fd(struct vm *vm);
void board_console_abandon(struct vm *vm, bool on);
void board_console_finish(struct vm *vm, int limit_ms);
/* How many typed bytes may be given to board_serial_input now; grows when the guest reads (event_fd fires). Main loop only. */
size_t board_input_room(struct vm *vm);
/* VM_SERIAL_CONTROL: where the console's output can be read; -1 otherwise. */
int board_console_pipe(struct vm *vm);
void board_serial_input(struct vm *vm, const u8 *bytes, size_t n);




#endif
