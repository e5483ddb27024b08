"""The same commands and versions in the workflow, .ci/run, README, CONTRIBUTING and setup.cfg.

The workflow is read line by line: its form is for GitHub to judge, its commands are ours. A source
archive holds neither it nor .ci/run.
"""

import ast
import configparser
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests import tidy

ROOT = Path(__file__).parents[2]
if not (ROOT / ".github").exists():
    pytest.skip("a source archive has no workflow", allow_module_level=True)

TEXTS = {
    name: (ROOT / name).read_text("utf-8")
    for name in (".github/workflows/ci.yml", ".ci/run", "README.md", "CONTRIBUTING.md")
}
WORKFLOW, SCRIPT, README, CONTRIBUTING = TEXTS.values()
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", "utf-8")
SAID = {  # what must be typed, and who says so (README names a tier without its options)
    "install -e '.[test]'": list(TEXTS),
    "install -e '.[parity]'": list(TEXTS),
    "python -m pytest": list(TEXTS)[:1] + list(TEXTS)[2:],
    "-m slow": list(TEXTS),
    "-m parity": list(TEXTS),
    "-m parity tests/parity": [list(TEXTS)[0], ".ci/run", "CONTRIBUTING.md"],
    "ruff check .": ["CONTRIBUTING.md", list(TEXTS)[0]],
    "torch==2.13.0": [list(TEXTS)[0], ".ci/run"],
}


def unquoted(text: str) -> str:
    """As a shell reads it, with one blank between words."""
    return re.sub(r"\s+", " ", text.replace('"', "").replace("'", ""))


@pytest.mark.parametrize("command", SAID)
def test_a_command_is_the_same_everywhere(command):
    for name in SAID[command]:
        text = re.sub(r"install (-q )+", "install ", unquoted(TEXTS[name]))
        assert unquoted(command) in text, name


def runs(text: str) -> list[str]:
    """The commands of a workflow, one a line."""
    single = re.findall(r"^ *- run: (?!\|)(.+)$", text, re.MULTILINE)
    blocks = re.findall(r"^( *)run: \|\n((?:\1  .*\n)+)", text, re.MULTILINE)
    return single + [line.strip() for _, block in blocks for line in block.splitlines()]


def test_every_tool_that_ci_runs_the_workflow_runs():
    """`step NAME …` of .ci/run: the last words of its command."""
    steps = [unquoted(s) for s in re.findall(r'^step "[^"]*" (.+)$', SCRIPT, re.MULTILINE)]
    assert len(steps) >= 6
    known = " ".join(runs(WORKFLOW))
    for words in ("ruff check .", "mypy", "pytest -q -m slow --durations=10"):
        assert any(words in step for step in steps) and words in known, words
    assert "pytest -q -m parity tests/parity" in SCRIPT
    assert "pytest -q -m parity tests/parity" in known


def test_every_module_that_is_run_exists():
    for text in TEXTS.values():
        for name in re.findall(r"python -m (tests\.[a-z_]+|demos\.[a-z0-9_]+)", text):
            path = ROOT / name.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


def test_the_workflow_s_habits():
    """Actions by major version, read-only, no job without an end, one run a branch."""
    assert "\t" not in WORKFLOW
    uses = re.findall(r"uses: (\S+)", WORKFLOW)
    assert uses and all(re.fullmatch(r"actions/[a-z-]+@v\d+", use) for use in uses)
    assert re.search(r"^permissions:\n  contents: read\n\n", WORKFLOW, re.MULTILINE)
    assert re.search(r"^concurrency:\n  group: .*github.ref", WORKFLOW, re.MULTILINE)
    jobs = re.findall(r"^  ([a-z]+):\n((?:    .*\n|\n)+)", WORKFLOW.split("\njobs:\n")[1], re.M)
    assert [name for name, _ in jobs] == ["lint", "tests", "slow", "parity", "package"]
    assert all("timeout-minutes: " in body and "cache: pip" in body for _, body in jobs)
    assert len(re.findall("os: .ubuntu-latest, macos-latest, windows-latest.", WORKFLOW)) == 2


def listed(section: str, key: str) -> list[str]:
    return [line for line in SETUP[section][key].splitlines() if line]


def test_the_lowest_versions_are_the_ones_tested():
    needed = dict(re.split(">=", line) for line in listed("options", "install_requires"))
    (pins,) = re.findall(r"pins: (.+)", WORKFLOW)
    lowest = dict(pin.split("==") for pin in pins.split())
    assert needed.keys() == lowest.keys() == {"numpy", "ml_dtypes"}
    for name, version in needed.items():
        assert lowest[name] == version or lowest[name] == f"{version}.0"


def test_the_pythons_are_the_ones_tested():
    described = listed("metadata", "classifiers")
    versions = [
        v[1] for c in described if (v := re.fullmatch(r"Programming .* :: (3\.\d+)", c)) is not None
    ]
    tested = {*re.findall(r'python: "(3\.\d+)"', WORKFLOW)}
    assert versions == sorted(tested, key=lambda v: int(v[2:]))
    lowest, newest = versions[0], versions[-1]
    assert SETUP["options"]["python_requires"] == f">={lowest}"
    assert SETUP["mypy"]["python_version"] == lowest
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert project["tool"]["ruff"]["target-version"] == f"py{lowest.replace('.', '')}"
    block = re.search(r"- versions: newest\n +python: \"(.*)\"", WORKFLOW)
    assert block is not None and block[1] == newest
    assert [c for c in described if c.startswith("Typing")] == ["Typing :: Typed"]
    assert described == sorted(described)


def test_the_tests_extra_can_build_without_the_network():
    """setuptools makes wheels by itself since 70.1."""
    assert "setuptools>=70.1" in listed("options.extras_require", "test")


def test_changelog_names_the_version():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    version = SETUP["metadata"]["version"]
    tree = ast.parse((ROOT / "minideepseek/__init__.py").read_text("utf-8"))
    assigned = [n for n in tree.body if isinstance(n, ast.Assign)]
    (mine,) = [n.value.value for n in assigned if n.targets[0].id == "__version__"]
    assert mine == version and version in text
    assert re.search(r"^## \[Unreleased\]$", text, re.MULTILINE)


def test_contributing_is_one_screen():
    assert len(CONTRIBUTING.splitlines()) <= 50


def hooks() -> list[str]:
    text = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    return re.findall(r"entry: (.+)", text)


def test_the_hooks_run_what_is_here():
    assert [entry.split()[2] for entry in hooks()] == ["ruff", "mypy", "tests.tidy"]
    text = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    assert text.count("repo: ") == text.count("repo: local"), "a hook from elsewhere needs it"


@pytest.mark.parametrize("name, data, said", [
    ("a.py", b"x = 1\n", []),
    ("a.py", b"", []),
    ("a.py", b"x = 1", ["it does not end in exactly one line end"]),
    ("a.py", b"x = 1\n\n", ["it does not end in exactly one line end"]),
    ("a.py", b"x = 1 \ny = 2\n", ["blanks at the end of a line"]),
    ("a.md", b"a\r\n", ["a line ends in CR LF", "blanks at the end of a line"]),
    ("a.py", b"<<<<<<< ours\n", ["marks of a merge"]),
    ("a.py", b"\xff\n", ["not UTF-8"]),
    ("a.json", b"{}", []),
    ("a.txt", b"x" * 1_000_000 + b"\n", ["larger than a megabyte"]),
    ("a.safetensors", b"\xff" * 2_000_000, []),
])  # fmt: skip
def test_what_tidy_finds(name, data, said):
    assert tidy.faults(name, data) == said


def test_every_file_is_tidy():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    names = [name for name in done.stdout.decode("utf-8").split("\0") if name]
    if done.returncode or not names:
        pytest.skip("not a clone")
    there = [name for name in names if (ROOT / name).is_file()]
    bad = {n: tidy.faults(n, (ROOT / n).read_bytes()) for n in there}
    assert {name: found for name, found in bad.items() if found} == {}


def test_tidy_as_a_command(tmp_path):
    (tmp_path / "a.py").write_bytes(b"x")
    command = [sys.executable, "-m", "tests.tidy", str(tmp_path / "a.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == f"{tmp_path / 'a.py'}: it does not end in exactly one line end\n"
