"""The language part from text to report, interrupted and resumed, and what it refuses."""

import dataclasses
import json
import os
import re
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from minideepseek.errors import CheckpointError, InputError
from minideepseek.model.config import PRESETS
from minideepseek.model.generate import generate
from minideepseek.model.tokenizer import ByteTokenizer, load_tokenizer
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.training import language
from minideepseek.training.job import LanguageJob, check_directory, free_directory, stored_job
from minideepseek.training.language import compare, model_config, run, stop_on_interrupt
from minideepseek.training.progress import printable
from minideepseek.training.rundir import list_checkpoints, read_metrics
from minideepseek.training.trainer import Plan
from tests.training import tiny
from tests.training.tiny import PLAN, untimed


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    """A folder of files, two of which share a paragraph."""
    folder = tmp_path_factory.mktemp("text")
    for i in range(30):
        (folder / f"{i:02}.txt").write_text(tiny.text(2, i), "utf-8")
    last = tiny.text(2, 98) + "\n\nThis line, it stands in both files."
    (folder / "98.txt").write_text(last, "utf-8")
    first = "This line, it stands in both files!\n\n" + tiny.text(2, 99)
    (folder / "99.txt").write_text(first, "utf-8")
    return str(folder)


def job(out: Path, text: str, **changes) -> LanguageJob:
    return LanguageJob(out, **({"preset": "nano", "texts": [text], "plan": PLAN} | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, text):
    """(run directory, what was said, the report's path)."""
    out, said = tmp_path_factory.mktemp("runs") / "run", []
    return out, said, run(job(out, text), said.append)


def recorded(out: Path) -> list[dict]:
    return [untimed(m) for m in read_metrics(out / "metrics.jsonl")]


# ----------------------------------------------------------------------------------------- a run


def test_a_run_leaves_what_it_promises(finished):
    out, _, report = finished
    assert sorted(os.listdir(out)) == [
        "checkpoints", "metrics.jsonl", "model", "report.html", "run.json", "samples.json",
    ]  # fmt: skip
    assert report == out / "report.html"
    assert [m["step"] for m in recorded(out)] == [1, 2, 3, 4, 5, 6]
    assert [m["step"] for m in recorded(out) if "bits_per_byte" in m] == [2, 4, 6]
    page = report.read_text("utf-8")
    assert "MoE layer 1" in page and "MTP module 1" in page and "MoE layer 2" not in page
    assert page.startswith("<!doctype html>") and "before training" in page
    for name in ("bz2", "lzma", "bz2 primed", "lzma primed"):
        assert name in page
    assert f"{recorded(out)[-1]['bits_per_byte']:.2f}" in page


def test_the_finished_model_is_the_last_checkpoints(finished):
    out, _, _ = finished
    model = DeepSeekV3.from_pretrained(out / "model")
    last = DeepSeekV3.from_pretrained(list_checkpoints(out)[-1])
    for name, array in last.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], array)
    tokenizer = load_tokenizer(out / "model")
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert generate(model, tokenizer.encode("the")[None], 5).shape == (1, 8)


def test_samples_before_and_after(finished):
    out, _, _ = finished
    samples = json.loads((out / "samples.json").read_text("utf-8"))
    titles = [title for title, _, _ in samples]
    half = len(titles) // 2
    assert titles == ["before training"] * half + ["after training"] * half and half >= 1
    assert [p for _, p, _ in samples[:half]] == [p for _, p, _ in samples[half:]]
    assert half >= 2 and samples[0][2] != samples[half][2]
    told = re.findall("(before|after) training", out.joinpath("report.html").read_text("utf-8"))
    assert told == ["before", "after"] * half  # a prompt's continuations side by side


def test_what_is_said(finished):
    out, said, report = finished
    lines = "\n".join(said).split("\n")
    text = next(line for line in lines if line.startswith("text: "))
    assert "bytes to learn from" in text and "held out" in text
    assert any(line.startswith("left out: 1 paragraph") for line in lines)
    figures = [line for line in lines if line.startswith("file compressors")]
    assert len(figures) == 2 and all("bz2" in f and "lzma" in f for f in figures)
    assert any(f"written to {out}; Ctrl-C stops" in line for line in lines)
    assert sum(line.startswith("The model ") for line in lines) == 4
    assert lines[-2:] == [f"model: {out / 'model'}", f"report: {report.resolve()}"]
    assert not any(ord(c) < 32 and c not in "\n\t" for c in "\n".join(said))


def test_another_presets_vocabulary_becomes_the_bytes(tmp_path, text):
    plan = Plan(steps=1, batch_size=1, sequence_length=8)
    run(job(tmp_path, text, preset="reason", plan=plan), lambda _: None)
    assert DeepSeekV3.from_pretrained(tmp_path / "model").config.vocab_size == 264


# ------------------------------------------------------------------------- interrupted and resumed


def interrupt_after(monkeypatch, step: int):
    """Ctrl-C while the metrics of `step` are written."""
    real = language.RunDirectory.record

    def record(self, metrics):
        real(self, metrics)
        if metrics["step"] == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(language.RunDirectory, "record", record)


@pytest.mark.parametrize("step", [1, 4])
def test_interrupted_and_resumed(tmp_path, text, finished, monkeypatch, step):
    said: list[str] = []
    with monkeypatch.context() as patch:
        interrupt_after(patch, step)
        assert run(job(tmp_path, text), said.append) is None
    assert "press Ctrl-C again" in said[-2]
    stopped, command = said[-1].splitlines()
    assert stopped == f"stopped after step {step}; to go on:"
    assert command == f"minideepseek pretrain --resume {tmp_path}"
    assert list_checkpoints(tmp_path)[-1].name == f"step-{step:08d}"
    assert "model" not in os.listdir(tmp_path)
    run(job(tmp_path, text, resume=True), said.append)
    assert recorded(tmp_path) == recorded(finished[0])
    samples = [(p / "samples.json").read_text("utf-8") for p in (tmp_path, finished[0])]
    assert samples[0] == samples[1]


def test_a_stored_job_is_the_job_that_began(tmp_path, text, finished):
    """Everything comes from run.json, what is given now comes first; damage is one sentence."""
    again = stored_job(finished[0], None, [], {}, "cpu")
    assert again == job(finished[0], str(Path(text).resolve()), resume=True)
    other = stored_job(finished[0], "mini", ["a"], {"steps": 9}, "cpu")
    assert (other.preset, other.texts, other.plan.steps) == ("mini", ["a"], 9)
    assert stored_job(tmp_path, None, ["a"], {}, "cpu").preset == "mini"  # killed before run.json
    for damage in ("[]", "{", '{"plan": 1}', '{"plan": {"x": 1}}', '{"texts": 1}'):
        (tmp_path / "run.json").write_text(damage, "utf-8")
        with pytest.raises(CheckpointError, match="run.json"):
            stored_job(tmp_path, None, [], {}, "cpu")


def test_interrupted_in_the_last_step_it_is_finished(tmp_path, text, monkeypatch):
    interrupt_after(monkeypatch, PLAN.steps)
    assert run(job(tmp_path, text), lambda _: None) == tmp_path / "report.html"


def test_killed_before_the_first_checkpoint_it_begins_again(tmp_path, text, finished, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(self, trainer):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(language.RunDirectory, "save", kill)
        with pytest.raises(Killed):
            run(job(tmp_path, text), lambda _: None)
    assert len(recorded(tmp_path)) == 2 and not list_checkpoints(tmp_path)
    samples = [["before training", "of a run", "with another seed"]]
    (tmp_path / "samples.json").write_text(json.dumps(samples), "utf-8")
    run(job(tmp_path, text, resume=True), lambda _: None)
    assert recorded(tmp_path) == recorded(finished[0])
    samples = [(at / "samples.json").read_bytes() for at in (tmp_path, finished[0])]
    assert samples[0] == samples[1]


def test_killed_before_the_report_it_only_writes_that(tmp_path, text, finished):
    with pytest.raises(ZeroDivisionError):
        run(job(tmp_path, text), lambda _: None, lambda *_: 1 / 0)
    said: list[str] = []
    report = run(job(tmp_path, text, resume=True), said.append)
    assert report is not None and report.exists()
    assert "going on after step 6 of 6" in said
    assert recorded(tmp_path) == recorded(finished[0])


@pytest.mark.parametrize("content", ["{", "[[1, 2]]", None])
def test_samples_that_cannot_be_read_are_done_without(tmp_path, text, finished, content):
    shutil.copytree(finished[0], out := tmp_path / "run")
    samples = out / "samples.json"
    samples.unlink() if content is None else samples.write_text(content, "utf-8")
    run(job(out, text, resume=True), lambda _: None)
    assert {t for t, _, _ in json.loads(samples.read_text("utf-8"))} == {"after training"}


def test_a_text_that_changed_is_refused(tmp_path, finished, text):
    other = tmp_path / "other.txt"
    other.write_text(tiny.text(40, 5), "utf-8")
    with pytest.raises(CheckpointError, match="trained on another text"):
        run(job(finished[0], str(other), resume=True), lambda _: None)


# ---------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_the_second_interrupts(number):
    before = signal.getsignal(number)
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        with stop_on_interrupt(said.append) as stopped:
            assert not stopped()
            signal.raise_signal(number)
            assert stopped() and len(said) == 1
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_outside_the_main_thread_nothing_is_caught():
    seen = []

    def work():
        with stop_on_interrupt(seen.append) as stopped:
            seen.append(stopped())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


# -------------------------------------------------------------------------------------- bad input


def refuses(tmp_path: Path, match: str, **changes) -> None:
    """One sentence before any work: nothing was made."""
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InputError, match=match) as caught:
        run(job(**({"out": tmp_path / "run"} | changes)), lambda _: None)
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == before


def refuses_at_once(tmp_path: Path, match: str, **changes) -> None:
    """Even the text is not looked at."""
    refuses(tmp_path, match, **({"text": "no text at all"} | changes))


def test_what_is_refused_at_once(tmp_path):
    refuses_at_once(tmp_path, "v3, which is there for `info` alone", preset="v3")
    refuses_at_once(tmp_path, "preset is 'nono'; expected one of nano", preset="nono")
    plan = dataclasses.replace(PLAN, sequence_length=65)
    refuses_at_once(tmp_path, "sequence_length: got 65", plan=plan)
    refuses_at_once(tmp_path, "no run to resume", resume=True)
    refuses_at_once(tmp_path, "is not empty", out=tmp_path.parent)


@pytest.mark.parametrize(
    "content, match",
    [
        (None, "is not there"),
        ("", "0 bytes of text"),
        ("abc", "3 bytes of text.*at least 17"),
        ("a\n\nb c d e f g h i j k l m n", "expected more than one sequence of 16"),
        ("the same\n\n" * 30, "different"),
    ],
)
def test_texts_that_cannot_be_used(tmp_path, content, match):
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_text(content, "utf-8")
    refuses(tmp_path, match, text=str(file))


def test_directories(tmp_path, monkeypatch):
    check_directory(tmp_path / "new" / "run", False)
    check_directory(tmp_path, False)  # empty
    (tmp_path / "file").write_text("", "utf-8")
    for out, resume, match in (
        (tmp_path, False, "exists and is not empty; name another directory$"),
        (tmp_path / "file", False, "exists and is not empty"),
        (tmp_path / "file" / "run", False, "cannot be written, .*file is no directory"),
        (tmp_path / "nothing", True, "no run to resume"),
        (tmp_path, True, "no run to resume"),
        (tmp_path / "file", True, "no run to resume"),
    ):
        with pytest.raises(CheckpointError, match=match):
            check_directory(out, resume)
    (tmp_path / "checkpoints").mkdir()
    check_directory(tmp_path, True)
    with pytest.raises(CheckpointError, match="another directory or resume this run$"):
        check_directory(tmp_path, False)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(CheckpointError, match="cannot be written"):
        check_directory(tmp_path / "new", False)


def test_a_free_directory(tmp_path):
    wanted = tmp_path / "runs" / "journey"
    assert free_directory(wanted) == wanted
    for name in ("journey", "journey-2"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert free_directory(wanted) == tmp_path / "runs" / "journey-3"


# ------------------------------------------------------------------------------------------ words


def test_every_compressor_gets_its_sentence():
    notes = compare(2.0, {"bz2": 2.5, "lzma": 2.0, "lzma primed": 1.5})
    assert notes == [
        "The model beats bz2: 2.00 against 2.50 bits per byte.",
        "The model loses to lzma: 2.00 against 2.00 bits per byte.",
        "The model loses to lzma primed with the same training text: "
        "2.00 against 1.50 bits per byte.",
    ]


def test_a_presets_vocabulary_is_the_tokenizers():
    tokenizer = ByteTokenizer()
    for preset in PRESETS.keys() - {"v3"}:
        config = model_config(preset, tokenizer)
        assert config.vocab_size == tokenizer.vocab_size == 264
        assert config.eos_token_id == tokenizer.eos_token_id


def test_control_characters_do_not_reach_the_terminal():
    text = "".join(map(chr, range(0xA0)))
    assert printable(text).replace("\ufffd", "") == "\t\n" + "".join(map(chr, range(32, 127)))
    assert printable("héllo 世界 👩‍🚀") == "héllo 世界 👩‍🚀"
