"""One stage alone, from the command line: fine-tuning on a teacher, or GRPO, of a saved model.

    DIR/job.json     the task, the model that it began from, the plan: what --resume needs
    DIR/sft, grpo    the stage's metrics.jsonl and checkpoints (stages.py)
    DIR/model        the finished model, a directory as everyone reads it
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minideepseek.errors import CheckpointError, InputError
from minideepseek.model.checkpoint import OWNED, from_pretrained, write_model
from minideepseek.model.files import atomic_directory, atomic_write, make_directory
from minideepseek.model.strict_json import read_json
from minideepseek.model.tokenizer import load_tokenizer
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning.addition import Addition
from minideepseek.reasoning.countdown import Countdown
from minideepseek.reasoning.evaluate import Evaluation, evaluate
from minideepseek.reasoning.grpo.plan import GRPOPlan
from minideepseek.reasoning.grpo.trainer import GRPOTrainer
from minideepseek.reasoning.journey import SHOWN_GRPO, SHOWN_SFT
from minideepseek.reasoning.r1.sft import SFTPlan, SFTTrainer
from minideepseek.reasoning.r1.sources import Demonstrations
from minideepseek.reasoning.shipped import DIRECTORY
from minideepseek.reasoning.stages import Interrupted, Stages, without_mtp
from minideepseek.reasoning.tasks import Task
from minideepseek.training.language import interrupt_at_once

TASKS: dict[str, Callable[[], Task]] = {"countdown": Countdown, "addition": Addition}
PLANS: dict[str, type] = {"sft": SFTPlan, "grpo": GRPOPlan}


@dataclass(frozen=True)
class StageJob:
    """What one run of `sft` or `grpo` (`verb`) does. model: a directory, by default the shipped."""

    verb: str
    out: Path
    plan: Any
    model: Path = DIRECTORY
    task: str = "countdown"
    device: str = "cpu"

    def to_go_on(self) -> str:
        """The command that resumes it, for pasting."""
        return f"minideepseek {self.verb} --resume {shlex.quote(str(self.out))}"


def task_named(name: str) -> Task:
    """A task with its defaults, or InputError."""
    if name not in TASKS:
        raise InputError(f"task: got {name!r}, expected one of {', '.join(TASKS)}")
    return TASKS[name]()


def load_reasoner(directory: Path, task: Task, device: str = "cpu") -> DeepSeekV3:
    """The model in a directory, MTP modules left out. CheckpointError if its words are not the
    task's."""
    model, words = from_pretrained(directory), load_tokenizer(directory)
    if getattr(words, "tokens", None) != task.tokenizer.tokens:
        raise CheckpointError(f"{directory}: its words are not those of the task {task.name}")
    if model.config.vocab_size != task.tokenizer.vocab_size:
        raise CheckpointError(
            f"{directory}: its model knows {model.config.vocab_size} tokens, its tokenizer "
            f"{task.tokenizer.vocab_size}"
        )
    return without_mtp(model.to(device))


def stored_job(verb: str, out: Path, device: str) -> StageJob:
    """The job that began the run in `out`. CheckpointError for another kind of directory."""
    file = out / "job.json"
    if not file.exists():
        raise CheckpointError(f"{out}: no run of {verb} to resume, expected a job.json")
    facts = read_json(file)
    try:
        begun, model, task = facts["verb"], Path(facts["model"]), facts["task"]
        if not isinstance(task, str):
            raise TypeError
        job = StageJob(begun, out, PLANS[begun](**facts["plan"]), model, task, device)
    except (KeyError, TypeError):
        raise CheckpointError(f"{file}: not what a run wrote") from None
    except InputError as error:
        raise CheckpointError(f"{file}: {error}") from None
    if begun != verb:
        raise CheckpointError(f"{out}: begun by {begun}, not by {verb}")
    return job


def run_stage(
    job: StageJob,
    say: Callable[[str], None] = print,
    stopped: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Train, write the model, measure it; None if it was interrupted (and saved)."""
    task = task_named(job.task)
    model = load_reasoner(job.model, task, job.device)
    problems, rng = task.held_out_problems(), np.random.default_rng(job.plan.seed)
    if job.verb == "sft":
        source = Demonstrations(task, job.plan.samples_per_step, rng)
        trainer: Any = SFTTrainer(model, source, job.plan)
    else:
        trainer = GRPOTrainer(model, task, job.plan, problems=problems, rng=rng)
    make_directory(job.out)
    with atomic_write(job.out / "job.json", "w") as file:
        facts = {"verb": job.verb, "model": str(job.model.absolute()), "task": job.task}
        json.dump(facts | {"plan": asdict(job.plan)}, file, indent=1)
    say(f"everything is written to {job.out}; Ctrl-C stops with a checkpoint")
    shown = SHOWN_SFT if job.verb == "sft" else SHOWN_GRPO
    try:
        Stages(job.out, task, say, stopped).run(job.verb, trainer, shown)
    except Interrupted:
        say(f"stopped after step {trainer.done}; to go on:\n{job.to_go_on()}")
        return None
    with atomic_directory(job.out / "model", OWNED) as folder:
        write_model(model, folder)
        task.tokenizer.write(folder)
    with interrupt_at_once():
        found = evaluate(model, task, problems, rng=np.random.default_rng(job.plan.seed))
    say("\n".join(describe(found)))
    say(f"model: {job.out / 'model'}")
    return found


def describe(found: Evaluation) -> list[str]:
    """An evaluation in lines."""
    passes = ", ".join(f"pass@{k} {share:.1%}" for k, share in found.pass_at.items() if k > 1)
    greedy = "" if found.greedy is None else f"greedy {found.greedy:.1%}"
    solved = f"solved {found.accuracy:.1%} ± {found.standard_error:.1%}"
    parts = [solved, greedy, passes, f"majority vote {found.majority:.1%}"]
    return [
        f"{found.problems} held-out problems, {found.samples} answers each at temperature "
        f"{found.temperature:g}",
        "; ".join(part for part in parts if part),
        f"well-formed {found.format:.1%}, {found.length:.1f} tokens an answer, "
        f"{found.truncated:.1%} cut off",
    ]
