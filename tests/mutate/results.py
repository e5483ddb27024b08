"""Verdicts in a file of JSON lines, and what is said about them at the end.

A line holds a mutant's file and key, the digest of the source that it was planted in, and the
verdict with the digest of the tests that gave it: the killer's file, or the files of all tests that
the mutant survived. It is used again while both are the same. So a run that was stopped goes on
where it was, a changed source is tried anew, and a survivor is tried again after a test was added.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from tests.mutate.covering import Covering, digest
from tests.mutate.runner import Verdict
from tests.mutate.sites import Site


class Results:
    """The verdicts known so far."""

    def __init__(self, path: Path, covering: Covering) -> None:
        self.path, self.covering = path, covering
        self.sources: dict[str, str] = {}
        self.known: dict[tuple[str, str], dict] = {}
        for line in path.read_text("utf-8").splitlines() if path.exists() else ():
            try:
                entry = json.loads(line)
            except ValueError:  # the last line of a run that was killed while writing it
                continue
            self.known[entry["file"], entry["key"]] = entry

    def get(self, site: Site) -> Verdict | None:
        """The verdict, if it still holds."""
        entry = self.known.get((site.file, site.key))
        if entry is None or entry["source"] != self._source(site):
            return None
        verdict = Verdict(**entry["verdict"])
        return verdict if entry["tests"] == self._tests(site, verdict) else None

    def add(self, site: Site, verdict: Verdict) -> None:
        """Remember a verdict, on the disk too."""
        entry = {"file": site.file, "key": site.key, "source": self._source(site),
                 "tests": self._tests(site, verdict), "verdict": asdict(verdict)}  # fmt: skip
        self.known[site.file, site.key] = entry
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def _source(self, site: Site) -> str:
        if site.file not in self.sources:
            self.sources[site.file] = digest((self.covering.root / site.file).read_bytes())
        return self.sources[site.file]

    def _tests(self, site: Site, verdict: Verdict) -> str:
        killer = verdict.by.partition("::")[0]
        if killer in self.covering.texts:
            return self.covering.texts[killer]
        return self.covering.digest(self.covering.of(site))


def table(judged: Iterable[tuple[Site, str]]) -> str:
    """Per folder what was planted and what became of it.  judged: (site, its fate)."""
    folders: dict[str, Counter] = defaultdict(Counter)
    for site, fate in judged:
        name = str(Path(site.file).parent).partition("/")[2]
        for row in (name, "all"):
            folders[row][fate] += 1
    rows = [_row("folder", "planted", "killed", "survived", "equivalent", "score")]
    for name in sorted(folders, key=lambda n: (n == "all", n)):
        count = folders[name]
        fates = [count[fate] for fate in ("killed", "survived", "equivalent")]
        judged_ones = fates[0] + fates[1]
        score = f"{100 * fates[0] / judged_ones:.1f} %" if judged_ones else "—"
        rows.append(_row(name, sum(fates), *fates, score))
    return "\n".join(rows)


def _row(name: object, *cells: object) -> str:
    return f"{name:<20}" + "".join(f"{cell:>11}" for cell in cells)
