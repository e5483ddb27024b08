"""The command line as Windows runs it (as_windows.py), every warning an error: the same files.

An ordinary run of the same verb, in Python's development mode, stands beside each.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minideepseek.cli import build_parser
from tests.training import tiny

ROOT = Path(__file__).parents[2]
STRICT = "-P -X dev -W error -X warn_default_encoding".split()
ACTOR = str(Path(__file__).with_name("as_windows.py"))
PLACES = {
    "windows": ([ACTOR], {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0", "LC_ALL": "C"}),
    "here": (["-m", "minideepseek"], {"PYTHONUTF8": "0"}),
}
PRETRAIN = (
    "pretrain --preset nano --steps 4 --batch-size 2 --sequence-length 16 --evaluate-every 2 "
    "--checkpoint-every 2 --text text.txt --out run"
)
QUICK = {  # in this order, in one folder: the exit code
    PRETRAIN: 0,
    "generate run/model the --max-new-tokens 5": 0,
    "exercises start": 0,
    "exercises check add": 1,
    "eq V2:10": 0,
}
SLOW = {
    PRETRAIN: 0,
    "pretrain --resume run": 0,
    "inspect run/model": 0,
    "info --preset v3": 0,
    "exercises start": 0,
    "exercises hint add": 0,
    "exercises list": 0,
    "zoo show choose_experts": 0,
    "zoo check choose_experts": 1,
    "zoo hint choose_experts": 0,
    "zoo list": 0,
    "think --seed 3": 0,
    "sft --steps 2 --out s": 0,
    "grpo --steps 2 --out g": 0,
    "grpo --resume g": 0,
    "evaluate --samples 2": 0,
}
ALONE = {"journey --quick --text text.txt --out j": 0, "book --out book": 0}  # on Windows only
linux = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the actor needs /proc")


def verbs(commands: dict[str, int], folder: Path, places=tuple(PLACES)) -> dict[str, dict]:
    """What each command wrote to standard output, by platform, in folder/PLATFORM."""
    found: dict[str, dict[str, str]] = {}
    for place in places:
        program, changes = PLACES[place]
        (folder / place).mkdir(exist_ok=True)
        (folder / place / "text.txt").write_text(tiny.text(30, 3), "utf-8")
        for command, code in commands.items():
            done = subprocess.run(
                [sys.executable, *STRICT, *program, *command.split()], cwd=folder / place,
                env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONCOERCECLOCALE": "0"} | changes,
                capture_output=True, timeout=300,
            )  # fmt: skip
            said = done.stdout.decode("cp1252" if place == "windows" else "utf-8")
            assert done.returncode == code, (place, command, said, done.stderr.decode("cp1252"))
            assert not re.search(rb"Warning|Traceback|Exception", done.stderr), done.stderr
            found.setdefault(command, {})[place] = said
    return found


def the_same_files(folder: Path) -> int:
    """How many files both platforms wrote; those that say no time or place are the same bytes."""
    here = {p.relative_to(folder / "here"): p for p in (folder / "here").rglob("*") if p.is_file()}
    for name, path in here.items():
        there = (folder / "windows" / name).read_bytes()
        if path.suffix not in (".safetensors", ".html", ".js"):
            assert b"\r" not in there, name
        if path.suffix in (".safetensors", ".py", ".css") or name.name == "config.json":
            assert there == path.read_bytes(), name
    return len(here)


def compare(commands: dict[str, int], folder: Path) -> int:
    """Runs them; the same is said where no time is, and the same is written. Number of files."""
    for command, said in verbs(commands, folder).items():
        if command.split()[0] in ("inspect", "generate", "eq", "info", "exercises", "zoo", "think"):
            here, there = (re.sub(r"[^\x00-\x7f]", "?", said[place]) for place in PLACES)
            assert here == there, command
    return the_same_files(folder)


@linux
def test_verbs(tmp_path):
    assert compare(QUICK, tmp_path) > 50


@linux
def test_a_damaged_checkpoint_is_set_aside_though_it_was_mapped(tmp_path):
    verbs({PRETRAIN: 0}, tmp_path, ["windows"])
    checkpoints = tmp_path / "windows/run/checkpoints"
    newest = max(checkpoints.iterdir())
    os.truncate(newest / "model.safetensors", 20_000)
    verbs({"pretrain --resume run": 0}, tmp_path, ["windows"])
    assert (checkpoints / f"damaged-{newest.name}").exists()


@linux
@pytest.mark.slow
def test_all_verbs(tmp_path):
    assert compare(SLOW, tmp_path) > 80


@linux
@pytest.mark.slow
def test_the_longest_verbs(tmp_path):
    verbs(ALONE, tmp_path, ["windows"])
    assert len(list((tmp_path / "windows/book").glob("*.html"))) > 400
    assert (tmp_path / "windows/j/report.html").stat().st_size > 100_000


def test_every_verb_is_run():
    known = build_parser()._subparsers._group_actions[0].choices
    assert {command.split()[0] for command in {**QUICK, **SLOW, **ALONE}} == set(known)


ACTED = """
import io, os, sys
sys.path[:0] = [{root!r}]
from tests.portability import as_windows
as_windows.become()
import numpy as np
import minideepseek as mds
from minideepseek.model.safetensors import load_file, save_file

os.mkdir("folder")
file = open("folder/a", "w", encoding="ascii")
file.write("line\\n")
file.flush()
for call in (
    lambda: os.replace("folder/a", "b"), lambda: os.rename("folder", "other"),
    lambda: os.unlink("folder/a"), lambda: os.open("folder", os.O_RDONLY), lambda: os.fork(),
    lambda: os.rename("b", "b"),
):
    try:
        call()
        print("done")
    except (OSError, AttributeError) as error:
        print(type(error).__name__)
file.close()
print(io.open("folder/a", "rb").read())

save_file({{"a": np.ones(3)}}, "x")
held = load_file("x")
try:
    save_file({{"a": np.zeros(3)}}, "x")
except mds.CheckpointError as error:
    print(str(error).count("\\n"), str(error).startswith("cannot write x: "))
print(held["a"].tolist(), [name for name in os.listdir() if name.startswith(".")])
del held
save_file({{"a": np.zeros(3)}}, "x")

model = mds.DeepSeekV3(mds.DeepSeekV3Config.preset("nano"), np.random.default_rng(0))
model.save_pretrained("model")
for _ in range(3):  # over the files that it was read from
    model = mds.DeepSeekV3.from_pretrained("model")
    model.save_pretrained("model")
from minideepseek.autograd.backend import memory_bytes
from minideepseek.model.checkpoint import machine_memory
print(memory_bytes("cpu"), machine_memory())
"""


@linux
def test_the_actor_refuses_what_windows_refuses(tmp_path):
    """And a file that is mapped is not written over: one sentence, the old file stays."""
    (tmp_path / "b").touch()
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", ACTED.format(root=str(ROOT))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        *["PermissionError"] * 4, "AttributeError", "FileExistsError", r"b'line\r\n'",
        "0 True", "[1.0, 1.0, 1.0] []", "0 None",
    ]  # fmt: skip


def test_the_command_line_keeps_every_blas_to_one_thread():
    names = [f"{n}_NUM_THREADS" for n in ("OPENBLAS", "OMP", "MKL", "BLIS")]
    code = f"import os, minideepseek.cli; print([os.environ[n] for n in {names}], "
    code += "os.environ['VECLIB_MAXIMUM_THREADS'])"  # macOS' Accelerate
    many = dict.fromkeys([*names, "VECLIB_MAXIMUM_THREADS"], "8")
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | many, cwd=ROOT, capture_output=True,
        encoding="utf-8", timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == f"{['1'] * 4} 1\n"


@pytest.mark.slow
def test_a_demo_on_a_console_without_greek(tmp_path):
    command = [sys.executable, *STRICT, "-m", "demos.fp8_numbers", "--quick", "--out", "out"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"?" in done.stdout and not done.stderr
