r"""Chapter 5 — Addition with the carries written out: column by column, last digits first

    3 4 7 + 5 8 6 =   <think> 7 + 6 = 1 3 , 4 + 8 + 1 = 1 3 , 3 + 5 + 1 = 9 </think> 9 3 3

The second task, for contrast. A number is a row of digits, a token each. The sum is written from
the front, but carries come from the back: in a direct answer the first digit would need all columns
at once. The thought does one column at a time, and where a carry comes in, it is written as `+ 1`,
so that no step needs more than what stands before it.

>>> task = Addition()
>>> problem = Problem("3 4 7 + 5 8 6 =", (347, 586))
>>> task.demonstration(problem)
'<think> 7 + 6 = 1 3 , 4 + 8 + 1 = 1 3 , 3 + 5 + 1 = 9 </think> 9 3 3'
>>> task.verify(problem, "9 3 3"), task.verify(problem, "933"), task.verify(problem, "0 9 3 3")
(True, False, False)

What it shows
-------------
This teacher is always right and never out of problems (810,000 of three digits): here more
supervised learning would do as well or better. What reinforcement learning adds is that it needs no
thoughts to copy, only problems and a program that checks answers. The problem fixes how long its
thought is, so there is no growth to see; accuracy alone moves.

Source: Lee et al. 2023 (Teaching arithmetic to small transformers) for last digits first and the
scratchpad.
"""

import numpy as np

from minideepseek.errors import InputError
from minideepseek.reasoning.tasks import Problem, Task


class Addition(Task):
    """The task: two numbers of as many digits, the first digit not 0.

    Raises InputError for digits outside 1 to 9.
    """

    name = "addition"

    def __init__(self, digits: int = 3) -> None:
        if not (isinstance(digits, int) and 1 <= digits <= 9):
            raise InputError(f"digits: got {digits!r}, expected an integer from 1 to 9")
        self.digits = digits
        self.max_prompt_tokens = 1 + 2 * digits + 2
        # "4 + 8 + 1 = 1 3 ," is 9 tokens a column; <think> </think> 1 9 3 3 <eos> are digits + 4.
        self.max_new_tokens = 9 * digits + digits + 4

    def problem(self, rng: np.random.Generator) -> Problem:
        """Any problem: both numbers equally likely from 10…0 to 99…9."""
        low = 10 ** (self.digits - 1)
        a, b = rng.integers(low, 10 * low, 2).tolist()
        return Problem(f"{_spaced(a)} + {_spaced(b)} =", (a, b))

    def read(self, prompt: str) -> Problem:
        """Reads "347 + 586 =", with spaces anywhere; "=" may be missing."""
        parts = "".join(prompt.split()).removesuffix("=").split("+")
        for part in parts:
            if not (part.isascii() and part.isdigit() and part[0] != "0"):
                parts = []
        if [len(part) for part in parts] != [self.digits] * 2:
            raise InputError(
                f"prompt: got {prompt!r}, expected two numbers of {self.digits} digits, such as "
                f'"{"347586219"[: self.digits]} + {"586347128"[: self.digits]}"'
            )
        a, b = map(int, parts)
        return Problem(f"{_spaced(a)} + {_spaced(b)} =", (a, b))

    def verify(self, problem: Problem, answer: str) -> bool:
        """Whether the answer is the sum, digit by digit, and nothing else."""
        return answer.split() == list(str(sum(problem.facts)))

    def demonstration(self, problem: Problem, rng: np.random.Generator | None = None) -> str:
        """The columns from the last to the first, then the sum. Nothing here is drawn."""
        a, b = problem.facts
        carry, columns = 0, []
        for x, y in zip(reversed(str(a)), reversed(str(b)), strict=True):
            total = int(x) + int(y) + carry
            columns.append(f"{x} + {y}{' + 1' if carry else ''} = {_spaced(total)}")
            carry = total // 10
        return f"<think> {' , '.join(columns)} </think> {_spaced(a + b)}"


def _spaced(number: int) -> str:
    """347 as "3 4 7"."""
    return " ".join(str(number))
