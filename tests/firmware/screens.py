#!/usr/bin/env python3
"""Firmware, boot loaders and memtest86+ of Debian, unmodified, are looked at: their screens show what they should. No test depends on time but by giving up.

usage: screens.py NESTBOX CASE ENGINE
Needs: seabios, ovmf, grub-common, grub-pc-bin, grub-efi-amd64-bin, xorriso, mtools, memtest86+.
"""
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib

nestbox, case, engine = sys.argv[1:4]
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
cache = os.environ.get("NESTBOX_CACHE", os.path.join(ROOT, ".cache"))
LIMIT = int(os.environ.get("FW_LIMIT", "550"))
MEMTEST = "/usr/lib/memtest86+/memtest86+x64.iso"
VARS = "/usr/share/OVMF/OVMF_VARS_4M.fd"
work = tempfile.mkdtemp(prefix="nestbox-fw-")
env = dict(os.environ, XDG_DATA_HOME=work)


def fail(text):
    print("FAIL", text)
    sys.exit(1)


class VM:
    """A machine in the foreground with a name, its serial console in a file."""
    all = []

    def __init__(self, *args):
        self.log = os.path.join(work, "serial.log")
        self.args = [nestbox, "run", "--name", "fw", "--engine", engine, "--serial", "file:" + self.log, "--timeout", str(LIMIT)] + list(args)
        VM.all.append(self)
        self.err = os.path.join(work, "stderr.log")
        self.p = subprocess.Popen(self.args, stdin=subprocess.DEVNULL, stderr=open(self.err, "w"), env=env)

    def ask(self, *args):
        return subprocess.run([nestbox] + list(args), env=env, capture_output=True, text=True)

    def serial(self):
        try:
            return open(self.log, "rb").read().decode("latin-1")
        except FileNotFoundError:
            return ""

    def text(self):
        path = os.path.join(work, "screen.txt")
        r = self.ask("screenshot", "fw", path)
        return open(path).read() if r.returncode == 0 else ""

    def picture(self):
        """(width, height, rows of RGB bytes)"""
        path = os.path.join(work, "screen.png")
        r = self.ask("screenshot", "fw", path)
        if r.returncode:
            fail("screenshot: " + r.stderr)
        return read_png(path)

    def until(self, what, condition):
        end = time.time() + LIMIT
        while time.time() < end:
            if condition():
                return
            if self.p.poll() is not None:
                fail(f"the machine ended ({self.p.returncode}) before: {what}\n{open(self.err).read()}\n{self.serial()[-2000:]}")
            time.sleep(0.5)
        fail(f"never came: {what}\nscreen:\n{self.text()}\nserial:\n{self.serial()[-2000:]}")

    def shows(self, *words):
        self.until(f"{words} on the screen", lambda: all(w in self.text() for w in words))

    def says(self, *words):
        self.until(f"{words} on the serial line", lambda: all(w in self.serial() for w in words))

    def key(self, *keys):
        r = self.ask("key", "fw", *keys)
        if r.returncode:
            fail("key: " + r.stderr)

    def ends(self, status):
        if self.p.wait(timeout=LIMIT) != status:
            fail(f"status {self.p.returncode}, expected {status}: {open(self.err).read()}")

    def quit(self):
        self.p.terminate()
        self.p.wait(timeout=60)


def read_png(path):
    data = open(path, "rb").read()
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        fail("no PNG")
    at, idat, head = 8, b"", None
    while at < len(data):
        n, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + n]
        if struct.unpack(">I", data[at + 8 + n:at + 12 + n])[0] != zlib.crc32(kind + body):
            fail("PNG checksum")
        head = struct.unpack(">IIBB", body[:10]) if kind == b"IHDR" else head
        idat += body if kind == b"IDAT" else b""
        at += 12 + n
    width, height, depth, colour = head
    if (depth, colour) != (8, 2):
        fail("PNG format")
    raw, stride, rows, before = zlib.decompress(idat), width * 3, [], bytes(width * 3)
    for y in range(height):
        kind, row = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1:(y + 1) * (stride + 1)])
        for i in range(stride):
            a, b, c = (row[i - 3] if i >= 3 else 0), before[i], (before[i - 3] if i >= 3 else 0)
            if kind == 1:
                row[i] = (row[i] + a) & 255
            elif kind == 2:
                row[i] = (row[i] + b) & 255
            elif kind == 3:
                row[i] = (row[i] + (a + b) // 2) & 255
            elif kind == 4:
                p = a + b - c
                pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
                row[i] = (row[i] + (a if pa <= pb and pa <= pc else b if pb <= pc else c)) & 255
        rows.append(bytes(row))
        before = row
    return width, height, rows


def share(rows, colour):
    """How much of the picture has this colour."""
    n = sum(1 for row in rows for x in range(0, len(row), 3) if row[x:x + 3] == colour)
    return n / (len(rows) * len(rows[0]) / 3)


def grub_image():
    if not os.path.exists(os.path.join(cache, "images", "vmlinuz")):
        print("no guest images; make them with tools/guest-images")
        sys.exit(77)
    return make_grub_image()


def make_grub_image():
    """A hybrid image, for CD and disk, BIOS and UEFI: GRUB, Debian's kernel, a small userland that switches off."""
    root, image = os.path.join(work, "root"), os.path.join(work, "grub.iso")
    os.makedirs(os.path.join(root, "boot/grub"))
    for f in "vmlinuz", "small.cpio":
        shutil.copy(os.path.join(cache, "images", f), os.path.join(root, "boot", f))
    with open(os.path.join(root, "boot/grub/grub.cfg"), "w") as f:
        f.write('set timeout=-1\nmenuentry "not this one" {\n true\n}\nmenuentry "Debian kernel" {\n linux /boot/vmlinuz console=ttyS0 panic=-1 '
                'quiet nb.mode=poweroff\n initrd /boot/small.cpio\n}\n')
    r = subprocess.run(["grub-mkrescue", "-o", image, root], capture_output=True, text=True)
    if r.returncode:
        fail("grub-mkrescue: " + r.stderr)
    return image


def seabios_empty():
    vm = VM("--firmware", "bios", "--memory", "64M")
    vm.shows("SeaBIOS (version", "No bootable device.")
    width, height, rows = vm.picture()
    if (width, height) != (720, 400):
        fail(f"the picture has {width}x{height}")
    if not 0.8 < share(rows, b"\0\0\0") < 0.99 or not 0.005 < share(rows, b"\xaa\xaa\xaa") < 0.2:
        fail("the picture is not grey text on black")
    vm.quit()


def memtest():
    vm = VM("--cdrom", MEMTEST, "--memory", "64M")
    vm.shows("Memtest86+ v", "Press <F1> to configure")
    vm.key("f1")
    vm.shows("Settings:")
    width, height, rows = vm.picture()
    if share(rows, b"\0\0\xaa") < 0.4:
        fail("the screen is not blue")
    vm.key("0")
    vm.shows("Status: Testing", "Errors: 0", "Test #")
    vm.quit()


def memtest_pass():
    """The whole first pass, by the screen's own count of errors. Two of its tests wait 80 seconds each, by the guest's clock."""
    global LIMIT
    LIMIT = int(os.environ.get("FW_LIMIT", "1800"))
    vm = VM("--cdrom", MEMTEST, "--memory", "32M")
    vm.shows("Status: Testing", "Test #")
    vm.until("the end of the first pass", lambda: re.search(r"Pass: +[1-9]", vm.text()))
    screen = vm.text()
    print(screen)
    if not re.search(r"Errors: +0\b", screen) or "Status: Pass" not in screen:
        fail("memtest86+ found errors:\n" + screen)
    vm.quit()


def grub_boots(*args):
    vm = VM(*args)
    vm.shows("GNU GRUB", "*not this one", " Debian kernel")
    vm.key("down")
    vm.shows("*Debian kernel", " not this one")
    vm.key("enter")
    vm.says("event=userland", "event=poweroff")
    vm.ends(0)


def seabios_cdrom():
    grub_boots("--cdrom", grub_image(), "--memory", "256M")


def seabios_disks():
    image = grub_image()
    grub_boots("--disk", image + ",bus=ahci,ro", "--memory", "256M")
    grub_boots("--disk", image + ",ro", "--memory", "256M", "--cpus", "2")


def ovmf():
    image, variables = grub_image(), os.path.join(work, "vars.fd")
    vm = VM("--firmware", "uefi", "--firmware-vars", variables, "--cdrom", image, "--memory", "512M", "--cpus", "2")

    def bright():
        width, height, rows = vm.picture()
        return (width, height) == (1280, 800) and 0.001 < 1 - share(rows, b"\0\0\0") < 0.3

    vm.says("BdsDxe: starting Boot")
    vm.until("GRUB's menu as graphics", bright)
    vm.until("the menu to be read", lambda: (time.sleep(2), vm.ask("key", "fw", "down", "enter"), "event=userland" in vm.serial())[-1] or
             "event=" in vm.serial())
    vm.says("event=userland", "event=poweroff")
    vm.ends(0)
    if open(variables, "rb").read() == open(VARS, "rb").read():
        fail("the boot has left no variables")
    for _ in range(1):  # the variables are read again
        vm = VM("--firmware", "uefi", "--firmware-vars", variables, "--disk", image + ",ro,bus=ahci", "--memory", "512M")
        vm.says("BdsDxe: starting Boot")
        vm.quit()


def ovmf_shell():
    vm = VM("--firmware", "uefi", "--memory", "256M")
    vm.says("UEFI Interactive Shell")
    vm.says("Shell>")
    width, height, rows = vm.picture()
    if (width, height) != (1280, 800) or not 0.001 < 1 - share(rows, b"\0\0\0") < 0.1:
        fail("the shell is not on the screen")
    vm.key("--text", "echo typed-by-keyboard\n")
    vm.says("\ntyped-by-keyboard") # the command's output; the shell's own echo positions each character
    vm.ask("key", "fw", "--text", "reset -s\n") # which may find the machine gone before it can answer
    vm.ends(0)


class Viewer:
    """As much of RFB 3.8 as it takes to look and type: raw encoding, and the screen's size may change."""

    def __init__(self, path):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(LIMIT)
        self.s.connect(path)
        if self.take(12) != b"RFB 003.008\n":
            fail("no RFB 3.8")
        self.s.sendall(b"RFB 003.008\n")
        if 1 not in self.take(self.take(1)[0]):
            fail("no security type None")
        self.s.sendall(b"\x01")
        if self.take(4) != bytes(4):
            fail("security result")
        self.s.sendall(b"\x01")
        head = self.take(24)
        self.width, self.height = struct.unpack(">HH", head[:4])
        self.name = self.take(struct.unpack(">I", head[20:])[0])
        # 32 bits, true colour, little-endian 00RRGGBBh; raw and new-size encodings
        self.s.sendall(struct.pack(">B3xBBBBHHHBBB3x", 0, 32, 24, 0, 1, 255, 255, 255, 16, 8, 0))
        self.s.sendall(struct.pack(">BxHii", 2, 2, 0, -223))
        self.pixels = bytearray(self.width * self.height * 4)

    def take(self, n):
        out = b""
        while len(out) < n:
            piece = self.s.recv(n - len(out))
            if not piece:
                fail("the viewer was disconnected")
            out += piece
        return out

    def update(self, incremental):
        self.s.sendall(struct.pack(">BBHHHH", 3, incremental, 0, 0, self.width, self.height))
        while True:
            kind = self.take(1)[0]
            if kind == 3:
                self.take(3)
                self.take(struct.unpack(">I", self.take(4))[0])
            elif kind == 0:
                break
        for _ in range(struct.unpack(">xH", self.take(3))[0]):
            x, y, w, h, encoding = struct.unpack(">HHHHi", self.take(12))
            if encoding == -223:
                self.width, self.height, self.pixels = w, h, bytearray(w * h * 4)
                continue
            data = self.take(w * h * 4)
            for row in range(h):
                at = ((y + row) * self.width + x) * 4
                self.pixels[at:at + w * 4] = data[row * w * 4:(row + 1) * w * 4]

    def key(self, sym):
        for down in 1, 0:
            self.s.sendall(struct.pack(">BB2xI", 4, down, sym))

    def move(self, x, y):
        self.s.sendall(struct.pack(">BBHH", 5, 0, x, y))


def same_picture(viewer, vm):
    width, height, rows = vm.picture()
    if (viewer.width, viewer.height) != (width, height):
        return False
    for y, row in enumerate(rows):
        line = viewer.pixels[y * width * 4:(y + 1) * width * 4]
        if bytes(line[2::4]) != row[0::3] or bytes(line[1::4]) != row[1::3] or bytes(line[0::4]) != row[2::3]:
            return False
    return True


def vnc():
    path = os.path.join(work, "vnc.sock")
    vm = VM("--cdrom", MEMTEST, "--memory", "64M", "--vnc", "unix:" + path)
    vm.shows("Press <F1> to configure")
    viewer = Viewer(path)
    viewer.update(0)
    vm.until("the viewer to see what the screenshot shows", lambda: (viewer.update(0), same_picture(viewer, vm))[1])
    helpers = subprocess.run(["ps", "--ppid", str(vm.p.pid), "-o", "pid=,comm="], capture_output=True, text=True).stdout
    helper = next(line.split()[0] for line in helpers.splitlines() if "nestbox-vnc" in line)
    with open(f"/proc/{helper}/status") as f:
        if "Seccomp:\t2\n" not in f.read():
            fail("the viewers' server is not confined")
    viewer.move(10, 10)
    viewer.key(0xffbe) # F1
    vm.shows("Settings:")
    vm.quit()
    end = time.time() + 60
    while os.path.exists(path):
        if time.time() > end:
            fail("the socket is left behind")
        time.sleep(0.1)


try:
    globals()[case.replace("-", "_")]()
    print("ok")
finally:
    for vm in VM.all:
        if vm.p.poll() is None:
            vm.p.kill()
    shutil.rmtree(work, ignore_errors=True)
