"""A run small enough for every test: the nano preset on a text with something to learn."""

import random

import numpy as np

from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.tokenizer import ByteTokenizer
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.training.corpus import Document
from minideepseek.training.data import BatchLoader, pack
from minideepseek.training.trainer import Plan, Trainer

WORDS = "the model reads a byte and predicts the next one from what came before it".split()
# A step of this takes about 4 ms.
PLAN = Plan(
    steps=6, batch_size=2, sequence_length=16, learning_rate=3e-3, warmup_steps=2, weight_decay=0.1,
    mtp_weight=0.3, bias_step=0.02, evaluate_every=2, checkpoint_every=2,
)  # fmt: skip


def text(paragraphs: int = 30, seed: int = 0) -> str:
    """Sentences of twelve drawn words, one a paragraph."""
    rng = random.Random(seed)
    return "\n\n".join(" ".join(rng.choices(WORDS, k=12)) + "." for _ in range(paragraphs))


def tokens(seed: int = 0, paragraphs: int = 30) -> np.ndarray:
    return pack([Document("tiny", text(paragraphs, seed))], ByteTokenizer())


def trainer(plan: Plan = PLAN, held_out: int = 3, dtype: str = "float32", **config) -> Trainer:
    """A fresh trainer: the same one whenever the arguments are; held_out paragraphs."""
    init, data = np.random.default_rng(plan.seed).spawn(2)
    model = DeepSeekV3(DeepSeekV3Config.preset("nano", **config), init, dtype)
    loader = BatchLoader(tokens(), plan.batch_size, plan.sequence_length, data)
    return Trainer(model, loader, plan, tokens(1, held_out))


def untimed(metrics: dict) -> dict:
    """A step's metrics without what depends on the clock."""
    return {k: v for k, v in metrics.items() if k not in ("seconds", "tokens_per_second")}
