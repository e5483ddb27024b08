r"""A model trained here, opened by transformers: the same prompt, the same tokens.

    pip install -e '.[parity]' && python -m demos.open_in_transformers [DIR] [--prompt TEXT]

Opens the model directory of a run (the newest runs/*/model by default) with AutoModelForCausalLM
and AutoTokenizer, and with this package; both continue the prompt greedily, in float32. Prints both
texts, and whether the prompt's ids and the continuation's are the same. Where they part, it says
how far apart the two best tokens were: float32 cannot tell what is closer than about 1e-5.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # a decoded token is too little work to share

import numpy as np  # noqa: E402

from demos.common import cpu_alone, run  # noqa: E402
from minideepseek import DeepSeekV3, MiniDeepSeekError, generate, no_grad  # noqa: E402
from minideepseek.model.tokenizer import load_tokenizer  # noqa: E402


def newest_model() -> Path:
    """The model directory written last under runs/."""
    found = sorted(Path("runs").glob("*/model/config.json"), key=lambda p: p.stat().st_mtime)
    if not found:
        sys.exit("no runs/*/model here: train one with `minideepseek journey`, or name a directory")
    return found[-1].parent


def continue_here(folder: Path, prompt: str, new: int) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """(our tokenizer, our model, the prompt's ids (N,), all ids (N + new,))."""
    tokenizer, model = load_tokenizer(folder), DeepSeekV3.from_pretrained(folder)
    ids = tokenizer.encode(prompt)
    new = min(new, model.config.max_position_embeddings - len(ids))
    return tokenizer, model, ids, generate(model, ids[None], max(new, 1))[0]


def continue_there(folder: Path, prompt: str, length: int) -> tuple[np.ndarray, np.ndarray, str]:
    """(the prompt's ids, all ids, all ids as text) by transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
        out = model.generate(**ids, max_length=length, do_sample=False, eos_token_id=None)[0]
    return ids["input_ids"][0].numpy(), out.numpy(), tokenizer.decode(out)


def compare(model: DeepSeekV3, prompt: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> str:
    """One sentence on the continuations."""
    new, differ = len(ours) - len(prompt), np.flatnonzero(ours != theirs)
    if not differ.size:
        return f"all {new} new ids the same: True"
    first = differ[0]
    with no_grad():
        best = np.sort(model(ours[None, :first]).numpy()[0, -1])
    return (
        f"all {new} new ids the same: False, token {first - len(prompt) + 1} of {new} is the first "
        f"that differs; our two best logits there are {best[-1] - best[-2]:.1e} apart"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", type=Path)
    parser.add_argument("--prompt", default="Return a list of the ")
    parser.add_argument("--new", type=int, default=100, help="tokens to write (100)")
    cpu_alone(parser, "transformers reads the directory on the CPU")
    options = parser.parse_args(arguments)
    try:
        import torch  # noqa: F401
        import transformers
    except ImportError as error:
        sys.exit(f"{error.name} is missing: pip install -e '.[parity]'")
    transformers.utils.logging.set_verbosity_error()  # it calls the MTP layer's names unexpected
    transformers.utils.logging.disable_progress_bar()

    folder = options.directory or newest_model()
    try:
        tokenizer, model, ids, ours = continue_here(folder, options.prompt, options.new)
    except MiniDeepSeekError as error:
        sys.exit(str(error))
    their_ids, theirs, text = continue_there(folder, options.prompt, len(ours))
    print(f"{folder}\n\nminideepseek: {tokenizer.decode(ours)!r}")
    print(f"transformers: {text!r}\n")
    if not np.array_equal(ids, their_ids):
        print("prompt ids the same: False")
        return 1
    print("prompt ids the same: True")
    print(compare(model, ids, ours, theirs))
    return 0 if np.array_equal(ours, theirs) else 1


if __name__ == "__main__":
    run(main)
