"""Words with numbers between them: `accepted {} %, {} tokens a pass`.

    {}     a number, which is wanted        {*}    any text, as little as possible
    {~}    a number, which is not

Any white space stands for any other. A number may have a sign, commas between thousands, decimals,
an exponent; a few are words.
"""

from __future__ import annotations

import re
from typing import NamedTuple

WORDS = {
    "no": 0.0, "two": 2.0, "three": 3.0, "a tenth": 0.1, "a quarter": 0.25, "three quarters": 0.75,
}  # fmt: skip
_DIGITS = r"(?<![\d.,])[+−-]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?(?!\d|\.\d|,\d{3})"
_NUMBER = rf"(?:{_DIGITS}|\b(?:{'|'.join(sorted(WORDS, key=len, reverse=True))})\b)"
_MARKS = {"{}": f"({_NUMBER})", "{~}": _NUMBER, "{*}": r"[\s\S]*?"}


class Number(NamedTuple):
    """A number as it is written: its value, and half of what its last digit is worth."""

    text: str
    value: float
    half: float


class Missing(LookupError):
    """The words are not there, or not once."""


def number(text: str) -> Number:
    """
    >>> number("15,220,416"), number("−0.034").value, number("1e-10").half, number("a tenth").value
    (Number(text='15,220,416', value=15220416.0, half=0.5), -0.034, 5e-11, 0.1)
    """
    if text in WORDS:
        return Number(text, WORDS[text], 0.05)
    plain = text.replace(",", "").replace("−", "-")
    mantissa, _, exponent = plain.partition("e")
    decimals = len(mantissa.partition(".")[2]) - int(exponent or 0)
    return Number(text, float(plain), 0.5 * 10.0**-decimals)


def pattern(template: str) -> re.Pattern[str]:
    """The regular expression of a template."""
    parts = re.split(r"(\{\}|\{~\}|\{\*\})", template)
    words = [_MARKS.get(part) or _literal(part) for part in parts]
    return re.compile("".join(words))


def _literal(text: str) -> str:
    return r"\s+".join(re.escape(word) for word in re.split(r"\s+", text))


def first(template: str, text: str) -> list[Number]:
    """The numbers where the words stand first."""
    found = pattern(template).search(text)
    if not found:
        raise Missing(f"nothing reads: {template}")
    return [number(group) for group in found.groups()]


def every(template: str, text: str) -> list[Number]:
    """The numbers of all places where the words stand."""
    groups = [m.groups() for m in pattern(template).finditer(text)]
    if not groups:
        raise Missing(f"nothing reads: {template}")
    return [number(group) for several in groups for group in several]


def only(template: str, text: str) -> re.Match[str]:
    """The one place where the words stand."""
    found = list(pattern(template).finditer(text))
    if len(found) != 1:
        raise Missing(f"{'nothing reads' if not found else 'several places read'}: {template}")
    return found[0]
