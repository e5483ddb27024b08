"""Demos on a card, by the fake cupy; those that have no use for one say so in one sentence."""

import importlib
import importlib.util
import json
import re

import pytest

from demos import common, gpu_benchmark, gpu_lab, reasoning_seeds
from minideepseek.autograd.blocks import set_threads
from tests import standin
from tests.autograd.test_cuda import run

ON_A_CARD = {
    "long_context": "--quick", "moe_balance": "--quick", "grpo_failures": "--quick --hot-start",
    "r1_pipeline": "--quick", "record_book": "--quick",
}  # fmt: skip
ALONE = (
    "attention_kinds benchmark against_autograd fp8_inference fp8_numbers fp8_training growth "
    "mla_cost moe_benchmark mtp_effect open_in_transformers sampling_speed speculative"
).split()


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_A_CARD)
def test_a_demo_runs_on_a_card(tmp_path, name):
    out = [] if name == "grpo_failures" else ["--out", str(tmp_path)]
    command = ["-m", f"demos.{name}", *ON_A_CARD[name].split(), *out, "--device", "cuda"]
    done = run(*command, timeout=280)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("device: cuda:0, Paper H100 number 0 (--device)") == 1


def test_the_recipes_seeds_run_on_the_device_that_is_chosen(tmp_path, monkeypatch):
    """`tests/reasoning/test_journey.py` runs the job on one."""
    monkeypatch.setattr(common, "_device", "cpu")  # put back afterwards
    jobs = []
    monkeypatch.setattr(reasoning_seeds, "run", lambda job, say: jobs.append(job))
    standin.install()
    out = ["--quick", "--out", str(tmp_path)]
    assert reasoning_seeds.main([*out, "--device", "standin"]) == 130
    assert [job.device for job in jobs] == ["standin"]


def test_results_of_a_card_have_a_folder_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = common.sizes("A demo.", "all").parse_args(["--quick"])
    assert common.chosen(options, "demo")[1].name == "quick"
    monkeypatch.setattr(common, "_device", "cuda:1")
    assert common.chosen(options, "demo")[1].name == "quick-cuda-1"


def test_processes_beside_each_other_use_the_same_device(monkeypatch):
    monkeypatch.setattr(common, "_device", "cuda:1")
    assert list(common.side_by_side(common.here, [(), ()], 1)) == ["cuda:1"] * 2
    assert list(common.side_by_side(device_of, [(1,), (2,)], 2)) == ["cuda:1 1", "cuda:1 2"]


def device_of(number):
    return f"{common.here()} {number}"


@pytest.mark.parametrize("name", ALONE)
def test_a_demo_that_has_no_use_for_a_card_says_why(name, capsys, monkeypatch):
    if name == "against_autograd" and not importlib.util.find_spec("autograd"):
        pytest.skip("HIPS autograd is not installed")
    main = importlib.import_module(f"demos.{name}").main
    with pytest.raises(SystemExit) as ended:
        main(["--device", "cuda"])
    assert ended.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    why = re.fullmatch(r".*error: argument --device: got cuda, expected cpu: (.+)", line).group(1)
    monkeypatch.setenv("MINIDEEPSEEK_DEVICE", "cuda")
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr()
    assert printed.err == f"device: cpu, although MINIDEEPSEEK_DEVICE is cuda: {why}\n"
    assert " ".join(f"cpu alone: {why}".split()) in " ".join(printed.out.split())


def test_a_full_card_is_one_sentence_in_a_demo():
    done = run("-m", "demos.grpo_failures", "--quick", "--hot-start", "--device", "cuda",
               wrong="small")  # fmt: skip
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith("minideepseek: the card is out of memory (Out of memory allocating")
    assert line.endswith("; lower the sizes, as --quick does, or take --device cpu")


# ------------------------------------------------------------------------------------ the benchmark


def test_without_a_card_launches_are_all_there_is(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MINIDEEPSEEK_DEVICE", raising=False)
    gpu_benchmark.main(["--quick", "--device", "standin", "--out", str(tmp_path)])
    facts, counted, said = capsys.readouterr().out.split("\n\n")
    assert facts == "speeds and memory: not measured: no card" and not list(tmp_path.iterdir())
    assert all("not measured: no card" in line for line in said.splitlines())
    title, head, row = counted.splitlines()
    assert title == "Launches, counted by the stand-in"
    size, step, *numbers = re.split(r"\s{2,}", row)
    assert size == "256 × 2, 64 tokens" and int(step.replace(",", "")) > 1000
    assert numbers[0] == "2" == numbers[2] == numbers[4]  # one MoE layer, and the loss or logits


def test_no_card_is_said_and_a_card_that_was_asked_for_is_wanted(capsys, monkeypatch):
    monkeypatch.delenv("MINIDEEPSEEK_DEVICE", raising=False)
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    gpu_benchmark.main(["--quick"])
    assert "launches alone are counted" in capsys.readouterr().err
    for device in ("cuda", "cpu"):
        with pytest.raises(ValueError, match="device"):
            gpu_benchmark.main(["--quick", "--device", device])


def test_launches_are_of_layers_and_experts_alone():
    """Twice as many tokens, twice the width: the same kernels."""
    small, wide = (gpu_lab.Size(times, 2, 4, 64) for times in (1, 2))
    standin.install()
    set_threads(1)  # two would count at the same time
    counters, found = standin.counters, []
    for size in (small, wide, gpu_lab.Size(1, 2, 4, 128)):
        work = gpu_lab.Work(size, "standin")
        work.step()
        counters.reset()
        work.step()
        found.append((counters.launches, counters.syncs))
    assert found[0] == found[1] == found[2]
    counted = gpu_lab.launches(small, (1,))
    assert (counted["train"], counted["train waits"]) == found[0]


@pytest.mark.slow
def test_with_a_card_it_leaves_a_dated_table(tmp_path):
    """By the fake cupy, whose times are the host's: that everything is measured and written."""
    done = run("-m", "demos.gpu_benchmark", "--quick", "--repeats", "1", "--device", "cuda",
               "--out", str(tmp_path))  # fmt: skip
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "results.json").read_text("utf-8"))
    (table,) = tmp_path.glob("*.txt")
    assert table.name == f"{numbers['facts']['date']} Paper H100 number 0.txt"
    text = table.read_text("utf-8")
    assert "cupy: 14.2.0, CUDA: 13.2, driver: 13.2" in text and "not measured" not in text
    (size,) = numbers["sizes"]
    parts = size["memory"]
    names = ("parameters", "gradients", "moments", "saved")
    assert parts["parts"] == sum(parts[name] for name in names) and parts["saved"] > 0
    assert parts["peak"] > parts["parameters"]


def test_the_goal_is_the_configuration_that_is_asked_for():
    config = gpu_lab.GOAL.config
    assert (config.hidden_size, config.num_hidden_layers, config.n_routed_experts) == (1024, 8, 16)
    assert gpu_lab.GOAL.tokens == 8192 and gpu_lab.SIZES[-1] == gpu_lab.GOAL
