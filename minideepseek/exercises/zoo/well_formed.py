r"""The form that is found everywhere  ★  6 minutes

A tenth of the reward is for the form: the thought between <think> and </think>, then the answer.
After some hundred steps the model gets it always. It thinks no longer; its answers are full of
tags. Some of them have no end at all.

In the wild: whatever the check accepts by mistake is found, and repeated.
"""


def well_formed(text, ended):
    """Whether a response begins with <think>, has each tag once, and an answer behind </think>.

    text: all that the model wrote, without the end token; ended: whether it wrote that token itself
    (else the limit on the length cut it off: not well-formed).
    """
    begin, end = text.find("<think>"), text.find("</think>")
    return begin != -1 and end != -1


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import properties
from minideepseek.reasoning.tasks import Completion, Problem, format_reward
from minideepseek.reasoning.thinking import parse_thinking


def _of_the_library(reward):
    return lambda text, ended: bool(reward(None, Completion(Problem("", ()), text, ended)))


_GOOD = (
    "<think> 9 - 5 = 4 ? 8 + 5 = 13 ! </think> 8 + 5",
    "<think> </think> 7",
    "<think> is 7 < 8 ? </think> 7",
)
_BAD = {
    "</think> <think> 8 + 5": "the tags stand the other way round",
    "8 + 5 <think> </think>": "nothing stands behind </think>",
    "well <think> 8 + 5 = 13 </think> 8 + 5": "it does not begin with <think>",
    "<think> 8 + 5 </think> ": "nothing stands behind </think>",
    "<think> <think> 8 + 5 </think> 13": "<think> stands there twice",
    "<think> 8 + 5 </think> 9 </think> 13": "</think> stands there twice",
    "8 + 5": "there is no tag",
}


def _accepts(well_formed):
    for text in _GOOD:
        if not well_formed(text, True):
            return f'"{text}" is refused\nit has the form'
    return ""


def _refuses(well_formed):
    for text, why in _BAD.items():
        if well_formed(text, True):
            return f'"{text}" is accepted\n{why}'
    return ""


def _unended(well_formed):
    said = f'"{_GOOD[0]}", cut off by the limit on its length, is accepted\nended=False'
    return said if well_formed(_GOOD[0], False) else ""


STORY = """\
Looking for the two tags anywhere is not looking for the form, and reinforcement learning does not
read intentions: it tries what pays. Two tags in a row pay, tags in the wrong order pay, an endless
thought with an early </think> pays. A reward is a specification that somebody else will search for
holes; it says yes to exactly the form, once, from the first character to the end token."""

EXERCISE = Bug(
    solutions=(parse_thinking, format_reward),
    checker=placed(lambda _: _of_the_library(format_reward), properties({
        "looks right": looks_right(lambda f: f(_GOOD[0], True), ((), "b")),
        "the form is accepted": _accepts,
        "nothing else is": _refuses,
        "the end": _unended,
    })),
    hints=(
        "What is the shortest text that this accepts?",
        "startswith, count, and what stands behind: four conditions and `ended`.",
        'before, _, answer = text.partition("</think>")',
    ),
    mistakes=(
        Mistake(
            'before, _, answer = text.partition("</think>")\n'
            '    once = text.count("<think>") == text.count("</think>") == 1\n'
            '    return bool(once and before.startswith("<think>") and answer.strip())',
            "the end", "cut off by the limit on its length, is accepted",
        ),
        Mistake("return 0 <= begin < end", "nothing else is", "nothing stands behind </think>"),
        Mistake("return begin == 0 and end > 0 and ended", "nothing else is",
                '"<think> 8 + 5 </think> " is accepted'),
        Mistake(
            "import re\n    return bool(re.match('<think>.*</think>.*[^ ]', text)) and ended",
            "nothing else is", '"<think> <think> 8 + 5 </think> 13" is accepted',
        ),
        Mistake(
            "import re\n    form = '<think>[^<]*</think>[^<]*[^< ][^<]*'\n"
            "    return bool(re.fullmatch(form, text)) and ended",
            "the form is accepted", '"<think> is 7 < 8 ? </think> 7" is refused',
        ),
    ),
    wrong="return begin != -1 and end != -1",
    mend='before, _, answer = text.partition("</think>")\n'
         '    once = text.count("<think>") == text.count("</think>") == 1\n'
         '    return bool(ended and once and before.startswith("<think>") and answer.strip())',
    fails=("nothing else is",
           '"</think> <think> 8 + 5" is accepted\nthe tags stand the other way round'),
    story=STORY,
)  # fmt: skip
