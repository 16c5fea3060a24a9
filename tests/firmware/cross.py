#!/usr/bin/env python3
"""One CPU runs what another writes, by the manual's protocol: boots the ROM of cross.S.

usage: cross.py NESTBOX CROSS.S ENGINE
"""
import os
import subprocess
import sys
import tempfile

nestbox, source, engine = sys.argv[1:4]
with tempfile.TemporaryDirectory() as work:
    obj, rom = os.path.join(work, "cross.o"), os.path.join(work, "cross.bin")
    subprocess.run(["gcc", "-c", "-m32", "-o", obj, source], check=True)
    subprocess.run(["ld", "-m", "elf_i386", "--oformat", "binary", "-Ttext", "0", "-e", "0", "-o", rom, obj], check=True)
    size = os.path.getsize(rom)
    if size != 64 * 1024:
        sys.exit(f"the ROM has {size} bytes")
    r = subprocess.run([nestbox, "run", "--firmware", "file:" + rom, "--memory", "16M", "--cpus", "2", "--engine", engine, "--test-devices", "--serial", "null",
                        "--timeout", "120"], stdin=subprocess.DEVNULL)
    if r.returncode != 0x2a << 1 | 1:
        sys.exit(f"status {r.returncode}: a call did what an earlier function did, or the machine did not come to its end")
print("ok")
