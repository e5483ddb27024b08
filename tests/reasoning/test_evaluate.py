"""Every number of an evaluation, from scripted answers: by hand, and again by brute force."""

import json
import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.errors import InputError
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning import evaluate as chapter
from minideepseek.reasoning.countdown import Countdown
from minideepseek.reasoning.countdown_statistics import search_statistics
from minideepseek.reasoning.evaluate import evaluate, majority_vote, pass_at_k
from minideepseek.reasoning.grpo.sampler import GroupSampler, Rollout
from minideepseek.reasoning.tasks import Problem

TASK = Countdown()
RIGHT = "<think> 8 + 5 = 13 ! </think> 8 + 5"
OTHER = "<think> 9 - 5 = 4 ? 8 + 5 = 13 ! </think> 5 + 8"
WRONG = "<think> 9 + 5 = 14 ! </think> 9 + 5"
GAVE_UP = "<think> 9 + 5 = 14 ? </think> ?"
DIRECT = "8 + 5"
ONE = Problem("9 8 5 3 > 13 :", ((9, 8, 5, 3), 13))
TWO = Problem("9 8 5 1 > 13 :", ((9, 8, 5, 1), 13))
THREE = Problem("8 7 5 1 > 13 :", ((8, 7, 5, 1), 13))


class ScriptedSampler:
    """Says to each prompt what `model` lists for it, (text, ended) one after another."""

    calls: list[int] = []

    def __init__(
        self, model, tokenizer, group_size, max_new_tokens, temperature=1.0, top_k=None, top_p=1.0
    ):
        self.script = model["greedy" if temperature == 0 else "sampled"]
        self.group_size = group_size
        assert tokenizer is TASK.tokenizer
        model["law"] = model.get("law", []) + [(max_new_tokens, temperature, top_k, top_p)]

    def sample(self, prompts, rng):
        assert isinstance(rng, np.random.Generator)
        rows, marks, firsts, ends = [], [], [], []
        for prompt in prompts:
            said = self.script[TASK.tokenizer.decode(prompt[1:])]
            assert prompt[0] == TASK.tokenizer.bos_token_id
            for text, ended in said[: self.group_size]:
                answer = TASK.response_ids(text)[: None if ended else -1]
                rows.append([*prompt, *answer])
                firsts.append(len(prompt))
                ends.append(ended)
        type(self).calls.append(len(rows))
        width = max(map(len, rows))
        for row, first in zip(rows, firsts, strict=True):
            marks.append([float(first <= at < len(row)) for at in range(1, width)])
        ids = np.array([row + [TASK.tokenizer.pad_token_id] * (width - len(row)) for row in rows])
        mask, lengths = np.array(marks), np.array([len(row) for row in rows])
        return Rollout(ids, np.array(firsts), lengths, np.array(ends), mask, np.zeros_like(mask))


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    monkeypatch.setattr(chapter, "GroupSampler", ScriptedSampler)
    monkeypatch.setattr(ScriptedSampler, "calls", [])


# ----------------------------------------------------------------------------------- pass@k
@given(n=st.integers(1, 8), data=st.data())
def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_one(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-15)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_pass_at_k_is_unbiased_and_the_plug_in_is_not(p, k, n=8):
    chance = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    truth = 1 - (1 - p) ** k
    ours = sum(w * pass_at_k(n, c, k) for c, w in enumerate(chance))
    plug_in = sum(w * (1 - (1 - c / n) ** k) for c, w in enumerate(chance))
    assert ours == pytest.approx(truth, abs=1e-12)
    assert k == 1 or plug_in < truth - 1e-6


def test_pass_at_k_does_not_overflow():
    assert pass_at_k(20_000, 1, 10_000) == 0.5
    assert pass_at_k(20_000, 0, 10_000) == 0.0
    assert pass_at_k(20_000, 10_001, 10_000) == 1.0


@pytest.mark.parametrize("n, c, k", [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5), (0, 0, 1)])
def test_pass_at_k_refuses_counts_that_cannot_be(n, c, k):
    with pytest.raises(InputError, match=f"got {n}, {c}, {k}"):
        pass_at_k(n, c, k)


# ------------------------------------------------------------------------------------- votes
def test_a_vote_is_for_the_most_frequent_and_then_the_first():
    assert majority_vote(["a", "b", "b"]) == "b"
    assert majority_vote(["b", "a", "a", "b"]) == "b"
    assert majority_vote(["a", "b", "a", "b"]) == "a"
    assert majority_vote([None, None, "z"]) == "z"
    assert majority_vote([None]) is None and majority_vote([]) is None


@given(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=9))
def test_a_vote_is_one_of_the_most_frequent_and_none_before_it_is(answers):
    vote = majority_vote(answers)
    counts = Counter(a for a in answers if a is not None)
    best = [a for a in answers if a is not None and counts[a] == max(counts.values())]
    assert vote == (best[0] if best else None)


# ------------------------------------------------------------------------------- evaluations
def script(**said):
    """{"sampled": …, "greedy": …} from lists of texts; a text with "…" at its end never ended."""
    problems = {"one": ONE, "two": TWO, "three": THREE}

    def taken(text):
        return (text[:-1], False) if text.endswith("…") else (text, True)

    return {problems[name].prompt: [taken(text) for text in texts] for name, texts in said.items()}


def test_every_number_by_hand():
    model = {
        "sampled": script(
            one=[RIGHT, OTHER, GAVE_UP, RIGHT],  # 3 of 4; the vote is 8 + 5, right
            two=[WRONG, WRONG, RIGHT, DIRECT],  # 1 of 4: a direct answer has not the form
            three=[RIGHT + "…", GAVE_UP, GAVE_UP, WRONG],  # 0 of 4; the vote is to give up
        ),
        "greedy": script(one=[RIGHT], two=[WRONG], three=[OTHER]),
    }
    problems = [ONE, TWO, THREE]
    found = evaluate(model, TASK, problems, samples=4, temperature=0.7, top_p=0.9,
                     statistics=search_statistics)  # fmt: skip
    assert found.statistics["given_up"] == 3 / 12 and found.statistics["attempts"] == 12 / 12
    assert (found.problems, found.samples, found.temperature) == (3, 4, 0.7)
    assert found.accuracy == pytest.approx(4 / 12)
    mean = 1 / 3
    variance = ((0.75 - mean) ** 2 + (0.25 - mean) ** 2 + mean**2) / 2
    assert found.standard_error == pytest.approx(math.sqrt(variance / 3))
    assert found.greedy == pytest.approx(2 / 3)
    assert found.pass_at == pytest.approx({1: 4 / 12, 2: (1 + 0.5) / 3, 4: 2 / 3})
    assert found.majority == pytest.approx(1 / 3)
    assert found.format == pytest.approx(10 / 12)
    assert found.thinks == pytest.approx(11 / 12)
    assert found.truncated == pytest.approx(1 / 12)
    # With the end token: RIGHT 12, OTHER 18, GAVE_UP 10, WRONG 12, DIRECT 4; cut off 11.
    assert found.length == (12 + 18 + 10 + 12 + 12 + 12 + 12 + 4 + 11 + 10 + 10 + 12) / 12
    assert [one.problem for one in found.shown] == problems
    assert [one.text for one in found.shown] == [RIGHT, WRONG, RIGHT]
    assert model["law"] == [(TASK.max_new_tokens, 0.7, None, 0.9),
                            (TASK.max_new_tokens, 0.0, None, 1.0)]  # fmt: skip


def test_malformed_answers_have_no_vote():
    cut, plain = "<think> </think> 9 + 5…", "9 + 5"
    model = {"sampled": script(one=[cut, plain, cut, RIGHT], two=[cut, cut, cut, cut])}
    found = evaluate(model, TASK, [ONE, TWO], samples=4, greedy=False)
    assert found.majority == 0.5  # the one vote for 8 + 5; then none at all


def test_without_greedy_and_with_a_limit_of_its_own():
    model = {"sampled": script(one=[RIGHT])}
    options = {"samples": 1, "greedy": False, "max_new_tokens": 7}
    found = evaluate(model, TASK, [ONE], statistics=lambda _: {"x": math.nan}, **options)
    assert found.as_dict()["statistics"] == {"x": None}
    assert found.greedy is None and found.pass_at == {1: 1.0}
    assert math.isnan(found.standard_error) and found.as_dict()["standard_error"] is None
    assert model["law"] == [(7, 1.0, None, 1.0)]


EMPTY = "<think> </think> 8 + 5"
TEXTS = [RIGHT, EMPTY, OTHER, WRONG, GAVE_UP, DIRECT, RIGHT + "…", "<think> 9", "</think> 8 + 5"]


@given(seed=st.integers(0, 10**6), samples=st.integers(1, 9), count=st.integers(1, 5))
def test_the_numbers_are_what_they_say(seed, samples, count):
    rng = np.random.default_rng(seed)
    problems = [ONE, TWO, THREE, *TASK.held_out_problems()[:2]][:count]
    texts = {p.prompt: [TEXTS[i] for i in rng.integers(0, len(TEXTS), samples)] for p in problems}
    said = {p: [(t.removesuffix("…"), t[-1] != "…") for t in ts] for p, ts in texts.items()}
    model = {"sampled": said, "greedy": said}
    found = evaluate(model, TASK, problems, samples)
    good = np.array([
        [t[-1] != "…" and t in (RIGHT, EMPTY, OTHER, WRONG, GAVE_UP)
         and TASK.verify(p, t.split("</think>")[1]) for t in texts[p.prompt]]
        for p in problems
    ])  # fmt: skip
    assert found.accuracy == pytest.approx(found.pass_at[1]) == pytest.approx(good.mean())
    assert found.greedy == pytest.approx(good[:, 0].mean())
    assert list(found.pass_at) == [k for k in (1, 2, 4, 8) if k <= samples]
    for k, share in found.pass_at.items():
        chosen = list(combinations(range(samples), k))
        hits = [good[:, list(rows)].any(1).mean() for rows in chosen]
        assert share == pytest.approx(np.mean(hits))
    assert list(found.pass_at.values()) == sorted(found.pass_at.values())
    every = [text for texts_of_one in texts.values() for text in texts_of_one]
    assert found.thinks == pytest.approx(np.mean(["<think>" in text for text in every]))
    assert found.truncated == pytest.approx(np.mean([text[-1] == "…" for text in every]))
    assert 0 <= found.format <= found.thinks
    text = json.dumps(found.as_dict(), allow_nan=False)
    assert json.loads(text)["pass_at"]["1"] == found.pass_at[1]


def test_batches_hold_at_most_256_rows_and_answers_stay_with_their_problems():
    problems = TASK.held_out_problems()[:70]

    def answers(problem):  # only this problem's own answer is right; in every second sample
        numbers, target = problem.facts
        right = next(
            f"{a} {op} {b}"
            for a, b in combinations(numbers, 2)
            for op, value in (("+", a + b), ("-", a - b))
            if value == target
        )
        return [(f"<think> </think> {right}", True), (GAVE_UP, True)] * 4

    said = {problem.prompt: answers(problem) for problem in problems}
    found = evaluate({"sampled": said, "greedy": said}, TASK, problems, samples=8)
    assert ScriptedSampler.calls == [256, 256, 48, 70]
    assert found.accuracy == 0.5 and found.standard_error == 0 and found.greedy == 1
    assert found.majority == 1  # 4 against 4: the first to come
    assert [one.problem for one in found.shown] == problems[:4]


def test_what_cannot_be_evaluated_is_refused():
    with pytest.raises(InputError, match="problems: got none"):
        evaluate({}, TASK, [])
    for samples in (0, 257):
        with pytest.raises(InputError, match=f"samples: got {samples}, expected 1 to 256"):
            evaluate({}, TASK, [ONE], samples)


# ------------------------------------------------------------------------------ a real model
def test_a_model_gives_the_same_numbers_twice(monkeypatch):
    monkeypatch.setattr(chapter, "GroupSampler", GroupSampler)
    config = DeepSeekV3Config.preset("reason", num_hidden_layers=2)
    model = DeepSeekV3(config, np.random.default_rng(0))
    problems = TASK.held_out_problems()[:5]
    options = {"samples": 3, "max_new_tokens": 6}

    def run(greedy=True, **more):
        return evaluate(model, TASK, problems, greedy=greedy, **options, **more)

    first = run(rng=np.random.default_rng(1))
    assert first == run(rng=np.random.default_rng(1))
    assert first.shown == run(greedy=False, rng=np.random.default_rng(1)).shown
    assert first.shown != run(rng=np.random.default_rng(2)).shown
    assert run() == run() == run(rng=np.random.default_rng(2024))  # the documented seed
    assert 1 <= first.length <= 6 and first.problems == 5
