r"""The training loop: what one step does, what is measured, and how a run survives being killed.

One step
--------
    1  losses of `accumulate` batches, backward after each, gradients averaged
    2  gradients clipped to a global norm of 1, and one host read: the losses and the norm. NaN or
       Inf stops here, before any weight is touched; the step and the first bad tensor are named
    3  one AdamW step at the scheduled learning rate
    4  the routers' biases move by γ against the loads of this very step (chapter 3)

γ is V3's knob for balance. V3 used 0.001 over its many thousand steps; with that a run of a few
hundred is uneven for most of them, and γ · steps ≥ 4 is a good choice (chapter 3, How large is γ?).
Towards the end it is set to 0, as V3 did for its last tokens, so that the model ends under a fixed
routing.

λ, the weight of multi-token prediction (chapter 4a), falls as V3's did, from 0.3 to 0.1 after 10 of
14.8 trillion tokens: here after the same share of the steps. A λ that is smaller stays as it is.

A run's directory
-----------------
    metrics.jsonl              one object a step
    checkpoints/step-00000100  a model directory as everyone reads it, plus optimizer.safetensors
                               (m and v of every parameter) and trainer.json (step, generator)

A checkpoint is written beside its name and renamed when it is complete; the newest two are kept. A
run that was killed goes on from the newest: metrics.jsonl is cut back to its step, and the losses
that follow are those of a run that was never interrupted, bit for bit, on the same machine, NumPy
and number of threads (a difference is reported).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from minideepseek.autograd.backend import Array, to_host, xp_of
from minideepseek.autograd.engine import Parameter
from minideepseek.errors import DivergedError, InputError
from minideepseek.layers.moe import max_violation, update_bias
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.config_checks import shown
from minideepseek.model.transformer import DeepSeekV3, Losses, evaluate_loss
from minideepseek.training.blame import blame
from minideepseek.training.data import BatchLoader, evaluation_windows
from minideepseek.training.optim import AdamW, clip_grad_norm, cosine_schedule, matrices_only

LATE, LATE_MTP_WEIGHT = 10 / 14.8, 0.1  # when V3's λ fell, as a share of its tokens, and to what


@dataclass(frozen=True)
class Plan:
    """The numbers of a run. Rates are per step, lengths in tokens, γ = bias_step.

    The defaults suit `mini` and a few minutes. They were picked from four runs of 1.4 million bytes
    (one seed each) by `minideepseek pretrain --steps N --batch-size B --learning-rate R` while the
    warm-up was 20 steps. Held-out bits per byte: 2.42 at 350 steps of 16 × 256 and R = 3e-3 (with
    γ = 0.02); at 700 steps of 8 × 256 and γ = 0.01, 2.31 at 3e-3, 2.28 at 1.5e-3, 2.46 at 6e-3. The
    rate chosen, 2e-3, lies between two of them and was run only at 1,000 steps.
    """

    steps: int = 1000
    batch_size: int = 8
    sequence_length: int = 256
    accumulate: int = 1
    learning_rate: float = 2e-3
    warmup_steps: int = 40
    final_learning_rate: float = 0.1  # of the peak
    weight_decay: float = 0.1  # of matrices
    clip_norm: float = 1.0
    mtp_weight: float = 0.3  # λ, until LATE
    bias_step: float = 0.01  # γ
    bias_frozen: float = 0.1  # the last share of the steps, with γ = 0
    evaluate_every: int = 200
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check_plan(self, _AT_LEAST, _AT_MOST)

    def gamma(self, step: int) -> float:
        """γ of step 0 … steps − 1."""
        return self.bias_step if step < self.steps * (1 - self.bias_frozen) else 0.0

    def mtp_lambda(self, step: int) -> float:
        """λ of step 0 … steps − 1."""
        early = step < self.steps * LATE
        return self.mtp_weight if early else min(self.mtp_weight, LATE_MTP_WEIGHT)


_AT_LEAST = {
    "steps": 1,
    "batch_size": 1,
    "sequence_length": 1,
    "accumulate": 1,
    "warmup_steps": 0,
    "evaluate_every": 1,
    "checkpoint_every": 1,
    "seed": 0,
}
_AT_MOST = {
    "learning_rate": 1.0,
    "final_learning_rate": 1.0,
    "weight_decay": 1e3,
    "clip_norm": 1e9,
    "mtp_weight": 1e3,
    "bias_step": 1.0,
    "bias_frozen": 1.0,
}


def check_plan(plan: Any, at_least: dict[str, int], at_most: dict[str, float]) -> None:
    """InputError for a field that is no integer of at least … (below 2⁶³), or no number from 0
    to …"""
    for name, least in at_least.items():
        value = getattr(plan, name)
        if type(value) is not int or not least <= value < 2**63:
            raise InputError(
                f"{name}: got {shown(value)}, expected an integer of at least {least}"
            )
    for name, most in at_most.items():
        value = getattr(plan, name)
        if type(value) not in (int, float) or not 0 <= value <= most:  # false for NaN
            raise InputError(f"{name}: got {shown(value)}, expected a number from 0 to {most:g}")


class Training(Protocol):
    """What `fit` drives and a run's directory keeps: every stage's trainer, this file's first.

    plan: a frozen dataclass with steps and checkpoint_every; loader: gives a step its data, and has
    state_dict and load_state_dict; done: steps made.
    """

    model: DeepSeekV3
    plan: Any
    loader: Any
    parameters: dict[str, Parameter]
    optimiser: AdamW
    done: int
    tokens: int
    seconds: float

    def step(self) -> dict[str, Any]:
        """One update; its metrics."""
        ...

    def evaluations(self) -> dict[str, Any]:
        """The metrics of a held-out evaluation, where one is due."""
        ...


class Trainer:
    """A model, its text and its optimiser; `step()` is one update and returns its metrics.

    loader: batches; held_out: (M,) tokens for `evaluate`, may be None; moments:
    AdamW's. InputError for sequences longer than the model's positions.
    """

    def __init__(
        self,
        model: DeepSeekV3,
        loader: BatchLoader,
        plan: Plan,
        held_out: np.ndarray | None = None,
        moments: str | None = None,
    ) -> None:
        check_length(plan, model.config)
        self.model, self.loader, self.plan, self.held_out = model, loader, plan, held_out
        self.parameters = dict(model.named_parameters())
        self.optimiser = AdamW(
            self.parameters.values(),
            lr=plan.learning_rate,
            weight_decay=matrices_only(plan.weight_decay),
            moments=moments,
        )
        self.done = 0  # steps
        self.tokens = 0
        self.seconds = 0.0  # of training, over all processes that worked on this run

    def step(self) -> dict[str, Any]:
        """One update; the metrics of it. DivergedError if a loss or gradient is not finite."""
        plan, began = self.plan, time.perf_counter()
        self.optimiser.zero_grad()
        counts, parts = [], []
        batches = [self.loader.next_batch() for _ in range(plan.accumulate)]
        for ids in batches:
            losses = self.model.losses(ids, mtp_weight=plan.mtp_lambda(self.done))
            (losses.total * (1 / plan.accumulate)).backward()
            counts.append([routing.counts for routing in losses.routings])
            parts.append(_values(losses))
        norm = clip_grad_norm(self.parameters.values(), plan.clip_norm)
        metrics = _read(parts, norm)
        if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])):
            raise DivergedError(self._blame(batches, metrics))
        self.optimiser.lr = cosine_schedule(
            self.done, plan.steps, plan.learning_rate, plan.warmup_steps, plan.final_learning_rate
        )
        self.optimiser.step()
        loads: list[list[int]] = np.sum(counts, axis=0).tolist()  # a layer's tokens by expert
        self._balance(loads)
        tokens = sum(ids[:, 1:].size for ids in batches)
        elapsed = time.perf_counter() - began
        self.done += 1
        self.tokens += tokens
        self.seconds += elapsed
        return metrics | {
            "step": self.done,
            "seconds": round(self.seconds, 3),
            "tokens": self.tokens,
            "learning_rate": self.optimiser.lr,
            "tokens_per_second": round(tokens / elapsed, 1),
            "max_vio": [round(max_violation(c), 4) for c in loads],
            "dead_experts": [c.count(0) for c in loads],
            "expert_load": [[round(n / max(1, sum(c)), 5) for n in c] for c in loads],
        }

    def evaluate(self) -> float:
        """Bits per token of the held-out text (per byte for the byte tokenizer), each token once
        and with at least half a sequence before it."""
        if self.held_out is None:
            raise InputError("held_out: got None, expected the tokens of a held-out text")
        length, nats, count = self.plan.sequence_length, 0.0, 0
        for ids, mask in evaluation_windows(self.held_out, length, max(1, length // 2)):
            more, n = evaluate_loss(self.model, ids, mask)
            nats, count = nats + more, count + n
        return nats / count / math.log(2)

    def evaluations(self) -> dict[str, Any]:
        """Metrics of some steps only: bits_per_byte, every evaluate_every steps and at the end."""
        due = self.done == self.plan.steps or self.done % self.plan.evaluate_every == 0
        if self.held_out is None or not due:
            return {}
        return {"bits_per_byte": round(self.evaluate(), 5)}

    def _balance(self, loads: list[list[int]]) -> None:
        gamma = self.plan.gamma(self.done)
        if gamma:
            for router, counts in zip(self.model.routers, loads, strict=False):
                update_bias(router.e_score_correction_bias, counts, gamma)

    def _blame(self, batches: list[np.ndarray], metrics: dict[str, Any]) -> str:
        def again() -> None:
            for ids in batches:
                self.model.losses(ids, mtp_weight=self.plan.mtp_lambda(self.done))

        loss, norm = metrics["loss"], metrics["grad_norm"]
        return blame(self.done + 1, loss, norm, self.parameters, again)


def check_length(plan: Any, config: DeepSeekV3Config) -> None:
    """InputError for sequences longer than the positions that the model is made for."""
    if plan.sequence_length > config.max_position_embeddings:
        raise InputError(
            f"sequence_length: got {plan.sequence_length}, expected at most "
            f"max_position_embeddings = {config.max_position_embeddings}"
        )


def _values(losses: Losses) -> dict[str, list[Array]]:
    """The numbers under their names in metrics.jsonl, without their graph."""
    balance = [] if losses.balance is None else [losses.balance]
    named = {
        "loss": [losses.total],
        "main_loss": [losses.main],
        "mtp_loss": losses.mtp,
        "aux_loss": balance,
    }
    return {name: [t.data for t in tensors] for name, tensors in named.items()}


def _read(parts: list[dict[str, list[Array]]], norm: Any) -> dict[str, Any]:
    """The step's losses, averaged over its batches, and the gradient's norm, by one host read."""
    columns = {name: [a for part in parts for a in part[name]] for name in parts[0]}
    columns["grad_norm"] = [norm]
    arrays = [a for column in columns.values() for a in column]
    numbers = iter(to_host(xp_of(*arrays).stack(arrays)).tolist())
    means = {n: sum(next(numbers) for _ in c) / len(c) for n, c in columns.items() if c}
    return {"mtp_loss": None, "aux_loss": 0.0} | means


def fit(
    trainer: Training,
    record: Callable[[dict[str, Any]], None],
    save: Callable[[], object],
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Steps until plan.steps or should_stop(); True if the run is complete.

    record is given each step's metrics, with its evaluations where there were any; save is called
    every plan.checkpoint_every steps, at the end and when stopped.
    """
    plan = trainer.plan
    while trainer.done < plan.steps:
        metrics = trainer.step()
        record(metrics | trainer.evaluations())
        last, stop = trainer.done == plan.steps, should_stop()
        if last or stop or trainer.done % plan.checkpoint_every == 0:
            save()
        if stop:
            return last
    return True
