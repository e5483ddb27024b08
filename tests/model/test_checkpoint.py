"""Checkpoints: ours to ours bit for bit, every refusal, and fuzzed directories."""

import json
import math
import os
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import minideepseek.model.checkpoint as module
from minideepseek.autograd.blocks import BLOCK_BYTES
from minideepseek.errors import CheckpointError, InputError
from minideepseek.layers.fp8 import decode, dequantize, quantize
from minideepseek.model.checkpoint import (
    OWNED,
    from_pretrained,
    machine_memory,
    memory_needed,
    save_pretrained,
    write_model,
)
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.contents import INDEX, SINGLE, original_of
from minideepseek.model.files import atomic_directory
from minideepseek.model.inspect import inspect
from minideepseek.model.layout import is_quantised, scale_shape, tensor_shapes
from minideepseek.model.ledger import count_parameters
from minideepseek.model.safetensors import load_file, save_file
from minideepseek.model.tokenizer import ByteTokenizer
from minideepseek.model.transformer import DeepSeekV3
from tests.platforms import needs_links
from tests.strategies import configs

NANO = DeepSeekV3Config.preset("nano")
FP8 = np.dtype("float8_e4m3fn")
BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
KV_A = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"
MTP = "model.layers.2."


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk():
    """Hundreds of saves; that each is on the disk is for the tests of files.py to say."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def make_model(config=NANO, seed=0, dtype="float32"):
    """Every tensor random, the routers' biases too."""
    rng = np.random.default_rng(seed)
    model = DeepSeekV3(config, rng, dtype)
    for array in model.state_dict().values():
        array[...] = rng.standard_normal(array.shape)
    return model


def same(a, b):
    """Whether two states have the same names, dtypes and bits."""
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and a[n].tobytes() == b[n].tobytes() for n in a
    )


def change_tensors(folder, change, file=SINGLE):
    """Rewrite a file after `change` has edited the dictionary of its tensors."""
    tensors = {name: np.array(array) for name, array in load_file(folder / file).items()}
    change(tensors)
    save_file(tensors, folder / file, {"format": "pt"})


def change_json(path, change):
    value = json.loads(path.read_text("utf-8"))
    change(value)
    path.write_text(json.dumps(value), "utf-8")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Nano in one file, in three shards, and what it holds; copied before it is changed."""
    root, model = tmp_path_factory.mktemp("saved"), make_model()
    model.save_pretrained(root / "single")
    model.save_pretrained(root / "sharded", max_shard_bytes=150_000)
    assert len(os.listdir(root / "sharded")) == 3 + 3
    return root, model


@pytest.fixture
def single(saved, tmp_path):
    return Path(shutil.copytree(saved[0] / "single", tmp_path / "single"))


@pytest.fixture
def sharded(saved, tmp_path):
    return Path(shutil.copytree(saved[0] / "sharded", tmp_path / "sharded"))


# ------------------------------------------------------------------------------------ round trips


@given(config=configs(), seed=st.integers(0, 99))
def test_model_and_layout_agree(config, seed):
    own = {name: array.shape for name, array in DeepSeekV3.empty(config).state_dict().items()}
    wanted = dict(tensor_shapes(config, mtp_copies=True))
    assert own == wanted
    assert {n for n in own if original_of(n, config)} == own.keys() - dict(tensor_shapes(config))


@given(
    config=configs(),
    seed=st.integers(0, 99),
    most=st.none() | st.integers(2000, 20_000),
    stored=st.sampled_from([None, "float32", "bfloat16"]),
)
def test_round_trip(tmp_path_factory, config, seed, most, stored):
    folder, model = tmp_path_factory.mktemp("m"), make_model(config, seed)
    model.save_pretrained(folder / "a", stored, most)
    loaded = DeepSeekV3.from_pretrained(folder / "a")
    expected = dict(model.state_dict())
    if stored == "bfloat16":
        for name, array in expected.items():
            if not name.endswith("e_score_correction_bias"):
                expected[name] = array.astype("bfloat16").astype("float32")
    assert same(loaded.state_dict(), expected)
    assert loaded.config == replace(config, torch_dtype=stored or "float32")
    loaded.save_pretrained(folder / "b", stored, most)
    for name in os.listdir(folder / "a"):  # every file again, to the byte
        assert (folder / "a" / name).read_bytes() == (folder / "b" / name).read_bytes()
    shutil.rmtree(folder)


def test_float64(tmp_path):
    model = make_model(dtype="float64")
    model.save_pretrained(tmp_path / "wide")
    assert same(from_pretrained(tmp_path / "wide", "float64").state_dict(), model.state_dict())
    model.save_pretrained(tmp_path / "narrow", np.float32)
    narrow = from_pretrained(tmp_path / "narrow", np.float64).state_dict()
    for name, array in model.state_dict().items():
        assert narrow[name].dtype == array.dtype
        assert np.array_equal(narrow[name], array.astype("float32"))
    assert same(from_pretrained(tmp_path / "wide").state_dict(),
                from_pretrained(tmp_path / "narrow").state_dict())


def test_what_is_written(saved):
    folder, model = saved[0] / "single", saved[1]
    assert sorted(os.listdir(folder)) == ["config.json", "generation_config.json", SINGLE]
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["torch_dtype"] == "float32" and "quantization_config" not in config
    assert {"rope_theta", "rope_scaling"} <= config.keys() and "rope_parameters" not in config
    ids = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}
    generation = json.loads((folder / "generation_config.json").read_text("utf-8"))
    assert generation == {"_from_model_config": True, **ids}
    with safetensors.safe_open(folder / SINGLE, "np") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == model.state_dict().keys()
    theirs = safetensors.numpy.load_file(folder / SINGLE)
    assert same({n: theirs[n] for n in model.state_dict()}, model.state_dict())
    assert np.array_equal(theirs[MTP + "embed_tokens.weight"], theirs[EMBEDDING])
    assert np.array_equal(theirs[MTP + "shared_head.head.weight"], theirs[HEAD])


def test_ids_that_are_null_are_left_out(tmp_path):
    config = replace(NANO, pad_token_id=None, eos_token_id=None)
    save_pretrained(make_model(config), tmp_path / "a")
    generation = json.loads((tmp_path / "a" / "generation_config.json").read_text("utf-8"))
    assert generation == {"_from_model_config": True, "bos_token_id": 256}


def test_bfloat16_keeps_the_biases(tmp_path):
    save_pretrained(make_model(), tmp_path / "a", "bfloat16")
    stored = {name: str(a.dtype) for name, a in load_file(tmp_path / "a" / SINGLE).items()}
    assert json.loads((tmp_path / "a" / "config.json").read_bytes())["torch_dtype"] == "bfloat16"
    wide = {name for name, dtype in stored.items() if dtype == "float32"}
    assert wide == {n for n in stored if n.endswith(".mlp.gate.e_score_correction_bias")}
    assert len(wide) == 2 and set(stored.values()) == {"float32", "bfloat16"}


def test_shards(saved):
    folder, model = saved[0] / "sharded", saved[1]
    index = json.loads((folder / INDEX).read_text("utf-8"))
    files = sorted(folder.glob("*.safetensors"))
    assert [f.name for f in files] == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    held = {name: f.name for f in files for name in load_file(f)}
    assert index["weight_map"] == held and held.keys() == model.state_dict().keys()
    sizes = [sum(a.nbytes for a in load_file(f).values()) for f in files]
    assert index["metadata"]["total_size"] == sum(sizes) and max(sizes) <= 150_000
    assert same(from_pretrained(folder).state_dict(), model.state_dict())


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("most", [3000, 20_000])
def test_sizes_of_shards(tmp_path, stored, most):
    save_pretrained(make_model(), tmp_path / "a", stored, most)
    files = [load_file(f) for f in (tmp_path / "a").glob("model-*.safetensors")]
    sizes = [[array.nbytes for array in tensors.values()] for tensors in files]
    total = json.loads((tmp_path / "a" / INDEX).read_text("utf-8"))["metadata"]["total_size"]
    assert total == sum(map(sum, sizes))
    assert all(len(size) == 1 or 1 < len(size) and sum(size) <= most for size in sizes)


def test_a_tensor_larger_than_a_shard_is_alone(tmp_path):
    save_pretrained(make_model(), tmp_path / "a", max_shard_bytes=10_000)
    large = [f for f in (tmp_path / "a").glob("*.safetensors") if f.stat().st_size > 15_000]
    assert sorted(len(load_file(f)) for f in large) == [1, 1, 1, 1]  # both tables and their copies


def test_old_weights_go_and_other_files_stay(tmp_path):
    model, path = make_model(), tmp_path / "a"
    model.save_pretrained(path, max_shard_bytes=10_000)
    (path / "notes.txt").write_text("mine", "utf-8")
    (path / "optimizer.safetensors").write_bytes(b"?")
    with atomic_directory(path, OWNED) as folder:
        write_model(model, folder)
        ByteTokenizer().write(folder)
        with pytest.raises(CheckpointError, match="it is being written"):
            ByteTokenizer().save_pretrained(folder)
    expected = {"notes.txt", "optimizer.safetensors", "config.json", "generation_config.json"}
    assert set(os.listdir(path)) == {*expected, SINGLE, "tokenizer.json", "tokenizer_config.json"}
    assert same(from_pretrained(path).state_dict(), model.state_dict())
    model.save_pretrained(path, max_shard_bytes=150_000)
    assert SINGLE not in os.listdir(path) and (path / "notes.txt").read_text("utf-8") == "mine"
    assert same(from_pretrained(path).state_dict(), model.state_dict())


@pytest.mark.filterwarnings("ignore:.*what it left is removed")
@pytest.mark.parametrize("call", ["replace", "rename", "fsync", "open"])
def test_interrupted_write_leaves_old_or_new(tmp_path, monkeypatch, call):
    old, new, path = make_model(seed=1), make_model(seed=2), tmp_path / "a"
    real, failed = getattr(os, call), True
    save_pretrained(old, path)
    for moment in range(1, 99):
        if not failed:
            break
        calls, failed = 0, False

        def fail(*args, at=moment, **options):
            nonlocal calls, failed
            calls += 1
            if calls == at:
                failed = True
                raise OSError(28, "No space left on device")
            return real(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            try:
                save_pretrained(new, path, max_shard_bytes=200_000)
            except CheckpointError as error:
                assert "No space left" in str(error)
        state = from_pretrained(path).state_dict()
        assert same(state, new.state_dict()) or (failed and same(state, old.state_dict()))
        assert os.listdir(tmp_path) == ["a"]
        save_pretrained(old, path)
    assert moment > 2 and not failed


def test_refused_before_writing(tmp_path):
    model = make_model()
    for dtype in ("float16", "int8", "", object(), 3, {}):
        with pytest.raises(InputError, match="^dtype: got .*expected float32 or bfloat16"):
            save_pretrained(model, tmp_path / "a", dtype)
    for most in (0, -1, True, 1.5, "1GB"):
        with pytest.raises(InputError, match="^max_shard_bytes: got "):
            save_pretrained(model, tmp_path / "a", max_shard_bytes=most)
    model.model.norm.weight.data[3] = np.nan
    with pytest.raises(CheckpointError, match="tensor model.norm.weight holds NaN or Inf"):
        save_pretrained(model, tmp_path / "a")
    model.model.norm.weight.data[3] = 3.4e38  # rounds to Inf
    with pytest.raises(CheckpointError, match="holds NaN or Inf as bfloat16"):
        save_pretrained(model, tmp_path / "a", "bfloat16")
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="not a directory"):
        save_pretrained(model, tmp_path / "file")
    with pytest.raises(CheckpointError, match="cannot write .*config.json"):
        write_model(model, tmp_path / "none")


def test_a_save_that_was_cut_short(single, saved, tmp_path):
    """Killed between its two renames, it left the old state under a hidden name."""
    for read in (from_pretrained, inspect):
        single.rename(tmp_path / ".single.0123456789abcdef.old")
        if read is inspect:
            assert "the state before it is restored\n" in inspect(single)
            continue
        with pytest.warns(UserWarning, match="cut short; the state before it is restored"):
            assert same(read(single).state_dict(), saved[1].state_dict())


# ---------------------------------------------------------------------- what other writers write


def test_reads_the_new_spelling(single, saved):
    def new(config):
        config["dtype"] = config.pop("torch_dtype")
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": config.pop("rope_theta")}
        del config["rope_scaling"]

    change_json(single / "config.json", new)
    loaded = from_pretrained(single)
    assert loaded.config == NANO and same(loaded.state_dict(), saved[1].state_dict())


@pytest.mark.parametrize("stored", ["float16", "bfloat16", "float64"])
def test_reads_other_dtypes(single, saved, stored):
    def change(tensors):
        for name in tensors:
            tensors[name] = tensors[name].astype(stored)

    change_tensors(single, change)
    state = from_pretrained(single).state_dict()
    for name, array in saved[1].state_dict().items():
        assert state[name].dtype == np.float32
        assert np.array_equal(state[name], array.astype(stored).astype(np.float32))


def test_without_any_mtp_layer(single, saved):
    def change(tensors):
        for name in [n for n in tensors if n.startswith(MTP)]:
            del tensors[name]

    change_tensors(single, change)
    with pytest.warns(UserWarning, match="num_nextn_predict_layers = 1.* no MTP layer") as caught:
        loaded = from_pretrained(single)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert loaded.config == replace(NANO, num_nextn_predict_layers=0)
    own = saved[1].state_dict()
    assert same(loaded.state_dict(), {n: own[n] for n in own if not n.startswith(MTP)})
    assert "hold no MTP layer" in inspect(single)


def test_copies_may_be_absent(single, saved):
    def change(tensors):
        del tensors[MTP + "embed_tokens.weight"], tensors[MTP + "shared_head.head.weight"]

    change_tensors(single, change)
    assert same(from_pretrained(single).state_dict(), saved[1].state_dict())


def test_rotary_buffers_are_ignored(single, saved):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change_tensors(single, lambda tensors: tensors.update({name: np.ones(4, np.float32)}))
    assert same(from_pretrained(single).state_dict(), saved[1].state_dict())
    assert "rotary frequencies" in inspect(single) and "nothing unexpected" in inspect(single)


def test_tied_head(tmp_path):
    model = make_model(replace(NANO, tie_word_embeddings=True))
    model.save_pretrained(tmp_path / "a")
    assert HEAD not in load_file(tmp_path / "a" / SINGLE)
    change_tensors(tmp_path / "a", lambda t: t.update({HEAD: t[EMBEDDING]}))
    assert same(from_pretrained(tmp_path / "a").state_dict(), model.state_dict())
    change_tensors(tmp_path / "a", lambda t: t.update({HEAD: t[EMBEDDING] + 1}))
    with pytest.raises(CheckpointError, match="lm_head.weight differs from model.embed_tokens"):
        from_pretrained(tmp_path / "a")


@needs_links
def test_symbolic_links_are_followed(sharded, saved, tmp_path):
    """Hugging Face's cache keeps the files elsewhere, under their hashes."""
    (tmp_path / "blobs").mkdir()
    for i, path in enumerate(sorted(sharded.iterdir())):
        path.rename(tmp_path / "blobs" / str(i))
        path.symlink_to(f"../blobs/{i}")
    assert same(from_pretrained(sharded).state_dict(), saved[1].state_dict())


# ------------------------------------------------------------------------------------------- FP8


def quantise(folder, seed=0, skip=lambda name: False):
    """Turn a directory into an FP8 one; what its weights now mean, by a loop over blocks."""
    rng, meaning = np.random.default_rng(seed), {}

    def change(tensors):
        for name in [n for n in tensors if is_quantised(n) and not skip(n)]:
            tensors[name] = q = tensors[name].astype(FP8)
            s = rng.uniform(0.5, 2, scale_shape(q.shape)).astype(np.float32)
            tensors[name + "_scale_inv"] = s
            w = meaning[name] = np.zeros(q.shape, np.float32)
            for i, j in np.ndindex(s.shape):
                block = slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128)
                w[block] = q[block].astype(np.float32) * s[i, j]

    change_tensors(folder, change)
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    change_json(folder / "config.json", lambda c: c.update(quantization_config=fp8))
    return meaning


@pytest.fixture
def fp8(tmp_path):
    """A directory whose weights have whole, ragged and single blocks, and its meaning."""
    config = replace(NANO, hidden_size=160, intermediate_size=300, kv_lora_rank=152)
    model = make_model(config)
    model.save_pretrained(tmp_path / "fp8")
    meaning = quantise(tmp_path / "fp8")
    assert meaning[KV_A].shape == (160, 160)  # 2 × 2 scales: halves would be 80 wide
    return tmp_path / "fp8", dict(model.state_dict()) | meaning


def test_fp8_is_multiplied_out(fp8, tmp_path):
    folder, expected = fp8
    loaded = from_pretrained(folder)
    assert same(loaded.state_dict(), {n: expected[n] for n in loaded.state_dict()})
    assert loaded.config.quantization_config is None
    wide = from_pretrained(folder, "float64").state_dict()
    assert all(np.array_equal(wide[n], expected[n]) for n in wide)
    loaded.save_pretrained(tmp_path / "again")
    assert same(from_pretrained(tmp_path / "again").state_dict(), loaded.state_dict())
    assert "every FP8 weight has its scales" in inspect(folder)


def test_fp8_for_some_weights_only(single):
    meaning = quantise(single, skip=lambda name: ".self_attn." in name)
    state = from_pretrained(single).state_dict()
    assert meaning and all(np.array_equal(state[n], meaning[n]) for n in meaning)


def test_written_fp8_is_read_back_bit_for_bit(tmp_path):
    """Codes and scales of ours → ours, each weight within half a step of what it was."""
    model = make_model(replace(NANO, kv_lora_rank=136, hidden_size=144))
    model.save_pretrained(tmp_path / "one", dtype="float8_e4m3fn")
    model.save_pretrained(tmp_path / "many", dtype="float8_e4m3fn", max_shard_bytes=40_000)
    one, many = (from_pretrained(tmp_path / kind).state_dict() for kind in ("one", "many"))
    assert same(one, many)
    assert len(list((tmp_path / "many").glob("model-*"))) > 2
    stored = load_file(tmp_path / "one" / "model.safetensors")
    for name, array in model.state_dict().items():
        if is_quantised(name):
            codes, scales = quantize(array)
            assert np.array_equal(stored[name].view(np.uint8), codes), name
            assert np.array_equal(stored[name + "_scale_inv"], scales), name
            assert np.array_equal(one[name], dequantize(codes, scales)), name
        else:
            assert np.array_equal(one[name], array), name
    report = inspect(tmp_path / "one")
    assert "every FP8 weight has its scales" in report


FP8_FAULTS = {
    "no scales": (lambda t: t.pop(KV_A + "_scale_inv"), "its scales .*_scale_inv are missing"),
    "a row of scales short": (
        lambda t: t.update({KV_A + "_scale_inv": t[KV_A + "_scale_inv"][:1]}),
        r"kv_a_proj_with_mqa.weight_scale_inv' has shape \(1, 2\), config.json wants \(2, 2\)",
    ),
    "scales of 160 / 80": (
        lambda t: t.update({KV_A + "_scale_inv": np.ones((4, 4), np.float32)}),
        r"has shape \(4, 4\), config.json wants \(2, 2\)",
    ),
    "scales in bfloat16": (
        lambda t: t.update({KV_A + "_scale_inv": t[KV_A + "_scale_inv"].astype("bfloat16")}),
        "is stored as BF16, expected F32",
    ),
    "scales of nothing": (lambda t: t.update({KV_A: t[KV_A].astype("float32")}), "is not part of"),
    "FP8 embedding": (
        lambda t: t.update({EMBEDDING: t[EMBEDDING].astype(FP8)}),
        "embed_tokens.weight' is stored as F8_E4M3, expected F32 or BF16 or F16 or F64$",
    ),
    "the other FP8": (
        lambda t: t.update({KV_A: t[KV_A].astype("float8_e5m2")}),
        "is stored as F8_E5M2, expected .* or F8_E4M3",
    ),
    "NaN": (lambda t: t.update({KV_A: t[KV_A] * FP8.type(np.nan)}), "kv_a.* holds NaN or Inf"),
    "an infinite scale": (
        lambda t: t[KV_A + "_scale_inv"].__setitem__((1, 1), np.inf),
        "kv_a.*scale that is not positive and finite",
    ),
}


@pytest.mark.parametrize("kind", FP8_FAULTS)
def test_fp8_refusals(fp8, kind):
    folder, _ = fp8
    change, sentence = FP8_FAULTS[kind]
    change_tensors(folder, change)
    with pytest.raises(CheckpointError, match=sentence):
        from_pretrained(folder)


def test_fp8_that_the_configuration_does_not_state(fp8):
    folder, _ = fp8
    change_json(folder / "config.json", lambda c: c.pop("quantization_config"))
    with pytest.raises(CheckpointError, match="FP8, but config.json has no quantization_config"):
        from_pretrained(folder)


# -------------------------------------------------------------------------------------- refusals


def _set(**changes):
    return lambda config: config.update(changes)


CONFIG_FAULTS = {
    "another architecture": (_set(model_type="llama"), "model_type is 'llama'"),
    "V2": (_set(model_type="deepseek_v2"), "model_type is 'deepseek_v2'; expected 'deepseek_v3'"),
    "groups that do not divide": (_set(n_group=3), "n_group is 3"),
    "sparse every second": (_set(moe_layer_freq=2), "moe_layer_freq is 2"),
    "wider": (_set(hidden_size=33), r"has shape \(264, 32\), config.json wants \(264, 33\)"),
    "a layer more": (_set(num_hidden_layers=3), "model.layers.2.eh_proj.weight' is not part of"),
    "a layer less": (_set(num_hidden_layers=1), "is missing"),
    "two MTP modules": (_set(num_nextn_predict_layers=2), "model.layers.3.* is missing"),
    "no MTP module": (_set(num_nextn_predict_layers=0), "model.layers.2.* is not part of the mo"),
    "biases": (_set(attention_bias=True), "q_a_proj.bias of shape .* is missing"),
    "untied": (_set(vocab_size=265), r"config.json wants \(265, 32\)"),
    "2³¹ layers": (_set(num_hidden_layers=2**31 - 1), "a model of .* tensors; at most 1,000,000"),
    "2³¹ MTP": (_set(num_nextn_predict_layers=2**31 - 1), "at most 1,000,000 are read"),
    "2³¹ experts": (
        _set(n_routed_experts=2**30, n_group=1, topk_group=1), "at most 1,000,000 are read"
    ),
    "a huge table": (_set(vocab_size=2**31 - 1), "wants .2147483647, 32."),
}


@pytest.fixture
def no_model(monkeypatch):
    """Fails the test if memory for a model is taken."""
    def refuse(*args):
        raise AssertionError("a model was made before everything was checked")

    monkeypatch.setattr(DeepSeekV3, "_build", refuse)


@pytest.mark.parametrize("kind", CONFIG_FAULTS)
def test_config_refusals(single, no_model, kind):
    change, sentence = CONFIG_FAULTS[kind]
    change_json(single / "config.json", change)
    with pytest.raises(CheckpointError, match=sentence):
        from_pretrained(single)


TENSOR_FAULTS = {
    "missing": (lambda t: t.pop(KV_A), KV_A + r" of shape \(24, 32\) is missing"),
    "unexpected": (lambda t: t.update(extra=t[KV_A]), "'extra' is not part of the model"),
    "an expert more": (
        lambda t: t.update({"model.layers.1.mlp.experts.8.up_proj.weight": np.ones((16, 32))}),
        "experts.8.up_proj.weight' is not part of",
    ),
    "another name": (
        lambda t: t.update({"model.layers.00.input_layernorm.weight": np.ones(32)}),
        "layers.00.input_layernorm.weight' is not part of",
    ),
    "a copy in no MTP layer": (
        lambda t: t.update({"model.layers.3.embed_tokens.weight": t[EMBEDDING]}),
        "layers.3.embed_tokens.weight' is not part of",
    ),
    "a copy in a main layer": (
        lambda t: t.update({"model.layers.1.embed_tokens.weight": t[EMBEDDING]}),
        "layers.1.embed_tokens.weight' is not part of",
    ),
    "transposed": (lambda t: t.update({KV_A: t[KV_A].T}), r"shape \(32, 24\), .*wants \(24, 32\)"),
    "flat": (lambda t: t.update({KV_A: t[KV_A].ravel()}), r"shape \(768,\)"),
    "integers": (lambda t: t.update({KV_A: t[KV_A].astype("int32")}), "is stored as I32, expected"),
    "a half MTP layer": (lambda t: t.pop(MTP + "enorm.weight"), "layers.2.enorm.* is missing"),
    "a copy of another shape": (
        lambda t: t.update({MTP + "embed_tokens.weight": np.ones((264, 31))}),
        r"layers.2.embed_tokens.weight' has shape \(264, 31\)",
    ),
    "a copy in integers": (
        lambda t: t.update({MTP + "embed_tokens.weight": np.ones((264, 32), "int8")}),
        "layers.2.embed_tokens.weight' is stored as I8",
    ),
}


@pytest.mark.parametrize("kind", TENSOR_FAULTS)
def test_tensor_refusals(single, no_model, kind):
    change, sentence = TENSOR_FAULTS[kind]
    change_tensors(single, change)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        from_pretrained(single)
    assert "\n" not in str(caught.value) and str(single) in str(caught.value)
    assert "nothing missing" not in inspect(single) and str(caught.value) in inspect(single)


VALUE_FAULTS = {
    "NaN": (lambda t: t[KV_A].__setitem__((3, 5), np.nan), KV_A),
    "Inf": (lambda t: t[BIAS].__setitem__(7, -np.inf), BIAS),
    "beyond float32": (
        lambda t: t.update({KV_A: t[KV_A].astype("float64") * 1e300}), KV_A + ".*as float32"
    ),
    "NaN in bfloat16": (
        lambda t: t.update({KV_A: (t[KV_A] * np.nan).astype("bfloat16")}), KV_A
    ),
    "another embedding in MTP": (
        lambda t: t[MTP + "embed_tokens.weight"].__setitem__((263, 31), 1e-30),
        "layers.2.embed_tokens.weight differs from model.embed_tokens.weight",
    ),
    "another head in MTP": (
        lambda t: t.update({MTP + "shared_head.head.weight": t[EMBEDDING]}),
        "layers.2.shared_head.head.weight differs from lm_head.weight",
    ),
}


@pytest.mark.parametrize("kind", VALUE_FAULTS)
def test_value_refusals(single, kind):
    change, sentence = VALUE_FAULTS[kind]
    change_tensors(single, change)
    with pytest.raises(CheckpointError, match=sentence):
        from_pretrained(single)


def _move(name, file):
    return lambda index: index["weight_map"].update({name: file})


SHARD = "model-0000{}-of-00003.safetensors".format
INDEX_FAULTS = {
    "a shard that is not there": (_move("x", "model-4.safetensors"), "1 of the 4 files .*-4.safe"),
    "in another shard": (_move(EMBEDDING, SHARD(3)), "00003.safetensors has no tensor 'model.emb"),
    "not in it": (lambda i: i["weight_map"].pop(EMBEDDING), "but .*index.json does not name it"),
    "absent tensor": (_move("x", SHARD(1)), "has no tensor 'x'; .*index.json says"),
    "parent": (_move(EMBEDDING, "../sharded/" + SHARD(1)), "expected the plain name"),
    "absolute": (_move(EMBEDDING, "/etc/passwd"), "said to be in '/etc/passwd'"),
    "here": (_move(EMBEDDING, "./" + SHARD(1)), "expected the plain name"),
    "backslash": (_move(EMBEDDING, "..\\" + SHARD(1)), "expected the plain name"),
    "drive": (_move(EMBEDDING, "C:" + SHARD(1)), "expected the plain name"),
    "line": (_move(EMBEDDING, SHARD(1) + "\n"), "expected the plain name"),
    "NUL": (_move(EMBEDDING, "\0.safetensors"), "expected the plain name"),
    "no file": (_move(EMBEDDING, ""), "expected the plain name"),
    "dots": (_move(EMBEDDING, ".."), "expected the plain name"),
    "not safetensors": (_move(EMBEDDING, "config.json"), "expected the plain name"),
    "number": (_move(EMBEDDING, 1), "said to be in 1; expected"),
    "list": (_move(EMBEDDING, [SHARD(1)]), "expected the plain name"),
    "no map": (lambda i: i.pop("weight_map"), "expected an object with a weight_map"),
    "empty map": (lambda i: i.update(weight_map={}), "expected an object with a weight_map"),
    "list for a map": (lambda i: i.update(weight_map=[EMBEDDING]), "expected an object with a"),
}


@pytest.mark.parametrize("kind", INDEX_FAULTS)
def test_index_refusals(sharded, no_model, kind):
    change, sentence = INDEX_FAULTS[kind]
    change_json(sharded / INDEX, change)
    for read in (from_pretrained, inspect):
        with pytest.raises(CheckpointError, match=sentence):
            read(sharded)


def test_directory_refusals(single, sharded, tmp_path, no_model):
    def refused(sentence, folder=sharded):
        with pytest.raises(CheckpointError, match=sentence):
            from_pretrained(folder)

    refused("none is not a directory", tmp_path / "none")
    refused("config.json is not a directory", single / "config.json")
    shutil.copy(sharded / INDEX, single)
    refused("holds both model.safetensors and model.safetensors.index.json", single)
    text = (sharded / INDEX).read_text("utf-8")
    key = json.dumps(EMBEDDING)
    (sharded / INDEX).write_text(text.replace(key, f'{key}: "{SHARD(1)}", {key}', 1), "utf-8")
    refused("'model.embed_tokens.weight' occurs twice")
    (sharded / INDEX).write_text(text, "utf-8")
    (sharded / SHARD(2)).rename(tmp_path / "x")
    refused("1 of the 3 files .* are missing: model-00002-of-00003.safetensors")
    shutil.copy(sharded / SHARD(1), sharded / SHARD(2))  # listed twice under two names
    refused("00002-of-00003.safetensors has no tensor")
    os.remove(sharded / SHARD(2))
    (sharded / SHARD(2)).mkdir()
    refused("is not a regular file")
    (sharded / SHARD(2)).rmdir()
    (tmp_path / "x").rename(sharded / SHARD(2))
    os.truncate(sharded / SHARD(2), 1000)
    refused("00002-of-00003.safetensors.*truncated")
    (sharded / SHARD(2)).write_bytes(b"\xff" * 8 + b"{}")
    refused("claims 18446744073709551615")
    os.remove(sharded / INDEX)
    refused("holds neither model.safetensors nor")
    os.remove(sharded / "config.json")
    refused("config.json")
    for dtype in ("bfloat16", "int8", None):
        with pytest.raises(InputError, match="^dtype: got .*, expected float32 or float64$"):
            from_pretrained(single, dtype)


# ---------------------------------------------------------------------------------------- memory


def test_memory_is_checked_first(single, monkeypatch, no_model):
    needed = sum(count_parameters(NANO).values()) * 8
    assert memory_needed(NANO, "float64") == needed
    monkeypatch.setattr(module, "machine_memory", lambda: needed - 1)
    sentence = f"needs {needed:,} bytes of memory in float64; this machine has {needed - 1:,}"
    with pytest.raises(CheckpointError, match=sentence):
        from_pretrained(single, "float64")


def test_memory_that_the_system_refuses(single, monkeypatch):
    def refuse(*args):
        raise MemoryError

    monkeypatch.setattr(DeepSeekV3, "empty", refuse)
    with pytest.raises(CheckpointError, match="needs .* bytes of memory in float32; the system"):
        from_pretrained(single)


def test_machine_memory(monkeypatch):
    memory = machine_memory()
    if hasattr(os, "sysconf"):
        assert 2**26 < memory < 2**50
        monkeypatch.setattr(Path, "read_text", lambda path, encoding: "12345\n")
        assert machine_memory() == 12345
        monkeypatch.setattr(Path, "read_text", lambda path, encoding: "max\n")
        assert machine_memory() == memory
    monkeypatch.delattr(os, "sysconf", raising=False)
    assert machine_memory() is None


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "fp8"])
def test_loading_takes_the_model_and_one_tensor(tmp_path, kind):
    config = replace(NANO, hidden_size=256, vocab_size=2048, intermediate_size=2048)
    save_pretrained(make_model(config), tmp_path / "a", None if kind == "fp8" else kind)
    if kind == "fp8":
        quantise(tmp_path / "a")
    decode(np.zeros(1, np.uint8))  # its tables are made once, not for a tensor
    tracemalloc.start()
    try:
        model = from_pretrained(tmp_path / "a")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    held = memory_needed(config, "float32")
    largest = max(array.nbytes for array in model.state_dict().values())
    assert largest == 2048 * 256 * 4 and held > 3 * largest
    extra = 0 if kind == "float32" else largest  # float32 is copied straight from the file
    assert held < peak < held + extra + 0.1 * largest + 2 * BLOCK_BYTES


# --------------------------------------------------------------------------------------- inspect


def test_inspect(single, sharded):
    text = inspect(sharded)
    assert "\n3 files, 1 MTP module" in text and "\n1 file, 1 MTP module" in inspect(single)
    for part, count in count_parameters(NANO).items():
        assert f"\n  {part} ".ljust(30) in text and text.count(f" {count:,}") >= 2
    rows = [line.split() for line in text.splitlines()]
    assert ["F32", "97", "80,584", "322,336"] in rows
    assert ["16", "F32", "16", "×", "32", "model.layers.*.mlp.experts.*.up_proj.weight"] in rows
    assert text.endswith("nothing missing, nothing unexpected, every shape as config.json wants it")
    assert max(map(len, text.splitlines()[2:])) <= 80


def test_inspect_counts_faults(single):
    def change(tensors):
        for expert in range(8):
            name = f"model.layers.1.mlp.experts.{expert}."
            tensors[f"bad\x1b[2J{expert}"] = tensors.pop(name + "up_proj.weight")
            tensors[name + "down_proj.weight"] = np.ones(3, np.float32)

    change_tensors(single, change)
    text = inspect(single)
    for kind in ("missing", "unexpected", "wrong"):
        assert f"\n8 {kind}:\n" in text
    assert text.count("\n  …") == 3 and text.count("is missing") == 5
    assert "\x1b" not in text and "'bad\\x1b[2J0' is not part" in text
    routed = next(line for line in text.splitlines() if line.startswith("  routed experts"))
    assert routed.split()[2:] == [f"{8 * (16 * 32 + 3):,}", f"{8 * 3 * 16 * 32:,}"]


def write_hollow(folder, config, shards):
    """A directory of real headers and no weights: the files are holes of the right size."""
    codes = {"F32": 4, "BF16": 2, "F8_E4M3": 1}
    shapes = list(tensor_shapes(config, fp8_scales=True, mtp_copies=True))
    each, where = -(-len(shapes) // shards), {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:06d}.safetensors"  # as DeepSeek's are named
        header, position = {}, 0
        for name, shape in shapes[i * each : (i + 1) * each]:
            scale_or_bias = name.endswith(("_scale_inv", "correction_bias"))
            code = "F32" if scale_or_bias else "F8_E4M3" if is_quantised(name) else "BF16"
            stop = position + math.prod(shape) * codes[code]
            header[name] = {"dtype": code, "shape": shape, "data_offsets": [position, stop]}
            position, where[name] = stop, file
        text = json.dumps(header).encode()
        with open(folder / file, "wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            out.truncate(8 + len(text) + position)
    (folder / "config.json").write_text(json.dumps(config.to_dict()), "utf-8")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}), "utf-8")


@pytest.mark.slow
def test_the_released_model(tmp_path):
    write_hollow(tmp_path, DeepSeekV3Config.preset("v3"), 163)
    text = inspect(tmp_path)
    rows = [line.split() for line in text.splitlines()]
    assert "\n163 files, 1 MTP module, 256 routed experts" in text
    assert ["together", "91,991", "684,531,386,000", "688,574,839,360"] in rows
    assert ["F8_E4M3", "45,808", "680,571,043,840", "680,571,043,840"] in rows
    assert ["mtp", "11,610,068,224", "11,610,068,224"] in rows
    assert text.endswith("one for each block of 128 × 128") and "nothing missing" in text
    with pytest.raises(CheckpointError, match="needs 2,730,545,949,696 bytes of memory in float32"):
        from_pretrained(tmp_path)
    os.remove(tmp_path / "model-00007-of-000163.safetensors")
    with pytest.raises(CheckpointError, match="1 of the 163 files"):
        inspect(tmp_path)


# ------------------------------------------------------------------------------------------ fuzz

JUNK = st.sampled_from(
    [None, True, 0, 1, -1, 2**63, 1e308, "", "x", "../x", [], {}, [[]], "model.safetensors", "\0"]
)


def correct_or_refused(folder, own):
    """The one model that was saved, or CheckpointError: never another model, never another error.

    A mutated weight is a weight: what the reference library reads is then what must be loaded.
    """
    try:
        state = from_pretrained(folder).state_dict()
    except CheckpointError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
        return
    held = {}
    for file in folder.glob("model*.safetensors"):
        held |= safetensors.numpy.load_file(file)
    assert state.keys() == own.keys()
    for name in own:
        if name in held:  # copies may be gone
            assert np.array_equal(state[name], held[name].astype(np.float32))


@pytest.mark.filterwarnings("ignore:.*hold no MTP layer")
@settings(max_examples=max(100, settings().max_examples))
@given(data=st.data())
def test_fuzz_bytes(saved, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz") / "m"
    shutil.copytree(saved[0] / "sharded", folder)
    for _ in range(data.draw(st.integers(1, 3))):
        path = folder / data.draw(st.sampled_from(["config.json", INDEX, SHARD(1), SHARD(3)]))
        content = bytearray(path.read_bytes())
        head = min(len(content), 8000)  # the header, mostly
        at = data.draw(st.integers(0, head - 1))
        match data.draw(st.sampled_from(["flip", "set", "cut", "drop", "insert"])):
            case "flip":
                content[at] ^= 1 << data.draw(st.integers(0, 7))
            case "set":
                content[at] = data.draw(st.sampled_from(b'0123456789{}[]",:/.\\ \xff\x00'))
            case "cut":
                del content[at:]
            case "drop":
                del content[at : at + data.draw(st.integers(1, 9))]
            case "insert":
                content[at:at] = content[at : at + data.draw(st.integers(1, 200))]
        path.write_bytes(content or b"{")
    correct_or_refused(folder, saved[1].state_dict())
    shutil.rmtree(folder.parent)


@pytest.mark.filterwarnings("ignore:.*hold no MTP layer")
@settings(max_examples=max(100, settings().max_examples))
@given(data=st.data())
def test_fuzz_json(saved, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz") / "m"
    shutil.copytree(saved[0] / "sharded", folder)
    path = folder / data.draw(st.sampled_from(["config.json", INDEX]))
    value = json.loads(path.read_text("utf-8"))
    for _ in range(data.draw(st.integers(1, 3))):
        inner = value.get("weight_map") if path.name == INDEX else value
        if not isinstance(inner, dict) or not inner:
            break
        key = data.draw(st.sampled_from(sorted(inner)))
        match data.draw(st.sampled_from(["drop", "junk", "swap", "rename", "outer"])):
            case "drop":
                del inner[key]
            case "junk":
                inner[key] = data.draw(JUNK)
            case "swap":
                other = data.draw(st.sampled_from(sorted(inner)))
                inner[key], inner[other] = inner[other], inner[key]
            case "rename":
                inner[data.draw(st.sampled_from(["x", "", key.upper(), key + "\n"]))] = inner[key]
                del inner[key]
            case "outer":
                value[data.draw(st.sampled_from(sorted(value)))] = data.draw(JUNK)
    path.write_text(json.dumps(value), "utf-8")
    correct_or_refused(folder, saved[1].state_dict())
    shutil.rmtree(folder.parent)
