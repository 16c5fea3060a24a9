"""From consoles to numbers: samples of each run, medians, ratios, means, and the CSV that keeps them.

A row is one figure of one side at one level: the median of the runs. Everything that is printed or drawn is made from rows, so a report
can be made again from its CSV alone.
"""
import csv
import dataclasses
import math
import re
import statistics

from .console import EVENT, MARK

FIELDS = ["side", "level", "name", "kind", "unit", "median", "low", "high", "runs", "cpu_median", "checksum", "note"]

SHORTEST_S = 0.01   # a shorter measurement is noise


@dataclasses.dataclass
class Row:
    side: str
    level: int
    name: str
    kind: str           # compute, system, more, exit: workloads. boot, memory, speed, noise: others. about: text in the note
    unit: str
    median: float = math.nan
    low: float = math.nan
    high: float = math.nan
    runs: int = 0
    cpu_median: float = math.nan # of the CPU time of the machine's process in place of the wall clock
    checksum: str = ""
    note: str = ""      # why there is no figure, or what it says


def measurements(lines, refused):
    """((level, name), (units, seconds, cpu_seconds, checksum)) of each, in order; why others are not possible goes to refused."""
    key = start = stop = None
    for at, cpu, text in lines:
        if text.endswith("?"):
            start = at, cpu
        elif text.endswith("!"):
            stop = at, cpu
        for mark in MARK.finditer(text):
            what, rest = mark[1], mark[4].split()
            if what == "S":
                key, start, stop = (int(mark[2]), mark[3]), None, None
            elif what == "E" and key == (int(mark[2]), mark[3]) and start and stop and len(rest) == 2 and rest[0].isdigit():
                yield key, (int(rest[0]), stop[0] - start[0], (stop[1] or 0) - (start[1] or 0), rest[1])
                key = None
            elif what == "X":
                refused[int(mark[2]), mark[3]] = mark[4].strip()


def take_workloads(lines):
    """{(level, name): (us_per_unit, cpu_us_per_unit, checksum)} and {(level, name): reason} for those that cannot run.

    Of each workload the measurements with the most units count, of those the median, less the time of a mark (the workload "nothing").
    """
    taken, refused = {}, {}
    for key, sample in measurements(lines, refused):
        taken.setdefault(key, []).append(sample)
    overhead = {level: [statistics.median(sample[column] for sample in samples) for column in (1, 2)]
                for (level, name), samples in taken.items() if name == "nothing"}
    figures = {}
    for (level, name), samples in taken.items():
        most = max(s[0] for s in samples)
        of_most = [s for s in samples if s[0] == most]
        wall, cpu = (statistics.median(s[column] for s in of_most) for column in (1, 2))
        if name != "nothing":
            own = overhead.get(level, [0, 0])
            wall, cpu = wall - own[0], cpu - own[1]
            if wall < SHORTEST_S:
                refused[level, name] = f"the measurement took only {wall * 1000:.1f} ms"
                continue
        sums = {s[3] for s in samples}
        figures[level, name] = (wall / most * 1e6, cpu / most * 1e6, sums.pop() if len(sums) == 1 else "differing")
    return figures, refused


def take_pairs(lines):
    """{name: [throughput of two against one]}: of each measurement alone (level 1) and the one beside another (level 2) that follows it at once."""
    samples = list(measurements(lines, {}))
    nothing = [sample[1] for (_, name), sample in samples if name == "nothing"]
    own = statistics.median(nothing) if nothing else 0
    ratios = {}
    for (key, one), (next_key, two) in zip(samples, samples[1:]):
        if key[0] == 1 and next_key == (2, key[1]) and one[0] == two[0] and min(one[1], two[1]) - own >= SHORTEST_S:
            ratios.setdefault(key[1], []).append(2 * (one[1] - own) / (two[1] - own))
    return ratios


def most_units(lines):
    """{(level, name): the largest number of units that was measured}."""
    most = {}
    for _, _, text in lines:
        for mark in MARK.finditer(text):
            if mark[1] == "E" and mark[4].split()[0].isdigit():
                key = int(mark[2]), mark[3]
                most[key] = max(most.get(key, 0), int(mark[4].split()[0]))
    return most


def ended(lines):
    """The levels whose workloads all ran."""
    return {int(mark[2]) for _, _, text in lines for mark in MARK.finditer(text) if mark[1] == "D"}


def take_boot(lines):
    """{name: (level, seconds, cpu_seconds)} of the way to each level's userland, from power-on and from the level's own start."""
    started, out = {}, {}
    for at, cpu, text in lines:
        event = EVENT.search(text)
        if not event:
            continue
        level = int(event[1])
        if event[2] == "start":
            started[level + 1] = (at, cpu)
        elif event[2] == "userland" and f"power-on to L{level}" not in out:
            out[f"power-on to L{level}"] = (level, at, cpu)
            if level in started:
                out[f"L{level} start to L{level}"] = (level, at - started[level][0], (cpu or 0) - (started[level][1] or 0))
    return out


def take_stats(lines):
    """What nestbox --stats says: instructions, MIPS by wall clock, VM exits."""
    text = "\n".join(line[2] for line in lines)
    insns = re.search(r"stats: wall_s=([\d.]+) .*?insns=(\d+)", text)
    exits = re.search(r"stats: vmexits total=(\d+)", text)
    return (int(insns[2]), float(insns[1])) if insns else None, int(exits[1]) if exits else None


def translation_ms(lines):
    """What the JIT's vCPUs say they translated for, or None."""
    found = [float(m[1]) for _, _, text in lines for m in [re.search(r"stats: jit .*translate_ms=([\d.]+)", text)] if m]
    return sum(found) if found else None


class Table:
    """All rows of a measurement."""
    def __init__(self, rows=()):
        self.rows = list(rows)

    def add(self, side, level, name, kind, unit, samples, cpu=(), checksum="", note=""):
        samples, cpu = list(samples), list(cpu)
        row = Row(side, level, name, kind, unit, runs=len(samples), checksum=checksum, note=note)
        if samples:
            row.median, row.low, row.high = statistics.median(samples), min(samples), max(samples)
        if cpu:
            row.cpu_median = statistics.median(cpu)
        self.rows.append(row)

    def row(self, side, level, name):
        return next((r for r in self.rows if (r.side, r.level, r.name) == (side, level, name)), None)

    def value(self, side, level, name, clock="wall"):
        row = self.row(side, level, name)
        if not row or row.kind != "noise" and row.note.startswith("wrong"):
            return math.nan
        return row.cpu_median if clock == "cpu" else row.median

    def sides(self):
        return list(dict.fromkeys(r.side for r in self.rows if r.kind != "about" and r.side != "host"))

    def workloads(self, kinds):
        return list(dict.fromkeys(r.name for r in self.rows if r.kind in kinds))

    def levels(self, side):
        return sorted({r.level for r in self.rows if r.side == side and r.kind in ("compute", "system", "more", "exit")})

    def ratio(self, name, over, under, clock="wall"):
        """Time of (side, level) over divided by that of (side, level) under."""
        return self.value(*over, name, clock) / self.value(*under, name, clock)

    def mean(self, kinds, over, under, clock="wall"):
        """(geometric mean of the ratios, how many of how many workloads): those that both have."""
        names = self.workloads(kinds)
        ratios = [r for r in (self.ratio(n, over, under, clock) for n in names) if r == r and r > 0]
        return (math.exp(statistics.fmean(math.log(r) for r in ratios)) if ratios else math.nan), len(ratios), len(names)

    def write(self, path):
        with open(path, "w", newline="") as f:
            out = csv.writer(f)
            out.writerow(FIELDS)
            for r in self.rows:
                out.writerow(["" if v != v else f"{v:.6g}" if isinstance(v, float) else v for v in (getattr(r, name) for name in FIELDS)])


def read(path):
    rows = []
    with open(path, newline="") as f:
        for record in csv.DictReader(f):
            for field in dataclasses.fields(Row):
                if field.type in (int, "int"):
                    record[field.name] = int(record[field.name])
                elif field.type in (float, "float"):
                    record[field.name] = float(record[field.name] or "nan")
            rows.append(Row(**record))
    return Table(rows)


def collect(runs, kinds):
    """runs: [(side, Result)] in the order of time; kinds: {workload: kind}. Returns the table of medians."""
    table, samples, notes = Table(), {}, {}
    for side, result in runs:
        figures, refused = take_workloads(result.lines)
        for (level, name), figure in figures.items():
            samples.setdefault((side, level, name), []).append(figure)
        for (level, name), reason in refused.items():
            notes[side, level, name] = reason
    right = {}
    for (side, level, name), figures in samples.items():
        if side == "native":
            right[name] = figures[0][2]
    for key in dict.fromkeys([*samples, *notes]):
        side, level, name = key
        figures = samples.get(key, [])
        sums = {f[2] for f in figures}
        note = notes.get(key, "")
        if figures and (len(sums) > 1 or name in right and right[name] not in sums or "differing" in sums):
            note = "wrong result: " + ", ".join(sorted(sums))
        table.add(side, level, name, kinds.get(name, "overhead"), "us/unit", (f[0] for f in figures), (f[1] for f in figures),
                  ",".join(sorted(sums)), note)
    collect_machines(table, runs)
    return table


def collect_machines(table, runs):
    """Boot times, memory, speed and failures of each side."""
    for side in dict.fromkeys(s for s, _ in runs):
        results = [r for s, r in runs if s == side]
        boots = {}
        for r in results:
            for name, figure in take_boot(r.lines).items():
                boots.setdefault((figure[0], name), []).append(figure[1:])
        for (level, name), figures in sorted(boots.items()):
            table.add(side, level, name, "boot", "s", (f[0] for f in figures), (f[1] for f in figures if f[1] is not None))
        if side != "native":
            table.add(side, 0, "memory: peak RSS", "memory", "MiB", (r.peak_mib for r in results))
            for level in sorted({n for r in results for n in r.rss}):
                table.add(side, level, f"memory: RSS when L{level} is up", "memory", "MiB", (r.rss[level] for r in results if r.rss.get(level)))
        stats = [take_stats(r.lines) for r in results]
        table_stats(table, side, stats, results)
        failures = [r.failure for r in results if r.failure]
        if failures:
            table.add(side, 0, "failure", "about", "", (), note=f"{len(failures)} of {len(results)} runs: {failures[0]}")


def table_stats(table, side, stats, results):
    speeds = [(s[0][0] / r.cpu_s / 1e6, s[0][0] / s[0][1] / 1e6) for s, r in zip(stats, results) if s[0]]
    if speeds:
        table.add(side, 0, "MIPS by CPU time", "speed", "MIPS", (s[0] for s in speeds))
        table.add(side, 0, "MIPS by wall clock", "speed", "MIPS", (s[1] for s in speeds))
    exits = [s[1] for s in stats if s[1] is not None]
    if exits:
        table.add(side, 0, "VM exits in the run", "speed", "exits", exits)
