"""A task that a model of 30,000 parameters learns in a second, and what is trained on it."""

import dataclasses

import numpy as np

from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning.r1.sft import SFTPlan, SFTTrainer
from minideepseek.reasoning.r1.sources import Demonstrations, SampleSet
from minideepseek.reasoning.tasks import Problem, Task

PLAN = SFTPlan(
    steps=6, samples_per_step=4, sequence_length=24, learning_rate=3e-3, warmup_steps=2,
    bias_step=0.02, checkpoint_every=2,
)  # fmt: skip
# Enough to learn `Echo`, in about a second.
LEARNING = dataclasses.replace(
    PLAN, steps=150, samples_per_step=32, sequence_length=64, learning_rate=5e-3
)


class Echo(Task):
    """`3 4 :` → think of both numbers, answer with the first."""

    name, max_prompt_tokens, max_new_tokens = "echo", 4, 8

    def problem(self, rng):
        a, b = rng.integers(0, 10, 2).tolist()
        return Problem(f"{a} {b} :", (a, b))

    def demonstration(self, problem, rng):
        a, b = problem.facts
        thought = f"{a} {b}" if rng.random() < 0.5 else f"{a}"
        return f"<think> {thought} </think> {a}"

    def verify(self, problem, answer):
        return answer.split() == [str(problem.facts[0])]


ECHO = Echo()


def model(seed: int = 0, dtype: str = "float32", **config) -> DeepSeekV3:
    """The nano preset with the tasks' vocabulary."""
    fields = {"vocab_size": 33, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | config
    return DeepSeekV3(DeepSeekV3Config.preset("nano", **fields), np.random.default_rng(seed), dtype)


def samples(count: int, seed: int = 0):
    return Demonstrations(ECHO, count, np.random.default_rng(seed)).next_batch()


def trainer(plan: SFTPlan = PLAN, fixed: bool = False, **config) -> SFTTrainer:
    """A fresh trainer: the same one whenever the arguments are; fixed: epochs over ten samples."""
    rng = np.random.default_rng(plan.seed)
    source = Demonstrations(ECHO, plan.samples_per_step, rng)
    if fixed:
        source = SampleSet(samples(10), plan.samples_per_step, rng)
    return SFTTrainer(model(plan.seed, **config), source, plan)
