"""Whole models in FP8: which layers, whose parameters, what is stored, and what they compute."""

import json
import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from minideepseek.autograd import backend
from minideepseek.autograd.engine import no_grad
from minideepseek.errors import CheckpointError, InputError
from minideepseek.layers.fp8 import dequantize, quantize
from minideepseek.layers.fp8.experts import FP8Experts, StoredFP8Experts
from minideepseek.layers.fp8.linear import FP8Linear, StoredFP8Linear
from minideepseek.layers.fp8.recipe import V3, WEIGHTS_ALONE, Recipe
from minideepseek.model import checkpoint
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.fp8 import (
    array_bytes,
    fp8_inference,
    fp8_training,
    high_precision,
    load_fp8,
)
from minideepseek.model.generate import generate
from minideepseek.model.layout import is_quantised, tensor_shapes
from minideepseek.model.safetensors import load_file, save_file
from minideepseek.model.transformer import DeepSeekV3
from tests.layers.common import build, draw_ids, forget, gradients, relative, scramble, seeds
from tests.strategies import configs

NANO = DeepSeekV3Config.preset("nano")
WIDE = DeepSeekV3Config.preset(  # every tile ragged somewhere: 160, 200 and 130 are no 128
    "nano", hidden_size=160, intermediate_size=200, moe_intermediate_size=130, q_lora_rank=140,
    kv_lora_rank=136, attention_bias=True, n_routed_experts=4, n_group=2, topk_group=1,
    num_nextn_predict_layers=1,
)  # fmt: skip


def narrow(config, seed=0):
    """A scrambled float32 model."""
    return scramble(DeepSeekV3.empty(config), seed)


def modules(module, prefix=""):
    """(path, module) of every part."""
    for name, part in module.children():
        yield f"{prefix}{name}", part
        yield from modules(part, f"{prefix}{name}.")


def logits(model, ids):
    with no_grad():
        return model(ids).data


def decoded(model, ids):
    """Logits of ids token by token through the cache, (B, T, V)."""
    cache = model.new_cache(ids.shape[0], ids.shape[1])
    with no_grad():
        steps = [model.logits(model.hidden(ids[:, t : t + 1], cache)[0]).data
                 for t in range(ids.shape[1])]  # fmt: skip
    return np.concatenate(steps, 1)


# ------------------------------------------------------------------------------------- which, whose


@given(configs())
@settings(max_examples=15)
def test_exactly_the_papers_layers_compute_in_fp8(config):
    """Those whose tensors a DeepSeek checkpoint quantises; everything else is what it was."""
    model = DeepSeekV3.empty(config)
    for twin, kinds in (
        (fp8_training(model), (FP8Linear, FP8Experts)),
        (fp8_inference(model), (StoredFP8Linear, StoredFP8Experts)),
    ):
        changed = set()
        for (path, one), (_, other) in zip(modules(model), modules(twin), strict=True):
            if type(one) is type(other):
                continue
            assert type(other) in kinds
            names = [n for n, _ in one.named_tensors() if not n.endswith("bias")]
            changed |= {model.checkpoint_name(f"{path}.{n}") for n in names}
        assert changed == {name for name, _ in tensor_shapes(config) if is_quantised(name)}


def test_o_proj_and_the_experts_have_recipes_of_their_own():
    twin = fp8_training(DeepSeekV3.empty(NANO))
    for layer in (*twin.model.layers, *twin.mtp.layers):
        schemes = {n: p.scheme for n, p in modules(layer) if isinstance(p, FP8Linear)}
        assert schemes.pop("self_attn.o_proj") == V3.after_attention
        assert set(schemes.values()) == {V3.linear}
    served = fp8_inference(DeepSeekV3.empty(NANO), V3)
    assert served.mtp.layers[0].self_attn.o_proj.scheme == V3.after_attention
    assert served.mtp.layers[0].mlp.experts.recipe == V3
    default = fp8_inference(DeepSeekV3.empty(NANO)).model.layers[0]
    assert default.self_attn.o_proj.scheme == default.mlp.down_proj.scheme == WEIGHTS_ALONE


def test_parameters_names_and_files_are_the_float32_models(tmp_path):
    model = narrow(WIDE)
    twin = fp8_training(model)
    pairs = zip(model.named_parameters(), twin.named_parameters(), strict=True)
    assert all(one == other and p is q for (one, p), (other, q) in pairs)
    assert list(model.state_dict()) == list(twin.state_dict())
    model.save_pretrained(tmp_path / "one")
    twin.save_pretrained(tmp_path / "two")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    twin.load_state_dict(narrow(WIDE, 1).state_dict())
    model.routers[0].e_score_correction_bias += 1
    assert np.array_equal(model.state_dict()["lm_head.weight"], twin.lm_head.weight.data)
    assert all(np.array_equal(a.e_score_correction_bias, b.e_score_correction_bias)
               for a, b in zip(model.routers, twin.routers, strict=True))  # fmt: skip


def test_high_precision_undoes_it():
    model, ids = narrow(WIDE), draw_ids(WIDE, 0, 2, 6)
    plain = high_precision(fp8_training(model))
    for (_, one), (_, other) in zip(modules(model), modules(plain), strict=True):
        assert type(one) is type(other) and vars(one).keys() == vars(other).keys()
    assert np.array_equal(logits(plain, ids), logits(model, ids))
    assert all(p is q for p, q in zip(model.parameters(), plain.parameters(), strict=True))
    assert not np.array_equal(logits(fp8_training(model), ids), logits(model, ids))


def test_what_cannot_be_turned_is_refused():
    served = fp8_inference(DeepSeekV3.empty(NANO))
    for turn in (fp8_training, fp8_inference, high_precision):
        with pytest.raises(InputError, match=r"model: it holds FP8 codes \(model\.layers"):
            turn(served)


# ------------------------------------------------------------------------------------------ numbers


@given(configs(), seeds)
@settings(max_examples=15)
def test_served_with_rounded_activations_it_is_trainings_forward_pass(config, seed):
    model, ids = narrow(config, seed), draw_ids(config, seed, 2, 6)
    trained, served = logits(fp8_training(model), ids), logits(fp8_inference(model, V3), ids)
    assert relative(served, trained) < 1e-5
    again = logits(fp8_inference(fp8_training(model), V3), ids)
    assert np.array_equal(again, served)


@given(configs(), seeds)
@settings(max_examples=15)
def test_served_it_is_the_model_of_the_decoded_weights(config, seed):
    model, ids = build(config, seed), draw_ids(config, seed, 2, 7)
    served = fp8_inference(model)
    copy = DeepSeekV3.empty(config, np.float64)
    copy.load_state_dict({
        name: dequantize(*quantize(a)) if is_quantised(name) else a
        for name, a in model.state_dict().items()
        if not name.endswith(("shared_head.head.weight", "layers.0.embed_tokens.weight"))
    } | {n: model.state_dict()[n] for n in model.state_dict() if not is_quantised(n)})
    want = logits(copy, ids)
    assert relative(logits(served, ids), want) < 1e-11
    assert relative(decoded(served, ids), want) < 1e-9  # the cache, and the absorbed form
    assert relative(logits(served, ids), logits(model, ids)) > 1e-6


@given(configs(), seeds)
@settings(max_examples=10)
def test_the_future_never_changes_the_past(config, seed):
    model, ids = build(config, seed), draw_ids(config, seed, 1, 9)
    other = ids.copy()
    other[:, 5:] = draw_ids(config, seed + 1, 1, 4)
    for twin in (fp8_training(model), fp8_inference(model)):
        assert relative(logits(twin, other)[:, :5], logits(twin, ids)[:, :5]) < 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_near_float32s_and_reach_every_parameter(seed):
    """All experts are chosen, so that no rounding changes a choice; a wrong transpose, or a
    gradient that is not passed straight through, is 100 % away and more."""
    config = replace(WIDE, n_routed_experts=2, n_group=1, num_experts_per_tok=2)
    model, ids = DeepSeekV3(config, np.random.default_rng(seed)), draw_ids(config, seed, 3, 30)
    model.losses(ids).total.backward()
    plain = gradients(model)
    forget(model)
    twin = fp8_training(model)
    twin.losses(ids).total.backward()
    assert all(p.grad is not None for p in twin.parameters())
    found = gradients(twin)
    off = {n: np.linalg.norm(found[n] - g) / np.linalg.norm(g) for n, g in plain.items()}
    assert 0.001 < min(off.values()) and max(off.values()) < 0.2, off


def test_absorbed_and_naive_differ_by_rounded_activations_alone():
    """In training's model; with exact activations the two forms are one function."""
    model, ids = build(WIDE), draw_ids(WIDE, 0, 2, 6)
    exact = fp8_training(model, Recipe.uniform(WEIGHTS_ALONE))
    assert relative(decoded(exact, ids), logits(exact, ids)) < 1e-9
    rounding = fp8_training(model)
    assert 1e-4 < relative(decoded(rounding, ids), logits(rounding, ids)) < 0.5


@pytest.mark.parametrize("turn", [fp8_training, fp8_inference])
def test_the_same_numbers_on_each_device(turn, device):
    model, ids = build(NANO), draw_ids(NANO, 0, 2, 8)
    twin = turn(model)
    there = twin.to(device)
    assert there.device == device
    losses = [m.losses(ids) for m in (twin, there)]
    assert losses[1].total.item() == pytest.approx(losses[0].total.item(), rel=1e-9)
    for one in losses:
        one.total.backward()
    for (name, p), q in zip(twin.named_parameters(), there.parameters(), strict=True):
        assert relative(backend.to_host(q.grad), p.grad) < 1e-7, name
    assert np.array_equal(generate(twin, ids, 4), generate(there, ids, 4))


def test_it_generates_what_it_says_is_likeliest():
    model, ids = narrow(NANO), draw_ids(NANO, 0, 3, 5)
    served = fp8_inference(model)
    out = generate(served, ids, 8)
    best = logits(served, out[:, :-1])[:, 4:].argmax(-1)
    assert np.array_equal(out[:, 5:], best)


# ------------------------------------------------------------------------------------------- memory


def test_its_arrays_are_a_checkpoints():
    """Names, shapes and dtypes of DeepSeek's FP8 layout, and nothing decoded beside them."""
    served = fp8_inference(narrow(WIDE))
    found = served.state_dict()
    wanted = dict(tensor_shapes(WIDE, fp8_scales=True, mtp_copies=True))
    assert {n: a.shape for n, a in found.items()} == wanted
    for name, array in found.items():
        codes = is_quantised(name)
        assert array.dtype == ("uint8" if codes else "float32"), name
    held = sum(a.nbytes for module in (served, *dict(modules(served)).values())
               for a in vars(module).values() if type(a) is np.ndarray)  # fmt: skip
    held += sum(p.data.nbytes for p in served.parameters())
    assert held == array_bytes(served)


@pytest.mark.parametrize(("preset", "most"), [("small", 0.3), ("mini", 0.31)])
def test_at_most_three_tenths_of_float32s_bytes(preset, most):
    """small 0.28; mini 0.306 with its MTP module and 0.291 without, as it is served."""
    config = DeepSeekV3Config.preset(preset)
    model = DeepSeekV3.empty(config)
    served = fp8_inference(model)
    assert array_bytes(served) <= most * array_bytes(model)
    main = DeepSeekV3.empty(replace(config, num_nextn_predict_layers=0))
    assert array_bytes(fp8_inference(main)) <= 0.3 * array_bytes(main)
    weights = {n: a for n, a in model.state_dict().items() if is_quantised(n)}
    aligned = [n for n, a in weights.items() if not any(side % 128 for side in a.shape)]
    assert aligned
    for name in aligned:
        names = (name, f"{name}_scale_inv")
        stored = sum(served.state_dict()[n].nbytes for n in names)
        assert stored <= 1.01 * weights[name].size


# -------------------------------------------------------------------------------------------- files


@given(configs(), seeds)
@settings(max_examples=4)
def test_saved_it_is_what_a_float32_model_saves_in_fp8(tmp_path_factory, config, seed):
    folder, model = tmp_path_factory.mktemp("fp8"), narrow(config, seed)
    model.save_pretrained(folder / "float32")
    model.save_pretrained(folder / "a", "float8_e4m3fn")
    served = fp8_inference(model)
    served.save_pretrained(folder / "b")
    loaded = load_fp8(folder / "a")
    loaded.save_pretrained(folder / "c", "float8_e4m3fn")
    for file in (folder / "a").iterdir():
        for other in "bc":
            assert file.read_bytes() == (folder / other / file.name).read_bytes()
    for other in (loaded, load_fp8(folder / "float32")):
        assert list(other.state_dict()) == list(served.state_dict())
        for name, array in served.state_dict().items():
            found = other.state_dict()[name]
            assert found.dtype == array.dtype and np.array_equal(found, array), name
    ids, dequantised = draw_ids(config, seed, 2, 5), DeepSeekV3.from_pretrained(folder / "a")
    assert relative(logits(loaded, ids), logits(dequantised, ids)) < 1e-5


def test_shards_and_bfloat16_and_float64(tmp_path):
    model = narrow(WIDE)
    model.save_pretrained(tmp_path / "a", "float8_e4m3fn", max_shard_bytes=60_000)
    fp8_inference(model).save_pretrained(tmp_path / "b", max_shard_bytes=60_000)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert len(names) > 4
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    wide = load_fp8(tmp_path / "a", "float64", V3)
    assert wide.lm_head.weight.dtype == np.float64
    assert wide.model.layers[0].self_attn.o_proj.scheme == V3.after_attention
    model.save_pretrained(tmp_path / "bf16", "bfloat16")
    ids = draw_ids(WIDE, 0, 1, 5)
    rounded = fp8_inference(DeepSeekV3.from_pretrained(tmp_path / "bf16"))
    assert np.array_equal(logits(load_fp8(tmp_path / "bf16"), ids), logits(rounded, ids))


def test_the_float32_model_is_never_there(tmp_path):
    config = DeepSeekV3Config.preset(
        "nano", hidden_size=256, intermediate_size=1024, moe_intermediate_size=256
    )
    model = DeepSeekV3.empty(config)
    size = array_bytes(model)
    fp8_inference(model).save_pretrained(tmp_path)
    del model
    tracemalloc.start()
    served = load_fp8(tmp_path)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert array_bytes(served) <= 0.3 * size
    assert held < 1.1 * array_bytes(served) and peak < 0.45 * size


def test_it_is_written_in_fp8_alone(tmp_path):
    served = fp8_inference(narrow(NANO))
    for dtype in ("float32", "bfloat16"):
        with pytest.raises(InputError, match=f"dtype: got '{dtype}', expected float8_e4m3fn"):
            served.save_pretrained(tmp_path / "x", dtype)
    config = json.loads((_saved(tmp_path) / "config.json").read_text("utf-8"))
    assert config["quantization_config"] == checkpoint.FP8_FORMAT


def _saved(folder):
    fp8_inference(narrow(NANO)).save_pretrained(folder / "saved")
    return folder / "saved"


@pytest.mark.parametrize(("name", "spoil", "text"), [
    ("model.layers.0.self_attn.o_proj.weight", lambda a: a.view(np.uint8) * 0 + 0x7F, "NaN"),
    ("model.layers.1.mlp.experts.3.up_proj.weight_scale_inv", lambda a: -a, "not positive"),
    ("model.layers.2.self_attn.q_a_proj.weight_scale_inv", lambda a: a * np.nan, "not positive"),
    ("lm_head.weight", lambda a: a * np.inf, "NaN or Inf"),
    ("model.layers.2.shared_head.head.weight", lambda a: a + 1, "whose copy it is"),
    ("model.layers.0.self_attn.o_proj.weight", None, "missing"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_spoilt_directory_names_the_tensor(tmp_path, name, spoil, text):
    folder = _saved(tmp_path)
    tensors = {n: a.copy() for n, a in load_file(folder / "model.safetensors").items()}
    array = tensors.pop(name)
    if spoil is not None:
        tensors[name] = spoil(array).view(array.dtype)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=text) as error:
        load_fp8(folder)
    weight = name.removesuffix("_scale_inv")
    assert weight in str(error.value) and "\n" not in str(error.value)


def test_more_than_the_machine_has_is_refused_before_it_is_made(tmp_path, monkeypatch):
    folder = _saved(tmp_path)
    monkeypatch.setattr(checkpoint, "machine_memory", lambda: 120_000)  # 123,712 and copies
    with pytest.raises(CheckpointError, match=r"needs [0-9,]+ bytes of memory in FP8; this "):
        load_fp8(folder)
    with pytest.raises(InputError, match="dtype: got 'bfloat16'"):
        load_fp8(folder, "bfloat16")


# ----------------------------------------------------------------------------------------- training


def test_twenty_steps_learn():
    from minideepseek.training.optim import AdamW, clip_grad_norm

    model = fp8_training(DeepSeekV3(NANO, np.random.default_rng(0)))
    optimiser = AdamW(model.parameters(), lr=3e-3, moments="bfloat16")
    ids = np.random.default_rng(1).integers(97, 103, (4, 33))  # six letters of 264
    found = []
    for _ in range(20):
        optimiser.zero_grad()
        losses = model.losses(ids)
        losses.total.backward()
        clip_grad_norm(model.parameters(), 1.0)
        optimiser.step()
        found.append(losses.main.item())
    assert found[0] == pytest.approx(math.log(264), abs=0.1)
    assert max(found[-3:]) < 0.7 * found[0] and np.isfinite(found).all()
