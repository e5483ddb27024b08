"""The rest of what a run leaves: a checkpoint to resume, samples, evaluations, traces, progress."""

import functools
import json
import random
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from minideepseek.errors import MiniDeepSeekError
from minideepseek.exercises.folder import Folder, fingerprint
from minideepseek.exercises.page import overview
from minideepseek.model.tokenizer import ByteTokenizer
from minideepseek.reasoning import journey
from minideepseek.reasoning.record import ReasoningRecord
from minideepseek.reasoning.report import sections
from minideepseek.reasoning.stages import Stages
from minideepseek.training.language import read_samples
from minideepseek.training.report import RunRecord, render_report
from minideepseek.training.rundir import RunDirectory
from minideepseek.training.trainer import Trainer
from tests.hostile import loaded, models, strict, tensors
from tests.hostile.cases import Case, Files, Wrong
from tests.hostile.runs import METRICS, change, parsed, rows_of
from tests.training import tiny

VERDICTS = ("ok", "wrong", "not attempted")
SMALL = {name: models.TINY[name] for name in (
    "hidden_size", "intermediate_size", "num_attention_heads", "q_lora_rank", "kv_lora_rank",
    "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "n_routed_experts", "n_group",
    "num_experts_per_tok", "moe_intermediate_size", "topk_group", "num_nextn_predict_layers",
)}  # fmt: skip
STEP = "checkpoints/step-00000002/"
HASH = "c0ffee" * 8


# -------------------------------------------------------------------------------------- checkpoints


@functools.cache
def _trainer() -> Trainer:
    return tiny.trainer(**SMALL)


@functools.cache
def checkpoint_bases() -> tuple[Files, ...]:
    """A run of three steps, saved after the second."""
    trainer = tiny.trainer(**SMALL)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(folder, ByteTokenizer(), HASH)
        for step in (1, 2, 3):
            metrics = trainer.step()
            run.record(metrics)
            if step == 2:
                run.save(trainer)
        found = sorted(p for p in Path(folder).rglob("*") if p.is_file())
        return ({str(p.relative_to(folder)): p.read_bytes() for p in found},)


def make_checkpoint(rng: random.Random, base: Files) -> Case:
    """Mostly trainer.json and the moments; any other file of the folder."""
    how = rng.random()
    if how < 0.5:
        return change(rng, base, STEP + "trainer.json")
    if how < 0.7:
        name = STEP + "optimizer.safetensors"
        if rng.random() < 0.5:
            made = tensors.make(rng, {tensors.NAME: base[name]})
            return Case({name: made.files[tensors.NAME]}, made.note)
        data, value = bytearray(base[name]), rng.choice((np.nan, np.inf, -np.inf, -1, 1e30))
        at = 8 + int.from_bytes(data[:8], "little") + 4 * rng.randrange(50)
        data[at : at + 4] = np.float32(value).tobytes()
        return Case({name: bytes(data)}, f"moment {value} at {at}")
    if how < 0.8:
        return change(rng, base, METRICS)
    made = models.make_any(rng, {n.removeprefix(STEP): d for n, d in base.items() if STEP in n})
    return Case({STEP + name: data for name, data in made.files.items()}, made.note, made.harmless)


def read_checkpoint(folder: Path) -> tuple[Trainer, list[str]]:
    """A trainer that resumes, whose numbers were all 7 before; its notices."""
    trainer = _trainer()
    trainer.done = trainer.optimiser.steps = trainer.tokens = 0
    for array in (*trainer.model.state_dict().values(), *trainer.optimiser.m, *trainer.optimiser.v):
        array[...] = 7
    return trainer, RunDirectory(folder, ByteTokenizer(), HASH).resume(trainer)


def judge_checkpoint(folder: Path, contents: dict[str, bytes | None], outcome: Any) -> None:
    """Every number of the trainer, its loader and its metrics is the file's."""
    if isinstance(outcome, MiniDeepSeekError):
        return
    trainer, notices = outcome
    if not all(notice.isprintable() and len(notice) < 400 for notice in notices):
        raise Wrong(f"notices {notices!r:.500}")
    try:
        state = parsed(contents[STEP + "trainer.json"])
    except strict.NotStrict:
        raise Wrong("resumed from no JSON") from None
    found = [trainer.done, trainer.optimiser.steps, trainer.tokens, trainer.seconds]
    wanted = [state[key] for key in ("step", "updates", "tokens", "seconds")]
    if not strict.same(found, wanted) or not all(0 <= n < 2**63 for n in wanted):
        raise Wrong(f"{found}, expected {wanted}")
    if not strict.same(trainer.loader.state_dict(), state["loader"]):
        raise Wrong(f"loader {trainer.loader.state_dict()}, the file says {state['loader']}")
    if any(state["plan"].get(k) != v for k, v in asdict(trainer.plan).items()):
        raise Wrong(f"another plan: {state['plan']}")
    held = tensors.reference(contents[STEP + "optimizer.safetensors"] or b"") or {}
    own = {"m": trainer.optimiser.m, "v": trainer.optimiser.v}
    for kind, arrays in own.items():
        for name, array in zip(trainer.parameters, arrays, strict=True):
            code, shape, data = held.pop(f"{kind}.{name}")
            same = (code, shape, data) == ("F32", list(array.shape), array.tobytes())
            if not same or not np.isfinite(array).all() or (kind == "v" and (array < 0).any()):
                raise Wrong(f"{kind}.{name} is not the file's: {code} {shape}")
    if held:
        raise Wrong(f"moments of nothing: {list(held)}")
    inner = {n.removeprefix(STEP): d for n, d in contents.items() if n.startswith(STEP)}
    loaded.judge_model(folder, inner, trainer.model)
    data = contents.get(METRICS)  # None: not there, or a link to nothing, which is written through
    kept = [] if data is None else rows_of(data, trainer.done)
    if rows_of((folder / METRICS).read_bytes()) != kept:
        raise Wrong("metrics beyond the checkpoint, or too few")


# ----------------------------------------------------------------------------- samples, evaluations


SAMPLES: tuple[Files, ...] = (
    {"samples.json": json.dumps(
        [[w, p, "é\n"] for w in ("before", "after") for p in ("a ", "b ")]).encode()},
    {"samples.json": b"[]"},
)  # fmt: skip


def read_the_samples(folder: Path) -> list[tuple[str, str, str]]:
    """samples.json; none where it cannot be read: they can be done without."""
    return read_samples(folder / "samples.json")


def judge_samples(folder: Path, contents: dict[str, bytes | None], outcome: Any) -> None:
    """Exactly the file's, or none where it is not what a run wrote."""
    try:
        held = parsed(contents.get("samples.json"))
        good = type(held) is list and all(
            type(row) is list and list(map(type, row)) == [str] * 3 for row in held
        )
    except strict.NotStrict:
        good = False
    if outcome != ([tuple(row) for row in held] if good else []):
        raise Wrong(f"{outcome!r:.300}")


EVALUATION = {
    "problems": 4, "samples": 2, "temperature": 1.0, "accuracy": 0.5, "standard_error": None,
    "greedy": 0.25, "pass_at": {"1": 0.5, "2": 0.75}, "majority": 0.5, "format": 1.0, "thinks": 1.0,
    "length": 20.5, "truncated": 0.0, "statistics": {"attempts": 2.5, "gave_up": None},
    "shown": [{"prompt": "1 + 2", "text": "<think> 3 </think>", "ended": True}],
}  # fmt: skip
EVALUATIONS: tuple[Files, ...] = (
    {"evaluations.json": json.dumps({"cold start": EVALUATION, "grpo": EVALUATION}).encode()},
    {"evaluations.json": json.dumps({"cold start": EVALUATION | {"shown": []}}).encode()},
)
TRACES: tuple[Files, ...] = (
    {"traces.json": json.dumps(
        {"before GRPO": [["1 + 2", "3 !"], ["2", "é"]], "after": [["1 + 2", "4 ?"]]}).encode()},
)  # fmt: skip


class Measured(Exception):
    """The file has no such entry: a run would measure now."""


def _measure() -> Any:
    raise Measured


def read_evaluation(folder: Path) -> tuple[dict[str, Any], str, str] | None:
    """The cold start's evaluation, its sentence, the report's page; None if it must be measured."""
    said: list[str] = []
    stages = Stages(folder, None, said.append)  # type: ignore[arg-type]
    try:
        found = stages.remembered("evaluations.json", "cold start", _measure)
    except Measured:
        return None
    sentence = journey.checked_evaluation(folder / "evaluations.json", "cold start", found)
    record = ReasoningRecord(evaluations={"cold start": found, "grpo": found})
    return found, sentence, render_report(RunRecord("hostile"), sections(record))


def _fits(value: Any) -> bool:
    """Whether it is an evaluation: the same keys, their values of the same kinds."""
    def number(v: Any) -> bool:
        return type(v) in (int, float) and abs(v) < 1e100

    numbers = ("problems", "samples", "temperature", "accuracy", "greedy", "majority", "format",
               "length")  # fmt: skip
    if type(value) is not dict or not {*numbers, "pass_at", "statistics"} <= value.keys():
        return False
    passes, statistics = value["pass_at"], value["statistics"]
    return (
        all(number(value[name]) for name in numbers)
        and type(passes) is dict and passes != {} and all(map(number, passes.values()))
        and all(k.isascii() and k.isdecimal() and len(k) < 10 for k in passes)
        and type(statistics) is dict
        and all(v is None or number(v) for v in statistics.values())
        and all(value.get(n) is None or number(value[n])
                for n in ("standard_error", "thinks", "truncated"))
    )  # fmt: skip


def judge_evaluation(folder: Path, contents: dict[str, bytes | None], outcome: Any) -> None:
    """The file's own, where it is an evaluation; measured only where there is none."""
    try:
        held = parsed(contents["evaluations.json"], 1 << 26) if contents else {}
        there = type(held) is dict and "cold start" in held
        absent = type(held) is dict and not there
    except strict.NotStrict:
        there = absent = False
    good = there and _fits(held["cold start"])
    if isinstance(outcome, MiniDeepSeekError):
        if good or absent:
            raise Wrong(f"refused a good file: {outcome}")
    elif outcome is None:
        if not absent:
            raise Wrong("measured again what the file holds")
    elif not good or not strict.same(outcome[0], held["cold start"]):
        raise Wrong(f"{outcome[0]!r:.300}")
    elif not outcome[1].isprintable() or not outcome[2].endswith("</html>\n"):
        raise Wrong(f"{outcome[1:]!r:.300}")


def read_traces(folder: Path) -> list[tuple[str, str, str]]:
    """traces.json."""
    return journey.read_traces(folder / "traces.json")


def judge_traces(folder: Path, contents: dict[str, bytes | None], outcome: Any) -> None:
    """Accepted exactly where it is a map to lists of pairs of texts, with these."""
    try:
        held = parsed(contents.get("traces.json"))
        good = type(held) is dict and all(
            type(rows) is list and all(
                type(row) is list and list(map(type, row)) == [str, str] for row in rows
            )
            for rows in held.values()
        )  # fmt: skip
    except strict.NotStrict:
        good = False
    if isinstance(outcome, MiniDeepSeekError) == good:
        raise Wrong(f"{outcome!r:.300}")
    if good and outcome != [(when, *row) for when, rows in held.items() for row in rows]:
        raise Wrong(f"{outcome!r:.300}")


# --------------------------------------------------------------------------------------- progress


PROGRESS = ".progress.json"
_TEXT = b"def softmax(x):\n    return x\n"
PROGRESS_BASES: tuple[Files, ...] = (
    {
        PROGRESS: json.dumps({
            "softmax": {"skeleton": "0" * 16, "checked": fingerprint(_TEXT.decode()),
                        "verdict": "ok", "hints": 2},
            "sum": {"hints": 1}, "matmul": {"skeleton": fingerprint("x")},
        }).encode(),
        "softmax.py": _TEXT, "matmul.py": b"x",
    },
    {PROGRESS: b"{}"},
)  # fmt: skip


def make_progress(rng: random.Random, base: Files) -> Case:
    """Mostly the record, now and then an answer."""
    names = [name for name in base if name != PROGRESS]
    if names and rng.random() < 0.2:
        case = change(rng, base, rng.choice(names))
        return Case(case.files, case.note)
    return change(rng, base, PROGRESS)


def read_progress(folder: Path) -> tuple[dict[str, Any], str, list[str], list[str]]:
    """The record, the list of all exercises, hints for one of them (which writes), and what was
    set aside."""
    learner = Folder(folder)
    found = dict(learner.progress), overview(learner), learner.hint("softmax")
    return *found, sorted(path.name for path in folder.glob("damaged-*"))


def _kept(entry: Any) -> bool:
    """Whether it is an exercise's entry: texts, a verdict with a check, one to three hints."""
    if type(entry) is not dict or ("checked" in entry) != ("verdict" in entry):
        return False
    return (
        all(type(entry.get(name, "")) is str for name in ("skeleton", "checked", "verdict"))
        and entry.get("verdict", "ok") in VERDICTS
        and type(entry.get("hints", 1)) is int
        and 1 <= entry.get("hints", 1) <= 3
    )


def judge_progress(folder: Path, contents: dict[str, bytes | None], outcome: Any) -> None:
    """The record as it is, only entries of the kinds that are written; hints one further."""
    if isinstance(outcome, MiniDeepSeekError):
        return
    progress, page, hints, aside = outcome
    try:
        held = parsed(contents[PROGRESS]) if PROGRESS in contents else {}
        good = type(held) is dict and all(map(_kept, held.values()))
    except strict.NotStrict:
        good = False
    held = held if good else {}
    if not strict.same(progress, held):
        raise Wrong(f"{progress!r:.300}, the file says {held!r:.300}")
    if (aside == []) != good:
        raise Wrong(f"set aside: {aside}; the record was {'good' if good else 'damaged'}")
    given = held.get("softmax", {}).get("hints", 0)
    if type(given) is not int or len(hints) != min(given + 1, 3) or not hints:
        raise Wrong(f"{given!r} hints given, then {len(hints)}")
    if not all(line.isprintable() for line in page.split("\n")):
        raise Wrong(f"prints what is not printable: {page!r:.300}")
