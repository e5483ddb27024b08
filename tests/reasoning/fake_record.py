"""A made-up reasoning run for the tests of the report: plausible curves, never a result."""

import numpy as np

from minideepseek.reasoning.record import ReasoningRecord

PROMPT = "9 8 5 3 > 13 :"
EARLY = "<think> 9 - 5 = 4 ? 9 + 3 = 12 ? </think> ?"
LATER = "<think> 9 - 5 = 4 ? 9 + 3 = 12 ? 9 - 3 = 6 ? 8 + 5 = 13 ! </think> 8 + 5"
LONG = (
    "<think> 8 - 3 = 5 ? 5 + 3 = 8 ? 5 - 3 = 2 ? 9 + 8 = 17 ? 9 - 8 = 1 ? 9 + 5 = 14 ? "
    "9 - 5 = 4 ? 9 + 3 = 12 ? 9 - 3 = 6 ? 8 + 5 = 13 ! </think> 8 + 5"
)


def fake_grpo(n: int = 40) -> list[dict]:
    """n records of the shape of GRPO's metrics.jsonl."""
    rng = np.random.default_rng(3)
    rows = []
    for step in range(1, n + 1):
        part = 1 - np.exp(-4 * step / n)
        right = float(np.clip(0.34 + 0.57 * part + rng.normal(0, 0.02), 0, 1))
        long = float(20 + 21 * part + rng.normal(0, 0.5))
        row = {
            "step": step, "seconds": 2.1 * step, "tokens": 9000 * step, "loss": 1e-3,
            "reward": right + 0.098, "reward_std": 0.4, "rewards/accuracy": right,
            "rewards/format": 0.98, "frac_reward_zero_std": float(0.05 + 0.5 * part),
            "advantage_std": 0.9, "completions/mean_length": long, "completions/min_length": 10.0,
            "completions/max_length": 84.0, "completions/clipped_ratio": 0.01 + 0.02 * part,
            "completions/mean_terminated_length": long - 0.8, "kl": float(0.11 * part),
            "entropy": float(0.32 - 0.2 * part), "clip_ratio/low_mean": 0.002,
            "clip_ratio/high_mean": 0.006, "grad_norm": float(0.3 + abs(rng.normal(0, 0.05))),
            "learning_rate": 5e-4 * min(1, step / 5), "sampler_gap": 2.4e-5,
            "sample_seconds": 0.8, "train_seconds": float(1.1 + rng.normal(0, 0.03)),
            "sample_tokens_per_second": 11000.0 + 40 * step, "train_tokens_per_second": 7000.0,
            "max_vio": [0.4 + 0.01 * step, 0.7], "dead_experts": [0, 0],
        }  # fmt: skip
        if step % 10 == 0:
            row |= {"eval/accuracy": right, "eval/greedy": min(1.0, right + 0.05)}
            row["eval/length"] = long
        rows.append(row)
    return rows


def fake_loss(n: int, start: float, end: float) -> list[dict]:
    """n records of a supervised stage."""
    steps = np.arange(1, n + 1)
    values = end + (start - end) * np.exp(-6 * steps / n)
    return [
        {"step": int(step), "loss": float(v)} for step, v in zip(steps, values, strict=True)
    ]


def fake_evaluation(accuracy: float, greedy: float, length: float, **other) -> dict:
    """What `Evaluation.as_dict` gives."""
    return {
        "problems": 117, "samples": 8, "temperature": 1.0, "accuracy": accuracy,
        "standard_error": 0.0213, "greedy": greedy, "majority": 0.1 + 0.9 * accuracy**4,
        "pass_at": {str(k): 1 - (1 - accuracy) ** k for k in (1, 2, 4, 8)}, "format": 0.987,
        "thinks": 0.999, "length": length, "truncated": 0.011, "shown": [],
        "statistics": {"attempts": length / 7, "verdicts": 0.991, "given_up": None}, **other,
    }  # fmt: skip


def fake_record(n: int = 40) -> ReasoningRecord:
    """The whole record."""
    return ReasoningRecord(
        stages={
            "pretrain": fake_loss(900, 3.4, 0.9),
            "sft": fake_loss(350, 1.1, 0.62),
            "grpo": fake_grpo(n),
            "control": fake_loss(40, 0.61, 0.6),
        },
        evaluations={
            "base": fake_evaluation(0.243, 0.479, 16.6),
            "cold start": fake_evaluation(0.341, 0.633, 20.4),
            "control": fake_evaluation(0.352, 0.641, 20.9),
            "grpo": fake_evaluation(0.913, 0.957, 41.2),
        },
        gates=[
            ("base: facts", 0.9975, "at least 0.99", True),
            ("cold start: well-formed", 0.987, "at least 0.98", True),
            ("cold start: temperature 1", 0.341, "0.25 to 0.45", True),
            ("GRPO: temperature 1", 0.913, "at least 0.85", True),
        ],
        traces=[
            ("after the cold start", PROMPT, EARLY),
            ("after GRPO step 10", PROMPT, LATER),
            ("after GRPO", PROMPT, LONG),
            ("after the cold start", "8 7 5 1 > 2 :", "<think> 5 - 1 = 4 ? </think> ?"),
            ("after GRPO", "8 7 5 1 > 2 :", "<think> 5 - 1 = 4 ? 7 - 5 = 2 ! </think> 7 - 5"),
        ],
        facts={"parameters": 512_384, "training time": "187 s", "peak memory": "412 MiB"},
        recipe={
            "pre-training": "1,100 steps × 10 × 96 tokens, AdamW 3e-3",
            "cold start": "350 steps × 32 demonstrations, AdamW 1.5e-3",
            "GRPO": "16 problems × 16 answers, 40 steps, AdamW 5e-4, clip 0.2",
            "seed": 0,
        },
    )
