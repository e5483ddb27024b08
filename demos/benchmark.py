r"""Speed beside transformers' DeepseekV3 in eager PyTorch: the same configuration and weights.

    python -m demos.benchmark [--preset small] [--repeats 7] [--decode 128] [--threads 2]

Prints, for a training step (16 × 128 tokens, no MTP, no balance loss, forward + backward + clip +
AdamW on both sides), a prefill (4 × 512) and greedy decoding (1 and 64 sequences), what each side
needs and the ratio. The two sides take turns in one process, so that a busy machine slows both; the
median of the repeats counts. Beside them: the machine's own sgemm rate (the median over square
products of 512 to 1024, all threads), and the share of it that our training step reaches.

PyTorch is measured only if torch and transformers are installed; the package never needs them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # our threads share the work; torch is told its own number below

import numpy as np  # noqa: E402

from minideepseek import AdamW, DeepSeekV3, DeepSeekV3Config, clip_grad_norm  # noqa: E402
from minideepseek.autograd.blocks import set_threads  # noqa: E402
from minideepseek.autograd.products import matmul_rows  # noqa: E402
from minideepseek.model.generate import next_logits, stream  # noqa: E402
from minideepseek.model.ledger import flops_per_token  # noqa: E402

BATCH, TOKENS = 16, 128
PREFILL = (4, 512)
PROMPT = 32


def sgemm_rate() -> float:
    """GFLOP/s of float32 products with all threads: the median over sizes 512, 768, 1024."""
    rates = []
    for n in (512, 768, 1024):
        a, out = np.ones((n, n), np.float32), np.empty((n, n), np.float32)
        times = []
        for _ in range(9):
            began = time.perf_counter()
            matmul_rows(a, a, out, rows=n // 4)
            times.append(time.perf_counter() - began)
        rates.append(2 * n**3 / min(times) / 1e9)
    return statistics.median(rates)


class Ours:
    """This project's side of each race."""

    name = "minideepseek"

    def __init__(self, model: DeepSeekV3) -> None:
        self.model = model
        self.optimiser = AdamW(model.parameters(), lr=1e-4)

    def train(self, ids: np.ndarray) -> float:
        self.optimiser.zero_grad()
        loss = self.model.loss(ids, mtp_weight=0.0)
        loss.backward()
        clip_grad_norm(self.model.parameters(), 1.0)
        self.optimiser.step()
        return loss.item()

    def prefill(self, ids: np.ndarray) -> np.ndarray:
        cache = self.model.new_cache(len(ids), ids.shape[1])
        return next_logits(self.model, ids, cache, np.full(len(ids), ids.shape[1]))

    def decode(self, ids: np.ndarray, new: int) -> list:
        return [tokens.tolist() for tokens in stream(self.model, ids, new)]


class Theirs:
    """transformers, eager, with its defaults."""

    name = "PyTorch"

    def __init__(self, model: DeepSeekV3, threads: int) -> None:
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        torch.set_num_threads(threads)
        self.torch = torch
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(Path(folder, "model"))
            self.model = transformers.AutoModelForCausalLM.from_pretrained(
                Path(folder, "model"), dtype=torch.float32
            )
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1
        )

    def train(self, ids: np.ndarray) -> float:
        torch = self.torch
        x = torch.from_numpy(ids)
        self.optimiser.zero_grad()
        logits = self.model(x[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        return loss.item()

    def prefill(self, ids: np.ndarray) -> np.ndarray:
        with self.torch.no_grad():
            out = self.model(self.torch.from_numpy(ids), logits_to_keep=1)
        return out.logits[:, 0].numpy()

    def decode(self, ids: np.ndarray, new: int) -> list:
        out = self.model.generate(
            self.torch.from_numpy(ids),
            max_new_tokens=new,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        return out[:, ids.shape[1] :].T.tolist()

    def bare_decode(self, ids: np.ndarray, new: int) -> list:
        """Its forward in a loop, without what `generate` does around it: a harder opponent."""
        with self.torch.no_grad():
            x, cache, made = self.torch.from_numpy(ids), None, []
            for _ in range(new):
                out = self.model(x, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache, x = out.past_key_values, out.logits[:, -1:].argmax(-1)
                made.append(x[:, 0].tolist())
        return made


def race(works: list[Callable[[], Any]], repeats: int) -> list[float]:
    """Median seconds of each; they take turns. The first round only warms up."""
    times: list[list[float]] = [[] for _ in works]
    for i in range(repeats + 1):
        for work, kept in zip(works, times, strict=True):
            began = time.perf_counter()
            work()
            if i:
                kept.append(time.perf_counter() - began)
    return [statistics.median(kept) for kept in times]


def report(label: str, seconds: list[float], tokens: int) -> None:
    """One line: tokens per second of each, and how many times faster ours is than the others."""
    rates = "".join(f"{tokens / s:11,.0f}" for s in seconds)
    ratios = "".join(f"{s / seconds[0]:8.2f}×" for s in seconds[1:])
    print(f"{label:26}{rates} tokens/s{ratios}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="small")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--decode", type=int, default=128, help="new tokens, 0 to skip decoding")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    set_threads(options.threads)
    config = DeepSeekV3Config.preset(
        options.preset, num_nextn_predict_layers=0, aux_loss_alpha=0.0
    )
    rng = np.random.default_rng(0)
    model = DeepSeekV3(config, rng)
    sides: list[Any] = [Ours(model)]
    try:
        sides.append(Theirs(model, options.threads))
    except ImportError:
        print("torch or transformers is not installed: our side alone", file=sys.stderr)
    print(f"{options.preset}, {options.threads} threads: " + ", ".join(s.name for s in sides))

    ids = rng.integers(0, config.vocab_size, (BATCH, TOKENS + 1))
    losses = [side.train(ids) for side in sides]
    print(f"first loss of each side: {', '.join(f'{x:.6f}' for x in losses)}")
    seconds = race([partial(side.train, ids) for side in sides], options.repeats)
    report(f"training step, {BATCH} × {TOKENS}", seconds, BATCH * TOKENS)
    rate = sgemm_rate()
    work = 3 * flops_per_token(config, (TOKENS + 1) / 2) * BATCH * TOKENS
    print(
        f"  {seconds[0]:.3f} s; sgemm {rate:.0f} GFLOP/s; {work / 1e9:.0f} GFLOP a step: "
        f"{100 * work / seconds[0] / rate / 1e9:.0f} % of the sgemm rate"
    )
    rows, length = PREFILL
    prompt = rng.integers(0, config.vocab_size, PREFILL)
    seconds = race([partial(side.prefill, prompt) for side in sides], options.repeats)
    report(f"prefill, {rows} × {length}", seconds, rows * length)
    for batch in (1, 64) if options.decode else ():
        prompt = rng.integers(0, config.vocab_size, (batch, PROMPT))
        works = [partial(side.decode, prompt, options.decode) for side in sides]
        works += [partial(side.bare_decode, prompt, options.decode) for side in sides[1:]]
        seconds = race(works, max(1, options.repeats // 2))
        report(f"greedy decoding, batch {batch}", seconds, batch * options.decode)
    if len(sides) > 1 and options.decode:
        print("  decoding beside transformers' generate(), then beside its bare forward in a loop")


if __name__ == "__main__":
    main()
