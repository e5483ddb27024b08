"""The faults themselves in part (the whole: `python -m tests.faults`), and that they are all."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import tests.faults
from tests.faults import disk, power
from tests.faults.disk import Call

ROOT = Path(__file__).parent.parent.parent
needs_shim = pytest.mark.skipif(disk.why_not() is not None, reason=str(disk.why_not()))


def tried(*arguments: str, timeout: int = 1800) -> Counter:
    """The sums of the table, after a run without a violation."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.faults", *arguments], cwd=ROOT, capture_output=True,
        encoding="utf-8", timeout=timeout, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-5000:] + found.stderr
    sums = found.stdout.splitlines()[-2].split()
    names = ("calls", "faults", "old", "new", "between", "violations")
    return Counter(dict(zip(names, map(int, sums[1:]), strict=True)))


@needs_shim
def test_a_file_and_a_record_at_every_call():
    found = tried("report.html", "exercises hint", "damaged record")
    assert found["calls"] >= 20 and found["faults"] >= 120
    assert min(found["old"], found["new"], found["between"]) > 5


@needs_shim
def test_a_journey_killed_in_each_stage():
    found = tried("--fault", "SIGKILL", "--stride", "3", "all stages")
    assert found["faults"] >= 6 and found["between"] >= 5


@needs_shim
@pytest.mark.slow
def test_every_scenario_at_some_calls():
    found = tried("--stride", "37", timeout=3000)
    assert found["faults"] >= 480 and min(found["old"], found["new"], found["between"]) >= 50


# ------------------------------------------------------------------------------ what is not seen

SYSTEM_CALLS = {
    "write": "write", "fsync": "fsync", "fdatasync": "fsync", "mkdir": "mkdir", "mkdirat": "mkdir",
    "rmdir": "rmdir", "unlink": "unlink", "unlinkat": "unlink", "rename": "rename",
    "renameat": "rename", "renameat2": "rename", "link": "link", "linkat": "link",
    "chmod": "chmod", "fchmod": "chmod", "fchmodat": "chmod", "utimensat": "utime",
    "symlink": "symlink", "symlinkat": "symlink", "setxattr": "xattr", "lsetxattr": "xattr",
    "fsetxattr": "xattr", "pwrite64": "other", "writev": "other", "pwritev": "other",
    "ftruncate": "other", "truncate": "other", "fallocate": "other", "copy_file_range": "other",
    "mknod": "other", "mknodat": "other",
}  # fmt: skip
NAMES = (
    "model over", "shards over", "codes over", "tokenizer", "checkpoint of", "damaged", "start",
    "report", "run.json", "job.json", "evaluations", "zoo", "book", "pretrain", "grpo",
)  # fmt: skip


@needs_shim
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="there is no strace")
def test_the_shim_sees_every_call_that_the_kernel_does(tmp_path):
    """No write goes another way, past the counter: by another call, or by libc's own."""
    log, where = tmp_path / "strace", tmp_path / "disk"
    where.mkdir()
    command = ["strace", "-f", "-qq", "-y", "-s", "0", "-o", str(log)]
    command += ["-e", f"trace={','.join([*SYSTEM_CALLS, 'openat', 'open', 'creat'])}"]
    command += [sys.executable, "-m", "tests.faults.once", str(where), *NAMES]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    environment["LD_PRELOAD"] = str(disk.compiled(tmp_path))
    found = subprocess.run(
        command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=600, env=environment
    )
    if "ptrace" in found.stderr:
        pytest.skip("processes cannot be traced here")
    assert found.returncode == 0, found.stderr[-3000:]
    seen = Counter()
    for line in log.read_text("utf-8", "replace").splitlines():
        line = re.sub("AT_FDCWD<[^>]*>", "AT_FDCWD", line)
        name = re.match(r"\d+ +(\w+)\(", line)
        if name is None or str(where) not in line:
            continue
        if name[1].startswith(("open", "creat")):
            changing = re.search("O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", line)
            seen["open"] += changing is not None
        else:
            kind = SYSTEM_CALLS[name[1]]
            seen["rmdir" if kind == "unlink" and "AT_REMOVEDIR" in line else kind] += 1
    counted = Counter({k: int(n) for k, n in re.findall(r"^(\w+) (\d+)$", found.stdout, re.M)})
    assert seen == counted and sum(seen.values()) > 1500 and not seen["other"]


# ------------------------------------------------------------------------------------- power cuts


def cuts(tmp_path: Path, *calls: tuple) -> list[dict]:
    """What may be left of "old" in a, after calls (kind, path, other, data)."""
    (tmp_path / "a").write_bytes(b"old")
    lost = power.Disk(tmp_path)
    for kind, path, other, data in calls:
        lost.apply(Call(False, kind, path, other, 0, data))
    found = []
    for cut in lost.cuts():
        found += [] if cut in found else [cut]
    return found


NEW = ("create", "t", "", b""), ("write", "t", "", b"new")
SYNC, RENAME = ("fsync", "t", "", b""), ("rename", "a", "t", b"")
PARENT = ("fsync", ".", "", b"")


def test_a_power_cut_takes_what_was_not_synced(tmp_path):
    old = {"a": b"old"}
    assert cuts(tmp_path, *NEW) == [old, {**old, "t": b""}, {**old, "t": bytes(3)},
                                    {**old, "t": b"new"}]  # fmt: skip
    assert cuts(tmp_path, *NEW, RENAME) == [old, {"a": b""}, {"a": bytes(3)}, {"a": b"new"}]
    assert cuts(tmp_path, *NEW, SYNC, RENAME) == [old, {"a": b"new"}]
    assert cuts(tmp_path, *NEW, SYNC, RENAME, PARENT) == [{"a": b"new"}]


def test_a_power_cut_takes_the_names_of_any_directory(tmp_path):
    calls = (("mkdir", "d", "", b""), ("create", "d/f", "", b""), ("write", "d/f", "", b"x"),
             ("fsync", "d/f", "", b""))  # fmt: skip
    old, made = {"a": b"old"}, {"a": b"old", "d": None}
    assert cuts(tmp_path, *calls) == [old, {**made, "d/f": b"x"}, made]
    assert cuts(tmp_path, *calls, ("fsync", "d", "", b"")) == [old, {**made, "d/f": b"x"}]
    assert cuts(tmp_path, *calls, PARENT) == [made, {**made, "d/f": b"x"}]


# ------------------------------------------------------------------------------------- the table

WRITES = set(
    "write_text write_bytes mkdir makedirs touch unlink rmdir rename symlink link chmod "
    "tofile savetxt savez rmtree copytree copy2 copymode copyfile fsync "
    "atomic_write atomic_directory make_directory remove_directory set_aside clear_leftovers "
    "save_file write_model save_pretrained write_report".split()
)
CALLERS = "cli/"  # of what the table lists


def writers() -> set[str]:
    """The files of the package that call something that writes."""
    package, found = ROOT / "minideepseek", set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and writes(node):
                found.add(path.relative_to(package).as_posix())
    return {name for name in found if not name.startswith(CALLERS)}


def writes(call: ast.Call) -> bool:
    """Whether a call is one of those, an open() to write, or os.replace."""
    function = call.func
    name = getattr(function, "attr", getattr(function, "id", ""))
    if name in ("replace", "save", "truncate"):
        return ast.unparse(function) in ("os.replace", "np.save", "os.truncate")
    if name == "open":
        modes = [a.value for a in call.args if isinstance(a, ast.Constant)]
        return any(isinstance(mode, str) and set("wax+") & set(mode) for mode in modes)
    return name in WRITES


def test_the_table_lists_every_file_that_writes():
    listed = set(re.findall(r"^    (\w+/\w+\.py) ", tests.faults.__doc__, re.M))
    assert listed - writers() <= {"exercises/bugs.py"}  # which calls start
    assert writers() <= listed
