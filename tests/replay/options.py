"""Whether a command exists, its module and its options, found out without running it."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

from minideepseek.cli import main as cli
from tests.replay.bands import ROOT
from tests.replay.commands import blocks


def faults(command: str) -> list[str]:
    """What is wrong with a command as it is typed; an empty list if nothing is."""
    return [fault for part in command.split(" && ") for fault in _faults(shlex.split(part))]


def _faults(words: list[str]) -> list[str]:
    if words[:2] == ["README", "block"]:
        there = int(words[2]) <= len(list(blocks()))
        return [] if there else [f"the README has no block {words[2]}"]
    if words[0] == "minideepseek":
        return _unknown(words[2:], _help(cli, [words[1], "--help"]))
    if words[:3] == ["python", "-m", "pytest"]:
        paths = [word for word in words[3:] if word.startswith("tests")]
        return [f"no {path}" for path in paths if not (ROOT / path.split("::")[0]).exists()]
    if words[:2] == ["python", "-m"]:
        return _of_module(words[2], words[3:])
    files = [word for word in words[1:] if not word.startswith("-")]
    return [f"no {file}" for file in files if not (ROOT / file).exists()]


def _of_module(name: str, rest: list[str]) -> list[str]:
    """Options are those of its --help; of its source, where the module needs what is not there."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return [f"no module {name}"]
    if not rest:
        return []
    try:
        main = importlib.import_module(name).main
    except ImportError:
        return _unknown(rest, Path(spec.origin).read_text("utf-8"))
    return _unknown(rest, _help(main, ["--help"]))


def _help(main, arguments: list[str]) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main(arguments)
    return said.getvalue()


def _unknown(words: list[str], text: str) -> list[str]:
    options = [word for word in words if word.startswith("-")]
    return [f"no option {o}" for o in options if not re.search(rf"(?<![\w-]){o}(?![\w-])", text)]
