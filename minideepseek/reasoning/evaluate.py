r"""Chapter 5 — How well does it reason? Four measures, on problems it was never trained on

A model is a distribution over responses, so "how many problems does it solve" is several questions:

    accuracy      the share of responses that are right, sampled at temperature 1: what RL optimises
    greedy        the most probable token each time: one response a problem, no chance involved
    pass@k        the share of problems of which at least one of k sampled responses is right
    majority      the share of problems whose most frequent answer is right (self-consistency,
                  Wang et al. 2022, arXiv 2203.11171)

A response is right if its form is strict and its answer verified. pass@k says what lies within the
model's reach, accuracy what it does by itself. Reinforcement learning mostly turns the first into
the second (Yue et al. 2025, arXiv 2504.13837): before it pass@8 is high and accuracy low, after it
both are high. Where pass@8 is low there is little to begin with.

pass@k without bias
-------------------
Of n samples of a problem c are right. Drawing k of the n without putting back misses every right
one with probability C(n−c, k) / C(n, k), so (Chen et al. 2021, arXiv 2107.03374)

    pass@k = 1 − C(n−c, k) / C(n, k) ,     and pass@1 = c / n .

The plug-in 1 − (1 − c/n)ᵏ has expectation below the truth, by Jensen: it is concave in c/n.
Python's integers are exact, so no product in floating point is needed:

>>> pass_at_k(8, 2, 4)  # 1 − 15/70
0.7857142857142857
>>> majority_vote(["8 + 5", None, "5 + 8", "8 + 5"])
'8 + 5'

An answer is its text: "8 + 5" and "5 + 8" are two answers to a vote, though both are right.

How sure
--------
Samples of one problem are alike, so they are no independent draws. The standard error is that of
a mean over problems, of P problems with the accuracies aⱼ: √(Σ (aⱼ − mean a)² / (P − 1) / P).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from minideepseek.errors import InputError
from minideepseek.layers.module import DEFAULT_SEED
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning.grpo.sampler import GroupSampler
from minideepseek.reasoning.tasks import Completion, Problem, Task, accuracy
from minideepseek.reasoning.thinking import BEGIN

ROWS = 256  # decoded at once
SHOWN = 4  # problems whose first response is kept to be read


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that k of n samples, of which c are right, hold a right one; in [0, 1].

    InputError unless 0 ≤ c ≤ n and 1 ≤ k ≤ n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise InputError(f"n, c, k: got {n}, {c}, {k}, expected 0 ≤ c ≤ n and 1 ≤ k ≤ n")
    draws = math.comb(n, k)
    return (draws - math.comb(n - c, k)) / draws  # of integers: rounded once, never too large


def majority_vote(answers: Sequence[str | None]) -> str | None:
    """The most frequent answer, of equally frequent ones the first to come; None has no vote.

    None where nobody votes.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    return max(votes, key=lambda answer: votes[answer], default=None)  # first seen, first kept


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured. Shares lie in [0, 1]; lengths are tokens, the end token included.

    accuracy and its standard_error (NaN for one problem), pass_at, majority, format (well-formed
    responses), thinks (those with a think block), length and truncated (those that the token limit
    cut off) are of the samples at `temperature`; greedy is None where it was not asked for.
    statistics: what the function given to `evaluate` counts in the samples.
    shown: the first sample of each of the first problems.
    """

    problems: int
    samples: int
    temperature: float
    accuracy: float
    standard_error: float
    greedy: float | None
    pass_at: dict[int, float]
    majority: float
    format: float
    thinks: float
    length: float
    truncated: float
    statistics: dict[str, float]
    shown: tuple[Completion, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: NaN as None, keys of pass_at as text, `shown` as {prompt, text, ended}."""
        facts = {**asdict(self), "pass_at": {str(k): v for k, v in self.pass_at.items()}}
        for numbers in (facts, facts["statistics"]):
            for key, value in numbers.items():
                if isinstance(value, float) and math.isnan(value):
                    numbers[key] = None
        facts["shown"] = [
            {"prompt": one.problem.prompt, "text": one.text, "ended": one.ended}
            for one in self.shown
        ]
        return facts


def evaluate(
    model: DeepSeekV3,
    task: Task,
    problems: Sequence[Problem],
    samples: int = 8,
    temperature: float = 1.0,
    top_p: float = 1.0,
    rng: np.random.Generator | None = None,
    greedy: bool = True,
    max_new_tokens: int | None = None,
    statistics: Callable[[Sequence[Completion]], dict[str, float]] | None = None,
) -> Evaluation:
    """Respond to every problem `samples` times at `temperature`, once greedily if asked.

    rng: None makes one from seed 2024. max_new_tokens: None is the task's. A response is right if
    `tasks.accuracy` says so: its format is strict and the verifier accepts it. statistics: counts
    what else there is in the samples, such as `countdown_statistics.search_statistics`. InputError
    for no problems, samples outside 1 … 256, or what GroupSampler refuses.
    """
    if not problems:
        raise InputError("problems: got none, expected at least one")
    if not 1 <= samples <= ROWS:
        raise InputError(f"samples: got {samples}, expected 1 to {ROWS}")
    limit = task.max_new_tokens if max_new_tokens is None else max_new_tokens
    rng = np.random.default_rng(DEFAULT_SEED) if rng is None else rng
    sampler = GroupSampler(model, task.tokenizer, samples, limit, temperature, top_p=top_p)
    groups, lengths = complete(sampler, task, problems, rng)
    alone = None
    if greedy:
        sampler = GroupSampler(model, task.tokenizer, 1, limit, temperature=0.0)
        alone = float(np.mean(_right(task, complete(sampler, task, problems, rng)[0])))
    counted = statistics([one for group in groups for one in group]) if statistics else {}
    return _measure(task, groups, lengths, temperature, alone, counted)


def complete(
    sampler: GroupSampler, task: Task, problems: Sequence[Problem], rng: np.random.Generator
) -> tuple[list[list[Completion]], np.ndarray]:
    """A group of completions for each problem, and their lengths in tokens (P, G).

    Decoded in batches of at most 256 rows.
    """
    size = sampler.group_size
    groups, lengths = [], []
    step = max(1, ROWS // size)
    for start in range(0, len(problems), step):
        part = problems[start : start + step]
        rollout = sampler.sample([task.prompt_ids(problem) for problem in part], rng)
        texts = rollout.completions(task.tokenizer)
        for i, problem in enumerate(part):
            rows = texts[i * size : (i + 1) * size]
            groups.append([Completion(problem, text, ended) for text, ended in rows])
        lengths.append(rollout.mask.sum(-1))
    return groups, np.concatenate(lengths).reshape(len(problems), size)


def _right(task: Task, groups: list[list[Completion]]) -> np.ndarray:
    """(P, G) floats, 1 where the response is right."""
    return np.array([[accuracy(task, one) for one in group] for group in groups])


def _majority_is_right(task: Task, group: list[Completion]) -> bool:
    thoughts = [one.thought for one in group]
    vote = majority_vote([t.answer if t.malformed is None else None for t in thoughts])
    return vote is not None and task.verify(group[0].problem, vote)


def _measure(
    task: Task,
    groups: list[list[Completion]],
    lengths: np.ndarray,
    temperature: float,
    greedy: float | None,
    statistics: dict[str, float],
) -> Evaluation:
    right = _right(task, groups)
    problems, n = right.shape
    counts = right.sum(1).astype(int).tolist()
    ks = [2**i for i in range(n.bit_length())]
    every = [one for group in groups for one in group]
    spread = float(right.mean(1).std(ddof=1)) if problems > 1 else math.nan
    return Evaluation(
        problems=problems,
        samples=n,
        temperature=temperature,
        accuracy=float(right.mean()),
        standard_error=spread / math.sqrt(problems),
        greedy=greedy,
        pass_at={k: float(np.mean([pass_at_k(n, c, k) for c in counts])) for k in ks},
        majority=float(np.mean([_majority_is_right(task, group) for group in groups])),
        format=float(np.mean([one.thought.malformed is None for one in every])),
        thinks=float(np.mean([BEGIN in one.text for one in every])),
        length=float(lengths.mean()),
        truncated=float(np.mean([not one.ended for one in every])),
        statistics=statistics,
        shown=tuple(group[0] for group in groups[:SHOWN]),
    )
