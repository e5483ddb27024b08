"""From 128 tokens to 512: what is read, how it is extended, and that it runs."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from demos import long_context
from demos.long_context import BEFORE, QUICK, SHORT, bits_of, config_of, difference, extended
from minideepseek.layers.rope import attention_factor, inverse_frequencies, softmax_scale
from minideepseek.model.transformer import DeepSeekV3, evaluate_loss
from minideepseek.training.data import evaluation_windows


@pytest.fixture(scope="module")
def base():
    model = DeepSeekV3(config_of(QUICK, QUICK.length), np.random.default_rng(0), np.float64)
    for parameter in model.parameters():
        parameter.data *= 3  # so that positions matter
    return model


TEXT = np.random.default_rng(1).integers(0, 256, 4 * QUICK.long)


def test_every_byte_has_its_bits_in_order(base):
    length, stride = QUICK.length, QUICK.length // 2
    bits = bits_of(base, TEXT, length, stride)
    assert bits.shape == TEXT.shape
    nats = sum(evaluate_loss(base, *w)[0] for w in evaluation_windows(TEXT, length, stride))
    assert bits.sum() == pytest.approx(nats / math.log(2))
    # byte 40 is read by the window that begins at 32, whose first target is byte 32
    logits = base(TEXT[None, 31:40]).data[0, -1]
    log_p = logits[TEXT[40]] - np.log(np.exp(logits).sum())
    assert bits[40] == pytest.approx(-log_p / math.log(2))


def test_as_it_is_changes_nothing_where_the_model_was_trained(base):
    longer = DeepSeekV3.empty(config_of(QUICK, QUICK.long), np.float64)
    longer.load_state_dict(base.state_dict())
    bits = bits_of(longer, TEXT, QUICK.long, QUICK.long).reshape(-1, QUICK.long)
    short = bits_of(base, TEXT, QUICK.length, QUICK.length).reshape(-1, QUICK.long)
    first = slice(0, QUICK.length)
    assert np.allclose(bits[:, first], short[:, first])
    assert not np.allclose(bits[:, QUICK.length :], short[:, QUICK.length :])


def test_a_copy_learns_for_itself(base):
    copy = extended(base, QUICK, BEFORE["YaRN"], QUICK.long)
    copy.lm_head.weight.data[...] = 0
    assert base.lm_head.weight.data.any()


def test_each_way_has_its_factor_in_its_place():
    m = 0.1 * math.log(4) + 1
    plain = config_of(QUICK, QUICK.long)
    places = {
        name: (attention_factor(c), softmax_scale(c) / softmax_scale(plain))
        for name, c in ((n, config_of(QUICK, QUICK.long, yarn)) for n, yarn in BEFORE.items())
    }
    assert places == {
        "as it is": (1, 1),
        "YaRN": (1, pytest.approx(m * m)),
        "YaRN, m on cos and sin": (pytest.approx(m), 1),
        "YaRN without m": (1, 1),
    }
    slowed = inverse_frequencies(config_of(QUICK, QUICK.long, BEFORE["YaRN without m"]))
    ratios = np.array(inverse_frequencies(plain)) / slowed
    assert ratios[0] == 1 and ratios[-1] == pytest.approx(4) and (np.diff(ratios) >= 0).all()


def test_a_difference_is_taken_window_by_window():
    rows = {"a": np.array([[1.0, 5.0], [3.0, 9.0]]), "b": np.array([[1.0, 4.0], [1.0, 6.0]])}
    study = SimpleNamespace(rows=rows)
    assert difference(study, "a", "b", slice(1, 2)) == "+2.000 ± 1.000"
    assert difference(study, "b", "a", slice(0, 1)) == "-1.000 ± 1.000"


@pytest.mark.slow
def test_it_runs(tmp_path, capsys):
    long_context.main(["--quick", "--threads", "1", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert "bits per byte at positions 16–63, by seed:" in out
    rows = json.loads((tmp_path / "results.json").read_text("utf-8"))["seeds"][0]["rows"]
    assert list(rows)[0] == SHORT and len(rows) == 8
    assert all(len(row) == QUICK.long and 0 < np.mean(row) < 8.1 for row in rows.values())
    assert (tmp_path / "long_context.html").read_text("utf-8").count("<figure") == 1
