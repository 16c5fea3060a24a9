#!/usr/bin/env python3
"""Boots the Debian disk that tools/disk-image makes, logs in on the serial console, and works there.

usage: debian.py NESTBOX CASE|--list     NESTBOX_TEST_ENGINE chooses the engine. Exit status: 0 passed, 1 failed, 77 skipped (no image; make it with tools/disk-image).
"""
import os
import pathlib
import re
import select
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
IMAGE = pathlib.Path(os.environ.get("NESTBOX_CACHE", ROOT / ".cache")) / "images" / "debian-12.img"
KERNEL = ["--kernel", f"{IMAGE}.vmlinuz", "--initrd", f"{IMAGE}.initrd", "--append", "root=LABEL=root ro console=ttyS0"]
LIMIT = 900  # seconds

# (what it proves, command, what its output must match)
HEALTH = ("no unit has failed", "systemctl is-system-running --wait; systemctl --failed --no-legend | cat", r"(?s)^running\s*$")
BUILD = ("a package is unpacked and a C program compiled", "cd /tmp && cp -r /usr/share/doc/tcc . && tar czf d.tgz tcc && rm -r tcc && tar xzf d.tgz && diff -r tcc "
         "/usr/share/doc/tcc && printf '%s\\n' '#include <stdio.h>' 'int main(void){long s=0;for(int i=1;i<=1000;i++)s+=i*i;printf(\"%ld\\n\",s);}' >a.c && "
         "tcc -o a a.c && ./a", r"^333833500\s*$")
IO = ("what is written is read back from the disk", "cd /root && seq 1 400000 >a && sync && echo 3 >/proc/sys/vm/drop_caches && md5sum <a && seq 1 400000 | md5sum",
      r"^(\w{32})  -\s+\1  -\s*$")
L2 = ("L1's QEMU boots L2 with KVM", "l2", r"(?s)level=2 event=userland.*hypervisor=KVM.*level=2 event=klog.*bad=0")
CASES = {
    "kernel": ("Debian from a disk, kernel given", KERNEL, [HEALTH, BUILD, IO, L2]),
    "bios": ("SeaBIOS, GRUB, Debian", ["--firmware", "bios"], [HEALTH, L2]),
    "uefi": ("OVMF, GRUB, Debian", ["--firmware", "uefi"], [HEALTH]),
    "nvme": ("Debian from an NVMe disk, kernel given", KERNEL, [HEALTH, IO], "bus=nvme"),
    "bios-nvme": ("SeaBIOS, GRUB, Debian from an NVMe disk", ["--firmware", "bios"], [HEALTH, IO], "bus=nvme"),
    "uefi-nvme": ("OVMF, GRUB, Debian from an NVMe disk", ["--firmware", "uefi"], [HEALTH, IO], "bus=nvme"),
}


class Console:
    def __init__(self, cmd):
        self.p = subprocess.Popen([str(c) for c in cmd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.text, self.start = "", time.monotonic()

    def wait(self, pattern):
        """Reads until the pattern matches; returns what came before it."""
        while not (m := re.search(pattern, self.text)):
            left = self.start + LIMIT - time.monotonic()
            if left < 0 or not select.select([self.p.stdout], [], [], left)[0]:
                raise TimeoutError(f"no {pattern!r} after {LIMIT} s")
            data = os.read(self.p.stdout.fileno(), 65536)
            if not data:
                raise EOFError(f"the console ended before {pattern!r}")
            text = data.decode("utf-8", "replace")
            print(text, end="", flush=True)
            self.text += text
        before, self.text = self.text[:m.start()], self.text[m.end():]
        return before

    def command(self, line):
        """Runs a shell command; returns its output without colours and carriage returns."""
        self.p.stdin.write((line + "; echo end-of-'command'\n").encode())
        self.p.stdin.flush()
        self.wait("end-of-'command'[^\n]*\n")
        out = self.wait("end-of-command")
        return re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]|\r", "", out)


def main():
    if len(sys.argv) != 3:
        print(__doc__)
        return 2
    nestbox, name = sys.argv[1:]
    if name == "--list":
        for n, c in CASES.items():
            print(f"{n:12} {c[0]}: {'; '.join(s for s, _, _ in c[2])}")
        return 0
    if not IMAGE.exists():
        print(f"skipped: no {IMAGE}; run tools/disk-image")
        return 77
    sentence, args, steps, *words = CASES[name]
    c = Console([nestbox, "run", "--memory", "1G", "--nested", "on", "--engine", os.environ.get("NESTBOX_TEST_ENGINE", "auto"), "--timeout", LIMIT,
                 "--disk", ",".join([str(IMAGE), "snapshot=on", *words]), *args])
    failed = 0
    try:
        c.wait(r"root@nestbox:~# ")
        print(f"\n[login after {time.monotonic() - c.start:.1f} s]")
        c.command("bind 'set enable-bracketed-paste off'; PS1='> '; dmesg -n 1")
        for what, line, pattern in steps:
            out = c.command(line)
            ok = re.search(pattern, out)
            failed += not ok
            print(f"\n[{time.monotonic() - c.start:.1f} s] {'ok  ' if ok else 'FAIL'} {what}" + ("" if ok else f": {out!r}"))
        c.p.stdin.write(b"poweroff\n")
        c.p.stdin.flush()
        while c.p.poll() is None:
            try:
                c.wait(r"Power down|\n")
            except EOFError:
                break
        if c.p.wait(timeout=60):
            failed += 1
            print(f"FAIL status {c.p.returncode}")
    except (TimeoutError, EOFError) as e:
        failed += 1
        print(f"\nFAIL {e}")
    finally:
        c.p.kill()
    print(f"{'FAIL' if failed else 'ok  '} {sentence}")
    return failed > 0


sys.exit(main())
