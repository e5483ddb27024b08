"""What other programs may rely on changes on purpose only: the list in public_api.txt."""

import subprocess
import sys
from pathlib import Path

import pytest

import minideepseek as mds
from tests import public_api

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def found() -> list[str]:
    """In a process of its own: tests define primitives, which `ops` then holds."""
    code = "from tests.public_api import lines; print(*lines(), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code], cwd=ROOT, capture_output=True,
        encoding="utf-8", check=True, timeout=60,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_the_list_is_what_is_there(found):
    head, *listed = public_api.FILE.read_text("utf-8").splitlines()
    gone, new = sorted({*listed} - {*found}), sorted({*found} - {*listed})
    advice = "if it is meant: python -m tests.public_api, and a line in CHANGELOG.md"
    assert (gone, new) == ([], []), advice
    assert listed == found and head + "\n" == public_api.HEAD


def test_every_public_name_is_in_it(found):
    names = {line.partition("(")[0].partition(":")[0].partition(".")[0] for line in found}
    assert names == {*mds.__all__}


class Example:
    """Has one of each."""

    kind = 1
    _kind = 2

    def __init__(self, a, b: int = 3, *rest, c=float, d=(1, None), **more):
        self.a, self._b = a, b
        self.c: int = 4
        other = self
        other.d = 5

    def __call__(self, x):
        return x

    @property
    def size(self):
        return 0

    @classmethod
    def made(cls, path, example=public_api):
        return cls(path)

    @staticmethod
    def free(x, *, y=1.5):
        return x


def test_what_is_listed_of_a_class(monkeypatch):
    monkeypatch.setattr(public_api, "OURS", (__name__,))
    assert sorted(public_api.described("Example", Example)) == [
        "Example(a, b=3, *rest, c=float, d=(1, None), **more)",
        "Example.__call__(x)",
        "Example.a",
        "Example.c",
        "Example.free(x, *, y=1.5)",
        "Example.kind",
        "Example.made(path, example=module(…))",
        "Example.size",
    ]
