r"""How the cost of training grows: with tokens, and with the length of a text.

    python -m demos.growth [--threads 2] [--repeats 5] [--quick]

Two tables for the preset `small` (no MTP, no balance loss). Times are medians.

1  a training step against its number of sequences: time per token should not change;
2  a training step of 8,192 tokens against the length of its sequences: only attention's own term,
   which is quadratic in the length, should grow; its FLOPs are printed beside.

With the number of experts: `python -m demos.moe_benchmark`. A decoded token with the context held
in the cache: `python -m demos.mla_cost`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402

from demos.common import ON_A_CARD, cpu_alone, run  # noqa: E402
from minideepseek import DeepSeekV3, DeepSeekV3Config  # noqa: E402
from minideepseek.autograd.backend import keep_memory  # noqa: E402
from minideepseek.autograd.blocks import set_threads  # noqa: E402
from minideepseek.model.ledger import flops_per_key, flops_per_token  # noqa: E402


def median_time(work: Callable[[], Any], repeats: int) -> float:
    """Median seconds of `repeats` runs after one that warms up."""
    times = []
    for i in range(repeats + 1):
        began = time.perf_counter()
        work()
        if i:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def model_of() -> DeepSeekV3:
    config = DeepSeekV3Config.preset("small", num_nextn_predict_layers=0, aux_loss_alpha=0.0)
    return DeepSeekV3(config, np.random.default_rng(0))


def forward_backward(model: DeepSeekV3, batch: int, tokens: int) -> Callable[[], None]:
    ids = np.random.default_rng(1).integers(0, model.config.vocab_size, (batch, tokens + 1))

    def work() -> None:
        for parameter in model.parameters():
            parameter.grad = None
        model.loss(ids).backward()

    return work


def with_tokens(batches: list[int], repeats: int) -> None:
    print("\n1  tokens in a step      seconds   µs per token")
    model = model_of()
    for batch in batches:
        seconds = median_time(forward_backward(model, batch, 128), repeats)
        each = seconds / batch / 128e-6
        print(f"   {batch:4} × 128 = {batch * 128:6,}   {seconds:7.3f}   {each:8.1f}")


def with_length(lengths: list[int], tokens: int, repeats: int) -> None:
    print("\n2  sequences             seconds   GFLOP   of these attention's own   GFLOP/s")
    model = model_of()
    for length in lengths:
        seconds = median_time(forward_backward(model, tokens // length, length), repeats)
        keys = (length + 1) / 2
        total = 3 * tokens * flops_per_token(model.config, keys) / 1e9
        own = 3 * tokens * flops_per_key(model.config)["naive"] * keys / 1e9
        print(
            f"   {tokens // length:4} × {length:<6,}        {seconds:7.3f}   {total:5.0f}   "
            f"{own:14.1f}   {total / seconds:18.0f}"
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat")
    cpu_alone(parser, f"it times the CPU; {ON_A_CARD}")
    options = parser.parse_args(arguments)
    keep_memory()
    set_threads(options.threads)
    repeats = 1 if options.quick else options.repeats
    with_tokens([4, 8] if options.quick else [4, 8, 16, 32, 64], repeats)
    if options.quick:
        with_length([64, 256], 512, repeats)
    else:
        with_length([64, 128, 256, 512, 1024, 2048], 8192, repeats)


if __name__ == "__main__":
    run(main)
