"""The verb of the ledger of equations."""

from __future__ import annotations

import argparse
from typing import Any


def add_verbs(verbs: Any) -> None:
    """Its parser."""
    parser = verbs.add_parser("eq", help="an equation of the papers, and where it is computed")
    parser.description = "The equations of the papers: transcribed, and where they are computed."
    parser.set_defaults(run=run_eq)
    parser.add_argument(
        "id", nargs="?", metavar="ID", help="V2:9, or V2 for a paper's; without it, all"
    )


def run_eq(options: argparse.Namespace) -> int:
    """Prints a page of the ledger."""
    from minideepseek.equations.page import show

    print(show(options.id))
    return 0
