"""Atomic files: after an error or a kill at any call, the old state or the new one is there."""

import os
import threading
import time
import warnings

import pytest

from minideepseek.errors import CheckpointError, RecoveryWarning
from minideepseek.model.files import atomic_directory, atomic_write
from tests.faults.calls import Faults, Killed, every_call
from tests.platforms import needs_links, needs_locks, syncs_directories


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
        litter = [n for n in os.listdir(tmp_path) if n != path.name]
        with warnings.catch_warnings(record=True) as notices:
            warnings.simplefilter("always", RecoveryWarning)
            with atomic_write(path) as file:  # clears away what a dead writer left, and says so
                file.write(b"next")
        assert len(notices) == len(litter) == (failed is not None and bool(litter))
        assert all(f"{path}: a process ended" in str(n.message) for n in notices)
        assert os.listdir(tmp_path) == [path.name]
    assert failed is None and state == b"new state" and faults.at > 6


def test_exception_in_the_block_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old", "utf-8")
    for error in (KeyError, KeyboardInterrupt):
        with pytest.raises(error), atomic_write(path, "w") as file:
            file.write("half of the n")
            raise error
        assert path.read_text("utf-8") == "old" and os.listdir(tmp_path) == ["a.txt"]


@syncs_directories
def test_file_is_synced_before_it_gets_its_name_and_the_name_after(tmp_path, monkeypatch):
    faults = Faults(0, "").install(monkeypatch)
    with atomic_write(tmp_path / "a") as file:
        file.write(b"x")
        inode = os.fstat(file.fileno()).st_ino
        faults.trace.clear()
    names = [name for name, _ in faults.trace]
    assert faults.trace[0] == ("fsync", inode) and names[1] == "replace"
    assert ("fsync", tmp_path.stat().st_ino) in faults.trace[2:]


@needs_links
def test_text_links_and_permissions(tmp_path):
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old", "utf-8")
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
    resource = pytest.importorskip("resource", reason="limits of a process are Unix'")
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


@needs_locks
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
