"""Docstrings as HTML: nothing is lost, blocks keep their columns, names and numbers lead on."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.book import prose
from minideepseek.book.order import Page

from .checker import read, text_of

pytest.importorskip("markdown_it", reason="needs the extra book")

MARKS = re.compile(r"^\d\.(?= )|[\s_^{}*`=~-]", re.MULTILINE)


def page_of(docstring, kind="chapter"):
    return Page("layers.x", "x", "minideepseek/layers/x.py", f'r"""T\n\n{docstring}"""\n', kind)


@pytest.fixture
def render(links, monkeypatch):
    def render(docstring):
        page = page_of(docstring)
        monkeypatch.setitem(links.defined, page.name, {})
        return prose.theory_html(page, links)

    return render


def blocks(docstring):
    """The lines of each indented block."""
    runs, run = [], []
    for line in [*docstring.split("\n"), "end"]:
        if line.startswith("    ") or (run and not line.strip()):
            run.append(line)
        elif run:
            runs.append([r for r in run if r.strip()])
            run = []
    return runs


def holds(lines, block):
    starts = [i for i, line in enumerate(lines) if line == block[0]]
    return any(lines[i : i + len(block)] == block for i in starts)


def test_no_character_of_a_docstring_is_lost(site):
    for page in site.read:
        html = prose.theory_html(page, site.links)
        said, wanted = (MARKS.sub("", text) for text in (text_of(html), page.theory))
        assert said == wanted, page.name
        assert not read(html).unbalanced, page.name


def test_blocks_keep_every_line_and_column(site):
    for page in site.read:
        html = prose.theory_html(page, site.links)
        drawn = "\n".join(map(text_of, re.findall(r"<pre.*?</pre>", html, re.DOTALL)))
        lines = [line.rstrip() for line in drawn.split("\n") if line.strip()]
        for block in blocks(page.theory):
            margin = min(len(line) - len(line.lstrip()) for line in block)
            outdented = [line[margin:] for line in block]
            assert holds(lines, outdented) or holds(lines, block), (page.name, block)


def test_a_table_whose_head_is_not_indented_stays_together(render):
    html = render("head    one   two\n    a     1     2\n    b     3     4\n\ntext")
    assert text_of(html) == "head    one   two\n    a     1     2\n    b     3     4\ntext\n"
    assert html.count('<pre class="maths">') == 1


def test_an_empty_line_does_not_cut_a_block_and_a_sentence_does_not_join_it(render):
    html = render("It is\nso:\n    a = b\n\n    c = d\n\nThen\n\n    >>> f(1)\n    2\n")
    assert re.sub(r"</?[bi][^>]*>", "", html) == (
        '<p>It is\nso:</p>\n<pre class="maths">a = b\n\nc = d</pre>\n<p>Then</p>\n'
        '<pre class="example">&gt;&gt;&gt; f(1)\n2\n</pre>\n'
    )


def test_markup_is_text(render):
    odd = "<think> & <script>x</script> [a | b](c) \\* &amp; <!-- --> # no\n\n    <b>i</b> &lt;"
    html = render(odd)
    assert text_of(html).split() == odd.split()
    assert not re.search(r"<(think|script|b)>|<a", html)


@given(st.text(st.sampled_from("ab <&>\n·ᵢΣ√\u0303\u0304é─│ᵀ漢🙂′"), max_size=12))
def test_cells_change_no_letter_and_hold_all_beyond_ascii(text):
    html = prose.cells(text)
    assert text_of(html) == text
    outside = re.sub(r"<i>[^<]*</i>", "", html)
    marks = re.compile(r"[─-╿\u0300-\u036f]")  # lines of boxes touch; a mark without a letter
    assert marks.sub("", outside).isascii()


def test_a_mark_shares_the_cell_of_its_letter():
    assert prose.cells("q\u0303ᵢ ≤ x̂") == "<i>q\u0303</i><i>ᵢ</i> <i>≤</i> <i>x\u0302</i>"


@pytest.mark.parametrize(
    "text, html",
    [
        ("d_h^R = 64", "d<sub>h</sub><sup>R</sup> = 64"),
        ("Wᵢ^UKᵀ cₛ", "Wᵢ<sup>UKᵀ</sup> cₛ"),
        ("h_{n−1}", "h<sub>n−1</sub>"),
        ("π_old, q̃ᵢ", "π<sub>old</sub>, q̃ᵢ"),
        ("O(T^2)", "O(T<sup>2</sup>)"),
        ("k_pe, q_proj, top_k, c_kv, x_hat", "k_pe, q_proj, top_k, c_kv, x_hat"),
        ("__init__, n_group, _x, 2^(e − m)", "__init__, n_group, _x, 2^(e − m)"),
        ("a < b & c_t", "a &lt; b &amp; c<sub>t</sub>"),
    ],
)
def test_scripts(text, html):
    assert prose.scripts(text) == html


def test_what_a_text_names_leads_there(links):
    html = prose.theory_html(links.pages["layers.mla"], links)
    hrefs = read(html).links
    assert {"layers.rope.html", "demos.mla_cost.html", "#DeepSeekAttention"} <= set(hrefs)
    assert '<a href="equations-list.html#V2-9">V2 eq. 9</a>' in html
    assert '<a href="equations-list.html#V2-10">V2 eq. 10</a>' in html  # of 10–11, each
    assert '<a href="equations-list.html#V2-11">11</a>' in html
    part = prose.theory_html(links.pages["layers"], links)
    assert '<a href="layers.mla.html">mla</a>' in part


def test_headings_are_those_that_the_page_has(site):
    for page in site.read:
        ids = read(prose.theory_html(page, site.links)).ids
        assert ids == [name for name, _ in prose.headings(page)], page.name
        assert len(set(ids)) == len(ids), page.name
