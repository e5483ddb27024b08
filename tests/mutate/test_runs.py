"""The tool on a small project: what is killed, what survives, what is listed, and going on.

Each run is a process of its own, as it would be by hand: its children must not have imported what
they mutate.
"""

import subprocess
import sys
import textwrap

import pytest

from tests.mutate.sites import ROOT

PROJECT = {
    "pytest.ini": "[pytest]\naddopts = --doctest-modules\n",
    "tiny/__init__.py": "",
    "tiny/chapter/__init__.py": "",
    "tiny/chapter/sums.py": '''
        """Numbers.

        >>> doubled(4)
        8
        """

        LIMIT = 3


        def doubled(x):
            return x * 2


        def unseen(x):
            return x - 5


        def loop(n):
            while n > 0:
                n -= 1
            return n


        def padded(x):
            size = 1 + 1
            return [x] * size


        class Elsewhere:
            seen = 41

            def shown():
                print(Elsewhere.seen + 1)
        ''',
    "tests/chapter/test_sums.py": """
        import subprocess
        import sys

        import pytest
        from tiny.chapter import sums


        @pytest.fixture(scope="module")
        def pads():
            return sums.padded(7)


        def test_first(pads):
            assert True


        def test_second(pads):
            assert pads == [7, 7]


        def test_loop():
            assert sums.loop(3) == 0


        def test_in_a_process_of_its_own():
            script = "from tiny.chapter import sums; sums.Elsewhere.shown()"
            command = [sys.executable, "-c", script]
            found = subprocess.run(command, capture_output=True, encoding="utf-8")
            assert found.stdout.strip() == "42", found.stderr


        def test_limit():
            assert sums.LIMIT == 3
        """,
}
SCRIPT = """
import sys
from pathlib import Path
from tests.mutate import __main__ as tool, children, runner
from tests.mutate.equivalent import Equivalent

if __name__ == "__main__":
    children.warm_up()
    runner.GRACE = 1
    entries = (Equivalent("tiny/chapter/sums.py", "return x - 5", "x - 5", "nobody calls it"),)
    options = tool.parser().parse_args(sys.argv[3:])
    listed = entries if sys.argv[2] == "listed" else ()
    sys.exit(tool.run(options, Path(sys.argv[1]), "tiny", ("tiny",), listed))
"""


@pytest.fixture
def project(tmp_path):
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text), "utf-8")
    return tmp_path


def run(project, *options, listed=False):
    """(what was printed, the return code)"""
    command = [sys.executable, "-c", SCRIPT, project, "listed" if listed else "open", *options]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=300)
    assert found.returncode in (0, 1) and not found.stderr, found.stderr
    return found.stdout, found.returncode


def row(output, name):
    """planted, killed, survived, equivalent of a row of the table."""
    line = next(line for line in output.splitlines() if line.startswith(name))
    return [int(n) for n in line.split()[1:5]]


@pytest.mark.slow
def test_a_run_its_survivors_and_what_is_listed(project):
    output, code = run(project, "--every")
    planted, killed, survived, equivalent = row(output, "all")
    survivors = {line.split("  ")[-1].strip() for line in output.splitlines()
                 if line.startswith("survived")}  # fmt: skip
    assert survivors == {"| return x - 5"} and code == 1  # no test runs it; all others die
    assert survived == 7 and equivalent == 0
    assert planted == killed + survived and row(output, "chapter") == row(output, "all")
    assert "timeout" in output and "DocTestFailure" in output and "AssertionError" in output
    again, code = run(project, "--every", listed=True)  # and nothing is run a second time
    assert f"{planted} mutants, {planted} of them known or equivalent" in again
    assert row(again, "all") == [planted, killed, 0, 7] and code == 0


def test_what_changed_is_run_again_and_nothing_else(project):
    run(project, "--only", "tiny/chapter/sums.py:26")  # padded's size
    output, _ = run(project, "--only", "tiny/chapter/sums.py:26")
    planted = row(output, "all")[0]
    assert f"{planted} mutants, {planted} of them known" in output and row(output, "all")[2] == 0
    test = project / "tests/chapter/test_sums.py"
    weak = test.read_text("utf-8").replace("assert pads == [7, 7]", "assert pads")
    test.write_text(weak, "utf-8")
    output, code = run(project, "--only", "tiny/chapter/sums.py:26")
    assert f"{planted} mutants, 0 of them known" in output and code == 1
    (project / "tests/chapter/test_more.py").write_text(
        "from tiny.chapter import sums\ndef test_more():\n    assert len(sums.padded(7)) == 2\n",
        "utf-8",
    )
    output, code = run(project, "--only", "tiny/chapter/sums.py:26")
    assert "0 of them known" not in output and row(output, "all")[2] == 0 and code == 0
    assert "1 of 1 files, tests/chapter/test_more.py" in output


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on(project):
    run(project, "--only", "tiny/chapter/sums.py:12")
    ledger = project / "runs/mutate/results.jsonl"
    lines = ledger.read_text("utf-8").splitlines(keepends=True)
    killed = "".join(lines[:2]) + lines[2][:20]  # while it wrote the third
    ledger.write_text(killed, "utf-8")
    output, _ = run(project, "--only", "tiny/chapter/sums.py:12")
    assert f"{len(lines)} mutants, 2 of them known" in output
    assert row(output, "all")[1] == len(lines)


@pytest.mark.slow
def test_a_source_that_changed_is_tried_anew(project):
    run(project, "--only", "tiny/chapter/sums.py:12")
    source = project / "tiny/chapter/sums.py"
    source.write_text(source.read_text("utf-8") + "\n\n# a remark\n", "utf-8")
    output, _ = run(project, "--only", "tiny/chapter/sums.py:12")
    assert ", 0 of them known" in output


def test_nothing_is_written_but_into_its_folder(project):
    before = {p.relative_to(project): p.read_bytes() for p in project.rglob("*") if p.is_file()}
    run(project, "--only", "tiny/chapter/sums.py:12", "--dir", "elsewhere")
    after = {p.relative_to(project): p.read_bytes() for p in project.rglob("*")
             if p.is_file() and p.relative_to(project).parts[0] != "elsewhere"}  # fmt: skip
    assert after == before
    assert not list((project / "elsewhere" / "scratch").glob("child-*"))


@pytest.mark.slow
def test_of_a_sample_of_the_project_itself_every_mutant_dies(tmp_path):
    """40 of the full run's, or as many fewer as are listed as equivalent."""
    command = [sys.executable, "-m", "tests.mutate", "--sample", "40", "--dir", tmp_path]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=1800)
    assert found.returncode == 0, found.stdout + found.stderr
    planted, killed, survived, equivalent = row(found.stdout, "all")
    assert planted == 40 and survived == 0 and equivalent <= 10
