r"""The draft that costs as much as it saves  ★★  8 minutes

Speculative decoding with two drafts at a time writes exactly the right law, it was tested. But it
is slower than plain decoding with a weak drafter, and with a perfect one it writes two tokens a
pass, where others report three. Nothing is computed twice.

In the wild: the last of the laws that were paid for was thrown away.
"""

import numpy as np


def speculative_round(p, q, drafts, uniforms, draw):
    """The tokens that one round writes, a list of 1 to K + 1.

    p (K + 1, V): the model's laws behind 0, 1, … K of the drafts, of one pass; q (K, V): the
    drafter's; drafts: K tokens, drafts[j] drawn from q[j]; uniforms: K random numbers in [0, 1);
    draw(law) draws a token. Drafts are taken up to the first that is refused; it is replaced by one
    of the residual law. Behind K accepted ones the pass has one law more.
    """
    written: list[int] = []
    for j, token in enumerate(drafts):
        if uniforms[j] * q[j, token] >= p[j, token]:
            rest = np.maximum(p[j] - q[j], 0)
            return [*written, draw(rest / rest.sum())]
        written.append(token)
    return written


# ------------------------------------------------------------------------------------- not copied

from types import SimpleNamespace
from typing import Any

from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right, told
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import properties
from minideepseek.model import generate, speculative


def _draw(law):
    half: Any = SimpleNamespace(random=lambda shape: np.full(shape, 0.5))
    return int(generate.draw(law[None], half)[0])


def _of_the_library(verify):
    def speculative_round(p, q, drafts, uniforms, draw):
        left = list(uniforms)
        rng = SimpleNamespace(
            random=lambda n: np.array([left.pop(0)]) if isinstance(n, int) else np.full(n, 0.5)
        )
        with np.errstate(divide="ignore"):
            logits = np.log(p)[None]
        many, last = verify(logits, np.array([drafts]), list(q[:, None]), (1.0, None, 1.0), rng)
        return [*drafts[: many[0]], int(last[0])]

    return speculative_round


_P = np.array([[0.5, 0.4, 0.1], [0.1, 0.2, 0.7], [0.1, 0.8, 0.1]])
_Q = np.array([[0.2, 0.7, 0.1], [0.1, 0.1, 0.8]])


def _at(*calls):
    def holds(speculative_round):
        for drafts, uniforms, want in calls:
            got = speculative_round(_P.copy(), _Q.copy(), drafts, uniforms, _draw)
            if got != want:
                return (
                    f"drafts {drafts}, numbers {uniforms}: it writes {got}, want {want}\n"
                    f"min(1, p/q) of the drafts: "
                    f"{told([min(1, _P[j, y] / _Q[j, y]) for j, y in enumerate(drafts)])}"
                )
        return ""

    return holds


_LOOP = (
    "return [*written, draw(rest / rest.sum())]\n        written.append(token)\n    "
)

STORY = """\
The pass that judges K drafts reads K + 1 tokens and gives K + 1 laws; the last says what follows
the last draft, and a token of it is free. Without it a round writes at most K tokens and a refused
first draft still one, so that drafts have to be accepted more often before they pay: with rate α
the mean falls from 1 + α + … + α^K by α^K. The law of the text is right either way, and so no test
of the law finds it. A count does: tokens per pass of a perfect drafter, K + 1."""

EXERCISE = Bug(
    solutions=(speculative.verify,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(
            lambda f: np.array(f(_P, _Q, [1, 2], [0.9, 0.9], _draw)[:1]), ((1,), "i")
        ),
        "a refusal": _at(([1, 2], [0.9, 0.1], [0]), ([1, 2], [0.5, 0.9], [1, 1])),
        "K accepted drafts": _at(([0, 1], [0.9, 0.9], [0, 1, 1]), ([1, 2], [0.1, 0.1], [1, 2, 1])),
    })),
    hints=(
        "p has K + 1 rows. Which of them is never looked at?",
        "Behind K accepted drafts one more token is drawn, from p's last row.",
        "return [*written, draw(…)]",
    ),
    mistakes=(
        Mistake(_LOOP.replace("return [*written, draw(rest / rest.sum())]", "token = draw(p[j])")
                + "return [*written, draw(p[-1])]", "a refusal", "it writes [1, 2, 1], want [0]"),
        Mistake(_LOOP + "return [*written, draw(p[j])]", "K accepted drafts", "want [0, 1, 1]"),
        Mistake(_LOOP + "return [*written, int(p[-1].argmin())]",
                "K accepted drafts", "want [0, 1, 1]"),
        Mistake(_LOOP + "return [*written, draw(q[-1])]", "K accepted drafts", "want [0, 1, 1]"),
    ),
    wrong="return [*written, draw(rest / rest.sum())]\n        written.append(token)\n"
          "    return written",
    mend=_LOOP + "return [*written, draw(p[-1])]",
    fails=("K accepted drafts",
           "drafts [0, 1], numbers [0.9, 0.9]: it writes [0, 1], want [0, 1, 1"),
    story=STORY,
)  # fmt: skip
