"""Why blocks are large and freed memory is kept: what two settings of the backend are worth.

    python -m demos.block_sizes [--repeats 15]

1  milliseconds of RMSNorm's value and gradients, 2,048 rows of 256 numbers, by the bytes of a
   block, with one thread and with two: a thread that ends a NumPy call waits for the interpreter
   lock, and small blocks wait often;
2  a training step of the preset `small`, 16 × 128 tokens and two threads: seconds and page faults
   with memory given back to the system as the C library sees fit, and with memory kept
   (`backend.keep_memory`, what the command line does). Each in a process of its own, in turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

from demos.race import BLAS, Side, race

for _name in BLAS:
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402

from minideepseek import AdamW, DeepSeekV3, DeepSeekV3Config, clip_grad_norm  # noqa: E402
from minideepseek.autograd import blocks  # noqa: E402
from minideepseek.autograd.backend import keep_memory  # noqa: E402
from minideepseek.autograd.engine import PRIMITIVES  # noqa: E402

KIB = (64, 256, 1024, 2048, 4096)


def milliseconds(work: Callable[[], None], repeats: int) -> float:
    """Median of so many runs after one that warms up."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[1:])


def by_block(repeats: int) -> None:
    """The first table."""
    rng = np.random.default_rng(0)
    x, g = (rng.standard_normal((2048, 256), dtype=np.float32) for _ in range(2))
    weight, norm = np.ones(256, np.float32), PRIMITIVES["rms_norm"]
    print(f"{'KiB of a block':<16}" + "".join(f"{kib:>9,}" for kib in KIB))
    before = blocks.BLOCK_BYTES
    for threads in (1, 2):
        blocks.set_threads(threads)
        row = []
        for kib in KIB:
            blocks.BLOCK_BYTES = kib << 10
            row.append(milliseconds(lambda: norm(x, weight, eps=1e-6)[1](g), repeats))
        print(f"{threads} thread(s), ms  " + "".join(f"{ms:>9.2f}" for ms in row))
    blocks.BLOCK_BYTES = before
    blocks.set_threads(1)


class Step:
    """A training step, memory given back."""

    name = "given back"

    def __init__(self) -> None:
        blocks.set_threads(2)
        config = DeepSeekV3Config.preset("small", aux_loss_alpha=0.0)
        self.model = DeepSeekV3(config, np.random.default_rng(0))
        self.optimiser = AdamW(self.model.parameters(), lr=1e-4)
        self.ids = np.random.default_rng(1).integers(0, config.vocab_size, (16, 129))

    def run(self) -> None:
        self.optimiser.zero_grad()
        self.model.loss(self.ids).backward()
        clip_grad_norm(self.model.parameters(), 1.0)
        self.optimiser.step()

    def faults(self) -> int:
        """Page faults of one step."""
        import resource

        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        self.run()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


class Kept(Step):
    """The same, memory kept."""

    name = "kept"

    def __init__(self) -> None:
        keep_memory()
        super().__init__()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args(arguments)
    by_block(options.repeats)
    sides = [Side(kind, ()) for kind in (Step, Kept)]
    seconds = race([(side, "run") for side in sides], options.repeats)
    for side, each in zip(sides, seconds, strict=True):
        faults = side.call("faults")[1]
        print(f"memory {side.name:<11} {each:.3f} s a step, {faults:,} page faults")


if __name__ == "__main__":
    main()
