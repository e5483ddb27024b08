"""FP8's numbers: the comparison sees a difference, targets are judged, and the demo runs."""

import json

import numpy as np
import pytest

from demos import fp8_numbers
from demos.fp8_numbers import DRAWS, FACTORS, SCALES, SUMS, WAYS
from minideepseek import fp8


def test_a_wrong_code_would_be_seen(monkeypatch):
    assert fp8_numbers.differences(10**5) == (10**5, 0)
    right = fp8.encode
    monkeypatch.setattr(fp8, "encode", lambda x: right(x) ^ (x == x[7]))
    assert fp8_numbers.differences(10**5, chunk=5 * 10**4) == (10**5, 2)


def test_what_is_said_follows_from_the_numbers():
    seconds = {"encode": 2.0, "ml_dtypes astype": 1.0, "both 128 × 128": 3.0, "product": 4.0}
    cost = {"compared": 10, "differ": 1, "seconds": seconds, "side": 2048}
    scales = {way: {k: [0.1] * len(FACTORS) for k in ("error", "zeros")} for way in WAYS}
    sums = {
        name: {
            way: {k: [v] for k in ("norm", "rms", "own")}
            for way, v in zip(SUMS, (8, 1), strict=True)
        }
        for name in DRAWS
    }
    found = {"cost": cost, "scales": scales, "sums": sums}
    said = fp8_numbers.findings(found)
    assert [s.count("NOT reached") for s in said] == [1, 1, 1, 0, 1, 1, 0]
    cost.update(differ=0)
    seconds.update({"encode": 1.0, "both 128 × 128": 1.9})
    sums["normal"]["14 bits"]["norm"] = [10.1]
    said = fp8_numbers.findings(found)
    assert [s.count("NOT reached") for s in said] == [0, 0, 0, 0, 1, 0, 0]


def test_an_outlier_spoils_what_shares_its_scale():
    found = fp8_numbers.measure_scales(SCALES["quick"])
    error = {way: np.array(values["error"]) for way, values in found.items()}
    far = FACTORS.index(10**5)
    order = ("per tensor", "128 × 128", "1 × 128", "128 × 1")
    assert all(error[a][far] > 1.5 * error[b][far] for a, b in zip(order, order[1:], strict=False))
    assert np.ptp(error["128 × 1"]) < 1e-6  # the outliers' channels have tiles of their own
    assert 0.024 < error["1 × 128"][0] < 0.029  # and without outliers all are alike
    assert error["1 × 128, E5M2"][0] > 1.8 * error["1 × 128"][0]
    assert error["1 × 128, E5M6, UE8M0"][0] < 0.2 * error["1 × 128"][0]


@pytest.mark.slow
def test_it_runs(tmp_path, capsys):
    fp8_numbers.main(["--quick", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert "encode differs from ml_dtypes in 0 of 1,000,000 float32 (none: reached)" in out
    numbers = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert set(numbers["scales"]) == set(WAYS) and len(numbers["findings"]) == 7
    assert all(s > 0 for s in numbers["cost"]["seconds"].values())
    page = (tmp_path / "fp8_numbers.html").read_text("utf-8")
    assert page.count("<figure") == 4 and page.count("<table") == 4
