"""What the ties share: their registry, spies on a layer's parts, and one comparison.

A tie is a function of hypothesis' `draw`: it draws sizes, runs the library, and holds what it did
against an entry's transcription. The inputs of a transcription are the library's own, taken where
they enter the line in question, so that an entry answers for its equation alone.
"""

from collections.abc import Callable
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np

from minideepseek.autograd.engine import ops
from tests.layers.common import seeds

TIES: dict[str, Callable] = {}


def tie(*ids: str) -> Callable[[Callable], Callable]:
    """Register a tie of these entries."""

    def register(function: Callable) -> Callable:
        assert not TIES.keys() & set(ids)
        TIES.update(dict.fromkeys(ids, function))
        return function

    return register


def close(found, expected, tolerance=1e-10):
    """Equal in shape and, relative to the largest number, to the tolerance."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    size = max(1e-3, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * size)


def generator(draw):
    return np.random.default_rng(draw(seeds))


class Spy:
    """Stands in a module's place; remembers the last call's first input and its output."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, x, *rest, **options):
        y = self.inner(x, *rest, **options)
        self.read, self.said = x.data, y.data
        return y

    def __getattr__(self, name):
        return getattr(self.inner, name)


def spy_on(module, *names):
    """Spies in place of these parts."""
    for name in names:
        setattr(module, name, Spy(getattr(module, name)))


def attention_of(run):
    """What `run` hands to ops.attention: q, k, v, options, and y, the answer."""
    seen, inner = SimpleNamespace(), ops.attention

    def spy(q, k, v, **options):
        y = inner(q, k, v, **options)
        seen.q, seen.k, seen.v, seen.y = (a.data for a in (q, k, v, y))
        return y

    with patch.object(ops, "attention", spy):
        run()
    return seen
