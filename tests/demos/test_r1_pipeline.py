"""The comparison of R1-Zero, R1 and distillation: its counting, its sentences, and that it runs."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from demos import r1_arms, r1_pipeline
from demos.r1_arms import QUICK, Arms, BudgetedGRPO, Trained, answer_of, cost, measure
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning.grpo.plan import GRPOPlan
from minideepseek.reasoning.tasks import Completion, Problem

PROBLEM = Problem("9 8 5 3 > 13 :", ((9, 8, 5, 3), 13))
ARMS = ["base", "R1-Zero", "R1-Zero, accuracy", "cold start only"]
ARMS += [f"R1 stage {i}" for i in (1, 2, 3)] + ["R1", "student", "distilled", "RL on small"]
EQUAL = ["R1-Zero", "R1-Zero, accuracy", "cold start only", "R1", "distilled", "RL on small"]


@pytest.mark.parametrize(
    ("text", "ended", "answer"),
    [
        ("<think> 8 + 5 = 13 ! </think> 8 + 5", True, "8 + 5"),
        ("8 + 5", True, "8 + 5"),
        ("8 + 5", False, None),
        ("<think> 8 + 5", True, None),
        ("8 + 5 </think>", True, None),
    ],
)
def test_half_a_thought_has_no_vote(text, ended, answer):
    assert answer_of(Completion(PROBLEM, text, ended)) == answer


def test_a_step_costs_what_is_read_sampled_and_trained_on():
    # Two groups of two: prompts of 3 and 4 tokens, responses of 2, 3, 5 and 1.
    rollout = SimpleNamespace(
        prompt_lengths=np.array([3, 3, 4, 4]), lengths=np.array([5, 6, 9, 5])
    )
    plan = GRPOPlan(group_size=2, minibatches=2)
    useful = np.array([True, True, False, False])
    # Prompts 3 + 4, sampled 11, trained (4 + 5) three times, half of them read by the reference.
    assert cost(rollout, useful, plan) == 7 + 11 + 27 + 4.5
    # Nothing useful: half of all 21 are looked at, forward, backward and by the reference.
    assert cost(rollout, np.zeros(4, bool), plan) == 7 + 11 + 4 * 10.5


def test_grpo_ends_with_its_budget_and_the_rate_with_it():
    task, rng = QUICK.task, np.random.default_rng(0)
    model = DeepSeekV3(QUICK.base.config(task), rng)
    trainer = BudgetedGRPO(model, task, QUICK.grpo, rng=rng, budget=6000.0)
    rates, shares = [], []
    while trainer.share < 1:
        shares.append(trainer.share)
        rates.append(trainer.step()["learning_rate"])
    assert len(rates) > 2 and shares[0] == 0
    plan = QUICK.grpo
    assert rates[0] == plan.learning_rate / 5  # of a warm-up over 5 % of the budget
    falling = [rate for rate, share in zip(rates, shares, strict=True) if share >= 0.05]
    assert falling == sorted(falling, reverse=True) and falling[-1] < 0.9 * plan.learning_rate
    assert trainer.kept["spent"] is trainer.spent




def test_measures_of_known_answers(monkeypatch):
    texts = ["<think> 8 + 5 = 13 ! </think> 8 + 5", "8 + 5", "9 - 5", "<think> 8 + 5"]
    others = ["9 - 5"] * 4

    def answers(sampler, task, problems, rng):
        if sampler.group_size == 1:
            return [[Completion(PROBLEM, "8 + 5", True)], [Completion(PROBLEM, "?", True)]], None
        groups = [[Completion(PROBLEM, text, True) for text in row] for row in (texts, others)]
        return groups, np.array([[10, 4, 4, 5], [4, 4, 4, 4]])

    monkeypatch.setattr(r1_arms, "complete", answers)
    model = DeepSeekV3(QUICK.base.config(QUICK.task), np.random.default_rng(0))
    found = measure(model, QUICK.task, [PROBLEM, PROBLEM], np.random.default_rng(0))
    expected = {"right": 1 / 8, "any form": 2 / 8, "greedy": 0.5, "pass": 0.5, "majority": 0.5}
    assert found == expected | {"thinks": 2 / 8, "thought": (6 + 3) / 2, "length": 39 / 8}


def seeds(*rows):
    return [SimpleNamespace(seed=i, rows=row, curves={}) for i, row in enumerate(rows)]


def row(share, thinks=0.5):
    return {key: share for key, _ in r1_pipeline.COLUMNS.values()} | {"thinks": thinks}


def test_sentences_say_no_where_a_claim_does_not_hold():
    arms = {name: row(i / 20) for i, name in enumerate(ARMS)} | {"R1": row(0.0)}
    del arms["distilled"]
    said = r1_pipeline.findings(seeds(arms, arms | {"R1-Zero": row(0.0)}))
    assert "not in every seed (R1-Zero − base, any form, points by seed: +5.0, +0.0)" in said[0]
    assert "NO (R1 − cold start only, any form, points by seed: -15.0, -15.0)" in said[1]
    assert "not measured" in said[4]
    assert "yes (R1-Zero − base" in r1_pipeline.findings(seeds(arms))[0]


def test_table_has_means_and_spreads():
    found = r1_pipeline.cells(seeds({"base": row(0.2)}, {"base": row(0.4), "R1": row(0.5)}))
    assert found["base"][0] == "30.0 ±\u00a014.1" and found["R1"][0] == "50.0"
    assert found["base"][list(r1_pipeline.COLUMNS).index("TFLOP")].count(".") == 2


def run(out, *more):
    r1_pipeline.main(["--quick", "--threads", "1", "--out", str(out), *more])
    return json.loads((out / "r1_pipeline.json").read_text("utf-8"))


def without_seconds(found):
    """What must be the same however often a run was interrupted."""

    def clean(row):
        return {k: v for k, v in row.items() if "second" not in k}

    (seed,) = found["seeds"]
    rows = {name: clean(row) for name, row in seed["rows"].items()}
    return rows, {name: [clean(row) for row in curve] for name, curve in seed["curves"].items()}


@pytest.mark.slow
def test_quick_run_is_equal_in_compute_and_goes_on_where_it_was_killed(
    tmp_path, monkeypatch, capsys
):
    found = run(tmp_path / "whole")
    rows = found["seeds"][0]["rows"]
    assert list(rows) == ARMS
    for name in EQUAL:
        assert 0.97 < rows[name]["passes"] / QUICK.budget < 1.1, name
    assert rows["R1"]["flops"] > 1.5 * rows["distilled"]["flops"]
    assert rows["cold start only"]["right"] > 0.1  # it does learn: 17.5 %
    for name, bonus in (("R1-Zero", 0.1), ("R1-Zero, accuracy", 0.0)):
        for step in found["seeds"][0]["curves"][name]:
            earned = step["rewards/accuracy"] + bonus * step["rewards/format"]
            assert step["reward"] == pytest.approx(earned)
    page = (tmp_path / "whole" / "r1_pipeline.html").read_text("utf-8")
    assert page.count("<svg role") == 3 and all(f">{name}<" in page for name in ARMS)
    assert "NO (" in capsys.readouterr().out

    step, calls = BudgetedGRPO.step, []

    def killed(self):
        calls.append(1)
        if len(calls) == 17:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(BudgetedGRPO, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed")
    monkeypatch.setattr(BudgetedGRPO, "step", step)
    assert without_seconds(run(tmp_path / "killed")) == without_seconds(found)
    monkeypatch.setattr(BudgetedGRPO, "step", None)  # all is complete: nothing is trained
    assert without_seconds(run(tmp_path / "killed")) == without_seconds(found)


@pytest.mark.slow
def test_a_base_of_another_vocabulary_is_refused(tmp_path, capsys):
    from minideepseek.model.checkpoint import save_pretrained
    from minideepseek.model.config import DeepSeekV3Config
    from minideepseek.model.tokenizer import ByteTokenizer

    save_pretrained(DeepSeekV3(DeepSeekV3Config.preset("nano")), tmp_path / "bytes")
    ByteTokenizer().save_pretrained(tmp_path / "bytes")
    with pytest.raises(SystemExit):
        run(tmp_path / "out", "--base", str(tmp_path / "bytes"))
    assert "other words than countdown" in capsys.readouterr().err


def four_stages(tmp_path, monkeypatch, accepted):
    """`Arms._r1` with stages that only say what they were given: (name, model, passes, limit)."""
    arms, said = Arms(tmp_path, QUICK, 0, None), []
    arms.rows["R1 stage 2"] = {"length": 20.0}

    def stage(name, start, *_, until=None):
        said.append((name, start.model, start.passes, until))
        return Trained(f"after {name}", start.passes + 1000, start.seconds + 1)

    monkeypatch.setattr(arms, "_demonstrations", stage)
    monkeypatch.setattr(arms, "_imitate", stage)
    monkeypatch.setattr(arms, "_grpo", stage)
    monkeypatch.setattr(arms, "_row", lambda name, found: found)
    monkeypatch.setattr(arms, "_accepted", lambda model: (accepted, 64, 5.0))
    return arms._r1(Trained("base")), said


def test_stage_3_begins_at_the_base_again_and_all_is_counted(tmp_path, monkeypatch):
    samples = [(np.array([1, 7]), np.array([8, 2]))]
    found, said = four_stages(tmp_path, monkeypatch, samples)
    assert found is samples
    assert said == [
        ("cold-start", "base", 0, None),
        ("r1-grpo", "after cold-start", 1000, QUICK.first * QUICK.budget),
        ("r1-sft", "base", 2000 + 64 * 20, None),
        ("r1-grpo-again", "after r1-sft", 3000 + 64 * 20, None),
    ]


def test_a_policy_that_is_never_right_leaves_stages_out(tmp_path, monkeypatch, capsys):
    found, said = four_stages(tmp_path, monkeypatch, [])
    assert not found and len(said) == 2 and "no stage 3" in capsys.readouterr().out
