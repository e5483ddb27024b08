"""The table of seeds: which are run, what is read again, and its figures by hand."""

import json
from pathlib import Path

import pytest

from demos import reasoning_seeds
from demos.reasoning_seeds import chart, main, measure, table
from minideepseek.autograd.blocks import set_threads
from minideepseek.errors import GateError
from minideepseek.reasoning.record import ReasoningRecord
from tests.reasoning import small
from tests.reasoning.fake_record import fake_evaluation, fake_grpo


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    with small.memory() as name:
        small.install(monkeypatch, Path(name, "shipped"))
        Path(name, "here").mkdir()
        monkeypatch.chdir(Path(name, "here"))
        yield
        monkeypatch.undo()
    set_threads(1)


def record(*shares, curve=()):
    """A record with these accuracies of the first moments."""
    found = {
        moment: fake_evaluation(share, share + 0.1, 20 + share)
        for moment, share in zip(reasoning_seeds.MOMENTS, shares, strict=False)
    }
    return ReasoningRecord(evaluations=found, stages={"grpo": curve})


def numbers(line: str) -> list[str]:
    return line.split()[-6:]


def test_a_row_for_each_seed_then_mean_least_and_most():
    lines = table({0: record(0.1, 0.3), 4: record(0.2, 0.35), 7: record(0.6, 0.31)})
    assert lines[0].split() == ["moment", "seed", *reasoning_seeds.MEASURES]
    assert len({len(line) for line in lines}) == 1
    seeds = [line[:24].split()[-1] for line in lines[1:7]]
    assert seeds == ["0", "4", "7", "mean", "least", "most"]
    assert [line.startswith("base ") for line in lines[1:]] == [True] * 6 + [False] * 6
    assert numbers(lines[1]) == ["10.0%", "20.0%", "57.0%", "10.0%", "98.7%", "20.1"]
    assert [numbers(line)[0] for line in lines[4:7]] == ["30.0%", "10.0%", "60.0%"]
    assert [numbers(line)[5] for line in lines[4:7]] == ["20.3", "20.1", "20.6"]
    assert lines[7].startswith("cold start      0") and numbers(lines[10])[0] == "32.0%"


def test_one_seed_has_no_mean_and_a_moment_that_is_missing_no_row():
    lines = table({3: record(0.1)})
    assert len(lines) == 2 and lines[1].startswith("base            3 ")
    assert len(table({0: record(0.1), 1: record(0.2, 0.3)})) == 1 + 5 + 1


def test_measures_of_fewer_samples_have_no_pass_at_8():
    found = {"accuracy": 0.5, "pass_at": {"1": 0.5, "2": 0.75}}
    assert measure(found, "accuracy") == 0.5 and measure(found, "pass@2") == 0.75
    assert measure(found, "pass@8") != measure(found, "pass@8")


def test_the_chart_has_a_line_for_each_seed():
    drawn = chart({0: record(curve=fake_grpo(40)), 5: record(curve=fake_grpo(20)), 6: record()})
    assert "seed 0" in drawn and "seed 5" in drawn and drawn.count("<svg role") == 1


def runs(monkeypatch, answer) -> list:
    """The jobs that are run, each answered by `answer(job)`."""
    jobs = []

    def run(job, say):
        jobs.append(job)
        job.out.mkdir(parents=True)
        return answer(job)

    monkeypatch.setattr(reasoning_seeds, "run", run)
    return jobs


@pytest.mark.parametrize(
    "options, seeds, quick",
    [
        ("", [0], False), ("--full", [0, 1, 2, 3, 4], False), ("--quick", [0], True),
        ("--seeds 7 3", [7, 3], False), ("--full --seeds 2", [2], False),
    ],
)  # fmt: skip
def test_which_seeds_are_run_where(monkeypatch, capsys, options, seeds, quick):
    jobs = runs(monkeypatch, lambda job: record(job.seed / 10, curve=fake_grpo(20)))
    assert main([*options.split(), "--out", "out"]) == 0
    assert [(job.seed, job.quick, job.out) for job in jobs] == [
        (seed, quick, Path(f"out/seed-{seed}")) for seed in seeds
    ]
    results = json.loads(Path("out/results.json").read_text("utf-8"))
    assert {seed: found["base"]["accuracy"] for seed, found in results.items()} == {
        str(seed): seed / 10 for seed in seeds
    }
    out = capsys.readouterr().out
    assert "\n".join(table({job.seed: record(job.seed / 10) for job in jobs})) in out
    assert all(f"seed {seed}" in Path("out/accuracy.html").read_text("utf-8") for seed in seeds)


def test_an_interrupted_seed_ends_it_and_a_failed_gate_is_one_sentence(monkeypatch, capsys):
    jobs = runs(monkeypatch, lambda job: None)
    assert main(["--full", "--out", "out"]) == 130 and len(jobs) == 1
    assert not Path("out/results.json").exists()

    def fails(job):
        raise GateError("the base's wit: 3.0%")

    jobs = runs(monkeypatch, lambda job: record(0.1) if job.seed == 0 else fails(job))
    with pytest.raises(SystemExit) as caught:
        main(["--full", "--out", "other"])
    assert caught.value.code == 1 and len(jobs) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "seed 1: the base's wit: 3.0%"


def test_a_quick_run_goes_on_and_is_not_taken_for_a_whole_one(capsys):
    assert main(["--quick", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert out.rstrip().endswith(
        "numbers: runs/reasoning-seeds/results.json; picture: runs/reasoning-seeds/accuracy.html"
    )
    rows = [line for line in out.splitlines() if line[:24].endswith("0       ")]
    assert [line[:16].strip() for line in rows] == ["cold start", "grpo", "grpo, τ = 0.6"]
    assert main(["--quick", "--threads", "1"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line in rows] == rows
    for arguments, expected in (
        ([], "seed 0: runs/reasoning-seeds/seed-0: begun with seed 0 and quick = True, got"),
        (["--seeds", "-1"], "seed -1: seed: got -1, expected an integer of at least 0"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        device, sentence = capsys.readouterr().err.splitlines()
        assert caught.value.code == 1 and sentence.startswith(expected)
        assert device == "device: cpu (the default; --device cuda uses a GPU)"
