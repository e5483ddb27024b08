"""Chapter 5 — Where fine-tuning gets its samples: fresh from a teacher, or from a fixed set

Both give a list of pairs (prompt, response) per step and can be saved between two steps, so that a
run goes on after a kill with the samples that would have come.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from minideepseek.errors import CheckpointError, InputError
from minideepseek.reasoning.tasks import Task
from minideepseek.training.data import restore_generator

Sample = tuple[np.ndarray, np.ndarray]  # ids (N,) of a prompt and of the response to it


class Source(Protocol):
    """Samples, and the place where it stands."""

    def next_batch(self) -> list[Sample]:
        """The samples of one step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, for a checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand there again."""
        ...


class Demonstrations:
    """Training problems of `task` with its teacher's responses, none kept: the cold start's source.

    rng belongs to the source from now on. InputError for a count below 1 and for a generator whose
    state JSON could not hold.
    """

    def __init__(self, task: Task, samples_per_step: int, rng: np.random.Generator) -> None:
        _check(samples_per_step, rng)
        self.task, self.samples_per_step, self._rng = task, samples_per_step, rng

    def next_batch(self) -> list[Sample]:
        """samples_per_step new samples."""
        return [self._sample() for _ in range(self.samples_per_step)]

    def _sample(self) -> Sample:
        problem = self.task.draw(self._rng)
        response = self.task.demonstration(problem, self._rng)
        return self.task.prompt_ids(problem), self.task.response_ids(response)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs, in numbers and names that JSON can hold."""
        return {"task": self.task.name, "rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken. CheckpointError for another task or no such state;
        the source is then as it was."""
        if not isinstance(state, dict) or state.get("task") != self.task.name:
            raise CheckpointError(f"source state: not one of demonstrations of {self.task.name}")
        _set_state(self._rng, state.get("rng"))


class SampleSet:
    """A fixed set, each sample once an epoch in an order drawn anew: what was accepted by rejection
    sampling, or a teacher's responses to be distilled.

    rng belongs to the source from now on. InputError for an empty set, and as `Demonstrations`.
    """

    def __init__(
        self, samples: Sequence[Sample], samples_per_step: int, rng: np.random.Generator
    ) -> None:
        _check(samples_per_step, rng)
        if not len(samples):
            raise InputError("samples: got none, expected at least one")
        self.samples, self.samples_per_step, self._rng = list(samples), samples_per_step, rng
        self.epoch = 0
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._epoch_rng = self._rng.bit_generator.state
        self._order = self._rng.permutation(len(self.samples)).tolist()
        self._given = 0  # samples of this epoch

    def next_batch(self) -> list[Sample]:
        """The next samples_per_step; a step may reach into the next epoch."""
        batch: list[Sample] = []
        while len(batch) < self.samples_per_step:
            if self._given == len(self.samples):
                self.epoch += 1
                self._begin_epoch()
            end = self._given + self.samples_per_step - len(batch)
            batch += [self.samples[i] for i in self._order[self._given : end]]
            self._given = min(end, len(self.samples))
        return batch

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs, in numbers and names that JSON can hold."""
        return {
            "samples": len(self.samples),
            "epoch": self.epoch,
            "given": self._given,
            "rng": self._epoch_rng,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken. CheckpointError for a set of another size or no such
        state; the source is then as it was."""
        held = state if isinstance(state, dict) else {}
        numbers = [held.get(name) for name in ("samples", "epoch", "given")]
        if not all(type(n) is int and n >= 0 for n in numbers):
            raise CheckpointError("source state: not one that state_dict made")
        size, epoch, given = held["samples"], held["epoch"], held["given"]
        if size != len(self.samples) or given > size:
            raise CheckpointError(
                f"source state: at sample {given} of {size}, expected a set of {len(self.samples)}"
            )
        _set_state(self._rng, held.get("rng"))
        self._begin_epoch()
        self.epoch, self._given = epoch, given


def _check(samples_per_step: int, rng: np.random.Generator) -> None:
    if type(samples_per_step) is not int or samples_per_step < 1:
        raise InputError(
            f"samples_per_step: got {samples_per_step!r}, expected an integer of at least 1"
        )
    if not isinstance(rng, np.random.Generator) or not isinstance(
        rng.bit_generator, np.random.PCG64
    ):
        raise InputError(f"rng: got {rng!r:.40}, expected a generator of default_rng's kind, PCG64")


def _set_state(rng: np.random.Generator, state: Any) -> None:
    """Put rng there, or CheckpointError."""
    try:
        restore_generator(rng, state)
    except CheckpointError:
        raise CheckpointError("source state: holds no state of a PCG64 generator") from None
