r"""The same model composed of small operations in HIPS autograd: what fusing and freeing are worth.

    pip install autograd && python -m demos.against_autograd [--threads 2]

HIPS autograd differentiates plain NumPy. Below is DeepSeek-V3's forward pass written in it the
straightforward way, with our weights and the same routing (tokens gathered by expert, nothing
dense); its loss and gradients are compared with ours first. Then both compute loss and gradients of
16 × 128 tokens, in turns, each in a process of its own: ours with two threads, theirs with two of
BLAS (--threads 1: one each). Peak memory comes from tracemalloc, which sees every NumPy array.
"""

from __future__ import annotations

import argparse
import os
import tracemalloc
from typing import Any

from demos.race import BLAS, Side, race

for _name in BLAS:
    os.environ.setdefault(_name, "1")

import autograd.numpy as anp  # noqa: E402
import numpy as np  # noqa: E402
from autograd import value_and_grad  # noqa: E402

from demos.common import cpu_alone, run  # noqa: E402
from minideepseek import DeepSeekV3, DeepSeekV3Config  # noqa: E402
from minideepseek.autograd.backend import keep_memory  # noqa: E402
from minideepseek.autograd.blocks import set_threads  # noqa: E402
from minideepseek.layers.moe import route  # noqa: E402
from minideepseek.layers.rope import inverse_frequencies, softmax_scale  # noqa: E402

BATCH, TOKENS = 16, 128


def norm(x: Any, weight: Any, eps: float) -> Any:
    return x / anp.sqrt(anp.mean(x * x, -1, keepdims=True) + np.float32(eps)) * weight


def silu(x: Any) -> Any:
    return x / (1 + anp.exp(-x))


def rotate(x: Any, cos: Any, sin: Any) -> Any:
    """Neighbouring channels of x (B, T, H, r) turned; cos, sin (T, 1, r/2)."""
    a, b = x[..., 0::2], x[..., 1::2]
    pairs = anp.concatenate([(a * cos - b * sin)[..., None], (b * cos + a * sin)[..., None]], -1)
    return anp.reshape(pairs, x.shape)


class Composed:
    """loss(parameters, ids) in autograd.numpy; parameters are ours by name."""

    def __init__(self, config: DeepSeekV3Config, biases: dict[str, np.ndarray]) -> None:
        self.config, self.biases = config, biases

    def loss(self, p: dict[str, Any], ids: np.ndarray) -> Any:
        c, x = self.config, ids[:, :-1]
        h = p["model.embed_tokens.weight"][x]
        for i in range(c.num_hidden_layers):
            name = f"model.layers.{i}."
            h = h + self.attention(
                p, name + "self_attn.", norm(h, p[name + "input_layernorm.weight"], c.rms_norm_eps)
            )
            z = norm(h, p[name + "post_attention_layernorm.weight"], c.rms_norm_eps)
            if c.is_moe_layer(i):
                h = h + self.experts(p, name + "mlp.", z)
            else:
                h = h + self.mlp(p, name + "mlp.", z)
        h = norm(h, p["model.norm.weight"], c.rms_norm_eps)
        logits = h @ p["lm_head.weight"].T
        logits = logits - anp.max(logits, -1, keepdims=True)
        log_p = logits - anp.log(anp.sum(anp.exp(logits), -1, keepdims=True))
        b, t = np.indices(x.shape)
        return -anp.mean(log_p[b, t, ids[:, 1:]])

    def attention(self, p: dict[str, Any], name: str, x: Any) -> Any:
        c, (b, t, _) = self.config, x.shape
        heads, nope, dr, dv = (
            c.num_attention_heads, c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim,
        )  # fmt: skip
        angles = np.arange(t, dtype="f4")[:, None] * np.array(inverse_frequencies(c), "f4")
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        q = norm(x @ p[name + "q_a_proj.weight"].T, p[name + "q_a_layernorm.weight"], 1e-6)
        q = anp.reshape(q @ p[name + "q_b_proj.weight"].T, (b, t, heads, nope + dr))
        kv = x @ p[name + "kv_a_proj_with_mqa.weight"].T
        k_pe = rotate(kv[..., None, c.kv_lora_rank :], cos, sin)
        kv = norm(kv[..., : c.kv_lora_rank], p[name + "kv_a_layernorm.weight"], 1e-6)
        kv = anp.reshape(kv @ p[name + "kv_b_proj.weight"].T, (b, t, heads, nope + dv))
        q = anp.concatenate([q[..., :nope], rotate(q[..., nope:], cos, sin)], -1)
        shared = k_pe * np.ones((1, 1, heads, 1), "f4")
        k = anp.concatenate([kv[..., :nope], shared], -1)
        q, k, v = (anp.transpose(a, (0, 2, 1, 3)) for a in (q, k, kv[..., nope:]))
        scores = q @ anp.swapaxes(k, -1, -2) * np.float32(softmax_scale(c))
        scores = scores + np.triu(np.full((t, t), -1e30, "f4"), 1)
        weights = anp.exp(scores - anp.max(scores, -1, keepdims=True))
        weights = weights / anp.sum(weights, -1, keepdims=True)
        y = anp.reshape(anp.transpose(weights @ v, (0, 2, 1, 3)), (b, t, heads * dv))
        return y @ p[name + "o_proj.weight"].T

    def mlp(self, p: dict[str, Any], name: str, x: Any) -> Any:
        gate, up = (x @ p[f"{name}{kind}_proj.weight"].T for kind in ("gate", "up"))
        return (silu(gate) * up) @ p[name + "down_proj.weight"].T

    def experts(self, p: dict[str, Any], name: str, x: Any) -> Any:
        c, flat = self.config, anp.reshape(x, (-1, x.shape[-1]))
        scores = 1 / (1 + anp.exp(-(flat @ p[name + "gate.weight"].T)))
        plain = getattr(scores, "_value", scores)  # the numbers inside autograd's box
        while hasattr(plain, "_value"):
            plain = plain._value
        k, m = c.num_experts_per_tok, c.moe_intermediate_size
        chosen = route(plain, self.biases[name], k=k, n_group=c.n_group, topk_group=c.topk_group)
        gates = scores[np.arange(len(chosen))[:, None], chosen]
        gates = gates / (anp.sum(gates, -1, keepdims=True) + 1e-20)
        gates = anp.reshape(gates * np.float32(c.routed_scaling_factor), (-1, 1))
        order = np.argsort(chosen.ravel(), kind="stable")
        edges = np.searchsorted(chosen.ravel()[order], np.arange(c.n_routed_experts + 1))
        rows = []
        for e in range(c.n_routed_experts):
            mine = order[edges[e] : edges[e + 1]]
            h = flat[mine // k] @ p[name + "experts.gate_up_proj"][e].T
            y = (silu(h[:, :m]) * h[:, m:]) @ p[name + "experts.down_proj"][e].T
            rows.append(y * gates[mine])
        back = np.argsort(order)
        y = anp.sum(anp.reshape(anp.concatenate(rows)[back], (len(chosen), k, -1)), 1)
        return anp.reshape(y, x.shape) + self.mlp(p, name + "shared_experts.", x)


class Theirs:
    """The composed model under HIPS autograd, with the weights that ours has."""

    name = "autograd"

    def __init__(self, preset: str) -> None:
        self.model, self.config = model_of(preset)
        self.weights = {name: p.data for name, p in self.model.named_parameters()}
        self.step = value_and_grad(Composed(self.config, biases(self.model)).loss)

    def train(self, ids: np.ndarray) -> None:
        self.value, self.grads = self.step(self.weights, ids)

    def loss(self) -> float:
        return float(self.value)

    def gradients(self) -> dict[str, np.ndarray]:
        return self.grads

    def peak(self, ids: np.ndarray) -> int:
        """Most bytes of arrays alive at once in a step, beyond those before."""
        tracemalloc.start()
        self.train(ids)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most


class Ours(Theirs):
    """minideepseek's model."""

    name = "minideepseek"

    def __init__(self, preset: str, threads: int) -> None:
        keep_memory()
        set_threads(threads)
        self.model, _ = model_of(preset)

    def train(self, ids: np.ndarray) -> None:
        for parameter in self.model.parameters():
            parameter.grad = None
        loss = self.model.loss(ids)
        loss.backward()
        self.value = loss.item()

    def gradients(self) -> dict[str, np.ndarray]:
        return {name: p.grad for name, p in self.model.named_parameters()}


def model_of(preset: str) -> tuple[DeepSeekV3, DeepSeekV3Config]:
    """The model of a preset, without MTP and balance loss, from seed 0."""
    config = DeepSeekV3Config.preset(preset, num_nextn_predict_layers=0, aux_loss_alpha=0.0)
    return DeepSeekV3(config, np.random.default_rng(0)), config


def biases(model: DeepSeekV3) -> dict[str, np.ndarray]:
    """The router biases of its mixtures, by the layer's name."""
    return {
        f"model.layers.{i}.mlp.": layer.mlp.gate.e_score_correction_bias
        for i, layer in enumerate(model.model.layers)
        if model.config.is_moe_layer(i)
    }


def compare(sides: list[Side], ids: np.ndarray) -> None:
    """The first step's losses, and how far gradients are apart."""
    for side in sides:
        side.call("train", ids)
    mine, other = (side.call("gradients")[1] for side in sides)
    losses = ", ".join(f"{side.name} {side.call('loss')[1]:.6f}" for side in sides)
    worst = max(np.abs(g - other[name]).max() / np.abs(g).max() for name, g in mine.items())
    print(f"loss: {losses}")
    print(f"largest difference of a gradient, relative to its parameter's largest: {worst:.1e}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="small")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="ours, and those of their BLAS (2)")
    cpu_alone(parser, "HIPS autograd computes on the CPU")
    options = parser.parse_args(arguments)
    sides = [
        Side(Ours, (options.preset, options.threads)),
        Side(Theirs, (options.preset,), blas=options.threads),
    ]
    vocabulary = DeepSeekV3Config.preset(options.preset).vocab_size
    ids = np.random.default_rng(1).integers(0, vocabulary, (BATCH, TOKENS + 1))
    compare(sides, ids)
    mine, other = race([(side, "train", ids) for side in sides], options.repeats)
    print(f"forward and backward: {mine:.3f} s and {other:.3f} s, {other / mine:.1f} times faster")
    memory = [side.call("peak", ids)[1] / 2**20 for side in sides]
    print(
        f"peak of arrays: {memory[0]:.0f} MiB and {memory[1]:.0f} MiB, "
        f"{memory[0] / memory[1]:.2f} of it"
    )


if __name__ == "__main__":
    run(main)
