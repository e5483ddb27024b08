"""The MTP modules give the logits of transformers' MtpLayer, at every depth.

What the paper leaves open, or says otherwise than the weights want it, is pinned by doing it wrong:
the order of eh_proj's two inputs, which norm belongs to which, which state and which token go in,
what one depth hands to the next, and positions.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.autograd.engine import Tensor, no_grad, ops
from minideepseek.layers.mtp import MTPLayer
from minideepseek.layers.rope import RotaryEmbedding
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.transformer import DeepSeekV3
from tests.parity import oracle
from tests.parity.pairs import (
    Pair,
    assert_alike,
    draw_ids,
    make_pair,
    our_depths,
    relative,
    roomy_configs,
    same_routing,
)
from tests.strategies import configs

pytestmark = pytest.mark.parity
SEEDS = st.integers(0, 2**32 - 1)
DEPTHS = st.integers(1, 3)


def our_logits(model: DeepSeekV3, ids: np.ndarray, h: Tensor | None = None) -> list[np.ndarray]:
    """Logits of each module k = 1 … D, (B, T − k, V)."""
    with no_grad():
        h = model.hidden(ids)[0] if h is None else h
        return [model.logits(state).numpy() for state, _ in our_depths(model, h, ids)]


def by_depth(logits: list[np.ndarray]) -> dict[str, np.ndarray]:
    return {f"depth {k}": array for k, array in enumerate(logits, start=1)}


def assert_same(pair: Pair, ids: np.ndarray, tolerance: float, exact: Any = None) -> None:
    if same_routing(pair, ids):
        found, expected = our_logits(pair.ours, ids), oracle.mtp_logits(pair.theirs, ids)
        assert len(found) == pair.ours.config.num_nextn_predict_layers
        assert_alike(by_depth(found), by_depth(expected), tolerance, exact)


def exact_logits(
    config: DeepSeekV3Config, seed: int, ids: np.ndarray, jitter: int
) -> dict[str, np.ndarray]:
    with oracle.lifted_casts():
        return by_depth(oracle.mtp_logits(make_pair(config, seed, "float64", jitter).theirs, ids))


@given(DEPTHS.flatmap(lambda d: configs(num_nextn_predict_layers=d)), SEEDS)
def test_float64(config: DeepSeekV3Config, seed: int) -> None:
    with oracle.lifted_casts():
        assert_same(make_pair(config, seed, "float64"), draw_ids(config, seed), 1e-10)


@given(DEPTHS.flatmap(lambda d: roomy_configs(num_nextn_predict_layers=d)), SEEDS)
def test_float32(config: DeepSeekV3Config, seed: int) -> None:
    ids = draw_ids(config, seed)
    exact = partial(exact_logits, config, seed, ids)
    assert_same(make_pair(config, seed), ids, 1e-5, exact)


# ----------------------------------------------------------------------- what would be wrong


def joined(first: Any, second: Any) -> Callable[[DeepSeekV3, pytest.MonkeyPatch], None]:
    """eh_proj of two inputs, each a function of (module, state, embedding)."""

    def plant(model: DeepSeekV3, patch: pytest.MonkeyPatch) -> None:
        def join(self: MTPLayer, h: Tensor, e: Tensor) -> Tensor:
            return self.eh_proj(ops.concatenate(first(self, h, e), second(self, h, e)))

        patch.setattr(MTPLayer, "join", join)

    return plant


def token_before(model: DeepSeekV3, patch: pytest.MonkeyPatch) -> None:
    """Slot t of module k gets the embedding of token t + k − 1."""
    call = type(model.mtp).__call__
    patch.setattr(
        type(model.mtp),
        "__call__",
        lambda self, h, ids, *rest: call(self, h, np.roll(ids, 1, axis=1), *rest),
    )


def before_final_norm(model: DeepSeekV3, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(model.model, "norm", lambda h: h)


def final_norm_again(model: DeepSeekV3, patch: pytest.MonkeyPatch) -> None:
    """The main model's norm before the head, in place of the module's own."""
    for layer in model.mtp.layers:
        patch.setattr(layer.shared_head, "norm", model.model.norm)


def no_last_norm(model: DeepSeekV3, patch: pytest.MonkeyPatch) -> None:
    for layer in model.mtp.layers:
        patch.setattr(layer.shared_head, "norm", lambda h: h)


def positions(moved: Callable[[Any, int], Any]) -> Callable[[DeepSeekV3, pytest.MonkeyPatch], None]:
    """cos and sin of other positions, in the modules alone."""

    def plant(model: DeepSeekV3, patch: pytest.MonkeyPatch) -> None:
        tables = RotaryEmbedding.tables

        def moved_tables(self: RotaryEmbedding, offsets: Any, tokens: int, x: Any) -> Any:
            cos, sin = tables(self, 0, 40, x)
            at = moved(np.arange(tokens), tokens)
            return cos[at], sin[at]

        patch.setattr(RotaryEmbedding, "tables", moved_tables)

    return plant


WRONG: dict[str, Callable[[DeepSeekV3, pytest.MonkeyPatch], None]] = {
    "state before embedding, as the paper writes it": joined(
        lambda m, h, e: m.hnorm(h), lambda m, h, e: m.enorm(e)
    ),
    "norms exchanged": joined(lambda m, h, e: m.hnorm(e), lambda m, h, e: m.enorm(h)),
    "norms and inputs exchanged": joined(lambda m, h, e: m.enorm(h), lambda m, h, e: m.hnorm(e)),
    "embedding without norm": joined(lambda m, h, e: e, lambda m, h, e: m.hnorm(h)),
    "state without norm": joined(lambda m, h, e: m.enorm(e), lambda m, h, e: h),
    "the token before": token_before,
    "state before the final norm": before_final_norm,
    "the final norm in place of shared_head.norm": final_norm_again,
    "no shared_head.norm": no_last_norm,
    "all at one position": positions(lambda at, tokens: 0 * at),
    "every other position": positions(lambda at, tokens: 2 * at),
    "positions from the end": positions(lambda at, tokens: tokens - 1 - at),
}


@pytest.fixture
def pair(float64_throughout: None) -> Pair:
    return make_pair(DeepSeekV3Config.preset("nano", num_nextn_predict_layers=2), 7, "float64")


def planted(pair: Pair, plant: Any, patch: pytest.MonkeyPatch) -> list[float]:
    """The relative errors of our logits, by depth, after `plant`."""
    ids = draw_ids(pair.ours.config, 7)
    expected = oracle.mtp_logits(pair.theirs, ids)
    found = our_logits(pair.ours, ids)
    assert all(relative(a, b) < 1e-10 for a, b in zip(found, expected, strict=True))
    h = None
    if plant is not before_final_norm:  # only the modules are to be wrong
        with no_grad():
            h = pair.ours.hidden(ids)[0]
    plant(pair.ours, patch)
    wrong = our_logits(pair.ours, ids, h)
    return [relative(a, b) for a, b in zip(wrong, expected, strict=True)]


@pytest.mark.parametrize("mistake", WRONG)
def test_mistakes_are_far_off(mistake: str, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    assert min(planted(pair, WRONG[mistake], monkeypatch)) > 0.03


def test_what_a_depth_hands_on(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state after shared_head.norm: handing on the state before changes depth 2 alone."""

    def plant(model: DeepSeekV3, patch: pytest.MonkeyPatch) -> None:
        first, second = model.mtp.layers
        norm, join, kept = first.shared_head.norm, second.join, []
        patch.setattr(first.shared_head, "norm", lambda y: kept.append(y) or norm(y))
        patch.setattr(second, "join", lambda h, e: join(kept[-1][:, : h.shape[1]], e))

    errors = planted(pair, plant, monkeypatch)
    assert errors[0] < 1e-10
    assert errors[1] > 0.03


def test_the_first_position_is_free(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers counts a slot's position from k, we from 0; scores know distances only."""
    assert max(planted(pair, positions(lambda at, tokens: at + 5), monkeypatch)) < 1e-10
