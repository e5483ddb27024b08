"""The reasoning part of a journey: stages in order, gates between; kills are in tests/faults.

The runs are those of small.py: all four stages in a second of work.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from minideepseek.errors import CheckpointError, GateError, InputError
from minideepseek.model.checkpoint import from_pretrained
from minideepseek.reasoning import journey, shipped
from minideepseek.reasoning.grpo.trainer import GRPOTrainer
from minideepseek.reasoning.journey import ReasoningJob, ReasoningPart, run, stored_job
from minideepseek.reasoning.recipe import QUICK, RECIPE, Gate
from minideepseek.reasoning.stages import Interrupted, weights_hash
from minideepseek.training.rundir import list_checkpoints, read_metrics
from tests.reasoning import small
from tests.reasoning.grpo.tiny import same, weights

REAL_RECIPES = QUICK, RECIPE
EVALUATED = ["base", "cold start", "grpo", "grpo, τ = 0.6", "control"]


@pytest.fixture(scope="module")
def memory():
    with small.memory() as name:
        yield Path(name)


@pytest.fixture
def folder():
    with small.memory() as name:
        yield Path(name)


@pytest.fixture(scope="module", autouse=True)
def _small(memory):
    with pytest.MonkeyPatch.context() as patch:
        small.install(patch, memory / "shipped")
        yield


@pytest.fixture(scope="module")
def whole(memory):
    """A whole run: its folder, its record, and what it said."""
    said: list[str] = []
    record = run(ReasoningJob(memory / "whole", seed=3), said.append)
    return memory / "whole", record, said


def names(out: Path) -> set[str]:
    return {path.name for path in out.iterdir()}


# --------------------------------------------------------------------------------------- whole runs


def test_a_job_takes_the_frozen_recipe(monkeypatch):
    monkeypatch.undo()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journey, "QUICK", REAL_RECIPES[0])
        patch.setattr(journey, "RECIPE", REAL_RECIPES[1])
        assert ReasoningJob(Path("x")).recipe is RECIPE
        assert ReasoningJob(Path("x"), quick=True).recipe is QUICK


def test_the_record_holds_every_stage_and_measurement(whole):
    out, record, said = whole
    assert {name: len(rows) for name, rows in record.stages.items()} == {
        "pretrain": 5, "sft": 5, "grpo": 4, "control": 8,
    }  # fmt: skip
    assert list(record.evaluations) == EVALUATED
    found = record.evaluations.values()
    settings = [(e["problems"], e["samples"], e["temperature"]) for e in found]
    assert settings == [(10, 2, 1.0)] * 3 + [(10, 2, 0.6), (10, 2, 1.0)]
    assert all("attempts" in e["statistics"] for e in found)
    assert [row[0] for row in record.gates] == ["the base's existence"] * 2
    assert record.facts["seed"] == "3" and record.facts["began from"] == "random weights"
    assert record.facts["task"] == "countdown, 10 problems held out"
    assert record.recipe == small.RECIPE.facts()
    lines = [line for line in said if "held-out problems solved" in line]
    assert [line.split(":")[0] for line in lines] == EVALUATED
    model = from_pretrained(out / "model")
    assert record.facts["parameters"] == f"{sum(p.size for p in model.parameters()):,}"


def test_the_same_prompts_are_answered_before_during_and_after(whole):
    out, record, _ = whole
    prompts = [problem.prompt for problem in small.Small().held_out_problems()[:4]]
    when = ["before GRPO", "after 1 step of GRPO", "after 4 steps of GRPO"]
    assert [(t[0], t[1]) for t in record.traces] == [(w, p) for w in when for p in prompts]
    texts = [text for _, _, text in record.traces]
    assert len({*texts[::4]}) > 1 and all(len(text.split()) <= 24 for text in texts)


def test_every_stage_begins_where_it_should(whole):
    """GRPO and the control from the cold start, that from the base without its MTP module."""
    out, _, _ = whole
    newest = {name: list_checkpoints(out / name)[-1] for name in small.STAGES}
    origin = {n: json.loads((p / "trainer.json").read_bytes())["corpus"] for n, p in newest.items()}
    cold = from_pretrained(newest["cold-start"])
    assert origin["grpo"] == origin["control"] == weights_hash(cold)
    base = from_pretrained(newest["pretrain"])
    assert base.config.num_nextn_predict_layers == 1
    main = {name: base.state_dict()[name] for name in cold.state_dict()}
    assert cold.config.num_nextn_predict_layers == 0
    cold.load_state_dict(main)
    assert origin["cold-start"] == weights_hash(cold)
    policy = from_pretrained(out / "model")
    assert same(weights(policy), weights(from_pretrained(newest["grpo"])))
    plan = json.loads((newest["control"] / "trainer.json").read_text("utf-8"))["plan"]
    assert (plan["steps"], plan["warmup_steps"], plan["learning_rate"]) == (8, 5, 1.5e-3)


def test_a_complete_run_is_only_read(whole, folder, monkeypatch):
    out, record, _ = whole
    monkeypatch.setattr(journey, "evaluate", pytest.fail)
    monkeypatch.setattr(journey, "complete", pytest.fail)
    monkeypatch.setattr(GRPOTrainer, "step", pytest.fail)
    before = small.result(out)
    assert small.told(run(ReasoningJob(out, seed=3), print)) == small.told(record)
    assert small.result(out) == before


def test_a_seed_is_a_run(whole, folder):
    record = run(ReasoningJob(folder / "4", 4), lambda line: None)
    one, other = small.result(whole[0]), small.result(folder / "4")
    for name in (*small.STAGES, "evaluations.json", "traces.json"):
        assert other[name] != one[name], name
    assert record.facts["seed"] == "4"


def test_the_quick_part_begins_from_the_shipped_model(folder):
    job = ReasoningJob(folder / "run", seed=2, quick=True)
    record = run(job, lambda line: None)
    assert names(job.out) == {"job.json", "grpo", "model", "evaluations.json", "traces.json"}
    assert list(record.stages) == ["grpo"] and len(record.stages["grpo"]) == 3
    assert list(record.evaluations) == ["cold start", "grpo", "grpo, τ = 0.6"]
    assert record.gates == [] and record.facts["began from"] == "the shipped cold start"
    assert list(record.recipe) == ["GRPO", "objective"]  # the stages that were made
    newest = list_checkpoints(job.out / "grpo")[-1]
    state = json.loads((newest / "trainer.json").read_text("utf-8"))
    assert state["corpus"] == weights_hash(from_pretrained(shipped.DIRECTORY))
    assert small.told(run(job, lambda line: None)) == small.told(record)


def test_a_run_on_a_device(folder):
    from tests import standin

    standin.install()
    host, there = (
        run(ReasoningJob(folder / name, 2, quick=True, device=name), lambda line: None)
        for name in ("cpu", "standin")
    )
    assert there.facts["device"] == "standin"
    for one, other in zip(host.stages["grpo"], there.stages["grpo"], strict=True):
        assert other["reward"] == pytest.approx(one["reward"])
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
    assert [t[2] for t in there.traces] == [t[2] for t in host.traces]


# ----------------------------------------------------------------------------- stopped and gone on


def test_stopped_after_every_single_step(whole, folder):
    """22 processes' worth of a run: each makes one step and is told to stop; evaluations are made
    by the next one."""
    job, times, record = ReasoningJob(folder / "run", seed=3), 0, None

    def made():
        return sum(len(read_metrics(log)) for log in job.out.rglob("metrics.jsonl"))

    while record is None and times < 99:
        before = made()
        try:
            record = ReasoningPart(job, lambda line: None, lambda b=before: made() > b).run()
        except Interrupted:
            times += 1
            assert made() == before + 1
    assert times == sum(small.STEPS.values())
    assert small.told(record) == small.told(whole[1])
    mine, whole_run = small.result(job.out), small.result(whole[0])
    names = [n for n in mine["names"] if "/checkpoints/" not in n]  # which are kept differs
    assert names == [n for n in whole_run["names"] if "/checkpoints/" not in n]
    for name in (*small.STAGES, "evaluations.json", "traces.json", "job.json"):
        assert mine[name] == whole_run[name], name
    for name, steps in small.STEPS.items():
        last = f"{name}/checkpoints/step-{steps:08d}/"
        for file in ("model.safetensors", "optimizer.safetensors"):
            assert mine["weights"][last + file] == whole_run["weights"][last + file]
    assert mine["weights"]["model/model.safetensors"] == (
        whole_run["weights"]["model/model.safetensors"]
    )


def test_the_command_to_go_on_with_is_said(folder, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(journey, "stop_on_interrupt", Stopped)
    assert run(ReasoningJob(folder / "a run" / "reasoning"), said.append) is None
    command = f"minideepseek journey --resume '{folder}/a run'"
    assert said[-1] == f"stopped, with a checkpoint; to go on:\n{command}"


class Stopped:
    """Stands for stop_on_interrupt after a Ctrl-C."""

    def __init__(self, say):
        pass

    def __enter__(self):
        return lambda: True

    def __exit__(self, *_):
        pass


# -------------------------------------------------------------------------------------------- gates


@pytest.mark.parametrize("measured", [0.4, float("nan")])
def test_a_gate_of_the_base_stops_the_run(folder, monkeypatch, measured):
    fails = [Gate("one", 1.0, 0.5), Gate("two", measured, 0.5)]
    monkeypatch.setattr(journey, "base_gates", lambda model, task: fails)
    said: list[str] = []
    with pytest.raises(GateError, match=f"^two: {measured:.1%}, at least 50% is needed"):
        run(ReasoningJob(folder / "run"), said.append)
    assert names(folder / "run") == {"job.json", "pretrain"}
    assert said == ["gate: one 100.0% (at least 50%)", f"gate: two {measured:.1%} (at least 50%)"]


def test_a_gate_of_the_cold_start_stops_the_run(folder, monkeypatch):
    seen = []

    def gates(found):
        seen.append(found)
        return [Gate("solved", found["accuracy"], 0.99)]

    monkeypatch.setattr(journey, "cold_start_gates", gates)
    for _ in range(2):  # again: nothing is left to do, and it is still not passed
        with pytest.raises(GateError, match="^solved: "):
            run(ReasoningJob(folder / "run", 3), lambda line: None)
        there = {"job.json", "pretrain", "cold-start", "evaluations.json"}
        assert names(folder / "run") == there
    kept = json.loads((folder / "run/evaluations.json").read_text("utf-8"))
    assert list(kept) == ["base", "cold start"] and seen == [kept["cold start"]] * 2


def test_a_model_without_skill_fails_the_real_gates(folder, monkeypatch):
    from minideepseek.reasoning.recipe import base_gates

    monkeypatch.setattr(journey, "base_gates", base_gates)
    with pytest.raises(GateError, match=r"^the base's facts: \d+\.\d%, at least 99% is needed; "):
        run(ReasoningJob(folder / "run"), lambda line: None)


def test_the_gates_look_at_the_base_and_at_the_samples(folder, monkeypatch):
    """At the model without its MTP module, as the cold start takes it."""
    seen = []

    def gates(model, task):
        seen.append(weights_hash(model))
        return []

    monkeypatch.setattr(journey, "base_gates", gates)
    monkeypatch.setattr(journey, "cold_start_gates", lambda found: [Gate("stop here", 0, 1)])
    with pytest.raises(GateError):
        run(ReasoningJob(folder / "run"), lambda line: None)
    newest = list_checkpoints(folder / "run/cold-start")[-1]
    assert seen == [json.loads((newest / "trainer.json").read_text("utf-8"))["corpus"]]


# ------------------------------------------------------------------------------------ damaged files


@pytest.fixture
def copied(whole, folder):
    """A complete run to be damaged."""
    shutil.copytree(whole[0], folder / "run")
    return folder / "run"


def refused(out: Path, expected: str, seed: int = 3, quick: bool = False) -> None:
    before = {path: path.is_file() and path.read_bytes() for path in out.rglob("*")}
    with pytest.raises(CheckpointError, match=expected) as caught:
        run(ReasoningJob(out, seed, quick), lambda line: None)
    assert "\n" not in str(caught.value)
    after = {path: path.is_file() and path.read_bytes() for path in out.rglob("*")}
    assert {path for path in after if "model" not in path.parts} == (
        {path for path in before if "model" not in path.parts}
    )


def evaluation(**changes):
    held = {
        "problems": 10, "samples": 2, "temperature": 1.0, "accuracy": 0.1, "greedy": 0.1,
        "pass_at": {"1": 0.1, "2": 0.2}, "majority": 0.1, "format": 0.5, "length": 9.5,
    }  # fmt: skip
    return held | changes


@pytest.mark.parametrize(
    "value",
    [
        None, 3, [], "x", {}, evaluation(accuracy="much"), evaluation(greedy=None),
        evaluation(pass_at={}), evaluation(pass_at={"x": 1}), evaluation(pass_at=[1]),
        evaluation(format=None), evaluation(length=[]),
    ],
)  # fmt: skip
def test_an_evaluation_that_is_none(copied, value):
    file = copied / "evaluations.json"
    held = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(held | {"cold start": value}), "utf-8")
    refused(copied, f"^{re.escape(str(file))}: cold start is not what a run wrote$")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"base": 1, "base": 2}', "\xff"])
@pytest.mark.parametrize("name", ["evaluations.json", "traces.json", "job.json"])
def test_a_file_that_is_no_json_object(copied, name, content):
    (copied / name).write_text(content, "latin-1")
    refused(copied, f"^{re.escape(str(copied / name))}: ")


@pytest.mark.parametrize(
    "value", [None, 3, "ab", [["a"]], [["a", "b", "c"]], [["a", 3]], [3], {"a": "b"}, ["ab"]]
)
def test_traces_that_are_none(copied, value):
    file = copied / "traces.json"
    held = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(held | {"before GRPO": value}), "utf-8")
    refused(copied, f"^{re.escape(str(file))}: not what a run wrote$")


JOBS = [{}, {"seed": 3}, {"seed": "3"}, {"seed": -1}, {"seed": 3.0}, {"seed": True}, [3], 3]


@pytest.mark.parametrize("facts", JOBS)
def test_a_job_that_is_none(folder, facts):
    out = folder / "run"
    out.mkdir()
    if isinstance(facts, dict) and len(facts) == 1 and facts != {"seed": 3}:
        facts = facts | {"quick": False}
    (out / "job.json").write_text(json.dumps(facts), "utf-8")
    with pytest.raises(CheckpointError, match=f"^{out}/job.json: not what a run wrote$"):
        stored_job(out, "cpu")
    refused(out, "job.json: not what a run wrote$")


def test_a_job_is_kept_and_no_other_takes_its_place(copied, folder):
    assert stored_job(copied, "standin") == ReasoningJob(copied, 3, False, "standin")
    expected = "begun with seed 3 and quick = False, got seed {} and quick = {}; name another"
    refused(copied, expected.format(4, False), seed=4)
    refused(copied, expected.format(3, True), quick=True)
    with pytest.raises(CheckpointError, match="no reasoning part to resume, expected a job.json"):
        stored_job(folder / "nowhere", "cpu")


@pytest.mark.parametrize("seed", [-1, 1.5, "0", None])
def test_a_seed_that_is_none(folder, seed):
    with pytest.raises(InputError, match="^seed: got .*, expected an integer of at least 0"):
        ReasoningJob(folder / "run", seed)
    assert not np.any([path.exists() for path in folder.iterdir()])


def test_a_damaged_checkpoint_is_set_aside_for_the_one_before_it(whole, copied):
    newest, said = list_checkpoints(copied / "cold-start")[-1], []
    (newest / "model.safetensors").write_bytes(b"x" * 100)
    record = run(ReasoningJob(copied, 3), said.append)
    assert any(f"{newest.name} is set aside as damaged-{newest.name}" in line for line in said)
    assert small.told(record) == small.told(whole[1])


def test_a_checkpoint_of_another_stage_or_all_damaged(copied):
    for checkpoint in list_checkpoints(copied / "cold-start"):
        (checkpoint / "model.safetensors").write_bytes(b"x" * 100)
    refused(copied, f"^{re.escape(str(checkpoint / 'model.safetensors'))}")
