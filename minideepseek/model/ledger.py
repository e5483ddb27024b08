r"""The ledger: what a DeepSeek-V3 holds and costs, counted from its configuration alone.

The released model has 671 billion parameters and cannot be built on the machine that reads this;
its numbers can. The names and shapes behind them are in layout.py.

Parameters. A linear map from a to b numbers holds a·b weights; with V3's letters (config.py), per
layer (r = d_c, r_q = d_c′, d_n = qk_nope_head_dim, d_r = d_h^R, d_v = v_head_dim, H = n_h):

    attention        r_q d + H(d_n + d_r) r_q + (r + d_r) d + H(d_n + d_v) r + d H d_v
    dense SwiGLU     3 d · intermediate_size
    routed experts   N_r · 3 d · moe_intermediate_size     (K_r of the N_r work for one token)
    shared experts   N_s · 3 d · moe_intermediate_size
    router           N_r d weights and N_r biases          (the biases have no gradient)
    norms            2d + r_q + r

besides embedding and head, V d each, and the last norm, d. An MTP module holds one MoE layer, a
projection of 2d² and three norms; embedding and head it shares. Activated parameters are those
that work for one token. The embedding is not among them, one row of it is read and nothing is
multiplied; both ways of counting are in use, 36.6 and 37.6 billion for V3.

Computation. One weight in a matrix product costs two FLOPs per token, a multiplication and an
addition. Attention adds, for each layer and each key that the token attends to, itself included:

    naive       2 H (d_n + d_r + d_v)    keys and values expanded once per token: training, prefill
    absorbed    2 H (r + d_r + r)        queries and outputs moved into the latent's space instead
    re-expanded 2 H (d_n + d_r + d_v) + 2 H (d_n + d_v) r      a naive decoder on the latent cache

Per key the absorbed form costs 3.4 times the naive one at V3's sizes, and re-expanding every cached
latent at every step 411 times: hence absorbed for decoding, naive for the rest. Moving query and
output costs what kv_b_proj costs, so the linear part is the same in all three. Not counted: norms,
biases, rotations, softmax, the choice of experts, SwiGLU's products.

Token t of a sequence attends to t keys, so over T tokens the mean is (T + 1)/2. The backward pass
costs twice the forward one: training costs three forward passes.

Cache. Numbers kept per token and layer, MHA, GQA and MQA with keys of d_n and values of d_v
(V2, table 1):

    MHA      H (d_n + d_v)           GQA-8    8 (d_n + d_v)           MQA    d_n + d_v
    MLA      r + d_r                 MLA expanded    H (d_n + d_r + d_v), as transformers 4 has it

MLA's 576 numbers are those of 2.25 groups of GQA: more than MQA, 57 times less than MHA.

>>> from minideepseek.model.config import DeepSeekV3Config
>>> v3 = DeepSeekV3Config.preset("v3")
>>> f"{main_parameters(v3):,}", f"{activated_parameters(v3):,}"
('671,026,419,200', '36,625,618,432')
>>> cache_elements(v3)["MLA"] * 2 * v3.num_hidden_layers  # bytes per token in BF16
70272
"""

from minideepseek.errors import InputError
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.config_checks import shown
from minideepseek.model.layout import checkpoint_size


def count_parameters(config: DeepSeekV3Config) -> dict[str, int]:
    """Parameters by part, by the formulas above: all but "mtp" belong to the main model."""
    c, d = config, config.hidden_size
    layers, moe_layers = c.num_hidden_layers, c.num_moe_layers
    expert = 3 * d * c.moe_intermediate_size
    one_moe = {
        "attention": _attention_weights(c) + _attention_biases(c),
        "routed experts": c.n_routed_experts * expert,
        "shared experts": c.n_shared_experts * expert,
        "router": c.n_routed_experts * (d + 1),
        "norms": 2 * d + (c.q_lora_rank or 0) + c.kv_lora_rank,
    }
    return {
        "embedding": c.vocab_size * d,
        "attention": layers * one_moe["attention"],
        "dense": c.first_k_dense_replace * 3 * d * c.intermediate_size,
        "routed experts": moe_layers * one_moe["routed experts"],
        "shared experts": moe_layers * one_moe["shared experts"],
        "router": moe_layers * one_moe["router"],
        "norms": layers * one_moe["norms"] + d,
        "head": 0 if c.tie_word_embeddings else c.vocab_size * d,
        "mtp": c.num_nextn_predict_layers * (sum(one_moe.values()) + 2 * d * d + 3 * d),
    }


def main_parameters(config: DeepSeekV3Config) -> int:
    """Parameters of the main model, the routers' biases among them; MTP modules are not."""
    return sum(count for part, count in count_parameters(config).items() if part != "mtp")


def activated_by_part(config: DeepSeekV3Config) -> dict[str, int]:
    """Parameters of the main model that work for one token, by part."""
    parts = count_parameters(config)
    chosen = parts["routed experts"] // config.n_routed_experts * config.num_experts_per_tok
    head = config.vocab_size * config.hidden_size  # works also where it is the embedding
    return {**parts, "embedding": 0, "routed experts": chosen, "head": head, "mtp": 0}


def activated_parameters(config: DeepSeekV3Config, with_embedding: bool = False) -> int:
    """Parameters that work for one token, head included; V3's papers say 37 billion."""
    looked_up = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    return sum(activated_by_part(config).values()) + (looked_up if with_embedding else 0)


def flops_per_key(config: DeepSeekV3Config) -> dict[str, int]:
    """FLOPs of attention per token, layer and key attended to, for the three ways of computing."""
    c = config
    naive = 2 * c.num_attention_heads * (c.qk_head_dim + c.v_head_dim)
    expand = 2 * c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim) * c.kv_lora_rank
    absorbed = 2 * c.num_attention_heads * (2 * c.kv_lora_rank + c.qk_rope_head_dim)
    return {"naive": naive, "absorbed": absorbed, "re-expanded": naive + expand}


def flops_per_token(config: DeepSeekV3Config, keys: float, attention: str = "naive") -> float:
    """FLOPs of the main model's forward pass for one token that attends to `keys` keys.

    `keys` may be a mean: (T + 1)/2 for the tokens of a sequence of T. `attention` is a key of
    `flops_per_key`. Training costs three times this.
    """
    active = activated_by_part(config)
    adds = config.num_moe_layers * config.n_routed_experts  # biases: no product
    adds += config.num_hidden_layers * _attention_biases(config) + active["norms"]
    weights = sum(active.values()) - adds
    return 2 * weights + config.num_hidden_layers * keys * flops_per_key(config)[attention]


def cache_elements(config: DeepSeekV3Config) -> dict[str, int]:
    """Numbers that a cache keeps per token and layer, for MLA and for what it replaces."""
    c = config
    pair = c.qk_nope_head_dim + c.v_head_dim  # one key and one value
    return {
        "MHA": c.num_attention_heads * pair,
        "MLA expanded": c.num_attention_heads * (c.qk_head_dim + c.v_head_dim),
        "GQA-8": min(8, c.num_attention_heads) * pair,
        "MQA": pair,
        "MLA": c.kv_lora_rank + c.qk_rope_head_dim,
    }


def _attention_weights(config: DeepSeekV3Config) -> int:
    c, d, heads = config, config.hidden_size, config.num_attention_heads
    query = heads * c.qk_head_dim * (c.q_lora_rank or d) + (c.q_lora_rank or 0) * d
    latent = (c.kv_lora_rank + c.qk_rope_head_dim) * d
    expand = heads * (c.qk_nope_head_dim + c.v_head_dim) * c.kv_lora_rank
    return query + latent + expand + d * heads * c.v_head_dim


def _attention_biases(config: DeepSeekV3Config) -> int:
    c = config
    one = (c.q_lora_rank or 0) + c.kv_lora_rank + c.qk_rope_head_dim + c.hidden_size
    return one if c.attention_bias else 0


def format_ledger(config: DeepSeekV3Config, context: int = 4096) -> str:
    """The ledger as text on one screen; `context` is the length the FLOPs are stated for.

    Raises InputError if `context` is not a positive integer.
    """
    if not isinstance(context, int) or isinstance(context, bool) or context < 1:
        raise InputError(f"context is {shown(context)}; expected a positive number of tokens")
    c, line = config, "─" * _WIDTH
    lines = [
        f"{c.num_hidden_layers} layers ({c.first_k_dense_replace} dense, {c.num_moe_layers} MoE) "
        f"of width {c.hidden_size:,}, {c.num_attention_heads} heads, vocabulary {c.vocab_size:,}",
        f"each MoE layer: {c.n_routed_experts} routed experts, {c.num_experts_per_tok} chosen per "
        f"token, {c.n_shared_experts} shared",
    ]
    lines += [line, *_parameter_lines(c), line, *_flops_lines(c, context)]
    return "\n".join([*lines, line, *_cache_lines(c)])


_WIDTH = 80  # of the ledger's lines
_UNITS = ((1e9, "G"), (1e6, "M"), (1.0, ""))


def _row(label: str, *cells: str) -> str:
    """A label, then cells in two or three right-aligned columns."""
    width = 13 if len(cells) > 2 else 21
    left = label.ljust(_WIDTH - width * len(cells))
    return (left + "".join(f"{cell:>{width}}" for cell in cells)).rstrip()


def _parameter_lines(config: DeepSeekV3Config) -> list[str]:
    parts, active = count_parameters(config), activated_by_part(config)
    mtp, modules = parts.pop("mtp"), config.num_nextn_predict_layers
    tensors, numbers, size = checkpoint_size(config)
    dtypes = config.torch_dtype + (" and FP8 with scales" if config.quantization_config else "")
    return [
        _row("parameters", "held", "used per token"),
        *(_row(f"  {part}", f"{parts[part]:,}", f"{active[part]:,}") for part in parts),
        _row("  main model", f"{sum(parts.values()):,}", f"{activated_parameters(config):,}"),
        _row("    with the embedding", "", f"{activated_parameters(config, True):,}"),
        _row(f"  MTP modules ({modules}), their own", f"{mtp:,}", ""),
        f"  on disk in {dtypes}, the MTP modules' copies included:",
        f"    {tensors:,} tensors, {numbers:,} numbers, {size:,} bytes",
    ]


def _flops_lines(config: DeepSeekV3Config, context: int) -> list[str]:
    each = [flops_per_token(config, context, way) for way in flops_per_key(config)]
    mean = flops_per_token(config, (context + 1) / 2)
    unit, name = next((u, n) for u, n in _UNITS if mean >= u)

    def cells(values: list[float]) -> list[str]:
        return [f"{value / unit:,.2f}" for value in values] + [""] * (3 - len(values))

    return [
        _row(f"{name}FLOPs per token, by attention", *flops_per_key(config)),
        _row(f"  forward, attending to {context:,} keys", *cells(each)),
        _row(f"  forward, mean over {context:,} tokens", *cells([mean])),
        _row("  training on them, 3 × the forward", *cells([3 * mean])),
    ]


def _cache_lines(config: DeepSeekV3Config) -> list[str]:
    layers = config.num_hidden_layers
    return [
        _row("cache per token", "numbers per layer", "BF16 bytes, in all"),
        *(
            _row(f"  {name}", f"{count:,}", f"{2 * layers * count:,}")
            for name, count in cache_elements(config).items()
        ),
    ]
