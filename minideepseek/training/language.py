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
from pathlib import Path
from typing import Any

import numpy as np

from minideepseek.autograd.backend import memory_bytes
from minideepseek.autograd.blocks import get_threads
from minideepseek.errors import CheckpointError, InputError
from minideepseek.model.checkpoint import OWNED, write_model
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.files import atomic_directory, atomic_write
from minideepseek.model.fp8 import fp8_training, high_precision
from minideepseek.model.generate import generate
from minideepseek.model.ledger import activated_parameters, main_parameters
from minideepseek.model.strict_json import read_json
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
from minideepseek.training.job import LanguageJob, check_directory, store_job
from minideepseek.training.progress import Progress, printable
from minideepseek.training.report import RunRecord, write_report
from minideepseek.training.rundir import VERSIONS, RunDirectory
from minideepseek.training.trainer import Plan, Trainer, check_length, fit

PROMPT_BYTES = 64
SAMPLE_BYTES = 240
SAMPLING: dict[str, Any] = {"temperature": 0.7, "top_p": 0.95}


def run(
    job: LanguageJob,
    say: Callable[[str], None] = print,
    write: Callable[[Path, RunRecord], Path] = write_report,
) -> Path | None:
    """Train, sample, report; the report's path, or None if it was interrupted (and saved).

    write: writes the record to the path as a report. InputError and CheckpointError before any
    work for what cannot be used.
    """
    check_directory(job.out, job.resume)
    tokenizer = ByteTokenizer()
    config = model_config(job.preset, tokenizer)
    check_length(job.plan, config)
    corpus = load_corpus(job.texts, job.plan, say)
    trainer = make_trainer(job, config, corpus, tokenizer)
    baselines = weigh_corpus(corpus, say)
    if not job.resume:
        store_job(job)
    directory = RunDirectory(job.out, tokenizer, corpus_hash([*corpus.train, *corpus.held_out]))
    say(f"model: {job.preset}, {_count(trainer):,} parameters; training: {_steps(job.plan)}")
    say(f"everything is written to {job.out}; Ctrl-C stops with a checkpoint")
    if job.resume:
        for notice in directory.resume(trainer):
            say(notice)
        say(f"going on after step {trainer.done} of {job.plan.steps}")
        store_job(job)  # with what was given now
    samples = _Samples(job.out / "samples.json", trainer, tokenizer, corpus)
    if not trainer.done:
        samples.take("before training")
    with stop_on_interrupt(say) as stopped:
        complete = _train(trainer, directory, stopped)
    if not complete:
        say(f"stopped after step {trainer.done}; to go on:\n{job.to_go_on()}")
        return None
    samples.take("after training")
    return finish(job, trainer, directory, baselines, samples.taken, say, write)


def finish(
    job: LanguageJob,
    trainer: Trainer,
    directory: RunDirectory,
    baselines: dict[str, float],
    samples: Sequence[tuple[str, str, str]],
    say: Callable[[str], None],
    write: Callable[[Path, RunRecord], Path],
) -> Path:
    """Write the model and the report, say what came out; the report's path."""
    with atomic_directory(job.out / "model", OWNED) as folder:
        write_model(trainer.model, folder)
        directory.tokenizer.write(folder)
    record = make_record(job, trainer, directory, baselines, samples)
    report = write(job.out / "report.html", record)
    for title, prompt, text in samples:
        say(f"\n── {title} ── {prompt!r} goes on:\n{printable(text)}")
    bits = [m["bits_per_byte"] for m in record.metrics if "bits_per_byte" in m][-1]
    say("\n" + "\n".join(compare(bits, baselines)))  # in the report: its verdict
    say(f"model: {job.out / 'model'}\nreport: {report.resolve()}")
    return report


def model_config(preset: str, tokenizer: ByteTokenizer) -> DeepSeekV3Config:
    """The preset with the tokenizer's vocabulary; InputError for v3, too large for any machine."""
    if preset == "v3":
        raise InputError("preset: got v3, which is there for `info` alone; train a smaller one")
    ids = {n: getattr(tokenizer, n) for n in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return DeepSeekV3Config.preset(preset, vocab_size=tokenizer.vocab_size, **ids)


def make_trainer(
    job: LanguageJob, config: DeepSeekV3Config, corpus: Corpus, tokenizer: ByteTokenizer
) -> Trainer:
    """A fresh model and its text: two generators from one seed, of weights and of data order.

    In FP8 the weights are the same ones, and so are the files that are written: float32.
    """
    plan, (init, data) = job.plan, np.random.default_rng(job.plan.seed).spawn(2)
    text = pack(corpus.train, tokenizer)
    loader = BatchLoader(text, plan.batch_size, plan.sequence_length, data)
    model = DeepSeekV3(config, init).to(job.device)
    held_out = pack(corpus.held_out, tokenizer)
    if job.fp8:
        return Trainer(fp8_training(model), loader, plan, held_out, moments="bfloat16")
    return Trainer(model, loader, plan, held_out)


def weigh_corpus(corpus: Corpus, say: Callable[[str], None]) -> dict[str, float]:
    """Say how much text there is and what compressors make of it; their bits per byte by name."""
    train, held_out = joined_bytes(corpus.train), joined_bytes(corpus.held_out)
    say(f"text: {len(train):,} bytes to learn from, {len(held_out):,} held out to be judged by")
    bits = compressor_baselines(train, held_out)
    for title, names in (
        ("alone", ("bz2", "lzma")),
        ("having read the text to learn from", ("bz2 primed", "lzma primed")),
    ):
        figures = ", ".join(f"{name.split()[0]} {bits[name]:.2f}" for name in names)
        say(f"file compressors on the held-out text, {title}: {figures} bits per byte")
    return bits


def load_corpus(texts: Sequence[str], plan: Plan, say: Callable[[str], None]) -> Corpus:
    """The documents, near-duplicates removed, cut in two by a hash of their text."""
    if texts:
        documents = read_texts(texts, plan.sequence_length + 1, say)
    else:
        documents = docstring_corpus()
    corpus = prepare_corpus(documents)
    if corpus.removed:
        lost = sum(len(p.encode()) for p in corpus.removed)
        say(f"left out: {len(corpus.removed):,} paragraphs that are there twice ({lost:,} bytes)")
    if not corpus.train or not corpus.held_out:
        raise InputError(
            f"text: {len(documents)} documents leave nothing to train on or to hold out; "
            "give more or longer text"
        )
    return corpus


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

    def note(number: int, frame: Any) -> None:
        if hit:
            raise KeyboardInterrupt
        hit.append(number)
        say("\nstopping after this step, with a checkpoint; press Ctrl-C again to stop at once")

    with _handling(note):
        yield lambda: bool(hit)


@contextlib.contextmanager
def interrupt_at_once() -> Iterator[None]:
    """Inside, the first Ctrl-C (or SIGTERM) interrupts: for work of which nothing can be kept."""

    def raised(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    with _handling(raised):
        yield


@contextlib.contextmanager
def _handling(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """SIGINT and SIGTERM are handled so, inside."""
    before = {}
    with contextlib.suppress(ValueError):  # not the main thread: then nothing can be caught
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


class _Samples:
    """What the model writes after prompts from the held-out text, kept in samples.json."""

    def __init__(
        self, path: Path, trainer: Trainer, tokenizer: ByteTokenizer, corpus: Corpus
    ) -> None:
        self.path, self.tokenizer = path, tokenizer
        self.model = high_precision(trainer.model)  # as it is written, and will be read
        self.seed = trainer.plan.seed
        self.room = self.model.config.max_position_embeddings
        size = min(PROMPT_BYTES, self.room // 3)
        texts = [d.text for d in corpus.held_out if len(d.text) > 4 * size]
        texts = texts or [d.text for d in corpus.held_out]
        picks = np.linspace(0, len(texts) - 1, min(3, len(texts))).astype(int)
        self.prompts = [texts[i].encode()[:size] for i in picks]
        self.taken: list[tuple[str, str, str]] = []
        if trainer.done:  # an earlier process took the first ones
            self.taken = read_samples(path)

    def take(self, title: str) -> None:
        """Write one continuation per prompt, unless an earlier process did."""
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


def read_samples(path: Path) -> list[tuple[str, str, str]]:
    """(title, prompt, continuation) as they were taken; none where that cannot be read."""
    with contextlib.suppress(CheckpointError):
        rows = read_json(path)
        if isinstance(rows, list) and all(
            isinstance(row, list) and list(map(type, row)) == [str, str, str] for row in rows
        ):
            return [(title, prompt, text) for title, prompt, text in rows]
    return []


def make_record(
    job: LanguageJob,
    trainer: Trainer,
    directory: RunDirectory,
    baselines: dict[str, float],
    samples: Sequence[tuple[str, str, str]],
) -> RunRecord:
    """The facts and curves of the report."""
    config, plan = trainer.model.config, trainer.plan
    prompts = [prompt for _, prompt, _ in samples]
    arithmetic = "FP8 products, weights in float32, moments in bfloat16" if job.fp8 else "float32"
    facts = {
        "preset": job.preset,
        "parameters": f"{_count(trainer):,}",
        "of the main model": f"{main_parameters(config):,}",
        "activated per token": f"{activated_parameters(config):,}",
        "steps": _steps(plan),
        "text": "; ".join(job.texts) or "docstrings of this Python's standard library",
        "text's hash": directory.corpus[:16],
        "arithmetic": arithmetic,
        "training time": f"{trainer.seconds:.0f} s",
        "device": f"{job.device}, {get_threads()} threads of {os.cpu_count()} cores",
        "peak memory": f"{memory_bytes(job.device) / 2**20:,.0f} MiB",
        "versions": ", ".join(f"{name} {version}" for name, version in VERSIONS.items()),
        "date": time.strftime("%Y-%m-%d"),
    }
    return RunRecord(
        title="A small DeepSeek-V3 learns to read",
        config=facts,
        metrics=directory.metrics(),
        baselines=baselines,
        samples=sorted(samples, key=lambda s: prompts.index(s[1])),  # a prompt's side by side
        mtp_modules=config.num_nextn_predict_layers,
    )


def compare(bits: float, baselines: dict[str, float]) -> list[str]:
    """One sentence per compressor: who needs fewer bits for the held-out text, by how much."""
    notes = []
    for name, other in sorted(baselines.items(), key=lambda item: -item[1]):
        verb = "beats" if bits < other else "loses to"
        primed = " with the same training text" if "primed" in name else ""
        figures = f"{bits:.2f} against {other:.2f} bits per byte"
        notes.append(f"The model {verb} {name}{primed}: {figures}.")
    return notes


def _count(trainer: Trainer) -> int:
    return sum(p.size for p in trainer.parameters.values())


def _steps(plan: Plan) -> str:
    sequences = plan.batch_size * plan.accumulate
    return f"{plan.steps:,} steps of {sequences} × {plan.sequence_length} bytes"
