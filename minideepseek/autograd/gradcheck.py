r"""Is my gradient right? A random direction, a random cotangent, and a diagnosis.

For y = f(x) with Jacobian J, a rule claims to compute Jᵀu for any cotangent u. For any direction v

    ⟨u, J v⟩  =  ⟨Jᵀu, v⟩
    left: a derivative along one line, φ′(0) of φ(t) = ⟨u, f(x + t v)⟩; right: the rule

so two numbers compare the whole of J at once. If the rule's matrix is J + E instead, they differ by
vᵀEᵀu, which for random u and v is zero with probability zero. Both must be random:

* u of ones is blind to whole families of errors. Rows of a softmax sum to 1, so Jᵀ1 = 0, and a rule
  that is wrong by any factor passes:

    >>> import numpy as np
    >>> def softmax(x):
    ...     y = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    ...     return y, lambda g: 1.5 * y * (g - (g * y).sum(-1, keepdims=True))   # 1.5 is wrong
    >>> x = np.array([[1.0, 2.0, 4.0]])
    >>> y, vjp = softmax(x)
    >>> bool(abs(vjp(np.ones_like(y))).max() < 1e-12)                # Jᵀ1 = 0: nothing to see
    True
    >>> check_vjp(softmax, x)
    Traceback (most recent call last):
    minideepseek.autograd.gradcheck.GradientError: softmax
       dx  WRONG  error 3.3e-01  right direction, off by a factor 1.5

* v along one entry sees that entry only, and at a tolerance of 1e-2 an error of 1 % never.

The derivative R on the left comes from differences in float64 (`differences.py`), which have an
error of their own: the step must be small against the scale on which f bends, and large against
rounding. A fixed 1e-6 on inputs of 1e-3 rejects correct rules of log or rms_norm. Here v is scaled
by the entries and the step shrinks until two extrapolations agree; their difference says how far
to trust them, and if no two agree, that is reported, not passed over. Two directions are tried: one
in which each entry moves by its own size, and one by the array's. A rule passes if

    | R − Σ gᵢvᵢ |  ≤  tolerance · Σ |gᵢvᵢ|   + what differences cannot resolve

which catches a relative error of 1e-3 in any argument, at any scale of the inputs.

Differences average the two slopes at a kink (max, clip, top-k where values tie): choose inputs that
are apart. Arrays live on the host here; integer and boolean arguments are handed on and skipped.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minideepseek.autograd.differences import NOISE, TABLE_LIMIT, Problem, own_sizes, read_only, rms
from minideepseek.autograd.engine import Parameter, Tensor, backward, no_grad
from minideepseek.errors import InputError, MiniDeepSeekError


class GradientError(MiniDeepSeekError, AssertionError):
    """A gradient that differences contradict. The message prints `report`, a `Report`."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


@dataclass(frozen=True)
class Verdict:
    """One argument's verdict. error: |R − Σ gᵢvᵢ| / Σ |gᵢvᵢ|, the worst seen; reason: "" if ok."""

    name: str
    ok: bool
    error: float
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """What a check found: one verdict per floating argument; `print` it, or ask for a `table`."""

    name: str
    verdicts: tuple[Verdict, ...]
    problem: Problem = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether every gradient agrees with its differences."""
        return all(v.ok for v in self.verdicts)

    def __str__(self) -> str:
        width = max((len(v.name) for v in self.verdicts), default=0)
        lines = [self.name]
        for v in self.verdicts:
            line = f"   {v.name:<{width}}  {'ok   ' if v.ok else 'WRONG'}  error {v.error:.1e}"
            lines.append(f"{line}  {v.reason}".rstrip())
        return "\n".join(lines)

    def table(self, name: str) -> str:
        """Every entry of one gradient, "dx", beside its differences, for one random cotangent."""
        i = self.problem.names.index(name)
        got, want = self.problem.gradients(i)[0], self.problem.differences(i)[0]
        lines = [f"{name:<16}{'the rule':>16}{'differences':>16}{'|diff|':>10}"]
        bad = _far(got, want)
        for index in np.ndindex(want.shape):
            a, b, mark = got[index], want[index], "  <" if bad[index] else ""
            lines.append(f"{_place(index):<16}{a:>16.8g}{b:>16.8g}{abs(a - b):>10.1e}{mark}")
        return "\n".join(lines)


def gradcheck(
    f: Callable,
    *arrays: Any,
    rng: np.random.Generator | None = None,
    tolerance: float = 1e-6,
    parameters: Mapping[str, Parameter] | None = None,
    **options: Any,
) -> Report:
    """Check the gradient of f, a function of Tensors that returns a Tensor of any shape.

    arrays: one per argument of f. Floating ones are taken in float64, become Tensors and are
    checked; integer and boolean ones are handed to f as they are. options are f's own.
    parameters: by name, float64 Parameters that f uses without taking them (a layer's): checked
    too; their data and `.grad` are as before afterwards.
    rng draws cotangents and directions, `default_rng(0)` if None. f must be deterministic.

    Returns the Report, or raises GradientError with the report as its message. InputError: f does
    not give a finite floating Tensor here, or a parameter is not in float64.

    >>> from minideepseek.autograd.primitives import tanh
    >>> print(gradcheck(lambda x, w: tanh(x @ w), np.ones((2, 3)), np.ones((3, 4))).ok)
    True
    """
    for name, p in (parameters or {}).items():
        if p.dtype != np.float64:
            raise InputError(f"gradcheck: parameter {name} is {p.dtype}, expected float64")
    n, used = len(arrays), list((parameters or {}).values())

    def value(*values):
        with no_grad(), _holding(used, values[n:]):
            y = f(*map(_tensor, values[:n]), **options)
        if not isinstance(y, Tensor):
            raise InputError(f"gradcheck: f returned {type(y).__name__}, expected a Tensor")
        return y.data

    def pull(u, *values):
        inputs = [_tensor(x) for x in values[:n]]
        with _holding(used, values[n:]):
            y = f(*inputs, **options)
            if y.node is not None:
                backward(y, u)
            return [getattr(x, "grad", None) for x in [*inputs, *used]]

    names = argument_names(f, n) + list(parameters or {})
    checked = [*arrays, *(p.data.copy() for p in used)]
    return _check(Problem(f, names, checked, value, pull, (), True), rng, tolerance)


def check_vjp(
    function: Callable,
    *arrays: Any,
    rng: np.random.Generator | None = None,
    tolerance: float = 1e-6,
    constants: Container[str] = (),
    exact_shapes: bool = False,
    **options: Any,
) -> Report:
    """Check a bare primitive: function(*arrays, **options) gives (y, vjp), arrays all of them.

    constants: names of floating arguments that get no gradient (the vjp gives None).
    exact_shapes: also refuse gradients of the broadcast shape, which the engine would sum down.
    Besides the numbers, the engine's rules are checked: neither arguments nor g are written to,
    gradients are new arrays or views of g, and a second call gives the same answer.

    Returns the Report or raises GradientError, as `gradcheck` does. NotImplementedError and other
    errors of the function itself are not caught.
    """

    def value(*values):
        return function(*values, **options)[0]

    def pull(u, *values):
        return _as_tuple(function(*values, **options)[1](u))

    names = argument_names(function, len(arrays))
    problem = Problem(function, names, list(arrays), value, pull, constants, exact_shapes)
    broken = _broken_rule(problem, lambda *values: function(*values, **options))
    return _check(problem, rng, tolerance, broken)


def _check(problem: Problem, rng, tolerance: float, broken: str = "") -> Report:
    if broken:
        verdicts = [Verdict("vjp", False, np.inf, broken)]
    else:
        rng = np.random.default_rng(0) if rng is None else rng
        problem.draw(rng)
        verdicts = [_verdict(problem, i, rng, tolerance) for i in problem.checked]
    report = Report(problem.name, tuple(verdicts), problem)
    if not report.ok:
        raise GradientError(report)
    return report


def _verdict(problem: Problem, i: int, rng, tolerance: float) -> Verdict:
    name, x = problem.names[i], problem.arrays[i]
    if reason := problem.wrong_shape(i):
        return Verdict(name, False, np.inf, reason)
    got, worst, size = problem.gradients(i), 0.0, problem.size
    if not np.isfinite(got).all():
        return Verdict(name, False, np.inf, "NaN or Inf")
    for own, sizes in ((True, own_sizes(x)), (False, np.full(x.shape, rms(x)))):
        v = rng.standard_normal(x.shape) * sizes
        size = problem.size_near(i, v) if own else size
        scale, noise = np.abs(got * v).reshape(2, -1).sum(-1), NOISE * size
        slope, unsure = problem.slope(i, v, size, 0.1 * tolerance * scale + noise)
        limit = 1e-4 * np.maximum(scale, np.abs(slope)) + 1e-9 * size
        if not (unsure <= limit).all():  # a slope below 1e-9 of f itself drowns in rounding
            if own:
                return Verdict(name, False, np.inf, "differences do not settle: f is not smooth")
            continue  # entries of very different sizes: the first direction has judged them
        off = np.abs(slope - (got * v).reshape(2, -1).sum(-1))
        larger = np.maximum(scale, np.abs(slope)) + 1e-300
        worst = max(worst, float((np.where(off <= noise, 0, off) / larger).max()))
        if not (off <= tolerance * scale + 3 * unsure + noise).all():
            kinked = problem.kinked(i, v, larger)
            reason = "f has a kink here: move the inputs apart" if kinked else ""
            return Verdict(name, False, worst, reason or _reason(problem, i, got))
    return Verdict(name, True, worst)


def _reason(problem: Problem, i: int, got: np.ndarray) -> str:
    """What is wrong with gradients of the right shape, the plainest explanation first."""
    if not got.any():
        return "no gradient arrives: it is zero, differences are not"
    if got[0].size > TABLE_LIMIT:
        return "differences along a random direction disagree"
    want = problem.differences(i)
    if said := scaled(got, want):
        return said
    if _same(got[0], got[1]):
        return "your rule ignores the incoming gradient g"
    return elsewhere(got, want, "finite differences say")


def scaled(got: np.ndarray, want: np.ndarray) -> str:
    """Whether got is all but want up to its sign or a factor, in words, or ""."""
    factor = float((got * want).sum() / max((want * want).sum(), 1e-300))
    if np.linalg.norm(got - factor * want) > 0.01 * np.linalg.norm(got - want):
        return ""
    if abs(factor + 1) < 1e-4:
        return "the sign is flipped"
    return f"right direction, off by a factor {factor:.6g}"


def elsewhere(got: np.ndarray, want: np.ndarray, says: str) -> str:
    """Where got and want (k, …), k arrays each, differ most; or that rows are columns."""
    if want.ndim > 2 and want.shape[-1] == want.shape[-2] and _same(got.swapaxes(-1, -2), want):
        return "transposed: its rows are the columns"
    bad = _far(got, want)
    worst = np.unravel_index(np.abs(got - want).argmax(), want.shape)
    place = _place(tuple(int(n) for n in worst[1:]))
    return (
        f"{int(bad.any(0).sum())} of {bad[0].size} entries differ, worst at {place}: "
        f"got {got[worst]:.6f}, {says} {want[worst]:.6f}"
    )


def _broken_rule(problem: Problem, call: Callable) -> str:
    """The first of the engine's rules that a primitive breaks, or ""."""
    u = None
    try:
        y, vjp = call(*problem.arrays)
        u = read_only(np.random.default_rng(1).standard_normal(np.shape(y)))
        first = _as_tuple(vjp(u))
        kept = _copies(first)
        new = [g for g in first if isinstance(g, np.ndarray) and g is not u]
        if any(g is x for g in new for x in problem.arrays):
            return "a gradient is an argument itself, not a new array"
        for a, b in itertools.combinations(new, 2):
            if (a.base is None or b.base is None) and np.may_share_memory(a, b):
                return "two gradients share their memory"
        again = _as_tuple(vjp(u))
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        return f"the {'forward' if u is None else 'vjp'} writes into an argument or into g"
    if any(g is h for g in new for h in again):  # the engine adds into what it was given
        return "it returns an array that it keeps, not a new one"
    same = len(kept) == len(again) and all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(kept, _copies(again), strict=True)
    )
    return "" if same else "a second call answers differently: it changed what it keeps"


def _copies(gradients: tuple) -> list[np.ndarray]:
    return [np.array(0.0 if g is None else g) for g in gradients]


def _as_tuple(gradients: Any) -> tuple:
    return gradients if isinstance(gradients, tuple) else (gradients,)


@contextlib.contextmanager
def _holding(parameters: list[Parameter], values: Sequence) -> Iterator[None]:
    """For a `with` block, the parameters hold `values` and no gradients."""
    before = [(p.data.copy(), p.grad) for p in parameters]
    try:
        for p, new in zip(parameters, values, strict=True):
            p.data[...], p.grad = new, None
        yield
    finally:
        for p, (old, grad) in zip(parameters, before, strict=True):
            p.data[...], p.grad = old, grad


def _tensor(x: np.ndarray) -> Any:
    return Parameter(x) if x.dtype.kind == "f" else x


def argument_names(f: Callable, n: int) -> list[str]:
    """The names of f's first n positional arguments."""
    try:
        signature = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return [f"argument{i}" for i in range(n)]
    names = [p.name for p in signature if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in signature if p.kind == p.VAR_POSITIONAL), "argument")
    return (names + [f"{rest}[{i}]" for i in range(n - len(names))])[:n]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b))


def _far(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Which entries differ by more than 1e-5 of the largest."""
    return ~(np.abs(got - want) <= 1e-5 * np.abs(want).max(initial=0) + 1e-300)


def _place(index: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, index))})"
