r"""Files that are either the old ones or the new ones, whatever happens in between

A training run writes its checkpoint over the last one, again and again, and may be killed at any
moment: by a user, by a scheduler, by a power cut. Writing in place would then leave a file that
begins with this step and ends with the last. What a file system does offer is that *renaming* is
atomic: a name points at the old thing or at the new thing, never at something in between. So

    write beside the old one   →   make sure it is on the disk   →   rename it over the old one.

**The disk** is the subtle part. `write` only hands bytes to the kernel, which brings them to the
disk when it likes and in any order. A rename may reach the disk *before* the bytes of what it
renames, and after a power cut the new name then holds zeros. `fsync` waits until a thing is on the
disk; each of the three here has its reason:

    fsync(new file)        before the rename: the name must never point at bytes still on their way
    fsync(new directory)   before the rename: a directory is a list of names, and that list is data
    fsync(the parent)      after the rename: the rename itself is a change of the parent's list,
                           and what comes next (deleting the old state) must not overtake it

**A directory** that has files in it cannot be renamed over; two renames are needed, and a process
can die between them. Every state that a kill can leave, in order (`*` marks hidden siblings):

    before the first rename    path = old                    *.tmp = new, perhaps incomplete
    between the two            path is missing    *.old = old, complete    *.tmp = new, complete
    after the second           path = new         *.old = old, complete
    while deleting             path = new                    *.tmp = old, perhaps incomplete

The middle one is why `recover_directory` exists: readers call it first, and it renames `*.old`
back. It may do so blindly because a name ending in `.old` is only ever given to, and only ever
taken from, a complete directory: before it is deleted it is renamed to `*.tmp`.

**Who is dead?** A `.tmp` may belong to a killed process or to one that is writing just now. A
process number would not tell (numbers are used again, and a restarted container has the same one),
a lock does: the kernel drops a `flock` when its holder dies, however it dies. Systems without such
locks (Windows, some network disks) get the same files, but there one process at a time must do.
Whoever comes next removes what the dead left, and says so (a notice, or a RecoveryWarning).

What this cannot do: replace a mount point, or the directory that the process works in; and a
reader that opens one file of a directory before a swap and the next one after it has one of each.
"""

import contextlib
import errno
import fnmatch
import os
import re
import shutil
import stat
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from minideepseek.errors import CheckpointError, RecoveryWarning

if sys.platform != "win32":
    import fcntl

LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.(?P<kind>tmp|old)")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: Literal["w", "wb"] = "wb") -> Iterator[IO[Any]]:
    """A file to write into that becomes `path` when the block ends, and vanishes if it fails.

    Text is UTF-8 and its lines end in LF, on Windows too. A symbolic link is followed: its target
    is what is replaced. Raises CheckpointError where the system refuses (no permission, disk full).
    """
    with _one_sentence(path), contextlib.ExitStack() as stack:
        target = _resolved(path)
        temporary = _sibling(target, "tmp")
        say(_remove_leftovers(target))
        stack.callback(_remove, temporary)  # still there only if something failed
        with _locked(target.parent):  # nobody takes it for litter before it is locked
            encoding, newline = ("utf-8", "\n") if mode == "w" else (None, None)
            new = open(temporary, mode.replace("w", "x"), encoding=encoding, newline=newline)
            file = stack.enter_context(new)
            stack.enter_context(_locked(temporary))
        yield file
        file.flush()  # Python's buffer → kernel
        os.fsync(file.fileno())  # kernel → disk, before the rename may get there
        file.close()
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
        _sync(target.parent)  # the rename → disk: when we return, it is done for good


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike, owned: Sequence[str] = ()) -> Iterator[Path]:
    """An empty directory to write into that becomes `path` when the block ends.

    What else lies in an older `path` (a user's notes, a log) is carried over, whole entries of the
    top level at a time, by hard link: except names that the new directory has too and names that
    match a pattern of `owned` (`"model-*.safetensors"`), which are the writer's to leave out.
    Whatever fails, `path` stays as it was. Raises CheckpointError where the system refuses, and
    before the block where `path` is a file, is write-protected or holds the working directory.
    """
    with _one_sentence(path), contextlib.ExitStack() as stack:
        target = _resolved(path)
        temporary, backup = _sibling(target, "tmp"), _sibling(target, "old")
        say(recover_directory(path))
        if target.exists() and not target.is_dir():
            raise CheckpointError(f"cannot write {path}: it exists and is not a directory")
        if target.exists() and not os.access(target, os.W_OK):
            raise CheckpointError(f"cannot write {path}: it is write-protected")
        if Path.cwd().is_relative_to(target):
            raise CheckpointError(f"cannot write {path}: the working directory lies in it")
        if LEFTOVER.fullmatch(target.name):  # its lock is ours: we would wait for ourselves
            raise CheckpointError(f"cannot replace {path} at once: it is being written")
        _make_directory(target.parent)
        stack.callback(_remove, temporary)  # the new state if something failed, else the old one
        with _locked(target.parent):  # nobody takes it for litter before it is locked
            os.mkdir(temporary)
            stack.enter_context(_locked(temporary))
        yield temporary
        if target.exists():
            _carry_over(target, temporary, owned)
        _sync_tree(temporary)
        _swap(temporary, target, backup)


def make_directory(path: str | os.PathLike) -> None:
    """The directory and those it lies in, where they are missing; on the disk when we return.

    Raises CheckpointError where the system refuses.
    """
    with _one_sentence(path):
        _make_directory(Path(path).absolute())


def remove_directory(path: Path) -> None:
    """Delete it, as far as the system lets us: under its name it is there whole or not at all."""
    temporary = _sibling(path, "tmp")
    with contextlib.suppress(OSError), _locked(path, alone=True):
        os.rename(path, temporary)
        _sync(path.parent)  # before anything in it goes
        _remove(temporary)


def say(notice: str | None) -> None:
    """A notice as a RecoveryWarning."""
    if notice:
        warnings.warn(notice, RecoveryWarning, stacklevel=3)


def sync(path: str | os.PathLike) -> None:
    """Wait until a file is on the disk. Raises CheckpointError where the system refuses."""
    with _one_sentence(path):
        _sync(Path(path))


def recover_directory(path: str | os.PathLike) -> str | None:
    """Put right what a killed `atomic_directory(path)` left; a notice if there was something.

    Readers call it before they look into `path`. Where another process is between its two renames
    just now, it waits for the second. Raises CheckpointError if there is a backup to restore and
    the system refuses.
    """
    target = _resolved(path)
    notice = None
    for backup in _leftovers(target, "old"):
        try:
            with _locked(backup, alone=True, wait=not target.exists()) as free:
                if free and not target.exists():
                    os.rename(backup, target)
                    _sync(target.parent)
                    notice = f"{path}: a save was cut short; the state before it is restored"
                elif free:
                    os.rename(backup, _sibling(target, "tmp"))  # from now on it may be incomplete
        except FileNotFoundError:
            pass  # another process was quicker
        except OSError as error:
            if not target.exists():
                raise CheckpointError(
                    f"{path} is missing after a save that was cut short, and its backup {backup} "
                    f"cannot be renamed back: {_reason(error)}"
                ) from error
    removed = _remove_leftovers(target)
    return notice or removed


def _swap(temporary: Path, target: Path, backup: Path) -> None:
    """temporary → target, and what was there → temporary, through a backup that can be restored."""
    with contextlib.ExitStack() as stack:
        try:
            if target.exists():
                stack.enter_context(_locked(target, alone=True))  # who finds the backup waits
                os.rename(target, backup)
            os.rename(temporary, target)
        except BaseException:  # an error, or Ctrl-C between two lines
            if backup.exists() and not target.exists():
                os.rename(backup, target)
            raise
        _sync(target.parent)  # both renames are on the disk before anything of the old state goes
        if backup.exists():
            os.rename(backup, temporary)
            _remove(temporary)  # while it is locked: nobody takes it for a dead process's


def _make_directory(target: Path) -> None:
    missing = [folder for folder in (target, *target.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)
    target.mkdir(exist_ok=True)  # refuses a file


def _carry_over(old: Path, new: Path, owned: Sequence[str]) -> None:
    """Give `new` the entries of `old` that it lacks and that nobody claims."""
    for name in sorted(os.listdir(old)):
        claimed = any(fnmatch.fnmatchcase(name, pattern) for pattern in owned)
        if claimed or os.path.lexists(new / name) or LEFTOVER.fullmatch(name):
            continue
        if (old / name).is_dir() and not (old / name).is_symlink():
            shutil.copytree(old / name, new / name, symlinks=True, copy_function=_link_or_copy)
        else:
            _link_or_copy(old / name, new / name)
    shutil.copymode(old, new)


def _link_or_copy(source: str | Path, destination: str | Path) -> None:
    """A second name for the same file; a copy where the file system has no second names."""
    try:
        if os.path.islink(source):  # whether link() follows it depends on the system
            raise OSError
        os.link(source, destination)
    except OSError:
        shutil.copy2(source, destination, follow_symlinks=False)


def _sync_tree(directory: Path) -> None:
    """Every file, then the directory that lists it, from the leaves up."""
    for folder, _, names in os.walk(directory, topdown=False):
        for name in names:
            if stat.S_ISREG(os.lstat(os.path.join(folder, name)).st_mode):
                _sync(Path(folder, name))
        _sync(Path(folder))


def _sync(path: Path) -> None:
    """Wait until the file, or the list of names that a directory is, has reached the disk."""
    if sys.platform == "win32" and path.is_dir():
        return  # Windows opens no directories
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise  # some network disks cannot sync a directory: nothing more can be asked of them
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(path: Path, alone: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold a lock on a file or directory, which renaming does not disturb; False: others have it.

    Writers share (a directory being written gets files that are being written), who wants to move
    or delete a thing must have it alone. True also where there are no locks.
    """
    if sys.platform == "win32":
        yield True
        return
    kind = (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for its writer
    try:
        free = True
        try:
            fcntl.flock(descriptor, kind)
        except BlockingIOError:
            free = False
        except OSError:
            pass  # no locks on this disk
        yield free
    finally:
        os.close(descriptor)


def _resolved(path: str | os.PathLike) -> Path:
    """The path without symbolic links; a loop of them stays, and is replaced."""
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:  # a NUL
        raise CheckpointError(f"{path!r:.200} is no path: {error}") from None


def _sibling(target: Path, kind: Literal["tmp", "old"]) -> Path:
    """A fresh hidden name in the same directory (renaming works inside one file system only)."""
    return target.with_name(f".{target.name}.{time.time_ns():016x}.{kind}")


def _leftovers(target: Path, kind: Literal["tmp", "old"]) -> list[Path]:
    """The hidden siblings of that kind, newest first."""
    try:
        names = sorted(os.listdir(target.parent), reverse=True)
    except OSError:
        return []
    matches = [LEFTOVER.fullmatch(name) for name in names]
    mine = [m for m in matches if m and m["name"] == target.name and m["kind"] == kind]
    return [target.with_name(m.string) for m in mine]


def _remove_leftovers(target: Path) -> str | None:
    """Delete temporaries of dead writers, where we may: they are litter, not a reason to fail."""
    removed: list[Path] = []
    with contextlib.suppress(OSError), _locked(target.parent, alone=True, wait=False) as quiet:
        for leftover in _leftovers(target, "tmp") if quiet else []:
            with contextlib.suppress(OSError), _locked(leftover, alone=True, wait=False) as free:
                if free:
                    _remove(leftover)
                    removed += [] if os.path.lexists(leftover) else [leftover]
    if not removed:
        return None
    return f"{target}: a process ended while it wrote this; what it left is removed"


def _remove(path: Path) -> None:
    """Delete a file or a directory as far as it is there and the system lets us."""
    if path.is_dir() and not path.is_symlink():  # rmtree would open a pipe, and wait
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)


@contextlib.contextmanager
def _one_sentence(path: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
