r"""Rotary positions and their extension, YaRN.

Pair j of a vector's d = qk_rope_head_dim rotated channels is turned by an angle that grows with the
token's position p:

    φⱼ(p) = p · ωⱼ ,    ωⱼ = θ^(−2j/d) ,   j = 0 … d/2 − 1,   θ = rope_theta     (Su et al. 2021)

Turning q at position t and k at position s leaves (R(t) q)·(R(s) k) = q·R(s − t) k: the score knows
their distance only. Which channels make a pair is a convention. DeepSeek's weights pair neighbours,
(0,1), (2,3), … (`rope_interleave`); many others pair (0, d/2), (1, d/2 + 1), …. One is the other
after a fixed permutation of channels in both q and k, so scores agree if, and only if, the weights
are permuted too. Hugging Face reads neighbours and writes halves: same scores, another cached key.

YaRN (Peng et al. 2023; V3 §4.3)
--------------------------------
A model trained on L₀ = original_max_position_embeddings positions is to serve s · L₀ (s = factor).
A pair that turns often within L₀ tells near tokens apart and is left alone; one that never
completes a turn would meet angles it has never seen, and is slowed by s; between the two, a ramp.
The pair that makes n turns in L₀ positions is at

    c(n) = d ln(L₀ / 2πn) / (2 ln θ),    low = ⌊c(β_fast)⌋,    high = ⌈c(β_slow)⌉,
    rampⱼ = clip((j − low) / (high − low), 0, 1),   ωⱼ ← ωⱼ rampⱼ / s + ωⱼ (1 − rampⱼ).

With V3's numbers low = 10 and high = 23: pairs 0–10 are untouched, from 23 on divided by 40.

Longer contexts also flatten the softmax; YaRN sharpens it by m(c) = 0.1 c ln s + 1. There are two
places for it, and configurations name them confusingly:

    cos and sin times  m(mscale) / m(mscale_all_dim)     touches the rotated part of a score only
    softmax scale times  m(mscale_all_dim)²              touches the whole score

V3 sets both to 1: the first is 1 and everything is in the second, 192^−½ · 1.369² = 0.1352. A file
with neither, or with `mscale` alone, means m(1) on cos and sin.

All of it needs no training; a short one at the new length recovers what the change of angles costs
(V3: two phases of 1,000 steps, to 32K and to 128K). What it is worth, position by position, for a
model that has read 128 tokens at a time: `python -m demos.long_context`.

>>> from minideepseek.model.config import DeepSeekV3Config
>>> config = DeepSeekV3Config.preset("v3")
>>> slowed = [f / g for f, g in zip(_plain(64, 10000), inverse_frequencies(config))]
>>> [f"{slowed[j]:.3g}" for j in (10, 11, 22, 23)]               # the ramp's two ends
['1', '1.08', '10', '40']
>>> f"{softmax_scale(config):.5f}", attention_factor(config)
('0.13523', 1.0)
"""

from __future__ import annotations

import math
from typing import Any

from minideepseek.autograd.backend import Array, device_of, like, xp_of
from minideepseek.errors import InputError


def _plain(width: int, theta: float) -> list[float]:
    return [theta ** (-2 * j / width) for j in range(width // 2)]


def _yarn(config: Any) -> dict | None:
    """config.rope_scaling if it asks for YaRN, else None."""
    scaling = config.rope_scaling or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    return scaling if kind == "yarn" else None


def inverse_frequencies(config: Any) -> list[float]:
    """ωⱼ, radians per position, for j = 0 … d/2 − 1; with YaRN's ramp if the config has it."""
    width, theta = config.qk_rope_head_dim, config.rope_theta
    plain, yarn = _plain(width, theta), _yarn(config)
    if yarn is None:
        return plain

    def turns(n: float) -> float:  # c(n): the pair that turns n times in L₀ positions
        length = yarn["original_max_position_embeddings"]
        return width * math.log(length / (2 * math.pi * n)) / (2 * math.log(theta))

    low = max(math.floor(turns(yarn.get("beta_fast") or 32)), 0)
    high = min(math.ceil(turns(yarn.get("beta_slow") or 1)), width - 1)
    span = (high - low) or 0.001
    ramp = [min(max((j - low) / span, 0.0), 1.0) for j in range(width // 2)]
    return [f * g / yarn["factor"] + f * (1 - g) for f, g in zip(plain, ramp, strict=True)]


def _sharpening(factor: float, c: float) -> float:
    """m(c) = 0.1 c ln s + 1, or 1 for s ≤ 1."""
    return 0.1 * c * math.log(factor) + 1 if factor > 1 else 1.0


def attention_factor(config: Any) -> float:
    """What multiplies cos and sin: YaRN's m(mscale) / m(mscale_all_dim), see the top."""
    yarn = _yarn(config)
    if yarn is None:
        return 1.0
    if yarn.get("attention_factor") is not None:
        return yarn["attention_factor"]
    one, other = yarn.get("mscale"), yarn.get("mscale_all_dim")
    if one and other:
        return _sharpening(yarn["factor"], one) / _sharpening(yarn["factor"], other)
    return _sharpening(yarn["factor"], 1.0)


def softmax_scale(config: Any) -> float:
    """(d_h + d_h^R)^−½, times m(mscale_all_dim)² under YaRN."""
    scale, yarn = (config.qk_nope_head_dim + config.qk_rope_head_dim) ** -0.5, _yarn(config)
    if yarn is not None and yarn.get("mscale_all_dim"):
        scale *= _sharpening(yarn["factor"], yarn["mscale_all_dim"]) ** 2
    return scale


class RotaryEmbedding:
    """cos φ and sin φ for every position, made where and when they are first needed.

    Angles are products in the model's dtype, as Hugging Face makes them: in float32 they are exact
    to 0.008 rad at position 100,000.
    """

    def __init__(self, config: Any) -> None:
        if config.qk_rope_head_dim % 2 or config.qk_rope_head_dim < 2:
            raise InputError(
                f"rotated channels of a head: got {config.qk_rope_head_dim}, expected an even "
                "number, for they turn in pairs"
            )
        self.frequencies = inverse_frequencies(config)
        self.factor, self.interleaved = attention_factor(config), config.rope_interleave
        self.limit = config.max_position_embeddings
        self._tables: dict[tuple, tuple[Array, Array]] = {}

    def tables(self, offsets: int | Array, tokens: int, x: Array) -> tuple[Array, Array]:
        """cos and sin, (tokens, d/2) each, for positions offsets, offsets + 1, …, like x.

        offsets: a number, or a host array (B,) for rows at different positions: then (B, tokens,
        d/2). InputError for a position that max_position_embeddings does not cover.
        """
        last = tokens + int(offsets if isinstance(offsets, int) else offsets.max(initial=0))
        if last > self.limit:
            raise InputError(
                f"position {last - 1} is beyond max_position_embeddings {self.limit}; shorten the "
                "text, or extend the model with rope_scaling (YaRN)"
            )
        cos, sin = self._covering(last, x)
        if isinstance(offsets, int):
            return cos[offsets:last], sin[offsets:last]
        xp = xp_of(x)
        positions = like(offsets, x)[:, None] + xp.arange(tokens)
        return cos[positions], sin[positions]

    def _covering(self, last: int, x: Array) -> tuple[Array, Array]:
        key, xp = (device_of(x).name, x.dtype), xp_of(x)
        if key not in self._tables or len(self._tables[key][0]) < last:
            size = min(self.limit, max(last, 2 * len(self._tables.get(key, [[]])[0]), 64))
            frequencies = xp.asarray(self.frequencies, dtype=x.dtype)
            angles = xp.arange(size, dtype=x.dtype)[:, None] * frequencies
            self._tables[key] = xp.cos(angles) * self.factor, xp.sin(angles) * self.factor
        return self._tables[key]
