"""Every public function and class says what it is, primitives in which shapes, and the chapters'
files by which source."""

import importlib
import inspect
import pkgutil
import re

import minideepseek
from minideepseek.autograd.engine import PRIMITIVES

# Skeletons and bugs are texts of their own; a transcription of an equation has its title instead.
ELSEWHERE = re.compile(r"\.(problems|zoo)\.|\.equations\.[a-z]+$|__main__")
SHAPE = re.compile(r"\([^()]*(…|\b[A-Z]\b|\d)[^()]*\)|[Ss]hape|0-d|scalar")
SOURCE = re.compile(r"\beq\. |§|algorithm \d|\d{4}|paper|Hugging Face")
CHAPTERS = (
    "layers", "autograd.fused", "autograd.attention", "autograd.experts",
    "reasoning.grpo.objective",
)  # fmt: skip


def modules():
    for found in pkgutil.walk_packages(minideepseek.__path__, "minideepseek."):
        if not ELSEWHERE.search(found.name):
            yield importlib.import_module(found.name)


def members(owner, public):
    """(name, function or class) of what a module or class defines itself."""
    for name, value in vars(owner).items():
        found = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if not name.startswith("_") and (inspect.isfunction(found) or inspect.isclass(found)):
            if public or getattr(found, "__module__", None) == owner.__name__:
                yield name, found


def undocumented(module):
    for name, value in members(module, public=False):
        if not value.__doc__ or value.__doc__.startswith(f"{name}("):  # what a dataclass gives
            yield f"{module.__name__}.{name}"
        for part, method in members(value, public=True) if inspect.isclass(value) else ():
            inherited = (getattr(base, part, None) for base in value.__mro__[1:])
            if not method.__doc__ and not any(getattr(x, "__doc__", None) for x in inherited):
                if method.__name__ != "<lambda>":  # Tensor's shape, dtype …: NumPy's names
                    yield f"{module.__name__}.{name}.{part}"


def test_everything_public_has_a_docstring():
    assert [name for module in modules() for name in undocumented(module)] == []


def test_primitives_give_their_shapes():
    for name, function in PRIMITIVES.items():
        if function.__module__.startswith("minideepseek"):
            module = inspect.getmodule(function)
            assert SHAPE.search(f"{function.__doc__}{module.__doc__}"), name


def test_chapters_name_their_sources():
    for module in modules():
        name = module.__name__.removeprefix("minideepseek.")
        if name.startswith(CHAPTERS) and any(members(module, public=False)):
            text = module.__doc__ + "".join(f.__doc__ or "" for _, f in members(module, False))
            assert SOURCE.search(text), name
