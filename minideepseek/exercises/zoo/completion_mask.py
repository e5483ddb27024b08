r"""The model that learns the question  ★★  8 minutes

Reinforcement learning raises the rewards, slowly. Asked to go on with half a question, the model
now recites questions of the training set. With longer questions learning is slower still, though
the answers are as long as before; and a wrong answer makes its question less likely.

In the wild: padding was left out of the loss with care, and nothing else was.
"""

import numpy as np


def completion_mask(prompt_lengths, lengths, width):
    """Which targets count in the loss, floats (rows, width − 1): 1 on the completion, else 0.

    A row of `width` tokens: prompt_lengths[i] of the prompt, up to lengths[i] the completion with
    its end token, padding behind. Column t judges the target ids[:, 1:][:, t], the token at t + 1.
    """
    target = np.arange(1, width)
    return (target < lengths[:, None]).astype(float)


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import properties
from minideepseek.reasoning.grpo.sampler import Rollout
from minideepseek.reasoning.r1.sft import pack_samples


def _of_the_library(pack):
    def completion_mask(prompt_lengths, lengths, width):
        mask = np.zeros((len(lengths), width - 1))
        for row, prompt, end in zip(mask, prompt_lengths, lengths, strict=True):
            ids = np.arange(end)
            row[: end - 1] = pack([(ids[:prompt], ids[prompt:])], width, 0).weights[0]
        return mask

    return completion_mask


_ROWS = np.array([2, 4, 1]), np.array([5, 7, 3]), 7


def _at(kind, wanted):
    """The property that targets of one kind are judged as they must be."""

    def holds(completion_mask):
        prompts, lengths, width = _ROWS
        mask = completion_mask(prompts.copy(), lengths.copy(), width)
        for i, t in np.ndindex(mask.shape):
            prompt, end = prompts[i], lengths[i]
            is_a = "padding" if t + 1 >= end else "prompt" if t + 1 < prompt else "completion"
            if is_a == kind and mask[i, t] != wanted:
                return (
                    f"row of {prompt} prompt tokens and {end - prompt} of a completion: token "
                    f"{t + 1}, of the {kind}, has {mask[i, t]:g}\n{mask[i].tolist()} for tokens "
                    f"1 … {width - 1}, want "
                    f"{((np.arange(1, width) >= prompt) & (np.arange(1, width) < end)) * 1.0}"
                )
        return ""

    return holds


STORY = """\
The policy did not write the prompt. Counted in the loss it is imitated where the answer was good
and unlearned where it was bad, which has nothing to do with answering; and with a mean over tokens
every prompt token takes weight from the answer. The other edge is as easily missed: column t
judges the token at t + 1, so that the first token of the completion, at prompt_length, is judged
in column prompt_length − 1, and the end token, which the policy did choose, is the last that
counts."""

EXERCISE = Bug(
    solutions=(Rollout, pack_samples),
    checker=placed(lambda _: _of_the_library(pack_samples), properties({
        "looks right": looks_right(lambda f: f(*_ROWS), ((3, 6), "f")),
        "padding": _at("padding", 0),
        "the completion": _at("completion", 1),
        "the prompt": _at("prompt", 0),
    })),
    hints=(
        "Which tokens of a row did the policy choose?",
        "prompt_length ≤ place of the target < length.",
        "return ((target >= prompt_lengths[:, None]) & …).astype(float)",
    ),
    mistakes=(
        Mistake(
            "target = np.arange(width - 1)\n"
            "    inside = (target >= prompt_lengths[:, None]) & (target < lengths[:, None])\n"
            "    return inside.astype(float)",
            "padding", "token 5, of the padding, has 1",
        ),
        Mistake(
            "target = np.arange(1, width)\n"
            "    inside = (target > prompt_lengths[:, None]) & (target < lengths[:, None])\n"
            "    return inside.astype(float)",
            "the completion", "token 2, of the completion, has 0",
        ),
        Mistake(
            "target = np.arange(1, width)\n"
            "    inside = (target >= prompt_lengths[:, None]) & (target < lengths[:, None] - 1)\n"
            "    return inside.astype(float)",
            "the completion", "token 4, of the completion, has 0",
        ),
    ),
    wrong="target = np.arange(1, width)\n    return (target < lengths[:, None]).astype(float)",
    mend="target = np.arange(1, width)\n"
         "    inside = (target >= prompt_lengths[:, None]) & (target < lengths[:, None])\n"
         "    return inside.astype(float)",
    fails=("the prompt",
           "row of 2 prompt tokens and 3 of a completion: token 1, of the prompt, has 1"),
    story=STORY,
)  # fmt: skip
