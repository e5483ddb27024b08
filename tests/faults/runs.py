"""Whole commands, interrupted and gone on with as they say themselves; small.

Of a run that was interrupted each checkpoint has to be one of the same run's without a fault, bit
for bit, and so has each line of metrics up to it; the clock's numbers are left out. The next start
is `--resume`, or the command again where there is nothing to resume.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minideepseek.cli import main as command_line
from minideepseek.model.leftovers import is_leftover
from minideepseek.reasoning import jobs, journey
from minideepseek.reasoning import stages as reasoning_stages
from minideepseek.reasoning.r1.sft import SFTPlan
from minideepseek.training import language
from minideepseek.training.rundir import read_metrics
from tests.faults.disk import Call
from tests.faults.scenario import Scenario, View, nothing
from tests.faults.scenarios import broken, cut, newest, stages
from tests.reasoning import small
from tests.training import tiny

PRETRAIN = (
    "pretrain --preset nano --steps 2 --batch-size 1 --sequence-length 8 --evaluate-every 2 "
    "--checkpoint-every 1"
)
SFT = "sft --steps 2 --samples-per-step 4 --checkpoint-every 1"
GRPO = (
    "grpo --steps 2 --prompts-per-step 2 --group-size 2 --minibatches 1 --evaluate-every 2 "
    "--checkpoint-every 1"
)
JOURNEY = "journey --quick --steps 2"


@dataclasses.dataclass(frozen=True)
class Short(SFTPlan):
    """No packed row longer than the nano preset's positions."""

    sequence_length: int = 64


def commanded(words: str, place: str) -> Callable[[Path], int]:
    """The command line in the small world of tests/reasoning/small.py."""

    def act(root: Path) -> int:
        patch, world = pytest.MonkeyPatch(), root.parent / "world"
        small.install(patch, world / "shipped")
        patch.setitem(jobs.PLANS, "sft", Short)
        text = world / "text"
        text.write_text(tiny.text(), "utf-8")
        reads = place == "--out" and words.split()[0] in ("pretrain", "journey")
        about = [*(["--text", str(text)] if reads else []), place, str(root / "run")]
        return command_line([*words.split(), *about, "--threads", "1"])

    return act


def go_on(words: str) -> Callable[[Path], int]:
    """What a user does next."""

    def act(root: Path) -> int:
        begun = any((root / "run" / name).exists() for name in ("run.json", "job.json"))
        if begun:
            return commanded(words.split()[0], "--resume")(root)
        return commanded(words, "--out")(root)

    return act


def stopped(words: str) -> Callable[[Path], None]:
    """An old state: the run after a Ctrl-C in its first step."""

    @contextlib.contextmanager
    def at_once(say: Any) -> Iterator[Callable[[], bool]]:
        yield lambda: True

    def act(root: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(language, "stop_on_interrupt", at_once)
            assert commanded(words, "--out")(root) == 130

    return act


def timeless(name: str, data: bytes) -> bytes:
    """A file's bytes, without what depends on the clock."""
    if name.endswith("report.html"):
        return b""
    if not (name.endswith("trainer.json") or "metrics.jsonl:" in name):
        return data
    facts = {k: v for k, v in json.loads(data).items() if "second" not in k and "time" not in k}
    return json.dumps(facts).encode()


def record(root: Path) -> View:
    """All files: path → bytes, without the clock; of metrics the lines up to the checkpoint."""
    found: View = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if any(map(is_leftover, path.relative_to(root).parts)) or not path.is_file():
            continue
        if path.name == "metrics.jsonl":
            for row in read_metrics(path, newest(path.parent)):
                line = f"{name}:{row['step']}"
                found[line] = timeless(line, json.dumps(row).encode())
        else:
            found[name] = timeless(name, path.read_bytes())
    return found | {f"{name} is not whole": b"" for name in broken(root)}


def told(root: Path) -> list[str]:
    """What the next start has to say: how far each stage is, and what was cut."""
    steps = [newest(stage) for stage in stages(root)]
    return cut(root) + [f"after step {step} of|: complete" for step in steps if step]


def promised(calls: list[Call], root: Path) -> str | None:
    """What a power cut took although later work was begun: a checkpoint before the last line."""
    for stage in stages(root) if calls else []:
        log = str((stage / "metrics.jsonl").relative_to(root))
        begun = sum(call.kind == "write" and call.path == log for call in calls)
        if newest(stage) < begun - 1:
            return f"step {begun} was recorded, and the newest checkpoint is {newest(stage)}"
    return None


def all_stages(root: Path) -> int:
    """The reasoning part from random weights."""
    small.install(pytest.MonkeyPatch(), root.parent / "world/shipped")
    finished = journey.run(journey.ReasoningJob(root / "run", seed=3))
    return 0 if finished is not None else 130  # as the command line: a Ctrl-C stops behind a step


def often(act: Callable[[Path], object]) -> Callable[[Path], None]:
    """The act, with a checkpoint after each step."""

    def fit(trainer: Any, record: Any, save: Any, should_stop: Any) -> bool:
        while trainer.done < trainer.plan.steps:
            metrics = trainer.step()
            record(metrics | trainer.evaluations())
            save()
        return True

    def saved(root: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(language, "fit", fit)
            patch.setattr(reasoning_stages, "fit", fit)
            act(root)

    return saved


def settled(view: View) -> View:
    """Without each stage's checkpoints but the newest."""
    places = {name: name.rpartition("/")[0] for name in view if "/checkpoints/" in f"/{name}"}
    newest_of = {place.rpartition("/")[0]: place for place in sorted(places.values())}
    return {
        name: data for name, data in view.items()
        if name not in places or places[name] in newest_of.values()
    }  # fmt: skip


def scenario(name: str, words: str, resumed: bool = False, every: bool = True) -> Scenario:
    """A command, begun or gone on with. every: whether there is a checkpoint after each step."""
    act = go_on(words) if resumed else commanded(words, "--out")
    old = stopped(words) if resumed else nothing
    return Scenario(
        name, old, act, again=go_on(words), view=record, timeless=timeless,
        told=told, promised=promised if every else None, often=often(act), settled=settled,
    )


RUNS = (
    scenario("pretrain", PRETRAIN),
    scenario("pretrain --resume", PRETRAIN, resumed=True),
    scenario("sft", SFT),
    scenario("grpo", GRPO),
    scenario("journey --quick", JOURNEY, every=False),
    Scenario("all stages (every 50th call)", nothing, all_stages, view=record, timeless=timeless,
             told=told, stride=50, often=often(all_stages), settled=settled),
)  # fmt: skip
