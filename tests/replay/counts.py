"""Counts that docstrings state and nothing else prints: `python -m tests.replay.counts`."""

from __future__ import annotations

import numpy as np

from demos import fp8_lab, moe_lab
from minideepseek import DeepSeekV3, DeepSeekV3Config, no_grad
from minideepseek.autograd.engine import watch
from minideepseek.model.generate import next_logits
from minideepseek.model.layout import tensor_shapes


def primitives_of_a_token() -> int:
    """Of `small`, decoding one token through Tensors."""
    model = DeepSeekV3(DeepSeekV3Config.preset("small"), np.random.default_rng(0))
    cache, names = model.new_cache(1, 8), list[str]()
    with no_grad():
        next_logits(model, np.array([[1, 2, 3]]), cache, np.array([3]))
        with watch(lambda name, _: names.append(name)):
            next_logits(model, np.array([[4]]), cache, np.array([1]))
    return len(names)


def parameters(config: DeepSeekV3Config) -> int:
    return sum(p.data.size for p in DeepSeekV3(config, np.random.default_rng(0)).parameters())


def main() -> None:
    names = [name for name, _ in tensor_shapes(DeepSeekV3Config.preset("v3"))]
    print(f"a token of `small` through Tensors: {primitives_of_a_token()} primitives")
    print(f"moe_lab: {parameters(moe_lab.small_config()):,} parameters")
    print(f"fp8_lab: {parameters(fp8_lab.Scale().config):,} parameters")
    print(f"names of V3's tensors, without scales: {len(names):,}")


if __name__ == "__main__":
    main()
