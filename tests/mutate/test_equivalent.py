"""The list of survivors that no test can kill: every entry still means something."""

import functools

import pytest

from tests.mutate.equivalent import EQUIVALENT, Equivalent, reason
from tests.mutate.sites import ROOT, Site, sites_of, target_files

sites_of = functools.cache(sites_of)


@pytest.mark.parametrize("entry", EQUIVALENT, ids=lambda e: f"{e.file[13:]}: {e.change}"[:60])
def test_an_entry_fits_a_line_of_a_target_and_says_why(entry):
    """Or the line has changed, and its mutants must be judged again."""
    assert entry.file in target_files()
    lines = [line.strip() for line in (ROOT / entry.file).read_text("utf-8").splitlines()]
    assert entry.line in lines, "no such line: remove the entry, or look at the mutant again"
    assert any(entry.fits(site) for site in sites_of(entry.file)), "no such change on that line"
    assert len(entry.reason.split()) >= 4


def test_an_entry_means_its_line_and_its_change_only():
    def site(text, before, after, within):
        return Site("f.py", 1, text, "", "term", before, after, range(1, 2), 0, (), 0, within)

    entry = Equivalent("f.py", "y = f(a - b) + c", "f(a - b)", "for a test of the test")
    inside = site("y = f(a - b) + c", "a - b", "a", ("a - b", "f(a - b)", "f(a - b) + c"))
    outside = site("y = f(a - b) + c", "f(a - b) + c", "c", ("f(a - b) + c",))
    elsewhere = site("z = f(a - b) + c", "a - b", "a", ("a - b", "f(a - b)"))
    assert entry.fits(inside) and not entry.fits(outside) and not entry.fits(elsewhere)
    assert reason(inside, (entry,)) == "for a test of the test" and reason(outside, (entry,)) == ""


def test_no_entry_is_listed_twice():
    named = [(e.file, e.line, e.change) for e in EQUIVALENT]
    assert len(set(named)) == len(named)
