"""Atomic writes: after an error or a kill at any call, the old state or the new one is there."""

import builtins
import errno
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from minideepseek.errors import CheckpointError
from minideepseek.model import files
from minideepseek.model.files import atomic_directory, atomic_write, recover_directory

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


OLD = {"config.json": b"old", "model.bin": b"old" * 9, "shard-2.bin": b"old", "notes/a": b"mine"}
NEW = {"config.json": b"new!", "model.bin": b"new!" * 9, "notes/a": b"mine"}


def write_old(path):
    for name, data in OLD.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)


def write_new(path, faults):
    """A save in several steps, each of which may be the last one."""
    with atomic_directory(path, owned=["shard-*.bin"]) as directory:
        for name, write in (("config.json", atomic_write), ("model.bin", open)):
            with write(directory / name, "wb") as file:
                for half in (NEW[name][:2], NEW[name][2:]):
                    faults.step()
                    file.write(half)
                    file.flush()


def every_call(mode):
    """Faults at the first call, the second, …; the caller stops once nothing happens any more."""
    return (Faults(at, mode) for at in range(1, 1000))


# -------------------------------------------------------------------------------- a single file


@pytest.mark.parametrize("mode", ["error", "killed before", "killed after"])
@pytest.mark.parametrize("old", [None, b"old state"])
def test_file_is_old_or_new_after_a_fault_at_any_call(tmp_path, old, mode):
    path = tmp_path / "report.html"
    for faults in every_call(mode):
        path.unlink(missing_ok=True)
        if old is not None:
            path.write_bytes(old)
        failed = None
        with pytest.MonkeyPatch.context() as patch:
            faults.install(patch)
            try:
                with atomic_write(path) as file:
                    file.write(b"new ")
                    file.flush()
                    faults.step()
                    file.write(b"state")
            except (CheckpointError, Killed) as error:
                failed = error
        if faults.calls < faults.at:
            break
        state = path.read_bytes() if path.exists() else None
        assert state in (old, b"new state") and (failed or state == b"new state")
        if mode == "error":
            assert failed is None or str(path) in str(failed) and "No space left" in str(failed)
            assert failed is None or state == old or "replace" in dict(faults.trace)  # a late fsync
        with atomic_write(path) as file:  # clears away what a dead writer left
            file.write(b"next")
        assert os.listdir(tmp_path) == [path.name]
    assert failed is None and state == b"new state" and faults.at > 6


def test_exception_in_the_block_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    for error in (KeyError, KeyboardInterrupt):
        with pytest.raises(error), atomic_write(path, "w") as file:
            file.write("half of the n")
            raise error
        assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_file_is_synced_before_it_gets_its_name_and_the_name_after(tmp_path, monkeypatch):
    faults = Faults(0, "").install(monkeypatch)
    with atomic_write(tmp_path / "a") as file:
        file.write(b"x")
        inode = os.fstat(file.fileno()).st_ino
        faults.trace.clear()
    names = [name for name, _ in faults.trace]
    assert faults.trace[0] == ("fsync", inode) and names[1] == "replace"
    assert ("fsync", tmp_path.stat().st_ino) in faults.trace[2:]


def test_text_links_and_permissions(tmp_path):
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to("real.txt")
    with atomic_write(link, "w") as file:
        file.write("für √2\n")
    assert link.is_symlink() and real.read_bytes() == "für √2\n".encode()
    assert real.stat().st_mode & 0o777 == 0o640
    with atomic_write(tmp_path / "fresh") as file:
        file.write(b"")
    plain = tmp_path / "plain"
    plain.touch()
    assert (tmp_path / "fresh").stat().st_mode == plain.stat().st_mode


def test_full_disk_is_one_sentence_and_the_old_file_stays(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="cannot write .*model: File too large"):
            with atomic_write(path) as file:
                file.write(bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["model"]


def test_places_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "keep").touch()
    for path in ("missing/a", "file/a", "folder"):
        with pytest.raises(CheckpointError, match=f"cannot write .*{path}: "):
            with atomic_write(tmp_path / path):
                pass
    for path, why in (("file", "not a directory"), ("file/a", ""), ("folder", "working directory")):
        monkeypatch.chdir(tmp_path / "folder")
        with pytest.raises(CheckpointError, match=f"cannot write .*{path}: .*{why}"):
            with atomic_directory(tmp_path / path):
                pytest.fail("the block was entered")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(CheckpointError, match="folder: it is write-protected"):
        with atomic_directory(tmp_path / "folder"):
            pytest.fail("the block was entered")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert os.listdir(tmp_path / "folder") == ["keep"]


def test_writers_at_the_same_time_never_mix(tmp_path):
    path, problems = tmp_path / "a", []

    def write(letter):
        try:
            for _ in range(15):
                with atomic_write(path) as file:
                    for _ in range(4):
                        file.write(letter * 5000)
                        file.flush()
        except Exception as error:
            problems.append(error)

    writers = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b")]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert not path.exists() or path.read_bytes() in (b"a" * 20000, b"b" * 20000)
        time.sleep(0.001)
    assert not problems and os.listdir(tmp_path) == ["a"]


# --------------------------------------------------------------------------------- a directory


@pytest.mark.parametrize("mode", ["error", "killed before", "killed after"])
@pytest.mark.parametrize("fresh", [False, True])
def test_directory_is_old_or_new_after_a_fault_at_any_call(tmp_path, fresh, mode):
    seen = []
    old, new = (None, {k: v for k, v in NEW.items() if "/" not in k}) if fresh else (OLD, NEW)
    for faults in every_call(mode):
        parent = tmp_path / str(faults.at)
        path = parent / "run"
        parent.mkdir()
        if not fresh:
            write_old(path)
        failed, notice = None, None
        with pytest.MonkeyPatch.context() as patch:
            faults.install(patch)
            try:
                write_new(path, faults)
            except (CheckpointError, Killed) as error:
                failed = error
        if faults.calls < faults.at:
            break
        before = content(path)
        if mode != "error":
            notice = recover_directory(path)
            assert os.listdir(parent) in ([], ["run"])
        assert content(path) in (old, new) and (failed or content(path) == new)
        assert (notice is not None) == (before is None and content(path) is not None)
        seen += ["old" if content(path) == old else "new"] + ["restored"] * (notice is not None)
        write_new(path, Faults(0, ""))
        assert content(path) == new and (mode == "error" or os.listdir(parent) == ["run"])
    assert failed is None and content(path) == new
    assert faults.at > 12 and {"old", "new"} <= set(seen)
    assert ("restored" in seen) == (mode != "error" and not fresh)


def test_error_leaves_no_litter_and_names_the_path(tmp_path, monkeypatch):
    write_old(tmp_path / "run")
    rename, calls = os.rename, []

    def second_fails(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(CheckpointError, match=r"cannot write .*run: Input/output error$"):
        write_new(tmp_path / "run", Faults(0, ""))
    assert content(tmp_path / "run") == OLD and os.listdir(tmp_path) == ["run"]


def test_interrupt_between_the_renames_is_undone(tmp_path, monkeypatch):
    write_old(tmp_path / "run")
    rename, calls = os.rename, []

    def interrupted(source, target):
        rename(source, target)
        calls.append(source)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_new(tmp_path / "run", Faults(0, ""))
    assert content(tmp_path / "run") == OLD and os.listdir(tmp_path) == ["run"]


def test_everything_is_synced_before_the_swap_and_the_swap_before_the_old_goes(
    tmp_path, monkeypatch
):
    path = tmp_path / "run"
    write_old(path)
    faults = Faults(0, "").install(monkeypatch)
    write_new(path, faults)
    trace = faults.trace
    renames = [i for i, (name, _) in enumerate(trace) if name == "rename"]
    synced = {what for name, what in trace[: renames[0]] if name == "fsync"}
    inside = [path, *path.rglob("*")]
    assert {p.stat().st_ino for p in inside} <= synced  # the carried file too: it may be a copy
    first_loss = min(i for i, (name, _) in enumerate(trace) if name in ("unlink", "rmdir"))
    parent = trace.index(("fsync", tmp_path.stat().st_ino))
    assert renames[1] < parent < renames[2] < first_loss
    assert ".old" not in trace[first_loss][1]  # only complete directories have that name


@pytest.mark.parametrize("links", [True, False])
def test_what_is_carried_over(tmp_path, monkeypatch, links):
    path = tmp_path / "run"
    write_old(path)
    path.chmod(0o750)
    (path / "log").write_bytes(b"1\n")
    (path / "pointer").symlink_to("log")
    (path / ".x.0123456789abcdef.tmp").write_bytes(b"litter of a killed atomic_write")
    inode = (path / "log").stat().st_ino
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "")))
    with atomic_directory(path, owned=["shard-*.bin", "conf*"]) as directory:
        (directory / "model.bin").write_bytes(b"new")
        (directory / "notes").mkdir()
        (directory / "notes" / "b").write_bytes(b"also new")
    found = {"log": b"1\n", "pointer": b"1\n", "model.bin": b"new", "notes/b": b"also new"}
    assert content(path) == found
    assert os.readlink(path / "pointer") == "log" and path.stat().st_mode & 0o777 == 0o750
    assert ((path / "log").stat().st_ino == inode) == links


def test_through_a_symbolic_link_and_into_a_new_folder(tmp_path):
    (tmp_path / "latest").symlink_to("001")
    for name in ("latest", "deep/er/run"):
        write_new(tmp_path / name, Faults(0, ""))
        write_new(tmp_path / name, Faults(0, ""))
    assert (tmp_path / "latest").is_symlink()
    assert content(tmp_path / "001")["config.json"] == b"new!"
    assert sorted(os.listdir(tmp_path)) == ["001", "deep", "latest"]


# ------------------------------------------------------------------------------------ recovery


def test_recovery_restores_the_newest_backup_and_spares_what_is_not_ours(tmp_path):
    for time_, data in (("aa", b"older"), ("bb", b"x")):
        (tmp_path / f".run.00000000000000{time_}.old").mkdir()
        (tmp_path / f".run.00000000000000{time_}.old" / "f").write_bytes(data)
    for name in ("run.00000000000000cc.tmp", "run.b.00000000000000cc.old", "run.old", "run.tmp"):
        (tmp_path / f".{name}").mkdir()
    assert "restored" in (recover_directory(tmp_path / "run") or "")
    assert (tmp_path / "run" / "f").read_bytes() == b"x"
    left = sorted(os.listdir(tmp_path))
    assert left == [".run.b.00000000000000cc.old", ".run.old", ".run.tmp", "run"]
    assert recover_directory(tmp_path / "run") is None
    assert recover_directory(tmp_path / "missing" / "run") is None


def test_recovery_does_not_disturb_a_live_writer(tmp_path):
    path = tmp_path / "run"
    write_old(path)
    with atomic_directory(path) as directory:
        (directory / "config.json").write_bytes(b"by hand")
        assert recover_directory(path) is None and directory.is_dir()
        with atomic_write(tmp_path / "a") as file:
            with atomic_write(tmp_path / "a") as other:
                other.write(b"other")
            file.write(b"last")
    assert (path / "config.json").read_bytes() == b"by hand"
    assert (tmp_path / "a").read_bytes() == b"last"


@pytest.mark.parametrize("write", [atomic_write, atomic_directory])
def test_nobody_takes_a_new_temporary_for_litter(tmp_path, monkeypatch, write):
    """Others look for litter between creating and locking it, and just before it gets its name."""
    cleaners, locked = [], files._locked

    def clean():
        cleaners.append(threading.Thread(target=files._remove_leftovers, args=(tmp_path / "a",)))
        cleaners[-1].start()
        cleaners[-1].join(0.05)

    def late(path, **options):
        if path.suffix == ".tmp" and not options and not cleaners:
            clean()
        return locked(path, **options)

    def cleaned(real):
        return lambda *paths: (clean(), real(*paths))

    monkeypatch.setattr(files, "_locked", late)
    monkeypatch.setattr(os, "replace", cleaned(os.replace))
    monkeypatch.setattr(os, "rename", cleaned(os.rename))
    with write(tmp_path / "a") as out:
        if write is atomic_directory:
            (out / "f").touch()
    assert len(cleaners) == 2 and os.listdir(tmp_path) == ["a"]


def test_reader_waits_for_a_writer_between_its_renames(tmp_path, monkeypatch):
    path = tmp_path / "run"
    write_old(path)
    between, go_on, rename = threading.Event(), threading.Event(), os.rename

    def slow(source, target):
        rename(source, target)
        if not path.exists() and not between.is_set():
            between.set()
            assert go_on.wait(10)

    monkeypatch.setattr(os, "rename", slow)
    writer = threading.Thread(target=write_new, args=(path, Faults(0, "")))
    writer.start()
    assert between.wait(10)
    answers = []
    reader = threading.Thread(
        target=lambda: answers.append((recover_directory(path), content(path)))
    )
    reader.start()
    reader.join(0.1)
    assert reader.is_alive() and not path.exists()
    go_on.set()
    writer.join(10)
    reader.join(10)
    assert answers == [(None, NEW)] and os.listdir(tmp_path) == ["run"]


def test_recovery_that_is_refused(tmp_path, monkeypatch):
    backup = tmp_path / ".run.00000000000000aa.old"
    backup.mkdir()

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        with pytest.raises(CheckpointError, match="run is missing .*aa.old .*: Read-only file"):
            recover_directory(tmp_path / "run")
        (tmp_path / "run").mkdir()  # litter beside a good directory is no reason to fail
        (tmp_path / ".run.00000000000000aa.tmp").mkdir()
        patch.setattr(os, "rmdir", refuse)
        assert recover_directory(tmp_path / "run") is None


@pytest.mark.slow
def test_process_killed_at_random_moments(tmp_path):
    """A real SIGKILL, 40 times: all files of the directory are of one generation."""
    program = """
        import itertools, sys
        from minideepseek.model.files import atomic_directory
        for generation in itertools.count(int(sys.argv[2])):
            with atomic_directory(sys.argv[1], owned=["part-*"]) as directory:
                for i in range(3):
                    (directory / f"part-{generation}-{i}").write_bytes(b"%d" % generation * 10000)
            print(generation, flush=True)
    """
    path, delays, generation = tmp_path / "run", random.Random(0), 0
    for _ in range(40):
        command = [sys.executable, "-c", textwrap.dedent(program), str(path), str(generation + 1)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        child.stdout.readline()
        time.sleep(delays.uniform(0, 0.03))
        child.send_signal(signal.SIGKILL)
        done = int((child.stdout.read().split() or [generation + 1])[-1])
        child.wait()
        child.stdout.close()
        recover_directory(path)
        found = content(path)
        generation = int(next(iter(found)).split("-")[1])
        assert done <= generation <= done + 1  # what was reported as saved is there
        assert found == {f"part-{generation}-{i}": b"%d" % generation * 10000 for i in range(3)}
        assert os.listdir(tmp_path) == ["run"]
