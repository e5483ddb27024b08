r"""Chapter 5 — A model that thinks, for its user: a question in, thinking and answer out, apart

R1 writes its thinking between <think> and </think> and the answer behind it. What a user sees is
the second part; the first can be shown, folded or dropped. The tags are tokens, not text: neither a
prompt nor the letters of a response can stand for them (see model/tokenizer.py), and a response is
well-formed only if its tokens say so.

R1 is evaluated at temperature 0.6 and top-p 0.95: greedy decoding of long thoughts repeats itself,
and differs much between checkpoints. Training samples at temperature 1 from the whole distribution,
for the policy that is improved must be the one that is sampled.

The model may write anything, and is reported, not trusted: `Thought.malformed` says in a few words
what is wrong with a response, and nothing that a model writes raises an error.

    reasoner = ReasoningModel.from_pretrained("runs/journey/reasoning/model")
    print(reasoner.think("9 8 5 3 > 13 :").answer)
    for part, piece in reasoner.stream("9 8 5 3 > 13 :"):
        print(piece, end="")
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from minideepseek.errors import InputError
from minideepseek.model import generate
from minideepseek.model.tokenizer import Tokenizer, load_tokenizer
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning.thinking import Thought, parse_thinking

TEMPERATURE, TOP_P = 0.6, 0.95  # of R1's evaluation


class ReasoningModel:
    """A DeepSeekV3 and its tokenizer.  max_new_tokens: the most that a response may have.

    InputError for a tokenizer of another vocabulary and a count below 1.

    >>> from minideepseek.model.config import DeepSeekV3Config
    >>> from minideepseek.model.tokenizer import ByteTokenizer
    >>> model = DeepSeekV3(DeepSeekV3Config.preset("nano"), np.random.default_rng(0))
    >>> ReasoningModel(model, ByteTokenizer(), max_new_tokens=8).think("2 + 2 =").malformed is None
    False
    """

    def __init__(self, model: DeepSeekV3, tokenizer: Tokenizer, max_new_tokens: int = 96) -> None:
        if tokenizer.vocab_size != model.config.vocab_size:
            raise InputError(
                f"tokenizer: got {tokenizer.vocab_size} tokens, expected vocab_size = "
                f"{model.config.vocab_size} of the model"
            )
        if type(max_new_tokens) is not int or max_new_tokens < 1:
            raise InputError(
                f"max_new_tokens: got {max_new_tokens!r}, expected an integer of at least 1"
            )
        self.model, self.tokenizer, self.max_new_tokens = model, tokenizer, max_new_tokens

    @classmethod
    def from_pretrained(cls, directory: Any, max_new_tokens: int = 96) -> ReasoningModel:
        """The model and the tokenizer of a directory or checkpoint; CheckpointError as they do."""
        tokenizer = load_tokenizer(directory)
        return cls(DeepSeekV3.from_pretrained(directory), tokenizer, max_new_tokens)

    def think(
        self, prompt: str, temperature: float = TEMPERATURE, top_p: float = TOP_P, rng: Any = None
    ) -> Thought:
        """The response to `prompt`, thinking and answer apart; Thought.malformed, None or why.

        temperature: 0 for greedy decoding; rng: a Generator, None makes one from seed 2024. As many
        tokens as max_new_tokens and the model's positions allow. InputError for a prompt that the
        tokenizer cannot encode or that leaves no position for a response, and bad sampling values.
        """
        ids = list(self._tokens(prompt, temperature, top_p, rng))
        ended = ids[-1] == self.tokenizer.eos_token_id
        return self._parse(ids[:-1] if ended else ids, ended)

    def stream(
        self, prompt: str, temperature: float = TEMPERATURE, top_p: float = TOP_P, rng: Any = None
    ) -> Iterator[tuple[str, str]]:
        """Pairs (part, piece) as they are made, part "thinking" or "answer".

        The pieces of a part, put together, are what `think` gives for a well-formed response, up to
        white space at its ends; the tags between the parts are left out. Arguments as `think`.
        """
        return self._pieces(self._tokens(prompt, temperature, top_p, rng))

    def _tokens(self, prompt: str, temperature: float, top_p: float, rng: Any) -> Iterator[int]:
        """The tokens of a response, the end token too; the arguments are checked at once."""
        text = self.tokenizer.encode(prompt)
        ids = np.concatenate([[self.tokenizer.bos_token_id], text])[None]
        room = self.model.config.max_position_embeddings - ids.shape[1]
        if room < 1:
            raise InputError(
                f"prompt: got {ids.shape[1]} tokens, expected fewer than "
                f"max_position_embeddings = {self.model.config.max_position_embeddings}"
            )
        steps = generate.stream(
            self.model,
            ids,
            min(self.max_new_tokens, room),
            temperature=temperature,
            top_p=top_p,
            eos_token_id=self.tokenizer.eos_token_id,
            rng=rng,
        )
        return (int(tokens[0]) for tokens in steps)

    def _parse(self, ids: list[int], ended: bool) -> Thought:
        text = self.tokenizer.decode(ids)
        thought = parse_thinking(text, ended)
        for name, token in zip(("<think>", "</think>"), self._tags, strict=True):
            if thought.malformed is None and text.count(name) != ids.count(token):
                return replace(thought, malformed=f"{name} spelled in letters is not the token")
        return thought

    @property
    def _tags(self) -> tuple[int, int]:
        return self.tokenizer.think_token_id, self.tokenizer.end_think_token_id

    def _pieces(self, tokens: Iterator[int]) -> Iterator[tuple[str, str]]:
        part, written, opened, closed = "answer", _Written(self.tokenizer), False, False
        for place, token in enumerate(tokens):
            opens = place == 0 and token == self._tags[0]
            closes = opened and not closed and token == self._tags[1]
            ends = token == self.tokenizer.eos_token_id
            if not (opens or closes or ends):
                if piece := written.add(token):
                    yield part, piece
                continue
            if piece := written.rest():
                yield part, piece
            part, written = "thinking" if opens else "answer", _Written(self.tokenizer)
            opened, closed = opened or opens, closed or closes
        if piece := written.rest():  # the length limit cut a character
            yield part, piece


class _Written:
    """One part's tokens as they come; a piece is the text that is certain by now."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.ids, self.sent = tokenizer, list[int](), 0
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        self.ids.append(token)
        data = self.tokenizer.decode_bytes(self.ids)
        new, self.sent = data[self.sent :], len(data)
        return self.decoder.decode(new)

    def rest(self) -> str:
        return self.decoder.decode(b"", final=True)
