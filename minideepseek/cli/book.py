"""The verb of the book."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any


def add_verbs(verbs: Any) -> None:
    """Its parser."""
    parser = verbs.add_parser("book", help="this package as a book for a browser, offline")
    parser.description = (
        "Writes the book, a folder of pages that need no network, from the package itself. Needs "
        "the extra `book`."
    )
    parser.set_defaults(run=run_book)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where (runs/book)")


def run_book(options: argparse.Namespace) -> int:
    """Write it, and say where it begins."""
    from minideepseek.book.site import write_book

    began = time.perf_counter()
    book = write_book(options.out or Path("runs", "book"))
    print(
        f"{book.path / 'index.html'}: {book.pages} pages, {book.size / 1e6:.1f} MB, "
        f"{time.perf_counter() - began:.1f} s"
    )
    return 0
