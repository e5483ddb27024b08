"""Every entry is whole: ids, letters, five lines, the library's line, test and exercise."""

import inspect
import re
import unicodedata
from collections import Counter
from xml.etree import ElementTree

import pytest

import minideepseek.equations
from minideepseek.equations import notation
from minideepseek.equations.ledger import ELSEWHERE, PAPERS, TIES, find_line, ledger, order
from minideepseek.exercises.catalogue import EXERCISES
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.transformer import DeepSeekV3
from tests.equations import test_ties

ENTRIES = ledger()
LAST = {"V2": 47, "V3": 28, "MOE": 17, "LFB": 5, "MATH": 4, "R1": 3}  # numbered equations there are
CORE = set(
    "math mrow mi mn mo mtext mfrac msqrt msub msup msubsup munder mover munderover "
    "mtable mtr mtd mspace".split()
)
COMMAND = re.compile(r"\\\\|\\([A-Za-z]+)")
every_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)


def test_ids_are_unique_and_sorted():
    ids = [id for entry in ENTRIES for id in entry.ids]
    assert len(set(ids)) == len(ids)
    assert [entry.id for entry in ENTRIES] == sorted((e.id for e in ENTRIES), key=order)
    assert all(id.partition(":")[0] in PAPERS for id in ids)


@every_entry
def test_ids_of_one_entry_name_each_paper_in_order_and_a_section_where_there_is_no_number(entry):
    papers = [list(PAPERS).index(id.partition(":")[0]) for id in entry.ids]
    assert entry.id == min(entry.ids, key=order) and len(set(entry.ids)) == len(entry.ids)
    assert papers[0] == min(papers)
    named = {id for id in entry.ids if not id.partition(":")[2].isdigit()}
    assert named == set(entry.sections)
    for section in entry.sections.values():
        assert re.fullmatch(r"section \d+(\.\d+)*|algorithm \d+", section)
    assert len(entry.places()) == len(set(papers))


@pytest.mark.parametrize("paper", LAST)
def test_every_number_of_the_deepseek_papers_is_here_once_or_has_its_reason(paper):
    here = [int(n) for e in ENTRIES for p, _, n in [i.partition(":") for i in e.ids]
            if p == paper and n.isdigit()]  # fmt: skip
    absent = [n for a, b, reason in ELSEWHERE.get(paper, ()) for n in range(a, b + 1) if reason]
    assert sorted(here + absent) == list(range(1, LAST[paper] + 1))


def test_other_papers_are_named_by_section():
    for entry in ENTRIES:
        for id in entry.ids:
            assert id.partition(":")[0] in LAST or id in entry.sections
    assert ELSEWHERE.keys() - LAST.keys() == {"SPEC"}


def test_every_paper_has_an_entry_and_a_line_in_the_folders_text():
    used = {id.partition(":")[0] for entry in ENTRIES for id in entry.ids}
    assert used == set(PAPERS)
    for paper in PAPERS:
        assert re.search(rf"\b{paper}   ", minideepseek.equations.__doc__), paper


@every_entry
def test_every_field_is_there_and_a_transcription_has_at_most_five_lines(entry):
    assert entry.title and not entry.title.endswith(".")
    assert len([e for e in ENTRIES if e.title == entry.title]) == 1
    assert entry.text.strip() and entry.latex.strip()
    assert not entry.note or entry.note.endswith((".", "?"))
    assert inspect.getdoc(entry.transcription) is None  # the entry says what it is
    lines = [line for line in entry.source.splitlines() if line.strip()]
    assert lines[0].startswith("def ") and len(lines) <= 5
    assert max(map(len, lines)) <= 100


@every_entry
def test_the_librarys_line_is_there_and_is_the_only_one(entry):
    line = entry.line()
    assert line.path.read_text("utf-8").splitlines()[line.number - 1].strip() == line.text
    assert entry.code in line.text and line.owner == entry.library.partition(":")[2]
    assert "equations" not in line.path.parts and "tests" not in line.path.parts
    module, owner = entry.library.split(":")
    thing = __import__(f"minideepseek.{module}", fromlist=["_"])
    for name in owner.split("."):
        thing = getattr(thing, name)
    assert inspect.getsource(inspect.unwrap(thing)).count(entry.code) == 1


def test_the_test_and_the_exercise_that_are_named_are_there():
    path, name = TIES.split("::")
    assert test_ties.__file__.replace("\\", "/").endswith(path)
    assert callable(getattr(test_ties, name))
    for entry in ENTRIES:
        assert entry.test == f"{path}::{name}[{entry.id}]"
        assert not entry.exercise or entry.exercise in EXERCISES.names(), entry.id


def test_a_line_is_looked_up_and_not_written_down(tmp_path, monkeypatch):
    line = find_line("layers.moe:max_violation", "return")
    monkeypatch.chdir(line.path.parent)
    assert str(line) == f"moe.py:{line.number}"
    monkeypatch.chdir(tmp_path)
    assert str(line) == f"{line.path}:{line.number}"


# ---------------------------------------------------------------------------------------- letters


def test_symbols_are_used_and_their_fields_and_tensors_exist():
    config = DeepSeekV3Config.preset("nano")
    tensors = " ".join(DeepSeekV3(config).state_dict())
    standard = {"q_proj", "k_proj", "v_proj", "head_dim"}  # of chapter 1's layers
    scaling = {"mscale_all_dim", "beta_fast", "beta_slow", "original_max_position_embeddings"}
    known = set(vars(config)) | set(re.split(r"[ .]", tensors)) | standard | scaling
    known |= {"weight_scale_inv"}  # of FP8 files
    for entry in ENTRIES:
        for symbol in entry.symbols:
            for word in re.findall(r"\w+_\w+", symbol.name):
                assert word in known, (entry.id, symbol)
    chapters = {inspect.getmodule(entry.transcription) for entry in ENTRIES}
    for chapter in chapters:
        own = [e for e in ENTRIES if inspect.getmodule(e.transcription) is chapter]
        used = {symbol.letter for entry in own for symbol in entry.symbols}
        assert used == {symbol.letter for symbol in chapter.SYMBOLS}


def letters(text):
    """How often each letter and digit stands in a text; sub- and superscripts are the same."""
    plain = unicodedata.normalize("NFKD", text)
    return Counter(c for c in plain if c.isalnum())


@every_entry
def test_no_letter_is_lost_between_latex_mathml_and_text(entry):
    said = ("cos", "sin", "ln", "min", "max")
    written = COMMAND.sub(lambda m: m[1] if m[1] in said else " ", entry.latex)
    shown = ElementTree.fromstring(entry.mathml)
    assert letters("".join(shown.itertext()).replace("∑", "")) == letters(written)
    assert letters(entry.text.replace("Σ", "")) == letters(written)
    assert "\\" not in entry.text and entry.text.count("(") == entry.text.count(")")


@every_entry
def test_mathml_is_well_formed_and_of_the_core(entry):
    root = ElementTree.fromstring(entry.mathml)
    assert root.tag == "math" and root.get("display") == "block"
    needed = {"mfrac": 2, "msub": 2, "msup": 2, "munder": 2, "mover": 2, "msubsup": 3,
              "munderover": 3}  # fmt: skip
    for element in root.iter():
        assert element.tag in CORE
        assert set(element.attrib) <= {"display", "style", "displaystyle", "accent", "width"}
        assert len(element) == needed.get(element.tag, len(element))
        if element.tag in ("mi", "mn", "mo", "mtext"):
            assert element.text and not len(element)
        elif element.tag == "mspace":
            assert element.get("width") and not element.text
        else:
            assert len(element) and not (element.text or "").strip()


@pytest.mark.parametrize(
    "source",
    [r"x_", "x_1_2", "(a", "[a)", "a}", "a ]", "a & b", r"\frac{a}", r"\nothing", r"\{a", r"a \}",
     r"\cases{a", r"\hat a"],
)
def test_what_the_notation_does_not_have_is_refused(source):
    with pytest.raises(ValueError, match="formula: got "):
        notation.read(source)


def test_mathml_in_small():
    thin = '<mspace width="0.17em"></mspace>'

    def cell(letter):
        return f'<mtd style="text-align:left"><mi>{letter}</mi></mtd>'

    said = {
        r"x_i^2": "<msubsup><mi>x</mi><mi>i</mi><mn>2</mn></msubsup>",
        r"h′_i": "<msubsup><mi>h</mi><mi>i</mi><mo>′</mo></msubsup>",
        r"\sum_i^n": "<munderover><mo>∑</mo><mi>i</mi><mi>n</mi></munderover>",
        r"\frac{a}{b}": "<mfrac><mi>a</mi><mi>b</mi></mfrac>",
        r"\abs{a}": "<mrow><mo>|</mo><mi>a</mi><mo>|</mo></mrow>",
        r"a < b": "<mrow><mi>a</mi><mo>&lt;</mo><mi>b</mi></mrow>",
        r"c \ln x": f"<mrow><mi>c</mi>{thin}<mi>ln</mi>{thin}<mi>x</mi></mrow>",
        r"\ln (x)": "<mrow><mi>ln</mi><mrow><mo>(</mo><mi>x</mi><mo>)</mo></mrow></mrow>",
        r"\hat{a}": '<mover accent="true"><mi>a</mi><mo>^</mo></mover>',
        r"\cases{a & b \\ c & d}": "<mrow><mo>{</mo><mtable>"
        f"<mtr>{cell('a')}{cell('b')}</mtr><mtr>{cell('c')}{cell('d')}</mtr></mtable></mrow>",
    }
    found = {source: notation.mathml(notation.read(source)) for source in said}
    assert found == {s: f'<math display="block">{inside}</math>' for s, inside in said.items()}


def test_text_in_small():
    said = {
        r"a - b": "a − b",
        r"-a + -b": "−a + −b",
        r"\frac{a + b}{c d} e": "((a + b) / (c d)) e",
        r"\ln \frac{a}{b}": "ln(a/b)",
        r"W^O [a; b]": "W^O [a; b]",
        r"P_i(x)": "Pᵢ(x)",
        r"P_i^k[t_i]": "Pᵢᵏ[tᵢ]",
        r"\sum_{i=1}^{n} x_i": "Σ_{i=1}^n xᵢ",
        r"\max_i x_{ij}^{12}": "maxᵢ x_ij¹²",
        r"a \\ b": "a\nb",
    }
    assert {source: notation.text(notation.read(source)) for source in said} == said
