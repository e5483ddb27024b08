"""What the tests of sampling and scoring share."""

import numpy as np
from hypothesis import strategies as st

from minideepseek.autograd.engine import no_grad
from minideepseek.model.generate import probabilities
from minideepseek.model.tokenizer import WordTokenizer
from minideepseek.reasoning.grpo import sampler
from minideepseek.reasoning.grpo.sampler import GroupSampler

VOCAB = 8
WORDS = WordTokenizer(["<pad>", "<bos>", "<eos>", "<think>", "</think>", "4", "+", "11"])
EOS, PAD = WORDS.eos_token_id, WORDS.pad_token_id

prompt_lengths = st.lists(st.integers(1, 5), min_size=1, max_size=3)
laws = st.sampled_from(
    [(1.0, None, 1.0), (0.7, None, 1.0), (1.3, 3, 1.0), (1.0, None, 0.8), (0.6, 5, 0.9),
     (0.0, None, 1.0)]
)  # fmt: skip


def draw_prompts(seed, lengths):
    """Prompts of any tokens, the end and padding tokens too."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCAB, n) for n in lengths]


class Given:
    """A generator whose uniform numbers are given."""

    def __init__(self, numbers):
        self.numbers = np.asarray(numbers, float)

    def random(self, shape):
        return self.numbers.reshape(shape)


def sample(model, prompts, group, most, seed, law=(1.0, None, 1.0), routing=False, leaving=None):
    """A rollout; leaving: the share of ended rows at which they leave the batch."""
    before = sampler.LEAVING
    sampler.LEAVING = before if leaving is None else leaving
    try:
        rng = seed if isinstance(seed, Given) else np.random.default_rng(seed)
        return GroupSampler(model, WORDS, group, most, *law).sample(prompts, rng, routing)
    finally:
        sampler.LEAVING = before


def plain_sample(model, prompt, uniform, law):
    """One row token by token: a whole pass each, no cache, no batch. (ids, log-probabilities)"""
    ids, logprobs = list(prompt), []
    for u in uniform:
        with no_grad():
            p = probabilities(model(np.array([ids])).data[:, -1], *law)[0]
        mass, token = 0.0, 0
        for token in np.flatnonzero(p):  # the first whose cumulative mass exceeds u
            mass += p[token]
            if mass > u:
                break
        ids.append(int(token))
        logprobs.append(float(np.log(p[token])))
        if token == EOS:
            break
    return ids, logprobs
