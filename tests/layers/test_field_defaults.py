"""A layer used alone: what its fields are where they are left out."""

import numpy as np

from minideepseek.autograd.engine import Tensor
from minideepseek.layers.attention import GroupedQueryAttention
from minideepseek.layers.mla import DeepSeekAttention, MultiHeadLatentAttention
from minideepseek.layers.module import REQUIRED
from minideepseek.layers.moe import FIELDS, DeepSeekMoE

EXPERTS = {"hidden_size": 12, "n_routed_experts": 6, "num_experts_per_tok": 2,
           "moe_intermediate_size": 5}  # fmt: skip
LEFT_OUT = {"n_shared_experts": 1, "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
            "routed_scaling_factor": 1.0}  # fmt: skip


def test_experts_without_a_word_are_one_group_with_one_shared_expert_and_gates_that_sum_to_1():
    x = Tensor(np.random.default_rng(0).standard_normal((2, 3, 12)).astype(np.float32))
    said = DeepSeekMoE(**EXPERTS, **LEFT_OUT, rng=np.random.default_rng(1))
    silent = DeepSeekMoE(**EXPERTS, rng=np.random.default_rng(1))
    assert np.array_equal(said(x).data, silent(x).data)


def test_the_fields_that_are_left_out():
    defaults = {
        name: value
        for fields in (FIELDS, DeepSeekAttention.fields, GroupedQueryAttention.fields)
        for name, value in fields.items()
        if value is not REQUIRED
    }
    assert defaults == LEFT_OUT | {
        "q_lora_rank": None, "attention_bias": False, "max_position_embeddings": 4096,
        "rope_theta": 10000.0, "rope_scaling": None, "rope_interleave": True, "head_dim": None,
    }  # fmt: skip
    assert MultiHeadLatentAttention.rope_width == 0
