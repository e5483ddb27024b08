"""The verbs of the reasoning part: think, evaluate, grpo, sft."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from minideepseek.cli.machine import (
    generator,
    given,
    interrupted,
    machine_options,
    set_up_machine,
)
from minideepseek.errors import InputError

SFT = {
    "steps": "optimiser steps (350)",
    "samples_per_step": "demonstrations per step (32)",
    "learning_rate": "peak (0.0015)",
    "bias_step": "γ of the routers' biases (0)",
    "checkpoint_every": "steps (100)",
    "seed": "of the demonstrations (0)",
}
GRPO = {
    "steps": "rollouts (50)",
    "prompts_per_step": "problems per step (32)",
    "group_size": "G, answers to each problem (16)",
    "temperature": "of sampling (1)",
    "minibatches": "updates per rollout (4)",
    "learning_rate": "peak (0.0003)",
    "clip_low": "ε below (0.2)",
    "clip_high": "ε above (0.2)",
    "kl_coef": "β (0)",
    "kl": "k1, k2, k3 or unbiased (k3)",
    "scale": "of the advantages: std, none or rloo (std)",
    "aggregation": "of the loss: token, sequence or constant (token)",
    "ratio": "token or sequence (token)",
    "truncated": "cut-off answers: judge or mask (judge)",
    "reference_every": "steps after which the policy becomes the reference, 0: never (0)",
    "bias_step": "γ of the routers' biases (0)",
    "evaluate_every": "steps (10)",
    "checkpoint_every": "steps (10)",
    "seed": "of problems and tokens (0)",
}


def add_verbs(verbs: Any) -> None:
    """Their parsers."""
    think = verbs.add_parser("think", help="answer a problem, thoughts and answer apart")
    think.set_defaults(run=run_think)
    think.add_argument("prompt", nargs="?", help='"9 8 5 3 > 13" (default: a held-out problem)')
    _model_options(think)
    think.add_argument("--temperature", type=float, default=0.6, help="0 is greedy (0.6, as R1)")
    think.add_argument("--top-p", type=float, default=0.95, help="only the mass p (0.95, as R1)")
    think.add_argument("--seed", type=int, default=0, help="of the draws (0)")

    evaluate = verbs.add_parser("evaluate", help="accuracy, pass@k, majority on held-out problems")
    evaluate.set_defaults(run=run_evaluate)
    _model_options(evaluate)
    evaluate.add_argument("--samples", type=int, default=8, help="answers to each problem (8)")
    evaluate.add_argument("--temperature", type=float, default=1.0, help="(1)")
    evaluate.add_argument("--top-p", type=float, default=1.0, help="only the mass p (1)")
    evaluate.add_argument("--seed", type=int, default=0, help="of the draws (0)")

    for verb, names, what in (
        ("grpo", GRPO, "reinforcement learning of a saved reasoning model"),
        ("sft", SFT, "supervised fine-tuning on a teacher's demonstrations"),
    ):
        parser = verbs.add_parser(verb, help=what)
        parser.set_defaults(run=run_training, verb=verb)
        place = parser.add_mutually_exclusive_group()
        place.add_argument("--out", type=Path, metavar="DIR", help="a new run's directory (runs/…)")
        place.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in DIR")
        _model_options(parser)
        for name, text in names.items():
            option = f"--{name.replace('_', '-')}"
            parser.add_argument(option, type=_KINDS.get(name, int), help=text)


_KINDS: dict[str, Any] = dict.fromkeys(("kl", "scale", "aggregation", "ratio", "truncated"), str)
_KINDS |= dict.fromkeys(
    ("temperature", "learning_rate", "clip_low", "clip_high", "kl_coef", "bias_step"), float
)


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="a model directory (the shipped cold start)"
    )
    parser.add_argument("--task", help="countdown or addition (countdown)")
    machine_options(parser)


def run_think(options: argparse.Namespace) -> int:
    """Thoughts, answer, and what the verifier says of it."""
    device = set_up_machine(options)
    from minideepseek.reasoning.jobs import load_reasoner, task_named
    from minideepseek.reasoning.r1.model import ReasoningModel
    from minideepseek.reasoning.shipped import DIRECTORY
    from minideepseek.training.progress import printable

    rng, task = generator(options.seed), task_named(options.task or "countdown")
    if options.prompt is None:
        problem = task.draw(rng, held_out=True)
    else:
        problem = task.read(options.prompt)
    model = load_reasoner(options.model or DIRECTORY, task, device)
    reasoner = ReasoningModel(model, task.tokenizer, task.max_new_tokens)
    thought = reasoner.think(problem.prompt, options.temperature, options.top_p, rng)
    print(f"problem:  {problem.prompt}")
    print(f"thinking: {printable(thought.thinking)}")
    print(f"answer:   {printable(thought.answer)}")
    if thought.malformed is not None:
        print(f"verdict:  malformed, {thought.malformed}")
    else:
        print(f"verdict:  {'right' if task.verify(problem, thought.answer) else 'wrong'}")
    _say_who_answered(options)
    return 0


def _say_who_answered(options: argparse.Namespace) -> None:
    """On standard error: what to expect of the shipped model."""
    if options.model is None and options.task in (None, "countdown"):
        print(
            "this is the shipped cold start, before GRPO, which often gives up (?) as its teacher "
            "does; try --temperature 0, or --model runs/journey/reasoning/model",
            file=sys.stderr,
        )
    elif options.model is None:
        print("the shipped model has learned countdown alone; give a --model", file=sys.stderr)


def run_evaluate(options: argparse.Namespace) -> int:
    """All held-out problems."""
    device = set_up_machine(options)
    from minideepseek.reasoning.evaluate import evaluate
    from minideepseek.reasoning.jobs import describe, load_reasoner, task_named
    from minideepseek.reasoning.shipped import DIRECTORY

    rng, task = generator(options.seed), task_named(options.task or "countdown")
    model = load_reasoner(options.model or DIRECTORY, task, device)
    found = evaluate(
        model,
        task,
        task.held_out_problems(),
        options.samples,
        options.temperature,
        options.top_p,
        rng,
    )
    print("\n".join(describe(found)))
    _say_who_answered(options)
    return 0


def run_training(options: argparse.Namespace) -> int:
    """One stage: a new run, or the one to resume."""
    device = set_up_machine(options)
    from minideepseek.reasoning.jobs import PLANS, StageJob, run_stage, stored_job
    from minideepseek.reasoning.shipped import DIRECTORY
    from minideepseek.training.job import check_directory, free_directory
    from minideepseek.training.language import stop_on_interrupt

    plan = PLANS[options.verb]
    changes = given(options, *(f.name for f in fields(plan) if hasattr(options, f.name)))
    if options.resume is not None:
        if changes or options.model or options.task:
            raise InputError("resume: the run goes on with its own options, expected no others")
        job = stored_job(options.verb, options.resume, device)
    else:
        out = options.out or free_directory(Path("runs") / options.verb)
        check_directory(out, resume=False)
        model, task = options.model or DIRECTORY, options.task or "countdown"
        job = StageJob(options.verb, out, plan(**changes), model, task, device)
    try:
        with stop_on_interrupt(print) as stopped:
            return 0 if run_stage(job, stopped=stopped) is not None else 130
    except KeyboardInterrupt:
        return interrupted(job)
