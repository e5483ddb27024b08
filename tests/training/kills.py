"""A driver that kills training runs at chosen calls, for test_kills.py; run as its own process.

    python -m tests.training.kills FOLDER TEXT new|resumed KIND…

First one run is left alone and the calls that change the disk are counted. Then, for each of these
calls of a KIND that was asked for, a fresh process (a fork of this one, which has imported
everything and done nothing) makes the same run and ends by os._exit in place of that call: no
handler, no `finally`, no flush; a write ends halfway. Another process resumes it. It must end with
the same losses and the same model, bit for bit, and leave no litter. "resumed": what is killed is
itself the resumption of a run that was killed while its last checkpoint took its name.

Prints a line for each point that failed, and a last line with their number and that of all points.
"""

import builtins
import io
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minideepseek.cli import main as command_line
from minideepseek.errors import RecoveryWarning
from minideepseek.training import language  # noqa: F401  loaded once, before the forks
from minideepseek.training.rundir import read_metrics
from tests.training.tiny import untimed

CALLS = "fsync replace rename mkdir unlink rmdir link chmod".split()
KILLED = 9
RUN = (
    "pretrain --preset nano --steps 3 --batch-size 1 --sequence-length 8 --evaluate-every 3 "
    "--checkpoint-every 1 --threads 1"
).split()


class Disk:
    """Counts the calls that change the disk; the one numbered `at` does not come back."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.trace = at, []

    def install(self) -> None:
        for name in CALLS:
            setattr(os, name, self.wrap(name, getattr(os, name)))
        builtins.open = io.open = self.opener(io.open)

    def count(self, kind: str, subject: Any, last_act: Callable[[], object] = int) -> None:
        self.trace.append(f"{kind} {subject}")
        if len(self.trace) == self.at:
            last_act()
            os._exit(KILLED)

    def wrap(self, name: str, real: Callable) -> Callable:
        def call(first: Any, *args: Any, **kwargs: Any) -> Any:
            self.count(name, first if isinstance(first, int) else os.fspath(first))
            return real(first, *args, **kwargs)

        return call

    def opener(self, real: Callable) -> Callable:
        def call(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if set(mode).isdisjoint("wxa"):
                return real(file, mode, *args, **kwargs)
            self.count("open", file)
            return Written(real(file, mode, *args, **kwargs), self)

        return call


class Written:
    """A file whose writes are counted and may end halfway."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self.file, self.disk = file, disk

    def write(self, data: Any) -> int:
        def half() -> None:
            self.file.write(data[: len(data) // 2])
            self.file.flush()

        self.disk.count("write", self.file.name, half)
        return self.file.write(data)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __enter__(self) -> "Written":
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def process(work: Callable[[], int]) -> int:
    """The exit code of a fork of this process that does `work` and says nothing."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            warnings.simplefilter("default", RecoveryWarning)  # what was killed is told so
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(out: Path, text: str, at: int | None = None, trace: Path | None = None) -> int:
    """The exit code of one run in a process of its own; `trace` gets its counted calls."""

    def work() -> int:
        disk = Disk(at)
        disk.install()
        place = ["--out"] if not (out / "checkpoints").exists() else ["--resume"]
        code = command_line([*RUN, "--text", text, *place, str(out)])
        if trace is not None:
            trace.write_text("\n".join(disk.trace), "utf-8")
        return code

    return process(work)


def result(out: Path) -> tuple:
    """What a run came to: losses, model, and the names of all files, the hidden ones too."""
    losses = [untimed(m) for m in read_metrics(out / "metrics.jsonl")]
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*"))
    return losses, (out / "model/model.safetensors").read_bytes(), names


def chosen(trace: list[str], kinds: list[str]) -> list[int]:
    """The numbers of the calls of these kinds; of the hundreds of writes of a checkpoint, some."""
    found = []
    for i, call in enumerate(trace, start=1):
        few = call.startswith("write") and "metrics.jsonl" not in call
        if call.split()[0] in kinds and (not few or i % 17 == 0):
            found.append(i)
    return found


def main(folder: str, text: str, start: str, *kinds: str) -> int:
    begun, whole, out = (Path(folder, name) for name in ("begun", "whole", "run"))
    log = Path(folder, "trace")
    assert train(whole, text, trace=log) == 0
    expected, trace = result(whole), log.read_text("utf-8").split("\n")
    if start == "resumed":
        renames = chosen(trace, ["rename"])
        assert train(begun, text, renames[2]) == KILLED
        shutil.copytree(begun, out)
        assert train(out, text, trace=log) == 0 and result(out) == expected
        trace = log.read_text("utf-8").split("\n")
        shutil.rmtree(out)
    points, failed = chosen(trace, list(kinds)), 0
    for at in points:
        if start == "resumed":
            shutil.copytree(begun, out)
        codes = train(out, text, at), train(out, text)
        if codes != (KILLED, 0) or result(out) != expected:
            failed += 1
            print(f"call {at}, {trace[at - 1]}: exit codes {codes}")
        shutil.rmtree(out, ignore_errors=True)
    print(f"{failed} of {len(points)} points failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
