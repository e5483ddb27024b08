"""The gradients of every parameter, each expert's and each MTP module's, equal torch's.

The loss is the one that we train with, next token and MTP; transformers has the modules but no
working loss for them, so it is written out here. (The balance loss it does not have at all.) Within
1e-4 of each tensor's largest gradient in float32, 1e-9 in float64 with transformers' casts lifted.
"""

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.model.config import DeepSeekV3Config
from tests.parity import oracle
from tests.parity.oracle import torch
from tests.parity.pairs import (
    Pair,
    assert_alike,
    draw_ids,
    make_pair,
    our_gradients,
    roomy_configs,
    same_routing,
)
from tests.strategies import configs

pytestmark = pytest.mark.parity
SEEDS = st.integers(0, 2**32 - 1)
WEIGHT = 0.3  # λ


def their_loss(theirs: oracle.Oracle, ids: np.ndarray) -> Any:
    """Σ −ln P of all targets / T, and λ/D of the same for every MTP module, with the same T."""
    tokens, terms = torch.from_numpy(ids), ids[:, 1:].size
    hidden = theirs.model.model(tokens).last_hidden_state

    def nats(logits: Any, ahead: int) -> Any:
        slots, targets = logits[:, : ids.shape[1] - ahead], tokens[:, ahead:]
        total = torch.nn.functional.cross_entropy(
            slots.flatten(0, 1), targets.flatten(), reduction="sum"
        )
        return total / terms

    loss = nats(theirs.model.lm_head(hidden), 1)
    depths = list(oracle.after_main(theirs, hidden, tokens))
    for k, logits in enumerate(depths, start=1):
        loss = loss + WEIGHT / len(depths) * nats(logits, k + 1)
    return loss


def their_gradients(theirs: oracle.Oracle, ids: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
    loss = their_loss(theirs, ids)
    loss.backward()
    return loss.item(), oracle.gradients(theirs)


def exact_gradients(
    config: DeepSeekV3Config, seed: int, ids: np.ndarray, jitter: int
) -> dict[str, np.ndarray]:
    with oracle.lifted_casts():
        return their_gradients(make_pair(config, seed, "float64", jitter).theirs, ids)[1]


def assert_same(pair: Pair, ids: np.ndarray, tolerance: float, exact: Any = None) -> bool:
    """Fails unless the gradients are the same; False if nearly tied experts forbid to compare."""
    if not same_routing(pair, ids):
        return False
    loss = pair.ours.losses(ids, mtp_weight=WEIGHT).total
    loss.backward()
    expected_loss, expected = their_gradients(pair.theirs, ids)
    assert loss.item() == pytest.approx(expected_loss, rel=tolerance / 10)
    assert_alike(our_gradients(pair.ours), expected, tolerance, exact)
    return True


@given(roomy_configs(aux_loss_alpha=0.0), SEEDS)
def test_float32(config: DeepSeekV3Config, seed: int) -> None:
    ids = draw_ids(config, seed)
    exact = partial(exact_gradients, config, seed, ids)
    assert_same(make_pair(config, seed), ids, 1e-4, exact)


@given(configs(aux_loss_alpha=0.0), SEEDS)
def test_float64(config: DeepSeekV3Config, seed: int) -> None:
    with oracle.lifted_casts():
        assert_same(make_pair(config, seed, "float64"), draw_ids(config, seed), 1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_expert_learns(dtype: str) -> None:
    """Tokens enough that no expert, in any layer, is compared by its zeros only."""
    config = DeepSeekV3Config.preset(
        "nano",
        num_nextn_predict_layers=2,
        aux_loss_alpha=0.0,
        pad_token_id=None,  # see below
        num_experts_per_tok=4,
        tie_word_embeddings=True,
        attention_bias=True,
        norm_topk_prob=False,
    )
    ids = draw_ids(config, 3, (4, 48))
    if dtype == "float64":
        with oracle.lifted_casts():
            pair = make_pair(config, 3, dtype)
            assert assert_same(pair, ids, 1e-9)
    else:
        pair = make_pair(config, 3)
        assert assert_same(pair, ids, 1e-4, partial(exact_gradients, config, 3, ids))
    found = our_gradients(pair.ours)
    assert sum(".mlp.experts." in name for name in found) == (1 + 2) * 8 * 3
    still = [name for name, gradient in found.items() if not np.abs(gradient).max() > 1e-6]
    assert not still


def test_the_bias_of_the_router_has_no_gradient() -> None:
    """It chooses, and choosing is not differentiated: in neither library is it a parameter."""
    config = DeepSeekV3Config.preset("nano", aux_loss_alpha=0.0, pad_token_id=None)
    pair = make_pair(config, 1)
    assert assert_same(pair, draw_ids(config, 1), 1e-4)
    assert not [name for name in our_gradients(pair.ours) if "bias" in name]


def test_padding_id() -> None:
    """The one known difference: torch never trains the embedding of the padding id, we do.

    Nothing is padded here; the id is a token like any other, with a gradient like any other.
    """
    config = DeepSeekV3Config.preset(
        "nano", aux_loss_alpha=0.0, num_nextn_predict_layers=0, pad_token_id=7
    )
    ids = np.array([[1, 7, 2, 7, 3]])
    with oracle.lifted_casts():
        pair = make_pair(config, 1, "float64")
        pair.ours.losses(ids).total.backward()
        expected = their_gradients(pair.theirs, ids)[1]
    name, found = "model.embed_tokens.weight", our_gradients(pair.ours)
    assert not expected[name][7].any() and found[name][7].any()
    expected[name][7] = found[name][7]
    assert_alike(found, expected, 1e-9)
