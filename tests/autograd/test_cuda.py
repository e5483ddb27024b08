"""Everything that can be wrong with a card, by a package called cupy that has it wrong.

Each case is a process of its own: the real command line, and no stand-in registered beforehand.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training import tiny

ROOT = Path(__file__).parents[2]
WHEELS = "install minideepseek[cuda12] or minideepseek[cuda13], whichever CUDA `nvidia-smi` names"
THINK = ["-m", "minideepseek", "think", "9 8 5 3 > 13"]


def run(*arguments, wrong="", timeout=60, **environment):
    """A finished process that finds the fake cupy with that one thing wrong."""
    paths = [str(ROOT / "tests/standin/fake"), str(ROOT)]
    settings = {"PYTHONPATH": os.pathsep.join(paths), "FAKE_CUPY": wrong}
    kept = {k: v for k, v in os.environ.items() if k != "MINIDEEPSEEK_DEVICE"}
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments], env=kept | settings | environment,
        capture_output=True, encoding="utf-8", timeout=timeout,
    )  # fmt: skip


SENTENCES = {
    ("old", "cuda"): f"cupy 13.6.0 is installed, 14 or newer is needed; {WHEELS}",
    ("broken", "cuda"): "cupy is installed and cannot be imported (libcudart.so.13: cannot open "
    f"shared object file: No such file); uninstall it, then {WHEELS}",
    ("no-driver", "cuda"): "there is no CUDA driver (cudaErrorInsufficientDriver: CUDA driver "
    "version is insufficient for CUDA runtime version); install NVIDIA's driver for a card",
    ("old-driver", "cuda"): "cupy 14.2.0 is for CUDA 13.2, the driver knows CUDA 12.4 at most; "
    "install minideepseek[cuda12], or a newer driver",
    ("no-card", "cuda"): "the driver for CUDA 13.2 shows no card (cudaErrorNoDevice: no "
    "CUDA-capable device is detected); look at `nvidia-smi` and at CUDA_VISIBLE_DEVICES",
    ("no-library", "cuda"): "cupy 14.2.0 for CUDA 13.2 cannot compute with a driver for CUDA 13.2 "
    '(Failure finding "libnvrtc.so.13 or libnvrtc.so.12": No such file: libnvrtc.so.13); install '
    "cupy-cuda13x[ctk], which brings CUDA's libraries, or the cupy that fits the driver",
    ("no-product", "cuda"): "cupy 14.2.0 for CUDA 13.2 cannot compute with a driver for CUDA 13.2 "
    '(Failure finding "libcublasLt.so.13 or libcublasLt.so.12": No such file); install '
    "cupy-cuda13x[ctk], which brings CUDA's libraries, or the cupy that fits the driver",
    ("full", "cuda"): "the card is full (Out of memory allocating 512 bytes (allocated so far: 0 "
    "bytes)); end what fills it, or take another card",
    ("", "cuda:7"): "this machine has cuda:0",
    ("two", "cuda:2"): "this machine has cuda:0 to cuda:1",
}


@pytest.mark.parametrize(("wrong", "name"), SENTENCES)
def test_what_is_wrong_is_one_sentence_with_its_cure(wrong, name):
    done = run(*THINK, "--device", name, wrong=wrong)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    index = name[5:] or 0
    assert re.sub("cuda:?[0-9]*' is", f"cuda:{index}' is", line, count=1) == (
        f"minideepseek: device 'cuda:{index}' is not available: {SENTENCES[wrong, name]}"
    )


def test_a_full_card_says_what_to_lower():
    done = run(*THINK, "--device", "cuda", wrong="small")
    assert done.returncode == 2
    first, line = done.stderr.splitlines()
    assert first.startswith("device: cuda:0, Paper H100 number 0 (--device); threads: ")
    assert re.fullmatch(
        r"minideepseek: the card is out of memory \(Out of memory allocating [\d,]+ bytes "
        r"\(allocated so far: [\d,]+ bytes\)\); lower the size of the model, or take --device cpu",
        line,
    )


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_verb_on_a_card_answers_as_on_the_host(name):
    there = run(*THINK, wrong="two", MINIDEEPSEEK_DEVICE=name)
    here = run(*THINK)
    index = name[5:] or "0"
    assert f"device: cuda:{index}, Paper H100 number {index} (MINIDEEPSEEK_DEVICE)" in there.stderr
    assert "device: cpu (the default" in here.stderr
    assert there.returncode == here.returncode == 0 and there.stdout == here.stdout


ONE_CARD = """
import numpy as np
from minideepseek import Tensor, DeepSeekV3, DeepSeekV3Config
from minideepseek.autograd import backend, blocks
model = DeepSeekV3(DeepSeekV3Config.preset("nano"))
there = model.to("cuda:1")
assert there.device == "cuda" and there.to("cuda") is there.to("cuda:1") is there
assert Tensor(np.ones(2)).to("cuda").device == "cuda" and there.to("cpu").device == "cpu"
assert backend.get_device("cuda") is backend.get_device("cuda:1")
blocks.set_threads(3)  # whose state of CUDA is their own: they must not launch
import threading, time
seen = []
blocks.parallel_for(lambda i: (time.sleep(0.002), seen.append(threading.get_ident())), range(9))
assert set(seen) == {threading.get_ident()}
for name in ("cuda:0", "cuda:x", "cuda:-1", "CUDA", 0, None):
    try:
        model.to(name)
    except ValueError as error:
        print(error)
"""


def test_a_process_computes_on_one_card():
    done = run("-c", ONE_CARD, wrong="two")
    first, *others = done.stdout.splitlines()
    assert done.stderr == ""
    assert first == (
        "device: got 'cuda:0', this process computes on cuda:1, Paper H100 number 1, and on no "
        "other"
    )
    expected = "expected one of ['cpu', 'cuda']"
    assert others == [
        f"device: got {name}, {expected}" for name in ("'cuda:x'", "'cuda:-1'", "'CUDA'", 0, None)
    ]


VERBS = {  # {out} is a folder, {text} a text, {model} what pretrain leaves
    "pretrain": "--preset nano --steps 2 --batch-size 2 --sequence-length 16 --evaluate-every 2 "
    "--checkpoint-every 2 --text {text} --out {out}",
    "pretrain --fp8": "--preset nano --steps 1 --batch-size 2 --sequence-length 16 --text {text} "
    "--out {out}8",
    "generate": "{out}/model a --max-new-tokens 3",
    "generate --draft-tokens 2": "{out}/model a --max-new-tokens 5",
    "evaluate": "--samples 1",
    "grpo": "--steps 1 --prompts-per-step 2 --group-size 2 --evaluate-every 5 --out {out}g",
    "sft": "--steps 1 --samples-per-step 2 --out {out}s",
}


@pytest.mark.slow
def test_every_verb_that_computes_does_so_on_the_card(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(tiny.text(), "utf-8")
    for verb, options in VERBS.items():
        words = options.format(out=tmp_path / "run", text=text).split()
        done = run("-m", "minideepseek", *verb.split(), *words, "--device", "cuda", timeout=200)
        assert done.returncode == 0, (verb, done.stderr)
        assert done.stderr.count("device: cuda:0, Paper H100 number 0 (--device)") == 1, verb
    state = (tmp_path / "run/checkpoints/step-00000002/trainer.json").read_text("utf-8")
    assert '"device": "cuda"' in state


def test_every_verb_with_threads_takes_a_device():
    from minideepseek.cli import build_parser

    verbs = build_parser()._subparsers._group_actions[0].choices
    takes = {
        name: {o for action in verb._actions for o in action.option_strings}
        for name, verb in verbs.items()
    }
    computing = {name for name, options in takes.items() if "--threads" in options}
    assert computing == {"journey", "pretrain", "generate", "think", "evaluate", "grpo", "sft"}
    assert computing == {name for name, options in takes.items() if "--device" in options}
