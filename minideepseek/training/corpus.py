r"""Text to learn from, and text to be judged by

A language model needs a megabyte of real text; a textbook should not need a download. Every Python
installation carries one: the docstrings of its standard library, technical English by many hands.
They are read from the sources with `ast`; no module is imported. A document is one docstring of at
least 100 characters. `--text` reads your own files instead; a long file becomes documents of at
most 4,096 characters, cut between paragraphs where possible.

How a number stays honest
-------------------------
Held-out text says whether a model has learned the language or the text. It does so only if it is
not in the training text, and documentation copies itself: `tkinter` says the same of every widget,
`asyncio` of every method. Three steps, in this order:

1. Split by content. A document is held out when the SHA-256 of its text, read as a fraction in
   [0, 1), is below `held_out`. The answer depends on that document alone: another document may come
   or go, files may be renamed or reordered, and no text changes sides.
2. Remove what is held out, and what was read before, from the rest, a paragraph at a time. A
   paragraph becomes its words in lower case, its shingles are all runs of five words (a shorter
   paragraph is one shingle), and it is dropped when at least half of its shingles occurred
   earlier. Held-out documents are read first, so the text that judges does not depend on the
   training text. An exact copy has all its shingles in common, whatever its line breaks,
   capitals or punctuation: no paragraph of the held-out text is left in the training text.
3. Measure something that does not learn, on the same bytes (`compressor_baselines`).

Counting shingles is exact, unlike MinHash, which estimates the same overlap by sampling and pays
off at billions of documents; it is also how PaLM's authors looked for leaks (8-grams, 70 %), and
GPT-3's (13-grams). Short headings such as "Example:" survive only once: a copy is a copy.

What this does not do: two docstrings of one module may stand on different sides, as two pages of
one book would. The score is for new paragraphs about known things. Holding out whole modules would
be stricter, but a tenth of them is 40 documents, of which two or three decide the result.

What it finds (`python -m minideepseek.training.data`, Python 3.11.7, 3 seconds):

    read       4,105 documents  1,560,681 bytes         bits per byte of the held-out text
    removed    1,505 paragraphs   160,673 bytes         bz2 2.560      primed 2.185
    training   3,478 documents  1,252,493 bytes         lzma 2.641     primed 2.010
    held out     401 documents    144,853 bytes         lzma primed, copies left in: 1.768

The figures differ between Python releases, and so may the side on which a document falls, if a
release changed its text: compare runs by `corpus_hash`.

Sources: Lee et al. 2022 (Deduplicating training data makes language models better); Brown et al.
2020, appendix C (GPT-3); Chowdhery et al. 2022, §8 (PaLM).
"""

import ast
import hashlib
import math
import os
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from minideepseek.errors import InputError

SHORTEST = 100  # characters of a docstring worth learning from
PIECE = 4096  # characters of a document cut from a longer file
SHINGLE = 5  # words

_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_STATEMENTS = (ast.stmt, ast.ExceptHandler, ast.match_case)  # expressions hold no docstrings


@dataclass(frozen=True)
class Document:
    """One text; `name` says where it came from and is never learned from."""

    name: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Two sets of documents that share no paragraph, and the paragraphs that were dropped."""

    train: list[Document]
    held_out: list[Document]
    removed: list[str]


def docstring_corpus() -> list[Document]:
    """The docstrings of the running Python's standard library, sorted by module.

    Tests, installed packages and files that cannot be parsed are left out. Raises InputError where
    the library comes without its sources.
    """
    root = Path(sysconfig.get_path("stdlib"))
    modules = {}
    for file in _files_under(root, lambda name: name in _NOT_LIBRARY):
        if file.suffix == ".py":
            parts = file.relative_to(root).with_suffix("").parts
            modules[".".join(parts).removesuffix(".__init__")] = file
    documents = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escape sequences in the library's own strings
        for name in sorted(modules):
            try:
                documents += list(_docstrings(ast.parse(modules[name].read_bytes()), name))
            except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
                continue
    if not documents:
        raise InputError(f"text: no docstrings in {root}, expected Python sources; give a path")
    return documents


def _docstrings(node: ast.AST, name: str) -> Iterator[Document]:
    if isinstance(node, (ast.Module, *_DEFINITIONS)):
        text = ast.get_docstring(node) or ""  # cleaned by inspect.cleandoc
        if len(text) >= SHORTEST:
            yield Document(name, text.encode("utf-8", "replace").decode())  # no lone surrogates
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _DEFINITIONS):
            yield from _docstrings(child, f"{name}.{child.name}")
        elif isinstance(child, _STATEMENTS):
            yield from _docstrings(child, name)


def _files_under(folder: Path, skip: Callable[[str], bool]) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not skip(name))
        yield from (Path(place, name) for name in sorted(files) if not skip(name))


def read_texts(
    paths: Iterable[str | Path], minimum: int = 1, notice: Callable[[str], None] = print
) -> list[Document]:
    """The UTF-8 text of files and, with all below them, of folders; by path.

    In folders, names that begin with a dot are passed over. Files that are not text (bytes that
    are not UTF-8, or a NUL) are skipped, and `notice` is told how many. Raises InputError for a
    path that is missing or cannot be read, and for less than `minimum` bytes of text in all.
    """
    paths = list(paths)
    if "" in paths:  # pathlib would take it for the current folder
        raise InputError("text: got an empty path, expected a file or a folder")
    files = sorted({file for path in paths for file in _named_files(Path(path))})
    documents = []
    skipped = 0
    for file in files:
        text = _text_of(file)
        if text is None:
            skipped += 1
        else:
            documents += _pieces(str(file), text, PIECE)
    if skipped:
        notice(f"skipped {skipped:,} of {len(files):,} files: not UTF-8 text")
    size = sum(len(document.text.encode()) for document in documents)
    if size < minimum:
        raise InputError(
            f"text: {size:,} bytes of text in {len(files):,} files, expected at least {minimum:,}"
        )
    if len(documents) == 1:  # one part to learn from, one to be judged by
        only = documents[0]
        documents = _pieces(only.name, only.text, (len(only.text) + 1) // 2)
    return documents


def _named_files(path: Path) -> Iterable[Path]:
    if path.is_dir():
        return (f for f in _files_under(path, lambda name: name.startswith(".")) if f.is_file())
    if not path.is_file():
        raise InputError(f"text: {path} is not there, expected a file or a folder")
    return [path]


def _text_of(file: Path) -> str | None:
    try:
        data = file.read_bytes()
        return None if b"\0" in data else data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return None
    except OSError as error:
        raise InputError(f"text: {file} cannot be read ({error.strerror})") from None


def _paragraphs(text: str) -> list[str]:
    return [part.rstrip() for part in re.split(r"\n\s*\n", text.strip("\n")) if part.strip()]


def _pieces(name: str, text: str, size: int) -> list[Document]:
    """Documents of at most `size` characters, cut between paragraphs, else lines, else anywhere."""
    line_or_less = re.compile(rf"(?s).{{1,{size}}}(?:\n|\Z)|.{{1,{size}}}")
    pieces: list[str] = []
    for paragraph in _paragraphs(text):
        for part in line_or_less.findall(paragraph):
            part = part.strip("\n")
            if pieces and len(pieces[-1]) + 2 + len(part) <= size:
                pieces[-1] += "\n\n" + part
            else:
                pieces.append(part)
    many = len(pieces) > 1
    return [Document(f"{name}[{i}]" if many else name, p) for i, p in enumerate(pieces)]


def split_documents(
    documents: Sequence[Document], held_out: float = 0.1
) -> tuple[list[Document], list[Document]]:
    """(training, held-out) documents, by a hash of each one's text.

    `held_out` is the expected share. So that a small text has both, the lowest hash is always held
    out and the highest never. Raises InputError for a share outside (0, 1) and for fewer than two
    different documents.
    """
    if not 0 < held_out < 1:
        raise InputError(f"held_out: got {held_out}, expected a share between 0 and 1")
    place = [_fraction(document.text) for document in documents]
    if len(set(place)) < 2:
        raise InputError(
            f"documents: got {len(set(place))} different ones, expected at least two, "
            "one to learn from and one to be judged by"
        )
    limit = min(max(held_out, math.nextafter(min(place), 1)), max(place))
    train = [d for d, p in zip(documents, place, strict=True) if p >= limit]
    return train, [d for d, p in zip(documents, place, strict=True) if p < limit]


def _fraction(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def shingles(paragraph: str) -> list[str]:
    """All runs of SHINGLE words, in lower case; a shorter paragraph is one shingle."""
    words = re.findall(r"\w+", paragraph.casefold()) or [paragraph.strip()]
    return [" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))]


def remove_duplicates(
    documents: Iterable[Document], seen: set[str]
) -> tuple[list[Document], list[str]]:
    """The documents without paragraphs at least half of whose shingles are in `seen`.

    `seen` grows by the shingles of what is kept. Also returns the paragraphs that were dropped; a
    document of which nothing remains is dropped too.
    """
    kept: list[Document] = []
    removed: list[str] = []
    for document in documents:
        paragraphs = []
        for paragraph in _paragraphs(document.text):
            new = shingles(paragraph)
            if 2 * sum(shingle in seen for shingle in new) >= len(new):
                removed.append(paragraph)
            else:
                seen.update(new)
                paragraphs.append(paragraph)
        if paragraphs:
            kept.append(Document(document.name, "\n\n".join(paragraphs)))
    return kept, removed


def prepare_corpus(documents: Sequence[Document], held_out: float = 0.1) -> Corpus:
    """Split by hash, then freed of near-duplicates, the held-out text first (module docstring).

    Raises InputError where no training text is left.
    """
    train, judge = split_documents(documents, held_out)
    seen: set[str] = set()
    judge, removed = remove_duplicates(judge, seen)
    train, removed_too = remove_duplicates(train, seen)
    if not train:
        raise InputError("documents: nothing is left to learn from, expected text that differs")
    return Corpus(train, judge, removed + removed_too)


def corpus_hash(documents: Iterable[Document]) -> str:
    """SHA-256, in hexadecimal, of the texts in their order; names do not count."""
    digest = hashlib.sha256()
    for document in documents:
        data = document.text.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
