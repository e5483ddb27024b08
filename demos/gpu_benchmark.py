r"""A card beside the CPU: training and decoding against size, launches, peaks reached, memory.

    python -m demos.gpu_benchmark [--device cuda] [--quick] [--repeats 5] [--threads 2] [--out DIR]

For models of growing width (gpu_lab.py: `small`, times 1, 2 and 4; the last has 1,024 channels,
8 layers, 16 experts and a batch of 8,192 tokens), without MTP and balance loss, in float32:

    tokens/s     of a training step (forward, backward, clipping, AdamW, the loss read), and of
                 greedy decoding with 1 and 64 rows behind a prompt of 32; medians
    CPU          the same with --threads, at most 1,024 tokens a step, in a process of its own
    launches     kernels of a step and waits for the card, counted by the tests' stand-in for CuPy:
                 a lower bound, the same with a card and without
    µs           a launch, on average: where it is the card's price of a launch, work is too small
    of peak      training: FLOPs of its products (three times the forward pass) over what a float32
                 product of 8,192² reaches on this card; decoding one row: the bytes of the weights
                 that a token activates over the rate of a copy
    memory       the most that a training step holds (cupy's pool), over parameters, gradients,
                 moments and what is saved for backward, added up

Then the size from which on the card is faster than the CPU. What no card has measured says so, and
nothing else: without one (or with --device standin) launches and waits are all there is. With one a
dated table with the card's name and versions goes to DIR (runs/gpu_benchmark), and results.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import date
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402

from demos.common import run, text_table  # noqa: E402
from demos.gpu_lab import (  # noqa: E402
    QUICK,
    SIZES,
    Size,
    launches,
    memory,
    on_host,
    peaks,
    speeds,
    work_of,
)
from minideepseek import __version__  # noqa: E402
from minideepseek.autograd import backend, cuda  # noqa: E402
from minideepseek.cli.machine import choose_device, device_option  # noqa: E402
from minideepseek.errors import InputError  # noqa: E402
from minideepseek.model.files import atomic_write  # noqa: E402

ROWS = (1, 64)
NONE = "not measured: no card"
GOALS = (  # what is asked for at the last size
    ("training, times the CPU", "faster", 100.0, "at least"),
    ("µs a launch in decoding one row", "µs", 15.0, "at most"),
    ("memory over its parts", "memory", 1.2, "at most"),
)


def device_of(options: argparse.Namespace) -> str | None:
    """The card's device, or None where there is none, or the stand-in was asked for."""
    asked = options.device or os.environ.get("MINIDEEPSEEK_DEVICE") or "cuda"
    if asked == "cpu":
        raise InputError("--device: got cpu, which stands beside the card anyway; expected cuda")
    if asked == "standin":
        print("device: standin (--device): launches alone are counted", file=sys.stderr)
        return None
    try:
        return choose_device(asked)
    except InputError as error:
        if options.device:  # asked for by name
            raise
        print(f"{error}: launches alone are counted", file=sys.stderr)
        return None


def facts(device: str) -> dict[str, str]:
    """Which card, which versions, which day."""
    xp = backend.get_device(device).xp
    runtime = xp.cuda.runtime
    return {
        "card": cuda.describe(xp).partition(", ")[2],
        "date": date.today().isoformat(),
        "cupy": xp.__version__,
        "CUDA": ".".join(map(str, divmod(runtime.runtimeGetVersion() // 10, 100))),
        "driver": ".".join(map(str, divmod(runtime.driverGetVersion() // 10, 100))),
        "numpy": np.__version__,
        "minideepseek": __version__,
    }


def measured(size: Size, device: str | None, options: argparse.Namespace) -> dict[str, Any]:
    """Everything of one size; without a card launches alone."""
    found: dict[str, Any] = {"size": size.name, "tokens": size.tokens}
    found["launches"] = launches(size, ROWS)
    if device is not None:
        new = 4 if options.quick else 64
        found["memory"] = memory(size, device)  # first: nothing else is in the pool yet
        found["card"] = speeds(size, device, ROWS, options.repeats, new)
        found["cpu"] = on_host(options.threads, size, "cpu", ROWS, min(3, options.repeats), new)
        found["work"] = work_of(size)
    return found


def derived(one: dict[str, Any], peak: dict[str, float] | None) -> dict[str, float] | None:
    """Ratios of a size's numbers, or None where no card has measured them."""
    if peak is None:
        return None
    card, cpu, work, counts = (one[k] for k in ("card", "cpu", "work", "launches"))
    step = one["tokens"] / card["train"]
    return {
        "faster": card["train"] / cpu["train"],
        "faster 1": card["decode 1"] / cpu["decode 1"],
        "faster 64": card["decode 64"] / cpu["decode 64"],
        "µs of training": 1e6 * step / counts["train"],
        "µs": 1e6 / card["decode 1"] / counts["decode 1"],
        "of peak": work["train"] / step / peak["flops"],
        "of copy": work["read"] * card["decode 1"] / peak["bytes"],
        "memory": one["memory"]["peak"] / one["memory"]["parts"],
    }


def tables(results: list[dict[str, Any]], ratios: list[dict[str, float] | None]) -> dict:
    """Title → (heading, rows)."""
    training, decoding, counted = [], [], []
    for one, ratio in zip(results, ratios, strict=True):
        name, n = f"{one['size']}, {one['tokens']:,} tokens", one["launches"]
        keys = ["train", "train waits"]
        keys += [f"decode {rows}{what}" for rows in ROWS for what in ("", " waits")]
        counted.append([name, *(f"{n[key]:,}" for key in keys)])
        if ratio is None:
            continue
        card, cpu, mb = one["card"], one["cpu"], one["memory"]
        training.append([
            name, f"{cpu['train']:,.0f}", f"{card['train']:,.0f}", f"{ratio['faster']:.1f}",
            f"{ratio['µs of training']:.1f}", f"{ratio['of peak']:.1%}",
            f"{mb['peak'] / 1e6:,.0f}", f"{mb['parts'] / 1e6:,.0f}", f"{ratio['memory']:.2f}",
        ])  # fmt: skip
        for rows in ROWS:
            speed = card[f"decode {rows}"]
            of_copy = f"{ratio['of copy']:.1%}" if rows == 1 else ""
            decoding.append([
                f"{one['size']}, rows: {rows}", f"{cpu[f'decode {rows}']:,.0f}", f"{speed:,.0f}",
                f"{ratio[f'faster {rows}']:.2f}",
                f"{1e6 * rows / speed / n[f'decode {rows}']:.1f}", of_copy,
            ])  # fmt: skip
    head = ["", "a step", "waits", *(f"{w}, rows: {r}" for r in ROWS for w in ("a token", "waits"))]
    shown = {"Launches, counted by the stand-in": (head, counted)}
    if training:
        head = "|CPU tokens/s|card|times|µs a launch|of peak|MB at most|MB of parts|over".split("|")
        shown["Training"] = (head, training)
        head = ["", "CPU tokens/s", "card", "times", "µs a launch", "of copy"]
        shown["Decoding"] = (head, decoding)
    return shown


def said(results: list[dict[str, Any]], ratios: list[dict[str, float] | None]) -> list[str]:
    """Sentences: where the card overtakes the CPU, and what is asked for at the last size."""
    lines = []
    for what, key in (("training", "faster"), ("decoding one row", "faster 1")):
        text = f": {NONE}"
        if ratios[0] is not None:
            ahead = [
                f"{one['size']} with {one['tokens']:,} tokens"
                for one, ratio in zip(results, ratios, strict=True) if ratio and ratio[key] > 1
            ]  # fmt: skip
            text = f" from {ahead[0]} on" if ahead else " at no size measured here"
        lines.append(f"{what}: the card is faster than the CPU{text}")
    for what, key, bound, how in GOALS:
        last = ratios[-1]
        value = NONE if last is None else f"{last[key]:.2f}"
        lines.append(f"at {results[-1]['size']}: {what}: {value} (asked for: {how} {bound:g})")
    return lines


def report(known: dict[str, str], shown: dict, lines: list[str], peak: dict | None) -> str:
    """The text that is printed and kept."""
    parts = [", ".join(f"{k}: {v}" for k, v in known.items()) or f"speeds and memory: {NONE}"]
    if peak is not None:
        parts.append(f"the card's float32 product: {peak['flops'] / 1e12:.1f} TFLOP/s; "
                     f"its copy: {peak['bytes'] / 1e9:,.0f} GB/s")  # fmt: skip
    parts += [f"{title}\n{text_table(*table)}" for title, table in shown.items()]
    return "\n\n".join([*parts, "\n".join(lines)])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    device_option(parser, default="cuda")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU beside it (2)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one tiny size: does it run?")
    parser.add_argument("--out", type=Path, default=Path("runs", "gpu_benchmark"))
    options = parser.parse_args(arguments)
    device, sizes = device_of(options), QUICK if options.quick else SIZES
    known = facts(device) if device else {}
    peak = peaks(backend.get_device(device).xp, 256 if options.quick else 8192) if device else None
    results = [measured(size, device, options) for size in sizes]
    ratios = [derived(one, peak) for one in results]
    lines = said(results, ratios)
    text = report(known, tables(results, ratios), lines, peak)
    print(text)
    if device:
        options.out.mkdir(parents=True, exist_ok=True)
        name = f"{known['date']} {known['card']}"
        numbers = json.dumps({"facts": known, "peak": peak, "sizes": results}, indent=1)
        for file, content in ((f"{name}.txt", text), ("results.json", numbers)):
            with atomic_write(options.out / file, "w") as out:
                out.write(content + "\n")
        print(f"\n{options.out / name}.txt and results.json")


if __name__ == "__main__":
    run(main)
