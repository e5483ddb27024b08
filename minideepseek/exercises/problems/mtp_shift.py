r"""The shift of multi-token prediction  ★★  15 minutes

The main model reads x₀ … x_{N−2} and predicts the next token x_{t+1} at every position t. Module k
of D predicts the token k further on, at the same position, with what is known by then (V3 §2.2):

    h^k_t = TRM(M [norm(Emb(x_{t+k})) ; norm(h^{k−1}_t)])          layer.step does all of this
    P(x_{t+k+1}) = softmax(Head(h^k_t))
    L_k = −Σₜ ln P(x_{t+k+1}) / (B (N − 1))

h⁰ are the main model's states. Each module continues from the states of the one before, keeps their
positions, and is told one token more: between the token whose state comes in and the one that is
to be predicted, each has been embedded by somebody. Were it told the target itself, the loss would
fall to 0 and nothing would be learned; were it told nothing new, it would have to guess twice.

Every module has one slot less than the one before: position t needs a target x_{t+k+1}, and there
are N tokens. The sum is divided by the number of the main model's questions all the same, so that a
missing slot counts as nothing.

The whole exercise is slices. With B rows of N tokens ids (B, N), and h of T = N − 1 positions:

    layer.step(h, embedded)        (h^k, routing) of as many slots as both have, (B, slots, d)
    embedding(ids)                 (B, slots) → (B, slots, d)
    head(h)                        logits (B, slots, V)
    ops.softmax_cross_entropy(logits, targets, denominator=n)      a scalar, −Σ ln P / n
"""

from minideepseek.autograd.engine import ops


def mtp_shift(mtp, h, ids, embedding, head):
    """([L₁, …, L_D], [routing₁, …, routing_D]).

    mtp.layers: the D modules; h: Tensor (B, N − 1, d), the main model's states of ids[:, :-1];
    ids (B, N) integers.
    """
    raise NotImplementedError("return losses, routings")


# ------------------------------------------------------------------------------------- not copied

import numpy as np

from minideepseek.autograd.engine import Tensor
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import described
from minideepseek.exercises.properties import properties
from minideepseek.layers.mtp import MTPModel

_B, _N, _D, _V = 2, 7, 3, 9


class _Module:
    """A module that notes what it is given, and answers with states that nobody else has."""

    def __init__(self, depth, watched):
        self.depth, self.watched = depth, watched

    def step(self, h, embedded, cache=None, counts=None, mask=None):
        self.watched.calls.append((self.depth, h, embedded))
        y = np.random.default_rng(self.depth).standard_normal((_B, _N - 1 - self.depth, _D))
        self.watched.known.append((f"h{'⁰¹²³'[self.depth]}", y))
        return Tensor(y), f"routing {self.depth}"


class _Watched(MTPModel):
    """The D modules of a call, what they were given, and the vectors that there are by name."""

    def __init__(self, depths):
        rng = np.random.default_rng(10)
        self.layers = [_Module(k, self) for k in range(1, depths + 1)]  # type: ignore[misc]
        self.h = rng.standard_normal((_B, _N - 1, _D))
        self.ids = rng.permuted(np.tile(np.arange(_V), (_B, 1)), axis=1)[:, :_N]
        self.table, self.w = rng.standard_normal((_V, _D)), rng.standard_normal((_D, _V))
        self.calls: list = []
        self.known = [("h⁰", self.h), ("Emb(x)", self.table[self.ids])]

    def run(self, function):
        embedding = lambda ids: Tensor(self.table[ids])  # noqa: E731
        return function(self, Tensor(self.h), self.ids, embedding, lambda h: h @ Tensor(self.w))

    def whose(self, vector):
        """Which vector of row 0 this is, in words."""
        for name, array in self.known:
            for t in range(array.shape[1]):
                if np.array_equal(array[0, t], vector):
                    return f"{name}_{t}" if name[0] == "h" else f"Emb(x_{t})"
        return "something else"

    def loss(self, states, first, terms):
        """−Σ ln P(x_{first + slot}) / terms, over the slots that have such a token."""
        z = states @ self.w
        p = np.exp(z - z.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        slots = range(min(states.shape[1], _N - first))
        return -sum(
            np.log(p[b, t, self.ids[b, first + t]]) for b in range(_B) for t in slots
        ) / terms  # fmt: skip


def _inputs(depths):
    """The property that every module gets the right states and embeddings."""

    def holds(mtp_shift):
        watched = _Watched(depths)
        watched.run(mtp_shift)
        called, want = [k for k, *_ in watched.calls], list(range(1, depths + 1))
        if called != want:
            return f"the modules called are {called}, want {want}"
        for k, h, embedded in watched.calls:
            slots, before = _N - 1 - k, "⁰¹²³"[k - 1]
            for name, x in (("states", h), ("embeddings", embedded)):
                if not isinstance(x, Tensor):
                    return f"module {k} gets {described(x)} for its {name}, expected a Tensor"
                if x.shape != (_B, slots, _D):
                    many = f"{x.shape[1]} {name}" if x.ndim == 3 else f"{name} {x.shape}"
                    return f"module {k} gets {many} of {_N} tokens, want {slots} slots"
            for t in range(slots):
                got = watched.whose(h.data[0, t]), watched.whose(embedded.data[0, t])
                due = f"h{before}_{t}", f"Emb(x_{t + k})"
                if got != due:
                    return f"module {k} gets {', '.join(got)} at t = {t}, want {', '.join(due)}"
        return ""

    return holds


def _losses(depths):
    """The property that each loss is the right one; and if not, which one it is."""

    def holds(mtp_shift):
        watched = _Watched(depths)
        found = watched.run(mtp_shift)
        if not isinstance(found, tuple) or len(found) != 2:
            return f"it returned {described(found)}, expected losses, routings"
        losses, routings = found
        if not isinstance(losses, list) or len(losses) != depths:
            return f"losses are {described(losses)}, expected a list of {depths}"
        terms = _B * (_N - 1)
        for k, (loss, states) in enumerate(
            zip(losses, (y for name, y in watched.known if name not in ("h⁰", "Emb(x)")),
                strict=True), start=1,
        ):  # fmt: skip
            if not isinstance(loss, Tensor) or loss.shape != ():
                return f"L_{k} is {described(loss)}, expected a Tensor without axes"
            said = _which(watched, states, k, loss.item(), terms)
            if said:
                return f"L_{k} {said}"
        want = [f"routing {k}" for k in range(1, depths + 1)]
        return "" if routings == want else f"routings are {routings}, want {want}"

    return holds


def _which(watched, states, k, loss, terms):
    """Which other loss this is, or "" if it is right."""
    close = lambda first, n: abs(loss - watched.loss(states, first, n)) < 1e-9  # noqa: E731
    if close(k + 1, terms):
        return ""
    for first, why in ((k, ", which was embedded: a leak"), (k + 2, ""), (k - 1, ""), (1, "")):
        if close(first, terms):
            return f"has the targets x_{{t+{first}}}{why}; want x_{{t+{k + 1}}}"
    if close(k + 1, _B * (_N - 1 - k)):
        return f"is divided by its own {_B * (_N - 1 - k)} slots, want {terms}"
    return f"is {loss:.6f}, want {watched.loss(states, k + 1, terms):.6f}"


def _wrong(state="states[:, :slots]", embedded="ids[:, k : k + slots]", targets="ids[:, k + 1 :]",
           terms="ids[:, 1:].size", step="layer.step(before, after)", kept="states"):  # fmt: skip
    return (
        "losses, routings, states = [], [], h\n"
        "for k, layer in enumerate(mtp.layers, start=1):\n"
        f"    slots = ids.shape[1] - 1 - k\n    before, after = {state}, embedding({embedded})\n"
        f"    new, routing = {step}\n"
        f"    loss = ops.softmax_cross_entropy(head(new), {targets}, denominator={terms})\n"
        f"    losses.append(loss)\n    routings.append(routing)\n    {kept} = new\n"
        "return losses, routings"
    )


EXERCISE = Exercise(
    solutions=(MTPModel.losses, MTPModel.__call__),
    checker=properties({
        "one module: inputs": _inputs(1),
        "one module: loss": _losses(1),
        "three: inputs": _inputs(3),
        "three: losses": _losses(3),
    }),
    hints=(
        "Write down for N = 7 and k = 1 what slot t = 0 needs and what the last slot needs.",
        "slots = N − 1 − k;  states [:, :slots] of depth k − 1;  tokens k … k + slots − 1;\n"
        "targets k + 1 … N − 1",
        "slots = ids.shape[1] - 1 - k",
    ),
    mistakes=(
        Mistake(_wrong(embedded="ids[:, :slots]"), "one module: inputs",
                "module 1 gets h⁰_0, Emb(x_0) at t = 0, want h⁰_0, Emb(x_1)"),
        Mistake(_wrong(targets="ids[:, k : k + slots]"), "one module: loss",
                "has the targets x_{t+1}, which was embedded: a leak; want x_{t+2}"),
        Mistake(_wrong(kept="last"), "three: inputs",
                "module 2 gets h⁰_0, Emb(x_2) at t = 0, want h¹_0, Emb(x_2)"),
        Mistake(_wrong(state="states[:, 1:]"), "one module: inputs",
                "module 1 gets h⁰_1, Emb(x_1)"),
        Mistake(_wrong(embedded="ids[:, k + 1 :]"), "one module: inputs",
                "module 1 gets h⁰_0, Emb(x_2)"),
        Mistake(_wrong(state="states"), "one module: inputs",
                "module 1 gets 6 states of 7 tokens, want 5 slots"),
        Mistake(_wrong(terms="ids[:, k + 1 :].size"), "one module: loss",
                "L_1 is divided by its own 10 slots, want 12"),
        Mistake(_wrong(step="layer.step(after, before)"), "one module: inputs",
                "module 1 gets Emb(x_1), h⁰_0 at t = 0"),
        Mistake(_wrong(embedded="ids[:, 1 : 1 + slots]"), "three: inputs",
                "module 2 gets h¹_0, Emb(x_1) at t = 0, want h¹_0, Emb(x_2)"),
        Mistake(_wrong().replace("head(new)", "head(before)"), "one module: loss", "L_1 is"),
    ),
)  # fmt: skip
