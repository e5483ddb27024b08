"""A run's directory: whole checkpoints, metrics cut back to them, equal losses after a resume."""

import dataclasses
import errno
import json
import os
import shutil

import numpy as np
import pytest

from minideepseek.autograd.blocks import set_threads
from minideepseek.errors import CheckpointError, DivergedError
from minideepseek.model.tokenizer import ByteTokenizer, load_tokenizer
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.training import rundir
from minideepseek.training.data import BatchLoader
from minideepseek.training.rundir import RunDirectory, list_checkpoints, read_metrics
from minideepseek.training.trainer import Plan, Trainer, fit
from tests.platforms import WINDOWS
from tests.training import tiny
from tests.training.tiny import PLAN, untimed

CORPUS = "0123456789abcdef"


def directory(path) -> RunDirectory:
    return RunDirectory(path, ByteTokenizer(), CORPUS)


def train(path, plan: Plan = PLAN, stop_after: int | None = None, resume: bool = False):
    """A new process's part of a run: fresh objects, `resume`, then steps; the notices."""
    trainer, files = tiny.trainer(plan), directory(path)
    notices = files.resume(trainer) if resume else []
    stop = lambda: trainer.done == stop_after  # noqa: E731
    fit(trainer, files.record, lambda: files.save(trainer), stop)
    return trainer, notices


def recorded(path) -> list[dict]:
    return [untimed(m) for m in read_metrics(path / "metrics.jsonl")]


def contents(path) -> dict[str, bytes]:
    """Every file below `path`, hidden ones too."""
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its metrics and its trainer."""
    path = tmp_path_factory.mktemp("whole")
    trainer, _ = train(path)
    return recorded(path), trainer, path


# ------------------------------------------------------------------------------------------ files


def test_a_run_directory_holds_what_it_says(whole):
    metrics, trainer, path = whole
    assert sorted(os.listdir(path)) == ["checkpoints", "metrics.jsonl"]
    assert [p.name for p in list_checkpoints(path)] == ["step-00000004", "step-00000006"]
    assert sorted(os.listdir(path / "checkpoints")) == ["step-00000004", "step-00000006"]
    assert [m["step"] for m in metrics] == [1, 2, 3, 4, 5, 6]
    newest = list_checkpoints(path)[-1]
    assert {"config.json", "model.safetensors", "optimizer.safetensors", "trainer.json"} <= set(
        os.listdir(newest)
    )
    state = json.loads((newest / "trainer.json").read_text("utf-8"))
    assert state["step"] == state["updates"] == 6 and state["tokens"] == 6 * 32
    assert Plan(**state["plan"]) == PLAN


def test_a_checkpoint_is_a_model_directory(whole):
    _, trainer, path = whole
    model = DeepSeekV3.from_pretrained(list_checkpoints(path)[-1])
    for name, array in trainer.model.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], array, err_msg=name)
    tokenizer = load_tokenizer(list_checkpoints(path)[-1])
    assert tokenizer.encode("ab").tolist() == [97, 98]


def test_metrics_are_there_after_each_step(tmp_path):
    files = directory(tmp_path)
    for step in (1, 2):
        files.record({"step": step, "loss": 0.5})
        assert [m["step"] for m in files.metrics()] == list(range(1, step + 1))


def test_metrics_refuse_numbers_that_json_has_not(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        directory(tmp_path).record({"step": 1, "loss": float("nan")})


def test_a_cut_last_line_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo', "utf-8")
    assert [m["step"] for m in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


@pytest.mark.parametrize("line", ["", "x", "[1]", '{"loss": 1}', '{"step": "2"}', "[" * 100_000])
def test_a_bad_line_in_the_middle_is_refused(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' + line + '\n{"step": 3}\n', "utf-8")
    with pytest.raises(CheckpointError, match="line 2: not a step's metrics"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_without_a_file_there_are_no_metrics(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


# ----------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("stop_after", range(1, PLAN.steps))
def test_interrupted_at_any_step_the_losses_are_the_same(tmp_path, whole, stop_after):
    train(tmp_path, stop_after=stop_after)
    trainer, notices = train(tmp_path, resume=True)
    assert notices == [] and recorded(tmp_path) == whole[0]
    for name, array in whole[1].model.state_dict().items():
        np.testing.assert_array_equal(trainer.model.state_dict()[name], array, err_msg=name)


@pytest.mark.parametrize("killed_after", range(PLAN.steps))
def test_killed_at_any_step_the_losses_are_the_same(tmp_path, whole, killed_after):
    trainer, files = tiny.trainer(), directory(tmp_path)
    for step in range(1, killed_after + 1):  # as fit() does, and no checkpoint at the end
        metrics = trainer.step()
        if step % PLAN.evaluate_every == 0:
            metrics["bits_per_byte"] = round(trainer.evaluate(), 5)
        files.record(metrics)
        if step % PLAN.checkpoint_every == 0:
            files.save(trainer)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 7, "lo')  # and a line cut short
    trainer, _ = train(tmp_path, resume=True)
    assert recorded(tmp_path) == whole[0]
    assert trainer.tokens == whole[1].tokens and trainer.optimiser.steps == PLAN.steps


def test_resumed_again_and_again(tmp_path, whole):
    train(tmp_path, stop_after=1)
    for stop in range(2, PLAN.steps):
        train(tmp_path, stop_after=stop, resume=True)
    train(tmp_path, resume=True)
    assert recorded(tmp_path) == whole[0]
    before = contents(tmp_path)
    train(tmp_path, resume=True)  # a finished run stays as it is
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "plan",
    [
        dataclasses.replace(PLAN, accumulate=3),
        dataclasses.replace(PLAN, batch_size=60, steps=4),  # an epoch ends in every second step
        dataclasses.replace(PLAN, mtp_weight=0.0, bias_frozen=0.5),
    ],
)
def test_other_plans_resume_too(tmp_path, plan):
    train(tmp_path / "whole", plan)
    train(tmp_path / "cut", plan, stop_after=3)
    train(tmp_path / "cut", plan, resume=True)
    assert recorded(tmp_path / "cut") == recorded(tmp_path / "whole")


def test_the_seconds_of_all_processes_count(tmp_path):
    first, _ = train(tmp_path, stop_after=4)
    second, _ = train(tmp_path, resume=True)
    assert second.seconds > first.seconds > 0
    seconds = [m["seconds"] for m in read_metrics(tmp_path / "metrics.jsonl")]
    assert seconds == sorted(seconds)


def test_litter_of_a_killed_save_is_removed(tmp_path, whole):
    train(tmp_path, stop_after=3)
    litter = tmp_path / "checkpoints" / ".step-00000004.00000000000000aa.tmp"
    shutil.copytree(list_checkpoints(tmp_path)[-1], litter)
    other = litter.with_name(".step-00000099.00000000000000ab.tmp")  # of a step that is not made
    other.touch()
    _, notices = train(tmp_path, resume=True)
    assert [notice.split("/")[-1] for notice in notices] == [
        f"step-000000{step}: a process ended while it wrote this; what it left is removed"
        for step in ("04", "99")
    ]
    assert recorded(tmp_path) == whole[0]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step-00000004", "step-00000006"]


# ----------------------------------------------------------------------------- differences, damage


def refuses_to_resume(path, match: str, trainer: Trainer | None = None, corpus: str = CORPUS):
    """One sentence, and nothing in the directory has changed."""
    before = contents(path)
    with pytest.raises(CheckpointError, match=match) as caught:
        RunDirectory(path, ByteTokenizer(), corpus).resume(trainer or tiny.trainer())
    assert "\n" not in str(caught.value)
    assert contents(path) == before


@pytest.fixture
def stopped(tmp_path):
    train(tmp_path, stop_after=4)
    return tmp_path


def test_another_text_is_refused(stopped):
    refuses_to_resume(stopped, "trained on another text.*0123456789ab.*fedc", corpus="fedcba98765")


@pytest.mark.parametrize("name, value", [("steps", 7), ("seed", 1), ("learning_rate", 0.001)])
def test_another_plan_is_refused(stopped, name, value):
    plan = dataclasses.replace(PLAN, **{name: value})
    was = getattr(PLAN, name)
    refuses_to_resume(stopped, f"made with {name} = {was}, not {value}", tiny.trainer(plan))


def test_another_model_is_refused(stopped):
    other = tiny.trainer(n_routed_experts=16)
    refuses_to_resume(stopped, "made with n_routed_experts = 8, not 16", other)


def test_another_number_of_threads_is_reported(stopped, whole):
    try:
        set_threads(2)
        _, notices = train(stopped, resume=True)
    finally:
        set_threads(1)
    assert len(notices) == 1
    assert notices[0].startswith("threads was 1 when this checkpoint was written and is 2 now")
    assert recorded(stopped) == whole[0]  # and yet they are the same


def test_other_versions_are_reported(stopped, monkeypatch):
    monkeypatch.setitem(rundir.VERSIONS, "numpy", "9.9")
    _, notices = train(stopped, resume=True)
    assert len(notices) == 1 and "numpy was " in notices[0] and "is 9.9 now" in notices[0]


def test_the_device_is_reported(stopped):
    from tests import standin

    standin.install()
    host = tiny.trainer()
    loader = BatchLoader(tiny.tokens(), 2, 16, np.random.default_rng(PLAN.seed).spawn(2)[1])
    there = Trainer(host.model.to("standin"), loader, PLAN, host.held_out)
    notices = directory(stopped).resume(there)
    assert [n.split(" when")[0] for n in notices] == ["device was cpu"]
    assert there.step()["main_loss"] == pytest.approx(recorded_step(stopped, 5), rel=1e-4)


def recorded_step(path, step: int) -> float:
    """The main loss of the step, by going on from the checkpoint."""
    trainer, _ = train(path, stop_after=step, resume=True)
    assert trainer.done == step
    return read_metrics(path / "metrics.jsonl")[step - 1]["main_loss"]


def damage(path, name: str, change, which=slice(None)) -> None:
    """Of these checkpoints, oldest first; all of them by default."""
    for checkpoint in list_checkpoints(path)[which]:
        file = checkpoint / name
        if (new := change(file.read_bytes())) is None:
            file.unlink()
        else:
            file.write_bytes(new)


NEWEST = slice(-1, None)
CHANGES = {
    "truncated": lambda data: data[: len(data) // 2], "empty": lambda _: b"",
    "missing": lambda _: None,
}  # fmt: skip


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "trainer.json"])
@pytest.mark.parametrize("change", CHANGES)
def test_without_a_checkpoint_that_is_whole_a_run_is_refused(stopped, name, change):
    damage(stopped, name, CHANGES[change])
    refuses_to_resume(stopped, f"step-00000004.*{name.split('.')[0]}")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "trainer.json", "config.json"]
)
@pytest.mark.parametrize("change", CHANGES)
def test_a_damaged_newest_checkpoint_is_set_aside(stopped, whole, name, change):
    """The one before it is taken, one sentence says so, and the losses are the same."""
    damage(stopped, name, CHANGES[change], NEWEST)
    damaged = contents(list_checkpoints(stopped)[-1])
    trainer, notices = train(stopped, stop_after=3, resume=True)
    assert trainer.done == 3 and len(notices) == 2 and "\n" not in notices[0]
    assert str(stopped / "checkpoints/step-00000004") in notices[0] and name in notices[0]
    assert notices[0].endswith(
        "; step-00000004 is set aside as damaged-step-00000004, going on from step-00000002"
    )
    log = stopped / "metrics.jsonl"
    assert notices[1] == f"{log}: cut back to step 2, after which there is no checkpoint"
    assert contents(stopped / "checkpoints/damaged-step-00000004") == damaged
    train(stopped, resume=True)
    assert recorded(stopped) == whole[0]
    for folder in list_checkpoints(stopped):
        file = "model.safetensors"
        same = whole[2] / "checkpoints" / folder.name / file
        assert (folder / file).read_bytes() == same.read_bytes()


def test_what_was_set_aside_before_is_kept(stopped):
    for number in ("", "2-", "3-"):
        damage(stopped, "trainer.json", lambda _: b"", NEWEST)
        _, notices = train(stopped, stop_after=4, resume=True)
        assert f"set aside as damaged-{number}step-00000004" in notices[0]
    assert len(os.listdir(stopped / "checkpoints")) == 2 + 3


def test_a_damaged_checkpoint_of_another_run_sets_nothing_aside(stopped):
    damage(stopped, "trainer.json", lambda _: b"", NEWEST)
    refuses_to_resume(stopped, "step-00000002 was trained on another text", corpus="fedcba98765")


def test_what_follows_the_checkpoint_in_the_metrics_is_not_looked_at(stopped, whole):
    """A power cut may leave zeros between lines that reached the disk."""
    with (stopped / "metrics.jsonl").open("ab") as file:
        file.write(bytes(100) + b'\n{"step": 6, "loss": 1.0}\n{"st')
    _, notices = train(stopped, resume=True)
    assert [notice.rsplit(": ")[-1].split(",")[0] for notice in notices] == ["cut back to step 4"]
    assert recorded(stopped) == whole[0]


@pytest.mark.parametrize(
    "change",
    [
        {"step": None}, {"step": "4"}, {"step": 4.0}, {"tokens": None}, {"plan": []},
        {"corpus": 5}, {"loader": {}}, {"loader": {"rng": 1}}, {"surroundings": None},
        {"seconds": None}, {"updates": None}, {"updates": 4.0},
    ],
)  # fmt: skip
def test_a_state_with_something_missing_is_damaged(stopped, change):
    damage(stopped, "trainer.json", lambda d: json.dumps(json.loads(d) | change).encode())
    refuses_to_resume(stopped, next(iter(change)))


@pytest.mark.parametrize("state", ["[]", "null", "{}", "3"])
def test_a_state_that_is_none_is_damaged(stopped, state):
    damage(stopped, "trainer.json", lambda _: state.encode())
    refuses_to_resume(stopped, "trainer.json: step is missing")


def test_metrics_damaged_in_the_middle_are_refused_before_they_are_rewritten(stopped):
    log = stopped / "metrics.jsonl"
    log.write_text(log.read_text("utf-8").replace('"step": 2', '"stop": 2'), "utf-8")
    refuses_to_resume(stopped, "metrics.jsonl, line 2")


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way", "utf-8")
    with pytest.raises(CheckpointError, match="cannot write .*file/run/.*: Not a directory"):
        directory(tmp_path / "file" / "run")
    assert os.listdir(tmp_path) == ["file"]


# ------------------------------------------------------------------------------- things going wrong


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch, whole):
    train(tmp_path, stop_after=3)
    before = contents(tmp_path)
    real = rundir.save_file

    def full(tensors, path, *rest):
        if path.name == "optimizer.safetensors":
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(tensors, path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(rundir, "save_file", full)
        with pytest.raises(CheckpointError, match="cannot write .*step-00000004: No space left"):
            train(tmp_path, resume=True)
    after = contents(tmp_path)
    assert {k: v for k, v in after.items() if k != "metrics.jsonl"} == {
        k: v for k, v in before.items() if k != "metrics.jsonl"
    }
    train(tmp_path, resume=True)
    assert recorded(tmp_path) == whole[0]


def test_metrics_on_a_full_disk(tmp_path):
    if not os.path.exists("/dev/full") or WINDOWS:
        pytest.skip("no /dev/full here")
    files = directory(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"cannot write .*metrics.jsonl: No space left"):
        files.record({"step": 1})


def test_a_run_that_diverges_keeps_its_last_checkpoint(tmp_path, monkeypatch):
    trainer, files = tiny.trainer(), directory(tmp_path)

    def record(metrics):
        files.record(metrics)
        if metrics["step"] == 5:
            trainer.parameters["lm_head.weight"].data[3, 3] = np.nan

    with np.errstate(all="ignore"), pytest.raises(DivergedError, match="step 6.*lm_head.weight"):
        fit(trainer, record, lambda: files.save(trainer))
    assert [m["step"] for m in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000002", "step-00000004"]
    notices = directory(tmp_path).resume(fresh := tiny.trainer())
    assert ["cut back to step 4" in notice for notice in notices] == [True] and fresh.done == 4


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    trainer, files = tiny.trainer(), directory(tmp_path)
    trainer.step()
    files.save(trainer)
    before = contents(tmp_path)
    trainer.step()
    trainer.parameters["model.norm.weight"].data[0] = np.inf
    with pytest.raises(CheckpointError, match="model.norm.weight"):
        files.save(trainer)
    assert contents(tmp_path) == before


def test_a_checkpoint_is_written_after_its_metrics_are_on_the_disk(tmp_path, monkeypatch):
    trainer, files = tiny.trainer(), directory(tmp_path)
    files.record(trainer.step())
    synced, real = [], os.fsync

    def fsync(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", fsync)
    files.save(trainer)
    assert synced[0] == str(tmp_path / "metrics.jsonl")
