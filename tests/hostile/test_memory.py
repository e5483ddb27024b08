"""Memory: at most a stated multiple of the file's bytes and 1 MiB, whatever the file claims."""

import json
import subprocess
import sys
import tracemalloc

import pytest

from minideepseek.errors import MiniDeepSeekError
from tests.hostile import tensors
from tests.hostile.models import TINY
from tests.hostile.readers import readers
from tests.hostile.run import CONSTANT, remove, write
from tests.hostile.stages import EVALUATION, PROGRESS, STEP

# Text that costs most per byte when Python makes values of it.
DENSE = ("[],", "{},", '{"":0},', "[[]],", "1e9,", '"𝄞",')


def array(unit: str, size: int) -> str:
    return "[" + unit * (size // len(unit.encode())) + unit.rstrip(",") + "]"


def names(size: int) -> str:
    """An object of as many names as fit."""
    return "{" + ",".join(f'"{i:x}":0' for i in range(size // 9)) + "}"


def wrapped(reader: str, text: str) -> tuple[str, bytes]:
    """A file of that reader whose bulk is the JSON text."""
    row = b'{"step": 1, "max_vio": %s}\n'
    forms = {
        "safetensors": (tensors.NAME, tensors.encode(b'{"a":%s}' % text.encode(), b"")),
        "json": ("x.json", text.encode()),
        "config": ("config.json", b'{"model_type": "deepseek_v3", "rope_scaling": %s}'),
        "index": ("model.safetensors.index.json", b'{"weight_map": %s}'),
        "tokenizer": ("tokenizer.json", b'{"model": {"vocab": %s, "type": "WordLevel"}}'),
        "metrics": ("metrics.jsonl", row),
        "run": ("run.json", b'{"texts": %s}'),
        "job": ("job.json", b'{"verb": "sft", "model": "", "task": "", "plan": %s}'),
        "journey": ("job.json", b'{"seed": %s}'),
        "checkpoint": (STEP + "trainer.json", b'{"step": 1, "loader": %s}'),
        "samples": ("samples.json", text.encode()),
        "evaluations": ("evaluations.json", json.dumps(
            {"cold start": EVALUATION | {"more": 0}}).replace('"more": 0', '"more": %s').encode()),
        "traces": ("traces.json", b'{"a": %s}'),
        "progress": (PROGRESS, b'{"a": %s}'),
    }  # fmt: skip
    name, form = forms[reader]
    return name, form.replace(b"%s", text.encode())


def peak_of(reader, folder) -> int:
    tracemalloc.start()
    try:
        reader.read(folder)
    except MiniDeepSeekError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*set aside")
@pytest.mark.parametrize("name", ["safetensors", "json", "config", "index", "tokenizer", "metrics",
                                  "run", "job", "journey", "samples", "evaluations", "traces",
                                  "checkpoint", "progress"])  # fmt: skip
def test_text_that_grows_most_when_it_is_parsed(tmp_path, name):
    reader = readers()[name]
    for file, data in reader.bases[0].items():
        write(tmp_path / file, data)
    for text in (*(array(unit, 300_000) for unit in DENSE), names(300_000)):
        file, data = wrapped(name, text)
        remove(tmp_path / file)
        write(tmp_path / file, data)
        assert peak_of(reader, tmp_path) < reader.peak * len(data) + CONSTANT, text[:20]


def test_a_small_file_of_a_large_kind_takes_little(tmp_path):
    """Buffers are as large as the file is, not as it may be."""
    for name in ("json", "index", "evaluations", "metrics"):
        reader = readers()[name]
        for file, data in reader.bases[0].items():
            write(tmp_path / name / file, data)
        reader.read(tmp_path / name)  # imports
        assert peak_of(reader, tmp_path / name) < 300_000


CLAIMS = """
import json, os, resource, sys, time
from pathlib import Path
from minideepseek import DeepSeekV3
from minideepseek.errors import CheckpointError
from minideepseek.model.fp8 import load_fp8
from minideepseek.model.checkpoint import from_pretrained
from minideepseek.model.inspect import inspect
from minideepseek.model.safetensors import load_file

here = Path(sys.argv[1])
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * os.sysconf("SC_PAGE_SIZE") + (100 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
refused = 0
for folder in sorted(here.iterdir()):
    readers = (from_pretrained, load_fp8, inspect)
    if (folder / "x.safetensors").exists():
        readers = (lambda folder: load_file(folder / "x.safetensors"),)
    for read in readers:
        try:
            read(folder)
            assert read is inspect, (folder, read)
        except CheckpointError as error:
            refused += 1
print(refused)
"""
LARGE = (
    {"vocab_size": 2**31 - 1, "hidden_size": 2**31 - 1},
    {"n_routed_experts": 2**31 - 2},
    {"num_hidden_layers": 2**31 - 1},
    {"num_hidden_layers": 10**5, "first_k_dense_replace": 0},
    {"num_nextn_predict_layers": 2**31 - 1},
    {"max_position_embeddings": 2**31 - 1, "vocab_size": 10**9},
)
LIES = (
    b"\0\0\0\0\0\0\0\x80{}", b"\xff" * 8 + b"{}", b"\0\xe1\xf5\5\0\0\0\0{}",
    tensors.encode({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}, b""),
    tensors.encode({"a": {"dtype": "F32", "shape": [2**61, 0], "data_offsets": [0, 0]}}, b""),
    tensors.encode({"a": {"dtype": "U8", "shape": [2**50], "data_offsets": [0, 2**50]}}, b"abc"),
)  # fmt: skip


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_claims_are_refused_before_anything_is_allocated(tmp_path):
    """A process that may have 100 MB more than it has: each claim alone would take gigabytes."""
    tiny = readers()["model"].bases[0]
    for i, changes in enumerate(LARGE):
        values = json.loads(tiny["config.json"]) | TINY | changes
        for name, data in (tiny | {"config.json": json.dumps(values).encode()}).items():
            write(tmp_path / f"config-{i}" / name, data)
    for i, data in enumerate(LIES):
        write(tmp_path / f"lie-{i}" / "x.safetensors", data)
    command = [sys.executable, "-c", CLAIMS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0, done.stderr
    assert 2 * len(LARGE) + len(LIES) <= int(done.stdout) <= 3 * len(LARGE) + len(LIES)
