"""RawKernel for the stand-in: the kernel's own text, run on the CPU by tests/kernels/shim.h.

    from tests.standin import kernels
    kernels.install()               # cupy.RawKernel and ndarray.data now exist

CuPy checks nothing of a launch: a Python int goes over as 8 bytes, a Python float as a double, an
array as an address. Here every launch is checked:

- as many arguments as parameters, each of the parameter's dtype, device arrays for addresses;
- memory beside each array is fenced: a write there is an error, a read brings NaN into the result;
- `const` arrays stay as they were; others are filled with NaN before (they are results);
- blocks and threads in reverse order give the same bytes;
- no two blocks write the same byte (that would need an atomic), seen where there are at most 6.

The last three do not reach arrays whose addresses lie in a table.
"""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.kernels.shim import LaunchError, Parameter, parameters_of, run

from .array import counters, ndarray, root
from .module import cupy

FENCE = 1 << 16  # bytes on either side of an array
READ, WRITTEN = 0xFF, 0xA5  # what they hold: NaN or −1, and something else than NaN makes
FEW_BLOCKS = 6


class RawKernel:
    """`cupy.RawKernel`: code, name and options; called with grid, block and arguments.

    checked: False runs a kernel once, where it stands, for counts of long runs.
    """

    checked = True

    def __init__(
        self, code: str, name: str, options: tuple[str, ...] = (), backend: str = "nvrtc"
    ) -> None:
        if not isinstance(options, tuple):
            raise TypeError("options: CuPy takes a tuple")
        self.code, self.name, self.options = code, name, options
        self.parameters = parameters_of(code, name)

    def __call__(self, grid: tuple, block: tuple, args: tuple, *, shared_mem: int = 0) -> None:
        if len(args) != len(self.parameters):
            raise LaunchError(f"{self.name}: {len(args)} arguments for {len(self.parameters)}")
        counters.launches += 1
        grid_x, block_x = max(1, grid[0]), block[0]
        pairs = list(zip(self.parameters, args, strict=True))
        for parameter, value in pairs:
            check(self.name, parameter, value)
            if parameter.pointer and not parameter.const:
                value._memory[...] = np.frombuffer(b"\xff" * 8, value.dtype)[0]

        def once(**options: Any) -> Fenced:
            memory = Fenced(pairs)
            run(self.code, self.name, grid_x, block_x, memory.words, **options)
            memory.check(self.name)
            return memory

        if not self.checked:
            words = [a._memory.ctypes.data.to_bytes(8, "little") if p.pointer else
                     number(a).tobytes() for p, a in pairs]  # fmt: skip
            run(self.code, self.name, grid_x, block_x, words)
            return
        if any(parameter.table for parameter in self.parameters):  # it changes what it finds there
            once()
            return
        once(backwards=True).compare(self.name, after := once())
        if 1 < grid_x <= FEW_BLOCKS:
            written = [once(blocks=(b, b + 1)).changes() for b in range(grid_x)]
            if any(np.any(np.sum(w, 0) > 1) for w in zip(*written, strict=True)):
                raise LaunchError(f"{self.name}: two blocks write to the same place")
        after.copy_back()


def check(name: str, parameter: Parameter, value: Any) -> None:
    """Refuse an argument that the parameter would read as something else."""
    what = f"{name}: {parameter.name}"
    if parameter.pointer:
        if type(value) is not ndarray:
            raise TypeError(f"{what}: Unsupported type {type(value)}")
        if str(value.dtype) != parameter.dtype:
            raise LaunchError(f"{what}: {value.dtype} where the kernel reads {parameter.dtype}")
        return
    word = number(value)
    if str(word.dtype) != parameter.dtype:
        raise LaunchError(f"{what}: {word.dtype} where the kernel reads {parameter.dtype}")


def number(value: Any) -> np.generic:
    """A number as CuPy hands it over: a Python int as int64, a Python float as float64."""
    if isinstance(value, np.generic):
        return value
    if isinstance(value, int):
        return np.int64(value)
    if isinstance(value, float):
        return np.float64(value)
    raise TypeError(f"Unsupported type {type(value)}")


class Fenced:
    """Copies of a launch's arrays, each with a fence on either side; views share their owner's."""

    def __init__(self, pairs: list[tuple[Parameter, Any]]) -> None:
        self.owners: list[np.ndarray] = []
        self.copies: list[np.ndarray] = []
        self.const: list[bool] = []
        self.words = [self._word(*pair) for pair in pairs]
        for copy, const in zip(self.copies, self.const, strict=True):
            if not const:
                copy[:FENCE] = copy[copy.size - FENCE :] = WRITTEN
        self.before = [copy.copy() for copy in self.copies]

    def _word(self, parameter: Parameter, value: Any) -> bytes:
        if not parameter.pointer:
            return number(value).tobytes()
        owner = root(value._memory)
        i = next((i for i, a in enumerate(self.owners) if a is owner), len(self.owners))
        if i == len(self.owners):
            fence = np.full(FENCE, READ, np.uint8)
            self.owners.append(owner)
            self.copies.append(np.concatenate([fence, _bytes(owner), fence]))
            self.const.append(True)
        self.const[i] &= parameter.const
        offset = value._memory.ctypes.data - owner.ctypes.data if value.size else 0
        return struct.pack("Q", self.copies[i].ctypes.data + FENCE + offset)

    def check(self, name: str) -> None:
        """LaunchError if a fence or a const array was written to."""
        for copy, before, const in zip(self.copies, self.before, self.const, strict=True):
            inside = slice(FENCE, copy.size - FENCE)
            if const and not np.array_equal(copy[inside], before[inside]):
                raise LaunchError(f"{name}: wrote to an argument that is const")
            outside = np.r_[before[:FENCE], copy[inside], before[inside.stop :]]
            if not np.array_equal(copy, outside):
                raise LaunchError(f"{name}: wrote beyond an array")

    def compare(self, name: str, other: Fenced) -> None:
        """LaunchError if another order of blocks and threads made other bytes."""
        for a, b in zip(self.copies, other.copies, strict=True):
            if not np.array_equal(a, b):
                raise LaunchError(f"{name}: the result depends on the order of the threads")

    def changes(self) -> list[np.ndarray]:
        """For each array, which bytes are no longer what they were."""
        return [a != b for a, b in zip(self.copies, self.before, strict=True)]

    def copy_back(self) -> None:
        """Give the owners what the kernel wrote."""
        for owner, copy, const in zip(self.owners, self.copies, self.const, strict=True):
            if not const:
                _bytes(owner)[...] = copy[FENCE : copy.size - FENCE]


def _bytes(owner: np.ndarray) -> np.ndarray:
    """All bytes of an array that owns its memory, as a view."""
    flat = owner.reshape(-1) if owner.flags.c_contiguous else owner.ravel("K")
    if not np.shares_memory(flat, owner) and owner.size:
        raise NotImplementedError("an owner whose memory has holes")
    return flat.view(np.uint8)


def _data(array: ndarray) -> SimpleNamespace:
    """`array.data`, of which only the address is known here."""
    return SimpleNamespace(ptr=array._memory.ctypes.data)


def install() -> None:
    """Give the stand-in RawKernel and the arrays' addresses; calling it again changes nothing."""
    cupy.RawKernel = RawKernel
    ndarray.data = property(_data)  # type: ignore[attr-defined]
