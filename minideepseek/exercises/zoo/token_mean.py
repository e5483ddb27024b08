r"""The answers that grow when they are wrong  ★★  8 minutes

Over a few hundred steps the answers become longer and longer, above all the wrong ones, and the
text that reports it speaks of the model learning to think. Right answers become shorter meanwhile.
With all answers of one length nothing of the kind is seen.

In the wild: it is in the formula of the first paper; leaving it unsaid was the mistake.
"""

import numpy as np


def token_mean(advantages, mask):
    """−Σ A over all tokens of the batch, divided by their number: every token weighs the same.

    advantages (rows,): of each answer; mask (rows, T): 1 on its tokens, at least one in a row. (At
    a ratio of 1 this is the objective's value, and its weights are those of the gradient.)
    """
    lengths = mask.sum(1)
    return -(advantages * mask.sum(1) / lengths).mean()


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd.engine import Parameter
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right, told
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import properties
from minideepseek.reasoning.grpo.objective import grpo_loss


def _of_the_library(loss):
    def token_mean(advantages, mask):
        zeros = np.zeros(mask.shape)
        return loss(Parameter(zeros.copy()), zeros, advantages, mask, aggregation="token")[0].data

    return token_mean


def _mask(*lengths):
    return (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(float)


def _one_length(token_mean):
    a = np.array([1.0, -0.5, -0.5, 0.8])
    got = float(token_mean(a, _mask(3, 3, 3, 3)))
    said = f"four answers of 3 tokens, advantages {told(a)}: {got:.4f}, want {-a.mean():.4f}"
    return "" if abs(got + a.mean()) < 1e-12 else said


def _weights(token_mean):
    """What one token of each answer weighs: the loss of one answer's advantage, per token."""
    for lengths in ((1, 9), (2, 3, 7)):
        n, mask = len(lengths), _mask(*lengths)
        per = [float(-token_mean(np.eye(n)[i], mask)) / lengths[i] for i in range(n)]
        if max(per) - min(per) > 1e-12:
            return (
                f"answers of {' and '.join(map(str, lengths))} tokens: a token of each weighs "
                f"{told(per)}\nwant 1/{sum(lengths)} = {1 / sum(lengths):.3f} for all"
            )
        if abs(per[0] - 1 / sum(lengths)) > 1e-12:
            return f"a token weighs {per[0]:.4g}, want 1/{sum(lengths)}: all tokens together 1"
    return ""


STORY = """\
The mean of each answer's mean gives a token of an answer of n tokens the weight 1/n. A wrong
answer is punished less per token if it is long, a right one is rewarded more per token if it is
short; and what policy gradient can move it moves, lengths among it. Every choice of denominator
pays for something: the token mean (here), a constant, or the mean of means, as the first paper has
it. Wrong is to call one of them another, and to explain afterwards what one has paid for."""

EXERCISE = Bug(
    solutions=(grpo_loss,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(np.ones(2), _mask(2, 4)), ((), "f")),
        "answers of one length": _one_length,
        "every token weighs the same": _weights,
    })),
    hints=(
        "One answer of 1 token, one of 9: how much does a token of each count?",
        "One division by the number of all tokens of the batch.",
        "return -(advantages * lengths).sum() / …",
    ),
    mistakes=(
        Mistake("(advantages * lengths).sum() / len(mask)", "answers of one length", "want -0.2"),
        Mistake("(advantages * lengths).sum() / mask.size", "every token weighs the same",
                "a token weighs 0.05556, want 1/10"),
        Mistake("advantages.sum() / len(advantages)", "every token weighs the same",
                "answers of 1 and 9 tokens"),
    ),
    wrong="(advantages * mask.sum(1) / lengths).mean()",
    mend="(advantages * lengths).sum() / lengths.sum()",
    fails=("every token weighs the same",
           "answers of 1 and 9 tokens: a token of each weighs [0.5, 0.056]\nwant 1/10"),
    story=STORY,
)  # fmt: skip
