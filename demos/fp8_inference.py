r"""A trained model in FP8: saved as DeepSeek saves, held as codes, generating.

    python -m demos.fp8_inference [--model DIR] [--full] [--quick] [--out DIR] [--threads 2]

The model of DIR (as `pretrain` and `journey` leave one), or `mini` trained here for 240 steps
(--full: three of 1,000); its main model alone, since MTP modules are dropped where text is written.
It is saved in float32, in bfloat16 and in FP8, and held in memory

    as float32             the weights as they were trained
    as bfloat16's          read from bfloat16, which rounds each number to 8 bits of 24
    as FP8 codes           a byte a weight and scales; activations in float32
    as FP8, V3's way       the same codes; activations rounded too, as in training

Printed: bytes of files and of all arrays; bits per byte of held-out text, and how far from
float32's, with the standard error over batches of windows; tokens per second of one sequence,
greedy, by `generate` (which decodes float32 models without Tensors) and through Tensors (which is
how models of codes are decoded), the fastest of several turns; how much of a token's time goes
into making numbers of codes; and what float32 and FP8 write after the same prompt.
Writes fp8_inference.html and results.json, and the directories float32, bfloat16 and fp8.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any
from unittest import mock

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402

from demos.common import chosen, cpu_alone, publish, run, show, side_by_side, sizes  # noqa: E402
from minideepseek import DeepSeekV3, DeepSeekV3Config, generate, no_grad, set_threads  # noqa: E402
from minideepseek.autograd.blocks import serial  # noqa: E402
from minideepseek.layers.fp8 import recipe  # noqa: E402
from minideepseek.model.fp8 import array_bytes, fp8_inference, load_fp8  # noqa: E402
from minideepseek.model.layout import is_quantised  # noqa: E402
from minideepseek.model.tokenizer import ByteTokenizer  # noqa: E402
from minideepseek.model.transformer import evaluate_loss  # noqa: E402
from minideepseek.reasoning.report import table  # noqa: E402
from minideepseek.reasoning.stages import without_mtp  # noqa: E402
from minideepseek.training.data import evaluation_windows, pack  # noqa: E402
from minideepseek.training.job import LanguageJob  # noqa: E402
from minideepseek.training.language import load_corpus, make_trainer, model_config  # noqa: E402
from minideepseek.training.page import page, show_text  # noqa: E402
from minideepseek.training.trainer import Plan  # noqa: E402

SAVED = {"float32": "float32", "bfloat16": "bfloat16", "fp8": "float8_e4m3fn"}  # folder: dtype
FORMS: dict[str, tuple[str, Callable[[Path], DeepSeekV3]]] = {  # name: folder, how it is read
    "float32": ("float32", DeepSeekV3.from_pretrained),
    "bfloat16's": ("bfloat16", DeepSeekV3.from_pretrained),
    "FP8 codes": ("fp8", load_fp8),
    "FP8, V3's way": ("fp8", lambda folder: load_fp8(folder, recipe=recipe.V3)),
}
# preset, steps, seeds, windows of held-out text, tokens written, turns
SIZES = {
    "quick": ("nano", 20, 1, 32, 12, 1),
    "default": ("mini", 240, 1, 256, 128, 5),
    "full": ("mini", 1000, 3, 2048, 128, 5),
}
LENGTH, PROMPT = 256, 64  # bytes of a window, of a prompt


def train(preset: str, steps: int, seed: int) -> DeepSeekV3:
    """A model of the preset that has read docstrings for `steps` steps of 8 windows."""
    config = model_config(preset, ByteTokenizer())
    length = min(LENGTH, config.max_position_embeddings)
    plan = Plan(steps=steps, seed=seed, sequence_length=length, warmup_steps=min(40, steps // 4))
    job = LanguageJob(Path(), preset, plan=plan)
    trainer = make_trainer(job, config, load_corpus((), plan, lambda line: None), ByteTokenizer())
    for _ in range(steps):
        trainer.step()
    return trainer.model


def measure(model: str | None, size: tuple, seed: int, out: Path, threads: int) -> dict[str, Any]:
    """Everything of one model: trained here, or read from the directory `model`."""
    preset, steps, _, windows, tokens, turns = size
    set_threads(threads)
    whole = DeepSeekV3.from_pretrained(model) if model else train(preset, steps, seed)
    main = without_mtp(whole)
    for folder, dtype in SAVED.items():
        main.save_pretrained(out / folder, dtype)
    models = {name: read(out / folder) for name, (folder, read) in FORMS.items()}
    models["FP8 codes"].save_pretrained(out / "again")
    text = held_out(main, windows)
    prompt = text[: min(PROMPT, main.config.max_position_embeddings // 2)]
    bits = {name: bits_of(m, text) for name, m in models.items()}
    written = {name: write(m, prompt, tokens) for name, m in models.items()}
    set_threads(1)
    return {
        "files": {name: folder_bytes(out / folder) for name, (folder, _) in FORMS.items()},
        "arrays": {name: array_bytes(m) for name, m in models.items()},
        "with_mtp": array_bytes(fp8_inference(whole)) / array_bytes(whole),
        "bytes_per_weight": bytes_per_weight(models["FP8 codes"]),
        "bits": {name: float(np.sum(b) / counted(main, text)) for name, b in bits.items()},
        "off": {name: paired(b, bits["float32"]) for name, b in bits.items()},
        "same_bytes": same_files(out / "fp8", out / "again"),
        "decoded_differ": differ(models["FP8 codes"], DeepSeekV3.from_pretrained(out / "fp8")),
        "rates": race(models, prompt, tokens, turns),
        "decoding": decoding_share(models["FP8 codes"], prompt, tokens),
        "written": {"prompt": prompt.tolist(), **written},
    }


def held_out(model: DeepSeekV3, windows: int) -> np.ndarray:
    """Tokens of held-out docstrings, enough for so many windows at half a window's stride."""
    corpus = load_corpus((), Plan(), lambda line: None)
    length = min(LENGTH, model.config.max_position_embeddings)
    return pack(corpus.held_out, ByteTokenizer())[: windows * length // 2]


def _windows(model: DeepSeekV3, text: np.ndarray) -> Any:
    length = min(LENGTH, model.config.max_position_embeddings)
    return evaluation_windows(text, length, length // 2)


def bits_of(model: DeepSeekV3, text: np.ndarray) -> list[float]:
    """Bits of each batch of windows."""
    return [evaluate_loss(model, *batch)[0] / math.log(2) for batch in _windows(model, text)]


def counted(model: DeepSeekV3, text: np.ndarray) -> int:
    return sum(int(mask.sum()) for _, mask in _windows(model, text))


def paired(bits: list[float], plain: list[float]) -> tuple[float, float]:
    """How far the total is from float32's, relative, and the standard error of that."""
    more = np.array(bits) - plain
    error = more.std(ddof=1) * math.sqrt(more.size) if more.size > 1 else math.nan
    return float(more.sum() / np.sum(plain)), float(error / np.sum(plain))


def write(model: DeepSeekV3, prompt: np.ndarray, tokens: int) -> list[int]:
    """The greedy continuation."""
    room = model.config.max_position_embeddings - prompt.size
    return generate(model, prompt[None], min(tokens, room))[0, prompt.size :].tolist()


def write_by_tensors(model: DeepSeekV3, prompt: np.ndarray, tokens: int) -> list[int]:
    """The same, by the layers themselves."""
    tokens = min(tokens, model.config.max_position_embeddings - prompt.size)
    cache, feed, found = model.new_cache(1, prompt.size + tokens), prompt[None], list[int]()
    with no_grad(), serial():
        for _ in range(tokens):
            h, _ = model.hidden(model.check_ids(feed), cache)
            found.append(int(model.logits(h[:, -1:]).data.argmax()))
            feed = np.array([[found[-1]]])
    return found


def race(
    models: dict[str, DeepSeekV3], prompt: np.ndarray, tokens: int, turns: int
) -> dict[str, list[float]]:
    """Tokens per second of each model by `generate` and through Tensors: the best of the turns."""
    best = {name: [0.0, 0.0] for name in models}
    for _ in range(turns):
        for name, model in models.items():
            for i, way in enumerate((write, write_by_tensors)):
                began = time.perf_counter()
                made = len(way(model, prompt, tokens))
                best[name][i] = max(best[name][i], made / (time.perf_counter() - began))
    return best


def decoding_share(model: DeepSeekV3, prompt: np.ndarray, tokens: int) -> float:
    """The share of a token's time in which codes become numbers."""
    spent, plain = [0.0], recipe.from_codes

    def timed(*given: Any) -> Any:
        began = time.perf_counter()
        values = plain(*given)
        spent[0] += time.perf_counter() - began
        return values

    began = time.perf_counter()
    with mock.patch.object(recipe, "from_codes", timed):
        write(model, prompt, tokens)
    return spent[0] / (time.perf_counter() - began)


def bytes_per_weight(model: DeepSeekV3) -> float:
    """Of the weights that are codes, their scales counted."""
    state = model.state_dict()
    names = [name for name in state if is_quantised(name)]
    size = sum(state[n].nbytes + state[f"{n}_scale_inv"].nbytes for n in names)
    return size / sum(state[n].size for n in names)


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def same_files(one: Path, other: Path) -> bool:
    names = sorted(file.name for file in one.iterdir())
    return names == sorted(file.name for file in other.iterdir()) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def differ(one: DeepSeekV3, other: DeepSeekV3) -> float:
    """The largest difference of their logits, relative to the largest logit."""
    ids = np.random.default_rng(0).integers(0, 256, (4, 32))
    with no_grad():
        a, b = one(ids).data, other(ids).data
    return float(abs(a - b).max() / abs(b).max())


# ------------------------------------------------------------------------------------- what it says


def mean(seeds: list[dict], *path: Any) -> float:
    """Over the seeds, of the number found along the path."""
    found = []
    for one in seeds:
        value: Any = one
        for key in path:
            value = value[key]
        found.append(value)
    return statistics.mean(found)


def tables(seeds: list[dict]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Title: heading and rows."""
    first = seeds[0]
    sizes_of = [
        [name, f"{first['files'][name]:,}", f"{first['arrays'][name]:,}",
         f"{first['arrays'][name] / first['arrays']['float32']:.3f}"] for name in FORMS
    ]  # fmt: skip
    quality = [
        [name, f"{mean(seeds, 'bits', name):.5f}",
         *(f"{100 * one['off'][name][0]:+.3f} ± {100 * one['off'][name][1]:.3f}" for one in seeds)]
        for name in FORMS
    ]  # fmt: skip
    speed = [
        [name, *(f"{mean(seeds, 'rates', name, way):,.0f}" for way in (0, 1))] for name in FORMS
    ]
    columns = ["% off"] if len(seeds) == 1 else [f"% off, seed {i}" for i in range(len(seeds))]
    return {
        "Bytes": (["held as", "files", "arrays", "of float32's"], sizes_of),
        "Held-out text": (["held as", "bits per byte", *columns], quality),
        "Tokens per second": (["held as", "generate", "through Tensors"], speed),
    }


def findings(seeds: list[dict]) -> list[str]:
    """The targets, and whether these numbers reach them."""

    def reached(good: bool) -> str:
        return "reached" if good else "NOT reached"

    first = seeds[0]
    weight, arrays = first["bytes_per_weight"], first["arrays"]
    ratio = arrays["FP8 codes"] / arrays["float32"]
    config = DeepSeekV3Config.preset("small")
    wide = DeepSeekV3.empty(config)
    small = array_bytes(fp8_inference(wide)) / array_bytes(wide)
    said = [
        f"bytes per weight that is a code, scales counted: {weight:.4f} (at most 1.01: "
        f"{reached(weight <= 1.01)})",
        f"all arrays, of float32's: {ratio:.3f} (at most 0.3: {reached(ratio <= 0.3)}); with the "
        f"MTP module {first['with_mtp']:.3f}; of `small`, untrained, {small:.3f}. What is not "
        "coded weighs the more the smaller a model is: embedding, head, router, eh_proj",
    ]
    for name in ("FP8 codes", "FP8, V3's way"):
        off = [one["off"][name][0] for one in seeds]
        numbers = ", ".join(f"{100 * x:+.3f} %" for x in off)
        said.append(
            f"bits per byte, {name}: {numbers} of float32's (within 0.2 %: "
            f"{reached(max(map(abs, off)) <= 0.002)})"
        )
    generate_, tensors = (
        mean(seeds, "rates", "float32", way) / mean(seeds, "rates", "FP8 codes", way)
        for way in (0, 1)
    )
    said += [
        f"a token from codes costs {tensors:.1f} times what it costs from float32 through the same "
        f"Tensors, and {generate_:.1f} times what `generate` takes for float32; "
        f"{mean(seeds, 'decoding'):.0%} of it is making numbers of codes",
        f"saved again it is the same files, byte for byte: {all(o['same_bytes'] for o in seeds)}",
        f"its logits are those of the same directory read into float32, but for "
        f"{max(o['decoded_differ'] for o in seeds):.0e} of the largest",
        "greedy text after the same prompt: " + "; ".join(map(parting, seeds)),
    ]
    return said


def parting(one: dict) -> str:
    """Where FP8's text leaves float32's."""
    a, b = one["written"]["float32"], one["written"]["FP8 codes"]
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))
    return f"equal for {at} of {len(a)} bytes"


def body(seeds: list[dict], said: list[str]) -> str:
    """The HTML of the page."""
    html = "<ul>" + "".join(f"<li>{escape(s)}</li>" for s in said) + "</ul>"
    for title, (head, rows) in tables(seeds).items():
        html += f"<h2>{title}</h2>{table(head, [[escape(r[0]), *r[1:]] for r in rows])}"
    html += "<h2>What they write</h2>"
    words, written = ByteTokenizer(), seeds[0]["written"]
    html += f"<p>After: {show_text(words.decode(written['prompt']))}</p>"
    for name in ("float32", "FP8 codes"):
        html += f"<p><strong>{name}</strong> {show_text(words.decode(written[name]))}</p>"
    return html


def main(arguments: list[str] | None = None) -> None:
    parser = sizes(__doc__, full="three models of 1,000 steps")
    parser.add_argument("--model", help="a model directory of the byte tokenizer")
    parser.add_argument("--threads", type=int, default=2)
    cpu_alone(parser, "it counts the host's bytes, and times decoding without Tensors")
    options = parser.parse_args(arguments)
    kind, out = chosen(options, "fp8_inference")
    size, began = SIZES[kind], time.perf_counter()
    count = 1 if options.model else size[2]
    cores = min(count, options.threads)
    folders = [out] if count == 1 else [out / str(seed) for seed in range(count)]
    jobs = [
        (options.model, size, seed, folder, options.threads // cores)
        for seed, folder in enumerate(folders)
    ]
    seeds = list(side_by_side(measure, jobs, cores))
    said, trained = findings(seeds), f"{size[0]}, {size[1]} steps, seeds: {count}"
    facts = f"{options.model or trained}; {time.perf_counter() - began:.0f} s"
    show(facts, tables(seeds), said)
    html = page("A trained model, a byte a weight", f"<p>{escape(facts)}</p>{body(seeds, said)}")
    publish(out, "fp8_inference", html, facts=facts, findings=said, seeds=seeds)


if __name__ == "__main__":
    run(main)
