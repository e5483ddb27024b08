"""Pages and their order: each file once, as the folders' docstrings say."""

import ast

from minideepseek.book import order

ORDER = {
    "layers": ["module", "rope", "cache", "attention", "mla", "standard_moe", "moe", "decoder",
               "mtp", "fp8"],
    "model": ["config", "config_checks", "layout", "ledger", "tokenizer", "transformer"],
    "training": ["corpus", "data", "optim", "blame", "trainer", "rundir", "language", "report",
                 "page", "figures", "scales", "progress"],
}  # fmt: skip


def test_every_file_has_one_page(site):
    files = {
        path.relative_to(order.PACKAGE.parent).as_posix()
        for path in order.PACKAGE.rglob("*.py")
        if path.parent.name not in ("problems", "zoo")
    }
    paths = [page.path for page in site.read]
    assert len(paths) == len(set(paths)) and set(paths) == files
    assert len({page.url for page in site.pages}) == len(site.pages)


def test_parts_and_chapters_are_in_the_order_of_the_docstrings(site):
    for folder, expected in ORDER.items():
        assert order.listed(order.PACKAGE / folder)[: len(expected)] == expected
    parts = [page.name for page in site.read if page.up == "minideepseek" and page.kind == "part"]
    assert parts[:6] == ["autograd", "layers", "model", "training", "reasoning", "exercises"]
    names = [page.name for page in site.read]
    assert names.index("layers.fp8") + 1 == names.index("layers.fp8.formats")
    assert names.index("layers.fp8.experts") < names.index("model")


def test_members_named_behind_another_follow_it_and_the_rest_comes_last(tmp_path):
    text = '"""A part.\n\n    two    twice; three helps\n    one/   once, and not two\n"""\n'
    (tmp_path / "__init__.py").write_text(text, "utf-8")
    for name in ("zero", "three", "two"):
        (tmp_path / f"{name}.py").write_text("", "utf-8")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "__init__.py").write_text("", "utf-8")
    assert order.listed(tmp_path) == ["two", "three", "one", "zero"]


def test_a_docstring_keeps_its_indentation_and_gives_the_title():
    source = '"""A title: and more.\n\n    a block\n"""\n'
    assert order.docstring_of(ast.parse(source)) == "A title: and more.\n\n    a block"
    page = order.Page("a.b", "b", "a/b.py", source, "chapter")
    assert (page.title, page.label, page.theory) == ("A title: and more", "A title", "    a block")


def test_a_wheel_has_no_demos_and_no_tests(tmp_path, monkeypatch):
    package = tmp_path / "minideepseek"
    package.mkdir()
    (package / "__init__.py").write_text('"""The package."""\n', "utf-8")
    kinds = {page.kind for page in order.all_pages(package)}
    assert kinds == {"part", "exercise", "bug"}


def test_an_exercise_shows_the_learners_part_alone(site):
    pages = [page for page in site.pages if page.kind in order.CATALOGUES]
    assert len(pages) > 20
    for page in pages:
        assert "EXERCISE" not in page.source and "Mistake(" not in page.source
