"""Addition: the columns of the thought, the verifier, and a split that hides no pair of digits."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.errors import InputError
from minideepseek.reasoning.addition import Addition
from minideepseek.reasoning.tasks import Problem, Task

TASK = Addition()
OPERANDS = st.tuples(st.integers(100, 999), st.integers(100, 999))


def problem_of(a, b):
    return Problem(" + ".join(" ".join(str(n)) for n in (a, b)) + " =", (a, b))


@given(OPERANDS)
def test_the_thought_is_the_sum_column_by_column(operands):
    problem = problem_of(*operands)
    thinking, answer = re.fullmatch(
        r"<think> (.*) </think> (.*)", TASK.demonstration(problem, np.random.default_rng(0))
    ).groups()
    columns = thinking.split(" , ")
    assert len(columns) == 3
    digits = [str(n)[::-1] for n in operands]
    for i, column in enumerate(columns):
        carry = (operands[0] % 10**i + operands[1] % 10**i) // 10**i
        left, right = column.split(" = ")
        assert left == f"{digits[0][i]} + {digits[1][i]}" + (" + 1" if carry else "")
        assert int(right.replace(" ", "")) == int(digits[0][i]) + int(digits[1][i]) + carry
    assert answer == " ".join(str(sum(operands)))
    # The answer can be read off the columns: their last digits, and the whole of the last column.
    read = columns[-1].split(" = ")[1].split() + [c.split()[-1] for c in columns[-2::-1]]
    assert read == answer.split()


@given(OPERANDS, st.integers(0, 1999))
def test_the_verifier_accepts_the_sum_and_no_other_number(operands, other):
    problem = problem_of(*operands)
    for number in (sum(operands), other):
        found = TASK.verify(problem, " ".join(str(number)))
        assert found is (number == sum(operands))


def test_of_all_short_texts_one_is_accepted():
    problem = Problem("1 2 + 3 4 =", (12, 34))
    words = TASK.tokenizer.tokens
    texts = (" ".join(t) for n in range(4) for t in itertools.product(words, repeat=n))
    assert [text for text in texts if TASK.verify(problem, text)] == ["4 6"]


@pytest.mark.parametrize(
    "text",
    ["", "933", "9 33", "0 9 3 3", "9 3 3 0", "9 3 3 =", "+ 9 3 3", "9 3 3 9 3 3", "3 3 9", "9 3",
     "9 3 3 . 0", "9 3 ３", "3 4 7 + 5 8 6", "9 3 3 </think> 9 3 3", "9, 3, 3", "-9 3 3"],
    ids=repr,
)  # fmt: skip
def test_what_a_lenient_verifier_would_take(text):
    assert TASK.verify(problem_of(347, 586), "9 3 3") is True
    assert TASK.verify(problem_of(347, 586), text) is False


@given(st.text() | st.text(alphabet="0123456789 +=-"))
def test_no_text_breaks_the_verifier(text):
    assert TASK.verify(problem_of(347, 586), text) is (text.split() == ["9", "3", "3"])


@pytest.mark.parametrize("digits", [1, 2, 3, 9])
def test_the_problems_are_those_of_so_many_digits(digits):
    task, rng = Addition(digits), np.random.default_rng(0)
    drawn = [task.problem(rng) for _ in range(2000)]
    operands = np.array([problem.facts for problem in drawn])
    assert operands.min() >= 10 ** (digits - 1) and operands.max() < 10**digits
    assert all(problem == problem_of(*problem.facts) for problem in drawn)
    first = operands // 10 ** (digits - 1)
    assert set(first.ravel().tolist()) == set(range(1, 10))
    longest = problem_of(10**digits - 1, 10**digits - 1)
    assert len(task.prompt_ids(longest)) == task.max_prompt_tokens
    assert len(task.response_ids(task.demonstration(longest))) <= task.max_new_tokens


@pytest.mark.parametrize("digits", [0, 10, 3.0, "3"])
def test_digits_that_make_no_task(digits):
    with pytest.raises(InputError, match=f"digits: got {digits!r}, expected an integer from 1"):
        Addition(digits)


def test_every_pair_of_digits_is_on_both_sides_of_the_split():
    """A linear hash keeps some pairs of last digits out of training: crc32 does not."""
    rng = np.random.default_rng(0)
    for held_out in (False, True):
        facts = [TASK.draw(rng, held_out).facts for _ in range(2000)]
        for column in (1, 10, 100):
            pairs = {(a // column % 10, b // column % 10) for a, b in facts}
            assert len(pairs) == (81 if column == 100 else 100)


def test_one_problem_in_ten_is_held_out_and_three_hundred_are_listed():
    rng = np.random.default_rng(0)
    share = np.mean([TASK.is_held_out(TASK.problem(rng)) for _ in range(10_000)])
    assert abs(share - 0.1) < 0.012
    listed = TASK.held_out_problems()
    assert len(listed) == 300 and listed == Addition().held_out_problems()
    small = Addition(1).held_out_problems()  # fewer than there could be: every one of them
    assert len(small) == sum(
        TASK.is_held_out(problem_of(a, b)) for a in range(1, 10) for b in range(1, 10)
    )


def test_a_document_is_a_training_problem_and_its_response():
    assert Addition.document is Task.document
    for seed in range(200):
        document = TASK.document(np.random.default_rng(seed))
        prompt, response = document.split(" =", 1)
        a, b = (int(n.replace(" ", "")) for n in prompt.split(" + "))
        assert not TASK.is_held_out(problem_of(a, b))
        assert response == " " + TASK.demonstration(problem_of(a, b))
