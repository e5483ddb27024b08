r"""Attention  ★★★  25 minutes

Every token t asks with a query, every token s answers with a key, and what t receives is a mixture
of values. For each head, with queries q (T, D), keys k (T, D) and values v (T, Dᵥ):

    S = scale · q kᵀ               (T, T); −∞ where s > t: nobody sees what comes later
    P = softmax(S)                 by rows: how much token t takes from each token s
    y = P v                        (T, Dᵥ)                                          (V2 eq. 7)

The three lines are a product, a softmax and a product, and you have written the vjp of each. Go
through them from the last to the first. Between them stand ∂L/∂P and ∂L/∂S, as large as P.

The mask needs no line of its own: what is masked has P = 0, and softmax's rule multiplies by P.

Arrays here carry a batch and heads, (B, T, H, D). np.einsum keeps such products readable. Letters
are axes; a letter that the result does not have is summed over. With b a row of the batch, h a
head, t a query's token, s a key's token, d a channel:

    np.einsum("bthd,bshd->bhts", q, k)         S[b,h,t,s] = Σ_d q[b,t,h,d] k[b,s,h,d]

For the vjp of an einsum swap letters: the gradient arrives with the result's letters, is multiplied
by the other factor with its own, and leaves with the letters of the factor that it is for.
"""

import numpy as np


def attention(q, k, v, *, scale):
    """softmax(scale q kᵀ + mask) v.   q, k (B, T, H, D), v, y and g (B, T, H, Dᵥ)."""
    scores = np.einsum("bthd,bshd->bhts", q, k) * scale
    scores = np.where(np.tri(q.shape[1], dtype=bool), scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)  # (B, H, T, T)

    def vjp(g):
        raise NotImplementedError("return dq, dk, dv")

    return np.einsum("bhts,bshd->bthd", p, v), vjp


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd import attention as blocked
from minideepseek.autograd import reference
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import Case, gradients


def _cases(rng):
    def case(stage, b, t, h, scale=0.4):
        shapes = [(b, t, h, 4), (b, t, h, 4), (b, t, h, 2)]
        return Case([rng.standard_normal(shape) for shape in shapes], {"scale": scale}, stage)

    return [
        case("", 2, 3, 2),
        case("one token", 2, 1, 2),
        case("one head", 1, 5, 1),
        case("another scale", 1, 3, 2, 1.5),
    ]


def _wrong(dp="g, v", ds="p * (dp - (dp * p).sum(-1, keepdims=True)) * scale", returned=""):
    dv = 'np.einsum("bhts,bthd->bshd", p, g)'
    dq = 'np.einsum("bhts,bshd->bthd", ds, k)'
    dk = 'np.einsum("bhts,bthd->bshd", ds, q)'
    given = (returned or "dq, dk, dv").format(dq=dq, dk=dk, dv=dv)
    return (
        f'dp = np.einsum("bthd,bshd->bhts", {dp})\nds = {ds}\n'
        f"dq = {dq}\ndk = {dk}\ndv = {dv}\nreturn {given}"
    )


EXERCISE = Exercise(
    solutions=(blocked.attention, reference.attention),
    checker=gradients(_cases),
    hints=(
        "y = P v has two factors: one gives dv at once, the other ∂L/∂P. The softmax turns\n"
        "∂L/∂P into ∂L/∂S, row by row, and S has two factors again.",
        "dv = Pᵀ g;  dP = g vᵀ;  dS = P ∘ (dP − Σₛ dP P) · scale;  dq = dS k;  dk = dSᵀ q",
        'dp = np.einsum("bthd,bshd->bhts", g, v)',
    ),
    mistakes=(
        Mistake(_wrong(ds="p * dp * scale"), "dq", "entries differ"),
        Mistake(_wrong(ds="p * (dp - (dp * p).sum(-1, keepdims=True))"), "dq",
                "off by a factor 2.5"),
        Mistake(_wrong(ds="p * (dp - (dp * p).sum(-2, keepdims=True)) * scale"), "dq",
                "entries differ"),
        Mistake(_wrong(ds="dp * scale"), "dq", "entries differ"),
        Mistake(_wrong(ds="p * ((dp * p).sum(-1, keepdims=True) - dp) * scale"), "dq",
                "the sign is flipped"),
        Mistake(_wrong(returned='dq, dk, np.einsum("bhts,bshd->bthd", p, g)'), "dv",
                "entries differ"),
        Mistake(_wrong(returned='dq, np.einsum("bhts,bshd->bthd", ds, q), dv'), "dk",
                "entries differ"),
        Mistake(_wrong(returned="dv, dq, dk"), "dq", "shape (2, 3, 2, 2), want (2, 3, 2, 4)"),
        Mistake(_wrong(returned='dq, dk, np.einsum("bhts,bthd->bsd", p, g)'), "dv",
                "shape (2, 3, 2), want (2, 3, 2, 2)"),
        Mistake(_wrong(dp="np.ones_like(g), v"), "dq", "ignores the incoming gradient g"),
        Mistake(_wrong(ds="p * (dp - (dp * p).sum(-1, keepdims=True)) * 0.4"), "another scale",
                "scale=1.5: right direction, off by a factor 0.266667"),
    ),
)  # fmt: skip
