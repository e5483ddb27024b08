"""What goes wrong in a learner's file is reported as theirs: file, line, and in one sentence."""

import sys

import numpy as np
import pytest

from minideepseek.exercises.catalogue import EXERCISES
from minideepseek.exercises.examine import check_file, examine
from minideepseek.exercises.exercise import OK, OPEN, WRONG, Line, solved
from minideepseek.exercises.gradients import Case, gradients
from minideepseek.exercises.properties import compare, properties

from ..platforms import needs_signals
from .test_problems import filled

HEAD = "import numpy as np\ndef add(x, y):\n"


def returned(rule):
    """A file that ends in: return x + y, lambda g: rule."""
    return f"{HEAD}    return x + y, lambda g: {rule}\n"


WORDS = {
    # the file, the name of the one line of the report, how its text begins
    "syntax": ("def add(x, y:\n    pass\n", "error", "{file}:1: SyntaxError: "),
    "indentation": ("def add(x, y):\nreturn x\n", "error", "{file}:2: IndentationError: "),
    "null": ("x = 1\0\n", "error", "{file}"),
    "encoding": ("x = '\udcff'\n", "error", "{file}:1: SyntaxError: (unicode error)"),
    "name": (HEAD + "    return x + z, None\n", "error", "{file}:3: NameError: name 'z' is not"),
    "library": (HEAD + "    return np.add(x), None\n", "error", "{file}:3: TypeError: add() takes"),
    "import": ("import nothing_of_that_name\n", "error", "{file}:1: ModuleNotFoundError: "),
    "exit": ("import sys\nsys.exit(3)\n", "error", "{file}:2: SystemExit: 3"),
    "recursion": ("def add(x, y):\n    return add(x, y)\n", "error", "{file}:2: RecursionError: "),
    "empty": ("", "error", "{file}: AttributeError: it defines no function add"),
    "a number": ("add = 3\n", "error", "{file}: AttributeError: it defines no function add"),
    "signature": ("def add(x):\n    return x\n", "error", "{file}: TypeError: add() takes 1 posit"),
    "value alone": (HEAD + "    return x + y\n", "value", "add returned an array (2, 3), expect"),
    "nothing": (HEAD + "    x + y\n", "value", "add returned None, expected a pair ("),
    "no vjp": (HEAD + "    return x + y, 3\n", "value", "add returned (an array (2, 3), an int)"),
    "list": (HEAD + "    return [[1]], len\n", "value", "the value is a list [a list [an int]]"),
    "vjp: None": (returned("None"), "vjp", "it returned None, expected a tuple, a gradient (or"),
    "vjp: text": (returned("(g, 'g')"), "vjp", "dy is a str, expected an array"),
    "vjp: bool": (returned("(g, g > 0)"), "vjp", "dy is an array of bool, expected floating"),
    "vjp: three": (returned("(g, g, g)"), "vjp", "it returned a tuple of 3, expected one of 2"),
    "vjp: NaN": (returned("(g, g * np.nan)"), "dy", "NaN or Inf"),
    "vjp: error": (returned("(g, g @ g)"), "error", "{file}:3: ValueError: matmul"),
    "forward": (HEAD + "    return x - y, lambda g: (g, -g)\n", "value", "the forward was right"),
}  # fmt: skip


@pytest.mark.parametrize("what", WORDS)
def test_a_learner_s_error_is_one_line_on_it(what, tmp_path):
    text, name, begins = WORDS[what]
    file = tmp_path / "add.py"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    lines = examine(EXERCISES.load("add"), "add", str(file))
    wrong = [line for line in lines if line.verdict == WRONG]
    assert len(wrong) == 1 and wrong[0].name == name, lines
    assert wrong[0].text.startswith(begins.format(file=file)), wrong[0].text
    assert "minideepseek/exercises" not in wrong[0].text  # nothing of ours


def test_what_a_file_does_as_a_script_is_left_out(tmp_path):
    file = tmp_path / "add.py"
    script = '\nif __name__ == "__main__":\n    1 / 0\n'
    file.write_text(filled("add", "return g, g") + script, "utf-8")
    assert solved(examine(EXERCISES.load("add"), "add", str(file)))


def test_a_part_of_the_gradients_may_come_first(tmp_path):
    file = tmp_path / "add.py"
    file.write_text(filled("add", "return g, None"), "utf-8")
    lines = examine(EXERCISES.load("add"), "add", str(file))
    assert [(n.name, n.verdict) for n in lines] == [("dx", OK), ("dy", OPEN)]


# ---------------------------------------------------------------------- in a process of its own


def test_a_process_of_its_own(tmp_path):
    """Prints come back, and what the file does to NumPy and its directory stays there."""
    file = tmp_path / "exp.py"
    mess = "import os, sys\nos.chdir('/')\nnp.seterr(all='raise')\nprint('hullo', 3)\n"
    mess += "os.write(1, b'not JSON')\nprint('x' * 5000, file=sys.stderr)\n"
    file.write_text(filled("exp", "return g * y").replace("\n\n\ndef", f"\n{mess}\n\ndef"), "utf-8")
    before = np.geterr()
    lines, printed = check_file("exp", str(file))
    assert [line.verdict for line in lines] == [OK] * 4
    assert printed.startswith("hullo 3\nxxx") and len(printed) == 1000
    assert np.geterr() == before and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("loop", ["while True:", "threading.Event().wait()"])
def test_an_endless_loop_is_found_by_its_line(tmp_path, loop):
    """By a line of the learner's, though it may wait in a library."""
    file = tmp_path / "exp.py"
    code = f"import threading\n{loop}" + "\n    g = g * 1" * loop.endswith(":")
    file.write_text(filled("exp", code), "utf-8")
    (line,), _ = check_file("exp", str(file), limit=0.3)
    assert (line.name, line.verdict) == ("time", WRONG)
    at = file.read_text("utf-8").split("\n").index(f"        {loop}") + 1
    places = [f"{file}:{n}: still there after 0.3 s: an endless loop?" for n in (at, at + 1)]
    assert line.text.split("\n")[0] in places


@pytest.mark.slow
@pytest.mark.parametrize("code, said", [
    ("import os\nos._exit(7)", "it ended Python with code 7"),
    pytest.param(
        "import signal, os\nos.kill(os.getpid(), signal.SIGKILL)", "it ended Python with code -9",
        marks=needs_signals,
    ),
    ("input()", "EOFError"),
])  # fmt: skip
def test_a_file_that_ends_python(tmp_path, code, said):
    file = tmp_path / "exp.py"
    file.write_text(code, "utf-8")
    (line,), _ = check_file("exp", str(file))
    assert line.verdict == WRONG and said in line.text and str(file) in line.text


@pytest.mark.slow
def test_files_named_like_libraries_do_no_harm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("numpy", "json", "minideepseek", "exp"):
        (tmp_path / f"{name}.py").write_text(filled("exp", "return g * y"), "utf-8")
    lines, _ = check_file("exp", "exp.py")
    assert all(line.verdict == OK for line in lines), lines
    assert "json" in sys.modules and not str(sys.modules["json"].__file__).startswith(str(tmp_path))


# -------------------------------------------------------------------------------- the two checkers


def test_the_order_of_evidence():
    """What is wrong first is said, and nothing after it."""

    def case(rng):
        return [Case([rng.standard_normal((2, 2))]), Case([rng.standard_normal(2)], stage="more")]

    def reference(x):
        return x * x, lambda g: 2 * g * x

    def twice(x):  # wrong everywhere: the factor is said, not the dtype
        return x * x, lambda g: (g * x).astype(np.float64)

    lines = gradients(case)(twice, reference)
    assert [line.name for line in lines] == ["dx"] and "factor 0.5" in lines[0].text

    def later(x):
        return x * x, lambda g: (2 * g * x * (x.ndim == 2)).astype(np.float64)

    lines = gradients(case)(later, reference)
    assert [(n.name, n.verdict) for n in lines] == [("dx", OK), ("more", WRONG)]
    right = [line.name for line in gradients(case)(reference, reference)]
    assert right == ["dx", "more", "float32", "memory"]


def one_array(shape=(3,), **options):
    return lambda rng: [Case([rng.standard_normal(shape)], **options)]


def double(x):
    return 2 * x, lambda g: 2 * g


def widened(x):
    return 2 * x, lambda g: g * np.full(3, 2.0)


def inexact(x):
    return 2 * x, lambda g: g * (2 if x.dtype == np.float64 else 2.01)


def not_summed(x):
    return x * np.ones((2, 1)), lambda g: g * np.ones((2, 3))


def test_float32_is_judged_by_its_type_and_its_values():
    (*_, line) = gradients(one_array())(widened, double)
    assert line.name == "float32" and line.text.startswith("dx is float64: a float64 number or")
    (*_, line) = gradients(one_array())(inexact, double)
    assert (line.name, line.text) == ("float32", "dx agrees with float64 to less than 1e-4")


def test_a_broadcast_shape_is_wrong_where_it_should_be_exact():
    (line,) = gradients(one_array())(not_summed, not_summed)
    assert line.text == "shape (2, 3), want (3,): sum over the broadcast axes"
    assert gradients(one_array(exact=False))(not_summed, not_summed)[0].verdict == OK


def test_an_error_of_a_rule_says_where_it_was_called_and_is_blamed_on_the_line_it_arose(tmp_path):
    file = tmp_path / "add.py"
    file.write_text(f"{returned('helper(g)')}def helper(g):\n    return g[5]\n", "utf-8")
    (line,) = examine(EXERCISES.load("add"), "add", str(file))
    assert line.text.startswith(f"{file}:5: IndexError: index 5 is out of bounds"), line
    assert line.text.split("\n")[1:] == ["return g[5]", "called with x (2, 3), y (2, 3)"]


def test_duality_is_shown_beside_the_differences():
    """Both sides of it, right or wrong; nothing where a gradient has not even its shape."""

    def case(rng):
        return [Case([rng.standard_normal((2, 2)), rng.standard_normal((2, 2))])]

    def product(rule):
        return lambda x, y: (x @ y, lambda g: rule(g, x, y))

    right = product(lambda g, x, y: (g @ y.T, x.T @ g))
    check = gradients(case, linear=True)
    line = check(right, right)[2]
    one, other = (float(side.split(" = ")[1]) for side in line.text.split(", ⟨fᵀ"))
    assert (line.name, line.verdict) == ("duality", OK) and one == other != 0
    line = check(product(lambda g, x, y: (-g @ y.T, x.T @ g)), right)[2]
    one, other = (float(side.split(" = ")[1]) for side in line.text.split(", ⟨fᵀ"))
    assert (line.name, line.verdict) == ("duality", WRONG) and one == -other != 0
    for rule in (lambda g, x, y: (g[0], x.T @ g), lambda g, x, y: g, lambda g, x, y: (None, None)):
        assert "duality" not in [line.name for line in check(product(rule), right)]


def test_memory_is_told_apart():
    def case(rng):
        return [Case([rng.standard_normal(4)])]

    def lean(x):
        y = np.exp(x)
        return y, lambda g: g * y

    def fat(x):
        y, other = np.exp(x), x * 1
        return y, lambda g: g * y + 0 * other + 0 * x

    def views(x):
        y = np.exp(x)
        a, b = y[:2], y[2:]
        return y, lambda g: g * np.concatenate([a, b])

    def overwrites(x):
        y = np.exp(x)
        return y, lambda g: np.multiply(g, y, out=y)

    assert gradients(case)(lean, lean)[-1].text == "keeps y: 32 bytes"
    assert gradients(case)(views, lean)[-1].text == "keeps a: 32 bytes"
    assert "it keeps" in gradients(case)(overwrites, lean)[0].text
    text = gradients(case)(fat, lean)[-1].text
    assert text == "keeps other, x, y: 96 bytes (the library's vjp: 32)"


def test_properties_stop_at_the_first_that_fails():
    seen = []

    def said(text):
        return lambda f: seen.append(f) or text

    def not_there(f):
        raise NotImplementedError

    checker = properties({"one": said(""), "two": said("no"), "three": said("")})
    assert checker(len, len) == [Line("one", OK), Line("two", WRONG, "no")] and len(seen) == 2
    assert properties({"one": not_there})(len, len) == [Line("one", OPEN)]


X = np.array([[1.0, 2.0], [3.0, 4.0]])
DIFFERENCES = [
    (X + 1e-12, X, ""), (np.arange(3), np.arange(3), ""), (X * 0, X * 0, ""),
    ([1.0], X, "it is a list [a float], expected an array (2, 2)"),
    (X[0], X, "it has shape (2,), want (2, 2)"),
    (np.ones((2, 3)), np.ones((3, 2)), "it has shape (2, 3), want (3, 2): transposed?"),
    (np.arange(4).reshape(2, 2), X, "it is an array of int64, expected float64"),
    (X * np.nan, X, "it holds NaN or Inf"),
    (X * 0, X, "it is zero, expected an array that is not"),
    (-X, X, "it: the sign is flipped"), (3 * X, X, "it: right direction, off by a factor 3"),
    (X.T, X, "it: transposed: its rows are the columns"),
    (X + [[0, 0.5], [0, 0]], X, "it: 1 of 4 entries differ, worst at (0, 1): got 2.5"),
    (np.array([1, 2, 3]), np.array([1, 2, 5]), "it: 1 of 3 entries differ, worst at (2)"),
]  # fmt: skip


@pytest.mark.parametrize("got, want, said", DIFFERENCES)
def test_how_arrays_differ(got, want, said):
    found = compare(got, want, "it")
    assert found.startswith(said) and bool(found) == bool(said)
