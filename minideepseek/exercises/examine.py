"""A learner's file, run in a process of its own with a time limit.

What goes wrong in there is the learner's to mend, so it is reported with their file and line: a
syntax error, an exception, an endless loop. The process is also what keeps their prints, their
global state and their crashes away from ours. It answers with JSON on its standard output.
"""

from __future__ import annotations

import importlib
import io
import json
import linecache
import os
import runpy
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

from minideepseek.exercises.catalogue import EXERCISES, Catalogue
from minideepseek.exercises.exercise import OPEN, WRONG, Exercise, Line

_ROOT = Path(__file__).parents[2]  # where this package lies, installed or not
TIME_LIMIT = 5.0  # seconds for one file; a check takes a fraction of one
_START_UP = 20.0  # seconds more until a process that does not answer is ended
_SHOWN = 1000  # characters of what a file prints


def check_file(
    name: str, path: str, catalogue: Catalogue = EXERCISES, limit: float = TIME_LIMIT
) -> tuple[list[Line], str]:
    """The lines on the file at `path`, and the beginning of what it printed."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(":;"),
        "OPENBLAS_NUM_THREADS": "1",
    }
    # -P: the working directory may hold a file called like a library
    command = [sys.executable, "-P", "-m", "minideepseek.exercises.examine"]
    command += [f"{catalogue.package}.{name}", path, str(limit)]
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=limit + _START_UP,
        )  # fmt: skip
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return [_late(limit)], ""
    except ValueError:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        said = f"{path}: it ended Python with code {done.returncode}; {said}"
        return [Line("error", WRONG, said.rstrip("; "))], ""
    return [Line(*line) for line in answer["lines"]], answer["printed"]


def examine(task: Exercise, name: str, path: str) -> list[Line]:
    """The same in this process: an error of the learner's code becomes a line on it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what overflows is judged by what comes of it
            return task.check(load(name, path))
    except NotImplementedError:
        return [Line(name, OPEN)]
    except (Exception, SystemExit) as error:
        return [Line("error", WRONG, blame(error, path))]


def load(name: str, path: str) -> Callable:
    """The function `name` of a learner's file, which is run as it is now: no bytecode is kept."""
    found = runpy.run_path(path, run_name=name).get(name)
    if not callable(found):
        raise AttributeError(f"it defines no function {name}")
    return found


def blame(error: BaseException, path: str) -> str:
    """An error of a learner's code: file, line, what happened, and the line itself."""
    at, text = None, ""
    if isinstance(error, SyntaxError) and error.filename == path:
        at, text, what = error.lineno, error.text or "", error.msg
    else:
        what = str(error).partition("\n")[0]
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == path:
                at = trace.tb_lineno
            trace = trace.tb_next
        text = linecache.getline(path, at) if at else ""
    kind = type(error).__name__
    place = f"{path}:{at}" if at else path
    notes = getattr(error, "__notes__", ())
    return "\n".join(filter(None, [f"{place}: {kind}: {what}".rstrip(": "), text.strip(), *notes]))


def _late(limit: float, place: str = "", text: str = "") -> Line:
    where = f"{place}: still there" if place else "no answer"
    said = f"{where} after {limit:g} s: an endless loop?"
    return Line("time", WRONG, "\n".join(filter(None, [said, text.strip()])))


class _Printed(io.TextIOBase):
    """Takes the place of a standard stream and keeps the beginning."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text[: _SHOWN - len(self.text)]
        return len(text)


def main(module: str, path: str, limit: str) -> None:
    """Examine one file by a module's EXERCISE; what standard output gets is JSON."""
    answer, printed = os.fdopen(os.dup(1), "w", encoding="utf-8"), _Printed()
    os.dup2(2, 1)  # so that nothing else gets there
    sys.stdout = sys.stderr = printed
    task, name = importlib.import_module(module).EXERCISE, module.rpartition(".")[2]
    ident, done = threading.get_ident(), threading.Event()

    def reply(lines: list[Line]) -> None:
        json.dump({"lines": [astuple(line) for line in lines], "printed": printed.text}, answer)
        answer.flush()
        os._exit(0)  # whatever threads the file may have started

    def guard() -> None:
        if not done.wait(float(limit)):
            frame: Any = sys._current_frames().get(ident)
            while frame is not None and frame.f_code.co_filename != path:
                frame = frame.f_back
            at = frame.f_lineno if frame else 0
            place, text = (f"{path}:{at}", linecache.getline(path, at)) if at else ("", "")
            reply([_late(float(limit), place, text)])

    threading.Thread(target=guard, daemon=True).start()
    lines = examine(task, name, path)
    done.set()
    reply(lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
