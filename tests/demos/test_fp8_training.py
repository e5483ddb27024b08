"""FP8 training: the statistics on known numbers, gradients, kept results, and that it runs."""

import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest

from demos import fp8_gradients, fp8_lab, fp8_tables, fp8_training
from demos.fp8_gradients import WAYS, Agreement, Noise, gradients
from demos.fp8_lab import ARMS, FLOAT, FP8, MOMENTS, MOVED, Scale, Task
from demos.moe_lab import Text
from minideepseek.layers.fp8.recipe import (
    FINE_GRAINED,
    HIGH_PRECISION,
    PER_TENSOR,
    V3,
    Recipe,
    Scheme,
)
from minideepseek.model.fp8 import fp8_training as in_fp8
from minideepseek.model.fp8 import high_precision
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.training.data import BatchLoader
from tests.layers.common import scramble

QUICK = fp8_training.SCALES["quick"]


def tiny(seed=0):
    return scramble(DeepSeekV3(QUICK.config, np.random.default_rng(seed)), seed)


def some_ids(seed=0, shape=(2, 33)):
    return np.random.default_rng(seed).integers(0, 256, shape)


# ------------------------------------------------------------------------------------- statistics


def test_t_quantiles_leave_five_per_cent_outside():
    for freedom, q in enumerate(fp8_lab.T95, start=1):
        angle = (np.arange(200_000) + 0.5) / 200_000 * math.atan(q / math.sqrt(freedom))
        inside = (np.cos(angle) ** (freedom - 1)).mean() * angle[-1]  # t = √ν tan(angle)
        half = math.gamma(freedom / 2) * math.sqrt(math.pi) / 2 / math.gamma((freedom + 1) / 2)
        assert inside / half == pytest.approx(0.95, abs=1e-4), freedom


def test_an_interval_of_known_numbers():
    mean, half = fp8_lab.interval([1, 2, 3, 4, 5])
    assert mean == 3 and half == pytest.approx(2.776 * math.sqrt(2.5 / 5))
    assert fp8_lab.interval([0, 1]).half == pytest.approx(12.706 / 2)
    assert math.isnan(fp8_lab.interval([7]).half) and str(fp8_lab.interval([7])) == "+7.000"
    assert str(fp8_lab.interval([-1, 1])) == "+0.000 ± 12.706"
    assert fp8_lab.interval([-2, 1]).holds_zero and fp8_lab.interval([0.5, 0.6]).holds_zero
    assert not fp8_lab.interval([0.5, 0.52]).holds_zero
    assert not fp8_lab.interval([-0.5, -0.52]).holds_zero and not fp8_lab.interval([7]).holds_zero


def test_twenty_intervals_miss_the_mean_once():
    draws = np.random.default_rng(0).standard_normal((2000, 5)).tolist()
    missed = sum(not fp8_lab.interval(five).holds_zero for five in draws)
    assert 70 < missed < 130
    new = np.random.default_rng(1).standard_normal(2000).tolist()
    ranges = [fp8_lab.expected_range(five) for five in draws]
    outside = sum(not low <= x <= high for x, (low, high) in zip(new, ranges, strict=True))
    assert 70 < outside < 130


def test_gaps_are_by_pair_and_in_per_cent_of_the_partner():
    assert fp8_lab.per_cent([2.02, 0.99], [2.0, 1.0]) == pytest.approx([1, -1])
    with pytest.raises(ValueError):
        fp8_lab.per_cent([1, 2], [1])


def test_pairs_needed_by_the_spread():
    assert fp8_lab.seeds_needed([0, 2, 1], within=0.5) == 16  # (1.96 / 0.5)² = 15.4
    assert fp8_lab.seeds_needed([1.0, 1.0], within=0.25) == 2


def test_noise_is_the_spread_about_the_mean():
    rng, noise = np.random.default_rng(0), Noise()
    batches = (5 + 0.3 * rng.standard_normal((6, 20, 50))).astype(np.float32)
    for g in batches:
        noise.add({"a": g, "b": 2 * g})
    flat = batches.reshape(6, -1).astype(float)
    assert noise.of("a") == pytest.approx(math.sqrt(flat.var(0, ddof=1).sum()), rel=1e-6)
    assert noise.of("a") == pytest.approx(0.3 * math.sqrt(1000), rel=0.05)
    assert noise.of("b") == pytest.approx(2 * noise.of("a"))
    assert noise.mean("a") == pytest.approx(np.linalg.norm(flat.mean(0)))


def test_agreement_of_known_errors():
    rng = np.random.default_rng(0)
    right = rng.standard_normal((2, 30, 40))
    off = 0.1 * rng.standard_normal((30, 40))
    for sign, averaged in ((1, 1.0), (-1, 0.0)):
        found, agree = right + np.stack([off, sign * off]), Agreement()
        for pair in zip(found, right, strict=True):
            agree.add(*({"a": one} for one in pair))
        one = agree.of("a")
        assert one["error"] == pytest.approx(np.linalg.norm(off))
        assert one["relative"] == pytest.approx(
            np.linalg.norm(found - right) / np.linalg.norm(right)
        )
        cosine = (found * right).sum() / np.linalg.norm(found) / np.linalg.norm(right)
        assert one["cosine"] == pytest.approx(cosine) and 0.99 < cosine < 0.999
        assert one["averaged"] == pytest.approx(averaged, abs=1e-9)
    nothing = Agreement()
    nothing.add({"a": np.zeros((2, 2))}, {"a": np.zeros((2, 2))})  # an expert without tokens
    assert nothing.of("a")["relative"] == nothing.of("a")["cosine"] == 0


# -------------------------------------------------------------------------------------- gradients


def test_gradients_of_every_quantised_matrix_by_its_name():
    model, ids = tiny(), some_ids()
    loss, found, chosen = gradients(model, ids)
    assert loss == pytest.approx(model.losses(ids, mtp_weight=0.0).main.item())
    assert len(found) == 26 and sum(".experts." in name for name in found) == 3 * 4
    stack = model.model.layers[1].mlp.experts.gate_up_proj.grad
    prefix = "model.layers.1.mlp.experts.3."
    assert np.array_equal(found[prefix + "gate_proj.weight"], stack[3, :32])
    assert np.array_equal(found[prefix + "up_proj.weight"], stack[3, 32:])
    again = gradients(model, ids, chosen)
    assert again[0] == loss and all(np.array_equal(again[1][n], g) for n, g in found.items())
    other = gradients(model, ids, [(one + 1) % 4 for one in chosen])
    assert other[0] != loss  # routing is obeyed


def test_a_scheme_that_rounds_nothing_makes_no_error():
    model, ids = tiny(), some_ids()
    nothing = Recipe.uniform(Scheme(*[HIGH_PRECISION] * 5))
    _, right, chosen = gradients(model, ids)
    _, found, _ = gradients(in_fp8(model, nothing), ids, chosen)
    agree = Agreement()
    agree.add(found, right)
    assert all(agree.of(name)["relative"] < 1e-5 for name in right)
    _, found, _ = gradients(in_fp8(model), ids, chosen)
    agree = Agreement()
    agree.add(found, right)
    assert all(0.01 < agree.of(name)["relative"] < 0.5 for name in right)


def test_flips_count_choices_that_are_gone_in_any_order():
    model, ids = tiny(), some_ids()
    _, _, (chosen,) = gradients(model, ids)
    assert fp8_gradients.flips(model, ids, [chosen]) == 0
    assert fp8_gradients.flips(model, ids, [chosen[:, ::-1]]) == 0
    other = np.where(chosen == chosen[:, :1], 99, chosen)  # one of two is no expert at all
    assert fp8_gradients.flips(model, ids, [other]) == pytest.approx(0.5)


def test_watched_tiles_round_as_before_and_count_what_is_lost():
    x = np.zeros((2, 256), np.float32)
    x[0, :4], x[1, :3] = [1e6, 1, 0.1, 0], [1, 1e-9, 3]
    tile = fp8_gradients.Watched(PER_TENSOR.dy)
    assert np.array_equal(tile.round(x), PER_TENSOR.dy.round(x))
    assert (tile.given, tile.lost) == (6, 4)  # what is left: 10⁶, and 3, which becomes 4.36
    fine = fp8_gradients.Watched(FINE_GRAINED.dy)
    fine.round(x)
    fine.round(x)
    assert (fine.given, fine.lost) == (12, 6)
    recipe, seen = fp8_gradients.watched(V3)
    assert recipe.experts_down.dy.tile is V3.experts_down.dy
    assert recipe.linear.dy_tokens.tile is V3.linear.dy_tokens and recipe.linear.x is V3.linear.x
    assert recipe.linear.dy in seen["dy"] and [len(one) for one in seen.values()] == [4, 4]


def test_quiet_tokens_know_nothing_of_loud_ones():
    model, ids = tiny(), some_ids()
    _, _, chosen = gradients(model, ids)

    def quiet(recipe, factor):
        twin = high_precision(model) if recipe is None else in_fp8(model, recipe)
        return fp8_gradients.loud(twin, ids, chosen, factor)

    right = quiet(None, 1)
    assert right.shape == (2, 31, 32) and abs(right).max() > 0
    assert np.array_equal(quiet(None, 1000), right)
    assert np.array_equal(quiet(V3, 1000), quiet(V3, 1))  # a token's tiles are its own
    uniform = Recipe.uniform(PER_TENSOR)
    off = [np.linalg.norm(quiet(uniform, f) - right) / np.linalg.norm(right) for f in (1, 10**6)]
    assert off[1] > 3 * off[0]
    assert not isinstance(model.model.embed_tokens, fp8_gradients.Leaf)  # the twin alone is spoilt


def test_a_loud_curve_has_the_errors_and_the_zeros_of_its_factors():
    model, ids = tiny(), some_ids()
    _, _, chosen = gradients(model, ids)
    curve = fp8_gradients.loud_curve(model, Recipe.uniform(PER_TENSOR), ids, chosen)
    assert all(len(values) == len(fp8_gradients.FACTORS) for values in curve.values())
    assert curve["error"][-1] > curve["error"][0] > 0.01
    assert 0 <= curve["dy"][0] < curve["dy"][-1] < 1
    fine = fp8_gradients.loud_curve(model, V3, ids, chosen)
    assert max(fine["error"]) == min(fine["error"]) and max(fine["dy"]) < curve["dy"][-1] / 10


def test_ways_are_what_they_say():
    two = WAYS["powers of two"].linear
    assert all(getattr(two, field.name).power_of_two for field in fields(two))
    assert replace(two.x, power_of_two=False) == FINE_GRAINED.x
    forward, backward = WAYS["forward alone"].linear, WAYS["backward alone"].linear
    assert (forward.x, forward.w) == (FINE_GRAINED.x, FINE_GRAINED.w)
    assert forward.dy == forward.dy_tokens == forward.x_tokens == HIGH_PRECISION
    assert backward.x == backward.w == HIGH_PRECISION and backward.dy == FINE_GRAINED.dy


# ------------------------------------------------------------------------------------------- runs


def test_finished_results_are_kept_and_unfinished_ones_are_not(tmp_path, monkeypatch):
    made = []

    def run(out, scale, task):
        made.append(task)
        if task.seed == 1:
            raise KeyboardInterrupt
        return {"loss": 1.5}

    monkeypatch.setitem(fp8_lab.RUNS, "weights", run)
    for _ in range(2):
        assert fp8_lab.work(tmp_path, QUICK, Task("weights", FP8)) == {"loss": 1.5}
    assert len(made) == 1
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fp8_lab.work(tmp_path, QUICK, Task("weights", FP8, 1))
    assert len(made) == 3 and len(list((tmp_path / "arms").iterdir())) == 1
    more = replace(QUICK, seeds=5, orders=7, neighbours=2)
    assert fp8_lab.work(tmp_path, more, Task("weights", FP8)) == {"loss": 1.5} and len(made) == 3
    for other in (replace(QUICK, steps=13), replace(QUICK, held_out=2048), replace(QUICK, fork=3)):
        fp8_lab.work(tmp_path, other, Task("weights", FP8))
    fp8_lab.work(tmp_path, QUICK, Task("weights", FLOAT))
    assert len(made) == 7


def test_no_two_tasks_share_a_place(tmp_path):
    scale = Scale(seeds=3, orders=2, neighbours=1)
    tasks = [*fp8_lab.first_tasks(scale), *fp8_lab.later_tasks(scale)]
    assert len({fp8_lab.place(tmp_path, scale, task) for task in tasks}) == len(tasks) == 20


@pytest.fixture
def text(monkeypatch):
    """In place of the docstrings, which take seconds to read."""
    letters = np.random.default_rng(0).integers(97, 123, 5000).astype(np.uint16)
    monkeypatch.setattr(fp8_lab, "read_text", lambda scale: Text(letters, letters[:500]))
    return fp8_lab.read_text(QUICK)


@pytest.fixture
def left(text, tmp_path):
    fp8_lab.work(tmp_path, QUICK, Task("checkpoint"))
    return tmp_path


def test_a_branch_goes_on_where_the_checkpoint_was_left(left, text):
    model = DeepSeekV3(QUICK.config, np.random.default_rng(0))
    right = fp8_lab.trainer_of(model, text, QUICK, ARMS[FLOAT], [0, 2])
    for _ in range(QUICK.fork):
        right.step()
    _, trainer, _ = fp8_lab.forked(left, QUICK, Task("branch"))
    assert trainer.done == trainer.optimiser.steps == QUICK.fork
    for name, array in right.model.state_dict().items():
        assert np.array_equal(trainer.model.state_dict()[name], array), name
    for letter in "mv":
        kept, own = (getattr(t.optimiser, letter) for t in (right, trainer))
        assert all(np.array_equal(a, b) and a.any() for a, b in zip(kept, own, strict=True))
    order = np.random.default_rng([0, 3])
    right.loader = BatchLoader(text.train, QUICK.batch, QUICK.length, order)
    for _ in range(QUICK.steps - QUICK.fork):  # the schedule goes on, too
        assert trainer.step() | {"seconds": 0, "tokens": 0, "tokens_per_second": 0} == (
            right.step() | {"seconds": 0, "tokens": 0, "tokens_per_second": 0}
        )


def test_arms_of_one_order_read_the_same_batches(left):
    _, plain, _ = fp8_lab.forked(left, QUICK, Task("branch", FLOAT, 0))
    _, other, _ = fp8_lab.forked(left, QUICK, Task("branch", FLOAT, 1))
    model, twin, _ = fp8_lab.forked(left, QUICK, Task("branch", FP8, 0))
    _, moments, _ = fp8_lab.forked(left, QUICK, Task("branch", MOMENTS, 0))
    assert {m.dtype.name for m in moments.optimiser.m + moments.optimiser.v} == {"bfloat16"}
    assert {m.dtype.name for m in twin.optimiser.m} == {"float32"}
    first = [t.loader.next_batch() for t in (plain, twin, moments, other)]
    assert np.array_equal(first[0], first[1]) and np.array_equal(first[0], first[2])
    assert not np.array_equal(first[0], first[3])
    assert twin.model is not model and twin.model.model.layers[0].mlp.up_proj.scheme == V3.linear
    weight = twin.parameters["model.layers.0.mlp.up_proj.weight"]
    assert weight is model.model.layers[0].mlp.up_proj.weight and weight.data.any()


def test_a_run_is_judged_as_it_computes_and_in_float32(left, text):
    for arm in (FLOAT, FP8):
        model, trainer, _ = fp8_lab.forked(left, QUICK, Task("branch", arm))
        found = fp8_lab.finish(model, trainer, text, QUICK)
        assert len(found["curve"]) == QUICK.steps - QUICK.fork
        assert found["seconds"] == pytest.approx(trainer.seconds / 4)
        ids = np.concatenate([text.held_out[-1:], text.held_out])[None].astype(int)
        whole = [model.losses(ids[:, a : a + 33]).main.item() * 32 for a in range(0, 480, 32)]
        last = model.hidden(ids[:, 468:500])[0]  # 500 = 15 · 32 + 20: the last window overlaps
        logits = model.logits(last).data[0, -20:].astype(float)
        right = logits[np.arange(20), ids[0, 481:]]
        rest = (np.log(np.exp(logits).sum(-1)) - right).sum()
        assert found["plain"] == pytest.approx((sum(whole) + rest) / 500, rel=1e-5)
        assert (found["loss"] == found["plain"]) == (arm == FLOAT)
        assert found["loss"] == pytest.approx(found["plain"], rel=0.01)


def test_a_neighbour_is_three_per_cent_away_and_reads_the_same(tmp_path, text, monkeypatch):
    seen = {}

    def finish(model, trainer, text, scale):
        state = {name: array.copy() for name, array in model.state_dict().items()}
        return {"state": state, "batch": trainer.loader.next_batch()}

    monkeypatch.setattr(fp8_lab, "finish", finish)
    for arm, seed in ((FLOAT, 0), (MOVED, 1), (MOVED, 2), (FLOAT, 1)):
        seen[arm, seed] = fp8_lab.from_weights(tmp_path, QUICK, Task("weights", arm, seed))
    origin = seen[FLOAT, 0]
    for n in (1, 2):
        near = seen[MOVED, n]
        assert np.array_equal(near["batch"], origin["batch"])
        for name, array in origin["state"].items():
            off = np.linalg.norm(near["state"][name] - array)
            wanted = 0.03 * np.linalg.norm(array) if array.ndim > 1 else 0
            assert off == pytest.approx(wanted, rel=0.2), name
    name = "lm_head.weight"
    assert not np.array_equal(seen[MOVED, 1]["state"][name], seen[MOVED, 2]["state"][name])
    assert not np.array_equal(seen[FLOAT, 1]["state"][name], origin["state"][name])
    assert not np.array_equal(seen[FLOAT, 1]["batch"], origin["batch"])


# ---------------------------------------------------------------------------------------- sentences


def run(loss, plain=None, seconds=0.1):
    return {"loss": loss, "plain": plain or loss, "seconds": seconds, "curve": [loss] * 10}


def results(fp8=(2.02, 2.04, 2.02), branch=(2.002, 2.0041, 2.0021)):
    branches = {name: [run(2.0), run(2.01), run(1.99)] for name in fp8_lab.BRANCHES}
    branches[FP8] = [run(loss, 2.0, 0.2) for loss in branch]
    branches[FLOAT] = [run(loss) for loss in (2.0, 2.004, 2.002, 2.006)]
    weights = {FP8: [run(loss, seconds=0.2) for loss in fp8], FLOAT: [run(2.0)] * len(fp8),
               MOVED: [run(loss) for loss in (2.01, 2.03, 1.98)]}  # fmt: skip
    return {"branch": branches, "weights": weights, "checkpoint": {FLOAT: [run(3.0)]}}


def study(worst=0.09):
    def layer(error):
        one = {"error": error, "relative": 0.05, "cosine": 0.99, "averaged": 0.5}
        return {"noise": 2.0, "mean": 1.0, "ways": dict.fromkeys(WAYS, one)}

    names = ("model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.experts.3.up_proj.weight")
    curve = {"error": [0.1, 0.1, 0.21, 1, 1, 1], "dy": [0.0] * 5 + [0.5], "dy_tokens": [0.25] * 6}
    flat = curve | {"error": [0.1] * 6}
    return {
        "layers": dict(zip(names, (layer(0.1), layer(2 * worst)), strict=True)),
        "ways": dict.fromkeys(WAYS, {"flips": 0.01, "loss": 1e-4}),
        "loud": {way: flat if way == "V3's recipe" else curve for way in fp8_gradients.LOUD},
    }


def test_pairs_stand_beside_the_right_partner():
    found = {row: fp8_tables.gaps(results(), row) for row in fp8_tables.pairs(results())}
    assert found[f"whole: {FP8}"] == pytest.approx([1, 2, 1])
    assert found[f"whole: {MOVED}"] == pytest.approx([0.5, 1.5, -1])
    right = [100 * (a / b - 1) for a, b in ((2.002, 2), (2.0041, 2.004), (2.0021, 2.002))]
    assert found[f"branch: {FP8}"] == pytest.approx(right)
    following = [100 * (a / b - 1) for a, b in ((2.004, 2), (2.002, 2.004), (2.006, 2.002))]
    assert found["branch: float32, next order"] == pytest.approx(following)
    assert fp8_tables.gaps(results(), f"branch: {FP8}", "plain")[0] == 0
    assert found["whole: float32, another seed"] == [0, 0]
    single = results(fp8=(2.02,))
    assert "whole: float32, another seed" not in fp8_tables.pairs(single)


def test_gradients_are_judged_by_every_matrix():
    said = fp8_training.of_gradients(study(), Scale())
    assert "1,024 tokens in 2 of 2" in said[0] and "(all: reached); worst 0.090" in said[0]
    said = fp8_training.of_gradients(study(0.11), Scale())
    assert "in 1 of 2" in said[0] and "(all: NOT reached); worst 0.110" in said[0]
    assert "model.layers.1.mlp.experts.3.up_proj; median 0.080" in said[0]
    assert "(independent from batch to batch: 0.58;" in said[3]
    assert "never doubles, from 0.100" in said[-3] and "doubles by ×100, from" in said[-1]
    assert "then 50.0% of dY are 0 for dX and 25.0% for dW (without loud ones 0.0%" in said[-1]


def test_runs_are_judged_by_their_intervals():
    said = fp8_training.of_branches(results())
    assert said[0].startswith("branch, FP8, V3: +0.037 ± 0.136 % over 3 pairs")
    assert said[0].endswith("(not to be told from zero: reached)")
    assert "in float32 (root mean square)" in said[-1] and "are 0.182 % apart" in said[-1]
    clear = fp8_training.of_branches(results(branch=(2.02, 2.024, 2.0221)))
    assert clear[0].endswith("(not to be told from zero: NOT reached)")
    whole = fp8_training.of_whole_runs(results())
    assert "4 float32 runs, weights moved by 3 %: 2.0000, 2.0100, 2.0300, 1.9800" in whole[1]
    assert "(2.53 % apart)" in whole[1] and whole[1].endswith("2.0200, cannot be told from them")
    assert "2 float32 runs, other seeds" in whole[2] and "CAN be told from" in whole[2]
    assert "about 21 pairs of whole runs, or 2 pairs of branches" in whole[3]
    assert "takes 2.00 times" in whole[4]
    far = fp8_training.of_whole_runs(results(fp8=(2.3, 2.3)))
    assert "CAN be told" in far[1] and "NOT reached" in far[0]
    alone = fp8_training.of_whole_runs(results(fp8=(2.02,)))
    assert "one pair and so no interval" in alone[0] and len(alone) == 3
    assert "CAN be told" in fp8_training.lesson(1.8, [2.0, 2.01, 1.99], "x")
    assert "says nothing" in fp8_training.lesson(2.0, [2.0], "x")


def test_runs_that_share_partners_have_no_interval():
    head, rows = fp8_tables.run_rows(results())
    cells = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert cells[f"whole: {FP8}"]["gap, %"] == "+1.333 ± 1.434"
    assert cells[f"whole: {MOVED}"]["gap, %"] == "+0.333"
    assert cells[f"whole: {MOVED}"]["spread, %"] == "1.258"
    assert cells["branch: float32, next order"]["gap, %"] == "+0.100"
    assert cells[f"branch: {FP8}"]["ms a step"] == "200"
    assert cells[f"branch: {FP8}"]["in float32, %"] == "-0.100 ± 0.248"


def test_kinds_of_layers():
    assert fp8_tables.kind_of("model.layers.12.mlp.experts.7.up_proj.weight") == "experts.up_proj"
    assert fp8_tables.kind_of("model.layers.0.self_attn.o_proj.weight") == "o_proj"
    head, rows = fp8_tables.kind_rows(study())
    assert [row[:3] for row in rows] == [
        ["up_proj", "1", "2.00"], ["experts.up_proj", "1", "2.00"]
    ]  # fmt: skip
    assert [row[5] for row in rows] == ["0.050", "0.090"] and len(head) == len(rows[0])


@pytest.mark.slow
def test_quick_runs_and_is_not_made_twice(tmp_path, capsys, monkeypatch):
    arguments = ["--quick", "--cores", "1", "--out", str(tmp_path)]
    fp8_training.main(arguments)
    out = capsys.readouterr().out
    assert "0 results of earlier calls" in out
    numbers = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert len(numbers["gradients"]["layers"]) == 26
    assert [len(numbers["runs"]["branch"][name]) for name in (FLOAT, FP8)] == [2, 1]
    assert all(len(one[0]["curve"]) == 12 for one in numbers["runs"]["weights"].values())
    assert all(len(one[0]["curve"]) == 4 for one in numbers["runs"]["branch"].values())
    page = (tmp_path / "fp8_training.html").read_text("utf-8")
    assert page.count("<svg role") == 5 and page.count("<table") == 3 + 3 + 2 + 2
    monkeypatch.setattr(fp8_lab, "RUNS", {})  # nothing is left to be made
    fp8_training.main(arguments)
    assert "11 results of earlier calls" in capsys.readouterr().out
    again = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert again["findings"] == numbers["findings"]
