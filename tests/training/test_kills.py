"""Runs killed in the middle of anything, in processes of their own, resume to the same result.

The calls that change the disk are killed one by one (kills.py); a whole command line is killed by
SIGKILL at random moments, again and again, until it is through; a disk that is really full ends a
run with one sentence, and the run goes on when there is room.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.platforms import needs_fork
from tests.training import tiny
from tests.training.kills import RUN, result

pytestmark = [pytest.mark.slow, needs_fork]
ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
COMMAND = [sys.executable, "-m", "minideepseek"]


@pytest.fixture
def folder():
    """In memory where possible: a run syncs a hundred times."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as name:
        Path(name, "text").write_text(tiny.text(), "utf-8")
        yield Path(name)


@pytest.mark.parametrize(
    "kinds",
    [
        "new fsync",
        "new open mkdir",
        "new rename replace unlink rmdir link chmod",
        "new write",
        "resumed fsync open mkdir rename replace unlink rmdir link chmod write",
    ],
)
def test_killed_in_place_of_a_call(folder, kinds):
    found = subprocess.run(
        [sys.executable, "-m", "tests.training.kills", folder, folder / "text", *kinds.split()],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, encoding="utf-8", timeout=300,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    failed, _, points = found.stdout.split()[-5:-2]
    assert int(failed) == 0 and int(points) >= 40, found.stdout


def command(out: Path, *options: str) -> list[str]:
    """The run begun, or gone on with if there is something to go on with."""
    place = "--resume" if (out / "checkpoints").exists() else "--out"
    return [*COMMAND, *RUN, *options, "--text", str(out.parent / "text"), place, str(out)]


def steps_recorded(out: Path) -> int:
    log = out / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


@pytest.mark.parametrize("threads", ["1", "2"])
def test_killed_at_random_moments(folder, threads):
    """Seven times: some while it starts, some a few steps and milliseconds further."""
    options = ("--steps", "150", "--evaluate-every", "50", "--threads", threads)
    quiet = {"env": ENVIRONMENT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    whole, out, rng = folder / "whole", folder / "run", random.Random(int(threads))
    subprocess.run(command(whole, *options), check=True, timeout=120, **quiet)
    killed = []
    for step in (0, 1, 20, 0, 40, 60, 90):
        process = subprocess.Popen(command(out, *options), **quiet)
        while steps_recorded(out) < step and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.02 if step else 0.5))
        process.send_signal(signal.SIGKILL)
        if process.wait(timeout=60) == -signal.SIGKILL:
            killed.append(steps_recorded(out))
    found = subprocess.run(
        command(out, *options), env=ENVIRONMENT, capture_output=True, encoding="utf-8", timeout=120
    )
    assert found.returncode == 0, found.stderr
    assert result(out) == result(whole)
    assert len(killed) >= 5 and len(set(killed)) >= 4, killed


def test_a_disk_that_is_really_full(folder):
    """On a file system with room for one checkpoint: one sentence, and on when there is more."""
    small, whole = folder / "small", folder / "whole"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(small)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        options = {"env": ENVIRONMENT, "capture_output": True, "text": True, "timeout": 120}
        (small / "text").write_text(tiny.text(), "utf-8")
        subprocess.run(command(whole), check=True, **options)
        found = subprocess.run(command(small / "run"), **options)
        assert found.returncode == 2 and "Traceback" not in found.stderr
        lines = [n for n in found.stderr.splitlines() if n.startswith("minideepseek: ")]
        assert len(lines) == 1 and lines[0].endswith("No space left on device")
        subprocess.run(["mount", "-o", "remount,size=30m", str(small)], check=True)
        found = subprocess.run(command(small / "run"), **options)
        assert found.returncode == 0, found.stderr
        assert result(small / "run") == result(whole)
    finally:
        subprocess.run(["umount", str(small)], check=True)
