r"""Which token weighs how much  ★★  12 minutes

GRPO's loss is −Σ wᵢₜ · (the objective of token t of response i). What w is, papers and programs
disagree; most say "the mean", and mean different things:

    "sequence"    each response's mean over its own tokens, then the mean over the responses
                  (DeepSeekMath, section 4.1)
    "token"       the mean over all response tokens of the batch                        (DAPO)
    "constant"    the sum, divided by a number that has nothing to do with what was sampled:
                  responses · the longest that is allowed                               (Dr. GRPO)

The choice is not bookkeeping. Under "sequence" a token of a short response weighs more than one of
a long response: if the answer is right, brevity is paid for, and if it is wrong, length is, since
the blame is spread thinner. Under "token" all weigh the same, but how much depends on how long the
others were.

Memory may force a batch to be computed in parts. Means of parts do not add up to the mean of the
whole, unless every part divides by the whole's number; that is what `denominator` is for:

    "sequence"    in the place of the number of responses        None: of this batch
    "token"       in the place of the number of tokens           None: of this batch
    "constant"    the constant                                   never None

Write the table of weights. A response may have no token at all (it was cut out of the batch by the
mask); it counts as a response, and its row is 0.
"""

import numpy as np


def loss_aggregation(mask, aggregation, denominator=None):
    """The weight of every token, (rows, tokens) float64; 0 where mask is 0.

    mask (rows, tokens), 1 on response tokens, else 0; a row is a response.
    """
    raise NotImplementedError("return weights")


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd.engine import Parameter, backward
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.properties import compare, properties
from minideepseek.reasoning.grpo import objective


def _of_the_library(grpo_loss):
    def loss_aggregation(mask, aggregation, denominator=None):
        """At ρ = 1 and A = 1 the gradient of −J is −w."""
        lp = Parameter(np.full(mask.shape, -1.0))
        loss, _ = grpo_loss(lp, lp.data.copy(), np.ones(len(mask)), mask,
                            aggregation=aggregation, denominator=denominator)  # fmt: skip
        backward(loss)
        assert lp.grad is not None
        return -lp.grad

    return loss_aggregation


# 2, 6 and 1 tokens of at most 8, the first of them the question's
_MASK = np.array(
    [[0, 1, 1, 0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1, 1, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0, 0]], float
)
_EMPTY = _MASK * np.array([[1.0], [0.0], [1.0]])


def _table(mask, aggregation, denominator=None):
    """By loops: what each response's tokens weigh."""
    lengths = [int(row.sum()) for row in mask]
    w = np.zeros(mask.shape)
    for i, n in enumerate(lengths):
        each = {
            "sequence": 1 / (denominator or len(mask)) / max(n, 1),
            "token": 1 / (denominator or sum(lengths)),
            "constant": 1 / (denominator or 1),
        }[aggregation]
        w[i] = each * mask[i]
    return w


def _as(mask, aggregation, denominator=None):
    """The property that the weights are those of the table."""

    def holds(loss_aggregation):
        got = loss_aggregation(mask.copy(), aggregation, denominator)
        want = _table(mask, aggregation, denominator)
        if not isinstance(got, np.ndarray) or got.shape != want.shape or got.dtype.kind != "f":
            return compare(got, want, "the table")
        if not np.isfinite(got).all():
            return "the table holds NaN or Inf"
        if len(outside := np.argwhere((got != 0) & (mask == 0))):
            i, t = outside[0]
            return f"token {t} of row {i} has mask 0, and weighs {got[i, t]:g}"
        for i, (a, b) in enumerate(zip(got, want, strict=True)):
            t = int(np.abs(a - b).argmax())
            if abs(a[t] - b[t]) > 1e-12:
                told = f"denominator {denominator}" if denominator else "no denominator"
                return (
                    f"{aggregation}, {told}: row {i} of {int(mask[i].sum())} tokens, token {t} "
                    f"weighs {_fraction(a[t])}, want {_fraction(b[t])}"
                )
        return ""

    return holds


def _fraction(w):
    return f"1/{1 / w:.4g}" if w else "0"


def _parts(loss_aggregation):
    """The tables of two parts, one under the other, are the whole's."""
    for aggregation, whole in (("sequence", 3), ("token", 9)):
        parts = [loss_aggregation(rows, aggregation, whole) for rows in (_MASK[:1], _MASK[1:])]
        want = loss_aggregation(_MASK, aggregation)
        if said := compare(np.concatenate(parts), want, f"{aggregation}: the parts' table"):
            return said
    return ""


def _wrong(sequence="real / len(mask) / lengths", token="real / mask.sum()",
           constant="real / denominator", given="real / denominator"):  # fmt: skip
    return (
        "real, lengths = mask.astype(float), np.maximum(mask.sum(1, keepdims=True), 1)\n"
        'if aggregation == "constant":\n'
        f"    return {constant}\n"
        'if aggregation == "token":\n'
        f"    return {token} if denominator is None else {given}\n"
        f"return {sequence} if denominator is None else {given} / lengths"
    )


EXERCISE = Exercise(
    solutions=(objective.grpo_loss,),
    checker=placed(_of_the_library, properties({
        "sequence": _as(_MASK, "sequence"),
        "token": _as(_MASK, "token"),
        "constant": _as(_MASK, "constant", 3 * 8),
        "an empty row": _as(_EMPTY, "sequence"),
        "empty, token": _as(_EMPTY, "token"),
        "a whole of 5": _as(_MASK, "sequence", 5),
        "a whole of 40": _as(_MASK, "token", 40),
        "parts": _parts,
    })),
    hints=(
        "Two divisions for one of them, a single one for the others. Where does the number of\n"
        "tokens of a row enter, and where that of all rows?",
        "sequence: mask / rows / |oᵢ|;  token: mask / Σ|oᵢ|;  constant: mask / denominator;\n"
        "denominator, if given, stands for rows, or for Σ|oᵢ|",
        "lengths = np.maximum(mask.sum(1, keepdims=True), 1)",
    ),
    mistakes=(
        Mistake(_wrong(sequence="real / mask.sum()"), "sequence",
                "row 0 of 2 tokens, token 1 weighs 1/9, want 1/6"),
        Mistake(_wrong(sequence="real / lengths"), "sequence",
                "token 1 weighs 1/2, want 1/6"),
        Mistake(_wrong(sequence="real / len(mask) / mask.shape[1]"), "sequence",
                "token 1 weighs 1/27, want 1/6"),
        Mistake(_wrong(token="real / mask.size"), "token", "weighs 1/27, want 1/9"),
        Mistake(_wrong(token="real / mask.sum(1, keepdims=True) / len(mask)"), "token",
                "weighs 1/6, want 1/9"),
        Mistake(_wrong(constant="real / denominator / lengths"), "constant",
                "constant, denominator 24: row 0 of 2 tokens, token 1 weighs 1/48, want 1/24"),
        Mistake(_wrong(sequence="real / len(mask) / mask.sum(1, keepdims=True)"), "an empty row",
                "the table holds NaN or Inf"),
        Mistake(_wrong(sequence="real / (lengths > 1).sum() / lengths"), "sequence",
                "weighs 1/4, want 1/6"),
        Mistake(_wrong(sequence="real / (mask.sum(1) > 0).sum() / lengths"), "an empty row",
                "weighs 1/4, want 1/6"),
        Mistake(_wrong(given="real / mask.sum()"), "a whole of 5",
                "sequence, denominator 5: row 0 of 2 tokens, token 1 weighs 1/18, want 1/10"),
        Mistake(_wrong(sequence="np.ones_like(real) / len(mask) / lengths"), "sequence",
                "token 0 of row 0 has mask 0, and weighs 0.166667"),
        Mistake(_wrong(given="real / denominator * 9"), "a whole of 5",
                "weighs 1/1.111, want 1/10"),
    ),
)  # fmt: skip
