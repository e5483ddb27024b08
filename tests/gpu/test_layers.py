"""Every layer and its gradients, float32, beside NumPy's: each class stands in one of the subjects.

The classes are found, not listed: one that stands in no subject fails the first test.
"""

import importlib
import pkgutil
from types import SimpleNamespace

import numpy as np
import pytest

import minideepseek
from minideepseek.autograd.engine import Parameter, no_grad
from minideepseek.layers.attention import (
    GroupedQueryAttention,
    MultiHeadAttention,
    MultiQueryAttention,
)
from minideepseek.layers.fp8.experts import FP8Experts
from minideepseek.layers.fp8.linear import FP8Linear
from minideepseek.layers.mla import MultiHeadLatentAttention
from minideepseek.layers.module import Init, Module
from minideepseek.layers.standard_moe import StandardMoE, softmax_of_top
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.fp8 import fp8_inference, fp8_training
from minideepseek.model.transformer import DeepSeekV3
from tests.gpu.common import LOOSE, RTOL, close, close_gradients, up
from tests.layers.common import draw_ids, scramble

NANO = {"num_nextn_predict_layers": 2, "aux_loss_alpha": 0.01}
YARN = {
    "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 32.0,
    "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
}  # fmt: skip


def model(seed=0, **fields):
    """A scrambled model in float32."""
    config = DeepSeekV3Config.preset("nano", **NANO | fields)
    return scramble(DeepSeekV3.empty(config), seed)


def layer(kind, *args):
    """A scrambled layer in float32."""
    config = vars(DeepSeekV3Config.preset("nano")) | {"num_key_value_heads": 1}
    return scramble(kind(SimpleNamespace(**config), Init(None, 0.0), *args), 0)


SUBJECTS = {
    "model": model,
    "model with YaRN": lambda: model(max_position_embeddings=64, rope_scaling=YARN),
    "model, tied, no latent for queries": lambda: model(
        tie_word_embeddings=True, q_lora_rank=None, rope_interleave=False
    ),
    "model in FP8": lambda: fp8_training(model()),
    "model of codes": lambda: fp8_inference(model()),
    "MHA": lambda: layer(MultiHeadAttention),
    "GQA": lambda: layer(GroupedQueryAttention),
    "MQA": lambda: layer(MultiQueryAttention),
    "MLA": lambda: layer(MultiHeadLatentAttention),
    "few large experts": lambda: layer(StandardMoE),
    "few large experts, softmax of the chosen": lambda: layer(StandardMoE, softmax_of_top),
}


def parts(module):
    """A module and all in it."""
    yield module
    for _, child in module.children():
        yield from parts(child)


PARTS = ("minideepseek.layers.", "minideepseek.model.")


def kinds(base=Module):
    """Every layer class of layers/ and model/."""
    for kind in base.__subclasses__():
        yield from ([kind] if kind.__module__.startswith(PARTS) else [])
        yield from kinds(kind)


def test_no_layer_is_forgotten():
    for found in pkgutil.walk_packages(minideepseek.__path__, "minideepseek."):
        if found.name.split(".")[1] in ("layers", "model"):
            importlib.import_module(found.name)
    seen = {type(part) for make in SUBJECTS.values() for part in parts(make())}
    assert set(kinds()) - seen == set()


def work(module, place):
    """A loss of the module on that device, and x, of which it is, for a layer."""
    if isinstance(module, DeepSeekV3):
        ids = draw_ids(module.config, 0, 2, 12)
        mask = np.arange(12) < np.array([[12], [7]])
        losses = module.losses(ids, mask=mask)
        return losses.total, None, [routing.counts for routing in losses.routings]
    x = Parameter(up(np.random.default_rng(1).standard_normal((2, 9, 32), np.float32), place))
    y = module(x)
    return (y * y).sum(), x, []


@pytest.mark.parametrize("name", SUBJECTS)
def test_layers(place, name):
    here = SUBJECTS[name]()
    there = here.to(place)
    rtol = LOOSE if any(isinstance(p, FP8Linear | FP8Experts) for p in parts(here)) else RTOL
    (loss, x, counts), (loss_there, x_there, counts_there) = work(here, "cpu"), work(there, place)
    assert counts_there == counts
    close(loss_there.data, loss.data, rtol)
    for one in (loss, loss_there):
        one.backward()
    close_gradients(there, here, rtol)
    if x is not None:
        close(x_there.grad, x.grad, rtol)


@pytest.mark.parametrize("kind", ["naive", "absorbed"])
def test_decoding(place, kind):
    """Ragged rows in a cache, in two parts: the logits of the host."""
    results = []
    for one in (here := model(), here.to(place)):
        cache = one.new_cache(2, 4)
        ids = draw_ids(one.config, 2, 2, 9)
        sizes = (5, 3, 1) if kind == "naive" else (5, 1, 1)
        start, parts_ = 0, []
        with no_grad():
            for size in sizes:
                counts = np.array([size, max(1, size - 1)])
                part = one.check_ids(ids[:, start : start + size])
                parts_.append(one.logits(one.hidden(part, cache, counts)[0]).numpy())
                start += size
        results.append(parts_)
    for one, other in zip(*results, strict=True):
        close(other, one)
