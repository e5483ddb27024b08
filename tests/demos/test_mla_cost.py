"""The cost of a decoded token: what is counted is what the ledger says, and the demo runs."""

import json
import re

import numpy as np
import pytest

from demos import mla_cost
from demos.mla_meter import KINDS, LEAN, Decoder, count, fit, seconds_of, slope
from minideepseek.model.ledger import flops_per_token

CONTEXTS = (3, 40)
WAYS = {"MLA re-expanded": "re-expanded", "MLA absorbed": "absorbed"}


@pytest.fixture(scope="module")
def decoders():
    return {kind: Decoder(kind, CONTEXTS[-1]) for kind in KINDS}


def test_both_forms_of_mla_are_one_function(decoders):
    slow, fast = (decoders[kind].token(40) for kind in WAYS)
    assert np.abs(slow - fast).max() < 1e-4 * np.abs(fast).max()
    assert np.abs(Decoder(LEAN, 40).token(40) - fast).max() < 1e-4 * np.abs(fast).max()
    assert np.abs(decoders["MHA"].token(40) - fast).max() > 1e-2 * np.abs(fast).max()


def test_a_token_sees_its_context_and_no_more(decoders):
    decoder = decoders["MLA absorbed"]
    near, far = decoder.token(3), decoder.token(40)
    assert decoder.cache.lengths.tolist() == [41]
    assert np.array_equal(decoder.token(3), near) and not np.array_equal(near, far)


def test_what_is_timed_is_what_the_layers_compute(decoders):
    for decoder in decoders.values():
        bare, through = decoder.token(40), decoder.by_layers(40)
        assert np.abs(bare - through).max() < 1e-4 * np.abs(through).max()


def test_what_runs_is_what_the_ledger_counts(decoders):
    """At a context of c the token attends to c + 1 keys, its own among them."""
    for kind, way in WAYS.items():
        config = decoders[kind].model.config
        expected = [flops_per_token(config, c + 1, way) for c in CONTEXTS]
        if way == "re-expanded":  # the ledger expands the token's own latent once more
            expected = [total - 4 * 2 * 64 * 8 * (32 + 32) for total in expected]
        assert count(decoders[kind], CONTEXTS)["flops"] == expected, kind


def test_what_one_more_token_of_context_adds(decoders):
    """Four layers; 8 heads of 32; latent 64, rotated 16; two FLOPs a product, four bytes."""
    expanded = 8 * (32 + 32)
    keys, values = 8 * (32 + 16), 8 * 32
    numbers = {
        "MHA": 2 * 8 * 32,
        "GQA-2": 2 * 2 * 32,
        # the product reads a latent and writes [k | v]; k is copied beside k^R; both are read
        "MLA re-expanded": 64 + expanded + (8 * 32 + 16 + keys) + keys + values,
        "MLA absorbed": 80 + 64,
    }
    flops = {
        "MHA": 8 * (32 + 32),
        "GQA-2": 8 * (32 + 32),
        "MLA re-expanded": 64 * expanded + 8 * (48 + 32),
        "MLA absorbed": 8 * (80 + 64),
    }
    for kind, decoder in decoders.items():
        counts = count(decoder, CONTEXTS)
        assert slope(CONTEXTS, counts["bytes"]) == 4 * 4 * numbers[kind], kind
        assert slope(CONTEXTS, counts["flops"]) == 2 * 4 * flops[kind], kind
    assert [d.width for d in decoders.values()] == [512, 128, 80, 80]


def test_the_line_is_fitted_to_long_contexts_alone():
    contexts = (64, 1024, 2048, 4096)
    found = fit(contexts, [9.0, *(2 + 0.5 * c for c in contexts[1:])])
    assert found["a"] == pytest.approx(2) and found["b"] == pytest.approx(0.5)
    assert found["off"] < 1e-9
    assert fit(contexts, [1.0, 1.0, 3.0, 1.0])["off"] > 0.3


def test_waiting_does_not_count():
    seconds = seconds_of(lambda: mla_cost.time.sleep(0.05), runs=2)
    assert len(seconds) == 2 and max(seconds) < 0.04


def test_targets_are_judged_by_the_numbers():
    kinds = {
        "MLA re-expanded": {"seconds": [0.02, 0.05]},
        "MLA absorbed": {
            "seconds": [0.002, 0.004], "off": 0.3, "b": 4.0, "b_by_flops": 1.0, "b_by_bytes": 2.0,
        },
    }  # fmt: skip
    said = mla_cost.findings(
        {"kinds": kinds, "contexts": [4096, 16384], "lean": [0.018, 0.04],
         "parts": {mla_cost.PRODUCTS: 3.2}}  # fmt: skip
    )
    assert "10.0 × (at least 10 ×: reached)" in said[0] and said[0].endswith("key 9.0 ×")
    assert "12.5 × (at least 18 ×: NOT reached)" in said[1]
    assert "within 30 % (20 %: NOT reached)" in said[2]
    assert "2.0 times what its bytes alone would take, 1.2 times its two products" in said[3]


def test_of_mla_s_cache(capsys):
    assert [mla_cost.times(r) for r in (32768 / 576, 256 / 576)] == ["56.9×", "1/2.25"]


@pytest.mark.slow
def test_it_runs(tmp_path, capsys):
    mla_cost.main(["--quick", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert re.search(r"^MQA +256 +1/2\.25$", out, re.M)
    numbers = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert list(numbers["kinds"]) == list(KINDS)
    assert all(min(kind["seconds"]) > 0 for kind in numbers["kinds"].values())
    page = (tmp_path / "mla_cost.html").read_text("utf-8")
    assert page.count("<figure") == 5 and page.count("<table") == 5
