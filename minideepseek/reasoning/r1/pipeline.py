r"""Chapter 5 — From V3 to R1: four stages, R1-Zero beside them, and distillation

R1-Zero is reinforcement learning (RL) straight from the base model, V3-Base, with no supervised
fine-tuning (SFT) at all. Its answers are right more and more often (AIME 2024: 15.6 % → 77.9 %) and
its thoughts longer and longer, but hard to read and of mixed languages. R1 begins at the same base
and reaches thoughts that can be read, in four stages (R1, version 2, §2–3 and appendix B); Dev1 to
Dev3 are the models between them:

    stage                    R1                                     here
    1  cold start            SFT of V3-Base on thousands of long    SFT of the base on a teacher's
                             thoughts of R1-Zero's, filtered        demonstrations, fresh ones in
                             and refined → Dev1                     every step
    2  reasoning RL          GRPO with rule-based rewards, 16       GRPO with the rewards of
                             samples for each of 32 questions,      `tasks`, 16 samples for each
                             accuracy, format, language → Dev2      problem
    3  rejection sampling    ~600,000 right, readable samples       right and well-formed samples
       and SFT               and ~200,000 of other kinds, SFT       of stage 2, SFT from the base
                             *from V3-Base* again → Dev3            again
    4  RL again              all scenarios, with reward models      GRPO again; no other judge is
                             for what no rule can check → R1        needed than the rules

Why back to the base in stage 3? One reading: the samples carry what RL found, and a model that
starts afresh takes on that, not the traces of how it was found. What needed rewards to be found is
ordinary text by now, and can be imitated.

R1-Zero here is stage 2 alone, on a base whose pre-training text held some thoughts. `minideepseek
journey` runs stages 1 and 2 with the numbers of `recipe.py`; `python -m demos.r1_pipeline` runs all
four, R1-Zero and distillation.

Distillation gives those same samples to a smaller model: R1's 800,000 to dense models of 1.5 to 70
billion parameters, 2–3 epochs of SFT and no RL. The question it answers is whether a small model
had better find out for itself or be told; here both can be run, at equal compute.

    here      `SampleSet(accepted.samples, …)` is the source, a model with fewer layers the student

Rejection sampling
------------------
Draw G responses to each problem, keep those which the rules call right and well-formed, each text
once and at most a few per problem: an easy problem, or one on which the policy has settled, would
fill the set otherwise. What is kept are the sampled ids; decoding and encoding them again could
give others. A problem that is held out is refused, for everything accepted here is trained on.

Before those two limits the share that is kept is on average the accuracy p of the policy π (the
model, as a distribution over responses o to the question q), and what is kept comes from π given
success, π(o|q) 1[o right] / p. Imitating it is one step of improvement that needs no wrong sample
and none of GRPO's machinery. A problem that π never solves gives nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minideepseek.errors import InputError
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning.grpo.sampler import GroupSampler
from minideepseek.reasoning.r1.sources import Sample
from minideepseek.reasoning.tasks import Completion, Problem, Task, score

ROWS = 256  # sampled at once, about


@dataclass(frozen=True)
class Accepted:
    """What rejection sampling kept: samples (prompt, response) to train on, and their texts.

    sampled: completions drawn; right: how many of them were right and well-formed, before
    duplicates and more than per_problem were left out.
    """

    samples: list[Sample]
    completions: list[Completion]
    sampled: int
    right: int


def rejection_sample(
    model: DeepSeekV3,
    task: Task,
    problems: Sequence[Problem],
    rng: np.random.Generator,
    group_size: int = 16,
    per_problem: int = 4,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Accepted:
    """Right and well-formed responses of `model`, in the order of `problems`, each once.

    group_size: responses drawn to each problem; per_problem: the most that are kept of one, however
    often it is listed. InputError for no problem, one that is held out, counts below 1, and as the
    sampler.
    """
    for name, count in (("group_size", group_size), ("per_problem", per_problem)):
        if type(count) is not int or count < 1:
            raise InputError(f"{name}: got {count!r}, expected an integer of at least 1")
    if not problems:
        raise InputError("problems: got none, expected at least one")
    for problem in problems:
        if task.is_held_out(problem):
            raise InputError(
                f"problems: {problem.prompt!r} is held out, expected problems to train on"
            )
    sampler = GroupSampler(
        model, task.tokenizer, group_size, task.max_new_tokens, temperature, top_p=top_p
    )
    kept: dict[tuple[str, str], tuple[Sample, Completion]] = {}
    of_problem: dict[str, int] = {}
    right, at_once = 0, max(1, ROWS // group_size)
    for start in range(0, len(problems), at_once):
        for sample, completion in _right(sampler, task, problems[start : start + at_once], rng):
            right += 1
            prompt = completion.problem.prompt
            key, many = (prompt, completion.text), of_problem.get(prompt, 0)
            if key not in kept and many < per_problem:
                kept[key] = (sample, completion)
                of_problem[prompt] = many + 1
    samples, completions = [s for s, _ in kept.values()], [c for _, c in kept.values()]
    return Accepted(samples, completions, len(problems) * group_size, right)


def _right(
    sampler: GroupSampler, task: Task, problems: Sequence[Problem], rng: np.random.Generator
) -> list[tuple[Sample, Completion]]:
    """One batch's right and well-formed responses."""
    rollout = sampler.sample([task.prompt_ids(problem) for problem in problems], rng)
    completions = [
        Completion(problems[row // sampler.group_size], text, ended)
        for row, (text, ended) in enumerate(rollout.completions(task.tokenizer))
    ]
    rewards = score(task, completions)
    found = []
    for row in np.flatnonzero((rewards["accuracy"] == 1) & (rewards["format"] == 1)):
        begin, end = rollout.prompt_lengths[row], rollout.lengths[row]
        ids = rollout.ids[row]
        found.append(((ids[:begin].copy(), ids[begin:end].copy()), completions[row]))
    return found
