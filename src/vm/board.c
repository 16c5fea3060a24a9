/* The board: which devices the machine has, where they are and what they are wired to. Addresses stand in boot/board_map.h, because the
 * ACPI tables are made from the same numbers. */
#include "base/log.h"
#include "boot/boot.h"
#include "dev/ahci.h"
#include "dev/debug_exit.h"
#include "dev/fw_cfg.h"
#include "dev/hpet.h"
#include "dev/i8042.h"
#include "dev/i8254.h"
#include "dev/ich9_lpc.h"
#include "dev/ich9_pm.h"
#include "dev/mc146818.h"
#include "dev/nvme.h"
#include "dev/pc_ports.h"
#include "dev/pc_testdev.h"
#include "dev/pci_testdev.h"
#include "dev/q35_mch.h"
#include "dev/uart16550.h"
#include "host/sandbox.h"
#include "dev/vga.h"
#include "irq/irq.h"
#include "virtio/virtio_balloon.h"
#include "virtio/virtio_blk.h"
#include "virtio/virtio_console.h"
#include "virtio/virtio_mem.h"
#include "virtio/virtio_rng.h"
#include "vm/console.h"
#include "vm/guest_ports.h"
#include "vm/shares.h"
#include "vm/vsock.h"
#include "vm/vm.h"
#include "cpu/core.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum { SLOT_FIRST_VIRTIO = 1, SLOT_FIRST_SHARE = 12, SLOT_FIRST_NET = 16, SLOT_BALLOON = 24, SLOT_GUEST_PORTS = 25, SLOT_VSOCK = 26, SLOT_MEM = 27, SLOT_VGA = 28, SLOT_TESTDEV = 30, PORT_DEBUG_EXIT = 0xf4 };

struct board {
	struct vm *vm;
	struct ahci *ahci;     /* NULL: no SATA controller */
	struct disk *cdrom;
	struct disk *disks[VM_MAX_DISKS];
	unsigned ndisks;
	struct dev_list devs;
	struct irq_system *irq;
	struct pci_host *pci;
	struct uart16550 *com1;
	struct virtio_console *hvc;
	struct mc146818 *rtc;
	struct ich9_pm *pm;
	struct virtio_balloon *balloon;
	struct virtio_mem *mem; /* NULL: none */
	struct guest_ports *ports;
	struct vsock *vsock;
	struct i8042 *kbc;
	struct vga *vga;      /* NULL: no display */
	struct boot_files files;
	struct console console;
	int console_fd;       /* opened by us for --serial file: and control, else -1 */
	int console_pipe;     /* where the control socket's side reads the latter, else -1 */
	pthread_mutex_t input_lock;
	u8 input[512];        /* input_lock: typed, and not yet taken by a console */
	size_t input_len;
	char debug_line[160]; /* bus->lock: what firmware has said on port 402h since its last newline */
	size_t debug_len;
	bool hvc_spoke_last;  /* bus->lock: typed bytes go to the console that wrote last */
};

/* ---- console ---- */
static void com1_output(void *opaque, u8 byte)
{
	struct board *b = opaque;
	b->hvc_spoke_last = false;
	console_put(&b->console, &byte, 1);
}

static void hvc_output(void *opaque, const u8 *data, size_t len)
{
	struct board *b = opaque;
	b->hvc_spoke_last = true;
	console_put(&b->console, data, len);
}

/* Gives waiting input to the console; what it does not take waits on. bus->lock is taken by the devices. */
static void feed(struct board *b)
{
	pthread_mutex_lock(&b->input_lock);
	size_t taken = b->hvc_spoke_last ? virtio_console_receive(b->hvc, b->input, b->input_len) : uart16550_receive(b->com1, b->input, b->input_len);
	b->input_len -= taken;
	memmove(b->input, b->input + taken, b->input_len);
	pthread_mutex_unlock(&b->input_lock);
}

/* Under bus->lock, so feeding is left to the main loop. */
static void input_space(void *opaque)
{
	struct board *b = opaque;
	u64 one = 1;
	if (__atomic_load_n(&b->input_len, __ATOMIC_RELAXED) && write(b->vm->event_fd, &one, sizeof one) < 0)
		log_debug("eventfd: %s", strerror(errno));
}

size_t board_input_room(struct vm *vm)
{
	struct board *b = vm->board;
	if (b->input_len)
		feed(b);
	return sizeof b->input - b->input_len;
}

void board_serial_input(struct vm *vm, const u8 *bytes, size_t n)
{
	struct board *b = vm->board;
	bug_if(n > sizeof b->input - b->input_len);
	pthread_mutex_lock(&b->input_lock);
	memcpy(b->input + b->input_len, bytes, n);
	b->input_len += n;
	pthread_mutex_unlock(&b->input_lock);
	feed(b);
}

struct virtio_balloon *board_balloon(struct vm *vm) { return vm->board->balloon; }
struct virtio_mem *board_virtio_mem(struct vm *vm) { return vm->board->mem; }
struct guest_ports *board_guest_ports(struct vm *vm) { return vm->board->ports; }
void board_power_button(struct vm *vm) { ich9_pm_power_button(vm->board->pm); }

bool board_console_drain(struct vm *vm) { return vm->board && console_drain(&vm->board->console); }
int board_console_fd(struct vm *vm) { return vm->board->console.fd; }
int board_console_pipe(struct vm *vm) { return vm->board->console_pipe; }
void board_console_abandon(struct vm *vm, bool on) { console_abandon(&vm->board->console, on); }
void board_console_finish(struct vm *vm, int limit_ms) { console_finish(&vm->board->console, limit_ms); }

static int open_console(struct board *b)
{
	const struct vm_config *cfg = &b->vm->cfg;
	b->console_fd = b->console_pipe = -1;
	if (cfg->serial == VM_SERIAL_CONTROL) {
		int fds[2];
		if (pipe2(fds, O_CLOEXEC | O_NONBLOCK)) {
			int err = -errno;
			log_error("pipe: %s", strerror(errno));
			return err;
		}
		b->console_pipe = fds[0];
		b->console_fd = fds[1];
	}
	if (cfg->serial == VM_SERIAL_FILE) {
		b->console_fd = open(cfg->serial_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
		if (b->console_fd < 0) {
			int err = -errno;
			log_error("--serial file \"%s\": %s", cfg->serial_path, strerror(errno));
			return err;
		}
	}
	console_init(&b->console, cfg->serial == VM_SERIAL_STDIO ? STDOUT_FILENO : b->console_fd, b->vm->event_fd);
	return 0;
}

/* ---- construction ---- */
static void kick(void *vm, unsigned index) { vcpu_kick(vm, index); }

static void create_interrupts(struct board *b)
{
	struct vm *vm = b->vm;
	b->irq = irq_system_create(&vm->bus, &b->devs);
	b->irq->kick = kick;
	b->irq->vm = vm;
	for (unsigned i = 0; i < vm->ncpus; i++)
		irq_system_add_cpu(b->irq, vm->vcpus[i].cpu);
}

static void create_pci(struct board *b)
{
	struct pci_host_config cfg = { 0 };
	for (unsigned i = 0; i < 8; i++)
		cfg.gsi[i] = irq_system_line(b->irq, BOARD_GSI_PCI + i);
	static const u8 routable[] = { 3, 5, 6, 7, 10, 11, 12, 14, 15 };
	for (unsigned i = 0; i < array_len(routable); i++)
		cfg.isa[routable[i]] = irq_system_line(b->irq, routable[i]);
	b->pci = pci_host_create(&b->vm->bus, &b->devs, &cfg);
	struct q35_mch *mch = q35_mch_create(b->pci);
	if (b->vm->firmware.kind != FIRMWARE_NONE) {
		mch->opaque = b->vm;
		mch->pam_written = firmware_pam_written;
		firmware_pam_written(b->vm, (const u8[7]){ 0 });
	}
	struct ich9_pm_config pm = { .sci = irq_system_line(b->irq, BOARD_IRQ_SCI), .slp_typ_s5 = BOARD_SLP_TYP_S5 };
	b->pm = ich9_pm_create(&b->vm->bus, &b->devs, &pm);
	ich9_lpc_create(b->pci, b->pm);
}

/* SeaBIOS and debug builds of OVMF speak here, a line at a time. */
static void debug_output(void *opaque, u8 byte)
{
	struct board *b = opaque;
	if (byte >= ' ' && b->debug_len < sizeof b->debug_line - 1)
		b->debug_line[b->debug_len++] = (char)byte;
	if (byte != '\n')
		return;
	b->debug_line[b->debug_len] = 0;
	b->debug_len = 0;
	if (trace_on(TRACE_FIRMWARE))
		trace_line(TRACE_FIRMWARE, "%s", b->debug_line);
}

static void create_legacy(struct board *b)
{
	struct bus *bus = &b->vm->bus;
	struct irq_line hpet_lines[HPET_LINES] = { 0 };
	static const u8 used[] = { 0, 8, 20, 21, 22, 23 };
	for (unsigned i = 0; i < array_len(used); i++)
		hpet_lines[used[i]] = irq_system_line(b->irq, used[i]);
	struct hpet *hpet = hpet_create(bus, &b->devs, hpet_lines);
	i8254_create(bus, &b->devs, hpet_pit_line(hpet));
	b->rtc = mc146818_create(bus, &b->devs, hpet_rtc_line(hpet));
	cmos_set(b->rtc, 0x3d, 0x32); /* SeaBIOS's boot order: hard disk, then CD-ROM; no floppy signature is looked for */
	cmos_set(b->rtc, 0x38, 0x01);
	cmos_set_memory(b->rtc, board_low_ram(b->vm->cfg.memory), board_high_ram(b->vm->cfg.memory), b->vm->ncpus);
	b->kbc = i8042_create(bus, &b->devs, irq_system_line(b->irq, 1), irq_system_line(b->irq, 12));
	if (b->vm->firmware.kind != FIRMWARE_NONE)
		i8042_plug(b->kbc);
	pc_ports_create(bus, &b->devs, debug_output, b);
	struct uart16550_config com1 = { .name = "com1", .port = BOARD_COM1_PORT, .irq = irq_system_line(b->irq, BOARD_IRQ_COM1),
					 .output = com1_output, .input_space = input_space, .opaque = b };
	b->com1 = uart16550_create(bus, &b->devs, &com1);
}

static int create_fw_cfg(struct board *b)
{
	struct fw_cfg *f = fw_cfg_create(&b->vm->bus, &b->devs);
	struct e820_entry map[E820_MAX];
	unsigned n = e820_build(b->vm->cfg.memory, E820_FIRMWARE, map);
	fw_cfg_set_u64(f, FW_CFG_RAM_SIZE, b->vm->cfg.memory);
	fw_cfg_set_u16(f, FW_CFG_NB_CPUS, b->vm->ncpus);
	fw_cfg_set_u16(f, FW_CFG_MAX_CPUS, b->vm->ncpus);
	fw_cfg_add_file(f, "etc/e820", map, n * sizeof map[0]);
	/* Firmware puts 64-bit PCI windows behind what it takes for the end of memory. */
	u64 end = board_plug_base(b->vm->cfg.memory) + b->vm->cfg.memory_more;
	if (b->vm->cfg.memory_more)
		fw_cfg_add_file(f, "etc/reserved-memory-end", &end, sizeof end);
	return firmware_fw_cfg(b->vm, &b->vm->firmware, f);
}

/* In a disk's worker thread. */
static void disk_failed(void *vm, struct disk *d, const char *text) { vm_hold(vm, text); }

struct i8042 *board_keyboard(struct vm *vm) { return vm->board->kbc; }
struct vga *board_display(struct vm *vm) { return vm->board->vga; }
struct disk *board_disk(struct vm *vm, unsigned i) { return i < vm->board->ndisks ? vm->board->disks[i] : NULL; }

void board_retry_disks(struct vm *vm)
{
	for (unsigned i = 0; vm->board && i < vm->board->ndisks; i++)
		disk_retry(vm->board->disks[i]);
}

/* The controller is there with firmware, which looks for it, and when something is plugged into it. */
static int attach_sata(struct board *b, struct disk *d, bool cdrom, const char *serial, const char *text)
{
	if (!b->ahci)
		b->ahci = ahci_create(b->pci, 31, 2);
	if (!ahci_attach(b->ahci, d, cdrom, serial))
		return 0;
	log_error("%s \"%s\": the SATA controller has %d ports, and all are taken", cdrom ? "--cdrom" : "--disk", text, AHCI_PORTS);
	return -ENOSPC;
}

static int create_cdrom(struct board *b)
{
	const char *path = b->vm->cfg.cdrom;
	struct disk_spec spec = { .format = "raw", .bus = DISK_BUS_AHCI, .read_only = true };
	if (!path)
		return 0;
	if (snprintf(spec.path, sizeof spec.path, "%s", path) >= (int)sizeof spec.path) {
		log_error("--cdrom \"%.60s...\": the file's name is too long", path);
		return -ENAMETOOLONG;
	}
	int err = disk_open(&b->cdrom, &spec);
	return err ? err : attach_sata(b, b->cdrom, true, "nestbox-cd", path);
}

static int create_disk(struct board *b, const char *text, unsigned number, unsigned slot)
{
	char id[DISK_SERIAL_MAX + 1];
	struct disk_spec spec;
	struct disk *d = NULL;
	int err = disk_spec_parse(&spec, text);
	if (!err)
		err = disk_open(&d, &spec);
	disk_spec_free(&spec);
	if (err)
		return err;
	b->disks[b->ndisks++] = d;
	disk_set_pause(d, disk_failed, b->vm);
	if (disk_needs_server(d))
		b->vm->promises |= SANDBOX_DISK_SERVER;
	snprintf(id, sizeof id, "nestbox-disk%u", number);
	const char *serial = spec.serial[0] ? spec.serial : id;
	if (spec.bus == DISK_BUS_NVME) {
		nvme_create(b->pci, slot, &(struct nvme_config){ d, serial });
		return 0;
	}
	if (spec.bus == DISK_BUS_AHCI)
		return attach_sata(b, d, false, serial, text);
	struct virtio_blk_config cfg = { .disk = d, .queues = b->vm->ncpus < VIRTIO_MAX_QUEUES ? b->vm->ncpus : VIRTIO_MAX_QUEUES,
					 .id = serial };
	virtio_blk_create(b->pci, slot, &cfg);
	return 0;
}

static int create_mem(struct board *b)
{
	u64 base = board_plug_base(b->vm->cfg.memory), size = b->vm->cfg.memory_more;
	unsigned bits = cpu_maxphyaddr(b->vm->vcpus[0].cpu);
	if (!size)
		return 0;
	if (base + size > bit(bits)) {
		log_error("--memory: the most that it may grow to ends beyond the CPU's %u bits of physical address: give it less, or --cpu ...,phys-bits= more", bits);
		return -EINVAL;
	}
	b->mem = virtio_mem_create(b->pci, SLOT_MEM, base, size);
	return 0;
}

static int create_virtio(struct board *b)
{
	unsigned slot = SLOT_FIRST_VIRTIO;
	virtio_rng_create(b->pci, slot++);
	struct virtio_console_config console = { .output = hvc_output, .input_space = input_space, .opaque = b };
	b->hvc = virtio_console_create(b->pci, slot++, &console);
	for (unsigned i = 0; i < b->vm->cfg.ndisks; i++) {
		int err = create_disk(b, b->vm->cfg.disks[i], i, slot++);
		if (err)
			return err;
	}
	int err = create_cdrom(b);
	if (err)
		return err;
	if (b->vm->firmware.kind != FIRMWARE_NONE && !b->ahci)
		b->ahci = ahci_create(b->pci, 31, 2);
	b->balloon = virtio_balloon_create(b->pci, SLOT_BALLOON, &(struct virtio_balloon_config){ 0 });
	err = create_mem(b);
	if (err)
		return err;
	b->ports = guest_ports_create(b->vm, b->pci, SLOT_GUEST_PORTS);
	if (b->vm->cfg.exec_socket)
		err = guest_ports_attach(b->ports, GUEST_PORT_EXEC, b->vm->cfg.exec_socket);
	if (!err)
		err = shares_create(b->vm, b->pci, SLOT_FIRST_SHARE);
	if (!err && b->vm->cfg.vsock)
		err = vsock_create(b->vm, b->pci, SLOT_VSOCK, b->vm->cfg.vsock, &b->vsock);
	return err ? err : nets_create(b->vm, b->pci, SLOT_FIRST_NET);
}

static void create_test_devices(struct board *b)
{
	struct irq_line lines[PC_TESTDEV_IRQS];
	for (unsigned i = 0; i < PC_TESTDEV_IRQS; i++)
		lines[i] = irq_system_line(b->irq, i);
	debug_exit_create(&b->vm->bus, PORT_DEBUG_EXIT);
	pc_testdev_create(&b->vm->bus, &b->devs, lines);
	pci_testdev_create(b->pci, SLOT_TESTDEV);
}

int board_create(struct vm *vm)
{
	struct board *b = calloc(1, sizeof *b);
	if (!b)
		return -ENOMEM;
	b->vm = vm;
	pthread_mutex_init(&b->input_lock, NULL);
	int err = open_console(b);
	if (err) {
		free(b);
		return err;
	}
	vm->board = b;
	create_interrupts(b);
	create_pci(b);
	create_legacy(b);
	firmware_create_devices(vm, &b->devs);
	err = create_fw_cfg(b);
	if (!err)
		err = create_virtio(b);
	if (!err && vm->cfg.test_devices)
		create_test_devices(b);
	if (!err && vm->firmware.vga)
		b->vga = vga_create(b->pci, SLOT_VGA, vm->firmware.vga_frame, FIRMWARE_VGA_BYTES);
	if (!err && vm->firmware.kind != FIRMWARE_NONE)
		return 0; /* firmware places the BARs */
	struct pci_windows w = { BOARD_PCI32_BASE, (u64)BOARD_PCI32_LAST + 1, BOARD_PCI_IO_BASE, 0x10000 };
	return err ? err : pci_assign_bars(b->pci, &w);
}

void board_destroy(struct vm *vm)
{
	if (!vm->board)
		return;
	guest_ports_free(vm->board->ports);
	vsock_free(vm->board->vsock);
	dev_list_free(&vm->board->devs);
	for (unsigned i = 0; i < vm->board->ndisks; i++)
		disk_close(vm->board->disks[i]);
	disk_close(vm->board->cdrom);
	boot_files_close(&vm->board->files);
	if (vm->board->console_fd >= 0)
		close(vm->board->console_fd);
	if (vm->board->console_pipe >= 0)
		close(vm->board->console_pipe);
	free(vm->board);
	vm->board = NULL;
}

/* kvm-unit-tests' realmode waits for the pc-testdev's IRQ 11 in the mode that a PC's firmware leaves the 8259 pair in, so it must not be masked. */
static void open_test_irq(struct bus *bus)
{
	bus_port_write(bus, 0x21, 0xff & ~(1 << 2), 1);
	bus_port_write(bus, 0xa1, 0xff & ~(1 << (11 - 8)), 1);
}

int board_boot(struct vm *vm)
{
	char err[512];
	struct cpu *bsp = vm->vcpus[0].cpu;
	if (vm->firmware.kind != FIRMWARE_NONE)
		return 0; /* the reset vector's business */
	struct boot_request rq = {
		.kernel = vm->cfg.kernel, .initrd = vm->cfg.initrd, .append = vm->cfg.append, .files = &vm->board->files,
		.board = { .ncpus = vm->ncpus, .phys_bits = cpu_maxphyaddr(bsp), .ram = vm->cfg.memory },
	};
	for (unsigned i = 0; i < vm->ncpus; i++)
		boot_cpu_setup(&vm->vcpus[i].cpu->arch, &rq.board);
	irq_system_virtual_wire(vm->board->irq);
	if (vm->cfg.test_devices)
		open_test_irq(&vm->bus);
	int r = boot_load(&rq, &vm->mem, &bsp->arch, err, sizeof err);
	if (r)
		log_error("%s", err);
	return r;
}

void board_save(struct vm *vm, struct state_buf *b)
{
	dev_list_quiesce(&vm->board->devs);
	pthread_mutex_lock(&vm->bus.lock);
	dev_list_save(&vm->board->devs, b);
	pthread_mutex_unlock(&vm->bus.lock);
}

int board_load(struct vm *vm, const struct state_buf *b, size_t *pos)
{
	dev_list_quiesce(&vm->board->devs);
	pthread_mutex_lock(&vm->bus.lock);
	int err = dev_list_load(&vm->board->devs, b, pos);
	pthread_mutex_unlock(&vm->bus.lock);
	return err;
}

int board_check(struct vm *vm, const struct state_buf *b, size_t *pos) { return dev_list_check(&vm->board->devs, b, pos); }
void board_quiesce(struct vm *vm) { dev_list_quiesce(&vm->board->devs); }
