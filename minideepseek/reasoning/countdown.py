r"""Chapter 5 — Mini-Countdown: reach a target from two of four numbers, by searching in words

    9 8 5 3 > 13 :   <think> 9 - 5 = 4 ? 9 + 3 = 12 ? 9 - 3 = 6 ? 8 + 5 = 13 ! </think> 8 + 5

Given are four different numbers from 1 to 9, largest first, and a target, the sum or the difference
of two of them. The answer is such a sum or difference; where there are several, all are right. A
thought is a search: each attempt says what it tries, what comes out, and a verdict, `!` for a hit
and `?` for a miss. There are twelve candidates, six pairs with two signs. A guess hits with about
10 %, twelve attempts miss nothing: thinking pays.

>>> task = Countdown()
>>> problem = Problem("9 8 5 3 > 13 :", ((9, 8, 5, 3), 13))
>>> [task.verify(problem, answer) for answer in ("8 + 5", "5 + 8", "9 + 4", "8 + 5 = 13", "?")]
[True, True, False, False, False]
>>> Countdown(give_up=0.0).demonstration(problem, np.random.default_rng(1))
'<think> 9 - 3 = 6 ? 8 + 5 = 13 ! </think> 8 + 5'

A problem is drawn as one of 126 sets and one of its candidates, all equally likely. There are 1,231
different problems with 1.23 solutions on average; a drawn one has 1.39, because a target that can
be reached twice is drawn twice as often. 117 are held out. What is new in them is the question:
every fact, and every set of numbers with some other target, occurs in training.

An impatient teacher
--------------------
The teacher starts at a random candidate and goes on in order (pair by pair, + before -, then from
the beginning again), so that nothing is tried twice. But after every miss it gives up with
probability g: `</think> ?`. After k misses before the hit it is still there with (1 − g)ᵏ, so

    accuracy = E[(1 − g)ᵏ] ,   attempts = E[Σᵢ₌₀ᵏ (1 − g)ⁱ] ,   over problems and beginnings,

and by tests/reasoning/test_countdown.py, which counts all of them:

    g                            0     0.25    0.3    0.35    0.4    0.5
    problems as drawn   right  100     39.3   34.2    30.2   27.0   22.2  %
                     attempts   5.61    2.82   2.53    2.30   2.09   1.78
    the 117 held out    right  100     36.3   31.3    27.4   24.3   19.7  %
                     attempts   5.98    2.91   2.60    2.35   2.14   1.80

Whoever imitates this teacher well gets as far as the table says, with any number of demonstrations:
giving up is part of what is imitated. Yet all that 100 % takes is in them: facts, verdicts, the
order. Reinforcement learning sees only which answers were right, and the way to more of them is not
to give up. No reward asks for length, and still a perfect thought takes 6.0 attempts where the
teacher makes 2.6, because the problems take as many. A caveat: for g < 0.5 giving up is never the
most probable next word, so greedy decoding hides what imitation lacks. Sampling at temperature 1
shows the policy itself.

The text before
---------------
The base model reads this language first, as others read the web, thoughts among it (shares as
tests/reasoning/test_countdown_text.py counts them):

    fact      8 + 5 = 13                                     10 %
    checks    > 13 : 9 - 5 = 4 ? 8 + 5 = 13 ! 9 + 4 = 13 !   44 %    one to five, 54 % of them hits
    direct    9 8 5 3 > 13 : 8 + 5                            4 %
    trace     9 8 5 3 > 13 : <think> … </think>              42 %    the teacher's, impatient too

Checks come four times as often as facts: a reward for right answers does not teach the verdict, and
with verdicts that mean nothing a search cannot know where to stop.

Source: the game of Gandhi et al. 2024 (Stream of Search, arXiv 2404.03683), with one operation.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from minideepseek.errors import InputError
from minideepseek.model.tokenizer import WordTokenizer
from minideepseek.reasoning.tasks import Problem, Task, vocabulary

Candidate = tuple[int, str, int, int]  # a, sign, b, value of a sign b

FACTS, CHECKS, DIRECT = 0.10, 0.44, 0.04  # shares of the documents; the others, 0.42, are traces
MOST_CHECKS = 5  # in one document


def candidates(numbers: tuple[int, ...]) -> list[Candidate]:
    """All that can be tried, in the teacher's order: pair by pair, the sum, then the difference.

    numbers: largest first, so that no difference is negative.
    """
    pairs = combinations(numbers, 2)
    return [c for a, b in pairs for c in ((a, "+", b, a + b), (a, "-", b, a - b))]


class Countdown(Task):
    """The task. numbers: how many are given; largest: they are from 1 to this; give_up: g.

    Raises InputError for sizes outside 2 to 5 numbers and numbers to 20, and for a g that is not a
    probability.
    """

    name = "countdown"

    def __init__(self, numbers: int = 4, largest: int = 9, give_up: float = 0.3) -> None:
        if not (isinstance(numbers, int) and 2 <= numbers <= 5):
            raise InputError(f"numbers: got {numbers!r}, expected an integer from 2 to 5")
        if not (isinstance(largest, int) and numbers <= largest <= 20):
            raise InputError(f"largest: got {largest!r}, expected an integer from {numbers} to 20")
        if not 0 <= give_up <= 1:
            raise InputError(f"give_up: got {give_up}, expected a probability")
        self.largest, self.give_up = largest, give_up
        self.sets = list(combinations(range(largest, 0, -1), numbers))
        self.facts = candidates(tuple(range(largest, 0, -1)))
        self.tokenizer = WordTokenizer(vocabulary(max(18, 2 * largest)))
        self.max_prompt_tokens = 1 + numbers + 3
        # Every candidate once is 6 tokens each; <think> </think> a + b <eos> are 6 more, and one
        # step may be repeated.
        self.max_new_tokens = 6 * (numbers * (numbers - 1) + 2)

    def problem(self, rng: np.random.Generator) -> Problem:
        """Any problem: a set of numbers and one of its candidates, all equally likely."""
        numbers = _pick(self.sets, rng)
        return _problem(numbers, _pick(candidates(numbers), rng)[3])

    def held_out_problems(self) -> list[Problem]:
        """Every held-out problem, each once; 117 with the defaults."""
        every = [
            _problem(numbers, target)
            for numbers in self.sets
            for target in sorted({value for *_, value in candidates(numbers)})
        ]
        return [problem for problem in every if self.is_held_out(problem)]

    def verify(self, problem: Problem, answer: str) -> bool:
        """Whether the answer is "a + b" or "a - b" of two given numbers and hits the target."""
        numbers, target = problem.facts
        words = answer.split()
        given = {str(number): number for number in numbers}
        if len(words) != 3 or words[0] not in given or words[2] not in given:
            return False
        a, sign, b = given[words[0]], words[1], given[words[2]]
        if a == b:  # the numbers differ, so this is one of them used twice
            return False
        return (sign == "+" and a + b == target) or (sign == "-" and a - b == target)

    def read(self, prompt: str) -> Problem:
        """Reads "9 8 5 3 > 13 :" ; the numbers may come in any order, ":" may be missing."""
        words = prompt.strip().removesuffix(":").split()
        known, count = set(range(1, self.largest + 1)), len(self.sets[0])
        given, target = words[:-2], words[-1] if words else ""
        problem = None
        if len(given) == count and words[-2] == ">" and {*given} <= {*map(str, known)}:
            numbers = tuple(sorted(map(int, given), reverse=True))
            reachable = {str(value): value for *_, value in candidates(numbers)}
            if len({*numbers}) == count and target in reachable:
                problem = _problem(numbers, reachable[target])
        if problem is None:
            raise InputError(
                f"prompt: got {prompt!r}, expected {count} different numbers from 1 to "
                f'{self.largest} and a target that two of them reach, such as "9 8 5 3 > 13"'
            )
        return problem

    def demonstration(self, problem: Problem, rng: np.random.Generator) -> str:
        """The search from a random candidate on; after each miss it gives up with probability g."""
        numbers, target = problem.facts
        order = candidates(numbers)
        start = int(rng.integers(len(order)))
        steps = []
        for a, sign, b, value in order[start:] + order[:start]:
            hit = value == target
            steps.append(f"{a} {sign} {b} = {value} {'!' if hit else '?'}")
            if hit:
                return f"<think> {' '.join(steps)} </think> {a} {sign} {b}"
            if rng.random() < self.give_up:
                break
        return f"<think> {' '.join(steps)} </think> ?"

    def document(self, rng: np.random.Generator) -> str:
        """A fact, checks, a problem with its answer, or a problem with the teacher's response."""
        kind = rng.random()
        if kind < FACTS + CHECKS:
            return self._fact(rng) if kind < FACTS else self._check(rng)
        problem = self.draw(rng)
        if kind < FACTS + CHECKS + DIRECT:
            numbers, target = problem.facts
            a, sign, b, _ = _pick([c for c in candidates(numbers) if c[3] == target], rng)
            return f"{problem.prompt} {a} {sign} {b}"
        return f"{problem.prompt} {self.demonstration(problem, rng)}"

    def skills(self) -> dict[str, list[tuple[str, str]]]:
        """What a base must know before RL can build on it: (text, the only word that may follow).

        "facts": all sums and differences; "verdicts": each of them before a target that it hits
        and before one that it misses.
        """
        facts, verdicts = [], []
        for i, (a, sign, b, value) in enumerate(self.facts):
            facts.append((f"{a} {sign} {b} =", str(value)))
            misses = [target for *_, target in self.facts if target != value]
            for target, verdict in ((value, "!"), (misses[7 * i % len(misses)], "?")):
                verdicts.append((f"> {target} : {a} {sign} {b} = {value}", verdict))
        return {"facts": facts, "verdicts": verdicts}

    def _fact(self, rng: np.random.Generator) -> str:
        a, sign, b, value = _pick(self.facts, rng)
        return f"{a} {sign} {b} = {value}"

    def _check(self, rng: np.random.Generator) -> str:
        """One to five steps towards one target, the next as likely after a hit as after a miss.

        Where n of the N facts hit it, each step does with probability (1 + n/N)/2.
        """
        target = _pick(self.facts, rng)[3]
        hits = [fact for fact in self.facts if fact[3] == target]
        steps = []
        for _ in range(int(rng.integers(1, MOST_CHECKS + 1))):
            a, sign, b, value = _pick(hits if rng.random() < 0.5 else self.facts, rng)
            steps.append(f"{a} {sign} {b} = {value} {'!' if value == target else '?'}")
        return f"> {target} : {' '.join(steps)}"


def _problem(numbers: tuple[int, ...], target: int) -> Problem:
    return Problem(f"{' '.join(map(str, numbers))} > {target} :", (numbers, target))


def _pick(choices: Sequence[Any], rng: np.random.Generator) -> Any:
    return choices[int(rng.integers(len(choices)))]
