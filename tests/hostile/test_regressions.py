"""What hostile files found, a test for each class: in the words of the reader that refuses it."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from minideepseek.errors import CheckpointError, InputError
from minideepseek.exercises.folder import Folder
from minideepseek.model.contents import read_contents
from minideepseek.model.files import atomic_write, recover_directory
from minideepseek.model.inspect import inspect
from minideepseek.model.safetensors import load_file, read_header, save_file
from minideepseek.model.strict_json import parse_json, read_bytes, read_json
from minideepseek.reasoning import jobs, journey
from minideepseek.training import corpus, job
from minideepseek.training.data import restore_generator
from minideepseek.training.language import read_samples
from minideepseek.training.rundir import RunDirectory, read_metrics, read_state
from minideepseek.training.trainer import Plan
from tests.hostile.models import folders
from tests.hostile.run import write
from tests.hostile.stages import EVALUATION, HASH, STEP, ByteTokenizer, _trainer, checkpoint_bases
from tests.hostile.tensors import encode

posix = pytest.mark.skipif(sys.platform == "win32", reason="pipes and links are POSIX's")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 65 + "]" * 65, "nested too deeply"),
        ("[" * 950 + "]" * 950, "nested too deeply"),  # which Python reads, and cannot write again
        ('{"a": "\\ud800"}', "not strict JSON"),  # which no file of UTF-8 can hold
        ('{"\\udfff": 1}', "not strict JSON"),
        ("[1e999]", "beyond float64"),
        ('{"%s": 1, "%s": 2}' % (("k" * 9000,) * 2), r"the key 'k{199} occurs twice"),
    ],
)  # fmt: skip
def test_json_that_python_takes(text, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        parse_json(text.encode(), "file")
    assert len(str(caught.value)) < 300


def test_json_as_deep_as_allowed_and_whole_pairs():
    assert parse_json(b"[" * 64 + b"]" * 64, "file")
    assert parse_json(b'"\\ud834\\udd1e"', "file") == "𝄞"


@posix
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path),
                                  lambda path: os.symlink(path.name, path)])  # fmt: skip
def test_what_is_no_regular_file_is_not_waited_for(tmp_path, make):
    make(tmp_path / "x")
    for read in (read_json, read_bytes, read_metrics, read_header):
        with pytest.raises(CheckpointError, match="read|regular"):
            read(tmp_path / "x")
    assert read_samples(tmp_path / "x") == []
    with pytest.raises(CheckpointError):
        journey.read_traces(tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / "run.json")
    with pytest.raises(CheckpointError, match="run.json"):
        job.stored_job(tmp_path, None, (), {}, "cpu")


@posix
def test_a_pipe_among_what_a_killed_save_left(tmp_path):
    for kind in ("tmp", "old"):
        os.mkfifo(tmp_path / f".m.0123456789abcdef.{kind}")
    (tmp_path / "m").mkdir()
    recover_directory(tmp_path / "m")


@posix
def test_a_loop_of_links_is_replaced(tmp_path):
    os.symlink("x", tmp_path / "x")
    with atomic_write(tmp_path / "x") as file:
        file.write(b"new")
    assert (tmp_path / "x").read_bytes() == b"new"


def test_a_path_with_a_nul():
    with pytest.raises(CheckpointError, match="is no path: embedded null"):
        recover_directory("a\0b")


def test_a_size_of_minus_zero(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(encode(b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[-0,2]}}', b"ab"))
    with pytest.raises(CheckpointError, match="'a': .* are no data_offsets"):
        load_file(path)


def test_a_long_name_in_an_index_makes_no_long_message(tmp_path):
    files = dict(folders()[1])
    index = json.loads(files["model.safetensors.index.json"])
    for names in (["a" * 500_000], ["b" * 200, "c" * 200, "d" * 200]):
        index["weight_map"] = {n: f"{n}.safetensors" for n in names}
        files["model.safetensors.index.json"] = json.dumps(index).encode()
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError) as caught:
            read_contents(tmp_path)
        assert len(str(caught.value)) < 1000


def test_inspect_prints_no_escape_sequence(tmp_path):
    for name, data in folders()[0].items():
        (tmp_path / name).write_bytes(data)
    tensors = {n: a.copy() for n, a in load_file(tmp_path / "model.safetensors").items()}
    tensors["\x1b]0;x\x07.rotary_emb.inv_freq"] = np.ones(1, np.float32)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(1, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    text = inspect(tmp_path)
    assert "1 unexpected" in text and "\x1b" not in text


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": true}', b'{"step": -1}', b'{"step": 1, "loss": NaN}', b'{"step": 1, "step": 2}',
        b'{"step": 1, "loss": "x"}', b'{"step": 1, "max_vio": 3}', b'{"step": 1, "loss": [1]}',
        b'{"step": 1, "expert_load": [1]}', b'{"step": 1, "expert_load": [[[1]]]}', b"\xff\xfe",
        b'{"step": 1, "expert_load": [[1, "x"]]}', b'\xef\xbb\xbf{"step": 1}', b'{"step": 1e999}',
    ],
)  # fmt: skip
def test_lines_that_no_trainer_recorded(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line + b'\n{"step": 2}\n')
    with pytest.raises(CheckpointError, match="line 1: not a step's metrics"):
        read_metrics(path)
    path.write_bytes(b'{"step": 1, "max_vio": [0.5, null], "expert_load": [[1], null]}\n' + line)
    assert len(read_metrics(path)) == 1


def test_metrics_up_to_a_step_that_is_not_there(tmp_path):
    (tmp_path / "m").write_bytes(b'{"step": 1}\n{"step": 3}\nx\n')
    assert [row["step"] for row in read_metrics(tmp_path / "m", 2)] == [1]


@pytest.mark.parametrize(
    "facts",
    [
        {"preset": ["mini"], "plan": {"sequence_length": 8}}, {"texts": "abc"}, {"texts": [1]},
        {"part": 3}, {"part": "x"}, {"fp8": 1}, {"fp8": None}, {"preset": None},
    ],
)  # fmt: skip
def test_a_run_of_other_kinds(tmp_path, facts):
    (tmp_path / "run.json").write_text(json.dumps(facts), "utf-8")
    with pytest.raises(CheckpointError, match="run.json: not what a run wrote"):
        job.stored_job(tmp_path, None, (), {}, "cpu")


def test_a_task_that_is_no_name(tmp_path):
    facts = {"verb": "sft", "model": "m", "task": ["countdown"], "plan": {}}
    (tmp_path / "job.json").write_text(json.dumps(facts), "utf-8")
    with pytest.raises(CheckpointError, match="job.json: not what a run wrote"):
        jobs.stored_job("sft", tmp_path, "cpu")


@pytest.mark.parametrize("changes", [{"steps": 10**400}, {"learning_rate": True}, {"seed": 2**63}])
def test_numbers_that_no_plan_has(changes):
    with pytest.raises(InputError, match=next(iter(changes))) as caught:
        Plan(**changes)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("key", "value"),
    [("step", -1), ("step", 2**63), ("updates", 10**400), ("seconds", -1.0), ("tokens", -5)],
)
def test_a_state_that_no_run_reaches(tmp_path, key, value):
    state = json.loads(checkpoint_bases()[0][STEP + "trainer.json"]) | {key: value}
    (tmp_path / "trainer.json").write_text(json.dumps(state), "utf-8")
    with pytest.raises(CheckpointError, match=f"trainer.json: {key} = "):
        read_state(tmp_path / "trainer.json")


def pcg(state=1, uinteger=0, has_uint32=0):
    inner = {"state": state, "inc": 1}
    kind = {"bit_generator": "PCG64", "state": inner}
    return kind | {"has_uint32": has_uint32, "uinteger": uinteger}


@pytest.mark.parametrize(
    "state",
    [None, [], {}, {"bit_generator": "PCG64"}, {"bit_generator": "MT19937", "state": {}}, "x",
     pcg(2**128), pcg(uinteger=2**32), pcg(1.5), pcg(True), pcg(has_uint32=0.5)],
)  # fmt: skip
def test_generators_that_numpy_would_take_otherwise(state):
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    with pytest.raises(CheckpointError, match="no state of PCG64"):
        restore_generator(rng, state)
    assert rng.bit_generator.state == before
    restore_generator(rng, json.loads(json.dumps(np.random.default_rng(1).bit_generator.state)))
    assert rng.random() == np.random.default_rng(1).random()


def first(arrays, letter):
    return next(name for name in arrays if name.startswith(letter))


@pytest.mark.parametrize(
    "damage",
    [
        lambda a: a[first(a, "m.")].__setitem__(..., np.nan),
        lambda a: a[first(a, "v.")].__setitem__(..., np.inf),
        lambda a: a[first(a, "v.")].reshape(-1).__setitem__(0, -1),
        lambda a: a.__setitem__(first(a, "m."), a[first(a, "m.")].astype(np.float64)),
        lambda a: a.__setitem__("m.more", np.ones(1, np.float32)),
        lambda a: a.__setitem__("m.\x1b[2J\n", np.ones(1, np.float32)),
    ],
)
def test_moments_that_no_optimiser_has(tmp_path, damage):
    for name, data in checkpoint_bases()[0].items():
        write(tmp_path / name, data)
    path = tmp_path / STEP / "optimizer.safetensors"
    arrays = {name: array.copy() for name, array in load_file(path).items()}
    damage(arrays)
    save_file(arrays, path)
    with pytest.raises(CheckpointError, match="does not fit") as caught:
        RunDirectory(tmp_path, ByteTokenizer(), HASH).resume(_trainer())
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("corpus_hash", ["x\ny\x1b[2J", "z" * 10**5])
def test_another_text_whose_hash_is_hostile(tmp_path, corpus_hash):
    for name, data in checkpoint_bases()[0].items():
        write(tmp_path / name, data)
    path = tmp_path / STEP / "trainer.json"
    state = json.loads(path.read_text("utf-8")) | {"corpus": corpus_hash}
    path.write_text(json.dumps(state), "utf-8")
    with pytest.raises(CheckpointError, match="was trained on another text") as caught:
        RunDirectory(tmp_path, ByteTokenizer(), HASH).resume(_trainer())
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_versions_that_are_hostile_are_no_notices(tmp_path):
    for name, data in checkpoint_bases()[0].items():
        write(tmp_path / name, data)
    path = tmp_path / STEP / "trainer.json"
    state = json.loads(path.read_text("utf-8"))
    state["surroundings"] |= {"numpy": "1\n\x1b[2J", "x\ny": 1}
    path.write_text(json.dumps(state), "utf-8")
    notices = RunDirectory(tmp_path, ByteTokenizer(), HASH).resume(_trainer())
    assert any("numpy was '1\\n" in notice for notice in notices)
    assert all(notice.isprintable() and "x\\ny" not in notice for notice in notices)


@pytest.mark.parametrize(
    "changes",
    [{"accuracy": 10**400}, {"problems": "4"}, {"pass_at": {"²": 1}}, {"pass_at": {"-1": 1}},
     {"statistics": None}, {"statistics": {"attempts": "x"}}, {"greedy": True}, {"truncated": "x"}],
)  # fmt: skip
def test_evaluations_that_no_page_can_show(tmp_path, changes):
    with pytest.raises(CheckpointError, match="base is not what a run wrote"):
        journey.checked_evaluation(tmp_path, "base", EVALUATION | changes)
    assert "50.0%" in journey.checked_evaluation(tmp_path, "base", EVALUATION)


@pytest.mark.parametrize("rows", [{}, "", None])
def test_traces_that_are_no_list(tmp_path, rows):
    (tmp_path / "traces.json").write_text(json.dumps({"a": rows}), "utf-8")
    with pytest.raises(CheckpointError, match="not what a run wrote"):
        journey.read_traces(tmp_path / "traces.json")


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '[["a", "b", 3]]', '["abc"]', '[["\\ud800", "", ""]]']
)
def test_samples_that_no_run_took(tmp_path, content):
    (tmp_path / "samples.json").write_text(content, "utf-8")
    assert read_samples(tmp_path / "samples.json") == []


@pytest.mark.parametrize(
    "entry",
    [{"checked": "x"}, {"verdict": "ok"}, {"checked": "x", "verdict": "perfect"}, {"hints": "two"},
     {"hints": True}, {"hints": 9}, {"skeleton": 3}],
)  # fmt: skip
def test_a_record_of_other_kinds_is_set_aside(tmp_path, entry):
    record = tmp_path / ".progress.json"
    record.write_text(json.dumps({"softmax": entry}), "utf-8")
    with pytest.warns(UserWarning, match="set aside as damaged-progress.json"):
        assert Folder(tmp_path).progress == {}


@posix
def test_an_answer_that_is_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "softmax.py")
    with pytest.raises(InputError, match="softmax.py: cannot be read"):
        Folder(tmp_path).verdict("softmax")


def test_a_module_that_python_has_no_memory_for(tmp_path, monkeypatch):
    text = "A docstring of a module that is long enough to be kept. " * 3
    Path(tmp_path, "good.py").write_text(f'"""{text}"""', "utf-8")
    Path(tmp_path, "bad.py").write_text("-" * 10_000 + "1", "utf-8")
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda name: str(tmp_path))
    assert [document.name for document in corpus.docstring_corpus()] == ["good"]
