"""The book's pages, gathered once."""

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
