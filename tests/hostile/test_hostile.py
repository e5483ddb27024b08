"""Hostile files: a few here, two thousand in the slow tier, a million by `-m tests.hostile`."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile import strict
from tests.hostile.cases import Case, Reader, Wrong
from tests.hostile.drills import drills
from tests.hostile.guard import Hang, Watch, in_time, outside
from tests.hostile.readers import case_of, reader_of, readers
from tests.hostile.run import Bench, run_cases
from tests.hostile.team import Team

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="pipes, links and alarms are POSIX's"),
    pytest.mark.filterwarnings("ignore:.*(hold no MTP layer|set aside)"),
]
WATCH = Watch()


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path, WATCH)


def test_every_valid_folder_is_read(bench):
    """Without a change each reader accepts each of its folders, and its judge agrees."""
    for reader in readers().values():
        for base in reader.bases:
            folder = bench.folder(reader, base)
            outcome = reader.read(folder)
            assert not isinstance(outcome, Exception)
            reader.judge(folder, dict(base), outcome)


def test_a_few(bench):
    """Every drill, and as many drawn ones."""
    tally = run_cases(bench, 1, range(len(drills()) + 400), weighed=10**9, enough=3)
    assert tally.violations == []
    assert tally.accepted.total() > 300 and tally.refused.total() > 600
    assert (tally.accepted | tally.refused).keys() == readers().keys()


@pytest.mark.slow
def test_two_thousand(bench):
    tally = run_cases(bench, 0, range(2000), weighed=7, enough=3)
    assert tally.violations == []


def test_a_case_is_made_again():
    for number in (*range(0, 50, 7), *range(2000, 2100)):
        reader = reader_of(number)
        (_, one), (_, two) = (case_of(reader, 3, number) for _ in range(2))
        assert one == two
    assert case_of(reader, 3, number) != case_of(reader, 4, number)


# ------------------------------------------------------------------------- who watches the watchmen


def made_of(read, judge=lambda *_: None):
    """A reader of one file of our own making."""
    return Reader("x", 1, ({"a": b"1"},), lambda rng, base: Case({"a": b"2"}), read, judge, 1)


def test_what_is_opened_outside_is_seen(bench):
    for path in ("../outside/a", "/etc/passwd"):
        for way in (Path.read_bytes, lambda path: os.close(os.open(path, os.O_RDONLY))):
            with pytest.raises(Wrong, match="outside the folder"):
                bench.run(made_of(lambda folder, path=path, way=way: way(folder / path)), 0, 0)
    for way in (os.listdir, lambda path: os.scandir(path).close()):
        with pytest.raises(Wrong, match="outside the folder"):
            bench.run(made_of(lambda folder, way=way: way(folder / "../outside")), 0, 0)
    bench.run(made_of(lambda folder: (folder / "a").read_bytes()), 0, 0)
    assert outside([str(bench.root / "m.x")], bench.root / "m") == [str(bench.root / "m.x")]


def test_what_takes_memory_hangs_or_says_too_much_is_seen(bench, tmp_path):
    from minideepseek.errors import InputError

    def says(text):
        def read(folder):
            raise InputError(text)

        return made_of(read)

    with pytest.raises(Wrong, match="bytes of memory"):
        bench.run(made_of(lambda folder: bytes(2 << 20)), 0, 0, weigh=True)
    for text in ("two\nlines", "\x1b[31mred", "x" * 3000, ""):
        with pytest.raises(Wrong, match="one printable line"):
            bench.run(says(text), 0, 0)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Hang), in_time(0.05):
        (tmp_path / "pipe").open("rb")
    with pytest.raises(Hang), in_time(0.05):
        while True:
            pass


def test_any_other_error_and_any_warning_is_a_violation(bench, monkeypatch):
    import warnings

    from tests.hostile import run

    def warn(folder):
        warnings.warn("odd", stacklevel=1)

    for read, name in ((lambda folder: {}["a"], "KeyError"), (warn, "UserWarning")):
        monkeypatch.setattr(run, "readers", lambda read=read: {"x": made_of(read)})
        ((reader, number, text),) = run_cases(bench, 0, [5], "x").violations
        assert (reader, number) == ("x", 5) and text.startswith(name)


@pytest.mark.slow
def test_a_process_that_dies_is_a_violation_and_replaced(tmp_path):
    team, found = Team(tmp_path, 0, "json", 1), []
    for span, tally in team.run(iter([(0, 10), (10, 200_000), (200_000, 200_010)])):
        found.append((span, tally))
        if len(found) == 1:
            ((process, _, _),) = team.members.values()
            os.kill(process.pid, signal.SIGKILL)
        if len(found) == 2:
            ((process, root, span),) = team.members.values()
            assert span[1] == 200_000 and span[0] >= 10  # what was left
            process.kill()
            break
    ((name, number, text),) = found[1][1].violations
    assert name == "json" and 9 <= number < 200_000 and "died with code -9" in text


# --------------------------------------------------------------------------------------- the oracle


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, -0.5e+2, true, false, null], "b": {}}',
         {"a": [1, -50.0, True, False, None], "b": {}}),
        ('"\\ud834\\udd1e\\n\\/"', "𝄞\n/"), (" [ ] ", []), ("-0", 0), ("[" * 64 + "]" * 64, ...),
        ("", None), ("01", None), ("1.", None), ("[1,]", None), ('{"a":1,"a":2}', None),
        ('"\\ud834"', None), ("1e999", None), ("NaN", None), ("[" * 65 + "]" * 65, None),
        ('"\t"', None), ("1 2", None), ("\ufeff1", None), ("9" * 4301, None), ('"\\x41"', None),
        ("{1:2}", None), ("[1 2]", None), ("tru", None), ("+1", None), ("-", None), ('"', None),
    ],
)  # fmt: skip
def test_the_oracle_of_json(text, value):
    if value is None:
        with pytest.raises(strict.NotStrict):
            strict.parse(text.encode())
    else:
        found = strict.parse(text.encode())
        assert value is ... or strict.same(found, value)
        assert strict.same(found, json.loads(text))


def test_equality_of_the_oracle():
    assert strict.same({"a": [1, 2.0]}, {"a": [1, 2.0]})
    for a, b in ((1, True), (1, 1.0), (0.0, -0.0), ([1], [1, 2]), ({"a": 1}, {"b": 1}), (1, "1")):
        assert not strict.same(a, b)


# -------------------------------------------------------------------------------------- the command


def command(*arguments, **kinds):
    line = [sys.executable, "-m", "tests.hostile", *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            encoding="utf-8", **kinds)  # fmt: skip


@pytest.mark.slow
def test_the_command(tmp_path):
    """Two processes; one case again with its files kept; an interrupted one says how to go on."""
    process = command("--files", "1500", "--seed", "3")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "1,500 of 1,500, 0 violations" in said
    (row,) = [line for line in said.split("\n") if line.startswith("together")]
    files, accepted, refused, violations = (int(n.replace(",", "")) for n in row.split()[1:])
    assert (files, violations) == (1500, 0) and accepted + refused == files
    again = ("--reader", "json", "--first", "5000", "--files", "1", "--keep", str(tmp_path))
    process = command(*again)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and re.search("^json +1 ", said, re.MULTILINE)
    assert (tmp_path / "json-0-5000").is_dir()
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background
    process = command("--reader", "json", start_new_session=True, preexec_fn=heard)  # ignores it
    while "violations" not in (process.stdout.readline()):
        pass
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert re.search(r"interrupted; to go on: --first [0-9]+ --files [0-9]+", said)
    assert "together" in said and "Traceback" not in said
