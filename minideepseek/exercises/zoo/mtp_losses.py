r"""The second question that answers itself  ★★  10 minutes

A model gets a module that predicts one token further. The module's loss falls to almost nothing in
a few hundred steps, much lower than the main model's, though its question is the harder one. The
main model gains nothing by it. As a drafter the module proposes, again and again, the token that
was just written.

In the wild: off by one, in the direction that makes the curve look good.
"""

import numpy as np


def cross_entropy(logits, targets, terms):
    """Σ −ln P(target) / terms.   logits (B, n, V), targets (B, n)."""
    z = logits - logits.max(-1, keepdims=True)
    logprobs = z - np.log(np.exp(z).sum(-1, keepdims=True))
    return -np.take_along_axis(logprobs, targets[..., None], axis=-1).sum() / terms


def mtp_losses(h, ids, embed, blocks, head):
    """[L₁, …, L_D]: module k is told the token k behind the main model's, and predicts the next.

    h (B, T, d): the main model's states of ids[:, :-1]; ids (B, T + 1). embed(ids) gives vectors,
    blocks[k − 1](states, vectors) the states of module k, head(states) logits. At slot t module k
    reads its predecessor's state of slot t and the token ids[t + k], and its target is the token
    after that one. All sums are divided by B · T, the number of the main model's questions.
    """
    losses, terms = [], ids[:, 1:].size
    for k, block in enumerate(blocks, start=1):
        slots = ids.shape[1] - 1 - k
        told = ids[:, k : k + slots]
        h = block(h[:, :slots], embed(told))
        targets = ids[:, k : k + slots]
        losses.append(cross_entropy(head(h), targets, terms))
    return losses


# ------------------------------------------------------------------------------------- not copied

from types import SimpleNamespace

from minideepseek.autograd.engine import Tensor
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import properties
from minideepseek.layers.mtp import MTPModel

_IDS = np.array([[0, 3, 1, 4, 2, 6, 5], [6, 5, 4, 3, 2, 1, 0]])
_NEXT = np.zeros((2, 7), int)  # the token after each token of a row
for _b in range(2):
    _NEXT[_b, _IDS[_b, :-1]] = _IDS[_b, 1:]
_H = np.random.default_rng(0).standard_normal((2, 6, 7))


def _of_the_library(losses):
    def mtp_losses(h, ids, embed, blocks, head):
        model = object.__new__(MTPModel)
        vars(model)["layers"] = [
            SimpleNamespace(step=lambda s, e, mask, f=f: (Tensor(f(s.data, e.data)), None))
            for f in blocks
        ]
        found, _ = losses(
            model, Tensor(h), ids, lambda i: Tensor(embed(i)), lambda s: Tensor(head(s.data))
        )
        return [loss.data for loss in found]

    return mtp_losses


def _run(mtp_losses, *blocks, size=9.0):
    return mtp_losses(_H, _IDS, lambda ids: np.eye(7)[ids], blocks, lambda states: size * states)


def _told(states, vectors):  # repeats the token it was told
    return vectors


def _after(states, vectors):  # says the one behind it
    row = np.arange(2)[:, None]
    return np.eye(7)[_NEXT[row, vectors.argmax(-1)]]


def _repeats(mtp_losses):
    """Who repeats what it was told is wrong everywhere: no token follows itself here."""
    for k, loss in enumerate(_run(mtp_losses, _told, _told), start=1):
        if loss < 1:
            return (
                f"module {k} repeats the token that it was told, and its loss is {loss:.3f}\n"
                f"ids {_IDS[0].tolist()}: no token follows itself"
            )
    return ""


def _knows(mtp_losses):
    for k, loss in enumerate(_run(mtp_losses, _after, _after), start=1):
        if loss > 0.01:
            return f"module {k} knows what follows the token it was told; its loss is {loss:.3g}"
    return ""


def _terms(mtp_losses):
    """Logits of 0: (T − k)/T ln V."""
    for k, loss in enumerate(_run(mtp_losses, _told, _told, _told, size=0.0), start=1):
        want = (6 - k) / 6 * np.log(7)
        if abs(loss - want) > 1e-9:
            return (
                f"module {k}, logits of 0, {6 - k} slots of T = 6: {loss:.4f}, "
                f"want (T − {k})/T · ln 7 = {want:.4f}"
            )
    return ""


def _chain(mtp_losses):
    """Every module gets the states of the one before it, at its first slots."""
    got = []

    def block(states, vectors):
        got.append(states)
        return states + 1

    _run(mtp_losses, block, block)
    good = np.array_equal(got[0], _H[:, :5]) and np.array_equal(got[1], _H[:, :4] + 1)
    return "" if good else "module 2 does not read the states of module 1 at slots 0 … 3"


_BLOCK = "h = block(h[:, :slots], embed(told))\n        "

STORY = """\
Told x[t + k], the module is to say x[t + k + 1]. With targets that begin at the same place it is
asked for what it has just been told: a question that a few weights answer, after which nothing is
learned. The paper counts T questions for all depths, which is why each sum is divided by T, though
depth k has T − k slots. Suspicion is cheap here: a loss that is lower than that of an easier
question is a leak until it is explained."""

EXERCISE = Bug(
    solutions=(MTPModel.losses, MTPModel.__call__),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: tuple(_run(f, _told, _told)), ((), "f"), ((), "f")),
        "depths are chained": _chain,
        "repeating is wrong": _repeats,
        "knowing is right": _knows,
        "the sum's divisor": _terms,
    })),
    hints=(
        "At slot 0 module 1 is told x₁. What is its target?",
        "Told ids[t + k], asked for ids[t + k + 1], t = 0 … T − 1 − k.",
        "targets = ids[:, k + 1 : …]",
    ),
    mistakes=(
        Mistake(
            f"first = first if k > 1 else h\n        {_BLOCK.replace('h[', 'first[')}"
            "targets = ids[:, k + 1 : k + 1 + slots]",
            "depths are chained", "module 2 does not read the states of module 1",
        ),
        Mistake(_BLOCK + "targets = ids[:, :slots]", "knowing is right",
                "module 1 knows what follows"),
        Mistake(
            _BLOCK + "targets = ids[:, k + 1 :]\n        terms = targets.size",
            "the sum's divisor",
            "module 1, logits of 0, 5 slots of T = 6: 1.9459, want (T − 1)/T · ln 7 = 1.6216",
        ),
        Mistake(_BLOCK + "targets = np.roll(ids, -k - 2, 1)[:, :slots]", "knowing is right",
                "module 1 knows what follows the token it was told; its loss is"),
    ),
    wrong="h = block(h[:, :slots], embed(told))\n        targets = ids[:, k : k + slots]",
    mend="h = block(h[:, :slots], embed(told))\n"
         "        targets = ids[:, k + 1 : k + 1 + slots]",
    fails=("repeating is wrong",
           "module 1 repeats the token that it was told, and its loss is 0.0"),
    story=STORY,
)  # fmt: skip
