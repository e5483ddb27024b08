"""One case after the other: made, laid out as files, read, judged; counts and violations."""

import math
import os
import shutil
import socket
import traceback
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minideepseek.errors import MiniDeepSeekError
from tests.hostile.cases import LINKS, Case, Files, Reader, Wrong
from tests.hostile.guard import Hang, Watch, in_time, outside
from tests.hostile.readers import case_of, reader_of, readers

CONSTANT = 1 << 20  # bytes that reading may take besides the multiple of the files' size
WEIGHED = 61  # every so many cases the memory is traced, which is slow
LONGEST = 2000  # characters of a message

# A model whose files hold no MTP layer is read without; what a damaged record became is said.
WELCOME = ("hold no MTP layer", "set aside")


@dataclass
class Tally:
    """What came of some cases. violations: (reader, number, what happened and how it was made)."""

    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    violations: list[tuple[str, int, str]] = field(default_factory=list)
    peak: Counter[str] = field(default_factory=Counter)  # bytes, of weighed cases

    def add(self, other: "Tally") -> None:
        """Count another one's in."""
        self.accepted += other.accepted
        self.refused += other.refused
        self.violations += other.violations
        self.peak |= other.peak


class Bench:
    """A place on a disk for one process's cases; folders are kept and only changes undone."""

    def __init__(self, root: Path, watch: Watch) -> None:
        self.root, self.watch = root, watch
        self.laid: dict[tuple[str, int], Path] = {}
        self.sizes: dict[Path, int] = {}  # of a folder as it should be

    def folder(self, reader: Reader, base: Files) -> Path:
        """A folder with the files of `base`; beside it `outside`, with the same."""
        number = next(i for i, one in enumerate(reader.bases) if one is base)
        key = reader.name, number
        if key not in self.laid:
            place = self.root / f"{reader.name}-{number}"
            for name in ("m", "outside"):
                for file, data in base.items():
                    write(place / name / file, data)
                    (place / name).chmod(0o755)
            self.laid[key] = place / "m"
            self.sizes[place / "m"] = entries(place)
        return self.laid[key]

    def run(self, reader: Reader, seed: int, number: int, weigh: bool = False) -> tuple[Any, int]:
        """(outcome, peak bytes, 0 if not weighed); raises Wrong, or what the reader raised."""
        base, case = case_of(reader, seed, number)
        folder = self.folder(reader, base)
        for name, content in case.files.items():
            place(folder, name, content, base.get(name))
        try:
            outcome, paths, peak = self._read(reader, folder, weigh)
            self._judge(reader, folder, base, case, outcome, paths, peak)
        finally:
            linked = any(content in LINKS for content in case.files.values())
            self._undo(folder, base, {*case.files, *reader.writes}, linked and reader.writes != ())
        return outcome, peak

    def _read(self, reader: Reader, folder: Path, weigh: bool) -> tuple[Any, list[str], int]:
        outcome: Any
        if weigh:
            tracemalloc.start()
        try:
            with in_time(), self.watch.looking() as paths:
                try:
                    outcome = reader.read(folder)
                except MiniDeepSeekError as error:
                    outcome = error
            peak = tracemalloc.get_traced_memory()[1] if weigh else 0
        finally:
            tracemalloc.stop()
        return outcome, paths, peak

    def _judge(
        self, reader: Reader, folder: Path, base: Files, case: Case, outcome: Any,
        paths: list[str], peak: int,
    ) -> None:  # fmt: skip
        contents: dict[str, bytes | None] = dict(base)
        for name, content in case.files.items():
            if content == "missing":
                contents.pop(name, None)
            elif isinstance(content, bytes) or content in LINKS:
                contents[name] = content if isinstance(content, bytes) else base.get(name)
            else:
                contents[name] = None
        strangers = outside(paths, folder)
        if any(content in LINKS for content in case.files.values() if isinstance(content, str)):
            elsewhere = str(folder.parent / "outside")  # what a link of the folder leads to
            strangers = [path for path in strangers if not path.startswith(elsewhere)]
        if strangers:
            raise Wrong(f"opened {strangers} outside the folder")
        size = sum(len(data) for data in contents.values() if data)
        if peak > reader.peak * size + CONSTANT:
            raise Wrong(f"took {peak:,} bytes of memory for {size:,} bytes of files")
        if isinstance(outcome, MiniDeepSeekError):
            text = str(outcome)
            if not text.isprintable() or len(text) > LONGEST or not text:
                raise Wrong(f"a message that is not one printable line of text: {text!r:.3000}")
            if case.harmless:
                raise Wrong(f"refused what means the same: {text}")
        reader.judge(folder, contents, outcome)

    def _undo(self, folder: Path, base: Files, names: Iterable[str], anew: bool) -> None:
        for name in names:
            remove(folder / name)
            if name in base:
                write(folder / name, base[name])
        if anew or entries(folder.parent) != self.sizes[folder]:
            shutil.rmtree(folder.parent)
            self.laid = {key: at for key, at in self.laid.items() if at != folder}


def entries(folder: Path) -> int:
    """The number of everything below a folder."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(folder))


def write(path: Path, data: bytes) -> None:
    """A new file: an old one of this name may still be mapped."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return write(path, data)
    os.write(descriptor, data)
    os.close(descriptor)


def remove(path: Path) -> None:
    """Whatever is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError:
        shutil.rmtree(path, ignore_errors=True)


def place(folder: Path, name: str, content: bytes | str, old: bytes | None) -> None:
    """Put bytes, or a special thing, where a file is or was."""
    path = folder / name
    remove(path)
    if isinstance(content, bytes):
        write(path, content)
        return
    elsewhere = folder.parent / "outside" / name
    target = {
        "link out": str(elsewhere), "link up": os.path.relpath(elsewhere, path.parent),
        "dangling": "nowhere", "loop": path.name, "zeros": "/dev/zero",
    }.get(content)  # fmt: skip
    if target is not None:
        if content in LINKS and old is None:
            write(elsewhere, b"{}") if not elsewhere.exists() else None
        os.symlink(target, path)
    elif content == "pipe":
        os.mkfifo(path)
    elif content == "folder":
        path.mkdir()
    elif content == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            here = os.getcwd()
            os.chdir(path.parent)  # the name of a socket is at most 108 bytes
            try:
                server.bind(path.name)
            finally:
                os.chdir(here)


def run_cases(
    bench: Bench, seed: int, numbers: Iterable[int], only: str | None = None,
    before: Callable[[int], None] = lambda number: None, weighed: int = WEIGHED,
    enough: float = math.inf,
) -> Tally:  # fmt: skip
    """All of these cases, or as many as have `enough` violations."""
    tally = Tally()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for words in WELCOME:
            warnings.filterwarnings("ignore", f"(?s).*{words}")
        for number in numbers:
            before(number)
            reader = readers()[only] if only else reader_of(number)
            try:
                outcome, peak = bench.run(reader, seed, number, number % weighed == 0)
                tally.peak[reader.name] = max(tally.peak[reader.name], peak)
                refused = isinstance(outcome, MiniDeepSeekError)
                (tally.refused if refused else tally.accepted)[reader.name] += 1
                outcome = None
            except (Exception, Hang) as error:
                text = described(reader, seed, number, error)
                tally.violations.append((reader.name, number, text))
                if len(tally.violations) >= enough:
                    break
    return tally


def described(reader: Reader, seed: int, number: int, error: BaseException) -> str:
    """What happened, where in the package, and how the case was made."""
    base, case = case_of(reader, seed, number)
    what = f"{type(error).__name__}: {error}"[:1500]
    if not isinstance(error, Wrong):
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "minideepseek/" in frame.filename]
        if own:
            what += f" ({own[-1].filename.rpartition('minideepseek/')[2]}:{own[-1].lineno})"
    kinds = ", ".join(f"{n} ({c if isinstance(c, str) else f'{len(c)} bytes'})"
                      for n, c in case.files.items())  # fmt: skip
    return f"{what}\n    made by: {case.note[:300]}\n    files: {kinds}"


def keep(reader: Reader, seed: int, number: int, target: Path) -> Path:
    """Write a case's folder for a person to look at; special things by name only."""
    base, case = case_of(reader, seed, number)
    folder = target / f"{reader.name}-{seed}-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in (base | case.files).items():
        if isinstance(content, bytes):
            write(folder / name.replace("\0", "\\0"), content)
        else:
            write(folder / f"{name}.{content.replace(' ', '-')}", b"")
    return folder
