r"""The command line: one verb per job, thin.

    minideepseek journey      the main job: a small DeepSeek-V3 learns real text, then writes some
    minideepseek pretrain     the same training with the main numbers yours
    minideepseek generate     continue a prompt with a saved model
    minideepseek info         parameters, FLOPs and cache bytes of a configuration, from shapes
    minideepseek inspect      the ledger of a checkpoint directory, from its headers

BLAS is set to one thread before NumPy is loaded: the threads are ours (`--threads`), so that the
element-wise work shares them too and results do not depend on their number.

What a run says goes to standard output, how far it is to standard error. Exit codes: 0 done, 2 for
input that cannot be used (one sentence on standard error), 3 for a run that diverged, 130 when
interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from minideepseek.errors import CheckpointError, DivergedError, InputError, MiniDeepSeekError

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"):
    if "numpy" not in sys.modules:
        os.environ[_name] = "1"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without the letter γ shows a ?; a log is written line by line.
            stream.reconfigure(errors="replace", line_buffering=True)
    try:
        options = build_parser().parse_args(arguments)
        return options.run(options)
    except DivergedError as error:
        return _complain(str(error), 3)
    except MiniDeepSeekError as error:
        return _complain(str(error), 2)
    except BrokenPipeError:  # whoever read the output has seen enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return _complain(f"{name}{error.strerror or error}", 2)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)


def _complain(sentence: str, code: int) -> int:
    print(f"minideepseek: {sentence}", file=sys.stderr)
    return code


def build_parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    parser = argparse.ArgumentParser(
        prog="minideepseek", description="DeepSeek-V3 from first principles, in NumPy."
    )
    parser.add_argument("--version", action="version", version=_version())
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    journey = verbs.add_parser("journey", help="train a small DeepSeek-V3 on real text, and report")
    journey.description = (
        "Train a small DeepSeek-V3 on real text, show what it writes, and report: about five "
        "minutes on two cores. The report is runs/journey/report.html (--out DIR: DIR/report.html)."
    )
    journey.set_defaults(run=run_journey)
    _training_options(journey)
    journey.add_argument("--quick", action="store_true", help="a tiny model, about ten seconds")

    pretrain = verbs.add_parser("pretrain", help="pre-train with the main numbers yours")
    pretrain.set_defaults(run=run_pretrain)
    _training_options(pretrain)
    pretrain.add_argument("--preset", help="nano, mini, small, reason (mini)")
    pretrain.add_argument("--batch-size", type=int, help="sequences per batch (8)")
    length = "bytes per sequence; not given, no more than the preset's positions (256)"
    pretrain.add_argument("--sequence-length", type=int, help=length)
    pretrain.add_argument("--accumulate", type=int, help="batches per step (1)")
    pretrain.add_argument("--learning-rate", type=float, help="peak (0.002)")
    pretrain.add_argument("--bias-step", type=float, help="γ of the routers' biases (0.01)")
    pretrain.add_argument("--mtp-weight", type=float, help="λ of multi-token prediction (0.3)")
    pretrain.add_argument("--evaluate-every", type=int, help="steps (200)")
    pretrain.add_argument("--checkpoint-every", type=int, help="steps (100)")

    generate = verbs.add_parser("generate", help="continue a prompt with a saved model")
    generate.set_defaults(run=run_generate)
    _generate_options(generate)

    info = verbs.add_parser("info", help="parameters, FLOPs and cache of a configuration")
    info.set_defaults(run=run_info)
    which = info.add_mutually_exclusive_group()
    which.add_argument("--preset", default="v3", help="nano, mini, small, reason, v3 (v3)")
    which.add_argument("--config", type=Path, help="a config.json instead of a preset")
    info.add_argument("--context", type=int, default=4096, help="tokens, for FLOPs (4096)")

    inspect = verbs.add_parser("inspect", help="the ledger of a checkpoint, without loading it")
    inspect.set_defaults(run=run_inspect)
    inspect.add_argument("directory", type=Path)
    return parser


def _training_options(parser: argparse.ArgumentParser) -> None:
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--out", type=Path, metavar="DIR", help="a new run's directory (default: one in runs/)"
    )
    place.add_argument(
        "--resume", type=Path, metavar="DIR", help="go on with the interrupted run in DIR"
    )
    parser.add_argument(
        "--text", nargs="+", default=[], metavar="PATH", help="files or folders to learn from"
    )
    parser.add_argument("--steps", type=int, help="optimiser steps (1000)")
    parser.add_argument("--seed", type=int, help="of weights and data order (0)")
    _machine_options(parser)


def _generate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="a model directory, such as runs/journey/model")
    parser.add_argument("prompt", help="text to continue; '' begins a new one")
    parser.add_argument("--max-new-tokens", type=int, default=200, help="at most (200)")
    parser.add_argument("--temperature", type=float, default=0.7, help="0 is greedy (0.7)")
    parser.add_argument("--top-k", type=int, help="only the k most probable tokens (all)")
    parser.add_argument("--top-p", type=float, default=0.95, help="only the mass p (0.95)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    _machine_options(parser)


def _machine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=2, help="threads (2)")
    parser.add_argument(
        "--device", help="cpu or cuda (default: MINIDEEPSEEK_DEVICE, else cpu)", default=None
    )


def _version() -> str:
    from minideepseek import __version__

    return f"minideepseek {__version__}"


# -------------------------------------------------------------------------------------- the verbs


def run_journey(options: argparse.Namespace) -> int:
    """The main job."""
    changes = _given(options, "steps", "seed")
    if options.quick:
        changes = {
            "steps": 120,
            "batch_size": 8,
            "sequence_length": 64,
            "learning_rate": 1e-2,
            "bias_step": 0.04,
            "evaluate_every": 60,
        } | changes
    return _train(options, "journey", "nano" if options.quick else None, changes)


def run_pretrain(options: argparse.Namespace) -> int:
    """Pre-training with the plan's fields from the options."""
    names = (
        "steps seed batch_size sequence_length accumulate learning_rate bias_step mtp_weight "
        "evaluate_every checkpoint_every"
    )
    return _train(options, "pretrain", options.preset, _given(options, *names.split()))


def _train(options: argparse.Namespace, name: str, preset: str | None, changes: dict) -> int:
    """A new run, or the one to resume: its options are on the disk, those given now come first."""
    device = _set_up_machine(options)
    from minideepseek.training.job import LanguageJob, default_length, free_directory, stored_job
    from minideepseek.training.language import run
    from minideepseek.training.trainer import Plan

    if options.resume is not None:
        job = replace(stored_job(options.resume, preset, options.text, changes, device), verb=name)
    else:
        out, preset = options.out or free_directory(Path("runs") / name), preset or "mini"
        plan = Plan(**({"sequence_length": default_length(preset)} | changes))
        job = LanguageJob(out, preset, options.text, plan, device, verb=name)
    try:
        return 0 if run(job) is not None else 130
    except KeyboardInterrupt:  # at once: before the steps, or by a second Ctrl-C during one
        begun = (job.out / "run.json").exists()
        hint = f"to go on: {job.to_go_on()}" if begun else "nothing is kept yet; start again"
        return _complain(f"interrupted; {hint}", 130)


def run_generate(options: argparse.Namespace) -> int:
    """Print the continuation as it is made."""
    device = _set_up_machine(options)
    import numpy as np

    from minideepseek.model.contents import model_directory
    from minideepseek.model.generate import stream
    from minideepseek.model.tokenizer import load_tokenizer
    from minideepseek.model.transformer import DeepSeekV3

    if options.seed < 0:
        raise InputError(f"seed: got {options.seed}, expected an integer of at least 0")
    tokenizer = load_tokenizer(model_directory(options.model))
    model = DeepSeekV3.from_pretrained(options.model).to(device)
    if model.config.vocab_size != tokenizer.vocab_size:
        raise CheckpointError(
            f"{options.model}: its model knows {model.config.vocab_size} tokens, its tokenizer "
            f"{tokenizer.vocab_size}"
        )
    prompt = tokenizer.encode(options.prompt)
    before = prompt if prompt.size else np.array([tokenizer.eos_token_id])  # what precedes a text
    room = model.config.max_position_embeddings - len(before)
    new = min(options.max_new_tokens, room) if room > 0 else options.max_new_tokens
    sampling = (options.temperature, options.top_k, options.top_p)
    rng = np.random.default_rng(options.seed)
    steps = stream(model, before[None], new, *sampling, tokenizer.eos_token_id, rng)
    _show(tokenizer, prompt.tolist(), (int(token[0]) for token in steps))
    return 0


def _show(tokenizer: Any, ids: list[int], tokens: Iterable[int]) -> None:
    """Print the text of ids, then of each token as it comes, up to the end token."""
    from minideepseek.training.progress import printable

    shown = tokenizer.decode(ids)
    print(printable(shown), end="", flush=True)
    for token in tokens:
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
        text = tokenizer.decode(ids).rstrip("\ufffd")  # half a character waits for its rest
        if len(text) > len(shown):
            print(printable(text[len(shown) :]), end="", flush=True)
            shown = text
    print(tokenizer.decode(ids)[len(shown) :])


def run_info(options: argparse.Namespace) -> int:
    """The arithmetic of a configuration."""
    from minideepseek.model.config import DeepSeekV3Config
    from minideepseek.model.ledger import format_ledger

    if options.config is not None:
        config = DeepSeekV3Config.from_json(options.config)
    else:
        config = DeepSeekV3Config.preset(options.preset)
    ledger = format_ledger(config, options.context)
    print(f"{options.config or 'preset ' + options.preset}\n{ledger}")
    return 0


def run_inspect(options: argparse.Namespace) -> int:
    """What a checkpoint directory holds."""
    from minideepseek.model.inspect import inspect

    print(inspect(options.directory))
    return 0


def _given(options: argparse.Namespace, *names: str) -> dict:
    """The options that were given, as fields of a Plan."""
    return {n: getattr(options, n) for n in names if getattr(options, n) is not None}


def _set_up_machine(options: argparse.Namespace) -> str:
    """Threads and device; prints the device and why, once."""
    from minideepseek.autograd.backend import get_device, set_threads

    warnings.simplefilter("ignore", RuntimeWarning)  # NaN and Inf: the trainer names them
    set_threads(options.threads)
    if options.device is not None:
        name, why = options.device, "--device"
    elif os.environ.get("MINIDEEPSEEK_DEVICE"):
        name, why = os.environ["MINIDEEPSEEK_DEVICE"], "MINIDEEPSEEK_DEVICE"
    else:
        name, why = "cpu", "the default; --device cuda uses a GPU"
    get_device(name)
    print(f"device: {name} ({why}); threads: {options.threads}", file=sys.stderr)
    return name


if __name__ == "__main__":
    sys.exit(main())
