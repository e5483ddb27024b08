"""No file is read or written in whatever encoding the machine happens to prefer."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [p for part in ("minideepseek", "demos", "tests") for p in (ROOT / part).rglob("*.py")]
RUNS = {"run", "Popen", "check_output", "check_call"}


def unnamed(source: str) -> list[int]:
    """The lines of calls that leave the encoding of text to the machine."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        method = isinstance(node.func, ast.Attribute)
        name = node.func.attr if method else getattr(node.func, "id", "")
        given = {word.arg: word.value for word in node.keywords}
        if "encoding" in given or None in given:  # **options: not ours to see
            continue
        if name == "read_text" and method:
            bad = not node.args
        elif name == "write_text":
            bad = len(node.args) < 2
        elif name in RUNS:
            bad = bool({"text", "universal_newlines"} & {*given})
        else:
            bad = name in ("open", "fdopen") and _opens_text(node, given, method)
        if bad:
            found.append(node.lineno)
    return found


def _opens_text(node: ast.Call, given: dict, method: bool) -> bool:
    """Whether an open() has a mode of text; os.open and a browser's open have another."""
    if method and getattr(node.func.value, "id", "") in ("os", "browser", "webbrowser"):
        return False
    place = 0 if method and getattr(node.func.value, "id", "") not in ("io", "os") else 1
    mode = given.get("mode", node.args[place] if len(node.args) > place else ast.Constant("r"))
    return isinstance(mode, ast.Constant) and isinstance(mode.value, str) and "b" not in mode.value


@pytest.mark.parametrize("line", [
    "open('a')", "open('a', 'w')", "p.open()", "p.open('a')", "p.read_text()", "io.open('a', 'w')",
    "p.write_text('a')", "run(['a'], text=True)", "subprocess.Popen('a', universal_newlines=True)",
])  # fmt: skip
def test_what_is_found(line):
    assert unnamed(line) == [1]


@pytest.mark.parametrize("line", [
    "open('a', 'rb')", "open('a', encoding='utf-8')", "p.open('rb')", "os.open('a', 0)",
    "p.read_text('utf-8')", "p.write_text('a', 'utf-8')", "run(['a'], encoding='utf-8')",
    "run(['a'], capture_output=True)", "open('a', mode)", "open('a', **options)",
])  # fmt: skip
def test_what_is_not(line):
    assert unnamed(line) == []


def test_every_encoding_is_named():
    found = {str(p.relative_to(ROOT)): unnamed(p.read_text("utf-8")) for p in FILES}
    assert {name: lines for name, lines in found.items() if lines} == {}
    assert len(found) > 300
