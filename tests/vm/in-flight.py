#!/usr/bin/env python3
"""Runs the in-flight save and load test on the L1 -> L2 boot; L2's userland must answer at the end.

usage: in-flight.py PROGRAM CPUS      Exit status: 0 passed, 1 failed, 77 no guest images (make them with tools/guest-images).
"""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
IMAGES = os.path.join(os.environ.get("NESTBOX_CACHE", os.path.join(ROOT, ".cache")), "images")
kernel, initrd = (os.path.join(IMAGES, f) for f in ("vmlinuz", "l1.cpio"))
if not os.path.exists(kernel) or not os.path.exists(initrd):
    print("no guest images")
    sys.exit(77)
append = f"console=ttyS0 quiet nb.mode=auto nb.depth=2 nb.cpus={sys.argv[2]}"
r = subprocess.run([sys.argv[1], kernel, initrd, "1024", sys.argv[2], append], stdin=subprocess.DEVNULL, capture_output=True)
out = r.stdout.decode("utf-8", "replace")
print(out, r.stderr.decode("utf-8", "replace"))
needed = [r"level=2 event=userland", r"level=1 event=child .*answered=yes", r"machines, one after the other"]
bad = [n for n in needed if not re.search(n, out)]
bad += re.findall(r"WARNING:|BUG:|soft lockup|rcu.*stall|Marking clocksource.*|event=badlog.*", out)
if r.returncode or bad:
    print(f"FAIL: status {r.returncode}, {bad}")
    sys.exit(1)
