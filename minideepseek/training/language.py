r"""The language part: pre-train a small DeepSeek-V3 on real text, on the reader's own machine.

Text is cut into training and held-out documents; the model learns bytes of the first and is judged
on the second, in bits per byte, beside what bz2 and lzma need for the same held-out bytes. A
compressor is an honest opponent: it, too, is a predictor of the next byte, one that takes a second.
*Primed* it has seen the training text as well, which is what the model has.

Everything lands in one directory: metrics, checkpoints, the finished model (a directory that
Hugging Face's libraries read), samples and the report.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minideepseek.autograd.backend import get_threads, memory_bytes
from minideepseek.errors import CheckpointError, InputError
from minideepseek.model.checkpoint import write_model
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.files import atomic_directory, atomic_write
from minideepseek.model.generate import generate
from minideepseek.model.ledger import activated_parameters, main_parameters
from minideepseek.model.tokenizer import ByteTokenizer
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.training.corpus import (
    Corpus,
    corpus_hash,
    docstring_corpus,
    prepare_corpus,
    read_texts,
)
from minideepseek.training.data import BatchLoader, compressor_baselines, joined_bytes, pack
from minideepseek.training.progress import Progress
from minideepseek.training.report import RunRecord, write_report
from minideepseek.training.rundir import RunDirectory, list_checkpoints, versions
from minideepseek.training.trainer import Plan, Trainer, fit

PROMPT_BYTES = 64
SAMPLE_BYTES = 240
SAMPLING: dict[str, Any] = {"temperature": 0.7, "top_p": 0.95}


@dataclass(frozen=True)
class LanguageJob:
    """What to train, on what, where.  texts: the user's files or folders; none for docstrings."""

    out: Path
    preset: str = "mini"
    texts: Sequence[str] = ()
    plan: Plan = Plan()
    device: str = "cpu"
    resume: bool = False


def run(job: LanguageJob, say: Callable[[str], None] = print) -> Path | None:
    """Train, sample, report; the report's path, or None if it was interrupted (and saved).

    InputError and CheckpointError before any work for what cannot be used.
    """
    check_directory(job.out, job.resume)
    config = DeepSeekV3Config.preset(job.preset)
    corpus, tokenizer = load_corpus(job.texts, job.plan, say), ByteTokenizer()
    train, held_out = joined_bytes(corpus.train), joined_bytes(corpus.held_out)
    baselines = compressor_baselines(train, held_out)
    say(f"text: {len(train):,} bytes to learn from, {len(held_out):,} held out")
    say("  ".join(f"{name} {bits:.2f}" for name, bits in baselines.items()) + "  bits per byte")

    init, data = np.random.default_rng(job.plan.seed).spawn(2)
    model = DeepSeekV3(config, init).to(job.device)
    loader = BatchLoader(
        pack(corpus.train, tokenizer), job.plan.batch_size, job.plan.sequence_length, data
    )
    trainer = Trainer(model, loader, job.plan, pack(corpus.held_out, tokenizer))
    digest = corpus_hash([*corpus.train, *corpus.held_out])
    directory = RunDirectory(job.out, tokenizer, digest)
    if job.resume:
        for notice in directory.resume(trainer):
            say(notice)
        say(f"going on from step {trainer.done} of {job.plan.steps}")
    samples = _Samples(job.out / "samples.json", model, tokenizer, corpus, job.plan.seed)
    samples.take("before training")
    with stop_on_interrupt(say) as stopped:
        complete = _train(trainer, directory, stopped)
    if not complete:
        say(f"stopped after step {trainer.done}; its checkpoint is in {directory.checkpoints}")
        return None
    samples.take("after training")
    with atomic_directory(job.out / "model") as folder:
        write_model(model, folder)
        tokenizer.save_pretrained(folder)
    record = make_record(job, trainer, directory, baselines, samples.taken, digest)
    report = write_report(job.out / "report.html", record)
    for title, prompt, text in samples.taken:
        say(f"\n── {title} ── {prompt!r} goes on:\n{text}")
    say("")
    for note in record.notes:
        say(note)
    say(f"model: {job.out / 'model'}\nreport: {report.resolve()}")
    return report


def load_corpus(texts: Sequence[str], plan: Plan, say: Callable[[str], None]) -> Corpus:
    """The documents, near-duplicates removed, cut in two by a hash of their text."""
    if texts:
        documents = read_texts(texts, plan.sequence_length + 1, say)
    else:
        documents = docstring_corpus()
    corpus = prepare_corpus(documents)
    if corpus.removed:
        lost = sum(len(p.encode()) for p in corpus.removed)
        say(f"left out: {len(corpus.removed):,} paragraphs seen before ({lost:,} bytes)")
    if not corpus.train or not corpus.held_out:
        raise InputError(
            f"text: {len(documents)} documents leave nothing to train on or to hold out; "
            "give more or longer text"
        )
    return corpus


def check_directory(out: Path, resume: bool) -> None:
    """CheckpointError unless `out` is new, or holds a run to resume."""
    found = list_checkpoints(out)
    if resume and not found:
        raise CheckpointError(f"{out}: no checkpoint to resume from")
    if not resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        hint = " (or go on with --resume)" if found else ""
        raise CheckpointError(f"{out}: exists and is not empty; name another directory{hint}")


def free_directory(wanted: Path) -> Path:
    """`wanted`, or wanted-2, wanted-3, … if it is taken."""
    number, path = 2, wanted
    while path.exists():
        path, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
    return path


def _train(trainer: Trainer, directory: RunDirectory, stopped: Callable[[], bool]) -> bool:
    """fit() with a progress bar."""
    with Progress(trainer.plan.steps, "pretrain", start=trainer.done) as progress:

        def record(metrics: dict[str, Any]) -> None:
            directory.record(metrics)
            shown = {"loss": metrics["main_loss"], "tokens/s": metrics["tokens_per_second"]}
            if "bits_per_byte" in metrics:
                shown["held-out bits/byte"] = metrics["bits_per_byte"]
            progress.update(metrics["step"], **shown)

        return fit(trainer, record, lambda: directory.save(trainer), stopped)


@contextlib.contextmanager
def stop_on_interrupt(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C (or SIGTERM) only sets a flag, which the yielded function reads:
    the step in progress ends and a checkpoint is written. A second Ctrl-C interrupts at once."""
    hit: list[int] = []
    before = {}

    def note(number: int, frame: Any) -> None:
        if hit:
            raise KeyboardInterrupt
        hit.append(number)
        say("\nstopping after this step, with a checkpoint; press again to stop at once")

    with contextlib.suppress(ValueError):  # not the main thread: then nothing can be caught
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    try:
        yield lambda: bool(hit)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Samples:
    """What the model writes after prompts from the held-out text, kept in samples.json."""

    def __init__(
        self, path: Path, model: DeepSeekV3, tokenizer: ByteTokenizer, corpus: Corpus, seed: int
    ) -> None:
        self.path, self.model, self.tokenizer, self.seed = path, model, tokenizer, seed
        self.room = model.config.max_position_embeddings
        size = min(PROMPT_BYTES, self.room // 3)
        texts = [d.text for d in corpus.held_out if len(d.text) > 4 * size]
        texts = texts or [d.text for d in corpus.held_out]
        picks = np.linspace(0, len(texts) - 1, min(3, len(texts))).astype(int)
        self.prompts = [texts[i].encode()[:size] for i in picks]
        self.taken: list[tuple[str, str, str]] = []
        if path.exists():
            with contextlib.suppress(ValueError, TypeError):
                self.taken = [(a, b, c) for a, b, c in json.loads(path.read_text("utf-8"))]

    def take(self, title: str) -> None:
        """Write one continuation per prompt, unless a process before this one did."""
        if any(t == title for t, _, _ in self.taken):
            return
        for i, prompt in enumerate(self.prompts):
            ids = self.tokenizer.encode(prompt)[None]
            out = generate(
                self.model,
                ids,
                min(SAMPLE_BYTES, self.room - ids.shape[1]),
                eos_token_id=self.tokenizer.eos_token_id,
                rng=np.random.default_rng([self.seed, i]),
                **SAMPLING,
            )
            text = self.tokenizer.decode(out[0, ids.shape[1] :], skip_special=True)
            self.taken.append((title, prompt.decode("utf-8", "replace"), text))
        with atomic_write(self.path, "w") as file:
            json.dump(self.taken, file, ensure_ascii=False, indent=1)


def make_record(
    job: LanguageJob,
    trainer: Trainer,
    directory: RunDirectory,
    baselines: dict[str, float],
    samples: Sequence[tuple[str, str, str]],
    digest: str,
) -> RunRecord:
    """The facts, curves and sentences of the report."""
    metrics, config, plan = directory.metrics(), trainer.model.config, trainer.plan
    bits = [m["bits_per_byte"] for m in metrics if "bits_per_byte" in m][-1]
    half = len(samples) // 2  # each prompt's continuations side by side
    pairs = zip(samples[:half], samples[half:], strict=True)
    facts = {
        "preset": job.preset,
        "parameters": f"{sum(p.size for p in trainer.parameters.values()):,}",
        "of the main model": f"{main_parameters(config):,}",
        "activated per token": f"{activated_parameters(config):,}",
        "steps": f"{plan.steps:,} of {plan.batch_size * plan.accumulate} × "
        f"{plan.sequence_length} bytes",
        "text": "; ".join(job.texts) or "docstrings of this Python's standard library",
        "text's hash": digest[:16],
        "training time": f"{trainer.seconds:.0f} s",
        "device": f"{job.device}, {get_threads()} threads of {os.cpu_count()} cores",
        "peak memory": f"{memory_bytes(job.device) / 2**20:,.0f} MiB",
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
    }
    return RunRecord(
        title="A small DeepSeek-V3 learns to read",
        config=facts,
        metrics=metrics,
        baselines=baselines,
        samples=[sample for pair in pairs for sample in pair],
        notes=compare(bits, baselines),
    )


def compare(bits: float, baselines: dict[str, float]) -> list[str]:
    """One sentence per compressor: who needs fewer bits for the held-out text, by how much."""
    notes = []
    for name, other in sorted(baselines.items(), key=lambda item: -item[1]):
        verb = "beats" if bits < other else "loses to"
        primed = ", which has read the same training text" if "primed" in name else ""
        notes.append(f"The model {verb} {name}{primed}: {bits:.2f} bits a byte, {other:.2f}.")
    return notes
