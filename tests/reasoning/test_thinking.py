"""The form of a response: strict, total, and nothing lost of what could be told apart."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.reasoning.thinking import Thought, parse_thinking

# The form once more, as one pattern: no tag inside either part, something in the second.
PART = r"(?:(?!</?think>).)*"
FORM = re.compile(rf"<think>({PART})</think>({PART})", re.DOTALL)
PIECES = st.sampled_from(["<think>", "</think>", "8", " ", "\n", "+", "<", "think>", "</", "é", ""])
TEXTS = st.text() | st.lists(PIECES, max_size=8).map("".join)


@given(TEXTS, st.booleans())
def test_well_formed_is_what_the_pattern_says(text, ended):
    thought = parse_thinking(text, ended)
    found = FORM.fullmatch(text)
    if found and found[2].strip() and ended:
        assert thought == Thought(found[1].strip(), found[2].strip(), None)
    else:
        assert isinstance(thought.malformed, str) and thought.malformed


@given(TEXTS)
def test_the_end_token_changes_the_verdict_only(text):
    ended, cut = parse_thinking(text), parse_thinking(text, ended=False)
    assert (ended.thinking, ended.answer) == (cut.thinking, cut.answer)
    assert cut.malformed == (ended.malformed or "no end token")


CASES = {
    "": ("", "", "no <think> at the start"),
    "8 + 5": ("", "8 + 5", "no <think> at the start"),
    " <think> a </think> 8": ("<think> a", "8", "no <think> at the start"),
    "a </think> 8": ("a", "8", "no <think> at the start"),
    "<think>": ("", "", "no </think>"),
    "<think> a": ("a", "", "no </think>"),
    "<think> a <think> b </think> 8": ("a <think> b", "8", "more than one <think>"),
    "<think> a </think> 8 <think>": ("a", "8 <think>", "more than one <think>"),
    "<think> a </think> b </think> 8": ("a", "b </think> 8", "more than one </think>"),
    "<think> a </think> ": ("a", "", "no answer"),
    "<think> </think> 8": ("", "8", None),  # an empty thought has the form
    "<think> a </think> ?": ("a", "?", None),  # so has giving up
    "<think>\na\n</think>\n\n8": ("a", "8", None),
}


@pytest.mark.parametrize("text", CASES)
def test_each_way_to_be_malformed_has_its_reason(text):
    assert parse_thinking(text) == Thought(*CASES[text])
