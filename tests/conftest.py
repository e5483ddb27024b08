"""Profiles and the one-thread rule, set before NumPy is imported.

BLAS runs one thread in tests: results are then the same on every machine, and a second pool of
spinning BLAS threads on a busy machine can cost far more than it saves. A process that a test
starts takes warnings for errors, too, and prints UTF-8 on Windows as well; what a user's console
makes of that is tests/portability's.
"""

import os

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("PYTHONUTF8", "1")
os.environ.setdefault("PYTHONWARNINGS", "error")

from hypothesis import HealthCheck, settings  # noqa: E402

_common = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", max_examples=40, derandomize=True, print_blob=True, **_common)
settings.register_profile("dev", max_examples=25, **_common)
settings.register_profile("deep", max_examples=1000, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

import pytest  # noqa: E402

# Collecting the fake cupy would put it where `import cupy` finds it. Not on Windows: mutants fork,
# hostile files are pipes and links too, read by processes of limited memory.
_POSIX = [] if hasattr(os, "fork") else ["mutate/*", "hostile/*"]
collect_ignore_glob = ["standin/fake/*", *_POSIX]


@pytest.fixture(params=["cpu", "standin"])
def device(request):
    """Each device that can run without a card: the host, and the strict stand-in for CuPy."""
    from tests import standin

    standin.install()
    standin.counters.reset()
    return request.param
