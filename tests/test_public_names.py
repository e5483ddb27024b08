"""The names that other programs call: there, with the stated signatures, and loaded when asked."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minideepseek as mds

ROOT = Path(mds.__file__).parent.parent
E = inspect.Parameter.empty
STATED = {  # parameter → default, in order; what a caller may rely on
    "Tensor": {"data": E},
    "Parameter": {"data": E},
    "DeepSeekV3": {"config": E, "rng": None, "dtype": np.float32},
    "DeepSeekV3.__call__": {"ids": E},
    "DeepSeekV3.loss": {"ids": E},
    "DeepSeekV3.losses": {"ids": E},
    "DeepSeekV3.named_parameters": {},
    "DeepSeekV3.parameters": {},
    "DeepSeekV3.state_dict": {},
    "DeepSeekV3.load_state_dict": {"state": E},
    "DeepSeekV3.save_pretrained": {"directory": E},
    "DeepSeekV3.from_pretrained": {"directory": E, "dtype": np.float32},
    "DeepSeekV3Config.preset": {"name": E},
    "MultiHeadAttention": {"config": None, "rng": None},
    "MultiQueryAttention": {"config": None, "rng": None},
    "GroupedQueryAttention": {"config": None, "rng": None},
    "MultiHeadLatentAttention": {"config": None, "rng": None},
    "DeepSeekAttention": {"config": None, "rng": None},
    "Tensor.backward": {"g": None},
    "AdamW": {"parameters": E, "lr": E},
    "AdamW.step": {},
    "AdamW.zero_grad": {},
    "clip_grad_norm": {"parameters": E, "max_norm": E},
    "fp8.decode": {"codes": E},
    "fp8.dequantize": {"codes": E, "scale_inv": E, "block": (128, 128)},
    "fp8.encode": {"x": E},
    "fp8.quantize": {"x": E, "block": (128, 128)},
    "generate": {
        "model": E, "ids": E, "max_new_tokens": E, "temperature": 0.0, "top_k": None, "top_p": 1.0,
        "eos_token_id": None, "pad_token_id": None, "rng": None,
    },
    "generate_speculative": {
        "model": E, "ids": E, "max_new_tokens": E, "temperature": 0.0, "top_k": None, "top_p": 1.0,
        "draft_tokens": 1, "eos_token_id": None, "pad_token_id": None, "rng": None,
    },
    "MTPModel": {"config": E, "rng": None},
    "gradcheck": {"f": E, "arrays": E},
    "group_advantages": {"rewards": E, "scale": "std"},
    "grpo_loss": {
        "logprobs": E, "old_logprobs": E, "advantages": E, "mask": E, "ref_logprobs": None,
        "clip_epsilon": 0.2, "kl_coef": 0.0, "kl": "k3", "aggregation": "token",
        "denominator": None, "ratio": "token",
    },
    "ReasoningModel": {"model": E, "tokenizer": E},
    "ReasoningModel.think": {"prompt": E},
    "no_grad": {},
    "primitive": {"function": E},
    "set_threads": {"count": E},
}  # fmt: skip


@pytest.mark.parametrize("name", STATED)
def test_signatures(name):
    found = mds
    for part in name.split("."):
        found = getattr(found, part)
    given = dict(inspect.signature(found).parameters)
    given.pop("self", None)
    shown = {n: p.default for n, p in list(given.items())[: len(STATED[name])]}
    assert shown == STATED[name]
    for p in list(given.values())[len(STATED[name]) :]:  # what comes after may be left out
        assert p.default is not E or p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL), p


def test_generates_arguments_and_no_others_come_before_rng():
    options = list(inspect.signature(mds.generate).parameters)
    assert options[: len(STATED["generate"])] == list(STATED["generate"])


def test_every_name_is_there_and_comes_from_where_the_table_says():
    for name, home in mds._HOME.items():
        module = importlib.import_module(f"minideepseek.{home}")
        assert getattr(mds, name) is getattr(module, name)
    assert set(mds.__all__) <= set(dir(mds))


def test_the_three_lists_agree():
    """`__all__`, the lazy table, and the imports that type checkers see."""
    assert mds.__all__ == sorted(mds._HOME) and len(set(mds.__all__)) == len(mds.__all__)
    tree = ast.parse(Path(mds.__file__).read_text("utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If))
    seen = {a.name: n.module for n in block.body for a in n.names}
    assert seen == {name: f"minideepseek.{home}" for name, home in mds._HOME.items()}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Adam'"):
        mds.Adam  # noqa: B018
    with pytest.raises(ImportError):
        exec("from minideepseek import Adam")


def test_importing_the_package_imports_no_numpy():
    code = (
        "import sys, minideepseek; assert 'numpy' not in sys.modules; "
        "minideepseek.InputError; assert 'numpy' not in sys.modules; "
        "minideepseek.AdamW; assert 'numpy' in sys.modules; "
        "assert not any(m.startswith('minideepseek.model') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_the_package_says_that_it_is_typed():
    assert (Path(mds.__file__).parent / "py.typed").exists()


def test_the_whole_story(tmp_path):
    """What the README promises to other programs, once, in their words."""
    config = mds.DeepSeekV3Config.preset("nano")
    assert mds.DeepSeekV3Config(hidden_size=64).hidden_size == 64
    model = mds.DeepSeekV3(config, rng=np.random.default_rng(0), dtype=np.float32)
    ids = np.arange(10).reshape(2, 5)
    logits = model(ids)
    assert isinstance(logits, mds.Tensor) and logits.shape == (2, 5, config.vocab_size)
    loss = model.loss(ids)
    assert isinstance(loss, mds.Tensor) and loss.shape == ()
    loss.backward()
    names = dict(model.named_parameters())
    assert all(isinstance(p, mds.Parameter) for p in names.values())
    assert all(p.grad.shape == p.data.shape for p in names.values())
    optimiser = mds.AdamW(model.parameters(), lr=1e-2)
    norm = mds.clip_grad_norm(model.parameters(), 1.0)
    assert norm > 0
    optimiser.step()
    optimiser.zero_grad()
    assert all(p.grad is None for p in names.values())
    assert model.loss(ids).item() < loss.item()
    model.load_state_dict(model.state_dict())
    model.save_pretrained(tmp_path / "model")
    again = mds.DeepSeekV3.from_pretrained(tmp_path / "model", dtype=np.float64)
    np.testing.assert_allclose(again(ids).data, model(ids).data, atol=1e-5)
    out = mds.generate(
        model, ids, max_new_tokens=3, temperature=0.0, top_k=None, top_p=1.0,
        eos_token_id=None, pad_token_id=None, rng=None,
    )  # fmt: skip
    assert out.shape == (2, 8) and out.dtype.kind == "i" and (out[:, :5] == ids).all()
    assert mds.gradcheck(lambda x: x * x, np.array([1.0, 2.0]))
    constant, parameter = mds.Tensor(np.ones(2)), mds.Parameter(np.ones(2))
    (constant * parameter).sum().backward()
    assert parameter.grad.tolist() == [1, 1]


def test_fp8_is_called_by_the_chapter_s_name():
    """Right after `import minideepseek`, in a fresh process, and on a list."""
    code = (
        "import minideepseek as m; c = m.fp8.encode([1.0, 1e9]); print(m.fp8.decode(c).tolist(), "
        "m.fp8.dequantize(*m.fp8.quantize([[7.0, 0.0]])).tolist())"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    assert found.stdout == "[1.0, 448.0] [[7.0, 0.0]]\n"


def test_a_chapter_is_an_attribute_of_the_package():
    """help(minideepseek.layers.mla) after `import minideepseek` alone, in a fresh process."""
    code = (
        "import minideepseek as m; print(m.layers.mla.__doc__[:10], m.model.config.__name__, "
        "m.reasoning.r1.pipeline.__name__)"  # a file in a folder of its own
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    names = ["minideepseek.model.config", "minideepseek.reasoning.r1.pipeline"]
    assert found.stdout.split() == ["Chapter", "2", *names]
