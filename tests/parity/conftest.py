"""Parity with transformers: offline, one thread, and a fixture that lifts its float32 casts.

Run with `python -m pytest -m parity` where the extra `parity` is installed; elsewhere every file
here is skipped with its reason.
"""

import os
from collections.abc import Iterator

import pytest

for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture
def float64_throughout() -> Iterator[None]:
    """Inside it, transformers' DeepSeek-V3 built and run in float64 casts nothing to float32."""
    from tests.parity.oracle import lifted_casts

    with lifted_casts():
        yield
