"""The main job, in two parts: a model that learns to read, and one that learns to reason."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from minideepseek.cli.language import language_job, training_options
from minideepseek.cli.machine import complain, given, interrupted, set_up_machine
from minideepseek.errors import InputError

QUICK_LANGUAGE = {
    "steps": 120,
    "batch_size": 8,
    "sequence_length": 64,
    "learning_rate": 1e-2,
    "bias_step": 0.04,
    "evaluate_every": 60,
}
PARTS = ("both", "language", "reasoning")


def add_verbs(verbs: Any) -> None:
    """The verb's parser."""
    parser = verbs.add_parser("journey", help="a small DeepSeek-V3 learns to read, and to reason")
    parser.description = (
        "Train a small DeepSeek-V3 on real text and show what it writes; then train a smaller one "
        "from random weights to think before it answers, by GRPO; and report. About eleven minutes "
        "on two cores. The report is runs/journey/report.html (--out DIR: DIR/report.html)."
    )
    parser.set_defaults(run=run_journey)
    training_options(parser)
    parser.add_argument("--part", choices=PARTS, help="both, language or reasoning (both)")
    parser.add_argument(
        "--quick", action="store_true", help="both parts tiny, in less than a minute"
    )


def run_journey(options: argparse.Namespace) -> int:
    """Both parts, or one of them."""
    device = set_up_machine(options)
    from minideepseek.reasoning.report import write_journey
    from minideepseek.training.job import free_directory

    if options.resume is None and options.out is None:
        options.out = free_directory(Path("runs") / "journey")
    job = _language_job(options, device)
    records: list[Any] = []
    if job is not None:
        code = _read(job, records)
        if code or job.part == "language":
            return code
    out = options.resume or options.out
    reasoning = _reason(out, options, job, device)
    if reasoning is None:
        return 130
    language = records[0] if records else None
    report = write_journey(out / "report.html", "A journey of minideepseek", language, reasoning)
    print(f"the model that reasons: {out / 'reasoning' / 'model'}\nreport: {report.resolve()}")
    return 0


def _language_job(options: argparse.Namespace, device: str) -> Any:
    """The first part's job, or None where the run has none."""
    from minideepseek.training.job import check_directory

    begun = options.resume is not None and (options.resume / "run.json").exists()
    if options.resume is None and options.part == "reasoning":
        _check_reasoning_alone(options, "steps", "text")
        check_directory(options.out, resume=False)
        return None
    if not begun and options.resume and (options.resume / "reasoning" / "job.json").exists():
        _check_reasoning_alone(options, "steps", "text", "seed", "quick")
        return None
    changes = given(options, "steps", "seed")
    if options.quick and not begun:
        changes = QUICK_LANGUAGE | changes
    job = language_job(options, "journey", "nano" if options.quick else None, changes, device)
    return replace(job, part=options.part or (job.part if begun else "both"))


def _check_reasoning_alone(options: argparse.Namespace, *others: str) -> None:
    """InputError for options that a reasoning part without the language part does not take."""
    if options.part not in (None, "reasoning"):
        raise InputError(f"part: got {options.part}, expected reasoning, the only one of this run")
    for name in others:
        value = getattr(options, name)
        if not (value is None or value is False or value == []):
            why = "its recipe is fixed" if options.resume is None else "the run has its own"
            raise InputError(f"{name}: the reasoning part takes none here, {why}")


def _read(job: Any, records: list[Any]) -> int:
    """The language part; its record is appended. The exit code."""
    from minideepseek.training.language import run
    from minideepseek.training.report import write_report

    def keep(path: Path, record: Any) -> Path:
        records.append(record)
        return write_report(path, record)

    try:
        return 0 if run(job, write=keep) is not None else 130
    except KeyboardInterrupt:
        return interrupted(job)


def _reason(out: Path, options: argparse.Namespace, language: Any, device: str) -> Any:
    """The reasoning part; its record, or None if it was interrupted."""
    from minideepseek.reasoning.journey import ReasoningJob, run, stored_job

    folder = out / "reasoning"
    if (folder / "job.json").exists():
        job = stored_job(folder, device)
    else:
        seed = language.plan.seed if language else options.seed or 0
        quick = language.preset == "nano" if language else options.quick
        job = ReasoningJob(folder, seed, quick, device)
    try:
        return run(job)
    except KeyboardInterrupt:
        complain(f"interrupted; to go on: {job.to_go_on()}", 130)
        return None
