"""When each command was last replayed: replayed.json beside this file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("replayed.json")


def last() -> dict[str, dict[str, Any]]:
    """{date, commit, seconds, stale} by the command's name; stale: entries outside their bands."""
    return json.loads(FILE.read_text("utf-8"))


def record(name: str, found: dict[str, Any], stale: list[str]) -> None:
    """Write that a command was replayed."""
    known = last() | {
        name: {key: found[key] for key in ("date", "commit", "seconds")} | {"stale": stale}
    }
    FILE.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n", "utf-8")
