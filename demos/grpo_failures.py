r"""Eight ways in which GRPO fails or disappoints, each beside a run that differs in one thing.

    python -m demos.grpo_failures --bluffing --hot-start [--seed 0] [--threads 2] [--device cuda]
    python -m demos.grpo_failures --all

    --no-signal      a cold start that never solves anything: no group has a spread
    --hot-start      large steps from few answers: the policy is gone and does not come back
    --bluffing       verdicts that mean nothing: RL learns to say `!`, not to search
    --short-window   pre-training windows shorter than a thought: the base breaks off
    --rare-thoughts  a teacher that almost never shows a long search
    --length-bias    the mean over an answer's tokens before the mean over answers
    --k1-penalty     the log-ratio itself as a penalty: it does not hold the policy
    --addition       no failure: the second task, where RL polishes and demonstrations are cheap

Each begins at the cold start that the package brings (--model: another one's directory), or trains
what it needs, prints a table for every run (`grpo_lab` says what is in it) and then one sentence
that is computed from the tables: where a failure does not show, it says so. One seed is one seed;
--seed gives others.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from functools import partial

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402

from demos.common import here, run, set_device  # noqa: E402
from demos.grpo_lab import QUICK, Lab, Row, gap, mean, percent  # noqa: E402
from minideepseek import DeepSeekV3  # noqa: E402
from minideepseek.autograd.blocks import set_threads  # noqa: E402
from minideepseek.autograd.engine import no_grad, ops  # noqa: E402
from minideepseek.cli.machine import device_option  # noqa: E402
from minideepseek.model.checkpoint import from_pretrained  # noqa: E402
from minideepseek.reasoning import shipped  # noqa: E402
from minideepseek.reasoning.addition import Addition  # noqa: E402
from minideepseek.reasoning.countdown import Countdown, candidates  # noqa: E402
from minideepseek.reasoning.grpo.sampler import GroupSampler  # noqa: E402
from minideepseek.reasoning.recipe import RECIPE  # noqa: E402
from minideepseek.reasoning.stages import pretrainer, without_mtp  # noqa: E402
from minideepseek.reasoning.tasks import Problem  # noqa: E402

ENOUGH = 0.2  # of the additions solved: where its cold start ends
GENTLY = 2e-4  # its learning rate, below the recipe's


def no_signal(lab: Lab) -> str:
    """Addition after some demonstrations, against more: the form is there, the sums are not."""
    task, size = Addition(), lab.size
    poor, able = lab.taught(lab.model, task, size.taught), adding(lab)
    reach = [lab.measure(model, task, samples=16).pass_at[16] for model in (poor, able)]
    label = f"{size.taught} supervised steps, then GRPO"
    failing = lab.run(label, poor, task, learning_rate=GENTLY)
    healthy = polished(lab)
    equal = mean([row["equal"] for row in failing[1:]])
    rise, beside = gap(failing[0], failing[-1]), gap(healthy[0], healthy[-1])
    facts = (
        f"pass@16 is {percent(reach[0])} where GRPO begins, {percent(equal)} of the groups are all "
        f"equal, and held-out accuracy goes from {percent(failing[0]['solved'])} to "
        f"{percent(failing[-1]['solved'])}; beside it, from a pass@16 of {percent(reach[1])}, "
        f"from {percent(healthy[0]['solved'])} to {percent(healthy[-1]['solved'])}"
    )
    if rise > 2:
        return f"It learns all the same: {facts}."
    what = "No signal, no learning" if beside > 2 else "Neither learns in so few steps"
    return f"{what}: {facts}."


def adding(lab: Lab) -> DeepSeekV3:
    """The cold start after as many demonstrations of addition as make it solve ENOUGH."""
    task, most = Addition(), lab.size.most
    return lab.once("adding", lambda: lab.taught(lab.model, task, most, until=ENOUGH))


def polished(lab: Lab) -> list[Row]:
    """GRPO from there; run once."""
    label = f"supervised steps until {percent(ENOUGH)} are solved, then GRPO"
    if label in lab.kept:
        print(f"\n{label}: as above")
    work = partial(lab.run, label, adding(lab), Addition(), learning_rate=GENTLY)
    return lab.once(label, work)


def hot_start(lab: Lab) -> str:
    """Ten times the learning rate on a quarter of the problems, against GRPO as it is."""
    healthy = lab.healthy()
    changes = {"learning_rate": 3e-3, "prompts_per_step": 4}
    label = ", ".join(f"{name} {value:g}" for name, value in changes.items())
    rows = lab.run(label, lab.model, Countdown(), **changes)
    greedy = [row["greedy"] for row in rows]
    worst = int(np.argmin(greedy))
    facts = (
        f"greedy goes from {percent(greedy[0])} to {percent(greedy[worst])} at step "
        f"{rows[worst].step} and ends at {percent(greedy[-1])} (as it is: "
        f"{percent(healthy[-1]['greedy'])}); {percent(rows[-1]['equal'])} of the last groups are "
        "all equal"
    )
    lost = greedy[0] - greedy[worst]
    if lost < 0.1:
        return f"The failure does not show: {facts}."
    back = greedy[-1] - greedy[worst] > lost / 2
    return f"{'It falls, and recovers' if back else 'It falls and does not recover'}: {facts}."


class Elsewhere(Countdown):
    """A teacher whose verdicts are true of another target than the one that is asked for."""

    def demonstration(self, problem: Problem, rng: np.random.Generator) -> str:
        numbers = problem.facts[0]
        options = candidates(numbers)
        own = options[int(rng.integers(len(options)))][3]
        return super().demonstration(Problem(problem.prompt, (numbers, own)), rng)


def bluffing(lab: Lab) -> str:
    """A cold start on verdicts that are true of another target, against as many true ones."""
    more, steps = ("attempts", "verdicts", "says !", "hits"), lab.size.taught
    runs = []
    for label, teacher in (("meaningless verdicts", Elsewhere()), ("true verdicts", Countdown())):
        model = lab.taught(lab.model, teacher, steps)
        label = f"{steps} supervised steps with {label}, then GRPO"
        runs.append(lab.run(label, model, Countdown(), *more))
    (first, *_, last), (*_, beside) = runs
    facts = "; ".join(
        f"{text} {percent(first[name])} → {percent(last[name])} ({percent(beside[name])})"
        for name, text in (
            ("says !", "attempts marked `!`"),
            ("verdicts", "true verdicts"),
            ("hits", "attempts that hit"),
            ("solved", "solved"),
        )
    )
    thought = f"; attempts an answer {first['attempts']:.1f} → {last['attempts']:.1f}"
    facts += f"{thought} ({beside['attempts']:.1f}). In brackets: with true verdicts, at the end"
    if last["says !"] > first["says !"] + 0.2 and last["verdicts"] < first["verdicts"] - 0.1:
        return f"It learns to bluff: {facts}."
    return f"The failure does not show: {facts}."


def short_window(lab: Lab) -> str:
    """Two bases of as many tokens, read in windows of 40 or 96, given thoughts to go on with."""
    steps, taught = lab.size.read, lab.size.taught
    tokens = RECIPE.pretrain.batch_size * RECIPE.pretrain.sequence_length
    found = {}
    print("\n  tokens of the thought so far      " + "".join(f"{cut:8}" for cut in CUTS))
    for window in (40, 96):
        sizes = {"steps": steps, "batch_size": tokens // window, "sequence_length": window}
        plan = replace(RECIPE.pretrain, **sizes)
        recipe = replace(RECIPE, pretrain=plan, documents=steps * tokens // 20)
        trainer = pretrainer(Countdown(), recipe, lab.rng(4), here())
        losses = [trainer.step()["main_loss"] for _ in range(steps)]
        base = without_mtp(trainer.model)
        print(f"  window {window}: the base's loss is {mean(losses[-20:]):.2f}")
        for stage in ("base", "cold start"):
            model = base if stage == "base" else lab.taught(base, Countdown(), taught)
            nats, broken = going_on(lab, model)
            found[window, stage] = mean(broken[2:])  # behind more than 40 tokens
            print(f"  {stage:12} nats of a token     " + "".join(f"{x:8.2f}" for x in nats))
            print(f"  {stage:12} breaks off          " + "".join(f"{x:8.0%}" for x in broken))
    base, cold = ([percent(found[w, s]) for w in (40, 96)] for s in ("base", "cold start"))
    facts = (
        f"of the thoughts longer than 40 tokens, the base of window 40 breaks off {base[0]}, that "
        f"of window 96 {base[1]}; after {taught} supervised steps {cold[0]} and {cold[1]}"
    )
    shows = found[40, "base"] > found[96, "base"] + 0.1
    return f"{'The window shows' if shows else 'The failure does not show'}: {facts}."


CUTS = (21, 33, 45, 57, 69)  # tokens: the problem, `<think>`, and 2 to 10 attempts


def going_on(lab: Lab, model: DeepSeekV3) -> tuple[list[float], list[float]]:
    """A patient teacher's long thoughts, cut: the nats of the next two attempts' tokens, and how
    often the model's own continuation ends without `</think>`."""
    task, rng, rows = Countdown(give_up=0), lab.rng(5), []
    while len(rows) < 16 * lab.size.samples:
        problem = task.draw(rng)
        text = task.response_ids(task.demonstration(problem, rng))
        row = np.concatenate([task.prompt_ids(problem), text])
        rows += [row[: CUTS[-1] + 12]] if len(row) >= CUTS[-1] + 12 else []
    ids = np.stack(rows)
    with no_grad():
        nats = -ops.token_logprobs(model(ids[:, :-1]), model.check_ids(ids[:, 1:])).numpy().mean(0)
    sampler, broken = GroupSampler(model, task.tokenizer, 4, 24), []
    for cut in CUTS:
        out = sampler.sample(list(ids[:, :cut]), rng).completions(task.tokenizer)
        broken.append(mean([ended and "</think>" not in text for text, ended in out]))
    return [mean(nats[cut - 1 : cut + 11].tolist()) for cut in CUTS], broken


def rare_thoughts(lab: Lab) -> str:
    """A cold start on a teacher that gives up with g = 0.5 after every miss, against g = 0.3."""
    ends, facts = [], []
    for g in (0.5, 0.3):
        teacher = Countdown(give_up=g)
        model = lab.taught(lab.model, teacher, lab.size.taught)
        rows = lab.run(f"cold start with g = {g}, then GRPO", model, Countdown())
        rng = lab.rng(6)
        shown = [teacher.demonstration(teacher.draw(rng), rng).count("=") for _ in range(2000)]
        long = mean([n >= 6 for n in shown])
        facts.append(
            f"with g = {g} {percent(long)} of the demonstrations hold 6 attempts or more, and "
            f"accuracy goes from {percent(rows[0]['solved'])} to {percent(rows[-1]['solved'])}"
        )
        ends.append(rows[-1])
    apart = gap(*ends)
    what = "It stays behind" if apart > 2 else "The failure does not show"
    return f"{what}: {'; '.join(facts)} ({apart:+.1f} standard errors)."


def length_bias(lab: Lab) -> str:
    """The paper's 1/|o| for every answer, against one mean over all tokens."""
    token = lab.healthy()[-1]
    label = "aggregation: sequence, the mean over each answer first"
    columns = ("right's", "wrong's")
    last = lab.run(label, lab.model, Countdown(), *columns, aggregation="sequence")[-1]
    apart, longer = gap(last, token), last["wrong's"] > 1.1 * token["wrong's"]
    names = ("wrong's", "right's", "cut off", "solved")
    facts = "; ".join(f"{name} {last.show(name)} ({token.show(name)})" for name in names)
    facts += f". In brackets: the mean over tokens, {apart:+.1f} standard errors"
    if longer and apart > 2:
        return f"Wrong answers grow longer, and fewer are right: {facts}."
    what = "Wrong answers grow longer" if longer else "The failure does not show"
    return f"{what}{', yet more are right' if apart < -2 else ''}: {facts}."


def k1_penalty(lab: Lab) -> str:
    """β = 1 on three estimators of the same KL, against none."""
    ends = {"none": lab.healthy()[-1]}
    for kl in ("k1", "k3", "unbiased"):
        rows = lab.run(f"β = 1 on {kl}", lab.model, Countdown(), kl_coef=1.0, kl=kl)
        ends[kl] = rows[-1]
    facts = "; ".join(f"{kl} {row['KL']:.3f}, {percent(row['solved'])}" for kl, row in ends.items())
    kls = {name: row["KL"] for name, row in ends.items()}
    held = [name for name, kl in kls.items() if kl < kls["none"] / 2]
    shows = "k1" not in held and held
    facts += f". Held to half of the drift without: by {' and '.join(held) or 'none of them'}"
    what = "k1 does not hold the policy" if shows else "The failure does not show"
    return f"{what}. KL a token over the last steps, and solved: {facts}."


def addition(lab: Lab) -> str:
    """The second task from an under-trained start: RL against as many supervised updates."""
    rows = polished(lab)
    steps = lab.size.steps * RECIPE.grpo.minibatches
    more = lab.measure(lab.taught(adding(lab), Addition(), steps), Addition())
    facts = (
        f"from {percent(rows[0]['solved'])} GRPO comes to {percent(rows[-1]['solved'])} with "
        f"answers judged and no demonstration, {steps} supervised steps to {percent(more.accuracy)}"
    )
    what = "RL polishes" if gap(rows[0], rows[-1]) > 2 else "RL does not polish it so soon"
    return f"{what}: {facts}; greedy {percent(rows[-1]['greedy'])} and {percent(more.greedy)}."


FAILURES = (
    no_signal, hot_start, bluffing, short_window, rare_thoughts, length_bias, k1_penalty, addition
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for failure in FAILURES:
        flag = "--" + failure.__name__.replace("_", "-")
        parser.add_argument(flag, action="store_true", help=failure.__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: nothing is shown by them")
    parser.add_argument("--model", help="directory of a cold-started model, if not the package's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    device_option(parser)
    options = parser.parse_args(arguments)
    set_device(options)
    chosen = [f for f in FAILURES if options.all or getattr(options, f.__name__)]
    if not chosen:
        parser.error("got no experiment, expected one or more of them, or --all")
    set_threads(options.threads)
    model = from_pretrained(options.model) if options.model else shipped.cold_started()
    lab = Lab(model.to(here()), options.seed, QUICK if options.quick else None)
    for failure in chosen:
        began = time.perf_counter()
        print(f"\n── {failure.__name__.replace('_', ' ')}: {failure.__doc__}")
        print(f"\n{failure(lab)}  ({time.perf_counter() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    run(main)
