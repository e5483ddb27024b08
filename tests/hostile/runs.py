"""What a run leaves: its metrics, the report of them, and the jobs that it is resumed by."""

import functools
import json
import math
import random
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minideepseek.errors import InputError, MiniDeepSeekError
from minideepseek.reasoning import jobs, journey
from minideepseek.reasoning.record import ReasoningRecord
from minideepseek.reasoning.report import sections
from minideepseek.training import job as language_job
from minideepseek.training.report import RunRecord, render_report
from minideepseek.training.rundir import read_metrics
from tests.hostile import strict
from tests.hostile.cases import LINKS, SPECIAL, Case, Files, Wrong, change_bytes
from tests.hostile.json_changes import NUMBERS, RAW, TEXTS, any_value, change_json, write_json


def meaning(rng: random.Random, key: Any) -> Any:
    """A value that means something under a key of a run's files."""
    if key == "seed" or key == "step" or key == "steps":
        return rng.choice((*range(9), *NUMBERS))
    if key == "rng":
        return {"bit_generator": rng.choice(("PCG64", "MT19937", "x")), "state": any_value(rng)}
    if key in ("state", "inc"):
        return rng.choice((2**128 - 1, 2**128, -1, 0, 2, *NUMBERS))
    return rng.choice((*NUMBERS, *TEXTS, *range(9), "mini", "nano", "sft", "countdown", "addition"))


def change(rng: random.Random, base: Files, name: str) -> Case:
    """A change of one file of JSON."""
    how, data = rng.random(), base[name]
    if how < 0.3:
        data, note = change_bytes(rng, data)
        return Case({name: data}, note)
    if how < 0.85:
        data, note, harmless = change_json(rng, data, meaning)
        return Case({name: data}, note, harmless)
    if how < 0.9:
        kind = rng.choice(SPECIAL)
        return Case({name: kind}, kind, kind in LINKS)
    text = rng.choice((write_json(rng), rng.choice(RAW)))
    return Case({name: text.encode("utf-8", "surrogatepass")}, "any JSON")


def changes_of(name: str) -> Any:
    """`make` for a folder of which one file is changed."""
    return lambda rng, base: change(rng, base, name)


def parsed(data: bytes | None, most: int = 1 << 20) -> Any:
    """The file's value, or strict.NotStrict."""
    if data is None or len(data) > most:
        raise strict.NotStrict
    return strict.parse(data)


# ----------------------------------------------------------------------------------------- metrics


METRICS = "metrics.jsonl"


@functools.cache
def metrics_bases() -> tuple[Files, ...]:
    """Of a language run, and of GRPO."""
    one = [
        {
            "loss": 5.5 - step, "main_loss": 4.25, "mtp_loss": 1.5, "aux_loss": None,
            "grad_norm": 0.5, "step": step, "seconds": 0.25, "tokens": 32 * step,
            "learning_rate": 1e-3, "tokens_per_second": 100.5, "max_vio": [0.5, 1],
            "dead_experts": [0, 1], "expert_load": [[0.25] * 4, [0.5, 0.5, 0, 0]],
            **({"bits_per_byte": 2.5} if step == 2 else {}),
        }
        for step in (1, 2, 3)
    ]  # fmt: skip
    two = [
        {"step": s, "reward": 0.5, "entropy": 0.25, "kl": 0, "completions/mean_length": 9.5,
         "eval/accuracy": None, "clip_ratio/low_mean": 1e-5}
        for s in (1, 2)
    ]  # fmt: skip
    return tuple(
        {METRICS: b"".join(json.dumps(row).encode() + b"\n" for row in rows)} for rows in (one, two)
    )


def make_metrics(rng: random.Random, base: Files) -> Case:
    """Changed bytes, a changed line, lines cut, doubled, in another order or of any JSON."""
    data, how = base[METRICS], rng.random()
    if how < 0.3:
        data, note = change_bytes(rng, data)
        return Case({METRICS: data}, note)
    lines = data.split(b"\n")[:-1]
    at = rng.randrange(len(lines))
    if how < 0.7:
        lines[at], note, _ = change_json(rng, lines[at], meaning)
    elif how < 0.8:
        lines[at], note = rng.choice((write_json(rng), rng.choice(RAW))).encode(
            "utf-8", "surrogatepass"), "any JSON"  # fmt: skip
    elif how < 0.95:
        cut = lines[at]
        lines[at] = cut[: rng.randrange(len(cut) + 1)]
        note = "cut"
        if rng.random() < 0.5:
            del lines[at + 1 :]
    else:
        kind = rng.choice(SPECIAL)
        return Case({METRICS: kind}, kind, kind in LINKS)
    ends = rng.choice((b"", b"\n", b"\n\n", b"\n \n", b"\r\n"))
    return Case({METRICS: b"\n".join(lines) + ends}, f"line {at + 1}: {note}; end {ends!r}")


def _row(value: Any) -> bool:
    """Whether it is what a trainer records: numbers, or by layer, or by layer and expert."""
    def number(v: Any) -> bool:
        return v is None or type(v) in (int, float)

    def numbers(v: Any) -> bool:
        return v is None or (type(v) is list and all(map(number, v)))

    if type(value) is not dict or type(value.get("step")) is not int or value["step"] < 0:
        return False
    for name, held in value.items():
        if name == "expert_load":
            fits = held is None or (type(held) is list and all(map(numbers, held)))
        elif name in ("max_vio", "dead_experts"):
            fits = numbers(held)
        else:
            fits = number(held)
        if not fits:
            return False
    return True


def rows_of(data: bytes | None, last: float = math.inf) -> list[dict[str, Any]]:
    """What the metrics say up to a step; NotStrict where they must be refused."""
    if data is None:
        raise strict.NotStrict
    lines, rows = data.split(b"\n") if last > 0 else [], []
    for number, line in enumerate(lines, start=1):
        try:
            value = strict.parse(line)
            if not _row(value):
                raise strict.NotStrict
            if value["step"] <= last:
                rows.append(value)
            if value["step"] >= last:
                break
        except strict.NotStrict:
            if number < len(lines):
                raise
    return rows


def judge_metrics(folder: Path, contents: dict[str, bytes | None], outcome: Any) -> None:
    """Every whole line's object, a cut last line left out; refused where any other is none."""
    if METRICS not in contents:
        wanted: list[Any] | None = []
    else:
        try:
            wanted = rows_of(contents[METRICS])
        except strict.NotStrict:
            wanted = None
    if isinstance(outcome, MiniDeepSeekError):
        if wanted is not None:
            raise Wrong(f"refused good metrics: {outcome}")
    elif wanted is None or not strict.same(outcome, wanted):
        raise Wrong(f"{outcome!r:.300}, expected {wanted!r:.300}")


def read_the_metrics(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl."""
    return read_metrics(folder / METRICS)


def read_report(folder: Path) -> str:
    """The page of whatever the metrics hold, once for each part."""
    rows = read_metrics(folder / METRICS)
    page = render_report(RunRecord("hostile", metrics=rows))
    record = ReasoningRecord(stages=dict.fromkeys(("pretrain", "sft", "grpo", "control"), rows))
    return page + render_report(RunRecord("hostile"), sections(record))


def judge_report(folder: Path, contents: dict[str, bytes | None], outcome: Any) -> None:
    """Refused with the metrics; else a page with its end."""
    refused = isinstance(outcome, MiniDeepSeekError)
    try:
        wanted = METRICS not in contents or bool(rows_of(contents[METRICS])) or True
    except strict.NotStrict:
        wanted = False
    if refused == wanted:
        raise Wrong(f"the metrics are {'good' if wanted else 'bad'}: {outcome!r:.200}")
    if not refused and not outcome.endswith("</html>\n"):
        raise Wrong("half a page")


# -------------------------------------------------------------------------------------------- jobs


@functools.cache
def run_bases() -> tuple[Files, ...]:
    """run.json as it is written."""
    made = []
    for changes in ({}, {"part": "both", "fp8": True, "texts": ("a.txt", "b")}):
        with tempfile.TemporaryDirectory() as folder:
            language_job.store_job(language_job.LanguageJob(Path(folder), **changes))
            made.append({"run.json": Path(folder, "run.json").read_bytes()})
    return tuple(made)


def read_run(folder: Path) -> language_job.LanguageJob:
    """run.json."""
    return language_job.stored_job(folder, None, (), {}, "cpu")


_INTEGERS = ("steps", "batch_size", "sequence_length", "accumulate", "warmup_steps", "seed",
             "evaluate_every", "checkpoint_every", "samples_per_step")  # fmt: skip


def _judge_plan(plan: Any, facts: dict[str, Any]) -> None:
    """Every number as the file states it and of its kind."""
    held = asdict(plan)
    for name, value in facts.items():
        if name not in held or type(held[name]) is not type(value) or held[name] != value:
            raise Wrong(f"plan: {name} is {held.get(name)!r}, the file says {value!r}")
        if name in _INTEGERS and not (type(value) is int and 0 <= value < 2**63):
            raise Wrong(f"plan: {name} = {value!r}")
        if name in _RATES and not (type(value) in (int, float) and 0 <= value <= 1e9):
            raise Wrong(f"plan: {name} = {value!r}")


_RATES = ("learning_rate", "final_learning_rate", "weight_decay", "clip_norm", "mtp_weight",
          "bias_step", "bias_frozen")  # fmt: skip


def judge_run(folder: Path, contents: dict[str, bytes | None], outcome: Any) -> None:
    """The job that the file states; what it does not state by default."""
    if isinstance(outcome, MiniDeepSeekError):
        return
    try:
        facts = parsed(contents["run.json"]) if "run.json" in contents else {}
    except strict.NotStrict:
        raise Wrong(f"{outcome} out of no JSON") from None
    texts = facts.get("texts", [])
    if type(texts) is not list or not all(type(text) is str for text in texts):
        raise Wrong(f"texts {texts!r:.100}")
    wanted = (facts.get("preset", "mini"), texts, facts.get("part", "language"))
    if (outcome.preset, outcome.texts, outcome.part) != wanted:
        raise Wrong(f"{outcome}, expected {wanted}")
    if type(outcome.preset) is not str or outcome.part not in ("language", "both"):
        raise Wrong(f"{outcome}")
    if facts.get("fp8", False) is not outcome.fp8:
        raise Wrong(f"fp8 {outcome.fp8}")
    _judge_plan(outcome.plan, facts.get("plan", {}))


STAGE_JOB = {
    "verb": "sft", "model": "/models/a", "task": "countdown",
    "plan": {"steps": 9, "samples_per_step": 4, "learning_rate": 0.001, "seed": 3},
}  # fmt: skip
JOB_BASES: tuple[Files, ...] = (
    {"job.json": json.dumps(STAGE_JOB).encode()},
    {"job.json": json.dumps(STAGE_JOB | {"verb": "grpo", "plan": {"steps": 2}}).encode()},
)
JOURNEY_BASES: tuple[Files, ...] = (
    {"job.json": b'{"seed": 3, "quick": false}'}, {"job.json": b'{"seed": 0, "quick": true}'},
)  # fmt: skip


def read_job(folder: Path) -> jobs.StageJob:
    """job.json of sft or grpo, whichever it is."""
    try:
        return jobs.stored_job("sft", folder, "cpu")
    except InputError as error:
        if "begun by grpo" not in str(error):
            raise
        return jobs.stored_job("grpo", folder, "cpu")


def judge_job(folder: Path, contents: dict[str, bytes | None], outcome: Any) -> None:
    """What the file states."""
    if isinstance(outcome, MiniDeepSeekError):
        return
    try:
        facts = parsed(contents.get("job.json"))
    except strict.NotStrict:
        raise Wrong(f"{outcome} out of no JSON") from None
    found = {"verb": outcome.verb, "model": str(outcome.model), "task": outcome.task}
    wanted = {name: facts[name] for name in found}
    if any(type(value) is not str for value in wanted.values()):
        raise Wrong(f"{wanted}")
    if found != wanted | {"model": str(Path(facts["model"]))}:
        raise Wrong(f"{found}, expected {wanted}")
    _judge_plan(outcome.plan, facts["plan"])


def read_journey(folder: Path) -> journey.ReasoningJob:
    """job.json of a journey."""
    return journey.stored_job(folder, "cpu")


def judge_journey(folder: Path, contents: dict[str, bytes | None], outcome: Any) -> None:
    """Accepted exactly where it states a seed and a flag, with these."""
    try:
        facts = parsed(contents.get("job.json"))
        seed, quick = facts["seed"], facts["quick"]
        good = type(seed) is int and 0 <= seed < 2**63 and type(quick) is bool
    except (strict.NotStrict, KeyError, TypeError):
        good = False
    if isinstance(outcome, MiniDeepSeekError) == good:
        raise Wrong(f"{outcome!r} for {contents.get('job.json')!r:.200}")
    if good and (outcome.seed, outcome.quick) != (seed, quick):
        raise Wrong(f"{outcome}")
