"""What a platform may lack, as marks; `pytest -rs` prints the reasons."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

WINDOWS = sys.platform == "win32"


def _can_link() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            os.symlink("target", Path(folder, "link"))
        except (OSError, NotImplementedError):
            return False
    return True


needs_links = pytest.mark.skipif(
    not _can_link(), reason="symbolic links need a privilege on this system"
)
needs_locks = pytest.mark.skipif(WINDOWS, reason="no flock: one writer at a time must do")
renames_open_files = pytest.mark.skipif(
    WINDOWS, reason="Windows keeps the name of a file that is open or mapped"
)
syncs_directories = pytest.mark.skipif(WINDOWS, reason="Windows opens no directory to sync it")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
needs_signals = pytest.mark.skipif(WINDOWS, reason="Windows sends no signals to a process")
