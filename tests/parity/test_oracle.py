"""The oracle itself: it reads our directories, and lifting its casts changes nothing else.

`plain_logits` is a third opinion, DeepSeek-V3's forward pass in a page of NumPy without any of this
package's layers; it keeps transformers, us and the page honest in pairs.
"""

import math
import tempfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.layout import tensor_shapes
from tests.parity import oracle
from tests.parity.oracle import torch, transformers
from tests.parity.pairs import draw_ids, relative
from tests.strategies import configs

pytestmark = pytest.mark.parity
State = dict[str, np.ndarray]


# ------------------------------------------------------------------------------- a page of NumPy


def plain_logits(c: DeepSeekV3Config, state: State, ids: np.ndarray) -> np.ndarray:
    """(T, V) logits of one sequence, token by token and expert by expert, in float64."""
    w = {name: array.astype(np.float64) for name, array in state.items()}
    x = w["model.embed_tokens.weight"][ids]
    for layer in range(c.num_hidden_layers):
        p = {n.split(".", 3)[3]: a for n, a in w.items() if n.startswith(f"model.layers.{layer}.")}
        x = x + plain_attention(c, p, norm(x, p["input_layernorm.weight"], c.rms_norm_eps))
        h = norm(x, p["post_attention_layernorm.weight"], c.rms_norm_eps)
        moe = layer >= c.first_k_dense_replace
        x = x + (plain_moe(c, p, h) if moe else swiglu(p, "mlp.", h))
    x = norm(x, w["model.norm.weight"], c.rms_norm_eps)
    return x @ w["model.embed_tokens.weight" if c.tie_word_embeddings else "lm_head.weight"].T


def norm(x: np.ndarray, weight: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def swiglu(p: State, prefix: str, x: np.ndarray) -> np.ndarray:
    gate, up, down = (p[f"{prefix}{name}_proj.weight"] for name in ("gate", "up", "down"))
    g = x @ gate.T
    return (g / (1 + np.exp(-g)) * (x @ up.T)) @ down.T


def linear(p: State, name: str, x: np.ndarray) -> np.ndarray:
    return x @ p[f"self_attn.{name}.weight"].T + p.get(f"self_attn.{name}.bias", 0.0)


def plain_attention(c: DeepSeekV3Config, p: State, x: np.ndarray) -> np.ndarray:
    tokens, heads, nope = len(x), c.num_attention_heads, c.qk_nope_head_dim
    if c.q_lora_rank is None:
        q = linear(p, "q_proj", x)
    else:
        q = norm(linear(p, "q_a_proj", x), p["self_attn.q_a_layernorm.weight"])
        q = linear(p, "q_b_proj", q)
    q = q.reshape(tokens, heads, -1)
    latent, k_rope = np.split(linear(p, "kv_a_proj_with_mqa", x), [c.kv_lora_rank], axis=-1)
    kv = linear(p, "kv_b_proj", norm(latent, p["self_attn.kv_a_layernorm.weight"]))
    kv = kv.reshape(tokens, heads, -1)
    rates, gain, softmax_gain = plain_yarn(c)
    scale = softmax_gain / math.sqrt(c.qk_head_dim)
    out = np.zeros((tokens, heads, c.v_head_dim))
    for h in range(heads):
        for t in range(tokens):
            q_t = turn(c, q[t, h, nope:], t, rates, gain)
            keys = [turn(c, k_rope[s], s, rates, gain) for s in range(t + 1)]
            score = kv[: t + 1, h, :nope] @ q[t, h, :nope] + np.stack(keys) @ q_t
            weight = np.exp(scale * (score - score.max()))
            out[t, h] = weight / weight.sum() @ kv[: t + 1, h, nope:]
    return linear(p, "o_proj", out.reshape(tokens, -1))


def turn(c: DeepSeekV3Config, v: np.ndarray, t: int, rates: np.ndarray, gain: float) -> np.ndarray:
    """Rotate each pair of channels by t · rate: pairs as complex numbers."""
    half = len(v) // 2
    z = v[0::2] + 1j * v[1::2] if c.rope_interleave else v[:half] + 1j * v[half:]
    z = z * np.exp(1j * t * rates) * gain
    return np.concatenate([z.real, z.imag])


def plain_yarn(c: DeepSeekV3Config) -> tuple[np.ndarray, float, float]:
    """(rates, factor on cos and sin, factor on the softmax's scale)."""
    dim, j = c.qk_rope_head_dim, np.arange(c.qk_rope_head_dim // 2)
    rates, yarn = c.rope_theta ** (-2.0 * j / dim), c.rope_scaling
    if yarn is None:
        return rates, 1.0, 1.0

    def bound(turns: float) -> float:
        length = yarn["original_max_position_embeddings"]
        return dim * math.log(length / (2 * math.pi * turns)) / (2 * math.log(c.rope_theta))

    def mscale(m: float) -> float:
        return 0.1 * m * math.log(yarn["factor"]) + 1 if yarn["factor"] > 1 else 1.0

    low = max(math.floor(bound(yarn["beta_fast"])), 0)
    high = min(math.ceil(bound(yarn["beta_slow"])), dim - 1)
    ramp = np.clip((j - low) / (high - low if high != low else 0.001), 0, 1)
    rates = rates / yarn["factor"] * ramp + rates * (1 - ramp)
    one, every = yarn.get("mscale"), yarn.get("mscale_all_dim")
    gain = mscale(one) / mscale(every) if one and every else mscale(1.0)
    return rates, yarn.get("attention_factor", gain), mscale(every) ** 2 if every else 1.0


def plain_moe(c: DeepSeekV3Config, p: State, x: np.ndarray) -> np.ndarray:
    out = swiglu(p, "mlp.shared_experts.", x)
    for t, x_t in enumerate(x):
        s = 1 / (1 + np.exp(-(p["mlp.gate.weight"] @ x_t)))
        biased = (s + p["mlp.gate.e_score_correction_bias"]).reshape(c.n_group, -1)
        best_two = np.sort(biased, axis=1)[:, -2:].sum(1)
        dropped = np.argsort(-best_two)[c.topk_group :]
        biased[dropped] = -np.inf
        chosen = np.argsort(-biased.ravel())[: c.num_experts_per_tok]
        gates = s[chosen] / (s[chosen].sum() + 1e-20 if c.norm_topk_prob else 1.0)
        for e, gate in zip(chosen, gates * c.routed_scaling_factor, strict=True):
            out[t] += gate * swiglu(p, f"mlp.experts.{e}.", x_t)
    return out


# ------------------------------------------------------------------------------------- the tests


@given(configs(), st.integers(0, 2**32 - 1))
def test_lifted_transformers_is_exact(config: DeepSeekV3Config, seed: int) -> None:
    state, ids = oracle.random_state(config, seed, np.float64), draw_ids(config, seed)
    with oracle.lifted_casts():
        found = oracle.logits(oracle.load(config, state, torch.float64), ids)
    for row, expected in zip(found, ids, strict=True):
        assert relative(row, plain_logits(config, state, expected)) < 1e-12


@given(configs(), st.integers(0, 2**32 - 1))
def test_transformers_as_it_is(config: DeepSeekV3Config, seed: int) -> None:
    """Float32 casts, or float32 throughout: 1e-5, if the routing is the same."""
    state, ids = oracle.random_state(config, seed, np.float64), draw_ids(config, seed)
    with oracle.lifted_casts():
        exact = oracle.load(config, state, torch.float64)
        chosen, expected = oracle.routing(exact, ids), oracle.logits(exact, ids)
    for dtype in (torch.float64, torch.float32):
        rounded = oracle.load(config, state, dtype)
        pairs = zip(oracle.routing(rounded, ids), chosen, strict=True)
        if all((a[0] == b[0]).all() for a, b in pairs):
            assert relative(oracle.logits(rounded, ids), expected) < 1e-5


def test_the_casts_are_there_to_be_lifted(float64_throughout: None) -> None:
    """Without the fixture a float64 model is wrong in the eighth digit."""
    config = DeepSeekV3Config.preset("nano")
    state, ids = oracle.random_state(config, 0, np.float64), draw_ids(config, 0)
    lifted = oracle.load(config, state, torch.float64)
    assert lifted.model.model.rotary_emb.inv_freq.dtype == torch.float64
    expected = oracle.logits(lifted, ids)
    with pytest.MonkeyPatch.context() as patch:
        for module in (oracle.modeling_deepseek_v3, oracle.modeling_rope_utils):
            patch.setattr(module, "torch", torch)
        found = oracle.logits(oracle.load(config, state, torch.float64), ids)
    assert 1e-9 < relative(found, expected) < 1e-5


@given(configs(), st.integers(0, 2**32 - 1))
def test_names_shapes_and_bits_come_back(config: DeepSeekV3Config, seed: int) -> None:
    """layout.py's names are the ones transformers writes, and config.json survives the trip."""
    state = oracle.random_state(config, seed)
    loaded = oracle.load(config, state)
    with tempfile.TemporaryDirectory() as folder:
        loaded.model.save_pretrained(folder)
        back = DeepSeekV3Config.from_json(f"{folder}/config.json")
        written = oracle.safetensors_numpy.load_file(f"{folder}/model.safetensors")
    assert back == config
    main = DeepSeekV3Config.from_dict(config.to_dict() | {"num_nextn_predict_layers": 0})
    assert {name: array.shape for name, array in written.items()} == dict(tensor_shapes(main))
    assert all((array == state[name]).all() for name, array in written.items())


def test_defaults_are_those_of_transformers() -> None:
    """An absent key of config.json means the same to both."""
    theirs, compared = transformers.DeepseekV3Config(), 0
    for name, value in vars(DeepSeekV3Config()).items():
        if name not in ("torch_dtype", "rope_scaling") and hasattr(theirs, name):
            assert getattr(theirs, name) == value, name
            compared += 1
    assert compared >= 30
    assert theirs.rope_parameters == {"rope_theta": 10000.0, "rope_type": "default"}


@given(configs(num_nextn_predict_layers=2, num_hidden_layers=1), st.integers(0, 2**32 - 1))
def test_mtp_layers_load(config: DeepSeekV3Config, seed: int) -> None:
    """Slot i of module k sees the tokens up to i + k and no more."""
    state, ids = oracle.random_state(config, seed, np.float64), draw_ids(config, seed, (1, 8))
    with oracle.lifted_casts():
        loaded = oracle.load(config, state, torch.float64)
        before = oracle.mtp_logits(loaded, ids)
        changed = ids.copy()
        changed[0, 5] = (ids[0, 5] + 1) % config.vocab_size
        after = oracle.mtp_logits(loaded, changed)
    for k, (one, two) in enumerate(zip(before, after, strict=True), start=1):
        assert one.shape == (1, 8 - k, config.vocab_size)
        moved = np.abs(one - two).max(-1)[0] > 1e-9
        assert not moved[: 5 - k].any()
        assert moved[5 - k]


def test_gradients_have_checkpoint_names(float64_throughout: None) -> None:
    """All of them together predict how a loss moves along a random direction of the weights."""
    config = DeepSeekV3Config.preset("nano", num_nextn_predict_layers=0)
    state, ids = oracle.random_state(config, 0, np.float64), draw_ids(config, 0)
    learned = {n: s for n, s in tensor_shapes(config) if not n.endswith("correction_bias")}
    rng = np.random.default_rng(1)
    direction = {name: rng.standard_normal(shape) for name, shape in learned.items()}

    def loss(step: float) -> Any:
        moved = {name: array + step * direction.get(name, 0.0) for name, array in state.items()}
        loaded = oracle.load(config, moved, torch.float64)
        return loaded, loaded.model(torch.from_numpy(ids)).logits.square().mean()

    loaded, value = loss(0.0)
    value.backward()
    found = oracle.gradients(loaded)
    assert {name: array.shape for name, array in found.items()} == learned
    slope = sum(float((found[name] * direction[name]).sum()) for name in learned)
    differences = (loss(1e-6)[1].item() - loss(-1e-6)[1].item()) / 2e-6
    assert slope == pytest.approx(differences, rel=1e-6)
