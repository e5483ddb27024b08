"""What is interrupted: everything that the package writes, small; whole commands are in runs.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minideepseek.book import site
from minideepseek.errors import CheckpointError
from minideepseek.exercises import folder as learners
from minideepseek.exercises.bugs import ZOO
from minideepseek.exercises.catalogue import EXERCISES, Catalogue
from minideepseek.model.checkpoint import from_pretrained
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.files import recover_directory
from minideepseek.model.fp8 import fp8_inference
from minideepseek.model.tokenizer import WORD_SPECIAL_TOKENS, WordTokenizer, load_tokenizer
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning.journey import ReasoningJob
from minideepseek.reasoning.journey import store_job as store_reasoning
from minideepseek.reasoning.stages import Stages
from minideepseek.training.job import LanguageJob, store_job
from minideepseek.training.report import RunRecord, write_report
from minideepseek.training.rundir import RunDirectory, list_checkpoints, read_metrics
from tests.faults.scenario import Scenario, View, each_old_or_new, leftovers, nothing
from tests.reasoning.small import Small
from tests.training import tiny
from tests.training.fake_run import fake_run

# ----------------------------------------------------------------------- models and tokenizers

LITTLE = {"hidden_size": 16, "moe_intermediate_size": 8, "intermediate_size": 16}


def model(seed: int) -> DeepSeekV3:
    """The nano preset, smaller still."""
    return DeepSeekV3(DeepSeekV3Config.preset("nano", **LITTLE), np.random.default_rng(seed))


def save(seed: int, most: int | None = None, fp8: bool = False) -> Callable[[Path], None]:
    """save_pretrained, in shards of at most so many bytes, or as FP8 codes."""

    def act(root: Path) -> None:
        made = fp8_inference(model(seed)) if fp8 else model(seed)
        made.save_pretrained(root / "model", max_shard_bytes=most)

    return act


def beside_notes(act: Callable[[Path], None]) -> Callable[[Path], None]:
    """A save, and then the user's own files in the same directory."""

    def both(root: Path) -> None:
        act(root)
        (root / "model/notes").mkdir()
        (root / "model/notes/mine.txt").write_text("mine", "utf-8")

    return both


def load(root: Path) -> None:
    """A reader, where there is something to read, be it a backup."""
    if (root / "model").exists() or leftovers(root):
        try:
            from_pretrained(root / "model")
        except CheckpointError:
            if (root / "model").exists():
                raise


def save_words(*words: str) -> Callable[[Path], None]:
    """A word tokenizer's save_pretrained."""
    tokenizer = WordTokenizer((*WORD_SPECIAL_TOKENS, *words))
    return lambda root: tokenizer.save_pretrained(root / "words")


def save_bytes(root: Path) -> None:
    """The other kind's, of which both files differ."""
    tiny.ByteTokenizer().save_pretrained(root / "words")


def load_words(root: Path) -> None:
    """Its reader."""
    load_tokenizer(root / "words")


# ----------------------------------------------------------------------------- a run's directory


def directory(root: Path) -> RunDirectory:
    return RunDirectory(root / "run", tiny.ByteTokenizer(), "0123456789ab")


def still(trainer: Any) -> Any:
    """The trainer whose clock stands still, so that its files are the same each time."""
    step = trainer.step

    def untimed() -> dict[str, Any]:
        metrics = step()
        trainer.seconds = float(trainer.done)
        return tiny.untimed(metrics)

    trainer.step = untimed
    return trainer


def stepped(root: Path, steps: int, saved: tuple[int, ...] = ()) -> tuple[Any, RunDirectory]:
    """A run of so many steps, each recorded, with checkpoints after some."""
    trainer, run = still(tiny.trainer()), directory(root)
    for notice in run.resume(trainer):
        print(notice)
    while trainer.done < steps:
        run.record(trainer.step())
        if trainer.done in saved:
            run.save(trainer)
    return trainer, run


def third_save(root: Path) -> None:
    """Goes on to a third checkpoint, whose coming removes the first."""
    stepped(root, 3, (3,))


def resume(root: Path) -> None:
    """What a next process does first; prints what it says."""
    for notice in directory(root).resume(still(tiny.trainer())):
        print(notice)


def resume_to_3(root: Path) -> None:
    """The same, and the steps up to the third, with its checkpoint."""
    stepped(root, 3, (3,))


def newest(stage: Path) -> int:
    """The step of a stage's newest checkpoint."""
    return max((int(path.name.split("-")[1]) for path in list_checkpoints(stage)), default=0)


def broken(root: Path) -> list[str]:
    """Checkpoints by their name that are not whole: none, old ones on their way out included."""
    files = "config generation_config tokenizer tokenizer_config trainer".split()
    whole = {*(f"{name}.json" for name in files), "model.safetensors", "optimizer.safetensors"}
    kept = [path for stage in stages(root) for path in list_checkpoints(stage)]
    return [str(path) for path in kept if {file.name for file in path.iterdir()} != whole]


def stages(root: Path) -> list[Path]:
    """The directories with metrics below the root."""
    return sorted(path.parent for path in root.rglob("metrics.jsonl"))


def cut(root: Path) -> list[str]:
    """What the next start has to say of metrics that are further than their checkpoint."""
    words = []
    for stage in stages(root):
        lines = (stage / "metrics.jsonl").read_bytes().split(b"\n")
        if len(lines) - 1 > newest(stage) or lines[-1]:
            words.append(f"cut back to step {newest(stage)},")
    return words


def append(root: Path) -> None:
    """One line more."""
    directory(root).record({"step": 3, "loss": 0.25})


def lines(root: Path) -> list[dict]:
    """What a reader of metrics.jsonl gets."""
    return read_metrics(root / "run/metrics.jsonl")


def as_resumed(root: Path) -> Any:
    """The steps of metrics.jsonl up to the newest checkpoint, and the checkpoints."""
    kept = list_checkpoints(root / "run")
    rows = read_metrics(root / "run/metrics.jsonl", newest(root / "run"))
    return rows, {str(p): p.read_bytes() for k in kept[-2:] for p in k.iterdir()}, broken(root)


def damaged_run(root: Path) -> None:
    """Two checkpoints, the newer one cut short by a disk, and a line more."""
    stepped(root, 3, (1, 2))
    file = list_checkpoints(root / "run")[-1] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def damage_told(root: Path) -> list[str]:
    """What the next start says of it."""
    if newest(root / "run") < 2:
        return cut(root)
    return ["step-00000002 is set aside as damaged-step-00000002", "cut back to step 1,"]


def aside_first(found: View, old: View, new: View) -> bool:
    """The damaged checkpoint is set aside, then metrics.jsonl cut."""
    aside = {name.replace("/step-00000002", "/damaged-step-00000002"): old[name] for name in old}
    return found in (old, aside, new)


def report(record: RunRecord) -> Callable[[Path], None]:
    return lambda root: (write_report(root / "report.html", record), None)[1]


def job(seed: int) -> Callable[[Path], None]:
    plan = dataclasses.replace(tiny.PLAN, seed=seed)
    return lambda root: store_job(LanguageJob(root / "run", "nano", plan=plan))


def remember(name: str) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        stages = Stages(root, Small(), say=print)
        stages.remembered("evaluations.json", name, lambda: {"accuracy": 0.5, "of": name})

    return act


# --------------------------------------------------------------------------- exercises, zoo, book

FEW = dataclasses.replace(EXERCISES, chapters={"": ("add", "exp", "tanh")})


class Older(Catalogue):
    """Skeletons of an older version of the package."""

    def skeleton(self, name: str) -> str:
        return super().skeleton(name) + "# older\n"


OLDER = Older(*(getattr(FEW, field.name) for field in dataclasses.fields(FEW)))


def start(catalogue: Catalogue) -> Callable[[Path], None]:
    return lambda root: (learners.start(root / "mine", catalogue), None)[1]


def begun(root: Path) -> None:
    """A folder of an older package with one file that the learner has changed, and a hint."""
    start(OLDER)(root)
    (root / "mine/exp.py").write_text("# my own work\n", "utf-8")
    learners.Folder(root / "mine", OLDER).hint("add")


def give_hint(root: Path) -> None:
    learners.Folder(root / "mine", FEW).hint("tanh")


def second_hint(root: Path) -> None:
    """What asks again gets the next hint; here only if the first was not kept."""
    mine = learners.Folder(root / "mine", FEW)
    if not mine.progress.get("tanh", {}).get("hints"):
        mine.hint("tanh")


def look_at_mine(root: Path) -> None:
    """`list`, where there is a folder."""
    if (root / "mine").is_dir():
        mine = learners.Folder(root / "mine", FEW)
        print([mine.verdict(name) for name in FEW.names()])


def damaged_record(root: Path) -> None:
    start(FEW)(root)
    (root / "mine/.progress.json").write_text('{"add": {"hin', "utf-8")


def record_told(root: Path) -> list[str]:
    """What the next start says of a record that is damaged still."""
    record = root / "mine/.progress.json"
    damaged = record.exists() and b"}" not in record.read_bytes()
    return ["it is set aside as damaged-progress.json"] if damaged else []


def hint_anyway(root: Path) -> None:
    learners.Folder(root / "mine", FEW).hint("tanh")


def record_aside(found: View, old: View, new: View) -> bool:
    """The damaged record is set aside, then a new one written."""
    aside = dict(old)
    aside["mine/damaged-progress.json"] = aside.pop("mine/.progress.json")
    return found in (old, aside, new)


def show(name: str) -> Callable[[Path], None]:
    catalogue = dataclasses.replace(ZOO, chapters={"": (name,)})
    return lambda root: (learners.start(root / "mine", catalogue), None)[1]


class Pages(site.Site):
    """A book of three short pages."""

    edition = "one"

    def __init__(self, runs: Path) -> None:
        pass

    def files(self) -> Any:
        yield "book.css", "body {}"
        yield "index.html", f"<p>{self.edition}"
        yield f"{self.edition}.html", "<p>" + self.edition * 4000


def book(edition: str) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        site.Site = type("Edition", (Pages,), {"edition": edition})
        site.write_book(root / "book", root)

    return act


def next_start(root: Path) -> None:
    """What any next start does first; a book has no reader here."""
    print(recover_directory(root / "book") or "")


# ----------------------------------------------------------------------------------- all of them

OLD_REPORT, NEW_REPORT = fake_run(n=4), fake_run(n=8)

SCENARIOS = (
    Scenario("a model, new", nothing, save(1), load),
    Scenario("a model over a model", beside_notes(save(1)), save(2), load),
    Scenario("shards over one file", save(1), save(2, most=20_000), load),
    Scenario("one file over shards", save(1, most=20_000), save(2), load),
    Scenario("FP8 codes over float32", beside_notes(save(1)), save(2, fp8=True), load),
    Scenario("a tokenizer over another", save_bytes, save_words("a", "b"), load_words),
    Scenario("a line of metrics", lambda root: stepped(root, 2, (2,)) and None, append,
             view=lines, again=resume_to_3, lasting=False, told=cut),
    Scenario("metrics cut at a resume", lambda root: stepped(root, 3, (1, 2)) and None, resume,
             told=cut),
    Scenario("a checkpoint of a run", lambda root: stepped(root, 2, (1, 2)) and None, third_save,
             view=as_resumed, told=cut),
    Scenario("a damaged checkpoint", damaged_run, resume, allowed=aside_first, told=damage_told),
    Scenario("report.html", report(OLD_REPORT), report(NEW_REPORT)),
    Scenario("run.json, new", nothing, job(0)),
    Scenario("run.json", job(0), job(1)),
    Scenario("job.json, new", nothing, lambda root: store_reasoning(ReasoningJob(root / "r"))),
    Scenario("evaluations.json", remember("base"), remember("grpo")),
    Scenario("exercises start, new", nothing, start(FEW), look_at_mine),
    Scenario("exercises start, older", begun, start(FEW), look_at_mine, allowed=each_old_or_new),
    Scenario("exercises hint", start(FEW), give_hint, look_at_mine, second_hint),
    Scenario("a damaged record", damaged_record, hint_anyway, look_at_mine,
             second_hint, allowed=record_aside, told=record_told),
    Scenario("zoo show", show("rms_norm"), show("rotated"), allowed=each_old_or_new),
    Scenario("the book over a book", book("one"), book("two"), next_start),
)  # fmt: skip
