"""Rotary positions and YaRN: distances only, both layouts, and where every factor belongs."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.autograd.fused import rotate
from minideepseek.errors import InputError
from minideepseek.layers.rope import (
    RotaryEmbedding,
    attention_factor,
    inverse_frequencies,
    softmax_scale,
)
from minideepseek.model.config import DeepSeekV3Config
from tests.layers import plain
from tests.layers.common import normal, relative, seeds
from tests.strategies import YARN_VARIANTS, rope_scalings

V3 = DeepSeekV3Config.preset("v3")


@st.composite
def rotaries(draw, **fixed):
    """What a RotaryEmbedding reads of a configuration."""
    scaling, positions = draw(rope_scalings())
    if scaling is not None:
        scaling = {"beta_fast": 32.0, "beta_slow": 1.0, **scaling}
        scaling["original_max_position_embeddings"] = draw(st.sampled_from([16, 64, 512, 4096]))
    fields = {
        "qk_nope_head_dim": draw(st.integers(1, 5)),
        "qk_rope_head_dim": draw(st.sampled_from([2, 4, 6, 16, 64])),
        "rope_theta": draw(st.sampled_from([10000.0, 500.0, 7.5])),
        "rope_interleave": draw(st.booleans()),
        "rope_scaling": scaling,
        "max_position_embeddings": max(positions, 64),
    }
    return SimpleNamespace(**(fields | fixed))


def turn(config, x, position):
    """x (T, H, D) float64 with its last channels turned as those of tokens position, …"""
    rotary = RotaryEmbedding(config)
    cos, sin = rotary.tables(position, x.shape[0], x)
    return rotate(x, cos, sin, rotary.interleaved)


def token(config, seed, heads=1):
    """One token's heads, (1, heads, dn + dr)."""
    return normal(seed, 1, heads, config.qk_nope_head_dim + config.qk_rope_head_dim)


@given(rotaries(), seeds, st.integers(0, 25), st.integers(0, 25), st.integers(0, 25))
def test_scores_know_distances_only(config, seed, at, key_at, shift):
    q, k = token(config, seed), token(config, seed + 1)

    def score(move):
        return (turn(config, q, at + move) * turn(config, k, key_at + move)).sum()

    size = attention_factor(config) ** 2 * np.linalg.norm(q) * np.linalg.norm(k)
    assert abs(score(shift) - score(0)) <= 1e-12 * size


@given(rotaries(), seeds, st.integers(1, 60))
def test_another_distance_is_another_score(config, seed, distance):
    """Angles that cancel in q·k, as those along the head axis do, would leave every score alike."""
    q = token(config, seed)
    rotated = slice(config.qk_nope_head_dim, None)

    def score(distance):
        return (turn(config, q, distance) * turn(config, q, 0))[..., rotated].sum()

    assert score(0) - score(distance) > 1e-9 * score(0)


@given(rotaries(), seeds, st.integers(0, 60), st.integers(1, 4))
def test_the_norm_is_kept_and_what_has_no_position_passes(config, seed, position, heads):
    x, dn = token(config, seed, heads), config.qk_nope_head_dim
    y = turn(config, x, position)
    assert np.array_equal(y[..., :dn], x[..., :dn])
    before, after = (np.linalg.norm(a[..., dn:], axis=-1) for a in (x, y))
    assert np.allclose(after, attention_factor(config) * before, rtol=1e-13)


@given(rotaries(rope_scaling=None), seeds, st.integers(0, 30), st.integers(0, 30))
def test_rotations_compose(config, seed, first, second):
    x = token(config, seed)
    assert np.array_equal(turn(config, x, 0), x)
    twice = turn(config, turn(config, x, first), second)
    assert np.allclose(twice, turn(config, x, first + second), atol=1e-13)


@given(rotaries(), seeds, st.integers(1, 50))
def test_every_head_of_a_token_is_turned_alike(config, seed, position):
    """Tokens lie along the first axis here, heads along the second: the angle follows the first."""
    one = token(config, seed)
    x = np.broadcast_to(one, (3, 4, one.shape[-1]))
    y = turn(config, x, position)
    for t in range(3):
        assert np.array_equal(y[t], np.broadcast_to(turn(config, one, position + t)[0], y[t].shape))
    assert np.abs(y[0] - y[1]).max() > 1e-6


@given(rotaries(), seeds, st.integers(0, 60))
def test_one_layout_is_the_other_after_a_fixed_permutation(config, seed, position):
    dn, r = config.qk_nope_head_dim, config.qk_rope_head_dim
    halves = [*range(dn), *range(dn, dn + r, 2), *range(dn + 1, dn + r, 2)]
    x = token(config, seed, 2)
    pairs = SimpleNamespace(**{**vars(config), "rope_interleave": True})
    split = SimpleNamespace(**{**vars(config), "rope_interleave": False})
    y = turn(pairs, x, position)
    assert np.array_equal(turn(split, x[..., halves], position), y[..., halves])
    if r > 2 and position:
        assert np.abs(turn(split, x, position) - y).max() > 1e-6  # mixed up, they differ


@given(rotaries(), seeds, st.integers(0, 60))
def test_agrees_with_complex_numbers(config, seed, position):
    x, dn = token(config, seed, 2), config.qk_nope_head_dim
    y = turn(config, x, position)
    for h in range(2):
        expected = plain.rotate(config, x[0, h, dn:], position)
        assert relative(y[0, h, dn:], expected) < 1e-13


# -------------------------------------------------------------------------------------------- YaRN


@given(rotaries())
def test_frequencies_and_factors_are_those_of_the_page(config):
    rates, on_angles, on_softmax = plain.positions(config)
    assert inverse_frequencies(config) == pytest.approx(rates, rel=1e-13)
    assert attention_factor(config) == pytest.approx(on_angles, rel=1e-14)
    width = config.qk_nope_head_dim + config.qk_rope_head_dim
    assert softmax_scale(config) == pytest.approx(on_softmax / math.sqrt(width), rel=1e-14)


@pytest.mark.parametrize("variant", YARN_VARIANTS)
def test_a_factor_of_1_is_no_yarn(variant):
    plain_config = DeepSeekV3Config.preset("v3", rope_scaling=None)
    yarn = {"type": "yarn", "factor": 1.0, "original_max_position_embeddings": 163840}
    config = DeepSeekV3Config.preset("v3", rope_scaling=yarn | variant)
    assert inverse_frequencies(config) == pytest.approx(inverse_frequencies(plain_config))
    assert softmax_scale(config) == softmax_scale(plain_config)
    assert attention_factor(config) == variant.get("attention_factor", 1.0)


@given(st.sampled_from([2.0, 8.0, 40.0]), st.sampled_from([256, 4096]), st.integers(8, 64))
def test_fast_pairs_are_left_alone_and_slow_ones_slowed(factor, length, half):
    """The rule in the words of its paper: by how often a pair turns in the original length."""
    config = SimpleNamespace(
        qk_rope_head_dim=2 * half, qk_nope_head_dim=1, rope_theta=10000.0,
        rope_scaling={"type": "yarn", "factor": factor, "beta_fast": 32.0, "beta_slow": 1.0,
                      "original_max_position_embeddings": length},
    )  # fmt: skip
    by, step = [], 10000.0 ** (1 / half)  # one pair turns `step` times as often as the next
    for j, rate in enumerate(inverse_frequencies(config)):
        plain_rate = 10000.0 ** (-j / half)
        turns = length * plain_rate / (2 * math.pi)
        by.append(plain_rate / rate)
        if turns >= 32 * step:
            assert by[-1] == 1
        if turns * step <= 1:
            assert by[-1] == pytest.approx(factor)
        if 1 < turns < 32 / step and 1 < by[-1] < factor:
            assert by[-2] < by[-1]
    assert by == sorted(by) and min(by) == 1


def test_v3s_numbers():
    """Pairs 0 to 10 untouched, from 23 on divided by 40, the whole mscale in the softmax."""
    plain_rates = inverse_frequencies(DeepSeekV3Config.preset("v3", rope_scaling=None))
    by = [a / b for a, b in zip(plain_rates, inverse_frequencies(V3), strict=True)]
    assert by[:11] == [1.0] * 11 and by[11] > 1.01
    assert by[22] < 39 and by[23:] == pytest.approx([40.0] * 9)
    assert inverse_frequencies(V3) == pytest.approx(plain.positions(V3)[0], rel=1e-13)
    assert attention_factor(V3) == 1.0
    assert softmax_scale(V3) == pytest.approx(192**-0.5 * (0.1 * math.log(40) + 1) ** 2)
    assert softmax_scale(V3) == pytest.approx(0.13523, abs=5e-6)


@pytest.mark.parametrize(
    ("given_keys", "on_angles", "on_softmax"),
    [
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, 1.0, 1.36889**2),
        ({"mscale": 0.707, "mscale_all_dim": 1.0}, 1.26080 / 1.36889, 1.36889**2),
        ({"mscale": 1.0, "mscale_all_dim": 0.707}, 1.36889 / 1.26080, 1.26080**2),
        ({"mscale": 0.707}, 1.36889, 1.0),  # alone it is ignored
        ({"mscale_all_dim": 0.707}, 1.36889, 1.26080**2),
        ({}, 1.36889, 1.0),
        ({"mscale": 0.0, "mscale_all_dim": 0.0}, 1.36889, 1.0),
        ({"attention_factor": 1.25, "mscale": 1.0, "mscale_all_dim": 1.0}, 1.25, 1.36889**2),
    ],
)
def test_each_mscale_has_its_place(given_keys, on_angles, on_softmax):
    scaling = {"type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096}
    config = DeepSeekV3Config.preset("v3", rope_scaling=scaling | given_keys)
    assert attention_factor(config) == pytest.approx(on_angles, rel=1e-5)
    assert softmax_scale(config) * 192**0.5 == pytest.approx(on_softmax, rel=1e-5)


# ------------------------------------------------------------------------------------------ tables


@given(rotaries(), st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), min_size=1))
def test_a_table_holds_the_same_angles_however_it_grew(config, spans):
    rotary, x = RotaryEmbedding(config), np.zeros(1)
    rates, gain, _ = plain.positions(config)
    for first, tokens in spans:
        cos, sin = rotary.tables(first, tokens, x)
        angles = np.arange(first, first + tokens)[:, None] * np.array(rates)
        assert np.allclose(cos, gain * np.cos(angles), atol=1e-12)
        assert np.allclose(sin, gain * np.sin(angles), atol=1e-12)


@given(rotaries(), st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(1, 5))
def test_rows_at_positions_of_their_own(config, offsets, tokens):
    rotary, x = RotaryEmbedding(config), np.zeros(1)
    many = rotary.tables(np.array(offsets), tokens, x)
    for b, first in enumerate(offsets):
        for got, one in zip(many, rotary.tables(first, tokens, x), strict=True):
            assert np.array_equal(got[b], one)


@pytest.mark.parametrize(("offsets", "tokens"), [(60, 5), (np.array([3, 60]), 5), (64, 1)])
def test_a_position_beyond_the_models_is_refused(offsets, tokens):
    rotary = RotaryEmbedding(DeepSeekV3Config.preset("nano"))
    with pytest.raises(InputError, match="position 64 is beyond max_position_embeddings 64; .*Ya"):
        rotary.tables(offsets, tokens, np.zeros(1))
    rotary.tables(59, 5, np.zeros(1))


@pytest.mark.parametrize("width", [0, 5])
def test_channels_that_make_no_pairs_are_refused(width):
    config = SimpleNamespace(**vars(V3) | {"qk_rope_head_dim": width})
    with pytest.raises(InputError, match=f"^rotated channels of a head: got {width}, expected an "):
        RotaryEmbedding(config)


def test_angles_are_made_in_the_models_dtype():
    """float32 angles, as Hugging Face makes them: near position 100,000 they are 0.004 rad off."""
    rotary = RotaryEmbedding(V3)
    cos, sin = rotary.tables(99_990, 10, np.zeros(1, np.float32))
    assert cos.dtype == sin.dtype == np.float32
    angles = np.arange(99_990, 100_000)[:, None] * np.array(inverse_frequencies(V3))
    off = np.abs(np.angle((cos + 1j * sin) * np.exp(-1j * angles)))
    assert 1e-3 < off.max() < 8e-3
