"""What can be wrong with a graphics card, each in one sentence that says what to do about it.

`--device cuda` meets many machines: without cupy, without a driver, with a driver that is older
than the CUDA which cupy was built for, without that CUDA's libraries, without a second card. Each
is found before any work is done; some show only when something is computed, so `use_card`
multiplies two small matrices. cupy is imported by the backend alone, which hands it over.
"""

from __future__ import annotations

from typing import Any

from minideepseek.errors import InputError

OLDEST = 14
WHEELS = "minideepseek[cuda12] or minideepseek[cuda13], whichever CUDA `nvidia-smi` names"


def first_line(error: BaseException) -> str:
    """The first line of an error's text with letters in it, or the error's name."""
    lines = (line.strip() for line in str(error).splitlines())
    line = next((line for line in lines if any(map(str.isalpha, line))), type(error).__name__)
    return line.rstrip(".")


def not_imported(error: ImportError) -> str:
    """Why `import cupy` failed."""
    if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
        return f"device 'cuda' is not available: cupy is not installed; install {WHEELS}"
    reason = first_line(error.__cause__ or error)
    return (
        f"device 'cuda' is not available: cupy is installed and cannot be imported ({reason}); "
        f"uninstall it, then install {WHEELS}"
    )


def use_card(cupy: Any, index: int) -> str:
    """Compute on the card of that index from now on; its name, "cuda:1". InputError if it cannot
    be: a sentence with what is wrong and what to install."""
    wrong = _too_old(cupy) or _no_such_card(cupy, index) or _cannot_compute(cupy, index)
    if wrong:
        raise InputError(f"device 'cuda:{index}' is not available: {wrong}")
    return f"cuda:{index}"


def _too_old(cupy: Any) -> str | None:
    if int(cupy.__version__.split(".")[0]) >= OLDEST:
        return None
    return f"cupy {cupy.__version__} is installed, {OLDEST} or newer is needed; install {WHEELS}"


def _no_such_card(cupy: Any, index: int) -> str | None:
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except RuntimeError as error:
        return _no_cards(cupy, error)
    if index < count:
        return None
    cards = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
    return f"this machine has {cards if count else 'no card'}"


def _cannot_compute(cupy: Any, index: int) -> str | None:
    """Multiply two small matrices: what is missing then shows now."""
    try:
        cupy.cuda.Device(index).use()
        one = cupy.ones((2, 2), "float32")
        (one @ one + one).sum().item()
    except MemoryError as error:
        return f"the card is full ({first_line(error)}); end what fills it, or take another card"
    except Exception as error:  # a library, a chip, a driver: cupy has an error for each
        ours, drivers = _versions(cupy)
        return (
            f"cupy {cupy.__version__} for CUDA {ours} cannot compute with a driver for CUDA "
            f"{drivers} ({first_line(error)}); install cupy-cuda{ours.split('.')[0]}x[ctk], which "
            "brings CUDA's libraries, or the cupy that fits the driver"
        )
    return None


def _versions(cupy: Any) -> tuple[str, str]:
    """The CUDA that cupy was built for and the newest one that the driver knows, "13.2"."""
    runtime = cupy.cuda.runtime
    numbers = runtime.runtimeGetVersion(), runtime.driverGetVersion()
    ours, drivers = (f"{n // 1000}.{n % 1000 // 10}" for n in numbers)
    return ours, drivers


def _no_cards(cupy: Any, error: RuntimeError) -> str:
    """Why the cards cannot even be counted. A driver that is not there has version 0.0."""
    ours, drivers = _versions(cupy)
    if drivers == "0.0":
        return f"there is no CUDA driver ({first_line(error)}); install NVIDIA's driver for a card"
    if "InsufficientDriver" in str(error):
        return (
            f"cupy {cupy.__version__} is for CUDA {ours}, the driver knows CUDA {drivers} at most; "
            f"install minideepseek[cuda{drivers.split('.')[0]}], or a newer driver"
        )
    return (
        f"the driver for CUDA {drivers} shows no card ({first_line(error)}); look at `nvidia-smi` "
        "and at CUDA_VISIBLE_DEVICES"
    )


def describe(cupy: Any) -> str:
    """The card in use, number and name: "cuda:0, NVIDIA H100 80GB HBM3"."""
    index = cupy.cuda.runtime.getDevice()
    name = cupy.cuda.runtime.getDeviceProperties(index)["name"]
    return f"cuda:{index}, {name.decode() if isinstance(name, bytes) else name}"


def out_of_memory(error: MemoryError, lower: str) -> str:
    """What to say of a full card, or of a full machine; lower: what makes the work smaller."""
    on_card = type(error).__module__.startswith("cupy")
    where = "the card" if on_card else "this machine"
    cure = f"lower {lower}, or take --device cpu" if on_card else f"lower {lower}"
    return f"{where} is out of memory ({first_line(error)}); {cure}"
