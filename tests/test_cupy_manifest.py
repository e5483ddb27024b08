"""CuPy's manifest: the stand-in keeps to it, and so does every `xp.<name>(…)` of the package."""

import inspect
import warnings
from pathlib import Path

import pytest

import minideepseek
from tests import standin
from tests.standin import cupy as xp
from tests.standin import manifest


def test_methods_are_cupys_with_cupys_signatures():
    for name, signature in manifest.METHODS.items():
        method = getattr(standin.ndarray, name)
        parameters = list(inspect.signature(method).parameters.values())[1:]
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            continue  # built from the manifest, or not offered
        found = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
        assert found == signature.positional, name
    public = {name for name in vars(standin.ndarray) if not name.startswith("_")}
    assert public <= set(manifest.METHODS) | manifest.ATTRIBUTES


def test_every_name_of_the_manifest_resolves():
    missing = []
    warnings.simplefilter("ignore")  # names that NumPy is about to drop
    for name in [*manifest.FUNCTIONS, *manifest.UFUNCS, "float32", "newaxis", "inf", "linalg"]:
        try:
            getattr(xp, name)
        except NotImplementedError:
            missing.append(name)
    assert len(missing) < 70 and not {"einsum", "take", "where", "add"} & set(missing)


PLANTED = {
    "y = xp.vecdot(a, b)": "xp.vecdot does not exist",
    "y = xp.sum(a, where=m)": "xp.sum has no keyword 'where'",
    "y = xp_of(a).exp(a, where=m)": "xp.exp has no keyword 'where'",
    "y = self.xp.clip(a, min=0)": "xp.clip has no keyword 'min'",
    "y = xp.clip(a, 0)": "xp.clip needs 'a_max'",
    "y = xp.maximum.reduce(a)": "xp.maximum.reduce is not supported",
    "xp.multiply.at(a, i, b)": "xp.multiply.at is not supported",
    "y = xp.take_along_axis(a, i)": "xp.take_along_axis needs 'axis'",
    "y = xp.argsort(a, kind='mergesort')": "xp.argsort knows no kind but",
    "y = xp.lexsort((a, b))": "xp.lexsort needs one 2-D array",
    "y = xp.linalg.vector_norm(a)": "xp.linalg.vector_norm does not exist",
    "y = xp.linalg.norm(a, initial=0)": "xp.linalg.norm has no keyword 'initial'",
    "y = xp.add(a)": "xp.add takes 2 to 3 positional arguments, got 1",
    "y = xp.sum(*a, initial=0)": "xp.sum has no keyword 'initial'",
    "y = xp.concatenate(a, 0, None, float)": "xp.concatenate takes at most 3",
    "f = xp.float8_e4m3fn": "xp.float8_e4m3fn does not exist",
    "with xp.errstate(): pass": "xp.errstate does not exist",
    "y = xp.einsum('i->', a, order='C')": "xp.einsum has no keyword 'order'",
    "y = xp.take(a, i, mode='clip')": "xp.take has no keyword 'mode'",
}
CLEAN = """
y = xp.sum(a, axis=-1, keepdims=True) + xp.add.reduce(a) + xp.einsum("i->", a, optimize=True)
xp.add.at(a, i, b); z = xp_of(a).argsort(a, kind="stable"); w = xp.linalg.norm(a, axis=1)
v = xp.concatenate([a], axis=0, out=a) + np.sum(a, where=a) + xp.where(a, b, c) + xp.exp(a, out=b)
u = xp.broadcast_arrays(a, b)[0].sum(0) + xp.clip(*a) + xp.zeros((2,), dtype=xp.float32)
"""


@pytest.mark.parametrize("text", PLANTED)
def test_check_text_finds(text):
    (problem,) = manifest.check_text("\n" + text, "f.py")
    assert problem.startswith(f"f.py:2: {PLANTED[text]}")


def test_check_text_lets_good_source_through():
    assert manifest.check_text(CLEAN, "f.py") == []


def test_the_package_asks_cupy_for_nothing_it_lacks():
    files = sorted(Path(minideepseek.__path__[0]).rglob("*.py"))
    assert [problem for file in files for problem in manifest.check_source(file)] == []
