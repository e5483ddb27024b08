r"""Records for the figures of the book that move: three runs, small and real.

    python -m demos.record_book [experts drafts thoughts] [--threads 2] [--quick] [--out DIR]

    experts     a small DeepSeek-V3 learns the standard library's docstrings; which expert of its
                last layer takes each byte of a held-out text, at steps that lie ever further apart
    drafts      that model continues another held-out text by speculative decoding: every draft,
                the probability that it is accepted with, and what became of it
    thoughts    the cold-started model that the package brings learns by GRPO; after each step it
                answers four held-out problems, always with the same random numbers

Each becomes a JSON file in minideepseek/book/records, or in DIR, with the command and the date in
it; `minideepseek book` draws what lies there. Without names all are made, in about four minutes.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402

from demos.common import here, run, set_device  # noqa: E402
from minideepseek.autograd.backend import to_host  # noqa: E402
from minideepseek.autograd.blocks import set_threads  # noqa: E402
from minideepseek.autograd.engine import no_grad  # noqa: E402
from minideepseek.cli.machine import device_option  # noqa: E402
from minideepseek.layers.moe import update_bias  # noqa: E402
from minideepseek.model.config import DeepSeekV3Config  # noqa: E402
from minideepseek.model.files import atomic_write  # noqa: E402
from minideepseek.model.generate import probabilities, request  # noqa: E402
from minideepseek.model.speculative import Speculation, acceptance  # noqa: E402
from minideepseek.model.tokenizer import ByteTokenizer  # noqa: E402
from minideepseek.model.transformer import DeepSeekV3, evaluate_loss  # noqa: E402
from minideepseek.reasoning.countdown import Countdown  # noqa: E402
from minideepseek.reasoning.evaluate import complete  # noqa: E402
from minideepseek.reasoning.grpo.plan import GRPOPlan  # noqa: E402
from minideepseek.reasoning.grpo.sampler import GroupSampler  # noqa: E402
from minideepseek.reasoning.grpo.trainer import GRPOTrainer  # noqa: E402
from minideepseek.reasoning.shipped import cold_started  # noqa: E402
from minideepseek.training.corpus import docstring_corpus, prepare_corpus  # noqa: E402
from minideepseek.training.data import BatchLoader, evaluation_windows, pack  # noqa: E402
from minideepseek.training.optim import (  # noqa: E402
    AdamW,
    clip_grad_norm,
    cosine_schedule,
    matrices_only,
)

RECORDS = Path(__file__).parent.parent / "minideepseek" / "book" / "records"
STEPS = (0, 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 700)
RATE = 4e-3
GAMMA = 1e-2  # of the routers' biases
SHOWN, PROMPT, WRITTEN = 360, 96, 220  # bytes
TEMPERATURE, DRAFTS = 0.6, 3
GRPO_STEPS, PROBLEMS = 40, 4


def small_config() -> DeepSeekV3Config:
    """3 layers of width 128, the first dense; 8 experts, a token uses 2; one MTP module."""
    sizes = {
        "hidden_size": 128, "num_hidden_layers": 3, "intermediate_size": 256,
        "num_attention_heads": 4, "q_lora_rank": None, "kv_lora_rank": 64,
        "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
        "n_group": 1, "topk_group": 1, "num_nextn_predict_layers": 1, "aux_loss_alpha": 0.0,
    }  # fmt: skip
    return DeepSeekV3Config.preset("mini", **sizes)


def learning(model: DeepSeekV3, tokens: np.ndarray, steps: int) -> Iterator[int]:
    """Train; yields the number of finished steps, from 0."""
    loader = BatchLoader(tokens, 8, 128, np.random.default_rng(1))
    parameters = model.parameters()
    optimiser = AdamW(parameters, RATE, weight_decay=matrices_only(0.1))
    yield 0
    for step in range(steps):
        optimiser.zero_grad()
        losses = model.losses(loader.next_batch())
        losses.total.backward()
        clip_grad_norm(parameters, 1.0)
        optimiser.lr = cosine_schedule(step, steps, RATE, steps // 20)
        optimiser.step()
        for router, routing in zip(model.routers, losses.routings, strict=True):
            update_bias(router.e_score_correction_bias, routing.counts, GAMMA)
        yield step + 1


def experts_of(model: DeepSeekV3, ids: np.ndarray) -> str:
    """The expert of the last main layer with the largest gate, a digit for each byte."""
    with no_grad():
        routing = model.hidden(model.check_ids(ids[None]))[1][-1]
    scores, indices = (to_host(array) for array in (routing.scores.data, routing.indices))
    gates = np.take_along_axis(scores, indices, 1)
    return "".join(str(i) for i in indices[np.arange(len(gates)), gates.argmax(1)])


def bits_per_byte(model: DeepSeekV3, held_out: np.ndarray) -> float:
    pairs = [evaluate_loss(model, *w) for w in evaluation_windows(held_out[:8192], 128, 128)]
    return sum(nats for nats, _ in pairs) / sum(count for _, count in pairs) / np.log(2)


def language(names: list[str], quick: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a model that learns to read."""
    corpus, tokenizer = prepare_corpus(docstring_corpus()), ByteTokenizer()
    train, held_out = (pack(part, tokenizer) for part in (corpus.train, corpus.held_out))
    ascii_only = (d.text for d in corpus.held_out if d.text.isascii() and "\n\n" in d.text)
    long = [text for text in ascii_only if len(text) > 1500]
    shown, asked = long[1][:SHOWN].rsplit(" ", 1)[0], long[2][:PROMPT]
    steps = STEPS[:4] if quick else STEPS
    model, frames = DeepSeekV3(small_config(), np.random.default_rng(0)).to(here()), []
    for step in learning(model, train, steps[-1]):
        if step in steps:
            bits = bits_per_byte(model, held_out)
            experts = experts_of(model, np.array(tokenizer.encode(shown)))
            frames.append({"step": step, "bits": round(bits, 2), "experts": experts})
            print(f"step {step:4}  {bits:.2f} bits per byte  {experts[:48]}", flush=True)
    what = f"{steps[-1]} steps of 8 × 128 bytes, width 128, 3 layers, 8 experts, a token uses 2"
    if "experts" in names:
        yield "experts", {"what": what, "text": shown, "frames": frames}
    if "drafts" in names:
        ids = np.array(tokenizer.encode(asked))[None]
        rounds = drafted(model, ids, 24 if quick else WRITTEN)
        what += f"; temperature {TEMPERATURE}, {DRAFTS} drafts by its MTP module"
        yield "drafts", {"what": what, "prompt": asked, "rounds": rounds}


class Watched(Speculation):
    """A speculation that remembers its rounds, for one row."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.rounds: list[dict[str, Any]] = []

    def _draft(self, *args: Any) -> Any:
        feed, self.laws = super()._draft(*args)
        return feed, self.laws

    def _read(self, *args: Any) -> Any:
        h, self.logits = super()._read(*args)
        return h, self.logits

    def _write(self, drafts: np.ndarray, accepted: np.ndarray, token: np.ndarray) -> Any:
        pairs = []
        for j in range(drafts.shape[1]):
            p = probabilities(self.logits[:, j], *self.asked.sampling)
            chance = float(acceptance(p, self.laws[j], drafts[:, j])[0])
            pairs.append([letter(int(drafts[0, j])), round(chance, 3)])
        blocks = super()._write(drafts, accepted, token)
        written = "".join(map(letter, blocks[0]))
        self.rounds.append({"drafts": pairs, "accepted": int(accepted[0]), "written": written})
        return blocks


def letter(token: int) -> str:
    """A byte as a character; what is none, or no ASCII, as a box."""
    return chr(token) if token < 128 else "▯"


def drafted(model: DeepSeekV3, ids: np.ndarray, count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    asked = request(model, ids, count, TEMPERATURE, None, 1.0, None, rng, None)
    watched = Watched(model, asked, DRAFTS)
    for _ in watched:
        pass
    stats = watched.stats
    print(f"accepted {stats.acceptance_rate:.0%}, {stats.tokens_per_forward:.2f} tokens a pass")
    return watched.rounds


def thoughts(quick: bool) -> dict[str, Any]:
    """Held-out problems, answered after each step of GRPO; they are spread over all of them."""
    task, model, steps = Countdown(), cold_started().to(here()), 2 if quick else GRPO_STEPS
    held_out, frames = task.held_out_problems(), list[dict[str, Any]]()
    problems = held_out[:: len(held_out) // PROBLEMS][:PROBLEMS]
    trainer = GRPOTrainer(model, task, GRPOPlan(steps=steps))
    sampler = GroupSampler(model, task.tokenizer, 1, task.max_new_tokens)
    for step in range(steps + 1):
        reward = trainer.step()["rewards/accuracy"] if step else None
        ones = [g[0] for g in complete(sampler, task, problems, np.random.default_rng(2))[0]]
        answers = [[one.text, task.verify(one.problem, one.thought.answer)] for one in ones]
        frames.append({"step": step, "reward": reward and round(reward, 3), "answers": answers})
        print(f"step {step:2}  {reward}  {answers[0]}", flush=True)
    what = (
        f"{steps} steps of GRPO from the shipped cold start; the reward is the share of the "
        "step's 512 responses whose answer the verifier accepts"
    )
    return {"what": what, "prompts": [one.prompt for one in problems], "frames": frames}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("experts", "drafts", "thoughts")
    parser.add_argument("names", nargs="*", choices=[*parts, []], default=[], metavar="NAME")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a few steps: does it run?")
    parser.add_argument("--out", type=Path, default=RECORDS)
    device_option(parser)
    options = parser.parse_args(arguments)
    set_device(options)
    set_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    names = options.names or list(parts)

    def keep(name: str, record: dict[str, Any]) -> None:
        command = f"python -m demos.record_book {name}" + " --quick" * options.quick
        head = {"command": command, "date": date.today().isoformat()}
        with atomic_write(options.out / f"{name}.json", "w") as file:
            json.dump(head | record, file, ensure_ascii=False, indent=0)
        print(f"{options.out / name}.json")

    if {"experts", "drafts"} & set(names):
        for name, record in language(names, options.quick):
            keep(name, record)
    if "thoughts" in names:
        keep("thoughts", thoughts(options.quick))


if __name__ == "__main__":
    run(main)
