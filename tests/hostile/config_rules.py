"""An oracle: what DeepSeekV3Config must make of a config.json, written down a second time."""

from typing import Any

INTEGERS = {  # least value
    "vocab_size": 1, "hidden_size": 1, "num_hidden_layers": 1, "first_k_dense_replace": 0,
    "intermediate_size": 1, "num_nextn_predict_layers": 0, "max_position_embeddings": 1,
    "num_attention_heads": 1, "kv_lora_rank": 1, "qk_nope_head_dim": 1, "qk_rope_head_dim": 2,
    "v_head_dim": 1, "n_routed_experts": 2, "n_shared_experts": 1, "num_experts_per_tok": 1,
    "moe_intermediate_size": 1, "n_group": 1, "topk_group": 1, "pretraining_tp": 1, "ep_size": 1,
}  # fmt: skip
OR_NULL = {"q_lora_rank": 1, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
NUMBERS = {  # above, up to
    "routed_scaling_factor": (0, 1e6), "rope_theta": (1, 1e30), "rms_norm_eps": (0, 1),
    "initializer_range": (0, 1e6),
}  # fmt: skip
FLAGS = ("rope_interleave", "attention_bias", "norm_topk_prob", "tie_word_embeddings", "use_cache")
_FIXED = {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "hidden_act": "silu"}
_YARN = {
    "factor": (1, True), "beta_fast": (0, False), "beta_slow": (0, False), "mscale": (0, True),
    "mscale_all_dim": (0, True), "attention_factor": (0, False),
}  # fmt: skip


class Refused(Exception):
    """The values describe no model."""


def need(condition: Any) -> None:
    """Refused unless it holds."""
    if not condition:
        raise Refused


def _integer(value: Any, least: int) -> bool:
    return type(value) is int and least <= value < 2**31


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def expected(values: Any, defaults: dict[str, Any]) -> dict[str, Any]:
    """The fields of the configuration, or Refused. defaults: of absent keys."""
    need(isinstance(values, dict) and values.get("model_type") == "deepseek_v3")
    need(values.get("architectures") in (None, ["DeepseekV3ForCausalLM"]))
    fields = {name: values.get(name, default) for name, default in defaults.items()}
    dtype = values["dtype"] if values.get("dtype") is not None else values.get("torch_dtype")
    fields["torch_dtype"] = "float32" if dtype is None else dtype
    need(fields["torch_dtype"] in ("float32", "float64", "float16", "bfloat16"))
    fields["rope_scaling"] = _rope(values, fields)
    for name, least in INTEGERS.items():
        need(_integer(fields[name], least))
    for name, least in OR_NULL.items():
        need(fields[name] is None or _integer(fields[name], least))
    for name, (low, high) in NUMBERS.items():
        need(_number(fields[name]) and low < fields[name] <= high)
        fields[name] = float(fields[name])
    need(_number(fields["aux_loss_alpha"]) and 0 <= fields["aux_loss_alpha"] <= 1e6)
    fields["aux_loss_alpha"] = float(fields["aux_loss_alpha"])
    need(all(type(fields[name]) is bool for name in FLAGS))
    need(all(fields[name] == value for name, value in _FIXED.items()))
    need(fields["seq_aux"] is True)
    need(_number(fields["attention_dropout"]) and fields["attention_dropout"] == 0)
    need(_number(fields["moe_layer_freq"]) and fields["moe_layer_freq"] == 1)
    fields |= {"attention_dropout": 0.0, "moe_layer_freq": 1}
    _relations(fields)
    fields["rope_scaling"] = _yarn(fields["rope_scaling"], fields["max_position_embeddings"])
    fields["quantization_config"] = _fp8(fields["quantization_config"])
    return fields


def _relations(f: dict[str, Any]) -> None:
    heads, experts, groups = f["num_attention_heads"], f["n_routed_experts"], f["n_group"]
    if f["num_key_value_heads"] is None:
        f["num_key_value_heads"] = heads
    need(type(f["num_key_value_heads"]) is int and f["num_key_value_heads"] == heads)
    need(f["qk_rope_head_dim"] % 2 == 0)
    need(f["first_k_dense_replace"] <= f["num_hidden_layers"])
    need(experts % groups == 0 and experts // groups >= 2 and f["topk_group"] <= groups)
    need(f["num_experts_per_tok"] <= f["topk_group"] * experts // groups)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        need(f[name] is None or f[name] < f["vocab_size"])


def _rope(values: dict[str, Any], fields: dict[str, Any]) -> Any:
    """rope_scaling as it is given, in either spelling; its θ wins."""
    for name in ("rope_scaling", "rope_parameters"):
        given = values.get(name)
        if given is None or given == {}:
            continue
        need(isinstance(given, dict))
        given = dict(given)
        if "rope_theta" in given:
            fields["rope_theta"] = given.pop("rope_theta")
        if given.get("partial_rotary_factor") == 1:
            del given["partial_rotary_factor"]
        return given or None
    return None


def _yarn(given: Any, positions: int) -> dict[str, Any] | None:
    if given is None:
        return None
    given = {key: value for key, value in given.items() if value is not None}
    kinds = [given.pop(key) for key in ("rope_type", "type") if key in given]
    need(kinds and all(kind == kinds[0] for kind in kinds) and kinds[0] in ("default", "yarn"))
    need(given.pop("truncate", True) is True)
    if kinds[0] == "default":
        need(not given)
        return None
    original = given.pop("original_max_position_embeddings", None)
    need(_integer(original, 1))
    given = {"factor": None, "beta_fast": 32.0, "beta_slow": 1.0} | given
    for key, value in given.items():
        need(key in _YARN and _number(value))
        low, itself = _YARN[key]
        need((low <= value if itself else low < value) and value <= 1e6)
        given[key] = float(value)
    need(given["beta_fast"] >= given["beta_slow"])
    need(round(given["factor"] * original) == positions)
    return {"type": "yarn", "original_max_position_embeddings": original, **given}


def _fp8(given: Any) -> dict[str, Any] | None:
    if given is None:
        return None
    need(isinstance(given, dict))
    form: dict[str, Any] = {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
        "weight_block_size": [128, 128],
    }  # fmt: skip
    need("quant_method" in given and "weight_block_size" in given)
    need(all(given.get(key, value) == value for key, value in form.items()))
    scale = given.get("scale_fmt")
    need(scale is None or scale == "ue8m0")
    return form if scale is None else form | {"scale_fmt": "ue8m0"}
