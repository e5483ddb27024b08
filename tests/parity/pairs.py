"""Our model and transformers', side by side with the same weights, and how to compare them.

A pair goes the way a user goes: our model is saved by `save_pretrained`, and transformers opens the
directory. Inside `oracle.lifted_casts()` a float64 pair computes in float64 on both sides.
"""

import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from minideepseek.autograd.engine import Tensor, no_grad
from minideepseek.layers.moe import Routing
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.layout import tensor_shapes
from minideepseek.model.transformer import DeepSeekV3
from tests.parity import oracle
from tests.parity.oracle import torch
from tests.strategies import configs

# Scores of a router are from 0 to 1, and known to about 1e-6 or 1e-14.
TIE = {"float32": 1e-4, "float64": 1e-11}


Arrays = Mapping[str, np.ndarray]
Exact = Callable[[int], Arrays] | None


class Pair(NamedTuple):
    """The same function twice."""

    ours: DeepSeekV3
    theirs: oracle.Oracle


def our_model(
    config: DeepSeekV3Config, seed: int, dtype: str = "float32", jitter: int = 0
) -> DeepSeekV3:
    """A model with nothing at its initial value, the same in both dtypes: `oracle.random_state`.

    jitter: not 0, the seed of a move of every weight by up to one unit in float32's last place.
    """
    model = DeepSeekV3.empty(config, dtype)
    state, own = oracle.random_state(config, seed), model.state_dict()
    rng = np.random.default_rng(jitter)
    for name, shape in tensor_shapes(config):
        own[name][...] = state[name]  # copies of embedding and head are views of them
        if jitter:
            own[name][...] *= 1 + 2.0**-23 * rng.uniform(-1, 1, shape)
    return model


def make_pair(
    config: DeepSeekV3Config, seed: int, dtype: str = "float32", jitter: int = 0
) -> Pair:
    """Our model with weights drawn from `seed`, and what transformers makes of its directory."""
    ours = our_model(config, seed, dtype, jitter)
    return Pair(ours, reopened(ours))


def reopened(ours: DeepSeekV3) -> oracle.Oracle:
    """What transformers makes of the directory that our model writes, in the same dtype."""
    dtype = getattr(torch, ours.model.norm.weight.dtype.name)
    with tempfile.TemporaryDirectory() as folder:
        ours.save_pretrained(f"{folder}/model")
        return oracle.open_directory(f"{folder}/model", ours.config, dtype)


def draw_ids(config: DeepSeekV3Config, seed: int, shape: tuple[int, int] = (2, 9)) -> np.ndarray:
    """Random tokens (B, T)."""
    return np.random.default_rng(seed + 1).integers(0, config.vocab_size, shape)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest |expected|."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def assert_alike(found: Arrays, expected: Arrays, tolerance: float, exact: Exact = None) -> None:
    """Every array within `tolerance`, relative to its largest |expected|.

    An array that is nearly zero beside the others is measured at a thousandth of the largest: what
    is in it is the rounding of larger numbers. Only where that fails is exact(jitter) asked, for
    transformers in float64: the draw may be one that magnifies rounding. Then ten times as much is
    allowed as comes of moving every weight by the last bit that float32 has.
    """
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    errors = _errors(found, expected)
    worst = max(errors, key=errors.__getitem__)
    if not errors[worst] < tolerance:
        moved = [] if exact is None else [_errors(exact(k), exact(0)) for k in (1, 2, 3)]
        rounding = max((max(each.values()) for each in moved), default=0.0)
        assert errors[worst] < 10 * rounding, (worst, errors[worst], rounding)


def _errors(found: Arrays, expected: Arrays) -> dict[str, float]:
    for name, array in expected.items():
        assert found[name].shape == array.shape, name
        assert np.isfinite(found[name]).all() and np.isfinite(array).all(), name
    sizes = {name: float(np.abs(array).max()) for name, array in expected.items()}
    least = 1e-3 * max(sizes.values())
    return {
        name: float(np.abs(found[name] - array).max()) / max(sizes[name], least)
        for name, array in expected.items()
    }


def our_logits(model: DeepSeekV3, ids: np.ndarray) -> np.ndarray:
    """(B, T, V) logits of the main model."""
    with no_grad():
        return model(ids).numpy()


def our_depths(model: DeepSeekV3, h: Tensor, ids: np.ndarray) -> list[tuple[Tensor, Routing]]:
    """Of each MTP module k = 1 … D the states (B, T − k, d) before the head, and its routing.

    h (B, T, d): the main model's states of ids. Slot i sees the tokens up to i + k.
    """
    unused = ids[:, :1]  # of the last slot a loss would want the token that follows
    return model.mtp(h, np.concatenate([ids, unused], axis=1), model.model.embed_tokens)


def same_routing(pair: Pair, ids: np.ndarray) -> bool:
    """Whether both send every token to the same experts.

    Choosing is discontinuous: where two experts are nearly tied, rounding decides. A difference
    fails the test unless it begins at such tokens; what follows then cannot be compared.
    """
    with no_grad():
        h, ours = pair.ours.hidden(ids)
        ours += [routing for _, routing in our_depths(pair.ours, h, ids)]
    theirs = oracle.routing(pair.theirs, ids)
    for routing, (indices, _), router in zip(ours, theirs, pair.ours.routers, strict=True):
        differ = (np.sort(routing.indices, axis=-1) != indices).any(-1)
        if differ.any():
            margins = _margins(pair.ours.config, routing, router.e_score_correction_bias)
            tie = TIE[routing.scores.dtype.name]
            assert (margins[differ] < tie).all(), (margins[differ], routing.indices[differ])
            return False
    return True


def _margins(config: DeepSeekV3Config, routing: Routing, bias: np.ndarray) -> np.ndarray:
    """(N,) by how little each token's choice was made: of groups, then of experts."""
    biased = routing.scores.numpy() + bias
    groups = np.sort(biased.reshape(len(biased), config.n_group, -1), axis=-1)
    two_best, margins = groups[..., -2:].sum(-1), np.full(len(biased), np.inf)
    kept = np.sort(two_best, axis=-1)[:, ::-1]
    if config.topk_group < config.n_group:
        margins = kept[:, config.topk_group - 1] - kept[:, config.topk_group]
        dropped = (two_best < kept[:, config.topk_group - 1, None])[..., None]
        groups = np.where(dropped, -np.inf, groups)
    ranked = np.sort(groups.reshape(biased.shape), axis=-1)[:, ::-1]
    k = config.num_experts_per_tok
    if k < ranked.shape[1]:
        margins = np.minimum(margins, ranked[:, k - 1] - ranked[:, k])
    return margins


def our_gradients(model: DeepSeekV3) -> dict[str, np.ndarray]:
    """The gradients under checkpoint names, the stacked experts taken apart."""
    found: dict[str, np.ndarray] = {}
    for name, parameter in model.named_parameters():
        grad: Any = parameter.grad
        array = np.zeros_like(parameter.data) if grad is None else grad
        found |= oracle.per_expert(name, array)
    return found


@st.composite
def roomy_configs(draw: st.DrawFn, **fixed: Any) -> DeepSeekV3Config:
    """`configs()` in which no norm is taken of fewer than four numbers: for float32.

    A few numbers are nearly zero together often enough, and their norm then magnifies rounding a
    thousandfold; the norm of one number is its sign. Float64 has room for those too.
    """
    wide = {
        "hidden_size": draw(st.integers(8, 24)),
        "kv_lora_rank": draw(st.integers(4, 12)),
        "q_lora_rank": draw(st.none() | st.integers(4, 12)),
    }
    return draw(configs(**(wide | fixed)))
