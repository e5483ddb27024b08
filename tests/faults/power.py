"""What a power cut may leave of a sequence of calls, by what POSIX promises and no more.

A file's bytes are on the disk after `fsync` of the file, a name after `fsync` of the directory that
lists it. Everything else is there or not, in no order: the cuts below take for each directory the
names that were last synced or those that it would have, for each file the bytes that were last
synced, nothing in place of bytes that never were, zeros where its length came first, or all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from tests.faults.disk import Call


class File:
    """data: what a process reads; synced: what is on the disk for sure."""

    def __init__(self, data: bytes = b"", synced: bytes = b"") -> None:
        self.data, self.synced = bytearray(data), synced


class Directory:
    """names → files and directories, and those that are on the disk for sure."""

    def __init__(self) -> None:
        self.names: dict[str, File | Directory] = {}
        self.synced: dict[str, File | Directory] = {}


class Disk:
    """The files below a root as calls change them."""

    def __init__(self, root: Path) -> None:
        self.root = self._read(root)

    def _read(self, path: Path) -> File | Directory:
        if not path.is_dir():
            data = path.read_bytes()
            return File(data, data)
        found = Directory()
        found.names = {child.name: self._read(child) for child in path.iterdir()}
        found.synced = dict(found.names)
        return found

    def _find(self, path: str) -> File | Directory | None:
        node: File | Directory | None = self.root
        for name in PurePosixPath(path).parts:
            node = node.names.get(name) if isinstance(node, Directory) else None
        return node

    def _names(self, path: str) -> dict[str, File | Directory]:
        folder = self._find(str(PurePosixPath(path).parent))
        assert isinstance(folder, Directory), path
        return folder.names

    def apply(self, call: Call) -> None:
        """One call more."""
        name = PurePosixPath(call.path).name
        if call.failed:
            return
        if call.kind in ("create", "mkdir"):
            self._names(call.path)[name] = File() if call.kind == "create" else Directory()
        elif call.kind in ("unlink", "rmdir"):
            del self._names(call.path)[name]
        elif call.kind in ("rename", "link"):
            names, old = self._names(call.other), PurePosixPath(call.other).name
            node = names[old] if call.kind == "link" else names.pop(old)
            self._names(call.path)[name] = node
        elif call.kind == "truncate":
            self._file(call.path).data.clear()
        elif call.kind == "write":
            data = self._file(call.path).data
            data[call.offset : call.offset + len(call.data)] = call.data
        elif call.kind == "fsync":
            node = self._find(call.path)
            if isinstance(node, Directory):
                node.synced = dict(node.names)
            elif node is not None:
                node.synced = bytes(node.data)
        else:
            assert call.kind in ("open", "close", "chmod", "utime", "xattr"), call.kind

    def files(self, path: str) -> Iterator[tuple[str, bytes]]:
        """The file of that name as a process reads it, or those below."""
        node = self._find(path)
        if isinstance(node, File):
            yield path, bytes(node.data)
        elif node is not None:
            for name in node.names:
                yield from self.files(f"{path}/{name}")

    def _file(self, path: str) -> File:
        found = self._find(path)
        assert isinstance(found, File), path
        return found

    def _dirty(self) -> list[Directory]:
        """Directories with names that are not on the disk, or on it still."""
        found, left, seen = [], [self.root], set()
        while left:
            node = left.pop()
            if isinstance(node, Directory) and id(node) not in seen:
                seen.add(id(node))
                left += [*node.names.values(), *node.synced.values()]
                found += [node] if node.names != node.synced else []
        return found

    def cuts(self) -> Iterator[dict[str, bytes | None]]:
        """What may be left, each as path → bytes, None for a directory; some are there twice."""
        dirty = self._dirty()
        groups = [[], dirty]
        if len(dirty) > 1:
            groups += [[one] for one in dirty]
            groups += [[other for other in dirty if other is not one] for one in dirty]
        for lost in (_synced, _zeros, _all):
            for newer in groups:
                yield dict(_walk(self.root, newer, lost))


def _synced(file: File) -> bytes:
    return file.synced


def _zeros(file: File) -> bytes:
    return file.synced + bytes(max(0, len(file.data) - len(file.synced)))


def _all(file: File) -> bytes:
    return bytes(file.data)


def _walk(
    folder: File | Directory, newer: list[Directory], content: Callable[[File], bytes], at: str = ""
) -> Iterator[tuple[str, bytes | None]]:
    assert isinstance(folder, Directory)
    names = folder.names if any(folder is one for one in newer) else folder.synced
    for name, node in sorted(names.items()):
        if isinstance(node, File):
            yield at + name, content(node)
        else:
            yield at + name, None
            yield from _walk(node, newer, content, f"{at}{name}/")


def versions(calls: list[Call], root: Path) -> set[tuple[str, bytes]]:
    """(path, bytes) of every file that a rename ever gave its name. root: as before the calls."""
    disk, found = Disk(root), set()
    for call in calls:
        disk.apply(call)
        if call.kind == "rename" and not call.failed:
            found |= set(disk.files(call.path))
    return found


def write(state: dict[str, bytes | None], root: Path) -> None:
    """Make these files, in an empty root."""
    for name, data in state.items():
        if data is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(data)
