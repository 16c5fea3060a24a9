#!/usr/bin/env python3
"""Boots Debian's cloud kernel on nestbox and checks what every level says of itself.

usage: boots.py NESTBOX CASE|--list      NESTBOX_TEST_ENGINE chooses the engine (default auto). Exit status: 0 passed, 1 failed, 77 skipped (no guest images; make them with tools/guest-images).
The guests speak in lines "NESTBOX: level=N event=NAME key=value ..." (tools/guest/init). No case may leave a line in any guest's log that a healthy machine
does not print; the guests look for them themselves (event=badlog) and we look at the console.
"""
import base64
import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
IMAGES = os.path.join(os.environ.get("NESTBOX_CACHE", os.path.join(ROOT, ".cache")), "images")
OWN_MEMORY_MIB = 64
BAD = re.compile(r"WARNING:|BUG:|Oops|soft lockup|hard lockup|rcu.*stall|blocked for more|Marking clocksource|TSC unstable|Call Trace:|"
                 r"Unable to calibrate|Kernel panic|event=badlog", re.I)

# A script that runs in L1: the first boot leaves a note on the disk and resets, the second finds it.
REBOOT_ONCE = """
load virtio_pci; load virtio_blk
n=0; while [ ! -b /dev/vda ] && [ $n -lt 50 ]; do sleep 0.1; n=$((n+1)); done
if [ "$(dd if=/dev/vda bs=4 count=1 2>/dev/null)" = seen ]; then mark second; else
printf seen | dd of=/dev/vda bs=512 conv=sync,fsync 2>/dev/null; mark first; reboot -f; fi
"""
DISK = """
load virtio_pci; load virtio_blk; load virtio_rng
n=0; while [ ! -b /dev/vda ] && [ $n -lt 50 ]; do sleep 0.1; n=$((n+1)); done
seq 1 100000 >/tmp/a; dd if=/tmp/a of=/dev/vda bs=64k conv=fsync 2>/dev/null
echo 3 >/proc/sys/vm/drop_caches
size=$(stat -c %s /tmp/a)
[ "$(head -c $size /dev/vda | md5sum)" = "$(md5sum </tmp/a)" ] && same=yes || same=no
rng=$(head -c 16 /dev/hwrng | od -An -tx1 | tr -d ' \\n')
mark disk "same=$same sectors=$(cat /sys/block/vda/size) rng=$rng"
"""


# Programs that take page faults on every CPU: their kernel's locks are handed from CPU to CPU, and on most hosts some of those are not running.
CROWD = """
pids=; i=0; while [ $i -lt 4 ]; do i=$((i+1))
( n=0; while [ $n -lt 4 ]; do n=$((n+1)); dd if=/dev/zero of=/dev/null bs=32M count=1 2>/dev/null; done ) & pids="$pids $!"; done
wait $pids
mark crowd "cpus=$(grep -c ^processor /proc/cpuinfo)"
"""

# Writing, reading back, flushing and discarding on two namespaces of two controllers; the second disk is read-only.
NVME = """
n=0; while [ ! -b /dev/nvme0n1 ] && [ $n -lt 50 ]; do sleep 0.1; n=$((n+1)); done
seq 1 300000 >/tmp/a; size=$(stat -c %s /tmp/a)
dd if=/tmp/a of=/dev/nvme0n1 bs=1M conv=fsync 2>/dev/null
dd if=/tmp/a of=/dev/nvme0n1 bs=4k seek=1000 oflag=direct conv=notrunc 2>/dev/null
echo 3 >/proc/sys/vm/drop_caches
a=$(md5sum </tmp/a); [ "$(head -c $size /dev/nvme0n1 | md5sum)" = "$a" ] && same=yes || same=no
[ "$(tail -c +4096001 /dev/nvme0n1 | head -c $size | md5sum)" = "$a" ] && direct=yes || direct=no
sync; blkdiscard /dev/nvme0n1 2>/dev/null && trim=yes || trim=no
mark nvme "same=$same direct=$direct trim=$trim sectors=$(cat /sys/block/nvme0n1/size) model=$(tr -d ' ' </sys/block/nvme0n1/device/model) serial=$(tr -d ' ' </sys/block/nvme0n1/device/serial) queues=$(ls /sys/block/nvme0n1/mq | wc -l) cache=$(tr -d ' ' </sys/block/nvme0n1/queue/write_cache)"
"""


class Case:
    def __init__(self, sentence, image="small.cpio", mode="poweroff", args=(), append="", script=None, status=0, expect=(), stderr=None,
                 disk=0, disk_words="", memory="512M", timeout=300, starve=False, clean=True):
        self.__dict__.update(locals())


def has(level, event, **fields):
    return (level, event, fields)


UP1 = has(1, "userland", vmx="no")
UP1V = has(1, "userland", vmx="yes")
UP2 = has(2, "userland", hypervisor="KVM")
L2 = dict(image="l1.cpio", mode="auto", memory="1024M", args=("--nested", "on"))
CHILD_OK = has(1, "child", child="2", status="0", answered="yes")

CASES = {
    "one-cpu": Case("one CPU, nested off: no vmx flag, kvm_intel refuses to load",
                    expect=[UP1, has(1, "userland", cpus="1"), has(1, "kvm", module="kvm_intel", result="refused"), has(1, "klog", bad="0")]),
    "two-cpus": Case("two CPUs come up and power off", args=("--cpus", "2"), expect=[UP1, has(1, "userland", cpus="2")]),
    "nested-on": Case("nested on: vmx flag, kvm_intel loads, /dev/kvm is there", args=("--nested", "on"),
                      expect=[UP1V, has(1, "kvm", module="kvm_intel", result="ok")]),
    "level-2": Case("L1's QEMU boots L2 with KVM", expect=[UP1V, UP2, has(2, "klog", bad="0"), CHILD_OK, has(1, "klog", bad="0")], timeout=900, **L2),
    "level-2-two-cpus": Case("two CPUs in L1 and in L2", append="nb.cpus=2", expect=[UP1V, has(2, "userland", cpus="2"), CHILD_OK], timeout=1200,
                             **{**L2, "args": ("--nested", "on", "--cpus", "2")}),
    "level-2-pc": Case("L2 on QEMU's pc machine: SeaBIOS and option ROMs first", append="nb.machine=pc", expect=[UP2, CHILD_OK], timeout=1800, **L2),
    "level-3": Case("L2 loads kvm_intel too and boots L3", append="nb.depth=3",
                    expect=[UP2, has(2, "kvm", module="kvm_intel", result="ok"), has(3, "userland", hypervisor="KVM"), has(2, "child", answered="yes"), CHILD_OK],
                    timeout=1800, **{**L2, "image": "l1-deep.cpio", "memory": "2560M"}),
    "reboot": Case("a reset from inside boots again, and the disk remembers", script=REBOOT_ONCE, disk=1 << 20,
                   expect=[has(1, "first"), has(1, "second"), has(1, "poweroff")]),
    "no-reboot": Case("--no-reboot ends at the reset", mode="reboot", args=("--no-reboot",), expect=[has(1, "reboot")]),
    "triple-fault": Case("a triple fault ends with status 1 and says where", mode="reboot", append="reboot=t,force", status=1, stderr="triple fault",
                         expect=[has(1, "reboot")]),
    "timeout": Case("a halted guest ends by --timeout with status 124", mode="halt", args=("--timeout", "40"), status=124, expect=[has(1, "halt")]),
    "disk": Case("virtio-blk returns what was written, virtio-rng gives bytes", script=DISK, disk=4 << 20,
                 expect=[has(1, "disk", same="yes", sectors="8192")]),
    "nvme": Case("an NVMe disk returns what was written", script=NVME, disk=16 << 20, disk_words=",bus=nvme,serial=N1", args=("--cpus", "2"),
                 expect=[has(1, "nvme", same="yes", direct="yes", sectors="32768", model="nestboxNVMedisk", serial="N1", queues="2", cache="writeback")]),
    "stress": Case("hundreds of processes on two CPUs", mode="stress", args=("--cpus", "2"), expect=[has(1, "stress", rounds="200")], timeout=900),
    "crowded": Case("more busy vCPUs than the host has CPUs get through their kernel's locks", script=CROWD, args=("--cpus", "4"), timeout=120,
                    expect=[has(1, "crowd", cpus="4"), has(1, "poweroff")]),
    "starved": Case("a VM that gets a quarter of a core sees no stall", mode="stress", args=("--cpus", "2"), starve=True,
                    expect=[has(1, "stress", rounds="200"), has(1, "klog", bad="0")], timeout=1800),
}


def parse(line):
    """(level, event, {key: value}) of a marker line, or None."""
    at = line.find("NESTBOX: ")
    if at < 0:
        return None
    try:
        words = dict(w.split("=", 1) for w in shlex.split(line[at + 9:]) if "=" in w)
        return int(words["level"]), words["event"], words
    except (ValueError, KeyError):
        return None


def command(nestbox, case, work):
    append = f"console=ttyS0 quiet panic=-1 random.trust_cpu=on cryptomgr.notests nb.mode={case.mode} {case.append}"
    if case.script:
        append += " nb.cmd64=" + base64.b64encode(case.script.encode()).decode()
    cmd = [nestbox, "run", "--kernel", f"{IMAGES}/vmlinuz", "--initrd", f"{IMAGES}/{case.image}", "--append", append, "--memory", case.memory,
           "--serial", "stdio", "--stats", "--engine", os.environ.get("NESTBOX_TEST_ENGINE", "auto"), *case.args]
    if case.disk:
        disk = os.path.join(work, "disk.img")
        with open(disk, "wb") as f:
            f.truncate(case.disk)
        cmd += ["--disk", disk + case.disk_words]
    return cmd


def starving_neighbours():
    """Three busy processes on one core, which the VM must share: it gets about a quarter of it."""
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]


def run(cmd, timeout):
    """Console lines with their times, stderr, status. Prints the console as it comes."""
    lines, start = [], time.monotonic()
    with tempfile.TemporaryFile() as err:
        p = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err)
        timer = threading.Timer(timeout, p.kill)
        timer.start()
        for raw in p.stdout:
            text = raw.decode("utf-8", "replace").rstrip("\r\n")
            lines.append(text)
            print(f"[{time.monotonic() - start:7.1f}] {text}", flush=True)
        status = p.wait()
        timer.cancel()
        err.seek(0)
        return lines, err.read().decode("utf-8", "replace"), status


def judge(case, lines, stderr, status):
    problems = []
    events = [e for e in map(parse, lines) if e]
    for level, event, fields in case.expect:
        if not any(l == level and e == event and all(w.get(k) == v for k, v in fields.items()) for l, e, w in events):
            problems.append(f"L{level} never said {event} {fields}")
    if status != case.status:
        problems.append(f"status {status}, expected {case.status}")
    if case.stderr and case.stderr not in stderr:
        problems.append(f"stderr lacks {case.stderr!r}")
    own = re.search(r"own_memory_mib=([0-9.]+)", stderr)
    if not own or float(own.group(1)) > OWN_MEMORY_MIB:
        problems.append(f"the process holds {own.group(1) if own else '?'} MiB beside the guest's memory, more than {OWN_MEMORY_MIB}")
    if case.clean:
        problems += [f"unhealthy line: {l}" for l in lines if BAD.search(l)]
    return problems


def main():
    if len(sys.argv) != 3:
        print(__doc__)
        return 2
    nestbox, name = sys.argv[1:]
    if name == "--list":
        for n, c in CASES.items():
            print(f"{n:20} {c.sentence}")
        return 0
    case = CASES[name]
    if not os.path.exists(f"{IMAGES}/{case.image}"):
        print(f"skipped: no {IMAGES}/{case.image}; run tools/guest-images")
        return 77
    neighbours = starving_neighbours() if case.starve else []
    try:
        with tempfile.TemporaryDirectory(prefix="nestbox-boot-") as work:
            cmd = command(nestbox, case, work)
            print(shlex.join(cmd), flush=True)
            lines, stderr, status = run(cmd, case.timeout)
    finally:
        for n in neighbours:
            n.kill()
    print(stderr)
    problems = judge(case, lines, stderr, status)
    for p in problems:
        print(f"FAIL {case.sentence}: {p}")
    if not problems:
        print(f"ok   {case.sentence}")
    return 1 if problems else 0


sys.exit(main())
