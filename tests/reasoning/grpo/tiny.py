"""A GRPO run that takes no time: eight words, answers of up to six, rewards that need no skill."""

import copy
import dataclasses
import zlib

import numpy as np

from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning.grpo.plan import GRPOPlan
from minideepseek.reasoning.grpo.trainer import GRPOTrainer
from minideepseek.reasoning.tasks import Completion, Problem, Reward, Task
from tests.reasoning.grpo.common import VOCAB, WORDS

# A step of this takes about 30 ms.
PLAN = GRPOPlan(
    steps=6, prompts_per_step=3, group_size=4, minibatches=2, micro_rows=4, learning_rate=1e-2,
    warmup_steps=2, evaluate_every=2, checkpoint_every=2,
)  # fmt: skip
CLOCK = ("seconds", "sample_seconds", "train_seconds")
CLOCK += ("sample_tokens_per_second", "train_tokens_per_second")


class Copy(Task):
    """`4 +` → begin with the first word."""

    name, max_prompt_tokens, max_new_tokens = "copy", 3, 6
    tokenizer = WORDS

    def problem(self, rng):
        words = [("4", "+", "11")[i] for i in rng.integers(0, 3, rng.integers(1, 3))]
        return Problem(" ".join(words), tuple(words))

    def demonstration(self, problem, rng):
        return f"<think> {problem.facts[0]} </think> {problem.facts[0]}"

    def verify(self, problem, answer):
        return answer.split() == [problem.facts[0]]


COPY = Copy()
PROBLEMS = [Problem(word, (word,)) for word in ("4", "+", "11")]
# Of no use, and different for nearly all texts: every group teaches something.
LUCK = Reward("luck", 1.0, lambda task, c: zlib.crc32(c.text.encode()) % 97 / 97)
FIRST = Reward("first", 1.0, lambda task, c: c.text.split()[:1] == [c.problem.facts[0]])


def always(value):
    """A reward that is the same for all."""
    return Reward("always", 1.0, lambda task, c: value)


def model(seed: int = 0, dtype: str = "float64", **config) -> DeepSeekV3:
    """The nano preset with eight words, undecided but not indifferent."""
    fields = {"pad_token_id": WORDS.pad_token_id, "bos_token_id": WORDS.bos_token_id}
    fields |= {"eos_token_id": WORDS.eos_token_id, "vocab_size": VOCAB, "initializer_range": 0.2}
    config = DeepSeekV3Config.preset("nano", **fields | config)
    return DeepSeekV3(config, np.random.default_rng(seed), dtype)


def trainer(
    plan: GRPOPlan = PLAN, rewards=(LUCK,), problems=(), dtype="float64", device="cpu", **config
) -> GRPOTrainer:
    """A fresh trainer: the same one whenever the arguments are."""
    policy = model(plan.seed, dtype, **config).to(device)
    return GRPOTrainer(policy, COPY, plan, rewards, problems)


def untimed(metrics: dict) -> dict:
    """A step's metrics without what depends on the clock."""
    return {name: value for name, value in metrics.items() if name not in CLOCK}


def weights(model: DeepSeekV3) -> dict[str, np.ndarray]:
    """A copy of all weights and buffers, by name."""
    return {name: array.copy() for name, array in model.state_dict().items()}


def same(one: dict, other: dict) -> bool:
    """Whether two models' weights are equal bit for bit."""
    return all((array == other[name]).all() for name, array in one.items())


def changed(**fields) -> GRPOPlan:
    """PLAN with other numbers."""
    return dataclasses.replace(PLAN, **fields)


class Kept:
    """Keeps a trainer's rollouts, the rewards by group, and the generator after sampling."""

    def __init__(self, trainer):
        self.trainer, self.sample, self.judge = trainer, trainer.sampler.sample, trainer._judge
        trainer.sampler.sample, trainer._judge = self.sampled, self.judged

    def sampled(self, prompts, rng, record_routing=False):
        self.prompts, self.recorded = prompts, record_routing
        self.rollout = self.sample(prompts, rng, record_routing)
        self.rng = copy.deepcopy(rng)
        return self.rollout

    def judged(self, problems, rollout):
        self.problems = problems
        metrics, advantages = self.judge(problems, rollout)
        size, texts = self.trainer.plan.group_size, rollout.completions(COPY.tokenizer)
        asked = [problem for problem in problems for _ in range(size)]
        self.rewards = np.zeros((len(problems), size))
        for i, (problem, (text, ended)) in enumerate(zip(asked, texts, strict=True)):
            one = Completion(problem, text, ended)
            for reward in self.trainer.rewards:
                self.rewards[divmod(i, size)] += reward.weight * reward.function(COPY, one)
        return metrics, advantages
