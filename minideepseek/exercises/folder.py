"""The learner's folder: their files, which are never overwritten, and how far they have come.

Progress is a hidden file of JSON in the folder itself: how many hints were given, and of each file
that was checked its fingerprint and verdict. A file that changed since says so, and asks to be
checked again. A file is replaced in one case only: it is still the skeleton that it was copied
from, letter for letter, and the library has a newer one. A record that cannot be read is set aside
and a new one begun: what it says can be found out again, by check.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from minideepseek.errors import CheckpointError, InputError
from minideepseek.exercises.catalogue import EXERCISES, Catalogue
from minideepseek.exercises.exercise import OK, OPEN, WRONG, Line, solved
from minideepseek.model.files import atomic_directory, atomic_write, make_directory, say
from minideepseek.model.leftovers import clear_leftovers, set_aside
from minideepseek.model.strict_json import read_bytes, read_json

CHANGED, MISSING = "changed", "missing"  # since it was checked; from the folder
_PROGRESS = ".progress.json"


def fingerprint(text: str) -> str:
    """Tells texts apart; line ends do not count."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Folder:
    """A learner's folder that was started; InputError if it was not."""

    def __init__(self, path: Path, catalogue: Catalogue = EXERCISES) -> None:
        if not path.is_dir():
            where = "" if path == Path(f"my_{catalogue.verb}") else f" {path}"
            how = f"minideepseek {catalogue.verb} start{where}"
            raise InputError(f"{path}: no such folder; make it: {how}")
        self.path, self.catalogue = path, catalogue
        for notice in clear_leftovers(path):
            say(notice)
        self.progress = _read(path / _PROGRESS)

    def file(self, name: str) -> Path:
        """Where the learner's answer to an exercise is."""
        return self.path / f"{name}.py"

    def text(self, name: str) -> str | None:
        """What the learner's file holds, lines ended by LF; None if it is not there."""
        if not self.file(name).exists():
            return None
        text = read_bytes(self.file(name)).decode("utf-8", errors="replace")
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def verdict(self, name: str) -> str:
        """OK, WRONG, OPEN, CHANGED or MISSING, from the last check and the file as it is."""
        text, known = self.text(name), self.progress.get(name, {})
        if text is None:
            return MISSING
        now = fingerprint(text)
        if now == known.get("checked"):
            return known["verdict"]
        untouched = now in (known.get("skeleton"), fingerprint(self.catalogue.skeleton(name)))
        return OPEN if untouched else CHANGED

    def record(self, name: str, text: str, lines: list[Line]) -> None:
        """Keep the outcome of a check of a file that held `text`."""
        wrong = any(line.verdict == WRONG for line in lines)
        verdict = OK if solved(lines) else WRONG if wrong else OPEN
        self._keep(name, checked=fingerprint(text), verdict=verdict)

    def hint(self, name: str) -> list[str]:
        """The hints given so far and one more, of three."""
        given = min(self.progress.get(name, {}).get("hints", 0) + 1, 3)
        self._keep(name, hints=given)
        return list(self.catalogue.load(name).hints[:given])

    def _keep(self, name: str, **changes: Any) -> None:
        self.progress[name] = self.progress.get(name, {}) | changes
        self.save()

    def save(self) -> None:
        """Write the record of progress, atomically."""
        with atomic_write(self.path / _PROGRESS, "w") as file:
            json.dump(self.progress, file, indent=1)


def start(path: Path, catalogue: Catalogue = EXERCISES) -> dict[str, list[str]]:
    """Copy the skeletons that are not there; "copied", "renewed" and "kept" → names.

    A new folder appears with all of them; in an old one, file after file, and the record last.
    """
    if path.exists():
        make_directory(path)  # refuses a file
        return _fill(Folder(path, catalogue))
    with atomic_directory(path) as new:
        return _fill(Folder(new, catalogue))


def _fill(folder: Folder) -> dict[str, list[str]]:
    catalogue = folder.catalogue
    done: dict[str, list[str]] = {"copied": [], "renewed": [], "kept": []}
    for name in catalogue.names():
        skeleton, text = catalogue.skeleton(name), folder.text(name)
        new, known = fingerprint(skeleton), folder.progress.get(name, {})
        untouched = text is not None and fingerprint(text) == known.get("skeleton") != new
        if text is None or untouched:
            with atomic_write(folder.file(name), "w") as file:
                file.write(skeleton)
        if text is None or untouched or fingerprint(text) == new:  # a kill came before its record
            folder.progress[name] = known | {"skeleton": new}
        done["copied" if text is None else "renewed" if untouched else "kept"].append(name)
    folder.save()
    return done


def find(given: Path | None, catalogue: Catalogue = EXERCISES) -> Path:
    """The folder that is meant: the one given, ./my_exercises, or the one we are in."""
    usual = Path(f"my_{catalogue.verb}")
    if given is None and not usual.is_dir() and Path(_PROGRESS).exists():
        return Path(".")
    return given or usual


def _is_entry(value: Any) -> bool:
    """Whether it is what is kept of an exercise; a verdict is of what was checked."""
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(key, ""), str) for key in ("skeleton", "checked"))
        and value.get("verdict", OPEN) in (OK, WRONG, OPEN)
        and ("checked" in value) == ("verdict" in value)
        and value.get("hints", 1) in (1, 2, 3)
        and type(value.get("hints", 1)) is int
    )


def _read(path: Path) -> dict[str, dict]:
    """The record, a new one in place of none or of a damaged one."""
    if not os.path.lexists(path):
        return {}
    try:
        found, why = read_json(path), f"{path}: is no record of exercises"
    except CheckpointError as error:
        found, why = None, str(error)
    if isinstance(found, dict) and all(map(_is_entry, found.values())):
        return found
    say(f"{why}; it is set aside as {set_aside(path).name}, and a new record begun")
    return {}
