"""A disk that fails, or a process that dies, at a chosen call."""

import builtins
import errno
import os

from minideepseek.model import files

CHANGING = "open fsync replace rename unlink rmdir mkdir link symlink chmod".split()


class Killed(BaseException):
    """The process is gone: nothing may catch it, and whoever does can change nothing any more."""


class Faults:
    """Counts the calls that change the disk; the one numbered `at` fails, or is the last one."""

    def __init__(self, at, mode):
        self.at, self.mode, self.calls, self.dead, self.trace = at, mode, 0, False, []

    def install(self, patch):
        for name in CHANGING:
            patch.setattr(os, name, self.wrap(name, getattr(os, name)))
        patch.setattr(files, "open", self.wrap("open()", builtins.open), raising=False)
        return self

    def wrap(self, name, real):
        def call(*args, **kwargs):
            self.step()
            about = subject(name, args)
            result = real(*args, **kwargs)
            self.trace.append((name, about))
            if self.calls == self.at and self.mode == "killed after":
                if name.startswith("open"):
                    os.close(result) if name == "open" else result.close()
                self.kill()
            return result

        return call

    def step(self):
        if self.dead:
            raise Killed
        self.calls += 1
        if self.calls == self.at and self.mode == "error":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.calls == self.at and self.mode == "killed before":
            self.kill()

    def kill(self):
        self.dead = True
        raise Killed


def subject(name, args):
    """What a call is about: the inode that is synced, else the path."""
    return os.fstat(args[0]).st_ino if name == "fsync" else str(args[0])


def content(path):
    """Everything below a directory, or None if there is none."""
    if not path.is_dir():
        return None
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def every_call(mode):
    """Faults at the first call, the second, …; the caller stops once nothing happens any more."""
    return (Faults(at, mode) for at in range(1, 1000))
