r"""The solver that needs one number  ★★  10 minutes

A model learns to reach a target as the sum or the difference of two of four given numbers,
rewarded by a program that checks the answer. After a while nearly all of its answers are
rewarded. Who reads them finds that many of them break the rules of the game.

In the wild: answers were evaluated, which accepts far more; here they are only read too kindly.
"""

import re


def reaches(numbers, target, answer):
    """Whether answer is "a + b" or "a - b" of two of the given numbers and hits the target.

    numbers: different integers; each may be used once. answer: the model's text, its three words
    between spaces; anything else is wrong, and nothing raises an exception.
    """
    found = re.search(r"(\d+) ([+-]) (\d+)", answer)
    if not found:
        return False
    a, b = int(found[1]), int(found[3])
    if a not in numbers or b not in numbers:
        return False
    return (a + b if found[2] == "+" else a - b) == target


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import properties
from minideepseek.reasoning.countdown import Countdown
from minideepseek.reasoning.tasks import Problem

_NUMBERS = (9, 8, 5, 3)


def _of_the_library(verify):
    return lambda numbers, target, answer: verify(None, Problem("", (numbers, target)), answer)


def _right(reaches):
    """Every sum and difference of two of them, and no other target."""
    for a in _NUMBERS:
        for b in _NUMBERS:
            if a != b:
                for sign, value in (("+", a + b), ("-", a - b)):
                    for off in (0, 1, -2):
                        answer = f"{a} {sign} {b}"
                        if reaches(_NUMBERS, value + off, answer) != (off == 0):
                            word = "refused" if off == 0 else "accepted"
                            return f'{_NUMBERS}, target {value + off}: "{answer}" is {word}'
    return ""


def _refused(*cases):
    def holds(reaches):
        for target, answer in cases:
            if reaches(_NUMBERS, target, answer):
                return f'numbers {_NUMBERS}, target {target}: "{answer}" is accepted'
        return ""

    return holds


STORY = """\
Two holes. A number was used twice, 5 + 5, because membership was asked of each by itself; and the
answer was searched for inside the text, so that "8 + 5 = 13" pays, and so does a list of all sums
of which the first is right. Evaluating the text as a program is worse by far: it accepts 1.5 * 2,
2 ** 3 and 7 // 2, and hangs on 9 ** 9 ** 9. The verifier is the weak place of learning by reward:
it has to compare words with words and accept nothing it was not asked for."""

EXERCISE = Bug(
    solutions=(Countdown.verify,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(_NUMBERS, 13, "8 + 5"), ((), "b")),
        "sums and differences": _right,
        "one number twice": _refused((10, "5 + 5"), (0, "9 - 9"), (6, "3 + 3")),
        "other numbers": _refused((13, "9 + 4"), (13, "12 + 1"), (13, "6 + 7"), (13, "13 - 0")),
        "nothing around it": _refused(*(
            (13, text) for text in ("8 + 5 = 13", "9 + 8 8 + 5", "8 + 5 9 - 3", "x 8 + 5",
                                    "08 + 5", "8 + 5 ?", "8 + 5 = 13 </think> 8 + 5", "")
        )),
    })),
    hints=(
        "What does it say to 5 + 5 for 10? And to 8 + 5 = 13?",
        "Three words exactly, the first and the third different and each the text of a number.",
        "words = answer.split()",
    ),
    mistakes=(
        Mistake("if a not in numbers or b not in numbers or a <= b:", "sums and differences",
                'target 17: "8 + 9" is refused'),
        Mistake(
            "if a not in numbers or b not in numbers or a == b:", "nothing around it",
            '"8 + 5 = 13" is accepted',
        ),
        Mistake(
            "if not re.fullmatch(r'\\d \\S \\d', answer) or not {a, b} <= set(numbers):",
            "one number twice", '"5 + 5" is accepted',
        ),
        Mistake("if a == b or not re.fullmatch(r'\\d \\S \\d', answer):",
                "other numbers", '"9 + 4" is accepted'),
    ),
    wrong="if a not in numbers or b not in numbers:",
    mend="if a == b or a not in numbers or b not in numbers or "
         'answer.split() != [str(a), found[2], str(b)]:',
    fails=("one number twice", 'numbers (9, 8, 5, 3), target 10: "5 + 5" is accepted'),
    story=STORY,
)  # fmt: skip
