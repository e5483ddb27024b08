r"""Writing text: sampling from the model with the latent cache.

A step turns the logits z of the next token into a distribution and draws from it:

    temperature τ    p = softmax(z / τ);  τ = 0 is the argmax
    top_k            only the k most probable tokens
    top_p            only the smallest set of most probable tokens whose mass reaches p (Holtzman
                     et al. 2020)

The draw inverts the cumulative distribution at one uniform number, made on the host in float64, so
that every device draws the same tokens from the same generator.

The prompt is read in one pass; then each step feeds one token per row, and attention runs absorbed
over the cached latents (chapter 2). One sequence alone is decoded without Tensors (decoding.py) and
on one thread: its products are too small to share.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minideepseek.autograd import backend, blocks
from minideepseek.autograd.backend import Array
from minideepseek.autograd.engine import Tensor, no_grad
from minideepseek.errors import InputError
from minideepseek.layers.module import DEFAULT_SEED
from minideepseek.model.decoding import alone
from minideepseek.model.transformer import DeepSeekV3


def probabilities(
    logits: np.ndarray, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0
) -> np.ndarray:
    """The distribution that is sampled from, (B, V) float64, from host logits (B, V).

    Temperature first, then top_k, then top_p of what is left, then normalised again. Of equal
    logits the lower token is kept first. temperature = 0 gives all mass to the argmax.
    """
    z = logits.astype(np.float64)
    if temperature == 0:
        return (np.arange(z.shape[-1]) == z.argmax(-1)[:, None]).astype(np.float64)
    with np.errstate(over="ignore"):  # a gap over a tiny temperature is −∞, and its p is 0
        p = np.exp((z - z.max(-1, keepdims=True)) / temperature)
    p /= p.sum(-1, keepdims=True)
    if (top_k is None or top_k >= p.shape[-1]) and top_p >= 1:
        return p
    order = np.argsort(-p, axis=-1, kind="stable")
    ranked = np.take_along_axis(p, order, -1)
    if top_k is not None:
        ranked[:, top_k:] = 0
        ranked /= ranked.sum(-1, keepdims=True)
    before = np.cumsum(ranked, -1) - ranked  # the mass of more probable tokens
    ranked[before >= top_p] = 0
    kept = np.zeros_like(p)
    np.put_along_axis(kept, order, ranked, -1)
    return kept / kept.sum(-1, keepdims=True)


def draw(p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One token per row of p (B, V): the first whose cumulative mass exceeds a uniform number."""
    cumulative = np.cumsum(p, -1)
    u = rng.random((p.shape[0], 1)) * cumulative[:, -1:]
    tokens = (cumulative <= u).sum(-1)
    last = p.shape[-1] - 1 - (p[:, ::-1] > 0).argmax(-1)  # u may round up to the total
    return np.minimum(tokens, last)


def choose(
    logits: np.ndarray, sampling: tuple, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """A token (B,) for each row of host logits (B, V), and the law it was drawn from, (B, V).

    sampling: (temperature, top_k, top_p). Greedy decoding draws nothing, and its law is None.
    """
    if sampling[0] == 0:
        return logits.argmax(-1), None
    p = probabilities(logits, *sampling)
    return draw(p, rng), p


def check_sampling(temperature: float, top_k: int | None, top_p: float) -> None:
    """InputError for values that define no distribution."""
    if not 0 <= temperature < float("inf"):
        raise InputError(f"temperature: got {temperature}, expected a number of at least 0")
    if top_k is not None and not (isinstance(top_k, int) and top_k >= 1):
        raise InputError(f"top_k: got {top_k!r}, expected None or an integer of at least 1")
    if not 0 < top_p <= 1:
        raise InputError(f"top_p: got {top_p}, expected a number in (0, 1]")


def generate(
    model: DeepSeekV3,
    ids: Any,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
    rng: Any = None,
    lengths: Any = None,
) -> np.ndarray:
    """Continue each row of ids (B, T) by up to max_new_tokens; → integers (B, T + new) on the host.

    A row ends with eos_token_id and is padded with pad_token_id (eos_token_id by default); new is
    smaller than max_new_tokens if all rows end before. lengths (B,): real tokens of right-padded
    prompts; the continuation of a row then follows its last real token. rng: a Generator, None
    makes one from seed 2024 (greedy decoding draws nothing). InputError for bad sampling values,
    token ids out of range, more tokens than max_position_embeddings, or rows that differ in length
    and nothing to pad them with.
    """
    asked = request(
        model, ids, max_new_tokens, temperature, top_k, top_p, eos_token_id, rng, lengths
    )
    pad = padding(model, asked, pad_token_id)
    steps = list(_steps(model, asked))  # −1 where a row has ended
    rows = range(len(asked.ends))
    return lay_out(asked, [[t[row] for t in steps if t[row] >= 0] for row in rows], pad)


def stream(
    model: DeepSeekV3,
    ids: Any,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    eos_token_id: int | None = None,
    rng: Any = None,
    lengths: Any = None,
) -> Iterator[np.ndarray]:
    """The tokens of `generate` as they are made: an array (B,) per step, −1 for ended rows."""
    return _steps(
        model,
        request(model, ids, max_new_tokens, temperature, top_k, top_p, eos_token_id, rng, lengths),
    )


def _steps(model: DeepSeekV3, asked: Request) -> Iterator[np.ndarray]:
    batch, ones = len(asked.ends), np.ones_like(asked.ends)
    alive = ones > 0
    cache = model.new_cache(batch, int(asked.ends.max()) + asked.max_new_tokens)
    feed, counts = asked.prompt[:, : asked.ends.max()], asked.ends
    single = alone(model, cache, batch)
    for step in range(asked.max_new_tokens):
        if single is not None and step:
            logits = single.logits(single(feed[0]))
        else:
            logits = next_logits(model, feed, cache, counts)
        tokens, _ = choose(logits, asked.sampling, asked.rng)
        if asked.eos_token_id is None:
            yield tokens
        else:
            yield np.where(alive, tokens, -1)
            alive &= tokens != asked.eos_token_id
            if not alive.any():
                return
        feed, counts = tokens[:, None], ones


def next_logits(model: DeepSeekV3, feed: Any, cache: Any, counts: np.ndarray) -> np.ndarray:
    """Logits (B, V) on the host after each row's last real token of feed (B, T), which is cached.

    counts (B,): how many of the T tokens of each row are real; the others are padding on the right.
    """
    return host_logits(model, last_of(read(model, feed, cache, counts), counts))[:, 0]


def read(model: DeepSeekV3, feed: Any, cache: Any, counts: np.ndarray) -> Array:
    """The normed states (B, T, d) of feed (B, T); of row b the first counts[b] are cached."""
    ids = model.check_ids(feed)
    real, mask = padded(counts, ids)
    with no_grad(), own_thread(ids.size):
        return model.hidden(ids, cache, real, mask)[0].data


def host_logits(model: DeepSeekV3, h: Array) -> np.ndarray:
    """Logits (B, T, V) on the host for states (B, T, d)."""
    with no_grad():
        return backend.to_host(model.logits(Tensor(h)).data)


def padded(counts: np.ndarray, ids: Array) -> tuple[np.ndarray | None, Array | None]:
    """(counts, mask) as layers take them for ids (B, T), right-padded to counts; or two Nones."""
    if (counts == ids.shape[1]).all():
        return None, None
    mask = np.arange(ids.shape[1]) < counts[:, None]
    return counts, backend.like(mask.astype(np.int64), ids)


def own_thread(tokens: int) -> contextlib.AbstractContextManager:
    """A context for the work of so many tokens: few of them stay on the caller's thread."""
    return blocks.serial() if tokens < 8 else contextlib.nullcontext()


def pick(h: Array, at: np.ndarray) -> Array:
    """h (B, T, d) and host columns at (B, S) → (B, S, d), row b's states at its own columns."""
    batch, tokens, width = h.shape
    return h.reshape(-1, width)[backend.like(np.arange(batch)[:, None] * tokens + at, h)]


def last_of(h: Array, counts: np.ndarray) -> Array:
    """h (B, T, d) → (B, 1, d), the state of each row's last real token."""
    return h[:, -1:] if (counts == h.shape[1]).all() else pick(h, counts[:, None] - 1)


@dataclass(frozen=True)
class Request:
    """What to continue, and how: checked. prompt (B, T) and ends (B,), its rows' real tokens, are
    host integers; sampling: (temperature, top_k, top_p)."""

    prompt: np.ndarray
    ends: np.ndarray
    max_new_tokens: int
    sampling: tuple
    eos_token_id: int | None
    rng: np.random.Generator


def request(
    model: DeepSeekV3,
    ids: Any,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float,
    eos_token_id: int | None,
    rng: Any,
    lengths: Any,
) -> Request:
    """The Request of `generate`'s arguments; InputError as there."""
    check_sampling(temperature, top_k, top_p)
    if not isinstance(max_new_tokens, int) or max_new_tokens < 0:
        raise InputError(f"max_new_tokens: got {max_new_tokens!r}, expected an integer ≥ 0")
    model.check_ids(ids)
    _check_token(model, "eos_token_id", eos_token_id)
    prompt = backend.to_host(backend.as_array(ids))
    ends, limit = _prompt_lengths(prompt, lengths), model.config.max_position_embeddings
    if ends.max() + max_new_tokens > limit:
        raise InputError(
            f"max_new_tokens: {ends.max()} prompt tokens and {max_new_tokens} new ones are more "
            f"than max_position_embeddings {limit}"
        )
    rng = np.random.default_rng(DEFAULT_SEED) if rng is None else rng
    return Request(prompt, ends, max_new_tokens, (temperature, top_k, top_p), eos_token_id, rng)


def padding(model: DeepSeekV3, asked: Request, pad_token_id: int | None) -> int | None:
    """The token behind rows that are shorter; InputError if there is none and one is needed."""
    _check_token(model, "pad_token_id", pad_token_id)
    pad = pad_token_id if pad_token_id is not None else asked.eos_token_id
    if pad is None and asked.ends.min() < asked.prompt.shape[1]:
        raise InputError("pad_token_id: got None, needed for rows that differ in length")
    return pad


def lay_out(asked: Request, new: Sequence[Sequence[int]], pad: int | None) -> np.ndarray:
    """(B, T + the most new tokens): each row's prompt, its new tokens right behind, padding."""
    width = asked.prompt.shape[1] + max(len(row) for row in new)
    out = np.full((len(new), width), -1 if pad is None else pad, np.int64)
    for row, (end, tokens) in enumerate(zip(asked.ends, new, strict=True)):
        out[row, :end] = asked.prompt[row, :end]
        out[row, end : end + len(tokens)] = tokens
    return out


def _prompt_lengths(prompt: np.ndarray, lengths: Any) -> np.ndarray:
    if lengths is None:
        return np.full(prompt.shape[0], prompt.shape[1], np.int64)
    rows, tokens = prompt.shape
    ends = backend.to_host(backend.as_array(lengths))
    if ends.shape != (rows,) or ends.dtype.kind not in "iu" or not (
        1 <= ends.min() <= ends.max() <= tokens
    ):
        raise InputError(
            f"lengths: got {ends.tolist()}, expected {rows} integers from 1 to {tokens}"
        )
    return ends.astype(np.int64)


def _check_token(model: DeepSeekV3, name: str, token: int | None) -> None:
    vocab = model.config.vocab_size
    if token is not None and not 0 <= token < vocab:
        raise InputError(f"{name}: got {token}, expected None or a token from 0 to {vocab - 1}")
