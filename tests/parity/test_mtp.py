"""The MTP modules give transformers' logits; the order of eh_proj's inputs, norms, positions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.autograd.engine import no_grad, ops
from minideepseek.layers.mtp import MTPLayer
from tests.parity import oracle
from tests.parity.pairs import draw_ids, make_pair, relative
from tests.strategies import configs

pytestmark = pytest.mark.parity


def our_mtp_logits(model, ids: np.ndarray) -> list[np.ndarray]:
    """Logits of each module k = 1 … D, (B, T − k, V)."""
    with no_grad():
        h, _ = model.hidden(ids)
        following = np.concatenate([ids, ids[:, :1]], 1)  # the loss never looks at the last
        depths = model.mtp(h, following, model.model.embed_tokens)
        return [model.logits(state).numpy() for state, _ in depths]


@settings(max_examples=15)
@given(config=configs(num_nextn_predict_layers=2), seed=st.integers(0, 2**32 - 1))
def test_logits_of_both_depths(config, seed):
    with oracle.lifted_casts():
        pair = make_pair(config, seed, "float64")
        ids = draw_ids(config, seed)
        expected = oracle.mtp_logits(pair.theirs, ids)
    found = our_mtp_logits(pair.ours, ids)
    assert len(found) == len(expected) == 2
    for ours, theirs in zip(found, expected, strict=True):
        # Ours has a slot for each question of the loss; its last needs a token beyond theirs.
        assert relative(ours[:, : theirs.shape[1]], theirs) < 1e-9


WRONG = {
    "state before embedding": lambda layer, h, e: layer.eh_proj(
        ops.concatenate(layer.hnorm(h), layer.enorm(e))
    ),
    "the norms exchanged": lambda layer, h, e: layer.eh_proj(
        ops.concatenate(layer.hnorm(e), layer.enorm(h))
    ),
    "no norm of the embedding": lambda layer, h, e: layer.eh_proj(
        ops.concatenate(e, layer.hnorm(h))
    ),
    "no norm of the state": lambda layer, h, e: layer.eh_proj(ops.concatenate(layer.enorm(e), h)),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_order_or_norm_would_be_seen(mistake, monkeypatch):
    from minideepseek.model.config import DeepSeekV3Config

    config = DeepSeekV3Config.preset("nano")
    pair = make_pair(config, 7)
    ids = draw_ids(config, 7)
    expected = oracle.mtp_logits(pair.theirs, ids)[0]
    assert relative(our_mtp_logits(pair.ours, ids)[0][:, : expected.shape[1]], expected) < 1e-5
    monkeypatch.setattr(MTPLayer, "join", WRONG[mistake])
    assert relative(our_mtp_logits(pair.ours, ids)[0][:, : expected.shape[1]], expected) > 0.05
