"""One stage from the command line: what it runs, what it keeps, how it goes on."""

import dataclasses
import json
import re
import signal

import numpy as np
import pytest

from minideepseek.errors import CheckpointError, InputError
from minideepseek.model.checkpoint import from_pretrained
from minideepseek.model.tokenizer import ByteTokenizer, WordTokenizer, load_tokenizer
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning import jobs
from minideepseek.reasoning.addition import Addition
from minideepseek.reasoning.countdown import Countdown
from minideepseek.reasoning.evaluate import evaluate
from minideepseek.reasoning.jobs import (
    PLANS,
    StageJob,
    describe,
    load_reasoner,
    run_stage,
    stored_job,
    task_named,
)
from minideepseek.training.language import stop_on_interrupt
from minideepseek.training.rundir import list_checkpoints
from tests.reasoning import small
from tests.reasoning.grpo.tiny import same, weights

SFT = dataclasses.replace(small.SFT, steps=3, seed=4)
GRPO = dataclasses.replace(small.GRPO, steps=3, checkpoint_every=2, seed=4)
VERBS = {"sft": SFT, "grpo": GRPO}


@pytest.fixture(autouse=True)
def shipped_model(tmp_path, monkeypatch):
    small.install(monkeypatch, tmp_path / "shipped")
    return tmp_path / "shipped"


def job(verb, out, model, **other):
    return StageJob(verb, out, VERBS[verb], model, **other)


def quiet(line):
    pass


# -------------------------------------------------------------------------------------------- tasks


def test_tasks_by_name(monkeypatch):
    monkeypatch.undo()
    assert type(task_named("countdown")) is Countdown and type(task_named("addition")) is Addition
    for name in ("", "Countdown", "chess"):
        with pytest.raises(InputError) as caught:
            task_named(name)
        assert str(caught.value) == f"task: got {name!r}, expected one of countdown, addition"


# ------------------------------------------------------------------------------------------- models


def test_a_reasoner_comes_without_mtp_modules(tmp_path, device):
    model = DeepSeekV3(small.RECIPE.config(small.Small()), np.random.default_rng(1))
    model.save_pretrained(tmp_path / "model")
    small.Small().tokenizer.save_pretrained(tmp_path / "model")
    loaded = load_reasoner(tmp_path / "model", small.Small(), device)
    assert loaded.device == device and loaded.config.num_nextn_predict_layers == 0
    held = weights(model)
    assert same(weights(loaded.to("cpu")), {name: held[name] for name in weights(loaded)})


def test_a_model_of_other_words_is_refused(tmp_path):
    folder = small.model_directory(tmp_path / "model")
    for words in (ByteTokenizer(), WordTokenizer([*small.Small().tokenizer.tokens, "x"])):
        words.save_pretrained(folder)
        expected = f"{folder}: its words are not those of the task countdown"
        with pytest.raises(CheckpointError, match=f"^{re.escape(expected)}$"):
            load_reasoner(folder, small.Small())
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="^no tokenizer here: "):
        load_reasoner(folder, small.Small())
    with pytest.raises(CheckpointError, match="nowhere is not a directory"):
        load_reasoner(tmp_path / "nowhere", small.Small())


def test_a_model_that_cannot_hold_a_problem_is_refused(tmp_path, shipped_model):
    """64 positions are too few for four numbers; nothing is written."""
    jobs.TASKS["countdown"] = Countdown
    with pytest.raises(InputError, match="^max_new_tokens: got 84 after prompts of up to 8, .* 64"):
        run_stage(job("grpo", tmp_path / "run", shipped_model), quiet)
    long = StageJob("sft", tmp_path / "run", PLANS["sft"](), shipped_model)
    with pytest.raises(InputError, match="^sequence_length: got 128, expected at most .* = 64"):
        run_stage(long, quiet)
    assert not (tmp_path / "run").exists()


# -------------------------------------------------------------------------------------------- a run


@pytest.mark.parametrize("verb", VERBS)
def test_a_stage_is_run_written_and_measured(tmp_path, shipped_model, verb):
    said: list[str] = []
    out = tmp_path / "deep" / "run"
    found = run_stage(job(verb, out, shipped_model), said.append)
    assert {p.name for p in out.iterdir()} == {"job.json", verb, "model"}
    assert json.loads((out / "job.json").read_text("utf-8")) == {
        "verb": verb, "model": str(shipped_model), "task": "countdown",
        "plan": dataclasses.asdict(VERBS[verb]),
    }  # fmt: skip
    trained, task = from_pretrained(out / "model"), small.Small()
    assert load_tokenizer(out / "model").tokens == task.tokenizer.tokens
    newest = from_pretrained(list_checkpoints(out / verb)[-1])
    assert same(weights(trained), weights(newest))
    assert not same(weights(trained), weights(small.model()))
    again = evaluate(trained, task, task.held_out_problems(), rng=np.random.default_rng(4))
    assert found == again and found.samples == 8
    assert said[0] == f"everything is written to {out}; Ctrl-C stops with a checkpoint"
    assert said[1:] == ["\n".join(describe(found)), f"model: {out / 'model'}"]


@pytest.mark.parametrize("verb", VERBS)
def test_a_stage_stopped_after_each_step_goes_on(tmp_path, shipped_model, verb, monkeypatch):
    monkeypatch.setattr(jobs, "evaluate", lambda *_, **__: small_evaluation())
    whole, out = (job(verb, tmp_path / name, shipped_model) for name in ("whole", "run"))
    run_stage(whole, quiet)
    said: list[str] = []
    for step in (1, 2):
        assert run_stage(out, said.append, lambda: True) is None
        command = f"minideepseek {verb} --resume {out.out}"
        assert said[-1] == f"stopped after step {step}; to go on:\n{command}"
        assert not (out.out / "model").exists()
        out = stored_job(verb, out.out, "cpu")
        assert out == job(verb, out.out, shipped_model)
    assert run_stage(out, quiet, lambda: True) is not None
    assert small.steps(out.out / verb) == small.steps(whole.out / verb)
    one, other = (from_pretrained(one.out / "model") for one in (out, whole))
    assert same(weights(one), weights(other))


def test_the_evaluation_after_a_stage_is_interrupted_at_once(tmp_path, shipped_model, monkeypatch):
    """One Ctrl-C, and a resume measures again."""
    monkeypatch.setattr(jobs, "evaluate", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    begun = job("sft", tmp_path / "run", shipped_model)
    with stop_on_interrupt(pytest.fail) as stopped, pytest.raises(KeyboardInterrupt):
        run_stage(begun, quiet, stopped)
    assert (begun.out / "model").is_dir()
    found = small_evaluation()
    monkeypatch.setattr(jobs, "evaluate", lambda *_, **__: found)
    assert run_stage(begun, quiet) is found


def small_evaluation():
    task = small.Small()
    return evaluate(small.model(), task, task.held_out_problems()[:1], 1)


def test_the_seed_and_the_task_matter(tmp_path, shipped_model, monkeypatch):
    monkeypatch.setattr(jobs, "evaluate", lambda *_, **__: small_evaluation())
    plan = dataclasses.replace(SFT, seed=5, steps=1)
    runs = {"a": (plan, "countdown"), "b": (dataclasses.replace(plan, seed=6), "countdown")}
    runs["c"] = (plan, "addition")
    for name, (numbers, task) in runs.items():
        run_stage(StageJob("sft", tmp_path / name, numbers, shipped_model, task), quiet)
    losses = [small.steps(tmp_path / name / "sft")[0]["loss"] for name in runs]
    assert len({*losses}) == 3
    state = json.loads((list_checkpoints(tmp_path / "c/sft")[-1] / "trainer.json").read_bytes())
    assert state["loader"]["task"] == "addition"


def test_a_model_that_changed_meanwhile_is_refused(tmp_path, shipped_model):
    mine = job("grpo", tmp_path / "run", shipped_model)
    assert run_stage(mine, quiet, lambda: True) is None
    small.model_directory(shipped_model, seed=9)
    with pytest.raises(CheckpointError, match="step-00000001 began from other weights"):
        run_stage(stored_job("grpo", mine.out, "cpu"), quiet)


# ---------------------------------------------------------------------------------------- job.json


def facts(**changes):
    return {"verb": "sft", "model": "/m", "task": "countdown", "plan": {"steps": 3}} | changes


BAD = {
    "not what a run wrote": [
        [], 3, None, {}, facts(verb="pretrain"), facts(verb=["sft"]), facts(plan=[]),
        facts(plan={"stepz": 3}), facts(model=3), {"verb": "sft", "plan": {}, "model": "/m"},
    ],
    "steps: got '3', expected an integer": [facts(plan={"steps": "3"})],
    "learning_rate: got 7, expected a number": [facts(plan={"learning_rate": 7})],
}  # fmt: skip


@pytest.mark.parametrize("expected, content", [(k, v) for k, vs in BAD.items() for v in vs])
def test_a_job_that_is_none(tmp_path, expected, content):
    file = tmp_path / "job.json"
    file.write_text(json.dumps(content), "utf-8")
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(file))}: {expected}"):
        stored_job("sft", tmp_path, "cpu")


def test_a_job_of_another_verb_or_none_at_all(tmp_path):
    (tmp_path / "job.json").write_text(json.dumps(facts()), "utf-8")
    with pytest.raises(CheckpointError) as caught:
        stored_job("grpo", tmp_path, "cpu")
    assert str(caught.value) == f"{tmp_path}: begun by sft, not by grpo"
    with pytest.raises(CheckpointError) as caught:
        stored_job("grpo", tmp_path / "x", "cpu")
    assert str(caught.value) == f"{tmp_path / 'x'}: no run of grpo to resume, expected a job.json"
    (tmp_path / "job.json").write_text('{"verb": ', "utf-8")
    with pytest.raises(CheckpointError, match="job.json: is not strict JSON"):
        stored_job("sft", tmp_path, "cpu")


# ----------------------------------------------------------------------------------------- in words


def test_an_evaluation_in_lines():
    found = dataclasses.replace(
        small_evaluation(), problems=117, samples=4, temperature=0.6, accuracy=0.123,
        standard_error=0.0456, greedy=0.5, pass_at={1: 0.123, 2: 0.2, 4: 0.4}, majority=0.25,
        format=0.98, length=20.25, truncated=0.01,
    )  # fmt: skip
    lines = [
        "117 held-out problems, 4 answers each at temperature 0.6",
        "solved 12.3% ± 4.6%; greedy 50.0%; pass@2 20.0%, pass@4 40.0%; majority vote 25.0%",
        "well-formed 98.0%, 20.2 tokens an answer, 1.0% cut off",
    ]
    assert describe(found) == lines
    alone = dataclasses.replace(found, pass_at={1: 0.123}, greedy=None)
    assert describe(alone)[1] == "solved 12.3% ± 4.6%; majority vote 25.0%"
