"""Samples come from where they should, and go on where they stopped."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.errors import CheckpointError, InputError
from minideepseek.reasoning.r1.sources import Demonstrations, SampleSet
from minideepseek.reasoning.tasks import Problem
from tests.reasoning.r1 import common
from tests.reasoning.r1.common import ECHO


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def listed(batch):
    return [(p.tolist(), r.tolist()) for p, r in batch]


def source(fixed: bool, count: int = 3, seed: int = 0, held: int = 5):
    if fixed:
        return SampleSet(common.samples(held), count, rng(seed))
    return Demonstrations(ECHO, count, rng(seed))


def test_demonstrations_are_the_teachers_on_training_problems():
    for prompt, response in Demonstrations(ECHO, 50, rng()).next_batch():
        text = ECHO.tokenizer.decode(prompt)
        assert text.startswith("<bos> ") and prompt.dtype == response.dtype == np.int64
        problem = Problem(text.removeprefix("<bos> "), tuple(map(int, text.split()[1:3])))
        assert not ECHO.is_held_out(problem)
        words = ECHO.tokenizer.decode(response).split()
        assert words[0] == "<think>" and words[-1] == "<eos>" and "</think>" in words
        assert ECHO.verify(problem, words[-2])


@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 12))
def test_each_sample_of_a_set_comes_once_an_epoch(held, count, batches):
    samples = [(np.array([i]), np.array([i])) for i in range(held)]
    source = SampleSet(samples, count, rng())
    seen = [int(p[0]) for _ in range(batches) for p, _ in source.next_batch()]
    assert len(seen) == count * batches
    for start in range(0, len(seen), held):
        epoch = seen[start : start + held]
        assert len(set(epoch)) == len(epoch)
    assert source.epoch == (len(seen) - 1) // held


def test_epochs_are_ordered_anew():
    source = SampleSet([(np.array([i]), np.array([i])) for i in range(20)], 20, rng())
    one, two = ([int(p[0]) for p, _ in source.next_batch()] for _ in range(2))
    assert one != two != sorted(two) and sorted(one) == sorted(two) == list(range(20))


@given(st.booleans(), st.integers(1, 7), st.integers(0, 9), st.integers(0, 99))
def test_a_source_goes_on_where_it_was_saved(fixed, count, before, seed):
    one = source(fixed, count, seed)
    for _ in range(before):
        one.next_batch()
    state = json.loads(json.dumps(one.state_dict()))
    other = source(fixed, count, seed + 1)
    other.next_batch()
    other.load_state_dict(state)
    assert other.state_dict() == state
    for _ in range(4):
        assert listed(one.next_batch()) == listed(other.next_batch())


BAD = st.none() | st.integers(-2, 9) | st.just("x") | st.just({}) | st.just([1])


@given(st.booleans(), st.sampled_from(["task", "samples", "epoch", "given", "rng"]), BAD)
def test_a_damaged_state_is_refused_or_used_and_nothing_in_between(fixed, name, value):
    one = source(fixed)
    damaged = one.state_dict() | {name: value}
    before = one.state_dict()
    try:
        one.load_state_dict(damaged)
    except CheckpointError as error:
        assert str(error).startswith("source state: ") and "\n" not in str(error)
        assert one.state_dict() == before
    else:
        one.next_batch()


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("state", [None, [], "x", {}, {"task": "echo", "rng": {"state": 1}}])
def test_what_is_no_state_is_refused(fixed, state):
    with pytest.raises(CheckpointError, match="^source state: "):
        source(fixed).load_state_dict(state)


@pytest.mark.parametrize("fixed", [True, False])
def test_a_generators_state_cut_short_leaves_no_trace(fixed):
    one = source(fixed)
    before = one.state_dict()
    cut = before | {"rng": {"bit_generator": "PCG64", "state": {"state": 1, "inc": 3}}}
    with pytest.raises(CheckpointError, match="holds no state of a PCG64"):
        one.load_state_dict(cut)
    assert one.state_dict() == before
    again = source(fixed)
    for _ in range(3):  # into the next epoch, which the generator orders
        assert listed(one.next_batch()) == listed(again.next_batch())


def test_a_place_behind_the_end_is_refused():
    one = source(True)
    one.load_state_dict(one.state_dict() | {"given": 5})
    with pytest.raises(CheckpointError, match="at sample 6 of 5, expected a set of 5"):
        one.load_state_dict(one.state_dict() | {"given": 6})


def test_a_set_of_another_size_is_refused():
    with pytest.raises(CheckpointError, match="of 5, expected a set of 6"):
        source(True, held=6).load_state_dict(source(True).state_dict())


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("count", [0, -1, 2.0, True])
def test_counts_are_checked(fixed, count):
    with pytest.raises(InputError, match="^samples_per_step: got"):
        source(fixed, count)


@pytest.mark.parametrize("bad", [None, 7, np.random.Generator(np.random.MT19937(0))])
def test_generators_are_checked(bad):
    for make in (lambda: Demonstrations(ECHO, 1, bad), lambda: SampleSet([], 1, bad)):
        with pytest.raises(InputError, match="^rng: got .*PCG64"):
            make()


def test_an_empty_set_is_refused():
    with pytest.raises(InputError, match="^samples: got none"):
        SampleSet([], 1, rng())
