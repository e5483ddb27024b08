"""FP8 once more, slowly: one tile at a time, one product at a time, from what the chapter says.

Nothing of layers/fp8 is used but the numbers of a tile's fields.
"""

import ml_dtypes
import numpy as np


def to_e4m3(q):
    """q as the nearest E4M3 numbers, by ml_dtypes."""
    return np.clip(q, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)


def to_e5m6(q):
    """q as the nearest E5M6 numbers: six bits behind the first, exponents from −14."""
    e = np.maximum(np.floor(np.log2(np.maximum(abs(q), 2.0**-30))), -14)
    step = 2.0 ** (e - 6)
    return (np.rint(q / step) * step).astype(np.float32)


def rounded(x, tile):
    """x (N, K) as the product sees it."""
    if not hasattr(tile, "rows"):
        return x.copy()
    x32, y = x.astype(np.float32), np.empty(x.shape, np.float32)
    to, largest = (to_e4m3, 448) if tile.format.mantissa == 3 else (to_e5m6, 65024)
    rows, columns = min(tile.rows, 10**6), min(tile.columns, 10**6)
    for i in range(0, x.shape[0], rows):
        for j in range(0, x.shape[1], columns):
            part = x32[i : i + rows, j : j + columns]
            s = np.float32(abs(part).max() / np.float32(largest))
            if tile.power_of_two and s:
                s = np.float32(2.0 ** np.ceil(np.log2(np.float64(s))))
            y[i : i + rows, j : j + columns] = to(part / (s or np.float32(1))) * (s or 1)
    return y.astype(x.dtype)


def linear(x, w, g, scheme):
    """(Y, dX, dW) of the three products, in float64."""
    wide = (lambda a: a.astype(np.float64))  # noqa: E731
    x1, w1 = rounded(x, scheme.x), rounded(w, scheme.w)
    g_row, g_column = rounded(g, scheme.dy), rounded(g, scheme.dy_tokens)
    x2 = rounded(x1, scheme.x_tokens)
    return wide(x1) @ wide(w1).T, wide(g_row) @ wide(w1), wide(g_column).T @ wide(x2)


def relative(found, expected):
    """The largest difference, relative to the largest |expected|; 0 for nothing beside nothing."""
    found, expected = (np.asarray(a, np.float64) for a in (found, expected))
    return abs(found - expected).max() / max(abs(expected).max(), 1e-300)
