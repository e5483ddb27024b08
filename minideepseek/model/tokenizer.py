r"""From text to token ids: bytes, and one token per word

A language model reads integers. DeepSeek-V3 cuts text with a byte-level BPE of 128,000 entries
(V3 §4.1) that was itself trained on text. Here a token is a byte: ids 0 … 255 are the bytes of
the text in UTF-8, and eight special tokens follow. Nothing has to be trained or downloaded, every
text has exactly one spelling, no text is out of vocabulary, and cross-entropy per token becomes
bits per byte, which a file compressor can be measured against.

      id  token                     id  token
     256  <｜begin▁of▁sentence｜>     260  </think>
     257  <｜end▁of▁sentence｜>       261  <｜User｜>
     258  <｜▁pad▁｜>                 262  <｜Assistant｜>
     259  <think>                   263  <｜reserved｜>      (264 = 8 · 33 rows in the embedding)

What it costs: BPE packs about four characters of English into one token, so the same context and
the same compute reach four times as far there.

Special tokens cannot be typed
------------------------------
Seven letters of user text that read `<think>` are seven bytes, never token 259: otherwise a
prompt could close a model's reasoning for it, or end its own turn. Code that means the special
token asks for it:

>>> tokenizer = ByteTokenizer()
>>> tokenizer.encode("<think>").tolist()
[60, 116, 104, 105, 110, 107, 62]
>>> tokenizer.encode("<think>4", allow_special=True).tolist()
[259, 52]
>>> tokenizer.decode([259, 52, 257], skip_special=True)
'4'

No token is added at either end by itself. In training text the end token stands between
documents, so it is also what a text begins after: start an unconditional sample with it.

The same function for others
----------------------------
`save_pretrained` writes the `tokenizer.json` that Hugging Face's libraries read: a byte-level BPE
without merges. A JSON string cannot hold bytes, so each byte is written as a character by GPT-2's
table: printable Latin-1 stands for itself, the other 68 bytes are moved to U+0100 … U+0143, and
a space becomes Ġ. There is no normaliser and no pre-tokeniser rule: any would change bytes or only
cost time. `split_special_tokens` in `tokenizer_config.json` is what keeps a typed `<think>` bytes
in `AutoTokenizer`; its caller asks for the token with `split_special_tokens=False`. The bare
`tokenizers` library has no such setting in the file: set `encode_special_tokens = True` on it.

Words
-----
`WordTokenizer` is for the small formal languages of the reasoning tasks, where a number should be
one token: a fixed list of words between white space, five special tokens among them.

Source: Radford et al. 2019 (GPT-2) for bytes under BPE and the table; the names of the special
tokens are those of DeepSeek-V3's and R1's `tokenizer.json`.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from minideepseek.errors import CheckpointError, InputError
from minideepseek.model.files import atomic_directory, atomic_write, recover_directory, say
from minideepseek.model.strict_json import read_json

SPECIAL_TOKENS = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜▁pad▁｜>",
    "<think>",
    "</think>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<｜reserved｜>",
)
WORD_SPECIAL_TOKENS = ("<bos>", "<eos>", "<pad>", "<think>", "</think>")

# What str.split() splits at, less the four separators U+001C … U+001F, which Unicode does not
# count as white space and Rust's is_whitespace therefore not either.
_WORD = re.compile(r"[\S\x1c-\x1f]+")


def byte_characters() -> list[str]:
    """GPT-2's table: 256 different printable characters, the b-th standing for byte b."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(b) if b in shown else chr(0x100 + hidden.index(b)) for b in range(256)]


class Tokenizer(ABC):
    """What both kinds share: ids and their checks, decoding, and Hugging Face's two files.

    `vocab_size` ids; `special` maps a special token's name to its id; `bos_token_id`,
    `eos_token_id`, `pad_token_id`, `think_token_id` and `end_think_token_id` are ids.
    """

    vocab_size: int
    special: dict[str, int]

    def __init__(self, special: dict[str, int], names: Sequence[str]) -> None:
        self.special = special
        self.vocab_size = max(special.values()) + 1
        self.bos_token, self.eos_token, self.pad_token = names[:3]
        ids = [special[name] for name in names[:5]]
        self.bos_token_id, self.eos_token_id, self.pad_token_id = ids[:3]
        self.think_token_id, self.end_think_token_id = ids[3:]

    @abstractmethod
    def encode(self, text: str | bytes, allow_special: bool = False) -> np.ndarray:
        """(N,) int64 ids of the text; nothing is added at either end."""

    @abstractmethod
    def decode_bytes(self, ids: Sequence[int] | np.ndarray, skip_special: bool = False) -> bytes:
        """The bytes that ids stand for; special tokens by their names, or left out."""

    def decode(self, ids: Sequence[int] | np.ndarray, skip_special: bool = False) -> str:
        """The text that ids stand for; what is not UTF-8 becomes U+FFFD.

        Raises InputError for an id outside the vocabulary.
        """
        return self.decode_bytes(ids, skip_special).decode("utf-8", errors="replace")

    def _checked(self, ids: Sequence[int] | np.ndarray, skip_special: bool) -> list[int]:
        array = np.asarray(ids)
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise InputError(
                f"ids: got shape {array.shape} of {array.dtype}, expected one row of integers"
            )
        outside = np.flatnonzero((array < 0) | (array >= self.vocab_size))
        if outside.size:
            raise InputError(
                f"ids: {array[outside[0]]} at position {outside[0]} is not a token, "
                f"expected 0 to {self.vocab_size - 1}"
            )
        unwanted = set(self.special.values()) if skip_special else set()
        return [i for i in array.tolist() if i not in unwanted]

    def save_pretrained(self, directory: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` for Hugging Face's AutoTokenizer.

        Both at once, other files stay. CheckpointError if the directory cannot be written.
        """
        with atomic_directory(directory) as folder:
            self.write(folder)

    def write(self, folder: str | Path) -> None:
        """Write both files into a directory that exists, as `atomic_directory` gives one."""
        for name, content in (("", self._json()), ("_config", self._config())):
            with atomic_write(Path(folder, f"tokenizer{name}.json"), "w") as file:
                file.write(json.dumps(content, ensure_ascii=False, indent=1) + "\n")

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Self:
        """The tokenizer that `save_pretrained` wrote, or that Hugging Face saved again.

        Raises CheckpointError, naming the file, for anything that would encode differently.
        """
        tokenizer = cls._from_json(Path(directory, "tokenizer.json"))
        tokenizer._require(Path(directory, "tokenizer.json"), tokenizer._json(), exact=True)
        # Hugging Face adds keys of its own to this file when it saves.
        tokenizer._require(Path(directory, "tokenizer_config.json"), tokenizer._config())
        return tokenizer

    @classmethod
    @abstractmethod
    def _from_json(cls, path: Path) -> Self: ...

    def _require(self, path: Path, wanted: dict[str, Any], exact: bool = False) -> None:
        found = read_json(path)
        if not isinstance(found, dict):
            raise CheckpointError(f"{path}: holds a {type(found).__name__}, expected an object")
        found.pop("tokenizer_class", None)  # a name of Hugging Face's, new in each major version
        wanted = {key: value for key, value in wanted.items() if key != "tokenizer_class"}
        for key in sorted(wanted.keys() | found.keys() if exact else wanted):
            here = key in found and key in wanted
            # Compared as text: in Python, 1, 1.0 and true would be equal.
            if not here or _canonical(found[key]) != _canonical(wanted[key]):
                raise CheckpointError(
                    f"{path}: {key!r} is not that of a {type(self).__name__} of ours"
                )

    def _config(self) -> dict[str, Any]:
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "pad_token": self.pad_token,
            "clean_up_tokenization_spaces": False,  # it would delete spaces before punctuation
            "split_special_tokens": True,
        }

    @abstractmethod
    def _json(self) -> dict[str, Any]: ...

    def _wrap(self, pre_tokenizer: dict, decoder: dict | None, model: dict) -> dict[str, Any]:
        """`tokenizer.json` around the parts in which the two kinds differ."""
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        added = [
            {"id": i, "content": name, **flags, "special": True}
            for name, i in sorted(self.special.items(), key=lambda item: item[1])
        ]
        # transformers writes these two empty templates where there was null; having them from the
        # start, a file that it has saved again is equal to ours.
        first, second = ({"Sequence": {"id": s, "type_id": t}} for s, t in (("A", 0), ("B", 1)))
        template = {"single": [first], "pair": [first, second], "special_tokens": {}}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": {"type": "TemplateProcessing", **template},
            "decoder": decoder,
            "model": model,
        }


class ByteTokenizer(Tokenizer):
    """Bytes are ids 0 … 255, the special tokens 256 … 263 (module docstring)."""

    def __init__(self) -> None:
        super().__init__({name: 256 + i for i, name in enumerate(SPECIAL_TOKENS)}, SPECIAL_TOKENS)
        self._spelled = [bytes([b]) for b in range(256)] + [s.encode() for s in SPECIAL_TOKENS]

    def encode(self, text: str | bytes, allow_special: bool = False) -> np.ndarray:
        """(N,) int64 ids, one a byte of the text in UTF-8.

        With `allow_special`, the spelling of a special token becomes that token. Raises InputError
        for text that UTF-8 cannot hold.
        """
        data = _utf8(text)
        if not allow_special:
            return np.frombuffer(data, np.uint8).astype(np.int64)
        pattern = b"|".join(map(re.escape, self._spelled[256:]))
        ids: list[int] = []
        for piece in re.split(b"(" + pattern + b")", data):
            ids += [self._spelled.index(piece)] if piece in self._spelled[256:] else piece
        return np.array(ids, np.int64)

    def decode_bytes(self, ids: Sequence[int] | np.ndarray, skip_special: bool = False) -> bytes:
        """The bytes that ids stand for; special tokens by their names, or left out."""
        return b"".join([self._spelled[i] for i in self._checked(ids, skip_special)])

    @classmethod
    def _from_json(cls, path: Path) -> Self:
        return cls()  # nothing to choose: the whole file must be the one that we write

    def _json(self) -> dict[str, Any]:
        # use_regex: GPT-2's rule cuts text into words first; without merges that changes nothing.
        flags = {"add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        level = {"type": "ByteLevel", **flags}
        unused = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
        off = ("fuse_unk", "byte_fallback", "ignore_merges")
        vocabulary = {character: byte for byte, character in enumerate(byte_characters())}
        model = {"type": "BPE", **dict.fromkeys(unused), **dict.fromkeys(off, False)}
        return self._wrap(level, level, {**model, "vocab": vocabulary, "merges": []})


class WordTokenizer(Tokenizer):
    """One token per word of a fixed list; words stand between white space.

    `tokens`: printable words without spaces, in the order of their ids, no two equal, the five of
    WORD_SPECIAL_TOKENS among them. Raises InputError for another list.

    >>> words = WordTokenizer(["<pad>", "<bos>", "<eos>", "<think>", "</think>", "7", "+", "16"])
    >>> words.encode("7 + 16").tolist(), words.decode([2, 5])
    ([5, 6, 7], '<eos> 7')
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        for token in tokens:
            if not isinstance(token, str) or not token.isprintable() or not _WORD.fullmatch(token):
                raise InputError(f"tokens: {token!r} is not a printable word without spaces")
        self.tokens = tuple(tokens)
        self._id_of = {token: i for i, token in enumerate(tokens)}
        missing = [name for name in WORD_SPECIAL_TOKENS if name not in self._id_of]
        if missing or len(self._id_of) < len(self.tokens):
            raise InputError(f"tokens: expected different words, {WORD_SPECIAL_TOKENS} among them")
        special = {name: self._id_of[name] for name in WORD_SPECIAL_TOKENS}
        super().__init__(special, WORD_SPECIAL_TOKENS)
        self.vocab_size = len(self.tokens)

    def encode(self, text: str | bytes, allow_special: bool = False) -> np.ndarray:
        """(N,) int64 ids, one a word.

        Raises InputError for a word outside the list and, unless `allow_special`, for the name of
        a special token: a formal language has no other spelling for it.
        """
        ids = []
        for word in _WORD.findall(_utf8(text).decode(errors="replace")):
            if word not in self._id_of:
                raise InputError(f"text: {word!r} is not one of the {self.vocab_size} words")
            if word in self.special and not allow_special:
                raise InputError(f"text: {word!r} is a special token, expected plain words")
            ids.append(self._id_of[word])
        return np.array(ids, np.int64)

    def decode_bytes(self, ids: Sequence[int] | np.ndarray, skip_special: bool = False) -> bytes:
        """The words that ids stand for, a space between them, in UTF-8."""
        return " ".join([self.tokens[i] for i in self._checked(ids, skip_special)]).encode()

    @classmethod
    def _from_json(cls, path: Path) -> Self:
        try:
            vocabulary = read_json(path)["model"]["vocab"]
            by_id = {i: token for token, i in vocabulary.items()}
            return cls([by_id[i] for i in range(len(vocabulary))])
        except (KeyError, IndexError, TypeError, AttributeError, InputError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{path}: holds no list of words of a WordTokenizer") from None

    def _json(self) -> dict[str, Any]:
        # The empty word is not in the list: the tokenizers library refuses unknown words, as we do.
        model = {"type": "WordLevel", "vocab": self._id_of, "unk_token": ""}
        return self._wrap({"type": "WhitespaceSplit"}, None, model)


def load_tokenizer(directory: str | Path) -> ByteTokenizer | WordTokenizer:
    """The tokenizer of a directory, of whichever kind its `tokenizer.json` says.

    Raises CheckpointError, naming the file, for anything that `save_pretrained` did not write.
    """
    say(recover_directory(directory))
    path = Path(directory, "tokenizer.json")
    if Path(directory).is_dir() and not path.exists():
        raise CheckpointError(f"no tokenizer here: {directory} holds no tokenizer.json")
    return (WordTokenizer if _is_of_words(path) else ByteTokenizer).from_pretrained(directory)


def _is_of_words(path: Path) -> bool:
    content = read_json(path)
    model = content.get("model") if isinstance(content, dict) else None
    return isinstance(model, dict) and model.get("type") == "WordLevel"


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _utf8(text: str | bytes) -> bytes:
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise InputError(f"text: got a {type(text).__name__}, expected str or bytes")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"text: character {error.start} is half a surrogate pair, which UTF-8 cannot hold"
        ) from None
