"""Neighbours of a chapter, from the README's table, from names and from the exercises."""

import pytest

from minideepseek.book import beside
from minideepseek.book.order import PACKAGE

from .checker import read, text_of

pytest.importorskip("markdown_it", reason="needs the extra book")

ROOT = PACKAGE.parent


def test_every_path_of_the_readmes_table_exists():
    rows = beside.rows(beside.readme())
    assert len(rows) >= 10
    for row in rows:
        for _, path in [*row.sources, *row.demos, *row.tests]:
            assert (ROOT / path).exists(), (row.title, path)


def test_a_chapter_its_demo_its_tests_its_exercises(site):
    mla = site.beside["layers.mla"]
    assert {"demos.mla_cost.html", "demos.long_context.html"} <= {url for _, url in mla.demos}
    tests = [url for _, url in mla.tests]
    assert {"tests.layers.test_mla.html", "tests.layers.test_mla_cache.html"} <= set(tests)
    assert len(tests) == len(set(tests))
    assert ("Absorbing W^UK and W^UV", "exercise.absorb.html") in mla.exercises
    assert ("mla", "layers.mla.html") in site.beside["demos.mla_cost"].chapter
    assert ("mla", "layers.mla.html") in site.beside["tests.layers.test_mla_cache"].chapter
    assert any(url == "layers.mla.html" for _, url in site.beside["exercise.absorb"].chapter)
    assert site.beside["layers.moe"].bugs


def test_every_exercise_and_bug_has_a_chapter(site):
    for name, near in site.beside.items():
        if site.links.pages[name].kind in ("exercise", "bug"):
            assert near.chapter, name


def test_a_test_belongs_to_the_longest_name(site):
    pairs = {test.name: name for test, name in beside._mirrored(site.links)}
    assert pairs["tests.layers.test_standard_moe"] == "layers.standard_moe"
    assert pairs["tests.model.test_safetensors_strict"] == "model.safetensors"
    assert "tests.layers.test_routing" not in pairs


def test_addresses_of_folders(links):
    assert beside.address("tests/autograd", links) == "tests-list.html#tests.autograd.cases"
    assert beside.address("minideepseek/layers/fp8", links) == "layers.fp8.html"
    assert beside.address("minideepseek/lay", links) is None


def test_the_readme_loses_no_word_and_gains_no_dead_link(links):
    html = beside.readme_html(links)
    known = {page.url for page in links.pages.values()}
    for href in read(html).links:
        assert href in known or href.startswith("tests-list.html#"), href
    for words in ("DeepSeek-V3 and R1 from first principles", "minideepseek journey"):
        assert words in text_of(html)
    assert "<table>" in html and not read(html).unbalanced


def test_pictures_are_of_the_best_run_that_there_is(tmp_path):
    assert beside.picture("a", tmp_path) is None
    for size in ("quick", "full"):
        folder = tmp_path / "a" / size
        folder.mkdir(parents=True)
        page = f"<h1>T</h1>\n<p>{size}</p>\n<script>1</script></body></html>\n"
        (folder / "a.html").write_text(page, "utf-8")
    assert beside.picture("a", tmp_path) == ("runs/a/full/a.html", "<p>full</p>")


def test_a_page_that_a_demo_writes_can_be_cut_open(tmp_path):
    from minideepseek.training.page import page

    folder = tmp_path / "a" / "default"
    folder.mkdir(parents=True)
    (folder / "a.html").write_text(page("Title", "<p>body</p>\n<p>more</p>"), "utf-8")
    where, html = beside.picture("a", tmp_path)
    assert html == "<p>body</p>\n<p>more</p>"
