"""Mutants that no test can kill, each with the reason: the list is equivalent.toml.

An entry names a line by its text, and on it one change: as a run prints it ("before → after", or
what comes after), "dropped", or an expression, and then every change within that expression is
meant. Every entry must still fit a site (a test says so): a changed line brings its mutants back.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from tests.mutate.sites import Site


@dataclass(frozen=True)
class Equivalent:
    """What is changed where, and why nobody could see it."""

    file: str
    line: str
    change: str
    reason: str

    def fits(self, site: Site) -> bool:
        """Whether the mutant is the one that is meant."""
        same_line = site.file == self.file and site.text == self.line
        return same_line and self.change in (site.change, site.after, *site.within)


def listed() -> tuple[Equivalent, ...]:
    """The entries of equivalent.toml."""
    text = Path(__file__).with_name("equivalent.toml").read_text(encoding="utf-8")
    return tuple(Equivalent(**entry) for entry in tomllib.loads(text)["mutant"])


EQUIVALENT = listed()


def reason(site: Site, entries: tuple[Equivalent, ...] = EQUIVALENT) -> str:
    """Why a mutant cannot be seen, or ""."""
    return next((e.reason for e in entries if e.fits(site)), "")
