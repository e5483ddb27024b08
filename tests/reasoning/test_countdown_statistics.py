"""What is counted in a Countdown thought is what is written there."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.reasoning.countdown import Countdown
from minideepseek.reasoning.countdown_statistics import Attempt, attempts, search_statistics
from minideepseek.reasoning.tasks import Completion, Problem

TASK = Countdown()
PROBLEM = Problem("9 8 5 3 > 13 :", ((9, 8, 5, 3), 13))


def told(*thoughts, answer="8 + 5"):
    texts = [f"<think> {thought} </think> {answer}" for thought in thoughts]
    return search_statistics([Completion(PROBLEM, text, True) for text in texts])


def test_every_number_by_hand():
    found = told(
        "9 - 5 = 4 ? 9 + 3 = 13 ! 9 + 3 = 12 ?",  # a wrong sum, whose mark fits it; a repeat
        "8 + 5 = 13 ? 5 + 8 = 13 !",  # a wrong mark; the same again the other way round
        "7 + 6 = 13 ! 5 + 5 = 10 ?",  # numbers that are not there; one used twice
        "",
        answer="?",
    )
    assert found == {
        "attempts": 7 / 4, "repeats": 2 / 7, "given": 5 / 7, "sums": 6 / 7, "verdicts": 6 / 7,
        "hits": 3 / 7, "given_up": 1.0,
    }  # fmt: skip


def test_a_difference_the_other_way_round_is_another_attempt():
    found = told("8 - 5 = 3 ? 5 - 8 = 3 ?")
    assert found["repeats"] == 0 and found["sums"] == 0.5 and found["given_up"] == 0


def test_a_repeat_is_one_however_long_ago():
    assert told("8 + 5 = 13 ? 9 - 5 = 4 ? 5 + 8 = 13 ?", "8 + 5 = 13 !")["repeats"] == 1 / 4


@pytest.mark.parametrize("attempt", ["7 + 5 = 12 ?", "5 + 7 = 12 ?", "5 + 5 = 10 ?"])
def test_numbers_that_are_not_given_are_seen(attempt):
    assert told(attempt)["given"] == 0 and told(attempt)["sums"] == 1


def test_words_between_attempts_are_passed_over():
    assert attempts("9 ? 8 + 5 = 13 ! ! 9 - 5 = 4 , 3 + 5 = 8 ? 9 + 8 = 17") == [
        Attempt(8, "+", 5, 13, "!"),
        Attempt(3, "+", 5, 8, "?"),
    ]
    assert attempts("8 + 5 = 8 + 5 = 13 !") == [Attempt(8, "+", 5, 13, "!")]


def test_where_there_is_nothing_to_count_there_is_no_number():
    assert all(math.isnan(value) for value in search_statistics([]).values())
    found = told("")
    assert found["attempts"] == 0 and found["given_up"] == 0 and math.isnan(found["verdicts"])


@given(seed=st.integers(0, 10**6), count=st.integers(1, 8))
def test_the_teacher_is_honest_and_a_flipped_mark_is_seen(seed, count):
    rng = np.random.default_rng(seed)
    problems = [TASK.draw(rng) for _ in range(count)]
    texts = [TASK.demonstration(problem, rng) for problem in problems]
    answers = [Completion(p, text, True) for p, text in zip(problems, texts, strict=True)]
    found = search_statistics(answers)
    tried = sum(text.count("=") for text in texts)
    solved = sum(text.count("!") for text in texts)
    assert found["attempts"] == tried / count
    assert found["given"] == found["sums"] == found["verdicts"] == 1 and found["repeats"] == 0
    assert found["hits"] == pytest.approx(solved / tried)
    assert found["given_up"] == pytest.approx(1 - solved / count)
    flipped = [texts[0].translate(str.maketrans("!?", "?!")), *texts[1:]]
    answers = [Completion(p, text, True) for p, text in zip(problems, flipped, strict=True)]
    found = search_statistics(answers)
    assert found["verdicts"] == pytest.approx(1 - texts[0].count("=") / tried)
    assert found["sums"] == 1


@given(st.lists(st.text() | st.lists(st.sampled_from("8 + 5 = 13 ! ? -".split())).map(" ".join)))
def test_no_text_makes_it_raise(texts):
    found = search_statistics([Completion(PROBLEM, text, False) for text in texts])
    assert all(math.isnan(v) or 0 <= v <= 1 for k, v in found.items() if k != "attempts")
