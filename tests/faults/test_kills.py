"""Without a shim: a real SIGKILL at random moments, a disk that is really full.

A command is killed again and again until it is through; a full disk ends it with one sentence, and
it goes on when there is room. Both come to the same losses and the same model, bit for bit.
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

from minideepseek.training.rundir import read_metrics
from tests.platforms import needs_fork
from tests.training import tiny
from tests.training.tiny import untimed

pytestmark = [pytest.mark.slow, needs_fork]
ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
COMMAND = [sys.executable, "-m", "minideepseek"]
RUN = (
    "pretrain --preset nano --steps 3 --batch-size 1 --sequence-length 8 --evaluate-every 3 "
    "--checkpoint-every 1 --threads 1"
).split()


@pytest.fixture
def folder():
    """In memory where possible: a run syncs a hundred times."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as name:
        Path(name, "text").write_text(tiny.text(), "utf-8")
        yield Path(name)


def command(out: Path, *options: str) -> list[str]:
    """The run begun, or gone on with if there is something to go on with."""
    place = "--resume" if (out / "run.json").exists() else "--out"
    return [*COMMAND, *RUN, *options, "--text", str(out.parent / "text"), place, str(out)]


def result(out: Path) -> tuple:
    """What a run came to: losses, model, and the names of all files, the hidden ones too."""
    losses = [untimed(m) for m in read_metrics(out / "metrics.jsonl")]
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*"))
    return losses, (out / "model/model.safetensors").read_bytes(), names


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
