"""The demo of models held in FP8: its figures, and that it runs."""

import json
import math

import numpy as np
import pytest

from demos import fp8_inference
from demos.fp8_inference import paired, parting, write, write_by_tensors
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.fp8 import fp8_inference as turn
from minideepseek.model.transformer import DeepSeekV3


def test_the_distance_and_its_error():
    off, error = paired([11.0, 22.0, 30.0], [10.0, 20.0, 30.0])
    assert off == pytest.approx(3 / 60)
    assert error == pytest.approx(np.std([1, 2, 0], ddof=1) * math.sqrt(3) / 60)
    assert math.isnan(paired([2.0], [1.0])[1])


def test_both_ways_write_the_same():
    model = DeepSeekV3(DeepSeekV3Config.preset("nano"), np.random.default_rng(0))
    for one in (model, turn(model)):
        prompt = np.arange(100, 108)
        assert write(one, prompt, 6) == write_by_tensors(one, prompt, 6)


def test_where_texts_part():
    one = {"written": {"float32": [1, 2, 3], "FP8 codes": [1, 5, 3]}}
    assert parting(one) == "equal for 1 of 3 bytes"
    one["written"]["FP8 codes"] = [1, 2, 3]
    assert parting(one) == "equal for 3 of 3 bytes"


@pytest.mark.slow
def test_it_runs(tmp_path, capsys):
    fp8_inference.main(["--quick", "--out", str(tmp_path), "--threads", "1"])
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "results.json").read_text("utf-8"))
    (one,) = found["seeds"]
    assert one["same_bytes"] and one["decoded_differ"] < 1e-5
    assert one["files"]["FP8 codes"] < one["files"]["float32"]
    assert one["arrays"]["FP8 codes"] < one["arrays"]["float32"]
    assert 1 < one["bytes_per_weight"] < 1.02 and 0 < one["decoding"] < 1
    assert one["off"]["float32"] == [0.0, 0.0] and abs(one["off"]["FP8 codes"][0]) < 0.01
    assert all(line in out for line in found["findings"])
    assert (tmp_path / "fp8_inference.html").read_text("utf-8").count("<table>") == 3
    fp8_inference.main(["--quick", "--out", str(tmp_path / "b"), "--model", str(tmp_path / "fp8")])
    again = json.loads((tmp_path / "b" / "results.json").read_text("utf-8"))["seeds"][0]
    assert again["bits"]["FP8 codes"] == pytest.approx(one["bits"]["FP8 codes"], rel=1e-5)
