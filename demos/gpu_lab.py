"""What demos/gpu_benchmark.py measures: models of growing width, their speed, launches and memory.

The models are `small`, all its widths times 1, 2 or 4, with 4 or 8 layers and 16 experts.
"""

from __future__ import annotations

import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from minideepseek.autograd import backend
from minideepseek.autograd.blocks import set_threads
from minideepseek.model.config import PRESETS, DeepSeekV3Config
from minideepseek.model.generate import next_logits
from minideepseek.model.ledger import activated_parameters, flops_per_token
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.training.optim import AdamW, clip_grad_norm

WIDTHS = (
    "hidden_size", "intermediate_size", "moe_intermediate_size", "q_lora_rank", "kv_lora_rank",
    "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
)  # fmt: skip
PROMPT = 32
Found = dict[str, float]


@dataclass(frozen=True)
class Size:
    """`small` times `times` with so many layers; a batch of sequences of `length` tokens."""

    times: int
    layers: int
    sequences: int
    length: int

    @property
    def name(self) -> str:
        return f"{self.config.hidden_size} × {self.layers}"

    @property
    def config(self) -> DeepSeekV3Config:
        wide = {name: PRESETS["small"][name] * self.times for name in WIDTHS}
        return DeepSeekV3Config.preset(
            "small",
            num_hidden_layers=self.layers,
            max_position_embeddings=max(2048, self.length),
            num_nextn_predict_layers=0,
            aux_loss_alpha=0.0,
            **wide,
        )

    @property
    def tokens(self) -> int:
        return self.sequences * self.length


GOAL = Size(4, 8, 8, 1024)  # 1,024 wide, 8 layers, 16 experts, 8,192 tokens
SIZES = (Size(1, 4, 4, 256), Size(1, 4, 32, 256), Size(2, 4, 32, 256), GOAL)
QUICK = (Size(1, 2, 2, 32),)


class Work:
    """A model on a device, with its optimiser and a batch."""

    def __init__(self, size: Size, device: str, sequences: int | None = None) -> None:
        self.size, rng = size, np.random.default_rng(0)
        self.model = DeepSeekV3(size.config, rng).to(device)
        self.optimiser = AdamW(self.model.parameters(), lr=1e-4)
        shape = (sequences or size.sequences, size.length + 1)
        self.ids = rng.integers(0, size.config.vocab_size, shape)
        self.tokens = self.ids.shape[0] * size.length
        self.anchor = self.model.model.norm.weight.data  # of the device to wait for

    def step(self) -> float:
        """A training step: forward, backward, clipping, AdamW, and the loss read."""
        self.optimiser.zero_grad()
        loss = self.model.loss(self.ids)
        loss.backward()
        clip_grad_norm(self.model.parameters(), 1.0)
        self.optimiser.step()
        return loss.item()

    def decode(self, rows: int, new: int) -> Found:
        """Seconds of a step of greedy decoding behind a prompt, of so many rows."""
        cache = self.model.new_cache(rows, PROMPT + new)
        prompt = np.resize(self.ids[0, :PROMPT], (rows, PROMPT))
        ones, times = np.ones(rows, np.int64), list[float]()
        logits = next_logits(self.model, prompt, cache, PROMPT * ones)
        for _ in range(new):
            began = time.perf_counter()  # the logits are read at every step: no other wait
            logits = next_logits(self.model, logits.argmax(-1)[:, None], cache, ones)
            times.append(time.perf_counter() - began)
        return {"seconds": statistics.median(times), "cached": PROMPT + new / 2}

    def seconds(self, work: Callable[[], Any], repeats: int) -> float:
        """The median of some runs behind one that warms up; nothing is queued before and after."""
        times = []
        for _ in range(repeats + 1):
            backend.synchronize(self.anchor)
            began = time.perf_counter()
            work()
            backend.synchronize(self.anchor)
            times.append(time.perf_counter() - began)
        return statistics.median(times[1:])


def speeds(size: Size, device: str, rows: tuple[int, ...], repeats: int, new: int) -> Found:
    """Tokens per second of training and of decoding; on the host with at most 1,024 tokens."""
    short = max(1, 1024 // size.length) if device == "cpu" else size.sequences
    work = Work(size, device, min(size.sequences, short))
    found = {"train": work.tokens / work.seconds(work.step, repeats)}
    for count in rows:
        found[f"decode {count}"] = count / work.decode(count, new)["seconds"]
    return found


def on_host(threads: int, *arguments: Any) -> Found:
    """`speeds` on the CPU, in a process of its own: one that uses a card has one thread."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, set_threads, (threads,)) as pool:
        return pool.submit(speeds, *arguments).result()


# ------------------------------------------------------------------------------- over the stand-in


def launches(size: Size, rows: tuple[int, ...]) -> Found:
    """Kernels and waits of a training step and of a step of decoding, counted by the stand-in.

    Widths and tokens are small here: neither is in the counts, while every expert has tokens and
    an array is one block. A lower bound, since CuPy needs more than one kernel for some functions.
    """
    from tests import standin

    standin.install()
    work = Work(Size(1, size.layers, 4, 128), "standin")
    work.step()  # tables of angles, scratch arrays

    def counted(action: Callable[[], Any]) -> tuple[int, int]:
        standin.counters.reset()
        action()
        return standin.counters.launches, standin.counters.syncs

    found: Found = {}
    found["train"], found["train waits"] = counted(work.step)
    for count in rows:
        one, two = (counted(lambda n=n, count=count: work.decode(count, n)) for n in (1, 2))
        found[f"decode {count}"], found[f"decode {count} waits"] = two[0] - one[0], two[1] - one[1]
    return found


# --------------------------------------------------------------------------------------- on a card


def peaks(xp: Any, n: int = 8192) -> Found:
    """What the card reaches: FLOP/s of a float32 product of (n, n), bytes/s of a copy of one."""
    a, b = xp.ones((n, n), "float32"), xp.ones((n, n), "float32")
    out, found = xp.empty((n, n), "float32"), {}
    for name, work, amount in (
        ("flops", lambda: xp.matmul(a, b, out=out), 2.0 * n**3),
        ("bytes", lambda: xp.copyto(out, a), 2.0 * a.nbytes),
    ):
        times = []
        for _ in range(8):
            backend.synchronize(a)
            began = time.perf_counter()
            for _ in range(4):
                work()
            backend.synchronize(a)
            times.append((time.perf_counter() - began) / 4)
        found[name] = amount / min(times)
    return found


def memory(size: Size, device: str) -> Found:
    """Bytes of a training step: its parts, and the most that were held at once (cupy's pool).

    saved: what the loss still holds of the forward pass. What cuBLAS and the CUDA context take is
    not in the pool; AdamW's work arrays and the tables of angles are no part, and in the peak.
    """
    xp = backend.get_device(device).xp
    pool, most = xp.get_default_memory_pool(), 0

    class Watch(xp.cuda.MemoryHook):  # type: ignore[misc]
        name = "peak"

        def malloc_postprocess(self, **_: Any) -> None:
            nonlocal most
            most = max(most, pool.used_bytes())

    gc.collect()
    before, work = pool.used_bytes(), Work(size, device)
    work.step()
    parameters = sum(array.nbytes for _, array in work.model.named_tensors())
    gradients = sum(p.grad.nbytes for p in work.model.parameters() if p.grad is not None)
    moments = sum(array.nbytes for array in (*work.optimiser.m, *work.optimiser.v))
    work.optimiser.zero_grad()
    gc.collect()
    without = pool.used_bytes()
    loss = work.model.loss(work.ids)
    saved = pool.used_bytes() - without
    del loss
    with Watch():
        work.step()
    parts = {"parameters": parameters, "gradients": gradients, "moments": moments, "saved": saved}
    return parts | {"peak": most - before, "parts": sum(parts.values())}


def work_of(size: Size) -> Found:
    """FLOPs of a training step; FLOPs and bytes of weights of a decoded token."""
    config = size.config
    each = flops_per_token(config, (size.length + 1) / 2)
    read = 4.0 * activated_parameters(config)
    return {"train": 3 * each * size.tokens, "read": read}
