"""How each side is started: native, nestbox with one of its engines, Debian's QEMU (TCG) and Debian's Bochs."""
import os
import pathlib
import re
import shutil
import subprocess

from . import guests

MEMORY = {1: 1024, 2: 1024, 3: 2560} # MiB of L1, by number of levels


class Side:
    """name: as in the tables. console: a pipe's two ends when the console is not the output. ends_with: exit status after power-off."""
    name, console, timeout_factor, ends_with = "", None, 1, 0

    def command(self, kernel, initrd, append, depth, cpus=1):
        raise NotImplementedError

    def version(self):
        return ""


class Native(Side):
    name = "native"

    def __init__(self, program, arguments):
        self.program, self.arguments = program, arguments

    def command(self, kernel, initrd, append, depth, cpus=1):
        return [self.program, "--pin", "--tag", "0", *self.arguments.split()]

    def version(self):
        with open("/proc/cpuinfo") as f:
            model = re.search(r"model name\s*: (.*)", f.read()).group(1)
        return f"{model}, {os.cpu_count()} CPUs, Linux {os.uname().release}"


class Nestbox(Side):
    def __init__(self, binary, engine):
        self.binary, self.engine, self.name = binary, engine, f"nestbox-{engine}"

    def command(self, kernel, initrd, append, depth, cpus=1):
        return [self.binary, "run", "--kernel", kernel, "--initrd", initrd, "--append", append, "--memory", f"{MEMORY[depth]}M",
                "--cpus", str(cpus), "--nested", "on", "--engine", self.engine, "--serial", "stdio", "--no-reboot", "--stats"]

    def version(self):
        return first_line([self.binary, "version"])


class Qemu(Side):
    """q35 is the machine that nestbox resembles; max is TCG's largest CPU model and has SVM with nested paging, AVX2 and FMA."""
    name = "qemu-tcg"

    def command(self, kernel, initrd, append, depth, cpus=1):
        return ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-M", "q35", "-cpu", "max",
                "-smp", str(cpus), "-m", str(MEMORY[depth]), "-kernel", kernel, "-initrd", initrd, "-append", append,
                "-serial", "stdio", "-no-reboot"]

    def version(self):
        return first_line(["qemu-system-x86_64", "--version"])


BOCHSRC = """\
config_interface: textconfig
display_library: rfb, options="timeout=0"
memory: guest={memory}, host={memory}
romimage: file={rombios}
vgaromimage: file={vgabios}
cpu: model=corei7_haswell_4770, count={cpus}, ips=100000000, reset_on_triple_fault=0
clock: sync=none, time0=utc
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path="{iso}", status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev="/proc/self/fd/{fd}"
log: "{log}"
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
speaker: enabled=0
sound: driver=dummy
magic_break: enabled=0
"""
ISOLINUX = "default l\nprompt 0\ntimeout 0\nlabel l\n kernel /vmlinuz\n initrd /initrd\n append {append}\n"


class Bochs(Side):
    """Bochs has no direct kernel boot: its BIOS boots a CD with isolinux, the kernel and the RAM disk on it."""
    name, timeout_factor, ends_with = "bochs", 8, 1

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def command(self, kernel, initrd, append, depth, cpus=1):
        tree = self.folder / "cd"
        shutil.rmtree(tree, ignore_errors=True)
        (tree / "isolinux").mkdir(parents=True)
        for source, name in ((kernel, "vmlinuz"), (initrd, "initrd"), ("/usr/lib/ISOLINUX/isolinux.bin", "isolinux/isolinux.bin"),
                             ("/usr/lib/syslinux/modules/bios/ldlinux.c32", "isolinux/ldlinux.c32")):
            shutil.copy(source, tree / name)
        (tree / "isolinux" / "isolinux.cfg").write_text(ISOLINUX.format(append=append))
        iso = self.folder / "bochs.iso"
        subprocess.run(["genisoimage", "-quiet", "-R", "-o", iso, "-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat", "-no-emul-boot",
                        "-boot-load-size", "4", "-boot-info-table", tree], check=True)
        shutil.rmtree(tree)
        read_fd, write_fd = os.pipe()
        self.console = (read_fd, write_fd)
        self.folder.mkdir(parents=True, exist_ok=True)
        rc = self.folder / "bochsrc"
        rc.write_text(BOCHSRC.format(memory=MEMORY[depth], cpus=cpus, rombios="/usr/share/bochs/BIOS-bochs-latest",
                                     vgabios="/usr/share/vgabios/vgabios.bin", iso=iso, fd=write_fd, log=self.folder / "bochs.log"))
        start = self.folder / "bochs.debugger"
        start.write_text("continue\n")
        return ["bochs", "-q", "-f", rc, "-rc", start] # Debian's is built with the debugger, which waits for a command

    def version(self):
        return "Bochs " + first_line(["dpkg-query", "-W", "-f", "${Version}", "bochs"])


def first_line(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split("\n")[0]
    except OSError:
        return "unknown"


def engines(binary):
    """The engines that the binary knows, from its help, without the choice that is none: auto. lockstep is a test, not a way to run."""
    text = subprocess.run([binary, "run", "--help"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"--engine (\S+)", text)
    return [e for e in (found.group(1).split("|") if found else ["interp"]) if e not in ("auto", "lockstep")]


def install(packages, say):
    """Installs the Debian packages that are missing, as root; else says which they are."""
    missing = [p for p in packages
               if subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Status}", p], capture_output=True, text=True).stdout != "installed"]
    if not missing:
        return
    if os.getuid() != 0:
        raise guests.Missing("run as root: apt-get install --no-install-recommends " + " ".join(missing))
    say("installing " + " ".join(missing))
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    if subprocess.run(command, env=env, capture_output=True).returncode:
        subprocess.run(["apt-get", "update", "-q"], env=env, capture_output=True)
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        if done.returncode:
            raise guests.Missing("apt-get install failed: " + (done.stderr.strip().split("\n") or ["?"])[-1])


QEMU_PACKAGES = ["qemu-system-x86"]
BOCHS_PACKAGES = ["bochs", "bochs-term", "bochsbios", "vgabios", "isolinux", "syslinux-common", "genisoimage"]
