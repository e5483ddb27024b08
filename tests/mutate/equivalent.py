"""Mutants that no test can kill, each with the reason.

An entry names a line by its text, and on it either one change, as a run prints it ("before →
after"), or an expression: then every change within that expression is meant. Every entry must still
fit a site (a test says so), so a changed line brings its mutants back.
"""

from dataclasses import dataclass

from tests.mutate.sites import Site


@dataclass(frozen=True)
class Equivalent:
    """What is changed where, and why nobody could see it."""

    file: str
    text: str
    what: str
    reason: str

    def fits(self, site: Site) -> bool:
        same_line = site.file == self.file and site.text == self.text
        return same_line and (self.what == site.change or self.what in site.within)


EQUIVALENT: tuple[Equivalent, ...] = ()


def reason(site: Site, entries: tuple[Equivalent, ...] = EQUIVALENT) -> str:
    """Why a mutant cannot be seen, or ""."""
    return next((e.reason for e in entries if e.fits(site)), "")
