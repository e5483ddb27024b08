"""Every bug looks right and fails its property, the library has it, and so has the mended copy."""

import ast
import os
import re
from pathlib import Path

import numpy as np
import pytest

from minideepseek.autograd.engine import Tensor
from minideepseek.cli import main
from minideepseek.exercises import examine as processes
from minideepseek.exercises import zoo
from minideepseek.exercises.bugs import ZOO, looks_right, symptom, told
from minideepseek.exercises.catalogue import CUT
from minideepseek.exercises.examine import examine
from minideepseek.exercises.exercise import OK, WRONG, solved
from minideepseek.exercises.page import report

NAMES = list(ZOO.names())
BUGS = {name: ZOO.load(name) for name in NAMES}
MISTAKES = [(name, i) for name in NAMES for i in range(len(BUGS[name].mistakes))]


def judged(name, folder, code=None):
    """The lines on a copy, as a visitor gets them, with code in the place of what is wrong."""
    text = ZOO.skeleton(name)
    if code is not None:
        text = text.replace(BUGS[name].wrong, code)
    file = folder / f"{name}.py"
    file.write_text(text, "utf-8")
    return examine(BUGS[name], name, str(file))


def first_wrong(lines):
    return next((line for line in lines if line.verdict == WRONG), None)


@pytest.mark.parametrize("name", NAMES)
def test_a_bug_looks_right_and_fails_its_property(name, tmp_path):
    lines = judged(name, tmp_path)
    assert (lines[0].name, lines[0].verdict) == ("looks right", OK), report(lines)
    line, (failing, says) = first_wrong(lines), BUGS[name].fails
    assert (line.name, says in line.text) == (failing, True), report(lines)
    assert "\n" in line.text or re.search(r"\d", line.text), "a counterexample has numbers"
    assert max(len(row) for row in report(lines).split("\n")) <= 120


@pytest.mark.parametrize("name", NAMES)
def test_the_library_has_the_property(name):
    lines = BUGS[name].check(BUGS[name].reference)
    assert solved(lines) and len(lines) >= 2, report(lines)


@pytest.mark.parametrize("name", NAMES)
def test_the_mended_copy_has_it_too(name, tmp_path):
    lines = judged(name, tmp_path, BUGS[name].mend)
    assert solved(lines), report(lines)


@pytest.mark.parametrize("name, i", MISTAKES)
def test_what_else_one_might_write_is_refused(name, i, tmp_path):
    mistake = BUGS[name].mistakes[i]
    lines = judged(name, tmp_path, mistake.code)
    line = first_wrong(lines)
    assert line is not None, report(lines)
    assert (line.name, mistake.says in line.text) == (mistake.name, True), report(lines)


@pytest.mark.parametrize("name", NAMES)
def test_no_property_is_there_in_vain(name):
    """Each but the first is the one that a wrong copy fails."""
    bug = BUGS[name]
    lines = {line.name for line in bug.check(bug.reference)}
    assert lines == {"looks right", bug.fails[0], *(m.name for m in bug.mistakes)}


@pytest.mark.parametrize("name", NAMES)
def test_the_file_of_a_bug(name):
    bug, copy, source = BUGS[name], ZOO.skeleton(name), ZOO.source(name)
    assert len(CUT.split(source)) == 2 and copy.count(bug.wrong) == 1
    assert not (bug.mend and bug.mend in copy) and "NotImplementedError" not in copy
    assert len(bug.hints) == 3 and all(hint and len(hint) < 400 for hint in bug.hints)
    assert len(bug.mistakes) >= 1 and len({m.code for m in bug.mistakes}) == len(bug.mistakes)
    assert bug.wrong not in {bug.mend, *(m.code for m in bug.mistakes)}
    head = ZOO.heading(name)
    assert len(head.title) <= 44 and 2 <= head.minutes <= 30
    said = [*"\n".join(bug.hints).split("\n"), *bug.story.split("\n"), *symptom(name).split("\n")]
    assert max(map(len, said)) <= 100 and len(symptom(name)) > 200 < len(bug.story)
    tree = ast.parse(copy)
    functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
    assert len(ast.get_docstring(functions[name])) > 30, "says what is right"


NAMING = r"https?:|www\.|github|gitlab|(?<!pass)@|et al|\b\w+/\w+\.py"


@pytest.mark.parametrize("name", NAMES)
def test_nobody_is_named(name):
    """Neither a person nor a repository, and no path into the library above the line."""
    texts = [ast.get_docstring(node) or "" for node in _documented(ZOO.source(name))]
    for text in [*texts, *BUGS[name].hints, BUGS[name].story]:
        assert not re.search(NAMING, text), text
    assert "minideepseek.layers" not in ZOO.skeleton(name)


def _documented(source):
    kinds = (ast.Module, ast.FunctionDef, ast.ClassDef)
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]


def test_every_bug_is_in_the_catalogue_once():
    folder = Path(zoo.__file__).parent
    assert sorted([*NAMES, "__init__"]) == sorted(file.stem for file in folder.glob("*.py"))
    assert len({ZOO.heading(name).title for name in NAMES}) == len(NAMES)


# --------------------------------------------------------------------------------------- the parts


def test_looks_right_refuses_what_does_not():
    judge = looks_right(lambda f: f(), ((2,), "f"), ((), "i"))
    good = (np.ones(2), np.int64(3))
    assert judge(lambda: good) == judge(lambda: (Tensor(np.ones(2)), 3)) == ""
    for bad, says in (
        (np.ones(2), "an array (2,), expected 2 values"),
        ((np.ones(3), 3), "an array (3,), want (2,)"),
        ((np.ones(2, int), 3), "expected floats"),
        ((np.ones(2), 3.0), "a float, expected integers"),
        ((np.full(2, np.nan), 3), "NaN or Inf"),
        ((None, 3), "None, expected floats"),
        (([1.0, 1.0], 3), "a list [a float, a float], expected floats (2,)"),
    ):
        assert says in judge(lambda bad=bad: bad), bad


def test_looks_right_of_one():
    one = looks_right(lambda f: f(), ((), "f"))
    assert "(a float, a float), expected one value" in one(lambda: (1.0, 2.0))


def test_told():
    assert told(np.array([[-1e-9, 0.12345]])) == "[[0.0, 0.123]]" and told(np.array([3])) == "[3]"


# -------------------------------------------------------------------------------- the command line


def checked_here(name, path, catalogue):
    """check_file without a process of its own, which test_examine.py is about."""
    return examine(catalogue.load(name), name, path), ""


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.setattr(processes, "check_file", checked_here)

    def run(*arguments):
        code = main(["zoo", *arguments])
        out, err = capsys.readouterr()
        assert not (out and err), "one of the two"
        return code, out or err

    return run


def test_a_visit(command, tmp_path):
    """From the list to the story; nothing is written before a bug is shown."""
    code, said = command("list")
    assert code == 0 and said.startswith(f"my_zoo: 0 of {len(NAMES)} solved\n")
    assert said.endswith("begin with: minideepseek zoo show choose_experts\n")
    assert max(map(len, said.split("\n"))) <= 100 and not list(tmp_path.iterdir())
    assert "missing" not in said and "not attempted" not in said
    assert command("check", "choose_experts") == (2, (
        "minideepseek: my_zoo/choose_experts.py: no such file; "
        "copy it with: minideepseek zoo show choose_experts\n"
    ))  # fmt: skip
    code, said = command("show", "choose_experts")
    assert code == 0 and symptom("choose_experts") in said
    assert BUGS["choose_experts"].fails[1].partition("\n")[0] in said
    assert said.endswith("py, then: minideepseek zoo check choose_experts\n")
    file = tmp_path / "my_zoo/choose_experts.py"
    assert sorted(p.name for p in file.parent.iterdir()) == [".progress.json", "choose_experts.py"]
    assert file.read_text("utf-8") == ZOO.skeleton("choose_experts")
    assert command("check", "choose_experts")[0] == 1
    bug = BUGS["choose_experts"]
    file.write_text(ZOO.skeleton("choose_experts").replace(bug.wrong, bug.mend), "utf-8")
    assert "   changed " in command("list")[1]
    code, said = command("check", "choose_experts")
    assert code == 0 and bug.story in said and "layers/moe.py:" in said
    assert command("show", "choose_experts")[0] == 0
    assert bug.mend in file.read_text("utf-8"), "show writes over nothing"
    said = command("list")[1]
    assert said.startswith(f"my_zoo: 1 of {len(NAMES)} solved\n") and "begin with" not in said
    file.unlink()
    assert "   missing " in command("list")[1]


def test_a_copy_is_checked_in_a_process_of_its_own(tmp_path):
    file = tmp_path / "choose_experts.py"
    file.write_text(ZOO.skeleton("choose_experts") + "print('hullo')\n", "utf-8")
    lines, printed = processes.check_file("choose_experts", str(file), ZOO)
    assert lines == judged("choose_experts", tmp_path) and printed == "hullo\n"


def test_hints_and_what_cannot_be_used(command):
    near = command("show", "choose_expert")[1]
    assert "no bug 'choose_expert'; did you mean choose_experts?" in near
    assert command("hint", "choose_experts")[0] == 2
    said = command("show", "choose_experts", "--dir", "elsewhere")[1]
    assert said.endswith("then: minideepseek zoo check choose_experts --dir elsewhere\n")
    code, said = command("hint", "choose_experts", "--dir", "elsewhere")
    assert code == 0 and BUGS["choose_experts"].hints[0] in said


def test_an_error_of_the_copy_is_the_visitor_s(command, tmp_path):
    command("show", "choose_experts")
    file = tmp_path / "my_zoo/choose_experts.py"
    for text, says in (
        ("def choose_experts(:\n", ":1: SyntaxError"),
        (ZOO.skeleton("choose_experts").replace("order[:, :k]", "order[:, :q]"), "NameError"),
        (ZOO.skeleton("choose_experts").replace("order[:, :k]", "None"), "it returned None"),
    ):
        file.write_text(text, "utf-8")
        code, said = command("check", "choose_experts")
        assert code == 1 and says in said and "Traceback" not in said
