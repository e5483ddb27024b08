"""`minideepseek eq`: all, a paper, one, and what is not there."""

import pytest

from minideepseek.cli import main
from minideepseek.equations.ledger import PAPERS, ledger, of_paper


def said(capsys, *arguments):
    assert main(["eq", *arguments]) == 0
    return capsys.readouterr().out


def test_alone_it_lists_every_entry_with_its_title_once(capsys):
    lines = said(capsys).splitlines()
    for entry in ledger():
        assert sum(line.split()[:1] == [entry.id] for line in lines) == 1
        assert sum(entry.title in line for line in lines) >= 1
    assert lines[-1].startswith(f"{len(ledger())} entries")
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("paper", PAPERS)
def test_a_paper_lists_its_own_in_order(capsys, paper):
    head, *rows = said(capsys, paper.lower()).splitlines()
    assert head.startswith(f"{paper} · ") and PAPERS[paper].arxiv in head
    assert [row.split()[0] for row in rows] == [id for id, _ in of_paper(paper)]


def test_v3_shows_what_is_v2s_too(capsys):
    assert "   V3:1                  The latent of keys and values  = V2:9" in said(capsys, "V3")


@pytest.mark.parametrize("entry", ledger(), ids=lambda entry: entry.id)
def test_one_shows_equation_transcription_line_test_and_exercise(capsys, entry):
    pages = {said(capsys, name) for name in (entry.id, entry.id.lower(), *entry.ids)}
    assert len(pages) == 1
    page = pages.pop()
    for place in entry.places():
        assert place in page
    for line in [*entry.text.splitlines(), *entry.source.splitlines()]:
        assert f"       {line}\n" in page or not line
    assert f"{entry.line()}\n       {entry.line().text}\n" in page
    assert f"   test: {entry.test}\n" in page
    assert (f"exercises check {entry.exercise}" in page) == bool(entry.exercise)
    assert entry.note.split("\n")[0][:40] in page
    for symbol in entry.symbols:
        assert symbol.said in page and symbol.code in page


def test_the_page_of_the_latent(capsys, monkeypatch):
    line = next(e for e in ledger() if e.id == "V2:9").line()
    monkeypatch.chdir(line.path.parent.parent.parent)
    assert said(capsys, "v2:9") == f"""\
V2:9, V3:1 · The latent of keys and values
   DeepSeek-V2, equation 9
   DeepSeek-V3, equation 1

       cₜ^KV = W^DKV hₜ

   paper, config or tensor, code
       W^DKV   kv_a_proj_with_mqa.weight, first kv_lora_rank rows   kv_a_proj_with_mqa
       cₜ^KV   kv_lora_rank wide                                    c_kv

   transcribed
       def latent(W_DKV, h_t):
           return W_DKV @ h_t

   the library: DeepSeekAttention.project, minideepseek/layers/mla.py:{line.number}
       return q, self.kv_a_layernorm(c[..., : self.latent]), k_pe
   note: The norm that follows is in V2's text and in the weights, not in the equation; the
   cache holds what comes after it.
   test: tests/equations/test_ties.py::test_the_library_computes_it[V2:9]
   exercise: minideepseek exercises check latent_cache
"""


@pytest.mark.parametrize(
    "asked, sentence",
    [
        ("V2:48", "there is no equation 'V2:48'; did you mean V2:34?"),
        ("v3:29", "there is no equation 'v3:29'; did you mean V3:28?"),
        ("V3:tiles", "there is no equation 'V3:tiles'; did you mean V3:tile?"),
        ("V2:27", "V2:27 is not in the ledger: balance between devices, and here is one machine"),
        ("v2:40", "V2:40 is not in the ledger: latent attention once more in one place: V2:9 to"),
        ("MATH:2", "MATH:2 is not in the ledger: PPO's penalty inside the reward"),
        ("9", "there is no equation '9'; papers are V2, V3, MOE, "),
        ("", "there is no equation ''; papers are V2, "),
        ("V2:9:1", "there is no equation 'V2:9:1'; did you mean V2:"),
    ],
)
def test_an_id_that_is_not_there_gets_one_sentence(capsys, asked, sentence):
    assert main(["eq", asked]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith(f"minideepseek: {sentence}") and err.count("\n") == 1
