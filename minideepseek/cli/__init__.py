r"""The command line: one verb per job, thin.

    minideepseek journey      the main job: a small DeepSeek-V3 learns to read, another to reason
    minideepseek pretrain     the language part with the main numbers yours
    minideepseek generate     continue a prompt with a saved model
    minideepseek think        a problem answered by a reasoning model, its thoughts apart
    minideepseek evaluate     how well one reasons, on problems that were held out
    minideepseek grpo         reinforcement learning of a saved reasoning model
    minideepseek sft          supervised fine-tuning of one, on a teacher's demonstrations
    minideepseek info         parameters, FLOPs and cache bytes of a configuration, from shapes
    minideepseek inspect      the ledger of a checkpoint directory, from its headers
    minideepseek exercises    write each backward yourself, and be told what is wrong
    minideepseek zoo          functions that look right and are wrong, to be mended
    minideepseek eq           an equation of the papers, and where it is computed
    minideepseek book         all of this as pages for a browser

BLAS is set to one thread before NumPy is loaded: the threads are ours (`--threads`), so that the
element-wise work shares them too and results do not depend on their number.

What a run says goes to standard output, how far it is to standard error. Exit codes: 0 done, 1 for
an exercise that is not solved, 2 for input that cannot be used (one sentence on standard error), 3
for a run that diverged or whose gate failed, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from minideepseek.cli import book, equations, exercises, journey, language, reasoning, zoo
from minideepseek.cli.machine import complain, out_of_memory
from minideepseek.cli.notices import plain_warnings
from minideepseek.errors import DivergedError, GateError, MiniDeepSeekError

if "numpy" not in sys.modules:
    for _name in ("OPENBLAS_NUM", "OMP_NUM", "MKL_NUM", "BLIS_NUM", "VECLIB_MAXIMUM"):
        os.environ[f"{_name}_THREADS"] = "1"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without the letter γ shows a ?; a log is written line by line.
            stream.reconfigure(errors="replace", line_buffering=True)
    options = argparse.Namespace()
    try:
        options = build_parser().parse_args(arguments)
        with plain_warnings():
            return options.run(options)
    except (DivergedError, GateError) as error:
        return complain(str(error), 3)
    except MiniDeepSeekError as error:
        return complain(str(error), 2)
    except MemoryError as error:
        return complain(out_of_memory(error, options), 2)
    except BrokenPipeError:  # whoever read the output has seen enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return complain(f"{name}{error.strerror or error}", 2)
    except KeyboardInterrupt:
        return complain("interrupted", 130)


def build_parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    parser = argparse.ArgumentParser(
        prog="minideepseek", description="DeepSeek-V3 and R1 from first principles, in NumPy."
    )
    parser.add_argument("--version", action="version", version=_version())
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for part in (journey, language, reasoning, exercises, zoo, equations, book):
        part.add_verbs(verbs)
    return parser


def _version() -> str:
    from minideepseek import __version__

    return f"minideepseek {__version__}"


if __name__ == "__main__":
    sys.exit(main())
