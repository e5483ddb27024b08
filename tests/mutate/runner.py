"""One mutant: its module in place of the real one, its tests in turn, and the verdict.

The tests that execute the line run until one fails: first those that killed another mutant of the
same function or file, then the module's own file of tests, its chapter, and everything else; within
each the quickest first. A test may take ten times its usual CPU seconds and ten more. Hypothesis
does not shrink what it finds: that it found something is enough.
"""

import signal
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mutate.children import Answer, allow, each
from tests.mutate.covering import OPTIONS, Covering, Test
from tests.mutate.planted import Planted
from tests.mutate.sites import Site, mutant

COLLECTION = 120  # CPU seconds for importing and collecting
GRACE = 10  # CPU seconds of any test, and how many times its usual ones
REMEMBERED = 4  # tests that killed others of the same function, and of the same file


@dataclass(frozen=True)
class Verdict:
    """killed: whether a test failed; by: its name; how: what was raised; ran: tests that passed."""

    killed: bool
    by: str
    how: str
    ran: int
    cpu: float


class Judge:
    """A pytest plugin: runs the given tests in their order and remembers what failed first."""

    def __init__(self, tests: list[Test], planted: Planted) -> None:
        self.planted = planted
        self.order = {test.name: i for i, test in enumerate(tests)}
        self.seconds = {test.name: test.seconds for test in tests}
        self.ran, self.by, self.how = 0, "", ""

    def pytest_sessionstart(self, session):
        from hypothesis import Phase, settings

        phases = tuple(p for p in settings.default.phases if p not in (Phase.shrink, Phase.explain))
        settings.register_profile("mutants", parent=settings.default, phases=phases)
        settings.load_profile("mutants")
        self.planted.come_first()
        allow(COLLECTION)

    def pytest_collection_modifyitems(self, session, config, items):
        chosen = [item for item in items if item.nodeid in self.order]
        items[:] = sorted(chosen, key=lambda item: self.order[item.nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item, nextitem):
        allow(GRACE * (1 + self.seconds[item.nodeid]))
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        if report.failed and not self.how:
            self.by, self.how = item.nodeid, call.excinfo.typename
        self.ran += report.when == "call"
        return report

    def pytest_collectreport(self, report):
        if report.failed and not self.how:
            self.by, self.how = report.nodeid, "collection"


def judge(site: Site, batches: list[list[Test]], root: Path, scratch: Path) -> dict:
    """Run a mutant's tests in this process, which imported nothing of the package."""
    loaded = [name for name in sys.modules if name.split(".")[0] == Path(site.file).parts[0]]
    if loaded:
        raise RuntimeError(f"{loaded[0]} is imported already: no mutant of it could be planted")
    planted = Planted(site.file, root, mutant(site, root))
    planted.plant_in_processes(scratch / "site")
    ran = 0
    for tests in batches:
        plugin = Judge(tests, planted)
        files = list(dict.fromkeys(t.file for t in tests))
        planted.come_first()  # a conftest.py may import the module before the session begins
        options = [*OPTIONS, "--tb=no", "-x", "--basetemp", str(scratch / "tmp")]
        status = pytest.main([*options, *files], plugins=[plugin])
        allow(0)
        planted.check()
        ran += plugin.ran
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            how = plugin.how or f"pytest ended with {int(status)}"
            return {"killed": True, "by": plugin.by, "how": how, "ran": ran - 1}
    if batches and not ran:
        raise RuntimeError(f"no test ran: {[t.name for t in batches[0]][:3]}")
    return {"killed": False, "by": "", "how": "", "ran": ran}


class Killers:
    """Which tests killed other mutants of a function or of a file, the latest first."""

    def __init__(self) -> None:
        self.names: dict[tuple[str, str], list[str]] = defaultdict(list)

    def add(self, site: Site, test: str) -> None:
        for key in ((site.file, site.function), (site.file, "*")):
            names = self.names[key]
            if test in names:
                names.remove(test)
            names.insert(0, test)
            del names[REMEMBERED:]

    def of(self, site: Site) -> list[str]:
        keys = (site.file, site.function), (site.file, "*")
        return list(dict.fromkeys(name for key in keys for name in self.names[key]))


def batches(site: Site, tests: list[Test], killers: Killers) -> list[list[Test]]:
    """The tests in the order of hope, in batches that pytest collects one after the other."""
    first = {name: i for i, name in enumerate(killers.of(site))}
    stem = Path(site.file).stem
    chapter = "tests/" + "/".join(Path(site.file).parts[1:-1])
    whole: dict[str, float] = defaultdict(float)
    for test in tests:
        whole[test.file] += test.seconds

    def rank(test: Test) -> int:
        if test.name in first:
            return 0
        if Path(test.file).stem in (stem, f"test_{stem}"):
            return 1
        return 2 if test.file.startswith(chapter) else 3

    def key(test: Test) -> tuple:
        if test.name in first:
            return (first[test.name],)
        return (whole[test.file], test.file, test.seconds)

    ranks: list[list[Test]] = [[], [], [], []]
    for test in tests:
        ranks[rank(test)].append(test)
    return [sorted(part, key=key) for part in ranks if part]


def verdicts(
    sites: Iterable[Site], covering: Covering, folder: Path, processes: int
) -> Iterator[tuple[Site, Verdict]]:
    """(site, Verdict) as they come; one that could not be judged, as the real module was imported
    in its place, say, is named and left out."""
    killers = Killers()
    root = covering.root

    def jobs() -> Iterator[tuple[Site, list[list[Test]]]]:
        for site in sites:
            yield site, batches(site, covering.of(site), killers)

    def work(job: tuple[Site, list[list[Test]]], scratch: Path) -> dict:
        return judge(*job, root, scratch)

    for (site, _), answer in each(jobs(), work, folder / "scratch", root, processes):
        verdict = decide(answer)
        if verdict is None:
            print(f"not judged  {site}\n{answer.output}", flush=True)
            continue
        if "::" in verdict.by:
            killers.add(site, verdict.by)
        yield site, verdict


def decide(answer: Answer) -> Verdict | None:
    """What a child's end says about its mutant; None where it failed to judge."""
    ends = {signal.SIGPROF: "timeout", signal.SIGKILL: "waits for ever"}
    if answer.signal:
        how = ends.get(answer.signal, signal.Signals(answer.signal).name)
        return Verdict(True, "", how, 0, answer.cpu)
    return Verdict(**answer.value, cpu=answer.cpu) if answer.value else None
