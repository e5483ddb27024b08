"""Whatever a model writes is reported, never raised; what streams is what is thought."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.errors import CheckpointError, InputError
from minideepseek.model import generate
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.tokenizer import ByteTokenizer
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning.r1.model import ReasoningModel
from minideepseek.reasoning.thinking import Thought, parse_thinking
from tests.reasoning.r1 import common
from tests.reasoning.r1.common import ECHO

BYTES = ByteTokenizer()


def byte_model(seed: int = 0) -> DeepSeekV3:
    return DeepSeekV3(DeepSeekV3Config.preset("nano"), np.random.default_rng(seed))


MODELS = {True: (common.model(), ECHO.tokenizer), False: (byte_model(), BYTES)}


def reasoner(words: bool, max_new_tokens: int = 96) -> ReasoningModel:
    return ReasoningModel(*MODELS[words], max_new_tokens)


def writes(ids):
    """The model writes these tokens, and no others."""
    return mock.patch.object(
        generate, "stream", lambda *_, **__: (np.array([token]) for token in ids)
    )


def joined(pieces, part: str) -> str:
    return "".join(piece for where, piece in pieces if where == part).strip()


@given(
    words=st.booleans(),
    prompt=st.lists(st.sampled_from(["9", "8", "+", "18", ">", ":"]), max_size=9).map(" ".join),
    temperature=st.sampled_from([0, 0.3, 0.6, 1, 50.0]),
    top_p=st.sampled_from([1e-6, 0.5, 0.95, 1]),
    most=st.integers(1, 9),
    seed=st.none() | st.integers(0, 99),
)
def test_a_random_model_is_reported(words, prompt, temperature, top_p, most, seed):
    one = reasoner(words, most)
    thoughts = []
    for _ in range(2):
        rng = None if seed is None else np.random.default_rng(seed)
        thoughts.append(one.think(prompt, temperature, top_p, rng))
    assert isinstance(thoughts[0], Thought) and thoughts[0] == thoughts[1]
    rng = None if seed is None else np.random.default_rng(seed)
    pieces = list(one.stream(prompt, temperature, top_p, rng))
    assert len(pieces) <= most + 1 and all(piece for _, piece in pieces)
    assert {part for part, _ in pieces} <= {"thinking", "answer"}


@st.composite
def responses(draw):
    """(words or bytes, tokens with many tags among them, whether an end token follows)."""
    words = draw(st.booleans())
    tokenizer = MODELS[words][1]
    tags = st.sampled_from([tokenizer.think_token_id, tokenizer.end_think_token_id])
    plain = st.sampled_from([t for t in range(tokenizer.vocab_size) if t != tokenizer.eos_token_id])
    spelled = st.sampled_from([list(b"<think>"), list(b"</think>"), list("é".encode()), [0xC3]])
    one = st.one_of(tags.map(lambda t: [t]), plain.map(lambda t: [t]), *[spelled] * (not words))
    ids = sum(draw(st.lists(one, max_size=12)), [])
    if draw(st.booleans()):
        ids = [tokenizer.think_token_id, *ids]
    return words, ids, draw(st.booleans()) or not ids


@settings(max_examples=150)
@given(responses())
def test_whatever_is_written_is_parsed_and_streams_the_same(response):
    words, ids, ended = response
    one = reasoner(words)
    tokenizer = one.tokenizer
    with writes(ids + [tokenizer.eos_token_id] * ended):
        thought, pieces = one.think("9"), list(one.stream("9"))
    text = tokenizer.decode(ids)
    wanted = parse_thinking(text, ended)
    assert (thought.thinking, thought.answer) == (wanted.thinking, wanted.answer)
    begin, end = tokenizer.think_token_id, tokenizer.end_think_token_id
    spelled = text.count("<think>") > ids.count(begin) or text.count("</think>") > ids.count(end)
    assert (thought.malformed is None) == (wanted.malformed is None and not spelled)
    told_apart = ids[:1] == [begin] or end not in ids
    if told_apart and not spelled:
        for part in ("thinking", "answer"):
            assert joined(pieces, part) == getattr(thought, part)
    if ids[:1] != [begin]:  # no thought was begun: all of it is shown as it is
        assert joined(pieces, "answer") == text.strip() and not joined(pieces, "thinking")


def test_a_well_formed_response_in_words():
    one = reasoner(True)
    text = "<think> 9 - 5 = 4 ? 8 + 5 = 13 ! </think> 8 + 5"
    with writes(ECHO.response_ids(text).tolist()):
        assert one.think("9") == Thought("9 - 5 = 4 ? 8 + 5 = 13 !", "8 + 5", None)
        pieces = list(one.stream("9"))
    assert pieces[:3] == [("thinking", "9"), ("thinking", " -"), ("thinking", " 5")]
    assert pieces[-3:] == [("answer", "8"), ("answer", " +"), ("answer", " 5")]


def test_characters_of_several_bytes_are_whole():
    ids = [BYTES.think_token_id, *"né".encode(), BYTES.end_think_token_id, *"ü".encode()]
    with writes([*ids, BYTES.eos_token_id]):
        assert list(reasoner(False).stream("9")) == [
            ("thinking", "n"), ("thinking", "é"), ("answer", "ü"),
        ]  # fmt: skip
    with writes(ids[:-1]):  # cut within the last
        assert list(reasoner(False).stream("9"))[-1] == ("answer", "\ufffd")


@pytest.mark.parametrize("part", ["<think>", "</think>"])
def test_a_tag_in_letters_is_no_tag(part):
    begin, end = [BYTES.think_token_id], [BYTES.end_think_token_id]
    if part == "<think>":
        begin = list(part.encode())
    else:
        end = list(part.encode())
    with writes([*begin, 52, *end, 56, BYTES.eos_token_id]):
        thought = reasoner(False).think("9")
    assert thought == Thought("4", "8", f"{part} spelled in letters is not the token")


def test_a_response_that_was_cut_is_malformed():
    ids = ECHO.response_ids("<think> 9 </think> 8 + 5").tolist()
    with writes(ids):
        assert reasoner(True).think("9").malformed is None
    with writes(ids[:-1]):
        assert reasoner(True).think("9") == Thought("9", "8 + 5", "no end token")


def test_pieces_come_as_they_are_made():
    made = []

    def tokens(*_, **__):
        for token in ECHO.response_ids("<think> 9 8 </think> 8").tolist():
            made.append(token)
            yield np.array([token])

    with mock.patch.object(generate, "stream", tokens):
        pieces = reasoner(True).stream("9")
        assert next(pieces) == ("thinking", "9") and len(made) == 2
        assert next(pieces) == ("thinking", " 8") and len(made) == 3


def test_the_prompt_follows_the_beginning_token():
    model, tokenizer = MODELS[True]
    with mock.patch.object(generate, "stream", wraps=generate.stream) as spy:
        ReasoningModel(model, tokenizer, 5).think("9 8 :", 0.3, 0.7)
    assert spy.call_args.args[1].tolist() == [[1, *tokenizer.encode("9 8 :")]]
    assert spy.call_args.args[2] == 5
    options = spy.call_args.kwargs
    assert (options["temperature"], options["top_p"]) == (0.3, 0.7)
    assert options["eos_token_id"] == tokenizer.eos_token_id


def test_the_defaults_are_those_of_r1s_evaluation():
    with mock.patch.object(generate, "stream", wraps=generate.stream) as spy:
        reasoner(True).think("9")
        list(reasoner(True).stream("9"))
    for call in spy.call_args_list:
        assert (call.kwargs["temperature"], call.kwargs["top_p"]) == (0.6, 0.95)


def test_a_response_may_use_the_positions_that_are_left():
    one = reasoner(True)  # 64 positions
    for prompt, room in ((61, 2), (62, 1)):
        with mock.patch.object(generate, "stream", wraps=generate.stream) as spy:
            one.think(" ".join(["9"] * prompt))
        assert spy.call_args.args[2] == room
    for call in (one.think, one.stream):
        with pytest.raises(InputError, match="^prompt: got 64 tokens, .*max_position_embeddings"):
            call(" ".join(["9"] * 63))


@pytest.mark.parametrize(
    "arguments, match",
    [
        (("nine",), "^text: 'nine' is not one of the 33 words"),
        (("9 <think>",), "^text: '<think>' is a special token"),
        ((None,), "^text: got a NoneType"),
        (("\ud800",), "^text: character 0 is half a surrogate"),
        (("9", -1.0), "^temperature: got -1.0"),
        (("9", 1.0, 0.0), "^top_p: got 0.0"),
    ],
)
def test_bad_input_is_refused_at_once(arguments, match):
    for call in (reasoner(True).think, reasoner(True).stream):  # the stream is not even begun
        with pytest.raises(InputError, match=match) as caught:
            call(*arguments)
        assert "\n" not in str(caught.value)


def test_a_typed_tag_is_text_to_a_byte_model():
    with mock.patch.object(generate, "stream", wraps=generate.stream) as spy:
        reasoner(False, 1).think("</think>")
    assert spy.call_args.args[1].tolist() == [[BYTES.bos_token_id, *b"</think>"]]


def test_a_tokenizer_of_another_vocabulary_is_refused():
    with pytest.raises(InputError, match="^tokenizer: got 264 tokens, expected vocab_size = 33"):
        ReasoningModel(MODELS[True][0], BYTES)
    for most in (0, 1.5, True):
        with pytest.raises(InputError, match="^max_new_tokens: got"):
            ReasoningModel(*MODELS[True], most)


@pytest.mark.parametrize("words", [True, False])
def test_from_a_directory(tmp_path, words):
    model, tokenizer = MODELS[words]
    with pytest.raises(CheckpointError):
        ReasoningModel.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    read = ReasoningModel.from_pretrained(tmp_path, max_new_tokens=7)
    assert read.think("9 8") == reasoner(words, 7).think("9 8")
