r"""Chapter 5 — Supervised fine-tuning: imitate responses, learn nothing from prompts

A sample is a prompt q and a response o of |o| tokens, its end token included. Fine-tuning lowers

    L = − Σᵢ Σₜ ln π(oᵢₜ | qᵢ, oᵢ,<t) / Σᵢ |oᵢ| ,          π: the model's next-token distribution

the cross-entropy of pre-training, with two differences. Targets inside a prompt do not count: the
model is to answer questions, not to ask them. The end token does count: it is how a model learns
to stop. The mean runs over all response tokens of the step, so that a long response weighs more
than a short one, and the same whichever row it lies in.

Several samples in a row
------------------------
Responses differ in length: mini-Countdown's have 10 to 78 tokens. Instead of padding each to the
longest, samples lie one behind the other in rows of `length` tokens, the longest placed first and
each in the first row with room (first-fit decreasing). V3 packs its fine-tuning data too, and masks
the samples from each other, which it does not do in pre-training:

    ids      <bos> q₁ q₂ o₁ o₂ <eos> <bos> q₁ o₁ <eos> <pad> <pad>
    weights        0  0  1  1    1     0   0  1    1     0     0
    segments   0   0  0  0  0    −1    1   1  1    −1    −1

Weights belong to the targets ids[:, 1:], segments to the inputs ids[:, :-1]. Attention stays within
a segment. Positions run through: RoPE's scores depend on differences only, and a difference within
a sample is what it would be alone. An end token is a target and never an input, so nothing is
predicted from it; it shares segment −1 with the padding, whose tokens no expert sees.

With the MoE layers something remains of the neighbours: which rows of a matrix product an expert
multiplies together, hence the last bits.

MTP modules rest here. They served pre-training; the embedding and the head that they share go on
learning, and nothing keeps their drafts in step.

>>> samples = [(np.array([1, 7]), np.array([8, 9, 2])), (np.array([1, 5]), np.array([6, 2]))]
>>> packed = pack_samples(samples, length=10, pad_token_id=0)
>>> packed.ids
array([[1, 7, 8, 9, 2, 1, 5, 6, 2]])
>>> packed.weights
array([[0., 1., 1., 1., 0., 0., 1., 1.]])
>>> packed.segment_ids
array([[ 0,  0,  0,  0, -1,  1,  1,  1]])
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minideepseek.autograd import backend
from minideepseek.autograd.backend import to_host, xp_of
from minideepseek.autograd.engine import Tensor, ops
from minideepseek.errors import DivergedError, InputError
from minideepseek.layers.moe import Routing, max_violation, update_bias
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning.r1.sources import Sample, Source
from minideepseek.training.blame import blame
from minideepseek.training.optim import AdamW, clip_grad_norm, cosine_schedule, matrices_only
from minideepseek.training.trainer import check_length, check_plan

# --------------------------------------------------------------------------------------- packing


@dataclass(frozen=True)
class Packed:
    """Samples in rows, host arrays.  ids (B, N) int64, padded behind.

    weights (B, N−1) float64: 1 where the target ids[:, 1:] belongs to a response; segment_ids
    (B, N−1) int64: of the inputs ids[:, :-1], a number for each sample of a row, −1 for padding and
    end tokens.
    """

    ids: np.ndarray
    weights: np.ndarray
    segment_ids: np.ndarray


def pack_samples(samples: Sequence[Sample], length: int, pad_token_id: int) -> Packed:
    """Rows of at most `length` tokens, the longest sample first, each in the first row with room.

    samples: pairs (prompt, response) of integer arrays (N,), at least one token each. InputError
    for no sample, one of another kind, and one of more than `length` tokens.
    """
    if not len(samples):
        raise InputError("samples: got none, expected at least one")
    sizes = [_size(i, sample, length) for i, sample in enumerate(samples)]
    rows: list[list[int]] = []  # which samples lie in it
    room: list[int] = []
    for i in sorted(range(len(samples)), key=lambda i: -sizes[i]):
        row = next((r for r, free in enumerate(room) if free >= sizes[i]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(length)
        rows[row].append(i)
        room[row] -= sizes[i]
    width = length - min(room)  # no column of padding alone
    ids = np.full((len(rows), width), pad_token_id, np.int64)
    weights = np.zeros((len(rows), width - 1))
    segment_ids = np.full((len(rows), width - 1), -1, np.int64)
    for r, lying in enumerate(rows):
        start = 0
        for number, i in enumerate(lying):
            (prompt, response), end = samples[i], start + sizes[i]
            ids[r, start:end] = np.concatenate([prompt, response])
            weights[r, start + len(prompt) - 1 : end - 1] = 1
            segment_ids[r, start : end - 1] = number
            start = end
    return Packed(ids, weights, segment_ids)


def _size(i: int, sample: Sample, length: int) -> int:
    """The tokens of a sample, or InputError."""
    for name, part in zip(("prompt", "response"), sample, strict=True):
        if np.ndim(part) != 1 or not len(part) or np.asarray(part).dtype.kind not in "iu":
            raise InputError(
                f"samples: the {name} of sample {i} has shape {np.shape(part)}, "
                "expected one row of at least one integer"
            )
    size = len(sample[0]) + len(sample[1])
    if size > length:
        raise InputError(
            f"samples: sample {i} has {size} tokens, expected at most length = {length}"
        )
    return size


def sft_loss(model: DeepSeekV3, packed: Packed) -> Tensor:
    """L, a scalar Tensor in nats: the mean over the response targets of all samples."""
    return _loss(model, packed)[0]


def _loss(model: DeepSeekV3, packed: Packed) -> tuple[Tensor, list[Routing]]:
    ids = model.check_ids(packed.ids, least=2)
    segment_ids = backend.like(packed.segment_ids, ids)
    mask = backend.like((packed.segment_ids >= 0).astype(np.int64), ids)
    h, routings = model.hidden(ids[:, :-1], mask=mask, segment_ids=segment_ids)
    weights = backend.like(packed.weights, ids).astype(h.dtype)
    terms = packed.weights.sum()
    loss = ops.softmax_cross_entropy(model.logits(h), ids[:, 1:], weights, denominator=terms)
    return loss, routings


# --------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class SFTPlan:
    """The numbers of a run. Rates are per step, lengths in tokens, γ = bias_step.

    γ is 0 by default: pre-training has balanced the routers and ended with fixed biases, and what
    the model has learned sits in experts that it finds by them.
    """

    steps: int = 350
    samples_per_step: int = 32
    sequence_length: int = 128  # of a packed row
    learning_rate: float = 1.5e-3
    warmup_steps: int = 20
    final_learning_rate: float = 0.1  # of the peak, as R1: 5e-5 to 5e-6
    weight_decay: float = 0.1  # of matrices
    clip_norm: float = 1.0
    bias_step: float = 0.0
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check_plan(self, _AT_LEAST, _AT_MOST)


_AT_LEAST = {
    "steps": 1,
    "samples_per_step": 1,
    "sequence_length": 2,
    "warmup_steps": 0,
    "checkpoint_every": 1,
    "seed": 0,
}
_AT_MOST = {
    "learning_rate": 1.0,
    "final_learning_rate": 1.0,
    "weight_decay": 1e3,
    "clip_norm": 1e9,
    "bias_step": 1.0,
}


class SFTTrainer:
    """A model, the source of its samples and its optimiser; `step()` is one update.

    `training.trainer.fit` drives it and a RunDirectory keeps it, as in pre-training. InputError for
    rows longer than the model's positions.
    """

    def __init__(self, model: DeepSeekV3, source: Source, plan: SFTPlan) -> None:
        check_length(plan, model.config)
        self.model, self.loader, self.plan = model, source, plan
        self.parameters = dict(model.named_parameters())
        self.optimiser = AdamW(
            self.parameters.values(),
            lr=plan.learning_rate,
            weight_decay=matrices_only(plan.weight_decay),
        )
        self.done = 0  # steps
        self.tokens = 0  # that the model read, prompts included, padding not
        self.seconds = 0.0  # of training, over all processes that worked on this run

    def step(self) -> dict[str, Any]:
        """One update; the metrics of it. DivergedError if the loss or a gradient is not finite."""
        plan, began = self.plan, time.perf_counter()
        pad = self.model.config.pad_token_id or 0
        packed = pack_samples(self.loader.next_batch(), plan.sequence_length, pad)
        self.optimiser.zero_grad()
        loss, routings = _loss(self.model, packed)
        loss.backward()
        metrics = self._update(packed, loss)
        for router, routing in zip(self.model.routers, routings, strict=False):  # MTP's rest
            if plan.bias_step:
                update_bias(router.e_score_correction_bias, routing.counts, plan.bias_step)
        tokens, elapsed = int((packed.segment_ids >= 0).sum()), time.perf_counter() - began
        self.done += 1
        self.tokens += tokens
        self.seconds += elapsed
        return {
            "step": self.done,
            "seconds": round(self.seconds, 3),
            "tokens": self.tokens,
            **metrics,
            "learning_rate": self.optimiser.lr,
            "tokens_per_second": round(tokens / elapsed, 1),
            "max_vio": [round(max_violation(r.counts), 4) for r in routings],
            "dead_experts": [r.counts.count(0) for r in routings],
        }

    def evaluations(self) -> dict[str, Any]:
        """None: how well the model answers is `evaluate`'s to say."""
        return {}

    def _update(self, packed: Packed, loss: Tensor) -> dict[str, float]:
        """Clip, look once at the loss and the norm, and step unless one of them is not finite."""
        plan, norm = self.plan, clip_grad_norm(self.parameters.values(), self.plan.clip_norm)
        nats, size = to_host(xp_of(loss.data).stack([loss.data, norm])).tolist()
        if not (math.isfinite(nats) and math.isfinite(size)):
            again = lambda: sft_loss(self.model, packed)  # noqa: E731
            raise DivergedError(blame(self.done + 1, nats, size, self.parameters, again))
        self.optimiser.lr = cosine_schedule(
            self.done, plan.steps, plan.learning_rate, plan.warmup_steps, plan.final_learning_rate
        )
        self.optimiser.step()
        return {"loss": nats, "grad_norm": size}
