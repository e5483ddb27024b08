"""The verbs of the language part: pretrain, generate, info, inspect."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from minideepseek.cli.machine import (
    generator,
    given,
    interrupted,
    machine_options,
    set_up_machine,
)
from minideepseek.errors import CheckpointError


def add_verbs(verbs: Any) -> None:
    """Their parsers."""
    pretrain = verbs.add_parser("pretrain", help="pre-train with the main numbers yours")
    pretrain.set_defaults(run=run_pretrain)
    training_options(pretrain)
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
    pretrain.add_argument(
        "--fp8", action="store_true", help="products in FP8, moments in bfloat16, as V3's"
    )

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


def training_options(parser: argparse.ArgumentParser) -> None:
    """Where a run lives, what it reads, and the machine's options."""
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
    machine_options(parser)


def _generate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="a model directory, such as runs/journey/model")
    parser.add_argument("prompt", help="text to continue; '' begins a new one")
    parser.add_argument("--max-new-tokens", type=int, default=200, help="at most (200)")
    parser.add_argument("--temperature", type=float, default=0.7, help="0 is greedy (0.7)")
    parser.add_argument("--top-k", type=int, help="only the k most probable tokens (all)")
    parser.add_argument("--top-p", type=float, default=0.95, help="only the mass p (0.95)")
    drafts = "let the MTP module draft N tokens ahead: the same law in fewer passes (0: no drafts)"
    parser.add_argument("--draft-tokens", type=int, default=0, metavar="N", help=drafts)
    parser.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    machine_options(parser)


def run_pretrain(options: argparse.Namespace) -> int:
    """Pre-training with the plan's fields from the options."""
    names = (
        "steps seed batch_size sequence_length accumulate learning_rate bias_step mtp_weight "
        "evaluate_every checkpoint_every"
    )
    return train(options, "pretrain", options.preset, given(options, *names.split()))


def train(options: argparse.Namespace, name: str, preset: str | None, changes: dict) -> int:
    """A new run, or the one to resume: its options are on the disk, those given now come first."""
    device = set_up_machine(options)
    from minideepseek.training.language import run

    job = language_job(options, name, preset, changes, device)
    try:
        return 0 if run(job) is not None else 130
    except KeyboardInterrupt:
        return interrupted(job)


def language_job(
    options: argparse.Namespace, name: str, preset: str | None, changes: dict, device: str
) -> Any:
    """The LanguageJob that the options ask for."""
    from minideepseek.training.job import LanguageJob, default_length, free_directory, stored_job
    from minideepseek.training.trainer import Plan

    fp8 = getattr(options, "fp8", False)  # pretrain's alone
    if options.resume is not None:
        job = stored_job(options.resume, preset, options.text, changes, device, fp8)
        return replace(job, verb=name)
    out, preset = options.out or free_directory(Path("runs") / name), preset or "mini"
    plan = Plan(**({"sequence_length": default_length(preset)} | changes))
    return LanguageJob(out, preset, options.text, plan, device, verb=name, fp8=fp8)


def run_generate(options: argparse.Namespace) -> int:
    """Print the continuation as it is made, and with drafts how many were accepted."""
    device = set_up_machine(options)
    import numpy as np

    from minideepseek.model.contents import model_directory
    from minideepseek.model.generate import request, stream
    from minideepseek.model.speculative import Speculation
    from minideepseek.model.tokenizer import load_tokenizer
    from minideepseek.model.transformer import DeepSeekV3

    rng = generator(options.seed)
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
    asked = (before[None], new, *sampling, tokenizer.eos_token_id, rng)
    if not options.draft_tokens:
        _show(tokenizer, prompt.tolist(), (int(token[0]) for token in stream(model, *asked)))
        return 0
    run = Speculation(model, request(model, *asked, lengths=None), options.draft_tokens)
    _show(tokenizer, prompt.tolist(), (token for _, blocks in run for token in blocks[0]))
    print(
        f"accepted: {run.stats.acceptance_rate:.0%} of {sum(run.stats.drafted)} drafts; tokens per "
        f"pass of the model: {run.stats.tokens_per_forward:.2f}",
        file=sys.stderr,
    )
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
