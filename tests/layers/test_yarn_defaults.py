"""YaRN's own defaults, and its ramp where the slow end lies beyond the last pair."""

from types import SimpleNamespace

import pytest

from minideepseek.layers.rope import inverse_frequencies
from tests.layers import plain


def config(theta=10000.0, length=4096, width=64, **scaling):
    scaling = {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": length} | scaling
    return SimpleNamespace(
        qk_rope_head_dim=width, qk_nope_head_dim=1, rope_theta=theta, rope_scaling=scaling
    )


@pytest.mark.parametrize("left_out", ["absent", "None"])
@pytest.mark.parametrize("theta", [10000.0, 500.0])
def test_a_pair_is_fast_from_32_turns_and_slow_up_to_1(left_out, theta):
    none = {} if left_out == "absent" else {"beta_fast": None, "beta_slow": None}
    said = config(theta, beta_fast=32.0, beta_slow=1.0)
    assert inverse_frequencies(config(theta, **none)) == inverse_frequencies(said)
    for other in ({"beta_fast": 16.0, "beta_slow": 1.0}, {"beta_fast": 32.0, "beta_slow": 2.0}):
        assert inverse_frequencies(config(theta, **other)) != inverse_frequencies(said)


@pytest.mark.parametrize("length", [128, 256, 512])
def test_the_ramp_ends_at_the_last_channel(length):
    """Where even the slowest pair turns more than once, as with a small θ."""
    short = config(7.5, length, 16, beta_fast=32.0, beta_slow=1.0)
    assert inverse_frequencies(short) == pytest.approx(plain.positions(complete(short))[0])
    assert inverse_frequencies(short)[-1] > 7.5 ** (-7 / 8) / 8  # never slowed as far as it goes


def complete(config):
    return SimpleNamespace(**vars(config), max_position_embeddings=64, rope_interleave=True)
