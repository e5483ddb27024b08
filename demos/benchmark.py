r"""Speed and memory beside transformers' DeepseekV3 in PyTorch: the same configuration and weights.

    python -m demos.benchmark [--preset small] [--repeats 7] [--decode 128] [--compile]

Prints, for a training step (16 × 128 tokens, no MTP, no balance loss, forward + backward + clip +
AdamW on both sides), a prefill (4 × 512) and greedy decoding (1 and 64 sequences), what each side
needs and the ratio. Each side is a process of its own, with its own threads and its own allocator;
they take turns, so that a busy machine slows both, and the median of the repeats counts. Beside
them: the machine's own sgemm rate (the median over square products of 512 to 1024, all threads),
the share of it that our training step reaches, and the memory that a training step takes at its
peak, the model and its optimiser included and the libraries not.

--compile: torch.compile's model too, for the training step (it compiles for a minute or two).
PyTorch is measured only if torch and transformers are installed; the package never needs them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from demos.race import BLAS, Side, held_bytes, peak_bytes, race

for _name in BLAS:
    os.environ.setdefault(_name, "1")  # our threads share the work; torch is told its own number

import numpy as np  # noqa: E402

from demos.common import ON_A_CARD, cpu_alone, run  # noqa: E402
from minideepseek import AdamW, DeepSeekV3, DeepSeekV3Config, clip_grad_norm  # noqa: E402
from minideepseek.autograd.backend import keep_memory  # noqa: E402
from minideepseek.autograd.blocks import set_threads  # noqa: E402
from minideepseek.autograd.products import matmul_rows  # noqa: E402
from minideepseek.model.generate import next_logits, stream  # noqa: E402
from minideepseek.model.ledger import flops_per_token  # noqa: E402

BATCH, TOKENS = 16, 128
PREFILL = (4, 512)
PROMPT = 32


class Ours:
    """This project's side of each race."""

    name = "minideepseek"

    def __init__(self, folder: Path, threads: int) -> None:
        keep_memory()
        set_threads(threads)
        self.before = held_bytes()
        self.model = DeepSeekV3.from_pretrained(folder)
        self.optimiser = AdamW(self.model.parameters(), lr=1e-4)

    def sgemm(self) -> float:
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

    def train(self, ids: np.ndarray) -> float:
        self.optimiser.zero_grad()
        loss = self.model.loss(ids, mtp_weight=0.0)
        loss.backward()
        clip_grad_norm(self.model.parameters(), 1.0)
        self.optimiser.step()
        return loss.item()

    def memory(self, ids: np.ndarray) -> int:
        """Bytes at the peak of two training steps, beyond what was held before the model was."""
        return peak_bytes(lambda: [self.train(ids) for _ in range(2)]) - self.before

    def prefill(self, ids: np.ndarray) -> None:
        cache = self.model.new_cache(len(ids), ids.shape[1])
        next_logits(self.model, ids, cache, np.full(len(ids), ids.shape[1]))

    def decode(self, ids: np.ndarray, new: int) -> None:
        for _ in stream(self.model, ids, new):
            pass


class Theirs(Ours):
    """transformers, with its defaults."""

    name = "PyTorch"

    def __init__(self, folder: Path, threads: int) -> None:
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        torch.set_num_threads(threads)
        self.torch, self.before = torch, held_bytes()
        self.module = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.run = self.compiled() if self.name == "compiled" else self.module
        self.adam = torch.optim.AdamW(
            self.module.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1
        )

    def compiled(self) -> Any:
        return self.torch.compile(self.module)

    def train(self, ids: np.ndarray) -> float:
        torch = self.torch
        x = torch.from_numpy(ids)
        self.adam.zero_grad()
        logits = self.run(x[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.adam.step()
        return loss.item()

    def prefill(self, ids: np.ndarray) -> None:
        with self.torch.no_grad():
            self.module(self.torch.from_numpy(ids), logits_to_keep=1)

    def decode(self, ids: np.ndarray, new: int) -> None:
        self.module.generate(
            self.torch.from_numpy(ids),
            max_new_tokens=new,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )

    def bare_decode(self, ids: np.ndarray, new: int) -> None:
        """Its forward in a loop, without what `generate` does around it: a harder opponent."""
        with self.torch.no_grad():
            x, cache = self.torch.from_numpy(ids), None
            for _ in range(new):
                out = self.module(x, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache, x = out.past_key_values, out.logits[:, -1:].argmax(-1)


class Compiled(Theirs):
    """The same after torch.compile."""

    name = "compiled"


def report(label: str, seconds: list[float], tokens: int) -> None:
    """One line: tokens per second of each, and how many times faster ours is than the others."""
    rates = "".join(f"{tokens / s:11,.0f}" for s in seconds)
    ratios = "".join(f"{s / seconds[0]:8.2f}×" for s in seconds[1:])
    print(f"{label:26}{rates} tokens/s{ratios}", flush=True)


def training(sides: list[Side], config: DeepSeekV3Config, rng: Any, repeats: int) -> None:
    """The step's lines: losses, speed, share of the sgemm rate, memory."""
    ids = rng.integers(0, config.vocab_size, (BATCH, TOKENS + 1))
    losses = [side.call("train", ids)[1] for side in sides]
    print(f"first loss of each side: {', '.join(f'{x:.6f}' for x in losses)}", flush=True)
    seconds = race([(side, "train", ids) for side in sides], repeats)
    report(f"training step, {BATCH} × {TOKENS}", seconds, BATCH * TOKENS)
    rate = sides[0].call("sgemm")[1]
    work = 3 * flops_per_token(config, (TOKENS + 1) / 2) * BATCH * TOKENS
    print(
        f"  {seconds[0]:.3f} s; sgemm {rate:.0f} GFLOP/s; {work / 1e9:.0f} GFLOP a step: "
        f"{100 * work / seconds[0] / rate / 1e9:.0f} % of the sgemm rate"
    )
    held = [side.call("memory", ids)[1] / 1e6 for side in sides]
    ratios = "".join(f"{h / held[0]:8.2f}×" for h in held[1:])
    print(f"{'  memory at its peak':26}{''.join(f'{h:11,.0f}' for h in held)} MB      {ratios}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="small")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--decode", type=int, default=128, help="new tokens, 0 to skip decoding")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="torch.compile's training step too")
    cpu_alone(parser, f"it stands beside PyTorch on the CPU; {ON_A_CARD}")
    options = parser.parse_args(arguments)
    config = DeepSeekV3Config.preset(
        options.preset, num_nextn_predict_layers=0, aux_loss_alpha=0.0
    )
    rng, kinds = np.random.default_rng(0), [Ours]
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        kinds += [Theirs, Compiled] if options.compile else [Theirs]
    else:
        print("torch or transformers is not installed: our side alone", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "model")
        DeepSeekV3(config, rng).save_pretrained(folder)
        sides = [Side(kind, (folder, options.threads)) for kind in kinds]
    print(f"{options.preset}, {options.threads} threads: " + ", ".join(s.name for s in sides))
    training(sides, config, rng, options.repeats)
    sides = sides[:2]
    rows, length = PREFILL
    prompt = rng.integers(0, config.vocab_size, PREFILL)
    seconds = race([(side, "prefill", prompt) for side in sides], options.repeats)
    report(f"prefill, {rows} × {length}", seconds, rows * length)
    for batch in (1, 64) if options.decode else ():
        prompt = rng.integers(0, config.vocab_size, (batch, PROMPT))
        calls = [(side, how, prompt, options.decode) for how in ("decode", "bare_decode")
                 for side in sides if how == "decode" or side is not sides[0]]  # fmt: skip
        seconds = race(calls, max(1, options.repeats // 2))
        report(f"greedy decoding, batch {batch}", seconds, batch * options.decode)
    if len(sides) > 1 and options.decode:
        print("  decoding beside transformers' generate(), then beside its bare forward in a loop")


if __name__ == "__main__":
    run(main)
