r"""The training loop: what one step does, what is measured, and how a run survives being killed.

One step
--------
    1  losses of `accumulate` batches, backward after each, gradients averaged
    2  one host read: the losses and the gradient's norm. NaN or Inf stops here, before any weight
       is touched, and names the step and the first tensor that went bad
    3  gradients clipped to a global norm of 1, one AdamW step at the scheduled learning rate
    4  the routers' biases move by γ against the loads of this very step (chapter 3)

γ is V3's knob for balance. It used 0.001 over millions of steps; a bias must travel 0.5 to 0.75 to
balance a router, so a run of a few hundred steps needs γ · steps ≥ 4. Towards the end it is set to
0, as V3 did for its last tokens, so that the model ends under a fixed routing.

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
from typing import Any

import numpy as np

from minideepseek.autograd.backend import to_host
from minideepseek.autograd.engine import is_finite, watch
from minideepseek.errors import DivergedError, InputError
from minideepseek.layers.moe import max_violation, update_bias
from minideepseek.model.transformer import DeepSeekV3, Losses, evaluate_loss
from minideepseek.training.data import BatchLoader, evaluation_windows
from minideepseek.training.optim import AdamW, clip_grad_norm, cosine_schedule, matrices_only


@dataclass(frozen=True)
class Plan:
    """The numbers of a run. Rates are per step, lengths in tokens, γ = bias_step."""

    steps: int = 300
    batch_size: int = 16
    sequence_length: int = 256
    accumulate: int = 1
    learning_rate: float = 3e-3
    warmup_steps: int = 20
    final_learning_rate: float = 0.1  # of the peak
    weight_decay: float = 0.1  # of matrices
    clip_norm: float = 1.0
    mtp_weight: float = 0.3  # λ
    bias_step: float = 0.02  # γ
    bias_frozen: float = 0.1  # the last share of the steps, with γ = 0
    evaluate_every: int = 50
    checkpoint_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "sequence_length", "accumulate", "evaluate_every"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise InputError(f"{name}: got {getattr(self, name)!r}, expected an integer ≥ 1")
        if not 0 < self.learning_rate < 1:
            raise InputError(f"learning_rate: got {self.learning_rate}, expected between 0 and 1")

    def gamma(self, step: int) -> float:
        """γ of step 0 … steps − 1."""
        return self.bias_step if step < self.steps * (1 - self.bias_frozen) else 0.0


class Trainer:
    """A model, its text and its optimiser; `step()` is one update and returns its metrics.

    loader: batches; held_out: (M,) tokens for `evaluate`, may be None.
    """

    def __init__(
        self,
        model: DeepSeekV3,
        loader: BatchLoader,
        plan: Plan,
        held_out: np.ndarray | None = None,
    ) -> None:
        self.model, self.loader, self.plan, self.held_out = model, loader, plan, held_out
        self.parameters = dict(model.named_parameters())
        self.optimiser = AdamW(
            self.parameters.values(),
            lr=plan.learning_rate,
            weight_decay=matrices_only(plan.weight_decay),
        )
        self.done = 0  # steps
        self.tokens = 0
        self.seconds = 0.0  # of training, over all processes that worked on this run

    def step(self) -> dict[str, Any]:
        """One update; the metrics of it. DivergedError if a loss or gradient is not finite."""
        plan, began = self.plan, time.perf_counter()
        self.optimiser.zero_grad()
        loads: list[np.ndarray] = []
        parts: list[Losses] = []
        for _ in range(plan.accumulate):
            ids = self.loader.next_batch()
            losses = self.model.losses(ids, mtp_weight=plan.mtp_weight)
            (losses.total * (1 / plan.accumulate)).backward()
            counts = np.array([routing.counts for routing in losses.routings])
            loads = [counts] if not loads else [loads[0] + counts]
            parts.append(_values_only(losses))
            self.tokens += ids[:, 1:].size
        norm = clip_grad_norm(self.parameters.values(), plan.clip_norm)
        metrics = self._read(parts, norm)
        if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])):
            raise DivergedError(self._blame(ids, metrics))
        self.optimiser.lr = cosine_schedule(
            self.done, plan.steps, plan.learning_rate, plan.warmup_steps, plan.final_learning_rate
        )
        self.optimiser.step()
        self._balance(loads[0].tolist())
        self.done += 1
        elapsed = time.perf_counter() - began
        self.seconds += elapsed
        return metrics | {
            "step": self.done,
            "seconds": round(self.seconds, 3),
            "tokens": self.tokens,
            "learning_rate": self.optimiser.lr,
            "tokens_per_second": round(ids[:, 1:].size * plan.accumulate / elapsed, 1),
            "max_vio": [round(max_violation(c), 4) for c in loads[0].tolist()],
            "dead_experts": [int((c == 0).sum()) for c in loads[0]],
            "expert_load": [(c / max(1, c.sum())).round(5).tolist() for c in loads[0]],
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

    def _read(self, parts: list[Losses], norm: Any) -> dict[str, Any]:
        """The step's losses, averaged over its batches, and the gradient's norm, as numbers."""

        def mean(values: list) -> float | None:
            values = [float(to_host(v)) for v in values if v is not None]
            return sum(values) / len(values) if values else None

        return {
            "loss": mean([p.total.data for p in parts]),
            "main_loss": mean([p.main.data for p in parts]),
            "mtp_loss": mean([m.data for p in parts for m in p.mtp]),
            "aux_loss": mean([None if p.balance is None else p.balance.data for p in parts]),
            "grad_norm": float(norm),
        }

    def _balance(self, loads: list[list[int]]) -> None:
        gamma = self.plan.gamma(self.done)
        if gamma:
            for router, counts in zip(self.model.routers, loads, strict=False):
                update_bias(router.e_score_correction_bias, counts, gamma)

    def _blame(self, ids: np.ndarray, metrics: dict[str, Any]) -> str:
        """One sentence that names the step and the first tensor that is not finite."""
        where = f"step {self.done + 1}: the loss is {metrics['loss']}"
        if math.isfinite(metrics["loss"]):
            where = f"step {self.done + 1}: the gradient's norm is {metrics['grad_norm']}"
        for name, parameter in self.parameters.items():
            if not is_finite(parameter.data):
                return f"{where}; the first bad tensor is the parameter {name}"
        found: list[str] = []

        def look(name: str, array: Any) -> None:
            if not found and array.dtype.kind == "f" and not is_finite(array):
                found.append(f"{where}; the first bad tensor is an output of {name}, {array.shape}")

        with watch(look):
            self.model.losses(ids, mtp_weight=self.plan.mtp_weight)
        for name, parameter in self.parameters.items():
            if not found and parameter.grad is not None and not is_finite(parameter.grad):
                return f"{where}; the first bad tensor is the gradient of {name}"
        return found[0] if found else where


def _values_only(losses: Losses) -> Losses:
    """The numbers without their graph."""
    return Losses(
        losses.total.detach(),
        losses.main.detach(),
        [m.detach() for m in losses.mtp],
        None if losses.balance is None else losses.balance.detach(),
        [],
    )


def fit(
    trainer: Trainer,
    record: Callable[[dict[str, Any]], None],
    save: Callable[[], object],
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Steps until plan.steps or should_stop(); True if the run is complete.

    record is given each step's metrics, with bits_per_byte where it was evaluated; save is called
    every plan.checkpoint_every steps, at the end and when stopped.
    """
    plan = trainer.plan
    while trainer.done < plan.steps:
        metrics = trainer.step()
        last = trainer.done == plan.steps
        if trainer.held_out is not None and (last or trainer.done % plan.evaluate_every == 0):
            metrics["bits_per_byte"] = round(trainer.evaluate(), 5)
        record(metrics)
        stop = should_stop()
        if last or stop or trainer.done % plan.checkpoint_every == 0:
            save()
        if stop:
            return last
    return True
