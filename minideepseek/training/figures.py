r"""Figures for the report: inline SVG that needs no library, no script and no second copy.

The letters of a figure must stay readable on a phone and on a wide screen, so nothing may scale
them. Each figure is therefore two nested pictures:

* the outer `<svg>` has no viewBox: its units are CSS pixels, positions along the plot are per
  cent, and axis labels keep their size at every width;
* the inner `<svg viewBox="0 0 1000 1000" preserveAspectRatio="none">` holds the curves alone and
  is stretched to whatever space there is; `vector-effect: non-scaling-stroke` keeps lines thin.

Margins are the padding of the `<div>` around it, so a label may overflow into them. Colours are
CSS variables of the page (`--s0` … `--s5`, `--h0` … `--h7`), which follow light and dark.

Which numbers are drawn is decided in `scales.py`. A NaN breaks its curve; the
caption of the figure says at which steps.
"""

import json
import math
from dataclasses import dataclass
from html import escape

import numpy as np

from minideepseek.training.scales import bounds, decimate, short, smooth, spread, tick_labels, ticks

LEVELS = (0.25, 0.5, 0.8, 1.25, 2.0, 4.0)  # bounds between the colours of `heat_map`
LEVEL_NAMES = ("no token", "below ¼", "to ½", "to 0.8", "fair share", "to 2×", "to 4×", "above 4×")
LINE_HEIGHT = 15  # px between two labels
SMOOTHED = 100  # points from which a noisy line is drawn with its running mean


@dataclass(frozen=True)
class Line:
    """One curve: `name` is written at its right end, `colour` is 0 to 5 of the palette.

    x, y: (N,) floats, NaN in y where there is no value. `smooth` draws many points faint and
    their running mean above; otherwise y itself is drawn, with a dot at each of a few points.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    colour: int = 0
    smooth: bool = True


@dataclass(frozen=True)
class _Frame:
    """The ranges of a plot, and where a value lies in it as a part of its width or height."""

    x: tuple[float, float]  # (left, right)
    y: tuple[float, float]  # (bottom, top)

    def across(self, x):
        return (x - self.x[0]) / (self.x[1] - self.x[0])

    def down(self, y):
        return (self.y[1] - y) / (self.y[1] - self.y[0])


def _steps_range(xs: list[np.ndarray]) -> tuple[float, float]:
    """First and last step; a single one gets half a step on either side."""
    low, high = float(min(x.min() for x in xs)), float(max(x.max() for x in xs))
    room = 0.0 if high > low else 0.5 + 1e-6 * abs(low)  # half a step is nothing beside 10¹⁶
    return low - room, high + room


def _path(frame: _Frame, x: np.ndarray, y: np.ndarray, pen_down: str = "L") -> str:
    """The `d` of a curve (of its dots with pen "M") in the 1000 × 1000 box; NaN lifts the pen."""
    # A value far outside is cut off by the frame; it need not be written with a hundred digits.
    across = np.clip(frame.across(x) * 1000, -1e6, 1e6)
    down = np.clip(frame.down(y) * 1000, -1e6, 1e6)
    parts, pen = [], "M"
    for right, low in zip(across.tolist(), down.tolist(), strict=True):
        if math.isfinite(right) and math.isfinite(low):
            # "h0" gives a lone point its round cap.
            parts.append(f"{pen}{right:.1f} {low:.1f}" + ("h0" if pen == "M" else ""))
            pen = pen_down
        else:
            pen = "M"
    return "".join(parts)


def _axes(frame: _Frame, y_ticks: list[float], across: str = "step") -> str:
    """Grid lines, the numbers of both axes, and after the lower one what it counts."""
    parts = ['<line class="axis" x2="100%" y1="100%" y2="100%"/>']
    for value, text in zip(y_ticks, tick_labels(y_ticks), strict=True):
        at = f"{frame.down(value):.2%}"
        parts.append(f'<line class="grid" x2="100%" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="num" x="-8" y="{at}" dy=".35em">{text}</text>')
    x_ticks = ticks(*frame.x, 5, integer=True)
    for value, text in zip(x_ticks, tick_labels(x_ticks), strict=True):
        at = f"{frame.across(value):.2%}"
        parts.append(f'<text class="mid" x="{at}" y="100%" dy="18">{text}</text>')
    parts.append(f'<text x="100%" y="100%" dx="20" dy="18">{escape(across)}</text>')
    return "".join(parts)


def _shown(line: Line) -> np.ndarray:
    """What the bold part of a line shows: its running mean, or itself."""
    if line.smooth and len(line.y) >= SMOOTHED:
        return smooth(line.y, 2 * (len(line.y) // 50) + 1)
    return line.y


def _curve(frame: _Frame, line: Line, shown: np.ndarray) -> str:
    """The paths of one line: faint if its mean is shown, bold, and dots where they are few."""
    raw, bold = decimate(line.y, 1200), decimate(shown, 600)
    kinds = [("bold", _path(frame, line.x[bold], shown[bold]))]
    if shown is not line.y:
        kinds.insert(0, ("raw", _path(frame, line.x[raw], line.y[raw])))
    if len(line.y) <= 40:
        kinds.append(("dots", _path(frame, line.x, shown, pen_down="M")))
    return "".join(f'<path class="{kind} c{line.colour}" d="{d}"/>' for kind, d in kinds)


def _ends(frame: _Frame, lines: list[Line], shown: list[np.ndarray]):
    """A dot on the last value of each line, and what is written beside it, for `_labels`."""
    dots, ends = "", []
    for line, y in zip(lines, shown, strict=True):
        last = np.flatnonzero(np.isfinite(y))[-1]
        at = f'cx="{frame.across(line.x[last]):.2%}" cy="{frame.down(y[last]):.2%}"'
        dots += f'<circle class="t{line.colour}" {at} r="3"/>'
        text = f"{line.name[:16]} {short(y[last], 3)}"
        ends.append((float(y[last]), text, f"end t{line.colour}"))
    return dots, ends


def _labels(frame: _Frame, ends: list[tuple[float, str, str]], height: int) -> str:
    """Names beside the right edge: (value, text, class); a hair line leads to a moved one."""
    wanted = [min(max(frame.down(value), 0.0), 1.0) * height for value, _, _ in ends]
    places = spread(wanted, LINE_HEIGHT, height)
    parts = ['<svg x="100%" overflow="visible">']
    for (_, text, style), true, at in zip(ends, wanted, places, strict=True):
        if abs(true - at) > 2:
            parts.append(f'<path class="leader" d="M1 {true:.1f}L9 {at:.1f}"/>')
        parts.append(f'<text class="{style}" x="12" y="{at:.1f}" dy=".35em">{escape(text)}</text>')
    return "".join(parts) + "</svg>"


def _hover(frame: _Frame, lines: list[Line], shown: list[np.ndarray], across: str) -> str:
    """What the script reads: at most 300 points of each drawn line, four digits, NaN as null."""
    drawn = []
    for line, y in zip(lines, shown, strict=True):
        keep = np.linspace(0, len(y) - 1, min(len(y), 300)).astype(int)
        values = [float(f"{v:.4g}") if math.isfinite(v) else None for v in y[keep].tolist()]
        drawn.append([line.name, line.x[keep].tolist(), values])
    read = {"range": frame.x, "across": across, "lines": drawn}
    return escape(json.dumps(read, separators=(",", ":")))


def _describe(line: Line) -> str:
    """One line in words, for those who do not see it."""
    y = line.y[np.isfinite(line.y)]
    return (
        f"{line.name}: first {short(y[0])}, last {short(y[-1])}, "
        f"lowest {short(y.min())}, highest {short(y.max())}."
    ).removeprefix(": ")


def _figure(kind: str, title: str, unit: str, desc: str, height: int, outer: str, more="") -> str:
    """The frame of every figure: a line of text above, the plot with its margins below it."""
    return (
        f'<figure class="{kind}"><div class="head"><span>{escape(unit)}</span><output></output>'
        f'</div><div class="plot"{more}><svg role="img" width="100%" height="{height}">'
        f"<title>{escape(title)}</title><desc>{escape(desc)}</desc>{outer}</svg></div></figure>"
    )


def _stretched(inner: str, box: str = "1000 1000") -> str:
    return (
        f'<svg viewBox="0 0 {box}" width="100%" height="100%" preserveAspectRatio="none">'
        f"{inner}</svg>"
    )


def line_chart(
    title: str,
    unit: str,
    lines: list[Line],
    levels: dict[str, float] | None = None,
    ceiling: float = math.inf,
    from_zero: bool = False,
    height: int = 260,
    across: str = "step",
) -> str:
    """A `<figure>` of lines over steps; `levels` are dashed horizontal lines with their names.

    across: what x counts, in the singular and short: it stands behind the axis.
    The y axis ends at `ceiling` where that hides no line's last value. Without one finite value
    the figure is a sentence that says so.
    """
    lines = [line for line in lines if np.isfinite(line.y).any()]
    if not lines:
        return f'<p class="empty">{escape(title)}: no finite value was recorded.</p>'
    levels = levels or {}
    values = np.concatenate([line.y for line in lines] + [np.array([*levels.values()])])
    if ceiling >= max(line.y[np.isfinite(line.y)][-1] for line in lines):
        values = np.minimum(values, ceiling)
    frame = _Frame(_steps_range([line.x for line in lines]), bounds(values, from_zero))
    shown = [_shown(line) for line in lines]
    heights = [f"{1000 * frame.down(value):.1f}" for value in levels.values()]
    inner = "".join(f'<path class="level" d="M0 {at}h1000"/>' for at in heights)
    inner += "".join(_curve(frame, line, y) for line, y in zip(lines, shown, strict=True))
    dots, ends = _ends(frame, lines, shown)
    ends += [(value, f"{name[:16]} {value:.2f}", "soft") for name, value in levels.items()]
    outer = _axes(frame, ticks(*frame.y, 6 if height > 200 else 4), across)
    outer += _stretched(inner) + dots
    outer += '<line class="cross" y2="100%"/>' + _labels(frame, ends, height)
    words = [f"{name}: constant {value:.2f}." for name, value in levels.items()]
    desc = f"Over {across}s {frame.x[0]:g} to {frame.x[1]:g}. "
    desc += " ".join([_describe(line) for line in lines] + words)
    # The right margin is as wide as the longest label, and alike where labels are short.
    room = max([15 if height > 200 else 7, *(len(text) for _, text, _ in ends)])
    more = f' style="--room: {room}" data-hover="{_hover(frame, lines, shown, across)}"'
    return _figure("chart", title, unit, desc, height, outer, more)


def heat_map(title: str, x: np.ndarray, load: np.ndarray, columns: int = 120) -> str:
    """A `<figure>` of load (N, E) over steps x (N,): a row per expert, a colour per level.

    A column is the mean of a window of steps, each step relative to its own mean over experts
    (the fair share), so `no token` means none in the whole window. Equal neighbours in a row are
    one rectangle, all rectangles of a colour one path: 16 × 120 cells take some 15 kB.
    """
    experts = load.shape[1]
    fair = load.sum(axis=1, keepdims=True) / max(1, experts)
    known = fair[:, 0] > 0  # not where NaN
    if not known.any():
        return f'<p class="empty">{escape(title)}: no load was recorded.</p>'
    x, relative = x[known], load[known] / fair[known]
    windows = np.array_split(relative, min(columns, len(relative)))
    cells = np.array([window.mean(axis=0) for window in windows])  # (C, E)
    level = np.where(cells > 0, np.digitize(cells, LEVELS) + 1, 0)
    paths = [""] * len(LEVEL_NAMES)
    for expert, row in enumerate(level.T):
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(row)], strict=True):
            paths[row[start]] += f"M{start} {expert}h{end - start}v1H{start}z"
    inner = "".join(f'<path class="h{i}" d="{d}"/>' for i, d in enumerate(paths) if d)
    frame = _Frame(_steps_range([x]), (experts - 0.5, -0.5))
    marks = _axes(frame, ticks(0, experts - 1, 5, integer=True))
    last = ", ".join(short(value) for value in cells[-1])
    desc = f"Load of each expert as a multiple of the fair share; in the last window: {last}."
    height = min(240, max(96, 14 * experts))
    outer = f'<g class="cells">{_stretched(inner, f"{len(cells)} {experts}")}</g>{marks}'
    return _figure("heat", title, f"{title}, expert by expert", desc, height, outer)
