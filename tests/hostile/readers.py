"""All readers of the package, by name: what is thrown at each, and who judges."""

import functools
import random

from tests.hostile import loaded, models, runs, stages, tensors, texts
from tests.hostile.cases import Case, Files, Reader
from tests.hostile.drills import drills
from tests.model.tables import EXAMPLE


@functools.cache
def tensor_bases() -> tuple[Files, ...]:
    """A file made by hand, a file of every dtype, a model's."""
    model = models.folders()[0]["model.safetensors"]
    return {tensors.NAME: EXAMPLE}, tensors.every_dtype(), {tensors.NAME: model}


@functools.cache
def readers() -> dict[str, Reader]:
    """name → reader.  Shares are per cent; test_memory.py measures the peaks."""
    folders, index = models.folders(), tuple(f for f in models.folders() if len(f) > 4)
    made = (
        Reader("safetensors", 22, tensor_bases(), tensors.make, tensors.read, tensors.judge, 40),
        Reader("json", 10, texts.JSON_BASES, texts.make_json, texts.read_any, texts.judge_json, 40),
        Reader("config", 12, folders, models.make_config, loaded.read_config,
               loaded.judge_config, 40),
        Reader("index", 10, index, models.make_index, loaded.read_contents, loaded.judge_index, 40),
        Reader("model", 6, folders, models.make_any, loaded.read_model, loaded.judge_model, 40),
        Reader("fp8", 3, folders, models.make_any, loaded.read_fp8, loaded.judge_fp8, 40),
        Reader("inspect", 3, folders, models.make_any, loaded.read_all, loaded.judge_inspect, 40),
        Reader("tokenizer", 6, texts.tokenizer_bases(), texts.make_tokenizer,
               texts.read_tokenizer, texts.judge_tokenizer, 40),
        Reader("metrics", 8, runs.metrics_bases(), runs.make_metrics, runs.read_the_metrics,
               runs.judge_metrics, 40),
        Reader("report", 1, runs.metrics_bases(), runs.make_metrics, runs.read_report,
               runs.judge_report, 400),
        Reader("run", 3, runs.run_bases(), runs.changes_of("run.json"), runs.read_run,
               runs.judge_run, 40),
        Reader("job", 2, runs.JOB_BASES, runs.changes_of("job.json"), runs.read_job,
               runs.judge_job, 40),
        Reader("journey", 2, runs.JOURNEY_BASES, runs.changes_of("job.json"), runs.read_journey,
               runs.judge_journey, 40),
        Reader("checkpoint", 2, stages.checkpoint_bases(), stages.make_checkpoint,
               stages.read_checkpoint, stages.judge_checkpoint, 40, (stages.METRICS,)),
        Reader("samples", 2, stages.SAMPLES, runs.changes_of("samples.json"),
               stages.read_the_samples, stages.judge_samples, 40),
        Reader("evaluations", 2, stages.EVALUATIONS, runs.changes_of("evaluations.json"),
               stages.read_evaluation, stages.judge_evaluation, 400),
        Reader("traces", 1, stages.TRACES, runs.changes_of("traces.json"), stages.read_traces,
               stages.judge_traces, 50),
        Reader("progress", 2, stages.PROGRESS_BASES, stages.make_progress, stages.read_progress,
               stages.judge_progress, 40, (stages.PROGRESS,)),
        Reader("text", 2, texts.TEXTS, texts.make_text, texts.read_text, texts.judge_text, 40),
        Reader("docstrings", 1, texts.SOURCES, texts.make_source, texts.read_source,
               texts.judge_source, 400),
    )  # fmt: skip
    return {reader.name: reader for reader in made}


@functools.cache
def schedule() -> tuple[str, ...]:
    """The readers of a hundred drawn cases: each has its share, evenly spread."""
    shares = {name: reader.share for name, reader in readers().items()}
    total = sum(shares.values())
    places, due = [], dict.fromkeys(shares, 0.0)
    for _ in range(total):
        for name, share in shares.items():
            due[name] += share / total
        name = max(due, key=lambda one: due[one])
        due[name] -= 1
        places.append(name)
    return tuple(places)


def reader_of(number: int) -> Reader:
    """Whose case this is: first come the drills."""
    known = drills()
    name = known[number][0] if number < len(known) else schedule()[number % len(schedule())]
    return readers()[name]


def case_of(reader: Reader, seed: int, number: int) -> tuple[Files, Case]:
    """The valid folder and the change of it: the same ones for the same seed and number."""
    if number < len(drills()) and drills()[number][0] == reader.name:
        _, base, case = drills()[number]
        return next(one for one in reader.bases if one == base), case
    rng = random.Random(f"{reader.name} {seed} {number}")
    base = reader.bases[rng.randrange(len(reader.bases))]
    return base, reader.make(rng, base)
