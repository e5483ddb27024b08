"""The command line's reasoning verbs and the journey of both parts; small.py's sizes throughout."""

import dataclasses
import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from minideepseek.autograd.blocks import set_threads
from minideepseek.cli import main
from minideepseek.cli.reasoning import GRPO, SFT
from minideepseek.model.checkpoint import from_pretrained
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.tokenizer import ByteTokenizer
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning import jobs, journey
from minideepseek.reasoning.evaluate import evaluate
from minideepseek.reasoning.grpo.plan import GRPOPlan
from minideepseek.reasoning.grpo.trainer import GRPOTrainer
from minideepseek.reasoning.jobs import PLANS, StageJob
from minideepseek.reasoning.r1.sft import SFTPlan, SFTTrainer
from minideepseek.reasoning.recipe import Gate
from minideepseek.training.job import store_job
from minideepseek.training.rundir import list_checkpoints, read_metrics
from minideepseek.training.trainer import Trainer
from tests.reasoning import small
from tests.reasoning.grpo.tiny import same, weights
from tests.test_cli import Page
from tests.training import tiny
from tests.training.fake_run import fake_run

TASK = small.Small()


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch):
    """Each test in its own empty directory, with small numbers, and one thread afterwards; the
    folder where its models may lie."""
    monkeypatch.delenv("MINIDEEPSEEK_DEVICE", raising=False)
    monkeypatch.setitem(jobs.PLANS, "sft", Short)
    with small.memory() as name:
        small.install(monkeypatch, Path(name, "elsewhere/shipped"))
        Path(name, "here").mkdir()
        monkeypatch.chdir(Path(name, "here"))
        yield Path(name, "elsewhere")
        monkeypatch.undo()  # and leave it, before it is removed
    set_threads(1)


@dataclasses.dataclass(frozen=True)
class Short(SFTPlan):
    """No packed row longer than the nano preset's positions."""

    sequence_length: int = 64


@pytest.fixture
def text(elsewhere) -> str:
    file = elsewhere / "text.txt"
    file.write_text(tiny.text(30, 3), "utf-8")
    return str(file)


def files() -> dict:
    return {path: path.is_file() and path.read_bytes() for path in Path().rglob("*")}


def refused(capsys, arguments: str | list, expected: str, code: int = 2) -> None:
    """Exit code, one sentence on standard error that begins with `expected`, nothing written."""
    words = arguments.split() if isinstance(arguments, str) else [str(a) for a in arguments]
    before = files()
    capsys.readouterr()
    assert main(words) == code
    err = capsys.readouterr().err
    lines = [n for n in err.splitlines() if n.startswith("minideepseek: ") or "Traceback" in n]
    assert len(lines) == 1 and lines[0].startswith(f"minideepseek: {expected}"), err
    if code == 2:
        assert files() == before


def done(capsys, arguments: str | list, code: int = 0) -> str:
    words = arguments.split() if isinstance(arguments, str) else [str(a) for a in arguments]
    assert main(words) == code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return out


# -------------------------------------------------------------------------------------------- think


def answers(monkeypatch, text: str, ended: bool = True) -> list:
    """A model that writes this; the prompts it was given."""
    prompts = []

    def stream(model, ids, new, **sampling):
        prompts.append((TASK.tokenizer.decode(ids[0].tolist()), sampling))
        tokens = TASK.tokenizer.encode(text, allow_special=True).tolist()
        tokens += [TASK.tokenizer.eos_token_id] * ended
        return iter(np.array([token]) for token in tokens)

    monkeypatch.setattr("minideepseek.model.generate.stream", stream)
    return prompts


def test_think_shows_problem_thought_answer_and_verdict(capsys, monkeypatch):
    prompts = answers(monkeypatch, "<think> 9 - 5 = 4 ? 9 + 5 = 14 ! </think> 9 + 5")
    assert done(capsys, ["think", "5 9 > 14"]).splitlines() == [
        "problem:  9 5 > 14 :",
        "thinking: 9 - 5 = 4 ? 9 + 5 = 14 !",
        "answer:   9 + 5",
        "verdict:  right",
    ]
    assert prompts[0][0] == "<bos> 9 5 > 14 :"
    assert (prompts[0][1]["temperature"], prompts[0][1]["top_p"]) == (0.6, 0.95)
    assert done(capsys, ["think", "9 5 > 4 :"]).splitlines()[-1] == "verdict:  wrong"
    done(capsys, ["think", "9 5 > 4 :", "--temperature", "0", "--top-p", "0.5"])
    assert (prompts[-1][1]["temperature"], prompts[-1][1]["top_p"]) == (0.0, 0.5)


@pytest.mark.parametrize(
    "text, ended",
    [("9 + 5", True), ("<think> 9 + 5", True), ("<think> </think> 9 + 5", False), ("", True)],
)
def test_think_says_what_is_malformed(capsys, monkeypatch, text, ended):
    answers(monkeypatch, text, ended)
    lines = done(capsys, ["think", "9 5 > 14"]).splitlines()
    assert len(lines) == 4 and re.fullmatch("verdict:  malformed, .+", lines[3])


def test_think_of_an_untrained_model_about_a_held_out_problem(capsys):
    prompts, outs = {problem.prompt for problem in TASK.held_out_problems()}, []
    for seed in (0, 0, *range(1, 12)):
        outs.append(done(capsys, f"think --seed {seed} --temperature 1 --top-p 1"))
        assert outs[-1].splitlines()[0].removeprefix("problem:  ") in prompts
        assert "verdict:  malformed" in outs[-1]
    assert outs[0] == outs[1] and len({out.splitlines()[0] for out in outs}) > 4


def test_think_reads_another_task(capsys, monkeypatch):
    answers(monkeypatch, "<think> </think> 9 3 3")
    out = done(capsys, ["think", "--task", "addition", "347+586"])
    assert out.splitlines()[0] == "problem:  3 4 7 + 5 8 6 =" and "right" in out
    assert done(capsys, "think --task addition").startswith("problem:  ")


@pytest.mark.parametrize("ending", ["", " :", ":", " : ", "  "])
def test_a_typed_problem_may_end_as_it_likes(capsys, monkeypatch, ending):
    answers(monkeypatch, "<think> </think> 9 + 5")
    assert "problem:  9 5 > 14 :\n" in done(capsys, ["think", f"  9  5 > 14{ending}"])
    plus = done(capsys, ["think", "--task", "addition", f"3 4 7 + 586{ending.replace(':', '=')}"])
    assert "problem:  3 4 7 + 5 8 6 =\n" in plus


def test_bad_problems(capsys):
    expected = "prompt: got {!r}, expected 2 different numbers from 1 to 9 and a target that two"
    for prompt in ("", "9 5", "9 5 > 13", "9 9 > 18", "9 5 3 > 14", "nine 5 > 14", "9 5 < 14",
                   "9 5 > 14 : :", "9 5 > 14\0", "<think>", "٩ 5 > 14", "9 5 > 014"):  # fmt: skip
        refused(capsys, ["think", prompt], expected.format(prompt))
    refused(capsys, ["think", "--task", "addition", "3 + 4"], "prompt: got '3 + 4', expected two")


BAD_SAMPLING = {
    "--temperature -1": "temperature: got -1", "--temperature nan": "temperature: got nan",
    "--top-p 0": "top_p: got 0", "--seed -1": "seed: got -1, expected an integer of at least 0",
    "--task chess": "task: got 'chess', expected one of countdown, addition",
    "--model nowhere": "nowhere is not a directory", "--threads 0": "threads: got 0",
    "--device abacus": "device: got 'abacus'", "--model .": ". is not a model directory",
}  # fmt: skip


@pytest.mark.parametrize("options", BAD_SAMPLING)
@pytest.mark.parametrize("verb", ["think", "evaluate"])
def test_bad_options_of_think_and_evaluate(capsys, verb, options):
    refused(capsys, f"{verb} {options}", BAD_SAMPLING[options])


@pytest.mark.parametrize("verb", ["think", "evaluate", "sft", "grpo"])
def test_a_model_of_another_vocabulary(capsys, elsewhere, verb):
    folder = elsewhere / "bytes"
    model = DeepSeekV3(DeepSeekV3Config.preset("nano"), np.random.default_rng(0))
    model.save_pretrained(folder)
    ByteTokenizer().save_pretrained(folder)
    expected = f"{folder}: its words are not those of the task countdown"
    refused(capsys, [verb, "--model", folder], expected)
    TASK.tokenizer.save_pretrained(folder)  # of fewer words than the model has
    refused(capsys, [verb, "--model", folder], f"{folder}: its model knows 264 tokens, its tok")


# ----------------------------------------------------------------------------------------- evaluate


def test_evaluate_measures_all_held_out_problems(capsys):
    out = done(capsys, "evaluate --samples 4 --temperature 0.7 --top-p 0.9 --seed 5")
    rng = np.random.default_rng(5)
    found = evaluate(small.model(), TASK, TASK.held_out_problems(), 4, 0.7, 0.9, rng)
    assert out == "\n".join(jobs.describe(found)) + "\n"
    assert out.startswith("10 held-out problems, 4 answers each at temperature 0.7\n")
    assert done(capsys, "evaluate").startswith("10 held-out problems, 8 answers each at temp")
    refused(capsys, "evaluate --samples 0", "samples: got 0, expected 1 to 256")


# --------------------------------------------------------------------------------------- sft, grpo

OTHERS = {  # not the defaults
    "sft": {
        "steps": 7, "samples_per_step": 5, "learning_rate": 0.003, "bias_step": 0.02,
        "checkpoint_every": 3, "seed": 9,
    },
    "grpo": {
        "steps": 7, "prompts_per_step": 3, "group_size": 5, "temperature": 0.9, "minibatches": 2,
        "learning_rate": 0.001, "clip_low": 0.1, "clip_high": 0.3, "kl_coef": 0.01, "kl": "k2",
        "scale": "none", "aggregation": "constant", "ratio": "sequence", "truncated": "mask",
        "reference_every": 4, "bias_step": 0.02, "evaluate_every": 2, "checkpoint_every": 3,
        "seed": 9,
    },
}  # fmt: skip


@pytest.mark.parametrize("verb", OTHERS)
def test_every_option_reaches_the_plan(monkeypatch, elsewhere, verb):
    assert list(OTHERS[verb]) == list({"sft": SFT, "grpo": GRPO}[verb])
    seen = []
    monkeypatch.setattr(jobs, "run_stage", lambda job, stopped: seen.append(job))
    model = small.model_directory(elsewhere / "mine")
    options = [f"--{n.replace('_', '-')}={value}" for n, value in OTHERS[verb].items()]
    more = ["--out", "run", "--model", str(model), "--task", "addition"]
    assert main([verb, *options, *more]) == 130
    plan = PLANS[verb](**OTHERS[verb])
    assert seen == [StageJob(verb, Path("run"), plan, model, "addition", "cpu")]
    assert not OTHERS[verb].items() & dataclasses.asdict(PLANS[verb]()).items()
    assert main([verb]) == 130
    usual = StageJob(verb, Path("runs") / verb, PLANS[verb](), elsewhere / "shipped")
    assert seen[1] == usual


def test_the_defaults_in_the_help_are_the_plans(capsys):
    for verb, plan in (("sft", SFTPlan()), ("grpo", GRPOPlan())):
        with pytest.raises(SystemExit):
            main([verb, "-h"])
        words = " ".join(capsys.readouterr().out.split())
        for part in words.split(" --")[1:]:
            name, found = part.split()[0].replace("-", "_"), re.findall(r"\(([\d.]+)\)$", part)
            if found and name != "threads":
                assert float(found[0]) == getattr(plan, name), name


BAD_PLANS = {
    "sft --steps 0": "steps: got 0, expected an integer of at least 1",
    "sft --samples-per-step 0": "samples_per_step: got 0",
    "sft --learning-rate nan": "learning_rate: got nan",
    "sft --seed -1": "seed: got -1",
    "grpo --group-size 1": "group_size: got 1, expected an integer of at least 2",
    "grpo --temperature 0": "temperature: got 0.0, expected a number above 0",
    "grpo --kl k4": "kl: got 'k4', expected one of ",
    "grpo --scale many": "scale: got 'many'",
    "grpo --aggregation x": "aggregation: got 'x'",
    "grpo --ratio x": "ratio: got 'x'",
    "grpo --truncated x": "truncated: got 'x'",
    "grpo --clip-high -1": "clip_high: got -1.0",
    "grpo --checkpoint-every 0": "checkpoint_every: got 0",
    "grpo --task chess": "task: got 'chess'",
    "grpo --model nowhere": "nowhere is not a directory",
    "sft --out full": "full: exists and is not empty; name another directory",
    "grpo --out file": "file: exists and is not empty",
    "grpo --out file/run": "file/run: cannot be written",
    "sft --resume nowhere": "nowhere: no run of sft to resume, expected a job.json",
    "grpo --resume full": "full: no run of grpo to resume, expected a job.json",
    "grpo --resume full --steps 3": "resume: the run goes on with its own options",
    "grpo --resume full --seed 0": "resume: the run goes on with its own options",
    "sft --resume full --model x": "resume: the run goes on with its own options",
    "sft --resume full --task addition": "resume: the run goes on with its own options",
    "sft --task addition --out full": "full: exists and is not empty",
}


@pytest.mark.parametrize("arguments", BAD_PLANS)
def test_bad_values_of_sft_and_grpo(capsys, arguments):
    Path("file").write_text("in the way", "utf-8")
    Path("full").mkdir()
    Path("full/notes").write_text("somebody's", "utf-8")
    refused(capsys, arguments, BAD_PLANS[arguments])


SIZES = {
    "sft": "sft --steps 3 --samples-per-step 4 --checkpoint-every 3",
    "grpo": "grpo --steps 3 --prompts-per-step 3 --group-size 4 --minibatches 2 "
            "--evaluate-every 3 --checkpoint-every 3",
}  # fmt: skip


@pytest.mark.parametrize("verb, trainer", [("sft", SFTTrainer), ("grpo", GRPOTrainer)])
def test_ctrl_c_and_resume_come_to_the_same(capsys, monkeypatch, verb, trainer):
    whole = done(capsys, f"{SIZES[verb]} --out whole")
    lines = whole.splitlines()
    assert "everything is written to whole; Ctrl-C stops with a checkpoint" in lines
    assert lines[-1] == "model: whole/model" and "10 held-out problems, 8 answers" in whole
    with monkeypatch.context() as patch:
        interrupting(patch, trainer, at=2)
        out = done(capsys, f"{SIZES[verb]} --out run", 130)
    assert out.rstrip().endswith(f"to go on:\nminideepseek {verb} --resume run")
    assert "stopping after this step" in out and "stopped after step 2;" in out
    assert not Path("run/model").exists()
    rest = done(capsys, f"{verb} --resume run").splitlines()
    assert rest[-4:-1] == lines[-4:-1] and rest[-1] == "model: run/model"
    assert small.steps(Path("run", verb)) == small.steps(Path("whole", verb))
    one, other = (weights(from_pretrained(f"{name}/model")) for name in ("run", "whole"))
    assert same(one, other)
    wrong = {"sft": "grpo", "grpo": "sft"}[verb]
    refused(capsys, f"{wrong} --resume run", f"run: begun by {verb}, not by {wrong}")
    assert done(capsys, "evaluate --model run/model").splitlines()[0] in lines


def interrupting(patch, trainer: type, at: int, times: int = 1) -> None:
    """Ctrl-C, so many times, in the step numbered `at` of a trainer's kind."""
    real = trainer.step

    def step(self):
        metrics = real(self)
        if self.done == at:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return metrics

    patch.setattr(trainer, "step", step)


def test_a_second_ctrl_c_says_how_to_go_on(capsys, monkeypatch):
    with monkeypatch.context() as patch:
        interrupting(patch, SFTTrainer, at=2, times=2)
        expected = "interrupted; to go on: minideepseek sft --resume run"
        refused(capsys, f"{SIZES['sft']} --out run", expected, 130)
    assert not list_checkpoints("run/sft")
    done(capsys, "sft --resume run")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "load_reasoner", interrupted)
    refused(capsys, "sft --out other", "interrupted; nothing is kept yet; start again", 130)
    assert not Path("other").exists()


def test_runs_get_a_directory_of_their_own(capsys):
    for name in ("sft", "sft-2"):
        done(capsys, SIZES["sft"])
        assert Path("runs", name, "model/config.json").exists()


def test_damaged_runs(capsys):
    done(capsys, f"{SIZES['sft']} --out run")
    file = list_checkpoints("run/sft")[-1] / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-3])
    refused(capsys, "sft --resume run", str(file))
    file.write_bytes(data)
    Path("run/job.json").write_text("{}", "utf-8")
    refused(capsys, "sft --resume run", "run/job.json: not what a run wrote")


# ------------------------------------------------------------------------------------------ journey


@pytest.fixture
def language(monkeypatch):
    """Stands for the language part, of no time: its jobs; [0] is set to interrupt it."""
    seen: list = []
    seen_jobs: list = []

    def run(job, say=print, write=None):
        seen_jobs.append(job)
        (job.out / "checkpoints").mkdir(parents=True, exist_ok=True)
        store_job(job)
        return None if seen else write(job.out / "report.html", fake_run(n=30))

    monkeypatch.setattr("minideepseek.training.language.run", run)
    return seen_jobs, seen


def page() -> Page:
    reader = Page()
    reader.feed(Path("run/report.html").read_text("utf-8"))
    assert reader.open == [] and not reader.requests
    return reader


SOLVED = "Of problems it was never trained on, the reasoning model solves"
LEARNED = "beats lzma"


def test_the_journey_of_both_parts(capsys, language):
    out = done(capsys, "journey --out run --seed 3")
    assert [(job.preset, job.part, job.plan.seed) for job in language[0]] == [("mini", "both", 3)]
    assert out.rstrip().splitlines()[-2:] == [
        "the model that reasons: run/reasoning/model",
        f"report: {Path('run/report.html').resolve()}",
    ]
    assert json.loads(Path("run/reasoning/job.json").read_bytes()) == {"seed": 3, "quick": False}
    assert {*small.STAGES} < {path.name for path in Path("run/reasoning").iterdir()}
    text = page().text
    assert "Part 1: it learns to read" in text and "Part 2: it learns to reason" in text
    assert SOLVED in text and text.index(SOLVED) < text.index("Part 1")
    before = small.result(Path("run/reasoning"))
    done(capsys, "journey --resume run")
    assert [job.part for job in language[0]] == ["both", "both"] and language[0][1].plan.seed == 3
    assert small.result(Path("run/reasoning")) == before and SOLVED in page().text


def test_the_journey_really_quick(capsys, text):
    """Nothing stands for anything but the sizes: the nano preset reads, a model is shipped."""
    done(capsys, ["journey", "--quick", "--out", "run", "--text", text, "--steps", "3"])
    plan = json.loads(Path("run/run.json").read_text("utf-8"))
    assert (plan["preset"], plan["part"], plan["plan"]["steps"]) == ("nano", "both", 3)
    assert plan["plan"]["bias_step"] == 0.04 and plan["plan"]["sequence_length"] == 64
    job = json.loads(Path("run/reasoning/job.json").read_text("utf-8"))
    assert job == {"seed": 0, "quick": True}
    found = page()
    assert SOLVED in found.text and "Part 1" in found.text and "Part 2" in found.text
    shutil.rmtree("run/reasoning")
    done(capsys, "journey --resume run")  # killed between the parts
    assert json.loads(Path("run/reasoning/job.json").read_text("utf-8")) == job
    assert [m["step"] for m in read_metrics(Path("run/metrics.jsonl"))] == [1, 2, 3]
    done(capsys, "journey --quick --resume run")
    refused(capsys, "journey --resume run --seed 4", "run/checkpoints/step-00000003 was made with")


def test_either_part_alone(capsys, language):
    done(capsys, "journey --quick --out run --part language")
    assert {path.name for path in Path("run").iterdir()} == {"checkpoints", "run.json",
                                                             "report.html"}  # fmt: skip
    assert "Part 2" not in page().text and SOLVED not in page().text
    done(capsys, "journey --resume run")  # it was begun as one part
    assert not Path("run/reasoning").exists()
    done(capsys, "journey --resume run --part both")
    assert SOLVED in page().text and "Part 1" in page().text
    shutil.rmtree("run")
    count = len(language[0])
    done(capsys, "journey --out run --part reasoning --quick --seed 2")
    assert len(language[0]) == count
    assert {path.name for path in Path("run").iterdir()} == {"reasoning", "report.html"}
    assert SOLVED in page().text and "Part 1" not in page().text
    assert json.loads(Path("run/reasoning/job.json").read_text("utf-8"))["seed"] == 2
    done(capsys, "journey --resume run")
    done(capsys, "journey --resume run --part reasoning")
    assert len(language[0]) == count


def test_the_reasoning_part_quick_and_alone(capsys):
    done(capsys, "journey --quick --part reasoning")
    assert Path("runs/journey/report.html").exists()
    assert not Path("runs/journey/reasoning/pretrain").exists()
    done(capsys, "journey --quick --part reasoning")
    assert Path("runs/journey-2/report.html").exists()
    done(capsys, "journey --resume runs/journey")
    assert not Path("runs/journey/reasoning/pretrain").exists()


BAD_JOURNEYS = {
    "--seed -1": "seed: got -1",
    "--part reasoning --seed -1": "seed: got -1, expected an integer of at least 0",
    "--part reasoning --steps 3": "steps: the reasoning part takes none here, its recipe is fixed",
    "--part reasoning --text x": "text: the reasoning part takes none here, its recipe is fixed",
    "--part reasoning --out full": "full: exists and is not empty",
    "--out full": "full: exists and is not empty",
    "--resume nowhere": "nowhere: no run to resume, expected a folder with checkpoints",
    "--resume full": "full: no run to resume",
    "--resume full --part reasoning": "full: no run to resume",
    "--resume full --quick": "full: no run to resume",
    "--resume alone --part language": "part: got language, expected reasoning, the only one",
    "--resume alone --part both": "part: got both, expected reasoning, the only one",
    "--resume alone --seed 0": "seed: the reasoning part takes none here, the run has its own",
    "--resume alone --quick": "quick: the reasoning part takes none here, the run has its own",
    "--resume alone --steps 3": "steps: the reasoning part takes none here, the run has its own",
    "--resume alone --text x": "text: the reasoning part takes none here, the run has its own",
    "--resume bad": "bad/reasoning/job.json: not what a run wrote",
}


@pytest.mark.parametrize("options", BAD_JOURNEYS)
def test_bad_journeys(capsys, options):
    for folder, job in (("alone", '{"seed": 0, "quick": true}'), ("bad", "{}")):
        Path(folder, "reasoning").mkdir(parents=True)
        Path(folder, "reasoning/job.json").write_text(job, "utf-8")
    Path("full").mkdir()
    Path("full/notes").write_text("somebody's", "utf-8")
    refused(capsys, f"journey {options}", BAD_JOURNEYS[options])


def test_a_gate_that_fails_ends_the_journey(capsys, monkeypatch, language):
    monkeypatch.setattr(
        journey, "base_gates", lambda model, task: [Gate("the base's wit", float("nan"), 0.9)]
    )
    sentence = "the base's wit: nan%, at least 90% is needed; the next stage would learn nothing"
    refused(capsys, "journey --out run", sentence, code=3)
    assert {path.name for path in Path("run/reasoning").iterdir()} == {"job.json", "pretrain"}
    assert "Part 2" not in page().text and not Path("run/reasoning/model").exists()


def test_ctrl_c_in_the_language_part(capsys, language):
    language[1].append("interrupt")
    done(capsys, "journey --quick --out run", 130)
    assert not Path("run/reasoning").exists()
    language[1].clear()
    done(capsys, "journey --resume run")
    assert SOLVED in page().text


STEP = {
    "pretrain": (Trainer, 4), "cold-start": (SFTTrainer, 4), "grpo": (GRPOTrainer, 2),
    "control": (SFTTrainer, 7),
}  # fmt: skip


@pytest.mark.parametrize(
    "stage", [pytest.param(s, marks=[pytest.mark.slow] * (s != "grpo")) for s in STEP]
)
def test_ctrl_c_in_the_reasoning_part(capsys, monkeypatch, stage):
    trainer, step = STEP[stage]
    with monkeypatch.context() as patch:
        interrupting(patch, trainer, at=step)
        out = done(capsys, "journey --part reasoning --out run", 130)
    assert out.rstrip().endswith("to go on:\nminideepseek journey --resume run")
    newest = sorted(Path("run/reasoning").glob("*/checkpoints/*"), key=lambda p: p.stat().st_mtime)
    assert newest[-1] == Path(f"run/reasoning/{stage}/checkpoints/step-{step:08d}")
    assert not Path("run/report.html").exists()
    with monkeypatch.context() as patch:
        interrupting(patch, trainer, at=step + 1, times=2)
        if step + 1 <= small.STEPS[stage]:
            expected = "interrupted; to go on: minideepseek journey --resume run"
            refused(capsys, "journey --resume run", expected, 130)
    done(capsys, "journey --resume run")
    assert SOLVED in page().text


@pytest.mark.parametrize("verb", ["grpo", "sft"])
def test_the_help_states_the_plans_defaults(verb):
    plan = PLANS[verb]()
    for name, text in {"grpo": GRPO, "sft": SFT}[verb].items():
        value = getattr(plan, name)
        shown = value if isinstance(value, str) else f"{value:g}"
        assert text.endswith(f"({shown})"), (name, text)


@pytest.mark.parametrize("verb", ["think", "evaluate --samples 1"])
def test_the_shipped_model_says_what_it_is(capsys, tmp_path, verb):
    def told(more: str) -> list[bool]:
        assert main(f"{verb} {more}".split()) == 0
        err = capsys.readouterr().err
        return ["often gives up" in err, "has learned countdown alone" in err]

    assert told("") == told("--task countdown") == [True, False]
    assert told("--task addition") == [False, True]
    small.model().save_pretrained(tmp_path / "own")
    TASK.tokenizer.save_pretrained(tmp_path / "own")
    assert told(f"--model {tmp_path / 'own'}") == [False, False]
