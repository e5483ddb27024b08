"""Ours → transformers → ours keeps every bit; FP8; a model trained here opens there."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.layers.fp8 import dequantize, quantize
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.generate import generate
from minideepseek.model.layout import is_quantised
from minideepseek.model.safetensors import load_file
from minideepseek.model.tokenizer import ByteTokenizer
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.training.data import BatchLoader
from minideepseek.training.trainer import Plan, Trainer
from tests.parity import oracle
from tests.parity.oracle import torch, transformers
from tests.parity.pairs import draw_ids, our_logits, our_model, relative
from tests.strategies import configs

pytestmark = pytest.mark.parity
SEEDS = st.integers(0, 2**32 - 1)
NANO = DeepSeekV3Config.preset("nano")


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """Everything in a directory's safetensors files."""
    found: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def of_main_model(state: dict[str, np.ndarray], config: DeepSeekV3Config) -> dict[str, np.ndarray]:
    """Without the MTP layers, which transformers does not keep."""
    extra = tuple(f"model.layers.{config.num_hidden_layers + k}." for k in range(8))
    return {name: array for name, array in state.items() if not name.startswith(extra)}


def same_bits(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and a[n].tobytes() == b[n].tobytes() for n in a
    )


def resave(folder: Path, target: Path, dtype: str, **options: Any) -> None:
    """transformers loads one directory and writes another."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    model.save_pretrained(target, **options)


@settings(max_examples=12)
@given(configs(), SEEDS, st.sampled_from(["float32", "bfloat16"]), st.booleans())
def test_ours_theirs_ours(tmp_path_factory, config, seed, dtype, cut):
    root, size = tmp_path_factory.mktemp("trip"), 4000 if cut else None
    model = our_model(config, seed)
    model.save_pretrained(root / "a", dtype=dtype, max_shard_bytes=size)
    resave(root / "a", root / "b", dtype, **({"max_shard_size": 4000} if cut else {}))
    assert same_bits(of_main_model(tensors(root / "a"), config), tensors(root / "b"))
    has_mtp = config.num_nextn_predict_layers > 0
    with pytest.warns(UserWarning, match="MTP") if has_mtp else contextlib.nullcontext():
        again = DeepSeekV3.from_pretrained(root / "b")
    again.save_pretrained(root / "c", dtype=dtype, max_shard_bytes=size)
    assert same_bits(tensors(root / "b"), tensors(root / "c"))


@settings(max_examples=8)
@given(config=configs(num_nextn_predict_layers=0), seed=SEEDS, cut=st.booleans())
def test_theirs_ours_theirs(tmp_path_factory, config, seed, cut):
    root = tmp_path_factory.mktemp("trip")
    theirs = oracle.load(config, oracle.random_state(config, seed)).model
    theirs.save_pretrained(root / "a", **({"max_shard_size": 4000} if cut else {}))
    DeepSeekV3.from_pretrained(root / "a").save_pretrained(root / "b")
    resave(root / "b", root / "c", "float32")
    assert same_bits(tensors(root / "a"), tensors(root / "b"))
    assert same_bits(tensors(root / "a"), tensors(root / "c"))


def test_both_spellings_of_the_rotary_fields(tmp_path):
    """transformers 5 writes rope_parameters, we rope_theta and rope_scaling; each reads both."""
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "mscale": 1.0}
    config = replace(NANO, rope_theta=500.0, rope_scaling=scaling, num_nextn_predict_layers=0)
    our_model(config, 0).save_pretrained(tmp_path / "a")
    resave(tmp_path / "a", tmp_path / "b", "float32")
    written = json.loads((tmp_path / "b" / "config.json").read_text())
    assert "rope_parameters" in written and "rope_scaling" not in written
    assert "rope_scaling" in json.loads((tmp_path / "a" / "config.json").read_text())
    again = DeepSeekV3.from_pretrained(tmp_path / "b")
    assert again.config.rope_theta == 500.0 and again.config.rope_scaling["factor"] == 4.0
    ids = draw_ids(config, 0)
    assert np.array_equal(our_logits(again, ids), our_logits(our_model(config, 0), ids))


def test_a_stray_mtp_count_is_noticed(tmp_path):
    """A configuration that speaks of an MTP module whose files hold none."""
    config = replace(NANO, num_nextn_predict_layers=1)
    our_model(config, 3).save_pretrained(tmp_path / "a")
    resave(tmp_path / "a", tmp_path / "b", "float32")
    assert json.loads((tmp_path / "b" / "config.json").read_text())["num_nextn_predict_layers"] == 1
    with pytest.warns(UserWarning, match="MTP"):
        model = DeepSeekV3.from_pretrained(tmp_path / "b")
    assert model.config.num_nextn_predict_layers == 0 and not model.mtp.layers


def test_fp8_means_the_same_to_both(tmp_path):
    """Shapes of at most 128 or multiples of it: transformers' own rule for blocks is then ours."""
    pytest.importorskip("accelerate", reason="transformers reads FP8 with accelerate only")
    config = replace(
        NANO,
        hidden_size=128,
        intermediate_size=256,
        moe_intermediate_size=128,
        num_nextn_predict_layers=0,
    )
    model = our_model(config, 5)
    model.save_pretrained(tmp_path / "fp8", dtype="float8_e4m3fn")
    stored = tensors(tmp_path / "fp8")
    assert any(array.dtype == "float8_e4m3fn" for array in stored.values())
    ours = DeepSeekV3.from_pretrained(tmp_path / "fp8")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "fp8", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    for name, array in ours.state_dict().items():
        if is_quantised(name):
            assert np.array_equal(array, dequantize(*quantize(model.state_dict()[name]))), name
    ids = draw_ids(config, 5)
    with torch.no_grad():
        logits = theirs(torch.from_numpy(ids)).logits.numpy()
    assert relative(our_logits(ours, ids), logits) < 1e-5
    assert relative(our_logits(model, ids), logits) > 1e-3  # eight bits are not thirty-two


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, DeepSeekV3, ByteTokenizer]:
    """A model after sixty steps on real words, saved as a run saves it."""
    tokenizer, folder = ByteTokenizer(), tmp_path_factory.mktemp("trained") / "model"
    text = (transformers.__doc__ or "") + Path(json.__file__).read_text("utf-8")
    loader = BatchLoader(tokenizer.encode(text), 8, 48, np.random.default_rng(0))
    model = DeepSeekV3(NANO, np.random.default_rng(1))
    trainer = Trainer(model, loader, Plan(steps=60, batch_size=8, sequence_length=48))
    losses = [trainer.step()["main_loss"] for _ in range(60)]
    assert losses[-1] < losses[0] - 1.5
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, model, tokenizer


@pytest.mark.parametrize("prompt", ["import json\n", "Decode ``s`` <think>", "é — ✓"])
def test_a_trained_model_goes_on_alike(trained, prompt):
    """AutoModelForCausalLM and AutoTokenizer: the same prompt ids, the same greedy continuation."""
    folder, model, tokenizer = trained
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    auto = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.encode(prompt)
    assert auto(prompt)["input_ids"] == ids.tolist()
    ours = generate(model, ids[None], 30)
    with torch.no_grad():
        out = theirs.generate(
            torch.from_numpy(ids[None]), max_new_tokens=30, do_sample=False, eos_token_id=None
        )
    assert out.tolist() == ours.tolist()
    assert auto.decode(out[0]) == tokenizer.decode(ours[0])
