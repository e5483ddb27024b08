"""The ledger's figures of V3, and its formulas against the shapes of any configuration."""

import doctest
import math
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.errors import InputError
from minideepseek.model import ledger as module
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.layout import (
    checkpoint_size,
    is_quantised,
    part_of,
    scale_shape,
    tensor_shapes,
)
from minideepseek.model.ledger import (
    activated_parameters,
    cache_elements,
    count_parameters,
    flops_per_key,
    flops_per_token,
    format_ledger,
    main_parameters,
)
from tests.strategies import configs

V3 = DeepSeekV3Config.preset("v3")


def test_doctest() -> None:
    assert doctest.testmod(module).failed == 0


# ------------------------------------------------------------------------------- V3's figures


def test_v3_parameters() -> None:
    parts = count_parameters(V3)
    assert main_parameters(V3) == 671_026_419_200
    assert parts["embedding"] == parts["head"] == 129280 * 7168
    assert parts["mtp"] == 11_610_068_224
    assert activated_parameters(V3) == 36_625_618_432
    assert activated_parameters(V3, with_embedding=True) == 37_552_297_472


def test_v3_release() -> None:
    """Tensors and numbers as in the listing of the released R1 checkpoint."""
    start = time.perf_counter()
    shapes = dict(tensor_shapes(V3, fp8_scales=True, mtp_copies=True))
    assert time.perf_counter() - start < 2  # 0.05 s where nothing else runs
    assert len(shapes) == 91_991
    assert sum(math.prod(shape) for shape in shapes.values()) == 684_531_386_000
    tensors, numbers, size = checkpoint_size(V3)
    assert (tensors, numbers) == (91_991, 684_531_386_000)
    scales = sum(math.prod(s) for name, s in shapes.items() if name.endswith("_scale_inv"))
    quantised = sum(math.prod(s) for name, s in shapes.items() if is_quantised(name))
    biases = 59 * 256
    assert size == quantised + 4 * (scales + biases) + 2 * (numbers - quantised - scales - biases)


def test_v3_tensors() -> None:
    """A few by hand, the ragged scales of 576 rows among them."""
    shapes = dict(tensor_shapes(V3, fp8_scales=True, mtp_copies=True))
    attention = "model.layers.60.self_attn."
    assert shapes[attention + "q_b_proj.weight"] == (24576, 1536)
    assert shapes[attention + "kv_a_proj_with_mqa.weight"] == (576, 7168)
    assert shapes[attention + "kv_a_proj_with_mqa.weight_scale_inv"] == (5, 56)
    assert shapes[attention + "kv_b_proj.weight"] == (32768, 512)
    assert shapes[attention + "o_proj.weight"] == (7168, 16384)
    assert shapes["model.layers.2.mlp.down_proj.weight"] == (7168, 18432)
    assert shapes["model.layers.3.mlp.experts.255.up_proj.weight"] == (2048, 7168)
    assert shapes["model.layers.3.mlp.gate.e_score_correction_bias"] == (256,)
    assert shapes["model.layers.61.eh_proj.weight"] == (7168, 14336)
    assert shapes["model.layers.61.shared_head.head.weight"] == (129280, 7168)
    plain = [  # in no FP8 checkpoint quantised
        "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight",
        "model.layers.3.mlp.gate.weight", "model.layers.61.eh_proj.weight",
        "model.layers.61.shared_head.head.weight", attention + "q_a_layernorm.weight",
    ]  # fmt: skip
    assert all(name in shapes and name + "_scale_inv" not in shapes for name in plain)


def test_v3_computation() -> None:
    per_key = flops_per_key(V3)
    assert per_key["naive"] == 2 * 128 * (192 + 128)
    assert per_key["absorbed"] == 2 * 128 * (576 + 512)
    assert per_key["re-expanded"] == per_key["naive"] + 2 * 32768 * 512
    # Two FLOPs for each activated weight but norms and router biases, and attention's.
    weights = 36_625_618_432 - count_parameters(V3)["norms"] - 58 * 256
    assert flops_per_token(V3, keys=0) == 2 * weights
    assert flops_per_token(V3, 4096) == 2 * weights + 61 * 4096 * 2 * 128 * 320
    assert 3 * flops_per_token(V3, (4096 + 1) / 2) == pytest.approx(250.5e9, rel=1e-3)


def test_v3_cache() -> None:
    elements = cache_elements(V3)
    assert elements == {
        "MHA": 32768, "MLA expanded": 40960, "GQA-8": 2048, "MQA": 256, "MLA": 576,
    }  # fmt: skip
    in_bytes = [2 * 61 * count for count in elements.values()]
    assert in_bytes == [3_997_696, 4_997_120, 249_856, 31_232, 70_272]
    assert elements["MLA"] / (2 * 128) == 2.25  # groups of GQA


def test_format_names_every_figure() -> None:
    text = format_ledger(V3, context=4096)
    figures = """671,026,419,200 36,625,618,432 37,552,297,472 11,610,068,224 91,991
        684,531,386,000 3,997,696 249,856 31,232 70,272 32,768 2,048 256 576 4,096 93.72 250.46"""
    for figure in figures.split():
        assert figure in text, figure
    lines = text.splitlines()
    assert len(lines) <= 30
    assert max(len(line) for line in lines) <= 80
    assert text == "\n".join(line.rstrip() for line in lines)


@pytest.mark.parametrize("context", [0, -1, 1.5, True, "4096"])
def test_context_must_be_a_length(context: int) -> None:
    with pytest.raises(InputError, match="context is .*; expected a positive number of tokens"):
        format_ledger(V3, context)


# ------------------------------------------------------------- formulas against shapes, any config


@given(configs())
def test_formulas_equal_the_shapes(config: DeepSeekV3Config) -> None:
    counted: Counter[str] = Counter()
    for name, shape in tensor_shapes(config):
        counted[part_of(name, config)] += math.prod(shape)
    assert counted == Counter(count_parameters(config))  # a Counter's absent keys are zero
    assert main_parameters(config) == counted.total() - counted["mtp"]


@given(configs(), st.booleans(), st.sampled_from(["float32", "bfloat16"]))
def test_checkpoint_size_equals_the_shapes(c: DeepSeekV3Config, fp8: bool, dtype: str) -> None:
    block = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    changes = {"quantization_config": block if fp8 else None, "torch_dtype": dtype}
    config = DeepSeekV3Config.from_dict(c.to_dict() | changes)
    shapes = dict(tensor_shapes(config, fp8_scales=fp8, mtp_copies=True))
    size = 0
    for name, shape in shapes.items():
        four = name.endswith(("_scale_inv", "e_score_correction_bias")) or dtype == "float32"
        one = fp8 and is_quantised(name)
        size += math.prod(shape) * (1 if one else 4 if four else 2)
    numbers = sum(math.prod(shape) for shape in shapes.values())
    assert checkpoint_size(config) == (len(shapes), numbers, size)


@given(configs())
def test_names_are_distinct_and_options_only_add(config: DeepSeekV3Config) -> None:
    plain = list(tensor_shapes(config))
    everything = list(tensor_shapes(config, fp8_scales=True, mtp_copies=True))
    assert len({name for name, _ in everything}) == len(everything)
    assert set(plain) <= set(everything)
    copies = 2 * config.num_nextn_predict_layers
    scales = sum(is_quantised(name) for name, _ in plain)
    assert len(everything) == len(plain) + copies + scales


@given(configs())
def test_activated_is_the_model_with_only_the_chosen_experts(config: DeepSeekV3Config) -> None:
    """Take the experts that were not chosen out of the sum over all tensors."""
    idle = config.num_moe_layers * (config.n_routed_experts - config.num_experts_per_tok)
    expert = 3 * config.hidden_size * config.moe_intermediate_size
    with_embedding = main_parameters(config) - idle * expert
    assert activated_parameters(config, with_embedding=True) == with_embedding
    table = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    assert activated_parameters(config) == with_embedding - table


@given(configs())
def test_flops_are_two_per_weight_of_a_matrix(config: DeepSeekV3Config) -> None:
    """Matrices of the main model, of each MoE layer only the chosen experts; the head always."""
    weights = 0
    for name, shape in tensor_shapes(config):
        layer_and_expert = name.replace("mlp.experts.", "").split(".")
        idle = "mlp.experts." in name and int(layer_and_expert[3]) >= config.num_experts_per_tok
        part = part_of(name, config)
        if len(shape) == 2 and part not in ("mtp", "embedding", "head") and not idle:
            weights += math.prod(shape)
    weights += config.vocab_size * config.hidden_size
    assert flops_per_token(config, keys=0) == 2 * weights
    slope = flops_per_token(config, 3.5) - flops_per_token(config, 2.5)
    assert slope == config.num_hidden_layers * flops_per_key(config)["naive"]


@given(configs(), st.integers(1, 10_000))
def test_any_ledger_can_be_printed(config: DeepSeekV3Config, context: int) -> None:
    assert f"{main_parameters(config):,}" in format_ledger(config, context)


def test_a_monster_is_printed_as_fast() -> None:
    """No step of the text goes through tensors one by one."""
    monster = DeepSeekV3Config.preset(
        "nano", num_hidden_layers=2**31 - 1, n_routed_experts=2**31 - 4, n_group=1, topk_group=1
    )
    assert "2147483647 layers" in format_ledger(monster)


@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (128, 1), (129, 2), (576, 5), (18432, 144)])
def test_ragged_blocks_count(rows: int, blocks: int) -> None:
    assert scale_shape((rows, 1)) == (blocks, 1)
