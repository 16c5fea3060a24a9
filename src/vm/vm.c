/* The machine as a whole: build, start, pause, reset, state, end. */
#include "vm/vm.h"
#include "vm/display.h"
#include "vm/vnc.h"
#include "base/log.h"
#include "boot/boot.h"
#include "cpu/core.h"
#include "cpu/mmu.h"
#include "vmx/vmx.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/* ---- what the CPUs ask of the machine ---- */
/* What a port or MMIO access costs on a real PC, roughly. Guests poll timers in loops of such accesses; without the charge a loop of 1 ms takes
 * many times as many turns here as there. */
#define DEVICE_ACCESS_NS 400u

/* A device sees the time of the very instruction that asks it. */
static struct bus *bus_at_now(struct vm *vm)
{
	if (vcpu_current) {
		struct cpu *c = vcpu_current->cpu;
		c->v_base += DEVICE_ACCESS_NS;
		c->budget_end -= min_u64(cpu_insns_of(c, DEVICE_ACCESS_NS), c->budget_end > c->icount ? c->budget_end - c->icount : 0);
		clock_publish(&vm->clock, cpu_now(c));
	}
	return &vm->bus;
}
static u64 io_port_read(void *vm, u16 port, unsigned size) { return bus_port_read(bus_at_now(vm), port, size); }
static void io_port_write(void *vm, u16 port, u64 v, unsigned size) { bus_port_write(bus_at_now(vm), port, v, size); }
static u64 io_mmio_read(void *vm, u64 addr, unsigned size) { return bus_mmio_read(bus_at_now(vm), addr, size); }
static void io_mmio_write(void *vm, u64 addr, u64 v, unsigned size) { bus_mmio_write(bus_at_now(vm), addr, v, size); }

static void vm_spinning(void *vm, struct cpu *c) { sched_yield(); }

static void notify(struct vm *vm)
{
	u64 one = 1;
	if (write(vm->event_fd, &one, sizeof one) < 0)
		log_debug("eventfd: %s", strerror(errno));
}

static void stop_running(struct vm *vm)
{
	for (unsigned i = 0; i < vm->ncpus; i++) {
		cpu_pend(vm->vcpus[i].cpu, PEND_KICK);
		vcpu_kick(vm, i);
	}
}

void vm_end(struct vm *vm, enum vm_end why)
{
	pthread_mutex_lock(&vm->lock);
	if (vm->end == VM_RUNNING)
		vm->end = why;
	vm->pause = true; /* vCPUs park at their next boundary */
	pthread_mutex_unlock(&vm->lock);
	stop_running(vm);
	notify(vm);
}

void vm_reset(struct vm *vm)
{
	if (vm->cfg.no_reboot) {
		vm_end(vm, VM_REBOOT_REFUSED);
		return;
	}
	pthread_mutex_lock(&vm->lock);
	vm->reset_wanted = true;
	vm->pause = true;
	pthread_mutex_unlock(&vm->lock);
	stop_running(vm);
	notify(vm);
}

static void on_power(void *opaque, enum bus_power what, u32 value)
{
	struct vm *vm = opaque;
	switch (what) {
	case BUS_POWER_OFF:
		vm_end(vm, VM_POWERED_OFF);
		break;
	case BUS_DEBUG_EXIT:
		pthread_mutex_lock(&vm->lock);
		if (vm->end == VM_RUNNING)
			vm->debug_exit_value = value;
		pthread_mutex_unlock(&vm->lock);
		vm_end(vm, VM_DEBUG_EXIT);
		break;
	case BUS_RESET:
		vm_reset(vm);
		break;
	}
}

/* ---- pause ---- */
static unsigned started(const struct vm *vm)
{
	unsigned n = 0;
	for (unsigned i = 0; i < vm->ncpus; i++)
		n += vm->vcpus[i].started;
	return n;
}

/* A vCPU may be waiting for the console's reader, and we may be the thread that writes to it: so we write, and after a while throw away. */
#define PAUSE_PATIENCE_MS 200

static bool parked_within(struct vm *vm, unsigned ms)
{
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += ms * 1000000l;
	until.tv_sec += until.tv_nsec / (long)NSEC_PER_SEC;
	until.tv_nsec %= (long)NSEC_PER_SEC;
	pthread_mutex_lock(&vm->lock);
	for (int err = 0; vm->parked < started(vm) && !err;)
		err = pthread_cond_timedwait(&vm->changed, &vm->lock, &until);
	bool all = vm->parked >= started(vm);
	pthread_mutex_unlock(&vm->lock);
	return all;
}

void vm_pause(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->pause = true;
	pthread_mutex_unlock(&vm->lock);
	stop_running(vm);
	for (unsigned ms = 0; !parked_within(vm, 10); ms += 10) {
		board_console_drain(vm);
		if (ms == PAUSE_PATIENCE_MS)
			board_console_abandon(vm, true);
	}
	board_console_abandon(vm, false);
}

void vm_hold(struct vm *vm, const char *text)
{
	pthread_mutex_lock(&vm->lock);
	vm->pause = vm->hold_wanted = true;
	pthread_mutex_unlock(&vm->lock);
	stop_running(vm);
	notify(vm);
	log_error("%s; the VM is paused. Remedy the cause, then let it go on: nestbox resume NAME, or kill -CONT %d", text, (int)getpid());
}

void vm_resume(struct vm *vm)
{
	bool stop = __atomic_load_n(&vm->stop, __ATOMIC_SEQ_CST);
	if (vm->user_paused && !stop)
		return;
	if (!stop)
		board_retry_disks(vm);
	pthread_mutex_lock(&vm->lock);
	vm->pause = false;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
}

void vm_debug_stop(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->pause = true;
	pthread_mutex_unlock(&vm->lock);
	stop_running(vm);
	if (vm->debug_stopped && loop_post(vm->loop, vm->debug_stopped, vm->debug_opaque))
		log_error("debugger: out of memory");
}

void vm_user_pause(struct vm *vm, bool on)
{
	if (on && !vm->user_paused) {
		vm_pause(vm);
		clock_stand_still(&vm->clock);
	}
	bool was = vm->user_paused;
	vm->user_paused = on;
	if (was && !on && vm->end == VM_RUNNING)
		vm_resume(vm);
}

bool vm_is_paused(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	bool paused = vm->pause;
	pthread_mutex_unlock(&vm->lock);
	return paused;
}

/* ---- state ---- */
static void instance_name(char *to, size_t n, const char *what, unsigned i) { snprintf(to, n, "%s%u", what, i); }

void vm_save_state(struct vm *vm, struct state_buf *b)
{
	char name[32];
	struct clock_regs clock;
	clock_get_regs(&vm->clock, &clock);
	state_save(b, &clock_regs_state, "clock", &clock);
	for (unsigned i = 0; i < vm->ncpus; i++) {
		struct cpu *c = vm->vcpus[i].cpu;
		instance_name(name, sizeof name, "cpu", i);
		state_save(b, &cpu_arch_state, name, &c->arch);
		if (c->virt) {
			instance_name(name, sizeof name, "virt", i);
			state_save(b, c->virt->state, name, c->virt_state);
		}
	}
	board_save(vm, b);
}

int vm_load_state(struct vm *vm, const struct state_buf *b, enum vm_time time)
{
	char name[32];
	size_t pos = 0;
	struct clock_regs clock;
	int err = state_load(b, &pos, &clock_regs_state, "clock", &clock);
	if (!err && time == VM_TIME_LOADED)
		clock_set_regs(&vm->clock, &clock);
	for (unsigned i = 0; i < vm->ncpus && !err; i++) {
		struct cpu *c = vm->vcpus[i].cpu;
		instance_name(name, sizeof name, "cpu", i);
		err = state_load(b, &pos, &cpu_arch_state, name, &c->arch);
		instance_name(name, sizeof name, "virt", i);
		if (!err && c->virt)
			err = state_load(b, &pos, c->virt->state, name, c->virt_state);
	}
	if (!err)
		err = board_load(vm, b, &pos);
	for (unsigned i = 0; i < vm->ncpus && !err; i++) {
		struct cpu *c = vm->vcpus[i].cpu;
		c->x87_resident = false;
		if (c->virt && c->virt->loaded)
			c->virt->loaded(c);
		c->v_base = clock_now(&vm->clock);
		c->v_icount = c->icount;
		memset(&c->pace, 0, sizeof c->pace);
		cpu_update_mode(c);
		mmu_flush_all(c);
		mmu_switch(c);
		vm->engine->forget_all(c);
		cpu_pend(c, PEND_INTR | PEND_VIRT | PEND_TIMER | PEND_STEP);
	}
	return err;
}

static int check_section(const struct state_buf *b, size_t *pos, const struct state_desc *d, const char *name)
{
	void *scratch = malloc(d->size + 1);
	int err = scratch ? state_load(b, pos, d, name, scratch) : -ENOMEM;
	free(scratch);
	return err;
}

int vm_check_state(struct vm *vm, const struct state_buf *b)
{
	char name[32];
	size_t pos = 0;
	int err = check_section(b, &pos, &clock_regs_state, "clock");
	for (unsigned i = 0; i < vm->ncpus && !err; i++) {
		struct cpu *c = vm->vcpus[i].cpu;
		instance_name(name, sizeof name, "cpu", i);
		err = check_section(b, &pos, &cpu_arch_state, name);
		instance_name(name, sizeof name, "virt", i);
		if (!err && c->virt)
			err = check_section(b, &pos, c->virt->state, name);
	}
	if (!err)
		err = board_check(vm, b, &pos);
	if (!err && pos != b->len) {
		log_error("saved state: %zu bytes of devices that this machine lacks, at offset %zu", b->len - pos, pos);
		err = -EINVAL;
	}
	return err;
}

void vm_quiesce(struct vm *vm) { board_quiesce(vm); }

/* RESET: every register of CPUs and devices as at power-on, the kernel loaded anew; memory keeps its other contents, as on hardware. */
static void reset(struct vm *vm)
{
	vm_pause(vm);
	int err = vm_load_state(vm, &vm->poweron, VM_TIME_GOES_ON);
	if (!err)
		err = board_boot(vm);
	if (err) {
		vm_end(vm, VM_HOST_ERROR);
		return;
	}
	for (unsigned i = 0; i < vm->ncpus; i++) {
		cpu_update_mode(vm->vcpus[i].cpu);
		mmu_flush_all(vm->vcpus[i].cpu);
		vm->engine->forget_all(vm->vcpus[i].cpu);
	}
	log_debug("machine reset");
	vm_resume(vm);
}

bool vm_handle_events(struct vm *vm)
{
	u64 n;
	if (read(vm->event_fd, &n, sizeof n) < 0 && errno != EAGAIN)
		log_debug("eventfd: %s", strerror(errno));
	pthread_mutex_lock(&vm->lock);
	bool ended = vm->end != VM_RUNNING, wanted = vm->reset_wanted, hold = vm->hold_wanted;
	vm->reset_wanted = vm->hold_wanted = false;
	pthread_mutex_unlock(&vm->lock);
	if (!ended && hold)
		vm_user_pause(vm, true);
	if (vm->resume_signal) {
		vm->resume_signal = 0;
		vm_user_pause(vm, false);
	}
	if (!ended && wanted)
		reset(vm);
	return !ended;
}

/* ---- build ---- */
/* Behind all other frames; firmware_map has given out some of those without a size. */
static int map_more(struct vm *vm)
{
	u64 frame = (vm->cfg.memory + firmware_bytes(&vm->firmware)) / PAGE_SIZE;
	return vm->cfg.memory_more ? mem_add_view(&vm->mem, gpa(board_plug_base(vm->cfg.memory)), vm->cfg.memory_more, frame, MEM_RAM, "ram-plugged") : 0;
}

static int create_memory(struct vm *vm)
{
	const u64 below_hole = 0xb0000000ull; /* ECAM and device windows follow: GUESTS.md "Chipset" */
	u64 low = min_u64(vm->cfg.memory, below_hole);
	int err = firmware_open(&vm->firmware, vm);
	if (!err)
		err = mem_init(&vm->mem, vm->cfg.memory + firmware_bytes(&vm->firmware) + vm->cfg.memory_more);
	vm->mem.remapped = vm_remapped;
	vm->mem.remapped_opaque = vm;
	if (!err)
		err = map_more(vm);
	if (!err && vm->firmware.kind != FIRMWARE_NONE)
		return firmware_map(&vm->firmware, &vm->mem, vm->cfg.memory);
	if (!err)
		err = mem_add_view(&vm->mem, gpa(0), low, 0, MEM_RAM, "ram-low");
	if (!err && vm->cfg.memory > low)
		err = mem_add_view(&vm->mem, gpa(4 * GiB), vm->cfg.memory - low, low / PAGE_SIZE, MEM_RAM, "ram-high");
	return err;
}

static int create_cpus(struct vm *vm)
{
	char text[256];
	/* OVMF maps all that the physical address width allows, in 2 MiB pages: beyond 1 TiB that takes minutes. */
	bool narrow = vm->firmware.kind == FIRMWARE_UEFI && !strstr(vm->cfg.cpu_model, "phys-bits") && vm->cfg.memory + vm->cfg.memory_more < 512 * GiB;
	snprintf(text, sizeof text, "%s%s", vm->cfg.cpu_model, narrow ? ",phys-bits=40" : "");
	vm->model = cpu_model_make(text, vm->cfg.nested, vm->ncpus, VM_TSC_KHZ);
	if (!vm->model)
		return -EINVAL;
	vm->io = (struct cpu_io){ io_port_read, io_port_write, io_mmio_read, io_mmio_write, .claim_code = vm_claim_code,
				  .service_code = vm_service_code, .spinning = vm_spinning, .vm = vm };
	for (unsigned i = 0; i < vm->ncpus; i++) {
		int err = vcpu_create(vm, i);
		if (!err && vm->cfg.nested)
			err = vmx_create(vm->vcpus[i].cpu);
		if (err) {
			log_error("cannot create vCPU %u: %s", i, strerror(-err));
			return err;
		}
	}
	return 0;
}

const struct engine_ops *vm_engine(const char *name)
{
	static const struct { const char *name; const struct engine_ops *ops; } engines[] = {
		{ "auto", &jit_engine }, { "interp", &interp_engine }, { "jit", &jit_engine }, { "lockstep", &lockstep_engine },
	};
	for (unsigned i = 0; i < array_len(engines); i++)
		if (!strcmp(name, engines[i].name))
			return engines[i].ops;
	return NULL;
}

const char *vm_engine_reason(const char *name)
{
	if (!name || !strcmp(name, "auto"))
		return "engine=auto: the translator, the faster of this version's software engines; it has none for the host's /dev/kvm";
	return "asked for by name";
}

int vm_create(struct vm *vm, const struct vm_config *cfg)
{
	memset(vm, 0, sizeof *vm);
	vm->cfg = *cfg;
	vm->ncpus = cfg->cpus;
	vm->engine = cfg->engine ? vm_engine(cfg->engine) : &interp_engine;
	vm->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vm->event_fd < 0) {
		log_error("eventfd: %s", strerror(errno));
		return -errno;
	}
	vm->loop = loop_create();
	if (!vm->loop)
		return -ENOMEM;
	vm->statm_fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC); /* only for --stats: may fail */
	pthread_mutex_init(&vm->lock, NULL);
	pthread_cond_init(&vm->changed, NULL);
	int err = create_memory(vm);
	if (err)
		return err;
	bus_init(&vm->bus, &vm->mem, &vm->clock);
	clock_init(&vm->clock, &vm->bus.lock);
	if (vm->ncpus > 1)
		clock_share(&vm->clock);
	vm->clock.changed = vm_clock_changed;
	vm->clock.changed_opaque = vm;
	vm->bus.power = on_power;
	vm->bus.power_opaque = vm;
	err = create_cpus(vm);
	if (!err)
		err = mem_add_listener(&vm->mem, (struct mem_listener){ vm_code_written, vm });
	if (!err)
		err = display_open(vm);
	if (!err)
		err = board_create(vm);
	if (!err)
		err = vnc_start(vm);
	if (err)
		return err;
	for (unsigned i = 0; i < vm->ncpus; i++)
		cpu_reset(vm->vcpus[i].cpu);
	vm_save_state(vm, &vm->poweron);
	err = board_boot(vm);
	for (unsigned i = 0; i < vm->ncpus && !err; i++) {
		cpu_update_mode(vm->vcpus[i].cpu);
		mmu_switch(vm->vcpus[i].cpu);
	}
	return err;
}

void vm_destroy(struct vm *vm)
{
	for (unsigned i = 0; i < vm->ncpus; i++) {
		if (vm->vcpus[i].cpu && vm->vcpus[i].cpu->virt)
			vmx_destroy(vm->vcpus[i].cpu);
		vcpu_destroy(&vm->vcpus[i]);
	}
	vnc_stop(vm);
	board_destroy(vm);
	firmware_close(&vm->firmware);
	cpu_model_free(vm->model);
	state_buf_free(&vm->poweron);
	mem_free(&vm->mem);
	loop_destroy(vm->loop);
	if (vm->event_fd > 0)
		close(vm->event_fd);
	if (vm->statm_fd > 0)
		close(vm->statm_fd);
}

int vm_start(struct vm *vm)
{
	vm->start_host_ns = host_now_ns();
	vm->start_ticks = __builtin_ia32_rdtsc();
	mem_ahead_start(&vm->mem);
	for (unsigned i = 0; i < vm->ncpus; i++) {
		int err = vcpu_start(&vm->vcpus[i]);
		if (err)
			return err;
	}
	return 0;
}

/* A vCPU leaves the guest within microseconds; one that has not after this long never will. */
#define STOP_LIMIT_S 20

bool vm_stop(struct vm *vm)
{
	bool all = true;
	__atomic_store_n(&vm->stop, true, __ATOMIC_SEQ_CST);
	board_console_abandon(vm, true);
	stop_running(vm);
	vm_resume(vm);
	for (unsigned i = 0; i < vm->ncpus; i++) {
		struct timespec until;
		if (!vm->vcpus[i].started)
			continue;
		cpu_pend(vm->vcpus[i].cpu, PEND_KICK);
		vcpu_kick(vm, i);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += STOP_LIMIT_S;
		if (pthread_timedjoin_np(vm->vcpus[i].thread, NULL, &until)) {
			log_error("vCPU %u does not stop: a bug in engine %s; please report it", i, vm->engine->name);
			all = false;
			continue;
		}
		vm->vcpus[i].started = false;
	}
	return all;
}
