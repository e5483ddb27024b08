"""A model trained here goes on alike there: a run's directory in Auto classes, and the demo."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from demos import open_in_transformers
from minideepseek.model.generate import generate
from minideepseek.model.tokenizer import ByteTokenizer, load_tokenizer
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.training.job import LanguageJob
from minideepseek.training.language import run
from minideepseek.training.rundir import read_metrics
from minideepseek.training.trainer import Plan
from tests.parity import oracle
from tests.parity.oracle import torch, transformers

pytestmark = pytest.mark.parity
PROMPTS = ["import json\n", "Decode ``s`` <think>", "é — ✓"]
PLAN = Plan(
    steps=80,
    batch_size=8,
    sequence_length=48,
    learning_rate=1e-2,
    bias_step=0.04,
    evaluate_every=80,
    checkpoint_every=80,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model directory of a short run of the language part, on Python of this Python."""
    root = tmp_path_factory.mktemp("trained")
    texts = [str(Path(json.__file__).with_name(f"{name}coder.py")) for name in ("en", "de")]
    run(LanguageJob(root / "runs" / "tiny", "nano", [*texts, json.__file__], PLAN), lambda _: None)
    losses = [m["main_loss"] for m in read_metrics(root / "runs" / "tiny" / "metrics.jsonl")]
    assert losses[-1] < losses[0] - 2
    return root / "runs" / "tiny" / "model"


def test_the_run_is_found(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained.parents[2])
    assert open_in_transformers.newest_model().resolve() == trained.resolve()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_goes_on_alike(trained: Path, prompt: str) -> None:
    """The same prompt ids and the same greedy ids, in float64 to be sure of near ties."""
    tokenizer, model = load_tokenizer(trained), DeepSeekV3.from_pretrained(trained, "float64")
    assert type(tokenizer) is ByteTokenizer
    ids = tokenizer.encode(prompt)
    ours = generate(model, ids[None], 40)
    auto = transformers.AutoTokenizer.from_pretrained(trained)
    assert auto(prompt)["input_ids"] == ids.tolist()
    with oracle.lifted_casts(), torch.no_grad():
        theirs = transformers.AutoModelForCausalLM.from_pretrained(
            trained,
            dtype=torch.float64,
            attn_implementation="eager",
            experts_implementation="eager",
        ).eval()
        out = theirs.generate(
            torch.from_numpy(ids[None]), max_new_tokens=40, do_sample=False, eos_token_id=None
        )
    assert out.tolist() == ours.tolist()
    assert auto.decode(out[0]) == tokenizer.decode(ours[0])


# ------------------------------------------------------------------------------------- the demo


def test_demo(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a user opens it: float32, transformers' default attention and experts."""
    arguments = [str(trained), "--prompt", "import json\n", "--new", "30"]
    assert open_in_transformers.main(arguments) == 0
    text = capsys.readouterr().out
    sides = [line for line in text.splitlines() if line.startswith(("minideepseek:", "transf"))]
    texts = [line.split(": ", 1)[1] for line in sides]
    assert len(texts) == 2 and texts[0] == texts[1]
    assert texts[0].startswith("'import json\\n") and len(texts[0]) > 20
    assert "prompt ids the same: True" in text and "ids the same: True" in text


def test_demo_sees_a_difference(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one token."""

    def other(*inputs: object, **options: object) -> np.ndarray:
        out = generate(*inputs, **options)
        out[0, -3] = (out[0, -3] + 1) % 256
        return out

    monkeypatch.setattr(open_in_transformers, "generate", other)
    assert open_in_transformers.main([str(trained), "--new", "30"]) == 1
    assert "token 28 of 30" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_demo_says_what_to_install(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit, match=rf"{missing} is missing: pip install -e '\.\[parity\]'"):
        open_in_transformers.main([])


def test_demo_without_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="minideepseek journey"):
        open_in_transformers.main([])


def test_demo_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="nothing is not a directory|nothing/"):
        open_in_transformers.main([str(tmp_path / "nothing")])
