"""JSON itself, tokenizers, text to learn from, Python sources that hold docstrings."""

import ast
import functools
import inspect
import json
import random
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from minideepseek.errors import MiniDeepSeekError
from minideepseek.model.strict_json import read_json
from minideepseek.model.tokenizer import ByteTokenizer, WordTokenizer, load_tokenizer
from minideepseek.training import corpus
from tests.hostile import strict
from tests.hostile.cases import SPECIAL, Case, Files, Wrong, change_bytes
from tests.hostile.json_changes import RAW, write_json
from tests.hostile.runs import change, meaning, parsed

JSON_BASES: tuple[Files, ...] = (
    {"x.json": '{"a": [1, -2.5e3, true, null, "\\u00e9\\n"], "b": {"c": {}}, "": "𝄞"}'.encode()},
    {"x.json": b'[0, 1e-7, "\\ud834\\udd1e", {"k": [[[]]]}]'},
)  # fmt: skip


def make_json(rng: random.Random, base: Files) -> Case:
    """As for all JSON, more of it from the grammar."""
    if rng.random() < 0.4:
        text = write_json(rng) if rng.random() < 0.9 else rng.choice(RAW)
        return Case({"x.json": text.encode("utf-8", "surrogatepass")}, "from the grammar")
    return change(rng, base, "x.json")


def read_any(folder: Path) -> Any:
    """x.json."""
    return read_json(folder / "x.json")


def judge_json(folder: Path, contents: dict[str, bytes | None], outcome: Any) -> None:
    """Accepted exactly where the oracle does, with an equal value."""
    try:
        wanted, good = parsed(contents.get("x.json")), True
    except strict.NotStrict:
        wanted, good = None, False
    if isinstance(outcome, MiniDeepSeekError) == good:
        raise Wrong(f"{outcome!r:.300}; {'good' if good else 'bad'} JSON")
    if good and not strict.same(outcome, wanted):
        raise Wrong(f"{outcome!r:.300}, expected {wanted!r:.300}")


# -------------------------------------------------------------------------------------- tokenizers


WORDS = ("<pad>", "<bos>", "<eos>", "<think>", "</think>", "7", "+", "ä", "é16")


@functools.cache
def tokenizer_bases() -> tuple[Files, ...]:
    """Both kinds."""
    made = []
    for tokenizer in (WordTokenizer(WORDS), ByteTokenizer()):
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            made.append({path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())})
    return tuple(made)


def make_tokenizer(rng: random.Random, base: Files) -> Case:
    """One of the two files; the vocabulary more than the rest."""
    name = rng.choice(("tokenizer.json", "tokenizer.json", "tokenizer_config.json"))
    if name == "tokenizer_config.json" or rng.random() < 0.6:
        case = change(rng, base, name)
        # Hugging Face's own additions to the configuration are welcome, and nothing else.
        return case
    content = json.loads(base[name])
    words: dict[str, Any] = content["model"]["vocab"]
    kind, word = rng.randrange(7), rng.choice(tuple(words))
    if kind == 0:
        words[word] = rng.choice((0, -1, 5, 10**12, 2**63, 1.0, 5.0, True, None, "5", [5], 10**400))
    elif kind == 1:
        del words[word]
    elif kind == 2:
        words[rng.choice(("new", "", " ", "a b", "\n", "\ud800", "<|x|>", "é"))] = rng.choice(
            (len(words), len(words) + 1, 0, -1)
        )
    elif kind == 3:
        other = rng.choice(tuple(words))
        words[word], words[other] = words[other], words[word]
    elif kind == 4:
        content["model"]["vocab"] = rng.choice((list(words), [], {}, None, list(words.items())))
    elif kind == 5:
        content["model"]["type"] = rng.choice(("BPE", "WordLevel", "Unigram", None, []))
    else:
        entry = rng.choice(content["added_tokens"])
        entry[rng.choice(tuple(entry))] = meaning(rng, None)
    return Case({name: json.dumps(content).encode()}, f"vocabulary, change {kind} of {word!r}")


def judge_tokenizer(folder: Path, contents: dict[str, bytes | None], outcome: Any) -> None:
    """Only the file that this tokenizer would write; every word has the id of the vocabulary."""
    if isinstance(outcome, MiniDeepSeekError):
        return
    try:
        held = parsed(contents.get("tokenizer.json"))
        config = parsed(contents.get("tokenizer_config.json"))
    except strict.NotStrict:
        raise Wrong("a tokenizer out of no JSON") from None
    with tempfile.TemporaryDirectory(dir=folder.parent) as written:
        outcome.save_pretrained(written)
        own, own_config = (strict.parse(Path(written, name).read_bytes()) for name in (
            "tokenizer.json", "tokenizer_config.json"))  # fmt: skip
    own.pop("tokenizer_class", None), held.pop("tokenizer_class", None)
    own_config.pop("tokenizer_class")
    if not strict.same(own, held):
        raise Wrong("accepted a file that it would not write")
    if not strict.same(own_config, {key: config.get(key) for key in own_config}):
        raise Wrong("accepted a configuration that means something else")
    for word, number in held["model"]["vocab"].items():
        one = outcome.encode(word, allow_special=True).tolist() if outcome.vocab_size < 264 else [
            number]  # fmt: skip
        if one != [number] or not 0 <= number < outcome.vocab_size:
            raise Wrong(f"{word!r} is {one}, the file says {number}")


# ---------------------------------------------------------------------------------- text to learn


TEXTS: tuple[Files, ...] = (
    {"a.txt": "One paragraph.\n\nAnother one, wïth é.\n".encode(),
     "b/c.md": b"line\nline\n\n\n\nend", ".hidden": b"not read"},
    {"long.txt": b"word " * 2000 + b"\n\n" + b"x" * 9000},
)  # fmt: skip


def make_text(rng: random.Random, base: Files) -> Case:
    """Changed bytes, or something that is no file of text."""
    name = rng.choice(tuple(base))
    if rng.random() < 0.1:
        kind = rng.choice(SPECIAL)
        return Case({name: kind}, kind)
    data, note = change_bytes(rng, base[name])
    for _ in range(rng.randrange(3)):
        data, more = change_bytes(rng, data)
        note += f"; {more}"
    return Case({name: data}, note)


def read_text(folder: Path) -> list[corpus.Document]:
    """All text below the folder."""
    return corpus.read_texts([folder], 1, lambda notice: None)


def judge_text(folder: Path, contents: dict[str, bytes | None], outcome: Any) -> None:
    """Every character that is no white space, once and in order, of every file of UTF-8."""
    wanted = ""
    for name in sorted(contents, key=lambda name: Path(folder, name)):
        data = contents[name]
        if data is None or b"\0" in data or name.startswith("."):
            continue
        try:
            wanted += "".join(data.decode("utf-8-sig").split())
        except UnicodeDecodeError:
            continue
    found = "" if isinstance(outcome, MiniDeepSeekError) else "".join(
        "".join(document.text.split()) for document in outcome)  # fmt: skip
    if found != wanted:
        raise Wrong(f"{found!r:.200}, the files hold {wanted!r:.200}")


SOURCES: tuple[Files, ...] = (
    {"good.py": b'"""' + b"A docstring of a module that is long enough to be kept. " * 3 + b'"""\n',
     "bad.py": b'class A:\n    def f(self):\n        """' + b"Says what it does. " * 9 + b'"""\n'},
)  # fmt: skip
SOURCE_ODDITIES = (
    b"(" * 150, b"(" * 10_000, b"-" * 10_000 + b"1", b"a" + b".b" * 20_000, b"f" + b"()" * 10_000,
    b"1" + b"+1" * 20_000, b"[" * 90 + b"]" * 90, b"lambda: " * 5000 + b"0",
    b"# coding: nonsense\n", b"# -*- coding: utf-16 -*-\n", b"# coding: rot13\n", b"\\" * 999,
    b"'\\N{x}'", b"9" * 5000,
    b"if 1:\n" * 120, b"'\\ud800'", b"f'{'" * 200, b"\xff", b"\0", b"x = '\\d'\n", b"not " * 5000,
)  # fmt: skip


def make_source(rng: random.Random, base: Files) -> Case:
    """bad.py changed, with something in it that is hard on a parser."""
    data, note = base["bad.py"], ""
    if rng.random() < 0.6:
        data, note = change_bytes(rng, data)
    if rng.random() < 0.5:
        odd = rng.choice(SOURCE_ODDITIES)
        data, note = rng.choice((odd, odd + b"\n" + data, data + odd)), note + f"; {odd[:20]!r}"
    return Case({"bad.py": data}, note)


def read_source(folder: Path) -> list[corpus.Document]:
    """The docstrings of a library that lies here."""
    with mock.patch.object(corpus.sysconfig, "get_path", lambda name: str(folder)):
        return corpus.docstring_corpus()


def judge_source(folder: Path, contents: dict[str, bytes | None], outcome: Any) -> None:
    """The good module's always; the other's where it can be parsed."""
    if isinstance(outcome, MiniDeepSeekError):
        raise Wrong(f"refused: {outcome}")
    found = {document.name: document.text for document in outcome}
    good = inspect.cleandoc(ast.literal_eval((contents["good.py"] or b"").decode()))
    if found.get("good") != good:
        raise Wrong("the good module's docstring is not there")
    if contents["bad.py"] == SOURCES[0]["bad.py"] and "bad.A.f" not in found:
        raise Wrong("the method's docstring is not there")


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer."""
    return load_tokenizer(folder)
