"""What rejection sampling keeps is right, well-formed, sampled, and no held-out problem."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.errors import InputError
from minideepseek.reasoning.grpo.sampler import Rollout
from minideepseek.reasoning.r1 import pipeline
from minideepseek.reasoning.r1.pipeline import rejection_sample
from minideepseek.reasoning.r1.sft import SFTTrainer
from minideepseek.reasoning.r1.sources import SampleSet
from minideepseek.reasoning.tasks import Problem
from tests.reasoning.r1 import common
from tests.reasoning.r1.common import ECHO

TRAINING = [p for p in (Problem(f"{a} {b} :", (a, b)) for a in range(10) for b in range(10))
            if not ECHO.is_held_out(p)]  # fmt: skip
HELD_OUT = ECHO.held_out_problems()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class Scripted:
    """A sampler whose completions were written before: (text, ended), G for each prompt."""

    def __init__(self, texts):
        self.texts, self.asked, self.made = iter(texts), [], None

    def __call__(self, model, tokenizer, group_size, max_new_tokens, temperature, top_p):
        self.group_size = group_size
        self.made = (max_new_tokens, temperature, top_p)
        return self

    def sample(self, prompts, rng):
        self.asked.append(len(prompts))
        rows = []
        for prompt in prompts:
            for _ in range(self.group_size):
                text, ended = next(self.texts)
                words = ECHO.response_ids(text)
                rows.append((prompt, words if ended else words[:-1], ended))
        width = max(len(p) + len(r) for p, r, _ in rows)
        ids = np.zeros((len(rows), width), np.int64)
        for row, (prompt, response, _) in zip(ids, rows, strict=True):
            row[: len(prompt) + len(response)] = np.concatenate([prompt, response])
        zeros = np.zeros((len(rows), width - 1))
        starts = np.array([len(p) for p, _, _ in rows])
        lengths = starts + [len(r) for _, r, _ in rows]
        return Rollout(ids, starts, lengths, np.array([e for *_, e in rows]), zeros, zeros, None)


def scripted(monkeypatch, texts) -> Scripted:
    one = Scripted(texts)
    monkeypatch.setattr(pipeline, "GroupSampler", one)
    return one


def test_right_and_well_formed_each_once(monkeypatch):
    problem, other = Problem("3 4 :", (3, 4)), Problem("5 6 :", (5, 6))
    assert not ECHO.is_held_out(problem) and not ECHO.is_held_out(other)
    good, longer, odd = "<think> 3 </think> 3", "<think> 3 4 </think> 3", "<think> 9 </think> 3"
    texts = [(good, True), ("3", True), (good, True), (longer, False)]  # of problem
    texts += [("<think> 5 </think> 3", True)] * 3 + [("<think> 6 </think> 5", True)]  # of other
    texts += [(good, True), (longer, True), (odd, True), ("<think> 3 3 </think> 3", True)]
    one = scripted(monkeypatch, texts)
    found = rejection_sample(None, ECHO, [problem, other, problem], rng(), 4, 3, 0.7, 0.9)
    assert [(c.problem, c.text) for c in found.completions] == [
        (problem, good), (other, "<think> 6 </think> 5"), (problem, longer), (problem, odd),
    ]  # fmt: skip
    assert (found.sampled, found.right) == (12, 7)
    for (prompt, response), completion in zip(found.samples, found.completions, strict=True):
        assert prompt.tolist() == ECHO.prompt_ids(completion.problem).tolist()
        assert response.tolist() == ECHO.response_ids(completion.text).tolist()
    assert one.made == (ECHO.max_new_tokens, 0.7, 0.9)


@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=12),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_laws(places, group_size, per_problem, seed):
    """Against the four rules written down plainly."""
    problems, chance = [TRAINING[i] for i in places], rng(seed)
    texts = []
    for problem in problems:
        for _ in range(group_size):
            a, thought = problem.facts[0], " ".join(["7"] * chance.integers(1, 4))
            answer = a if chance.random() < 0.7 else (a + 1) % 10
            tag = "<think> " if chance.random() < 0.8 else ""
            texts.append((f"{tag}{thought} </think> {answer}", bool(chance.random() < 0.8)))
    with pytest.MonkeyPatch.context() as patch:
        scripted(patch, texts)
        found = rejection_sample(None, ECHO, problems, rng(), group_size, per_problem)
    wanted, right = [], 0
    for i, (text, ended) in enumerate(texts):
        problem = problems[i // group_size]
        if ended and text.startswith("<think>") and text.split()[-1] == str(problem.facts[0]):
            right += 1
            of_it = [t for p, t in wanted if p == problem]
            if text not in of_it and len(of_it) < per_problem:
                wanted.append((problem, text))
    assert [(c.problem, c.text) for c in found.completions] == wanted
    assert (found.sampled, found.right) == (len(texts), right)
    assert len(found.samples) == len(wanted)


def test_batches_are_of_256_rows_or_one_problem(monkeypatch):
    for group_size, asked in ((64, [4, 4, 1]), (200, [1] * 9), (300, [1] * 9)):
        one = scripted(monkeypatch, [("3", True)] * (9 * group_size))
        found = rejection_sample(None, ECHO, TRAINING[:9], rng(), group_size)
        assert one.asked == asked and found.samples == [] and found.right == 0


def test_held_out_problems_are_refused(monkeypatch):
    one = scripted(monkeypatch, [])
    with pytest.raises(InputError, match=f"^problems: '{HELD_OUT[0].prompt}' is held out"):
        rejection_sample(None, ECHO, [TRAINING[0], HELD_OUT[0]], rng())
    assert one.asked == []


@pytest.mark.parametrize(
    "arguments, match",
    [
        (([],), "^problems: got none"),
        ((TRAINING[:1], rng(), 0), "^group_size: got 0"),
        ((TRAINING[:1], rng(), 2, 0), "^per_problem: got 0"),
        ((TRAINING[:1], rng(), 2, True), "^per_problem: got True"),
        ((TRAINING[:1], rng(), 2, 2, -1.0), "^temperature: got -1.0"),
    ],
)
def test_bad_input_is_refused(arguments, match):
    problems, *rest = arguments
    with pytest.raises(InputError, match=match):
        rejection_sample(common.model(), ECHO, problems, *(rest or [rng()]))


def test_a_student_learns_from_what_a_teacher_got_right():
    """Cold start, rejection sampling, then a fresh student on the accepted samples alone."""
    teacher = common.trainer(common.LEARNING, initializer_range=0.1)
    for _ in range(teacher.plan.steps):
        teacher.step()
    asked = {"group_size": 4, "per_problem": 2}
    accepted = rejection_sample(teacher.model, ECHO, TRAINING, rng(1), **asked)
    assert accepted.right > 0.5 * accepted.sampled
    student = SFTTrainer(
        common.model(1, initializer_range=0.1, num_hidden_layers=1),
        SampleSet(accepted.samples, 32, rng(2)),
        common.LEARNING,
    )
    # measured: the teacher is right in 353 of 360, the student in 0 before and in 75 of 80 after
    before = rejection_sample(student.model, ECHO, TRAINING[:20], rng(3), **asked)
    for _ in range(student.plan.steps):
        student.step()
    after = rejection_sample(student.model, ECHO, TRAINING[:20], rng(3), **asked)
    assert before.right == 0 and after.right > 0.5 * after.sampled
