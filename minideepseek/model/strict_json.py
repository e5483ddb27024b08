r"""JSON read without the liberties of Python's reader.

`json.loads` takes `NaN` and `Infinity`, makes Infinity of `1e999`, lets a later duplicate key
silently replace an earlier one, gives halves of surrogate pairs that cannot be printed or written
again, and raises errors of three kinds; how deep it can look depends on the interpreter. A
checkpoint's JSON is data from a stranger: here it is strict UTF-8 JSON of a bounded size and depth,
or a CheckpointError that names the file.
"""

import json
import math
import os
import stat
from collections import Counter
from typing import Any

from minideepseek.errors import CheckpointError

MAX_DEPTH = 64  # of arrays and objects in each other; what this package writes has 7


def read_json(path: str | os.PathLike, max_bytes: int = 1 << 20) -> Any:
    """The value in a JSON file of at most `max_bytes` bytes.

    Raises CheckpointError, naming the file, when it cannot be read, is larger, or is not strict
    JSON.
    """
    return parse_json(read_bytes(path, max_bytes), str(path))


def read_bytes(path: str | os.PathLike, max_bytes: int | None = None) -> bytes:
    """What a regular file holds, at most `max_bytes` bytes; a CheckpointError names it."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for its writer
            raise CheckpointError(f"{path}: cannot be read (not a regular file)")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            most = size if max_bytes is None else min(size, max_bytes)
            data = file.read(most + 1)  # which takes as much memory even where there is less
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, CheckpointError):
            raise
        reason = getattr(error, "strerror", None) or error  # str(error) would repeat the path
        raise CheckpointError(f"{path}: cannot be read ({reason})") from None
    if max_bytes is not None and len(data) > max_bytes:
        raise CheckpointError(f"{path}: is larger than the {max_bytes:,} bytes expected of it")
    return data


def parse_json(data: bytes, name: str) -> Any:
    """The value of strict JSON in UTF-8; `name` is what an error calls the text.

    Raises CheckpointError for anything else: NaN, Infinity and numbers beyond float64, duplicate
    keys, halves of surrogate pairs, and more than MAX_DEPTH arrays and objects in each other.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            parse_constant=_no_constant,
            parse_float=_finite,
            object_pairs_hook=_no_duplicates,
        )
        if b"\\u" in data:  # the only way to half a pair
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:  # before ValueError: the deepest nesting is not a syntax error
        raise CheckpointError(f"{name}: is nested too deeply to be read") from None
    except ValueError as error:  # bad UTF-8, bad syntax, an integer of thousands of digits
        raise CheckpointError(f"{name}: is not strict JSON ({error})") from None
    if _is_deeper(value, MAX_DEPTH):
        raise CheckpointError(f"{name}: is nested too deeply to be read")
    return value


def _is_deeper(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth + 1):
        holders = [held for held in level if isinstance(held, (dict, list))]
        if not holders:
            return False
        level = [v for h in holders for v in (h.values() if isinstance(h, dict) else h)]
    return True


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text:.40} is beyond float64")
    return number


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice!r:.200} occurs twice")
    return found
