"""Atomic directories: as for files, with two renames, things to keep, and recovery in between."""

import errno
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path

import pytest

from minideepseek.errors import CheckpointError, RecoveryWarning
from minideepseek.model import files
from minideepseek.model.files import atomic_directory, atomic_write, recover_directory
from tests.faults.calls import Faults, Killed, content, every_call
from tests.platforms import needs_links, needs_locks, needs_signals, syncs_directories

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
        litter = [name for name in os.listdir(parent) if name != "run"]
        if mode != "error":
            notice = recover_directory(path)
            assert os.listdir(parent) in ([], ["run"])
        assert content(path) in (old, new) and (failed or content(path) == new)
        restored = before is None and content(path) is not None
        assert ("restored" in (notice or "")) == restored
        assert bool(notice) == (mode != "error" and bool(litter))
        seen += ["old" if content(path) == old else "new"] + ["restored"] * restored
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RecoveryWarning)  # where an error left something
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


@syncs_directories
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


@needs_links
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


@needs_links
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


@needs_locks
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


@needs_locks
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


@needs_locks
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


@needs_signals
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
