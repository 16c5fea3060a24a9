#!/usr/bin/env python3
"""Kills the VM, or the program that serves its disk, while a guest writes files; then checks the file system, the image, and that every file
whose fsync() had succeeded is there, byte for byte (fsync() tells errors, sync() does not).

usage: crash.py NESTBOX CASE|--list [SEED]     Exit status: 0 passed, 1 failed, 77 skipped (no guest images, or tools are missing).
"""
import base64
import hashlib
import os
import pathlib
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("NESTBOX_CACHE", ROOT / ".cache"))
IMAGES = CACHE / "images"
SIZE = 96 << 20
KEPT = 20  # the newest files; older ones are removed to make room

# Files of random bytes, each acknowledged with its checksum when fsync() of it and of the directory has succeeded.
SCRIPT = """
load virtio_pci; load virtio_blk
for m in crc16 mbcache jbd2 crc32c_generic libcrc32c ext4; do [ -e /lib/modules/$m.ko ] && insmod /lib/modules/$m.ko 2>/dev/null; done
n=0; while [ ! -b /dev/vda ] && [ $n -lt 600 ]; do sleep 0.1; n=$((n+1)); done
mount -t ext4 /dev/vda /mnt || { mark nomount; poweroff -f; }
mark mounted
i=0
while [ $i -lt @COUNT@ ]; do
i=$((i+1)); size=$((i*7919%150000+500))
head -c $size /dev/urandom >/mnt/new && mv /mnt/new /mnt/f$i && sync /mnt/f$i /mnt || { mark failed "file=$i"; break; }
s=$(md5sum </mnt/f$i) || { mark failed "file=$i"; break; }
mark ack "file=$i sum=${s%% *}"
rm -f /mnt/f$((i-25))
@EXTRA@
done
sync || mark syncfailed
umount /mnt 2>/dev/null || true
mark end
"""


def have(tool):
    return shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin")


def run(*cmd, **kw):
    return subprocess.run([str(c) for c in cmd], capture_output=True, text=True, env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}, **kw)


def newc(files):
    """A cpio archive, as the kernel unpacks it, of (name, bytes)."""
    out = bytearray()
    for n, (name, data) in enumerate([*files, ("TRAILER!!!", b"")]):
        fields = [n + 1, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        out += b"070701" + b"".join(b"%08x" % f for f in fields) + name.encode() + b"\0"
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out + bytes(-len(out) % 512))


def initrd(work):
    """small.cpio with ext4 and what it needs."""
    modules = []
    for name in ("crc16", "mbcache", "jbd2", "crc32c_generic", "libcrc32c", "ext4"):
        found = sorted((CACHE / "unpacked").glob(f"linux-image-*/lib/modules/*/kernel/**/{name}.ko"))
        if found:
            modules.append((f"lib/modules/{name}.ko", found[0].read_bytes()))
    path = work / "initrd"
    path.write_bytes((IMAGES / "small.cpio").read_bytes() + newc(modules))
    return path


class Guest:
    """A VM that runs the script; collects acknowledgements in a thread."""

    def __init__(self, nestbox, work, disk, count=100000, extra="", prefix=()):
        script = SCRIPT.replace("@COUNT@", str(count)).replace("@EXTRA@", extra)
        append = ("console=ttyS0 quiet panic=-1 random.trust_cpu=on cryptomgr.notests nb.mode=poweroff nb.cmd64=" +
                  base64.b64encode(script.encode()).decode())
        cmd = [*prefix, nestbox, "run", "--kernel", IMAGES / "vmlinuz", "--initrd", initrd(work), "--append", append, "--memory", "256M", "--engine",
               os.environ.get("NESTBOX_TEST_ENGINE", "auto"), "--timeout", "280", "--disk", disk]
        self.acks, self.lines, self.changed = {}, [], threading.Condition()
        self.err = open(work / "stderr", "w+")
        self.p = subprocess.Popen([str(c) for c in cmd], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.err)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for raw in self.p.stdout:
            line = raw.decode("utf-8", "replace").strip()
            m = re.search(r"event=ack .*file=(\d+) sum=([0-9a-f]{32})", line)
            with self.changed:
                self.lines.append(line)
                if m:
                    self.acks[int(m[1])] = m[2]
                self.changed.notify_all()
        with self.changed:
            self.lines.append("(end of console)")
            self.changed.notify_all()

    def wait(self, what, seconds=240):
        """Until what(self) is true."""
        with self.changed:
            if not self.changed.wait_for(lambda: what(self) or self.lines[-1:] == ["(end of console)"], seconds) or not what(self):
                raise Failure("the guest did not get there; its console ends with:\n  " + "\n  ".join(self.lines[-15:]) + "\n" + self.stderr())

    def said(self, word):
        return any(word in l for l in self.lines)

    def stderr(self):
        self.err.flush()
        with open(self.err.name) as f:
            return f.read()

    def kill(self, sig=signal.SIGKILL):
        self.p.send_signal(sig)
        self.p.wait(timeout=60)
        with self.changed:  # what is left in the pipe counts
            if not self.changed.wait_for(lambda: self.lines[-1:] == ["(end of console)"], 60):
                raise Failure("the console of a process that has ended does not end")


class Failure(Exception):
    pass


def servers(image):
    """Processes that serve this image."""
    found = []
    for d in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            cmd = (d / "cmdline").read_bytes()
        except OSError:
            continue
        if cmd.startswith(b"qemu-storage-daemon") and str(image).encode() in cmd:
            found.append(int(d.name))
    return found


def wait_no_server(image):
    for _ in range(1200):
        if not servers(image):
            return
        time.sleep(0.1)
    raise Failure("qemu-storage-daemon still runs 120 s after its VM has gone")


def make_ext4(path):
    with open(path, "wb") as f:
        f.truncate(SIZE)
    r = run("mke2fs", "-q", "-t", "ext4", "-F", path)
    if r.returncode:
        raise Failure("mke2fs: " + r.stderr)


def flatten(base, overlay, out):
    """Reads an overlay by docs/formats/overlay.md alone."""
    o = open(overlay, "rb")
    head = o.read(4096)
    magic, version, bits, disk, map_at, map_bytes, data_at = struct.unpack_from("<8sIIQQQQ", head)
    assert magic == b"NBOVERL\n" and version == 1 and head[64:80] == bytes(16), "not the overlay that the document describes"
    h = 0xcbf29ce484222325
    for byte in head[:80]:
        h = ((h ^ byte) * 0x100000001b3) & (1 << 64) - 1
    assert h == struct.unpack_from("<Q", head, 80)[0], "checksum"
    o.seek(map_at)
    bitmap = o.read(map_bytes)
    shutil.copyfile(base, out)
    with open(out, "r+b") as f:
        for n in range((disk + (1 << bits) - 1) >> bits):
            if bitmap[n // 8] >> n % 8 & 1:
                o.seek(data_at + (n << bits))
                f.seek(n << bits)
                f.write(o.read(min(1 << bits, disk - (n << bits))))


def check_files(flat, acks, work):
    """fsck after replaying the journal, then the files that were acknowledged last."""
    r = run("e2fsck", "-fy", flat)
    if r.returncode not in (0, 1):
        raise Failure(f"e2fsck gave {r.returncode}:\n{r.stdout}{r.stderr}")
    r2 = run("e2fsck", "-fn", flat)
    if r2.returncode:
        raise Failure(f"the file system is not clean after replay:\n{r2.stdout}")
    # A journal replay may free things; anything else that fsck had to mend is torn data.
    bad = [l for l in r.stdout.splitlines() if re.search(r"(?i)corrupt|bad |invalid|multiply-claimed|differences.*(?!orphan)|error", l) and "orphan" not in l]
    if bad:
        raise Failure("e2fsck found damage:\n  " + "\n  ".join(bad))
    newest = sorted(acks)[-KEPT:]
    for n in newest:
        out = work / "file"
        run("debugfs", "-R", f"dump /f{n} {out}", flat)
        got = hashlib.md5(out.read_bytes()).hexdigest() if out.exists() else "missing"
        if got != acks[n]:
            raise Failure(f"file {n} of {max(acks)}, which fsync() had acknowledged, is {got}, not {acks[n]}")
        out.unlink()
    return len(newest)


def kill_vm(nestbox, work, rnd, image, flat_of, words=""):
    g = Guest(nestbox, work, str(image) + words)
    n = rnd.randint(KEPT + 2, 60)
    g.wait(lambda g: len(g.acks) >= n)
    time.sleep(rnd.random() * 0.1)
    g.kill()
    wait_no_server(image)
    return check_files(flat_of(), g.acks, work)


def raw_copy(path, work):
    def make():
        shutil.copyfile(path, work / "flat")
        return work / "flat"
    return make


def case_raw(nestbox, work, rnd):
    """kill -9 of the VM: raw image"""
    image = work / "disk.img"
    make_ext4(image)
    return kill_vm(nestbox, work, rnd, image, raw_copy(image, work))


def make_qcow2(work):
    make_ext4(work / "raw")
    image = work / "disk.qcow2"
    r = run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", work / "raw", image)
    if r.returncode:
        raise Failure(r.stderr)
    return image


def from_qcow2(image, work):
    def make():
        r = run("qemu-img", "check", image)
        if r.returncode not in (0, 3):  # 3: clusters that nothing uses
            raise Failure(f"qemu-img check: {r.stdout}{r.stderr}")
        r = run("qemu-img", "convert", "-O", "raw", image, work / "flat")
        if r.returncode:
            raise Failure(r.stderr)
        return work / "flat"
    return make


def case_qcow2(nestbox, work, rnd):
    """kill -9 of the VM: qcow2 image"""
    image = make_qcow2(work)
    return kill_vm(nestbox, work, rnd, image, from_qcow2(image, work))


def case_overlay(nestbox, work, rnd):
    """kill -9 of the VM: overlay on a raw image, which stays as it was"""
    image = work / "disk.img"
    make_ext4(image)
    before = hashlib.md5(image.read_bytes()).hexdigest()

    def flat():
        flatten(image, work / "over", work / "flat")
        return work / "flat"
    n = kill_vm(nestbox, work, rnd, image, flat, f",overlay={work}/over")
    if hashlib.md5(image.read_bytes()).hexdigest() != before:
        raise Failure("the image below the overlay has changed")
    return n


def kill_server(nestbox, work, rnd, words):
    image = make_qcow2(work)
    g = Guest(nestbox, work, str(image) + words)
    n = rnd.randint(KEPT + 2, 40)
    g.wait(lambda g: len(g.acks) >= n)
    victims = servers(image)
    if len(victims) != 1:
        raise Failure(f"{len(victims)} servers instead of one")
    time.sleep(rnd.random() * 0.1)
    os.kill(victims[0], signal.SIGKILL)
    return g, image


def case_server_report(nestbox, work, rnd):
    """kill -9 of qemu-storage-daemon, on-error=report: the guest sees I/O errors and lives on"""
    g, image = kill_server(nestbox, work, rnd, "")
    g.wait(lambda g: g.said("event=failed"))
    g.wait(lambda g: g.said("event=end"))
    g.p.wait(timeout=120)
    if g.p.returncode:
        raise Failure(f"status {g.p.returncode}")
    if not re.search(r'disk\.qcow2": qemu-storage-daemon \(process \d+\), which reads and writes it, has ended', g.stderr()):
        raise Failure("nobody said that the server has ended:\n" + g.stderr())
    return check_files(from_qcow2(image, work)(), g.acks, work)


def wait_pause(g):
    for _ in range(2400):
        if "the VM is paused" in g.stderr():
            return
        time.sleep(0.1)
    raise Failure("the VM did not pause:\n" + g.stderr())


def case_server_pause(nestbox, work, rnd):
    """kill -9 of qemu-storage-daemon, on-error=pause: the VM pauses and says why"""
    g, image = kill_server(nestbox, work, rnd, ",on-error=pause")
    wait_pause(g)
    lines = -1
    for _ in range(30):  # a guest that goes on says something every few milliseconds
        if lines == len(g.lines):
            break
        lines = len(g.lines)
        time.sleep(2)
    if len(g.lines) != lines or g.said("event=failed"):
        raise Failure("the guest went on")
    g.p.send_signal(signal.SIGTERM)
    g.p.wait(timeout=60)
    return check_files(from_qcow2(image, work)(), g.acks, work)


def case_full(nestbox, work, rnd):
    """a full file system on the host, on-error=pause: room is made, SIGCONT, and the guest never noticed"""
    small = work / "small"
    small.mkdir()
    if os.geteuid() or run("mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", small).returncode:
        print("skipped: needs root, to mount a small file system")
        sys.exit(77)
    try:
        image = small / "disk.img"
        make_ext4(image)
        with open(small / "filler", "wb") as f:
            f.write(bytes(SIZE - (6 << 20)))
        g = Guest(nestbox, work, str(image) + ",on-error=pause", count=150)
        wait_pause(g)
        if "No space left on device" not in g.stderr():
            raise Failure(g.stderr())
        before = len(g.acks)
        (small / "filler").unlink()
        g.p.send_signal(signal.SIGCONT)
        g.wait(lambda g: g.said("event=end"))
        g.p.wait(timeout=120)
        if g.p.returncode or g.said("event=failed") or len(g.acks) != 150 or before == 150:
            raise Failure(f"status {g.p.returncode}, {before} then {len(g.acks)} files\n{g.stderr()}")
        return check_files(raw_copy(image, work)(), g.acks, work)
    finally:
        run("umount", "-l", small)


CASES = {n[5:].replace("_", "-"): f for n, f in list(globals().items()) if n.startswith("case_")}


def main():
    if len(sys.argv) not in (3, 4):
        print(__doc__)
        return 2
    nestbox, name = sys.argv[1:3]
    if name == "--list":
        for n, f in CASES.items():
            print(f"{n:16} {f.__doc__}")
        return 0
    missing = [t for t in ("mke2fs", "e2fsck", "debugfs", "qemu-img", "qemu-storage-daemon") if not have(t)]
    if missing or not (IMAGES / "small.cpio").exists():
        print(f"skipped: {' '.join(missing) or 'no guest images; run tools/guest-images'}")
        return 77
    seed = int(sys.argv[3]) if len(sys.argv) == 4 else random.randrange(1 << 30)
    print(f"{CASES[name].__doc__} (seed {seed})", flush=True)
    with tempfile.TemporaryDirectory(prefix="nestbox-crash-") as work:
        try:
            n = CASES[name](nestbox, pathlib.Path(work), random.Random(seed))
        except Failure as e:
            print(f"FAIL {CASES[name].__doc__}: {e}")
            return 1
    print(f"ok   {n} acknowledged files are there, the file system is clean")
    return 0


sys.exit(main())
