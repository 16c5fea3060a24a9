"""What the sides run: the workload program, and initial RAM disks with it for every level.

The archives of tools/guest-images are taken as they are; another archive is appended (the kernel unpacks one after the other) with the
program, the script of this level and, above the last level, the next level's initial RAM disk.
"""
import hashlib
import os
import pathlib
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "bench" / "work"
CFLAGS = ["-O2", "-static", "-Wall", "-Wextra", "-march=x86-64"]


class Missing(Exception):
    """Something has to be installed or made first; the text says what."""


def cache():
    return pathlib.Path(os.environ.get("NESTBOX_CACHE", ROOT / ".cache"))


def workload_program():
    """Compiles the workloads unless the same sources were compiled before; returns its path."""
    sources = sorted(WORK.glob("*.c"))
    digest = hashlib.sha256(" ".join(CFLAGS).encode())
    for path in sorted(WORK.iterdir()):
        digest.update(path.read_bytes())
    out = cache() / "bench" / f"work-{digest.hexdigest()[:12]}"
    if not out.exists():
        if not shutil.which("gcc"):
            raise Missing("gcc is missing: run tools/install-deps")
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_suffix(".part")
        subprocess.run(["gcc", *CFLAGS, "-o", part, *sources], check=True)
        part.rename(out)
    return out


def workloads(program):
    """[(name, kind)] in the order of the tables."""
    text = subprocess.run([program, "--list"], check=True, capture_output=True, text=True).stdout
    return [tuple(line.split()) for line in text.splitlines()]


def cpio(files):
    """A newc archive of {path: (mode, bytes)}; mode as in stat. Directories above a file must be in the archive or unpacked already."""
    out = bytearray()

    def entry(name, mode, data, number):
        raw = name.encode() + b"\0"
        fields = [number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0]
        out.extend(b"070701" + b"".join(b"%08X" % f for f in fields) + raw)
        out.extend(bytes(-len(out) % 4) + data)
        out.extend(bytes(-len(out) % 4))

    for number, (name, (mode, data)) in enumerate(files.items(), 1):
        entry(name, mode, data, number)
    entry("TRAILER!!!", 0, b"", 0)
    return bytes(out)


LEVEL_SCRIPT = """\
# Sourced by /init of every level: first the next level, then this level's own workloads.
if [ $level -lt $depth ]; then
	child_command
	if [ $child_level -lt $depth ]; then # the last level's script is every level's
		param leaf64 ""
		args="$args nb.cmd64=$value"
	fi
	mark start "child=$child_level"
	param timeout 0
	watchdog=
	[ "$value" = 0 ] || watchdog="timeout -s KILL $value"
	child_machine </dev/null # its console is ours
	mark child "child=$child_level status=$?"
fi
"""
SMP_SCRIPT = """\
# Sourced by /init of a machine with two CPUs: each workload alone (tag 1) and beside another of its kind (tag 2), in turn.
for name in {names}; do
	/bin/work --port 3f8 --tag 1 {arguments} --only $name
done
"""
RUN_LINE = "/bin/work --port 3f8 --tag $level {arguments}\n"


def chain_scripts(depth, levels, arguments):
    """{level: its script}: every level starts the next one, then runs the workloads if it is one of levels."""
    return {level: LEVEL_SCRIPT + (RUN_LINE.format(arguments=arguments) if level in levels else "") for level in range(1, depth + 1)}


def smp_scripts(names, arguments):
    return {1: SMP_SCRIPT.format(names=" ".join(names), arguments=arguments)}


def make_initrd(program, scripts, name):
    """Writes L1's initial RAM disk for a chain of as many levels as there are scripts; returns its path."""
    images = cache() / "images"
    for wanted in ("leaf.cpio", "l1.cpio", "vmlinuz"):
        if not (images / wanted).exists():
            raise Missing(f"{images / wanted} is missing: run tools/guest-images")
    binary, depth, child = program.read_bytes(), len(scripts), None
    for level in range(depth, 0, -1):
        files = {"bin/work": (0o100755, binary), "bench": (0o040755, b""), "bench/level": (0o100644, scripts[level].encode())}
        if child is not None:
            files["images/child.cpio"] = (0o100644, child)
        base = "leaf.cpio" if level == depth and depth > 1 else "l1.cpio"
        child = (images / base).read_bytes() + cpio(files)
    out = cache() / "bench" / f"{name}.cpio"
    out.write_bytes(child)
    return out


def command_line(depth, timeout_s):
    """The kernel's arguments, the same on every side. The base64 text says: . /bench/level"""
    script = "LiAvYmVuY2gvbGV2ZWwK"
    words = ["console=ttyS0,115200", "quiet", "panic=-1", "random.trust_cpu=on", "cryptomgr.notests", f"nb.depth={depth}", "nb.mode=poweroff",
             "nb.child=poweroff", f"nb.cmd64={script}", f"nb.leaf64={script}", f"nb.timeout={timeout_s}"]
    return " ".join(words)
