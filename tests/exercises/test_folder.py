"""The learner's folder and the command line: nothing is overwritten, progress survives."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minideepseek.cli import main
from minideepseek.exercises import folder as folders
from minideepseek.exercises.catalogue import EXERCISES, Catalogue
from minideepseek.exercises.exercise import OK, OPEN, WRONG, Line
from minideepseek.exercises.folder import CHANGED, MISSING, Folder, start

from .test_problems import filled

ROOT = Path(__file__).parent.parent.parent
NAMES = list(EXERCISES.names())


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def mine(tmp_path) -> Folder:
    """A folder that was just started; files go to the disk without waiting for it."""
    start(Path("my_exercises"))
    return Folder(Path("my_exercises"))


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)


def run(capsys, *arguments) -> tuple[int, str]:
    code = main(["exercises", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert not (out and err), "one of the two"
    return code, out or err


def refused(capsys, *arguments) -> str:
    code, said = run(capsys, *arguments)
    assert code == 2 and said.startswith("minideepseek: ") and said.count("\n") == 1, said
    return said


def test_start_copies_every_skeleton(capsys):
    code, said = run(capsys, "start")
    assert code == 0 and said == (
        f"my_exercises: {len(NAMES)} copied\n"
        "open my_exercises/add.py, fill in its hole, then: minideepseek exercises check\n"
    )
    for name in NAMES:
        text = Path("my_exercises", f"{name}.py").read_text("utf-8")
        assert text == EXERCISES.skeleton(name) and "Mistake" not in text and "solution" not in text


def test_start_never_overwrites(capsys, mine, monkeypatch):
    """No work is lost, not even a comment; a newer skeleton replaces an untouched one."""
    mine.file("add").write_text("my work", "utf-8")
    mine.file("exp").unlink()
    before = EXERCISES.skeleton("tanh")
    old = Catalogue.skeleton
    monkeypatch.setattr(Catalogue, "skeleton", lambda self, name: old(self, name) + "# newer\n")
    mine.file("tanh").write_text(before + "# mine\n", "utf-8")
    code, said = run(capsys, "start")
    assert mine.file("add").read_text("utf-8") == "my work"
    assert mine.file("tanh").read_text("utf-8") == before + "# mine\n"
    assert mine.file("exp").exists() and mine.file("rope").read_text("utf-8").endswith("# newer\n")
    counts = f"1 copied, {len(NAMES) - 3} renewed (untouched so far), 2 kept as they are"
    assert said.startswith(f"my_exercises: {counts}\n") and code == 0
    assert f"{len(NAMES)} kept" in run(capsys, "start")[1]


def test_check_goes_on_to_the_first_that_is_open(capsys, mine):
    total = len(NAMES)
    assert run(capsys, "check") == (
        1, f"0 of {total} solved before\nnext: add  ★  3 minutes  my_exercises/add.py\n"
    )  # fmt: skip
    mine.file("add").write_text(filled("add", "return g, -g"), "utf-8")
    code, said = run(capsys, "check")
    assert code == 1 and said.split("\n")[1:4] == [
        "add  ★  3 minutes  my_exercises/add.py",
        "   dx  ok             error 0.0e+00",
        "   dy  wrong          the sign is flipped",
    ]
    assert "primitives.py" not in said  # the solution is for after success
    mine.file("multiply").write_text(filled("multiply", "return g, g"), "utf-8")
    assert "multiply" not in run(capsys, "check")[1]
    mine.file("multiply").write_text(EXERCISES.skeleton("multiply"), "utf-8")
    mine.file("add").write_text(filled("add", "return g, g"), "utf-8")
    code, said = run(capsys, "check")
    assert code == 1 and "next: multiply" in said
    place = said[said.index("solved; ") :].split("\n")[0]
    file, line = place.rpartition(", ")[2].split(":")
    assert Path(file).read_text("utf-8").split("\n")[int(line)].startswith("def add(x, y):")
    assert run(capsys, "check")[1].startswith(f"1 of {total} solved before\nnext: multiply")


def test_check_of_one(capsys, mine):
    code, said = run(capsys, "check", "my_exercises/swiglu.py", "--dir", "my_exercises")
    assert code == 1 and said == (
        "swiglu  ★★  12 minutes  my_exercises/swiglu.py\n"
        "   dgate  not attempted\n   dup    not attempted\n"
    )


def test_hints_come_one_by_one(capsys, mine):
    hints = EXERCISES.load("softmax").hints
    for i in (1, 2, 3, 3):
        code, said = run(capsys, "hint", "softmax")
        assert code == 0 and said.startswith(f"softmax: hint {i} of 3\n   the idea\n      Apply")
        flat = said.replace("\n      ", "\n")
        assert [hint in flat for hint in hints] == [True, i >= 2, i >= 3]
    assert run(capsys, "hint", "exp")[1].startswith("exp: hint 1 of 3")


def test_list_survives_restarts(capsys, mine):
    mine.record("add", mine.text("add"), [Line("dx", OK)])
    mine.record("exp", mine.text("exp"), [Line("dx", OK), Line("dy", WRONG)])
    mine.record("tanh", mine.text("tanh"), [Line("dx", OPEN)])
    mine.record("sum", mine.text("sum"), [Line("dx", OK)])
    mine.file("sum").write_text("another", "utf-8")
    mine.file("rope").unlink()
    again = Folder(mine.path)
    want = {"add": OK, "exp": WRONG, "tanh": OPEN, "sum": CHANGED, "rope": MISSING, "matmul": OPEN}
    assert {name: again.verdict(name) for name in want} == want
    code, said = run(capsys, "list")
    assert code == 0 and said.startswith(f"my_exercises: 1 of {len(NAMES)} solved\n")
    rows = said.split("\n")
    for name, verdict in want.items():
        (row,) = [r for r in rows if f"  {name} " in r]
        assert row.startswith(f"   {verdict} ")
    assert max(map(len, rows)) <= 100


def test_a_folder_is_found_from_inside(capsys, mine, monkeypatch):
    monkeypatch.chdir(mine.path)
    assert run(capsys, "list")[1].startswith(".: 0 of")


def test_what_cannot_be_used_is_one_sentence(capsys, mine, tmp_path):
    assert "no exercise 'sofmax'; did you mean softmax?" in refused(capsys, "hint", "sofmax")
    assert "'qqq'; see: minideepseek exercises list" in refused(capsys, "check", "qqq")
    for part in (["check"], ["list"], ["hint", "add"]):
        said = refused(capsys, *part, "--dir", "nowhere")
        assert "nowhere: no such folder; make it: minideepseek exercises start nowhere\n" in said
    mine.file("add").unlink()
    assert "my_exercises/add.py: no such file; copy it with" in refused(capsys, "check", "add")
    Path("file").write_text("", "utf-8")
    assert "file: File exists" in refused(capsys, "start", "file")


def test_a_damaged_record_is_set_aside(capsys, mine):
    """The answers are what counts: they stay, and so does what could not be read."""
    mine.hint("add")
    for number, text in (("", "{"), ("2-", "[]"), ("3-", '{"add": 3}')):
        record = Path("my_exercises/.progress.json")
        record.write_text(text, "utf-8")
        assert main(["exercises", "list"]) == 0
        out, said = capsys.readouterr()
        assert "0 of 35 solved" in out and said.count("\n") == 1
        assert said.startswith("minideepseek: my_exercises/.progress.json: is n")
        aside = f"damaged-{number}progress.json"
        assert said.endswith(f"; it is set aside as {aside}, and a new record begun\n")
        assert not record.exists() and (mine.path / aside).read_text("utf-8") == text
    assert "hint 1 of 3" in run(capsys, "hint", "add")[1]


def test_a_damaged_record_that_cannot_be_set_aside_is_refused(capsys, mine, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    (mine.path / ".progress.json").write_text("{", "utf-8")
    monkeypatch.setattr(os, "rename", refuse)
    said = refused(capsys, "list")
    assert "cannot set my_exercises/.progress.json aside: Permission denied" in said


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(capsys, mine):
    mine.path.chmod(0o500)
    try:
        assert "cannot write" in refused(capsys, "hint", "add")
    finally:
        mine.path.chmod(0o700)


def test_a_record_that_cannot_be_kept_is_one_sentence(capsys, mine, monkeypatch):
    """As above, for those who may write anywhere."""

    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    assert "cannot write my_exercises/.progress.json" in refused(capsys, "hint", "add")


def test_the_record_is_small_and_readable(mine):
    mine.hint("add")
    stored = json.loads(Path("my_exercises/.progress.json").read_text("utf-8"))
    assert set(stored) == set(NAMES) and stored["add"]["hints"] == 1
    assert stored["add"]["skeleton"] == folders.fingerprint(EXERCISES.skeleton("add"))


@pytest.mark.slow
def test_a_build_holds_them_and_checks(tmp_path):
    """As from a wheel: built by setuptools, used from elsewhere, in less than two seconds."""
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "minideepseek", tmp_path / "minideepseek")
    code = "from setuptools import setup; setup()"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, "--quiet", "build", "--build-lib", "built"],
        cwd=tmp_path, capture_output=True, check=True, timeout=300,
    )  # fmt: skip
    work = tmp_path / "work"
    work.mkdir()

    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-P", "-m", "minideepseek", "exercises", *arguments], cwd=work,
            env=os.environ | {"PYTHONPATH": str(tmp_path / "built")},
            capture_output=True, encoding="utf-8", timeout=60,
        )  # fmt: skip

    assert f"{len(NAMES)} copied" in command("start").stdout
    file = work / "my_exercises/rms_norm.py"
    rule = "gw = g * weight\ndx = r * (gw - x_hat * (gw * x_hat).mean(-1, keepdims=True))\n"
    rule += "return dx, (g * x_hat).reshape(-1, len(weight)).sum(0)"
    file.write_text(filled("rms_norm", rule), "utf-8")
    begun = time.monotonic()
    found = command("check", "rms_norm")
    taken = time.monotonic() - begun
    assert found.returncode == 0 and not found.stderr, found
    assert str(tmp_path / "built/minideepseek/autograd/fused.py") in found.stdout
    assert taken < 2, f"{taken:.1f} s"
    assert command("check").returncode == 1
