"""Files that go to transformers and back keep every bit: main model, both dtypes, one file or many.

transformers drops the MTP layers; that ours come back to us is tests/model/test_checkpoint.py's.
"""

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.safetensors import load_file
from minideepseek.model.transformer import DeepSeekV3
from tests.parity import oracle
from tests.parity.oracle import torch, transformers
from tests.parity.pairs import draw_ids, our_logits, our_model
from tests.strategies import configs

pytestmark = pytest.mark.parity
SEEDS = st.integers(0, 2**32 - 1)
STORED = st.sampled_from(["float32", "bfloat16"])
NANO = DeepSeekV3Config.preset("nano")
BYTES = 4000  # of a shard, where there are several
Tensors = dict[str, np.ndarray]


def tensors(folder: Path) -> Tensors:
    """Everything in a directory's safetensors files, and the biases are float32 in all of them."""
    found: Tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    for name, array in found.items():
        assert array.dtype == "float32" or not name.endswith("e_score_correction_bias"), name
    return found


def of_main_model(state: Tensors, config: DeepSeekV3Config) -> Tensors:
    extra = tuple(f"model.layers.{config.num_hidden_layers + k}." for k in range(8))
    return {name: array for name, array in state.items() if not name.startswith(extra)}


def assert_same_bits(a: Tensors, b: Tensors) -> None:
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    for name, array in a.items():
        assert array.dtype == b[name].dtype and array.shape == b[name].shape, name
        assert array.tobytes() == b[name].tobytes(), name


def resave(folder: Path, target: Path, dtype: str, sharded: bool) -> None:
    """transformers loads one directory and writes another."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    model.save_pretrained(target, **({"max_shard_size": BYTES} if sharded else {}))
    assert_files(target, sharded)


def save(model: DeepSeekV3, target: Path, dtype: str, sharded: bool) -> None:
    model.save_pretrained(target, dtype, BYTES if sharded else None)
    assert_files(target, sharded)


def assert_files(folder: Path, sharded: bool) -> None:
    """One file, or several and an index of all they hold."""
    files = sorted(file.name for file in folder.glob("model*"))
    total = sum(array.nbytes for array in tensors(folder).values())
    if not sharded or total <= BYTES:
        assert files == ["model.safetensors"]
        return
    index = json.loads((folder / "model.safetensors.index.json").read_text("utf-8"))
    shards = {file.name: load_file(file) for file in folder.glob("*.safetensors")}
    assert len(shards) > 1 and len(files) == len(shards) + 1
    assert index["weight_map"] == {name: file for file, held in shards.items() for name in held}
    assert index["metadata"]["total_size"] == total


def as_torch_rounds(state: Tensors, dtype: str) -> Tensors:
    """In bfloat16 all but the routers' biases."""
    found = dict(state)
    for name, array in state.items() if dtype == "bfloat16" else ():
        if not name.endswith("e_score_correction_bias"):
            bits = torch.from_numpy(array.copy()).to(torch.bfloat16).view(torch.uint16)
            found[name] = bits.numpy().view(ml_dtypes.bfloat16)
    return found


def with_odd_numbers(model: DeepSeekV3) -> DeepSeekV3:
    """−0, the smallest subnormal, a subnormal of bfloat16 and large ones, where each could die."""
    odd = np.array([-0.0, 1e-45, 1e-40, 3e38, -3e38], np.float32)
    for name, array in model.state_dict().items():
        if name in ("model.embed_tokens.weight", "model.norm.weight") or ".experts." in name:
            array.flat[:3] = odd[:3]
            array.flat[-2:] = odd[3:]
    return model


@settings(max_examples=20)
@given(config=configs(), seed=SEEDS, dtype=STORED, sharded=st.booleans())
def test_ours_theirs_ours(tmp_path_factory, config, seed, dtype, sharded) -> None:
    root, model = tmp_path_factory.mktemp("trip"), with_odd_numbers(our_model(config, seed))
    save(model, root / "a", dtype, sharded)
    assert_same_bits(tensors(root / "a"), as_torch_rounds(model.state_dict(), dtype))
    resave(root / "a", root / "b", dtype, sharded)
    assert_same_bits(of_main_model(tensors(root / "a"), config), tensors(root / "b"))
    with notice(config):
        again = DeepSeekV3.from_pretrained(root / "b")
    save(again, root / "c", dtype, sharded)
    assert_same_bits(tensors(root / "b"), tensors(root / "c"))
    own = replace(config, num_nextn_predict_layers=0, torch_dtype="float32")
    assert replace(again.config, torch_dtype="float32") == own


def notice(config: DeepSeekV3Config) -> Any:
    """transformers states MTP modules whose layers it has dropped: loading says so."""
    if config.num_nextn_predict_layers:
        return pytest.warns(UserWarning, match="hold no MTP layer; the model is read without")
    return contextlib.nullcontext()


@settings(max_examples=20)
@given(
    config=configs(num_nextn_predict_layers=0), seed=SEEDS, dtype=STORED, sharded=st.booleans()
)
def test_theirs_ours_theirs(tmp_path_factory, config, seed, dtype, sharded) -> None:
    root, state = tmp_path_factory.mktemp("trip"), oracle.random_state(config, seed)
    theirs = oracle.load(config, state, getattr(torch, dtype)).model
    theirs.save_pretrained(root / "a", **({"max_shard_size": BYTES} if sharded else {}))
    save(DeepSeekV3.from_pretrained(root / "a"), root / "b", dtype, sharded)
    assert_same_bits(tensors(root / "a"), tensors(root / "b"))
    resave(root / "b", root / "c", dtype, sharded)
    assert_same_bits(tensors(root / "a"), tensors(root / "c"))
    for name, array in tensors(root / "c").items():
        assert (array == state[name].astype(array.dtype)).all(), name


# ---------------------------------------------------------------------------------- config.json


def test_both_spellings_of_the_rotary_fields(tmp_path) -> None:
    """transformers 5 writes rope_parameters, we rope_theta and rope_scaling; each reads both."""
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "mscale": 1.0}
    config = replace(NANO, rope_theta=500.0, rope_scaling=scaling, num_nextn_predict_layers=0)
    our_model(config, 0).save_pretrained(tmp_path / "a")
    resave(tmp_path / "a", tmp_path / "b", "float32", sharded=False)
    old, new = (json.loads((tmp_path / x / "config.json").read_text("utf-8")) for x in "ab")
    assert "rope_parameters" in new and not new.keys() & {"rope_scaling", "rope_theta"}
    assert old["rope_theta"] == 500.0 and "rope_parameters" not in old
    again = DeepSeekV3.from_pretrained(tmp_path / "b")
    assert again.config.rope_theta == 500.0 and again.config.rope_scaling["factor"] == 4.0
    ids = draw_ids(config, 0)
    assert np.array_equal(our_logits(again, ids), our_logits(our_model(config, 0), ids))
    models = [oracle.open_directory(tmp_path / x, config, torch.float32) for x in "ab"]
    assert np.array_equal(*(oracle.logits(model, ids) for model in models))


def test_the_released_configuration(tmp_path) -> None:
    """DeepSeek-V3's own, FP8 and YaRN included, from us to transformers and back."""
    ours = DeepSeekV3Config.preset("v3")
    (tmp_path / "config.json").write_text(json.dumps(ours.to_dict()), "utf-8")
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert type(theirs) is transformers.DeepseekV3Config
    theirs.save_pretrained(tmp_path / "again")
    assert DeepSeekV3Config.from_json(tmp_path / "again" / "config.json") == ours


def test_an_mtp_module_that_is_stated_only(tmp_path) -> None:
    """What transformers makes of a directory of ours with one: the count stays, the layer goes."""
    our_model(NANO, 3).save_pretrained(tmp_path / "a")
    resave(tmp_path / "a", tmp_path / "b", "float32", sharded=False)
    config = json.loads((tmp_path / "b" / "config.json").read_bytes())
    assert config["num_nextn_predict_layers"] == 1
    with pytest.warns(UserWarning, match="num_nextn_predict_layers = 1") as caught:
        model = DeepSeekV3.from_pretrained(tmp_path / "b")
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert model.config.num_nextn_predict_layers == 0 and not model.mtp.layers
    ids = draw_ids(NANO, 3)
    assert np.array_equal(our_logits(model, ids), our_logits(our_model(NANO, 3), ids))
