r"""The shell of a report: one HTML page with its style, its small script and a lock.

The lock is a Content-Security-Policy: the page may fetch nothing, and the only script that may
run is the one whose SHA-256 it names. Text of a model that looks like a script, even if it were
not escaped, would stay dead. The script only shows values under the pointer; without it the page
is complete. Colours are those of Okabe and Ito (2008), which colour-blind readers tell apart,
darkened on white and lightened on black until their names can be read in them.
"""

import base64
import hashlib
from html import escape
from typing import Any

from minideepseek.training.scales import short

PALETTE = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfb; --ink: #1c2126; --soft: #5c6670; --rule: #e3e6e8; --shade: #f0f2f3;
  --s0: #0067a5; --s1: #c04a00; --s2: #007a5a; --s3: #5c6670; --s4: #a3478e; --s5: #8a6500;
  --h0: #10151a; --h1: #1f66a8; --h2: #74add6; --h3: #cfe2ef;
  --h4: #f1f1ec; --h5: #fbd9c0; --h6: #ee9460; --h7: #b83a0c;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --ink: #e4e7ea; --soft: #9aa4ad; --rule: #2c3237; --shade: #1f2429;
    --s0: #5cb3ec; --s1: #ff9152; --s2: #3fcb9d; --s3: #9aa4ad; --s4: #e39bcb; --s5: #e8b73c;
    --h0: #ffffff; --h1: #8fccf7; --h2: #4a86b4; --h3: #2b4a62;
    --h4: #25292d; --h5: #573526; --h6: #b05a2c; --h7: #ffa468;
  }
}
"""
STYLE = PALETTE + """* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 3rem 1.25rem 5rem; max-width: 62rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  -webkit-text-size-adjust: 100%;
}
h1 { margin: 0 0 1.25rem; font-size: 1.9rem; line-height: 1.2; font-weight: 650; }
h2 { margin: 3.25rem 0 .4rem; font-size: 1.15rem; font-weight: 650; break-after: avoid; }
.part { margin-top: 5rem; font-size: 1.5rem; }
h1, h2 { letter-spacing: -.012em; text-wrap: balance; overflow-wrap: anywhere; }
p, ul { max-width: 42rem; margin: 0 0 1rem; color: var(--soft); overflow-wrap: anywhere; }
p strong { color: var(--ink); }
p.lead { font-size: 1.15rem; color: var(--ink); }
ul { padding-left: 1.1rem; color: var(--ink); }
li { margin: .35rem 0; }
figure { margin: 0; min-width: 0; break-inside: avoid; }
.pair, .three { display: grid; gap: 1.5rem 2rem; }
.pair { grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); }
.three { grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); }
.head {
  display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem;
  min-height: 1.5em; font-size: .8rem; color: var(--soft);
}
output { color: var(--ink); font-variant-numeric: tabular-nums; }
.plot { padding: .5rem calc(1rem + var(--room, 4) * .43rem) 1.75rem 3rem; touch-action: pan-y; }
.heat .plot { padding-right: 3.1rem; padding-left: 2rem; }
svg { display: block; overflow: visible; pointer-events: none; }
svg svg[viewBox] { overflow: hidden; }
text { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; }
.num { text-anchor: end; }
.mid { text-anchor: middle; }
.end { font-weight: 600; }
.grid { stroke: var(--rule); }
.axis, .cross { stroke: var(--soft); }
.cross { visibility: hidden; opacity: .5; }
.hovered .cross { visibility: visible; }
path { fill: none; vector-effect: non-scaling-stroke; stroke-linejoin: round;
  stroke-linecap: round; }
.raw { stroke-width: 1; opacity: .3; }
.bold { stroke-width: 1.75; }
.dots { stroke-width: 6; }
.level { stroke: var(--soft); stroke-dasharray: 5 4; stroke-linecap: butt; }
.leader { stroke: var(--soft); opacity: .6; }
.key { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: 0 0 1rem; font-size: .8rem;
  color: var(--soft); }
.key span::before { content: ""; display: inline-block; width: .8em; height: .8em;
  margin-right: .4em; vertical-align: -.08em; outline: 1px solid var(--rule);
  background: var(--k); print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.heat .grid { display: none; }
.cells { shape-rendering: crispEdges; }
figcaption { font-size: .8rem; color: var(--soft); margin-bottom: .35rem; }
pre {
  margin: 0; padding: .9rem 1rem; border: 1px solid var(--rule); border-radius: 4px;
  font: .82rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; tab-size: 4;
}
.prompt { background: var(--shade); color: var(--soft); box-decoration-break: clone;
  -webkit-box-decoration-break: clone; padding: .1em 0;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.try { white-space: nowrap; }
.hit { color: var(--s2); }
.miss { color: var(--s1); }
.thoughts + .thoughts { margin-top: 1.5rem; }
.byte { padding: 0 .2em; border: 1px solid var(--s1); border-radius: 2px; color: var(--s1);
  font-size: .72em; font-weight: 400; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem 1.75rem .35rem 0; border-bottom: 1px solid var(--rule);
  text-align: right; vertical-align: top; overflow-wrap: break-word; }
th:last-child, td:last-child { padding-right: 0; }
.facts td { overflow-wrap: anywhere; }
th { font-weight: 400; color: var(--soft); }
th[scope="row"], .facts td { text-align: left; }
tr { break-inside: avoid; }
@media (max-width: 34rem) {
  body { padding: 1.75rem 1rem 3rem; }
  h1 { font-size: 1.5rem; }
  .plot { padding-left: 2.5rem; padding-right: calc(.9rem + var(--room, 4) * .4rem); }
  text { font-size: 11px; }
  table { font-size: .8rem; }
  th, td { padding-right: .5rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2 { margin-top: 1.5rem; }
  output, .cross { display: none; }
}
""" + "".join(
    f".c{i} {{ stroke: var(--s{i}); }} .t{i} {{ fill: var(--s{i}); }}\n" for i in range(6)
) + "".join(f".h{i} {{ fill: var(--h{i}); }} .k{i} {{ --k: var(--h{i}); }}\n" for i in range(8))

SCRIPT = """
for (const plot of document.querySelectorAll("[data-hover]")) {
  const {range: [low, high], across, lines} = JSON.parse(plot.dataset.hover);
  const svg = plot.querySelector("svg"), cross = svg.querySelector(".cross");
  const output = plot.parentNode.querySelector("output");
  const nearest = (xs, wanted) => xs.reduce(
    (best, x, i) => Math.abs(x - wanted) < Math.abs(xs[best] - wanted) ? i : best, 0);
  plot.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect();
    const wanted = low + (high - low) * (event.clientX - box.left) / box.width;
    const step = lines[0][1][nearest(lines[0][1], wanted)];
    const place = 100 * (step - low) / (high - low) + "%";
    cross.setAttribute("x1", place);
    cross.setAttribute("x2", place);
    output.textContent = across + " " + step.toLocaleString("en") + lines.map(([name, xs, ys]) =>
      " · " + name + " " + (ys[nearest(xs, step)] ?? "not a number")).join("");
    plot.classList.add("hovered");
  });
  plot.addEventListener("pointerleave", () => {
    plot.classList.remove("hovered");
    output.textContent = "";
  });
}
"""


def show_text(text: str) -> str:
    """Escaped HTML from which the text can be read back; unprintable characters in boxes."""
    parts = []
    for character in text:
        code = ord(character)
        if character.isprintable() or character in "\n\t":
            parts.append(escape(character))
        elif code < 0x80 or 0xDC80 <= code <= 0xDCFF:  # one byte, perhaps of broken UTF-8
            parts.append(f'<b class="byte">{code & 0xFF:02x}</b>')
        else:
            parts.append(f'<b class="byte">U+{code:04X}</b>')
    return "".join(parts)


def paragraph(text: str) -> str:
    """A `<p>` of text that is HTML already."""
    return f"<p>{text}</p>"


def cell(value: Any) -> str:
    """One value as escaped text for a table: null as a dash, lists with commas."""
    if value is None:
        return "–"
    if isinstance(value, (list, tuple)):
        return ", ".join(cell(entry) for entry in value) or "–"
    if isinstance(value, float):
        return short(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return show_text(str(value))


def page(title: str, body: str) -> str:
    """The whole document around the HTML of its sections."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{show_title(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{show_text(title)}</h1>\n"
        f"{body}\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def show_title(title: str) -> str:
    """A title can hold no boxes: what prints nothing becomes �."""
    return escape("".join(c if c.isprintable() else "\ufffd" for c in title))
