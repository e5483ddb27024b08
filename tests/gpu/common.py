"""What tests of a card share: arrays there and back, and how near float32 has to be.

A card adds in another order, contracts products and sums, and has exponentials of its own: two
float32 results are compared by the largest difference beside the largest number, at 1e-4.
"""

import numpy as np

from minideepseek.autograd import backend

RTOL = 1e-4
LOOSE = 1e-2  # where sums are rounded to E4M3: one that crosses a midpoint is 6 % off


def up(array, place):
    """A copy on the device; None stays None."""
    return None if array is None else backend.to_device(np.array(array), place)


def close(found, expected, rtol=RTOL, what="", floor=0.0):
    """Asserts that an array, wherever it is, has the host's dtype, shape and numbers.

    floor: added to the largest number: that of what a small result is the difference of.
    """
    found, expected = backend.to_host(found), np.asarray(expected)
    assert found.dtype == expected.dtype and found.shape == expected.shape, what
    size = np.abs(expected).max(initial=0) + floor
    if size:
        error = np.abs(found - expected).max(initial=0) / size
        assert error <= rtol, f"{what}: {error:.1e} of the largest number"
    else:
        assert np.abs(found).max(initial=0) < 1e-30, what


def close_gradients(there, here, rtol=RTOL):
    """The gradients of two models' parameters, by name."""
    for (name, p), q in zip(here.named_parameters(), there.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None:
            close(q.grad, p.grad, rtol, name)
