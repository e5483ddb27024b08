"""Changes of JSON that know it is JSON: of its values, of how they are spelt, and new ones."""

import json
import random
from collections.abc import Callable
from typing import Any

NUMBERS = (
    0, 1, 2, 3, 7, 8, 16, 64, 127, 128, 255, 256, -1, -8, 10**6, 10**12, 2**31 - 1, 2**31, 2**32,
    2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 10**400, 0.0, -0.0, 1.0, 0.5, 1.5,
    -2.5, 1e-7, 1e30, 1e308, 5e-324,
)  # fmt: skip
TEXTS = (
    "", " ", "x", "0", "1", "true", "null", "NaN", "\0", "\n", "a\nb", "\x1b[2J", "\u2028", "ä",
    "𝄞", "../x", "/etc/passwd", "a" * 300, "float32", "__metadata__", "__class__", "％s{0}{x!r}%s",
)  # fmt: skip
CONTAINERS = ("[]", "{}", "[[]]", "[0]", "[1, 2]", '{"a": 1}', '[{"a": []}]', "[null]", '["x"]')
# Spellings: some are no JSON, some are JSON that no strict reader takes, a few are innocent.
RAW = (
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1E400", "1e-999", "9" * 4300, "9" * 4301,
    "9" * 100_000, "-" + "9" * 5000, "-0", "0e0", "1E+2", "01", "+1", "-", "1.", ".5", "0x10",
    "1_0", "1e", "'a'", "True", "None", "nul", "undefined", "/*c*/ 1", "1 // c", "1,", "", "1 2",
    "٣",
    '"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', '"\\x41"', '"\\u12"', '"\t"',
    '"\n"', '"', '"\\', '"\\"', "[1,]", "[,1]", '{"a":1,}', '{"a"}', "{a:1}", '{"a":1 "b":2}',
    '{"a":1,"a":1}', '{"a":1,"\\u0061":2}', "{1:2}", "[" * 60 + "]" * 60, "[" * 70 + "]" * 70,
    "[" * 900 + "]" * 900, "[" * 990 + "]" * 990, '{"a":' * 950 + "1" + "}" * 950, "[" * 100_000,
    "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000, "}" * 9, "[],",
    "1" + " " * 3000, "\r\n1\t", "\ufeff1", "\u00a01", '"\ufffe"', "-" + "1" * 40 + "." + "1" * 40,
)  # fmt: skip
_HOLE, _TWIN = "@hole@", "@twin@"

Special = Callable[[random.Random, Any], Any]  # a value that means something under this key


def any_value(rng: random.Random, depth: int = 0) -> Any:
    """A JSON value of any kind; most are small."""
    kind = rng.randrange(10 if depth < 3 else 6)
    if kind < 3:
        return rng.choice(NUMBERS) if kind else rng.randrange(-9, 300)
    if kind < 5:
        return rng.choice(TEXTS)
    if kind == 5:
        return rng.choice((None, True, False))
    if kind == 6:
        return json.loads(rng.choice(CONTAINERS))
    many = range(rng.randrange(4))
    if kind == 7:
        return {rng.choice(TEXTS): any_value(rng, depth + 1) for _ in many}
    return [any_value(rng, depth + 1) for _ in many]


def spots(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a value."""
    found, level = [], [value]
    while level:
        inner = []
        for held in level:
            for key in held if isinstance(held, dict) else range(len(held)):
                found.append((held, key))
                if isinstance(held[key], (dict, list)):
                    inner.append(held[key])
        level = inner
    return found


def change_json(rng: random.Random, data: bytes, special: Special) -> tuple[bytes, str, bool]:
    """(bytes, what was done, harmless): the JSON in `data` with one to three changes."""
    try:
        box = [json.loads(data)]
    except (ValueError, RecursionError):
        return data, "no JSON to change", False
    raw, notes, harmless = "", [], True
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = spots(box)
        if not places:
            break
        # Of a table of hundreds of entries some other place should be changed as well.
        held, key = rng.choice(places if rng.random() < 0.7 else places[:40])
        kind = rng.choice(tuple(_CHANGES))
        if kind == "respell" and not raw:
            held[key], raw = _HOLE, rng.choice(RAW)
        else:
            _CHANGES[kind](rng, held, key, special)
        notes.append(f"{kind} {key!r:.60}")
        tame = kind == "nothing" or (kind == "reorder" and isinstance(held, dict))
        harmless = harmless and tame
    text = _spelt(rng, box[0] if box else None).replace(f'"{_TWIN}', '"')
    if raw or _HOLE in text:
        notes[-1] += f" as {raw[:20]}"
        text = text.replace(json.dumps(_HOLE), raw)
    return text.encode("utf-8", "surrogatepass"), ", ".join(notes), harmless and not raw


def _spelt(rng: random.Random, value: Any) -> str:
    style = rng.choice(({}, {"indent": 1}, {"ensure_ascii": False}, {"separators": (",", ":")}))
    return json.dumps(value, **style)


def _replace(rng: random.Random, held: Any, key: Any, special: Special) -> None:
    held[key] = any_value(rng)


def _meaning(rng: random.Random, held: Any, key: Any, special: Special) -> None:
    held[key] = special(rng, key)


def _near(rng: random.Random, held: Any, key: Any, special: Special) -> None:
    old = held[key]
    if isinstance(old, bool) or not isinstance(old, (int, float)):
        held[key] = any_value(rng)
    else:
        held[key] = rng.choice(
            (old + 1, old - 1, -old, 2 * old, float(min(old, 2**64)), bool(old), str(old), [old])
        )


def _drop(rng: random.Random, held: Any, key: Any, special: Special) -> None:
    del held[key]


def _rename(rng: random.Random, held: Any, key: Any, special: Special) -> None:
    if isinstance(held, dict):
        names = (*TEXTS, key.upper(), key + "\n", key + "\0", key[:-1])
        held[rng.choice(names)] = held.pop(key)
    else:
        held.insert(key, any_value(rng))


def _swap(rng: random.Random, held: Any, key: Any, special: Special) -> None:
    other = rng.choice(list(held) if isinstance(held, dict) else range(len(held)))
    held[key], held[other] = held[other], held[key]


def _wrap(rng: random.Random, held: Any, key: Any, special: Special) -> None:
    held[key] = rng.choice(([held[key]], {"a": held[key]}, [held[key], held[key]]))


def _twin(rng: random.Random, held: Any, key: Any, special: Special) -> None:
    if isinstance(held, dict):
        held[_TWIN + key] = rng.choice((held[key], any_value(rng)))
    else:
        held.append(held[key])


def _reorder(rng: random.Random, held: Any, key: Any, special: Special) -> None:
    if isinstance(held, dict):
        items = list(held.items())
        rng.shuffle(items)
        held.clear()
        held.update(items)
    else:
        held[key] = any_value(rng)


def _nothing(rng: random.Random, held: Any, key: Any, special: Special) -> None:
    pass


_CHANGES: dict[str, Callable[[random.Random, Any, Any, Special], None]] = {
    "replace": _replace,
    "meaning": _meaning,
    "near": _near,
    "drop": _drop,
    "rename": _rename,
    "swap": _swap,
    "wrap": _wrap,
    "twin": _twin,
    "reorder": _reorder,
    "nothing": _nothing,
    "respell": _replace,
}


def write_json(rng: random.Random, depth: int = 0) -> str:
    """JSON text from its grammar, with a mistake now and then."""
    kind = rng.randrange(12 if depth < 4 else 7)
    if rng.random() < 0.03:
        return rng.choice(RAW)
    if kind < 3:
        return json.dumps(rng.choice(NUMBERS))
    if kind < 6:
        return json.dumps(rng.choice(TEXTS), ensure_ascii=rng.random() < 0.5)
    if kind == 6:
        return rng.choice(("null", "true", "false"))
    comma, colon = rng.choice((",", ", ", "\n,\t")), rng.choice((":", " : "))
    inner = [write_json(rng, depth + 1) for _ in range(rng.randrange(5))]
    if kind < 10:
        return "[" + comma.join(inner) + "]"
    names = [json.dumps(rng.choice(TEXTS)) for _ in inner]
    names = list(dict.fromkeys(names)) if rng.random() < 0.9 else names
    pairs = zip(names, inner, strict=False)
    return "{" + comma.join(name + colon + value for name, value in pairs) + "}"
