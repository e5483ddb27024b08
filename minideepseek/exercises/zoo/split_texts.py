r"""The score that is too good to share  ★★  8 minutes

A language model is judged by every tenth document of its collection, which it never reads in
training. Its score is much better than on anything else it is shown, and better the longer it
trains, where one would expect it to turn. Adding one document at the beginning of the collection
gives another score, with the same model.

In the wild: collections copy themselves. Of 4,105 docstrings of a standard library 10 % of the
text repeats other text of it, and a compressor that has seen the rest looks 12 % better than it is
(`python -m minideepseek.training.data`).
"""

import zlib


def split_texts(texts):
    """(training, held-out) texts, about a tenth held out; no text is on both sides.

    texts: strings, some of them more than once. Each keeps its side whatever the others are.
    """
    held_out = texts[::10]
    training = [text for i, text in enumerate(texts) if i % 10]
    return training, held_out


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.gradients import described
from minideepseek.exercises.properties import properties
from minideepseek.training.corpus import Document, split_documents


def _of_the_library(split):
    def split_texts(texts):
        train, judge = split([Document("", text) for text in texts])
        return [d.text for d in train], [d.text for d in judge]

    return split_texts


_TEXTS = [f"This is what document {i % 137} says." for i in range(400)]


def _sizes(split_texts):
    training, held_out = split_texts(list(_TEXTS))
    if not isinstance(training, list) or not isinstance(held_out, list):
        return f"it returned {described((training, held_out))}, expected two lists"
    if sorted(set(training + held_out)) != sorted(set(_TEXTS)):
        return f"of {len(set(_TEXTS))} different texts {len(set(training + held_out))} are left"
    share = len(set(held_out)) / len(set(_TEXTS))
    few = 0.03 < len(held_out) / len(_TEXTS) < 0.25
    return "" if few else f"{100 * share:.0f} % of the texts are held out, want about 10"


def _apart(split_texts):
    training, held_out = map(set, split_texts(list(_TEXTS)))
    if both := sorted(training & held_out):
        i = [n for n, text in enumerate(_TEXTS) if text == both[0]][:2]
        return f'"{both[0]}" is on both sides\nit is text {i[0]} and text {i[1]} of the collection'
    return ""


def _steady(split_texts):
    """One more text moves no other."""
    once = sorted(set(_TEXTS))
    before = set(split_texts(list(once))[1])
    after = set(split_texts(["Something else, a new text.", *once])[1])
    moved = sorted((before ^ after) & set(once))
    said = f"one text more at the beginning: {len(moved)} of {len(once)} others change sides"
    return said if moved else ""


STORY = """\
Where a text stands says nothing about what it is: its copy stands elsewhere, on the other side,
and the model is asked what it has read. A side that depends on the text alone, a hash of it, puts
copies together and needs no list to remember. (Not Python's hash(), which is salted anew in every
process.) Near copies need more: paragraphs that share half of their word runs with held-out ones
are removed from the training text."""

EXERCISE = Bug(
    solutions=(split_documents,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(
            lambda f: tuple(len(part) > 0 for part in f(list(_TEXTS))), ((), "b"), ((), "b")
        ),
        "about a tenth": _sizes,
        "no text on both sides": _apart,
        "each by itself": _steady,
    })),
    hints=(
        "Where are the two copies of one text?",
        "Let the text decide: zlib.crc32(text.encode()) is the same number for every copy.",
        "held_out = [text for text in texts if zlib.crc32(text.encode()) % 10 == 0]",
    ),
    mistakes=(
        Mistake(
            "once = list(dict.fromkeys(texts))\n    held_out = once[::10]\n"
            "    training = [text for i, text in enumerate(once) if i % 10]",
            "each by itself", "one text more at the beginning",
        ),
        Mistake(
            "held_out = [t for t in texts if len(t) % 10 == 0]\n"
            "    training = [t for t in texts if len(t) % 10]", "about a tenth", "are held out",
        ),
        Mistake(
            "held_out = sorted(set(texts))[::10]\n"
            "    training = sorted(set(texts) - set(held_out))",
            "each by itself", "one text more at the beginning",
        ),
    ),
    wrong="held_out = texts[::10]\n"
          "    training = [text for i, text in enumerate(texts) if i % 10]",
    mend="side = [zlib.crc32(text.encode()) % 10 == 0 for text in texts]\n"
         "    held_out = [text for text, out in zip(texts, side) if out]\n"
         "    training = [text for text, out in zip(texts, side) if not out]",
    fails=("no text on both sides", "is on both sides\nit is text"),
    story=STORY,
)  # fmt: skip
