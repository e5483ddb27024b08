"""How the command line shows the package's warnings."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator

from minideepseek.errors import RecoveryWarning


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Inside, a warning is one sentence on standard error, without the line of code it is from."""

    def show(message: object, *_: object) -> None:
        print(f"minideepseek: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", RecoveryWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        yield
