r"""The latent cache: append  ★★  15 minutes

A decoder layer keeps one vector of every token it has seen, [c^KV after its norm ; k^R after its
rotation], and the rows of a batch need not hold the same number of tokens:

    cache.data      (B, capacity, width)      row b's tokens are data[b, : lengths[b]]
    cache.lengths   (B,) integers             how many tokens each row holds

`append` writes T new tokens behind those that are there. Prompts of different lengths arrive padded
on the right; `counts` says how many of the T are real in each row. The padding is written too, but
not counted, so that the next append writes over it:

    lengths [0, 0], a prompt of counts [3, 1]        row 0   a b c      row 1   x · ·
    lengths [3, 1], one token more                   row 0   a b c d    row 1   x y ·
    lengths [4, 2]                                           · is padding, written or yet to be

Attention then reads the rows as one array (B, S, width), S the longest row with its padding, and a
mask says what is real. How the tokens came, all at once or one by one, must leave no trace.

Nothing that grows with the context may be copied: a decoded token costs a write of `width` numbers,
and what is returned is a view of the storage. The room is made for you.
"""

import numpy as np


def latent_cache(cache, new, counts=None):
    """Append new (B, T, width); returns all rows so far, (B, S, width), a view of cache.data.

    counts: None, all T are real; or (B,) integers. Afterwards cache.lengths are those of the rows.
    """
    end = new.shape[1] + int(cache.lengths.max())  # S
    cache._reserve(end, new)  # cache.data has a capacity of at least S tokens
    raise NotImplementedError("return the rows so far")


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.properties import compare, properties
from minideepseek.layers.cache import LatentCache

_WIDTH = 3


def _follows(*steps, capacity=16, after=None):
    """The property that after these appends, of (T, counts) each, every row holds its tokens."""

    def holds(latent_cache):
        rng, rows = np.random.default_rng(0), [np.zeros((0, _WIDTH)) for _ in range(2)]
        cache, told = LatentCache(2, capacity, _WIDTH, 64), []
        for t, counts in steps:
            told.append(f"append({t} tokens{'' if counts is None else f', counts={counts}'})")
            said = _append(latent_cache, cache, rows, rng.standard_normal((2, t, _WIDTH)), counts)
            if said:
                return f"{', '.join(told)}: {said}"
        return after(cache) if after else ""

    return holds


def _append(latent_cache, cache, rows, new, counts):
    """One append, to the cache and to a list of rows that each grow by themselves."""
    real = [new.shape[1]] * 2 if counts is None else counts
    for b in range(2):
        rows[b] = np.concatenate([rows[b], new[b, : real[b]]])
    end = new.shape[1] + int(cache.lengths.max())
    got = latent_cache(cache, new, None if counts is None else np.array(counts))
    if np.shape(got) != (2, end, _WIDTH):
        return compare(got, np.zeros((2, end, _WIDTH)))
    if np.shares_memory(got, new):
        return "what is returned shares its memory with new, which is the caller's"
    if not np.array_equal(cache.lengths, [len(row) for row in rows]):
        return f"lengths are {cache.lengths.tolist()}, want {[len(row) for row in rows]}"
    for b, row in enumerate(rows):
        for where, held in (("what is returned", got), ("cache.data", cache.data)):
            wrong = np.flatnonzero((held[b, : len(row)] != row).any(-1))
            if wrong.size:
                return f"in {where}, row {b} holds another vector for its token {wrong[0]}"
    return "" if np.shares_memory(got, cache.data) else "what is returned is no view of cache.data"


def _any_chunking(latent_cache):
    """Twelve tokens a row in pieces of random sizes, real ones in front."""
    rng = np.random.default_rng(1)
    for _ in range(10):
        steps, left = [], np.array([12, 12])
        while left.any():
            t = int(rng.integers(1, 6))
            counts = np.minimum(rng.integers(0, t + 1, 2), left)
            left -= counts
            steps.append((t, counts.tolist()))
        if said := _follows(*steps, capacity=4)(latent_cache):
            return said
    return ""


def _wrong(data="cache.data[row, position] = new", at="cache.lengths[:, None]",
           lengths="cache.lengths += tokens if counts is None else counts",
           returned="cache.data[:, :end]"):  # fmt: skip
    return (
        f"tokens, row = new.shape[1], np.arange(len(new))[:, None]\n"
        f"position = {at} + np.arange(tokens)\n{data}\n{lengths}\nreturn {returned}"
    )


EXERCISE = Exercise(
    solutions=(LatentCache.append, LatentCache),
    checker=properties({
        "a prompt": _follows((5, None)),
        "token by token": _follows((1, None), (1, None), (1, None)),
        "two chunks": _follows((3, None), (4, None)),
        "rows apart": _follows((3, [3, 1]), (1, None), (1, None)),
        "padding": _follows((4, [1, 2]), (2, [2, 1]), (3, None)),
        "a row waits": _follows((2, [2, 0]), (1, [0, 1]), (1, None)),
        "more room": _follows((3, None), (6, [6, 2]), (1, None), capacity=4),
        "any chunks": _any_chunking,
    }),
    hints=(
        "In row b the T tokens go to the positions lengths[b], lengths[b] + 1, …",
        "data[b, lengths[b] + t] = new[b, t] for all b and t at once, by two arrays of\n"
        "indices that broadcast to (B, T); then lengths += counts.",
        "position = cache.lengths[:, None] + np.arange(new.shape[1])  # (B, T)",
    ),
    mistakes=(
        Mistake(_wrong(at="cache.lengths.max()"), "rows apart",
                "row 1 holds another vector for its token 1"),
        Mistake(_wrong(lengths="cache.lengths += tokens"), "rows apart",
                "lengths are [3, 3], want [3, 1]"),
        Mistake(_wrong(at="0"), "token by token", "row 0 holds another vector for its token 0"),
        Mistake(_wrong(returned="cache.data"), "a prompt", "has shape (2, 16, 3), want (2, 5, 3)"),
        Mistake(_wrong(returned="cache.data[:, :end].copy()"), "a prompt", "is no view"),
        Mistake(_wrong(lengths="pass"), "a prompt", "lengths are [0, 0], want [5, 5]"),
        Mistake(_wrong(lengths="cache.lengths += tokens if counts is None else counts.max()"),
                "rows apart", "lengths are [3, 3], want [3, 1]"),
        Mistake(
            _wrong(data="cache.data = np.concatenate([cache.data[:, : end - tokens], new], 1)"),
            "rows apart", "row 1 holds another vector for its token 1",
        ),
        Mistake(_wrong(data="cache.data = new"), "a prompt", "shares its memory with new"),
        Mistake(
            _wrong(returned="np.concatenate([cache.data[:, : end - tokens], new], 1)"),
            "a prompt", "what is returned is no view of cache.data",
        ),
    ),
)  # fmt: skip
