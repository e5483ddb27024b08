"""The records of the book: made, of the right form, and drawn."""

import json

import pytest

from demos import record_book
from minideepseek.book import moving


@pytest.mark.slow
def test_quick_records_are_drawn(tmp_path, capsys, monkeypatch):
    record_book.main(["--quick", "--threads", "1", "--out", str(tmp_path)])
    assert "bits per byte" in capsys.readouterr().out
    records = {path.stem: json.loads(path.read_text("utf-8")) for path in tmp_path.glob("*.json")}
    assert set(records) == {"experts", "drafts", "thoughts"}
    monkeypatch.setattr(moving, "record", records.__getitem__)
    for draw in (moving.experts, moving.drafts, moving.thoughts):
        figure = draw()
        assert figure.frames >= 3 and "--quick" in figure.source
    assert len("".join(one["written"] for one in records["drafts"]["rounds"])) == 24
