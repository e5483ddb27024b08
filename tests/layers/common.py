"""What the tests of layers and models share: weights that hide nothing, and two comparisons.

A fresh model hides mistakes: its norms multiply by 1, its biases add 0, the router's are 0, and
its weights are so small that attention is nearly uniform. `scramble` gives every tensor numbers
under which each of them matters.
"""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from minideepseek.layers.module import Init, Module
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.transformer import DeepSeekV3

seeds = st.integers(0, 2**32 - 1)


def scramble(module: Any, seed: int) -> Any:
    """`module` with every tensor redrawn; returns it."""
    rng = np.random.default_rng(seed)
    for name, array in module.named_tensors():
        x = rng.standard_normal(array.shape)
        if array.ndim > 1 and not name.endswith(("embed_tokens.weight", "gate.weight")):
            x *= 1.2 / np.sqrt(array.shape[-1])
        if array.ndim == 1:
            x = 0.3 * x + ("norm" in name)
        array[...] = x
    return module


def build(config: DeepSeekV3Config, seed: int = 0) -> DeepSeekV3:
    """A scrambled model in float64."""
    return scramble(DeepSeekV3.empty(config, np.float64), seed)


def layer(kind: type[Module], config: Any, *args: Any, seed: int = 0, **options: Any) -> Any:
    """A scrambled module of this class in float64: kind(config, *args, Init, **options)."""
    return scramble(kind(config, *args, Init(None, 0.0, np.float64), **options), seed)  # type: ignore[call-arg]


def normal(seed: int, *shape: int) -> np.ndarray:
    """N(0, 1) numbers."""
    return np.random.default_rng(seed).standard_normal(shape)


def draw_ids(config: DeepSeekV3Config, seed: int, *shape: int) -> np.ndarray:
    """Token ids of the vocabulary."""
    return np.random.default_rng(seed).integers(0, config.vocab_size, shape)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest |expected|."""
    if not expected.size:
        return 0.0
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-300))


def gradients(module: Module) -> dict[str, np.ndarray]:
    """A copy of every parameter's gradient, zeros where none arrived, by name."""
    return {
        name: np.zeros(p.shape) if p.grad is None else p.grad.copy()
        for name, p in module.named_parameters()
    }


def forget(module: Module) -> None:
    """Drop all gradients."""
    for parameter in module.parameters():
        parameter.grad = None
