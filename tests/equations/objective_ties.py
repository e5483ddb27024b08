"""Ties of PPO's and GRPO's objectives, the penalty, the advantage, pass@k."""

import numpy as np
from hypothesis import strategies as st

from minideepseek.autograd.engine import Tensor
from minideepseek.equations import objectives as eq
from minideepseek.reasoning.evaluate import pass_at_k
from minideepseek.reasoning.grpo.objective import group_advantages, grpo_loss, kl_estimate
from tests.equations.ties import close, generator, tie

clips = st.floats(0.05, 0.9)


class Group:
    """G outputs of different lengths: probabilities of their tokens under π, π_old and π_ref."""

    def __init__(self, draw):
        rng = generator(draw)
        self.lengths = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
        shape = len(self.lengths), max(self.lengths)
        self.A = rng.standard_normal(shape[0])
        self.mask = (np.arange(shape[1]) < np.array(self.lengths)[:, None]).astype(float)
        self.π, self.π_old, self.π_ref = rng.uniform(0.05, 1, (3, *shape))

    def of(self, row, i):
        """The tokens of output i."""
        return row[i, : self.lengths[i]]

    def loss(self, ε, β, **options):
        return grpo_loss(
            Tensor(np.log(self.π)), np.log(self.π_old), self.A, self.mask, np.log(self.π_ref),
            clip_epsilon=ε, kl_coef=β, aggregation="sequence", **options,
        )  # fmt: skip


@tie("MATH:1")
def ppo(draw):
    """A row for each token of the one output, so that each has an advantage of its own."""
    tokens, rng, ε = draw(st.integers(1, 6)), generator(draw), draw(clips)
    new, old = rng.uniform(0.05, 1, (2, tokens, 1))
    A = rng.standard_normal(tokens)
    loss, _ = grpo_loss(
        Tensor(np.log(new)), np.log(old), A, np.ones((tokens, 1)), clip_epsilon=ε
    )
    close(-loss.item(), eq.ppo((new / old)[:, 0], A, ε))


@tie("MATH:3")
def grpo(draw):
    group, ε, β = Group(draw), draw(clips), draw(st.floats(0.01, 1))
    rows = range(len(group.lengths))
    ρ = [group.of(group.π, i) / group.of(group.π_old, i) for i in rows]
    D_KL = [eq.penalty(group.of(group.π, i), group.of(group.π_ref, i)) for i in rows]
    close(-group.loss(ε, β)[0].item(), eq.grpo(ρ, group.A, D_KL, ε, β))


@tie("MATH:4")
def penalty(draw):
    π, π_ref = generator(draw).uniform(0.01, 1, (2, draw(st.integers(1, 6))))
    close(kl_estimate(Tensor(np.log(π)), np.log(π_ref), "k3").data, eq.penalty(π, π_ref))


@tie("V2:32")
def grpo_of_outputs(draw):
    group, ε, β = Group(draw), draw(clips), draw(st.floats(0.01, 1))
    rows = range(len(group.lengths))
    ρ = [np.prod(group.of(group.π, i) / group.of(group.π_old, i)) for i in rows]
    D_KL = [eq.penalty_of_output(group.of(group.π, i), group.of(group.π_ref, i)) for i in rows]
    said = eq.grpo_of_outputs(ρ, group.A, D_KL, ε, β)
    close(-group.loss(ε, β, ratio="sequence")[0].item(), said)


@tie("V2:33")
def penalty_of_output(draw):
    group = Group(draw)
    said = [
        eq.penalty_of_output(group.of(group.π, i), group.of(group.π_ref, i))
        for i in range(len(group.lengths))
    ]
    close(group.loss(0.2, 1.0, ratio="sequence")[1]["kl"], np.mean(said))


@tie("V2:34")
def advantage(draw):
    r = generator(draw).standard_normal(draw(st.integers(2, 8)))
    close(group_advantages(r[None])[0], eq.advantage(r))


@tie("CODEX:pass")
def passes(draw):
    n = draw(st.integers(1, 20))
    c, k = draw(st.integers(0, n)), draw(st.integers(1, n))
    close(pass_at_k(n, c, k), eq.pass_at_k(n, c, k))
