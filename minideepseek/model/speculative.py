r"""Chapter 4a, put to use — Speculative decoding that changes nothing but the speed

A model that writes one token at a time is read from memory once for each of them, and its
arithmetic waits. Reading it once for three positions costs little more than for one; what is
missing is the tokens to read. So a small *drafter* guesses them, and the model judges the guesses
in the same pass that makes its next token. Here the drafter is the MTP module, which has learned
exactly this: what comes after the next token.

One round, with x₀ … x_{n−1} written and the states h₀ … h_{n−2} of the main model at hand:

    draft    y₁ … y_K, one after the other, yⱼ from its law qⱼ; the first from h_{n−2} and x_{n−1}
    verify   one pass of the main model over x_{n−1} y₁ … y_K: the laws p₁ … p_{K+1} of what
             follows each of them, and the states h_{n−1} … h_{n−1+K}
    accept   y₁, y₂, … as long as the rule says yes; the first one that it refuses is replaced, and
             behind K accepted ones a bonus token is drawn from p_{K+1}
    cut      both caches forget what was refused

It writes 1 to K + 1 tokens.

The rule (Leviathan et al. 2023, Chen et al. 2023)
--------------------------------------------------
Accept y ~ q with probability min(1, p(y)/q(y)). If refused, draw from the residual law

    r(x) = (p(x) − q(x))₊ / Σ (p − q)₊ .

Then x is written with probability p(x), exactly, whatever q is: y = x is drafted and accepted with
q(x) min(1, p(x)/q(x)) = min(p(x), q(x)); something is refused with 1 − Σ min(p, q) = Σ (p − q)₊;
and

    min(p(x), q(x)) + Σ (p − q)₊ · r(x)  =  min(p(x), q(x)) + (p(x) − q(x))₊  =  p(x) .

Given what was written before, each token has the law that `generate` would give it, so the whole
text has. q decides only how fast it goes: a draft is accepted with probability

    α = Σ min(p, q) = 1 − TV(p, q) ,  TV the total variation distance ½ Σ |p − q| .

p and q are the laws that are sampled from: temperature, top_k and top_p are applied to both. Their
sets may differ. A token that top_p leaves to q and not to p is always refused (p(y) = 0), one that
it leaves to p alone comes by the residual. Greedy laws are points: y is accepted if it is the
argmax, and otherwise the argmax is written. Two ways to write another law: to accept above a
threshold; to draw from p itself after a refusal, which gives min(p, q) + TV · p. To forget the
bonus token changes no law and costs a token a round.

If each draft is accepted with α, whatever came before it, a round writes (1 − α^{K+1}) / (1 − α)
tokens on average (Leviathan et al., eq. 1), and pays if that is more than its time, counted in
steps of plain decoding. V3 accepts 85 to 90 % of second tokens and writes 1.8 times as fast
(§5.4.3). What it is here, and from which size on it pays: `python -m demos.speculative`.

What the caches hold
--------------------
The main model's holds all tokens but the last written one, whose turn comes with the next drafts;
after a round it is cut back to them. The modules' is drafter.py's business.

Rows of a batch accept as many as they do; caches know a length for each (cache.py). Rows that have
ended leave the batch. All random numbers are made on the host, as in generate.py.

>>> from minideepseek import DeepSeekV3, DeepSeekV3Config, generate, generate_speculative
>>> model = DeepSeekV3(DeepSeekV3Config.preset("nano"), np.random.default_rng(0))
>>> ids = np.array([[1, 2, 3]])
>>> out, stats = generate_speculative(model, ids, max_new_tokens=12, draft_tokens=2)
>>> bool((out == generate(model, ids, max_new_tokens=12)).all())
True
>>> stats.tokens, sum(stats.accepted) + stats.row_forwards       # a pass writes one token itself
(12, 12)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minideepseek.autograd import backend
from minideepseek.autograd.backend import Array
from minideepseek.errors import InputError
from minideepseek.model.decoding import alone
from minideepseek.model.drafter import Drafter, Laws
from minideepseek.model.generate import (
    Request,
    draw,
    host_logits,
    lay_out,
    padding,
    pick,
    probabilities,
    read,
    request,
)
from minideepseek.model.transformer import DeepSeekV3


@dataclass
class SpeculativeStats:
    """What a generation took. A row counts until it has ended, its drafts up to its last token.

    drafted, accepted: drafts by their position in a round, and how many of them were written.
    tokens: new ones of all rows. main_forwards: passes of the main model, the prompt's included;
    row_forwards: the same, each counted once for every row in it. drafting, verifying: seconds of
    the modules and of the main model (in all rounds; the prompt's pass is in neither).
    """

    drafted: list[int]
    accepted: list[int]
    tokens: int = 0
    main_forwards: int = 0
    row_forwards: int = 0
    drafting: float = 0.0
    verifying: float = 0.0

    @property
    def acceptance_rate(self) -> float:
        """Accepted drafts of all drafts; 0 where there were none."""
        return sum(self.accepted) / max(1, sum(self.drafted))

    @property
    def tokens_per_forward(self) -> float:
        """New tokens of a row per pass of the main model: 1 without drafts, at most K + 1."""
        return self.tokens / max(1, self.row_forwards)


def generate_speculative(
    model: DeepSeekV3,
    ids: Any,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    draft_tokens: int = 1,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
    rng: Any = None,
    lengths: Any = None,
) -> tuple[np.ndarray, SpeculativeStats]:
    """`generate`'s rows, (B, T + new) on the host, and what they took.

    draft_tokens: K, how many tokens the MTP modules draft for each pass of the main model; fewer
    where fewer are left to write. The rest as in `generate`: greedy, the same tokens; sampled, the
    same law (from other draws). InputError as there, for a model without MTP modules, for
    draft_tokens below 1 and for more than there is room for behind the prompt.
    """
    asked = request(
        model, ids, max_new_tokens, temperature, top_k, top_p, eos_token_id, rng, lengths
    )
    speculation = Speculation(model, asked, draft_tokens)
    pad = padding(model, asked, pad_token_id)
    new: list[list[int]] = [[] for _ in asked.ends]
    for rows, blocks in speculation:
        for row, block in zip(rows, blocks, strict=True):
            new[row] += block
    return lay_out(asked, new, pad), speculation.stats


def acceptance(p: np.ndarray, q: np.ndarray, drafts: np.ndarray) -> np.ndarray:
    """min(1, p(y)/q(y)), (B,), of drafts y (B,) that were drawn from q; p, q (B, V)."""
    rows = np.arange(len(drafts))
    py, qy = p[rows, drafts], q[rows, drafts]
    return np.divide(py, qy, out=np.ones_like(py), where=py < qy)


def residual(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The law after a refusal, (p − q)₊ normalised; p, q (B, V). Where p = q it is p."""
    r = np.maximum(p - q, 0)
    total = r.sum(-1, keepdims=True)
    return np.divide(r, total, out=p.copy(), where=total > 0)


def verify(
    logits: np.ndarray, drafts: np.ndarray, laws: Laws, sampling: tuple, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """How many of the drafts (B, K) are accepted, (B,), and the token to write behind them, (B,).

    logits: the main model's, (B, K + 1, V) on the host; laws: those of the drafts.
    """
    batch, k = drafts.shape
    if sampling[0] == 0:
        best = logits.argmax(-1)
        accepted = np.cumprod(best[:, :k] == drafts, axis=1).sum(1)
        return accepted, best[np.arange(batch), accepted]
    p = probabilities(logits.reshape(batch * (k + 1), -1), *sampling).reshape(logits.shape)
    going, accepted, law = np.ones(batch, bool), np.zeros(batch, np.int64), p[:, 0].copy()
    for j, q in enumerate(laws):
        yes = going & (acceptance(p[:, j], q, drafts[:, j]) > rng.random(batch))
        no = going & ~yes
        law[no] = residual(p[no, j], q[no])
        law[yes] = p[yes, j + 1]  # of the next draft, or of the bonus token
        going, accepted = yes, accepted + yes
    return accepted, draw(law, rng)


class Speculation:
    """A generation in rounds. Iterating gives (rows, blocks): the rows that are still in the batch
    and the tokens that each has got; `stats` grow meanwhile."""

    def __init__(self, model: DeepSeekV3, asked: Request, draft_tokens: int) -> None:
        _check_drafts(model, asked, draft_tokens)
        batch, most = len(asked.ends), int(asked.ends.max()) + asked.max_new_tokens + draft_tokens
        self.model, self.asked, self.draft_tokens = model, asked, draft_tokens
        self.cache = model.new_cache(batch, most)
        self.drafter = Drafter(model, batch, most, draft_tokens)
        self.rows = np.arange(batch)  # of the request: those still in the batch
        self.ends = asked.ends.copy()  # how many tokens are written of each
        self.left = np.full(batch, asked.max_new_tokens)  # how many it may still get
        self.text = np.zeros((batch, most), np.int64)  # written tokens, drafts behind them
        self.text[:, : asked.ends.max()] = asked.prompt[:, : asked.ends.max()]
        self.alone = alone(model, self.cache, batch)
        self.stats = SpeculativeStats([0] * draft_tokens, [0] * draft_tokens)

    def __iter__(self) -> Iterator[tuple[list[int], list[list[int]]]]:
        feed, counts, laws = self.text[:, : self.ends.max()], self.ends.copy(), Laws()
        going = self.left > 0
        while going.any():
            began, k = time.perf_counter(), len(laws)  # the first pass has no drafts
            h, logits = self._read(feed, counts, k + 1)
            drafts = feed[:, feed.shape[1] - k :]
            accepted, token = verify(logits, drafts, laws, self.asked.sampling, self.asked.rng)
            self.stats.main_forwards += 1
            self.stats.row_forwards += len(feed)
            self.stats.verifying += (time.perf_counter() - began) * (k > 0)
            rows, blocks = self.rows.tolist(), self._write(drafts, accepted, token)
            yield rows, blocks
            going = (self.left > 0) & [block[-1] != self.asked.eos_token_id for block in blocks]
            if going.any():
                self.cache.truncate(self.ends - 1)
                h, fresh = self._select(np.flatnonzero(going), h, counts - k + accepted)
                feed, laws = self._draft(h, fresh)
                counts = np.full_like(fresh, feed.shape[1])

    def _read(self, feed: np.ndarray, counts: np.ndarray, last: int) -> tuple[Array, np.ndarray]:
        """The states of feed (B, T), counts[b] of them real, and the logits of the last ones."""
        if self.alone is not None and feed.shape[1] == last:
            states = self.alone(feed[0])
            return states[None], self.alone.logits(states)[None]
        h = read(self.model, feed, self.cache, counts)
        if h.shape[1] == last:
            return h, host_logits(self.model, h)
        return h, host_logits(self.model, pick(h, counts[:, None] - last + np.arange(last)))

    def _write(
        self, drafts: np.ndarray, accepted: np.ndarray, token: np.ndarray
    ) -> list[list[int]]:
        """Each row's accepted drafts and the token behind them, up to the row's end."""
        blocks, eos, stats = [], self.asked.eos_token_id, self.stats
        for b, many in enumerate(accepted.tolist()):
            block = [*drafts[b, :many].tolist(), int(token[b])][: self.left[b]]
            if eos in block:
                block = block[: block.index(eos) + 1]
            within = len(block) <= many  # a draft was the row's last token
            for j in range(len(block) if within else min(drafts.shape[1], self.left[b])):
                stats.drafted[j] += 1
                stats.accepted[j] += j < many
            self.text[b, self.ends[b] : self.ends[b] + len(block)] = block
            self.ends[b] += len(block)
            self.left[b] -= len(block)
            stats.tokens += len(block)
            blocks.append(block)
        return blocks

    def _select(self, rows: np.ndarray, h: Array, fresh: np.ndarray) -> tuple[Array, np.ndarray]:
        """Keep these rows of everything, of h and fresh too."""
        if len(rows) == len(self.rows):
            return h, fresh
        self.cache.select(rows)
        self.alone = alone(self.model, self.cache, len(rows))
        self.drafter.select(rows)
        self.rows, self.ends, self.left = self.rows[rows], self.ends[rows], self.left[rows]
        self.text = self.text[rows]
        return h[backend.like(rows, h)], fresh[rows]

    def _draft(self, h: Array, fresh: np.ndarray) -> tuple[np.ndarray, Laws]:
        """What the main model reads next, (B, count + 1), and the laws of the drafts in it."""
        began, limit = time.perf_counter(), self.model.config.max_position_embeddings
        count = min(self.draft_tokens, int(self.left.max()) - 1, limit - int(self.ends.max()))
        laws = Laws()
        if count:
            laws = self.drafter.draft(h, fresh, self.text, self.ends, count, self.asked)
        at = self.ends[:, None] - 1 + np.arange(count + 1)
        self.stats.drafting += time.perf_counter() - began
        return np.take_along_axis(self.text, at, 1), laws


def _check_drafts(model: DeepSeekV3, asked: Request, draft_tokens: int) -> None:
    if not model.mtp.layers:
        raise InputError(
            "model: it has no MTP module (num_nextn_predict_layers = 0), which drafts need"
        )
    if type(draft_tokens) is not int or draft_tokens < 1:
        raise InputError(f"draft_tokens: got {draft_tokens!r}, expected an integer of at least 1")
    longest, limit = int(asked.ends.max()), model.config.max_position_embeddings
    if longest + draft_tokens > limit:
        raise InputError(
            f"draft_tokens: {longest} prompt tokens and drafts of {draft_tokens} are more than "
            f"max_position_embeddings {limit}"
        )
