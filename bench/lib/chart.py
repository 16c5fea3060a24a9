"""A bar chart of the slowdowns as SVG: a panel per level, a group of bars per workload, logarithmic from 1 (native)."""
import math
from xml.sax.saxutils import escape

from . import report

COLOURS = {"nestbox-jit": "#1b7f4b", "nestbox-interp": "#8fcfa6", "qemu-tcg": "#d9822b", "bochs": "#8a6fb0"}
SPARE = ["#4a90c2", "#b04a6a"]
BAR, GAP, LABEL, PANEL, TOP, BOTTOM, SPACE = 9, 8, 116, 400, 72, 44, 56
FONT = 'font-family="sans-serif" fill="#222"'


def decades(largest):
    return max(1, math.ceil(math.log10(max(largest, 1.01))))


class Svg:
    def __init__(self, width, height):
        self.parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
                      f'<rect width="{width}" height="{height}" fill="white"/>']

    def rect(self, x, y, w, h, fill, title=""):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{fill}"><title>{escape(title)}</title></rect>')

    def line(self, x1, y1, x2, y2, colour):
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>')

    def text(self, x, y, words, size=11, anchor="start", weight="normal"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" {FONT}>{escape(words)}</text>')

    def done(self):
        return "\n".join([*self.parts, "</svg>"]) + "\n"


def groups(table, clock):
    """[(label, function of (machine) -> slowdown)]: every workload, then the means."""
    native = ("native", 0)
    out = [(n, lambda m, n=n: table.ratio(n, m, native, clock)) for n in table.workloads(report.ALL)]
    return out + [(f"mean: {title}", lambda m, k=kinds: table.mean(k, m, native, clock)[0]) for title, kinds in report.MEANS]


def draw(table, clock="wall"):
    machines = report.machines(table)
    levels = sorted({level for _, level in machines})
    sides = list(dict.fromkeys(side for side, _ in machines))
    colours = {s: COLOURS.get(s, SPARE[k % len(SPARE)]) for k, s in enumerate(sides)}
    rows = groups(table, clock)
    group_height = BAR * max(len(sides), 1) + GAP
    values = [f(m) for _, f in rows for m in machines]
    scale = PANEL / decades(max((v for v in values if v == v), default=10))
    width = LABEL + (PANEL + SPACE) * max(len(levels), 1)
    height = TOP + group_height * len(rows) + BOTTOM
    svg = Svg(width, height)
    svg.text(12, 22, "Slowdown against native, times (logarithmic; shorter is better)", 15, weight="bold")
    for k, side in enumerate(sides):
        svg.rect(12 + k * 140, 32, 12, 12, colours[side])
        svg.text(30 + k * 140, 42, side)
    for k, level in enumerate(levels):
        panel(svg, LABEL + k * (PANEL + SPACE), level, rows, [(s, colours[s]) for s in sides], scale, group_height, k == 0)
    return svg.done()


def panel(svg, x0, level, rows, sides, scale, group_height, labels):
    bottom = TOP + group_height * len(rows)
    svg.text(x0, TOP - 6, f"L{level}", 13, weight="bold")
    for decade in range(int(PANEL / scale + 0.5) + 1):
        for step in (1, 2, 5):
            x = x0 + (decade + math.log10(step)) * scale
            if x <= x0 + PANEL + 0.5:
                svg.line(x, TOP, x, bottom, "#999" if step == 1 else "#e4e4e4")
                if step == 1 or scale > 120:
                    svg.text(x, bottom + 15, f"{step * 10 ** decade}", 10, "middle")
    for n, (label, slowdown) in enumerate(rows):
        y = TOP + n * group_height + GAP / 2
        if labels:
            svg.text(x0 - 8, y + (group_height - GAP) / 2 + 4, label, 11, "end", "bold" if label.startswith("mean") else "normal")
        for k, (side, colour) in enumerate(sides):
            v = slowdown((side, level))
            if v != v:
                continue
            length = max(1.0, math.log10(max(v, 1)) * scale)
            svg.rect(x0, y + k * BAR, length, BAR - 1, colour, f"{side} L{level} {label}: {report.number(v)}")
            svg.text(x0 + length + 3, y + k * BAR + BAR - 1.5, report.number(v), 8)
