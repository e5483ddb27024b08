"""Sizes, folders and tables of the comparing demos."""

from pathlib import Path

import pytest

from demos.common import chosen, sizes, spread, text_table


@pytest.mark.parametrize(
    ("given", "kind"), [([], "default"), (["--full"], "full"), (["--quick"], "quick")]
)
def test_a_size_has_a_folder_of_its_own(tmp_path, monkeypatch, given, kind):
    monkeypatch.chdir(tmp_path)
    parser = sizes("A title.\n\nMore.", full="three seeds")
    assert parser.description == "A title."
    assert chosen(parser.parse_args(given), "demo") == (kind, Path("runs", "demo", kind))
    assert Path("runs", "demo", kind).is_dir()
    found = chosen(parser.parse_args([*given, "--out", "there/it/is"]), "demo")
    assert found == (kind, Path("there/it/is")) and found[1].is_dir()


def test_not_two_sizes_at_once(capsys):
    with pytest.raises(SystemExit):
        sizes("A title.", full="three seeds").parse_args(["--full", "--quick"])
    assert "not allowed with" in capsys.readouterr().err


def test_a_spread_where_there_are_seeds():
    assert spread([2.0]) == "2.000" and spread([2.0, 2.2]) == "2.100 ±\u00a00.141"
    assert spread([2.0, 2.2], 1) == "2.1 ±\u00a00.1"


def test_a_table_is_aligned_left_then_right():
    found = text_table(["", "wide", "b"], [["name", "1", "22"], ["n", "2", "3"]])
    assert found == "      wide   b\nname     1  22\nn        2   3"
