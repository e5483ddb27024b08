r"""The drafter that is never believed  ★  6 minutes

Trained from scratch the second-token module is as good as reported. With DeepSeek's weights its
loss is that of a guess: its drafts are never accepted. The module's attention and experts were
compared with another implementation, and are right; all tensors are loaded, all shapes match.

In the wild: it is how the paper writes it.
"""

import numpy as np


def rms_norm(x, weight, eps=1e-6):
    return weight * x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def joined(h, embedded, hnorm, enorm, eh_proj):
    """What enters the module's block, (B, T, d), for the weights as they were released.

    h, embedded (B, T, d): the state so far, the next token's embedding; hnorm, enorm (d,): the
    weights of their norms; eh_proj (d, 2d): it multiplies both of them, one above the other.
    """
    both = np.concatenate([rms_norm(h, hnorm), rms_norm(embedded, enorm)], axis=-1)
    return both @ eh_proj.T


# ------------------------------------------------------------------------------------- not copied

from types import SimpleNamespace

from minideepseek.autograd.engine import Tensor, ops
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right, told
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import compare, properties
from minideepseek.layers.mtp import MTPLayer


def _of_the_library(join):
    def joined(h, embedded, hnorm, enorm, eh_proj):
        layer = SimpleNamespace(
            hnorm=lambda x: ops.rms_norm(x, hnorm, eps=1e-6),
            enorm=lambda x: ops.rms_norm(x, enorm, eps=1e-6),
            eh_proj=lambda x: ops.linear(x, eh_proj),
        )
        return join(layer, Tensor(h), Tensor(embedded)).data

    return joined


_H, _E = np.array([[[3.0, -3.0, 3.0]]]), np.array([[[2.0, 2.0, -2.0]]])
_ONE, _ZERO = np.ones(3), np.zeros((3, 3))


def _size(joined):
    """Both parts are normalised: a larger state changes nothing."""
    w = np.random.default_rng(0).standard_normal((3, 6))
    for name, one in (("state", joined(100 * _H, _E, _ONE, _ONE, w)),
                      ("embedding", joined(_H, 100 * _E, _ONE, _ONE, w))):
        want = joined(_H, _E, _ONE, _ONE, w)
        if said := compare(one, want, f"the {name} a hundred times larger: the result", 1e-5):
            return said
    return ""


def _order(joined):
    got = joined(_H, _E, _ONE, _ONE, np.hstack([np.eye(3), _ZERO]))
    if np.abs(got - [1, 1, -1]).max() > 1e-3:
        return (
            f"h = {told(_H[0, 0])}, the embedding {told(_E[0, 0])}, eh_proj = [identity, zeros]\n"
            f"gives {told(got[0, 0])}, want the embedding's norm, [1, 1, -1]"
        )
    return ""


def _value(joined):
    rng = np.random.default_rng(1)
    inputs = [rng.standard_normal(s) for s in ((2, 4, 3), (2, 4, 3), 3, 3, (3, 6))]
    return compare(joined(*inputs), _of_the_library(MTPLayer.join)(*inputs), "the result")


STORY = """\
The paper writes M [norm(h) ; norm(Emb)], and the released weights multiply [norm(Emb) ; norm(h)]:
their name says it, eh_proj, the embedding first. Both are the same model with the columns of M in
another order, so training from scratch cannot tell. An equation fixes what is computed, a
checkpoint fixes where it lies; only a comparison of numbers, with the real weights or a pair of
identities as here, finds a difference of this kind."""

EXERCISE = Bug(
    solutions=(MTPLayer.join,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(
            lambda f: f(_H, _E, _ONE, _ONE, np.ones((3, 6))), ((1, 1, 3), "f")
        ),
        "both are normalised": _size,
        "which half is whose": _order,
        "the value": _value,
    })),
    hints=(
        "The tensor is called eh_proj. What might e and h be?",
        "[norm(Emb) ; norm(h)]: the embedding meets the first d columns.",
        "both = np.concatenate([rms_norm(embedded, enorm), …], axis=-1)",
    ),
    mistakes=(
        Mistake("[rms_norm(embedded, hnorm), rms_norm(h, enorm)]", "the value", "the result: "),
        Mistake("[embedded, rms_norm(h, hnorm)]", "both are normalised",
                "the embedding a hundred times larger"),
    ),
    wrong="[rms_norm(h, hnorm), rms_norm(embedded, enorm)]",
    mend="[rms_norm(embedded, enorm), rms_norm(h, hnorm)]",
    fails=("which half is whose", "eh_proj = [identity, zeros]\ngives [1.0, -1.0, 1.0], want"),
    story=STORY,
)  # fmt: skip
