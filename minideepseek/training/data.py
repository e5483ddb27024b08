r"""From documents to batches, and what a file compressor would do

Packing
-------
Documents become one long row of tokens, each followed by the end token, and training reads windows
of T + 1 tokens from it: T to read, and for each the next one to predict. A window may begin in one
document and end in another, and nothing masks the first from the second: DeepSeek-V3 packs so and
applies no cross-sample mask (V3 §4.1). No token is padding and no batch is wasted; the model
learns that after an end token the past matters little.

    W h e n ␃ R e t u r n s ␃ A            the row is a circle: after the last ␃ comes the first
    └────┬────┘                             document, so that each token has a predecessor
         └────┬────┘   windows of T = 4: neighbours share one token, the targets tile the circle

Epochs
------
An epoch covers the circle of M tokens by ⌈M / T⌉ windows, laid end to end from a random offset and
read in random order. Every token is a target at least once in an epoch and at most twice (fewer
than T of them, where the last window overlaps the first); the next epoch cuts elsewhere. Batches
run on over the end of an epoch. The loader's whole state is its generator's state at the start of
the epoch and how many windows it has given since: a resumed run sees the same windows.

Bits per byte
-------------
A held-out text is scored by its code length, the negative logarithm of its probability:

    bits per byte  =  Σᵢ −log₂ p(xᵢ | x₍<ᵢ₎) / N   =   mean cross-entropy in nats / ln 2

`evaluation_windows` arranges that each of the N tokens is predicted exactly once: a window slides
by `stride` and counts only what the one before did not, so that a target has at least T − stride
tokens before it. Only the first window's targets have fewer, and the very first has one: the end
token that precedes every document. A document's end is to be predicted too and counts as a byte.

A compressor's code length is the size of its file, so it can be compared directly:

  alone    8 · size(held-out) / N: it starts from nothing and learns as it reads
  primed   8 · (size(training + held-out) − size(training)) / N: it has read the training text too

Primed lzma is the honest opponent: it looks up any phrase of the whole training text, a lookup that
a small model cannot afford, and on documentation, full of stock phrases, that is worth much.
bz2 sorts blocks of 900 kB, so of the training text only the part in its last block helps.
"""

import bz2
import json
import lzma
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from minideepseek.errors import CheckpointError, InputError
from minideepseek.model.config_checks import shown
from minideepseek.model.tokenizer import ByteTokenizer, Tokenizer
from minideepseek.training.corpus import (
    Document,
    corpus_hash,
    docstring_corpus,
    prepare_corpus,
    read_texts,
    split_documents,
)

PRIMING = 32 << 20  # bytes of training text a compressor is primed with: lzma needs 12 times that


def pack(documents: Iterable[Document], tokenizer: Tokenizer) -> np.ndarray:
    """(M,) uint16 (uint32 for a large vocabulary) ids: each document followed by the end token.

    Raises InputError if there is no document.
    """
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    end = np.array([tokenizer.eos_token_id], dtype)
    rows = [row for d in documents for row in (tokenizer.encode(d.text).astype(dtype), end)]
    if not rows:
        raise InputError("documents: got none, expected at least one")
    return np.concatenate(rows)


class BatchLoader:
    """Batches of windows over the circle of `tokens`, epoch after epoch (module docstring).

    tokens: (M,) integers, M > sequence_length. `rng` belongs to the loader from now on: its draws
    are the order of the data and nothing else. Raises InputError for a text shorter than one
    sequence, and for a generator whose state JSON could not hold.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        batch_size: int,
        sequence_length: int,
        rng: np.random.Generator,
    ) -> None:
        if batch_size < 1 or sequence_length < 1:
            raise InputError(
                f"batch_size, sequence_length: got {batch_size}, {sequence_length}, "
                "expected at least 1"
            )
        if len(tokens) <= sequence_length:
            raise InputError(
                f"tokens: {len(tokens):,} tokens of text, expected more than one sequence "
                f"of {sequence_length:,}"
            )
        if not isinstance(rng.bit_generator, np.random.PCG64):
            kind = type(rng.bit_generator).__name__
            raise InputError(f"rng: got a {kind} generator, expected default_rng's PCG64")
        self.tokens = tokens
        self.batch_size = batch_size
        self.sequence_length = sequence_length
        self.windows_per_epoch = -(-len(tokens) // sequence_length)
        self.epoch = 0
        self._rng = rng
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._epoch_rng = self._rng.bit_generator.state
        offset = self._rng.integers(len(self.tokens))
        order = self._rng.permutation(self.windows_per_epoch)
        self._starts = (offset + self.sequence_length * order) % len(self.tokens)
        self._given = 0  # windows of this epoch

    def next_batch(self) -> np.ndarray:
        """(batch_size, sequence_length + 1) int64 ids; inputs are [:, :-1], targets [:, 1:]."""
        starts: list[int] = []
        while len(starts) < self.batch_size:
            if self._given == self.windows_per_epoch:
                self.epoch += 1
                self._begin_epoch()
            end = self._given + self.batch_size - len(starts)
            starts += self._starts[self._given : end].tolist()
            self._given = min(end, self.windows_per_epoch)
        places = np.array(starts)[:, None] + np.arange(self.sequence_length + 1)  # (B, T + 1)
        return self.tokens[places % len(self.tokens)].astype(np.int64)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on from here; numbers and names that JSON can hold."""
        return {
            "epoch": self.epoch,
            "given": self._given,
            "windows_per_epoch": self.windows_per_epoch,
            "rng": self._epoch_rng,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken: the batches that follow are the same, bit for bit.

        Raises CheckpointError for another text, sequence length or kind of generator; the loader
        is then as it was.
        """
        before = self._rng.bit_generator.state
        try:
            epoch, given, windows = (state[k] for k in ("epoch", "given", "windows_per_epoch"))
            if not all(type(n) is int for n in (epoch, given, windows)):
                raise TypeError
            restore_generator(self._rng, state["rng"])
        except (KeyError, TypeError, CheckpointError):
            raise CheckpointError("loader state: not one that state_dict made") from None
        if windows != self.windows_per_epoch or not 0 <= given <= windows or epoch < 0:
            self._rng.bit_generator.state = before
            raise CheckpointError(
                f"loader state: at window {shown(given)} of {shown(windows)}, expected one of "
                f"{self.windows_per_epoch} (another text or sequence_length?)"
            )
        self._begin_epoch()
        self.epoch, self._given = epoch, given


def restore_generator(rng: np.random.Generator, state: Any) -> None:
    """Put rng into a state of PCG64 that JSON held; for anything else CheckpointError, and rng
    stays as it was. (NumPy's own setter takes some of what it does not give back.)"""
    before = rng.bit_generator.state
    try:
        rng.bit_generator.state = state
        found = json.dumps(rng.bit_generator.state, sort_keys=True)
        if found == json.dumps(state, sort_keys=True):
            return
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        pass
    rng.bit_generator.state = before
    raise CheckpointError("generator: got no state of PCG64")


def evaluation_windows(
    tokens: np.ndarray, sequence_length: int, stride: int, batch_size: int = 16
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches (ids, mask): (b, T + 1) int64 and (b, T) bool, b ≤ batch_size.

    mask[i, t] marks the targets ids[i, t + 1] that count; over all batches each token of `tokens`
    counts exactly once, and each counted one beyond the first T has at least T − stride tokens
    before it. T is sequence_length, or all of a shorter text. Raises InputError unless
    1 ≤ stride ≤ sequence_length and there is a token.
    """
    if not 1 <= stride <= sequence_length:
        raise InputError(f"stride: got {stride}, expected 1 to sequence_length={sequence_length}")
    if not len(tokens) or batch_size < 1:
        raise InputError(
            f"tokens, batch_size: got {len(tokens)}, {batch_size}, expected at least 1 of each"
        )
    return _windows(tokens, min(sequence_length, len(tokens)), stride, batch_size)


def _windows(
    tokens: np.ndarray, length: int, stride: int, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    last = len(tokens) - length
    starts = np.minimum(np.arange(0, last + stride, stride), last)  # targets start … start + T − 1
    counted = np.concatenate([[0], starts[:-1] + length])  # targets before the window's own
    for i in range(0, len(starts), batch_size):
        rows = starts[i : i + batch_size, None]  # (b, 1)
        ids = tokens[rows + np.arange(-1, length)]  # (b, T + 1); index −1 is the last end token
        mask = rows + np.arange(length) >= counted[i : i + batch_size, None]  # (b, T)
        yield ids.astype(np.int64), mask


def joined_bytes(documents: Iterable[Document]) -> bytes:
    """The documents as a compressor reads them: each followed by a NUL, its end token."""
    return b"".join(document.text.encode() + b"\0" for document in documents)


def compressor_baselines(train: bytes, held_out: bytes) -> dict[str, float]:
    """Bits per byte of held_out by bz2 and lzma, alone and primed with the training text.

    Priming uses the last 32 MiB of `train`. lzma has preset 9 | EXTREME, a dictionary that holds
    everything and no container; bz2 its largest block. Keys: "bz2", "lzma", "bz2 primed",
    "lzma primed". Raises InputError if either text is empty.
    """
    if not train or not held_out:
        raise InputError(
            f"train, held_out: got {len(train)} and {len(held_out)} bytes, expected text in both"
        )
    train = train[-PRIMING:]
    bits = {}
    for name, size in (("bz2", lambda data: len(bz2.compress(data, 9))), ("lzma", _lzma_size)):
        bits[name] = 8 * size(held_out) / len(held_out)
        bits[f"{name} primed"] = 8 * (size(train + held_out) - size(train)) / len(held_out)
    return bits


def _lzma_size(data: bytes) -> int:
    # Left to itself the preset takes a dictionary of 64 MiB and 700 MB of memory for it.
    dictionary = min(max(len(data), 4096), 2 * PRIMING)
    preset = 9 | lzma.PRESET_EXTREME
    chain = [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": dictionary}]
    return len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=chain))


def main(paths: Sequence[str]) -> None:
    """Print what the corpus holds, what was removed, and what compressors make of it."""
    start = time.perf_counter()
    documents = read_texts(paths) if paths else docstring_corpus()
    read = time.perf_counter()
    corpus = prepare_corpus(documents)
    prepared = time.perf_counter()
    train, held_out = joined_bytes(corpus.train), joined_bytes(corpus.held_out)
    bits = compressor_baselines(train, held_out)
    compressed = time.perf_counter()
    parts = (("read", documents), ("training", corpus.train), ("held out", corpus.held_out))
    for name, part in parts:
        size = sum(len(document.text.encode()) for document in part)
        print(f"{name:14}{len(part):>7,} documents {size:>12,} bytes")
    size = sum(len(paragraph.encode()) for paragraph in corpus.removed)
    print(f"{'removed':14}{len(corpus.removed):>7,} paragraphs{size:>12,} bytes")
    windows = -(-len(pack(corpus.train, ByteTokenizer())) // 256)
    print(f"{'an epoch':14}{windows:>7,} windows of 256 bytes")
    for name, value in bits.items():
        print(f"{name:14}{value:7.3f} bits per byte, held out")
    leaky = compressor_baselines(*map(joined_bytes, split_documents(documents)))["lzma primed"]
    print(f"{'lzma primed':14}{leaky:7.3f} bits per byte, held out, copies left in")
    print(
        f"seconds: reading {read - start:.1f}, splitting and removing {prepared - read:.1f}, "
        f"compressors {compressed - prepared:.1f}; Python {sys.version.split()[0]}"
    )
    print(f"corpus {corpus_hash(corpus.train + corpus.held_out)}")


if __name__ == "__main__":
    main(sys.argv[1:])
