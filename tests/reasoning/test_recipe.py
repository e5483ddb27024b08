"""The recipe's numbers, its gates, and what a base knows."""

import dataclasses
import math

import numpy as np
import pytest

from minideepseek.errors import GateError, MiniDeepSeekError
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning import recipe
from minideepseek.reasoning.countdown import Countdown
from minideepseek.reasoning.recipe import QUICK, RECIPE, Gate, base_gates, check_gates, share_known
from tests.reasoning import small

TASK = Countdown()


def test_the_model_is_reason_with_the_tasks_words():
    config, words = RECIPE.config(TASK), TASK.tokenizer
    assert (config.vocab_size, config.pad_token_id) == (words.vocab_size, words.pad_token_id) == (
        33, 0,
    )  # fmt: skip
    assert (config.bos_token_id, config.eos_token_id) == (words.bos_token_id, words.eos_token_id)
    assert config.initializer_range == RECIPE.initializer_range == 0.07
    longest = TASK.max_prompt_tokens + TASK.max_new_tokens
    for plan in (RECIPE.pretrain, RECIPE.cold_start):
        assert longest <= plan.sequence_length <= config.max_position_embeddings
    wide = Countdown(largest=20)
    assert RECIPE.config(wide).vocab_size == wide.tokenizer.vocab_size > 33


def test_the_control_makes_as_many_updates_as_grpo():
    grpo = RECIPE.grpo
    assert RECIPE.control_steps == grpo.steps * grpo.minibatches
    assert dataclasses.replace(RECIPE, grpo=dataclasses.replace(grpo, steps=7, minibatches=3)
                               ).control_steps == 21  # fmt: skip


def test_quick_differs_in_length_only():
    same = {"pretrain", "cold_start", "documents", "initializer_range"}
    assert all(getattr(QUICK, name) == getattr(RECIPE, name) for name in same)
    grpo = dataclasses.replace(QUICK.grpo, steps=RECIPE.grpo.steps, evaluate_every=10)
    assert grpo == RECIPE.grpo


def test_the_facts_are_the_numbers():
    plan = dataclasses.replace(
        RECIPE.grpo, steps=41, prompts_per_step=23, group_size=19, minibatches=3, beta2=0.97,
        learning_rate=7e-5, scale="rloo", aggregation="sequence", clip_low=0.11, clip_high=0.29,
        kl_coef=0.013,
    )  # fmt: skip
    facts = dataclasses.replace(RECIPE, grpo=plan).facts()
    for number in ("41 steps", "23 problems × 19 answers", "3 updates", "7e-05", "β₂ = 0.97"):
        assert number in facts["GRPO"]
    for number in ("by rloo", "over sequences", "ε = 0.11 and 0.29", "β = 0.013"):
        assert number in facts["objective"]
    assert facts["control"] == "123 further supervised steps"
    read = RECIPE.pretrain
    assert f"{read.steps:,} steps of {read.batch_size} × {read.sequence_length}" in (
        facts["pre-training"]
    )


# -------------------------------------------------------------------------------------------- gates


@pytest.mark.parametrize(
    "measured, passes",
    [
        (0.15, True), (0.3, True), (0.45, True), (math.nextafter(0.15, 0), False), (0.46, False),
        (math.nan, False), (0.0, False), (math.inf, False),
    ],
)  # fmt: skip
def test_a_gate_is_an_interval_and_nan_is_outside(measured, passes):
    gate = Gate("solved", measured, 0.15, 0.45)
    assert gate.passed is passes
    assert gate.row() == ("solved", f"{measured:.1%}", "at least 15%, at most 45%", passes)
    if passes:
        check_gates([gate])
    else:
        with pytest.raises(GateError, match=r"^solved: (nan|inf|[\d.]+)%, at least 15%, at most"):
            check_gates([gate])


def test_the_first_gate_that_fails_is_named():
    gates = [Gate("one", 1.0, 0.98), Gate("two", 0.5, 0.98), Gate("three", 0.1, 0.98)]
    with pytest.raises(MiniDeepSeekError) as caught:
        check_gates(gates)
    assert str(caught.value).startswith("two: 50.0%, at least 98% is needed")
    check_gates(gates[:1])
    check_gates([])


GOOD = {"format": 0.99, "accuracy": 0.31, "pass_at": {"1": 0.31, "2": 0.5, "8": 0.9, "16": 0.95}}


@pytest.mark.parametrize(
    "change, name",
    [
        ({}, None),
        ({"format": 0.97}, "well-formed after the cold start: 97.0%"),
        ({"format": math.nan}, "well-formed after the cold start: nan%"),
        ({"accuracy": 0.24}, "solved after the cold start: 24.0%"),
        ({"accuracy": 0.46}, "solved after the cold start: 46.0%"),
        ({"pass_at": {"2": 0.9, "16": 0.79}}, "pass@16 after the cold start: 79.0%"),
    ],
)
def test_the_gates_of_a_cold_start(change, name):
    gates = recipe.cold_start_gates(GOOD | change)
    failed = [f"{gate.name}: {gate.measured:.1%}" for gate in gates if not gate.passed]
    assert failed == ([] if name is None else [name]) and len(gates) == 3
    assert gates[2].measured == (GOOD | change)["pass_at"]["16"]  # of the most samples there are


def test_the_gates_of_a_base_are_its_skills():
    oracle = Oracle(TASK, {})
    gates = base_gates(oracle, TASK)
    names = ["the base's facts", "the base's verdicts"]
    found = [(gate.name, gate.measured, gate.low) for gate in gates]
    assert found == [(name, 1.0, 0.99) for name in names]
    check_gates(gates)
    assert base_gates(oracle, NoSkills()) == []


# -------------------------------------------------------------------------------- what a base knows


class NoSkills(Countdown):
    def skills(self):
        return {}


class Oracle:
    """Stands for a model: knows every skill's word but those of the texts in `wrong`.

    Where a text of one skill is asked, it answers at the last position only: elsewhere the logits
    favour padding.
    """

    def __init__(self, task, wrong):
        self.words = task.tokenizer
        pairs = [pair for probes in task.skills().values() for pair in probes]
        self.known = {**dict(pairs), **wrong}
        self.asked = []

    def __call__(self, ids):
        logits = np.zeros((*ids.shape, self.words.vocab_size), np.float32)
        logits[..., 0] = 1.0
        for row, tokens in enumerate(ids.tolist()):
            assert tokens[0] == self.words.bos_token_id and self.words.pad_token_id not in tokens
            text = self.words.decode(tokens[1:])
            self.asked.append(text)
            logits[row, -1, int(self.words.encode(self.known[text])[0])] = 2.0
        return Logits(logits)


class Logits:
    def __init__(self, data):
        self.data = data


@pytest.mark.parametrize("mistakes", [0, 1, 7])
def test_the_share_known_is_exact(mistakes):
    probes = TASK.skills()["verdicts"]
    assert len({len(text.split()) for text, _ in TASK.skills()["facts"] + probes}) > 1
    wrong = {text: "?" if word == "!" else "!" for text, word in probes[:mistakes]}
    oracle = Oracle(TASK, wrong)
    found = share_known(oracle, TASK, probes)
    assert found == (len(probes) - mistakes) / len(probes)
    assert sorted(oracle.asked) == sorted(text for text, _ in probes)


def test_texts_of_several_lengths_find_their_own_words():
    probes = [*TASK.skills()["verdicts"][:5], *TASK.skills()["facts"][:5]]
    probes = [probes[i] for i in (0, 5, 1, 6, 2, 7, 3, 8, 4, 9)]
    assert share_known(Oracle(TASK, {}), TASK, probes) == 1.0
    assert share_known(Oracle(TASK, {probes[3][0]: "+"}), TASK, probes) == 0.9


def test_a_real_model_asked_at_once_or_one_by_one(device):
    """Probes whose word is the model's own answer, but for two."""
    task = small.Small()
    model, words = small.model(3), task.tokenizer
    probes = []
    for text, _ in task.skills()["verdicts"][:9] + task.skills()["facts"][:9]:
        ids = np.concatenate([[words.bos_token_id], words.encode(text)])[None]
        probes.append((text, words.tokens[int(model(ids).data[0, -1].argmax())]))
    for i in (2, 11):
        probes[i] = (probes[i][0], "+" if probes[i][1] != "+" else "-")
    assert isinstance(model, DeepSeekV3)
    assert share_known(model.to(device), task, probes) == 16 / 18
