"""What the comparing demos share: three sizes of a run, arms side by side, tables with a spread."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from minideepseek.autograd import cuda
from minideepseek.cli.machine import choose_device, complain
from minideepseek.errors import MiniDeepSeekError
from minideepseek.model.files import atomic_write

ON_A_CARD = "for a card there is `python -m demos.gpu_benchmark`"
_device = "cpu"  # of this process


def set_device(options: argparse.Namespace) -> str:
    """Choose --device for this process and for those of `side_by_side`; its name, see `here`."""
    use(options.device or os.environ.get("MINIDEEPSEEK_DEVICE") or "cpu")
    return choose_device(options.device)


def use(device: str) -> None:
    """Compute on this device from now on."""
    global _device
    _device = device


def here() -> str:
    """The device that was chosen: cpu, if none was."""
    return _device


def run(main: Callable[[], int | None]) -> None:
    """A demo as a command: what it cannot use and a full card are one sentence and exit code 2."""
    try:
        sys.exit(main())
    except MiniDeepSeekError as error:
        sys.exit(complain(str(error), 2))
    except MemoryError as error:
        sys.exit(complain(cuda.out_of_memory(error, "the sizes, as --quick does"), 2))


def cpu_alone(parser: argparse.ArgumentParser, why: str) -> None:
    """--device for a demo that has no use for a card: cpu, and else one sentence that says why."""

    def only(name: str) -> str:
        if name != "cpu":
            raise argparse.ArgumentTypeError(f"got {name}, expected cpu: {why}")
        return name

    parser.add_argument("--device", type=only, default="cpu", help=f"cpu alone: {why}")
    if (asked := os.environ.get("MINIDEEPSEEK_DEVICE", "cpu")) != "cpu":
        print(f"device: cpu, although MINIDEEPSEEK_DEVICE is {asked}: {why}", file=sys.stderr)


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
    place = kind if here() == "cpu" else f"{kind}-{here().replace(':', '-')}"
    out = options.out or Path("runs", name, place)
    out.mkdir(parents=True, exist_ok=True)
    return kind, out


def side_by_side(
    work: Callable[..., Any], jobs: Sequence[tuple], cores: int
) -> Iterator[Any]:
    """work(*job) of every job, in their order, in so many processes of one thread each.

    Models of these sizes gain little from a second thread, and all from a second process. work is
    a function of a module, job a tuple of what can be sent: numbers, names.
    """
    if cores == 1:
        yield from (work(*job) for job in jobs)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores, spawn, use, (here(),)) as pool:
        yield from pool.map(work, *zip(*jobs, strict=True))


def spread(values: Sequence[float], digits: int = 3) -> str:
    """The mean, with the standard deviation over seeds where there are several."""
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ±\u00a0{statistics.stdev(values):.{digits}f}"


def show(facts: str, tables: Mapping[str, tuple], said: Iterable[str]) -> None:
    """Facts, then tables by title, (heading, rows) each, then what they say."""
    print(facts)
    for title, (head, rows) in tables.items():
        print(f"\n{title}\n{text_table(head, rows)}")
    print("\n" + "\n".join(said))


def publish(out: Path, name: str, html: str, **numbers: Any) -> None:
    """out/results.json and the page out/`name`.html, either whole or not at all; says so."""
    with atomic_write(out / "results.json", "w") as file:
        json.dump(numbers, file, indent=1)
    with atomic_write(out / f"{name}.html", "w") as file:
        file.write(html)
    print(f"\n{out / name}.html and results.json")


def text_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for a terminal; the first column is left-aligned."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )
