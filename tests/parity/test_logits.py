"""The same logits as transformers: every option of the architecture, alone and in drawn company.

Float32 within 1e-5 of the largest logit, as both are used; float64 within 1e-10, transformers' own
casts lifted. The routing is compared first: an expert chosen otherwise is another function.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.model.config import DeepSeekV3Config
from tests.parity import oracle
from tests.parity.oracle import transformers
from tests.parity.pairs import (
    Pair,
    assert_alike,
    draw_ids,
    make_pair,
    our_logits,
    our_model,
    relative,
    reopened,
    roomy_configs,
    same_routing,
)
from tests.strategies import YARN_VARIANTS, configs

pytestmark = pytest.mark.parity
SEEDS = st.integers(0, 2**32 - 1)

# Of odd sizes, so that no two dimensions can be taken for each other; every option at its default.
BASE = DeepSeekV3Config(
    vocab_size=37,
    hidden_size=22,
    num_hidden_layers=3,
    first_k_dense_replace=1,
    intermediate_size=19,
    num_nextn_predict_layers=0,
    max_position_embeddings=48,
    num_attention_heads=3,
    q_lora_rank=11,
    kv_lora_rank=9,
    qk_nope_head_dim=5,
    qk_rope_head_dim=6,
    v_head_dim=7,
    n_routed_experts=12,
    n_shared_experts=1,
    num_experts_per_tok=3,
    moe_intermediate_size=8,
    n_group=4,
    topk_group=2,
)
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 12}
YARNS = {
    "yarn " + (" ".join(f"{k}={v:g}" for k, v in variant.items()) or "bare"): {
        "rope_scaling": YARN | variant
    }
    for variant in YARN_VARIANTS
}
# Each changes the function and not the shapes: the same weights without it are another model.
OPTIONS: dict[str, dict[str, Any]] = {
    "all groups kept": {"topk_group": 4},
    "one group": {"n_group": 1, "topk_group": 1},
    "one group kept of six": {"n_group": 6, "topk_group": 1, "num_experts_per_tok": 2},
    "more experts per token": {"num_experts_per_tok": 6},
    "norm_topk_prob off": {"norm_topk_prob": False},
    "no scaling factor": {"routed_scaling_factor": 1.0},
    "large scaling factor": {"routed_scaling_factor": 16.0},
    "halves rotated": {"rope_interleave": False},
    "small rope_theta": {"rope_theta": 7.5},
    "large rms_norm_eps": {"rms_norm_eps": 1e-2},
    "huge rms_norm_eps": {"rms_norm_eps": 1.0},
    **YARNS,
}
# These have other tensors.
SHAPES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "q_lora_rank null": {"q_lora_rank": None},
    "no dense layer": {"first_k_dense_replace": 0},
    "all layers dense": {"first_k_dense_replace": 3},
    "attention_bias": {"attention_bias": True},
    "attention_bias, q_lora_rank null": {"attention_bias": True, "q_lora_rank": None},
    "tied": {"tie_word_embeddings": True},
    "two shared experts": {"n_shared_experts": 2},
    "one head": {"num_attention_heads": 1, "num_key_value_heads": 1},
    "latents of one number": {"q_lora_rank": 1, "kv_lora_rank": 1},
    "widths of one": {"qk_nope_head_dim": 1, "v_head_dim": 1, "moe_intermediate_size": 1},
    "two rotated channels": {"qk_rope_head_dim": 2},
    "an MTP module in the files": {"num_nextn_predict_layers": 1},
}
# What `configs()` must draw, or the tests below would not show what they claim.
DRAWN: dict[str, Callable[[DeepSeekV3Config], bool]] = {
    "q_lora_rank": lambda c: c.q_lora_rank is not None,
    "no q_lora_rank": lambda c: c.q_lora_rank is None,
    "groups dropped": lambda c: c.topk_group < c.n_group and c.num_moe_layers > 0,
    "all groups kept": lambda c: c.topk_group == c.n_group > 1,
    "one group": lambda c: c.n_group == 1,
    "norm_topk_prob": lambda c: c.norm_topk_prob and c.num_experts_per_tok > 1,
    "no norm_topk_prob": lambda c: not c.norm_topk_prob and c.num_moe_layers > 0,
    "a scaling factor": lambda c: c.routed_scaling_factor not in (0.0, 1.0),
    "no dense layer": lambda c: c.first_k_dense_replace == 0,
    "one dense layer of two": lambda c: c.first_k_dense_replace == 1 < c.num_hidden_layers,
    "all layers dense": lambda c: c.num_moe_layers == 0,
    "attention_bias": lambda c: c.attention_bias,
    "attention_bias, no q_lora_rank": lambda c: c.attention_bias and c.q_lora_rank is None,
    "halves rotated": lambda c: not c.rope_interleave,
    "no yarn": lambda c: c.rope_scaling is None,
    "tied": lambda c: c.tie_word_embeddings,
    "odd sizes": lambda c: c.hidden_size % 2 == c.kv_lora_rank % 2 == c.v_head_dim % 2 == 1,
    "large rms_norm_eps": lambda c: c.rms_norm_eps == 1e-2,
}
for _variant in YARN_VARIANTS:
    DRAWN[f"yarn {_variant}"] = lambda c, v=_variant: (
        _mscales(c) == {"beta_fast": 32.0, "beta_slow": 1.0} | v
    )


def _mscales(config: DeepSeekV3Config) -> dict[str, float]:
    given_always = ("type", "rope_type", "factor", "original_max_position_embeddings")
    return {k: v for k, v in (config.rope_scaling or {}).items() if k not in given_always}


def exact_logits(
    config: DeepSeekV3Config, seed: int, ids: np.ndarray, jitter: int
) -> dict[str, np.ndarray]:
    """Those of transformers in float64, for weights that float32 holds."""
    with oracle.lifted_casts():
        return {"logits": oracle.logits(make_pair(config, seed, "float64", jitter).theirs, ids)}


def assert_same(pair: Pair, ids: np.ndarray, tolerance: float, exact: Any = None) -> bool:
    """Fails unless the logits are the same; False if nearly tied experts forbid to compare them."""
    if not same_routing(pair, ids):
        return False
    found, expected = our_logits(pair.ours, ids), oracle.logits(pair.theirs, ids)
    assert found.dtype == expected.dtype == pair.ours.model.norm.weight.dtype
    assert_alike({"logits": found}, {"logits": expected}, tolerance, exact)
    return True


# --------------------------------------------------------------------------------- one at a time


@pytest.mark.parametrize("name", [*SHAPES, *OPTIONS])
def test_an_option(name: str) -> None:
    config = replace(BASE, **(SHAPES | OPTIONS)[name])
    ids = draw_ids(config, 5, (2, config.max_position_embeddings))
    assert assert_same(make_pair(config, 5), ids, 1e-5, partial(exact_logits, config, 5, ids))
    with oracle.lifted_casts():
        assert assert_same(make_pair(config, 5, "float64"), ids, 1e-10)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_left_out_is_seen(name: str) -> None:
    """With the same weights and without the option, our logits would be far off."""
    config = replace(BASE, **OPTIONS[name])
    assert config != BASE
    ids = draw_ids(config, 5, (2, config.max_position_embeddings))
    with oracle.lifted_casts():
        expected = oracle.logits(make_pair(config, 5, "float64").theirs, ids)
    assert relative(our_logits(our_model(BASE, 5, "float64"), ids), expected) > 1e-3


@pytest.mark.parametrize("shift", [-3.0, -0.5, 0.0, 0.5, 3.0])
def test_biases(shift: float) -> None:
    """All of one sign, or of both; below −1 every biased score is negative, and 0 would win."""
    with oracle.lifted_casts():
        ours = our_model(BASE, 6, "float64")
        for router in ours.routers:
            bias = router.e_score_correction_bias
            bias += shift
            assert shift or bias.min() < -0.1 < 0.1 < bias.max()
        ids = draw_ids(BASE, 6)
        pair = Pair(ours, reopened(ours))
        assert assert_same(pair, ids, 1e-10)
        for router in ours.routers:
            router.e_score_correction_bias[...] = 0
        assert relative(our_logits(ours, ids), oracle.logits(pair.theirs, ids)) > 1e-2


@pytest.mark.parametrize("name", ["defaults", "attention_bias", "yarn mscale=1 mscale_all_dim=1"])
def test_opened_as_users_do(name: str, tmp_path: Path) -> None:
    """By the Auto class, with transformers' default kernels for attention and experts.

    torch's product over experts wants widths of whole 16 bytes.
    """
    config = replace(BASE, hidden_size=24, **(SHAPES | OPTIONS)[name])
    ours, ids = our_model(config, 5), draw_ids(config, 5, (2, config.max_position_embeddings))
    ours.save_pretrained(tmp_path / "model")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert theirs.config._attn_implementation == "sdpa"
    pair = Pair(ours, oracle.Oracle(theirs, None))
    assert assert_same(pair, ids, 1e-5, partial(exact_logits, config, 5, ids))


# ------------------------------------------------------------------------------------- in company


@given(roomy_configs(), SEEDS)
def test_float32(config: DeepSeekV3Config, seed: int) -> None:
    ids = draw_ids(config, seed)
    assert_same(make_pair(config, seed), ids, 1e-5, partial(exact_logits, config, seed, ids))


@given(configs(), SEEDS)
def test_float64(config: DeepSeekV3Config, seed: int) -> None:
    with oracle.lifted_casts():
        assert_same(make_pair(config, seed, "float64"), draw_ids(config, seed), 1e-10)


@pytest.mark.parametrize("strategy", [configs(), roomy_configs()], ids=["configs", "roomy"])
def test_every_option_is_drawn(strategy: st.SearchStrategy[DeepSeekV3Config]) -> None:
    """The two tests above see all of it, given examples enough."""
    seen: Counter[str] = Counter()

    @settings(max_examples=500, database=None)
    @given(strategy)
    def draw(config: DeepSeekV3Config) -> None:
        seen.update(name for name, holds in DRAWN.items() if holds(config))

    draw()
    assert not set(DRAWN) - set(seen)
