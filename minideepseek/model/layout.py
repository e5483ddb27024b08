r"""The tensors of a checkpoint: every name and shape, from the configuration alone.

Hugging Face's names are the only ones this package knows; `state_dict()` has the same. With d =
hidden_size, H heads, and the other letters of config.py:

    model.embed_tokens.weight                              [vocab_size, d]
    lm_head.weight                                         [vocab_size, d]     none if tied
    model.norm.weight                                      [d]
    model.layers.{l}.                                      l = 0 … num_hidden_layers − 1
        input_layernorm.weight                             [d]
        post_attention_layernorm.weight                    [d]
        self_attn.q_a_proj.weight                          [d_c′, d]
        self_attn.q_a_layernorm.weight                     [d_c′]
        self_attn.q_b_proj.weight                          [H (d_h + d_h^R), d_c′]
        self_attn.q_proj.weight                            [H (d_h + d_h^R), d]
                                                           instead of the three above without d_c′
        self_attn.kv_a_proj_with_mqa.weight                [d_c + d_h^R, d]    latent, rotated key
        self_attn.kv_a_layernorm.weight                    [d_c]
        self_attn.kv_b_proj.weight                         [H (d_h + d_v), d_c]
        self_attn.o_proj.weight                            [d, H d_v]
        mlp.{gate,up}_proj.weight                          [intermediate_size, d]     dense layers
        mlp.down_proj.weight                               [d, intermediate_size]
        mlp.gate.weight                                    [N_r, d]                   MoE layers
        mlp.gate.e_score_correction_bias                   [N_r]    float32, whatever the others are
        mlp.experts.{e}.{gate,up,down}_proj.weight         as above, width moe_intermediate_size
        mlp.shared_experts.{gate,up,down}_proj.weight      as above, width N_s times that

    An MTP module k = 1 … D is an MoE layer l = num_hidden_layers + k − 1 and besides
        enorm.weight, hnorm.weight, shared_head.norm.weight    [d]
        eh_proj.weight                                         [d, 2d]
        embed_tokens.weight, shared_head.head.weight           copies of embedding and head,
                                                               a tied head too

Linear weights are [out, in]. In an FP8 checkpoint a quantised X.weight has its float32 scales
beside it as X.weight_scale_inv, one per block of 128 × 128; in spite of its name the scale is what
the stored numbers are multiplied by.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from minideepseek.model.config import DeepSeekV3Config

Shape = tuple[int, ...]
FP8_BLOCK = 128  # the scales' blocks are 128 × 128 weights
ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


class _Layers(NamedTuple):
    """Layers that hold the same tensors."""

    numbers: range
    tensors: list[tuple[str, Shape]]  # names without the prefix model.layers.{number}.
    experts: list[tuple[str, Shape]]  # of one routed expert, without mlp.experts.{number}.


def tensor_shapes(
    config: DeepSeekV3Config, fp8_scales: bool = False, mtp_copies: bool = False
) -> Iterator[tuple[str, Shape]]:
    """(name, shape) of every tensor of the checkpoint, under Hugging Face's names.

    Made one by one, V3's 46,000 within a tenth of a second. `fp8_scales` adds after each weight
    that an FP8 checkpoint quantises its `…weight_scale_inv`; `mtp_copies` adds the copies of
    embedding and head that the released files hold in the layer of each MTP module.
    """
    names = _tensor_shapes(config, mtp_copies)
    if not fp8_scales:
        yield from names
        return
    for name, shape in names:
        yield name, shape
        if is_quantised(name):
            yield name + "_scale_inv", scale_shape(shape)


def is_quantised(name: str) -> bool:
    """Whether DeepSeek's FP8 checkpoints hold this tensor in FP8.

    The projections of attention and of every SwiGLU are. Embedding, head, norms, router, biases
    and the MTP module's eh_proj are not.
    """
    projection = name.endswith(("_proj.weight", "_with_mqa.weight"))
    return projection and not name.endswith("eh_proj.weight")


def scale_shape(shape: Shape) -> Shape:
    """The shape of a quantised weight's scales: one per block, the last ones may be ragged."""
    return tuple(-(-size // FP8_BLOCK) for size in shape)


def part_of(name: str, config: DeepSeekV3Config) -> str:
    """The part of the model, a key of `ledger.count_parameters`, that the tensor belongs to."""
    if not name.startswith("model.layers."):
        outer = {"model.embed_tokens.weight": "embedding", "lm_head.weight": "head"}
        return outer.get(name, "norms")
    number, rest = name.removeprefix("model.layers.").split(".", 1)
    if int(number) >= config.num_hidden_layers:
        return "mtp"
    if "norm" in rest:  # input_layernorm, post_attention_layernorm, q_a_ and kv_a_layernorm
        return "norms"
    parts = {
        "self_attn.": "attention",
        "mlp.experts.": "routed experts",
        "mlp.shared_experts.": "shared experts",
        "mlp.gate.": "router",
        "mlp.": "dense",
    }
    return next(part for prefix, part in parts.items() if rest.startswith(prefix))


def checkpoint_size(config: DeepSeekV3Config) -> tuple[int, int, int]:
    """(tensors, numbers, bytes) of the checkpoint as DeepSeek releases one.

    The copies in the MTP layers are counted. Where the configuration has a quantization_config,
    weights are FP8 of one byte and have their float32 scales. The router's biases are float32.
    """
    fp8, item = config.quantization_config is not None, ITEM_BYTES[config.torch_dtype]
    tensors = numbers = size = 0

    def add(name: str, shape: Shape, times: int) -> None:
        nonlocal tensors, numbers, size
        quantised, count = fp8 and is_quantised(name), math.prod(shape)
        wide = 4 if name.endswith("e_score_correction_bias") else item
        scales = math.prod(scale_shape(shape)) if quantised else 0
        tensors += times * (2 if quantised else 1)
        numbers += times * (count + scales)
        size += times * (count * (1 if quantised else wide) + 4 * scales)

    for name, shape in _outer_tensors(config):
        add(name, shape, 1)
    for layers in _layers(config, mtp_copies=True):
        for name, shape in layers.tensors:
            add(name, shape, len(layers.numbers))
        for name, shape in layers.experts:
            add(name, shape, len(layers.numbers) * config.n_routed_experts)
    return tensors, numbers, size


def _tensor_shapes(config: DeepSeekV3Config, mtp_copies: bool) -> Iterator[tuple[str, Shape]]:
    yield from _outer_tensors(config)
    for layers in _layers(config, mtp_copies):
        for number in layers.numbers:
            prefix = f"model.layers.{number}."
            for name, shape in layers.tensors:
                yield prefix + name, shape
            if layers.experts:
                for expert in range(config.n_routed_experts):
                    for name, shape in layers.experts:
                        yield f"{prefix}mlp.experts.{expert}.{name}", shape


def _outer_tensors(config: DeepSeekV3Config) -> list[tuple[str, Shape]]:
    table = (config.vocab_size, config.hidden_size)
    head = [] if config.tie_word_embeddings else [("lm_head.weight", table)]
    norm: tuple[str, Shape] = ("model.norm.weight", (config.hidden_size,))
    return [("model.embed_tokens.weight", table), norm, *head]


def _layers(config: DeepSeekV3Config, mtp_copies: bool) -> list[_Layers]:
    """The dense layers, the MoE layers, and the layers of the MTP modules."""
    c, d, last = config, config.hidden_size, config.num_hidden_layers
    both = _attention_tensors(c) + [
        ("input_layernorm.weight", (d,)),
        ("post_attention_layernorm.weight", (d,)),
    ]
    dense = both + _swiglu("mlp.", d, c.intermediate_size)
    moe = both + [
        ("mlp.gate.weight", (c.n_routed_experts, d)),
        ("mlp.gate.e_score_correction_bias", (c.n_routed_experts,)),
        *_swiglu("mlp.shared_experts.", d, c.n_shared_experts * c.moe_intermediate_size),
    ]
    mtp = moe + [
        ("enorm.weight", (d,)),
        ("hnorm.weight", (d,)),
        ("eh_proj.weight", (d, 2 * d)),
        ("shared_head.norm.weight", (d,)),
    ]
    if mtp_copies:
        table = (c.vocab_size, d)
        mtp += [("embed_tokens.weight", table), ("shared_head.head.weight", table)]
    expert = _swiglu("", d, c.moe_intermediate_size)
    return [
        _Layers(range(c.first_k_dense_replace), dense, []),
        _Layers(range(c.first_k_dense_replace, last), moe, expert),
        _Layers(range(last, last + c.num_nextn_predict_layers), mtp, expert),
    ]


def _attention_tensors(config: DeepSeekV3Config) -> list[tuple[str, Shape]]:
    c, d, heads = config, config.hidden_size, config.num_attention_heads
    latent = c.kv_lora_rank + c.qk_rope_head_dim
    shapes: dict[str, Shape] = {}
    if c.q_lora_rank is None:
        shapes["q_proj.weight"] = (heads * c.qk_head_dim, d)
    else:
        shapes["q_a_proj.weight"] = (c.q_lora_rank, d)
        shapes["q_a_layernorm.weight"] = (c.q_lora_rank,)
        shapes["q_b_proj.weight"] = (heads * c.qk_head_dim, c.q_lora_rank)
    shapes["kv_a_proj_with_mqa.weight"] = (latent, d)
    shapes["kv_a_layernorm.weight"] = (c.kv_lora_rank,)
    shapes["kv_b_proj.weight"] = (heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank)
    shapes["o_proj.weight"] = (d, heads * c.v_head_dim)
    if c.attention_bias:
        if c.q_lora_rank is not None:
            shapes["q_a_proj.bias"] = (c.q_lora_rank,)
        shapes["kv_a_proj_with_mqa.bias"] = (latent,)
        shapes["o_proj.bias"] = (d,)
    return [(f"self_attn.{name}", shape) for name, shape in shapes.items()]


def _swiglu(prefix: str, d: int, width: int) -> list[tuple[str, Shape]]:
    up, down = (width, d), (d, width)
    names = ("gate_proj", up), ("up_proj", up), ("down_proj", down)
    return [(f"{prefix}{name}.weight", shape) for name, shape in names]
