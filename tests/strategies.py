"""Hypothesis strategies that several tests share: shapes and options are drawn, values never.

`configs()` draws tiny valid configurations that together reach every option of the architecture.
"""

from typing import Any

from hypothesis import strategies as st

from minideepseek.model.config import DeepSeekV3Config

# Every way in which YaRN's parameters may be given: see the semantics of mscale in layers/rope.py.
YARN_VARIANTS: tuple[dict[str, float], ...] = (
    {"mscale": 1.0, "mscale_all_dim": 1.0},  # V3's own: cos and sin unscaled, softmax scaled
    {"mscale": 0.707, "mscale_all_dim": 1.0},
    {"mscale": 0.5},  # alone it is ignored: cos and sin get the default factor, that of 1
    {"mscale_all_dim": 0.707},
    {"mscale": 0.0, "mscale_all_dim": 0.0},  # zero counts as absent
    {},
    {"attention_factor": 1.25},
    {"attention_factor": 0.75, "mscale": 1.0, "mscale_all_dim": 0.5},
    {"beta_fast": 4.0, "beta_slow": 0.5, "mscale": 1.0, "mscale_all_dim": 1.0},
    {"beta_fast": 1.0, "beta_slow": 1.0},  # the ramp's bounds coincide
)


@st.composite
def configs(draw: st.DrawFn, **fixed: Any) -> DeepSeekV3Config:
    """A valid configuration: hidden ≤ 24, layers ≤ 2, experts ≤ 8; `fixed` fields are as given.

    Fix rope_scaling together with max_position_embeddings, and the four sizes of routing together.
    The padding id stays null: transformers' embedding gives that row no gradient, ours does.
    """
    size = st.integers
    layers = fixed.get("num_hidden_layers") or draw(size(1, 2))
    shapes = [(1, 2), (1, 5), (1, 8), (2, 2), (2, 4), (3, 2), (4, 2)]
    groups, per_group = draw(st.sampled_from(shapes))
    kept = draw(size(1, groups))
    scaling, positions = draw(rope_scalings())
    fields: dict[str, Any] = {
        "vocab_size": draw(size(8, 40)),
        "hidden_size": draw(size(4, 24)),
        "num_hidden_layers": layers,
        "first_k_dense_replace": draw(size(0, layers)),
        "intermediate_size": draw(size(1, 24)),
        "num_nextn_predict_layers": draw(size(0, 2)),
        "max_position_embeddings": positions,
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-5, 1e-2])),
        "tie_word_embeddings": draw(st.booleans()),
        "num_attention_heads": draw(size(1, 3)),
        "q_lora_rank": draw(st.none() | size(1, 12)),
        "kv_lora_rank": draw(size(1, 12)),
        "qk_nope_head_dim": draw(size(1, 6)),
        "qk_rope_head_dim": draw(st.sampled_from([2, 4, 6])),
        "v_head_dim": draw(size(1, 6)),
        "attention_bias": draw(st.booleans()),
        "rope_theta": draw(st.sampled_from([10000.0, 500.0, 7.5])),
        "rope_scaling": scaling,
        "rope_interleave": draw(st.booleans()),
        "n_routed_experts": groups * per_group,
        "n_shared_experts": draw(size(1, 2)),
        "num_experts_per_tok": draw(size(1, min(4, kept * per_group))),
        "moe_intermediate_size": draw(size(1, 8)),
        "n_group": groups,
        "topk_group": kept,
        "norm_topk_prob": draw(st.booleans()),
        "routed_scaling_factor": draw(st.sampled_from([1.0, 2.5, 0.3])),
    }
    return DeepSeekV3Config(**(fields | fixed))


@st.composite
def rope_scalings(draw: st.DrawFn) -> tuple[dict[str, Any] | None, int]:
    """(rope_scaling, a max_position_embeddings ≥ 16 that fits it): half of them None, else YaRN."""
    if draw(st.booleans()):
        return None, draw(st.integers(16, 64))
    factor = draw(st.sampled_from([1.0, 1.5, 4.0, 40.0]))
    original = draw(st.sampled_from([16, 24, 64]))
    yarn = {"type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    return yarn | draw(st.sampled_from(YARN_VARIANTS)), round(factor * original)
