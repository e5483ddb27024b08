"""The demo of the sampler's speed: what it counts, and that it runs."""

import re

import numpy as np
import pytest

from demos import sampling_speed
from demos.sampling_speed import answer_tokens, clocked, our_work, prompts_of, race
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning.countdown import Countdown
from minideepseek.reasoning.grpo import sampler
from minideepseek.reasoning.grpo.plan import GRPOPlan
from minideepseek.reasoning.recipe import RECIPE

PLAN = GRPOPlan(prompts_per_step=2, group_size=3)


def tiny_model():
    return DeepSeekV3(RECIPE.config(Countdown()), np.random.default_rng(0))


def test_tokens_of_answers_end_with_the_first_end_token():
    assert answer_tokens(np.array([[5, 2, 7, 2], [2, 0, 0, 0], [5, 6, 7, 8]]), end=2) == 2 + 1 + 4


def test_prompts_need_no_padding():
    assert {len(prompt) for prompt in prompts_of(Countdown(), 40)} == {8}


def test_where_nobody_leaves_the_batch_keeps_its_rows(monkeypatch):
    read, widths = sampler.GroupSampler._read, []

    def watched(self, feed, cache, lengths=None):
        widths.append(len(feed))
        return read(self, feed, cache, lengths)

    monkeypatch.setattr(sampler.GroupSampler, "_read", watched)
    model, tokens, fewest, usual = tiny_model(), [], [], sampler.LEAVING
    for leaving in (usual, 1.0):
        widths.clear()
        tokens.append(our_work(model, PLAN, leaving)())
        fewest.append(min(widths[1:]))
    assert tokens[0] == tokens[1] and fewest[0] < 6 and fewest[1] == 6
    assert sampler.LEAVING == usual


def test_the_first_round_of_a_race_does_not_count(monkeypatch):
    clock = iter([0.0, 9.0, 9.0, 9.5, 10.0, 12.0])
    busy = iter([0.0, 9.0, 9.0, 9.25, 9.25, 10.0])
    monkeypatch.setattr(sampling_speed.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(sampling_speed.time, "process_time", lambda: next(busy))
    assert race({"one": lambda: 10}, repeats=2) == {"one": ((20 + 5) / 2, 1.25, 0.5)}


def test_functions_are_timed_and_put_back():
    before = sampler.draw_tokens
    with clocked("draw_tokens") as spent:
        assert sampler.draw_tokens(np.array([[0.0, 1.0]]), np.array([0.5]))[0] == [1]
    assert spent["draw_tokens"] > 0 and sampler.draw_tokens is before


@pytest.mark.parametrize(("cpu", "busy"), [(0.9, False), (0.5, True)])
def test_a_busy_machine_is_told(monkeypatch, capsys, cpu, busy):
    monkeypatch.setattr(sampling_speed, "race", lambda works, repeats: {"ours": (10.0, 1.0, cpu)})
    monkeypatch.setattr(sampling_speed, "parts", lambda work, repeats: {})
    monkeypatch.setattr(sampling_speed, "of_a_step", lambda model, plan: (1.0, 3.0))
    monkeypatch.setattr(sampling_speed, "their_works", lambda model, plan, threads: {})
    sampling_speed.main(["--threads", "1"])
    out = capsys.readouterr().out
    assert ("no ratio counts" in out) == busy and "25% sampling" in out


@pytest.mark.slow
def test_it_runs_and_its_shares_are_of_a_whole(capsys):
    sampling_speed.main(["--quick", "--threads", "1"])
    out = capsys.readouterr().out
    assert re.search(r"^   ours +[\d,]+ +[\d.]+ +[\d.]+ +1\.00×$", out, re.M)
    shares = re.search(r"model (\d+)%, the distribution (\d+)%, the draw (\d+)%", out).groups()
    assert 98 <= sum(map(int, shares)) <= 102
    assert re.search(r"^3  a step of 8 answers: .* \d+% sampling$", out, re.M)
