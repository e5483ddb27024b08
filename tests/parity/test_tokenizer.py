"""Our tokenizer files in Hugging Face's own libraries: the same ids, whatever the text."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.model.tokenizer import (
    SPECIAL_TOKENS,
    ByteTokenizer,
    WordTokenizer,
    load_tokenizer,
)

pytestmark = pytest.mark.parity
tokenizers = pytest.importorskip("tokenizers", reason="the parity extra is not installed")
transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")

AWKWARD = [
    "",
    " ",
    "   leading, trailing   ",
    "\0\x01\x07\x1b\x1c\x7f\x85",
    "line\r\nline\rline\n\n\ttab\x0b\x0c",
    "e\u0301 é ﬁ Å Å ½ ǆ İ ı ß ſ",  # composed and not, compatibility forms, case
    "👩‍👩‍👧‍👦 🏴󠁧󠁢󠁥󠁮󠁧󠁿 👍🏽 🇩🇪",
    "\ufeffmark \u200b \u2028 \u202e \u00a0 \u3000 \ufffd \U0010ffff",
    "中文 العربية हिन्दी 한국어",
    "a<think>b</think>",
    "".join(SPECIAL_TOKENS),
    "don't I'll 1234 !!! Ġ Ċ Ā ▁",
]
TEXTS = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
        st.sampled_from([*SPECIAL_TOKENS, *AWKWARD]),
    ),
    max_size=5,
).map("".join)


def _folder(tmp_path_factory, tokenizer):
    """A checkpoint's directory: config.json beside, by which AutoTokenizer may choose a class."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "deepseek_v3"}), "utf-8")
    return folder


@pytest.fixture(scope="module")
def bytes_folder(tmp_path_factory):
    return _folder(tmp_path_factory, ByteTokenizer())


@pytest.fixture(scope="module")
def theirs(bytes_folder):
    return transformers.AutoTokenizer.from_pretrained(bytes_folder, local_files_only=True)


def _same(theirs, text):
    ours = ByteTokenizer()
    ids = ours.encode(text).tolist()
    assert theirs(text)["input_ids"] == ids
    assert theirs.encode(text, add_special_tokens=True) == ids
    assert theirs.decode(ids) == text == ours.decode(ids)
    asked = ours.encode(text, allow_special=True).tolist()
    assert theirs(text, split_special_tokens=False)["input_ids"] == asked
    assert theirs.decode(asked) == text
    assert theirs.decode(asked, skip_special_tokens=True) == ours.decode(asked, skip_special=True)
    assert theirs(text)["input_ids"] == ids  # asking once changes nothing for the next call


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_texts(theirs, text):
    _same(theirs, text)


@settings(max_examples=300)
@given(TEXTS)
def test_any_text(theirs, text):
    _same(theirs, text)


@settings(max_examples=300)
@given(st.lists(st.integers(0, 263), max_size=40))
def test_any_ids(theirs, ids):
    assert theirs.decode(ids) == ByteTokenizer().decode(ids)


def test_attributes(theirs):
    ours = ByteTokenizer()
    assert len(theirs) == ours.vocab_size
    assert theirs.bos_token_id == ours.bos_token_id
    assert theirs.eos_token_id == ours.eos_token_id
    assert theirs.pad_token_id == ours.pad_token_id
    assert theirs.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(256, 264))
    batch = theirs(["abc", "é"], padding=True)["input_ids"]
    assert batch == [[97, 98, 99], [195, 169, ours.pad_token_id]]


@settings(max_examples=100)
@given(TEXTS)
def test_the_bare_library(bytes_folder, text):
    bare = tokenizers.Tokenizer.from_file(str(bytes_folder / "tokenizer.json"))
    assert bare.encode(text).ids == ByteTokenizer().encode(text, allow_special=True).tolist()
    bare.encode_special_tokens = True
    assert bare.encode(text).ids == ByteTokenizer().encode(text).tolist()


TOKENS = [
    *("<pad>", "<bos>", "<eos>", "<think>", "</think>"),
    *"0123456789+-*=,>?!:",
    *map(str, range(10, 19)),
]


@pytest.fixture(scope="module")
def words_folder(tmp_path_factory):
    return _folder(tmp_path_factory, WordTokenizer(TOKENS))


@settings(max_examples=200)
@given(
    words=st.lists(st.sampled_from([*TOKENS, "19", "7+8", "9<think>", "1\x1c2", "é"]), max_size=12),
    spaces=st.sampled_from([" ", "\n", " \t ", "\u00a0", "\u2003", "\x85"]),
)
def test_words(words_folder, words, spaces):
    ours = WordTokenizer(TOKENS)
    theirs = transformers.AutoTokenizer.from_pretrained(words_folder, local_files_only=True)
    text = spaces.join(words)
    if set(words) <= set(TOKENS):
        ids = ours.encode(text, allow_special=True).tolist()
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == ours.decode(ids)
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids, skip_special=True)
    else:  # unknown to both
        with pytest.raises(Exception, match="WordLevel error"):
            theirs(text)
        with pytest.raises(ValueError, match="is not one of"):
            ours.encode(text, allow_special=True)


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), WordTokenizer(TOKENS)])
def test_saved_again_by_them_and_read_by_us(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "ours")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours", local_files_only=True)
    theirs.save_pretrained(tmp_path / "theirs")
    assert type(load_tokenizer(tmp_path / "theirs")) is type(tokenizer)
    files = [json.loads((tmp_path / p / "tokenizer.json").read_bytes()) for p in ("ours", "theirs")]
    assert files[0] == files[1]
