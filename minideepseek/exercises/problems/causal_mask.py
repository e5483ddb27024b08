r"""The causal mask  ★★  15 minutes

A token may look at itself and at what came before. In training a row holds T tokens, queries and
keys are the same ones, and the mask is a triangle. A decoder's cache moves the triangle: it keeps
the keys of S tokens, and the T queries of one step are the last that arrived. What counts is
where a token stands in its text, not where it lies in an array:

    query t of row b stands at position  p = offsets[b] + t ,      key s at position s

and may see the key if s ≤ p. A prompt has offset 0, the next token the offset that the prompt was
long; rows of one batch may hold texts of different lengths, and so have different offsets.

Two things more can hide a key:

    lengths[b]            row b has that many keys; what lies behind them is padding
    segment_ids[b, s]     several texts lie one behind the other in row b; a token sees its own
                          text's only. (b, p) is the query's place in it

The answer is True where the key is seen. What attention does with it: False becomes a score of −∞,
so that e^S is 0. A score of 0 would not do, e⁰ is 1; and a boolean array added to the scores adds 1
to what is seen and hides nothing.
"""

import numpy as np


def causal_mask(t, s, offsets, lengths=None, segment_ids=None):
    """Which of s keys each of t queries sees, bool (B, t, s).

    offsets (B,): the position of each row's first query; lengths None or (B,); segment_ids None or
    (B, s). All of them integer arrays.
    """
    raise NotImplementedError("return seen")


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd import reference
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import described
from minideepseek.exercises.properties import properties


def _of_the_library(visible):
    def causal_mask(t, s, offsets, lengths=None, segment_ids=None):
        return visible(offsets, t, s, len(offsets), offsets, lengths, segment_ids)

    return causal_mask


def _at(*calls):
    """The property that each call's mask is right, entry by entry."""

    def holds(causal_mask):
        for t, s, offsets, *rest in calls:
            arrays = [None if x is None else np.array(x) for x in (offsets, *rest)]
            got = causal_mask(t, s, *arrays)
            if said := _first_wrong(got, t, s, *arrays):
                return f"t={t}, s={s}, offsets={offsets}: {said}"
        return ""

    return holds


def _first_wrong(got, t, s, offsets, lengths=None, segment_ids=None):
    """The first entry that is wrong, and which rule says so."""
    if not isinstance(got, np.ndarray):
        return f"it returned {described(got)}, expected an array"
    if got.shape != (len(offsets), t, s):
        return f"the mask has shape {got.shape}, want {(len(offsets), t, s)}"
    if got.dtype != bool:
        return f"the mask is an array of {got.dtype}, expected bool"
    for b, i, key in np.ndindex(got.shape):
        position, hidden = offsets[b] + i, ""
        if key > position:
            hidden = "comes later"
        elif lengths is not None and key >= lengths[b]:
            hidden = f"is padding: the row has {lengths[b]} keys"
        elif segment_ids is not None and segment_ids[b, key] != segment_ids[b, position]:
            hidden = "belongs to another text"
        if got[b, i, key] == (not hidden):
            continue
        who = f"row {b}, query {i}, at position {position},"
        if hidden:
            return f"{who} sees key {key}, which {hidden}"
        return f"{who} does not see key {key}, " + ("itself" if key == position else "its past")
    return ""


EXERCISE = Exercise(
    solutions=(reference.visible,),
    checker=placed(_of_the_library, properties({
        "a prompt": _at((4, 4, [0]), (3, 3, [0, 0])),
        "one more token": _at((1, 5, [4]), (1, 1, [0])),
        "several more": _at((3, 5, [2, 2])),
        "rows apart": _at((2, 6, [1, 4, 0])),
        "padding": _at((3, 3, [0, 0], [2, 3]), (2, 6, [1, 4], [3, 6])),
        "texts apart": _at(
            (5, 5, [0, 0], None, [[0, 0, 1, 1, 1], [3, 0, 0, 0, 3]]),
            (2, 5, [3, 1], None, [[0, 0, 0, 1, 1], [5, 5, 2, 2, 2]]),
        ),
        "all together": _at((2, 5, [2, 3], [4, 5], [[0, 1, 1, 1, 1], [0, 0, 0, 7, 7]])),
    })),
    hints=(
        "Give every query its position and every key its own, on axes of their own, and\n"
        "compare: NumPy broadcasts (B, t, 1) against (s,) to (B, t, s).",
        "s ≤ p  and  s < lengths[b]  and  segment_ids[b, s] = segment_ids[b, p]",
        "position = offsets[:, None] + np.arange(t)  # (B, t)",
    ),
    mistakes=(
        Mistake(
            "return np.tri(t, s, dtype=bool)[None].repeat(len(offsets), 0)",
            "one more token", "row 0, query 0, at position 4, does not see key 1, its past",
        ),
        Mistake(
            "return (np.arange(s) <= np.arange(t)[:, None] + s - t)[None].repeat(len(offsets), 0)",
            "rows apart", "row 0, query 0, at position 1, sees key 2, which comes later",
        ),
        Mistake(
            "return np.arange(s) < (offsets[:, None] + np.arange(t))[:, :, None]",
            "a prompt", "does not see key 0, itself",
        ),
        Mistake(
            "return np.arange(s) > (offsets[:, None] + np.arange(t))[:, :, None]",
            "a prompt", "does not see key 0, itself",
        ),
        Mistake(
            "lengths = np.full(len(offsets), s) if lengths is None else lengths\n"
            "return (np.arange(s) < lengths[:, None, None]).repeat(t, 1)",
            "a prompt", "sees key 1, which comes later",
        ),
        Mistake(
            "return np.where(np.arange(s) <= (offsets[:, None] + np.arange(t))[:, :, None],\n"
            "                0, -np.inf)",
            "a prompt", "is an array of float64, expected bool",
        ),
        Mistake(
            "return np.arange(s) <= offsets[:, None] + np.arange(t)[:, None]",
            "a prompt", "the mask has shape (4, 4), want (1, 4, 4)",
        ),
        Mistake(
            "return np.arange(s) <= (offsets[:, None] + np.arange(t))[:, :, None]",
            "padding", "sees key 2, which is padding: the row has 2 keys",
        ),
        Mistake(
            "seen = np.arange(s) <= (offsets[:, None] + np.arange(t))[:, :, None]\n"
            "if lengths is not None:\n    seen &= np.arange(s) < lengths[:, None, None]\n"
            "if segment_ids is not None:\n"
            "    seen &= segment_ids[:, :t, None] == segment_ids[:, None]\n"
            "return seen",
            "texts apart", "offsets=[3, 1]: row 0, query 0, at position 3, sees key 0",
        ),
    ),
)  # fmt: skip
