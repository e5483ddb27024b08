"""A kernel's text compiled for the CPU by g++, and launched with checks that no card makes.

`Program(source, name)` reads the parameters from the text; calling it with a grid, a block and
arguments runs the kernel as CuPy would launch it. See shim.h for how threads take turns.
"""

import ctypes
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
FLAGS = "-O1 -g0 -std=c++14 -ffp-contract=off -fno-strict-aliasing -fPIC -shared -w".split()
POINTEES = {
    "float": "float32",
    "long long": "int64",
    "unsigned char": "uint8",
    "unsigned short": "uint16",
    "Row": "int64",  # a row of a table: a struct of 8-byte fields
}
NUMBERS = {"long long": "int64", "float": "float32"}


class Parameter(NamedTuple):
    """A parameter of a kernel: the dtype of the array or of the number it takes."""

    name: str
    dtype: str
    pointer: bool
    const: bool
    table: bool  # of addresses, whose arrays only the kernel knows


def parameters_of(source: str, name: str) -> list[Parameter]:
    """The parameters of `extern "C" __global__ void name(…)` in a text."""
    text = re.search(rf'extern "C" __global__ void {name}\(([^)]*)\)', source)
    assert text, f"no __global__ function called {name}"
    names = dict(re.findall(r"typedef ([\w ]+) (\w+);", source))
    kinds = {short: long for long, short in names.items()}
    found = []
    for part in text.group(1).split(","):
        kind, star, its_name = re.fullmatch(r"\s*([\w\s]+?)\s*(\*?)\s*(\w+)\s*", part).groups()
        const = kind.startswith("const ")
        kind = kind.removeprefix("const ")
        kind = kinds.get(kind, kind)
        known = POINTEES if star else NUMBERS
        assert kind in known, f"{name}: {its_name} is {kind}{star}, which no launch passes"
        found.append(Parameter(its_name, known[kind], bool(star), const, kind == "Row"))
    return found


def compiler() -> str | None:
    """g++, or None."""
    return shutil.which("g++")


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="kernels-")


def program_text(source: str, name: str) -> str:
    """C++ of the kernel between the shim and a function that calls it."""
    waits = int("__shfl" in source or "__syncthreads" in source)
    declared = re.search(rf'void {name}\(([^)]*)\)', source).group(1).split(",")
    casts = [re.sub(r"\w+\s*$", "", part).strip() for part in declared]
    types = [f"*({cast}*)arguments[{i}]" for i, cast in enumerate(casts)]
    return f"""
#include "shim.h"
{source}
static void** arguments;
static void call() {{ {name}({", ".join(types)}); }}
extern "C" const char* run(void** given, unsigned grid, unsigned block, unsigned from,
                           unsigned to, int backwards)
{{
    arguments = given;
    return run_blocks(grid, block, from, to, backwards, {waits}, call);
}}
"""


@functools.cache
def build(source: str, name: str, extra: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The shared library of a kernel's text."""
    text = program_text(source, name)
    stem = Path(_folder().name, hashlib.sha256((text + repr(extra)).encode()).hexdigest()[:16])
    stem.with_suffix(".cpp").write_text(text, "utf-8")
    command = [compiler(), *FLAGS, *extra, f"-I{HERE}", f"{stem}.cpp", "-o", f"{stem}.so"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(f"{stem}.so")
    library.run.restype = ctypes.c_char_p
    library.run.argtypes = [ctypes.POINTER(ctypes.c_void_p), *[ctypes.c_uint] * 4, ctypes.c_int]
    return library


class LaunchError(Exception):
    """A launch that a card would not have survived, or would have answered by chance."""


def run(source, name, grid, block, words, blocks=None, backwards=False, extra=()):
    """Run a kernel: `words` are the bytes of each argument, 8 of an address."""
    cells = [ctypes.create_string_buffer(word, 8) for word in words]
    pointers = (ctypes.c_void_p * len(cells))(*[ctypes.addressof(cell) for cell in cells])
    first, last = (0, grid) if blocks is None else blocks
    problem = build(source, name, extra).run(pointers, grid, block, first, last, int(backwards))
    if problem:
        raise LaunchError(f"{name}: {problem.decode()}")
