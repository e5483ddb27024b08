"""Plain lines are few and right, the last step is always told, a terminal gets a bar."""

import importlib.util
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.errors import InputError
from minideepseek.training.progress import Progress, duration


class Clock:
    """Time that passes only when told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(total: int, seconds: float, start: int = 0, every: float = 5.0) -> list[str]:
    stream, clock = io.StringIO(), Clock()
    with Progress(total, "pretrain", start, stream, every, clock) as progress:
        for step in range(start + 1, total + 1):
            clock.now += seconds
            progress.update(step, loss=2.3456789, **{"tokens/s": 12_345.6})
    return stream.getvalue().splitlines()


def test_a_plain_line_says_everything():
    assert work(total=20, seconds=1.0)[0] == (
        "pretrain 5/20 (25 %)  loss 2.346  tokens/s 12,346  0:15 left"
    )


def test_time_left_of_a_resumed_run_counts_only_its_own_steps():
    assert work(total=100, seconds=2.0, start=90)[0].endswith("93/100 (93 %)  loss 2.346  "
                                                             "tokens/s 12,346  0:14 left")


@given(
    total=st.integers(1, 60), seconds=st.floats(0.01, 20), every=st.floats(0.5, 30), part=st.data()
)
def test_lines_are_few_and_the_last_step_is_told_once(total, seconds, every, part):
    start = part.draw(st.integers(0, total - 1))
    lines = work(total, seconds, start, every)
    assert len(lines) <= (total - start) * seconds / every + 1.001
    told = [int(re.match(r"pretrain (\d+)/", line)[1]) for line in lines]
    assert told == sorted(set(told)) and told[-1] == total
    assert lines[-1].endswith("in all")


def test_an_interrupted_run_tells_the_step_it_reached():
    stream, clock = io.StringIO(), Clock()
    with pytest.raises(KeyboardInterrupt), Progress(9, "x", 0, stream, 5, clock) as progress:
        progress.update(4)
        raise KeyboardInterrupt
    assert stream.getvalue().startswith("x 4/9 (44 %)")


def test_no_step_no_line_and_an_empty_job():
    stream = io.StringIO()
    with Progress(3, "x", stream=stream):
        pass
    with Progress(0, "x", stream=stream) as progress:
        progress.update(0)
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("total", "start"), [(-1, 0), (3, 4), (3, -1)])
def test_impossible_counts_are_refused(total, start):
    with pytest.raises(InputError, match="start: got"):
        Progress(total, "x", start)


def test_a_terminal_gets_a_bar_with_the_fields():
    pytest.importorskip("rich")
    stream = Terminal()
    with Progress(10, "[pretrain]", stream=stream) as progress:
        progress.update(10, loss=1.25)
    written = stream.getvalue()
    assert "[pretrain]" in written and "10/10" in written and "loss 1.25" in written
    assert "in all" not in written


def test_without_rich_a_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    stream = Terminal()
    with Progress(2, "x", stream=stream) as progress:
        progress.update(2, note="done")
    assert stream.getvalue().startswith("x 2/2 (100 %)  note done  ")


def test_durations():
    assert [duration(s) for s in (0, 7.4, 59.6, 130, 3730)] == [
        "0:00",
        "0:07",
        "1:00",
        "2:10",
        "1:02:10",
    ]
