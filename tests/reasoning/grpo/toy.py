"""A policy so small that all it can say can be listed: expectations are sums, not samples.

Three tokens, 0 the end token, at most three of them: 15 completions. The policy is a table of
logits, a row for each of the 7 prefixes, so that any distribution over completions can be had.
"""

import itertools
import math

import numpy as np

import minideepseek.autograd.fused
import minideepseek.autograd.primitives  # noqa: F401 - registers
from minideepseek.autograd.engine import Parameter, ops
from minideepseek.reasoning.grpo.objective import group_advantages, grpo_loss

VOCAB, LONGEST = 3, 3
PREFIXES = [p for n in range(LONGEST) for p in itertools.product((1, 2), repeat=n)]
COMPLETIONS = [
    *(p + (0,) for p in PREFIXES),
    *itertools.product((1, 2), repeat=LONGEST),  # cut off by the length limit
]
LENGTHS = np.array([len(c) for c in COMPLETIONS])
MASK = (np.arange(LONGEST) < LENGTHS[:, None]).astype(np.float64)
TOKENS = np.array([c + (0,) * (LONGEST - len(c)) for c in COMPLETIONS])
STATES = np.array(  # which prefix each token follows; 0 behind the end, where the mask is 0
    [[PREFIXES.index(c[:t]) if t < len(c) else 0 for t in range(LONGEST)] for c in COMPLETIONS]
)


def table(seed, size=1.0):
    """Logits (7, 3) of a policy."""
    return size * np.random.default_rng(seed).standard_normal((len(PREFIXES), VOCAB))


def logprobs(policy):
    """ln π of every token of every completion, (15, 3).  policy: Parameter (7, 3)."""
    rows = ops.take(policy, STATES)
    return ops.token_logprobs(rows, TOKENS)


def probabilities(policy):
    """π of every completion, (15,): an array."""
    return np.exp((logprobs(policy).data * MASK).sum(1))


def pulled(policy, slopes):
    """Σ slopes · ∇ ln π: a gradient (7, 3) of the table.  slopes (15, 3)."""
    policy.grad = None
    logprobs(policy).backward(slopes)
    return policy.grad.copy()


def gradient(policy, scalar):
    """The gradient of a scalar Tensor."""
    policy.grad = None
    scalar.backward()
    return policy.grad.copy()


def policy_gradient(policy, rewards):
    """∇ Σ π(o) r(o), by the sum itself."""
    whole = (logprobs(policy) * MASK).sum(1)
    return gradient(policy, (ops.exp(whole) * rewards).sum())


def expected_gradient(policy, rewards, size, scale, **options):
    """E[∇ loss] over every group of `size` completions, drawn from the policy itself."""
    lp, chance = logprobs(policy).data, probabilities(policy)
    slopes = np.zeros_like(lp)
    for group in itertools.combinations_with_replacement(range(len(lp)), size):
        orders = math.factorial(size) // math.prod(
            math.factorial(group.count(i)) for i in set(group)
        )
        rows = list(group)
        a = group_advantages(rewards[rows][None], scale)[0]
        inputs = Parameter(lp[rows])
        grpo_loss(inputs, lp[rows], a, MASK[rows], **options)[0].backward()
        np.add.at(slopes, rows, orders * chance[rows].prod() * inputs.grad)
    return pulled(policy, slopes)


def expected_slopes(policy, old, a, **options):
    """E[∇ loss] of one row drawn from `old`, by one call over all completions. Not for means
    over tokens, where rows meet in the denominator.
    """
    before = logprobs(old).data
    inputs, chance = Parameter(logprobs(policy).data), probabilities(old)
    grpo_loss(inputs, before, a, MASK, **options)[0].backward()
    return pulled(policy, chance[:, None] * inputs.grad)


def residual(found, truth):
    """What share of `found` points elsewhere than `truth`, whatever the step size."""
    along = (found * truth).sum() / (truth * truth).sum()
    return float(np.linalg.norm(found - along * truth) / np.linalg.norm(found))


def relative(found, truth):
    """‖found − truth‖ / ‖truth‖."""
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))
