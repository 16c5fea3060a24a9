"""The text of a table: slowdowns, comparison with QEMU, boot times, VM exits, memory, targets. Everything comes from rows."""
import math

COMPUTE, SYSTEM = ("compute",), ("system",)
ALL = ("compute", "system", "more") # not CPUID: natively it is one instruction, and here the outer host may trap it
MEANS = (("compute", COMPUTE), ("system", SYSTEM), ("all", ALL))

def number(v, missing="-"):
    if v is None or v != v:
        return missing
    return f"{v:.0f}" if v >= 99.5 else f"{v:.1f}" if v >= 9.95 else f"{v:.2f}"


def layout(rows):
    """Text columns: the first to the left, the others to the right, a last one without heading to the left."""
    widths = [max(len(r[c]) if c < len(r) else 0 for r in rows) for c in range(max(map(len, rows)))]
    lines = []
    last = len(widths) - 1 if rows[0][-1] == "" else len(widths)
    for r in rows:
        lines.append("  ".join(cell.ljust(w) if c in (0, last) else cell.rjust(w) for c, (cell, w) in enumerate(zip(r, widths))).rstrip())
    return "\n".join(lines)


def machines(table):
    """[(side, level)] of all guests, in the order of the columns."""
    return [(side, level) for side in table.sides() if side != "native" for level in table.levels(side)]


def engine(table):
    """The engine that the targets are about: the JIT when it is there."""
    ours = [s for s in table.sides() if s.startswith("nestbox-")]
    return "nestbox-jit" if "nestbox-jit" in ours else ours[-1] if ours else None


def cell(table, name, machine, clock):
    row = table.row(*machine, name)
    if row and row.note.startswith("wrong"):
        return "WRONG"
    if row and row.runs == 0:
        return "n/a"
    return number(table.ratio(name, machine, ("native", 0), clock))


def slowdowns(table, clock):
    columns = machines(table)
    rows = [["", "native us", *(f"{side} L{level}" for side, level in columns)]]
    for name in table.workloads(ALL):
        rows.append([name, number(table.value("native", 0, name, clock)), *(cell(table, name, m, clock) for m in columns)])
    rows.append([""])
    for title, kinds in MEANS:
        line = [f"mean: {title}", ""]
        for m in columns:
            mean, have, of = table.mean(kinds, m, ("native", 0), clock)
            line.append(number(mean) + ("" if have == of or not have else f" ({have}/{of})"))
        rows.append(line)
    return layout(rows)


def depth_ratios(table, clock):
    rows = [["", "compute", "system", "all"]]
    for side, level in machines(table):
        if level > 1:
            rows.append([f"{side} L{level}/L1", *(number(table.mean(k, (side, level), (side, 1), clock)[0]) for _, k in MEANS)])
    return layout(rows) if len(rows) > 1 else ""


def against(table, other, clock):
    """How many times faster our engines are, and where least."""
    rows = [["", "compute", "system", "all", "least"]]
    for side, level in machines(table):
        if side == other or not side.startswith("nestbox-"):
            continue
        ratios = {n: table.ratio(n, (other, level), (side, level), clock) for n in table.workloads(ALL)}
        ratios = {n: r for n, r in ratios.items() if r == r}
        if not ratios:
            continue
        least = min(ratios, key=ratios.get)
        rows.append([f"{side} L{level}", *(number(table.mean(k, (other, level), (side, level), clock)[0]) for _, k in MEANS),
                     f"{number(ratios[least])} {least}"])
    return layout(rows) if len(rows) > 1 else ""


def boots(table, clock):
    sides = [s for s in table.sides() if s != "native"]
    names = [r.name for r in table.rows if r.kind == "boot"]
    rows = [["seconds", *sides]]
    for name in sorted(dict.fromkeys(names), key=lambda n: (n[-1], n)):
        line = [name]
        for side in sides:
            row = next((r for r in table.rows if r.side == side and r.name == name), None)
            line.append(number((row.cpu_median if clock == "cpu" else row.median) if row else None))
        rows.append(line)
    return layout(rows)


def exit_us(table, side, level, clock="wall"):
    """Microseconds of one CPUID at a level: a unit is twenty."""
    return table.value(side, level, "cpuid", clock) / 20


def exit_costs(table, clock):
    """With the number of instructions that an exit takes, also its cost against as many instructions of a plain loop in L1."""
    rows = [["", "us per CPUID", "per second", "instructions", "us in a loop", "times", ""]]
    for side, level in [("native", 0), *machines(table)]:
        us = exit_us(table, side, level, clock)
        if us != us:
            continue
        count = table.value(side, level, "instructions per L2 CPUID exit")
        loop = count * table.value(side, 1, "loop", clock) / 1e6
        what = {0: "the host may be a guest itself", 1: "no exit: the software CPU answers"}.get(level, "")
        rows.append([side if level == 0 else f"{side} L{level}", number(us), number(1e6 / us), number(count, ""), number(loop, ""),
                     number(us / loop, ""), what])
    return layout(rows) if len(rows) > 1 else ""


def resources(table):
    sides = [s for s in table.sides() if s != "native"]
    names = dict.fromkeys((r.name, r.unit) for r in table.rows if r.kind in ("memory", "speed", "smp"))
    rows = [["", *sides]]
    for name, unit in names:
        found = {r.side: r.median for r in table.rows if r.name == name}
        rows.append([f"{name} ({unit})" if unit in ("MiB", "times", "%") else name, *(number(found.get(s)) for s in sides)])
    return layout(rows)


def targets(table, clock):
    """[(figure, target, measured, met)] where met is None when it was not measured."""
    us = engine(table)
    if not us:
        return []
    out = []

    def at_most(figure, limit, v):
        out.append((figure, f"<= {limit}", v, None if v != v else v <= limit))

    def at_least(figure, limit, v):
        out.append((figure, f">= {limit}", v, None if v != v else v >= limit))

    def times_faster(name, other):
        mine, its = (next((r for r in table.rows if r.side == s and r.name == name), None) for s in (us, other))
        if not mine or not its:
            return math.nan
        return (its.cpu_median / mine.cpu_median) if clock == "cpu" else its.median / mine.median

    native, l1, l2, l3 = ("native", 0), (us, 1), (us, 2), (us, 3)
    at_most("compute, L1 against native", 2.0, table.mean(COMPUTE, l1, native, clock)[0])
    at_most("compute, L2 / L1", 1.10, table.mean(COMPUTE, l2, l1, clock)[0])
    for level in (1, 2):
        q, m = ("qemu-tcg", level), (us, level)
        at_least(f"all, L{level}, times faster than QEMU", 4, table.mean(ALL, q, m, clock)[0])
        ratios = [table.ratio(n, q, m, clock) for n in table.workloads(ALL)]
        at_least(f"slowest workload against QEMU, L{level}", 1, min((r for r in ratios if r == r), default=math.nan))
    at_least("power-on to L1, times faster than QEMU", 2.5, times_faster("power-on to L1", "qemu-tcg"))
    at_least("L2 start to L2, times faster than QEMU", 2.5, times_faster("L2 start to L2", "qemu-tcg"))
    at_least("power-on to L2, times faster than Bochs", 20, times_faster("power-on to L2", "bochs"))
    for other in ("qemu-tcg", "bochs"):
        at_least(f"L2 CPUID exit, times cheaper than {other}", 10, exit_us(table, other, 2, clock) / exit_us(table, us, 2, clock))
    at_most("system, L1 against native", 5, table.mean(SYSTEM, l1, native, clock)[0])
    exit_loop = table.value(us, 2, "instructions per L2 CPUID exit") * table.value(us, 1, "loop", clock) / 1e6
    at_most("L2 CPUID exit against as many instructions of a loop", 3, exit_us(table, us, 2, clock) / exit_loop)
    at_most("translating, of the boot to L1 userland (%)", 15, table.value(us, 1, "translating, booting L1"))
    throughput = [r.median for r in table.rows if r.side == us and r.kind == "smp"]
    at_least("throughput of two vCPUs against one, least workload", 1.8, min(throughput, default=math.nan))
    at_most("compute, L3 / L1", 1.15, table.mean(COMPUTE, l3, l1, clock)[0])
    return out


def target_text(table, clock):
    rows = [[f"targets ({engine(table)})", "target", "measured", ""]]
    for figure, limit, v, met in targets(table, clock):
        rows.append([figure, limit, number(v, "not measured"), {True: "met", False: "missed", None: ""}[met]])
    return layout(rows) if len(rows) > 1 else ""


def noise(table):
    lines = []
    gauge = table.row("host", 0, "gauge")
    if gauge and gauge.runs:
        lines.append(f"A fixed native loop, {gauge.runs} times between the sides: {gauge.low:.0f} to {gauge.high:.0f} us, median {gauge.median:.0f}: "
                     f"a spread of {100 * (gauge.high - gauge.low) / gauge.median:.0f} %.")
    for name, text in (("others", "of other programs while a side ran, of all CPUs"), ("stolen", "taken by the host below this machine (steal)")):
        row = table.row("host", 0, name)
        if row and row.runs:
            lines.append(f"CPU time {text}: median {row.median:.0f} %, at most {row.high:.0f} %.")
    pairs = [r for r in table.rows if r.side == "host" and r.name.startswith("two processes: ")]
    if pairs:
        figures = ", ".join(f"{r.name.split(': ')[1]} {r.median:.2f} ({r.low:.2f} to {r.high:.2f})" for r in pairs)
        lines.append(f"Two native processes beside each other do so many times the work of one: {figures}.")
    others = table.row("host", 0, "others")
    if gauge and gauge.runs and (gauge.high - gauge.low) / gauge.median > 0.10 or others and others.runs and others.high > 10:
        lines.append("This machine was not quiet: these ratios are no more than an indication.")
    return "\n".join(lines)


def unsteady(table):
    wide = [f"{r.side} L{r.level} {r.name}" for r in table.rows
            if r.kind in (*ALL, "exit") and r.runs > 1 and r.median and (r.high - r.low) / r.median > 0.25]
    return f"More than 25 % between the runs: {', '.join(wide)}." if wide else ""


def about(table):
    return "\n".join(f"{r.side}: {r.name}: {r.note}" if r.name not in ("version", "options") else f"{r.side}: {r.note}"
                     for r in table.rows if r.kind == "about")


def problems(table):
    return "\n".join(f"{r.side} L{r.level} {r.name}: {r.note}" for r in table.rows if r.note and r.kind in (*ALL, "exit", "overhead"))


SECTIONS = ("about", "noise", "slowdown", "depth", "qemu", "bochs", "boot", "exits", "resources", "problems", "targets")


def text(table, clock="wall", section=None):
    runs = max((r.runs for r in table.rows if r.kind in (*ALL, "exit") and r.side != "host"), default=0)
    how = "the host's clock" if clock == "wall" else "CPU time of the machine's process"
    parts = {
        "about": ("", about(table)),
        "noise": ("Noise", "\n".join(filter(None, (noise(table), unsteady(table))))),
        "slowdown": (f"Slowdown against native (times; by {how}; medians of {runs} run{'s' * (runs != 1)}; geometric means)",
                     slowdowns(table, clock)),
        "depth": ("Deeper levels against L1 (times slower)", depth_ratios(table, clock)),
        "qemu": ("Times faster than QEMU TCG", against(table, "qemu-tcg", clock)),
        "bochs": ("Times faster than Bochs", against(table, "bochs", clock)),
        "boot": ("Boot, by the host's clock" if clock == "wall" else "Boot, CPU time", boots(table, clock)),
        "exits": (f"VM exits: one CPUID, handled by the KVM of the level above; by {how}", exit_costs(table, clock)),
        "resources": ("Memory and speed", resources(table)),
        "problems": ("Not measured, or wrong", problems(table)),
        "targets": ("Targets", target_text(table, clock)),
    }
    chosen = [parts[section]] if section else parts.values()
    return "\n\n".join((f"{title}\n{'-' * len(title)}\n{body}" if title else body) for title, body in chosen if body) + "\n"
