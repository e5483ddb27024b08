r"""FP8's numbers: what coding costs, what fine scales save, what fourteen bits of a sum lose.

    python -m demos.fp8_numbers [--full] [--quick] [--out DIR]

1  Cost. A weight of 2048 × 2048, one thread, the seconds that it works; all take turns in every
   round, the fastest counts. Encoding and decoding stand beside ml_dtypes' `astype`; quantising,
   dequantising and both at once (`rounded`, FP8 training's) beside one float32 product of 2048³.
   Before that, `encode` is compared with ml_dtypes' cast after clamping, bit by bit: 10⁷ random
   floats; with --full, all 2³² bit patterns of a float32.
2  Scales. 512 tokens of 2048 channels, N(0, 1), but two channels are `outlier` times as large.
   For each way of scaling and growing outliers, on the numbers that are none: the relative error
   ‖x̂ − x‖ / ‖x‖, and the share that became zero.

       per tensor    one scale for all                     1 × 128, 128 × 128, 128 × 1   tiles
       UE8M0         scales rounded up to powers of two    otherwise float32
       E4M3, E5M2, E5M6   the format; E4M3 where none is named

3  Sums. C = A Bᵀ of E4M3 numbers, scaled per tensor, K = 4096, 64 × 64 outputs, added up with 14
   bits (`fourteen_bit_sums`) and with 14 bits and promotion every 128 products (`promoted_sums`),
   against the exact sum. The distribution is that of A and of B. Per cent:

       norm          ‖C − C*‖ / ‖C*‖
       worst / rms   max |C − C*| over the root mean square of C*
       worst / own   max of |C − C*| / |C*|: near an output of zero there is no bound

   and the norm error against K.

Prints tables and findings; writes fp8_numbers.html and results.json. --full also takes five times
as many rounds and 256 × 256 outputs; --quick has small sizes and only shows that everything runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import ml_dtypes  # noqa: E402, F401  gives NumPy the name float8_e4m3fn
import numpy as np  # noqa: E402

from demos.common import chosen, cpu_alone, publish, run, show, sizes  # noqa: E402
from demos.mla_meter import seconds_of  # noqa: E402
from minideepseek import fp8  # noqa: E402
from minideepseek.reasoning.report import table  # noqa: E402
from minideepseek.training.figures import Line, line_chart  # noqa: E402
from minideepseek.training.page import page  # noqa: E402

ROW, SQUARE, COLUMN = (1, 128), (128, 128), (128, 1)


class Scale(NamedTuple):
    """How much of everything.  compared: random floats, 0 for every bit pattern."""

    side: int = 2048
    rounds: int = 12
    compared: int = 10**7
    tokens: int = 512
    outputs: int = 64
    longest: int = 4096


SCALES = {
    "default": Scale(),
    "full": Scale(rounds=60, compared=0, outputs=256),
    "quick": Scale(side=256, rounds=2, compared=10**6, tokens=128, outputs=16, longest=1024),
}

# ------------------------------------------------------------------------------------- 1 · cost


def differences(compared: int, chunk: int = 1 << 20) -> tuple[int, int]:
    """(bit patterns compared, codes that differ from ml_dtypes' cast after clamping)."""
    rng, total, differ = np.random.default_rng(0), compared or 1 << 32, 0
    for start in range(0, total, chunk):
        stop = min(start + chunk, total)
        if not compared:
            bits = np.arange(start, stop, dtype=np.uint32)
        else:
            bits = rng.integers(0, 1 << 32, stop - start, dtype=np.uint32)
        x = bits.view(np.float32)
        with np.errstate(invalid="ignore"):
            want = np.clip(x, -448, 448).astype("float8_e4m3fn").view(np.uint8)
        differ += int((fp8.encode(x) != want).sum())
    return total, differ


def works(side: int) -> dict[str, Callable[[], Any]]:
    """What is timed, by its name."""
    x = np.random.default_rng(0).standard_normal((side, side), np.float32)
    out, codes = np.empty_like(x), fp8.encode(x)
    made: dict[str, Callable[[], Any]] = {
        "product": lambda: np.matmul(x, x, out),
        "ml_dtypes astype": lambda: x.astype("float8_e4m3fn"),
        "ml_dtypes clip, astype": lambda: np.clip(x, -448, 448).astype("float8_e4m3fn"),
        "encode": lambda: fp8.encode(x),
        "ml_dtypes back": lambda: codes.view("float8_e4m3fn").astype(np.float32),
        "decode": lambda: fp8.decode(codes),
    }
    for block in (SQUARE, ROW, COLUMN):
        name, held = f"{block[0]} × {block[1]}", fp8.quantize(x, block)
        made[f"quantize {name}"] = lambda block=block: fp8.quantize(x, block)
        made[f"dequantize {name}"] = lambda block=block, q=held: fp8.dequantize(*q, block)
        made[f"rounded {name}"] = lambda block=block: fp8.rounded(x, block)
    return made


def measure_cost(scale: Scale) -> dict[str, Any]:
    """Seconds by name, and the comparison of codes."""
    compared, differ = differences(scale.compared)
    made = works(scale.side)
    fastest = dict.fromkeys(made, np.inf)
    for _ in range(scale.rounds):
        for name, work in made.items():
            fastest[name] = min(fastest[name], *seconds_of(work, runs=1))
    both = {
        f"both {k.removeprefix('quantize ')}": fastest[k] + fastest["de" + k]
        for k in made
        if k.startswith("quantize")
    }
    return {"compared": compared, "differ": differ, "seconds": fastest | both, "side": scale.side}


# ----------------------------------------------------------------------------------- 2 · scales

FACTORS = (1, 10, 100, 10**3, 10**4, 10**5, 10**6)
WAYS: dict[str, tuple[Any, fp8.Format, bool]] = {  # tile (None: the tensor), format, UE8M0
    "per tensor": (None, fp8.E4M3, False),
    "per tensor, E5M2": (None, fp8.E5M2, False),
    "128 × 128": (SQUARE, fp8.E4M3, False),
    "1 × 128": (ROW, fp8.E4M3, False),
    "1 × 128, UE8M0": (ROW, fp8.E4M3, True),
    "1 × 128, E5M2": (ROW, fp8.E5M2, False),
    "1 × 128, E5M6, UE8M0": (ROW, fp8.E5M6, True),
    "128 × 1": (COLUMN, fp8.E4M3, False),
}


def measure_scales(scale: Scale) -> dict[str, Any]:
    """Error and zeros of every way, a list over FACTORS."""
    plain = np.random.default_rng(1).standard_normal((scale.tokens, 2048), np.float32)
    found: dict[str, Any] = {name: {"error": [], "zeros": []} for name in WAYS}
    rest = np.delete(np.arange(2048), outliers := [100, 1500])
    for factor in FACTORS:
        x = plain.copy()
        x[:, outliers] *= factor
        for name, (block, format, power_of_two) in WAYS.items():
            y = fp8.rounded(x, block or x.shape, format, power_of_two)[:, rest]
            error = np.linalg.norm(y - plain[:, rest]) / np.linalg.norm(plain[:, rest])
            found[name]["error"].append(float(error))
            found[name]["zeros"].append(float((y == 0).mean()))
    return found


# ------------------------------------------------------------------------------------- 3 · sums

DRAWS: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "uniform, 0 to 1": lambda rng, shape: rng.random(shape),
    "|normal|": lambda rng, shape: abs(rng.standard_normal(shape)),
    "normal + 1": lambda rng, shape: rng.standard_normal(shape) + 1,
    "normal + 1/2": lambda rng, shape: rng.standard_normal(shape) + 0.5,
    "normal": lambda rng, shape: rng.standard_normal(shape),
}
SUMS = {"14 bits": fp8.fourteen_bit_sums, "promoted": fp8.promoted_sums}


def measure_sums(scale: Scale) -> dict[str, Any]:
    """Errors by distribution and way, a list over lengths; the metrics at the longest."""
    lengths = [n for n in (128, 256, 512, 1024, 2048, 4096) if n <= scale.longest]
    found: dict[str, Any] = {"lengths": lengths}
    for name, draw in DRAWS.items():
        rng = np.random.default_rng(2)
        whole = []
        for _ in range(2):
            x = draw(rng, (scale.outputs, scale.longest)).astype(np.float32)
            whole.append(fp8.decode(fp8.quantize(x, x.shape)[0]))
        found[name] = {way: {"norm": [], "rms": [], "own": []} for way in SUMS}
        for length in lengths:
            a, b = (x[:, :length] for x in whole)
            exact = a.astype(np.float64) @ b.T.astype(np.float64)
            for way, sums in SUMS.items():
                off = abs(sums(a, b) - exact)
                norm, rms = np.linalg.norm(exact), np.sqrt((exact**2).mean())
                found[name][way]["norm"].append(float(np.linalg.norm(off) / norm))
                found[name][way]["rms"].append(float(off.max() / rms))
                found[name][way]["own"].append(float((off / abs(exact)).max()))
    return found


# ----------------------------------------------------------------------------- what is said of it


def tables(found: dict[str, Any]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Title: heading and rows, the first cell of a row its name."""
    seconds, side = found["cost"]["seconds"], found["cost"]["side"]
    rival = {"encode": "ml_dtypes astype", "decode": "ml_dtypes back"}
    cost = [
        [name, f"{1e3 * s:.2f}", f"{1e9 * s / side**2:.2f}",
         f"{s / seconds[rival[name]]:.2f}" if name in rival else "",
         f"{s / seconds['product']:.3f}"]
        for name, s in seconds.items()
    ]  # fmt: skip

    def by_factor(key: str, digits: int) -> list[list[str]]:
        return [
            [name, *(f"{100 * v:.{digits}f}" for v in way[key])]
            for name, way in found["scales"].items()
        ]

    head = ["outliers ×", "1", "10", "10²", "10³", "10⁴", "10⁵", "10⁶"]  # FACTORS
    sums = [
        [f"{name}, {way}", *(f"{100 * values[key][-1]:.4f}" for key in ("norm", "rms", "own"))]
        for name in DRAWS
        for way, values in found["sums"][name].items()
    ]
    longest = found["sums"]["lengths"][-1]
    return {
        f"A weight of {side:,} × {side:,}": (
            ["", "ms", "ns a number", "of ml_dtypes'", "of the product"],
            cost,
        ),
        "Error of the numbers that are no outliers, per cent": (head, by_factor("error", 2)),
        "Share of them that became zero, per cent": (head, by_factor("zeros", 2)),
        f"Sums of {longest:,} products, per cent": (
            ["A and B", "norm", "worst / rms", "worst / own"],
            sums,
        ),
    }


def answer(reached: bool) -> str:
    return "reached" if reached else "NOT reached"


def findings(found: dict[str, Any]) -> list[str]:
    """The targets, and whether these numbers reach them; the paper's figure beside ours."""
    cost, seconds = found["cost"], found["cost"]["seconds"]
    encoding = seconds["encode"] / seconds["ml_dtypes astype"]
    both = seconds["both 128 × 128"] / seconds["product"]
    at = FACTORS.index(10**4)
    tensor, fine = (
        {key: 100 * values[at] for key, values in found["scales"][name].items()}
        for name in ("per tensor", "1 × 128")
    )
    said = [
        f"encode differs from ml_dtypes in {cost['differ']} of {cost['compared']:,} float32 "
        f"(none: {answer(cost['differ'] == 0)})",
        f"encode takes {encoding:.2f} of ml_dtypes' astype (at most 1: {answer(encoding <= 1)})",
        f"quantize and dequantize take {both:.3f} of a product of {cost['side']:,}³ "
        f"(less than 0.5: {answer(both < 0.5)})",
        f"two channels of 2048 are 10⁴ times as large: per tensor the others are off by "
        f"{tensor['error']:.1f} % and {tensor['zeros']:.1f} % of them become zero, in tiles of "
        f"1 × 128 {fine['error']:.1f} % and {fine['zeros']:.1f} %; at 10³ it is "
        f"{100 * found['scales']['per tensor']['error'][at - 1]:.1f} % per tensor: E4M3 is a float "
        "and spans 2¹⁸ below its largest number",
    ]
    for name in ("uniform, 0 to 1", "normal"):
        plain, cured = (found["sums"][name][way] for way in SUMS)
        times = plain["norm"][-1] / cured["norm"][-1]
        worst = plain["rms"][-1] / cured["rms"][-1]
        said.append(
            f"14 bits, {name}: {100 * plain['norm'][-1]:.2f} % off in norm, {times:.1f} times "
            f"what promotion leaves (more than 10: {answer(times > 10)}); worst element over the "
            f"rms {100 * plain['rms'][-1]:.2f} %, {worst:.1f} times"
        )
    own = {name: 100 * found["sums"][name]["14 bits"]["own"][-1] for name in DRAWS}
    said.append(
        "the paper's figure at K = 4096 is a largest relative error of nearly 2 %, of data that it "
        f"does not describe; here {own['normal + 1/2']:.1f} % with a mean of half a deviation, "
        f"{own['normal + 1']:.1f} % with a mean of one, {own['uniform, 0 to 1']:.1f} % of positive "
        "data, and no bound where outputs may cancel"
    )
    return said


def picture(found: dict[str, Any], facts: str) -> str:
    """The HTML page."""
    body = f"<p>{escape(facts)}</p><ul>"
    body += "".join(f"<li>{escape(sentence)}</li>" for sentence in findings(found)) + "</ul>"
    power = np.log10(FACTORS)
    drawn = ("per tensor", "per tensor, E5M2", "128 × 128", "1 × 128", "128 × 1")
    for key, unit in (("error", "error of the others, %"), ("zeros", "of the others zero, %")):
        lines = [
            Line(name, power, 100 * np.array(found["scales"][name][key]), colour)
            for colour, name in enumerate(drawn)
        ]
        title = f"{unit}, against the outliers' size as a power of ten"
        body += line_chart(title, title, lines, from_zero=True, across="10ˣ")
    lengths = np.array(found["sums"]["lengths"], float)
    for way in SUMS:
        lines = [
            Line(name, lengths, 100 * np.array(found["sums"][name][way]["norm"]), colour)
            for colour, name in enumerate(DRAWS)
        ]
        title = f"{way}: norm error, %, against K"
        body += line_chart(title, title, lines, from_zero=True, across="K")
    for title, (head, rows) in tables(found).items():
        cells = [[escape(cell) for cell in row] for row in rows]
        body += f"<h2>{escape(title)}</h2>{table(head[1:], cells)}"
    return page("FP8's numbers", body)


def main(arguments: list[str] | None = None) -> None:
    parser = sizes(__doc__, full="every float32, five times as many rounds, more outputs")
    cpu_alone(parser, "it times the CPU's coding, and looks at float32 bit by bit on the host")
    options = parser.parse_args(arguments)
    kind, out = chosen(options, "fp8_numbers")
    began, scale = time.perf_counter(), SCALES[kind]
    found = {
        "cost": measure_cost(scale), "scales": measure_scales(scale), "sums": measure_sums(scale)
    }  # fmt: skip
    facts = (
        f"one thread, {scale.rounds} rounds; {scale.tokens} tokens; {scale.outputs} × "
        f"{scale.outputs} outputs; {time.perf_counter() - began:.0f} seconds"
    )
    show(facts, tables(found), findings(found))
    html = picture(found, facts)
    publish(out, "fp8_numbers", html, facts=facts, findings=findings(found), **found)


if __name__ == "__main__":
    run(main)
