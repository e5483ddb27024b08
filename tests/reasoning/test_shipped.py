"""The model in the package: made from a run's cold start, small, whole or not there at all."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minideepseek
from minideepseek.errors import CheckpointError
from minideepseek.model.checkpoint import from_pretrained
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.tokenizer import load_tokenizer
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning import shipped
from minideepseek.reasoning.countdown import Countdown
from minideepseek.reasoning.evaluate import evaluate
from minideepseek.reasoning.r1.sft import SFTTrainer
from minideepseek.reasoning.r1.sources import Demonstrations
from minideepseek.reasoning.recipe import RECIPE, cold_start_gates
from minideepseek.reasoning.stages import Interrupted, Stages
from tests.reasoning import small

ROOT = Path(minideepseek.__file__).parent.parent
BYTES = 2_000_000


def directory_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def cold_start(run: Path, stop: bool = False) -> DeepSeekV3:
    """A run's folder with a cold start of five steps, or of one if stopped; the model."""
    source = Demonstrations(small.Small(), 8, np.random.default_rng(0))
    trainer = SFTTrainer(small.model(), source, small.SFT)
    try:
        Stages(run, small.Small(), print, lambda: stop).run("cold-start", trainer, {})
    except Interrupted:
        pass
    return trainer.model


# ------------------------------------------------------------------------------------ the shipped


def test_the_shipped_model_is_reason_with_countdowns_words():
    model, words = shipped.cold_started(), load_tokenizer(shipped.DIRECTORY)
    assert directory_bytes(shipped.DIRECTORY) <= BYTES
    assert words.tokens == Countdown().tokenizer.tokens
    assert model.model.norm.weight.dtype == np.float32
    expected = dataclasses.replace(
        RECIPE.config(Countdown()), num_nextn_predict_layers=0, torch_dtype="bfloat16"
    )
    assert dataclasses.replace(model.config, torch_dtype="bfloat16") == expected


@pytest.mark.slow
def test_the_shipped_model_passes_its_gates():
    task = Countdown()
    found = evaluate(shipped.cold_started(), task, task.held_out_problems()).as_dict()
    assert [gate for gate in cold_start_gates(found) if not gate.passed] == []


# ------------------------------------------------------------------------------------- made again


def test_made_from_a_cold_start_it_is_the_same_up_to_bfloat16(tmp_path):
    model = cold_start(tmp_path / "run")
    shipped.make(str(tmp_path / "run"), tmp_path / "made")
    again = from_pretrained(tmp_path / "made")
    assert load_tokenizer(tmp_path / "made").tokens == small.Small().tokenizer.tokens
    assert again.config.num_nextn_predict_layers == 0
    held = model.state_dict()
    for name, array in again.state_dict().items():
        np.testing.assert_allclose(array, held[name], rtol=2**-8, atol=1e-30, err_msg=name)
    ids = np.arange(5, 33).reshape(2, 14)
    logits = model(ids).data
    np.testing.assert_allclose(again(ids).data, logits, atol=0.02 * np.abs(logits).max())
    assert (again(ids).data != logits).any()


def test_a_whole_one_is_no_larger_than_it_may_be(tmp_path):
    """Of the recipe's size; stored in float32 it would be too large."""
    task = Countdown()
    config = dataclasses.replace(RECIPE.config(task), num_nextn_predict_layers=0)
    assert isinstance(config, DeepSeekV3Config)
    plan = dataclasses.replace(small.SFT, steps=1, samples_per_step=1, sequence_length=128)
    source = Demonstrations(task, 1, np.random.default_rng(0))
    trainer = SFTTrainer(DeepSeekV3(config, np.random.default_rng(0)), source, plan)
    Stages(tmp_path / "run", task).run("cold-start", trainer, {})
    shipped.make(str(tmp_path / "run"), tmp_path / "made")
    stored = tmp_path / "run/cold-start/checkpoints/step-00000001/model.safetensors"
    assert directory_bytes(tmp_path / "made") <= BYTES < stored.stat().st_size


def test_a_run_without_a_complete_cold_start_is_refused(tmp_path):
    target = small.model_directory(tmp_path / "made")
    before = {file: file.read_bytes() for file in target.iterdir()}
    cold_start(tmp_path / "half", stop=True)
    (tmp_path / "empty").mkdir()
    for run, expected in (
        ("nowhere", "nowhere: holds no cold-start/checkpoints$"),
        ("empty", "empty: holds no cold-start/checkpoints$"),
        ("half", "step-00000001: its cold start is not complete$"),
    ):
        with pytest.raises(CheckpointError, match=expected):
            shipped.make(str(tmp_path / run), target)
        assert {file: file.read_bytes() for file in target.iterdir()} == before


def test_what_was_there_stays_until_all_of_the_new_is(tmp_path, monkeypatch):
    target = small.model_directory(tmp_path / "made", seed=8)
    before = {file: file.read_bytes() for file in target.iterdir()}
    cold_start(tmp_path / "run")
    kind = type(small.Small().tokenizer)

    def full(self, folder):
        raise CheckpointError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(kind, "write", full)
        with pytest.raises(CheckpointError, match="No space left"):
            shipped.make(str(tmp_path / "run"), target)
    assert {file: file.read_bytes() for file in target.iterdir()} == before
    shipped.make(str(tmp_path / "run"), target)
    after = {file: file.read_bytes() for file in target.iterdir()}
    assert after.keys() == before.keys()
    assert after[target / "model.safetensors"] != before[target / "model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "run"]


def test_an_installation_without_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "DIRECTORY", tmp_path / "cold_started")
    with pytest.raises(CheckpointError, match="cold_started: the shipped model is missing; inst"):
        shipped.cold_started()


@pytest.mark.slow
def test_the_command_that_makes_it(tmp_path):
    """On a copy of the package, so that ours stays."""
    shutil.copytree(ROOT / "minideepseek", tmp_path / "minideepseek")
    cold_start(tmp_path / "run")
    target = tmp_path / "minideepseek/reasoning/cold_started"
    shutil.rmtree(target, ignore_errors=True)

    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "minideepseek.reasoning.shipped", *arguments], cwd=tmp_path,
            capture_output=True, encoding="utf-8", timeout=120,
        )  # fmt: skip

    for arguments, expected in (((), "which run?"), (("x",), "x: holds no cold-start/chec")):
        found = command(*arguments)
        assert found.returncode == 1 and found.stderr.startswith(expected), found.stderr
        assert not target.exists()
    assert command("run").returncode == 0
    assert from_pretrained(target).config.num_nextn_predict_layers == 0


@pytest.mark.slow
def test_a_build_holds_it(tmp_path):
    """What goes into a wheel, built as setuptools does it; that of a wheel needs the network."""
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "minideepseek", tmp_path / "minideepseek")
    code = "from setuptools import setup; setup()"
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, "--quiet", "build", "--build-lib", "built"],
        cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=300,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    built = tmp_path / "built/minideepseek"
    held = {file.name for file in (built / "reasoning/cold_started").iterdir()}
    assert held == {file.name for file in shipped.DIRECTORY.iterdir()} >= {"model.safetensors"}
    assert (built / "py.typed").exists() and (built / "reasoning/grpo/trainer.py").exists()
    assert [path.name for path in built.parent.iterdir()] == ["minideepseek"]
