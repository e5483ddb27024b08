"""What the comparing demos share: three sizes of a run, and tables with a spread over seeds."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path


def sizes(
    doc: str, full: str, quick: str = "everything tiny: does it run?"
) -> argparse.ArgumentParser:
    """A parser with --full, --quick and --out; doc: the demo's, its first line is the title."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help=full)
    size.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--out", type=Path, help="a folder of one's own below runs/, if not given")
    return parser


def chosen(options: argparse.Namespace, name: str) -> tuple[str, Path]:
    """The size, "full", "quick" or "default", and the folder, which is made."""
    kind = "full" if options.full else "quick" if options.quick else "default"
    out = options.out or Path("runs", name, kind)
    out.mkdir(parents=True, exist_ok=True)
    return kind, out


def spread(values: Sequence[float], digits: int = 3) -> str:
    """The mean, with the standard deviation over seeds where there are several."""
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ±\u00a0{statistics.stdev(values):.{digits}f}"


def text_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for a terminal; the first column is left-aligned."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )
