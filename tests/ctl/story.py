#!/usr/bin/env python3
"""A new user's story from end to end: a VM is made, made ready to host VMs, started; inside it a VM is started; the tree shows three levels; the nested VM counts
through checkpoint, apply, save, start and changes of memory.

usage: story.py NESTBOX      NESTBOX_TEST_ENGINE: another engine than auto. Exit status: 0 passed, 1 failed, 77 skipped (no guest images; make them with tools/guest-images).
"""
import base64
import glob
import json
import os
import re
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CACHE = os.environ.get("NESTBOX_CACHE", os.path.join(ROOT, ".cache"))
IMAGES = CACHE + "/images"
# L1: the agent, and somebody who listens to the power button (a desktop or systemd would).
L1 = """
load virtio_pci; load virtio_console
insmod /button.ko; insmod /evdev.ko; insmod /virtio_balloon.ko
mkdir -p /dev/virtio-ports /run /var/run /dev/pts; mount -t devpts devpts /dev/pts
n=0; while ! cat /sys/class/virtio-ports/*/name 2>/dev/null | grep -q exec.3 && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done
for p in /sys/class/virtio-ports/*; do [ -e $p/name ] && ln -s ../${p##*/} /dev/virtio-ports/$(cat $p/name); done
for e in /dev/input/event*; do (dd if=$e of=/tmp/pressed bs=24 count=1 2>/dev/null; mark button; poweroff -f) & done
mark ready
/usr/sbin/qemu-ga -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run
"""
L2 = "i=1; while :; do echo count $i; i=$((i+1)); sleep 0.1; done"
START_L2 = """
qemu-system-x86_64 -nodefaults -no-user-config -display none -accel kvm -M microvm,pit=off,pic=off,rtc=on,isa-serial=on,acpi=on,auto-kernel-cmdline=off \
 -cpu host,migratable=off -smp 1 -m 128 -kernel /images/vmlinuz -initrd /images/child.cpio -serial file:/tmp/l2.log -no-reboot -append \
 "pci=off console=ttyS0,115200 8250.nr_uarts=1 reboot=t panic=-1 random.trust_cpu=on cryptomgr.notests quiet loglevel=3 nb.level=2 nb.depth=2 nb.mode=poweroff nb.cmd64=%s" \
 >/tmp/qemu.log 2>&1 </dev/null &
""" % base64.b64encode(L2.encode()).decode()
failures = 0


def newc(files):
    """A cpio archive of plain files, as the kernel unpacks after others."""
    out = b""
    for name, data in files + [("TRAILER!!!", b"")]:
        head = b"070701" + b"".join(b"%08X" % v for v in (0, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0))
        out += head + name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return out


def check(sentence, ok, detail=""):
    global failures
    print(f"{time.monotonic() - began:6.1f} {'ok  ' if ok else 'FAIL'} {sentence}{'' if ok else ': ' + str(detail)[-1500:]}", flush=True)
    failures += not ok
    return ok


class User:
    def __init__(self, nestbox, work):
        self.base = [nestbox, "--state", work + "/state"]

    def __call__(self, *words, timeout=300, stdin=None):
        r = subprocess.run(self.base + list(words), capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL)
        return r.returncode, r.stdout.decode("utf-8", "replace"), r.stderr.decode("utf-8", "replace")

    def must(self, sentence, *words, says=(), status=0, **kw):
        r = self(*words, **kw)
        check(sentence, r[0] == status and all(s in r[1] + r[2] for s in says), r)
        return r[1]

    def inside(self, script, timeout=300):
        return self("exec", "web", "--wait", "200", "--", "sh", "-c", script, timeout=timeout)

    def has(self, verb):
        return self("help", verb)[0] == 0

    def count(self):
        """The last number that L2 has said."""
        status, out, err = self.inside("tail -c 200 /tmp/l2.log")
        numbers = re.findall(r"count (\d+)\r?\n", out)
        if status or not numbers:
            print(f"       --   L2's last words: status {status}, {out!r}, {err!r}")
        return int(numbers[-1]) if numbers else 0

    def counts_on(self, sentence, least=0, most=None):
        """L2 goes on, and from where it should."""
        first, deadline = self.count(), time.monotonic() + 120
        second = first
        while second <= first and time.monotonic() < deadline:
            time.sleep(0.3)
            second = self.count()
        check(sentence, second > first and first >= least and (most is None or first <= most), (first, second, least, most))
        return second


def prepare(user, work):
    modules = [(os.path.basename(p), open(p, "rb").read()) for n in ("button", "evdev", "virtio_balloon")
               for p in glob.glob(f"{CACHE}/unpacked/linux-image-*/lib/modules/*/kernel/drivers/*/{n}.ko")]
    with open(work + "/initrd", "wb") as f:
        for name in ("l1", "agent"):
            f.write(open(f"{IMAGES}/{name}.cpio", "rb").read())
        f.write(newc(modules))
    append = "console=ttyS0 quiet panic=-1 random.trust_cpu=on cryptomgr.notests nb.mode=poweroff nb.cmd64=" + base64.b64encode(L1.encode()).decode()
    engine = os.environ.get("NESTBOX_TEST_ENGINE")
    user.must("a VM is made", "create", "web", "--kernel", IMAGES + "/vmlinuz", "--initrd", work + "/initrd", "--append", append, "--memory", "256M",
              *(["--engine", engine] if engine else []), says=["created web"])


def nested(user):
    user.must("it is not ready to host VMs, for two reasons", "nested", "status", "web", status=3,
              says=["NO   extensions-shown", "warn memory", "web: not ready, 1 warning"])
    user.must("nested enable --yes makes it ready", "nested", "enable", "web", "--yes", says=["set nested=on", "web: ready\n"])
    user.must("it starts, and says on which engine and why", "start", "web", says=["web is running (process ", "on engine "])


def levels(user):
    user.must("the agent answers", "exec", "web", "--wait", "200", "--", "true")
    status, out, err = user.inside("grep -c kvm_intel /proc/modules; ls /dev/kvm")
    check("kvm_intel is loaded in it", status == 0 and "/dev/kvm" in out, (status, out, err))
    status, out, err = user.inside(START_L2)
    check("a VM is started inside it", status == 0, (status, out, err))
    deadline = time.monotonic() + 200
    while user.count() < 5 and time.monotonic() < deadline:
        time.sleep(0.5)
    check("which counts", user.count() >= 5, user.inside("cat /tmp/qemu.log; tail -c 2000 /tmp/l2.log"))
    if user.has("tree"):
        out = user.must("tree shows the levels", "tree", "web")
        check("L2 is among them", "L2" in out, out)


def checkpoints(user):
    if not user.has("checkpoint"):
        print("       --   checkpoints are not there")
        return
    user.must("a checkpoint while L2 counts", "checkpoint", "web", "create", "before")
    at = user.counts_on("L2 counts on")
    for _ in range(3):
        later = user.counts_on("and on")
    user.must("it stands in the list", "checkpoint", "web", "list", says=["before"])
    user.must("applied to the running VM", "checkpoint", "web", "apply", "before")
    user.counts_on("L2 counts from the checkpoint", most=later - 1)
    check("which was before", at <= later, (at, later))


def save(user):
    if not user.has("save"):
        print("       --   save is not there")
        return
    last = user.counts_on("L2 counts before it is saved")
    user.must("the VM is saved", "save", "web")
    check("and shown as saved", '"state": "saved"' in user("list", "--json")[1], user("list"))
    user.must("start goes on", "start", "web")
    user.counts_on("L2 counts on where it was", least=last, most=last + 100)


def resize(user):
    """By the balloon: down, and up to what it was started with."""
    def total():
        return int(user.inside("grep MemFree /proc/meminfo | tr -dc 0-9")[1] or 0) >> 10

    def becomes(sentence, good):
        deadline = time.monotonic() + 60
        while not good(total()) and time.monotonic() < deadline:
            time.sleep(0.3)
        check(sentence, good(total()), total())

    memory, before = json.loads(user("show", "web", "--json")[1])["memory"] >> 20, total()
    status, out, err = user("set", "web", f"memory={memory - 64}M", "--json")
    check("memory is changed while it runs", json.loads(out or "{}").get("live") == ["memory"], (status, out, err))
    becomes("the guest has less", lambda now: now <= before - 50)
    user.counts_on("L2 counts on with less memory")
    user.must("and back", "set", "web", f"memory={memory}M")
    becomes("the guest has as much as before", lambda now: now >= before - 20)
    user.counts_on("L2 counts on with more memory")


def main():
    if not all(os.path.exists(f"{IMAGES}/{n}.cpio") for n in ("l1", "agent")):
        print("skipped: no guest images; tools/guest-images makes them")
        return 77
    with tempfile.TemporaryDirectory(prefix="nestbox-story-") as work:
        user = User(os.path.abspath(sys.argv[1]), work)
        try:
            prepare(user, work)
            nested(user)
            levels(user)
            checkpoints(user)
            save(user)
            resize(user)
            user.must("stop presses the power button", "stop", "web", says=["web is off: the guest switched itself off"])
            user.must("the VM is deleted", "delete", "web", "--force", says=["deleted web"])
        finally:
            if failures:
                print(user("console", "web", "--dump")[1][-3000:], user("log", "web"), user("list"))
            user("stop", "web", "--force")
    print(f"{failures} failures")
    return failures > 0


began = time.monotonic()
sys.exit(main())
