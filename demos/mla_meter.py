r"""What `mla_cost` measures with: decoders that differ in their attention alone, FLOPs and bytes
counted from what runs, seconds taken in turns, this machine's rates.

A token is timed as `generate` makes it for one sequence, without Tensors (model/decoding.py), with
another attention put in where a kind has one; FLOPs and bytes are counted in the same products as
the layers compute them through Tensors.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402

from minideepseek import DeepSeekV3, DeepSeekV3Config, ops  # noqa: E402
from minideepseek.autograd.engine import PRIMITIVES  # noqa: E402
from minideepseek.layers.attention import GroupedQueryAttention  # noqa: E402
from minideepseek.layers.cache import LatentCache  # noqa: E402
from minideepseek.model.decoding import Attention, Decoding, product, softmax_parts  # noqa: E402
from minideepseek.model.generate import next_logits  # noqa: E402

GROUPS = {"MHA": 8, "GQA-2": 2}
KINDS = (*GROUPS, "MLA re-expanded", "MLA absorbed")
FITTED = 1024  # the first context that the line is fitted to
RUNS = 4  # tokens timed of a kind at a context in a round; one more before them is not
PRODUCTS, PASSES = "its two products alone", "max, exp and sum over the scores"
WEIGHTS = "weights that the latents pushed out of the caches"
COPIED = 1 << 24  # float32 numbers


def model_of(kind: str) -> DeepSeekV3:
    """`small` with the attention that `kind` says; random weights."""
    config = DeepSeekV3Config.preset("small")
    config = replace(config, max_position_embeddings=config.max_position_embeddings + 1)
    rng = np.random.default_rng(0)
    model = DeepSeekV3(config, rng)
    for layer in model.model.layers:
        part: Any = layer
        if kind in GROUPS:
            part.self_attn = GroupedQueryAttention(
                hidden_size=config.hidden_size,
                num_attention_heads=config.num_attention_heads,
                num_key_value_heads=GROUPS[kind],
                head_dim=config.v_head_dim,
                max_position_embeddings=config.max_position_embeddings,
                rng=rng,
            )
        elif kind in ("MLA re-expanded", LEAN):
            part.self_attn.absorbed_is_cheaper = lambda tokens: False
    return model


class Grouped:
    """GroupedQueryAttention of one new token, without Tensors."""

    def __init__(self, layer: GroupedQueryAttention, cache: LatentCache) -> None:
        self.layer, self.cache = layer, cache
        self.q, self.k, self.v, self.o = map(
            product, (layer.q_proj, layer.k_proj, layer.v_proj, layer.o_proj)
        )

    def __call__(self, x: np.ndarray, turn: Callable) -> np.ndarray:
        heads, groups, width = self.layer.heads, self.layer.groups, self.layer.width
        turning = np.concatenate((self.q(x), self.k(x)), -1).reshape(1, heads + groups, width)
        turned = np.empty_like(turning)
        turn(turning, turned)
        kv = np.concatenate((turned[:, heads:], self.v(x).reshape(1, groups, width)), -1)
        seen = self.cache.append(kv.reshape(1, 1, -1)).reshape(-1, groups, 2 * width)
        q = turned[0, :heads].reshape(groups, -1, width) * self.layer.scale
        p = np.matmul(q, seen[..., :width].transpose(1, 2, 0))
        total = softmax_parts(p, 1)
        y = np.matmul(p, seen[..., width:].swapaxes(0, 1)) / total
        return self.o(y.reshape(1, -1))


class Reexpanded(Attention):
    """The naive form, by the primitive that the layer itself uses."""

    def expanded(self, stored: np.ndarray) -> np.ndarray:
        """Keys and values of all heads, (S, H, dn + dv)."""
        return (stored[:, : self.latent] @ self.w_kv.T).reshape(len(stored), self.heads, -1)

    def read(self, q: np.ndarray, stored: np.ndarray) -> np.ndarray:
        kv, shared = self.expanded(stored)[None], stored[None, :, None, self.latent :]
        k, _ = PRIMITIVES["append_shared"](kv[..., : self.nope], shared)
        v, before = kv[..., self.nope :], len(stored) - len(q)
        return PRIMITIVES["attention"](q[None], k, v, scale=self.scale, offsets=before)[0][0]


class Lean(Reexpanded):
    """The naive form of one token with as little as it can: k^R is not copied beside every k^C."""

    def read(self, q: np.ndarray, stored: np.ndarray) -> np.ndarray:
        q_c, q_r = q[:, :, : self.nope], q[:, :, self.nope :]
        kv = self.expanded(stored)
        p = np.matmul(q_c[0, :, None] * self.scale, kv[..., : self.nope].transpose(1, 2, 0))
        p += (q_r[0] * self.scale @ stored[:, self.latent :].T)[:, None]
        total = softmax_parts(p, 1)
        y = np.matmul(p, kv[..., self.nope :].swapaxes(0, 1)) / total
        return y.swapaxes(0, 1)


LEAN = "MLA re-expanded, no key copied"
ATTENTION = {"MHA": Grouped, "GQA-2": Grouped, "MLA re-expanded": Reexpanded, LEAN: Lean,
             "MLA absorbed": Attention}  # fmt: skip


class Decoder:
    """A model whose caches hold as many tokens as it is told; `token(context)` decodes one."""

    def __init__(self, kind: str, longest: int) -> None:
        self.model, rng = model_of(kind), np.random.default_rng(1)
        self.cache = self.model.new_cache(1, longest + 1)
        for layer in self.cache.layers:
            layer.append(rng.standard_normal((1, longest, layer.width), np.float32))
        self.width = self.cache.layers[0].width
        bare = type("Bare", (Decoding,), {"attention": ATTENTION[kind]})
        self.decoding = bare(self.model, self.cache)

    def holding(self, context: int) -> None:
        """The caches cut to so many tokens."""
        for layer in self.cache.layers:
            layer.lengths[:] = context

    def token(self, context: int) -> np.ndarray:
        """Logits (1, V) after one more token; the caches then hold context + 1."""
        self.holding(context)
        return self.decoding.logits(self.decoding(np.array([1])))

    def by_layers(self, context: int) -> np.ndarray:
        """The same through the layers' Tensors."""
        self.holding(context)
        return next_logits(self.model, np.array([[1]]), self.cache, np.array([1]))


# ---------------------------------------------------------------------------------------- counted


def _product(y: np.ndarray, x: np.ndarray, weight: np.ndarray, *bias: np.ndarray) -> int:
    return 2 * y.size * x.shape[-1]


def _attention(y: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> int:
    return 2 * q.size // q.shape[-1] * k.shape[1] * (q.shape[-1] + v.shape[-1])


def _experts(y: np.ndarray, x: np.ndarray, up: np.ndarray, down: np.ndarray, *rest: Any) -> int:
    return 2 * rest[1].size * (up[0].size + down[0].size)  # rest[1]: the chosen experts


FLOPS: dict[str, Callable[..., int]] = {
    "linear": _product,
    "head_linear": _product,
    "attention": _attention,
    "append_shared": lambda *arrays: 0,  # a copy: bytes only
    "expert_mlp": _experts,
}


@contextmanager
def counting() -> Iterator[dict[str, int]]:
    """Inside, FLOPs and bytes of the primitives above are added up in the yielded dictionary."""
    seen = {"flops": 0, "bytes": 0}

    def counted(name: str, run: Callable) -> Callable:
        def work(*args: Any, **options: Any) -> Any:
            y = run(*args, **options)
            arrays = [getattr(a, "data", a) for a in (y, *args)]
            arrays = [a if isinstance(a, np.ndarray) else np.asarray(a) for a in arrays]
            seen["flops"] += FLOPS[name](*arrays)
            seen["bytes"] += sum(a.nbytes for a in arrays) if name != "expert_mlp" else 0
            return y

        return work

    with ExitStack() as stack:
        for name in FLOPS:
            stack.enter_context(mock.patch.object(ops, name, counted(name, getattr(ops, name))))
        yield seen


def count(decoder: Decoder, contexts: tuple[int, ...]) -> dict[str, list[int]]:
    """FLOPs and bytes of a token at each context."""
    totals: dict[str, list[int]] = {"flops": [], "bytes": []}
    for context in contexts:
        with counting() as seen:
            decoder.by_layers(context)
        for name, values in totals.items():
            values.append(seen[name])
    return totals


# ------------------------------------------------------------------------------------------ timed


def seconds_of(
    work: Callable[[], Any], runs: int = RUNS, before: Callable[[], Any] | None = None
) -> list[float]:
    """Seconds that this thread works, of each of some runs, `before` each of which something else
    may be done; the first run only warms up."""
    times = []
    for _ in range(runs + 1):
        if before is not None:
            before()
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return times[1:]


def machine_rates(copied: int) -> tuple[float, float]:
    """FLOP/s of square products and bytes/s of copies, read and written: of one thread."""
    flops = []
    for n in (256, 512, 768):
        a, out = np.ones((n, n), np.float32), np.empty((n, n), np.float32)
        flops.append(2 * n**3 / min(seconds_of(partial(np.matmul, a, a, out))))
    source, target = np.ones(copied, np.float32), np.ones(copied, np.float32)
    seconds = min(seconds_of(partial(np.copyto, target, source)))
    return max(flops), 2 * source.nbytes / seconds


def absorbed_parts(decoder: Decoder, context: int) -> dict[str, Callable[[], list[float]]]:
    """Seconds of what absorbed decoding does with the cached tokens, in all layers, part by part:
    its arithmetic bare, and a token with no context before and after the latents were read."""
    attention: Any = decoder.model.model.layers[0].self_attn
    heads, latent = attention.heads, attention.latent
    stores = [layer.data[0, :context] for layer in decoder.cache.layers if layer.data is not None]
    q = np.full((heads, stores[0].shape[1]), 0.01, np.float32)
    scores = [np.full((heads, context), -1, np.float32) for _ in stores]

    def products() -> None:
        for stored, p in zip(stores, scores, strict=True):
            np.matmul(q, stored.T)
            np.matmul(p, stored[:, :latent])

    def passes() -> None:
        for p in scores:
            p -= p.max(-1, keepdims=True)
            np.exp(p, out=p)
            p.sum(-1)

    def read() -> None:
        for stored in stores:
            stored.sum()

    return {
        PRODUCTS: lambda: seconds_of(products),
        PASSES: lambda: seconds_of(passes),
        "warm": lambda: seconds_of(lambda: decoder.token(1)),
        "cold": lambda: seconds_of(lambda: decoder.token(1), before=read),
    }


def clock(
    decoders: dict[str, Decoder], contexts: tuple[int, ...], rounds: int, copied: int
) -> tuple[dict[str, list[float]], tuple[float, float], dict[str, float]]:
    """Fewest seconds of a token by kind and context, the rates, and seconds of absorbed's parts."""
    times: dict[tuple[str, int], list[float]] = {}
    parts = absorbed_parts(decoders["MLA absorbed"], contexts[-1])
    inside: dict[str, list[float]] = {name: [] for name in parts}
    rates = []
    for _ in range(rounds):
        rates.append(machine_rates(copied))
        for context in contexts:
            for kind, decoder in decoders.items():
                found = seconds_of(partial(decoder.token, context))
                times.setdefault((kind, context), []).extend(found)
        for name, part in parts.items():
            inside[name] += part()
    fewest = {kind: [min(times[kind, c]) for c in contexts] for kind in decoders}
    flops, copies = (max(values) for values in zip(*rates, strict=True))
    seconds = {name: min(values) for name, values in inside.items()}
    seconds[WEIGHTS] = seconds.pop("cold") - seconds.pop("warm")
    return fewest, (flops, copies), seconds


def fit(contexts: tuple[int, ...], seconds: list[float]) -> dict[str, float]:
    """a and b of a + b·T from FITTED tokens on, and how far a point lies off it at most."""
    x, y = np.array(contexts, float), np.array(seconds)
    x, y = x[x >= min(FITTED, x[-2])], y[x >= min(FITTED, x[-2])]
    b, a = np.polyfit(x, y, 1, w=1 / y)
    return {"a": float(a), "b": float(b), "off": float(np.abs((a + b * x) / y - 1).max())}


def slope(contexts: tuple[int, ...], values: list[int]) -> float:
    """What one more token of context adds; the counts are exact straight lines."""
    return (values[-1] - values[0]) / (contexts[-1] - contexts[0])


def measure(contexts: tuple[int, ...], rounds: int, copied: int) -> dict[str, Any]:
    """All numbers of the demo, as results.json has them; seconds, FLOPs and bytes."""
    decoders = {kind: Decoder(kind, contexts[-1]) for kind in (*KINDS, LEAN)}
    counts = {kind: count(decoders[kind], contexts) for kind in KINDS}
    seconds, (flops, copies), parts = clock(decoders, contexts, rounds, copied)
    kinds = {}
    for kind in KINDS:
        per_key = {name: slope(contexts, counts[kind][name]) for name in ("flops", "bytes")}
        kinds[kind] = {
            "cached": decoders[kind].width,
            "seconds": seconds[kind],
            **counts[kind],
            "flops_per_key": per_key["flops"],
            "bytes_per_key": per_key["bytes"],
            "b_by_flops": per_key["flops"] / flops,
            "b_by_bytes": per_key["bytes"] / copies,
            **fit(contexts, seconds[kind]),
        }
    return {
        "contexts": list(contexts),
        "kinds": kinds,
        "flops_per_second": flops,
        "bytes_per_second": copies,
        "lean": seconds[LEAN],
        "parts": {name: value / contexts[-1] for name, value in parts.items()},
    }
