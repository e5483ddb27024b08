"""Bytes and words to ids and back; the files for Hugging Face, and their refusal when altered."""

import doctest
import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minideepseek.errors import CheckpointError, InputError
from minideepseek.model import tokenizer as module
from minideepseek.model.tokenizer import (
    SPECIAL_TOKENS,
    ByteTokenizer,
    WordTokenizer,
    byte_characters,
    load_tokenizer,
)

BYTES = ByteTokenizer()
TOKENS = [
    *("<pad>", "<bos>", "<eos>", "<think>", "</think>"),
    *"0123456789+-*=,>?!:",
    *map(str, range(10, 19)),
]
WORDS = WordTokenizer(TOKENS)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
WITH_SPECIALS = st.lists(st.one_of(TEXTS, st.sampled_from(SPECIAL_TOKENS)), max_size=6)


def test_doctest():
    assert doctest.testmod(module).failed == 0


# -- bytes ---------------------------------------------------------------------------------------


def test_the_vocabulary():
    assert BYTES.vocab_size == 264
    assert BYTES.special == {name: 256 + i for i, name in enumerate(SPECIAL_TOKENS)}
    assert SPECIAL_TOKENS[:2] == ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
    ids = BYTES.bos_token_id, BYTES.eos_token_id, BYTES.pad_token_id
    assert (*ids, BYTES.think_token_id, BYTES.end_think_token_id) == (256, 257, 258, 259, 260)
    for name, i in BYTES.special.items():
        assert BYTES.decode([i]) == name
        assert BYTES.encode(name, allow_special=True).tolist() == [i]


@given(st.lists(st.one_of(TEXTS, st.sampled_from(SPECIAL_TOKENS))).map("".join))
def test_typed_text_is_its_bytes_and_comes_back(text):
    ids = BYTES.encode(text)
    assert ids.dtype == np.int64
    assert ids.tolist() == list(text.encode())
    assert BYTES.decode(ids) == text
    assert np.array_equal(BYTES.encode(text.encode()), ids)


@given(st.binary(max_size=60))
def test_any_bytes_come_back(data):
    ids = BYTES.encode(data)
    assert BYTES.decode_bytes(ids) == data
    assert BYTES.decode(ids) == data.decode("utf-8", "replace")


@given(WITH_SPECIALS)
def test_special_tokens_when_asked_for(parts):
    text = "".join(parts)
    ids = BYTES.encode(text, allow_special=True)
    # An independent reading: replace each spelling, which cannot overlap, by a private character.
    assume("\ue000" not in text)
    marked = text
    for name in SPECIAL_TOKENS:
        marked = marked.replace(name, "\ue000" + chr(0xE001 + SPECIAL_TOKENS.index(name)))
    pieces = marked.split("\ue000")
    wanted = list(pieces[0].encode())
    for piece in pieces[1:]:
        wanted += [256 + ord(piece[0]) - 0xE001, *piece[1:].encode()]
    assert ids.tolist() == wanted
    assert BYTES.decode(ids) == text
    assert BYTES.decode_bytes(ids, skip_special=True) == bytes(i for i in wanted if i < 256)


@pytest.mark.parametrize("tokenizer", [BYTES, WORDS])
@pytest.mark.parametrize(
    ("ids", "part"),
    [
        ([0, 264, 3], "264 at position 1"),
        ([-1], "-1 at position 0"),
        (np.array([5, 1, 999]), "999 at position 2"),
        ([2**70], "expected one row of integers"),
        ([0.5], "float64"),
        ([True], "bool"),
        ([[1, 2]], "(1, 2)"),
        (3, "()"),
    ],
)
def test_ids_outside_the_vocabulary_are_refused(tokenizer, ids, part):
    with pytest.raises(InputError, match="^ids: .*expected") as info:
        tokenizer.decode(ids)
    assert part in str(info.value)


@pytest.mark.parametrize("tokenizer", [BYTES, WORDS])
def test_text_that_is_none_is_refused(tokenizer):
    with pytest.raises(InputError, match="character 2 is half a surrogate pair"):
        tokenizer.encode("ab\ud800")
    with pytest.raises(InputError, match="text: got a int, expected"):
        tokenizer.encode(7)
    assert tokenizer.encode("").shape == (0,) and tokenizer.encode("").dtype == np.int64
    assert tokenizer.decode([]) == ""


def test_the_table_of_byte_characters():
    table = byte_characters()
    assert len(set(table)) == 256 and all(c.isprintable() and not c.isspace() for c in table)
    assert [table[b] for b in b"A !\n\x00~"] == ["A", "Ġ", "!", "Ċ", "Ā", "~"]
    assert [table[b] for b in (0x7F, 0xA0, 0xAD, 0xAE, 0xFF)] == ["ġ", "ł", "Ń", "®", "ÿ"]


# -- words ---------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(TOKENS), max_size=12), st.sampled_from([" ", "\n", "\t \u2003"]))
def test_words_come_back(words, space):
    ids = WORDS.encode(space.join(words), allow_special=True)
    assert ids.tolist() == [TOKENS.index(word) for word in words]
    assert WORDS.decode(ids) == " ".join(words)
    plain = [word for word in words if word not in WORDS.special]
    assert WORDS.decode(ids, skip_special=True) == " ".join(plain)
    assert WORDS.encode(" ".join(plain)).tolist() == [TOKENS.index(word) for word in plain]
    assert (WORDS.pad_token_id, WORDS.bos_token_id, WORDS.eos_token_id) == (0, 1, 2)
    assert (WORDS.think_token_id, WORDS.end_think_token_id, WORDS.vocab_size) == (3, 4, 33)


@pytest.mark.parametrize("text", ["19", "7+8", "7 <think>", "1\x1c2", b"\xff", "7 <unk>"])
def test_unknown_words_and_typed_specials_are_refused(text):
    with pytest.raises(InputError, match="^text: '.*' is "):
        WORDS.encode(text)


@pytest.mark.parametrize(
    "tokens", [TOKENS[1:], [*TOKENS, "7"], [*TOKENS, "a b"], [*TOKENS, ""], [*TOKENS, "\ud800"], []]
)
def test_bad_word_lists_are_refused(tokens):
    with pytest.raises(InputError, match="^tokens: "):
        WordTokenizer(tokens)


# -- files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The files' bytes by kind and name: examples write them again without waiting for the disk."""
    files = {}
    for tokenizer in (BYTES, WORDS):
        folder = tmp_path_factory.mktemp("saved")
        tokenizer.save_pretrained(folder)
        files[tokenizer] = {path.name: path.read_bytes() for path in folder.iterdir()}
    return files


@pytest.mark.parametrize("tokenizer", [BYTES, WORDS])
def test_a_saved_tokenizer_comes_back(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "new" / "folder")
    for read in (load_tokenizer, type(tokenizer).from_pretrained):
        again = read(tmp_path / "new" / "folder")
        assert type(again) is type(tokenizer)
        assert again.special == tokenizer.special and again.vocab_size == tokenizer.vocab_size
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    other = WordTokenizer if tokenizer is BYTES else ByteTokenizer
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        other.from_pretrained(tmp_path / "new" / "folder")


def test_the_file_says_what_encode_does(tmp_path):
    """The parts of tokenizer.json, applied by hand as the format defines them, give our ids."""
    BYTES.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    assert content["normalizer"] is None and content["model"]["merges"] == []
    config = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    assert config["split_special_tokens"] is True  # what keeps a typed <think> bytes
    table = byte_characters()
    text = "naïve\0 \r\n 👩‍👩‍👧 e\u0301"
    ids = [content["model"]["vocab"][table[b]] for b in text.encode()]
    assert ids == BYTES.encode(text).tolist()
    assert {t["content"]: t["id"] for t in content["added_tokens"]} == BYTES.special


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(CheckpointError, match="file"):
        BYTES.save_pretrained(tmp_path / "file")


@pytest.mark.parametrize("tokenizer", [BYTES, WORDS])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_every_part_of_the_files_is_checked(tokenizer, name, tmp_path):
    """Each value changed in turn, each entry deleted in turn, and the whole file gone."""
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / name
    good = file.read_text("utf-8")
    changed = 0
    for path in _paths(json.loads(good)):
        if path[0] == "tokenizer_class":  # Hugging Face's own name for its class
            continue
        if path[:2] == ("model", "vocab") and path[-1] not in ("vocab", "a", "7", "</think>"):
            continue  # a few stand for all
        for alter in (_other, None):
            content = json.loads(good)
            holder = content
            for key in path[:-1]:
                holder = holder[key]
            if alter:
                holder[path[-1]] = alter(holder[path[-1]])
            else:
                del holder[path[-1]]
            file.write_text(json.dumps(content), "utf-8")
            with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
                load_tokenizer(tmp_path)
            changed += 1
    assert changed >= (10 if "config" in name else 100)
    if name == "tokenizer.json":  # the other file may hold more: Hugging Face adds to it
        file.write_text(json.dumps({**json.loads(good), "another": None}), "utf-8")
        with pytest.raises(CheckpointError, match="'another' is not that of"):
            load_tokenizer(tmp_path)
    file.unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_tokenizer(tmp_path)


def _paths(value, prefix=()):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*prefix, key)
        if isinstance(inner, (dict, list)):
            yield from _paths(inner, (*prefix, key))


def _other(value):
    if isinstance(value, bool):
        return int(value)  # equal in Python, another thing in JSON
    if isinstance(value, int):
        return value + 1
    return [] if isinstance(value, dict) else value + value[:1] if value else 0


ACTIONS = st.sampled_from(["set", "cut", "insert", "end"])
EDITS = st.lists(
    st.tuples(ACTIONS, st.floats(0, 1), st.binary(min_size=1, max_size=4)), min_size=1, max_size=3
)


@given(st.sampled_from([BYTES, WORDS]), st.booleans(), EDITS)
def test_damaged_files_give_the_right_tokenizer_or_a_refusal(
    tmp_path_factory, saved, kind, config, edits
):
    folder = tmp_path_factory.mktemp("damaged")
    for name, content in saved[kind].items():
        (folder / name).write_bytes(content)
    file = folder / ("tokenizer_config.json" if config else "tokenizer.json")
    data = bytearray(file.read_bytes())
    for action, place, new in edits:
        i = int(place * len(data))
        if action == "end":
            del data[i:]
        else:
            end = i if action == "insert" else i + len(new)
            data[i:end] = b"" if action == "cut" else new
    file.write_bytes(bytes(data))
    try:
        again = load_tokenizer(folder)
    except CheckpointError as error:
        assert file.name in str(error)
        return
    if isinstance(again, WordTokenizer):  # other words are a good file too
        content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        assert content["model"]["vocab"] == {word: i for i, word in enumerate(again.tokens)}
    else:
        assert kind is BYTES


@given(st.recursive(st.none() | st.integers() | st.text(max_size=3), lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["model", "vocab", "type", "a"]), inner, max_size=4)
)))  # fmt: skip
def test_other_json_is_refused(tmp_path_factory, saved, value):
    folder = tmp_path_factory.mktemp("other")
    for name, content in saved[WORDS].items():
        (folder / name).write_bytes(content)
    (folder / "tokenizer.json").write_text(json.dumps(value), "utf-8")
    for read in (load_tokenizer, ByteTokenizer.from_pretrained, WordTokenizer.from_pretrained):
        with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
            read(folder)
