"""The command line: each verb works, each wrong input is one sentence and exit code 2."""

import contextlib
import dataclasses
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from minideepseek import __version__
from minideepseek.autograd.blocks import get_threads, set_threads
from minideepseek.cli import main
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.tokenizer import ByteTokenizer, WordTokenizer
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.training.rundir import list_checkpoints, read_metrics
from minideepseek.training.trainer import Plan
from tests.platforms import needs_signals
from tests.training import tiny

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "minideepseek"]
PRETRAIN = (
    "pretrain --preset nano --steps 4 --batch-size 2 --sequence-length 16 --evaluate-every 2 "
    "--checkpoint-every 2"
).split()


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """Each test in its own empty directory, with one thread afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINIDEEPSEEK_DEVICE", raising=False)
    yield
    set_threads(1)


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(tiny.text(30, 3), "utf-8")
    return str(file)


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "nano"
    config = DeepSeekV3Config.preset("nano")
    DeepSeekV3(config, np.random.default_rng(0)).save_pretrained(folder)
    ByteTokenizer().save_pretrained(folder)
    return str(folder)


def pretrain(text: str, *more: object) -> list[str]:
    return [*PRETRAIN, "--text", text, *map(str, more)]


def losses(run: str) -> list[dict]:
    return [tiny.untimed(m) for m in read_metrics(Path(run, "metrics.jsonl"))]


def weights(run: str) -> bytes:
    return Path(run, "model/model.safetensors").read_bytes()


def environment(**more: str) -> dict[str, str]:
    """As a user's shell has it: output that is no terminal is buffered."""
    inherited = {n: v for n, v in os.environ.items() if n != "PYTHONUNBUFFERED"}
    return {**inherited, "PYTHONPATH": str(ROOT), **more}


def shell(*arguments: object, **options) -> subprocess.CompletedProcess:
    command = [*COMMAND, *map(str, arguments)]
    options = {"env": environment(), "timeout": 60, "capture_output": True} | options
    return subprocess.run(command, **options)


# --------------------------------------------------------------------------------------- the verbs


def test_info_prints_the_published_figures(capsys):
    assert main(["info", "--preset", "v3"]) == 0
    out = capsys.readouterr().out
    for figure in ("671,026,419,200", "36,625,618,432", "70,272", "4,096"):
        assert figure in out
    assert out.startswith("preset v3\n")
    assert all(len(line) <= 80 for line in out.splitlines())


def test_info_of_a_file_and_a_context(capsys, model_directory):
    assert main(["info", "--config", f"{model_directory}/config.json", "--context", "99"]) == 0
    out = capsys.readouterr().out
    assert "vocabulary 264" in out and "99 keys" in out
    assert out.startswith(f"{model_directory}/config.json\n")


def test_inspect(capsys, model_directory):
    assert main(["inspect", model_directory]) == 0
    assert "down_proj" in capsys.readouterr().out


def test_pretrain_then_generate_then_inspect(capsys, text):
    assert main(pretrain(text, "--out", "run")) == 0
    out, err = capsys.readouterr()
    assert out.rstrip().endswith(str(Path("run/report.html").resolve()))
    assert "pretrain 4/4 (100 %)" in err and "device: cpu" in err
    assert [m["step"] for m in read_metrics(Path("run/metrics.jsonl"))] == [1, 2, 3, 4]
    assert main(["generate", "run/model", "the model", "--max-new-tokens", "4"]) == 0
    assert capsys.readouterr().out.startswith("the model")
    assert main(["inspect", "run/checkpoints/step-00000004"]) == 0


def test_the_plan_of_pretrain_is_that_of_its_options(text):
    more = "--accumulate 2 --learning-rate 0.002 --bias-step 0.01 --mtp-weight 0.1 --seed 5"
    assert main(pretrain(text, "--out", "run", *more.split())) == 0
    state = json.loads((list_checkpoints("run")[-1] / "trainer.json").read_text("utf-8"))
    want = {
        "steps": 4, "batch_size": 2, "sequence_length": 16, "evaluate_every": 2,
        "checkpoint_every": 2, "accumulate": 2, "learning_rate": 0.002, "bias_step": 0.01,
        "mtp_weight": 0.1, "seed": 5,
    }  # fmt: skip
    assert want.items() <= state["plan"].items()


def test_runs_get_a_directory_of_their_own(text):
    for name in ("pretrain", "pretrain-2"):
        assert main(pretrain(text, "--steps", "1")) == 0
        assert Path("runs", name, "report.html").exists()


def test_threads(text):
    metrics = []
    for threads in (1, 3):
        assert main(pretrain(text, "--out", f"run{threads}", "--threads", threads)) == 0
        assert get_threads() == threads
        metrics.append(losses(f"run{threads}"))
    assert metrics[0] == metrics[1]


def test_a_device_by_option_and_by_environment(capsys, monkeypatch, text):
    from tests import standin

    standin.install()
    assert main(pretrain(text, "--steps", "1", "--device", "standin", "--out", "a")) == 0
    assert "device: standin (--device)" in capsys.readouterr().err
    monkeypatch.setenv("MINIDEEPSEEK_DEVICE", "standin")
    assert main(["generate", "a/model", "x", "--max-new-tokens", "2"]) == 0
    assert "device: standin (MINIDEEPSEEK_DEVICE)" in capsys.readouterr().err


def test_version_and_help(capsys):
    for arguments, expected in ((["--version"], f"minideepseek {__version__}"), (["-h"], "VERB")):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0 and expected in capsys.readouterr().out
    for verb in ("journey", "pretrain", "generate", "info", "inspect"):
        with pytest.raises(SystemExit) as caught:
            main([verb, "-h"])
        assert caught.value.code == 0
        assert f"minideepseek {verb}" in capsys.readouterr().out


def test_the_defaults_in_the_help_are_the_plans(capsys):
    with pytest.raises(SystemExit):
        main(["pretrain", "-h"])
    words = " ".join(capsys.readouterr().out.split())
    shown = {}
    for part in words.split(" --")[1:]:
        name, number = part.split()[0].replace("-", "_"), re.findall(r"\(([\d.]+)\)$", part)
        shown |= {name: float(number[0])} if number else {}
    plan = dataclasses.asdict(Plan())
    assert shown.pop("threads") == 2
    assert shown == {name: plan[name] for name in shown} and len(shown) == 10


def test_the_command_line_keeps_freed_memory_and_the_library_does_not(text, monkeypatch):
    asked = []
    monkeypatch.setattr("minideepseek.autograd.backend.keep_memory", lambda: asked.append(1))
    assert main(["info", "--preset", "nano"]) == 0 and asked == []  # it trains nothing
    assert main(pretrain(text, "--out", "run")) == 0 and asked == [1]


# ------------------------------------------------------------------------------------------ resume


def test_resume(text, capsys):
    assert main(pretrain(text, "--out", "whole")) == 0
    shutil.copytree("whole", "run")
    shutil.rmtree("run/checkpoints/step-00000004")
    shutil.rmtree("run/model")
    assert main(["pretrain", "--resume", "run"]) == 0  # the rest is in run.json
    assert "going on after step 2 of 4" in capsys.readouterr().out
    assert losses("run") == losses("whole") and weights("run") == weights("whole")


# --------------------------------------------------------------------------------------- bad input


def refused(capsys, arguments: list, expected: str, code: int = 2) -> str:
    """Exit code, and one sentence on standard error that says `expected`."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == code
    err = capsys.readouterr().err
    lines = [n for n in err.splitlines() if not n.startswith(("device: ", "pretrain "))]
    assert len(lines) == 1 and lines[0].startswith("minideepseek: "), err
    assert expected in lines[0], err
    return lines[0]


PLANS = {
    "--steps 0": "steps: got 0, expected an integer of at least 1",
    "--checkpoint-every 0": "checkpoint_every: got 0",
    "--evaluate-every -1": "evaluate_every: got -1",
    "--batch-size 0": "batch_size: got 0",
    "--accumulate 0": "accumulate: got 0",
    "--seed -1": "seed: got -1",
    "--learning-rate nan": "learning_rate: got nan",
    "--learning-rate 7": "learning_rate: got 7.0, expected a number from 0 to 1",
    "--mtp-weight inf": "mtp_weight: got inf",
    "--bias-step -1": "bias_step: got -1.0",
    "--sequence-length 65": "sequence_length: got 65, expected at most max_position",
    "--preset v3": "preset: got v3",
    "--preset micro": "preset is 'micro'; expected one of nano, mini, small, reason, v3",
    "--threads 0": "threads: got 0",
    "--device abacus": "device: got 'abacus', expected one of ",
    "--text=": "text: got an empty path, expected a file or a folder",
    "--text nowhere": "text: nowhere is not there, expected a file or a folder",
    "--text empty": "text: 0 bytes of text in 1 files, expected at least 17",
    "--text short": "text: 5 bytes of text in 1 files, expected at least 17",
    "--text binary": "text: 0 bytes of text",
    "--out file": "file: exists and is not empty",
    "--out file/run": "file/run: cannot be written",
    "--out full": "full: exists and is not empty; name another directory",
    "--resume nowhere": "nowhere: no run to resume",
    "--resume full": "full: no run to resume",
}


@pytest.mark.parametrize("options", PLANS)
def test_bad_options_of_pretrain(capsys, text, options):
    for name, content in (("empty", b""), ("short", b"a b\nc"), ("binary", b"\0\xff" * 50)):
        Path(name).write_bytes(content)
    Path("file").write_text("in the way", "utf-8")
    Path("full").mkdir()
    Path("full/notes").write_text("somebody's", "utf-8")
    before = {p: p.is_file() and p.read_bytes() for p in Path().rglob("*")}
    refused(capsys, [*pretrain(text), *options.split()], PLANS[options])
    assert {p: p.is_file() and p.read_bytes() for p in Path().rglob("*")} == before


def test_journey_refuses_too(capsys):
    refused(capsys, ["journey", "--quick", "--text", "nowhere"], "nowhere is not there")
    refused(capsys, ["journey", "--steps", "0"], "steps: got 0")
    assert os.listdir() == []


def test_cuda_without_cupy_says_what_to_install(capsys, text, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    expected = "cupy is not installed; install minideepseek[cuda12] or minideepseek[cuda13]"
    refused(capsys, pretrain(text, "--device", "cuda"), expected)
    monkeypatch.setenv("MINIDEEPSEEK_DEVICE", "cuda")
    refused(capsys, pretrain(text), expected)


@pytest.mark.parametrize(
    "options, expected",
    [
        ("--top-p 0", "top_p: got 0.0"), ("--top-k 0", "top_k: got 0"),
        ("--temperature -1", "temperature: got -1"), ("--temperature nan", "temperature: got nan"),
        ("--max-new-tokens -1", "max_new_tokens: got -1"), ("--seed -1", "seed: got -1"),
        ("--threads 0", "threads: got 0"), ("--draft-tokens -1", "draft_tokens: got -1"),
        ("--draft-tokens 64", "draft_tokens: 1 prompt tokens and drafts of 64"),
    ],
)  # fmt: skip
def test_bad_options_of_generate(capsys, model_directory, options, expected):
    refused(capsys, ["generate", model_directory, "x", *options.split()], expected)


def test_bad_prompts(capsys, model_directory):
    refused(capsys, ["generate", model_directory, "x" * 64], "max_position_embeddings 64")
    refused(capsys, ["generate", model_directory, "\udcff"], "half a surrogate pair")


def test_a_run_is_no_model_directory(capsys, model_directory):
    shutil.copytree(model_directory, "run/model")
    expected = "run is not a model directory (no config.json); did you mean run/model?"
    refused(capsys, ["generate", "run", "x"], expected)
    refused(capsys, ["inspect", "run"], expected)
    assert not refused(capsys, ["inspect", "."], ". is not a model directory").endswith("?")
    Path("run/model/tokenizer.json").unlink()
    refused(capsys, ["generate", "run/model", "x"], "no tokenizer here: run/model holds no tok")


def test_bad_model_directories(capsys, model_directory):
    refused(capsys, ["generate", "nowhere", "x"], "nowhere")
    Path("empty").mkdir()
    refused(capsys, ["generate", "empty", "x"], "empty")
    refused(capsys, ["inspect", "nowhere"], "nowhere")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        for change in ("missing", "cut"):
            shutil.copytree(model_directory, "bad")
            file = Path("bad", name)
            data = file.read_bytes()
            file.unlink() if change == "missing" else file.write_bytes(data[: len(data) // 2])
            sentence = refused(capsys, ["generate", "bad", "x"], "bad")
            assert name in sentence or name.removesuffix(".safetensors") in sentence
            shutil.rmtree("bad")


def test_a_model_and_a_tokenizer_of_different_vocabularies(capsys, model_directory):
    config = DeepSeekV3Config.preset("nano", vocab_size=300)
    shutil.copytree(model_directory, "bad")
    DeepSeekV3(config, np.random.default_rng(0)).save_pretrained("bad")
    refused(capsys, ["generate", "bad", "x"], "model knows 300 tokens, its tokenizer 264")


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"n_group": 3}, "n_group is 3"), ({"hidden_act": "gelu"}, "hidden_act"),
        ({"num_experts_per_tok": 99}, "num_experts_per_tok is 99"), ({"vocab_size": "x"}, "vocab"),
        ({"model_type": "llama"}, "model_type is 'llama'"),
    ],
)  # fmt: skip
def test_a_bad_config(capsys, model_directory, change, expected):
    shutil.copytree(model_directory, "bad")
    values = json.loads(Path("bad/config.json").read_text("utf-8")) | change
    Path("bad/config.json").write_text(json.dumps(values), "utf-8")
    for arguments in (["info", "--config", "bad/config.json"], ["generate", "bad", "x"]):
        refused(capsys, arguments, expected)


def test_bad_options_of_info(capsys):
    refused(capsys, ["info", "--preset", "v4"], "preset is 'v4'")
    refused(capsys, ["info", "--context", "0"], "context is 0")
    refused(capsys, ["info", "--config", "nowhere"], "nowhere")


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["generate"], ["pretrain", "--steps", "x"], ["info", "--nothing"],
                  ["journey", "--out", "a", "--resume", "b"],
                  ["info", "--preset", "nano", "--config", "a"]]
)  # fmt: skip
def test_argparse_refuses_with_the_same_code(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "trainer.json"])
def test_a_corrupted_checkpoint(capsys, text, name):
    assert main(pretrain(text, "--out", "run")) == 0
    want, files = weights("run"), [folder / name for folder in list_checkpoints("run")]
    files[-1].write_bytes(files[-1].read_bytes()[:-3])
    assert main(pretrain(text, "--resume", "run")) == 0  # from the checkpoint before it
    said = capsys.readouterr().out
    assert str(files[-1]) in said and f"damaged-{files[-1].parent.name}" in said
    assert weights("run") == want
    for file in (folder / name for folder in list_checkpoints("run")):
        file.write_bytes(file.read_bytes()[:-3])
    refused(capsys, pretrain(text, "--resume", "run"), str(file))


def test_another_text_or_plan(capsys, text):
    assert main(pretrain(text, "--out", "run", "--steps", 2)) == 0
    refused(capsys, pretrain(text, "--resume", "run"), "made with steps = 2, not 4")
    Path("other").write_text(tiny.text(30, 4), "utf-8")
    refused(capsys, pretrain("other", "--resume", "run", "--steps", 2), "another text")
    assert main(pretrain(text, "--resume", "run", "--steps", 2, "--threads", 1)) == 0
    assert "threads was 2 when this checkpoint was written and is 1" in capsys.readouterr().out


def test_a_full_disk(capsys, text, monkeypatch):
    """The disk is full from the n-th sync on: exit code 2, and the last checkpoint is whole."""
    assert main(pretrain(text, "--out", "whole")) == 0
    real = os.fsync
    for first in (1, 9, 25):
        run, calls = f"run{first}", []

        def full(descriptor, first=first, calls=calls):
            calls.append(descriptor)
            if len(calls) >= first:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            refused(capsys, pretrain(text, "--out", run), "No space left on device")
        begun = Path(run, "run.json").exists()  # not where the very first name was refused
        assert begun == (first > 1)
        assert main(pretrain(text, "--resume" if begun else "--out", run)) == 0
        assert weights(run) == weights("whole")


def test_a_run_that_diverges(capsys, text, monkeypatch):
    from minideepseek.training.trainer import Trainer

    real = Trainer.step

    def step(self):
        if self.done == 2:
            self.parameters["model.norm.weight"].data[5] = np.nan
        return real(self)

    monkeypatch.setattr(Trainer, "step", step)
    sentence = "step 3: the loss is nan; the first bad tensor is the parameter model.norm.weight"
    refused(capsys, pretrain(text, "--out", "run"), sentence, code=3)
    assert [p.name for p in list_checkpoints("run")] == ["step-00000002"]


# ---------------------------------------------------------------------------------------- streaming


class Script:
    """Stands for a model: writes given tokens."""

    def __init__(self, tokens):
        self.tokens = tokens

    def __call__(self, model, ids, new, *rest):
        return (np.array([t]) for t in self.tokens[:new])


def written(capsys, monkeypatch, directory: str, tokens: list[int], prompt: str = "p:") -> str:
    monkeypatch.setattr("minideepseek.model.generate.stream", Script(tokens))
    assert main(["generate", directory, prompt]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("text", ["plain", "héé", "世界", "👩‍🚀 ok", "a\ufffdb", "tab\tand\nline"])
def test_generate_streams_utf8(capsys, monkeypatch, model_directory, text):
    assert written(capsys, monkeypatch, model_directory, list(text.encode())) == f"p:{text}\n"


def test_generate_shows_broken_utf8_and_controls_as_replacement(
    capsys, monkeypatch, model_directory
):
    def out(data: bytes) -> str:
        return written(capsys, monkeypatch, model_directory, list(data))

    assert out(b"\xffa\xe4\xb8b\xe4") == "p:\ufffda\ufffdb\ufffd\n"
    assert out(b"\x1b[2J\x07\r\0") == "p:\ufffd[2J\ufffd\ufffd\ufffd\n"


def test_generate_ends_at_the_end_token(capsys, monkeypatch, model_directory):
    assert written(capsys, monkeypatch, model_directory, [97, 257, 98]) == "p:a\n"


def test_characters_are_shown_as_soon_as_they_are_complete(monkeypatch, model_directory):
    shown: list[str] = []

    def tokens(model, ids, *rest):
        for byte in "aé!".encode():
            yield np.array([byte])
            shown.append(sys.stdout.getvalue())

    monkeypatch.setattr("minideepseek.model.generate.stream", tokens)
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["generate", model_directory, "x"]) == 0
    assert shown == ["xa", "xa", "xaé", "xaé!"]


def test_words_keep_their_spaces(capsys, monkeypatch, tmp_path):
    words = WordTokenizer(["<pad>", "<bos>", "<eos>", "<think>", "</think>", "7", "+", "16"])
    config = DeepSeekV3Config.preset("reason", vocab_size=8)
    DeepSeekV3(config, np.random.default_rng(0)).save_pretrained("words")
    words.save_pretrained("words")
    assert written(capsys, monkeypatch, "words", [7, 6, 5, 2], "7 + 7") == "7 + 7 16 + 7\n"


def test_an_empty_prompt_begins_a_text(capsys, monkeypatch, model_directory):
    seen = []

    def stream(model, ids, *rest):
        seen.append(ids.tolist())
        return iter([np.array([97])])

    monkeypatch.setattr("minideepseek.model.generate.stream", stream)
    assert main(["generate", model_directory, ""]) == 0
    assert capsys.readouterr().out == "a\n" and seen == [[[257]]]


def test_generate_is_repeatable_and_stays_within_the_positions(capsys, model_directory):
    outs = []
    for seed in (1, 1, 2):
        assert main(["generate", model_directory, "The", "--seed", str(seed)]) == 0
        outs.append(capsys.readouterr().out)
    assert outs[0] == outs[1] != outs[2]


def test_drafts_change_no_greedy_text_and_are_counted(capsys, model_directory):
    command = ["generate", model_directory, "The", "--temperature", "0", "--max-new-tokens", "9"]
    assert main(command) == 0
    plain = capsys.readouterr()
    assert main([*command, "--draft-tokens", "2"]) == 0
    drafted = capsys.readouterr()
    assert drafted.out == plain.out and "drafts" not in plain.err
    assert re.search(r"accepted: \d+% of \d+ drafts; tokens per pass of the model: [12]\.\d\d\n$",
                     drafted.err)  # fmt: skip


# ------------------------------------------------------------------------------- as its own process


def test_blas_has_one_thread_before_numpy_is_there():
    code = (
        "import sys, os; import minideepseek.cli as cli; assert 'numpy' not in sys.modules; "
        "cli.build_parser(); assert 'numpy' not in sys.modules; "
        "print([os.environ[n] for n in ('OPENBLAS_NUM_THREADS', 'OMP_NUM_THREADS', "
        "'MKL_NUM_THREADS')])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment(OPENBLAS_NUM_THREADS="8"), timeout=60,
        capture_output=True, check=True, encoding="utf-8",
    )  # fmt: skip
    assert out.stdout.strip() == "['1', '1', '1']"


def test_as_a_module_and_under_a_terminal_without_unicode():
    found = shell("--version")
    assert found.returncode == 0 and found.stdout.decode() == f"minideepseek {__version__}\n"
    ascii_only = environment(PYTHONIOENCODING="ascii")
    found = shell("info", "--preset", "nano", env=ascii_only)
    assert found.returncode == 0 and found.stderr == b"" and b"????" in found.stdout


def test_a_reader_that_leaves_is_no_error():
    read, write = os.pipe()
    os.close(read)
    try:
        found = shell("info", stdout=write, stderr=subprocess.PIPE, capture_output=False)
    finally:
        os.close(write)
    assert (found.returncode, found.stderr) == (0, b"")


def start_and_wait(arguments: list, ready) -> subprocess.Popen:
    """A process that has come so far that ready() is true."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], env=environment(), encoding="utf-8",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read()
    return process


def lines_of(path: str) -> int:
    return Path(path).read_text("utf-8").count("\n") if Path(path).exists() else 0


@needs_signals
def test_ctrl_c_ends_cleanly_with_a_checkpoint(text):
    arguments = pretrain(text, "--out", "run", "--steps", 100_000, "--checkpoint-every", 90_000)
    process = start_and_wait(arguments, lambda: lines_of("run/metrics.jsonl") >= 3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    last = read_metrics(Path("run/metrics.jsonl"))[-1]["step"]
    assert [p.name for p in list_checkpoints("run")] == [f"step-{last:08d}"]
    assert f"stopped after step {last}" in out
    assert out.rstrip().splitlines()[-1] == "minideepseek pretrain --resume run"
    assert sorted(os.listdir("run")) == [
        "checkpoints", "metrics.jsonl", "run.json", "samples.json",
    ]  # fmt: skip


def test_ctrl_c_before_anything_is_kept(capsys, text, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("minideepseek.training.language.load_corpus", interrupted)
    refused(capsys, pretrain(text, "--out", "run"), "interrupted; nothing is kept yet", 130)


def test_the_hint_names_the_verb_that_was_used(monkeypatch):
    jobs = []
    monkeypatch.setattr("minideepseek.training.language.run", lambda job, write: jobs.append(job))
    for place in ("--out", "--resume"):
        assert main(["journey", place, "a run"]) == 130
    assert [job.to_go_on() for job in jobs] == ["minideepseek journey --resume 'a run'"] * 2


def test_the_sequence_length_is_the_presets_where_none_is_given(text, capsys):
    short = ["pretrain", "--preset", "nano", "--text", text, "--steps", "1", "--batch-size", "1"]
    assert main([*short, "--out", "run"]) == 0
    assert json.loads(Path("run/run.json").read_text("utf-8"))["plan"]["sequence_length"] == 64
    Path("run/run.json").unlink()  # killed while it wrote it
    shutil.rmtree("run/checkpoints/step-00000001")
    assert main([*short, "--resume", "run"]) == 0


@needs_signals
def test_a_second_ctrl_c_ends_at_once(text):
    arguments = pretrain(text, "--out", "run", "--accumulate", 20_000)  # a minute a step
    process = start_and_wait(arguments, lambda: Path("run/samples.json").exists())
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert any("stopping after this step" in line for line in iter(process.stdout.readline, ""))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    sentence = "minideepseek: interrupted; to go on: minideepseek pretrain --resume run"
    assert process.returncode == 130 and err.rstrip().endswith(sentence)
    assert "Traceback" not in err and not list_checkpoints("run")


@pytest.mark.slow
def test_the_journey_ends_with_a_report():
    """The main job, small: the default corpus, the default everything else, under a minute."""
    began = time.monotonic()
    found = shell("journey", "--quick", timeout=120)
    assert time.monotonic() - began < 60
    out, err = found.stdout.decode(), found.stderr.decode()
    assert found.returncode == 0, err
    assert "pretrain 120/120 (100 %)" in err and "Traceback" not in err
    page = Path("runs/journey/report.html").read_text("utf-8")
    assert out.rstrip().endswith(str(Path("runs/journey/report.html").resolve()))
    reader = Page()
    reader.feed(page)
    assert reader.open == [] and reader.pictures >= 5
    assert not reader.requests, "the page asks for something outside itself"
    metrics = read_metrics(Path("runs/journey/metrics.jsonl"))
    assert [m["step"] for m in metrics] == list(range(1, 121))
    bits = [m["bits_per_byte"] for m in metrics if "bits_per_byte" in m]
    assert bits[-1] < bits[0] and bits[-1] < 4.5  # measured: 4.09
    assert f"{bits[-1]:.2f}" in reader.text and "lzma primed" in reader.text
    assert "Python's standard library" in reader.text
    assert main(["generate", "runs/journey/model", "Return the", "--max-new-tokens", "9"]) == 0


class Page(HTMLParser):
    """What a report's HTML holds: text, pictures, addresses, elements left open."""

    EMPTY = {"meta", "link", "br", "img", "hr", "input", "line", "path", "rect", "circle", "use"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.requests: list[str] = []
        self.text, self.pictures = "", 0

    def handle_starttag(self, tag, attributes):
        self.pictures += tag == "svg"
        if tag not in self.EMPTY:
            self.open.append(tag)
        found = [v for n, v in attributes if n in ("src", "href", "srcset", "action") and v]
        self.requests += [v for v in found if not v.startswith(("data:", "#"))]

    def handle_startendtag(self, tag, attributes):
        self.pictures += tag == "svg"

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
