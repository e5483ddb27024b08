"""Code as HTML: the file's own text, an anchor for every definition, links that are right."""

import re

import pytest

from minideepseek.book import listing
from minideepseek.book.order import Page

from .checker import read, text_of

pytest.importorskip("pygments", reason="needs the extra book")

SOURCE = '''"""Title."""

import os
from minideepseek.layers.rope import RotaryEmbedding as Rotary
from minideepseek.autograd.engine import ops

LIMIT, ONE = 3, 1  # V2 eq. 9
# Above `first`.
@decorated
def first(x, Rotary=None):
    """V2 eq. 9 <b>."""
    return ops.rms_norm(x, weight, Rotary=Rotary) + other.rms_norm(LIMIT)


class Second:
    def method(self):
        return Rotary(first(self.first, """a
b"""))
'''


@pytest.fixture
def page(links, monkeypatch):
    from minideepseek.book.names import definitions

    page = Page("layers.x", "x", "minideepseek/layers/x.py", SOURCE, "chapter")
    monkeypatch.setitem(links.pages, page.name, page)
    monkeypatch.setitem(links.defined, page.name, {d.name: d for d in definitions(page.tree)})
    return page


def lines(text):
    return [line for line in text.split("\n") if line.strip()]


def code_below(page):
    """The source without its docstring, empty lines aside."""
    body = page.tree.body
    start = body[0].end_lineno if page.docstring else 0
    return lines("\n".join(page.source.split("\n")[start:]))


@pytest.mark.parametrize("name", ["layers.mla", "cli.zoo", "demos.mla_cost", "exercise.softmax"])
def test_the_code_is_there_from_top_to_bottom(site, name):
    page = site.links.pages[name]
    found = listing.sections(page, site.links)
    assert lines("\n".join(text_of(part.html) for part in found)) == code_below(page)


@pytest.mark.slow
def test_the_code_of_every_page_is_there_and_every_definition_has_its_anchor(site):
    for page in site.pages:
        if page.kind == "test":
            continue
        html = "\n".join(part.html for part in listing.sections(page, site.links))
        assert lines(text_of(html)) == code_below(page), page.name
        assert not read(html).unbalanced, page.name
        assert sorted(read(html).ids) == sorted(site.links.defined[page.name]), page.name


def test_a_file_falls_apart_at_its_definitions(page, links):
    found = listing.sections(page, links)
    assert [part.name for part in found] == ["imports", "", "first", "Second"]
    assert found[2].html.startswith('<b class="c"># Above `first`.</b>\n')
    assert read("".join(part.html for part in found)).ids == [
        "LIMIT", "ONE", "first", "Second", "Second.method"
    ]  # fmt: skip


def test_links_of_names(page, links):
    html = "".join(part.html for part in listing.sections(page, links))
    linked = re.findall(r'<a href="([^"]+)">([^<]+)</a>', html)
    rotary, norm = "layers.rope.html#RotaryEmbedding", links.primitives["rms_norm"]
    assert norm == "autograd.fused.html#rms_norm"
    assert (rotary, "Rotary") in linked and linked.count((norm, "rms_norm")) == 1
    assert linked.count(("#LIMIT", "LIMIT")) == 1  # where it is used, not where it is made
    assert linked.count(("#first", "first")) == 1  # neither its definition nor self.first
    assert linked.count(("equations-list.html#V2-9", "V2 eq. 9")) == 2  # a comment, a docstring
    assert linked.count((rotary, "Rotary")) == 3  # imported, a value, called; no argument's name
    assert "&lt;b&gt;" in html


def test_a_string_over_two_lines_is_two_elements(page, links):
    assert '"""a</b>\n<b class="s">b"""' in listing.sections(page, links)[-1].html
