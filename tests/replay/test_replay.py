"""Entries fit the texts, commands exist, no figure is without; and what is stale is seen."""

import ast
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.replay import __main__ as replay
from tests.replay import commands, coverage, ledger, prose
from tests.replay.bands import CLOCK, EXACT, RATIO, ROOT, Band, as_measured, trained
from tests.replay.commands import COMMANDS, Failed
from tests.replay.entries import Entry, Reading, ends
from tests.replay.inventory import ENTRIES, KEPT, by_command
from tests.replay.options import faults
from tests.replay.templates import Missing, first, number, only, pattern

NAMES = [entry.name for entry in (*ENTRIES, *KEPT)]


@pytest.mark.parametrize("entry", [*ENTRIES, *KEPT], ids=NAMES)
def test_what_an_entry_says_stands_in_its_file_once(entry):
    text = (ROOT / entry.where).read_text("utf-8")
    only(entry.says, text)


@pytest.mark.parametrize("entry", ENTRIES, ids=[e.name for e in ENTRIES])
def test_an_entry_prints_as_many_figures_as_it_states(entry):
    printed = 0
    for reading in entry.prints:
        reading = reading if isinstance(reading, Reading) else Reading(reading)
        printed += len(reading.then([1.0] * pattern(reading.words).groups))
    stated = pattern(entry.says).groups
    assert printed == stated > 0
    assert isinstance(entry.bands, Band) or len(entry.bands) == stated


def test_names_are_unique_and_commands_all_used():
    assert len(set(NAMES)) == len(NAMES)
    assert set(by_command()) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_exist(name):
    assert faults(COMMANDS[name].run) == []


def test_a_command_that_does_not_exist_is_found():
    assert faults("python -m demos.mla_price") == ["no module demos.mla_price"]
    assert faults("python -m demos.mla_cost --fully") == ["no option --fully"]
    assert faults("python -m demos.grpo_failures --bluff") == ["no option --bluff"]
    assert faults("minideepseek journey --parts language") == ["no option --parts"]
    assert faults("minideepseek zoo start && minideepseek infos") == []  # names a verb's --help
    assert faults("python -m pytest tests/no.py") == ["no tests/no.py"]
    assert faults("wc -l demos/no.py") == ["no demos/no.py"]
    assert faults("README block 9") == ["the README has no block 9"]


DEMOS = sorted(path.stem for path in (ROOT / "demos").glob("*.py"))


@pytest.mark.parametrize("name", DEMOS)
def test_a_demo_has_the_options_that_its_docstring_shows(name):
    text = ast.get_docstring(ast.parse((ROOT / f"demos/{name}.py").read_text("utf-8"))) or ""
    for shown in re.findall(rf"^ .*(python -m demos\.{name}\b.*?)(?:  |$)", text, re.MULTILINE):
        options = re.findall(r"(?<![\w-])--[a-z][\w-]*", shown)
        assert faults(" ".join([f"python -m demos.{name}", *options])) == []


def test_every_row_of_measurements_has_an_entry_with_its_command():
    text, found = (ROOT / "README.md").read_text("utf-8"), 0
    for start, end, command in coverage.rows():
        inside = [
            e for e in (*ENTRIES, *KEPT) if e.where == "README.md"
            and start <= only(e.says, text).start() < end
        ]  # fmt: skip
        runs = [COMMANDS[e.command].run for e in inside if isinstance(e, Entry)]
        kept = len(inside) > len(runs)
        shown = {run.replace(" -q", "").removesuffix(" --part language") for run in runs}
        assert kept or command in shown, text[start:end]
        found += 1
    assert found > 25


def test_every_number_of_the_readme_stands_in_an_entry():
    assert list(coverage.uncovered()) == []


def test_a_number_that_is_added_is_seen(monkeypatch, tmp_path):
    for path in {"README.md", *(e.where for e in (*ENTRIES, *KEPT))}:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text((ROOT / path).read_text("utf-8"), "utf-8")
    monkeypatch.setattr(coverage, "ROOT", tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text(readme.read_text("utf-8") + "\nIt takes 17 seconds.\n", "utf-8")
    assert [words for words in coverage.uncovered() if "17" in words]


def test_measured_numbers_in_docstrings_name_their_command():
    left = [found for found in prose.without_command() if not prose.allowed(*found)]
    assert left == []


def test_no_allowance_is_idle():
    found = list(prose.without_command())
    for file, words in prose.ALLOWED:
        assert any(file == name and words in sentence for name, sentence in found), (file, words)


@pytest.mark.parametrize(
    "sentence",
    [
        "It takes 3 seconds.", "12.5 % of them", "a step of 80 µs", "1.8 times as fast",
        "5.1 × the rate is 3 × faster", "measured: 0.93 of it", "2.10 bits per byte", "33 MB",
    ],
)  # fmt: skip
def test_measured_numbers_are_found(sentence):
    assert prose.MEASURED.search(sentence)


def test_a_figure_without_a_command_is_found(monkeypatch, tmp_path):
    said_by = {"one": "It takes 3 ms.", "two": "3 ms by `python -m demos.mla_cost`."}
    (tmp_path / "minideepseek").mkdir()
    for name, said in said_by.items():
        (tmp_path / f"minideepseek/{name}.py").write_text(f'"""{said}"""\n', "utf-8")
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    assert list(prose.without_command()) == [("minideepseek/one.py", "It takes 3 ms.")]


def test_the_cheap_ones_take_less_than_five_minutes():
    cheap = [c.seconds for c in COMMANDS.values() if c.cost == "cheap"]
    assert sum(cheap) < 300 and len(cheap) >= 8


def test_the_ledger_knows_commands_only():
    for name, found in ledger.last().items():
        assert name in COMMANDS
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"]) and found["commit"]
        assert set(found["stale"]) <= {entry.name for entry in by_command()[name]}


# ------------------------------------------------------------------------ templates and bands

numbers = st.one_of(
    st.integers(-(10**12), 10**12).map(lambda n: f"{n:,}"),
    st.decimals(-10, 10, places=3).map(lambda d: f"{d:+.3f}".replace("-", "−")),
)


@given(st.lists(numbers, min_size=1, max_size=5), st.sampled_from([" ", " ± ", "\n"]))
def test_numbers_are_read_as_they_are_written(values, between):
    text = f"before {between.join(values)}, after"
    found = first("before " + between.join(["{}"] * len(values)) + ", after", text)
    assert [one.text for one in found] == values
    plain = [float(v.replace(",", "").replace("−", "-")) for v in values]
    assert [one.value for one in found] == plain


@given(value=st.decimals(0, 1000, places=2))
def test_part_of_a_number_is_no_number(value):
    text = f"x {value:.2f}5 y"
    assert first("x {} y", text)[0].text == f"{value:.2f}5"
    for template in ("x {}5 y", f"x {text[2]}{{}} y"):  # neither its beginning nor its end
        with pytest.raises(Missing):
            first(template, text)


def test_white_space_is_any_and_places_are_counted():
    assert only("a {}\nb", "a\n  3 b")[1] == "3"
    with pytest.raises(Missing, match="nothing reads: a {}"):
        only("a {}", "b 3")
    with pytest.raises(Missing, match="several places"):
        only("a {}", "a 3, a 4")


@given(whole=st.integers(0, 999), off=st.floats(-2, 2, allow_nan=False))
def test_same_digits_are_half_of_the_last_one_apart(whole, off):
    stated = number(f"{whole / 10:.1f}")
    if abs(abs(off) - 0.05) > 1e-6:
        assert EXACT.allows(stated, stated.value + off) == (abs(off) < 0.05)
    assert CLOCK.allows(stated, off)
    if stated.value > 1:
        assert RATIO.allows(stated, 1.29 * stated.value)
        assert not RATIO.allows(stated, 1.31 * stated.value + 0.06)


@pytest.mark.parametrize("here", [True, False])
def test_what_repeats_is_judged_by_its_digits_on_the_machine_that_measured(monkeypatch, here):
    monkeypatch.setattr("tests.replay.bands.as_measured", lambda: here)
    band, stated = trained(0.5), number("2.10")
    assert band.allows(stated, 2.104) and band.allows(stated, 2.4) != here
    assert not band.allows(stated, 2.7)
    assert str(band) == ("same digits" if here else "± 0.5")


def test_the_readme_names_machine_and_versions():
    assert as_measured() in (True, False)


# ------------------------------------------------------------------------------- the command


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Two entries over a text of one's own; `say` changes what the command prints."""
    text = tmp_path / "text.md"
    text.write_text("It keeps 70,272 bytes, between 1.5\nand 2.5 %.", "utf-8")
    entries = [
        Entry("bytes", "keeps {} bytes", "info", ("MLA {}",), EXACT, str(text)),
        Entry("range", "{} and {} %", "info", (Reading("by seed: {}, {}, {}", ends),), EXACT,
              str(text)),
    ]  # fmt: skip
    printed = {"output": "MLA 70272\nby seed: 2, 1.52, 2.5\n", "date": "2026-01-02",
               "commit": "abc", "seconds": 1}  # fmt: skip
    monkeypatch.setattr(replay, "by_command", lambda: {"info": entries})
    monkeypatch.setattr(replay, "KEPT", ())
    monkeypatch.setattr(replay, "run", lambda name, folder: printed)
    monkeypatch.setattr(ledger, "FILE", tmp_path / "replayed.json")
    (tmp_path / "replayed.json").write_text("{}", "utf-8")
    return text, printed


def test_what_is_printed_again_is_ok(small, capsys):
    assert replay.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:3]] == ["ok"] * 3
    assert lines[3] == "3 ok, 0 STALE, 0 not replayed"


@pytest.mark.parametrize("edit", [("70,272", "70,273"), ("1.5\n", "1.6\n"), ("keeps", "holds")])
def test_an_edited_text_is_stale_at_once(small, capsys, edit):
    text, _ = small
    text.write_text(text.read_text("utf-8").replace(*edit), "utf-8")
    assert replay.main(["--record"]) == 1
    assert "1 STALE" in capsys.readouterr().out
    assert len(ledger.last()["info"]["stale"]) == 1


@pytest.mark.parametrize("edit", [("70272", "70274"), ("1.52", "1.4"), ("by seed", "of seed")])
def test_another_output_is_stale(small, capsys, edit):
    _, printed = small
    printed["output"] = printed["output"].replace(*edit)
    assert replay.main([]) == 1
    assert "1 STALE" in capsys.readouterr().out


def test_a_command_that_fails_is_stale(small, capsys, monkeypatch):
    def fails(name, folder):
        raise Failed("minideepseek info: exit status 2: no such preset")

    monkeypatch.setattr(replay, "run", fails)
    assert replay.main([]) == 1
    assert "no such preset" in capsys.readouterr().out


def test_what_is_asked_for_alone_is_replayed(small, capsys):
    assert replay.main(["--only", "bytes"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 ok, 0 STALE, 0 not replayed"


def test_costly_ones_say_why_they_are_not_replayed(small, capsys, monkeypatch):
    monkeypatch.setitem(COMMANDS, "info", commands.Command("minideepseek info", 3000))
    assert replay.main(["--medium"]) == 0
    assert "not replayed costly, about 50 min: minideepseek info" in capsys.readouterr().out
    monkeypatch.setitem(COMMANDS, "info", commands.Command("minideepseek info", 3, ("no_such",)))
    assert replay.main([]) == 0
    assert "no_such not installed" in capsys.readouterr().out


def test_a_replay_is_recorded_and_listed(small, capsys):
    assert replay.main(["--record"]) == 0
    assert ledger.last() == {
        "info": {"date": "2026-01-02", "commit": "abc", "seconds": 1, "stale": []}
    }
    assert replay.main(["--list"]) == 0
    assert "last replayed 2026-01-02 at abc" in capsys.readouterr().out


def test_a_part_of_a_commands_entries_is_not_its_record(small):
    assert replay.main(["--only", "bytes", "--record"]) == 0 and ledger.last() == {}
    assert replay.main(["--only", "info", "--record"]) == 0 and set(ledger.last()) == {"info"}


def test_an_output_is_kept_and_read(tmp_path):
    found = commands.run("lines", tmp_path)
    assert re.match(r"\s*\d+ demos/microdeepseek.py", found["output"])
    file = tmp_path / "lines.json"
    file.write_text(json.dumps(found | {"output": "7 demos"}), "utf-8")
    assert commands.run("lines", tmp_path)["output"] == "7 demos"


def test_a_failure_says_what_failed(monkeypatch):
    monkeypatch.setitem(COMMANDS, "info", commands.Command("minideepseek info --preset v9", 1))
    with pytest.raises(Failed, match="minideepseek info --preset v9: exit status"):
        commands.run("info")


@pytest.mark.slow
def test_the_cheapest_are_replayed():
    assert replay.main(["--only", "info", "zoo", "exercises", "lines", "block 2", "counts"]) == 0
