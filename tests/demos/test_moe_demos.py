"""Chapter 3's demos: what they measure, what they say of it, and that they run."""

import json
import math

import numpy as np
import pytest

from demos import moe_balance, moe_benchmark, moe_lab
from demos.common import side_by_side
from demos.moe_balance import ARMS, BottomRouter, LeakyRouter
from minideepseek.autograd.engine import Tensor
from minideepseek.layers.module import Init
from minideepseek.layers.moe import Router, gate_weights
from minideepseek.model.transformer import DeepSeekV3
from tests.layers.common import normal, scramble

CONFIG = moe_lab.small_config()


def router(kind):
    return scramble(kind(CONFIG, Init(None, 0.0)), 3)


def test_the_two_mistakes_are_what_they_say():
    x = Tensor(normal(0, 9, 64).astype(np.float32))
    right, bottom, leaky = (router(kind)(x, None) for kind in (Router, BottomRouter, LeakyRouter))
    biased = right.scores.data + router(Router).e_score_correction_bias
    for row, chosen, worst in zip(biased, right.indices, bottom.indices, strict=True):
        assert set(chosen) == set(np.argsort(-row)[:4]) and set(worst) == set(np.argsort(row)[:4])
    assert np.array_equal(leaky.indices, right.indices)
    assert np.allclose(leaky.scores.data, biased)
    gates = [
        gate_weights(r.scores, right.indices, normalise=True, factor=1.0).data
        for r in (right, leaky)
    ]
    assert np.abs(gates[0] - gates[1]).max() > 0.05


def test_every_arm_begins_with_the_same_weights():
    first = moe_balance.make_model(ARMS["nothing"], 5).state_dict()
    assert first["model.layers.2.mlp.gate.weight"].std() > 0.01
    for name, arm in ARMS.items():
        model = moe_balance.make_model(arm, 5)
        assert all(type(router) is arm.router for router in model.routers), name
        for key, array in model.state_dict().items():
            assert np.array_equal(array, first[key]), (name, key)


def test_a_constant_in_all_biases_changes_the_outputs_of_one_mistake_alone():
    tokens = np.random.default_rng(0).integers(97, 123, 200).astype(np.uint16)
    text, cost = moe_lab.Text(tokens, tokens), {}
    for name in ("bias, 1e-2", "two groups of 4", "bottom k", "bias in the gate"):
        model = scramble(moe_balance.make_model(ARMS[name], 1), 2)
        cost[name] = abs(moe_balance.shifted(model, text, moe_lab.Scale()))
    assert cost.pop("bias in the gate") > 1e-5
    assert max(cost.values()) < 1e-12


def test_the_ways_of_moving_a_bias():

    def moved_by(name, counts, *shares):
        bias, move = np.zeros(len(counts)), ARMS[name].move
        assert move is not None
        for share in shares:
            move(bias, counts, share)
        return bias.tolist()

    counts = [0, 4, 4, 8]
    assert moved_by("bias, 1e-2", counts, 0.5) == [0.01, 0, 0, -0.01]
    assert moved_by("proportional", [3, 4, 4, 5], 0.5) == [0.0025, 0, 0, -0.0025]
    assert moved_by("bias, falling", counts, 0.0) == [0.02, 0, 0, -0.02]
    assert moved_by("bias, falling", counts, 0.75) == [0.005, 0, 0, -0.005]
    steps = moe_lab.DEFAULT.steps
    moved = sum(2e-2 * (1 - t / steps) for t in range(steps))
    assert moved == pytest.approx(1e-2 * steps, rel=0.01) and 1e-2 * steps >= 4


def test_measures_of_known_loads():
    assert moe_lab.worst([[2, 2, 2, 2], [1, 1, 2, 4]]) == {"max_vio": 1.0, "least": 0.5, "dead": 0}
    assert moe_lab.worst([[0, 4], [0, 4]]) == {"max_vio": 1.0, "least": 0.0, "dead": 2}
    assert moe_lab.worst([]) == {"max_vio": 0.0, "least": 1.0, "dead": 0}
    assert moe_lab.information(np.diag([5, 5, 5, 5])) == pytest.approx(2.0)
    assert moe_lab.information(np.ones((3, 4))) == pytest.approx(0.0)


def test_every_held_out_token_is_judged_once_with_all_its_choices():
    tokens = np.random.default_rng(0).integers(97, 123, 300).astype(np.uint16)
    model = DeepSeekV3(CONFIG, np.random.default_rng(0))
    found = moe_lab.judge(model, moe_lab.Text(tokens, tokens), moe_lab.Scale(length=32))
    table = np.array(found["table"])
    assert table.sum(1).tolist() == (4 * np.bincount(tokens, minlength=264)).tolist()
    one = tokens[:20]  # a single window, whose first token is told by the last one
    table = np.array(moe_lab.judge(model, moe_lab.Text(one, one), moe_lab.Scale())["table"])
    read = np.roll(one, 1).astype(np.int64)
    routing = model.hidden(read[None])[1][-1]
    for byte, chosen in zip(read, routing.indices, strict=True):
        table[byte, chosen] -= 1
    assert not table.any()
    assert found["bits_per_byte"] == pytest.approx(8.04, abs=0.1)  # of 264, untrained


def row(bits, vio=0.1, dead=0, least=0.9, **more):
    measures = {"max_vio": vio, "dead": dead, "least": least, "range": 0.5, "bits": 1.0,
                "shifted": 0.0, "uneven": 0.1}  # fmt: skip
    return {"bits_per_byte": bits, **measures, **more}


def test_sentences_of_balance_say_no_where_a_claim_does_not_hold():
    good = {name: row(3.0) for name in ARMS} | {
        "nothing": row(3.1, 3.0, 5), "bias, 1e-3": row(3.1, uneven=0.6),
        "bottom k": row(3.2, 3.0, 9), "bias in the gate": row(3.2, shifted=0.3),
    }  # fmt: skip
    said = moe_balance.findings([good, good])
    assert all(": yes (" in said[i] for i in (0, 1, 2, 3, 6, 7)), said
    assert "shows it: yes (" in said[6] and "quality: yes (" in said[7]
    bad = {name: row(3.0) for name in ARMS} | {"bias, 1e-2": row(3.1, 0.3)}
    said = moe_balance.findings([bad, bad])
    assert all(": NO (" in said[i] for i in (0, 1, 2, 3, 6, 7)), said
    assert "shows it: NO (" in said[6] and "quality: NO (" in said[7]
    assert "+0.100, +0.100; against 1e-3: +0.100" in said[2]
    assert ": not in every seed (" in moe_balance.findings([good, bad])[1]


def test_sentences_of_the_benchmark_say_no_where_a_claim_does_not_hold():
    seed = {name: row(3.0 - i / 10, alone=2.0 + i) for i, name in enumerate(moe_benchmark.KINDS)}
    grown = [{"experts": e, "both": 1.0 + e / 400, "adamw": e / 8} for e in (8, 128)]
    said = moe_benchmark.findings([seed], grown)
    assert all(": yes (" in sentence for sentence in (*said[:4], said[5]))
    assert "takes 2.00 times" in said[4] and "(1.29; AdamW 16.0)" in said[5]
    worse = {name: row(3.0 + i / 10, alone=2.0) for i, name in enumerate(moe_benchmark.KINDS)}
    said = moe_benchmark.findings([worse], [grown[0], grown[1] | {"both": 1.7}])
    assert all(": NO (" in sentence for sentence in (*said[:4], said[5]))


def test_kinds_have_the_same_budget_but_for_routers():
    """A quarter of the weights work for one token, and as many as in the dense layer."""
    init, fine = Init(None, 0.0), 31 * 64
    for kind in moe_benchmark.KINDS[1:]:
        layer = moe_benchmark.make_layer(kind, 64, 128, init)
        rows = fine if kind.startswith("DeepSeek") else 8 * 64
        dense = moe_benchmark.make_layer("dense", 64, 128, init)
        work = moe_benchmark.activated(dense)
        assert work == 3 * 64 * 256
        assert moe_benchmark.activated(layer) == work + rows
        assert sum(p.size for p in layer.parameters()) == 4 * work + rows


def test_the_map_has_a_cell_for_every_byte_and_expert():
    table = np.zeros((264, 3), int)
    table[ord("a")], table[ord("<")], table[10] = [9, 0, 0], [0, 0, 5], [2, 2, 2]
    html = moe_lab.byte_map("a < b", table, most=3)
    assert html.count("<path") == 9 and ">&lt;<" in html and ">↵<" in html
    assert html.count("a &lt; b") == 2 and "a < b" not in html
    assert html.count('class="h0"') == 4 and html.count('class="h4"') == 3


@pytest.mark.parametrize("cores", [1, 2])
def test_side_by_side_keeps_the_order(cores):
    assert list(side_by_side(math.pow, [(2, 3), (3, 2), (5, 1)], cores)) == [8, 9, 5]


@pytest.mark.slow
def test_quick_runs(tmp_path, capsys):
    moe_balance.main(["--quick", "--cores", "1", "--out", str(tmp_path / "a")])
    found = json.loads((tmp_path / "a" / "results.json").read_text("utf-8"))
    assert list(found["seeds"][0]) == list(ARMS)
    for name, measured in found["seeds"][0].items():
        assert len(measured["curve"]) == moe_lab.QUICK.steps, name
    first = {name: measured["curve"][0]["loss"] for name, measured in found["seeds"][0].items()}
    same = set(ARMS) - {"two groups of 4", "bottom k"}  # choose otherwise at once
    assert len({first[name] for name in same}) == 1
    page = (tmp_path / "a" / "moe_balance.html").read_text("utf-8")
    assert page.count("<svg role") == len(moe_balance.CHARTS) + 3
    moe_benchmark.main(["--quick", "--cores", "1", "--out", str(tmp_path / "b")])
    found = json.loads((tmp_path / "b" / "results.json").read_text("utf-8"))
    assert list(found["seeds"][0]) == list(moe_benchmark.KINDS)
    assert [r["experts"] for r in found["growth"]] == [8, 16]
    assert (tmp_path / "b" / "moe_benchmark.html").read_text("utf-8").count("<svg role") == 1
    assert "yes" in capsys.readouterr().out
