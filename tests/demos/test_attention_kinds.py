"""The demo of the four kinds of attention: its models, its numbers, its sentences, and that it
runs."""

import json

import numpy as np
import pytest

from demos import attention_kinds
from demos.attention_kinds import KINDS, QUICK, build, cells, decoder, findings, size
from minideepseek.autograd.engine import no_grad

CACHED = {"MHA": 256, "GQA-2": 64, "MLA": 72, "MQA": 32}


def rows_of(**bits):
    """Rows as `measure` makes them, with these bits per byte."""
    return [
        {"kind": kind, "parameters": 1000, "attention": 100, "mlp_width": 10, "bytes": 4,
         "cached": CACHED[kind], "v3": 1, "bits": bits[kind.split("-")[0]], "curves": [[3.0, 2.0]],
         "ms": [1.0, 8.0 if kind == "MHA" else 2.0]}
        for kind in KINDS
    ]  # fmt: skip


def test_models_differ_in_their_attention_and_are_equally_large():
    models = {kind: build(kind, 0) for kind in KINDS}
    sizes = [size(model) for model in models.values()]
    assert max(sizes) / min(sizes) < 1.001
    for kind, model in models.items():
        assert {layer.self_attn.new_cache(1, 1).width for layer in model.model.layers} == {
            CACHED[kind]
        }
        width = model.config.intermediate_size
        for layer in model.model.layers:
            assert layer.mlp.gate_proj.weight.shape == (width, 128)
        assert all(p.data.std() > 0.01 for p in model.parameters() if p.ndim > 1)  # none at zero
    assert CACHED["MLA"] == 2.25 * CACHED["MQA"]


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_a_model_learns_and_decodes_as_it_reads(kind):
    model = build(kind, 0)
    ids = np.random.default_rng(0).integers(0, 256, (2, 12))
    model.loss(ids).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    cache = model.new_cache(2, 4)
    with no_grad():
        parts = [model.hidden(model.check_ids(ids[:, a : a + 4]), cache)[0].data for a in (0, 4, 8)]
        whole = model.hidden(model.check_ids(ids))[0].data
    assert np.abs(np.concatenate(parts, 1) - whole).max() < 1e-4 * np.abs(whole).max()


def test_a_decoded_token_leaves_the_context_as_it_was():
    work, per_token = decoder(build("GQA-2", 0), 8191)  # room for one token more
    assert per_token == 3 * 64 * 4
    work()
    work()


def test_sentences_say_no_where_a_claim_does_not_hold():
    said = findings(rows_of(MHA=[2.0, 2.1], GQA=[2.1, 2.0], MQA=[2.2, 2.2], MLA=[2.3, 2.4]), QUICK)
    assert said[0].startswith("MHA reads better than MQA, with 8 × its cache: yes (bits per byte ")
    assert "MHA reads better than GQA-2, with 4 × its cache: not in every seed" in said[1]
    assert "MLA reads better than GQA-2, with 1.1 × its cache: NO" in said[3]
    assert "-0.200, -0.400" in said[3]
    assert "MLA reads better than MHA, with 0.28 × its cache: NO" in said[4]
    assert "against MHA's 8.00 ms: GQA-2 4.0 ×, MLA 4.0 ×, MQA 4.0 ×" in said[5]


def test_the_table_has_a_column_for_each_number():
    lines = cells(rows_of(MHA=[2.0], GQA=[2.1], MQA=[2.2], MLA=[2.3]), QUICK)
    assert {len(line) for line in lines} == {8 + len(QUICK.contexts)}
    assert lines[1][:1] + lines[1][7:] == ["MHA", "2.000", "1.00", "8.00"]


@pytest.mark.slow
def test_quick_run(tmp_path, capsys):
    attention_kinds.main(["--quick", "--threads", "1", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert [row["kind"] for row in found["rows"]] == list(KINDS)
    for row in found["rows"]:
        assert row["bytes"] == 3 * 4 * row["cached"] == 3 * 4 * CACHED[row["kind"]]
        assert len(row["ms"]) == len(QUICK.contexts) and min(row["ms"]) > 0
        assert 3 < row["bits"][0] < 8 and row["curves"][0][-1] < row["curves"][0][0]
    page = (tmp_path / "attention_kinds.html").read_text("utf-8")
    assert page.count("<svg role") == 2 and all(f">{kind} " in page for kind in KINDS)
    assert all(line in out for line in found["findings"]) and found["facts"] in out
