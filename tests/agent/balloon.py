#!/usr/bin/env python3
"""Memory that Debian's kernel reports as free leaves the VM's process.

usage: balloon.py NESTBOX      Exit status: 0 passed, 1 failed, 77 skipped (no guest image; make it with tools/guest-images).
"""
import base64
import os
import re
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
IMAGES = os.path.join(os.environ.get("NESTBOX_CACHE", os.path.join(ROOT, ".cache")), "images")
MIB = 200
GUEST = f"""
load virtio_pci; load virtio_balloon
mount -t tmpfs -o size=400m t /mnt; dd if=/dev/zero of=/mnt/x bs=1M count={MIB} 2>/dev/null; mark filled; sleep 1
rm /mnt/x; mark removed; sleep 100000
"""


def rss_mib(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1)) // 1024


def main():
    if not os.path.exists(f"{IMAGES}/agent.cpio"):
        print(f"skipped: no {IMAGES}/agent.cpio; run tools/guest-images")
        return 77
    append = "console=ttyS0 quiet panic=-1 random.trust_cpu=on cryptomgr.notests nb.cmd64=" + base64.b64encode(GUEST.encode()).decode()
    vm = subprocess.Popen([sys.argv[1], "run", "--kernel", f"{IMAGES}/vmlinuz", "--initrd", f"{IMAGES}/agent.cpio", "--append", append, "--engine",
                           os.environ.get("NESTBOX_TEST_ENGINE", "jit")], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    timer = threading.Timer(250, vm.kill)
    timer.start()
    full, least = 0, 1 << 30
    for line in vm.stdout:
        print(line.decode("utf-8", "replace").rstrip(), flush=True)
        if b"event=filled" in line:
            full = rss_mib(vm.pid)
        if b"event=removed" in line:
            break
    for _ in range(600):
        if not full or vm.poll() is not None:
            break
        least = min(least, rss_mib(vm.pid))
        if least < full - MIB * 3 // 4:
            break
        time.sleep(0.2)
    timer.cancel()
    vm.kill()
    ok = full and least < full - MIB * 3 // 4
    print(f"{'ok  ' if ok else 'FAIL'} the process held {full} MiB with a file of {MIB} MiB in the guest's memory, and {least} MiB after it was removed")
    return 0 if ok else 1


sys.exit(main())
