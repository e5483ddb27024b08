"""What the engine costs: µs per primitive, forward and backward together, beside bare NumPy.

    python -m demos.engine_overhead

prints one line per primitive, on arrays so small that the arithmetic hardly counts:

    bare     the primitive's own NumPy code, value and vjp, called directly
    engine   the same through Tensors: nodes, tape, backward
    added    the difference: what the tape costs

Times are the best of several rounds over a chain of 200 primitives, so that a busy machine disturbs
them least; the last line is the largest and the median of the third column.
"""

import statistics
import time

import numpy as np

import minideepseek.autograd.fused
import minideepseek.autograd.primitives  # noqa: F401 - registers
from minideepseek.autograd.engine import PRIMITIVES, Parameter, ops

STEPS, ROUNDS = 200, 30


def cases(rng):
    """Name → (arguments besides x, options): primitives that give back x's shape (8, 8)."""
    square, row = rng.standard_normal((8, 8)) / 3, rng.standard_normal(8)
    return {
        "add": ((square,), {}),
        "multiply": ((square,), {}),
        "scale": ((), {"by": 1.01}),
        "matmul": ((square,), {}),
        "tanh": ((), {}),
        "softmax": ((), {}),
        "transpose": ((), {}),
        "reshape": ((), {"shape": (8, 8)}),
        "linear": ((square,), {}),
        "rms_norm": ((row,), {"eps": 1e-6}),
    }


def bare(name, x, others, options):
    """Seconds of one chain: every value, then every vjp in reverse."""
    function, tape = PRIMITIVES[name], []
    start = time.perf_counter()
    for _ in range(STEPS):
        x, vjp = function(x, *others, **options)
        tape.append(vjp)
    g = x
    while tape:
        g = tape.pop()(g)
        g = g[0] if isinstance(g, tuple) else g
    return time.perf_counter() - start


def through_engine(name, x, others, options):
    """Seconds of the same chain of Tensors and its backward, all arguments being Parameters."""
    function, x = getattr(ops, name), Parameter(x)
    others = [Parameter(other) for other in others]
    start = time.perf_counter()
    for _ in range(STEPS):
        x = function(x, *others, **options)
    x.backward(x.data)
    return time.perf_counter() - start


def main():
    """Print the table."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 8))
    print(f"{'primitive':<12}{'bare':>10}{'engine':>10}{'added':>10}   µs, forward and backward")
    added = []
    for name, (others, options) in cases(rng).items():
        times = [[], []]
        for _ in range(ROUNDS):  # turn by turn, so that both meet the same machine
            times[0].append(bare(name, x, others, options))
            times[1].append(through_engine(name, x, others, options))
        one, two = (min(t) / STEPS * 1e6 for t in times)
        added.append(two - one)
        print(f"{name:<12}{one:>10.2f}{two:>10.2f}{two - one:>10.2f}")
    print(f"added: at most {max(added):.1f} µs, median {statistics.median(added):.1f} µs")


if __name__ == "__main__":
    main()
