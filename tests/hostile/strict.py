"""An oracle: strict JSON read by a parser that shares no line with the one under test.

RFC 8259 in UTF-8 without a byte order mark; besides no name twice in an object, no half of a
surrogate pair, no number outside float64 (an integer of any size up to 4,300 digits is one), and
arrays and objects nested at most 64 deep.
"""

import re
from typing import Any

DEEPEST = 64
_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_WORDS = {"true": True, "false": False, "null": None}


class NotStrict(Exception):
    """The bytes are no strict JSON."""


def parse(data: bytes) -> Any:
    """The value, or NotStrict."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise NotStrict from None
    value, at = _value(text, _skip(text, 0), 1)
    if _skip(text, at) != len(text):
        raise NotStrict
    return value


def _skip(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    first = text[at : at + 1]
    if first in ("{", "[") and first:
        if depth > DEEPEST:
            raise NotStrict
        return (_object if first == "{" else _array)(text, _skip(text, at + 1), depth)
    if first == '"':
        return _string(text, at + 1)
    for word, value in _WORDS.items():
        if text.startswith(word, at):
            return value, at + len(word)
    match = _NUMBER.match(text, at)
    if not match:
        raise NotStrict
    if match[1] or match[2]:
        number: float = float(match[0])
        if number in (float("inf"), float("-inf")):
            raise NotStrict
        return number, match.end()
    if len(match[0].lstrip("-")) > 4300:
        raise NotStrict
    return int(match[0]), match.end()


def _array(text: str, at: int, depth: int) -> tuple[list, int]:
    found: list[Any] = []
    if text[at : at + 1] == "]":
        return found, at + 1
    while True:
        value, at = _value(text, at, depth + 1)
        found.append(value)
        at = _skip(text, at)
        if text[at : at + 1] == "]":
            return found, at + 1
        at = _skip(text, _expect(text, at, ","))


def _object(text: str, at: int, depth: int) -> tuple[dict, int]:
    found: dict[str, Any] = {}
    if text[at : at + 1] == "}":
        return found, at + 1
    while True:
        name, at = _string(text, _expect(text, at, '"'))
        at = _skip(text, _expect(text, _skip(text, at), ":"))
        value, at = _value(text, at, depth + 1)
        if name in found:
            raise NotStrict
        found[name] = value
        at = _skip(text, at)
        if text[at : at + 1] == "}":
            return found, at + 1
        at = _skip(text, _expect(text, at, ","))


def _expect(text: str, at: int, mark: str) -> int:
    if text[at : at + 1] != mark:
        raise NotStrict
    return at + 1


def _string(text: str, at: int) -> tuple[str, int]:
    parts = []
    while True:
        match = _PLAIN.match(text, at)
        parts.append(match[0])
        at = match.end()
        if text[at : at + 1] == '"':
            found = "".join(parts)
            try:  # \ud83d\ude00 are the halves of one character
                return found.encode("utf-16", "surrogatepass").decode("utf-16"), at + 1
            except UnicodeDecodeError:
                raise NotStrict from None
        if text[at : at + 1] != "\\" or at + 1 >= len(text):
            raise NotStrict
        mark = text[at + 1]
        if mark == "u":
            if not re.fullmatch("[0-9a-fA-F]{4}", text[at + 2 : at + 6], re.ASCII):
                raise NotStrict
            parts.append(chr(int(text[at + 2 : at + 6], 16)))
            at += 6
        elif mark in _ESCAPES:
            parts.append(_ESCAPES[mark])
            at += 2
        else:
            raise NotStrict


def same(a: Any, b: Any) -> bool:
    """Equal, types and the sign of zero included; names in any order."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b) if isinstance(a, float) else a == b
