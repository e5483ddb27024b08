r"""Chapter 5 — A response, taken apart: a thought, then an answer

    <think> 9 - 5 = 4 ? 8 + 5 = 13 ! </think> 8 + 5 <end of sentence>
            └───────── thinking ────┘         └answer┘

R1's models write what they think between two tags, and the answer behind them (R1, table 1; the
template there has tags around the answer too, here it is all that follows `</think>`, and the tags
are single tokens). Nothing tells the model how to think; only that it should, and where. A program
that pays for this form must read it strictly: what is accepted in one lenient case is what
reinforcement learning finds. A response is well-formed if it

    begins with <think>, and has no other,
    has </think> exactly once,
    has an answer behind it,
    and was ended by the model itself, not by the limit on its length.

Anything else is malformed, with a reason in a few words; what could be told apart is still given,
because one wants to see it.

>>> parse_thinking("<think> 9 - 5 = 4 ? 8 + 5 = 13 ! </think> 8 + 5")
Thought(thinking='9 - 5 = 4 ? 8 + 5 = 13 !', answer='8 + 5', malformed=None)
>>> parse_thinking("<think> 9 - 5 = 4 ? 9 + 3", ended=False)
Thought(thinking='9 - 5 = 4 ? 9 + 3', answer='', malformed='no </think>')
>>> parse_thinking("8 + 5")
Thought(thinking='', answer='8 + 5', malformed='no <think> at the start')
"""

from dataclasses import dataclass

BEGIN, END = "<think>", "</think>"


@dataclass(frozen=True)
class Thought:
    """One response: its two parts without white space around them, and what is wrong with it.

    malformed: None, or the first reason why the response does not have the form.
    """

    thinking: str
    answer: str
    malformed: str | None


def parse_thinking(text: str, ended: bool = True) -> Thought:
    """The parts of a response. Never raises, whatever the text.

    text: all that was written after the prompt, special tokens by their names, without the end
    token; ended: whether that token was written.
    """
    before, end, after = text.partition(END)
    direct = not end and not text.startswith(BEGIN)  # no thought can be told apart
    thinking, answer = ("", text) if direct else (before.removeprefix(BEGIN), after)
    return Thought(thinking.strip(), answer.strip(), _malformed(text, answer, ended))


def _malformed(text: str, answer: str, ended: bool) -> str | None:
    if not text.startswith(BEGIN):
        return f"no {BEGIN} at the start"
    for tag in (BEGIN, END):
        if text.count(tag) > 1:
            return f"more than one {tag}"
    if END not in text:
        return f"no {END}"
    if not answer.strip():
        return "no answer"
    return None if ended else "no end token"
