r"""Chapter 5 — Verifiable tasks: problems that a program poses and a program checks

Reinforcement learning needs a number for every response, its reward. R1-Zero gets it from rules
(R1, first version, §2.2.2):

    accuracy    is the final answer right? A box is compared, a program is compiled and tested
    format      is the thought between <think> and </think>?

and from no neural network: a learned judge can be fooled, a long run searches for the ways to do
it, and mending the judge means training it again. (R1's last stage does use reward models, for what
no rule can check: helpfulness and harmlessness.) The rule looks at the answer alone. No thought is
rewarded for itself, not even for being true: that is what makes the thoughts the model's own, and
it is also the limit of the method: a model whose checks are weak may learn to bluff instead.

    reward = 1 · accuracy + 0.1 · format

R1-Zero adds the two with equal weight (version 2). Here the form is learned in the cold start, and
a tenth is enough to keep it: tidy and wrong earns 0.1, tidy and right 1.1, and anything untidy 0,
because accuracy asks for the form as well. `answer_accuracy`, which does not, is for an experiment:
where a direct guess earns as much as a thought, does the model go on thinking?

The verifier is the weak place: whatever it accepts by mistake will be found and repeated. The ones
here compare words with words. Nothing is evaluated, no number is converted: an `eval` would accept
`1.5 * 2`, `2 ** 3` and `7 // 2`, and hang on `9 ** 9 ** 9`.

The split
---------
A problem is held out if crc32(prompt) mod 10 = 0. This depends on the prompt alone: every stage,
machine and run agrees on it without a file. A hash that is linear in the numbers will not do:
(1000003 a + 7919 b) mod 10 depends on the last digits only, and would keep ten of the hundred pairs
of last digits out of all training.

Words
-----
Text is words between spaces, one token each (`WordTokenizer`). In Countdown a number is one word:
whether 13 is 13 is then a comparison of two tokens, not of two rows of digits. 33 words serve both
tasks: five special tokens, 0 to 9, nine signs, 10 to 18.

A task of your own
------------------
needs a problem, a teacher who writes one response to it, and a verifier; 20 lines:

>>> class Chain(Task):
...     '''The last digit of a sum, added up from left to right.'''
...     name, max_prompt_tokens, max_new_tokens = "chain", 9, 24
...
...     def problem(self, rng):
...         digits = tuple(rng.integers(0, 10, 4).tolist())
...         return Problem(" + ".join(map(str, digits)) + " =", digits)
...
...     def demonstration(self, problem, rng):
...         total, *others = problem.facts
...         steps = []
...         for digit in others:
...             steps.append(f"{total} + {digit} = {(total + digit) % 10}")
...             total = (total + digit) % 10
...         return f"<think> {' , '.join(steps)} </think> {total}"
...
...     def verify(self, problem, answer):
...         return answer.split() == [str(sum(problem.facts) % 10)]
>>> chain, problem = Chain(), Problem("7 + 5 + 8 + 1 =", (7, 5, 8, 1))
>>> chain.demonstration(problem, None)
'<think> 7 + 5 = 2 , 2 + 8 = 0 , 0 + 1 = 1 </think> 1'
>>> texts = ["<think> 7 + 5 = 2 </think> 1", "<think> </think> 2", "1"]
>>> score(chain, [Completion(problem, text, ended=True) for text in texts])["reward"]
array([1.1, 0.1, 0. ])
>>> len(chain.held_out_problems()), chain.is_held_out(chain.draw(np.random.default_rng(0)))
(300, False)
"""

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from minideepseek.errors import InputError
from minideepseek.layers.module import DEFAULT_SEED
from minideepseek.model.tokenizer import WordTokenizer
from minideepseek.reasoning.thinking import BEGIN, END, Thought, parse_thinking

HELD_OUT_SAMPLE = 300  # problems to judge by, where there are too many to list
_MOST_DRAWS = 30_000  # a split that has not given one problem by then is taken to be empty


def vocabulary(largest: int = 18) -> list[str]:
    """The words of the tasks, by their ids, with the numbers from 0 to largest; 33 up to 18."""
    special = ["<pad>", "<bos>", "<eos>", "<think>", "</think>"]
    digits, more = range(10), range(10, largest + 1)
    return [*special, *map(str, digits), *"+-*=,>?!:", *map(str, more)]


@dataclass(frozen=True)
class Problem:
    """One problem. prompt: words between spaces; facts: what the verifier knows about it."""

    prompt: str
    facts: tuple


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt, without the end token; ended: that token was written."""

    problem: Problem
    text: str
    ended: bool

    @property
    def thought(self) -> Thought:
        """The text taken apart."""
        return parse_thinking(self.text, self.ended)


class Task(ABC):
    """Problems, a teacher and a verifier. Nothing here is random but through the generator given.

    name: for the command line; max_prompt_tokens: the beginning token and the longest prompt;
    max_new_tokens: the longest response that sampling allows, end token among it.
    """

    name: str
    max_prompt_tokens: int
    max_new_tokens: int
    tokenizer = WordTokenizer(vocabulary())

    @abstractmethod
    def problem(self, rng: np.random.Generator) -> Problem:
        """Any problem, whichever side of the split it is on."""

    @abstractmethod
    def demonstration(self, problem: Problem, rng: np.random.Generator) -> str:
        """The teacher's response, "<think> … </think> …", without the end token."""

    @abstractmethod
    def verify(self, problem: Problem, answer: str) -> bool:
        """Whether the answer is right: accepts every right one, nothing else, and never raises."""

    def read(self, prompt: str) -> Problem:
        """The problem that a prompt states, as a user types it. InputError if it states none.

        Unless a task says otherwise: none can be read.
        """
        raise InputError(f"prompt: {self.name} reads no problems, got {prompt!r}")

    def document(self, rng: np.random.Generator) -> str:
        """One document of pre-training text, without tokens around it; no held-out problem in it.

        Unless a task says otherwise: a problem and the teacher's response.
        """
        problem = self.draw(rng)
        return f"{problem.prompt} {self.demonstration(problem, rng)}"

    def skills(self) -> dict[str, list[tuple[str, str]]]:
        """What the base model must know, by name: (text, the only word that may follow it).

        Unless a task says otherwise: nothing.
        """
        return {}

    def is_held_out(self, problem: Problem) -> bool:
        """Whether the problem is for judging only: one in ten, by its prompt alone."""
        return zlib.crc32(problem.prompt.encode()) % 10 == 0

    def draw(self, rng: np.random.Generator, held_out: bool = False) -> Problem:
        """A problem to train on, or one that is held out. InputError if there seems to be none."""
        for _ in range(_MOST_DRAWS):
            problem = self.problem(rng)
            if self.is_held_out(problem) == held_out:
                return problem
        side = "held-out" if held_out else "training"
        raise InputError(f"{self.name}: no {side} problem in {_MOST_DRAWS:,} draws, expected some")

    def held_out_problems(self) -> list[Problem]:
        """Different held-out problems, always the same and in the same order; 300 at most."""
        rng = np.random.default_rng(DEFAULT_SEED)
        found: dict[Problem, None] = {}
        for _ in range(_MOST_DRAWS):
            problem = self.problem(rng)
            if self.is_held_out(problem):
                found[problem] = None
            if len(found) == HELD_OUT_SAMPLE:
                break
        return list(found)

    def prompt_ids(self, problem: Problem) -> np.ndarray:
        """(N,) int64: the beginning token, then the prompt's words."""
        words = self.tokenizer.encode(problem.prompt)
        return np.concatenate([[self.tokenizer.bos_token_id], words])

    def response_ids(self, text: str) -> np.ndarray:
        """(N,) int64: the words, special tokens by their names, then the end token.

        Raises InputError for a word outside the vocabulary.
        """
        words = self.tokenizer.encode(text, allow_special=True)
        return np.concatenate([words, [self.tokenizer.eos_token_id]])


@dataclass(frozen=True)
class Reward:
    """One term of the reward: weight · function(task, completion)."""

    name: str
    weight: float
    function: Callable[[Task, Completion], float]


def accuracy(task: Task, completion: Completion) -> float:
    """1 for a right answer in the right form, otherwise 0."""
    thought = completion.thought
    return float(thought.malformed is None and task.verify(completion.problem, thought.answer))


def format_reward(task: Task, completion: Completion) -> float:
    """1 for a response in the right form, whatever its answer, otherwise 0."""
    return float(completion.thought.malformed is None)


def answer_accuracy(task: Task, completion: Completion) -> float:
    """1 for a right answer, with a well-formed thought before it or with none, otherwise 0."""
    if BEGIN in completion.text or END in completion.text:
        return accuracy(task, completion)
    return float(completion.ended and task.verify(completion.problem, completion.text))


REWARDS = (Reward("accuracy", 1.0, accuracy), Reward("format", 0.1, format_reward))


def score(
    task: Task, completions: Sequence[Completion], rewards: Sequence[Reward] = REWARDS
) -> dict[str, np.ndarray]:
    """Each reward by its name, unweighted, and their weighted sum as "reward"; all (R,) float64.

    Raises InputError for rewards without distinct names and finite weights, and, naming the reward
    and the completion, where a function raises or returns something else than a finite number.
    """
    names = [reward.name for reward in rewards]
    if not names or len({*names, "reward"}) <= len(names):
        raise InputError(f'rewards: got the names {names}, expected different ones, not "reward"')
    for reward in rewards:
        if not math.isfinite(reward.weight):
            raise InputError(
                f"reward {reward.name!r}: got weight {reward.weight}, expected a finite number"
            )
    columns = {r.name: np.array([_value(r, task, c) for c in completions]) for r in rewards}
    total = sum((r.weight * columns[r.name] for r in rewards), np.zeros(len(completions)))
    return {**columns, "reward": total}


def _value(reward: Reward, task: Task, completion: Completion) -> float:
    try:
        value = float(reward.function(task, completion))
    except Exception as error:  # a user's function: whatever it is, say where
        found = f"raised {type(error).__name__} ({error})"
    else:
        if math.isfinite(value):
            return value
        found = f"returned {value}"
    raise InputError(
        f"reward {reward.name!r}: {found}, expected a finite number, for the completion "
        f"{completion.text!r} of {completion.problem.prompt!r}"
    )
