"""The commands that print the figures: as one types them, what they take and what they need."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.replay.bands import ROOT

COSTS = {"cheap": 30, "medium": 400, "costly": 10**6}  # seconds at most, on one core
TORCH = ("torch", "transformers")


@dataclass(frozen=True)
class Command:
    """run: as typed, parts joined by ` && `; `README block N` is the README's Nth block of Python.

    needs: libraries beside the package's own. at_root: runs in the checkout, else in a new folder,
    so that nothing of an earlier run is read. shows: files whose text counts as printed if the
    command succeeds, for tests that assert a figure and print nothing.
    """

    run: str
    seconds: int
    needs: tuple[str, ...] = ()
    at_root: bool = False
    shows: tuple[str, ...] = ()

    @property
    def cost(self) -> str:
        return next(name for name, most in COSTS.items() if self.seconds <= most)

    @property
    def lacks(self) -> list[str]:
        return [name for name in self.needs if find_spec(name) is None]


def demo(arguments: str, seconds: int, **more: Any) -> Command:
    return Command(f"python -m demos.{arguments}", seconds, **more)


def tests(path: str, seconds: int, *shows: str) -> Command:
    """Tests that assert the figure; it is read from their source, or from `shows`."""
    return Command(f"python -m pytest -q {path}", seconds, at_root=True, shows=shows or (path,))


COMMANDS = {
    "info": Command("minideepseek info --preset v3", 1),
    "corpus": Command("python -m minideepseek.training.data", 4),
    "exercises": Command("minideepseek exercises start && minideepseek exercises list", 2),
    "zoo": Command("minideepseek zoo list", 1),
    "block 2": Command("README block 2", 5),
    "counts": Command("python -m tests.replay.counts", 3),
    "lines": Command("wc -l demos/microdeepseek.py", 1, at_root=True),
    "teacher": tests(
        "tests/reasoning/test_countdown.py", 10, "minideepseek/reasoning/countdown.py"
    ),
    "expectations": tests("tests/reasoning/grpo/test_expectations.py", 12),
    "scoring": tests("tests/reasoning/grpo/test_scoring.py", 15),
    "parity": Command(
        "python -m pytest -q -m parity", 200, TORCH, at_root=True,
        shows=("tests/parity/test_logits.py", "tests/parity/test_gradients.py"),
    ),
    "micro": demo("microdeepseek", 50),
    "language": Command("minideepseek journey --part language", 330),
    "benchmark": demo("benchmark --decode 200", 200, needs=TORCH),
    "overhead": demo("engine_overhead", 5),
    "autograd": demo("against_autograd", 60, needs=("autograd",)),
    "seeds": demo("reasoning_seeds --full", 1800),
    "pipeline": demo("r1_pipeline --full", 2700),
    "context": demo("long_context --full", 700),
    "mla cost": demo("mla_cost --full", 110),
    "balance": demo("moe_balance --full", 600),
    "experts": demo("moe_benchmark --full", 500),
    "kinds": demo("attention_kinds --full", 900),
    "drafts": demo("speculative", 220),
    "mtp": demo("mtp_effect --full", 2600),
    "fp8 numbers": demo("fp8_numbers --full", 80),
    "fp8 sums": demo("fp8_numbers", 10),
    "fp8 inference": demo("fp8_inference", 120),
    "fp8 training": demo("fp8_training --full", 3000),
    "bluffing": demo("grpo_failures --bluffing", 40),
    "length bias": demo("grpo_failures --length-bias", 40),
    "addition": demo("grpo_failures --addition", 30),
    "sampling": demo("sampling_speed --threads 1 --repeats 3", 180, needs=TORCH),
}  # fmt: skip


class Failed(RuntimeError):
    """The command ended with an error."""


def run(name: str, folder: Path | None = None) -> dict[str, Any]:
    """{command, date, commit, seconds, output}; kept in folder, and read where it lies there."""
    kept = folder / f"{name.replace(' ', '-')}.json" if folder else None
    if kept and kept.exists():
        return json.loads(kept.read_text("utf-8"))
    command, began = COMMANDS[name], time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        where = ROOT if command.at_root else Path(place)
        output = "".join(_printed(part, where) for part in command.run.split(" && "))
    output += "".join((ROOT / path).read_text("utf-8") for path in command.shows)
    found = {
        "command": command.run,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "seconds": round(time.perf_counter() - began, 1),
        "output": output,
    }
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(found, indent=1), "utf-8")
    return found


def _printed(part: str, where: Path) -> str:
    """What one part prints; Failed with its last line of complaint otherwise."""
    environment = {"OPENBLAS_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        arguments(part), cwd=where, env=environment, capture_output=True, encoding="utf-8"
    )
    if done.returncode:
        complaint = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
        raise Failed(f"{part}: exit status {done.returncode}: {complaint}")
    return done.stdout


def arguments(part: str) -> list[str]:
    """What is run: this Python, and the package of this checkout."""
    words = shlex.split(part)
    if words[:2] == ["README", "block"]:
        return [sys.executable, "-c", list(blocks())[int(words[2]) - 1]]
    first = {"python": [sys.executable], "minideepseek": [sys.executable, "-m", "minideepseek"]}
    return first.get(words[0], words[:1]) + words[1:]


def blocks() -> Iterator[str]:
    """The README's blocks of Python."""
    text = (ROOT / "README.md").read_text("utf-8")
    yield from re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commit() -> str:
    """The commit of the checkout, with a + where files differ from it; "?" where there is none.

    The ledger of replays may differ: it is written between one command and the next.
    """
    known = _git("rev-parse", "--short=7", "HEAD")
    changed = _git("diff", "--name-only", "HEAD", "--", ":!tests/replay/replayed.json")
    return known + ("+" if changed else "") if known else "?"


def _git(*words: str) -> str:
    found = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, encoding="utf-8")
    return found.stdout.strip() if found.returncode == 0 else ""
