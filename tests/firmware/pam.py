#!/usr/bin/env python3
"""shadow RAM follows the PAM registers, also under running code: boots the ROM of pam.S.

usage: pam.py NESTBOX PAM.S ENGINE
"""
import os
import subprocess
import sys
import tempfile

nestbox, source, engine = sys.argv[1:4]
with tempfile.TemporaryDirectory() as work:
    obj, rom = os.path.join(work, "pam.o"), os.path.join(work, "pam.bin")
    subprocess.run(["gcc", "-c", "-m32", "-o", obj, source], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", obj, rom], check=True)
    size = os.path.getsize(rom)
    if size != 128 * 1024:
        sys.exit(f"the ROM has {size} bytes")
    r = subprocess.run([nestbox, "run", "--firmware", "file:" + rom, "--memory", "16M", "--engine", engine, "--test-devices", "--serial", "null",
                        "--timeout", "120"], stdin=subprocess.DEVNULL)
    if r.returncode != 0x2a << 1 | 1:
        sys.exit(f"status {r.returncode}: step {r.returncode >> 1} failed")
print("ok")
