"""The differences by seed in the ledger of the papers' claims (demos/claims.py)."""

from __future__ import annotations

from tests.replay.bands import trained
from tests.replay.entries import Entry, Reading, Then

MODELS, REASONING = "demos/claims_models.py", "demos/claims_reasoning.py"
THREE = "{}, {}, {}"


def gap(values: list[float]) -> list[float]:
    """The first less the second."""
    return [values[0] - values[1]]


def rise(values: list[float]) -> list[float]:
    """The second less the first."""
    return [values[1] - values[0]]


def other_way(values: list[float]) -> list[float]:
    return [-value for value in values]


def by_seed(
    says: str, command: str, prints: tuple[str | Reading, ...], where: str, room: float
) -> Entry:
    numbers = ", ".join(["{}"] * (5 if command == "seeds" else 3))
    claim = f'"{says}{{*}}seeds=({numbers})'
    return Entry(f"claim: {says}", claim, command, prints, trained(room), where)


def of_each_seed(template: str, seeds: int, then: Then = gap) -> tuple[Reading, ...]:
    """Two numbers for each seed; N in the template is the seed."""
    return tuple(Reading(template.replace("N", str(seed)), then) for seed in range(seeds))


def apart(better: str, worse: str) -> tuple[str, ...]:
    return (f"({better} − {worse}, any form, points by seed: {THREE})",)


def saved(better: str, worse: str) -> tuple[str, ...]:
    return (f"{better} reads better than {worse}, with {{*}} by seed: {THREE})",)


def turned(words: str) -> tuple[Reading, ...]:
    return (Reading(words, other_way),)


_YARN = tuple(  # before and after the fine-tune, seed by seed
    Reading(
        "YaRN, against 128 at a time: " + "{~} ± {~}, " * seed + "{} ± {~}{*}"
        "all trained on: YaRN, against 128 at a time: " + "{~} ± {~}, " * seed + "{} ± {~}",
        gap,
    )
    for seed in range(3)
)  # fmt: skip
DENSE = "seed N dense {} bits{*}seed N DeepSeekMoE bias {} bits"
VOTE = "grpo N {}% {~}% {~}% {}%"
LENGTH = "cold start N" + 5 * " {~}%" + " {}{*}grpo N" + 5 * " {~}%" + " {}"
ENTRIES = (
    by_seed("MLA reads better than MHA", "kinds", saved("MLA", "MHA"), MODELS, 0.1),
    by_seed("MHA reads better than GQA", "kinds", saved("MHA", "GQA-2"), MODELS, 0.1),
    by_seed("MHA reads better than MQA", "kinds", saved("MHA", "MQA"), MODELS, 0.1),
    by_seed("After YaRN a short training", "context", _YARN, MODELS, 0.1),
    by_seed(
        "Without the auxiliary loss", "balance",
        turned(f"with the auxiliary loss of 1e-2: {{*}} by seed: {THREE};"), MODELS, 0.1,
    ),
    by_seed(
        "Fine-grained and shared", "experts",
        turned(f"DeepSeekMoE loss − StandardMoE, bits per byte by seed: {THREE})"), MODELS, 0.1,
    ),
    by_seed("A mixture of experts reads", "experts", of_each_seed(DENSE, 3), MODELS, 0.1),
    by_seed(
        "Trained with an MTP module", "mtp",
        turned(f"held-out byte are NOT distinguishable from no effect ({THREE};"), MODELS, 0.1,
    ),
    by_seed(
        "The module is worth its time", "mtp",
        turned(f"they are NOT distinguishable from no effect ({THREE};"), MODELS, 0.1,
    ),
    by_seed("Reinforcement learning alone", "pipeline", apart("R1-Zero", "base"), REASONING, 10),
    by_seed("Answers grow longer", "seeds", of_each_seed(LENGTH, 5, rise), REASONING, 5),
    by_seed("A cold start and four", "pipeline", apart("R1", "R1-Zero"), REASONING, 10),
    by_seed("What demonstrations", "pipeline", apart("R1", "cold start only"), REASONING, 10),
    by_seed("For a small model", "pipeline", apart("distilled", "RL on small"), REASONING, 10),
    by_seed("A majority vote", "seeds", of_each_seed(VOTE, 5, rise), REASONING, 5),
)  # fmt: skip
