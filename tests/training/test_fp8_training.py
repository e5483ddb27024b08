"""A run in FP8 with bfloat16 moments: it learns, survives being killed, and says what it is."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minideepseek.autograd.backend import to_host
from minideepseek.errors import CheckpointError, DivergedError
from minideepseek.layers.fp8.linear import FP8Linear
from minideepseek.model.fp8 import fp8_training
from minideepseek.model.generate import generate
from minideepseek.model.safetensors import load_file
from minideepseek.model.tokenizer import ByteTokenizer
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.training import language
from minideepseek.training.job import LanguageJob, stored_job
from minideepseek.training.rundir import RunDirectory, list_checkpoints, read_metrics
from minideepseek.training.trainer import Trainer, fit
from tests.training import tiny
from tests.training.tiny import PLAN, untimed


def trainer(plan=PLAN, device="cpu"):
    """tiny's trainer, its model in FP8, its moments in bfloat16."""
    plain = tiny.trainer(plan)
    model = fp8_training(plain.model).to(device)
    return Trainer(model, plain.loader, plan, plain.held_out, moments="bfloat16")


def run(one, folder, stop_after=None):
    """The run's metrics without times, in `folder`."""
    directory = RunDirectory(folder, ByteTokenizer(), "a hash")
    directory.resume(one)
    fit(one, directory.record, lambda: directory.save(one), lambda: one.done == stop_after)
    return [untimed(m) for m in directory.metrics()]


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    whole = trainer()
    metrics = run(whole, tmp_path / "whole")
    run(trainer(), tmp_path / "cut", stop_after=3)
    resumed = trainer()
    assert run(resumed, tmp_path / "cut") == metrics
    for name, array in whole.model.named_tensors():
        assert np.array_equal(array, resumed.model.state_dict()[name]), name
    for one, other in zip(whole.optimiser.m + whole.optimiser.v,
                          resumed.optimiser.m + resumed.optimiser.v, strict=True):  # fmt: skip
        assert one.dtype == "bfloat16" and np.array_equal(one, other)
    moments = load_file(list_checkpoints(tmp_path / "cut")[-1] / "optimizer.safetensors")
    assert {a.dtype.name for a in moments.values()} == {"bfloat16"}


def test_it_learns_nearly_as_float32_does():
    plan = replace(PLAN, steps=20, learning_rate=1e-2)
    losses = {}
    for name, one in (("float32", tiny.trainer(plan)), ("fp8", trainer(plan))):
        losses[name] = [one.step()["main_loss"] for _ in range(20)]
    fp8, plain = (np.mean(losses[name][-4:]) for name in ("fp8", "float32"))
    assert fp8 < 0.75 * losses["fp8"][0] and abs(fp8 - plain) < 0.05 * plain
    assert losses["fp8"] != losses["float32"]
    assert abs(losses["fp8"][0] - losses["float32"][0]) < 1e-2


def test_on_a_device(device):
    here, there = trainer(), trainer(device=device)
    for _ in range(2):
        one, other = here.step(), there.step()
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
    for p, q in zip(here.model.parameters(), there.model.parameters(), strict=True):
        assert np.allclose(p.data, to_host(q.data), atol=1e-3)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_nan_stops_it_with_the_tensors_name():
    one = trainer()
    one.step()
    one.model.model.layers[0].mlp.up_proj.weight.data[3, 3] = np.nan
    with pytest.raises(DivergedError, match=r"step 2.*model\.layers\.0\.mlp\.up_proj\.weight"):
        one.step()


# ----------------------------------------------------------------------------------- command line


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(run directory, what was said, the job)."""
    folder = tmp_path_factory.mktemp("fp8")
    for i in range(30):
        (folder / f"{i:02}.txt").write_text(tiny.text(2, i), "utf-8")
    out, said = tmp_path_factory.mktemp("runs") / "run", []
    job = LanguageJob(out, "nano", [str(folder)], PLAN, fp8=True)
    assert language.run(job, said.append)
    return out, said, job


def test_a_run_in_fp8_leaves_a_float32_model_and_its_own_samples(finished):
    out, _, _ = finished
    config = json.loads((out / "model" / "config.json").read_text("utf-8"))
    assert config["torch_dtype"] == "float32" and "quantization_config" not in config
    model = DeepSeekV3.from_pretrained(out / "model")
    tokenizer = ByteTokenizer()
    title, prompt, text = json.loads((out / "samples.json").read_text("utf-8"))[-3]
    ids = tokenizer.encode(prompt)[None]
    room = model.config.max_position_embeddings - ids.shape[1]
    again = generate(model, ids, min(240, room), eos_token_id=tokenizer.eos_token_id,
                     rng=np.random.default_rng([0, 0]), **language.SAMPLING)  # fmt: skip
    assert title == "after training"
    assert tokenizer.decode(again[0, ids.shape[1] :], skip_special=True) == text
    assert "FP8 products" in (out / "report.html").read_text("utf-8")
    assert json.loads((out / "run.json").read_text("utf-8"))["fp8"] is True


def test_its_losses_are_fp8s(finished):
    out, _, job = finished
    losses = [m["loss"] for m in read_metrics(out / "metrics.jsonl")]
    tokenizer = ByteTokenizer()
    corpus = language.load_corpus(job.texts, job.plan, print)
    config = language.model_config("nano", tokenizer)
    both = [language.make_trainer(replace(job, fp8=fp8), config, corpus, tokenizer)
            for fp8 in (True, False)]  # fmt: skip
    assert isinstance(both[0].model.model.layers[0].self_attn.o_proj, FP8Linear)
    assert [m.dtype.name for m in both[0].optimiser.m[:1]] == ["bfloat16"]
    assert not isinstance(both[1].model.model.layers[0].self_attn.o_proj, FP8Linear)
    assert [m.dtype.name for m in both[1].optimiser.m[:1]] == ["float32"]
    assert [one.step()["loss"] == losses[0] for one in both] == [True, False]


def test_what_a_run_is_stays(finished, tmp_path):
    out, _, _ = finished
    assert stored_job(out, None, [], {}, "cpu").fp8
    assert stored_job(out, None, [], {}, "cpu", fp8=True).fp8
    facts = json.loads((out / "run.json").read_text("utf-8"))
    for fp8 in ({"fp8": False}, {}):
        del facts["fp8"]
        facts |= fp8
        (tmp_path / "run.json").write_text(json.dumps(facts), "utf-8")
        assert not stored_job(tmp_path, None, [], {}, "cpu").fp8
        with pytest.raises(CheckpointError, match="was begun in float32; go on without FP8"):
            stored_job(tmp_path, None, [], {}, "cpu", fp8=True)
        facts["fp8"] = False
    assert stored_job(tmp_path / "killed", "nano", [], {}, "cpu", fp8=True).fp8  # before run.json


def test_the_command_line_takes_it(monkeypatch, tmp_path):
    from minideepseek.cli import main
    from minideepseek.training import language as module

    seen = []
    monkeypatch.setattr(module, "run", lambda job: seen.append(job) or Path("report"))
    for more in (["--fp8"], []):
        main(["pretrain", "--threads", "1", "--out", str(tmp_path / "x"), *more])
    assert [job.fp8 for job in seen] == [True, False]
