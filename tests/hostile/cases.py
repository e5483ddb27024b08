"""What a case is: a valid folder, of which some files are changed; and random changes of bytes."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Files = dict[str, bytes]  # a valid folder: name → content


class Wrong(Exception):
    """A reader gave what the files do not say, or refused what they do."""


@dataclass
class Case:
    """What differs from a valid folder.

    files: name → its bytes, or a kind of SPECIAL. note: how it was made. harmless: the change says
    nothing new, so that the reader must not refuse.
    """

    files: dict[str, bytes | str] = field(default_factory=dict)
    note: str = ""
    harmless: bool = False


@dataclass(frozen=True)
class Reader:
    """A reader of the package and what is thrown at it.

    share: of 100 or so cases. bases: valid folders. make: a case from one of them. read: what the
    package does with the folder. judge: raises Wrong unless an outcome (the reader's value, or the
    project's error) is right for these contents; of a file that cannot be read they hold None.
    peak: the most memory that reading n bytes may take is peak · n + CONSTANT. writes: the files
    that reading changes.
    """

    name: str
    share: int
    bases: tuple[Files, ...]
    make: Callable[[random.Random, Files], Case]
    read: Callable[[Path], Any]
    judge: Callable[[Path, dict[str, bytes | None], Any], None]
    peak: int
    writes: tuple[str, ...] = ()


# What stands in a file's place: nothing; a link to the same content elsewhere (harmless: Hugging
# Face's cache consists of them); and what must be refused, without waiting for anything.
LINKS = ("link out", "link up")
SPECIAL = ("missing", "pipe", "folder", "dangling", "loop", "socket", "zeros", *LINKS)

_ODD = (
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\r\n", b"\n", b'"', b"{", b"}", b"[", b"]", b",", b":",
    b"\\", b"\\u", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"NaN", b"-", b"1", b"9" * 30,
    b" " * 9, b"\t", b"\x1b[2J", b"e999", b"\xe2\x80\xa8",
)  # fmt: skip


def change_bytes(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """One change that knows nothing of the format; the file's beginning and end are favoured."""
    size = len(data)
    at = rng.choice((0, size, rng.randrange(size + 1), rng.randrange(min(size, 64) + 1)))
    span = rng.choice((1, 1, 2, 3, 8, rng.randrange(1, 65)))
    kind = rng.choice(tuple(_CHANGES))
    return _CHANGES[kind](rng, data, at, span), f"{kind} at {at} of {size}, {span}"


def _flip(rng: random.Random, data: bytes, at: int, span: int) -> bytes:
    at = min(at, len(data) - 1)
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :] if data else data


def _insert_odd(rng: random.Random, data: bytes, at: int, span: int) -> bytes:
    return data[:at] + rng.choice(_ODD) + data[at:]


def _overwrite(rng: random.Random, data: bytes, at: int, span: int) -> bytes:
    return data[:at] + rng.randbytes(span) + data[at + span :]


def _move(rng: random.Random, data: bytes, at: int, span: int) -> bytes:
    rest, to = data[:at] + data[at + span :], rng.randrange(len(data) + 1)
    return rest[:to] + data[at : at + span] + rest[to:]


def _recode(rng: random.Random, data: bytes, at: int, span: int) -> bytes:
    text = data.decode("utf-8", "replace")
    return text.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32", "utf-16-be", "utf-7")))


_CHANGES: dict[str, Callable[[random.Random, bytes, int, int], bytes]] = {
    "flip a bit": _flip,
    "insert something odd": _insert_odd,
    "overwrite": _overwrite,
    "move": _move,
    "insert noise": lambda rng, data, at, span: data[:at] + rng.randbytes(span) + data[at:],
    "delete": lambda rng, data, at, span: data[:at] + data[at + span :],
    "cut off": lambda rng, data, at, span: data[:at],
    "cut away": lambda rng, data, at, span: data[at:],
    "duplicate": lambda rng, data, at, span: data[: at + span] + data[at:],
    "zero": lambda rng, data, at, span: data[:at] + bytes(len(data[at : at + span]))
    + data[at + span :],
    "append zeros": lambda rng, data, at, span: data + bytes(span),
    "twice": lambda rng, data, at, span: data + data,
    "other line ends": lambda rng, data, at, span: data.replace(
        b"\n", rng.choice((b"\r\n", b"\r"))),
    "other encoding": _recode,
    "noise": lambda rng, data, at, span: rng.randbytes(span),
    "empty": lambda rng, data, at, span: b"",
}  # fmt: skip
