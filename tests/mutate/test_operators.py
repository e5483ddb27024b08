"""Every operator yields what it should on a small piece of code, and nothing where it must not."""

import ast
import random

import pytest

from tests.mutate import sites
from tests.mutate.operators import OPERATORS

CASES = {  # operator, code → what becomes of it
    ("sign", "a + b"): {"a - b"},
    ("sign", "a - b"): {"a + b"},
    ("sign", "-a"): {"a"},
    ("sign", "a * -1"): set(),
    ("sign", "a += b"): {"a -= b"},
    ("sign", "'text' + b"): set(),
    ("sign", "(1,) + b"): set(),
    ("term", "a + b"): {"a", "b", "a + b + b"},
    ("term", "a - b"): {"a", "-b", "a - b - b"},
    ("term", "a += b"): {"a += 2 * b"},
    ("factor", "a * b"): {"a", "b", "a / b"},
    ("factor", "a / b"): {"a", "a * b"},
    ("factor", "a // b"): {"a // b + 1"},
    ("factor", "a ** b"): {"a"},
    ("factor", "a % b"): {"a"},
    ("factor", "a *= b"): {"a /= b"},
    ("swap", "a - b"): {"b - a"},
    ("swap", "a @ b"): {"b @ a"},
    ("swap", "a + b"): set(),
    ("swap", "f(a, b)"): {"f(b, a)"},
    ("swap", "maximum(a, b)"): set(),
    ("swap", "f(a, 2)"): set(),
    ("swap", "def f():\n    return a, b, c"): {"(b, a, c)", "(a, c, b)"},
    ("swap", "lambda g: (a, g)"): {"(g, a)"},
    ("swap", "x = (a, b)"): set(),
    ("axis", "x.sum(-1)"): {"x.sum(0)"},
    ("axis", "x.sum(0, keepdims=True)"): {"x.sum(-1, keepdims=True)", "keepdims=False"},
    ("axis", "xp.take_along_axis(x, i, 1)"): {"xp.take_along_axis(x, i, 0)"},
    ("axis", "f(x, axis=2)"): {"axis=1"},
    ("axis", "x.swapaxes(1, 2)"): {"x.swapaxes(0, 2)", "x.swapaxes(1, 1)"},
    ("axis", "x.reshape(-1)"): set(),
    ("off_by_one", "x[1:]"): {"2:", "0:"},
    ("off_by_one", "x[a:b]"): {"x[a + 1:b]", "x[a:b - 1]"},
    ("off_by_one", "range(n)"): {"range(n - 1)"},
    ("off_by_one", "x.reshape(2, -1)"): {"x.reshape(3, -1)", "x.reshape(1, -1)"},
    ("off_by_one", "x.reshape((2, -1))"): {"(3, -1)", "(1, -1)"},
    ("off_by_one", "x.sum(-1)"): set(),
    ("off_by_one", "y = 1024"): {"512"},
    ("constant", "0.5 * a"): {"1.0 * a"},
    ("constant", "0.0 * a"): {"1.0 * a"},
    ("constant", "a + 1e-20"): {"a + 0.0", "a + 0.001"},
    ("constant", "-math.inf"): {"0.0"},
    ("constant", "f(x, flag=True)"): {"flag=False"},
    ("constant", "f(x, keepdims=True)"): set(),
    ("mask", "xp.where(m, a, b)"): {"a", "b", "xp.where(m, b, a)"},
    ("mask", "def f():\n    m & n"): {"m", "n", "m | n"},
    ("mask", "Pair = Left | Right"): set(),
    ("mask", "~m"): {"m"},
    ("reduction", "x.sum(-2)"): {"x", "x.mean(-2)"},
    ("reduction", "xp.sum(x, -2)"): {"x", "xp.mean(x, -2)"},
    ("reduction", "unbroadcast(g, shape)"): {"g"},
    ("order", "x.max(-1)"): {"x.min(-1)"},
    ("order", "all(x)"): {"any(x)"},
    ("order", "x[::-1]"): {"x"},
    ("order", "x[-k:]"): {"x[:k]"},
    ("order", "xp.argsort(x, kind='stable')"): {"xp.argsort(x)"},
    ("order", "reversed(x)"): {"x"},
    ("compare", "a < b"): {"a <= b"},
    ("compare", "0 < a <= b"): {"0 <= a <= b", "0 < a < b"},
    ("compare", "a is None"): {"a is not None"},
    ("logic", "a and b"): {"a or b", "a", "b"},
    ("logic", "not a"): {"a"},
    ("logic", "a if b else c"): {"a if not b else c"},
    ("logic", "if a == b:\n    c()"): set(),  # `compare` flips it
    ("logic", "[a for a in b if c]"): {" for a in b"},
    ("statement", "a += b"): {"dropped"},
    ("statement", "a[i] = b"): {"dropped"},
    ("statement", "f(a)"): {"dropped"},
    ("statement", "a = b"): set(),
    ("transpose", "x.T"): {"x"},
    ("transpose", "x.swapaxes(1, 2)"): {"x"},
    ("transpose", "ops.transpose(x, axes)"): set(),
    ("dtype", "f('float32')"): {"f('float64')"},
    ("dtype", "x.astype(t)"): {"x"},
}  # fmt: skip

UNTOUCHED = [
    '"""A docstring - of 2 lines."""',
    "import numpy as np",
    "def f(x: 3 - 2) -> 1 + 1:\n    pass",
    "def f():\n    raise InputError(1 + 1)",
    "x = InputError(f'got {1 + 1}')",
    "x = f'{1 + 1:>3}'",
    "@lru_cache(1 + 1)\ndef f():\n    pass",
    "def __repr__(self):\n    return 1 + 1",
    "__all__ = [1 + 1]",
    "f(strict=True, copy=False)",
    "row_blocks(xp, n, 2 * d)",
]


def planted(tmp_path, code):
    (tmp_path / "code.py").write_text(code + "\n", "utf-8")
    return sites.sites_of("code.py", tmp_path)


@pytest.mark.parametrize(("name", "code"), CASES)
def test_what_becomes_of_it(tmp_path, name, code):
    found = [s.after for s in planted(tmp_path, code) if s.operator == name]
    assert set(found) == {" ".join(a.split()) for a in CASES[name, code]}
    assert len(found) == len(set(found))


def test_every_operator_has_a_case():
    assert {name for name, code in CASES if CASES[name, code]} == set(OPERATORS)


@pytest.mark.parametrize("code", UNTOUCHED)
def test_what_nobody_computes_with_is_left_alone(tmp_path, code):
    found = [s for s in planted(tmp_path, code) if s.operator not in ("statement", "swap")]
    assert not found


def test_the_mutant_is_the_code_with_one_change(tmp_path):
    """Its lines keep their numbers, and the file is as it was."""
    code = "def f(a, b=2):\n    c = a - b\n    return c\n\n\nLAST = 1\n"
    found = {}
    for site in planted(tmp_path, code):
        names: dict = {}
        function = next(c for c in sites.mutant(site, tmp_path).co_consts if hasattr(c, "co_name"))
        assert {n for _, _, n in function.co_lines() if n} <= {1, 2, 3}
        exec(sites.mutant(site, tmp_path), names)
        found[site.change] = names["f"](10), names["LAST"]
    assert (tmp_path / "code.py").read_text("utf-8").strip() == code.strip()
    assert found == {
        "2 → 3": (7, 1), "2 → 1": (9, 1), "a - b → a + b": (12, 1), "a - b → a": (10, 1),
        "a - b → -b": (-2, 1), "a - b → a - b - b": (6, 1), "a - b → b - a": (-8, 1),
        "1 → 2": (8, 2), "1 → 0": (8, 0),
    }  # fmt: skip


def test_a_default_s_lines_are_its_function_s(tmp_path):
    code = "def f(a,\n      b=-2):\n    c = a\n    return (c\n            + 3)\n"
    lines = {s.change: s.lines for s in planted(tmp_path, code)}
    assert lines["-2 → -1"] == range(3, 6)
    assert lines["c + 3 → c - 3"] == range(4, 6) and lines["c + 3 → c + 4"] == range(5, 6)
    assert sites.statement_lines(planted(tmp_path, code)[-1], tmp_path) == range(4, 6)


REAL = [s for file in sites.target_files() for s in sites.sites_of(file)]


def test_every_target_exists_and_names_are_unique():
    assert all((sites.ROOT / file).exists() for file in sites.target_files())
    assert len({(s.file, s.key) for s in REAL}) == len(REAL)


def test_the_selection_has_every_operator_of_every_file():
    chosen = sites.selection(REAL)
    assert {(s.file, s.operator) for s in chosen} == {(s.file, s.operator) for s in REAL}
    assert len(chosen) < 1.2 * sites.FRACTION * len(REAL)
    assert {s.operator for s in sites.sample(chosen, 40)} == set(OPERATORS)


def test_the_selection_depends_on_names_alone():
    shuffled = random.Random(0).sample(REAL, len(REAL))
    assert set(map(id, sites.selection(shuffled))) == set(map(id, sites.selection(REAL)))
    assert sites.sample(shuffled, 40) == sites.sample(REAL, 40)


def test_real_mutants_compile():
    for site in random.Random(0).sample(REAL, 60):
        original = ast.parse((sites.ROOT / site.file).read_text("utf-8"))
        assert sites.mutant(site) != compile(original, str(sites.ROOT / site.file), "exec")
