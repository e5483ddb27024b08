r"""The configuration: what a DeepSeek-V3 is, under Hugging Face's names.

A field has one name everywhere, the one in a checkpoint's config.json. Papers and DeepSeek's own
code call the same numbers otherwise:

    paper   this file (Hugging Face)     DeepSeek's code
    ─────   ──────────────────────────   ────────────────────────────
    d       hidden_size                  dim
    n_h     num_attention_heads          n_heads
    d_h     qk_nope_head_dim,            qk_nope_head_dim,
            v_head_dim                   v_head_dim
    d_h^R   qk_rope_head_dim             qk_rope_head_dim
    d_c     kv_lora_rank                 kv_lora_rank
    d_c′    q_lora_rank                  q_lora_rank
    N_r     n_routed_experts             n_routed_experts
    N_s     n_shared_experts             n_shared_experts
    K_r     num_experts_per_tok          n_activated_experts
    M       topk_group, of n_group       n_limited_groups, of n_expert_groups
    D       num_nextn_predict_layers     (its code drops the MTP module)

A default is what transformers' DeepseekV3Config assumes for an absent key, so that a config.json
means the same in both; they are V3's real sizes, with the 4,096 positions of its pre-training.
`preset("v3")` is the released model: 163,840 positions by YaRN, weights in FP8.

Fields of training that the architecture does not need (the bias step γ, the MTP weight λ) are the
trainer's. What is wrong in a configuration is refused as soon as it is made (config_checks.py).

>>> config = DeepSeekV3Config.preset("nano")
>>> config.hidden_size, config.qk_head_dim, config.num_moe_layers
(32, 16, 1)
>>> DeepSeekV3Config.preset("nano", hidden_size=0)
Traceback (most recent call last):
    ...
minideepseek.errors.InputError: hidden_size is 0; expected an integer from 1 to 2147483647
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from minideepseek.errors import CheckpointError, InputError
from minideepseek.model.config_checks import checked, shown
from minideepseek.model.strict_json import read_json

MODEL_TYPE = "deepseek_v3"
ARCHITECTURE = "DeepseekV3ForCausalLM"


@dataclass(frozen=True)
class DeepSeekV3Config:
    """One DeepSeek-V3, by Hugging Face's field names; InputError names a field that is wrong.

    `rope_scaling` and `quantization_config` are dictionaries: read them, never write into them.
    """

    # The decoder
    vocab_size: int = 129280  # rows of the embedding and of the output head
    hidden_size: int = 7168  # d
    num_hidden_layers: int = 61  # layers of the main model, MTP modules not counted
    first_k_dense_replace: int = 3  # the layers before this one are dense, the others are MoE
    intermediate_size: int = 18432  # width of the SwiGLU of a dense layer
    num_nextn_predict_layers: int = 1  # D, the MTP modules
    max_position_embeddings: int = 4096  # positions the model is made for
    rms_norm_eps: float = 1e-6  # ε of the d-wide norms; those of the latents always use 1e-6
    tie_word_embeddings: bool = False  # the head is the embedding

    # Multi-head latent attention
    num_attention_heads: int = 128  # n_h
    num_key_value_heads: int | None = None  # must equal n_h; None means n_h
    q_lora_rank: int | None = 1536  # d_c′, width of the query's latent; None: no such latent
    kv_lora_rank: int = 512  # d_c, width of the latent that the cache holds
    qk_nope_head_dim: int = 128  # d_h, the part of a query or key head without position
    qk_rope_head_dim: int = 64  # d_h^R, the rotated part; one rotated key serves all heads
    v_head_dim: int = 128  # d_h of the values
    attention_bias: bool = False  # biases on q_a_proj, kv_a_proj_with_mqa and o_proj only
    rope_theta: float = 10000.0  # θ: pair j of the rotated part turns by position · θ^(−2j/d_h^R)
    rope_scaling: dict[str, Any] | None = field(default=None, hash=False)  # YaRN, or None
    rope_interleave: bool = True  # pairs are channels (2j, 2j+1); False: (j, j + d_h^R/2)

    # DeepSeekMoE
    n_routed_experts: int = 256  # N_r
    n_shared_experts: int = 1  # N_s: one SwiGLU of N_s · moe_intermediate_size serves every token
    num_experts_per_tok: int = 8  # K_r
    moe_intermediate_size: int = 2048  # width of the SwiGLU of one routed expert
    n_group: int = 8  # groups of experts (nodes, in V3's training)
    topk_group: int = 4  # M, the groups a token may choose its experts from
    norm_topk_prob: bool = True  # the chosen gates are divided by their sum
    routed_scaling_factor: float = 2.5  # multiplies the gates afterwards
    aux_loss_alpha: float = 1e-4  # α of the sequence-wise balance loss (V3 §4.2; files say 0.001)

    # Beginnings
    initializer_range: float = 0.02  # σ of the initial weights; V3 itself trained with 0.006
    bos_token_id: int | None = 0
    eos_token_id: int | None = 1
    pad_token_id: int | None = None
    torch_dtype: str = "float32"  # of the stored weights
    quantization_config: dict[str, Any] | None = field(default=None, hash=False)  # FP8, or None

    # Stated for other readers: one value is allowed, or the value changes nothing here
    scoring_func: str = "sigmoid"  # of the router
    topk_method: str = "noaux_tc"  # groups, then experts, chosen by biased scores
    moe_layer_freq: int = 1  # every layer after the dense ones is MoE
    seq_aux: bool = True  # the balance loss is taken per sequence
    hidden_act: str = "silu"
    attention_dropout: float = 0.0
    use_cache: bool = True
    pretraining_tp: int = 1
    ep_size: int = 1

    def __post_init__(self) -> None:
        for name, value in checked(vars(self)).items():
            object.__setattr__(self, name, value)  # the class is frozen for everybody else

    @property
    def qk_head_dim(self) -> int:
        """d_h + d_h^R, the width of one head's query or key."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def num_moe_layers(self) -> int:
        """MoE layers of the main model."""
        return self.num_hidden_layers - self.first_k_dense_replace

    def is_moe_layer(self, layer: int) -> bool:
        """Whether layer `layer` is MoE; from num_hidden_layers on they are the MTP modules'."""
        return layer >= self.first_k_dense_replace

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "DeepSeekV3Config":
        """A named configuration, with `changes` to its fields: see PRESETS for the names."""
        if name not in PRESETS:
            raise InputError(f"preset is {shown(name)}; expected one of {', '.join(PRESETS)}")
        unknown = [key for key in changes if key not in _FIELDS]
        if unknown:
            raise InputError(f"preset {name} was given {shown(unknown[0])}, which is no field")
        return cls(**(PRESETS[name] | changes))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DeepSeekV3Config":
        """The configuration that a config.json states, in transformers' old or new spelling.

        Old (4.x): rope_theta, rope_scaling, torch_dtype. New (5.x): rope_parameters, dtype. Where
        both came, rope_scaling and dtype win, as they do in transformers 5. Unknown keys are
        ignored, derived ones (head_dim, qk_head_dim) too. InputError: another architecture, or a
        value that the configuration refuses.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"the configuration is {shown(values)}; expected a JSON object")
        if values.get("model_type") != MODEL_TYPE:
            came = shown(values.get("model_type"))
            raise InputError(f"model_type is {came}; expected {MODEL_TYPE!r}")
        if values.get("architectures") not in (None, [ARCHITECTURE]):
            came = shown(values["architectures"])
            raise InputError(f"architectures is {came}; expected [{ARCHITECTURE!r}]")
        known = {name: values[name] for name in _FIELDS if name in values}
        known |= _rope_fields(values)
        known["torch_dtype"] = next(
            (values[key] for key in ("dtype", "torch_dtype") if values.get(key) is not None),
            "float32",
        )
        return cls(**known)

    @classmethod
    def from_json(cls, path: str | Path) -> "DeepSeekV3Config":
        """The configuration in the file `path`; a CheckpointError names the file and the fault."""
        values = read_json(path)
        try:
            return cls.from_dict(values)
        except InputError as error:
            raise CheckpointError(f"{path}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """What config.json holds: JSON values, in the spelling that transformers 4 and 5 both read.

        transformers 4 knows no `rope_parameters` (it would silently use θ = 10000 without YaRN), so
        the pair `rope_theta` and `rope_scaling` is written. A null `quantization_config` is left
        out: its mere presence means a quantised checkpoint to some readers.
        """
        values = {"architectures": [ARCHITECTURE], "model_type": MODEL_TYPE}
        values |= copy.deepcopy(vars(self))
        if self.quantization_config is None:
            del values["quantization_config"]
        return values


_FIELDS = tuple(item.name for item in fields(DeepSeekV3Config))


def _rope_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """rope_theta and rope_scaling from either spelling; a θ inside the dictionary wins."""
    for name in ("rope_scaling", "rope_parameters"):
        given = values.get(name)
        if given is None or given == {}:
            continue
        if not isinstance(given, dict):
            raise InputError(f"{name} is {shown(given)}; expected null or a dictionary")
        inside = dict(given)
        theta = {"rope_theta": inside.pop("rope_theta")} if "rope_theta" in inside else {}
        if inside.get("partial_rotary_factor") == 1.0:
            del inside["partial_rotary_factor"]  # "all of it": says nothing new
        return {**theta, "rope_scaling": inside or None}
    return {"rope_scaling": None}

_BYTES = {  # the byte tokenizer: 256 bytes, then its special tokens
    "vocab_size": 264,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}
# σ = 0.02 in all of them: V3's 0.006 at width 7,168 is 0.5/√d, and 0.5/√256 is 0.03.
_SMALL = {"first_k_dense_replace": 1, "routed_scaling_factor": 1.0, "initializer_range": 0.02}

# Every dimension of a weight that FP8 quantises is at most 128 or a multiple of 128: transformers
# reads the scales of other shapes wrongly.
PRESETS: dict[str, dict[str, Any]] = {
    # For tests: every part of the architecture, as small as it can be.
    "nano": {
        **_BYTES, **_SMALL, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64,
        "num_attention_heads": 2, "q_lora_rank": 24, "kv_lora_rank": 16,
        "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
        "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
        "n_group": 4, "topk_group": 2, "max_position_embeddings": 64,
    },
    # The language model that `minideepseek journey` trains, on windows of 256 bytes; generation
    # may go on for as long again.
    "mini": {
        **_BYTES, **_SMALL, "hidden_size": 256, "num_hidden_layers": 3, "intermediate_size": 512,
        "num_attention_heads": 4, "q_lora_rank": 128, "kv_lora_rank": 96,
        "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32,
        "n_routed_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 64,
        "n_group": 4, "topk_group": 2, "max_position_embeddings": 512,
    },
    # The benchmark, frozen: no MTP module and no balance loss, since the PyTorch side has neither;
    # positions enough to time attention over long contexts.
    "small": {
        **_BYTES, **_SMALL, "vocab_size": 512,
        "hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 640,
        "num_attention_heads": 8, "q_lora_rank": 96, "kv_lora_rank": 64,
        "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32,
        "n_routed_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 128,
        "n_group": 1, "topk_group": 1, "max_position_embeddings": 16384,
        "num_nextn_predict_layers": 0, "aux_loss_alpha": 0.0,
    },
    # The reasoner of chapters 5 and 6: its tasks have a vocabulary of 33, which begins with the
    # padding, beginning and end tokens, and problem and thoughts together stay below 128 tokens.
    "reason": {
        **_SMALL, "vocab_size": 33, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "hidden_size": 128, "num_hidden_layers": 3, "intermediate_size": 256,
        "num_attention_heads": 4, "q_lora_rank": None, "kv_lora_rank": 64,
        "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32,
        "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
        "n_group": 1, "topk_group": 1, "max_position_embeddings": 128,
    },
    # The released model, for arithmetic only (ledger.py): the sizes are the defaults.
    "v3": {
        "max_position_embeddings": 163840,
        "rope_scaling": {
            "type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096,
            "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
        },
        "torch_dtype": "bfloat16",
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    },
}
