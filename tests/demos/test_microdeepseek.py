"""The model in one file: with the same weights it is the library's, and it learns."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from demos import microdeepseek as micro
from minideepseek.layers.moe import update_bias
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.transformer import DeepSeekV3, evaluate_loss
from minideepseek.training.optim import AdamW, clip_grad_norm, cosine_schedule, matrices_only

FILE = Path(micro.__file__)
NAMES = (
    "LAYERS WIDTH LATENT HEADS CONTENT ROTATED VALUE EXPERTS TOP_K EXPERT_WIDTH FACTOR MTP_WEIGHT"
)
SIZES = {  # in the order of NAMES; widths differ, so that no axis can stand for another
    "two layers": (2, 20, 7, 3, 5, 4, 6, 5, 2, 9, 2.5, 0.3),
    "four experts of six": (1, 12, 5, 2, 3, 6, 4, 6, 4, 7, 1.5, 0.1),
    "one head, all experts": (1, 10, 8, 1, 4, 2, 3, 3, 3, 6, 1.0, 1.0),
}


def resize(monkeypatch, sizes, **changes):
    """Make the module's model a small one, with a window of 12 bytes."""
    numbers = dict(zip(NAMES.split(), SIZES[sizes], strict=True)) | {"CONTEXT": 12} | changes
    for name, value in numbers.items():
        monkeypatch.setattr(micro, name, value)


@pytest.fixture(params=SIZES)
def sizes(request, monkeypatch):
    resize(monkeypatch, request.param)


def config():
    """The library's configuration of the model that `micro` is now."""
    return DeepSeekV3Config(
        vocab_size=256,
        hidden_size=micro.WIDTH,
        num_hidden_layers=micro.LAYERS,
        first_k_dense_replace=0,
        num_nextn_predict_layers=1,
        max_position_embeddings=1024,
        rms_norm_eps=micro.EPS,
        num_attention_heads=micro.HEADS,
        q_lora_rank=None,
        kv_lora_rank=micro.LATENT,
        qk_nope_head_dim=micro.CONTENT,
        qk_rope_head_dim=micro.ROTATED,
        v_head_dim=micro.VALUE,
        rope_theta=micro.THETA,
        rope_interleave=True,
        n_routed_experts=micro.EXPERTS,
        n_shared_experts=1,
        num_experts_per_tok=micro.TOP_K,
        moe_intermediate_size=micro.EXPERT_WIDTH,
        n_group=1,
        topk_group=1,
        norm_topk_prob=True,
        routed_scaling_factor=micro.FACTOR,
        aux_loss_alpha=0.0,
    )


def library(dtype, seed):
    """A DeepSeekV3 whose every weight, norms and biases too, is drawn."""
    rng = np.random.default_rng(seed)
    model = DeepSeekV3(config(), rng, dtype)
    for p in model.parameters():
        p.data[...] = rng.normal(p.ndim == 1, 0.3, p.shape)
    for router in model.routers:
        router.e_score_correction_bias[...] = rng.normal(0, 0.2, micro.EXPERTS)
    return model


def layer_names(prefix):
    """Our name → the library's, of what is the same array in both."""
    return {
        "norm1": f"{prefix}input_layernorm.weight",
        "norm2": f"{prefix}post_attention_layernorm.weight",
        "norm_c": f"{prefix}self_attn.kv_a_layernorm.weight",
        "W_O": f"{prefix}self_attn.o_proj.weight",
        "router": f"{prefix}mlp.gate.weight",
    }


def translated(tensors):
    """The library's weights, or their gradients, by name → in this file's parts and names."""
    c = micro

    def split(name, first):  # (H · (first + rest), in) → (H · first, in), (H · rest, in)
        w = tensors[name]
        w = w.reshape(c.HEADS, -1, w.shape[1])
        return (part.reshape(-1, w.shape[2]) for part in (w[:, :first], w[:, first:]))

    def layer(prefix):
        own = {ours: tensors[theirs] for ours, theirs in layer_names(prefix).items()}
        own["W_Q"], own["W_QR"] = split(f"{prefix}self_attn.q_proj.weight", c.CONTENT)
        down = tensors[f"{prefix}self_attn.kv_a_proj_with_mqa.weight"]
        own["W_DKV"], own["W_KR"] = down[: c.LATENT], down[c.LATENT :]
        own["W_UK"], own["W_UV"] = split(f"{prefix}self_attn.kv_b_proj.weight", c.CONTENT)
        gate, up, down = (
            tensors[f"{prefix}mlp.shared_experts.{name}_proj.weight"]
            for name in ("gate", "up", "down")
        )
        both, routed = np.concatenate([gate, up]), f"{prefix}mlp.experts."
        own["experts_in"] = np.concatenate([tensors[f"{routed}gate_up_proj"], both[None]])
        own["experts_out"] = np.concatenate([tensors[f"{routed}down_proj"], down[None]])
        return own

    last = f"model.layers.{c.LAYERS}."
    ends = {
        "emb": tensors["model.embed_tokens.weight"].T,
        "norm": tensors["model.norm.weight"],
        "head": tensors["lm_head.weight"],
    }
    mtp = layer(last) | {
        "norm_e": tensors[f"{last}enorm.weight"],
        "norm_s": tensors[f"{last}hnorm.weight"],
        "M": tensors[f"{last}eh_proj.weight"],
        "norm_out": tensors[f"{last}shared_head.norm.weight"],
    }
    layers = {i: layer(f"model.layers.{i}.") for i in range(c.LAYERS)}
    return {"ends": ends, "mtp": mtp} | layers


def weights(model):
    """The model's weights and biases as this file's parameters, copied."""
    params = translated({name: p.data for name, p in model.named_parameters()})
    for part, router in zip([*range(micro.LAYERS), "mtp"], model.routers, strict=True):
        params[part]["bias"] = router.e_score_correction_bias
    return {part: {n: a.copy() for n, a in p.items()} for part, p in params.items()}


def assert_close(got, expected, tolerance):
    """Equal parts, names, shapes and dtypes; values relative to each array's largest."""
    assert got.keys() == expected.keys()
    for part in expected:
        assert got[part].keys() == expected[part].keys()
        for name, e in expected[part].items():
            g = got[part][name]
            assert g.shape == e.shape and g.dtype == e.dtype, (part, name)
            worst = abs(g - e).max() / max(abs(e).max(), 1e-30)
            # the library adds to its biases in float32, whatever the weights are
            assert worst < (1e-6 if name == "bias" else tolerance), (part, name, worst)


def batch(seed, rows=3, length=9):
    return np.random.default_rng(seed).integers(256, size=(rows, length)).astype(np.uint8)


TOLERANCE = {"float64": 1e-9, "float32": 1e-4}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_and_every_gradient_are_the_librarys(sizes, dtype, seed):
    model, ids = library(dtype, seed), batch(seed)
    params = weights(model)
    losses = model.losses(ids, mtp_weight=micro.MTP_WEIGHT)
    losses.total.backward()

    value = micro.loss(ids, params)
    grads = micro.backward(value)
    assert value.dtype == dtype
    assert value == pytest.approx(losses.total.item(), rel=TOLERANCE[dtype])
    ours = {
        part: {name: grads[id(a)] for name, a in p.items() if name != "bias"}
        for part, p in params.items()
    }
    theirs = translated({name: p.grad for name, p in model.named_parameters()})
    assert_close(ours, theirs, TOLERANCE[dtype])
    for part, routing in zip([*range(micro.LAYERS), "mtp"], losses.routings, strict=True):
        assert grads[id(params[part]["bias"])].tolist() == routing.counts


def test_a_back_is_linear_in_g(sizes):
    micro.loss(batch(11), weights(library("float64", 11)))
    for value, _, back in micro.TAPE:
        g = np.random.default_rng(0).standard_normal(np.shape(value))
        for once, thrice in zip(back(g), back(3 * g), strict=True):
            if np.ndim(once) != 1 or len(once) != micro.EXPERTS:  # but for the loads
                assert np.allclose(3 * once, thrice, rtol=1e-9, atol=0)


@pytest.mark.parametrize("clip", [0.1, 1e6])
def test_training_steps_are_the_librarys(sizes, clip, monkeypatch):
    monkeypatch.setattr(micro, "CLIP", clip)
    model, moments = library("float64", 5), {}
    params = weights(model)
    optimiser = AdamW(
        model.parameters(), 0.0, micro.BETAS, weight_decay=matrices_only(micro.DECAY)
    )
    for step in range(4):
        ids, rate = batch(step), 0.01 * (step + 1)
        micro.update(params, micro.backward(micro.loss(ids, params)), moments, step + 1, rate)

        optimiser.zero_grad()
        losses = model.losses(ids, mtp_weight=micro.MTP_WEIGHT)
        losses.total.backward()
        clip_grad_norm(model.parameters(), clip)
        optimiser.lr = rate
        optimiser.step()
        for router, routing in zip(model.routers, losses.routings, strict=True):
            update_bias(router.e_score_correction_bias, routing.counts, micro.BIAS_STEP)
        assert_close(params, weights(model), 1e-9)


def test_the_default_model_is_the_librarys_in_shape():
    ours, model = micro.make_params(np.random.default_rng(0)), DeepSeekV3.empty(config())
    shapes = {part: {n: a.shape for n, a in p.items()} for part, p in weights(model).items()}
    assert {part: {n: a.shape for n, a in p.items()} for part, p in ours.items()} == shapes
    assert {a.dtype for p in ours.values() for a in p.values()} == {np.dtype("float32")}
    for part in ours.values():
        for name, a in part.items():
            spread = a.shape[-1] ** -0.5 if a.ndim > 1 else 0
            assert abs(a.std() / spread - 1 if spread else a.std()) < 5 * (2 * a.size) ** -0.5, name
            assert spread or set(a.tolist()) == {0.0 if name == "bias" else 1.0}


def test_bits_per_byte_are_the_librarys(sizes):
    model = library("float64", 3)
    text = batch(4, 1, 12 * 40 + 1)[0]
    windows = np.stack([text[i : i + 13] for i in range(0, 12 * 40, 12)])
    nats, count = evaluate_loss(model, windows, np.ones((40, 12), int))
    bits = micro.bits_per_byte(weights(model), text)
    assert bits == pytest.approx(nats / count / np.log(2), rel=1e-9)
    assert count == len(text) - 1  # every byte but the first, once


def test_reading_with_a_cache_changes_nothing(sizes):
    params, ids = weights(library("float64", 6)), batch(7, 2, 11)
    whole = micro.states(ids, params)
    for cuts in ([4], [1, 2, 3, 10], range(1, 11)):
        caches = [[] for _ in range(micro.LAYERS)]
        parts = [micro.states(part, params, caches) for part in np.split(ids, cuts, axis=1)]
        assert abs(np.concatenate(parts, axis=1) - whole).max() < 1e-9
    c, k_r, place = caches[0]
    assert (c.shape, k_r.shape, place) == ((2, 11, micro.LATENT), (2, 11, micro.ROTATED), 11)


def test_a_cache_forgets_what_is_far_and_places_go_on(monkeypatch):
    resize(monkeypatch, "two layers", LAYERS=1)
    params, ids = weights(library("float64", 8)), batch(9, 2, 40)
    caches = [[]]
    for t in range(40):
        last = micro.states(ids[:, t : t + 1], params, caches)
    assert caches[0][0].shape[1] == micro.CONTEXT - 1 and caches[0][2] == 40
    # one layer sees no further than its window, and rotation knows distances only
    window = micro.states(ids[:, -micro.CONTEXT :], params, [[]])
    assert abs(window[:, -1] - last[:, 0]).max() < 1e-9


def test_a_sample_is_drawn_from_the_softmax(sizes):
    params, rng = weights(library("float64", 10)), np.random.default_rng(1)
    text = micro.sample(params, b"ab", 9, np.random.default_rng(1))
    ids = list(b"ab")
    for _ in range(9):
        z = params["ends"]["head"] @ micro.states(np.array([ids]), params)[0, -1]
        ids.append(int((z / micro.TEMPERATURE + rng.gumbel(size=256)).argmax()))
    assert text == "".join(chr(i) if 32 <= i < 127 or i == 10 else "·" for i in ids)
    assert len(text) == 11


def test_no_paragraph_is_on_both_sides(tmp_path, monkeypatch):
    word = "".join
    rng = np.random.default_rng(0)
    texts = [word(map(chr, rng.integers(97, 123, 30))) for _ in range(200)]
    for i in range(100):  # every paragraph occurs in two files
        own, next_one = texts[i], texts[(i + 1) % 100]
        (tmp_path / f"m{i}.py").write_text(
            f'"""{own}\n\n{next_one}"""\nclass A:\n    def f(self):\n        """In {i}."""\n',
            "utf-8",
        )
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "broken.py").write_text("def:", "utf-8")
    monkeypatch.setattr(micro.sysconfig, "get_path", lambda name: str(tmp_path))
    held_out, text = (re.split(r"\n{2,3}", side.tobytes().decode()) for side in micro.docstrings())
    assert not set(held_out) & set(text)
    assert sorted(held_out + text) == sorted({*texts[:100], *(f"In {i}." for i in range(100))})
    docstrings = [f"{texts[i]}\n\n{texts[(i + 1) % 100]}" for i in range(100)]
    docstrings += ["", *(f"In {i}." for i in range(100))]
    first = sorted(docstrings, key=lambda text: micro.zlib.crc32(text.encode()))[:11]
    assert set(held_out) == {part for text in first for part in text.split("\n\n")} - {""}


def test_it_is_one_readable_file_with_numpy_alone():
    lines = FILE.read_text("utf-8").splitlines()
    assert len(lines) <= 300 and max(map(len, lines)) <= 100
    tree = ast.parse(FILE.read_text("utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level
            imported.add(node.module.split(".")[0])
    assert imported - sys.stdlib_module_names == {"numpy"}
    drawn = set(re.findall(r"np\.random\.(\w+)", FILE.read_text("utf-8")))
    assert drawn == {"default_rng"}


def test_the_learning_rate_is_the_librarys(monkeypatch, capsys):
    rates, rng = [], np.random.default_rng(0)
    sides = [rng.integers(256, size=n).astype(np.uint8) for n in (200, 400)]
    monkeypatch.setattr(micro, "docstrings", lambda: sides)
    monkeypatch.setattr(micro, "update", lambda *args: rates.append(args[-1]))
    monkeypatch.setattr(micro, "sample", lambda *args: "")
    monkeypatch.setattr(micro, "WARMUP", 1)
    micro.main(["--steps", "10"])
    assert rates[0] == micro.RATE and rates[-1] < 0.13 * micro.RATE
    assert capsys.readouterr().out.count("bits a byte") == 3  # step 0 is 10 // 16 too
    assert rates == pytest.approx(
        [cosine_schedule(s, 11, micro.RATE, 0) for s in range(10)], rel=1e-9
    )


@pytest.mark.slow
def test_sixty_steps_teach_it_something():
    run = [sys.executable, str(FILE), "--steps", "60", "--seed", "1"]
    out = subprocess.run(run, capture_output=True, encoding="utf-8", check=True).stdout
    bits = [float(b) for b in re.findall(r"([\d.]+) bits a byte", out)]
    assert bits[0] > 8 and bits[-1] < 4.7  # 4.3 with three seeds
    assert bits == sorted(bits, reverse=True)
    assert out.count("    | Return ") == len(bits) == 4
