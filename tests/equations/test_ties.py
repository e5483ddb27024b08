"""Every transcription is what the library computes, over drawn sizes, in float64."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.equations.ledger import ledger
from tests.equations import (
    attention_ties,
    expert_ties,
    foundation_ties,
    objective_ties,
    prediction_ties,
)
from tests.equations.ties import TIES

PARTS = (attention_ties, expert_ties, foundation_ties, objective_ties, prediction_ties)


def test_every_entry_has_a_tie_and_every_tie_an_entry():
    assert TIES.keys() == {entry.id for entry in ledger()}


@pytest.mark.parametrize("id", [entry.id for entry in ledger()])
@settings(max_examples=15)
@given(data=st.data())
def test_the_library_computes_it(id, data):
    TIES[id](data.draw)
