r"""What a valid configuration is: every rule of `DeepSeekV3Config`, in one place.

A configuration is refused before anything is built from it. First each field alone, its type and
its range; then the rules that tie fields together. Those that are not obvious:

    num_key_value_heads = num_attention_heads
        MLA has no key-value groups: it saves by the latent.
    qk_rope_head_dim even
        Rotary positions turn pairs of channels.
    n_group divides n_routed_experts and leaves at least two experts in a group
        A group is scored by the sum of its two best experts.
    num_experts_per_tok ≤ topk_group · n_routed_experts / n_group
        Only experts of the kept groups can be chosen.
    max_position_embeddings = factor · original_max_position_embeddings, for YaRN
        transformers only warns, and then uses the factor.

Numbers are brought into one form on the way: transformers refuses `1` where it declares a float, so
a float field always holds a float; a YaRN dictionary always has the key `type`.
"""

from collections.abc import Mapping
from typing import Any, NoReturn

from minideepseek.errors import InputError

LARGEST = 2**31 - 1  # of any integer field: sizes and token ids fit a signed 32-bit integer

_AT_LEAST = {  # integer fields and their smallest value
    "vocab_size": 1,
    "hidden_size": 1,
    "num_hidden_layers": 1,
    "first_k_dense_replace": 0,
    "intermediate_size": 1,
    "num_nextn_predict_layers": 0,
    "max_position_embeddings": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "q_lora_rank": 1,
    "kv_lora_rank": 1,
    "qk_nope_head_dim": 1,
    "qk_rope_head_dim": 2,
    "v_head_dim": 1,
    "n_routed_experts": 2,
    "n_shared_experts": 1,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 1,
    "n_group": 1,
    "topk_group": 1,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "pretraining_tp": 1,
    "ep_size": 1,
}
_MAY_BE_NULL = {"q_lora_rank", "bos_token_id", "eos_token_id", "pad_token_id"}
_ABOVE = {  # number fields: the bound they must exceed, and the one they may not
    "routed_scaling_factor": (0.0, 1e6),
    "rope_theta": (1.0, 1e30),  # at 1 every pair would turn at the same rate
    "rms_norm_eps": (0.0, 1.0),
    "initializer_range": (0.0, 1e6),
}
_BOOLEAN = (
    "rope_interleave",
    "attention_bias",
    "norm_topk_prob",
    "tie_word_embeddings",
    "use_cache",
)
_ONLY = {  # fields that a reader may state but that leave DeepSeek-V3 no choice
    "moe_layer_freq": 1,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "hidden_act": "silu",
    "seq_aux": True,
    "attention_dropout": 0.0,
}
_DTYPES = ("float32", "float64", "float16", "bfloat16")


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """All fields in their one form, or an InputError naming the field that is wrong."""
    known = dict(values)
    if known["num_key_value_heads"] is None:
        known["num_key_value_heads"] = known["num_attention_heads"]
    for name, least in _AT_LEAST.items():
        if not (known[name] is None and name in _MAY_BE_NULL):
            _check_integer(name, known[name], least)
    for name, (low, high) in _ABOVE.items():
        known[name] = _number(name, known[name], low, high)
    known["aux_loss_alpha"] = _number(
        "aux_loss_alpha", known["aux_loss_alpha"], 0.0, 1e6, least_allowed=True
    )
    for name in _BOOLEAN:
        if not isinstance(known[name], bool):
            _refuse(name, known[name], "true or false")
    for name, only in _ONLY.items():
        known[name] = _only(name, known[name], only)
    if known["torch_dtype"] not in _DTYPES:
        _refuse("torch_dtype", known["torch_dtype"], "one of " + ", ".join(_DTYPES))
    _check_relations(known)
    known["rope_scaling"] = _rope_scaling(known["rope_scaling"], known["max_position_embeddings"])
    known["quantization_config"] = _quantization(known["quantization_config"])
    return known


def shown(value: object) -> str:
    """A value as an error message prints it: its repr, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; a deep nesting
        text = f"a value of type {type(value).__name__} too large to print"
    return text if len(text) <= 60 else text[:57] + "..."


def _refuse(name: str, value: object, expected: str) -> NoReturn:
    raise InputError(f"{name} is {shown(value)}; expected {expected}")


def _check_integer(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LARGEST:
        null = " or null" if name in _MAY_BE_NULL else ""
        _refuse(name, value, f"an integer from {least} to {LARGEST}{null}")


def _number(
    name: str, value: object, low: float, high: float, *, least_allowed: bool = False
) -> float:
    """`value` as a float in (low, high], or in [low, high] if `least_allowed`."""
    # An integer of any size compares exactly with a float, and NaN fails every comparison.
    if isinstance(value, int | float) and not isinstance(value, bool):
        if low < value <= high or (least_allowed and value == low):
            return float(value)
    _refuse(name, value, f"a number {'from' if least_allowed else 'above'} {low:g} to {high:g}")


def _only(name: str, value: object, only: object) -> object:
    """The one value that the field may have: 1 is not True here, but 0 is 0.0."""
    if isinstance(value, bool) != isinstance(only, bool) or value != only:
        _refuse(name, value, f"{only!r}, the only one that DeepSeek-V3 knows")
    return only


def _check_relations(known: Mapping[str, Any]) -> None:
    """The rules that tie fields together; each field alone is already valid."""
    experts, groups = known["n_routed_experts"], known["n_group"]
    heads, layers, vocabulary = (
        known["num_attention_heads"], known["num_hidden_layers"], known["vocab_size"]
    )
    if known["num_key_value_heads"] != heads:
        expected = f"num_attention_heads = {heads}, since MLA has no key-value groups"
        _refuse("num_key_value_heads", known["num_key_value_heads"], expected)
    if known["qk_rope_head_dim"] % 2:
        _refuse("qk_rope_head_dim", known["qk_rope_head_dim"], "an even number")
    if known["first_k_dense_replace"] > layers:
        expected = f"at most num_hidden_layers = {layers}"
        _refuse("first_k_dense_replace", known["first_k_dense_replace"], expected)
    if experts % groups or experts // groups < 2:
        expected = f"a divisor of n_routed_experts = {experts} leaving two or more in a group"
        _refuse("n_group", groups, expected)
    if known["topk_group"] > groups:
        _refuse("topk_group", known["topk_group"], f"at most n_group = {groups}")
    reachable = known["topk_group"] * (experts // groups)
    if known["num_experts_per_tok"] > reachable:
        expected = f"at most {reachable}, the experts in topk_group = {known['topk_group']} groups"
        _refuse("num_experts_per_tok", known["num_experts_per_tok"], expected)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if known[name] is not None and known[name] >= vocabulary:
            _refuse(name, known[name], f"less than vocab_size = {vocabulary}")


def _rope_scaling(value: object, max_positions: int) -> dict[str, Any] | None:
    """None for plain rotary positions, or YaRN's parameters in their one form.

    Kept keys: type, factor, original_max_position_embeddings, beta_fast, beta_slow, and where
    given mscale, mscale_all_dim, attention_factor. A null means an absent key.
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        _refuse("rope_scaling", value, "null or a dictionary")
    given = {key: item for key, item in value.items() if item is not None}
    kind = given.pop("rope_type", given.get("type"))
    if given.pop("type", kind) != kind:
        _refuse("rope_scaling", value, "the same type under both names, type and rope_type")
    if kind not in ("default", "yarn"):
        _refuse("rope_scaling's type", kind, "yarn or default")
    if given.pop("truncate", True) is not True:
        _refuse("rope_scaling's truncate", value["truncate"], "true: ramp bounds are whole numbers")
    if kind == "yarn":
        return _yarn(given, max_positions)
    if given:
        _refuse("rope_scaling", value, "no other keys beside the type default")
    return None


def _yarn(given: dict[str, Any], max_positions: int) -> dict[str, Any]:
    bounds = {  # key: (low, high, low itself allowed)
        "factor": (1.0, 1e6, True),
        "beta_fast": (0.0, 1e6, False),
        "beta_slow": (0.0, 1e6, False),
        "mscale": (0.0, 1e6, True),
        "mscale_all_dim": (0.0, 1e6, True),
        "attention_factor": (0.0, 1e6, False),
    }
    original = given.pop("original_max_position_embeddings", None)
    _check_integer("rope_scaling's original_max_position_embeddings", original, 1)
    given = {"factor": None, "beta_fast": 32.0, "beta_slow": 1.0, **given}
    yarn: dict[str, Any] = {"type": "yarn", "original_max_position_embeddings": original}
    for key, value in given.items():
        if key not in bounds:
            raise InputError(f"rope_scaling has the key {shown(key)}, which YaRN does not know")
        low, high, least_allowed = bounds[key]
        name = f"rope_scaling's {key}"
        yarn[key] = _number(name, value, low, high, least_allowed=least_allowed)
    if yarn["beta_fast"] < yarn["beta_slow"]:
        expected = f"at least beta_slow = {yarn['beta_slow']:g}"
        _refuse("rope_scaling's beta_fast", yarn["beta_fast"], expected)
    if round(yarn["factor"] * original) != max_positions:
        expected = f"factor · original_max_position_embeddings = {yarn['factor']:g} · {original}"
        _refuse("max_position_embeddings", max_positions, expected)
    return yarn


def _quantization(value: object) -> dict[str, Any] | None:
    """None, or the description of DeepSeek's FP8 checkpoints in its one form."""
    if value is None:
        return None
    if not isinstance(value, dict):
        _refuse("quantization_config", value, "null or a dictionary")
    only = {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    }
    for key, expected in only.items():
        required = key in ("quant_method", "weight_block_size")
        if value.get(key, None if required else expected) != expected:
            _refuse(f"quantization_config's {key}", value.get(key), repr(expected))
    if value.get("scale_fmt") is None:
        return only
    if value["scale_fmt"] != "ue8m0":
        _refuse("quantization_config's scale_fmt", value["scale_fmt"], "'ue8m0' or no such key")
    return {**only, "scale_fmt": "ue8m0"}
