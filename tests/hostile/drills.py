"""The cases that every run begins with: each known class of hostile file, at its exact edge.

Chance meets an edge (a size of −1, a group that does not divide, a scale of 0) once in thousands of
files; two thousand must be enough to notice that a check is gone. These few hundred come first, the
others are drawn.
"""

import functools
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from minideepseek.model.contents import INDEX, SINGLE
from tests.hostile import config_rules, models, runs, stages, tensors, texts
from tests.hostile.cases import LINKS, SPECIAL, Case, Files
from tests.hostile.json_changes import RAW
from tests.hostile.models import PATHS

Drill = tuple[str, Files, Case]  # of a reader, from a base
DROPPED = object()


def with_value(data: bytes, path: tuple[Any, ...], value: Any) -> bytes:
    """JSON with another value at a path, or without it (DROPPED)."""
    document = json.loads(data)
    held = document
    for key in path[:-1]:
        held = held[key]
    if value is DROPPED:
        del held[path[-1]]
    else:
        held[path[-1]] = value
    return json.dumps(document).encode()


def edit(reader: str, base: Files, name: str, path: tuple[Any, ...], value: Any) -> Drill:
    """A drill of one value in one JSON file."""
    case = Case({name: with_value(base[name], path, value)}, f"{path} = {value!r:.60}")
    return reader, base, case


@functools.cache
def drills() -> tuple[Drill, ...]:
    """All of them, in order."""
    kinds = (_json, _tensors, _config, _index, _weights, _tokenizers, _metrics, _jobs, _checkpoint,
             _records, _texts, _special)  # fmt: skip
    return tuple(drill for kind in kinds for drill in kind())


def _json() -> Iterator[Drill]:
    for raw in RAW:
        for text in (raw, f'{{"a": {raw}}}'):
            case = Case({"x.json": text.encode("utf-8", "surrogatepass")}, f"{text[:30]!r}")
            yield "json", texts.JSON_BASES[0], case


def _tensors() -> Iterator[Drill]:
    rng, of = random.Random(0), tensors.NAME
    model = {of: models.folders()[0][SINGLE]}
    for base in (tensors.every_dtype(), model):
        data = base[of]
        length = int.from_bytes(data[:8], "little")
        header, rest = data[8 : 8 + length], data[8 + length :]
        for kind in tensors.LIES:
            for _ in range(2):
                made = tensors.lie(rng, header, rest, kind)
                yield "safetensors", base, Case({of: made}, f"lie: {kind}")
        for claim in (*tensors.LENGTHS, length - 1, length + 1, len(data) - 8, len(data) - 7):
            made = struct.pack("<Q", claim % 2**64) + data[8:]
            yield "safetensors", base, Case({of: made}, f"header claims {claim}")
        for odd in (b" ", b"\n", b"\0", b"\xef\xbb\xbf", b"{}"):
            for text in (odd + header, header + odd):
                yield "safetensors", base, Case({of: tensors.encode(text, rest)}, f"{odd!r}")
        for change in (rest[:-1], rest + b"\0", rest * 2, b""):
            made = tensors.encode(header, change)
            yield "safetensors", base, Case({of: made}, f"{len(change)} bytes of data")
        twin = b"{" + header.strip()[1:-1] + b"," + header.strip()[1:]
        yield "safetensors", base, Case({of: tensors.encode(twin, rest)}, "every name twice")
        for raw in RAW:
            text = b'{"a":%s,' % raw.encode("utf-8", "surrogatepass") + header[1:]
            yield "safetensors", base, Case({of: tensors.encode(text, rest)}, f"a: {raw[:20]}")


def _config() -> Iterator[Drill]:
    base, name = models.folders()[0], "config.json"
    values: list[tuple[str, Any]] = []
    for field, least in (config_rules.INTEGERS | config_rules.OR_NULL).items():
        values += [(field, v) for v in (least - 1, -(2**31), 2**31, True, float(least), None, "1")]
    for field, (low, high) in config_rules.NUMBERS.items():
        values += [(field, v) for v in (low, high * 10, True, "1", None, -1)]
    for field in config_rules.FLAGS:
        values += [(field, 1), (field, None)]
    values += [
        ("n_group", 2), ("n_group", 3), ("topk_group", 2), ("num_experts_per_tok", 3),
        ("n_routed_experts", 3), ("first_k_dense_replace", 3), ("qk_rope_head_dim", 3),
        ("num_key_value_heads", 2), ("bos_token_id", 12), ("eos_token_id", 12),
        ("pad_token_id", 12), ("vocab_size", 1), ("hidden_act", "gelu"), ("seq_aux", 1),
        ("moe_layer_freq", True), ("scoring_func", "softmax"), ("aux_loss_alpha", -1e-9),
        ("torch_dtype", "int8"),
        ("architectures", []), ("model_type", "deepseek_v2"), ("attention_dropout", False),
        ("rope_scaling", []), ("quantization_config", {"quant_method": "fp8"}),
    ]  # fmt: skip
    for field, value in values:
        yield edit("config", base, name, (field,), value)
    yield edit("config", base, name, ("model_type",), DROPPED)
    both = {"n_routed_experts": 5, "n_group": 2, "topk_group": 2}  # two in a group, and one left
    case = Case({name: json.dumps(json.loads(base[name]) | both).encode()}, "groups of 2½")
    yield "config", base, case
    yarn = models.folders()[3]
    for key, value in (("factor", 5.0), ("factor", 0.5), ("type", "linear"), ("x", 1),
                       ("original_max_position_embeddings", True), ("beta_slow", 40),
                       ("mscale", -1), ("truncate", False), ("rope_type", "default"),
                       ("factor", "4")):  # fmt: skip
        yield edit("config", yarn, name, ("rope_scaling", key), value)


def _index() -> Iterator[Drill]:
    base = models.folders()[1]
    where = json.loads(base[INDEX])["weight_map"]
    shards = sorted(set(where.values()))
    for path in PATHS:
        new = path.replace("{}", shards[0])
        moved = {n: new if f == shards[0] else f for n, f in where.items()}
        text = json.dumps({"weight_map": moved}).encode()
        yield "index", base, Case({INDEX: text}, f"{shards[0]} → {new[:60]!r}")
    some = next(iter(where))
    for changes in ({"a.weight": shards[0]}, {some: shards[-1]}, {some: "a.safetensors"},
                    {some: 1}, {some: [shards[0]]}):  # fmt: skip
        text = json.dumps({"weight_map": where | changes}).encode()
        yield "index", base, Case({INDEX: text}, f"{changes}")
    yield edit("index", base, INDEX, ("weight_map", some), DROPPED)
    yield "index", base, Case({SINGLE: models.folders()[0][SINGLE]}, "both an index and a file")
    single = models.folders()[0]
    for key in ("n_routed_experts", "num_hidden_layers", "num_nextn_predict_layers", "vocab_size"):
        for reader in ("inspect", "model"):  # 2³¹ of anything
            yield edit(reader, single, "config.json", (key,), 2**31 - 2)
    rotary = "model.layers.0.self_attn.rotary_emb.inv_freq"
    for name in ("\x1b]0;x\x07.rotary_emb.inv_freq", rotary):
        length = int.from_bytes(single[SINGLE][:8], "little")
        header = json.loads(single[SINGLE][8 : 8 + length])
        end = len(single[SINGLE]) - 8 - length
        header[name] = {"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]}
        data = single[SINGLE][8 + length :] + bytes(4)
        yield "inspect", single, Case({SINGLE: tensors.encode(header, data)}, f"{name!r}")


def _weights() -> Iterator[Drill]:
    """One number of a weight, a code, a scale or a copy is another."""
    for reader in ("model", "fp8"):
        for number in (0, 2):
            base = models.folders()[number]
            length = int.from_bytes(base[SINGLE][:8], "little")
            header = json.loads(base[SINGLE][8 : 8 + length])
            found = {"embed": "model.embed_tokens.weight", "bias": "model.layers.1.mlp.gate."
                     "e_score_correction_bias", "code": "model.layers.0.mlp.up_proj.weight",
                     "scale": "model.layers.0.mlp.up_proj.weight_scale_inv",
                     "copy": "model.layers.2.shared_head.head.weight"}  # fmt: skip
            for kind, name in found.items():
                if name not in header:
                    continue
                start = 8 + length + header[name]["data_offsets"][0]
                values = [np.float32(v).tobytes() for v in (np.nan, np.inf, -1, 0, 1e30)]
                if header[name]["dtype"] == "F8_E4M3":
                    values = [b"\x7f", b"\xff", b"\x80"]
                for value in values:
                    data = bytearray(base[SINGLE])
                    data[start : start + len(value)] = value
                    yield reader, base, Case({SINGLE: bytes(data)}, f"{kind} {value!r}")
            for name in header:
                if name != "__metadata__":
                    entry = header[name] | {"shape": [*header[name]["shape"], 1]}
                    made = tensors.encode(header | {name: entry}, base[SINGLE][8 + length :])
                    yield reader, base, Case({SINGLE: made}, f"{name} of one dimension more")
                    break


def _tokenizers() -> Iterator[Drill]:
    base, name = texts.tokenizer_bases()[0], "tokenizer.json"
    for value in (0, -1, 9, 10**12, True, 5.0, "5", None, DROPPED):
        yield edit("tokenizer", base, name, ("model", "vocab", "7"), value)
    for word in ("new", "a b", "\n", ""):
        yield edit("tokenizer", base, name, ("model", "vocab", word), len(texts.WORDS))
    for path, value in ((("model", "type"), "BPE"), (("normalizer",), {"type": "Lowercase"}),
                        (("added_tokens", 0, "id"), 1), (("added_tokens", 0, "lstrip"), True),
                        (("more",), 1), (("pre_tokenizer",), None)):  # fmt: skip
        yield edit("tokenizer", base, name, path, value)
    for key, value in (("split_special_tokens", False), ("bos_token", "7"), ("eos_token", DROPPED)):
        yield edit("tokenizer", base, "tokenizer_config.json", (key,), value)


def _metrics() -> Iterator[Drill]:
    base = runs.metrics_bases()[0]
    lines = base[runs.METRICS].split(b"\n")
    for path, value in ((("step",), True), (("step",), -1), (("step",), 1.0),
                        (("step",), DROPPED), (("loss",), "1"), (("loss",), True), (("loss",), [1]),
                        (("max_vio",), 1), (("max_vio", 0), [1]), (("expert_load",), [1]),
                        (("expert_load", 0, 0), "x"),
                        (("more",), {}), (("loss",), 10**400), (("step",), 10**400),
                        (("loss",), 1e308), (("expert_load",), [[1], [1, 2]]),
                        (("max_vio",), [])):  # fmt: skip
        changed = [lines[0], with_value(lines[1], path, value), *lines[2:]]
        for reader in ("metrics", "report"):
            yield reader, base, Case({runs.METRICS: b"\n".join(changed)}, f"{path} = {value!r:.40}")
    for raw in (b"", b"NaN", b"[1]", lines[1][:-9], b"\xff", lines[1] + b"\r"):
        for end in (b"\n", b""):
            text = b"\n".join((lines[0], raw)) + end
            yield "metrics", base, Case({runs.METRICS: text}, f"line {raw[-20:]!r}, end {end!r}")


def _jobs() -> Iterator[Drill]:
    (run, _), (job, _), (trip, _) = runs.run_bases(), runs.JOB_BASES, runs.JOURNEY_BASES
    for key, value in (("preset", 2), ("preset", None), ("texts", "abc"), ("texts", [1]),
                       ("fp8", 1), ("part", 3), ("part", "x"), ("plan", [])):  # fmt: skip
        yield edit("run", run, "run.json", (key,), value)
    for reader, base, name in (("run", run, "run.json"), ("job", job, "job.json")):
        for key, value in (("steps", 10**400), ("steps", 0), ("steps", True), ("seed", -1),
                           ("learning_rate", True), ("learning_rate", 2), ("learning_rate", "1"),
                           ("more", 1), ("seed", 2**63), ("steps", None)):  # fmt: skip
            yield edit(reader, base, name, ("plan", key), value)
    for key, value in (("verb", "x"), ("verb", []), ("model", 1), ("task", 1), ("plan", [])):
        yield edit("job", job, "job.json", (key,), value)
    for key, value in (("seed", -1), ("seed", True), ("seed", "3"), ("seed", 10**400), ("quick", 1),
                       ("quick", None), ("quick", DROPPED), ("seed", DROPPED)):  # fmt: skip
        yield edit("journey", trip, "job.json", (key,), value)


def _checkpoint() -> Iterator[Drill]:
    (base,), name = stages.checkpoint_bases(), stages.STEP + "trainer.json"
    for key, value in (("step", -1), ("step", 10**400), ("step", True), ("updates", -1),
                       ("tokens", 2**63), ("seconds", -1.0), ("seconds", 1), ("corpus", "a\nb"),
                       ("plan", {}), ("surroundings", {"numpy": "\x1b[2J\n"})):  # fmt: skip
        yield edit("checkpoint", base, name, (key,), value)
    for path, value in ((("state", "state"), 2**128), (("state", "state"), True),
                        (("uinteger",), 2**32), (("uinteger",), True), (("has_uint32",), 0.5),
                        (("has_uint32",), True), (("bit_generator",), "MT19937"),
                        (("state", "inc"), -1), (("state",), None)):  # fmt: skip
        yield edit("checkpoint", base, name, ("loader", "rng", *path), value)
    for key, value in (("epoch", -1), ("given", 10**400), ("given", True), ("epoch", 0.0)):
        yield edit("checkpoint", base, name, ("loader", key), value)
    name = stages.STEP + "optimizer.safetensors"
    length = int.from_bytes(base[name][:8], "little")
    header = json.loads(base[name][8 : 8 + length])
    for letter in ("m.", "v."):
        one = next(n for n in header if n.startswith(letter))
        start = 8 + length + header[one]["data_offsets"][0]
        for value in (np.nan, np.inf, -1):
            data = bytearray(base[name])
            data[start : start + 4] = np.float32(value).tobytes()
            yield "checkpoint", base, Case({name: bytes(data)}, f"{one}: {value}")
        for changes in ({one: header[one] | {"dtype": "I32"}}, {one + "\n": header[one]}):
            rest = {n: e for n, e in header.items() if n != one}
            made = tensors.encode(rest | changes, base[name][8 + length :])
            yield "checkpoint", base, Case({name: made}, f"{changes}")


def _records() -> Iterator[Drill]:
    base, name = stages.EVALUATIONS[0], "evaluations.json"
    for key, value in (("accuracy", 10**400), ("accuracy", "much"), ("accuracy", True),
                       ("pass_at", {}), ("pass_at", {"²": 1}), ("pass_at", {"x": 1}),
                       ("pass_at", {"-1": 0.5}), ("pass_at", {"1": "x"}), ("statistics", []),
                       ("statistics", {"attempts": "x"}), ("truncated", "x"), ("greedy", None),
                       ("length", DROPPED), ("problems", 4.5)):  # fmt: skip
        yield edit("evaluations", base, name, ("cold start", key), value)
    yield edit("evaluations", base, name, ("cold start",), DROPPED)
    for value in ([1], "ab", {}, [["a"]], [["a", 1]], [["a", "b", "c"]], None, ["ab"], [{}]):
        yield edit("traces", stages.TRACES[0], "traces.json", ("after",), value)
    for value in ([], ["a", "b"], ["a", "b", 3], "abc", None, {"a": 1, "b": 2, "c": 3}):
        yield edit("samples", stages.SAMPLES[0], "samples.json", (0,), value)
    progress = stages.PROGRESS_BASES[0]
    for path, value in ((("softmax", "verdict"), DROPPED), (("softmax", "verdict"), "x\ny"),
                        (("softmax", "hints"), "2"), (("softmax", "hints"), True),
                        (("softmax", "hints"), 10**400), (("softmax", "checked"), 1),
                        (("softmax",), []), (("x\x1b[2J",), {}), (("sum", "hints"), 0),
                        (("softmax", "checked"), DROPPED)):  # fmt: skip
        yield edit("progress", progress, stages.PROGRESS, path, value)


def _texts() -> Iterator[Drill]:
    bom, half = b"\xef\xbb\xbfa", b"\xed\xa0\x80"
    for data in (b"", b"\0", b"a\0b", b"\xff\xfe", bom, b"a\r\nb", half, b"a"):
        yield "text", texts.TEXTS[0], Case({"a.txt": data}, f"{data!r}")
    for odd in texts.SOURCE_ODDITIES:
        yield "docstrings", texts.SOURCES[0], Case({"bad.py": odd}, f"{odd[:20]!r}")


def _special() -> Iterator[Drill]:
    """Every special thing in the place of every reader's main file."""
    step = stages.STEP + "trainer.json"
    places = {
        "safetensors": (tensors.every_dtype(), tensors.NAME),
        "json": (texts.JSON_BASES[0], "x.json"),
        "config": (models.folders()[0], "config.json"), "index": (models.folders()[1], INDEX),
        "model": (models.folders()[0], SINGLE), "fp8": (models.folders()[2], SINGLE),
        "inspect": (models.folders()[1], "model-00001-of-00002.safetensors"),
        "tokenizer": (texts.tokenizer_bases()[0], "tokenizer.json"),
        "metrics": (runs.metrics_bases()[0], runs.METRICS),
        "run": (runs.run_bases()[0], "run.json"), "job": (runs.JOB_BASES[0], "job.json"),
        "journey": (runs.JOURNEY_BASES[0], "job.json"),
        "checkpoint": (stages.checkpoint_bases()[0], step),
        "samples": (stages.SAMPLES[0], "samples.json"),
        "evaluations": (stages.EVALUATIONS[0], "evaluations.json"),
        "traces": (stages.TRACES[0], "traces.json"),
        "progress": (stages.PROGRESS_BASES[0], "softmax.py"), "text": (texts.TEXTS[0], "a.txt"),
    }  # fmt: skip
    for reader, (base, name) in places.items():
        name = name if name in base else next(n for n in base if n.endswith(".safetensors"))
        for kind in SPECIAL:
            yield reader, base, Case({name: kind}, kind, kind in LINKS)
