r"""The latent cache: what a decoder layer remembers of every token it has seen.

Multi-head latent attention needs, per token and layer, one vector of

    kv_lora_rank + qk_rope_head_dim   numbers:   [ c^KV after its norm | k^R after its rotation ]

and nothing per head (chapter 2; V2 eq. 9 and 15). The attention of chapter 1 keeps [ k | v ] of
every key-value head in the same way, as one longer vector.

Rows of a batch may hold different numbers of tokens: prompts are padded on the right, `append` is
told how many of the new tokens of each row are real, and the next append writes over the padding.
Storage is one array of a fixed capacity that doubles when it must; a decoded token is written in
place and nothing that grows with the context is copied.
"""

from __future__ import annotations

from typing import Any

from minideepseek.autograd import backend
from minideepseek.autograd.backend import Array, like, xp_of
from minideepseek.errors import InputError


class LatentCache:
    """The cache of one layer: `data` (B, capacity, width), `lengths` (B,) tokens held per row.

    limit: the capacity it may grow to; InputError beyond. lengths is a host array.
    """

    def __init__(self, batch: int, capacity: int, width: int, limit: int) -> None:
        self.width, self.limit = width, limit
        self.lengths = backend.full((batch,), 0, backend.int64)
        self.data: Array | None = None
        self.capacity = min(capacity, limit)

    @property
    def offsets(self) -> int | Array:
        """Position of the next token: a number if all rows agree, else `lengths`."""
        first = int(self.lengths[0]) if len(self.lengths) else 0
        return first if (self.lengths == first).all() else self.lengths.copy()

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return 0 if self.data is None else self.data.nbytes

    def check(self, batch: int, tokens: int, width: int) -> None:
        """InputError where `append` would refuse this shape: a layer asks before it works."""
        if batch != len(self.lengths) or width != self.width:
            raise InputError(
                f"cache: got rows of shape {(batch, tokens, width)}, "
                f"it was made for ({len(self.lengths)}, tokens, {self.width})"
            )

    def append(self, new: Array, counts: Array | None = None) -> Array:
        """Write new (B, T, width) behind each row's tokens; returns a view (B, S, width) of all.

        counts: a host array (B,), how many of the T are real; all by default. S is the longest row
        with its padding. InputError for another batch size, width or dtype, or past the limit.
        """
        batch, tokens, width = new.shape
        self.check(batch, tokens, width)
        end = tokens + int(self.lengths.max(initial=0))
        self._reserve(end, new)
        assert self.data is not None
        at = self.offsets
        if isinstance(at, int):
            self.data[:, at:end] = new
        else:
            xp = xp_of(new)
            row, position = xp.arange(batch)[:, None], like(at, new)[:, None] + xp.arange(tokens)
            self.data[row, position] = new
        self.lengths += tokens if counts is None else counts
        return self.data[:, :end]

    def extend(self, tokens: int, x: Array) -> Array:
        """Room for `tokens` more of a cache's only row, of the dtype of x: → a view (S, width) of
        all, whose last rows the caller writes. InputError past the limit or for another dtype."""
        end = tokens + int(self.lengths[0])
        if self.data is None or end > self.data.shape[1] or self.data.dtype != x.dtype:
            self._reserve(end, x[None])
        assert self.data is not None and len(self.lengths) == 1
        self.lengths += tokens
        return self.data[0, :end]

    def truncate(self, lengths: Any) -> None:
        """Forget every token of row b from lengths[b] on; one number serves all rows.

        InputError for a row that holds fewer, or where there is not one length per row.
        """
        to, held = backend.to_host(backend.as_array(lengths)), self.lengths
        if to.shape not in ((), held.shape) or ((to < 0) | (to > held)).any():
            raise InputError(f"cache: cannot cut rows of {held.tolist()} tokens to {to.tolist()}")
        held[:] = to

    def select(self, rows: Array) -> None:
        """Keep these rows (host integers, any order, repeats allowed)."""
        self.lengths = self.lengths[rows]
        if self.data is not None:
            self.data = self.data[like(rows, self.data)]

    def _reserve(self, end: int, new: Array) -> None:
        """Room for `end` tokens per row: nothing, or the capacity doubled."""
        if end > self.limit:
            raise InputError(f"cache: {end} tokens asked for, its limit is {self.limit}")
        if self.data is not None and self.data.dtype != new.dtype:
            raise InputError(f"cache: got {new.dtype}, it holds {self.data.dtype}")
        if self.data is not None and end <= self.data.shape[1]:
            return
        old = self.data
        wanted = self.capacity if old is None else 2 * self.capacity
        self.capacity = max(end, min(self.limit, wanted))
        self.data = xp_of(new).zeros((new.shape[0], self.capacity, self.width), new.dtype)
        if old is not None:
            self.data[:, : old.shape[1]] = old


class ModelCache:
    """One `LatentCache` per layer, cut and selected together."""

    def __init__(self, layers: list[LatentCache]) -> None:
        self.layers = layers

    @property
    def lengths(self) -> Array:
        """Tokens held per row (a host array)."""
        return self.layers[0].lengths

    @property
    def offsets(self) -> int | Array:
        """Position of the next token: a number if all rows agree, else an array (B,)."""
        return self.layers[0].offsets

    @property
    def data(self) -> list[Array | None]:
        """What each layer holds; None before its first tokens."""
        return [layer.data for layer in self.layers]

    @property
    def nbytes(self) -> int:
        """Bytes allocated by all layers."""
        return sum(layer.nbytes for layer in self.layers)

    def truncate(self, lengths: Any) -> None:
        """Forget tokens in every layer: after rejected drafts."""
        for layer in self.layers:
            layer.truncate(lengths)

    def select(self, rows: Array) -> None:
        """Keep these rows in every layer: when others have ended."""
        for layer in self.layers:
            layer.select(rows)
