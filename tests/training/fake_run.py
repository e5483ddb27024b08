"""A made-up run for the tests of the report: plausible curves, never a result."""

import numpy as np

from minideepseek.training.report import RunRecord


def fake_metrics(n: int = 355, experts: int = 16, layers: int = 2, mtp: bool = True) -> list[dict]:
    """n records of the shape of metrics.jsonl; the first layer loses an expert for a while."""
    rng = np.random.default_rng(7)
    lean = rng.normal(0, 0.7, (layers, experts))
    records = []
    for step in range(1, n + 1):
        part = step / n
        clean = 1.55 + 3.9 * np.exp(-part * 9) + 0.45 * np.exp(-part * 2)
        main = clean + rng.normal(0, 0.05)
        further = main + 0.55 * (1 - np.exp(-part * 12)) + rng.normal(0, 0.03)
        share = np.exp(lean * np.exp(-part * 6) + rng.normal(0, 0.12, (layers, experts)))
        if layers and 0.1 < part < 0.3:
            share[0, experts // 3] = 0
        share /= share.sum(axis=1, keepdims=True)
        record = {
            "step": step,
            "seconds": 0.84 * step,
            "tokens": 4096 * step,
            "main_loss": float(main),
            "mtp_loss": float(further) if mtp else None,
            "aux_loss": 0.0001,
            "loss": float(main + 0.3 * further if mtp else main),
            "learning_rate": 1e-3 * min(1, step / 30) * (0.55 + 0.45 * float(np.cos(3.1 * part))),
            "grad_norm": float(0.4 + 3 * np.exp(-part * 20) + abs(rng.normal(0, 0.08))),
            "tokens_per_second": float(4900 + rng.normal(0, 150)),
            "max_vio": [float(row.max() * experts - 1) for row in share],
            "dead_experts": [int((row == 0).sum()) for row in share],
            "expert_load": share.tolist(),
        }
        if step == 1 or step % 25 == 0 or step == n:
            record["bits_per_byte"] = float(clean / np.log(2))
        records.append(record)
    return records


def fake_run(**kinds) -> RunRecord:
    """The whole record; `kinds` go to `fake_metrics`."""
    return RunRecord(
        title="mini: a small DeepSeek-V3 reads the docstrings of Python",
        config={
            "parameters": 2_941_824,
            "activated per token": 1_207_296,
            "steps": 355,
            "batch": "16 sequences × 256 bytes",
            "device": "cpu, 2 threads",
            "versions": "Python 3.11.7, NumPy 2.4.6, OpenBLAS 0.3.30",
            "corpus": "sha256 9f2c0e77b1d54a7fa4c5a0a1b3c9e2d8f0617283940a5b6c7d8e9fa0b1c2d3e4",
            "time": "4 min 58 s",
            "peak memory": "812 MiB",
        },
        metrics=fake_metrics(**kinds),
        baselines={"bz2": 2.73, "lzma": 2.6, "bz2 primed": 2.5, "lzma primed": 1.9},
        samples=[
            ("before training, temperature 0.8", "Return the ", "\x03\udc9dQ<¶\x00 z\u202e~\n\ty"),
            (
                "after training, temperature 0.8",
                "Return the ",
                "name of the file as a string.\n\n    If *errors* is given, the result <is> a "
                "tuple (a & b) of the object, or None if\n    the value is not in the file.\n\n"
                ">>> print('the and of the return of the sequence')",
            ),
        ],
        notes=[
            "lzma primed with the training text still needs fewer bits: it copies long repeats "
            "that 256 bytes of context cannot see.",
            "The samples are fluent for a few words and mean nothing.",
        ],
    )
