"""What verbs share: the machine's options, and the device and threads set up from them."""

from __future__ import annotations

import argparse
import os
import sys
import warnings


def complain(sentence: str, code: int) -> int:
    """One sentence on standard error; the exit code."""
    print(f"minideepseek: {sentence}", file=sys.stderr)
    return code


def machine_options(parser: argparse.ArgumentParser) -> None:
    """--threads and --device."""
    parser.add_argument("--threads", type=int, default=2, help="threads (2)")
    parser.add_argument(
        "--device", help="cpu or cuda (default: MINIDEEPSEEK_DEVICE, else cpu)", default=None
    )


def given(options: argparse.Namespace, *names: str) -> dict:
    """The options that were given, as fields of a Plan."""
    return {n: getattr(options, n) for n in names if getattr(options, n) is not None}


def set_up_machine(options: argparse.Namespace) -> str:
    """Threads and device; prints the device and why, once."""
    from minideepseek.autograd.backend import get_device, set_threads

    warnings.simplefilter("ignore", RuntimeWarning)  # NaN and Inf: the trainer names them
    set_threads(options.threads)
    if options.device is not None:
        name, why = options.device, "--device"
    elif os.environ.get("MINIDEEPSEEK_DEVICE"):
        name, why = os.environ["MINIDEEPSEEK_DEVICE"], "MINIDEEPSEEK_DEVICE"
    else:
        name, why = "cpu", "the default; --device cuda uses a GPU"
    get_device(name)
    print(f"device: {name} ({why}); threads: {options.threads}", file=sys.stderr)
    return name
