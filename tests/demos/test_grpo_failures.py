"""The failures of GRPO: that every experiment runs, and that each sentence follows its numbers."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest

from demos import grpo_failures
from demos.grpo_failures import FAILURES, Elsewhere
from demos.grpo_lab import QUICK, Lab, Row, Size, counted, gap
from minideepseek.errors import DivergedError
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning.addition import Addition
from minideepseek.reasoning.countdown import Countdown
from minideepseek.reasoning.evaluate import Evaluation
from minideepseek.reasoning.grpo.trainer import GRPOTrainer
from minideepseek.reasoning.recipe import RECIPE
from minideepseek.reasoning.tasks import Completion, Problem

PROBLEM = Problem("9 8 5 3 > 13 :", ((9, 8, 5, 3), 13))


def row(step=0, solved=0.3, greedy=0.6, equal=0.0, kl=0.1, reach=0.5, **statistics):
    found = Evaluation(
        problems=100,
        samples=16,
        temperature=1.0,
        accuracy=solved,
        standard_error=0.02,
        greedy=greedy,
        pass_at={16: reach},
        majority=0.0,
        format=1.0,
        thinks=1.0,
        length=20.0,
        truncated=0.0,
        statistics={"verdicts": 0.8, "says": 0.1, "hits": 0.1, "attempts": 2.5, **statistics},
        shown=(),
    )
    return Row(step, {"reward": 0.4, "frac_reward_zero_std": equal, "kl": kl}, found)


class Scripted(Lab):
    """Gives runs as they are written down, in the order in which they are asked for."""

    def __init__(self, *runs, reach=0.5):
        super().__init__(None)
        self.runs, self.reach, self.changes = list(runs), reach, []

    def run(self, label, model, task, *columns, **changes):
        self.changes.append(changes)
        return self.runs.pop(0)

    def taught(self, model, task, steps, until=2):
        return None

    def measure(self, model, task, samples=0):
        return row(solved=0.6, reach=self.reach).found


def course(*shares, **last):
    rows = [row(i, share) for i, share in enumerate(shares[:-1])]
    return [*rows, row(len(rows), shares[-1], **last)]


RISES, STAYS = course(0.3, 0.4, 0.6), course(0.3, 0.3, 0.31)


@pytest.mark.parametrize(
    ("failure", "runs", "begins"),
    [
        ("no_signal", [course(0.0, 0.0, equal=0.9), RISES], "No signal, no learning"),
        ("no_signal", [course(0.0, 0.0), STAYS], "Neither learns"),
        ("no_signal", [RISES, RISES], "It learns all the same"),
        ("hot_start", [RISES, course(0.3, 0.0, greedy=0.0)], "It falls and does not recover"),
        ("hot_start", [RISES, RISES], "The failure does not show"),
        ("hot_start", [RISES, [row(), row(1, greedy=0.1), row(2, greedy=0.5)]], "It falls, and re"),
        ("bluffing", [course(0.1, 0.2, says=0.9, verdicts=0.2), RISES], "It learns to bluff"),
        ("bluffing", [course(0.1, 0.2, says=0.9, verdicts=0.79), RISES], "The failure does not"),
        ("bluffing", [course(0.1, 0.2, says=0.2, verdicts=0.2), RISES], "The failure does not"),
        ("rare_thoughts", [course(0.2, 0.4), course(0.3, 0.5)], "It stays behind"),
        ("rare_thoughts", [course(0.2, 0.49), course(0.3, 0.5)], "The failure does not show"),
        (
            "length_bias",
            [course(0.3, 0.6, right=30.0, wrong=40.0), course(0.3, 0.5, right=30.0, wrong=50.0)],
            "Wrong answers grow longer, and fewer are right",
        ),
        (
            "length_bias",
            [course(0.3, 0.5, right=30.0, wrong=40.0), course(0.3, 0.6, right=30.0, wrong=50.0)],
            "Wrong answers grow longer, yet more are right",
        ),
        (
            "length_bias",
            [course(0.3, 0.5, right=30.0, wrong=40.0), course(0.3, 0.5, right=30.0, wrong=50.0)],
            "Wrong answers grow longer:",
        ),
        (
            "length_bias",
            [course(0.3, 0.6, right=30.0, wrong=40.0), course(0.3, 0.5, right=30.0, wrong=42.0)],
            "The failure does not show",
        ),
        ("k1_penalty", [[row(kl=k)] for k in (0.4, 0.6, 0.03, 0.07)], "k1 does not hold the pol"),
        ("k1_penalty", [[row(kl=k)] for k in (0.4, 0.3, 0.03, 0.3)], "k1 does not hold the pol"),
        ("k1_penalty", [[row(kl=k)] for k in (0.4, 0.6, 0.3, 0.3)], "The failure does not show"),
        ("k1_penalty", [[row(kl=k)] for k in (0.4, 0.1, 0.03, 0.07)], "The failure does not show"),
        ("addition", [RISES], "RL polishes"),
        ("addition", [STAYS], "RL does not polish"),
    ],
)
def test_the_sentence_follows_the_numbers(failure, runs, begins):
    lab = Scripted(*runs)
    assert getattr(grpo_failures, failure)(lab).startswith(begins)
    assert not lab.runs  # all were asked for


def test_who_held_the_policy_is_said():
    found = [
        grpo_failures.k1_penalty(Scripted(*([row(kl=k)] for k in kls)))
        for kls in ((0.4, 0.6, 0.03, 0.3), (0.4, 0.6, 0.03, 0.07), (0.4, 0.6, 0.3, 0.3))
    ]
    assert ["by k3.", "by k3 and unbiased.", "by none of them."] == [
        re.search(r"by [^:]*\.$", sentence)[0] for sentence in found
    ]


def test_what_is_changed_is_one_field_or_two():
    changed = {}
    for failure in FAILURES:
        if failure is not grpo_failures.short_window:
            lab = Scripted(*[course(0.3, 0.4, right=1.0, wrong=1.0)] * 4)
            failure(lab)
            changed[failure.__name__] = [sorted(changes) for changes in lab.changes]
    assert changed == {
        "no_signal": [["learning_rate"], ["learning_rate"]],
        "hot_start": [[], ["learning_rate", "prompts_per_step"]],
        "bluffing": [[], []],
        "rare_thoughts": [[], []],
        "length_bias": [[], ["aggregation"]],
        "k1_penalty": [[], *[["kl", "kl_coef"]] * 3],
        "addition": [["learning_rate"]],
    }


@pytest.mark.parametrize(("short", "begins"), [(0.6, "The window shows"), (0.1, "The failure")])
def test_the_window_shows_behind_forty_tokens(monkeypatch, capsys, short, begins):
    read = []

    def pretrainer(task, recipe, rng, device):
        read.append(recipe.pretrain)
        window = recipe.pretrain.sequence_length
        return SimpleNamespace(model=window, step=lambda: {"main_loss": 0.7})

    def going_on(lab, window):
        broken = short if window == 40 else 0.05
        return [0.5] * 5, [window == 40, window == 40, broken, broken, broken]

    monkeypatch.setattr(grpo_failures, "pretrainer", pretrainer)
    monkeypatch.setattr(grpo_failures, "without_mtp", lambda model: model)
    monkeypatch.setattr(grpo_failures, "going_on", going_on)
    lab = Scripted()
    lab.taught = lambda model, task, steps: model
    assert grpo_failures.short_window(lab).startswith(begins)
    assert [(p.batch_size, p.sequence_length) for p in read] == [(24, 40), (10, 96)]


def test_thoughts_are_cut_behind_an_attempt_and_judged_by_how_they_end(monkeypatch):
    asked, words = [], Countdown.tokenizer
    answers = [("9 -", True), ("</think> ?", True), ("9 -", False), ("", True)]

    class Sampler:
        def __init__(self, model, tokenizer, group_size, limit):
            pass

        def sample(self, prompts, rng):
            asked.append(prompts)
            return SimpleNamespace(completions=lambda tokenizer: answers)

    monkeypatch.setattr(grpo_failures, "GroupSampler", Sampler)
    nats, broken = grpo_failures.going_on(Lab(tiny_model(), size=QUICK), tiny_model())
    assert broken == [0.5] * 5 and nats == pytest.approx([math.log(33)] * 5, abs=0.6)
    assert [{len(p) for p in prompts} for prompts in asked] == [{c} for c in grpo_failures.CUTS]
    ends = {words.decode(p).split()[-1] for prompts in asked for p in prompts}
    assert ends == {"?"}  # all of these searches are still on


def test_two_results_differ_where_their_errors_are_small_beside_it():
    assert gap(row(solved=0.3), row(solved=0.4)) == pytest.approx(0.1 / math.hypot(0.02, 0.02))
    nothing = Row(0, {}, SimpleNamespace(accuracy=0.0, standard_error=0.0, statistics={}))
    assert gap(nothing, nothing) == 0
    assert nothing.show("reward") == "–" and row(equal=0.25).show("equal") == "25%"


def test_what_is_counted_of_answers():
    texts = [
        "<think> 9 - 5 = 4 ? 8 + 5 = 13 ! </think> 8 + 5",
        "<think> 9 - 5 = 4 ! </think> 9 - 5",
        "<think> 9 - 5 = 4 !",
    ]
    ends = [True, True, False]
    answers = [Completion(PROBLEM, t, e) for t, e in zip(texts, ends, strict=True)]
    found = counted(Countdown(), answers)
    assert (found["right"], found["wrong"]) == (18, (12 + 7) / 2)
    assert found["says"] == 3 / 4 and found["verdicts"] == 2 / 4 and found["hits"] == 1 / 4
    plain = counted(Addition(), [Completion(Problem("1 =", (1, 2)), "<think> </think> 3", True)])
    assert plain["right"] == 4 and math.isnan(plain["wrong"]) and "says" not in plain


def test_verdicts_of_another_target_say_nothing_about_the_one_asked_for():
    task, teacher, rng = Countdown(), Elsewhere(), np.random.default_rng(0)
    answers = []
    for _ in range(3000):
        problem = task.draw(rng)
        answers.append(Completion(problem, teacher.demonstration(problem, rng), True))
    marked = {True: [], False: []}
    for one in answers:
        for value, mark in re.findall(r"= (\d+) ([!?])", one.text):
            marked[int(value) == one.problem.facts[1]].append(mark == "!")
    of_hits, of_misses = np.mean(marked[True]), np.mean(marked[False])
    assert len(marked[True]) > 500 and abs(of_hits - of_misses) < 0.05  # of targets, few are rare
    assert all(one.thought.malformed is None for one in answers)


def tiny_model():
    return DeepSeekV3(RECIPE.config(Countdown()), np.random.default_rng(0))


def test_a_run_that_diverges_ends_with_a_row_and_says_why(monkeypatch, capsys):
    step = GRPOTrainer.step

    def stops(trainer):
        if trainer.done == 1:
            raise DivergedError("step 2: enough")
        return step(trainer)

    monkeypatch.setattr(GRPOTrainer, "step", stops)
    size = Size(9, 4, 2, 1, plan=QUICK.plan)
    rows = Lab(tiny_model(), size=size).run("a run", tiny_model(), Countdown())
    assert [r.step for r in rows] == [0, 1]
    assert "the trainer stopped: step 2: enough" in capsys.readouterr().out


def test_nothing_asked_for_is_refused(capsys):
    with pytest.raises(SystemExit):
        grpo_failures.main([])
    assert "expected one or more" in capsys.readouterr().err


@pytest.mark.slow
def test_every_experiment_runs_and_ends_with_a_sentence(capsys):
    grpo_failures.main(["--all", "--quick", "--threads", "1"])
    out = capsys.readouterr().out
    assert [out.count(f"── {f.__name__.replace('_', ' ')}:") for f in FAILURES] == [1] * 8
    assert len(re.findall(r"^\S.*\.  \(\d+ s\)$", out, re.M)) == 8
    assert out.count("as above") == 3  # of length bias and of the penalty, and of addition
    tables = re.findall(r"^  step +reward.*\n((?:  +\d.*\n)+)", out, re.M)
    assert len(tables) == 12 and all(len(table.splitlines()) == 2 for table in tables)
