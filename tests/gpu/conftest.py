"""`place`: the device that a test of this folder is about, beside the host.

"standin" is the strict stand-in for CuPy and runs in the ordinary tiers, so that every test is
known to work; "cuda" carries the mark gpu, and skips itself, with the reason, where there is none.
"""

import pytest

from minideepseek.autograd.backend import get_device
from minideepseek.errors import InputError
from tests import standin


@pytest.fixture(scope="session", params=["standin", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request):
    """The device's name."""
    standin.install()
    if request.param == "cuda":
        try:
            get_device("cuda")
        except InputError as error:
            pytest.skip(str(error))
    return request.param
