"""The whole book: written, whole, small, offline; and what it refuses."""

import importlib.util
import re
from types import SimpleNamespace

import pytest

from minideepseek.book import site as site_module
from minideepseek.book.site import write_book
from minideepseek.cli import main
from minideepseek.errors import InputError

from .checker import dead, read


def test_a_missing_library_is_said_in_one_sentence(tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    gone = {"jinja2", "markdown_it"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in gone else find(n))
    assert main(["book", "--out", str(tmp_path / "book")]) == 2
    assert capsys.readouterr().err == (
        "minideepseek: the book needs jinja2, markdown-it-py; install the extra: "
        "pip install 'minideepseek[book]'\n"
    )
    assert not any(tmp_path.iterdir())


def test_a_directory_with_other_things_is_left_alone(site, tmp_path):
    (tmp_path / "notes.html").write_text("mine", "utf-8")
    for out in (tmp_path, tmp_path / "notes.html"):
        with pytest.raises(InputError, match="holds other things"):
            write_book(out)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.html"]


def test_a_second_book_replaces_the_first_and_keeps_what_is_not_its_own(
    site, tmp_path, monkeypatch
):
    def written(*names):
        files = [(name, f"{name}·") for name in names]
        monkeypatch.setattr(site_module, "Site", lambda _: SimpleNamespace(files=lambda: files))
        return write_book(tmp_path / "book")

    assert written("book.css", "old.html", "both.html").pages == 2
    (tmp_path / "book" / "notes.txt").write_text("mine", "utf-8")
    found = written("book.css", "both.html", "new.html")
    names = {path.name for path in (tmp_path / "book").iterdir()}
    assert names == {"book.css", "both.html", "new.html", "notes.txt"}
    assert (found.pages, found.size) == (2, 3 * 2 + 8 + 9 + 8)


@pytest.mark.parametrize("name", ["layers.mla", "layers", "exercise.softmax", "bug.choose_experts"])
def test_a_page_is_whole(site, name):
    html = site.page(site.links.pages[name])
    found = read(html)
    assert not found.unbalanced and not found.handlers
    assert len(found.ids) == len(set(found.ids))
    assert [url for url in found.fetched if url != "data:,"] == ["book.css"]
    inner = [href[1:] for href in found.links if href.startswith("#")]
    assert set(inner) <= set(found.ids)


def test_only_its_own_script_may_run(site):
    for name, scripts in (("layers.mla", 1), ("layers.rope", 0)):
        html = site.page(site.links.pages[name])
        policy = re.search(r'Security-Policy" content="([^"]*)"', html)[1].replace("&#39;", "'")
        assert "default-src 'none'" in policy and "http" not in policy
        assert policy.count("'sha256-") == scripts == html.count("<script>")


def test_the_picture_of_a_demo_is_shown_where_it_ran(site, tmp_path, monkeypatch):
    page = site.links.pages["demos.mla_cost"]
    monkeypatch.setattr(site, "runs", tmp_path)
    assert "What it drew" not in site.page(page)
    folder = tmp_path / "mla_cost" / "full"
    folder.mkdir(parents=True)
    (folder / "mla_cost.html").write_text("<h1>T</h1>\n<p>drawn & co</p>\n<script>", "utf-8")
    html = site.page(page)
    assert "<p>drawn & co</p></template>" in html and "runs/mla_cost/full/mla_cost.html" in html


# ------------------------------------------------------------------------------ the whole, slow


@pytest.mark.slow
def test_the_book_is_quickly_made_and_small(book):
    found, seconds = book
    assert seconds < 30 and found.size < 10e6
    files = list(found.path.iterdir())
    assert sum(path.stat().st_size for path in files) == found.size
    assert {path.suffix for path in files} == {".html", ".css"}
    assert found.pages == sum(path.suffix == ".html" for path in files) > 250


@pytest.mark.slow
def test_every_link_and_anchor_resolves(pages):
    assert list(dead(pages)) == []


@pytest.mark.slow
def test_without_demos_and_tests_as_in_a_wheel_no_link_is_dead(site):
    read_alone = [page for page in site.pages if page.kind not in ("demo", "test")]
    smaller = site_module.Site(pages=read_alone)
    assert list(dead(dict(smaller.files()))) == []


@pytest.mark.slow
def test_every_page_is_whole_and_fetches_its_style_alone(pages):
    for name, html in pages.items():
        found = read(html)
        assert not found.unbalanced and not found.handlers, name
        assert [url for url in found.fetched if url != "data:,"] == ["book.css"], name
        ids = found.ids
        assert len(ids) == len(set(ids)), (name, [i for i in ids if ids.count(i) > 1])


@pytest.mark.slow
def test_every_page_can_be_reached_from_the_first(pages):
    seen, queue = set(), ["index.html"]
    while queue:
        name = queue.pop()
        if name not in seen:
            seen.add(name)
            queue += [href.partition("#")[0] or name for href in read(pages[name]).links]
    assert seen == set(pages)


@pytest.mark.slow
def test_every_citation_that_the_ledger_has_is_a_link(pages, site):
    html = pages["layers.mla.html"]
    for number in range(9, 20):
        assert re.search(rf'#V2-\d+">(V2 eq. )?{number}</a>', html), number
    assert "equations-list.html#V3-" in pages["layers.moe.html"]
    formulas = pages["equations-list.html"].count('<math display="block"')
    assert formulas >= 50
