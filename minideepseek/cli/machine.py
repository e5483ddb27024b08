"""What verbs share: the machine's options, and the device and threads set up from them."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from typing import Any

from minideepseek.errors import InputError


def complain(sentence: str, code: int) -> int:
    """One sentence on standard error; the exit code."""
    print(f"minideepseek: {sentence}", file=sys.stderr)
    return code


def interrupted(job: Any) -> int:
    """What to say at once: before the steps, or after a second Ctrl-C during one."""
    begun = any((job.out / name).exists() for name in ("run.json", "job.json"))
    hint = f"to go on: {job.to_go_on()}" if begun else "nothing is kept yet; start again"
    return complain(f"interrupted; {hint}", 130)


def generator(seed: int) -> Any:
    """The numpy.random.Generator of a seed; InputError for a negative one."""
    import numpy as np

    if seed < 0:
        raise InputError(f"seed: got {seed}, expected an integer of at least 0")
    return np.random.default_rng(seed)


def machine_options(parser: argparse.ArgumentParser) -> None:
    """--threads and --device."""
    parser.add_argument("--threads", type=int, default=2, help="threads (2)")
    device_option(parser)


def device_option(parser: argparse.ArgumentParser, default: str = "cpu") -> None:
    """--device alone."""
    where = f"cpu, cuda, or cuda:1 for a second card (default: MINIDEEPSEEK_DEVICE, else {default})"
    parser.add_argument("--device", help=where)


def given(options: argparse.Namespace, *names: str) -> dict:
    """The options that were given, as fields of a Plan."""
    return {n: getattr(options, n) for n in names if getattr(options, n) is not None}


def set_up_machine(options: argparse.Namespace) -> str:
    """Threads and device; prints the device and why, once."""
    from minideepseek.autograd.backend import keep_memory
    from minideepseek.autograd.blocks import set_threads

    warnings.simplefilter("ignore", RuntimeWarning)  # NaN and Inf: the trainer names them
    keep_memory()
    set_threads(options.threads)
    return choose_device(options.device, f"; threads: {options.threads}")


def choose_device(asked: str | None, also: str = "") -> str:
    """The device's name: as asked, else MINIDEEPSEEK_DEVICE, else cpu; prints it and why."""
    from minideepseek.autograd import cuda
    from minideepseek.autograd.backend import get_device

    if asked is not None:
        name, why = asked, "--device"
    elif os.environ.get("MINIDEEPSEEK_DEVICE"):
        name, why = os.environ["MINIDEEPSEEK_DEVICE"], "MINIDEEPSEEK_DEVICE"
    else:
        name, why = "cpu", "the default; --device cuda uses a GPU"
    device = get_device(name)
    shown = cuda.describe(device.xp) if device.name == "cuda" else name
    print(f"device: {shown} ({why}){also}", file=sys.stderr)
    return device.name


SMALLER = "batch_size sequence_length prompts_per_step samples_per_step samples max_new_tokens"


def out_of_memory(error: MemoryError, options: argparse.Namespace) -> str:
    """One sentence for a full card or machine, with the verb's options that make its work less."""
    from minideepseek.autograd.cuda import out_of_memory

    names = [f"--{n.replace('_', '-')}" for n in SMALLER.split() if hasattr(options, n)]
    return out_of_memory(error, " or ".join(names) or "the size of the model")
