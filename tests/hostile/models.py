"""A model's directory: config, index, shards, FP8; how it is changed, and what must come out."""

import functools
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  names of dtypes
import numpy as np

from minideepseek.model.checkpoint import save_pretrained
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.contents import INDEX, SINGLE
from minideepseek.model.transformer import DeepSeekV3
from tests.hostile import tensors
from tests.hostile.cases import LINKS, SPECIAL, Case, Files, change_bytes
from tests.hostile.json_changes import NUMBERS, RAW, any_value, change_json, write_json

TINY = {
    "vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 2, "intermediate_size": 6,
    "num_attention_heads": 1, "q_lora_rank": 4, "kv_lora_rank": 4, "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 2, "v_head_dim": 4, "n_routed_experts": 2, "num_experts_per_tok": 1,
    "moe_intermediate_size": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 0, "max_position_embeddings": 32, "bos_token_id": 0,
    "eos_token_id": 1, "pad_token_id": None,
}  # fmt: skip
YARN = {
    "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "mscale": 1.0,
    "mscale_all_dim": 1.0,
}  # fmt: skip
DEFAULTS = {  # of a config.json's absent keys: transformers' DeepseekV3Config
    "vocab_size": 129280, "hidden_size": 7168, "num_hidden_layers": 61, "first_k_dense_replace": 3,
    "intermediate_size": 18432, "num_nextn_predict_layers": 1, "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "num_attention_heads": 128,
    "num_key_value_heads": None, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "attention_bias": False, "rope_theta": 10000.0,
    "rope_scaling": None, "rope_interleave": True, "n_routed_experts": 256, "n_shared_experts": 1,
    "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "n_group": 8, "topk_group": 4,
    "norm_topk_prob": True, "routed_scaling_factor": 2.5, "aux_loss_alpha": 1e-4,
    "initializer_range": 0.02, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None,
    "torch_dtype": "float32", "quantization_config": None, "scoring_func": "sigmoid",
    "topk_method": "noaux_tc", "moe_layer_freq": 1, "seq_aux": True, "hidden_act": "silu",
    "attention_dropout": 0.0, "use_cache": True, "pretraining_tp": 1, "ep_size": 1,
}  # fmt: skip
PLAIN_NAMES = ("model-00001-of-00003.safetensors", "a.safetensors", "MODEL.safetensors")
PATHS = (
    "../outside/{}", "./{}", "../m/{}", "/{}", "//{}", "..\\outside\\{}", "C:\\{}", "{}/", "{}\0",
    "sub/{}", "../../../../../../../../../../etc/passwd", "/etc/passwd", "/dev/zero", "", ".", "..",
    "~/{}", "file://{}", ".{}", "-{}", "{}\n", " {}", "%2e%2e/{}", "{}.", "．．/{}", "a" * 5000,
    "a" * 300 + ".safetensors", "config.json", "\x1b[31m{}", "\ud800{}", "CON.safetensors",
)  # fmt: skip


@functools.cache
def folders() -> tuple[Files, ...]:
    """Tiny models: one file; three shards; FP8 with an MTP module; bfloat16, tied, YaRN."""
    made = []
    for changes, dtype, most in (
        ({}, "float32", None),
        ({}, "float64", 2500),
        ({"num_nextn_predict_layers": 1}, "float8_e4m3fn", None),
        ({"tie_word_embeddings": True, "rope_scaling": YARN, "attention_bias": True}, "bfloat16",
         1200),
    ):  # fmt: skip
        model = DeepSeekV3(DeepSeekV3Config(**TINY | changes), np.random.default_rng(1))
        with tempfile.TemporaryDirectory() as folder:
            save_pretrained(model, folder, dtype, most)
            made.append({path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())})
    return tuple(made)


# ------------------------------------------------------------------------------------- the changes


def meaning(rng: random.Random, key: Any) -> Any:
    """A value for a key of config.json or of an index."""
    if key == "weight_map":
        return any_value(rng)
    if isinstance(key, str) and key.endswith((".weight", "_bias", "_inv")):
        path = rng.choice(PATHS) if rng.random() < 0.8 else "{}"
        return path.replace("{}", rng.choice(PLAIN_NAMES))
    if key in ("rope_scaling", "rope_parameters"):
        return _scaling(rng)
    if key == "quantization_config":
        form = {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"}
        return form | {rng.choice((*form, "scale_fmt", "activation_scheme")): rng.choice(
            ("ue8m0", "e5m2", [64, 64], [128.0, 128], 128, None, "static"))}  # fmt: skip
    if key in ("torch_dtype", "dtype"):
        return rng.choice(("float32", "float64", "float16", "bfloat16", "float8", "int8", "F32"))
    return rng.choice((*NUMBERS, *range(-1, 20)))


def _scaling(rng: random.Random) -> Any:
    given: dict[str, Any] = dict(YARN)
    for _ in range(rng.randrange(4)):
        key = rng.choice((*YARN, "rope_type", "rope_theta", "beta_fast", "beta_slow", "truncate",
                          "attention_factor", "partial_rotary_factor", "x"))  # fmt: skip
        given[key] = rng.choice(("yarn", "default", "linear", True, None, *NUMBERS, 32, 4, 8))
    if rng.random() < 0.3:
        given.pop(rng.choice(tuple(given)))
    return given


def make_config(rng: random.Random, base: Files) -> Case:
    """config.json alone."""
    name, how = "config.json", rng.random()
    if how < 0.25:
        data, note = change_bytes(rng, base[name])
        return Case({name: data}, note)
    if how < 0.85:
        data, note, harmless = change_json(rng, base[name], meaning)
        return Case({name: data}, note, harmless)
    if how < 0.88:
        return _special(rng, name)
    if how < 0.92:
        text = rng.choice((write_json(rng), rng.choice(RAW)))
        return Case({name: text.encode("utf-8", "surrogatepass")}, "any JSON")
    values = {"model_type": "deepseek_v3"} | {
        key: meaning(rng, key) if rng.random() < 0.1 else TINY.get(key, DEFAULTS[key])
        for key in rng.sample(tuple(DEFAULTS), rng.randrange(len(DEFAULTS)))
    }
    if rng.random() < 0.3:
        values["rope_parameters"] = _scaling(rng)
    return Case({name: json.dumps(values).encode()}, "a config from the grammar")


def _special(rng: random.Random, name: str) -> Case:
    kind = rng.choice(SPECIAL)
    return Case({name: kind}, f"{name}: {kind}", kind in LINKS)


def make_index(rng: random.Random, base: Files) -> Case:
    """The index, now and then a shard."""
    if INDEX not in base or rng.random() < 0.1:
        return make_any(rng, base)
    how = rng.random()
    if how < 0.15:
        data, note = change_bytes(rng, base[INDEX])
        return Case({INDEX: data}, note)
    if how < 0.5:
        data, note, harmless = change_json(rng, base[INDEX], meaning)
        return Case({INDEX: data}, note, harmless)
    if how < 0.55:
        return _special(rng, rng.choice((INDEX, *base)))
    index = json.loads(base[INDEX])
    where = index["weight_map"]
    shards = sorted(set(where.values()))
    kind = rng.randrange(6)
    if kind < 3:  # all of a shard's tensors are said to be elsewhere, where they even are
        old, path = rng.choice(shards), rng.choice(PATHS)
        new = path.replace("{}", old)
        index["weight_map"] = {n: new if f == old else f for n, f in where.items()}
        note = f"{old} → {new[:80]!r}"
    elif kind == 3:
        moved = rng.choice(tuple(where))
        where[moved] = rng.choice((*shards, "new.safetensors", SINGLE))
        note = f"{moved} said to be in {where[moved]}"
    elif kind == 4:
        gone = rng.choice(tuple(where))
        where[gone + rng.choice((".x", "", "_scale_inv", ".rotary_emb.inv_freq"))] = where.pop(gone)
        note = f"{gone} renamed"
    else:
        index = rng.choice((where, {"weight_map": {}}, {"weight_map": list(where)}, [index]))
        note = "an index of another form"
    text = json.dumps(index, ensure_ascii=rng.random() < 0.5)
    return Case({INDEX: text.encode("utf-8", "surrogatepass")}, note)


def make_any(rng: random.Random, base: Files) -> Case:
    """Any file of the directory, or two of them."""
    case = Case(harmless=True)
    for _ in range(rng.choice((1, 1, 1, 2))):
        name = rng.choice(tuple(base))
        if rng.random() < 0.05:
            one = _special(rng, rng.choice((*base, INDEX, SINGLE)))
            one.harmless = one.harmless and set(one.files) <= set(base)
        elif name == "config.json":
            one = make_config(rng, base)
        elif name == INDEX:
            one = make_index(rng, base) if rng.random() < 0.9 else Case({INDEX: "missing"}, "none")
        elif name.endswith(".safetensors"):
            one = _shard(rng, name, base)
        else:
            ignored = name == "generation_config.json"
            one = Case({name: rng.randbytes(9)}, f"noise in {name}", ignored)
        case.files |= one.files
        case.note += f"{name}: {one.note}; "
        case.harmless = case.harmless and one.harmless
    return case


def _shard(rng: random.Random, name: str, base: Files) -> Case:
    """A file of tensors: as tensors.make does; numbers that are none; other names."""
    data, how = base[name], rng.random()
    if how < 0.4:
        made = tensors.make(rng, {tensors.NAME: data})
        return Case({name: made.files[tensors.NAME]}, made.note)
    length = int.from_bytes(data[:8], "little")
    body = bytearray(data[8 + length :])
    if how < 0.7:
        none = (b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\xff\xff")  # NaN, ∞, NaN
        value = rng.choice((*none, rng.randbytes(4)))
        at = rng.randrange(len(body) // 4) * 4
        body[at : at + 4] = value
        return Case({name: data[: 8 + length] + bytes(body)}, f"{value!r} at {at} of the data")
    header = json.loads(data[8 : 8 + length])
    old = rng.choice([n for n in header if n != "__metadata__"])
    new = rng.choice((
        old + "_scale_inv", old.removesuffix("_scale_inv"), "lm_head.weight", old + "\x1b[2J",
        "model.layers.0.self_attn.rotary_emb.inv_freq", "\x1b]0;x\x07.rotary_emb.inv_freq",
        "model.layers.99999999999.x", "model.layers.2.embed_tokens.weight", "a\n.weight", "",
        "model.layers.1.mlp.experts.2.up_proj.weight", "model.layers.٢.enorm.weight",
    ))  # fmt: skip
    header[new] = header.pop(old)
    if rng.random() < 0.3:
        entry = header[new]
        entry["dtype"] = rng.choice([c for c, w in tensors.WIDTHS.items()
                                     if w == tensors.WIDTHS[entry["dtype"]]])  # fmt: skip
    if rng.random() < 0.3:
        header[new]["shape"].append(1)
    return Case({name: tensors.encode(header, bytes(body))}, f"{old} is called {new!r}")
