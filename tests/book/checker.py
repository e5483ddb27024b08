"""A small checker of HTML: what a page defines, what it points at, and what it says."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"br", "hr", "img", "input", "link", "meta"}
FETCHES = {("script", "src"), ("img", "src"), ("iframe", "src"), ("link", "href"), ("a", "ping"),
           ("source", "src"), ("video", "src"), ("object", "data"), ("use", "href")}  # fmt: skip


@dataclass
class Found:
    """ids: in order; links: hrefs of <a>; forms: actions; fetched: what a browser would load."""

    ids: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    forms: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    handlers: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    unbalanced: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.found, self.open = Found(), []

    def handle_starttag(self, tag, attrs):
        if tag == "a" and "a" in self.open:
            self.found.unbalanced.append(f"a link in a link at {self.getpos()}")
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            value = value or ""
            if name == "id":
                self.found.ids.append(value)
            if (tag, name) == ("a", "href"):
                self.found.links.append(value)
            if (tag, name) == ("form", "action"):
                self.found.forms.append(value)
            if (tag, name) in FETCHES:
                self.found.fetched.append(value)
            if name.startswith("on") or value.startswith("javascript:"):
                self.found.handlers.append(f"{tag} {name}={value}")

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.found.unbalanced.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.found.text.append(data)


def read(html):
    """What is found in a page or a part of one."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    reader.found.unbalanced += [f"<{tag}> is not closed" for tag in reader.open if tag != "p"]
    return reader.found


def text_of(html):
    """What a reader sees."""
    return "".join(read(html).text)


def dead(pages):
    """(page, href) of links that lead nowhere. pages: file name → HTML."""
    found = {name: read(html) for name, html in pages.items()}
    for name, page in found.items():
        for href in page.links + page.forms:
            target, _, anchor = href.partition("#")
            other = found.get(target or name)
            if other is None or (anchor and anchor not in other.ids):
                yield name, href
