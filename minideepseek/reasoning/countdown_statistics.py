r"""Chapter 5 — What a Countdown thought consists of, and whether its verdicts are true

The reward looks at the answer alone. Whether the thinking in front of it is honest is another
question: a model whose test for equality is weak can earn more by writing `!` behind any sum and
answering it than by searching on. So the thought is read as well. An attempt is six words,

    a op b = v verdict          9 - 5 = 4 ?

and what is counted over all responses is

    attempts   how many a response holds, on average: the length of the search
    repeats    share of attempts that were made before in the same thought (8 + 5 is 5 + 8)
    given      share of attempts whose a and b are two of the problem's numbers
    sums       share with a op b = v
    verdicts   share whose mark is true of the v that was written: `!` where it is the target
    hits       share whose a op b is the target
    given_up   share of responses whose answer is `?`

>>> from minideepseek.reasoning.tasks import Completion, Problem
>>> problem = Problem("9 8 5 3 > 13 :", ((9, 8, 5, 3), 13))
>>> text = "<think> 9 - 5 = 4 ? 9 + 3 = 11 ? 8 + 5 = 13 ! </think> 8 + 5"
>>> found = search_statistics([Completion(problem, text, True)])
>>> found["attempts"], found["verdicts"], round(found["sums"], 2)
(3.0, 1.0, 0.67)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from minideepseek.reasoning.tasks import Completion

SHARES = ("repeats", "given", "sums", "verdicts", "hits")  # of attempts


class Attempt(NamedTuple):
    """One `a op b = v verdict` of a thought."""

    a: int
    op: str
    b: int
    v: int
    verdict: str

    @property
    def value(self) -> int:
        """What a op b is."""
        return self.a + self.b if self.op == "+" else self.a - self.b

    @property
    def pair(self) -> tuple[int, str, int]:
        """The same for 8 + 5 and 5 + 8."""
        a, b = sorted((self.a, self.b)) if self.op == "+" else (self.a, self.b)
        return a, self.op, b


def attempts(thinking: str) -> list[Attempt]:
    """The attempts of a thought, in order; words that belong to none are passed over."""
    words, found = thinking.split(), []
    for i in range(len(words) - 5):
        a, op, b, equals, v, verdict = words[i : i + 6]
        numbers = all(w.isascii() and w.isdigit() and len(w) < 4 for w in (a, b, v))
        if numbers and op in ("+", "-") and equals == "=" and verdict in ("!", "?"):
            found.append(Attempt(int(a), op, int(b), int(v), verdict))
    return found


def search_statistics(completions: Sequence[Completion]) -> dict[str, float]:
    """The numbers above, over Countdown completions; NaN where there is nothing to count."""
    counts = dict.fromkeys(SHARES, 0)
    total = 0
    for completion in completions:
        numbers, target = completion.problem.facts
        seen: set[tuple[int, str, int]] = set()
        for one in attempts(completion.thought.thinking):
            total += 1
            counts["repeats"] += one.pair in seen
            counts["given"] += one.a in numbers and one.b in numbers and one.a != one.b
            counts["sums"] += one.value == one.v
            counts["verdicts"] += (one.v == target) == (one.verdict == "!")
            counts["hits"] += one.value == target
            seen.add(one.pair)
    shares = {name: count / total if total else math.nan for name, count in counts.items()}
    answers = len(completions)
    given_up = sum(completion.thought.answer == "?" for completion in completions)
    return {
        "attempts": total / answers if answers else math.nan,
        **shares,
        "given_up": given_up / answers if answers else math.nan,
    }
