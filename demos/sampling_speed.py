r"""How fast the sampler of GRPO is, where its time goes, and how much of a step it is.

    python -m demos.sampling_speed [--problems 16] [--model DIR] [--repeats 5] [--threads 2]

A rollout of 16 problems × 16 answers of the cold-started model that the package brings, up to the
task's 84 tokens, at temperature 1.

1  tokens per second: with rows that have ended leaving the batch, with all staying to the end, and
   of PyTorch, by transformers' `generate` and by its bare forward in a loop that stops when all
   rows have ended (float32, eager, a batch that keeps its rows, --threads of them; ours uses one).
   Sides take turns, the median counts. Each draws answers of its own, about equally long: a rate
   is tokens of answers, their end tokens included, per second. Seconds of CPU are of all threads.
2  the time of a rollout by part: the model; the distribution, on the host; the draw from it
3  the share of a GRPO step that is sampling, its answers growing longer meanwhile: medians of the
   recipe's steps, the first left out

PyTorch is measured only if torch and transformers are installed; the package never needs them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402

from demos.benchmark import Theirs  # noqa: E402
from demos.common import cpu_alone, run  # noqa: E402
from minideepseek import DeepSeekV3  # noqa: E402
from minideepseek.autograd.blocks import set_threads  # noqa: E402
from minideepseek.model.checkpoint import from_pretrained  # noqa: E402
from minideepseek.reasoning import shipped  # noqa: E402
from minideepseek.reasoning.countdown import Countdown  # noqa: E402
from minideepseek.reasoning.grpo import sampler as grpo_sampler  # noqa: E402
from minideepseek.reasoning.grpo.plan import GRPOPlan  # noqa: E402
from minideepseek.reasoning.grpo.sampler import GroupSampler  # noqa: E402
from minideepseek.reasoning.grpo.trainer import GRPOTrainer  # noqa: E402
from minideepseek.reasoning.recipe import RECIPE  # noqa: E402
from minideepseek.reasoning.stages import without_mtp  # noqa: E402

Work = Callable[[], int]  # a rollout; how many tokens its answers have


def our_work(model: DeepSeekV3, plan: GRPOPlan, leaving: float) -> Work:
    """leaving: the share of ended rows at which they leave; at 1 they never do."""
    task, rng = Countdown(), np.random.default_rng(1)
    sampler = GroupSampler(model, task.tokenizer, plan.group_size, task.max_new_tokens)
    prompts = prompts_of(task, plan.prompts_per_step)

    def work() -> int:
        with mock.patch.object(grpo_sampler, "LEAVING", leaving):
            return int(sampler.sample(prompts, rng).mask.sum())

    return work


def prompts_of(task: Countdown, count: int) -> list[np.ndarray]:
    """(8,) ids each: Countdown's prompts are all of one length, so that nobody needs padding."""
    rng = np.random.default_rng(0)
    return [task.prompt_ids(task.draw(rng)) for _ in range(count)]


def their_works(model: DeepSeekV3, plan: GRPOPlan, threads: int) -> dict[str, Work]:
    """The same by transformers; ImportError where it is not installed."""
    with tempfile.TemporaryDirectory() as name:
        model.save_pretrained(Path(name, "model"))
        theirs, task = Theirs(Path(name, "model"), threads), Countdown()
    torch, network, words = theirs.torch, theirs.module, task.tokenizer
    prompts = np.stack(prompts_of(task, plan.prompts_per_step)).repeat(plan.group_size, 0)
    ids, limit, end = torch.from_numpy(prompts), task.max_new_tokens, words.eos_token_id
    torch.manual_seed(0)

    def generate() -> int:
        out = network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=limit,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            eos_token_id=end,
            pad_token_id=words.pad_token_id,
        )
        return answer_tokens(out[:, ids.shape[1] :].numpy(), end)

    def loop() -> int:
        x, cache, made = ids, None, []
        ended = torch.zeros(len(ids), dtype=torch.bool)
        with torch.no_grad():
            while len(made) < limit and not ended.all():
                out = network(x, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache, p = out.past_key_values, torch.softmax(out.logits[:, -1], -1)
                x = torch.multinomial(p, 1)
                made.append(x[:, 0])
                ended |= made[-1] == end
        return answer_tokens(torch.stack(made, 1).numpy(), end)

    return {"PyTorch, generate": generate, "PyTorch, a loop": loop}


def answer_tokens(ids: np.ndarray, end: int) -> int:
    """How many tokens stand before the first end token of each row, with it.  ids (R, N)"""
    return int(((ids == end).cumsum(1) - (ids == end) == 0).sum())


def race(works: dict[str, Work], repeats: int) -> dict[str, tuple[float, ...]]:
    """Medians of each: tokens per second, seconds, seconds of CPU; they take turns, a first round
    warms."""
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            began, busy = time.perf_counter(), time.process_time()
            tokens = work()
            seconds, cpu = time.perf_counter() - began, time.process_time() - busy
            found[name].append((tokens / seconds, seconds, cpu))
    columns = {name: zip(*measured[1:], strict=True) for name, measured in found.items()}
    return {name: tuple(map(statistics.median, both)) for name, both in columns.items()}


@contextmanager
def clocked(*names: str) -> Iterator[dict[str, float]]:
    """The seconds that these functions of the sampler's module take meanwhile."""
    spent = dict.fromkeys(names, 0.0)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*given)
            finally:
                spent[name] += time.perf_counter() - began

        return run

    changed = {name: timed(name, getattr(grpo_sampler, name)) for name in names}
    with mock.patch.multiple(grpo_sampler, **changed):
        yield spent


def parts(work: Work, repeats: int) -> dict[str, float]:
    """Shares of a rollout's time."""
    began = time.perf_counter()
    with clocked("probabilities", "draw_tokens") as spent:
        for _ in range(repeats):
            work()
    total = time.perf_counter() - began
    p, draw = spent["probabilities"] / total, spent["draw_tokens"] / total
    return {"the model": 1 - p - draw, "the distribution": p, "the draw": draw}


def of_a_step(model: DeepSeekV3, plan: GRPOPlan) -> tuple[float, float]:
    """Median seconds of sampling and of training in a GRPO step."""
    trainer = GRPOTrainer(without_mtp(model), Countdown(), plan)
    steps = [trainer.step() for _ in range(plan.steps)][1:]
    names = ("sample_seconds", "train_seconds")
    return tuple(statistics.median(step[name] for step in steps) for name in names)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="directory of another model with Countdown's words")
    parser.add_argument("--problems", type=int, default=16, help="of 16 answers each")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="2 × 4 answers, one repeat")
    cpu_alone(parser, "it stands beside PyTorch on the CPU")
    options = parser.parse_args(arguments)
    set_threads(options.threads)
    model = without_mtp(from_pretrained(options.model) if options.model else shipped.cold_started())
    repeats, recipe = options.repeats, replace(RECIPE.grpo, steps=options.repeats + 1)
    plan = replace(recipe, prompts_per_step=options.problems)
    if options.quick:
        repeats = 1
        plan = recipe = replace(plan, steps=2, prompts_per_step=2, group_size=4, minibatches=1)
    ours = our_work(model, plan, grpo_sampler.LEAVING)
    works = {"ours": ours, "ours, nobody leaves": our_work(model, plan, leaving=1.0)}
    try:
        works |= their_works(model, plan, options.threads)
    except ImportError:
        print("torch or transformers is not installed: our side alone")
    answers = f"{plan.prompts_per_step} × {plan.group_size} answers"
    print(f"1  {answers:20}   tokens/s   seconds    of CPU   ours is")
    rates = race(works, repeats)
    for name, (rate, seconds, cpu) in rates.items():
        ratio = rates["ours"][0] / rate
        print(f"   {name:20} {rate:10,.0f} {seconds:9.3f} {cpu:9.3f} {ratio:8.2f}×")
    if any(cpu < 0.8 * seconds for _, seconds, cpu in rates.values()):
        print("   others are using this machine: seconds exceed those of CPU, and no ratio counts")
    shares = (f"{name} {share:.0%}" for name, share in parts(ours, repeats).items())
    print(f"2  a rollout's time: {', '.join(shares)}")
    sampling, training = of_a_step(model, recipe)
    rows, share = recipe.prompts_per_step * recipe.group_size, sampling / (sampling + training)
    print(
        f"3  a step of {rows} answers: {sampling:.2f} s sampling and {training:.2f} s training, "
        f"{share:.0%} sampling"
    )


if __name__ == "__main__":
    run(main)
