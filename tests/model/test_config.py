"""DeepSeekV3Config: presets, both spellings of config.json, and nothing wrong gets in."""

import dataclasses
import doctest
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.errors import CheckpointError, InputError
from minideepseek.model import config as module
from minideepseek.model.config import ARCHITECTURE, MODEL_TYPE, DeepSeekV3Config
from minideepseek.model.layout import is_quantised, tensor_shapes
from tests.strategies import configs

FIELDS = [item.name for item in dataclasses.fields(DeepSeekV3Config)]
NANO = DeepSeekV3Config.preset("nano").to_dict()
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}

numbers = st.integers() | st.floats() | st.sampled_from([0, 1, 2, 2**31, 10**400, -1, 1e308])
leaves = st.none() | st.booleans() | numbers | st.text(max_size=3)
json_values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def nano(**changes: Any) -> DeepSeekV3Config:
    return DeepSeekV3Config.preset("nano", **changes)


def test_doctest() -> None:
    assert doctest.testmod(module).failed == 0


# ------------------------------------------------------------------------------------ presets


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("nano", [264, 32, 2, 1, 2, 8, 8, 8, 24, 16, 64, 16, 8, 2, 1, 4, 2, 1]),
        ("mini", [264, 256, 3, 1, 4, 32, 32, 32, 128, 96, 512, 64, 16, 4, 1, 4, 2, 1]),
        ("small", [512, 256, 4, 1, 8, 32, 16, 32, 96, 64, 640, 128, 16, 4, 1, 1, 1, 0]),
        ("reason", [33, 128, 3, 1, 4, 32, 32, 32, None, 64, 256, 64, 8, 2, 1, 1, 1, 1]),
        (
            "v3",
            [129280, 7168, 61, 3, 128, 128, 64, 128, 1536, 512, 18432, 2048, 256, 8, 1, 8, 4, 1],
        ),
    ],
)
def test_presets_have_the_agreed_sizes(name: str, sizes: list[int | None]) -> None:
    c = DeepSeekV3Config.preset(name)
    assert [
        c.vocab_size, c.hidden_size, c.num_hidden_layers, c.first_k_dense_replace,
        c.num_attention_heads, c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim,
        c.q_lora_rank, c.kv_lora_rank, c.intermediate_size, c.moe_intermediate_size,
        c.n_routed_experts, c.num_experts_per_tok, c.n_shared_experts, c.n_group, c.topk_group,
        c.num_nextn_predict_layers,
    ] == sizes  # fmt: skip


@pytest.mark.parametrize("name", ["nano", "mini", "small", "reason"])
def test_fp8_quantises_only_whole_blocks_of_a_preset(name: str) -> None:
    """At most 128 or a multiple of it: transformers reads the scales of other shapes wrongly."""
    for tensor, shape in tensor_shapes(DeepSeekV3Config.preset(name)):
        if is_quantised(tensor):
            assert all(size <= 128 or size % 128 == 0 for size in shape), (tensor, shape)


def test_presets_are_not_shared() -> None:
    DeepSeekV3Config.preset("v3").rope_scaling["factor"] = 1.0  # type: ignore[index]
    assert DeepSeekV3Config.preset("v3").rope_scaling["factor"] == 40.0  # type: ignore[index]


def test_unknown_preset_or_field_is_named() -> None:
    with pytest.raises(InputError, match="preset is 'huge'; expected one of nano, mini"):
        DeepSeekV3Config.preset("huge")
    with pytest.raises(InputError, match="'hiden_size', which is no field"):
        nano(hiden_size=3)


def test_v3_is_the_released_configuration() -> None:
    c = DeepSeekV3Config.preset("v3")
    assert c.max_position_embeddings == 163840 == 40 * 4096
    assert (c.routed_scaling_factor, c.norm_topk_prob, c.rms_norm_eps) == (2.5, True, 1e-6)
    assert c.rope_scaling == {
        "type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
        "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
    }  # fmt: skip
    assert c.quantization_config == {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
        "weight_block_size": [128, 128],
    }  # fmt: skip


# ------------------------------------------------------------------------------------- derived


def test_derived_numbers() -> None:
    c = DeepSeekV3Config.preset("v3")
    assert (c.qk_head_dim, c.num_moe_layers, c.num_key_value_heads) == (192, 58, 128)
    assert [c.is_moe_layer(layer) for layer in (0, 2, 3, 60, 61)] == [False] * 2 + [True] * 3
    all_dense = nano(first_k_dense_replace=2)
    assert not all_dense.is_moe_layer(1)
    assert all_dense.is_moe_layer(2)  # the layer of an MTP module is always MoE


def test_a_configuration_is_a_value() -> None:
    given_scaling = dict(YARN)
    one = nano(rope_scaling=given_scaling, max_position_embeddings=64)
    given_scaling["factor"] = 8.0
    two = nano(rope_scaling=dict(YARN), max_position_embeddings=64)
    assert one == two
    assert hash(one) == hash(two)
    assert one != nano()
    one.to_dict()["rope_scaling"]["factor"] = 8.0
    assert one == two
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.hidden_size = 3  # type: ignore[misc]


# ---------------------------------------------------------------------------------- config.json


@given(configs())
def test_to_dict_is_json_and_comes_back(config: DeepSeekV3Config) -> None:
    text = json.dumps(config.to_dict(), allow_nan=False)
    assert DeepSeekV3Config.from_dict(json.loads(text)) == config


@given(configs())
def test_the_new_spelling_means_the_same(config: DeepSeekV3Config) -> None:
    new = config.to_dict()
    theta, scaling = new.pop("rope_theta"), new.pop("rope_scaling") or {"type": "default"}
    scaling["rope_type"] = scaling["type"]  # transformers 5 writes both names
    new["rope_parameters"] = {"rope_theta": theta, **scaling}
    new["dtype"] = new.pop("torch_dtype")
    new |= {"head_dim": config.qk_rope_head_dim, "qk_head_dim": config.qk_head_dim}
    assert DeepSeekV3Config.from_dict(new) == config


def test_where_both_spellings_came() -> None:
    both = NANO | {
        "rope_theta": 100.0,
        "rope_scaling": YARN,
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
        "torch_dtype": "float16",
        "dtype": "bfloat16",
    }
    c = DeepSeekV3Config.from_dict(both)
    assert (c.rope_theta, c.torch_dtype) == (100.0, "bfloat16")
    assert c.rope_scaling is not None
    only_new = DeepSeekV3Config.from_dict(both | {"rope_scaling": None})
    assert (only_new.rope_theta, only_new.rope_scaling) == (300.0, None)
    inside = DeepSeekV3Config.from_dict(both | {"rope_scaling": YARN | {"rope_theta": 200.0}})
    assert inside.rope_theta == 200.0


def test_written_for_transformers_4_and_5() -> None:
    written = nano(routed_scaling_factor=1, attention_dropout=0).to_dict()
    assert written["architectures"] == [ARCHITECTURE]
    assert written["model_type"] == MODEL_TYPE
    assert "quantization_config" not in written
    assert "rope_parameters" not in written
    assert written["rope_scaling"] is None
    # transformers 5 refuses an integer where it declares a float
    for name in ("routed_scaling_factor", "attention_dropout", "rms_norm_eps", "rope_theta"):
        assert type(written[name]) is float, name


def test_unknown_keys_are_ignored_and_absent_ones_have_defaults() -> None:
    c = DeepSeekV3Config.from_dict({"model_type": MODEL_TYPE, "auto_map": {}, "made_up": [1]})
    assert c == DeepSeekV3Config()


def test_default_rope_and_nulls_in_it() -> None:
    assert nano(rope_scaling={"type": "default"}).rope_scaling is None
    scaling = YARN | {"mscale": None, "beta_fast": None, "truncate": True}
    c = nano(rope_scaling=scaling, max_position_embeddings=64)
    assert c.rope_scaling == YARN | {"beta_fast": 32.0, "beta_slow": 1.0}


def test_a_file_is_named(tmp_path: Any) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(NANO), encoding="utf-8")
    assert DeepSeekV3Config.from_json(path) == nano()
    path.write_text(json.dumps(NANO | {"model_type": "llama"}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json: model_type is 'llama'; expected"):
        DeepSeekV3Config.from_json(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        DeepSeekV3Config.from_json(tmp_path / "none.json")


# ------------------------------------------------------------------------------------ refusals

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"hidden_size": 0}, "hidden_size is 0; expected an integer from 1"),
    ({"hidden_size": 32.0}, "hidden_size is 32.0; expected an integer"),
    ({"hidden_size": True}, "hidden_size is True; expected an integer"),
    ({"hidden_size": "32"}, "hidden_size is '32'; expected an integer"),
    ({"hidden_size": None}, "hidden_size is None; expected an integer"),
    ({"vocab_size": 2**31}, "vocab_size is 2147483648; expected an integer"),
    ({"vocab_size": 10**5000}, "vocab_size is a value of type int too large to print"),
    ({"kv_lora_rank": 0}, "kv_lora_rank is 0"),
    ({"q_lora_rank": 0}, "q_lora_rank is 0; expected an integer .* or null"),
    ({"num_key_value_heads": 1}, "num_key_value_heads is 1; expected num_attention_heads = 2"),
    ({"qk_rope_head_dim": 7}, "qk_rope_head_dim is 7; expected an even number"),
    ({"first_k_dense_replace": 3}, "first_k_dense_replace is 3; expected at most .* = 2"),
    ({"first_k_dense_replace": -1}, "first_k_dense_replace is -1"),
    ({"n_shared_experts": 0}, "n_shared_experts is 0"),
    ({"num_nextn_predict_layers": -1}, "num_nextn_predict_layers is -1"),
    ({"n_group": 3}, "n_group is 3; expected a divisor of n_routed_experts = 8"),
    ({"n_group": 8}, "n_group is 8; expected .* leaving two or more in a group"),
    ({"topk_group": 5}, "topk_group is 5; expected at most n_group = 4"),
    ({"topk_group": 0}, "topk_group is 0"),
    ({"num_experts_per_tok": 5}, "num_experts_per_tok is 5; expected at most 4, the experts in"),
    ({"num_experts_per_tok": 0}, "num_experts_per_tok is 0"),
    ({"routed_scaling_factor": 0.0}, "routed_scaling_factor is 0.0; expected a number above 0"),
    ({"routed_scaling_factor": math.nan}, "routed_scaling_factor is nan"),
    ({"routed_scaling_factor": math.inf}, "routed_scaling_factor is inf"),
    ({"rms_norm_eps": -1e-6}, "rms_norm_eps is -1e-06"),
    ({"rms_norm_eps": 10**400}, "rms_norm_eps is 10000"),
    ({"rope_theta": 1.0}, "rope_theta is 1.0; expected a number above 1"),
    ({"rope_theta": "10000"}, "rope_theta is '10000'"),
    ({"aux_loss_alpha": -0.1}, "aux_loss_alpha is -0.1; expected a number from 0"),
    ({"initializer_range": True}, "initializer_range is True"),
    ({"norm_topk_prob": 1}, "norm_topk_prob is 1; expected true or false"),
    ({"bos_token_id": 264}, "bos_token_id is 264; expected less than vocab_size = 264"),
    ({"eos_token_id": [257]}, "eos_token_id is .257.; expected an integer"),
    ({"moe_layer_freq": 2}, "moe_layer_freq is 2; expected 1"),
    ({"scoring_func": "softmax"}, "scoring_func is 'softmax'; expected 'sigmoid'"),
    ({"topk_method": "greedy"}, "topk_method is 'greedy'; expected 'noaux_tc'"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; expected 'silu'"),
    ({"seq_aux": 1}, "seq_aux is 1; expected True"),
    ({"attention_dropout": 0.1}, "attention_dropout is 0.1; expected 0.0"),
    ({"attention_dropout": False}, "attention_dropout is False"),
    ({"torch_dtype": "int8"}, "torch_dtype is 'int8'; expected one of float32"),
    ({"rope_scaling": "yarn"}, "rope_scaling is 'yarn'; expected null or a dictionary"),
    ({"rope_scaling": {"factor": 4.0}}, "rope_scaling's type is None; expected yarn or default"),
    ({"rope_scaling": {"type": "linear"}}, "rope_scaling's type is 'linear'"),
    ({"rope_scaling": {"type": "default", "factor": 4.0}}, "no other keys beside"),
    ({"rope_scaling": YARN | {"rope_type": "default"}}, "the same type under both names"),
    ({"rope_scaling": YARN, "max_position_embeddings": 65}, "max_position_embeddings is 65; exp"),
    ({"rope_scaling": YARN | {"factor": 0.5}}, "rope_scaling's factor is 0.5; expected a number"),
    ({"rope_scaling": YARN | {"factor": None}}, "rope_scaling's factor is None"),
    ({"rope_scaling": YARN | {"original_max_position_embeddings": 16.0}}, "embeddings is 16.0"),
    ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "original_max_position_embeddings is None"),
    ({"rope_scaling": YARN | {"beta_fast": 0.5}}, "beta_fast is 0.5; expected at least beta_slow"),
    ({"rope_scaling": YARN | {"mscale": math.nan}}, "rope_scaling's mscale is nan"),
    ({"rope_scaling": YARN | {"attention_factor": 0.0}}, "attention_factor is 0.0"),
    ({"rope_scaling": YARN | {"truncate": False}}, "truncate is False"),
    ({"rope_scaling": YARN | {"mscale_all": 1.0}}, "the key 'mscale_all', which YaRN does not"),
    ({"quantization_config": []}, "quantization_config is .*; expected null or a dictionary"),
    ({"quantization_config": {"quant_method": "fp8"}}, "weight_block_size is None; expected"),
    (
        {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 64]}},
        r"weight_block_size is \[64, 64\]; expected '?\[128, 128\]",
    ),
    (
        {"quantization_config": {"quant_method": "gptq", "weight_block_size": [128, 128]}},
        "quant_method is 'gptq'; expected 'fp8'",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), WRONG)
def test_what_is_wrong_is_named(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        nano(**changes)
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'; expected 'deepseek_v3'"),
        ({"model_type": None}, "model_type is None; expected 'deepseek_v3'"),
        ({"architectures": ["KimiForCausalLM"]}, "architectures is .'KimiForCausalLM'.; expected"),
        ({"rope_scaling": 3}, "rope_scaling is 3; expected null or a dictionary"),
        ({"rope_scaling": None, "rope_parameters": [1]}, "rope_parameters is .1.; expected null"),
        ({"rope_theta": None}, "rope_theta is None; expected a number"),
        ({"dtype": 3}, "torch_dtype is 3; expected one of"),
    ],
)
def test_a_wrong_config_json_is_named(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        DeepSeekV3Config.from_dict(NANO | changes)


def test_not_an_object() -> None:
    with pytest.raises(InputError, match="expected a JSON object"):
        DeepSeekV3Config.from_dict([1])  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------- fuzz


def valid_or_refused(values: dict[str, Any]) -> None:
    """Nothing but a configuration that comes back from its own JSON, or one clear sentence."""
    try:
        config = DeepSeekV3Config.from_dict(values)
    except InputError as error:
        assert 0 < len(str(error)) < 400
        return
    text = json.dumps(config.to_dict(), allow_nan=False)
    assert DeepSeekV3Config.from_dict(json.loads(text)) == config


@pytest.mark.parametrize("name", [*FIELDS, "rope_parameters", "dtype", "architectures"])
@given(value=json_values)
def test_any_value_of_a_field_is_valid_or_refused(name: str, value: Any) -> None:
    valid_or_refused(NANO | {"rope_scaling": None, name: value})


@given(
    base=st.sampled_from([NANO, NANO | {"rope_scaling": YARN}, DeepSeekV3Config().to_dict()]),
    changes=st.dictionaries(
        st.sampled_from(FIELDS), st.integers(0, 70) | st.floats(0, 4) | st.booleans(), max_size=4
    ),
)
def test_any_combination_is_valid_or_refused(base: dict[str, Any], changes: dict[str, Any]) -> None:
    valid_or_refused(base | changes)


@given(
    changes=st.dictionaries(
        st.sampled_from(
            [*YARN, "rope_type", "rope_theta", "beta_fast", "beta_slow", "mscale", "truncate",
             "mscale_all_dim", "attention_factor", "partial_rotary_factor", "other"]
        ),
        json_values | st.sampled_from(["yarn", "default"]),
        max_size=4,
    ),
    name=st.sampled_from(["rope_scaling", "rope_parameters"]),
)  # fmt: skip
def test_any_rope_scaling_is_valid_or_refused(changes: dict[str, Any], name: str) -> None:
    valid_or_refused(NANO | {"rope_scaling": None, name: YARN | changes})
