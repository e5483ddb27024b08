"""The demo that measures the engine's cost runs, and the cost is what is claimed."""

import re

import pytest

from demos import engine_overhead


def test_the_table_has_a_line_for_every_case(monkeypatch, capsys):
    monkeypatch.setattr(engine_overhead, "STEPS", 3)
    monkeypatch.setattr(engine_overhead, "ROUNDS", 2)
    engine_overhead.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12 and all(len(line.split()) == 4 for line in lines[1:-1])


@pytest.mark.slow
def test_the_engine_adds_at_most_ten_microseconds_to_a_primitive(capsys):
    engine_overhead.main()
    last = capsys.readouterr().out.splitlines()[-1]
    assert float(re.match(r"added: at most ([0-9.]+) µs", last)[1]) <= 10
