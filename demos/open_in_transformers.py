r"""A model trained here, opened by transformers: the same prompt, the same tokens.

    pip install -e '.[parity]' && python -m demos.open_in_transformers [DIR] [--prompt TEXT]

Opens the model directory of a run (the newest runs/*/model by default) with AutoModelForCausalLM
and AutoTokenizer, and with this package; both continue the prompt greedily. Prints both texts, and
whether the prompt's ids and the continuation's are the same.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from minideepseek import DeepSeekV3, generate
from minideepseek.model.tokenizer import load_tokenizer


def newest_model() -> Path:
    """The model directory written last under runs/."""
    found = sorted(Path("runs").glob("*/model/config.json"), key=lambda p: p.stat().st_mtime)
    if not found:
        sys.exit("no runs/*/model here: train one with `minideepseek journey`, or name a directory")
    return found[-1].parent


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", type=Path)
    parser.add_argument("--prompt", default="Return a list of the ")
    parser.add_argument("--new", type=int, default=100, help="tokens to write")
    options = parser.parse_args(arguments)
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        sys.exit(f"{error.name} is missing: pip install -e '.[parity]'")
    folder = options.directory or newest_model()

    tokenizer, model = load_tokenizer(folder), DeepSeekV3.from_pretrained(folder)
    ids = tokenizer.encode(options.prompt)
    ours = generate(model, ids[None], options.new)

    auto = AutoTokenizer.from_pretrained(folder)
    other = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompt = np.array(auto(options.prompt)["input_ids"])
    with torch.no_grad():
        theirs = other.generate(
            torch.from_numpy(prompt[None]),
            max_new_tokens=options.new,
            do_sample=False,
            eos_token_id=None,
        ).numpy()

    print(f"{folder}\n\nminideepseek: {tokenizer.decode(ours[0])!r}")
    print(f"transformers: {auto.decode(theirs[0])!r}\n")
    same = np.array_equal(prompt, ids), np.array_equal(ours, theirs)
    print(f"prompt ids the same: {same[0]}; all {ours.shape[1]} ids the same: {same[1]}")
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
