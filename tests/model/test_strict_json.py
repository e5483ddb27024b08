"""A stranger's JSON: the value it holds, or a CheckpointError that names the file."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minideepseek.errors import CheckpointError
from minideepseek.model.strict_json import parse_json, read_json


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "file: is not strict JSON"),
        (b"{", "file: is not strict JSON"),
        (b'{"a": 1} 2', "file: is not strict JSON"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "the key 'c' occurs twice"),
        (b'"\xff"', "file: is not strict JSON .*utf-8"),
        (b"1" * 5000, "file: is not strict JSON"),
        (b"[" * 500_000, "file: is nested too deeply"),
    ],
)
def test_refused(data: bytes, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        parse_json(data, "file")


json_like = st.text("[]{}\",:0123456789.eE+-ntf\\u", max_size=30)


@given(st.binary(max_size=30) | json_like.map(str.encode))
@example(b'"\\ud800"')
def test_anything_else_is_what_json_says(data: bytes) -> None:
    try:
        value = parse_json(data, "file")
    except CheckpointError:
        return
    assert value == json.loads(data.decode())


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": [1, 2.5, null]}')
    assert read_json(path) == {"a": [1, 2.5, None]}
    assert read_json(path, max_bytes=21) == {"a": [1, 2.5, None]}
    with pytest.raises(CheckpointError, match=r"a\.json: is larger than the 20 bytes"):
        read_json(path, max_bytes=20)
    for unreadable in (tmp_path, tmp_path / "none", "a\0b"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_json(unreadable)
    with pytest.raises(CheckpointError, match=r"none: cannot be read \(No such file [a-z ]+\)$"):
        read_json(tmp_path / "none")
