r"""JSON read without the liberties of Python's reader.

`json.loads` takes `NaN` and `Infinity`, lets a later duplicate key silently replace an earlier one
and raises errors of three kinds. A checkpoint's JSON is data from a stranger: here it is strict
UTF-8 JSON of a bounded size, or a CheckpointError that names the file.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from minideepseek.errors import CheckpointError


def read_json(path: str | Path, max_bytes: int = 1 << 20) -> Any:
    """The value in a JSON file of at most `max_bytes` bytes.

    Raises CheckpointError, naming the file, when it cannot be read, is larger, or is not strict
    JSON.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(max_bytes + 1)  # never more, whatever the file claims to be
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error  # str(error) would repeat the path
        raise CheckpointError(f"{path}: cannot be read ({reason})") from None
    if len(data) > max_bytes:
        raise CheckpointError(f"{path}: is larger than the {max_bytes:,} bytes expected of it")
    return parse_json(data, str(path))


def parse_json(data: bytes, name: str) -> Any:
    """The value of strict JSON in UTF-8; `name` is what an error calls the text.

    Raises CheckpointError for anything else, NaN, Infinity and duplicate keys included.
    """
    try:
        return json.loads(
            data.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_duplicates
        )
    except RecursionError:  # before ValueError: the deepest nesting is not a syntax error
        raise CheckpointError(f"{name}: is nested too deeply to be read") from None
    except ValueError as error:  # bad UTF-8, bad syntax, an integer of thousands of digits
        raise CheckpointError(f"{name}: is not strict JSON ({error})") from None


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice!r} occurs twice")
    return found
