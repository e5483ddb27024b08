"""The command line as Windows would run it, as far as Linux can act that: `… as_windows VERB …`

    no fcntl, resource, fork, sysconf, chmod bits      the modules and calls that Windows lacks
    a file that is open or mapped keeps its name       Windows refuses to rename or delete it, or
                                                       anything above it
    a directory cannot be opened                       nor synced, nor locked
    text has "\r\n" unless the writer says otherwise
    standard output knows cp1252 alone                 set by the caller, PYTHONIOENCODING

What this cannot act: drive letters and backslashes, names that are reserved, links that need a
privilege, the clock's 15 ms.
"""

import builtins
import errno
import io
import os
import sys
from pathlib import Path

ABSENT = "fork sysconf register_at_fork sched_getaffinity geteuid getuid kill nice".split()
KEPT = "rename replace unlink remove rmdir".split()


def held() -> set[str]:
    """The files that this process has open or mapped."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            pass  # the listing's own
    with io.open_code("/proc/self/maps") as maps:
        found |= {line.decode().split(maxsplit=5)[5].strip() for line in maps if b" /" in line}
    return found


def refusing(name: str):
    """os.`name`, which refuses a path that is held, or below which one is."""
    real = getattr(os, name)

    def call(path, *rest, **options):
        for at in (path, *rest):
            full = os.path.abspath(at)
            if any(file == full or file.startswith(full + os.sep) for file in held()):
                raise PermissionError(errno.EACCES, f"{name}: it is open", os.fspath(at))
        if name == "rename" and os.path.lexists(rest[0]):
            raise FileExistsError(errno.EEXIST, "rename: it exists", os.fspath(rest[0]))
        return real(path, *rest, **options)

    return call


def opening(real):
    """`open` with Windows' line ends."""

    def call(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *rest, **more):
        writes = "b" not in mode and set(mode) & set("wax+")
        newline = "\r\n" if newline is None and writes else newline
        return real(file, mode, buffering, encoding, errors, newline, *rest, **more)

    return call


def no_directories(real):
    """`os.open`, which opens no directory."""

    def call(path, *rest, **options):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "open: it is a directory", os.fspath(path))
        return real(path, *rest, **options)

    return call


def become() -> None:
    """Make this process so. Python's own modules are loaded before: they look once."""
    import multiprocessing.context  # noqa: F401
    import shutil
    import subprocess  # noqa: F401
    import tempfile  # noqa: F401

    import ml_dtypes  # noqa: F401
    import numpy  # noqa: F401

    shutil._use_fd_functions = False  # rmtree by names, as on Windows
    for name in KEPT:
        setattr(os, name, refusing(name))
    os.open = no_directories(os.open)
    io.open = builtins.open = opening(builtins.open)
    for name in ABSENT:
        if hasattr(os, name):
            delattr(os, name)
    for name in ("fcntl", "resource"):
        sys.modules[name] = None
    sys.platform = "win32"


if __name__ == "__main__":
    for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[_name] = "1"
    sys.path.insert(0, str(Path(__file__).parents[2]))
    become()
    from minideepseek.cli import main

    sys.exit(main(sys.argv[1:]))
