"""What a model's directory must come to: the readers of it, and what judges them."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  gives NumPy the names of dtypes
import numpy as np

from minideepseek.errors import MiniDeepSeekError
from minideepseek.model.checkpoint import from_pretrained
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.contents import INDEX, SINGLE, Contents, read_contents
from minideepseek.model.fp8 import load_fp8
from minideepseek.model.inspect import inspect
from minideepseek.model.layout import checkpoint_size
from minideepseek.model.safetensors import read_header
from minideepseek.model.transformer import DeepSeekV3
from tests.hostile import config_rules, strict, tensors
from tests.hostile.cases import Wrong
from tests.hostile.models import DEFAULTS


def config_of(data: bytes | None) -> dict[str, Any] | None:
    """The fields that a config.json states; None where it must be refused."""
    try:
        if data is None or len(data) > 1 << 20:
            return None
        return config_rules.expected(strict.parse(data), DEFAULTS)
    except (config_rules.Refused, strict.NotStrict):
        return None


def read_config(folder: Path) -> DeepSeekV3Config:
    """config.json."""
    return DeepSeekV3Config.from_json(folder / "config.json")


def judge_config(folder: Path, contents: dict[str, bytes | None], outcome: Any) -> None:
    """Accepted exactly where the rules say so, with exactly their values; JSON gives it again."""
    wanted = config_of(contents.get("config.json"))
    if isinstance(outcome, MiniDeepSeekError):
        if wanted is not None:
            raise Wrong(f"refused a valid configuration: {outcome}")
        return
    if wanted is None or not strict.same(vars(outcome), wanted):
        raise Wrong(f"{vars(outcome)}, expected {wanted}")
    text = json.dumps(outcome.to_dict(), allow_nan=False)
    if DeepSeekV3Config.from_dict(json.loads(text)) != outcome:
        raise Wrong("not the same after it is written and read")


def _where(folder: Path, contents: dict[str, bytes | None]) -> dict[str, str] | None:
    """Tensor → file as a whole and true directory says it; None where it must be refused."""
    wanted = config_of(contents.get("config.json"))
    if wanted is None or checkpoint_size(DeepSeekV3Config(**wanted))[0] > 1_000_000:
        return None
    held = {}
    for name in contents:
        if name.endswith(".safetensors") and contents[name] is not None:
            try:
                held[name] = set(read_header(folder / name).entries)
            except MiniDeepSeekError:
                held[name] = None
    if contents.get(INDEX, b"") == b"" and INDEX not in contents:
        return dict.fromkeys(held[SINGLE], SINGLE) if held.get(SINGLE) is not None else None
    try:
        index = strict.parse(contents[INDEX] or b"")
    except strict.NotStrict:
        return None
    where = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(where, dict) or not where or SINGLE in contents:
        return None
    for file in set(map(repr, where.values())):
        name = file[1:-1]
        said = {tensor for tensor, place in where.items() if place == name}
        if "/" in name or "\\" in name or name not in held or held[name] != said or not said:
            return None
    return where


def judge_index(folder: Path, contents: dict[str, bytes | None], outcome: Any) -> None:
    """Accepted exactly where config, index and headers agree; each tensor in the file that the
    index names."""
    wanted = _where(folder, contents)
    if isinstance(outcome, MiniDeepSeekError):
        if wanted is not None:
            raise Wrong(f"refused a directory that agrees: {outcome}")
        return
    found = {name: header.path.name for name, header in outcome.headers.items()}
    if found != wanted or any(h.path.parent != folder for h in outcome.headers.values()):
        raise Wrong(f"tensors in {found!r:.300}, expected {wanted!r:.300}")


def _held(contents: dict[str, bytes | None]) -> dict[str, tuple[str, list[int], bytes]]:
    held: dict[str, tuple[str, list[int], bytes]] = {}
    for name, data in contents.items():
        if name.endswith(".safetensors") and name != "optimizer.safetensors" and data is not None:
            held |= tensors.reference(data) or {}
    return held


_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn"}


def _value(held: dict[str, Any], name: str) -> np.ndarray:
    """A tensor's numbers in float32, FP8 multiplied by the scale of each block of 128 × 128."""
    code, shape, data = held[name]
    array = np.frombuffer(data, _NUMPY[code]).reshape(shape)
    if code != "F8_E4M3":
        with np.errstate(over="ignore"):
            return array.astype(np.float32)
    scales = _value(held, name + "_scale_inv")
    wide = np.repeat(np.repeat(scales, 128, 0), 128, 1)[: shape[0], : shape[1]]
    return array.astype(np.float32) * wide


def judge_model(folder: Path, contents: dict[str, bytes | None], outcome: Any) -> None:
    """Every weight finite and what the files say, every tensor of the files in the model."""
    if isinstance(outcome, MiniDeepSeekError):
        return
    state, held = outcome.state_dict(), _held(contents)
    for name in state:
        if name not in held:
            copy = name.endswith(("embed_tokens.weight", "head.weight")) and ".layers." in name
            if not copy and not (name == "lm_head.weight" and outcome.config.tie_word_embeddings):
                raise Wrong(f"{name} comes from nowhere")
            continue
        wanted = _value(held, name)
        if not np.isfinite(wanted).all() or not np.array_equal(state[name], wanted):
            raise Wrong(f"{name} is {state[name]}, the file holds {wanted}")
    for name in held.keys() - state.keys():
        if not name.endswith(("_scale_inv", ".inv_freq", "head.weight", "embed_tokens.weight")):
            raise Wrong(f"{name} of the files is not in the model")
    wanted = config_of(contents.get("config.json"))
    shape = (wanted["vocab_size"], wanted["hidden_size"]) if wanted else None
    if state["model.embed_tokens.weight"].shape != shape:
        raise Wrong(f"embedding of shape {state['model.embed_tokens.weight'].shape}, not {shape}")


def judge_fp8(folder: Path, contents: dict[str, bytes | None], outcome: Any) -> None:
    """Codes and scales bit for bit where the files have them; else quantised to within a step."""
    if isinstance(outcome, MiniDeepSeekError):
        return
    state, held = outcome.state_dict(), _held(contents)
    for name, array in state.items():
        if name not in held:
            continue
        if held[name][0] == "F8_E4M3":
            scales = state[name + "_scale_inv"]
            if array.tobytes() != held[name][2] or not np.array_equal(
                scales, _value(held, name + "_scale_inv")
            ):
                raise Wrong(f"codes or scales of {name} are not the file's")
            if not (np.isfinite(scales).all() and (scales > 0).all()):
                raise Wrong(f"scales of {name}: {scales}")
        elif name + "_scale_inv" in state:
            decoded = array.view("float8_e4m3fn").astype(np.float32) * state[name + "_scale_inv"]
            wanted = _value(held, name)
            if not np.allclose(decoded, wanted, rtol=1 / 15, atol=np.abs(wanted).max() / 2**15):
                raise Wrong(f"{name} quantised to {decoded}, the file holds {wanted}")
        elif not name.endswith("_scale_inv") and not np.array_equal(array, _value(held, name)):
            raise Wrong(f"{name} is not the file's")


def read_all(folder: Path) -> tuple[str, Contents]:
    """What `minideepseek inspect` prints, and what it is about."""
    return inspect(folder), read_contents(folder)


def judge_inspect(folder: Path, contents: dict[str, bytes | None], outcome: Any) -> None:
    """As judge_index; printable; nothing missing exactly where nothing is, bytes as they are."""
    judge_index(folder, contents, outcome if isinstance(outcome, Exception) else outcome[1])
    if isinstance(outcome, MiniDeepSeekError):
        return
    text, held = outcome[0], _held(contents)
    if not all(line.isprintable() for line in text.split("\n")):
        raise Wrong(f"prints what is not printable: {text!r:.500}")
    if ("nothing missing, nothing unexpected" in text) != (not list(outcome[1].faults())):
        raise Wrong("the verdict is not that of the faults")
    size = sum(len(data) for _, _, data in held.values())
    if not any(line.split()[-1:] == [f"{size:,}"] for line in text.split("\n")):
        raise Wrong(f"no line of {size:,} bytes")


def read_model(folder: Path) -> DeepSeekV3:
    """The model."""
    return from_pretrained(folder)


def read_fp8(folder: Path) -> DeepSeekV3:
    """The model as codes."""
    return load_fp8(folder)
