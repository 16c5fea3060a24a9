#!/usr/bin/env python3
"""A debugger on a machine of a few instructions, by gdb's remote protocol and, where gdb is installed, by gdb.

usage: gdb.py NESTBOX ENGINE       Exit status: 0 passed, 1 failed.
"""
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "ctl"))
import tinykernel  # noqa: E402

COUNTER = 0x200000
RIP = 16
#   loop: inc dword [COUNTER]; call f; jmp loop      f: mov eax, [COUNTER]; ret
LOOP = tinykernel.ENTRY
F = LOOP + 6 + 5 + 2
CODE = b"\xff\x05" + COUNTER.to_bytes(4, "little") + b"\xe8\x02\0\0\0" + b"\xeb\xf3" + b"\xa1" + COUNTER.to_bytes(4, "little") + b"\xc3"


class Remote:
    def __init__(self, path):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(30)
        self.s.connect(path)
        self.buf = b""

    def raw(self, data):
        self.s.sendall(data)

    def send(self, text):
        self.raw(b"$%s#%02x" % (text.encode(), sum(text.encode()) & 255))

    def receive(self):
        while True:
            start = self.buf.find(b"$")
            end = self.buf.find(b"#", start)
            if start >= 0 and end >= 0 and len(self.buf) >= end + 3:
                text, check = self.buf[start + 1:end], self.buf[end + 1:end + 3]
                self.buf = self.buf[end + 3:]
                assert sum(text) & 255 == int(check, 16), "checksum"
                try:
                    self.raw(b"+")
                except BrokenPipeError:  # it was the farewell
                    pass
                return text.decode()
            data = self.s.recv(65536)
            assert data, "the connection was closed"
            self.buf += data

    def ask(self, text):
        self.send(text)
        return self.receive()

    def register(self, n):
        return int.from_bytes(bytes.fromhex(self.ask("p%x" % n)), "little")

    def counter(self):
        return int.from_bytes(bytes.fromhex(self.ask("m%x,4" % COUNTER)), "little")


def same(what, got, want):
    if got != want:
        raise AssertionError(f"{what}: {got!r}, expected {want!r}")


def breakpoints(r):
    same("insert", r.ask("Z0,%x,1" % F), "OK")
    same("stop", r.ask("c"), "T05thread:1;hwbreak:;")
    same("rip", r.register(RIP), F)
    before = r.counter()
    same("stop again", r.ask("vCont;c"), "T05thread:1;hwbreak:;")
    same("one more turn", r.counter(), before + 1)
    same("step", r.ask("s"), "T05thread:1;")
    same("rip after a step", r.register(RIP), F + 5)
    same("eax", r.register(0), before + 1)
    same("step over ret", r.ask("vCont;s:1"), "T05thread:1;")
    same("rip after ret", r.register(RIP), LOOP + 11)
    same("remove", r.ask("z0,%x,1" % F), "OK")
    same("remove what is not there", r.ask("z0,%x,1" % F)[0], "E")


def watchpoints(r):
    same("insert", r.ask("Z2,%x,4" % COUNTER), "OK")
    same("stop", r.ask("c"), "T05thread:1;watch:%x;" % COUNTER)
    same("rip is behind the store", r.register(RIP), LOOP + 6)
    same("remove", r.ask("z2,%x,4" % COUNTER), "OK")
    same("insert", r.ask("Z3,%x,1" % (COUNTER + 2)), "OK")
    same("a read that covers it", r.ask("c"), "T05thread:1;rwatch:%x;" % (COUNTER + 2))
    same("remove", r.ask("z3,%x,1" % (COUNTER + 2)), "OK")


def state(r):
    all_of_it = r.ask("g")
    same("write all registers", r.ask("G" + all_of_it), "OK")
    same("and read them", r.ask("g"), all_of_it)
    same("write ebx", r.ask("P1=8877665544332211"), "OK")
    same("ebx", r.register(1), 0x1122334455667788)
    same("write memory", r.ask("M%x,4:00000000" % COUNTER), "OK")
    same("memory", r.counter(), 0)
    same("memory that is not there", r.ask("m%x,4" % (1 << 40))[0], "E")
    same("threads", r.ask("qfThreadInfo"), "m1")
    assert "rip" in r.ask("qXfer:features:read:target.xml:0,fff")
    answer = bytes.fromhex(r.ask("qRcmd," + b"level 2".hex())).decode()
    assert "nothing has run at level 2" in answer, answer


def interrupt(r):
    r.send("c")
    time.sleep(0.3)
    r.raw(b"\x03")
    same("interrupt", r.receive(), "T02thread:1;")
    assert r.counter() > 0


def garbage(r):
    for text in ("", "m", "m,", "Z9,0,0", "Z0", "P", "Pff=00", "G00", "p1000", "qXfer:features:read:target.xml:zz", "vCont;x", "Hgffff", "\x7f", "Mz:"):
        answer = r.ask(text)
        assert answer == "" or answer[0] in "EOT", (text, answer)
        if answer.startswith("T"):
            continue
    r.raw(b"$g#00")          # wrong checksum: asked to send again
    same("still there", r.ask("?")[:3], "T05")


def by_gdb(path):
    out = subprocess.run(["gdb", "-q", "-nx", "-batch", "-ex", f"target remote {path}", "-ex", f"hbreak *{F:#x}", "-ex", "continue", "-ex", "stepi",
                          "-ex", "info registers rip eax", "-ex", "info threads", "-ex", "monitor walk 0x100000", "-ex", "detach"],
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60).stdout
    for want in ("Breakpoint 1", f"{F + 5:#x}", "vCPU 0, runs L1", "paging is off", "detached"):
        assert want in out, f"gdb did not say {want!r}:\n{out}"


def main():
    nestbox, engine = sys.argv[1:3]
    with tempfile.TemporaryDirectory(prefix="nb") as folder:
        kernel = os.path.join(folder, "k")
        with open(kernel, "wb") as f:
            f.write(tinykernel.elf(CODE))
        base = [nestbox, "--state", folder]
        vm = subprocess.Popen(base + ["run", "--name", "t", "--kernel", kernel, "--memory", "16M", "--engine", engine, "--serial", "null", "--timeout", "120"],
                              stdin=subprocess.DEVNULL)
        try:
            for _ in range(100):
                if subprocess.run(base + ["gdb", "t"], capture_output=True).returncode == 0:
                    break
                time.sleep(0.1)
            path = os.path.join(folder, "run", "t", "gdb")
            r = Remote(path)
            for test in (breakpoints, watchpoints, state, interrupt, garbage):
                test(r)
                print("ok  ", test.__name__)
            same("detach", r.ask("D"), "OK")
            r.s.close()
            state_now = subprocess.run(base + ["list"], capture_output=True, text=True).stdout
            assert "running" in state_now, state_now
            r = Remote(path) # without a word of farewell
            r.ask("Z0,%x,1" % F)
            r.s.close()
            time.sleep(0.2)
            assert "running" in subprocess.run(base + ["list"], capture_output=True, text=True).stdout
            if shutil.which("gdb"):
                by_gdb(path)
                print("ok   by gdb")
            else:
                print("skip by gdb: it is not installed")
            assert vm.poll() is None, "the machine died"
        finally:
            vm.kill()
            vm.wait()


if __name__ == "__main__":
    main()
