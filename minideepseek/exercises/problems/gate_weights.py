r"""The gates through their normalisation  ★★  15 minutes

The router gives each token an affinity sᵢ to each of E experts, a sigmoid. K of them are chosen,
indices (N, K), and the gates of the chosen are their affinities divided by their sum:

    gᵢ = f sᵢ / Σⱼ sⱼ            i and j over the K chosen;  f = routed_scaling_factor, V3: 2.5
    gᵢ = f sᵢ                    where a model does not normalise (norm_topk_prob: false)

Choosing has no derivative: moving a score by a little changes nobody's choice, and what was not
chosen gets no gradient, exactly 0. What the router learns from comes through the chosen scores
alone. The bias that balances the load is not here at all: it decides who is chosen, and must not
weigh what they say.

So there are two steps to walk back, both familiar: a quotient in which every sᵢ appears twice, as
numerator and in the sum; and a gather along the last axis, s[n, indices[n, j]], whose transpose is
a scatter into zeros. (The K experts of a token differ, so nothing has to be added up there.)

Multiplying all chosen scores by a number changes no gate, so that a right ∂L/∂s is perpendicular to
s: Σᵢ sᵢ ∂L/∂sᵢ = 0 in every row.
"""

import numpy as np


def gate_weights(scores, indices, *, normalise, factor):
    """The gates (N, K) of the chosen.   scores (N, E), indices (N, K) integers, g (N, K)."""
    chosen = np.take_along_axis(scores, indices, -1)  # (N, K)
    total = chosen.sum(-1, keepdims=True) + 1e-20 if normalise else 1.0

    def vjp(g):
        raise NotImplementedError("return dscores, None")

    return factor * chosen / total, vjp


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.adapted import of_tensors
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import Case, gradients
from minideepseek.layers import moe


def _cases(rng):
    def case(stage, n, experts, k, factor, normalise=True):
        scores = 1 / (1 + np.exp(-rng.standard_normal((n, experts))))
        indices = rng.permuted(np.tile(np.arange(experts), (n, 1)), axis=1)[:, :k]
        return Case([scores, indices], {"normalise": normalise, "factor": factor}, stage)

    return [
        case("", 3, 5, 2, 2.5),
        case("all experts", 2, 3, 3, 1.0),
        case("one expert", 2, 4, 1, 2.5),
        case("not normalised", 3, 5, 2, 2.5, False),
    ]


def _wrong(
    dchosen="factor / total * (g - (g * chosen).sum(-1, keepdims=True) / total)",
    scatter="np.put_along_axis(dscores, indices, dchosen, -1)",
    plain="factor * g",
):
    return (
        f"dchosen = {dchosen} if normalise else {plain}\n"
        f"dscores = np.zeros_like(scores)\n{scatter}\nreturn dscores, None"
    )


EXERCISE = Exercise(
    solutions=(moe.gate_weights,),
    checker=of_tensors(gradients(_cases)),
    hints=(
        "With T = Σ s of a row: how does sᵢ / T change with sᵢ, and how do all the others?",
        "∂L/∂sᵢ = f/T (gᵢ − Σⱼ gⱼ sⱼ / T) for the chosen; without normalising f gᵢ; 0 elsewhere.",
        "dchosen = factor / total * (g - (g * chosen).sum(-1, keepdims=True) / total)",
    ),
    mistakes=(
        Mistake(_wrong("factor / total * g"), "dscores", "entries differ"),
        Mistake(_wrong("(g - (g * chosen).sum(-1, keepdims=True) / total) / total"), "dscores",
                "off by a factor 0.4"),
        Mistake(_wrong("factor / total * (g - (g * chosen).mean(-1, keepdims=True) / total)"),
                "dscores", "entries differ"),
        Mistake(_wrong("factor / total * (g - (g * chosen).sum(-1, keepdims=True))"), "dscores",
                "entries differ"),
        Mistake(_wrong("factor / total * ((g * chosen).sum(-1, keepdims=True) / total - g)"),
                "dscores", "the sign is flipped"),
        Mistake(_wrong(scatter="dscores[:, : indices.shape[1]] = dchosen"), "dscores",
                "entries differ"),
        Mistake(_wrong(scatter="dscores = dchosen"), "dscores", "shape (3, 2), want (3, 5)"),
        Mistake(_wrong(scatter="dscores[indices] = dchosen"), "error",
                "shape mismatch: value array of shape (3,2)"),
        Mistake(_wrong("factor / total * (1 - chosen / total)"), "dscores",
                "ignores the incoming gradient g"),
        Mistake(_wrong(plain="g"), "not normalised", "right direction, off by a factor 0.4"),
        Mistake(
            "t = scores.sum(-1, keepdims=True)\ndscores = np.zeros_like(scores)\n"
            "np.put_along_axis(dscores, indices, factor / t * g, -1)\nreturn dscores, None",
            "dscores", "entries differ",
        ),
    ),
)  # fmt: skip
