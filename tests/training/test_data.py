"""The corpus and its honesty, the packing, the loader's epochs and resumption, the evaluation."""

import bz2
import json
import lzma
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minideepseek.errors import CheckpointError, InputError
from minideepseek.model.tokenizer import ByteTokenizer
from minideepseek.training import corpus as corpus_module
from minideepseek.training.corpus import (
    Document,
    corpus_hash,
    docstring_corpus,
    prepare_corpus,
    read_texts,
    remove_duplicates,
    split_documents,
)
from minideepseek.training.data import (
    BatchLoader,
    compressor_baselines,
    evaluation_windows,
    joined_bytes,
    main,
    pack,
)

SEEDS = st.integers(0, 2**32 - 1)


def random_texts(seed, n, words=12):
    """n documents of a few paragraphs over few words, so that copies and near-copies happen."""
    rng = np.random.default_rng(seed)
    vocabulary = ["the", "a", "Returns", "value", "of", "window", "é", "file", "x1", "open"]
    bank = [" ".join(rng.choice(vocabulary, rng.integers(1, words))) for _ in range(3 * n)]
    texts = ["\n\n".join(rng.choice(bank, rng.integers(1, 5))) for _ in range(n)]
    return [Document(f"d{i}", text) for i, text in enumerate(texts)]


# -- the standard library --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library():
    before = set(sys.modules)
    documents = docstring_corpus()
    # Reading is not importing: antigravity, for one, would open a browser.
    assert not {"antigravity", "this", "turtle", "idlelib"} & (set(sys.modules) - before)
    return documents


@pytest.fixture(scope="module")
def prepared(library):
    return prepare_corpus(library)


def test_the_library_is_a_megabyte_of_english(library):
    size = sum(len(d.text.encode()) for d in library)
    assert 1e6 < size < 3e6 and len(library) > 2500
    assert min(len(d.text) for d in library) >= 100
    modules = {d.name.split(".")[0] for d in library}
    assert {"argparse", "json", "asyncio", "unittest", "typing"} <= modules
    assert not modules & {"test", "site-packages", "dist-packages"}
    assert not any(d.name.startswith(("unittest.test.", "idlelib.idle_test")) for d in library)
    letters = "".join(d.text for d in library)
    assert sum(c.isascii() and (c.isalpha() or c in " \n") for c in letters) > 0.85 * len(letters)


def test_the_prepared_library_shares_nothing(prepared):
    texts = [joined_bytes(part).decode() for part in (prepared.train, prepared.held_out)]
    sizes = [len(t) for t in texts]
    assert 0.05 < sizes[1] / sum(sizes) < 0.15
    paragraphs = [
        {" ".join(normal(p)) for d in part for p in d.text.split("\n\n")}
        for part in (prepared.train, prepared.held_out)
    ]
    assert len(paragraphs[1]) > 500 and not paragraphs[0] & paragraphs[1]
    assert len(prepared.removed) > 500
    assert_no_near_copy(prepared)


def normal(paragraph):
    """Words in lower case, by another way than the package's: letter by letter."""
    return "".join(c if c.isalnum() or c == "_" else " " for c in paragraph.casefold()).split()


def assert_no_near_copy(corpus):
    judged = {run for d in corpus.held_out for p in d.text.split("\n\n") for run in runs(p)}
    for document in corpus.train:
        for paragraph in document.text.split("\n\n"):
            mine = runs(paragraph)
            assert 2 * sum(run in judged for run in mine) < len(mine), paragraph


def runs(paragraph):
    words = normal(paragraph) or [paragraph.strip()]
    return [tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))]


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


LONG = "Words of a docstring that is long enough to be kept, because it has many letters. " * 2


def test_docstrings_are_found_where_they_are(tmp_path, monkeypatch):
    nested = (
        f'"""Module. {LONG}"""\n'
        f'class A:\n    """Class.\n\n        indented {LONG}\n    """\n'
        f'    async def m(self):\n        """Method. {LONG}"""\n'
        f'        return """Not a docstring. {LONG}"""\n'
        f'try:\n    pass\nexcept E:\n    def t():\n        """Handler. {LONG}"""\n'
        f'match 1:\n    case 1:\n        def c():\n            """Case. {LONG}\\ud800"""\n'
        f'def short():\n    """Too short."""\n'
        f'def old():\n    """Old escape \\d. {LONG}"""\n'
    )
    files = {
        "pkg/__init__.py": nested,
        "pkg/b.py": f'"""B. {LONG}"""',
        "a.py": f'"""A. {LONG}"""',
        "bad.py": f'"""Bad. {LONG}"""\ndef (',
        "latin.py": b'"""\xff' + LONG.encode() + b'"""',
        "deep.py": f'"""Deep. {LONG}"""\nx = ' + "(" * 500 + ")" * 500,
    }
    for folder in ("test", "pkg/tests", "site-packages", "idlelib/idle_test", "dist-packages"):
        files[f"{folder}/c.py"] = f'"""C. {LONG}"""'
    write(tmp_path, files)
    monkeypatch.setattr(corpus_module.sysconfig, "get_path", lambda name: str(tmp_path))
    found = docstring_corpus()
    assert [(d.name, d.text.split(".")[0]) for d in found] == [
        ("a", "A"),
        ("pkg", "Module"),
        ("pkg.A", "Class"),
        ("pkg.A.m", "Method"),
        ("pkg.t", "Handler"),
        ("pkg.c", "Case"),
        ("pkg.old", "Old escape \\d"),
        ("pkg.b", "B"),
    ]
    assert found[2].text.startswith("Class.\n\nindented Words")
    assert found[5].text.endswith("?")


def test_a_library_without_sources_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(InputError, match="no docstrings in .*, expected Python sources"):
        docstring_corpus()


# -- the user's own texts --------------------------------------------------------------------------


def test_texts_are_read_from_files_and_folders(tmp_path):
    write(
        tmp_path,
        {
            "folder/b.txt": "\ufeffBee\r\n\r\nsecond\r\n",
            "folder/deep/a.md": "Ay é",
            "folder/.git/config": "hidden",
            "folder/.secret": "hidden",
            "folder/picture.png": b"\x89PNG\xff",
            "folder/zero.bin": b"text\0text",
            "folder/empty.txt": b"",
            "one.txt": "One",
        },
    )
    notices = []
    paths = [tmp_path / "one.txt", tmp_path / "folder", str(tmp_path / "folder" / "b.txt")]
    documents = read_texts(paths, notice=notices.append)
    assert [(Path(d.name).name, d.text) for d in documents] == [
        ("b.txt", "Bee\n\nsecond"),
        ("a.md", "Ay é"),
        ("one.txt", "One"),
    ]
    assert notices == ["skipped 2 of 6 files: not UTF-8 text"]
    assert read_texts(paths[::-1], notice=notices.append) == documents


@pytest.mark.parametrize(
    ("name", "minimum", "sentence"),
    [
        ("missing", 1, "missing is not there, expected a file or a folder"),
        ("empty.txt", 1, "0 bytes of text in 1 files, expected at least 1"),
        ("blank.txt", 1, "0 bytes of text"),
        ("short.txt", 257, "10 bytes of text in 1 files, expected at least 257"),
        ("binary", 1, "0 bytes of text in 1 files"),
        ("nothing", 1, "0 bytes of text in 0 files"),
    ],
)
def test_useless_paths_are_refused(tmp_path, name, minimum, sentence):
    files = {"empty.txt": "", "blank.txt": "\n \n", "short.txt": "ten bytes.", "binary": b"\xff"}
    write(tmp_path, files)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError) as info:
        read_texts([tmp_path / name], minimum, notice=lambda text: None)
    assert str(info.value).startswith("text: ") and sentence in str(info.value)


@given(SEEDS, st.integers(2, 60), st.sampled_from([" ", "\n", "\n\n"]))
def test_long_texts_are_cut_and_none_is_lost(seed, size, space):
    rng = np.random.default_rng(seed)
    text = space.join("é" * int(n) for n in rng.integers(1, 20, 30))
    pieces = corpus_module._pieces("f", text, size)
    assert all(0 < len(p.text) <= size for p in pieces)
    assert "".join(p.text for p in pieces).replace("\n", "") == text.replace("\n", "")
    assert len({p.name for p in pieces}) == len(pieces)


@pytest.mark.parametrize("text", ["one line without any end", "two\n\nparagraphs, not equal", "ab"])
def test_a_single_small_file_can_be_split(tmp_path, text):
    write(tmp_path, {"t": text})
    train, held_out = split_documents(read_texts([tmp_path / "t"]))
    assert train and held_out
    both = "".join(d.text for d in train + held_out)
    assert sorted(both) == sorted(text.replace("\n", ""))


# -- splitting and copies --------------------------------------------------------------------------


@given(SEEDS, st.floats(0.05, 0.9), st.integers(0, 30))
def test_adding_a_document_moves_no_other(seed, share, place):
    documents = random_texts(seed, 30)
    hashes = [corpus_module._fraction(d.text) for d in documents]
    assume(min(hashes) < share <= max(hashes))  # else the text is too small for its share
    train, held_out = split_documents(documents, share)
    assert train + held_out != [] and sorted(d.name for d in train + held_out) == sorted(
        d.name for d in documents
    )
    new = Document("new", f"text {seed}")
    more = split_documents([*documents[:place], new, *documents[place:]][::-1], share)
    for before, after in zip((train, held_out), more, strict=True):
        assert {d.name for d in before} == {d.name for d in after} - {"new"}
    renamed = split_documents([Document("same", d.text) for d in documents], share)
    assert [d.text for d in renamed[1]] == [d.text for d in held_out]


def test_the_side_of_a_text_is_the_same_everywhere():
    documents = [Document("", str(i)) for i in range(40)]  # by SHA-256, not by this process's hash
    assert [d.text for d in split_documents(documents)[1]] == ["9", "39"]


def test_the_share_is_the_one_asked_for():
    documents = [Document("", str(i)) for i in range(4000)]
    for share in (0.1, 0.5):
        held_out = split_documents(documents, share)[1]
        assert abs(len(held_out) / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5


@given(SEEDS, st.integers(2, 4), st.floats(0.001, 0.999))
def test_a_small_text_has_both_sides(seed, n, share):
    documents = [Document("", f"{seed} {i}") for i in range(n)]
    train, held_out = split_documents(documents, share)
    assert train and held_out and len(train) + len(held_out) == n


def test_what_cannot_be_split_is_refused():
    for documents in ([], [Document("a", "x")], [Document("a", "x"), Document("b", "x")]):
        with pytest.raises(InputError, match="expected at least two"):
            split_documents(documents)
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="^held_out: got"):
            split_documents([Document("a", "x"), Document("b", "y")], share)
    # Two documents that differ in letters but not in words: only one remains.
    with pytest.raises(InputError, match="nothing is left"):
        prepare_corpus([Document("a", "one two!"), Document("b", "One, two")])


@given(SEEDS, st.integers(4, 40))
def test_no_held_out_paragraph_is_in_the_training_text(seed, n):
    documents = random_texts(seed, n)
    assume(len({d.text for d in documents}) > 1)
    try:
        corpus = prepare_corpus(documents, 0.3)
    except InputError:
        return
    assert_no_near_copy(corpus)
    whole = sum(d.text.count("\n\n") + 1 for d in documents)
    kept = sum(d.text.count("\n\n") + 1 for d in corpus.train + corpus.held_out)
    assert whole == kept + len(corpus.removed)
    # What judges does not depend on what is learned from.
    alone, _ = remove_duplicates(split_documents(documents, 0.3)[1], set())
    assert corpus.held_out == alone


def test_shingles():
    shingles = corpus_module.shingles
    assert shingles("One, two\nTHREE four-five 6!") == [
        "one two three four five",
        "two three four five 6",
    ]
    assert shingles("A b.") == ["a b"] and shingles(" ?! ") == ["?!"]


def test_what_counts_as_a_copy():
    text = "Return the width of the window in pixels, as it was last drawn."
    copies = [
        text,
        "return  the width\nof the *window* in pixels -- as it was last drawn",
        "Return the width of the window in pixels, as it was once.",
    ]
    others = [
        "Return the height of a window in points, as it was last drawn today.",
        "Return the width.",
        "?!",
    ]
    for paragraph in copies:
        documents = [Document("a", text), Document("b", "Something else.\n\n" + paragraph)]
        kept, removed = remove_duplicates(documents, set())
        assert removed == [paragraph] and kept[1].text == "Something else."
    for paragraph in others:
        kept, removed = remove_duplicates([Document("a", text), Document("b", paragraph)], set())
        assert removed == [] and kept[1].text == paragraph


def test_the_hash_is_of_texts_in_order():
    a, b = Document("a", "one"), Document("b", "two")
    assert corpus_hash([a, b]) == corpus_hash([Document("z", "one"), b])
    others = [[b, a], [a], [Document("", "onetwo")], [Document("", "onet"), Document("", "wo")]]
    assert len({corpus_hash(d) for d in [[a, b], *others]}) == 5


# -- packing and loading ---------------------------------------------------------------------------


def test_documents_are_packed_with_the_end_token():
    tokens = pack([Document("", "ab"), Document("", "é")], ByteTokenizer())
    assert tokens.tolist() == [97, 98, 257, 0xC3, 0xA9, 257] and tokens.dtype == np.uint16
    with pytest.raises(InputError, match="expected at least one"):
        pack([], ByteTokenizer())


@given(SEEDS, st.integers(2, 60), st.integers(1, 12), st.integers(1, 7))
def test_an_epoch_shows_every_token(seed, m, length, batch):
    assume(m > length)
    tokens = np.arange(m)  # a token is its own place
    loader = BatchLoader(tokens, batch, length, np.random.default_rng(seed))
    windows = -(-m // length)
    assert loader.windows_per_epoch == windows
    rows = np.concatenate([loader.next_batch() for _ in range(-(-3 * windows // batch))])
    assert rows.dtype == np.int64 and rows.shape[1] == length + 1
    assert np.array_equal(rows[:, 1:], (rows[:, :-1] + 1) % m)  # consecutive on the circle
    for epoch in range(3):
        targets = rows[epoch * windows : (epoch + 1) * windows, 1:]
        counts = np.bincount(targets.ravel(), minlength=m)
        assert counts.min() == 1 and counts.max() <= 2
        assert (counts == 2).sum() == windows * length - m < length


def test_epochs_are_shuffled_and_cut_anew():
    loader = BatchLoader(np.arange(4000), 100, 40, np.random.default_rng(0))
    epochs = [loader.next_batch()[:, 0] for _ in range(20)]
    assert all(np.any(np.diff(starts) < 0) for starts in epochs)
    assert len({int(starts[0] % 40) for starts in epochs}) > 5  # offsets
    assert len({tuple(np.argsort(starts)) for starts in epochs}) == 20  # orders
    again = BatchLoader(np.arange(4000), 100, 40, np.random.default_rng(0))
    assert np.array_equal(again.next_batch()[:, 0], epochs[0])


@given(SEEDS, st.integers(0, 30), st.integers(1, 5))
def test_a_resumed_loader_continues_bit_for_bit(seed, steps, batch):
    tokens = np.random.default_rng(seed).integers(0, 264, 50).astype(np.uint16)
    loader = BatchLoader(tokens, batch, 7, np.random.default_rng(seed))
    for _ in range(steps):
        loader.next_batch()
    state = json.loads(json.dumps(loader.state_dict()))
    ahead = [loader.next_batch() for _ in range(20)]
    resumed = BatchLoader(tokens, batch, 7, np.random.default_rng(1))
    resumed.load_state_dict(state)
    assert json.loads(json.dumps(resumed.state_dict())) == state
    for wanted in ahead:
        assert np.array_equal(resumed.next_batch(), wanted)
    assert resumed.epoch == loader.epoch


def test_loaders_share_no_state():
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    a, b = (BatchLoader(np.arange(90), 2, 8, np.random.default_rng(3)) for _ in range(2))
    first = [a.next_batch() for _ in range(9)]
    assert all(np.array_equal(b.next_batch(), batch) for batch in first)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


@pytest.mark.parametrize(
    "change",
    [
        {"given": -1},
        {"given": 8},
        {"given": 2.0},
        {"epoch": -1},
        {"epoch": True},
        {"windows_per_epoch": 6},
        {"rng": None},
        {"rng": {}},
        {"rng": {"bit_generator": "MT19937"}},
        {"rng": {"bit_generator": "PCG64", "state": {"state": -1, "inc": 1}}},
        {"rng": {"bit_generator": "PCG64", "state": {"state": "x", "inc": 1}}},
    ],
)
def test_another_state_is_refused_and_changes_nothing(change):
    loader, twin = (BatchLoader(np.arange(50), 2, 8, np.random.default_rng(3)) for _ in range(2))
    loader.next_batch(), twin.next_batch()
    states = [{**loader.state_dict(), **change}]
    states += [{k: v for k, v in loader.state_dict().items() if k not in change}, None, []]
    for state in states:
        with pytest.raises(CheckpointError, match="^loader state: "):
            loader.load_state_dict(state)
    for _ in range(12):
        assert np.array_equal(loader.next_batch(), twin.next_batch())


def test_bad_loader_arguments_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="8 tokens of text, expected more than one sequence of 8"):
        BatchLoader(np.arange(8), 1, 8, rng)
    for sizes in ((0, 4), (4, 0)):
        with pytest.raises(InputError, match="^batch_size, sequence_length: got"):
            BatchLoader(np.arange(8), *sizes, rng)
    with pytest.raises(InputError, match="MT19937"):
        BatchLoader(np.arange(8), 1, 4, np.random.Generator(np.random.MT19937(0)))


# -- evaluation ------------------------------------------------------------------------------------


@given(st.integers(1, 80), st.integers(1, 20), st.integers(1, 20), st.integers(1, 5))
def test_every_token_is_predicted_once_with_its_context(n, length, stride, batch):
    assume(stride <= length)
    tokens = np.arange(n, dtype=np.uint16) + 100
    seen = np.zeros(n, int)
    for ids, mask in evaluation_windows(tokens, length, stride, batch):
        assert ids.dtype == np.int64 and mask.dtype == bool and len(ids) <= batch
        assert ids.shape == (len(mask), min(length, n) + 1) and mask.any(1).all()
        for row, counts in zip(ids, mask, strict=True):
            assert np.array_equal((row[1:] - 100), (row[:-1] - 99) % n)
            targets = row[1:][counts] - 100
            seen[targets] += 1
            before = np.flatnonzero(counts)[0] + 1  # tokens the first counted target can see
            assert before > length - stride or targets[0] == 0
    assert np.all(seen == 1)


def test_bad_windows_are_refused_at_once():
    for stride in (0, 5):
        with pytest.raises(InputError, match=f"^stride: got {stride}, expected 1 to"):
            evaluation_windows(np.arange(9), 4, stride)
    for tokens, batch in ((np.arange(0), 1), (np.arange(9), 0)):
        with pytest.raises(InputError, match="expected at least 1 of each"):
            evaluation_windows(tokens, 4, 2, batch)


# -- compressors -----------------------------------------------------------------------------------


def test_what_compressors_reach(prepared):
    train = joined_bytes(prepared.train)[-300_000:]
    held_out = joined_bytes(prepared.held_out)[:60_000]
    bits = compressor_baselines(train, held_out)
    assert list(bits) == ["bz2", "bz2 primed", "lzma", "lzma primed"]
    assert bits["bz2"] == 8 * len(bz2.compress(held_out)) / len(held_out)
    xz = 8 * len(lzma.compress(held_out, preset=9 | lzma.PRESET_EXTREME)) / len(held_out)
    assert xz - 0.02 < bits["lzma"] < xz  # the container's hundred bytes
    assert all(1.5 < bits[f"{name} primed"] < bits[name] < 4 for name in ("bz2", "lzma"))
    # The dictionary reaches back to the first byte: a copy of the training text costs nothing.
    assert compressor_baselines(train, train[:20_000])["lzma primed"] < 0.05


def test_priming_reaches_back_as_far_as_it_says(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, 200_000, np.uint8).tobytes()
    assert compressor_baselines(noise, noise[:4000])["lzma primed"] < 2
    monkeypatch.setattr("minideepseek.training.data.PRIMING", 100_000)
    assert compressor_baselines(noise, noise[:4000])["lzma primed"] > 7
    assert compressor_baselines(noise, noise[-4000:])["lzma primed"] < 2


def test_compressing_nothing_is_refused():
    for texts in ((b"", b"a"), (b"a", b"")):
        with pytest.raises(InputError, match="expected text in both"):
            compressor_baselines(*texts)


def test_the_summary(tmp_path, capsys):
    texts = {f"{i}.txt": f"Text number {i} is unlike {i * i} others.\n\nCopied." for i in range(40)}
    write(tmp_path, texts)
    main([str(tmp_path)])
    printed = capsys.readouterr().out
    assert "read               40 documents" in printed
    assert "removed            39 paragraphs" in printed
    assert "lzma primed" in printed and "copies left in" in printed
