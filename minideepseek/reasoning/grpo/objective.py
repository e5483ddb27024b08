r"""Chapter 6 — GRPO's objective: better than the other responses to the same question

For a question q the policy π (the model, as a distribution over responses) writes a group o₁ … o_G,
and a program gives each response a reward rᵢ. No second network predicts what was to be expected:
the group shows it (V2 eq. 34; R1, first version, eq. 3),

    Aᵢ = (rᵢ − mean(r)) / std(r) .

Every token of oᵢ gets the advantage Aᵢ. The responses may serve for several updates; π_old is the
policy that wrote them, ρ how much likelier a token has become since, |oᵢ| the response's tokens
(DeepSeekMath, section 4.1; to be made large):

    J = 1/G Σᵢ 1/|oᵢ| Σₜ { min( ρᵢₜ Aᵢ , clip(ρᵢₜ, 1 − ε, 1 + ε) Aᵢ ) − β KLᵢₜ }
    ρᵢₜ = π(oᵢₜ | q, oᵢ,<t) / π_old(oᵢₜ | q, oᵢ,<t)

clip(ρ, a, b) is ρ cut to [a, b]. The minimum takes the less favourable of the two, so that a token
earns nothing by moving further than ε in the direction that A asks for:

∂J/∂ρ for ε = 0.2, one token    ρ = 0.5    1    1.5
    A = +1, make it likelier        1      1     0     far enough
    A = −1, make it rarer           0     −1    −1     too likely still: no brake on the way back

β KL is a spring to the reference π_ref, a frozen policy (the one that RL began with, or a later
one); KLᵢₜ is estimated from the token drawn, in one of the four ways below.

V2 (eq. 32) and R1 (eq. 1) write ρᵢ = π(oᵢ|q)/π_old(oᵢ|q) for the whole output, KL likewise, and no
1/|oᵢ|: with ratio="sequence" an output is one action, its log-probability its tokens' sum. In the
options of `group_advantages` and `grpo_loss`:

    who                  scale   aggregation   divides by                   besides
    DeepSeekMath         std     sequence      |oᵢ|, then rows              β = 0.04, k3
    V3, R1               std     sequence      rows (ratio="sequence")      k3; R1-Zero β = 0.001
    DAPO                 std     token         all tokens of the batch      ε = (0.2, 0.28), β = 0
    Dr. GRPO             none    constant      rows · L_max                 β = 0
    RLOO                 rloo    constant      rows                         rᵢ − the others' mean
    V3.2                 none    sequence      |oᵢ|, then rows              unbiased KL

R1's first RL stage has ε = 10: 1 − ε is below 0, so that only ρ > 11 with A > 0 is ever clipped.

What is this a gradient of?
---------------------------
Wanted is ∇ E[r], the mean reward's (`grpo/__init__.py` begins there). A policy over three tokens
has 15 completions of at most three: E[∇], the mean of J's gradient over all groups, is then a sum
and not a sample. How much of it points elsewhere, whatever the step size (G = 3, rewards in [0, 1];
‖the part orthogonal to ∇ E[r]‖ / ‖E[∇]‖, by tests/reasoning/grpo/test_expectations.py):

    scale     constant                 token      sequence
    rloo      0, equal to ∇ E[r]       10.6 %     32.9 %
    none      0, (G−1)/G of it         10.6 %     32.9 %      rᵢ is part of its own baseline
    std       5.7 %                    7.1 %      28.9 %

- 1/|oᵢ| makes tokens of short responses move more: brevity pays when right, length when wrong.
- The token mean divides by lengths that the samples have a part in.
- With rewards of 0 and 1 and a constant denominator, std turns no direction: it multiplies a
  question's gradient by a number, for G = 16 by 1.93 where half of the responses are right and by
  3.27 where 5 % are (none: by 15/16; same file).

KL(π‖ref) from samples of π (Schulman 2020)
-------------------------------------------
With x = ln π − ln π_ref of the token drawn. In the loss, on policy, each has the expected gradient

    k1         x                E = KL(π‖ref)     0: it holds nothing back
    k2         x²/2             biased            ∇ KL(π‖ref)
    k3         e⁻ˣ − 1 + x      E = KL(π‖ref)     ∇ KL(ref‖π), the other one (V2 eq. 33, R1 eq. 2)
    unbiased   ρ k3             E = KL(π‖ref)     ∇ KL(π‖ref), off policy too (V3.2)

This is exact with a constant denominator, at each token for prefixes as the frozen policy visits
them, and for whole outputs with ratio="sequence". Against KL of whole outputs the token forms are
33 % (k2, unbiased) and 45 % (k3) off, and under 1/|oᵢ| 22 % of k2's and 35 % of k3's gradient point
elsewhere, while k1's is not 0 but 43 % of k2's (one pair of policies, same file).

    ┌────────────────────────────────────────────────────────────────────────────────────────┐
    │ The loss stays near 0 and does not fall. Is nothing learned?                           │
    │ At ρ = 1 it is −Σ w A over all tokens, w the share that the mean gives to a token, and │
    │ the A of a group sum to 0: with responses of one length it is 0 by construction,       │
    │ before training and after, while its gradient, −Σ w A ∇ ln π, is not; and every step   │
    │ brings new responses, with a new 0. The loss is no measure of progress. Watch reward,  │
    │ held-out accuracy, length and entropy.                                                 │
    └────────────────────────────────────────────────────────────────────────────────────────┘

The short formula in circulation, L = −(1/G) Σᵢ Aᵢ ln P(oᵢ) + β KL with P = π, has −J's gradient at
ρ = 1 with the constant G in place of the |oᵢ|: `simplified_loss`. It knows no π_old, so the second
update of a rollout has no brake.

>>> group_advantages([[1, 0, 0, 1], [1, 1, 1, 1]])  # the second group teaches nothing
array([[ 1., -1., -1.,  1.],
       [ 0.,  0.,  0.,  0.]])
>>> import numpy as np
>>> from minideepseek.autograd.engine import Parameter
>>> logprobs, mask = Parameter(np.log([[0.5, 0.5], [0.5, 0.25]])), np.ones((2, 2))
>>> loss, parts = grpo_loss(logprobs, logprobs.data.copy(), [1.0, -1.0], mask)
>>> loss.backward()
>>> loss.item() == 0, logprobs.grad.tolist()
(True, [[-0.25, -0.25], [0.25, 0.25]])
"""

from __future__ import annotations

from numbers import Real
from typing import Any

from minideepseek.autograd.backend import Array, as_array, to_device, to_host, xp_of
from minideepseek.autograd.engine import Tensor, ops
from minideepseek.errors import InputError

SCALES = ("std", "none", "rloo")
KLS = ("k1", "k2", "k3", "unbiased")
AGGREGATIONS = ("sequence", "token", "constant")
RATIOS = ("token", "sequence")
ROUNDING = 1e-6  # how far above 0 the logarithm of a probability of 1 may be rounded


def group_advantages(rewards: Any, scale: str = "std") -> Array:
    """How much better than its group each completion did, (groups, G).  rewards (groups, G).

    scale: "std" (rᵢ − mean)/std with the population's std (ddof 0; R1 eq. 3), "none" rᵢ − mean
    (Dr. GRPO, V3.2), "rloo" rᵢ − the others' mean. No ε: a group of equal rewards is exactly 0.
    InputError: an unknown scale, another shape, groups of one, rewards that are NaN or Inf.
    """
    _one_of("scale", scale, SCALES)
    r = as_array(rewards)
    r = r if r.dtype.kind == "f" else r.astype("float64")
    if r.ndim != 2 or r.shape[1] < 2:
        raise InputError(f"rewards: got shape {r.shape}, expected (groups, G) with G of at least 2")
    xp, size = xp_of(r), r.shape[1]
    if (bad := ~xp.isfinite(r)).any():
        raise InputError(f"rewards: got {_first(r, bad)}, expected finite numbers")
    low = r.min(1, keepdims=True)
    spread = r.max(1, keepdims=True) - low
    u = (r - low) / xp.where(spread > 0, spread, 1)  # in [0, 1], and exactly 0 where all are equal
    u = u - u.mean(1, keepdims=True)
    if scale == "std":
        return u / xp.where(spread > 0, xp.sqrt((u * u).mean(1, keepdims=True)), 1)
    return u * spread * (1 if scale == "none" else size / (size - 1))


def kl_estimate(logprobs: Tensor, ref_logprobs: Array, kl: str, ratio: Any = 1) -> Tensor:
    """The estimator `kl` at every sampled token, in nats, of logprobs' shape.

    logprobs: Tensor, ln π; ref_logprobs: array, ln π_ref, of one shape; ratio: ρ, for "unbiased".
    InputError for an unknown estimator.
    """
    _one_of("kl", kl, KLS)
    x = logprobs - ref_logprobs
    if kl == "k1":
        return x
    if kl == "k2":
        return x * x * 0.5
    k3 = ops.exp(-x) - 1 + x
    return k3 if kl == "k3" else k3 * ratio


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Any,
    advantages: Any,
    mask: Any,
    ref_logprobs: Any = None,
    clip_epsilon: float | tuple[float, float] = 0.2,
    kl_coef: float = 0.0,
    kl: str = "k3",
    aggregation: str = "token",
    denominator: float | None = None,
    ratio: str = "token",
) -> tuple[Tensor, dict[str, float]]:
    """(loss, parts): −J, a scalar Tensor, and plain numbers to watch.

    logprobs: Tensor (rows, tokens), ln π of every token, the only argument with a gradient.
    old_logprobs, ref_logprobs: ln π_old and ln π_ref, of that shape; mask: 1 on completion tokens
    up to and including the end token, else 0; advantages (rows,). Arrays of any float dtype; those
    on the host are sent to where logprobs live.
    clip_epsilon: ε or (ε_low, ε_high); kl_coef: β, at 0 ref_logprobs is not touched.
    kl, aggregation, ratio: as above. denominator: the constant (Dr. GRPO: rows · L_max); for the
    means None, or the tokens ("token") or rows ("sequence") of the whole batch where this is one
    part of it: the losses of the parts then add up to the loss of the whole.

    parts: "loss"; "policy_loss", without the penalty; "ratio/mean", "/min", "/max";
    "clip_ratio/low_mean" (ρ < 1 − ε_low, A < 0) and "clip_ratio/high_mean" (ρ > 1 + ε_high, A > 0),
    the shares of tokens that the clip left no gradient; with β > 0 "kl", the estimator's mean.
    Means and shares are over this call's tokens (its outputs, with ratio="sequence"), which
    "tokens" counts.

    InputError: an unknown option, β > 0 without a reference, shapes that disagree, an empty mask or
    one of other numbers than 0 and 1, old or reference log-probabilities above 0, numbers that are
    NaN or Inf. logprobs itself is not looked at: NaN in it makes the loss NaN, and the trainer
    names the tensor.
    """
    low, high = _clip_bounds(clip_epsilon)
    _check_options(kl_coef, ref_logprobs, kl, aggregation, denominator, ratio)
    ref_logprobs = ref_logprobs if kl_coef > 0 else None
    given = _arrays(logprobs, old_logprobs, advantages, mask, ref_logprobs)
    faults, xp = _faults(given), xp_of(given["mask"])
    clean: Any = {name: xp.where(faults[name], 0, x) for name, x in given.items()}
    real, old, a, ref = (clean.get(name) for name in _EXPECTED)
    lp = ops.where(real > 0, logprobs, xp.zeros_like(old))  # elsewhere no value and no gradient
    if denominator is None:
        denominator = xp.maximum(real.sum(), 1) if aggregation == "token" else len(a)
    if ratio == "sequence":  # an output is one action: its log-probability is its tokens' sum
        lp, real = lp.sum(1, keepdims=True), real.max(1, keepdims=True)
        old, ref = (None if x is None else x.sum(1, keepdims=True) for x in (old, ref))

    weights = real / denominator
    if aggregation == "sequence":
        weights = weights / xp.maximum(real.sum(1, keepdims=True), 1)
    rho = ops.exp(lp - old)
    surrogate = ops.minimum(rho * a, ops.clip(rho, low=low, high=high) * a)
    loss = policy_loss = -(surrogate * weights).sum()
    watched = _watched(rho.data, a, real, low, high)
    if ref is not None:  # never at β = 0
        penalty = kl_estimate(lp, ref, kl, rho)
        loss = policy_loss + (penalty * weights).sum() * kl_coef
        watched["kl"] = (penalty.data * real).sum() / xp.maximum(real.sum(), 1)
    watched |= {"loss": loss.data, "policy_loss": policy_loss.data}
    return loss, _read(watched, given, faults)


def simplified_loss(
    logprobs: Tensor, advantages: Array, mask: Array, ref_logprobs: Any = None, kl_coef: float = 0.0
) -> Tensor:
    """L = −(1/R) Σᵢ Aᵢ ln P(oᵢ) + β KL with k3 for KL, as it circulates: a scalar Tensor.

    Arguments as for `grpo_loss`, which has the same gradient at ρ = 1 with denominator R = rows of
    aggregation "constant". Its value is another: nothing in it is a ratio.
    """
    terms = logprobs * -advantages[:, None]
    if kl_coef:
        terms = terms + kl_estimate(logprobs, ref_logprobs, "k3") * kl_coef
    return (terms * mask).sum() * (1 / len(mask))


# ------------------------------------------------------------------------------- what is watched


def _watched(rho: Array, a: Array, real: Array, low: float, high: float) -> dict[str, Array]:
    """Numbers of ρ where real is 1, each a 0-d array where ρ lives."""
    xp, count = xp_of(rho), real.sum()
    safe = xp.maximum(count, 1)
    return {
        "tokens": count,
        "ratio/mean": (rho * real).sum() / safe,
        "ratio/min": xp.where(real > 0, rho, xp.inf).min(),
        "ratio/max": xp.where(real > 0, rho, 0).max(),
        "clip_ratio/low_mean": ((rho < low) * (a < 0) * real).sum() / safe,
        "clip_ratio/high_mean": ((rho > high) * (a > 0) * real).sum() / safe,
    }


def _read(watched: dict, given: dict, faults: dict) -> dict[str, float]:
    """The watched numbers on the host: the one look, so InputErrors about values come with it."""
    xp, dtype = xp_of(given["mask"]), watched["loss"].dtype
    looked_at = [*(bad.any() for bad in faults.values()), *watched.values()]
    numbers = to_host(xp.stack([xp.asarray(x, dtype) for x in looked_at])).tolist()
    for (name, bad), found in zip(faults.items(), numbers, strict=False):
        if found:
            raise InputError(f"{name}: got {_first(given[name], bad)}, expected {_EXPECTED[name]}")
    parts = dict(zip(watched, numbers[len(faults) :], strict=True))
    if not parts["tokens"]:
        raise InputError("mask: got zeros only, expected 1 on completion tokens")
    return parts


# ------------------------------------------------------------------------------ what is accepted

_EXPECTED = {  # in the order in which `grpo_loss` unpacks them
    "mask": "0 and 1 only",
    "old_logprobs": "finite log-probabilities, none above 0",
    "advantages": "finite numbers",
    "ref_logprobs": "finite log-probabilities, none above 0",
}


def _arrays(logprobs: Any, old: Any, advantages: Any, mask: Any, ref: Any) -> dict[str, Array]:
    """The arrays by name, beside logprobs and of its dtype; what is masked out is 0 in them."""
    if not isinstance(logprobs, Tensor) or logprobs.ndim != 2:
        kind = type(logprobs).__name__
        came = f"shape {logprobs.shape}" if kind in ("Tensor", "Parameter") else kind
        raise InputError(f"logprobs: got {came}, expected a Tensor of shape (rows, tokens)")
    given = {"mask": mask, "old_logprobs": old, "advantages": advantages}
    if ref is not None:
        given["ref_logprobs"] = ref
    for name, value in given.items():
        array, shape = as_array(value), logprobs.shape
        if name == "advantages":
            shape = shape[:1]
        if array.shape != shape:
            raise InputError(f"{name}: got shape {array.shape}, expected {shape}")
        array = to_device(array.astype(logprobs.dtype, copy=False), logprobs.device)
        if name.endswith("logprobs"):
            array = xp_of(array).where(given["mask"] > 0, array, 0)
        given[name] = array[:, None] if name == "advantages" else array
    return given


def _faults(given: dict[str, Array]) -> dict[str, Array]:
    """Of each array, which entries cannot be used."""
    xp, faults = xp_of(given["mask"]), {}
    for name, x in given.items():
        good = (x == 0) | (x == 1) if name == "mask" else xp.isfinite(x)
        faults[name] = ~(good & (x <= ROUNDING) if name.endswith("logprobs") else good)
    return faults


def _clip_bounds(clip_epsilon: Any) -> tuple[float, float]:
    """(1 − ε_low, 1 + ε_high)."""
    pair: Any = clip_epsilon
    if not isinstance(pair, tuple | list):
        pair = (pair, pair)
    numbers = all(isinstance(e, Real) and float(e) >= 0 for e in pair)
    if len(pair) != 2 or not numbers:
        expected = "a number of at least 0, or (low, high)"
        raise InputError(f"clip_epsilon: got {clip_epsilon!r}, expected {expected}")
    return 1 - float(pair[0]), 1 + float(pair[1])


def _check_options(
    kl_coef: Any, ref_logprobs: Any, kl: Any, aggregation: Any, denominator: Any, ratio: Any
) -> None:
    _one_of("kl", kl, KLS)
    _one_of("aggregation", aggregation, AGGREGATIONS)
    _one_of("ratio", ratio, RATIOS)
    if not 0 <= kl_coef < float("inf"):
        raise InputError(f"kl_coef: got {kl_coef!r}, expected a finite number of at least 0")
    if kl_coef > 0 and ref_logprobs is None:
        raise InputError("ref_logprobs: got None, expected an array where kl_coef is above 0")
    if denominator is None and aggregation == "constant":
        raise InputError("denominator: got None, expected the constant of aggregation='constant'")
    if denominator is not None and not 0 < denominator < float("inf"):
        raise InputError(f"denominator: got {denominator!r}, expected a number above 0")


def _one_of(name: str, value: Any, names: tuple[str, ...]) -> None:
    if value not in names:
        raise InputError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, names))}")


def _first(array: Array, bad: Array) -> str:
    """The first bad entry, and in which row."""
    array, bad = to_host(array), to_host(bad)
    return f"{array[bad][0]:g} in row {bad.any(-1).argmax()}"
