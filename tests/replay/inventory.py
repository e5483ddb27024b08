"""All entries, and all figures that are not replayed."""

from __future__ import annotations

from tests.replay import claims, docstrings, precision, readme, tables
from tests.replay.entries import Entry, Kept

ENTRIES: tuple[Entry, ...] = (
    *tables.SPEED,
    *tables.TRAINING,
    *tables.SEEDS,
    *tables.PIPELINE,
    *precision.ROWS,
    *readme.PROSE,
    *docstrings.CHAPTERS,
    *docstrings.REASONING,
    *docstrings.DEMOS,
    *claims.ENTRIES,
)
KEPT: tuple[Kept, ...] = (*tables.KEPT, *readme.KEPT, *docstrings.KEPT)


def by_command() -> dict[str, list[Entry]]:
    """Entries under the name of what prints them."""
    found: dict[str, list[Entry]] = {}
    for entry in ENTRIES:
        found.setdefault(entry.command, []).append(entry)
    return found
