"""The text that a base model of mini-Countdown reads, and the skills that it is asked for."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest

from minideepseek.reasoning import countdown
from minideepseek.reasoning.countdown import Countdown
from tests.reasoning.test_countdown import (
    EVERY,
    STEP,
    TASK,
    misses,
    read_steps,
    solutions,
    teacher,
)


@pytest.fixture(scope="module")
def documents():
    rng = np.random.default_rng(0)
    return [TASK.document(rng) for _ in range(20_000)]


KINDS = {
    "fact": r"(\d+) ([+-]) (\d+) = (\d+)",
    "check": rf"> (?P<target>\d+) : (?P<steps>{STEP}( {STEP})*)",
    "direct": r"(?P<prompt>[\d ]+ > \d+ :) (?P<answer>\d+ [+-] \d+)",
    "trace": rf"(?P<prompt>[\d ]+ > \d+ :) <think> (?P<thinking>{STEP}( {STEP})*) </think> "
    r"(?P<answer>\?|\d+ [+-] \d+)",
}


def sorted_by_kind(documents):
    """Kind → matches; every document is of exactly one kind."""
    kinds = {kind: [] for kind in KINDS}
    for document in documents:
        found = [(k, m) for k, form in KINDS.items() if (m := re.fullmatch(form, document))]
        assert len(found) == 1, document
        kinds[found[0][0]].append(found[0][1])
    return kinds


def test_every_document_is_true_and_of_its_share(documents):
    kinds = sorted_by_kind(documents)
    shares = {kind: len(found) / len(documents) for kind, found in kinds.items()}
    stated = {"fact": 0.10, "check": 0.44, "direct": 0.04, "trace": 0.42}
    assert all(abs(shares[kind] - stated[kind]) < 0.014 for kind in stated), shares
    for found in kinds["fact"]:
        read_steps(f"{found[0]} ?", target=0)
    assert len({found[0] for found in kinds["fact"]}) == 72
    for found in kinds["check"]:
        read_steps(found["steps"], target=int(found["target"]))
    for verdict in "!?":  # no target gives the verdict away
        seen = {found["target"] for found in kinds["check"] if verdict in found[0]}
        assert seen == {str(n) for n in range(1, 18)}


def test_checks_are_chains_in_which_nothing_but_the_fact_tells_the_verdict(documents):
    """Targets and lengths; the share of hits in all, by target, by place, after each verdict."""
    pairs = itertools.combinations(range(9, 0, -1), 2)
    ways = Counter(value for a, b in pairs for value in (a + b, a - b))
    exact = sum(n * (1 + n / 72) / 2 for n in ways.values()) / 72
    assert exact == pytest.approx(695 / 1296, abs=1e-15)
    assert f"{100 * exact:.0f} % of them hits" in countdown.__doc__
    chains = sorted_by_kind(documents)["check"]
    lengths, hits = Counter(), {}
    for chain in chains:
        verdicts = [word == "!" for word in chain[0].split() if word in "!?"]
        lengths[len(verdicts)] += 1
        for place, hit in enumerate(verdicts):
            before = place and verdicts[place - 1]
            keys = ("all", ("place", place), ("target", int(chain["target"])), ("after", before))
            for key in keys if place else keys[:3]:
                hits.setdefault(key, []).append(hit)
    targets = Counter(int(chain["target"]) for chain in chains)
    for target, n in ways.items():
        expected = len(chains) * n / 72
        assert abs(targets[target] - expected) < 4 * expected**0.5
    assert set(lengths) == {1, 2, 3, 4, 5}
    assert all(abs(n - len(chains) / 5) < 4 * (0.16 * len(chains)) ** 0.5 for n in lengths.values())
    assert len(hits) == 1 + 5 + 17 + 2
    for key, found in hits.items():
        # After a hit its target is likelier to be one that many facts hit: by 0.0003, unseen here.
        expected = (1 + ways[key[1]] / 72) / 2 if key[0] == "target" else exact
        assert abs(np.mean(found) - expected) < 4 * 0.5 / len(found) ** 0.5, key


@pytest.mark.parametrize(("numbers", "largest"), [(4, 9), (2, 2), (2, 3), (5, 20)])
def test_skills_are_the_facts_and_both_verdicts_on_each(numbers, largest):
    """As a document would put it: a fact, or the first step of its checks."""
    task = Countdown(numbers, largest)
    skills = task.skills()
    assert list(skills) == ["facts", "verdicts"]
    pairs = list(itertools.combinations(range(largest, 0, -1), 2))
    facts = {f"{a} + {b} = {a + b}" for a, b in pairs} | {f"{a} - {b} = {a - b}" for a, b in pairs}
    values = {fact.split()[-1] for fact in facts}
    assert sorted(f"{text} {word}" for text, word in skills["facts"]) == sorted(facts)
    judged = Counter()
    for text, word in skills["verdicts"]:
        assert task.tokenizer.encode(f"{text} {word}").size == len(text.split()) + 1
        found = re.fullmatch(KINDS["check"], f"{text} {word}")
        assert len(read_steps(found["steps"], int(found["target"]))) == 1
        assert found["target"] in values
        judged[found["steps"]] += 1
    assert judged == Counter(f"{fact} {verdict}" for fact in facts for verdict in "!?")


def test_no_target_of_the_skills_gives_its_verdict_away():
    verdicts = TASK.skills()["verdicts"]
    for verdict in "!?":
        targets = {text.split()[1] for text, word in verdicts if word == verdict}
        assert targets == {str(n) for n in range(1, 18)}
    assert TASK.skills() == Countdown().skills()


def test_documents_with_a_problem_are_what_the_model_will_see(documents):
    """Between the tokens at both ends, a problem and its response: so the base transfers."""
    training = {p.prompt: p for p in EVERY if not TASK.is_held_out(p)}
    kinds, tokenizer = sorted_by_kind(documents), TASK.tokenizer
    for found in kinds["direct"] + kinds["trace"]:
        problem = training[found["prompt"]]
        numbers, target = problem.facts
        assert found["answer"] == "?" or found["answer"] in solutions(numbers, target)
        response = found[0].removeprefix(f"{problem.prompt} ")
        whole = np.concatenate([TASK.prompt_ids(problem), TASK.response_ids(response)])
        ids = tokenizer.encode(found[0], allow_special=True)
        assert ids.tolist() == whole[1:-1].tolist()
        assert (whole[0], whole[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        if "thinking" in found.groupdict():
            read_steps(found["thinking"], target)
    assert len({found["prompt"] for found in kinds["trace"]}) > 0.99 * len(training)


def test_traces_are_as_impatient_as_the_teacher(documents):
    weights = {p: n for p, n in EVERY.items() if not TASK.is_held_out(p)}
    all_misses = {p: np.array([misses(p, start) for start in range(12)]) for p in weights}
    traces = sorted_by_kind(documents)["trace"]
    right = 100 * np.mean([found["answer"] != "?" for found in traces])
    assert abs(right - teacher(all_misses, weights, 0.3)[0]) < 4 * 100 * 0.5 / len(traces) ** 0.5
    for give_up, seen in ((0.0, False), (1.0, True)):
        task, rng = Countdown(give_up=give_up), np.random.default_rng(0)
        traces = sorted_by_kind(task.document(rng) for _ in range(400))["trace"]
        texts = [found[0] for found in traces]
        assert len(texts) > 120 and any(text.endswith("</think> ?") for text in texts) == seen
        if give_up == 1:
            assert all(text.count(" ?") <= 2 for text in texts)


class Direct:
    """A generator whose first fraction makes a document a direct answer."""

    def __init__(self, rng):
        self.rng, self.integers = rng, rng.integers
        self.random = lambda: countdown.FACTS + countdown.CHECKS + 0.5 * countdown.DIRECT


def test_all_solutions_are_written_in_direct_answers():
    answers, rng = {}, np.random.default_rng(0)
    found = sorted_by_kind(TASK.document(Direct(rng)) for _ in range(3000))
    assert len(found["direct"]) == 3000
    for document in found["direct"]:
        answers.setdefault(document["prompt"], set()).add(document["answer"])
    several = [prompt for prompt, seen in answers.items() if len(seen) > 1]
    assert len(several) > 150
