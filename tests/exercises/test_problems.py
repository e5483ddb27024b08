"""Every exercise: its skeleton is open, the library's definition solves it, mistakes are named."""

import ast
import functools
import re
from pathlib import Path

import pytest

from minideepseek.exercises import problems
from minideepseek.exercises.catalogue import CUT, EXERCISES, HOLE
from minideepseek.exercises.examine import examine, load
from minideepseek.exercises.exercise import OK, OPEN, WRONG, Mistake, solved
from minideepseek.exercises.page import report

NAMES = list(EXERCISES.names())
TASKS = {name: EXERCISES.load(name) for name in NAMES}
PLANTED = [(name, i) for name in NAMES for i in range(len(TASKS[name].mistakes))]


def filled(name: str, code: str) -> str:
    """The skeleton with code in its hole."""
    skeleton = EXERCISES.skeleton(name)

    def fill(hole):
        return "".join(f"{hole[1]}{line}\n" for line in code.split("\n"))

    return HOLE.sub(fill, skeleton)


def judged(name: str, text: str, folder):
    """The lines on a learner's file that holds text."""
    file = folder / f"{name}.py"
    file.write_text(text, "utf-8")
    return examine(TASKS[name], name, str(file))


@pytest.mark.parametrize("name", NAMES)
def test_a_skeleton_is_not_attempted(name, tmp_path):
    lines = judged(name, EXERCISES.skeleton(name), tmp_path)
    assert lines and all(line.verdict == OPEN for line in lines), lines


@pytest.mark.parametrize("name", NAMES)
def test_the_library_s_definition_solves_it(name):
    lines = TASKS[name].check(TASKS[name].reference)
    assert lines and all(line.verdict == OK for line in lines), lines


@pytest.mark.parametrize("name", [n for n in NAMES if "gradients" in TASKS[n].checker.__qualname__])
def test_a_skeleton_s_forward_is_the_library_s(name, tmp_path):
    """The learner's values with the library's vjp solve it, in every call of the check."""
    file = tmp_path / f"{name}.py"
    file.write_text(EXERCISES.skeleton(name), "utf-8")
    skeleton, library = load(name, str(file)), TASKS[name].reference

    @functools.wraps(skeleton)
    def both(*arrays, **options):
        return skeleton(*arrays, **options)[0], library(*arrays, **options)[1]

    lines = TASKS[name].check(both)
    assert solved(lines), report(lines)


def check_mistake(name, mistake: Mistake, folder):
    lines = judged(name, filled(name, mistake.code), folder)
    page = report(lines)
    assert not solved(lines), page
    first = next(line for line in lines if line.verdict == WRONG)
    assert (first.name, mistake.says in first.text) == (mistake.name, True), page


@pytest.mark.parametrize("name", NAMES)
def test_a_mistake_is_named(name, tmp_path):
    check_mistake(name, TASKS[name].mistakes[0], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name, i", PLANTED)
def test_every_mistake_is_named(name, i, tmp_path):
    check_mistake(name, TASKS[name].mistakes[i], tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_the_file_of_an_exercise(name):
    task, skeleton = TASKS[name], EXERCISES.skeleton(name)
    head = EXERCISES.heading(name)
    assert head.title and 2 <= head.minutes <= 60
    assert len(HOLE.findall(skeleton)) == 1 and skeleton.count("NotImplementedE") <= 2
    assert len(CUT.split(EXERCISES.source(name))) == 2
    assert len(task.hints) == 3 and all(hint and len(hint) < 400 for hint in task.hints)
    assert max(map(len, "\n".join(task.hints).split("\n"))) <= 88
    assert len(task.mistakes) >= 4 and len({m.code for m in task.mistakes}) == len(task.mistakes)
    assert len({m.says for m in task.mistakes}) >= 3
    tree = ast.parse(skeleton)
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert name in names and ast.get_docstring(tree)
    spoiler = re.compile(r"minideepseek/autograd|fused|reference\.py")
    assert not spoiler.search(skeleton), "a skeleton does not say where its solution is"


def test_every_problem_is_in_the_catalogue_once():
    folder = Path(problems.__file__).parent
    assert sorted([*NAMES, "__init__"]) == sorted(file.stem for file in folder.glob("*.py"))
