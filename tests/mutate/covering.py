"""Which test executes which line of the targets, and how long it takes.

Every file of tests, and every folder of the package for its doctests, runs once in a child under a
tracer that looks at the targets' lines alone. A test that fails there (one that counts on how deep
the stack is, say) is named and judges no mutant. What is found is kept, and found anew where the
file's text has changed, or a target that its tests execute. Tests that were changed through another
file keep their old lines, which may overlook a test, and so can make a survivor of a mutant, but
never the other way round.

Lines that a fixture runs count for all tests of the file: the fixture may be the module's. Lines
that run at import count for none (see `Covering.of`).
"""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import process_time  # tests put clocks of their own in its place

import pytest

from tests.mutate.children import allow, each
from tests.mutate.sites import Site, statement_lines

NOT_COVERING = ("tests/mutate/", "tests/parity/")  # the tool's own tests; those of a later tier
LONGEST = 600  # CPU seconds for a file of tests
OPTIONS = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist",
           "-W", "ignore::pytest.PytestAssertRewriteWarning"]  # fmt: skip


def digest(*texts: bytes) -> str:
    """A short name of contents."""
    joined = hashlib.sha256()
    for text in texts:
        joined.update(hashlib.sha256(text).digest())
    return joined.hexdigest()[:16]


@dataclass
class Tracer:
    """A pytest plugin: for each test that passed its lines as bits of a number, and its seconds."""

    files: dict[str, str]  # absolute → relative
    tests: dict[str, dict] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)
    lines: dict[str, set[int]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def start(self) -> None:
        self.lines = {name: set() for name in self.files}
        sys.settrace(self.call)
        threading.settrace(self.call)

    def call(self, frame, event, arg):
        return self.step if frame.f_code.co_filename in self.files else None

    def step(self, frame, event, arg):
        if event == "line":
            self.lines[frame.f_code.co_filename].add(frame.f_lineno)
        return self.step

    def take(self) -> dict[str, int]:
        """The lines since the last look, as bits."""
        found = {}
        for name, lines in self.lines.items():
            if lines:
                found[self.files[name]] = sum(1 << n for n in lines)
                lines.clear()
        return found

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item):
        self.take()
        result = yield
        self._share()
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        began = process_time()
        result = yield
        seconds = round(process_time() - began, 4)
        self.tests[item.nodeid] = {"seconds": seconds, "lines": self.take()}
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item):
        self.take()
        result = yield
        self._share()
        return result

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.append(report.nodeid)

    def _share(self) -> None:
        for name, bits in self.take().items():
            self.shared[name] = self.shared.get(name, 0) | bits


@dataclass(frozen=True)
class Test:
    """One test of the default suite and the lines it executes, as bits, by file."""

    name: str
    seconds: float
    lines: dict[str, int]

    @property
    def file(self) -> str:
        return self.name.partition("::")[0]


class Covering:
    """The tests that execute a line."""

    def __init__(self, tests: list[Test], texts: dict[str, str], root: Path) -> None:
        self.tests, self.texts, self.root = tests, texts, root

    def of(self, site: Site) -> list[Test]:
        """Tests that execute the site; of one that runs at import, or that no test executes in this
        process, the tests of its chapter and those that use the module."""
        for lines in (site.lines, statement_lines(site, self.root)) if site.function else ():
            bits = sum(1 << n for n in lines)
            found = [t for t in self.tests if t.lines.get(site.file, 0) & bits]
            if found:
                return found
        chapter = "tests/" + "/".join(Path(site.file).parts[1:-1])
        return [t for t in self.tests if site.file in (t.file, *t.lines)
                or t.file.startswith(chapter)]  # fmt: skip

    def digest(self, tests: list[Test]) -> str:
        """A name of the texts of these tests' files: a verdict holds while it stays the same."""
        return digest(*(self.texts[name].encode() for name in sorted({t.file for t in tests})))


def test_files(root: Path, package: str) -> Iterator[str]:
    """The default suite's files: of tests, and of the package, for their doctests."""
    for path in sorted((root / "tests").rglob("test_*.py")):
        if not str(path.relative_to(root)).startswith(NOT_COVERING):
            yield str(path.relative_to(root))
    for path in sorted((root / package).rglob("*.py")):
        if ">>>" in path.read_text("utf-8"):
            yield str(path.relative_to(root))


def collect(root: Path, package: str, targets: list[str], folder: Path, processes: int) -> Covering:
    """What every test executes, from `folder` where it is known and by running the others."""
    texts = {name: digest((root / name).read_bytes()) for name in test_files(root, package)}
    sources = {f: digest((root / f).read_bytes()) for f in targets}
    folder.joinpath("covering").mkdir(parents=True, exist_ok=True)
    kept = {
        name: folder / "covering" / f"{digest(name.encode(), text.encode())}.json"
        for name, text in texts.items()
    }
    known = {name: found for name, path in kept.items() if (found := _known(path, sources))}
    missing = [name for name in texts if name not in known]

    def work(name: str, scratch: Path) -> dict:
        return trace(name, root, targets, scratch) | {"sources": sources}

    for i, (name, answer) in enumerate(each(missing, work, folder / "scratch", root, processes)):
        done = f"which test executes what: {i + 1} of {len(missing)} files, {name}"
        if answer.value is None or answer.value["status"] not in (0, 1, 5):  # 5: none of this tier
            print(f"{done} judges nothing, since it cannot be run:\n{answer.output}", flush=True)
            continue
        print(f"{done} took {answer.cpu:.1f} s", flush=True)
        known[name] = answer.value
        partial = kept[name].with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(answer.value), "utf-8")
        partial.replace(kept[name])
    return Covering([test for found in known.values() for test in _tests(found)], texts, root)


def _known(path: Path, sources: dict[str, str]) -> dict | None:
    """What was found before, unless a target that these tests execute has changed or is new."""
    if not path.exists():
        return None
    found = json.loads(path.read_text("utf-8"))
    touched = {f for one in found["tests"].values() for f in one["lines"]} | set(found["shared"])
    for f, text in sources.items():
        if f not in found["sources"] or (f in touched and found["sources"][f] != text):
            return None
    return found


def _tests(found: dict) -> Iterator[Test]:
    for name in found["failed"]:
        print(f"judges nothing, since it fails under the tracer: {name}", flush=True)
    for name, one in found["tests"].items():
        lines = {f: int(bits, 16) for f, bits in one["lines"].items()}
        for f, bits in found["shared"].items():
            lines[f] = lines.get(f, 0) | int(bits, 16)
        yield Test(name, one["seconds"], lines)


def trace(name: str, root: Path, targets: list[str], scratch: Path) -> dict:
    """Run one file's tests under the tracer, in this process."""
    tracer = Tracer({str(root / f): f for f in targets})
    tracer.start()
    allow(LONGEST)
    status = pytest.main([*OPTIONS, "--basetemp", str(scratch / "tmp"), name], plugins=[tracer])
    sys.settrace(None)
    for name in tracer.failed:
        tracer.tests.pop(name, None)
    for one in tracer.tests.values():
        one["lines"] = {f: hex(bits) for f, bits in one["lines"].items()}
    shared = {f: hex(bits) for f, bits in tracer.shared.items()}
    found = {"tests": tracer.tests, "shared": shared, "failed": tracer.failed}
    return {"status": int(status), **found}
