"""Mini-Countdown against plain enumeration: problems, verifier, teacher, text, docstring."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.errors import InputError
from minideepseek.reasoning import countdown
from minideepseek.reasoning.countdown import Countdown, candidates
from minideepseek.reasoning.tasks import Problem

TASK = Countdown()


def solutions(numbers, target):
    """Every right answer, as it would be written: found by trying all ordered pairs."""
    pairs = itertools.permutations(numbers, 2)
    answers = [(f"{a} + {b}", a + b) for a, b in pairs]
    answers += [(f"{a} - {b}", a - b) for a, b in itertools.permutations(numbers, 2)]
    return {text for text, value in answers if value == target}


def every_problem(numbers=4, largest=9):
    """Problem → how many (set, candidate) draws give it; by another route than the task's."""
    counts = Counter()
    for chosen in itertools.combinations(range(1, largest + 1), numbers):
        for a, b in itertools.combinations(chosen, 2):
            for target in (a + b, b - a):
                prompt = " ".join(str(n) for n in reversed(chosen)) + f" > {target} :"
                counts[Problem(prompt, (chosen[::-1], target))] += 1
    return counts


EVERY = every_problem()
HELD_OUT = [problem for problem in EVERY if TASK.is_held_out(problem)]


class Scripted:
    """A generator whose integers and fractions are given beforehand."""

    def __init__(self, integer, fractions):
        self.integer, self.fractions = integer, iter(fractions)

    def integers(self, high):
        assert 0 <= self.integer < high
        return self.integer

    def random(self):
        return next(self.fractions)


# -- problems --------------------------------------------------------------------------------------


def test_how_many_problems_there_are():
    assert len(EVERY) == 1231 and sum(EVERY.values()) == 126 * 12
    for problem, draws in EVERY.items():
        numbers, target = problem.facts
        assert draws == sum(value == target for *_, value in candidates(numbers)) >= 1
    assert round(np.mean(list(EVERY.values())), 2) == 1.23
    drawn = sum(n * n for n in EVERY.values()) / sum(EVERY.values())
    assert round(drawn, 2) == 1.39


def test_every_held_out_problem_is_listed():
    assert len(HELD_OUT) == 117 and set(TASK.held_out_problems()) == set(HELD_OUT)
    training = {p.facts[0] for p in EVERY if not TASK.is_held_out(p)}
    assert training == set(TASK.sets)  # no numbers are new in what is held out


def test_drawing_reaches_every_problem_as_often_as_it_should():
    rng = np.random.default_rng(0)
    drawn = Counter(TASK.problem(rng) for _ in range(40_000))
    assert set(drawn) == set(EVERY)
    expected = np.array([EVERY[p] * 40_000 / 1512 for p in EVERY])
    chi2 = (((np.array([drawn[p] for p in EVERY]) - expected) ** 2) / expected).sum()
    assert abs(chi2 - 1230) < 5 * np.sqrt(2 * 1230)


@pytest.mark.parametrize(("numbers", "largest"), [(2, 9), (3, 12), (5, 20)])
def test_the_knobs_change_the_problems(numbers, largest):
    task, rng = Countdown(numbers, largest), np.random.default_rng(0)
    for _ in range(200):
        given, target = task.problem(rng).facts
        assert len(given) == numbers and list(given) == sorted(set(given), reverse=True)
        assert 1 <= given[-1] and given[0] <= largest and solutions(given, target)
    assert max(n for s in task.sets for n in s) == largest
    assert task.tokenizer.encode(str(2 * largest - 1)).size == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"numbers": 1}, "numbers: got 1, expected an integer from 2 to 5"),
        ({"numbers": 6}, "numbers: got 6"),
        ({"numbers": 4.0}, "numbers: got 4.0"),
        ({"largest": 3}, "largest: got 3, expected an integer from 4 to 20"),
        ({"largest": 21}, "largest: got 21"),
        ({"give_up": -0.1}, "give_up: got -0.1, expected a probability"),
        ({"give_up": 1.1}, "give_up: got 1.1"),
        ({"give_up": float("nan")}, "give_up: got nan"),
    ],
)
def test_options_that_make_no_task(options, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        Countdown(**options)


# -- the verifier ----------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", [HELD_OUT[0], HELD_OUT[60], max(EVERY, key=EVERY.get)])
def test_of_all_short_texts_exactly_the_solutions_are_accepted(problem):
    words = TASK.tokenizer.tokens
    texts = (" ".join(t) for n in range(4) for t in itertools.product(words, repeat=n))
    accepted = {text for text in texts if TASK.verify(problem, text)}
    assert accepted == solutions(*problem.facts)


def test_every_solution_of_every_problem_is_accepted_and_no_other_candidate():
    for problem in EVERY:
        right = solutions(*problem.facts)
        for a, b in itertools.permutations(range(1, 10), 2):
            for text in (f"{a} + {b}", f"{a} - {b}"):
                assert TASK.verify(problem, text) == (text in right)


@given(st.sampled_from(sorted(EVERY, key=str)), st.integers(0, 3), st.data())
def test_one_word_more_or_less_is_refused(problem, place, data):
    words = sorted(solutions(*problem.facts))[0].split()
    extra = data.draw(st.sampled_from(TASK.tokenizer.tokens))
    assert not TASK.verify(problem, " ".join([*words[:place], extra, *words[place:]]))
    words.pop(place % 3)
    assert not TASK.verify(problem, " ".join(words))


HACKS = [  # for the numbers 8 5 4 3 and the target 8
    "", " ", "?", "8", "8 + 0", "8 - 0", "4 + 4", "8+0", "5+3", "+ 5 3", "5 3 +", "5 + 3 = 8",
    "5 + 3 !", "= 5 + 3", "( 5 + 3 )", "5 + + 3", "5 - - 3", "5 + +3", "05 + 3", "5 + 3.0",
    "5.0 + 3", "5e0 + 3", "5 ＋ 3", "５ + 3", "٥ + 3", "5² + 3", "5 − -3", "1.5 * 2", "2 ** 3",
    "4 * 2", "8 // 1", "8 / 1", "16 - 8", "9 - 1", "5 + 3 + 0", "5 + 3 5 + 3", "five + 3",
    "5 + 3 </think> 5 + 3", "5 + 3 <eos>", "9 ** 9 ** 9", "__import__('os')", "5\x1c+\x1c3;",
    "5 + 3\x00", "True + 3", "5_0 + 3",
]  # fmt: skip


@pytest.mark.parametrize("text", HACKS, ids=repr)
def test_what_a_lenient_verifier_would_take(text):
    problem = Problem("8 5 4 3 > 8 :", ((8, 5, 4, 3), 8))
    assert TASK.verify(problem, "5 + 3") and TASK.verify(problem, "3 + 5")
    assert TASK.verify(problem, text) is False


@given(st.text() | st.text(alphabet="0123456789 +-*/=?!.e()"))
def test_no_text_breaks_the_verifier(text):
    problem = HELD_OUT[0]
    found = TASK.verify(problem, text)
    assert found is (" ".join(text.split()) in solutions(*problem.facts))


# -- the teacher -----------------------------------------------------------------------------------

STEP = r"(\d+) ([+-]) (\d+) = (\d+) ([!?])"


def read_steps(thinking, target):
    """The steps of a thought as (a, sign, b), each with its value and its verdict found true."""
    assert re.fullmatch(rf"{STEP}( {STEP})*", thinking)
    steps = re.findall(STEP, thinking)
    for a, sign, b, value, verdict in steps:
        assert int(value) == (int(a) + int(b) if sign == "+" else int(a) - int(b))
        assert (verdict == "!") == (int(value) == target)
    return [(int(a), sign, int(b)) for a, sign, b, *_ in steps]


def misses(problem, start):
    """How often the teacher that never gives up misses; its trace is checked on the way."""
    numbers, target = problem.facts
    text = TASK.demonstration(problem, Scripted(start, [0.3] * 12))  # 0.3 is not below 0.3
    thinking, answer = re.fullmatch(r"<think> (.*) </think> (.*)", text).groups()
    steps = read_steps(thinking, target)
    order = [(a, s, b) for a, b in itertools.combinations(numbers, 2) for s in "+-"]
    assert steps == (order + order)[start : start + len(steps)]
    assert answer in solutions(numbers, target) and thinking.endswith(f"{answer} = {target} !")
    assert thinking.count("!") == 1
    return len(steps) - 1


@pytest.fixture(scope="module")
def all_misses():
    """Problem → its misses from each of the 12 beginnings."""
    return {problem: np.array([misses(problem, s) for s in range(12)]) for problem in EVERY}


def teacher(all_misses, weights, give_up):
    """Accuracy in percent and attempts, exactly, over weighted problems."""
    total = sum(weights.values())
    right = attempts = 0.0
    for problem, weight in weights.items():
        k = all_misses[problem]
        right += weight / total * np.mean((1 - give_up) ** k)
        attempts += weight / total * np.mean(
            [sum((1 - give_up) ** i for i in range(n + 1)) for n in k]
        )
    return 100 * right, attempts


def test_the_docstrings_table_is_exact(all_misses):
    rows = [line.split() for line in countdown.__doc__.splitlines()]
    start = next(i for i, row in enumerate(rows) if row[:2] == ["g", "0"])
    g = [float(x) for x in rows[start][1:]]
    assert g == [0, 0.25, 0.3, 0.35, 0.4, 0.5]
    held_out = dict.fromkeys(HELD_OUT, 1)
    for weights, first in ((EVERY, start + 1), (held_out, start + 3)):
        found = [teacher(all_misses, weights, x) for x in g]
        right, attempts = rows[first], rows[first + 1]
        assert right[-1] == "%" and attempts[0] == "attempts"
        np.testing.assert_allclose([f[0] for f in found], np.array(right[-7:-1], float), atol=0.05)
        np.testing.assert_allclose([f[1] for f in found], np.array(attempts[1:], float), atol=5e-3)


def test_the_teacher_gives_up_after_a_miss_with_probability_g():
    """Scripted fractions just below and at g decide, one for every miss and none for a hit."""
    for problem in HELD_OUT[:30]:
        k = misses(problem, 5)
        for i in range(k):
            fractions = [0.3] * i + [0.2999]
            text = TASK.demonstration(problem, Scripted(5, fractions))
            thinking = re.fullmatch(r"<think> (.*) </think> \?", text)[1]
            assert len(read_steps(thinking, problem.facts[1])) == i + 1
        assert not TASK.demonstration(problem, Scripted(5, [0.3] * k)).endswith("?")


def test_the_longest_search_fits():
    task = Countdown(give_up=0.0)
    lengths = [
        len(task.response_ids(task.demonstration(p, Scripted(s, [0.5] * 12))))
        for p in HELD_OUT
        for s in range(12)
    ]
    assert max(lengths) == 6 * 12 + 6 == task.max_new_tokens - 6
