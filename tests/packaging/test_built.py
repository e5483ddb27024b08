"""A wheel and a source archive: what they hold, and what they do installed, away from the source.

Both are built by setuptools as `pip` would have it do, without the network, from a copy of the
tree; the wheel is installed in a fresh virtual environment that sees this one's NumPy.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import BytesParser
from pathlib import Path

import numpy as np
import pytest

import minideepseek

pytest.importorskip("setuptools", minversion="70.1", reason="older ones need wheel")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
FOLDERS = ("minideepseek", "demos", "tests")
FILES = (
    "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml",
    "setup.cfg",
)  # fmt: skip
BUILD = "from setuptools import build_meta as b; print('built', b.build_{kind}('dist'))"
SEEN = Path(np.__file__).parents[1]  # site-packages


def run(*command: object, warnings="error", **options) -> subprocess.CompletedProcess:
    """A command that must succeed, without anybody's PYTHONPATH; pip's warnings are not ours."""
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"}
    environment["PYTHONWARNINGS"] = warnings
    done = subprocess.run(
        [*map(str, command)], capture_output=True, encoding="utf-8", timeout=300,
        env=environment | {"SOURCE_DATE_EPOCH": "1767225600", "OPENBLAS_NUM_THREADS": "1"},
        **options,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def build(kind: str, folder: Path) -> Path:
    """The wheel or sdist of a folder, by setuptools itself: pip would ask the network for it."""
    done = run(sys.executable, "-W", "error", "-c", BUILD.format(kind=kind), cwd=folder)
    return folder / "dist" / re.findall(r"^built (.*)$", done.stdout, re.MULTILINE)[0]


def sources(folder: Path) -> set[str]:
    """The files below a folder, without what Python and test runs leave behind."""
    paths = (path.relative_to(folder.parent) for path in folder.rglob("*") if path.is_file())
    return {p.as_posix() for p in paths if not {"__pycache__", ".hypothesis"} & {*p.parts}}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of what a clone holds."""
    folder = tmp_path_factory.mktemp("tree")
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def built(tree):
    """(wheel, source archive)"""
    return build("wheel", tree), build("sdist", tree)


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The folder of a virtual environment's programs, the wheel being in it."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=os.name != "nt")
    programs = home / ("Scripts" if os.name == "nt" else "bin")
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(programs / "python", "-c", where).stdout.strip())
    (site / "seen.pth").write_text(f"{SEEN}\n", "utf-8")
    run(sys.executable, "-m", "pip", "--python", programs / "python", "install", "--quiet",
        "--no-index", "--no-deps", "--ignore-installed", built[0], warnings="ignore")  # fmt: skip
    return programs


def test_the_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as wheel:
        held = {name for name in wheel.namelist() if not name.endswith("/")}
        metadata = next(n for n in held if n.endswith(".dist-info/METADATA"))
        found = BytesParser().parsebytes(wheel.read(metadata))
        assert wheel.read("minideepseek/py.typed") == b""
    described = {name for name in held if ".dist-info/" in name}
    assert held - described == sources(ROOT / "minideepseek")
    assert any(name.endswith("LICENSE") for name in described)
    assert found["Version"] == minideepseek.__version__ and found["Requires-Python"] == ">=3.11"
    needed = {r for r in found.get_all("Requires-Dist") if "extra ==" not in r}
    assert {re.split(r"[<>=]", r)[0] for r in needed} == {"numpy", "ml_dtypes"}
    assert built[0].name == f"minideepseek-{minideepseek.__version__}-py3-none-any.whl"


def test_the_archive_holds_all_and_builds_the_same_wheel(built, tmp_path):
    with tarfile.open(built[1]) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    for name in FOLDERS:
        assert sources(folder / name) == sources(ROOT / name)
    assert {*FILES, "PKG-INFO"} <= {path.name for path in folder.iterdir()}
    assert build("wheel", folder).read_bytes() == built[0].read_bytes()


def test_what_is_installed_is_what_runs(installed, tmp_path):
    where = "import minideepseek as m, os; print(os.path.dirname(m.__file__))"
    found = Path(run(installed / "python", "-c", where, cwd=tmp_path).stdout.strip())
    assert found.is_relative_to(installed.parent) and not found.is_relative_to(ROOT)


def test_the_command(installed, tmp_path):
    """The program of that name: each part that brings files of its own."""

    def command(line: str) -> str:
        return run(installed / "minideepseek", *line.split(), cwd=tmp_path).stdout

    assert command("--version") == f"minideepseek {minideepseek.__version__}\n"
    assert "journey" in command("--help") and "671,026,419,200" in command("info --preset v3")
    assert "choose_experts" in command("zoo list") and "V2:10" in command("eq V2:10")
    assert "35 copied" in command("exercises start")
    mine = tmp_path / "my_exercises" / "add.py"
    rule, holes = re.subn(r"raise NotImplementedError.*", "return g, g", mine.read_text("utf-8"))
    mine.write_text(rule, "utf-8")
    assert holes == 1 and "ok" in command("exercises check add")
    assert "answer:" in command("think --seed 0")
    model = next(installed.parent.rglob("cold_started"))
    assert "9 8 5 3 > 13 :" in run(
        installed / "minideepseek", "generate", model, "9 8 5 3 > 13 :", "--max-new-tokens", "3",
        cwd=tmp_path,
    ).stdout  # fmt: skip
    command("book --out book")
    assert (tmp_path / "book" / "index.html").stat().st_size > 1000


def test_the_readme_s_programs(installed, tmp_path):
    """Every program of the README, as written but for the number of GRPO's steps."""
    text = (ROOT / "README.md").read_text("utf-8")
    programs = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(programs) >= 3
    for i, program in enumerate(programs):
        file = tmp_path / f"program{i}.py"
        file.write_text(program.replace("range(10)", "range(1)"), "utf-8")
        run(installed / "python", "-W", "error", file, cwd=tmp_path)
    assert (tmp_path / "my-model" / "tokenizer.json").exists()


USER = """
import numpy as np

import minideepseek as mds

model = mds.DeepSeekV3(mds.DeepSeekV3Config.preset("nano"), np.random.default_rng(0))
loss: mds.Tensor = model.loss(np.array([[1, 2, 3]]))
loss.backward()
ids: np.ndarray = mds.generate(model, np.array([[1]]), 3)
"""


def test_a_type_checker_reads_its_types(installed, tmp_path):
    """A user's program is accepted by mypy; one with a mistake is not, and is told which."""
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(USER, "utf-8")
    bad.write_text(USER.replace("loss: mds.Tensor", "loss: int"), "utf-8")
    check = [sys.executable, "-m", "mypy", "--python-executable", installed / "python"]
    check += ["--config-file", os.devnull, "--cache-dir", tmp_path / "cache"]
    assert "no issues found" in run(*check, good, cwd=tmp_path).stdout
    found = subprocess.run(
        [*map(str, check), str(bad)], cwd=tmp_path, capture_output=True, encoding="utf-8"
    )
    assert found.returncode == 1 and "bad.py:7: error" in found.stdout, found.stdout
