"""The stand-in bites: mistakes planted into a copy of the package are seen by the tests over it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.standin.mistakes import A_FEW, MISTAKES

ROOT = Path(__file__).parents[1]
SKIPPED = shutil.ignore_patterns("__pycache__", ".hypothesis", "problems", "zoo", "records")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package and its tests, to be spoiled."""
    folder = tmp_path_factory.mktemp("copy")
    for part in ("minideepseek", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=SKIPPED)
    shutil.copy(ROOT / "setup.cfg", folder)
    return folder


def run_tests(folder, *names):
    """Run tests of the copy; the exit code and what was printed."""
    done = subprocess.run(
        [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *names],
        cwd=folder, capture_output=True, encoding="utf-8", timeout=120,
        env=os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    return done.returncode, done.stdout


def expand(folder, name):
    """A test by the beginning of its name: pytest wants the whole."""
    file, _, start = name.partition("::")
    if start.endswith("]") or f"def {start}(" in (text := (folder / file).read_text("utf-8")):
        return name
    return f"{file}::{re.search(rf'def ({start}[a-z_0-9]*)', text).group(1)}"


slow = [
    pytest.param(name, marks=() if name in A_FEW else pytest.mark.slow) for name in MISTAKES
]


@pytest.mark.parametrize("name", slow)
def test_a_planted_mistake_is_seen(copy, name):
    mistake = MISTAKES[name]
    file = copy / "minideepseek" / mistake.file
    text = file.read_text("utf-8")
    assert text.count(mistake.old) == 1, f"{mistake.file} has changed: plant this one anew"
    try:
        file.write_text(text.replace(mistake.old, mistake.new), "utf-8")
        code, printed = run_tests(copy, expand(copy, mistake.test))
    finally:
        file.write_text(text, "utf-8")
    assert code == 1, printed
    assert re.search(mistake.says, printed), printed


@pytest.mark.slow
def test_without_them_the_same_tests_pass(copy):
    names = sorted({expand(copy, mistake.test) for mistake in MISTAKES.values()})
    code, printed = run_tests(copy, *names)
    assert code == 0, printed


def test_there_are_enough():
    assert len(MISTAKES) >= 25 and set(A_FEW) <= set(MISTAKES)
