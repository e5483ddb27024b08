"""The book's pages, gathered once."""

import time

import pytest

NEEDS = ("jinja2", "markdown_it", "pygments")


@pytest.fixture(scope="session")
def site():
    for name in NEEDS:
        pytest.importorskip(name, reason="needs the extra book")
    from minideepseek.book.site import Site

    return Site()


@pytest.fixture(scope="session")
def links(site):
    return site.links


@pytest.fixture(scope="session")
def book(site, tmp_path_factory):
    """A written book, and the seconds of work that it took."""
    from minideepseek.book.site import write_book

    began = time.process_time()
    found = write_book(tmp_path_factory.mktemp("books") / "book")
    return found, time.process_time() - began


@pytest.fixture(scope="session")
def pages(book):
    """File name → HTML of every page of the written book."""
    return {path.name: path.read_text("utf-8") for path in book[0].path.glob("*.html")}
